"""Of every data set the same number of images."""

from __future__ import annotations

from collections.abc import Mapping

from segweave.data.dataset import Dataset
from segweave.data.sampling.sampling import Sampling, cut, deal, shuffled, steps_for
from segweave.tasks.task import Task


class Uniform(Sampling):
    """Of every data set the same number of images, in a random order.

    An epoch of k sets with n images together has ceil(n / k) of each. A larger set needs several epochs to show all of
    its images; a smaller one shows some of them several times in one.
    """

    def __init__(self, dataset: Dataset, tasks: Mapping[str, Task], size: int, seed: int) -> None:
        super().__init__(dataset, tasks, size, seed)
        self._sets = list(dataset.sets.values())
        self.quota = -(-len(dataset) // len(self._sets))
        self.steps = steps_for(self.quota * len(self._sets), size)

    def epoch(self, number: int) -> list[list[int]]:
        hands = deal(self._sets, [self.quota] * len(self._sets), number, self.seed)
        images = [index for hand in hands for index in hand]
        return cut([images[place] for place in shuffled(len(images), self.seed, 0, number)], self.size)
