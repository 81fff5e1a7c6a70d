"""What every loss promises: finite differences, images that stand alone, unlabelled ones that cost exactly nothing."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import pkgutil
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import segweave.losses
from segweave.losses import LOSSES
from segweave.losses.balanced_bce import BalancedBCE
from segweave.losses.bce import BCE
from segweave.losses.berhu import BerHu
from segweave.losses.boundary import Boundary
from segweave.losses.centerness import Centerness
from segweave.losses.cosine import Cosine
from segweave.losses.cross_entropy import CrossEntropy
from segweave.losses.dice import Dice
from segweave.losses.focal import Focal
from segweave.losses.giou import GIoU
from segweave.losses.gradient_matching import GradientMatching
from segweave.losses.iou import SoftIoU
from segweave.losses.l1 import L1
from segweave.losses.loss import Loss
from segweave.losses.lovasz import LovaszSoftmax
from segweave.losses.silog import ScaleInvariantLog
from segweave.losses.tversky import Tversky

IGNORE = 255


def cases() -> dict[str, tuple[Loss, Tensor, Tensor]]:
    """Loss, output and target in float64 with three images, the second without any label."""
    torch.manual_seed(1)
    mask = torch.randint(0, 3, (3, 2, 3)).where(torch.rand(3, 2, 3) < 0.8, IGNORE)
    mask[1] = IGNORE
    known = torch.tensor([[1.0, 0.0, -1.0], [-1.0, -1.0, -1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    metres = (torch.rand(3, 2, 3, dtype=torch.float64) * 9 + 1).where(torch.rand(3, 2, 3) < 0.7, 0)
    metres[1] = 0
    logits = torch.randn(3, 3, 2, 3, dtype=torch.float64)
    depth = torch.rand(3, 2, 3, dtype=torch.float64) * 5 + 0.5
    whole = torch.tensor([2, IGNORE, 0])
    labels, points = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 2, 3, dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 0.5])
    corners = torch.rand(3, 4, 4, dtype=torch.float64) + torch.tensor([0.0, 0, 4, 3])
    sides = torch.rand(3, 4, 4, dtype=torch.float64) + 0.1
    vectors = torch.randn(3, 3, 2, 3, dtype=torch.float64)
    faces = functional.normalize(torch.randn(3, 3, 2, 3, dtype=torch.float64), dim=1)
    faces = faces.where(torch.rand(3, 1, 2, 3) < 0.7, 0)
    faces[1] = 0
    edges = torch.where(mask == 2, 0, mask)
    boxed = torch.rand(3, 4, 1) < 0.7
    boxed[1] = False
    return {
        "cross_entropy": (CrossEntropy(IGNORE), logits, mask),
        "cross_entropy of bytes": (CrossEntropy(IGNORE), logits, mask.to(torch.uint8)),
        "cross_entropy weighted": (CrossEntropy(IGNORE, weight), logits, mask),
        "cross_entropy smoothed": (CrossEntropy(IGNORE, weight, label_smoothing=0.1), logits, mask),
        "cross_entropy of hard pixels": (CrossEntropy(IGNORE, weight, ohem=0.5), logits, mask),
        "cross_entropy of hard bytes": (CrossEntropy(IGNORE, ohem=0.25), logits, mask.to(torch.uint8)),
        "cross_entropy of images": (CrossEntropy(IGNORE), torch.randn(3, 3, dtype=torch.float64), whole),
        "iou": (SoftIoU(IGNORE), logits, mask),
        "iou of bytes": (SoftIoU(IGNORE), logits, mask.to(torch.uint8)),
        "iou first": (SoftIoU(IGNORE, 1), logits, mask),
        "dice": (Dice(IGNORE), logits, mask),
        "dice negative": (Dice(IGNORE, 1), logits, torch.where(mask == IGNORE, mask, 0)),
        "tversky": (Tversky(IGNORE), logits, mask),
        "tversky focal": (Tversky(IGNORE, 1, alpha=0.2, beta=0.8, gamma=4 / 3), logits, mask),
        "lovasz": (LovaszSoftmax(IGNORE), logits, mask),
        "lovasz of bytes": (LovaszSoftmax(IGNORE), logits, mask.to(torch.uint8)),
        "lovasz negative": (LovaszSoftmax(IGNORE, 1), logits, torch.where(mask == IGNORE, mask, 0)),
        "boundary": (Boundary(IGNORE), logits, mask),
        "boundary first": (Boundary(IGNORE, 1), logits, mask.to(torch.uint8)),
        "focal": (Focal(IGNORE), logits, mask),
        "focal weighted": (Focal(IGNORE, weight, gamma=0.5), logits, mask.to(torch.uint8)),
        "focal of images": (Focal(IGNORE), labels, whole),
        "focal of labels": (Focal(-1), labels, known),
        "focal of points": (Focal(-1, alpha=0.4, gamma=1.5), points, known[:, None].repeat(1, 2, 1)),
        "bce": (BCE(-1), labels, known),
        "bce of classes": (BCE(IGNORE), logits, mask),
        "bce of bytes": (BCE(IGNORE, 1), logits, mask.to(torch.uint8)),
        "balanced_bce": (BalancedBCE(IGNORE), logits[:, :2], edges),
        "balanced_bce fixed": (BalancedBCE(IGNORE, pos_weight=0.95), logits[:, :2], edges.to(torch.uint8)),
        "giou": (GIoU(), corners + torch.rand(3, 4, 4, dtype=torch.float64), corners.where(boxed, 0)),
        "centerness": (Centerness(), points[:, 0].repeat(1, 2)[:, :4], sides.where(boxed, -1.0)),
        "l1": (L1(), depth, metres),
        "l1 of vectors": (L1(), vectors, faces),
        "cosine": (Cosine(), vectors, faces),
        "silog": (ScaleInvariantLog(), depth, metres),
        "silog scale free": (ScaleInvariantLog(variance_focus=1.0), depth, metres),
        "berhu": (BerHu(), depth, metres),
        "gradient_matching": (GradientMatching(), depth, metres),
        "gradient_matching of one scale": (GradientMatching(scales=1), depth, metres),
    }


EVERY = pytest.mark.parametrize("name", list(cases()))


@pytest.fixture(params=[36, 2**18], ids=["in pieces", "together"], autouse=True)
def _pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three masks as two and one, as large batches are taken apart, or all at once."""
    monkeypatch.setattr("segweave.losses.loss._CACHED", request.param)


