"""Fewer training images, or fewer labels, to see what more of them would bring."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from segweave.batch import Sample
from segweave.data.dataset import Dataset, Wrapper
from segweave.data.shares import position
from segweave.data.subset import Subset


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
        place = [position(f"{seed}/{id}") for id in dataset.ids]

        def drawn(share: float, among: Sequence[int]) -> list[int]:
            return sorted(sorted(among, key=place.__getitem__)[: max(1, round(share * len(among)))])

        whole = range(len(dataset))
        by_task = fraction if isinstance(fraction, Mapping) else {}
        super().__init__(dataset if isinstance(fraction, Mapping) else Subset(dataset, drawn(fraction, whole)))
        self._whole = dataset
        self._labelled: dict[str, frozenset[int]] = {}
        for task in by_task.keys() & set(tasks):
            among = [index for index in whole if dataset.has_label(index, task)]
            self._labelled[task] = frozenset(drawn(by_task[task], among))

    def _shown(self, index: int, task: str) -> bool:
        """Whether the label of an image is among those that are left."""
        return task not in self._labelled or index in self._labelled[task]

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        annotations = {task: label for task, label in sample.annotations.items() if self._shown(index, task)}
        return Sample(sample.id, sample.image, annotations)

    def annotation(self, index: int, task: str) -> Tensor | None:
        return self.dataset.annotation(index, task) if self._shown(index, task) else None

    def has_label(self, index: int, task: str) -> bool:
        return self._shown(index, task) and self.dataset.has_label(index, task)

    def labelled(self, task: str) -> int:
        return sum(self.has_label(index, task) for index in range(len(self)))

    def fingerprint(self) -> str:
        kept = (list(self.ids), {task: sorted(places) for task, places in sorted(self._labelled.items())})
        return hashlib.sha256(repr((self._whole.fingerprint(), kept)).encode()).hexdigest()
