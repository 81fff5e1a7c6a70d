"""Each image once an epoch."""

from __future__ import annotations

from segweave.data.sampling.sampling import Sampling, cut, shuffled


class Proportional(Sampling):
    """Each image once an epoch, in a random order: of every data set as many as it has.

    An epoch is ceil(images / size) steps; its last one may be short.
    """

    def epoch(self, number: int) -> list[list[int]]:
        return cut(shuffled(len(self.dataset), self.seed, 0, number), self.size)