def test_no_loss_escapes() -> None:
    table = {name: LOSSES.load(name) for name in LOSSES}
    assert {name.partition(" ")[0]: type(loss) for name, (loss, _, _) in cases().items()} == table
    for module in pkgutil.iter_modules(segweave.losses.__path__):
        importlib.import_module(f"segweave.losses.{module.name}")
    concrete = {kind for kind in kinds(Loss) if not inspect.isabstract(kind)}
    assert {kind for kind in concrete if kind.__module__.startswith("segweave")} == set(table.values())


def kinds(parent: type[Loss]) -> Iterator[type[Loss]]:
    for kind in parent.__subclasses__():
        yield kind
        yield from kinds(kind)


@EVERY
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    loss, output, target = cases()[name]
    moves = torch.ones_like(output, dtype=torch.bool)
    if name == "berhu":
        # the worst pixel of an image sets its threshold, through which no gradient goes
        error = (output - target).where(target > 0, 0).abs().flatten(1)
        moves = (error < error.amax(1, keepdim=True)).view(output.shape)
    given = output[moves].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(output.detach().masked_scatter(moves, x), target), (given,))


@EVERY
def test_image_without_labels(name: str) -> None:
    loss, output, target = cases()[name]
    output.requires_grad_()
    value, count = loss(output, target), loss.count(target)
    value.sum().backward()
    assert value.shape == count.shape == (3,)
    assert (value[::2] > 0).all()
    assert (count[::2] > 0).all()
    assert value[1] == 0
    assert count[1] == 0
    assert output.grad is not None
    assert (output.grad[::2].flatten(1).abs().sum(1) > 0).all()
    assert (output.grad[1] == 0).all()


@EVERY
def test_batch_without_labels(name: str) -> None:
    loss, output, target = cases()[name]
    output, target = output[1:2].repeat_interleave(2, 0).requires_grad_(), target[1:2].repeat_interleave(2, 0)
    value = loss(output, target)
    value.sum().backward()
    assert value.tolist() == loss.count(target).tolist() == [0, 0]
    assert output.grad is not None
    assert (output.grad == 0).all()


