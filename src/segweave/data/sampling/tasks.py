"""Enough labels of every task in every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain, count

from segweave.data.dataset import Dataset
from segweave.data.sampling.sampling import Sampling, shuffled
from segweave.errors import ConfigError, nearest
from segweave.tasks.task import Task

_AGAIN = 4
"""What the repeated images' order is for, among the purposes of the seed."""


class Tasks(Sampling):
    """Enough labelled images of every task in each optimizer step, however few of the images are labelled for it.

    An epoch is ceil(images / size) steps, as many as it takes to show each image once. Where a task has too few labels
    for all of them, its images come several times, and images that leave them their places wait for another epoch.
    No image is twice in a step.

    Args:
        minimum: labelled images per optimizer step: one number for all tasks, or by task (1 for those not named, 0 to
            leave a task to chance).

    Raises:
        ConfigError: an unknown task, more images than carry a label, or more than a step has.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Mapping[str, Task],
        size: int,
        seed: int,
        *,
        minimum: int | Mapping[str, int] = 1,
    ) -> None:
        super().__init__(dataset, tasks, size, seed)
        where = "data.sampling.minimum"
        given = minimum if isinstance(minimum, Mapping) else dict.fromkeys(tasks, minimum)
        for task, least in given.items():
            if task not in tasks:
                raise ConfigError(f"{where}.{task}: unknown task; did you mean {nearest(task, tasks)}?")
            if least < 0:
                raise ConfigError(f"{where}: found {least} for {task!r}; expected 0 or more")
        labelled = {
            task: frozenset(index for index in range(len(dataset)) if dataset.has_label(index, task))
            for task in tasks
            if given.get(task, 1)
        }
        # the rarest first: its images are likely to carry the labels of commoner tasks too
        self._labelled = dict(sorted(labelled.items(), key=lambda item: len(item[1])))
        self.minimum = {task: given.get(task, 1) for task in self._labelled}
        for task, least in self.minimum.items():
            if least > len(labelled[task]):
                raise ConfigError(
                    f"{where}: found {least} for {task!r}; only {len(labelled[task])} images are labelled"
                )
        places = self._places()
        if places > size:
            raise ConfigError(
                f"{where}: found {self.minimum}, which may take {places} images of a step; it has {size}: raise "
                f"train.batch_size or train.accumulate, or lower the minimum"
            )

    def _places(self) -> int:
        """How many images of a step the minimum takes at most; every label of a rarer task may be one of this task."""
        places = 0
        for place, (task, least) in enumerate(self.minimum.items()):
            rarer = list(self.minimum)[:place]
            served = [self.minimum[other] for other in rarer if self._labelled[other] <= self._labelled[task]]
            places += max(0, least - max(served, default=0))
        return places

    def epoch(self, number: int) -> list[list[int]]:
        order = shuffled(len(self.dataset), self.seed, 0, number)
        kept, free = self._divided(order)
        shown: set[int] = set()

        def fresh(images: deque[int]) -> Iterator[int]:
            while images:
                index = images.popleft()
                if index not in shown:
                    yield index

        again = {task: self._again(place, task, number) for place, task in enumerate(self.minimum)}
        # what is kept for the commonest task is least likely to be missed in a later step
        rest = chain(fresh(free), *(fresh(kept[task]) for task in reversed(self.minimum)))
        steps = []
        for _ in range(self.steps):
            step: dict[int, None] = {}
            for task, least in self.minimum.items():
                lacking = least - sum(index in self._labelled[task] for index in step)
                images = chain(fresh(kept[task]), again[task])
                while lacking > 0:
                    index = next(images)
                    lacking -= index not in step
                    step[index] = None
                    shown.add(index)
            while len(step) < self.size and (index := next(rest, None)) is not None:
                step[index] = None
                shown.add(index)
            steps.append(list(step))
        return steps

    def _divided(self, order: list[int]) -> tuple[dict[str, deque[int]], deque[int]]:
        """An epoch's images: those kept for the task that may need them, enough for all steps, and the others."""
        kept: dict[str, deque[int]] = {task: deque() for task in self.minimum}
        free: deque[int] = deque()
        for index in order:
            needing = (
                task
                for task, least in self.minimum.items()
                if index in self._labelled[task] and len(kept[task]) < least * self.steps
            )
            task = next(needing, None)
            (free if task is None else kept[task]).append(index)
        return kept, free

    def _again(self, place: int, task: str, epoch: int) -> Iterator[int]:
        """All images with a label of a task, round after round in a new order."""
        images = sorted(self._labelled[task])
        for turn in count():
            yield from (images[i] for i in shuffled(len(images), self.seed, _AGAIN, epoch, place, turn))
