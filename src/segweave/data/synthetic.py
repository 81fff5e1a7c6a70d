"""Built-in street scenes with exact labels: nothing to download, the same pixels on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segweave.batch import Sample
from segweave.data import streets, streets_soiling
from segweave.data.dataset import Dataset, match_layers, must_read
from segweave.errors import ConfigError
from segweave.tasks.task import Task

_FIRST = {"train": 0, "val": 1 << 24, "test": 2 << 24}
_LAYERS = {"semantic": "semantic", "objects": "detection", "depth": "depth", "scene": "classification"}
_SOILING = {"soiling": "semantic", "thickness": "depth", "soil": "classification"}


class Synthetic(Dataset):
    """Rendered streets with the layers semantic, objects, depth and scene.

    A task's `wrap` gets uint8 [H, W] of semantic, float32 [H, W] metres of depth (0 for sky), an int64 [] of scene, and
    of objects float32 [N, 5]: x1 y1 x2 y2 in pixels and the class index.

    With `soiling` there is dirt on the lens, and there are the layers soiling, thickness and soil of it: uint8 [H, W]
    of how opaque it is (classes after the WoodScape data set, Yogamani et al. 2019), float32 [H, W] from 0 (clean,
    which a depth task takes as not measured) to 1, and an int64 [] of what it is. Tasks of the street have to see past
    what tasks of the dirt look for, and the other way round, so the two families are of little use to each other.

    Args:
        split: `train` has `count` images, `val` and `test` max(8, count / 5) other ones each.
        readers: the tasks.
        size: height and width of the pictures.
        count: training images.
        seed: another seed gives other streets.
        soiling: the share of the picture that the thickest dirt on the lens hides, 0 to 1; with 0 there is none, and
            none of its layers.

    Raises:
        ConfigError: an unknown split, a size or count that is not positive, a soiling outside 0 to 1, or a task that
            reads a layer of the dirt where there is none.
    """

    def __init__(
        self,
        split: str,
        readers: Sequence[Task],
        *,
        size: Sequence[int] = (128, 256),
        count: int = 400,
        seed: int = 0,
        soiling: float = 0.0,
    ) -> None:
        if split not in _FIRST:
            raise ConfigError(f"unknown split {split!r}; synthetic data has train, val and test")
        if len(size) != 2 or min(*size, count) < 1:
            raise ConfigError(
                f"data: found size {list(size)}, count {count}; expected [height, width] and positive numbers"
            )
        if not 0 <= soiling <= 1:
            raise ConfigError(f"data.soiling: found {soiling}; expected 0 to 1")
        self.soiling = float(soiling)
        self.height, self.width = size
        self.seed = seed
        self.first = _FIRST[split]
        total = count if split == "train" else max(8, count // 5)
        self.ids = [f"{split}-{index:06d}" for index in range(total)]
        self.readers = {task.name: task for task in readers}
        layers = self.layers({"soiling": soiling})
        for task in readers:
            wanted = task.source or task.name
            if wanted in _SOILING and wanted not in layers:
                raise ConfigError(
                    f"tasks.{task.name}: layer {wanted!r} is of a soiled lens; expected data.soiling above 0"
                )
        self.layer = match_layers(readers, layers)
        must_read(readers, self.layer, layers)

    @classmethod
    def default_classes(cls, options: Mapping[str, Any] | None = None) -> Mapping[str, Sequence[str]]:  # noqa: ARG003
        of_layer = {"semantic": streets.CLASSES, "objects": streets.OBJECTS, "scene": streets.SCENES}
        of_layer |= {"soiling": streets_soiling.LEVELS, "soil": streets_soiling.SOILS}
        return of_layer | {"detection": streets.OBJECTS, "classification": streets.SCENES}

    @classmethod
    def layers(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        return _LAYERS | _SOILING if options.get("soiling") else _LAYERS

    def _render(self, index: int) -> dict[str, np.ndarray | int]:
        """The image and every layer by name."""
        place = self.first + index
        street = streets.render(self.seed, place, self.height, self.width)
        objects = np.concatenate([street.boxes, street.labels[:, None].astype(np.float32)], 1)
        made = {"image": street.image, "semantic": street.semantic, "objects": objects}
        made |= {"depth": street.depth, "scene": street.scene}
        if self.soiling:
            dirt = streets_soiling.soil(street.image, self.seed, place, self.soiling)
            made |= {"image": dirt.image, "soiling": dirt.levels, "thickness": dirt.thickness, "soil": dirt.soil}
        return made

    def _annotation(self, made: Mapping[str, np.ndarray | int], task: str) -> Tensor:
        return self.readers[task].wrap(torch.as_tensor(made[self.layer[task]]), (self.height, self.width))

    def __getitem__(self, index: int) -> Sample:
        made = self._render(index)
        image = torch.as_tensor(made["image"]).permute(2, 0, 1).contiguous()
        return Sample(self.ids[index], image, {name: self._annotation(made, name) for name in self.readers})

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
        content += (streets_soiling.EDITION, self.soiling) if self.soiling else ()
        return hashlib.sha256(repr(content).encode()).hexdigest()
