from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from segweave.errors import ConfigError
from segweave.groupings import GroupCost, Grouping, groupings, merging_order, weigh

NUMBERS: tuple[str, ...] = ("parameters", "macs", "milliseconds")


def partitions(items: Sequence[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for place in range(len(rest)):
            yield [*rest[:place], [items[0], *rest[place]], *rest[place + 1 :]]


def random_cost(tasks: int, seed: int) -> GroupCost:
    """Costs that add up: a base and what each task adds."""
    drawn = np.random.default_rng(seed)
    base = dict(zip(NUMBERS, drawn.uniform(1e6, 1e7, 3).tolist(), strict=True))
    added = [dict(zip(NUMBERS, row, strict=True)) for row in drawn.uniform(1e5, 1e6, (tasks, 3)).tolist()]
    works, working = drawn.uniform(5, 20, tasks).tolist(), 10.0

    def row(group: Sequence[int]) -> dict[str, float]:
        sums = {key: base[key] + sum(added[task][key] for task in group) for key in NUMBERS}
        return {**sums, "peak_megabytes": 4e-6 * sums["parameters"] + working + sum(works[task] for task in group)}

    return GroupCost(row(range(tasks)), [row([task]) for task in range(tasks)])


def random_affinity(tasks: int, seed: int) -> np.ndarray:
    affinity = np.random.default_rng(seed).normal(0, 5, (tasks, tasks))
    np.fill_diagonal(affinity, math.nan)
    return affinity


def blocks(sizes: Sequence[int], seed: int) -> tuple[np.ndarray, tuple[tuple[int, ...], ...]]:
    """Tasks of one family help each other, tasks of two hurt, each by another amount; the families are shuffled."""
    drawn = np.random.default_rng(seed)
    family = drawn.permutation(np.repeat(np.arange(len(sizes)), sizes))
    affinity = np.where(family[:, None] == family, 4.0, -4.0) + drawn.normal(0, 1.0, (len(family), len(family)))
    groups = sorted(tuple(np.flatnonzero(family == one).tolist()) for one in range(len(sizes)))
    return affinity, tuple(groups)


def by_hand(affinity: np.ndarray, groups: Sequence[Sequence[int]], importance: Sequence[float]) -> float:
    gains = {
        i: sum(affinity[i, j] for j in group if j != i) / (len(group) - 1) if len(group) > 1 else 0.0
        for group in groups
        for i in group
    }
    return sum(importance[i] * gain for i, gain in gains.items()) / sum(importance)


def test_costs_that_add_up_are_told_exactly() -> None:
    cost = random_cost(4, 0)
    drawn = np.random.default_rng(0)
    base, added = drawn.uniform(1e6, 1e7, 3), drawn.uniform(1e5, 1e6, (4, 3))
    works = drawn.uniform(5, 20, 4)
    told = cost([[0, 2], [1, 3]])
    for place, key in enumerate(NUMBERS):
        assert cost.base[key] == pytest.approx(base[place], rel=1e-12)
        assert cost.added[key] == pytest.approx(added[:, place], rel=1e-9)
        assert told[key] == pytest.approx(2 * base[place] + added[:, place].sum(), rel=1e-12)
    # the weights of both, and the more hungry of the two
    most = max(works[0] + works[2], works[1] + works[3])
    assert told["peak_megabytes"] == pytest.approx(4e-6 * told["parameters"] + 10 + most, rel=1e-9)
    assert told["networks"] == 2


def test_networks_of_one_task_and_of_all_cost_what_was_measured() -> None:
    """Numbers that do not add up."""
    drawn = np.random.default_rng(1)
    rows = [dict(zip((*NUMBERS, "peak_megabytes"), row, strict=True)) for row in drawn.uniform(9, 12, (5, 4)).tolist()]
    cost = GroupCost({key: 2 * value for key, value in rows[0].items()}, rows[1:])
    for key in (*NUMBERS, "peak_megabytes"):
        assert cost([[0, 1, 2, 3]])[key] == pytest.approx(2 * rows[0][key])
    for key in NUMBERS:
        assert cost([[0], [1], [2], [3]])[key] == pytest.approx(sum(row[key] for row in rows[1:]))
    alone = GroupCost(rows[0], [rows[0]])
    assert alone([[0]]) == pytest.approx({**rows[0], "networks": 1})


def test_a_shared_network_dearer_than_separate_ones_has_no_base() -> None:
    row = dict.fromkeys((*NUMBERS, "peak_megabytes"), 10.0)
    cost = GroupCost(dict.fromkeys(row, 50.0), [row, row])
    assert set(cost.base.values()) == {0.0}
    assert cost([[0], [1]])["macs"] == cost([[0, 1]])["macs"] == 20.0


def test_working_memory_lies_between_that_of_one_and_of_all() -> None:
    """Peaks inside the encoder are the same whatever the heads are, and do not add up."""
    rows = [dict.fromkeys(NUMBERS, 0.0) | {"peak_megabytes": peak} for peak in (10.0, 10.0, 10.0, 1.0)]
    cost = GroupCost(rows[0], rows[1:])
    assert cost.working([0, 1]) == 10.0
    assert cost.working([0]) == 10.0
    assert cost.working([2]) == 1.0


@pytest.mark.parametrize("seed", range(30))
def test_the_best_are_those_of_brute_force(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    tasks = int(drawn.integers(1, 8))
    affinity, cost = random_affinity(tasks, seed), random_cost(tasks, seed)
    if seed % 5 == 0:
        affinity = np.round(affinity / 5)  # many ties
    importance = drawn.uniform(0.1, 3, tasks).tolist()
    everything = [weigh(groups, affinity, cost, importance, {}) for groups in partitions(range(tasks))]
    prices = {key: sorted(one.cost[key] for one in everything) for key in everything[0].cost}
    kept = drawn.permutation(list(prices))[: drawn.integers(0, 4)].tolist()
    limits = {key: prices[key][int(drawn.integers(len(everything) // 3, len(everything)))] for key in kept}
    # the limits are prices themselves, which round differently by the order of their sums
    inside = [one for one in everything if all(one.cost[key] <= limits[key] * (1 + 1e-9) for key in limits)]
    if not inside:
        with pytest.raises(ConfigError):
            groupings(affinity, cost, importance, limits)
        return
    found = groupings(affinity, cost, importance, limits, count=7)
    assert found.exact
    expected = sorted(inside, key=lambda one: (-round(one.gain, 6), len(one.groups)))[:7]
    assert [one.gain for one in found.found] == pytest.approx([one.gain for one in expected], abs=2e-6)
    assert [len(one.groups) for one in found.found] == [len(one.groups) for one in expected]
    assert len({one.groups for one in found.found}) == len(found.found)
    for one in found.found:
        assert one.fits
        assert one.gain == pytest.approx(by_hand(affinity, one.groups, importance), abs=1e-9)
        assert sorted(task for group in one.groups for task in group) == list(range(tasks))


@pytest.mark.parametrize("sizes", [[5, 4, 3], [6, 6], [1, 4, 7], [10, 10], [5, 7, 8], [1, 4, 4, 11], [13, 1]])
@pytest.mark.parametrize("seed", range(2))
def test_planted_families_are_found(sizes: Sequence[int], seed: int) -> None:
    affinity, planted = blocks(sizes, seed)
    tasks = len(affinity)
    # without that limit, the dearest partners of a family would go together, each pair with a network of its own
    found = groupings(affinity, random_cost(tasks, seed), [1.0] * tasks, {"networks": len(sizes)})
    assert found.found[0].groups == planted
    assert found.exact == (tasks <= 12)
    gains = [one.gain for one in found.found]
    assert len(gains) == 10
    assert gains == sorted(gains, reverse=True)
    plain = groupings(np.where(affinity > 0, 4.0, -4.0), random_cost(tasks, seed), [1.0] * tasks, {})
    assert plain.found[0].groups == planted


@pytest.mark.parametrize("tasks", [7, 14])
def test_the_order_of_the_tasks_does_not_matter(tasks: int) -> None:
    affinity = random_affinity(tasks, 5)
    shared, separate = _rows(tasks, 5)
    cost = GroupCost(shared, separate)
    importance = np.random.default_rng(6).uniform(0.5, 2, tasks)
    limits = {"peak_megabytes": 0.9 * cost([range(tasks)])["peak_megabytes"]}
    limits = {"networks": 3.0} if tasks > 12 else limits | {"networks": 5.0}
    order = np.random.default_rng(7).permutation(tasks)
    one = groupings(affinity, cost, importance.tolist(), limits)
    moved = GroupCost(shared, [separate[task] for task in order])
    other = groupings(affinity[np.ix_(order, order)], moved, importance[order].tolist(), limits)

    def named(found: Grouping) -> set[frozenset[int]]:
        return {frozenset(int(order[task]) for task in group) for group in found.groups}

    assert [named(found) for found in other.found] == [set(map(frozenset, found.groups)) for found in one.found]
    for a, b in zip(one.found, other.found, strict=True):
        assert np.array(a.gains)[order] == pytest.approx(np.array(b.gains))


def _rows(tasks: int, seed: int) -> tuple[dict[str, float], list[dict[str, float]]]:
    drawn = np.random.default_rng(seed)
    rows = drawn.uniform(9, 12, (tasks, 4)).tolist()
    separate = [dict(zip((*NUMBERS, "peak_megabytes"), row, strict=True)) for row in rows]
    return dict.fromkeys(separate[0], 20.0), separate


@pytest.mark.parametrize("limits", [{"networks": 2.0}, {"milliseconds": 21.0, "networks": 9.0}, {"parameters": 30.0}])
def test_limits_are_kept_beyond_exact_search(limits: Mapping[str, float]) -> None:
    affinity, _ = blocks([6, 6, 6], 1)
    shared, separate = _rows(18, 2)
    found = groupings(affinity, GroupCost(shared, separate), [1.0] * 18, limits)
    assert not found.exact
    for one in found.found:
        assert all(one.cost[key] <= limit for key, limit in limits.items())


def test_memory_is_kept_beyond_exact_search() -> None:
    """One network of all needs too much working memory, so the two families that fight are not the only reason."""
    affinity = np.full((14, 14), 3.0)
    row = dict.fromkeys(NUMBERS, 1.0) | {"peak_megabytes": 10.0}
    cost = GroupCost(row | {"peak_megabytes": 75.0}, [row] * 14)  # 5 for every network and 5 for each task
    found = groupings(affinity, cost, [1.0] * 14, {"peak_megabytes": 41.0})
    assert found.found[0].gain == 3.0
    assert [len(group) for group in found.found[0].groups] == [7, 7]


def test_equal_gains_go_to_fewer_networks() -> None:
    affinity, cost = np.full((8, 8), 0.1), random_cost(8, 0)
    first, second = (groupings(affinity, cost, [1.0] * 8, {}) for _ in range(2))
    assert first == second
    assert first.found[0].groups == (tuple(range(8)),)
    assert [len(one.groups) for one in first.found[1:]] == [2] * 9
    nothing = groupings(np.zeros((3, 3)), cost=random_cost(3, 0), importance=[1, 1, 1], limits={})
    assert [one.groups for one in nothing.found] == [
        ((0, 1, 2),),
        ((0,), (1, 2)),
        ((0, 1), (2,)),
        ((0, 2), (1,)),
        ((0,), (1,), (2,)),
    ]


def test_importance_decides_between_tasks() -> None:
    affinity = np.array([[math.nan, 5.0], [-4.0, math.nan]])
    cost = random_cost(2, 0)
    assert groupings(affinity, cost, [1, 1], {}).found[0].groups == ((0, 1),)
    assert groupings(affinity, cost, [1, 2], {}).found[0].groups == ((0,), (1,))
    assert groupings(affinity, cost, [1, 2], {"networks": 1}).found[0].gain == pytest.approx(-1.0)


@pytest.mark.parametrize("memory", [None, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("kind", ["equal", "random", "blocks"])
def test_twelve_tasks_take_seconds(kind: str, memory: float | None) -> None:
    made = {"equal": np.full((12, 12), 2.0), "random": random_affinity(12, 3), "blocks": blocks([4, 4, 4], 3)[0]}
    cost = random_cost(12, 4)
    limits = (
        {} if memory is None else {"peak_megabytes": memory * cost([[task] for task in range(12)])["peak_megabytes"]}
    )
    started = time.perf_counter()
    assert groupings(made[kind], cost, [1.0] * 12, limits).exact
    # a quarter of that on two cores of 2020; far from the minutes that a list of 4 million partitions takes
    assert time.perf_counter() - started < 20


def test_what_nothing_keeps_is_said_with_the_cheapest() -> None:
    row = dict.fromkeys(NUMBERS, 10.0) | {"peak_megabytes": 4.0}
    cost = GroupCost(dict.fromkeys(NUMBERS, 12.0) | {"peak_megabytes": 6.0}, [row, row, row])
    with pytest.raises(ConfigError) as error:
        groupings(np.ones((3, 3)), cost, [1.0] * 3, {"milliseconds": 11.5})
    assert str(error.value) == (
        "limits: found milliseconds 11.5; expected no less than some grouping costs: 0, 1, 2 (a bar between networks) "
        "is the nearest, with parameters 12, macs 12, milliseconds 12, networks 1, peak_megabytes 6"
    )
    with pytest.raises(ConfigError, match=r"costs: near \| far \| sky "):
        groupings(np.ones((3, 3)), cost, [1.0] * 3, {"peak_megabytes": 3.9}, names=["near", "far", "sky"])
    unknown = GroupCost({**row, "milliseconds": math.nan}, [{**row, "milliseconds": math.nan}] * 3)
    with pytest.raises(ConfigError, match="milliseconds nan"):
        groupings(np.ones((3, 3)), unknown, [1.0] * 3, {"milliseconds": 100.0})


@pytest.mark.parametrize("tasks", [2, 3, 9])
def test_merging_goes_by_the_mean_similarity(tasks: int) -> None:
    affinity = random_affinity(tasks, tasks)
    merges = merging_order(affinity)
    members = {task: [task] for task in range(tasks)}
    for place, (a, b, similarity) in enumerate(merges):
        pairs = [(affinity[i, j] + affinity[j, i]) / 2 for i in members[a] for j in members[b]]
        assert similarity == pytest.approx(np.mean(pairs))
        others = [
            np.mean([(affinity[i, j] + affinity[j, i]) / 2 for i in one for j in other])
            for n, one in members.items()
            for m, other in members.items()
            if n < m
        ]
        assert similarity == pytest.approx(max(others))
        members[tasks + place] = members.pop(a) + members.pop(b)
    assert sorted(next(iter(members.values()))) == list(range(tasks))


def test_merging_of_similarities_is_that_of_distances() -> None:
    similar = np.array([[1.0, 0.9, 0.2], [0.9, 1.0, 0.4], [0.2, 0.4, 1.0]])
    expected = linkage(squareform(1 - similar, checks=False), "average")
    merges = merging_order(similar)
    assert [merge[:2] for merge in merges] == [tuple(row) for row in expected[:, :2]]
    assert [1 - merge[2] for merge in merges] == pytest.approx(expected[:, 2])


def test_what_was_measured_one_way_stands_for_both() -> None:
    nan = math.nan
    affinity = np.array([[nan, 5.0, nan], [nan, nan, 1.0], [nan, 3.0, nan]])
    assert merging_order(affinity) == [(0, 1, 5.0), (2, 3, 1.0)]  # 2 with 0 counts 0, with 1 the mean of 1 and 3
    assert merging_order(np.array([[nan]])) == []
