"""Samplings: what each promises of an epoch, counted; every one a function of (seed, epoch) alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segweave.batch import Sample
from segweave.data.dataset import Dataset
from segweave.data.sampling import SAMPLINGS
from segweave.data.sampling.repeat_factor import RepeatFactor, repeat_factors
from segweave.data.sampling.round_robin import RoundRobin
from segweave.data.sampling.sampling import Sampling
from segweave.data.sampling.temperature import Temperature, quotas
from segweave.data.sampling.uniform import Uniform
from segweave.errors import ConfigError, UnreadableError
from segweave.tasks import Classification, Depth, Semantic
from segweave.tasks.task import Task

READERS: dict[str, Task] = {name: Classification(name, classes=4, multi_label=True) for name in ("a", "b", "c")}


class Toy(Dataset):
    """Images without pixels in sets of some sizes; `labels` has the classes shown, by task and image."""

    def __init__(self, sizes: list[int], labels: Mapping[str, Mapping[int, list[int]]] | None = None) -> None:
        self.sizes = sizes
        self.ids = [f"{place}/{image}" for place, size in enumerate(sizes) for image in range(size)]
        self.labels = labels or {name: {index: [0] for index in range(len(self.ids))} for name in READERS}
        self.decoded = 0

    @property
    def sets(self) -> Mapping[str, range]:
        ends = np.cumsum([0, *self.sizes]).tolist()
        return {str(place): range(ends[place], ends[place + 1]) for place in range(len(self.sizes))}

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("no sampling reads an image")

    def annotation(self, index: int, task: str) -> Tensor | None:
        self.decoded += 1
        shown = self.labels.get(task, {}).get(index)
        return None if shown is None else torch.tensor([float(name in shown) for name in range(4)])

    def has_label(self, index: int, task: str) -> bool:
        return index in self.labels.get(task, {})

    def labelled(self, task: str) -> int:
        return len(self.labels.get(task, {}))

    def fingerprint(self) -> str:
        return "toy"


OPTIONS: dict[str, dict[str, Any]] = {
    "repeat_factor": {"task": "a", "threshold": 0.5},
    "round_robin": {"by": "batch"},
    "tasks": {"minimum": {"b": 2}},
}


def build(name: str, dataset: Dataset, size: int = 4, seed: int = 0, **options: Any) -> Sampling:
    return SAMPLINGS.load(name)(dataset, READERS, size, seed, **options)


def mixed() -> Toy:
    """Three sets of 12, 5 and 2 images; b and c are labelled on few of them, class 3 of a is rare."""
    a = {index: [0, 3] if index == 7 else [0, index % 2] for index in range(19)}
    return Toy([12, 5, 2], {"a": a, "b": {2: [0], 14: [1], 15: [1]}, "c": {index: [2] for index in range(12, 19)}})


def counted(sampling: Sampling, epoch: int = 0) -> Counter[int]:
    return Counter(index for step in sampling.epoch(epoch) for index in step)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_an_epoch_is_whole_steps_of_images_and_a_function_of_seed_and_number(name: str) -> None:
    data, options = mixed(), OPTIONS.get(name, {})
    sampling = build(name, data, **options)
    epochs = [sampling.epoch(number) for number in range(5)]
    for epoch in epochs:
        assert len(epoch) == sampling.steps
        assert all(0 < len(step) <= 4 for step in epoch)
        assert all(0 <= index < 19 for step in epoch for index in step)
    assert len({str(epoch) for epoch in epochs}) == 5
    # another object, asked in another order, says the same
    again = build(name, mixed(), **options)
    assert [again.epoch(number) for number in (4, 0, 2)] == [epochs[4], epochs[0], epochs[2]]
    assert build(name, mixed(), seed=1, **options).epoch(0) != epochs[0]


@pytest.mark.parametrize("name", SAMPLINGS)
@given(images=st.integers(1, 40), size=st.integers(1, 9))
@settings(max_examples=20)
def test_one_fully_labelled_set_is_shown_once_an_epoch_by_every_sampling(name: str, images: int, size: int) -> None:
    """Nothing is rare in it, so that none has a reason to repeat anything."""
    options = {"task": "a"} if name == "repeat_factor" else {}
    sampling = build(name, Toy([images]), size, **options)
    assert counted(sampling) == dict.fromkeys(range(images), 1)
    assert sampling.steps == math.ceil(images / size)


sizes = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def of_sets(data: Toy, counts: Counter[int]) -> list[int]:
    return [sum(counts[index] for index in places) for places in data.sets.values()]


@given(sizes=sizes, size=st.integers(1, 8))
def test_uniform_takes_the_same_number_of_every_set(sizes: list[int], size: int) -> None:
    data = Toy(sizes)
    sampling = build("uniform", data, size)
    assert isinstance(sampling, Uniform)
    assert sampling.quota == math.ceil(sum(sizes) / len(sizes))
    for epoch in range(3):
        assert set(of_sets(data, counted(sampling, epoch))) == {sampling.quota}


@given(sizes=sizes, name=st.sampled_from(["uniform", "temperature", "round_robin"]), epochs=st.integers(1, 6))
def test_no_image_of_a_set_waits_while_another_comes_twice_as_often(sizes: list[int], name: str, epochs: int) -> None:
    data = Toy(sizes)
    sampling = build(name, data)
    seen: Counter[int] = sum((counted(sampling, epoch) for epoch in range(epochs)), Counter())
    for places in data.sets.values():
        counts = [seen[index] for index in places]
        assert max(counts) - min(counts) <= 1


@given(sizes=sizes, temperature=st.floats(1, 50))
def test_temperature_shares_are_powers_of_the_sizes(sizes: list[int], temperature: float) -> None:
    data = Toy(sizes)
    sampling = build("temperature", data, temperature=temperature)
    assert isinstance(sampling, Temperature)
    taken = of_sets(data, counted(sampling, 2))
    assert taken == sampling.quotas
    assert sum(taken) == sum(sizes)
    assert min(taken) >= 1
    powers = np.array(sizes, np.float64) ** (1 / temperature)
    exact = sum(sizes) * powers / powers.sum()
    if min(exact) >= 1:  # none had to be raised to one image
        assert (np.abs(np.array(taken) - exact) < 1).all()
    order = np.argsort(sizes, kind="stable")
    assert (np.diff(np.array(taken)[order])[np.diff(np.array(sizes)[order]) > 0] >= 0).all()


@given(sizes=sizes)
def test_temperature_goes_from_proportional_to_uniform(sizes: list[int]) -> None:
    assert quotas(sizes, 1.0) == sizes
    even = quotas(sizes, math.inf)
    assert max(even) - min(even) <= 1


def test_temperature_by_hand() -> None:
    # roots 10 and 4, 116 images: 82.86 and 33.14
    assert quotas([100, 16], 2.0) == [83, 33]
    # a set whose share is 0.02 of an image has one
    assert quotas([1, 1, 10_000], 1.0) == [1, 1, 10_000]
    assert quotas([1000, 1], 1.2) == [998, 3]


@given(sizes=sizes, size=st.integers(1, 8), by=st.sampled_from(["image", "batch"]))
def test_round_robin_takes_turns(sizes: list[int], size: int, by: str) -> None:
    data = Toy(sizes)
    sampling = build("round_robin", data, size, by=by)
    assert isinstance(sampling, RoundRobin)
    owner = {index: place for place, places in enumerate(data.sets.values()) for index in places}
    for epoch in range(2):
        steps = [[owner[index] for index in step] for step in sampling.epoch(epoch)]
        if by == "batch":
            assert all(set(step) == {place % len(sizes)} for place, step in enumerate(steps))
            assert {len(step) for step in steps} == {size}
        else:
            turns = [place for step in steps for place in step]
            assert turns == [place % len(sizes) for place in range(len(turns))]
        share = math.ceil(sum(sizes) / len(sizes))
        assert share <= sampling.quota < share + (size if by == "batch" else 1)


labels = st.lists(st.sets(st.sampled_from("abc"), min_size=0, max_size=3), min_size=1, max_size=40)


@given(labels=labels, size=st.integers(1, 8), minimum=st.integers(1, 3))
@settings(max_examples=200)
def test_every_step_has_enough_labels_of_every_task(labels: list[set[str]], size: int, minimum: int) -> None:
    table = {name: {i: [0] for i, tasks in enumerate(labels) if name in tasks} for name in READERS}
    data = Toy([len(labels)], table)
    try:
        sampling = build("tasks", data, size, minimum=minimum)
    except ConfigError:
        # never refused without a reason: too few labels, or tasks that may need a place each
        assert min(len(found) for found in table.values()) < minimum or size < 3 * minimum
        return
    for epoch in range(3):
        for step in sampling.epoch(epoch):
            assert len(step) == len(set(step))
            for name in READERS:
                assert sum(name in labels[index] for index in step) >= minimum
    assert data.decoded == 0


def test_tasks_repeats_no_more_than_scarcity_demands() -> None:
    """Two sets of 40 with a task each: one image of each a step is there for the taking, so all 80 come once."""
    table = {"a": {i: [0] for i in range(40)}, "b": {i: [0] for i in range(40, 80)}}
    sampling = build("tasks", Toy([40, 40], table), 4, minimum={"c": 0})
    assert counted(sampling) == dict.fromkeys(range(80), 1)
    # 100 images in 25 steps, of which one is labelled for b: it comes in each step, in the place of 24 others
    table = {"a": {i: [0] for i in range(100)}, "b": {17: [0]}}
    sampling = build("tasks", Toy([100], table), 4, minimum={"c": 0})
    counts = counted(sampling)
    assert counts.pop(17) == 25
    assert sorted(counts.values()) == [1] * 75
    # none of them waits for ever
    assert len(set().union(*(counted(sampling, epoch) for epoch in range(12)))) == 100


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({"minimum": {"d": 1}}, 4, r"minimum\.d: unknown task; did you mean '[abc]'"),
        ({"minimum": -1}, 4, "found -1 for 'a'; expected 0 or more"),
        ({"minimum": {"b": 4}}, 8, "found 4 for 'b'; only 3 images are labelled"),
        ({}, 1, r"may take 2 images of a step; it has 1: raise train\.batch_size"),
        ({"minimum": {"c": 3, "a": 4}}, 3, "may take 5 images of a step; it has 3"),
    ],
)
def test_impossible_minima_are_refused(options: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("tasks", mixed(), size, **options)
    # images with all labels serve all tasks at once
    assert build("tasks", Toy([5]), 1).steps == 5


def test_repeat_factors_by_hand() -> None:
    # f: x 4/4, y 2/4, z 1/4 of the labelled images; t = 1/2: sqrt(t/f) is 0.71, 1, 1.41
    found = repeat_factors([["x"], ["x", "y"], ["x", "y", "z"], ["x"], None], 0.5)
    assert found == pytest.approx([1, 1, math.sqrt(2), 1, 1])
    # a label that shows nothing counts among the images: f(x) = 1/2
    assert repeat_factors([["x"], []], 1.0) == pytest.approx([math.sqrt(2), 1])


classes = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=40)


@given(shown=classes, threshold=st.floats(0.01, 1))
def test_repeat_factor_shows_images_as_often_as_their_rarest_class_asks(
    shown: list[list[int]], threshold: float
) -> None:
    data = Toy([len(shown)], {"a": dict(enumerate(shown))})
    if not any(shown):
        with pytest.raises(ConfigError, match="no label of 'a' shows a class"):
            build("repeat_factor", data, task="a", threshold=threshold)
        return
    sampling = build("repeat_factor", data, 4, task="a", threshold=threshold)
    assert isinstance(sampling, RepeatFactor)
    # the published rule, class by class in float64
    presence = np.array([[name in names for name in range(4)] for names in shown])
    with np.errstate(divide="ignore"):
        of_class = np.maximum(1, np.sqrt(threshold / presence.mean(0)))
    wanted = np.where(presence, of_class, 1).max(1)
    assert sampling.factors == pytest.approx(wanted.tolist(), rel=1e-12)
    assert abs(sampling.images - math.ceil(wanted.sum() - 1e-6)) == 0
    for epoch in range(3):
        counts = counted(sampling, epoch)
        assert counts.total() == sampling.images
        times = np.array([counts[index] for index in range(len(shown))])
        low, high = np.floor(wanted + 1e-9), np.ceil(wanted - 1e-9)
        # the last place may have gone to any one image
        assert (times >= low).all()
        assert np.maximum(times - high, 0).sum() <= 1


def test_fractions_come_as_often_as_they_say() -> None:
    shown = {index: [0] if index else [0, 3] for index in range(20)} | {19: [0, 1], 18: [0, 1]}
    sampling = build("repeat_factor", Toy([20], {"a": shown}), task="a", threshold=0.3)
    assert isinstance(sampling, RepeatFactor)
    epochs = 2000
    seen: Counter[int] = sum((counted(sampling, epoch) for epoch in range(epochs)), Counter())
    mean = np.array([seen[index] / epochs for index in range(20)])
    wanted = np.array([math.sqrt(0.3 / 0.05)] + [1.0] * 17 + [math.sqrt(0.3 / 0.1)] * 2)
    filled = (sampling.images - wanted.sum()) / 20  # the last place, spread over all
    # five standard deviations of a fraction's mean over 2000 epochs: 5 * sqrt(1/4 / 2000) = 0.056
    assert np.abs(mean - wanted - filled).max() < 0.056


def test_repeat_factor_goes_on_without_labels_that_cannot_be_read_and_refuses_what_has_no_classes() -> None:
    class Damaged(Toy):
        def annotation(self, index: int, task: str) -> Tensor | None:
            if index == 1:
                raise UnreadableError("1.png: found an empty file")
            return super().annotation(index, task)

    whole = Toy([4], {"a": {0: [0], 2: [1], 3: [0]}})
    damaged = Damaged([4], {"a": {0: [0], 1: [1], 2: [1], 3: [0]}})
    found = [build("repeat_factor", data, task="a", threshold=1.0) for data in (whole, damaged)]
    assert found[0].epoch(0) == found[1].epoch(0)
    with pytest.raises(ConfigError, match=r"unknown task 'A'; did you mean '[abc]'"):
        build("repeat_factor", whole, task="A")
    with pytest.raises(ConfigError, match=r"threshold: found 0\.0; expected above 0"):
        build("repeat_factor", whole, task="a", threshold=0.0)

    class Metres(Toy):
        def annotation(self, index: int, task: str) -> Tensor | None:  # noqa: ARG002
            return torch.ones(2, 2)

    with pytest.raises(ConfigError, match="no label of 'depth' shows a class"):
        RepeatFactor(Metres([3]), {"depth": Depth("depth")}, 2, 0, task="depth")
    with pytest.raises(ConfigError, match=r"temperature: found 0\.5; expected 1 or more"):
        build("temperature", whole, temperature=0.5)


def test_class_presence_is_that_of_the_masks() -> None:
    class Masks(Toy):
        def annotation(self, index: int, task: str) -> Tensor | None:  # noqa: ARG002
            mask = torch.zeros(4, 4, dtype=torch.uint8)
            mask[0, 0] = 255 if index else 2  # one pixel of class 2 in image 0 alone
            return semantic.wrap(mask, (4, 4))

    semantic = Semantic("semantic", classes=3)
    sampling = RepeatFactor(Masks([9]), {"semantic": semantic}, 2, 0, task="semantic", threshold=1.0)
    assert sampling.factors == pytest.approx([3.0] + [1.0] * 8)
    assert counted(sampling) == {index: 1 if index else 3 for index in range(9)}
