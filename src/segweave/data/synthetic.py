"""Built-in street scenes with exact labels: nothing to download, the same pixels on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segweave.batch import Sample
from segweave.data import streets
from segweave.data.dataset import Dataset, match_layers, must_read
from segweave.errors import ConfigError
from segweave.tasks.task import Task

_FIRST = {"train": 0, "val": 1 << 24, "test": 2 << 24}
_LAYERS = {"semantic": "semantic", "objects": "detection", "depth": "depth", "scene": "classification"}


class Synthetic(Dataset):
    """Rendered streets with the layers semantic, objects, depth and scene.

    A task's `wrap` gets uint8 [H, W] of semantic, float32 [H, W] metres of depth (0 for sky), an int64 [] of scene, and
    of objects float32 [N, 5]: x1 y1 x2 y2 in pixels and the class index.

    Args:
        split: `train` has `count` images, `val` and `test` max(8, count / 5) other ones each.
        readers: the tasks.
        size: height and width of the pictures.
        count: training images.
        seed: another seed gives other streets.

    Raises:
        ConfigError: an unknown split or a size or count that is not positive.
    """

    def __init__(
        self,
        split: str,
        readers: Sequence[Task],
        *,
        size: Sequence[int] = (128, 256),
        count: int = 400,
        seed: int = 0,
    ) -> None:
        if split not in _FIRST:
            raise ConfigError(f"unknown split {split!r}; synthetic data has train, val and test")
        if len(size) != 2 or min(*size, count) < 1:
            raise ConfigError(
                f"data: found size {list(size)}, count {count}; expected [height, width] and positive numbers"
            )
        self.height, self.width = size
        self.seed = seed
        self.first = _FIRST[split]
        total = count if split == "train" else max(8, count // 5)
        self.ids = [f"{split}-{index:06d}" for index in range(total)]
        self.readers = {task.name: task for task in readers}
        self.layer = match_layers(readers, _LAYERS)
        must_read(readers, self.layer, _LAYERS)

    @classmethod
    def default_classes(cls, options: Mapping[str, Any] | None = None) -> Mapping[str, Sequence[str]]:  # noqa: ARG003
        of_layer = {"semantic": streets.CLASSES, "objects": streets.OBJECTS, "scene": streets.SCENES}
        return of_layer | {"detection": streets.OBJECTS, "classification": streets.SCENES}

    @classmethod
    def layers(cls, options: Mapping[str, Any]) -> Mapping[str, str]:  # noqa: ARG003
        return _LAYERS

    def _annotation(self, street: streets.Street, task: str) -> Tensor:
        layer, wrap, size = self.layer[task], self.readers[task].wrap, (self.height, self.width)
        if layer == "objects":
            boxes, labels = torch.from_numpy(street.boxes), torch.from_numpy(street.labels)
            return wrap(torch.cat([boxes, labels[:, None].float()], 1), size)
        return wrap(torch.as_tensor(getattr(street, layer)), size)

    def _render(self, index: int) -> streets.Street:
        return streets.render(self.seed, self.first + index, self.height, self.width)

    def __getitem__(self, index: int) -> Sample:
        street = self._render(index)
        image = torch.from_numpy(street.image).permute(2, 0, 1).contiguous()
        return Sample(self.ids[index], image, {name: self._annotation(street, name) for name in self.readers})

    def annotation(self, index: int, task: str) -> Tensor | None:
        return self._annotation(self._render(index), task)

    @property
    def splits(self) -> Sequence[str]:
        return list(_FIRST)

    def labelled(self, task: str) -> int:  # noqa: ARG002
        return len(self)

    def has_label(self, index: int, task: str) -> bool:  # noqa: ARG002
        return True

    def fingerprint(self) -> str:
        content = (streets.EDITION, self.seed, self.first, len(self), self.height, self.width)
        return hashlib.sha256(repr(content).encode()).hexdigest()
