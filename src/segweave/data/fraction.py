"""Fewer training images, or fewer labels, to see what more of them would bring."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from segweave.batch import Sample
from segweave.data.dataset import Dataset, Wrapper
from segweave.data.shares import position


class Fraction(Wrapper):
    """Some of the images of a data set, or all of them with the labels of some.

    Which they are is a function of the seed and the id alone, on every machine, and those of a smaller fraction are
    among those of a larger one. Of n there are max(1, round(fraction * n)).

    Args:
        dataset: the training images.
        fraction: of the images, above 0 and at most 1; or by task, of the labels of that task alone.
        tasks: those that the network predicts; fractions of others have no effect.
        seed: another one draws others.
    """

    def __init__(
        self, dataset: Dataset, fraction: float | Mapping[str, float], tasks: Sequence[str], seed: int
    ) -> None:
        super().__init__(dataset)
        whole = range(len(dataset))
        place = [position(f"{seed}/{id}") for id in dataset.ids]

        def drawn(share: float, among: Sequence[int]) -> list[int]:
            return sorted(sorted(among, key=place.__getitem__)[: max(1, round(share * len(among)))])

        self._kept: Sequence[int] = whole
        self._labelled: dict[str, frozenset[int]] = {}
        if isinstance(fraction, Mapping):
            for task in fraction.keys() & set(tasks):
                among = [index for index in whole if dataset.has_label(index, task)]
                self._labelled[task] = frozenset(drawn(fraction[task], among))
        else:
            self._kept = drawn(fraction, whole)
        self.ids = [dataset.ids[index] for index in self._kept]

    def _shown(self, index: int, task: str) -> bool:
        """Whether the label of an image of the whole data set is among those that are left."""
        return task not in self._labelled or index in self._labelled[task]

    def __getitem__(self, index: int) -> Sample:
        index = self._kept[index]
        sample = self.dataset[index]
        annotations = {task: label for task, label in sample.annotations.items() if self._shown(index, task)}
        return Sample(sample.id, sample.image, annotations)

    def image(self, index: int) -> Tensor:
        return self.dataset.image(self._kept[index])

    def annotation(self, index: int, task: str) -> Tensor | None:
        index = self._kept[index]
        return self.dataset.annotation(index, task) if self._shown(index, task) else None

    def has_label(self, index: int, task: str) -> bool:
        index = self._kept[index]
        return self._shown(index, task) and self.dataset.has_label(index, task)

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
        kept = (self.ids, {task: sorted(places) for task, places in sorted(self._labelled.items())})
        return hashlib.sha256(repr((self.dataset.fingerprint(), kept)).encode()).hexdigest()
