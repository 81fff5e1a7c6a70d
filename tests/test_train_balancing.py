"""What the training loop owes a balancing method: losses known ahead, measured again, and what is logged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from segweave.balancing import DBMTL, FAMO, MGDA, Equal, GeometricMean, UncertaintySoftmax
from segweave.balancing.balancer import Balance, Objective
from segweave.data.loader import Effective
from segweave.model import MultiTaskModel, create_model
from segweave.tasks import Depth, Semantic
from segweave.train import fit
from test_train import PARTLY, batch, network, one_step, split


class Watching(Equal):
    """Measures the losses again after every step, and knows them ahead."""

    ahead = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Tensor] = []
        self.again: list[Tensor] = []
        self.known: list[Tensor | None] = []

    def differentiate(self, objective: Objective, whole: Tensor) -> Balance:
        self.told.append(whole)
        self.known.append(objective.whole)
        return super().differentiate(objective, whole)

    def after(self, tasks: tuple[str, ...], losses: Callable[[], Tensor]) -> None:  # noqa: ARG002
        self.again += [losses(), losses()]


def normalised(dropout: float = 0.5) -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = [Semantic("semantic", classes=3), Depth("depth")]
    return create_model(tasks, backbone="test_resnet", decoder={"name": "fpn", "width": 8, "dropout": dropout})


@pytest.mark.parametrize("size", [2, 4])
def test_losses_known_ahead_and_measured_again_are_those_of_the_same_forward_pass(size: int) -> None:
    """Dropout and batch statistics are those of the step; a rate of 0 makes the second measurement the first."""
    plain, watched, whole = normalised(), normalised(), batch(labelled={"semantic": [0, 1, 2, 3], "depth": [1, 2]})
    micro, balancer = split(whole, size), Watching()
    expected = one_step(plain, micro)
    still = torch.optim.SGD(watched.parameters(), 0.0)
    found = next(iter(fit(watched, [Effective(0, 0, micro)], optimizer=still, balancer=balancer)))
    losses = torch.tensor([expected.losses[name] for name in ("semantic", "depth")])
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert [known is not None for known in balancer.known] == [size == 2] * (4 // size)
    for value in [*balancer.told, *balancer.again]:
        torch.testing.assert_close(value, losses, rtol=1e-5, atol=1e-6)
    for a, b in zip(plain.buffers(), watched.buffers(), strict=True):
        assert torch.equal(a, b), "the running statistics have seen the batch once"


def test_nothing_is_measured_after_a_skipped_step() -> None:
    model, balancer, bad = network(), Watching(), batch(seed=1)
    bad.targets["depth"].value[0, 0, 0] = math.inf
    assert one_step(model, [bad], balancer=balancer).not_finite
    assert balancer.again == []


@pytest.mark.parametrize("method", [GeometricMean, UncertaintySoftmax, FAMO])
def test_weights_of_losses_do_not_depend_on_the_micro_batches(method: Any) -> None:
    whole = batch(labelled=PARTLY)
    one, parts = network(), network()
    expected = one_step(one, [whole], balancer=method(list(one.tasks)))
    found = one_step(parts, split(whole, 1), balancer=method(list(one.tasks)))
    assert found.weights == pytest.approx(expected.weights, rel=1e-4)
    for a, b in zip(one.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_gradients_at_the_parameters_do_not_depend_on_the_micro_batches() -> None:
    whole = batch(labelled=PARTLY)
    one, parts = network(), network()
    expected = one_step(one, [whole], balancer=MGDA(list(one.tasks), space="parameters"))
    found = one_step(parts, split(whole, 1), balancer=MGDA(list(one.tasks), space="parameters"))
    assert found.weights == pytest.approx(expected.weights, rel=1e-3, abs=1e-5)
    assert found.cosines == pytest.approx(expected.cosines, rel=1e-3, abs=1e-4)
    assert found.overlaps == expected.overlaps
    assert found.overlaps["semantic|scene"] == pytest.approx(1 / 4)
    assert found.overlaps["depth|scene"] == pytest.approx(1 / 3)


def test_cosines_and_overlaps_are_logged_and_one_that_means_nothing_is_null() -> None:
    model = normalised()
    apart = batch(labelled={"semantic": [0, 1], "depth": [2, 3]})
    step = one_step(model, [apart], balancer=MGDA(list(model.tasks), space="features"))
    record = step.record()
    assert not step.not_finite
    assert record["cosine/semantic|depth"] is None
    assert record["overlap/semantic|depth"] == 0.0
    assert record["space"] == "features"
    step = one_step(model, [batch(labelled={"semantic": [0, 1], "depth": [0, 1]})], balancer=MGDA(list(model.tasks)))
    assert -1 <= step.record()["cosine/semantic|depth"] <= 1
    assert not {"cosine/semantic|depth", "space"} & one_step(model, [apart]).record().keys()
    watched = one_step(model, [apart], balancer=Equal(list(model.tasks), monitor=True))
    assert -1 <= watched.record()["cosine/semantic|depth"] <= 1
    assert watched.space == "parameters", "auto, where the tasks share no image"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("method", "options"), [(MGDA, {"space": "features"}), (DBMTL, {}), (FAMO, {})])
def test_a_compiled_network_trains_alike(method: Any, options: dict[str, Any], precision: str) -> None:
    """With accumulation and clipping. Compiled backward passes may free or reuse what a second one reads."""
    whole = batch(labelled={"semantic": [0, 1, 2, 3], "depth": [0, 1, 2]})
    found = []
    for compiled in (False, True):
        model = normalised(dropout=0.0)
        if compiled:
            model.compile(backend="aot_eager")
        balancer = method(list(model.tasks), **options)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        batches = [Effective(number, 0, split(whole, size)) for number, size in enumerate((4, 2))]
        steps = [*fit(model, batches, optimizer=optimizer, balancer=balancer, clip=0.5, precision=precision)]
        found.append((steps, model.state_dict()))
    (eager, weights), (steps, same) = found
    tolerance = 1e-4 if precision == "fp32" else 0.03
    for one, other in zip(eager, steps, strict=True):
        assert not one.not_finite
        assert other.losses == pytest.approx(one.losses, rel=tolerance)
        assert other.weights == pytest.approx(one.weights, rel=5 * tolerance)
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=0.0, atol=tolerance, msg=name)
