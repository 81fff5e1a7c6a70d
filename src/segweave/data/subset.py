"""Some of the images of a data set, and a share of them held out."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from segweave.batch import Sample
from segweave.data.dataset import Dataset, Wrapper
from segweave.data.shares import position
from segweave.errors import ConfigError

_RUNS, _LONGEST = 50, 16
"""Of neighbouring images: how many a data set is cut into at least, where it has as many, and how long one may be."""


class Subset(Wrapper):
    """Some of the images of a data set.

    Args:
        dataset: all of them.
        kept: their places there, rising.
    """

    def __init__(self, dataset: Dataset, kept: Sequence[int]) -> None:
        super().__init__(dataset)
        self._kept = kept
        self.ids = [dataset.ids[index] for index in kept]

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self._kept[index]]

    def image(self, index: int) -> Tensor:
        return self.dataset.image(self._kept[index])

    def annotation(self, index: int, task: str) -> Tensor | None:
        return self.dataset.annotation(self._kept[index], task)

    def has_label(self, index: int, task: str) -> bool:
        return self.dataset.has_label(self._kept[index], task)

    def labelled(self, task: str) -> int:
        return sum(self.has_label(index, task) for index in range(len(self)))

    @property
    def sets(self) -> Mapping[str, range]:
        bounds = {name: (places.start, places.stop) for name, places in self.dataset.sets.items()}
        return {
            name: range(bisect_left(self._kept, start), bisect_left(self._kept, stop))
            for name, (start, stop) in bounds.items()
        }

    def file(self, index: int, task: str | None = None) -> Path | None:
        return self.dataset.file(self._kept[index], task)

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.dataset.fingerprint(), self.ids)).encode()).hexdigest()


def hold_out(dataset: Dataset, share: float, tasks: Collection[str], seed: int) -> tuple[Subset, Subset]:
    """The images that are left to train on, and those that are held out.

    Each of the data sets that this one is made of is cut, in its order, into runs of up to 16 neighbours, or fewer so
    that there are 50 of them, and whole runs are held out, round(share * runs) of them: neighbours, such as frames of a
    video, stay together but where a run ends, and of images in the order of their classes some of each class are left.
    Which they are is a function of the seed and the ids alone.

    Args:
        share: between 0 and 1.
        tasks: each must have a label in both parts.

    Raises:
        ConfigError: a part in which a task has no label.
    """
    held: list[int] = []
    for places in dataset.sets.values():
        length = max(1, min(_LONGEST, len(places) // _RUNS))
        runs = [places[start : start + length] for start in range(0, len(places), length)]
        runs.sort(key=lambda run: position(f"held out/{seed}/{dataset.ids[run[0]]}"))
        held += [index for run in runs[: round(share * len(runs))] for index in run]
    out = frozenset(held)
    rest = Subset(dataset, [index for index in range(len(dataset)) if index not in out])
    parts = rest, Subset(dataset, sorted(held))
    for part, words in zip(parts, ("left to train on", "held out"), strict=True):
        for task in tasks:
            if not part.labelled(task):
                raise ConfigError(
                    f"tasks.{task}: found no label for it among the {len(part)} of {len(dataset)} training images that "
                    f"are {words}; expected some: hold out another share"
                )
    return parts
