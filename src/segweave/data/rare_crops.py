"""Crops that show rare classes more often than chance would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from segweave.batch import Sample
from segweave.errors import ConfigError, nearest
from segweave.tasks.task import Task


class RareCrops:
    """With a chance, the window of the random crop is laid so that it holds a pixel of one of some classes.

    One of the classes that the image's label shows is drawn, all alike, then one of its pixels, all alike, then one of
    the windows that hold it, all alike. An image without a label, or without one of the classes, is cropped as ever.
    What is drawn and in which order is that of nnU-Net (Isensee et al. 2021), which puts the pixel into the middle of
    the window. Where a window is reduced, nearest-neighbour sampling may still drop a single pixel.

    Args:
        task: whose classes count; one with a class per pixel.
        chance: probability for an image with such a class, 0 to 1. Other windows may show one too.
        classes: their names; `auto` for all of the task, so that in a window laid this way a small class is aimed at
            as often as a large one. The background of a binary task is none.

    Raises:
        ConfigError: a chance out of range, or no class.
    """

    def __init__(self, *, task: str, chance: float = 0.5, classes: Sequence[str] | Literal["auto"] = "auto") -> None:
        if not 0 <= chance <= 1:
            raise ConfigError(f"data.augment.rare.chance: found {chance}; expected 0 to 1")
        if not classes:
            raise ConfigError("data.augment.rare.classes: found none; expected names of classes, or auto")
        self.task = task
        self.chance = chance
        self.classes = None if classes == "auto" else list(classes)

    def check(self, tasks: Mapping[str, Task]) -> None:
        """Raises ConfigError for an unknown task or class, or a task without a class per pixel."""
        where = "data.augment.rare"
        if self.task not in tasks:
            raise ConfigError(f"{where}.task: unknown task {self.task!r}; did you mean {nearest(self.task, tasks)}?")
        task = tasks[self.task]
        if not task.locates:
            raise ConfigError(f"{where}.task: {self.task!r} has no class per pixel; expected a semantic task")
        for name in self.classes or ():
            if name not in task.locates:
                near = nearest(name, task.locates)
                raise ConfigError(f"{where}.classes: unknown class {name!r}; did you mean {near}?")

    def spot(self, sample: Sample, tasks: Mapping[str, Task], generator: torch.Generator) -> tuple[int, int] | None:
        """Row and column that the window has to hold, or None for any window; three numbers are drawn in any case."""
        wanted, *chance = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        if wanted >= self.chance or self.task not in sample.annotations:
            return None
        return tasks[self.task].spot(sample.annotations[self.task], self.classes, (chance[0], chance[1]))
