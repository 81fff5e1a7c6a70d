"""Ways to divide tasks among networks, by what each is expected to gain and what the networks cost together.

A task's expected gain in a group is the mean of what the other tasks of the group bring it, one by one: the
higher-order approximation of Standley et al., Which tasks should be learned together in multi-task learning? (2020),
and of Fifty et al., Efficiently identifying task groupings for multi-task learning (2021). Alone, it gains 0. A
grouping is a partition of the tasks; its gain is the sum of those of its groups, so that the best ones follow from a
recursion over the subsets of the tasks: the best of a set is a group with the first task of the set, and the best of
what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from segweave.errors import ConfigError

EXACT = 12
"""Tasks up to which every grouping is weighed."""
_ADDED = ("parameters", "macs", "milliseconds")
_SLACK = 1 + 1e-9
"""By which a sum may exceed its limit, for rounding."""

Groups = tuple[tuple[int, ...], ...]
"""Positions of tasks by network: each in ascending order, the networks by their first task."""


class GroupCost:
    """What networks for groups of tasks cost, from the measured cost of one for all tasks and of one for each alone.

    A network costs a base, which is the encoder and what else its tasks share, and what each task adds. With T tasks,
    `base = (sum of the separate - shared) / (T - 1)` and `added = separate - base`, which is exact where costs add up;
    networks of one task or of all then cost what was measured. Where the shared network costs more than the separate
    ones together, as tasks that exchange features may, the base is 0 and only networks of one task do.

    The memory of several networks is that of all loaded at once and run one after the other: the weights of all, and
    the most that any needs to work. What a group needs to work is told in the same way, and lies between the most that
    one of its tasks needs alone and what all need together.

    Args:
        shared: parameters, macs, milliseconds and peak_megabytes (10^6 bytes) of the network of all tasks.
        separate: those of the network of each task alone.
        weight_bytes: of one parameter; the rest of a peak is working memory, buffers of normalisation layers included.

    Attributes:
        base: by number, what every network costs; `working` is its working memory in 10^6 bytes.
        added: by number, what each task adds.
    """

    def __init__(
        self, shared: Mapping[str, float], separate: Sequence[Mapping[str, float]], weight_bytes: float = 4.0
    ) -> None:
        self._weight = weight_bytes / 1e6
        whole, *each = (
            {**row, "working": row["peak_megabytes"] - self._weight * row["parameters"]} for row in (shared, *separate)
        )
        self._working = [row["working"] for row in each]
        self._all = whole["working"]
        self.base: dict[str, float] = {}
        self.added: dict[str, list[float]] = {}
        for key in (*_ADDED, "working"):
            apart = [row[key] for row in each]
            spared = (sum(apart) - whole[key]) / (len(apart) - 1) if len(apart) > 1 else 0.0
            self.base[key] = spared if math.isnan(spared) else max(0.0, spared)
            self.added[key] = [value - self.base[key] for value in apart]

    def sums(self, networks: int) -> dict[str, float]:
        """What any grouping into so many networks costs, but for its memory."""
        return {key: networks * self.base[key] + sum(self.added[key]) for key in _ADDED} | {"networks": networks}

    def weights(self, networks: int) -> float:
        """10^6 bytes of the weights of so many networks together."""
        return self._weight * self.sums(networks)["parameters"]

    def working(self, group: Sequence[int]) -> float:
        """10^6 bytes that the network of a group needs to work, beside its weights."""
        least = max(self._working[task] for task in group)
        told = self.base["working"] + sum(self.added["working"][task] for task in group)
        return max(least, min(told, self._all))

    def __call__(self, groups: Sequence[Sequence[int]]) -> dict[str, float]:
        """Parameters, macs, milliseconds, peak_megabytes and networks of a grouping."""
        peak = self.weights(len(groups)) + max(self.working(group) for group in groups)
        return {**self.sums(len(groups)), "peak_megabytes": peak}


@dataclass(frozen=True)
class Grouping:
    """A way to divide the tasks.

    Args:
        groups: positions of tasks by network.
        gains: expected of each task, in per cent over a network of its own.
        gain: their mean, weighted by importance.
        cost: parameters, macs, milliseconds, peak_megabytes and networks of all together.
        fits: whether it keeps the limits.
    """

    groups: Groups
    gains: tuple[float, ...]
    gain: float
    cost: Mapping[str, float]
    fits: bool


@dataclass(frozen=True)
class Groupings:
    """The best ways to divide the tasks.

    Args:
        found: that keep the limits, the best first.
        exact: whether no other is better than these.
    """

    found: list[Grouping]
    exact: bool


def groupings(
    affinity: Float64[np.ndarray, "tasks tasks"],
    cost: GroupCost,
    importance: Sequence[float],
    limits: Mapping[str, float],
    count: int = 10,
    *,
    names: Sequence[str] = (),
) -> Groupings:
    """The `count` groupings of the highest expected gain among those that keep the limits.

    Up to `EXACT` tasks all of them are weighed. With more, groups are merged two by two from single tasks on, the best
    two first; then single tasks are moved, at every number of networks, as long as that helps. Of equal gains (to
    1e-6 %), fewer networks come first, which never cost more but perhaps in memory, and then the order of the tasks.

    Args:
        affinity: `affinity[i, j]` is what task `j` brings task `i`, in per cent; finite but for its diagonal, which is
            not read.
        importance: weight of each task's gain, at least 0 and not all 0.
        limits: the most that all networks together may cost, by the keys of `Grouping.cost`.
        names: of the tasks, for the message of an error; their positions by default.

    Raises:
        ConfigError: no grouping keeps the limits (with many tasks: none was found), with the one that comes nearest.
    """
    exact = len(affinity) <= EXACT
    args = affinity, cost, importance, limits
    tried = _exact(*args, count) if exact else _nearby(*args)
    found = [weigh(groups, *args) for groups in tried]
    found = sorted((one for one in found if one.fits), key=_order)[:count]
    if not found:
        raise ConfigError(_beyond(*args, names or list(map(str, range(len(affinity))))))
    return Groupings(found, exact)


def weigh(
    groups: Sequence[Sequence[int]],
    affinity: Float64[np.ndarray, "tasks tasks"],
    cost: GroupCost,
    importance: Sequence[float],
    limits: Mapping[str, float],
) -> Grouping:
    """What a given grouping is expected to gain and costs; arguments as those of `groupings`."""
    ordered = tuple(sorted(tuple(sorted(group)) for group in groups))
    gains = [0.0] * len(affinity)
    for group in ordered:
        for task in group if len(group) > 1 else ():
            gains[task] = float(np.mean([affinity[task, other] for other in group if other != task]))
    gain = float(np.dot(gains, importance) / sum(importance))
    price = cost(ordered)
    return Grouping(ordered, tuple(gains), gain, price, _excess(price, limits) <= _SLACK)


def merging_order(affinity: Float64[np.ndarray, "tasks tasks"]) -> list[tuple[int, int, float]]:
    """Which tasks are joined first: average linkage, with the mean of both directions as the similarity of two tasks.

    Args:
        affinity: as that of `groupings`. Where one direction is nan, the other stands for both; two that are nan
            count 0.

    Returns:
        For each merge the two clusters and their similarity, the most similar first. Clusters are numbered as in
        scipy: tasks by their position, and from there on one for each merge.
    """
    if len(affinity) < 2:
        return []
    both = np.stack([affinity, affinity.T])
    known = np.isfinite(both)
    similar = np.where(known, both, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    np.fill_diagonal(similar, 0.0)
    pairs = squareform(similar, checks=False)
    top = pairs.max()
    return [(int(a), int(b), float(top - apart)) for a, b, apart, _ in linkage(top - pairs, "average")]


def _order(one: Grouping) -> tuple[float, int, Groups]:
    return -round(one.gain, 6), len(one.groups), one.groups


def _excess(price: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """The largest cost as a multiple of its limit; infinite where it is not known."""
    parts = [price[key] / limit if limit > 0 else math.inf for key, limit in limits.items()]
    return max((math.inf if math.isnan(part) else part for part in parts), default=0.0)


def _beyond(
    affinity: Float64[np.ndarray, "tasks tasks"],
    cost: GroupCost,
    importance: Sequence[float],
    limits: Mapping[str, float],
    names: Sequence[str],
) -> str:
    near = [weigh(groups, affinity, cost, importance, limits) for groups in _nearby(affinity, cost, importance, limits)]
    best = min(near, key=lambda one: (_excess(one.cost, limits), _order(one)))
    asked = ", ".join(f"{key} {limit:g}" for key, limit in limits.items())
    price = ", ".join(f"{key} {value:.6g}" for key, value in best.cost.items())
    groups = " | ".join(", ".join(names[task] for task in group) for group in best.groups)
    return (
        f"limits: found {asked}; expected no less than some grouping costs: {groups} (a bar between networks) is the "
        f"nearest, with {price}"
    )


def _exact(
    affinity: Float64[np.ndarray, "tasks tasks"],
    cost: GroupCost,
    importance: Sequence[float],
    limits: Mapping[str, float],
    count: int,
) -> Iterator[Groups]:
    """The `count` best at each number of networks."""
    tasks = len(affinity)
    inside = np.arange(1 << tasks)[:, None] >> np.arange(tasks) & 1 == 1
    brought = np.where(np.eye(tasks, dtype=bool), 0.0, affinity)
    others = np.maximum(inside.sum(1, keepdims=True) - 1, 1)
    values = (inside * (inside @ brought.T) / others) @ np.asarray(importance, dtype=np.float64)
    working = np.array([0.0, *(cost.working(np.flatnonzero(row).tolist()) for row in inside[1:])])
    # groups that are allowed differ by the number of networks only where memory is limited
    alike: dict[bytes, list[int]] = {}
    for networks in range(1, tasks + 1):
        others_kept = {key: limit for key, limit in limits.items() if key != "peak_megabytes"}
        if _excess(cost.sums(networks), others_kept) <= _SLACK:
            allowed = np.ones(len(values), dtype=bool)
            if "peak_megabytes" in limits:
                allowed = working <= _SLACK * limits["peak_megabytes"] - cost.weights(networks)
            alike.setdefault(allowed.tobytes(), []).append(networks)
    for allowed, numbers in alike.items():
        tables = _tables(values, np.frombuffer(allowed, dtype=bool), max(numbers), count)
        for networks in numbers:
            for rank in range(count):
                if np.isfinite(tables[0][-1, networks, rank]):
                    yield _traced(tables, networks, rank, tasks)


_Tables = tuple[
    Float64[np.ndarray, "sets networks ranks"],
    Int64[np.ndarray, "sets networks ranks"],
    Int64[np.ndarray, "sets networks ranks"],
]


def _tables(
    values: Float64[np.ndarray, " sets"], allowed: Bool[np.ndarray, " sets"], networks: int, count: int
) -> _Tables:
    """The best ways to divide each set of tasks into 1 to `networks` groups; sets are numbers, a bit for each task.

    Returns:
        Their gains, -inf where there are fewer; the group that has the set's first task; and the rank of what is left
        among the best ways to divide that.
    """
    shape = len(values), networks + 1, count
    gains, firsts, ranks = np.full(shape, -np.inf), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    gains[0, 0, 0] = 0.0
    parts = _parts(len(values) // 2)
    # what is left never has the first task of all
    for whole in (*range(2, len(values), 2), len(values) - 1):
        first = whole & -whole
        groups = (parts[(whole ^ first) >> 1] << 1) | first
        groups = groups[allowed[groups]]
        if not len(groups):
            continue
        most = min(networks, whole.bit_count())
        sums = values[groups, None, None] + gains[whole ^ groups, :most]
        rows = -sums.transpose(1, 0, 2).reshape(most, -1)
        best = np.sort(np.argpartition(rows, count - 1, axis=1)[:, :count], axis=1)
        best = np.take_along_axis(best, np.argsort(np.take_along_axis(rows, best, 1), axis=1, kind="stable"), 1)
        gains[whole, 1 : most + 1] = -np.take_along_axis(rows, best, 1)
        firsts[whole, 1 : most + 1], ranks[whole, 1 : most + 1] = groups[best // count], best % count
    return gains, firsts, ranks


def _parts(sets: int) -> list[Int64[np.ndarray, " parts"]]:
    """The subsets of every set."""
    found = [np.zeros(1, np.int64)]
    for whole in range(1, sets):
        top = 1 << (whole.bit_length() - 1)
        found.append(np.concatenate([found[whole ^ top], found[whole ^ top] | top]))
    return found


def _traced(tables: _Tables, networks: int, rank: int, tasks: int) -> Groups:
    _, firsts, ranks = tables
    left, groups = (1 << tasks) - 1, []
    for number in range(networks, 0, -1):
        group, rank = int(firsts[left, number, rank]), int(ranks[left, number, rank])
        groups.append(tuple(task for task in range(tasks) if group >> task & 1))
        left ^= group
    return tuple(groups)


def _nearby(
    affinity: Float64[np.ndarray, "tasks tasks"],
    cost: GroupCost,
    importance: Sequence[float],
    limits: Mapping[str, float],
) -> set[Groups]:
    """Groupings at each number of networks that no move of a single task betters, and all that are one move away."""
    known: dict[tuple[int, ...], float] = {}

    def worth(group: tuple[int, ...]) -> float:
        if group not in known:
            block = affinity[np.ix_(group, group)]
            sums = np.where(np.eye(len(group), dtype=bool), 0.0, block).sum(1)
            known[group] = float(np.dot(sums, [importance[task] for task in group])) / max(1, len(group) - 1)
        return known[group]

    def order(groups: Groups) -> tuple[float, float, Groups]:
        # what keeps the limits is compared by its gain alone
        over = max(_SLACK, _excess(cost(groups), limits)) if limits else _SLACK
        return over, -sum(map(worth, groups)), groups

    groups: Groups = tuple((task,) for task in range(len(affinity)))
    found: set[Groups] = set()
    while True:
        best, around = groups, set(_moves(groups))
        while (next_best := min((best, *around), key=order)) != best:
            best, around = next_best, set(_moves(next_best))
        found |= {best, *around}
        if len(groups) == 1:
            return found
        groups = min(
            (_sorted({*groups} - {a, b} | {(*a, *b)}) for a, b in combinations(groups, 2)),
            key=lambda merged: -sum(map(worth, merged)),
        )


def _moves(groups: Groups) -> Iterator[Groups]:
    """What a task's move to another network gives, the number of networks unchanged."""
    for source, target in ((a, b) for a in groups for b in groups if a != b and len(a) > 1):
        for task in source:
            rest = tuple(other for other in source if other != task)
            yield _sorted({*groups} - {source, target} | {rest, (*target, task)})


def _sorted(groups: set[tuple[int, ...]]) -> Groups:
    return tuple(sorted(tuple(sorted(group)) for group in groups))
