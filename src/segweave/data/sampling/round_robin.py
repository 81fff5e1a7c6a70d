"""Data sets that take turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from segweave.data.dataset import Dataset
from segweave.data.sampling.sampling import Sampling, cut, deal, steps_for
from segweave.tasks.task import Task


class RoundRobin(Sampling):
    """Data sets take turns, in the order of their names; the images of each come in a random order.

    An epoch of k sets with n images together has ceil(n / k) of each, rounded up to whole steps where a turn is one.

    Args:
        by: a turn is an `image`, so that every step holds the sets in equal parts, or a `batch`: all images of an
            optimizer step, so that sets of several image sizes need no common one.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Mapping[str, Task],
        size: int,
        seed: int,
        *,
        by: Literal["image", "batch"] = "image",
    ) -> None:
        super().__init__(dataset, tasks, size, seed)
        self._sets = list(dataset.sets.values())
        self.turn = size if by == "batch" else 1
        share = -(-len(dataset) // len(self._sets))
        self.quota = steps_for(share, self.turn) * self.turn
        self.steps = steps_for(self.quota * len(self._sets), size)

    def epoch(self, number: int) -> list[list[int]]:
        hands = deal(self._sets, [self.quota] * len(self._sets), number, self.seed)
        turns = [hand[at : at + self.turn] for at in range(0, self.quota, self.turn) for hand in hands]
        return cut([index for turn in turns for index in turn], self.size)