@EVERY
def test_no_images(name: str) -> None:
    loss, output, target = cases()[name]
    assert loss(output[:0], target[:0]).shape == loss.count(target[:0]).shape == (0,)


@EVERY
def test_every_image_stands_alone(name: str) -> None:
    loss, output, target = cases()[name]
    rows = [slice(i, i + 1) for i in range(3)]
    together = output.clone().requires_grad_()
    alone = output.clone().requires_grad_()
    sums = loss(together, target)
    torch.testing.assert_close(sums, torch.cat([loss(alone[row], target[row]) for row in rows]))
    assert loss.count(target).tolist() == [loss.count(target[row]).item() for row in rows]
    (sums * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    for factor, row in enumerate(rows, 1):
        (factor * loss(alone[row], target[row])).sum().backward()
    torch.testing.assert_close(together.grad, alone.grad)


@EVERY
def test_gradients_per_image_by_vmap(name: str) -> None:
    """As differentially private training computes them."""
    loss, output, target = cases()[name]
    gradient = torch.func.grad(lambda x, t: loss(x[None], t[None]).sum())
    given = output.requires_grad_()
    loss(given, target).sum().backward()
    torch.testing.assert_close(torch.func.vmap(gradient)(output.detach(), target), given.grad)


@EVERY
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_never_negative(name: str, size: float) -> None:
    loss, output, target = cases()[name]
    output = output.abs() * size if target.is_floating_point() and output.ndim == 3 else output * size
    target = target.float() if target.is_floating_point() else target
    value = loss(output.float(), target)
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert loss.count(target).isfinite().all()


@EVERY
@pytest.mark.parametrize("size", [1e-3, 300.0, 1e6])
def test_gradient_of_anything_is_finite(name: str, size: float) -> None:
    """And of outputs that are exactly right, where roots and logarithms have their corners."""
    loss, output, target = cases()[name]
    outputs = [output * size]
    if name.partition(" ")[0] in ("l1", "silog", "berhu", "gradient_matching"):
        outputs = [output.abs() * size, target.where(target > 0, 1)]
    elif target.is_floating_point() and output.shape == target.shape:
        outputs += [target, (2 * target - 1) * size, (1 - 2 * target) * size]
    elif not target.is_floating_point():
        known = torch.where(target == IGNORE, 0, target).long()
        right = functional.one_hot(known, output.shape[1]).movedim(-1, 1) * size
        outputs += [right, -right]
    for values in outputs:
        given = values.float().requires_grad_()
        loss(given, target.float() if target.is_floating_point() else target).sum().backward()
        assert given.grad is not None
        assert given.grad.isfinite().all()


@pytest.mark.parametrize("kind", [SoftIoU, Dice, Tversky, LovaszSoftmax, Boundary])
def test_right_and_sure_is_never_below_zero(kind: Callable[[int], Loss]) -> None:
    """The intersection and the mass are added up in different orders: without care the loss was -1e-6."""
    target = torch.zeros(2, 64, 200, dtype=torch.int64)
    target[1, :, 100:] = 1
    for seed in range(10):
        torch.manual_seed(seed)
        output = functional.one_hot(target, 2).movedim(-1, 1) * (13 + torch.rand(2, 1, 64, 200))
        assert (kind(IGNORE)(output, target) >= 0).all()


@EVERY
def test_half_precision_is_raised_to_float32(name: str) -> None:
    loss, output, target = cases()[name]
    target = target.float() if target.is_floating_point() else target
    for dtype in (torch.bfloat16, torch.float16):
        assert loss(output.to(dtype), target).dtype == torch.float32
        torch.testing.assert_close(loss(output.to(dtype), target), loss(output.to(dtype).float(), target))
    assert loss(output, target.double() if target.is_floating_point() else target).dtype == torch.float64
    assert loss.count(target).dtype == torch.float32


@EVERY
def test_autocast_changes_nothing(name: str) -> None:
    loss, output, target = cases()[name]
    output, target = output.float(), target.float() if target.is_floating_point() else target
    expected = loss(output, target)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(output, target), expected)


@EVERY
def test_needs_no_host_sync(name: str) -> None:
    """The meta device has no values, so anything that reads one (item, a boolean-mask index) fails there."""
    loss, output, target = cases()[name]
    loss = loss.to("meta")
    assert loss(output.to("meta"), target.to("meta")).shape == (3,)
    assert loss.count(target.to("meta")).shape == (3,)


