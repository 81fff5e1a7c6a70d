"""The losses against hand values, PyTorch, segmentation-models-pytorch and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torch.nn import functional

from segweave.errors import ConfigError
from segweave.losses.dice import Dice
from segweave.losses.iou import SoftIoU
from segweave.losses.l1 import L1
from segweave.losses.loss import Loss
from segweave.losses.silog import ScaleInvariantLog

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def labels(classes: int, *shape: int, ignored: float = 0.2, ignore: int = IGNORE) -> Tensor:
    target = torch.randint(0, classes, shape)
    return torch.where(torch.rand(shape) < ignored, ignore, target)


def measured(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(shape, dtype=dtype) * 9 + 1).where(torch.rand(shape) < 0.7, 0)


def logits_of(probability: float) -> Tensor:
    """Two-class logits whose second class has this probability."""
    return torch.tensor([0.0, math.log(probability / (1 - probability))])


OVERLAPS = pytest.mark.parametrize(
    ("kind", "reference"), [(SoftIoU, smp.losses.JaccardLoss), (Dice, smp.losses.DiceLoss)]
)


@OVERLAPS
class TestOverlap:
    def test_is_smp_on_one_image(self, kind: type[SoftIoU | Dice], reference: Callable[..., Loss]) -> None:
        """smp divides by all classes, absent ones scoring a loss of 0; here the mean is over the present ones."""
        output = torch.randn(1, 5, 8, 8)
        target = torch.randint(0, 3, (1, 8, 8))
        expected = reference("multiclass", smooth=0.0)(output, target) * 5 / 3
        torch.testing.assert_close(kind(IGNORE)(output, target)[0], expected)

    def test_ignored_pixels_do_not_count(self, kind: type[SoftIoU | Dice], reference: Callable[..., Loss]) -> None:
        output = torch.randn(1, 3, 8, 8)
        target = torch.randint(0, 3, (1, 8, 8))
        target[:, 4:] = IGNORE
        expected = reference("multiclass", smooth=0.0)(output[:, :, :4], target[:, :4])
        torch.testing.assert_close(kind(IGNORE)(output, target)[0], expected)
        torch.testing.assert_close(kind(IGNORE)(output, target.to(torch.uint8))[0], expected)

    def test_ignore_may_be_a_class_index(self, kind: type[SoftIoU | Dice], reference: Callable[..., Loss]) -> None:  # noqa: ARG002
        output = torch.randn(1, 3, 8, 8)
        target = torch.randint(0, 3, (1, 8, 8))
        torch.testing.assert_close(
            kind(0)(output, target), kind(IGNORE)(output, torch.where(target == 0, IGNORE, target))
        )

    def test_every_image_stands_alone(self, kind: type[SoftIoU | Dice], reference: Callable[..., Loss]) -> None:  # noqa: ARG002
        output, target = torch.randn(3, 4, 6, 6), labels(4, 3, 6, 6)
        alone = torch.cat([kind(IGNORE)(output[i : i + 1], target[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(kind(IGNORE)(output, target), alone)
        assert kind(IGNORE).count(target).tolist() == [1, 1, 1]

    def test_negative_image_costs_its_mean_probability(
        self, kind: type[SoftIoU | Dice], reference: Callable[..., Loss]
    ) -> None:
        del reference
        output = torch.stack([logits_of(0.25), logits_of(0.75), logits_of(0.9)]).T[None, :, None]
        target = torch.tensor([[[0, 0, IGNORE]]])
        torch.testing.assert_close(kind(IGNORE, 1)(output, target), torch.tensor([0.5]))

    def test_perfect_is_zero_and_opposite_is_one(
        self, kind: type[SoftIoU | Dice], reference: Callable[..., Loss]
    ) -> None:
        del reference
        target = torch.tensor([[[0, 1], [1, 2]]])
        sure = functional.one_hot(target, 3).movedim(-1, 1) * 200.0
        assert kind(IGNORE)(sure, target).item() == pytest.approx(0, abs=1e-6)
        assert kind(IGNORE)(-sure, target).item() == pytest.approx(1, abs=1e-6)


def test_overlap_hand_values() -> None:
    # foreground probabilities 0.75 0.25 0.5 0.5, truth 1 0 1 0: I = 1.25, P = 2, G = 2
    output = torch.stack([logits_of(p) for p in (0.75, 0.25, 0.5, 0.5)]).T.reshape(1, 2, 2, 2)
    target = torch.tensor([[[1, 0], [1, 0]]])
    torch.testing.assert_close(SoftIoU(IGNORE, 1)(output, target), torch.tensor([1 - 1.25 / 2.75]))
    torch.testing.assert_close(Dice(IGNORE, 1)(output, target), torch.tensor([1 - 2.5 / 4]))
    # by symmetry the background scores the same
    torch.testing.assert_close(SoftIoU(IGNORE)(output, target), torch.tensor([1 - 1.25 / 2.75]))


class TestDepth:
    def test_l1_hand_value(self) -> None:
        output, target = torch.tensor([[[1.0, 5.0, 9.0]]]), torch.tensor([[[2.0, 0.0, 6.0]]])
        assert L1()(output, target).tolist() == [4]
        assert L1().count(target).tolist() == [2]

    def test_silog_hand_value(self) -> None:
        # d = log 2, 0 over the two measured pixels: mean(d^2) = log(2)^2 / 2, mean(d)^2 = log(2)^2 / 4
        output, target = torch.tensor([[[2.0, 7.0, 3.0]]]), torch.tensor([[[1.0, 0.0, 3.0]]])
        for focus in (0.0, 0.5, 0.85, 1.0):
            value = ScaleInvariantLog(variance_focus=focus)(output, target)
            torch.testing.assert_close(value, torch.tensor([math.log(2) ** 2 * (1 / 2 - focus / 4)]))
        assert ScaleInvariantLog().count(target).tolist() == [1]

    def test_silog_is_eigens_equation(self) -> None:
        target = measured(3, 6, 6, dtype=torch.float64)
        output = torch.rand(3, 6, 6, dtype=torch.float64) * 9 + 1
        expected = []
        for p, t in zip(output, target, strict=True):
            d = p[t > 0].log() - t[t > 0].log()
            expected.append((d.square().mean() - 0.5 * d.mean().square()).item())
        assert ScaleInvariantLog()(output, target).tolist() == pytest.approx(expected)

    def test_full_focus_forgives_scale(self) -> None:
        target = measured(2, 32, 32)
        value = ScaleInvariantLog(variance_focus=1.0)(target * 1000 + (target == 0), target)
        assert (value >= 0).all()
        torch.testing.assert_close(value, torch.zeros(2), atol=1e-10, rtol=0)

    @pytest.mark.parametrize("focus", [-0.1, 1.1, math.nan])
    def test_variance_focus_is_a_share(self, focus: float) -> None:
        with pytest.raises(ConfigError, match="variance_focus"):
            ScaleInvariantLog(variance_focus=focus)
