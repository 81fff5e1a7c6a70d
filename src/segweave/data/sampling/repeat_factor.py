"""Images of rare classes more often."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch

from segweave.data.dataset import Dataset
from segweave.data.sampling.sampling import Sampling, cut, shuffled, steps_for
from segweave.errors import ConfigError, UnreadableError, nearest
from segweave.seeds import seed_for
from segweave.tasks.task import Task

_FRACTIONS, _PLACES = 5, 6
"""What the fractions' draw and the order of an epoch are for, among the purposes of the seed."""
_UNIT = 1 << 32
"""Fractions are counted in whole parts of this, so that their sums are exact."""


class RepeatFactor(Sampling):
    """Images of rare classes several times an epoch (Gupta, Dollar, Girshick: LVIS, arXiv 1908.03195v2,
    appendix B.2).

    Image i comes r_i = max over its classes c of r(c) = max(1, sqrt(t / f(c))) times, f(c) being the share of the
    labelled images that show c; an image without a label comes once. All labels of the task are read once for it.
    Of r_i the whole part is certain, and the fraction is the probability of one more in an epoch.

    An epoch has ceil(sum of r_i) images in a random order. In it the fractions are drawn together (systematic
    sampling), so that their number is always that of their sum, rounded down or up; where down, a random image fills
    the last place. The authors draw each image alone, with epochs of changing length.

    Args:
        task: whose classes count.
        threshold: t, the share of images below which a class is rare; 0 to 1. The authors have 0.001 for 100,000
            images.

    Raises:
        ConfigError: an unknown task or one without classes, or a threshold out of range.
        DataError: a label that is wrong; one that cannot be read counts as missing.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Mapping[str, Task],
        size: int,
        seed: int,
        *,
        task: str,
        threshold: float = 0.01,
    ) -> None:
        super().__init__(dataset, tasks, size, seed)
        if task not in tasks:
            raise ConfigError(f"data.sampling.task: unknown task {task!r}; did you mean {nearest(task, tasks)}?")
        if not 0 < threshold <= 1:
            raise ConfigError(f"data.sampling.threshold: found {threshold}; expected above 0, and at most 1")
        shown = [_classes(dataset, index, tasks[task]) for index in range(len(dataset))]
        if not any(shown):
            raise ConfigError(f"data.sampling.task: no label of {task!r} shows a class; expected a task with classes")
        self.factors = repeat_factors(shown, threshold)
        self._whole = [int(factor) for factor in self.factors]
        parts = zip(self.factors, self._whole, strict=True)
        self._parts = [round((factor - whole) * _UNIT) for factor, whole in parts]
        self.images = sum(self._whole) - (-sum(self._parts) // _UNIT)
        self.steps = steps_for(self.images, size)

    def epoch(self, number: int) -> list[list[int]]:
        order = shuffled(len(self.dataset), self.seed, 0, number)
        generator = torch.Generator().manual_seed(seed_for(self.seed, _FRACTIONS, number))
        reached = int(torch.randint(_UNIT, (), generator=generator))
        images = []
        for index in order:
            before, reached = reached, reached + self._parts[index]
            images += [index] * (self._whole[index] + reached // _UNIT - before // _UNIT)
        images += order[: self.images - len(images)]
        places = shuffled(self.images, self.seed, _PLACES, number)
        return cut([images[place] for place in places], self.size)


def repeat_factors(shown: Sequence[Collection[str] | None], threshold: float) -> list[float]:
    """r_i of every image.

    Args:
        shown: by image, the classes in its label; None without a label.
        threshold: t.
    """
    labels = [set(names) for names in shown if names is not None]
    factors = {
        name: math.sqrt(threshold * len(labels) / images)
        for name, images in Counter(name for names in labels for name in names).items()
    }
    return [max([1.0, *(factors[name] for name in names or ())]) for names in shown]


def _classes(dataset: Dataset, index: int, task: Task) -> list[str] | None:
    """The classes that an image's label shows; None without a label."""
    try:
        annotation = dataset.annotation(index, task.name)
    except UnreadableError:
        return None  # training leaves the image out, and tells of it
    if annotation is None:
        return None
    return [name for name, number in task.describe(task.encode(annotation)).counts.items() if number]