@EVERY
def test_counts_a_target_on_another_device(name: str) -> None:
    """Counts are taken where the loader made the target, class weights are with the network."""
    loss, _, target = cases()[name]
    assert loss.count(target.to("meta")).device.type == "meta"


@pytest.mark.parametrize(
    "name", ["bce", "focal of labels", "l1", "l1 of vectors", "cosine", "silog", "berhu", "gradient_matching"]
)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_unlabelled_outputs_may_be_anything(name: str, bad: float) -> None:
    loss, output, target = cases()[name]
    unlabelled = target == (-1 if name in ("bce", "focal of labels") else 0)
    broken = torch.where(unlabelled, bad, output).requires_grad_()
    value = loss(broken, target)
    torch.testing.assert_close(value, loss(output, target))
    value.sum().backward()
    assert broken.grad is not None
    assert broken.grad.isfinite().all()


class Written(TorchDispatchMode):
    """The largest tensor that an operation returned, in bytes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.nbytes)
        return result


@pytest.mark.parametrize(
    "kind", [CrossEntropy, Focal, BCE, BalancedBCE, SoftIoU, Dice, Tversky, LovaszSoftmax, Boundary]
)
def test_counting_makes_no_wider_copy_of_the_target(kind: Callable[[int], Loss]) -> None:
    """It is counted twice a step: a copy in int64 took eight times the memory, and the time to fill it."""
    target = torch.zeros(4, 50, 60, dtype=torch.uint8)
    with Written() as written:
        kind(IGNORE).count(target)
    assert 0 < written.largest <= target.nbytes


@pytest.mark.parametrize("kind", [SoftIoU, Dice])
def test_overlap_keeps_no_mask_per_class(kind: type[SoftIoU | Dice]) -> None:
    """For the backward pass: the probabilities and 16 bytes a pixel, whatever the number of classes."""
    output, target = torch.randn(2, 40, 64, 64, requires_grad=True), torch.randint(0, 40, (2, 64, 64))
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = kind(IGNORE)(output, target)
    assert sum(saved.values()) < output.nbytes + 16 * target.numel() + 20_000
    kept.sum().backward()


def test_intersection_of_a_large_image_keeps_its_digits() -> None:
    """Half a million additions in one chain of float32 would be wrong in the fourth digit."""
    torch.manual_seed(0)
    output, target = torch.randn(1, 2, 1024, 1024), torch.zeros(1, 1024, 1024, dtype=torch.uint8)
    torch.testing.assert_close(
        SoftIoU(IGNORE)(output, target), SoftIoU(IGNORE)(output.double(), target).float(), rtol=1e-6, atol=0
    )


def ratio(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], output: Tensor) -> float:
    """Median time of ours over that of theirs, forward and backward, turn by turn."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(120):
        output.grad = None
        start = time.process_time()
        (ours, theirs)[turn % 2](output).backward()
        taken[turn % 2].append(time.process_time() - start)
    return statistics.median(taken[0]) / statistics.median(taken[1])


@pytest.mark.skipif("SEGWEAVE_TIMING" not in os.environ, reason="needs a quiet machine: set SEGWEAVE_TIMING")
class TestTime:
    """At a training shape on one thread; the whole step is what is timed, the count with it."""

    output = torch.randn(8, 11, 180, 240, requires_grad=True)
    target = torch.randint(0, 11, (8, 180, 240)).where(torch.rand(8, 180, 240) < 0.9, IGNORE).to(torch.uint8)

    @pytest.fixture(autouse=True)
    def _pieces(self) -> None:
        """As shipped."""

    def mean(self, output: Tensor) -> Tensor:
        return functional.cross_entropy(output, self.target.long(), ignore_index=IGNORE)

    def test_cross_entropy_is_as_fast_as_torchs_mean(self) -> None:
        loss = CrossEntropy(IGNORE)
        ours = ratio(lambda x: loss(x, self.target).sum() / loss.count(self.target).sum(), self.mean, self.output)
        assert ours < 1.03

    @pytest.mark.parametrize("kind", [SoftIoU, Dice])
    def test_overlap_takes_less_than_two_cross_entropies(self, kind: type[SoftIoU | Dice]) -> None:
        ours = ratio(lambda x: kind(IGNORE)(x, self.target).sum(), self.mean, self.output)
        assert ours < 2
