"""Boxes round the objects of a mask."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segweave.data.derived.derivation import UNLABELLED, Derivation, Source
from segweave.errors import ConfigError
from segweave.tasks.detection import Detection
from segweave.tasks.objects import objects_of
from segweave.tasks.semantic import IGNORE
from segweave.tasks.task import Task


class ComponentBoxes(Derivation):
    """A box round every instance, or round every connected region of a class; for `detection`.

    A box ends behind the object's last pixel, and its area is the number of its pixels. Regions are connected by sides
    or corners, so that objects of one class that touch are one. The task's `min_pixels` leaves out smaller objects, and
    pixels that nobody labelled belong to none.

    The task's classes are found by name among those of the source, or by the task's `ids`; of instances these are the
    whole numbers, or their thousands, as in the `instanceIds` of Cityscapes. Without names and `ids` a single class has
    all objects: every instance, or every region of a value other than 0 and 255.

    Raises:
        ConfigError: a class that the source does not have, or several classes without names or `ids`.
    """

    gives = "detection"
    reading = ("ids",)

    def __init__(self, task: Task, source: Source) -> None:
        super().__init__(task, source, "boxes")
        assert isinstance(task, Detection)
        self._min_pixels = task.min_pixels
        self._classes = _classes(task, source)

    def __call__(self, values: Tensor) -> Tensor:
        ids = values.numpy()
        if self.source.kind == "classes":
            rows = objects_of(np.where(ids == UNLABELLED, IGNORE, ids), "components", self._classes, self._min_pixels)
        else:
            # 255 is a number like any other here, and to `objects_of` it is none
            numbers = ids if self._classes else np.where(ids >= IGNORE, ids + 1, ids)
            rows = objects_of(numbers, "instances", self._classes, self._min_pixels)
        return torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)


def _classes(task: Detection, source: Source) -> dict[int, int] | None:
    """The task's class by id of the source; None for a single class that has all objects."""
    if task.ids:
        return {value: task.classes.index(name) for value, name in task.ids.items()}
    names = list(source.names)
    if source.kind == "instances" or not names:
        if len(task.classes) > 1:
            raise ConfigError(
                f"tasks.{task.name}.ids: missing; {source.name!r} does not say which values are which class: expected "
                f"such as {{1: {task.classes[0]}}}"
            )
        return None
    for name in task.classes:
        if name not in names:
            raise ConfigError(
                f"tasks.{task.name}.classes: found {name!r}; {source.name!r} has {', '.join(names)}: expected some of "
                f"these, or tasks.{task.name}.ids"
            )
    return {names.index(name): place for place, name in enumerate(task.classes)}
