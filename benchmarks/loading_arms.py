"""Batches of augmented images and masks, from files by several libraries: the worker of `loading.py`.

It runs on one core, in segweave's environment or in that of albumentations, and imports what the arms it is asked for
need.

Every arm makes float32 images in [0, 1], [b, 3, crop, crop], and uint8 masks [b, crop, crop], by the fastest of the
library's own operators that do what is asked for: a square window of crop / scale pixels is cut and resized to the
crop, so that nobody resizes an image of which most is thrown away; flipped left and right in half of the cases; and
brightness, contrast and saturation change by up to a quarter.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workers import serve

SCALE, FLIP, COLOUR = (0.75, 1.5), 0.5, 0.25
CHANGE = (1 - COLOUR, 1 + COLOUR)
Batch = tuple[Any, Any]
Arm = Callable[[Sequence[int], int], Batch]


def segweave(options: dict[str, Any], tasks: dict[str, Any], crop: int, cache: Path | None) -> tuple[Arm, int]:
    """The arm, and of how many images."""
    import torch

    from segweave import build
    from segweave.config import from_values
    from segweave.data.augment import Augment
    from segweave.data.loader import collate
    from segweave.schema import check_config
    from segweave.sources import cached

    kept = {} if cache is None else {"cache": {"name": "decoded", "folder": str(cache)}}
    config = check_config(from_values({"data": options | kept, "tasks": tasks}))
    readers = build.build_tasks(config)
    dataset = cached(config, "train", readers, build.build_dataset(config, "train", readers))
    by_name = {task.name: task for task in readers}
    augment = Augment(None, scale=SCALE, crop=[crop, crop], flip=FLIP, colour=COLOUR)

    def batch(indices: Sequence[int], seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        made = collate([augment(dataset[index], by_name, generator) for index in indices], by_name)
        return made.images, made.targets["semantic"].value

    return batch, len(dataset)


def torchvision(pairs: Sequence[tuple[str, str]], crop: int, on: str) -> Arm:
    """PIL opens, torchvision's transforms v2 change, on PIL images or on tensors."""
    import torch
    from PIL import Image
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    area = _area(pairs, crop)
    change = v2.Compose(
        [
            v2.RandomResizedCrop(crop, scale=area, ratio=(1, 1), antialias=True),
            v2.RandomHorizontalFlip(FLIP),
            v2.ColorJitter(COLOUR, COLOUR, COLOUR),
            v2.ToImage(),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        ]
    )

    def batch(indices: Sequence[int], seed: int) -> Batch:
        torch.manual_seed(seed)
        images, masks = [], []
        for index in indices:
            image, mask = (Image.open(path) for path in pairs[index])
            image = image.convert("RGB") if on == "PIL" else tv_tensors.Image(v2.functional.pil_to_tensor(image))
            image, mask = change(image, tv_tensors.Mask(v2.functional.pil_to_tensor(mask)))
            images.append(image.as_subclass(torch.Tensor))
            masks.append(mask.as_subclass(torch.Tensor)[0])
        return torch.stack(images), torch.stack(masks)

    return batch


def albumentations(pairs: Sequence[tuple[str, str]], crop: int) -> Arm:
    """OpenCV reads, albumentations changes; what it gives is divided by 255 and turned to channels first by NumPy."""
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)
    change = A.Compose(
        [
            A.RandomSizedCrop((round(crop / SCALE[1]), round(crop / SCALE[0])), (crop, crop), w2h_ratio=1.0),
            A.HorizontalFlip(p=FLIP),
            A.ColorJitter(CHANGE, CHANGE, CHANGE, (0.0, 0.0), p=1.0),
        ]
    )

    def batch(indices: Sequence[int], seed: int) -> Batch:
        change.set_random_seed(seed)
        images, masks = [], []
        for index in indices:
            image, mask = pairs[index]
            pixels = cv2.cvtColor(cv2.imread(image), cv2.COLOR_BGR2RGB)
            made = change(image=pixels, mask=cv2.imread(mask, cv2.IMREAD_GRAYSCALE))
            images.append(np.multiply(made["image"].transpose(2, 0, 1), np.float32(1 / 255), dtype=np.float32))
            masks.append(made["mask"])
        return np.stack(images), np.stack(masks)

    return batch


def _area(pairs: Sequence[tuple[str, str]], crop: int) -> tuple[float, float]:
    """The shares of an image that the windows of the range of scales take."""
    from PIL import Image

    width, height = Image.open(pairs[0][0]).size
    return (crop / SCALE[1]) ** 2 / (width * height), (crop / SCALE[0]) ** 2 / (width * height)


class Worker:
    """Answers requests, on one core."""

    def __init__(self) -> None:
        self.arms: dict[str, Arm] = {}
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})

    def open(
        self,
        arms: Sequence[str],
        options: dict[str, Any],
        tasks: dict[str, Any],
        pairs: Sequence[tuple[str, str]],
        crop: int,
        cache: str,
    ) -> dict[str, Any]:
        """Makes the arms; fills the cache, and says in how many seconds an image."""
        answer: dict[str, Any] = {}
        for arm in arms:
            if arm == "albumentations":
                self.arms[arm] = albumentations(pairs, crop)
                continue
            import torch

            torch.set_num_threads(1)
            if arm.startswith("torchvision"):
                self.arms[arm] = torchvision(pairs, crop, arm.rpartition(" ")[2])
                continue
            made, count = segweave(options, tasks, crop, Path(cache) if "cache" in arm else None)
            self.arms[arm] = made
            if "cache" in arm:
                for turn in ("fill", "check"):
                    started = time.perf_counter()
                    for index in range(count):
                        made([index], index)
                    answer[turn] = (time.perf_counter() - started) / count
        return answer

    def batch(self, arm: str, indices: Sequence[int], seed: int) -> dict[str, Any]:
        """One batch: seconds on the wall, and what came out, for a glance that all did the same."""
        random.seed(seed)
        started = time.perf_counter()
        images, masks = self.arms[arm](indices, seed)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "images": list(images.shape), "masks": list(masks.shape), "type": str(images.dtype)}

    def versions(self, packages: Sequence[str]) -> dict[str, str]:
        from importlib.metadata import version

        return {name: version(name) for name in packages}


if __name__ == "__main__":
    serve(Worker)
