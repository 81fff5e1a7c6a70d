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

# by case: where each task reads (None: a decoder), which tasks have a decoder of their own, what all heads read
CASES: dict[str, tuple[dict[str, int | None], set[str], Any]] = {
    "one decoder": ({"a": None, "b": None, "c": None}, set(), "decoded"),
    "a decoder each": ({"a": None, "b": None}, {"a", "b"}, [1, 2, 3]),
    "one beside the shared decoder": ({"a": None, "b": None, "c": None}, {"c"}, []),
    "one at the encoder": ({"a": None, "b": None, "c": 3}, set(), []),
    "one at the encoder, one at the decoder": ({"a": None, "c": 3}, set(), []),
    "two decoders of one task each": ({"a": None, "b": None}, {"b"}, [1, 2, 3]),
    "all at one level": ({"a": 3, "b": 3}, set(), [3]),
    "at different levels": ({"a": 2, "b": 3}, set(), []),
    "one task": ({"a": None}, set(), [1, 2, 3]),
    "one task at the encoder": ({"a": 3}, set(), [3]),
}


def fpn() -> FPN:
    return FPN(CHANNELS, STRIDES, width=8, dropout=0.0)


def built(name: str, case: str) -> Interaction:
    torch.manual_seed(0)
    reads, own, _ = CASES[case]
    needed = any(level is None and task not in own for task, level in reads.items())
    own_decoders = {task: fpn() for task in reads if task in own}
    return INTERACTIONS.load(name)(reads, fpn() if needed else None, own_decoders, CHANNELS)


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
            assert maps[0].ndim == 4
            assert maps[0].shape[1] == interaction.channels[task]

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
        private = {id(p) for task in features.per_task for p in interaction.private(task)}
        shared: list[Tensor] = [*pyramid, *(p for p in interaction.parameters() if id(p) not in private)]
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
        parameters = dict(interaction.named_parameters())
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
            for p in interaction.private(task):
                assert ids[id(p)] not in claimed
                claimed[ids[id(p)]] = task
        assert all(owners.values())
        assert claimed == {key: next(iter(tasks)) for key, tasks in owners.items() if len(tasks) == 1}


@pytest.mark.parametrize("case", CASES)
def test_shared_common(case: str) -> None:
    pyramid = levels()
    features = built("shared", case)(pyramid)
    expected = CASES[case][2]
    wanted = [features.per_task["a"][0]] if expected == "decoded" else [pyramid[i] for i in expected]
    assert [id(t) for t in features.common] == [id(t) for t in wanted]


def test_shared_decoder_runs_once_and_own_ones_differ() -> None:
    one = built("shared", "one decoder")(levels()).per_task
    assert one["a"][0] is one["b"][0] is one["c"][0]
    two = built("shared", "a decoder each")(levels()).per_task
    assert not torch.equal(two["a"][0], two["b"][0])
