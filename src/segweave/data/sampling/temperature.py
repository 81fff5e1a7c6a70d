"""Between proportional and uniform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segweave.data.dataset import Dataset
from segweave.data.sampling.sampling import Sampling, cut, deal, shuffled, steps_for
from segweave.errors import ConfigError
from segweave.tasks.task import Task


class Temperature(Sampling):
    """Of a data set with n images a share of each epoch in proportion to n^(1/T): small sets more often than they are.

    T = 1 is proportional, and the larger T, the closer to uniform. An epoch has as many images as the data, in a random
    order, and one of every set at least. A set with a lower share than its own needs several epochs to show all of its
    images; one with a higher share shows some of them several times in one.

    Args:
        temperature: T, 1 or more; `.inf` gives every set the same number.

    Raises:
        ConfigError: a temperature below 1.
    """

    def __init__(
        self, dataset: Dataset, tasks: Mapping[str, Task], size: int, seed: int, *, temperature: float = 2.0
    ) -> None:
        super().__init__(dataset, tasks, size, seed)
        if not temperature >= 1:
            raise ConfigError(f"data.sampling.temperature: found {temperature}; expected 1 or more")
        self._sets = list(dataset.sets.values())
        self.quotas = quotas([len(images) for images in self._sets], temperature)
        self.steps = steps_for(sum(self.quotas), size)

    def epoch(self, number: int) -> list[list[int]]:
        images = [index for hand in deal(self._sets, self.quotas, number, self.seed) for index in hand]
        return cut([images[place] for place in shuffled(len(images), self.seed, 0, number)], self.size)


def quotas(sizes: Sequence[int], temperature: float) -> list[int]:
    """Whole numbers in proportion to `sizes^(1 / temperature)` with the same sum as `sizes`, none of them 0.

    The largest fractions are rounded up, and the first of equal ones.
    """
    powers = [size ** (1 / temperature) for size in sizes]
    exact = [sum(sizes) * power / sum(powers) for power in powers]
    made = [max(1, int(share)) for share in exact]
    while sum(made) != sum(sizes):
        up = 1 if sum(made) < sum(sizes) else -1
        # only a quota that was raised to 1 can make the sum too large
        candidates = [place for place in range(len(made)) if up > 0 or made[place] > 1]
        made[max(candidates, key=lambda place: up * (exact[place] - made[place]))] += up
    return made
