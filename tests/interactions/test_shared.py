"""Every interaction against the contract of its features and parameters, and what hard sharing shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from segweave.decoders.fpn import FPN
from segweave.interactions import INTERACTIONS
from segweave.interactions.interaction import Interaction

CHANNELS, STRIDES = [6, 8, 12, 16], [2, 4, 8, 16]

# by case: where each task reads, which tasks have a decoder of their own, what all heads read
CASES: dict[str, tuple[dict[str, int | str], set[str], Any]] = {
    "one decoder": ({"a": "map", "b": "map", "c": "map"}, set(), "decoded"),
    "a decoder each": ({"a": "map", "b": "map"}, {"a", "b"}, [1, 2, 3]),
    "one beside the shared decoder": ({"a": "map", "b": "map", "c": "map"}, {"c"}, []),
    "one at the encoder": ({"a": "map", "b": "map", "c": 3}, set(), []),
    "one at the encoder, one at the decoder": ({"a": "map", "c": 3}, set(), []),
    "two decoders of one task each": ({"a": "map", "b": "map"}, {"b"}, [1, 2, 3]),
    "all at one level": ({"a": 3, "b": 3}, set(), [3]),
    "at different levels": ({"a": 2, "b": 3}, set(), []),
    "boxes beside one map": ({"a": "map", "b": "pyramid"}, set(), "pyramid"),
    "boxes beside two maps": ({"a": "map", "b": "pyramid", "c": "map"}, set(), "pyramid"),
    "boxes alone": ({"a": "pyramid"}, set(), [1, 2, 3]),
    "two of boxes": ({"a": "pyramid", "b": "pyramid"}, set(), "pyramid"),
    "boxes with a decoder of their own": ({"a": "map", "b": "map", "c": "pyramid"}, {"c"}, []),
    "one task": ({"a": "map"}, set(), [1, 2, 3]),
    "one task at the encoder": ({"a": 3}, set(), [3]),
}


def fpn() -> FPN:
    return FPN(CHANNELS, STRIDES, width=8, dropout=0.0)


def built(name: str, case: str) -> Interaction:
    torch.manual_seed(0)
    reads, own, _ = CASES[case]
    needed = any(isinstance(place, str) and task not in own for task, place in reads.items())
    own_decoders = {task: fpn() for task in reads if task in own}
    return INTERACTIONS.load(name)(reads, fpn() if needed else None, own_decoders, CHANNELS, STRIDES)


def levels() -> list[Tensor]:
    """A pyramid whose levels are leaves."""
    torch.manual_seed(1)
    return [torch.randn(2, c, 64 // s, 96 // s, requires_grad=True) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def read(per_task: Mapping[str, list[Tensor]], task: str) -> Tensor:
    return torch.stack([(m * m).sum() for m in per_task[task]]).sum()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", INTERACTIONS)
class TestEveryInteraction:
    def test_every_task_gets_maps_of_the_declared_width(self, name: str, case: str) -> None:
        interaction = built(name, case)
        features = interaction(levels())
        assert list(features.per_task) == list(CASES[case][0]) == list(interaction.channels)
        for task, maps in features.per_task.items():
            assert maps
            assert [m.shape[1] for m in maps] == interaction.channels[task]
            assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in interaction.strides[task]]

    def test_common_is_read_by_all_heads_or_empty(self, name: str, case: str) -> None:
        features = built(name, case)(levels())
        for task in features.per_task if features.common else ():
            gradients = torch.autograd.grad(read(features.per_task, task), features.common, retain_graph=True)
            assert all(g.abs().sum() > 0 for g in gradients)

    def test_common_cuts_every_path_to_what_is_shared(self, name: str, case: str) -> None:
        """The gradient at the shared parts is the one at `common`, sent on: nothing goes round it."""
        interaction = built(name, case)
        pyramid = levels()
        features = interaction(pyramid)
        if not features.common:
            return
        behind = {id(p) for task in features.per_task for p in interaction.private(task)}
        behind |= {id(p) for p in interaction.between()}
        left = [p for p in interaction.parameters() if id(p) not in behind and p.requires_grad]
        shared: list[Tensor] = [*pyramid, *left]
        for task in features.per_task:
            loss = read(features.per_task, task)
            whole = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
            at_cut = torch.autograd.grad(loss, features.common, retain_graph=True)
            through = torch.autograd.grad(features.common, shared, at_cut, retain_graph=True, allow_unused=True)
            for a, b in zip(whole, through, strict=True):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    torch.testing.assert_close(a, b)

    def test_a_private_parameter_is_reached_by_its_task_alone(self, name: str, case: str) -> None:
        interaction = built(name, case)
        features = interaction(levels())
        parameters = {name: p for name, p in interaction.named_parameters() if p.requires_grad}
        owners: dict[str, set[str]] = {key: set() for key in parameters}
        for task in features.per_task if parameters else ():
            loss = read(features.per_task, task)
            found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
            for key, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    owners[key].add(task)
        ids = {id(p): key for key, p in parameters.items()}
        claimed: dict[str, str] = {}
        for task in features.per_task:
            for p in (p for p in interaction.private(task) if p.requires_grad):
                assert ids[id(p)] not in claimed
                claimed[ids[id(p)]] = task
        assert all(owners.values())
        assert claimed == {key: next(iter(tasks)) for key, tasks in owners.items() if len(tasks) == 1}
        behind: set[str] = set()
        if features.common and parameters:
            seeds = [m.sum() for m in features.common]
            through = torch.autograd.grad(seeds, list(parameters.values()), allow_unused=True)
            behind = {key for key, gradient in zip(parameters, through, strict=True) if gradient is None}
        assert {ids[id(p)] for p in interaction.between()} == {key for key in behind if len(owners[key]) > 1}


@pytest.mark.parametrize("case", CASES)
def test_shared_common(case: str) -> None:
    pyramid = levels()
    features = built("shared", case)(pyramid)
    expected = CASES[case][2]
    boxes = [task for task, place in CASES[case][0].items() if place == "pyramid"]
    known = {"decoded": features.per_task["a"], "pyramid": features.per_task[(boxes or ["a"])[0]]}
    wanted = known.get(expected) if isinstance(expected, str) else [pyramid[i] for i in expected]
    assert wanted is not None
    assert [id(t) for t in features.common] == [id(t) for t in wanted]


def test_shared_decoder_runs_once_and_own_ones_differ() -> None:
    one = built("shared", "one decoder")(levels()).per_task
    assert one["a"][0] is one["b"][0] is one["c"][0]
    two = built("shared", "a decoder each")(levels()).per_task
    assert not torch.equal(two["a"][0], two["b"][0])
