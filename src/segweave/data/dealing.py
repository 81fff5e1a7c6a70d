"""Groups of images dealt to splits, so that every split has its share of each label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

_PASSES = 20
_FEW = 1000
"""Groups up to which pairs of them are looked at."""
_SLACK = 1e-9


def deal(
    sizes: Int[np.ndarray, " G"], counts: Int[np.ndarray, "G L"], shares: Sequence[float], seed: int
) -> Int[np.ndarray, " G"]:
    """The split of each group, by iterative stratification (Sechidis et al. 2011, algorithm 1) over groups.

    The label that fewest undealt images have comes first; its groups, the largest first, go to the split that lacks
    most images of it, and on a tie most images at all. Splits that are full get none. Then groups move to other splits
    as long as that brings the labels nearer to their shares. Every split has a group, and where groups allow it a
    split's size is off by less than the largest group.

    Args:
        sizes: images of each group.
        counts: images of each group that have each label.
        shares: of the images, by split, 1 together.
        seed: orders groups of one size.
    """
    state = _Deal(sizes, counts, np.asarray(shares, np.float64))
    rank = np.random.default_rng(seed).permutation(len(sizes))
    free = np.ones(len(sizes), bool)
    while free.any():
        left = counts[free].sum(0)
        label = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin()) if left.any() else None
        members = np.flatnonzero(free & (counts[:, label] > 0)) if label is not None else np.flatnonzero(free)
        for group in sorted(members.tolist(), key=lambda group: (-sizes[group], rank[group])):
            state.put(group, state.neediest(label))
        free[members] = False
    state.even()
    for _ in range(_PASSES):
        order = np.argsort(rank).tolist()
        if not state.improve(order) and (len(sizes) > _FEW or not state.exchange(order)):
            break
    return state.split


class _Deal:
    """Which group is where, and how far each split is from its share of images and of each label.

    Attributes:
        split: of each group, -1 before it has one.
        held: groups of each split.
        surplus: images of each split beyond its share, [k].
        excess: the same by label, as a share of all images that have it, [k, L].
    """

    def __init__(
        self, sizes: Int[np.ndarray, " G"], counts: Int[np.ndarray, "G L"], shares: Float[np.ndarray, " k"]
    ) -> None:
        self.sizes = sizes
        totals = counts.sum(0)
        self.weights = counts / np.maximum(totals, 1)
        self.split = np.full(len(sizes), -1)
        self.held = np.zeros(len(shares), np.int64)
        self.surplus = -shares * sizes.sum()
        self.excess = -shares[:, None] * (totals > 0)
        self.largest = int(sizes.max())

    def neediest(self, label: int | None) -> int:
        """The split with room that lacks most images of a label; of those without labels, most images."""
        lacking = -self.surplus if label is None else -self.excess[:, label]
        order = np.lexsort((self.surplus, -lacking.round(12), self.surplus >= -_SLACK))
        return int(order[0])

    def put(self, group: int, split: int) -> None:
        """Puts a group into a split, and takes it out of the one that it was in."""
        for place, sign in ((self.split[group], -1), (split, 1)):
            if place >= 0:
                self.held[place] += sign
                self.surplus[place] += sign * self.sizes[group]
                self.excess[place] += sign * self.weights[group]
        self.split[group] = split

    def even(self) -> None:
        """Fills empty splits, and those that lack as much as the largest group, from those with most to spare."""
        while True:
            held = self.held
            poorest = int(np.where(held == 0, -np.inf, self.surplus).argmin())
            if held[poorest] and self.surplus[poorest] > -self.largest:
                return
            richest = int(np.where(held > 1, self.surplus, -np.inf).argmax())
            if held[poorest] and self.surplus[richest] <= _SLACK:
                return
            members = np.flatnonzero(self.split == richest).tolist()
            least = min(self.sizes[members].tolist()) if not held[poorest] else None
            fitting = [group for group in members if least is None or self.sizes[group] == least]
            self.put(min(fitting, key=lambda group: self._gain(group, poorest)), poorest)

    def _gain(self, group: int, split: int) -> float:
        """What moving a group adds to the distance from the shares of labels; below 0 is better."""
        old, weights = self.split[group], self.weights[group]
        before = np.abs(self.excess[old]) + np.abs(self.excess[split])
        return float((np.abs(self.excess[old] - weights) + np.abs(self.excess[split] + weights) - before).sum())

    def improve(self, order: Iterable[int]) -> bool:
        """Moves each group once to where it brings labels nearer to their shares; whether any did."""
        moved = False
        for group in order:
            old, size = int(self.split[group]), self.sizes[group]
            if self.held[old] == 1 or self.surplus[old] - size <= -self.largest:
                continue
            rooms = [s for s in range(len(self.surplus)) if s != old and self.surplus[s] + size < self.largest]
            best = min(rooms, key=lambda split: self._gain(group, split), default=None)
            if best is not None and self._gain(group, best) < -_SLACK:
                self.put(group, best)
                moved = True
        return moved

    def exchange(self, order: Iterable[int]) -> bool:
        """Lets each group change places with the one that brings labels nearest to their shares; whether any did."""
        moved = False
        for group in order:
            old = int(self.split[group])
            others = np.flatnonzero(self.split != old)
            places, step = self.split[others], self.weights[others] - self.weights[group]
            change = self.sizes[others] - self.sizes[group]
            here, there = self.excess[old], self.excess[self.split[others]]
            gains = (np.abs(here + step) - np.abs(here) + np.abs(there - step) - np.abs(there)).sum(1)
            off = np.maximum(np.abs(self.surplus[old] + change), np.abs(self.surplus[places] - change))
            best = int(np.where(off < self.largest, gains, np.inf).argmin())
            if off[best] < self.largest and gains[best] < -_SLACK:
                self.put(group, int(places[best]))
                self.put(int(others[best]), old)
                moved = True
        return moved
