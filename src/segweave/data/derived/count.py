"""How many objects an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segweave.data.derived.derivation import UNLABELLED, Derivation, Source
from segweave.data.derived.distance import objects_in
from segweave.errors import ConfigError
from segweave.tasks.classification import FIRST_OBJECT, UNKNOWN
from segweave.tasks.task import Task


class Count(Derivation):
    """The number of objects, in the task's `bins`; for `classification`.

    The objects are counted after the augmentation, so that a crop is labelled by what it shows: an object counts where
    one of its pixels is seen.

    Args:
        classes: of a source of classes, whose connected regions count (sides and corners connect); names or ids.
            Objects of one class that touch are one: instances tell them apart.
        unlabelled: what pixels are that nobody labelled: `unknown`, so that an image with such a pixel has no count,
            or `empty`, so that the labelled objects are counted.

    Raises:
        ConfigError: a class that the source does not have, or none for a source of classes.
    """

    gives = "classification"

    def __init__(
        self,
        task: Task,
        source: Source,
        *,
        classes: Sequence[str | int] | None = None,
        unlabelled: Literal["unknown", "empty"] = "unknown",
    ) -> None:
        super().__init__(task, source, "count")
        if (source.kind == "classes") != (classes is not None):
            what = "some, whose regions are counted" if source.kind == "classes" else "none: instances are counted"
            raise ConfigError(f"{self.where}.classes: found {classes}; expected {what}")
        self._whole = unlabelled == "unknown"
        names = list(source.names)
        self._ids = [names.index(str(name)) if name in names else name for name in classes or ()]
        for id in self._ids:
            if not isinstance(id, int) or id < 0 or (names and id >= len(names)):
                raise ConfigError(
                    f"{self.where}.classes: found {id!r}; {source.name!r} has {', '.join(names) or 'ids alone'}"
                )

    def __call__(self, values: Tensor) -> Tensor:
        """float32 [H, W]: 0 for no object, a number from `FIRST_OBJECT` for each; `UNKNOWN` everywhere if not known."""
        ids = values.numpy()
        if self._whole and (ids == UNLABELLED).any():
            return torch.full(values.shape, float(UNKNOWN))
        instances = self.source.kind == "instances"
        counted = ids > 0 if instances else np.isin(ids, self._ids)
        numbers = objects_in(ids, instances) + (FIRST_OBJECT - 1)
        return torch.from_numpy(np.where(counted, numbers, 0).astype(np.float32))
