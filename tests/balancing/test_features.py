"""Gradients at the features of a real network: TorchJD's aggregation of the same Jacobian, and where they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from test_every_method import micro
from torch import Tensor
from torchjd import aggregation

from segweave.balancing import MGDA, DualProj, UPGrad
from segweave.balancing.balancer import GramianBalancer, Objective
from segweave.balancing.dual_cone import NonNegativeProjector
from segweave.balancing.gradients import mix
from segweave.batch import Batch, Labelled
from segweave.data.loader import Effective
from segweave.model import MultiTaskModel, create_model
from segweave.tasks import Depth, Detection, Semantic
from segweave.train import fit


def network(objects: bool = False, **decoder: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = [Semantic("semantic", classes=3), Depth("depth")]
    tasks += [Detection("objects", classes=["a", "b"], width=8)] if objects else []
    return create_model(tasks, backbone="test_resnet", decoder={"name": "fpn", "width": 8, **decoder})


def labelled(model: MultiTaskModel, batch: Batch) -> Batch:
    """The batch with the labels of this network's tasks alone."""
    return Batch(batch.ids, batch.images, {name: batch.targets[name] for name in model.tasks})


@pytest.fixture(scope="module")
def batch() -> Batch:
    return micro(network(objects=True), 1)


@pytest.mark.parametrize(
    ("method", "oracle"),
    [
        (MGDA, aggregation.MGDA(epsilon=1e-9, max_iters=20_000)),
        (UPGrad, aggregation.UPGrad(projector=NonNegativeProjector(1e-6))),
        (DualProj, aggregation.DualProj(projector=NonNegativeProjector(1e-6))),
        (lambda: UnequalWeights(), aggregation.Constant(torch.tensor([0.3, -2.0]))),
    ],
)
def test_the_update_is_torchjds_aggregation_of_the_jacobian_at_the_features(
    batch: Batch, method: Any, oracle: aggregation.Aggregator
) -> None:
    model = network().eval()
    tasks = tuple(model.tasks)

    def forward() -> tuple[list[Tensor], list[Tensor]]:
        features, _ = model.features(batch.images)
        outputs = model.outputs(features, *batch.images.shape[-2:])
        losses = [
            torch.stack([term.sum.sum() for term in task.loss(outputs[name], batch.targets[name].value).values()]).sum()
            for name, task in model.tasks.items()
        ]
        return features.common, losses

    common, losses = forward()
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, common, retain_graph=True)]) for loss in losses]
    mixed = oracle(torch.stack(rows)).split([feature.numel() for feature in common])
    seeds = [part.view_as(feature) for part, feature in zip(mixed, common, strict=True)]
    wanted = torch.autograd.grad(common, model.shared(), seeds, allow_unused=True)
    common, losses = forward()
    zero = torch.zeros(())
    objective = Objective(tasks, torch.stack(losses), zero, common, model.shared(), model.private(), each=losses)
    method().backward(objective)
    for parameter, gradient in zip(model.shared(), wanted, strict=True):
        if gradient is not None:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


class UnequalWeights(GramianBalancer):
    def weigh(self, gramian: Tensor, tasks: tuple[str, ...], losses: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        return torch.tensor([0.3, -2.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_not_rounded_to_the_features_number_type(dtype: torch.dtype) -> None:
    """The sum of nearly opposite gradients turns by the error of its weights, divided by the angle."""
    draw = torch.Generator().manual_seed(0)
    base, noise = torch.randn(1000, generator=draw), torch.randn(1000, generator=draw)
    rows = torch.stack([base, -0.7 * base + 0.02 * noise]).to(dtype)
    weights = UPGrad().weigh(rows.float() @ rows.float().T, ("a", "b"), torch.ones(2), True)
    (mixed,) = mix(weights, [list(rows)], [rows[0]])
    assert mixed.dtype == dtype
    # rounding of the result itself is noise of 2^-9 of its length, against a cosine of 0.014
    assert bool((rows.double() @ mixed.double() > 0).all())
    (large,) = mix(torch.tensor([1e6, 0.0]), [list(1e-3 * rows)], [rows[0]])
    assert large.isfinite().all()


@pytest.mark.parametrize(("objects", "decoder"), [(False, {"shared": False}), (True, {})])
def test_a_step_goes_through_the_encoder_once(batch: Batch, objects: bool, decoder: Mapping[str, Any]) -> None:
    """Whatever the tasks read, decoders of their own or a pyramid: no head's gradient goes on behind the cut."""
    model = network(objects, **decoder)
    passes: list[int] = []
    model.encoder.register_forward_hook(
        lambda _, __, levels: (
            [level.register_hook(lambda _, i=i: passes.append(i)) for i, level in enumerate(levels)] and None
        )
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    step = next(iter(fit(model, [labelled(model, batch)], optimizer=optimizer, balancer=MGDA(space="features"))))
    assert step.cosines
    assert len(passes) == len(set(passes))


def test_a_task_whose_labels_are_all_ignored_is_no_row_of_zeros(batch: Batch) -> None:
    """MGDA would put all weight on it, in a micro-batch of an effective batch that has such labels elsewhere."""
    model = network()
    whole = labelled(model, batch)
    ignored = {"depth": whole.targets["depth"]}
    ignored["semantic"] = Labelled(torch.arange(2), torch.full_like(whole.targets["semantic"].value, 255))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    batches = [Effective(0, 0, [Batch(["c", "d"], batch.images, ignored), whole])]
    step = next(iter(fit(model, batches, optimizer=optimizer, balancer=MGDA(space="features"))))
    alone = [Effective(0, 0, [Batch(["c", "d"], batch.images, {"depth": ignored["depth"]}), whole])]
    other = network()
    optimizer = torch.optim.SGD(other.parameters(), 0.01)
    expected = next(iter(fit(other, alone, optimizer=optimizer, balancer=MGDA(space="features"))))
    assert step.weights == pytest.approx(expected.weights, rel=1e-4)
    assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)


def test_a_compiled_network_has_every_tasks_gradient_at_the_pyramid(batch: Batch) -> None:
    found = []
    for compiled in (False, True):
        model = network(objects=True)
        if compiled:
            model.compile(backend="aot_eager")
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        step = next(iter(fit(model, [batch], optimizer=optimizer, balancer=MGDA(space="features"))))
        found.append((step.cosines, step.weights, step.grad_norm))
    (cosines, weights, norm), (same, alike, length) = found
    assert same == pytest.approx(cosines, abs=1e-3)
    assert alike == pytest.approx(weights, abs=1e-3)
    assert length == pytest.approx(norm, rel=1e-3)
