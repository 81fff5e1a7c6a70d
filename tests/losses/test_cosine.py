"""The cosine loss against torch's own, LibMTL's formula and what is worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segweave.losses.cosine import Cosine, unit
from segweave.losses.l1 import L1


def example() -> tuple[Tensor, Tensor]:
    """Outputs of any length and unit targets, some of them not labelled."""
    torch.manual_seed(0)
    output = torch.randn(4, 3, 5, 6, dtype=torch.float64) * 3
    target = functional.normalize(torch.randn(4, 3, 5, 6, dtype=torch.float64), dim=1)
    return output, target.where(torch.rand(4, 1, 5, 6) < 0.7, 0)


def test_is_torchs() -> None:
    output, target = example()
    known = (target != 0).any(1)
    expected = (1 - functional.cosine_similarity(output, target, dim=1)).where(known, 0).flatten(1).sum(1)
    torch.testing.assert_close(Cosine()(output, target), expected)
    assert Cosine().count(target).tolist() == known.flatten(1).sum(1).tolist()


def test_over_a_batch_is_libmtls() -> None:
    """`1 - sum(p g) / pixels`, its prediction normalised first."""
    output, target = example()
    loss = Cosine()
    pixels = int((target.sum(1) != 0).sum())
    expected = 1 - float((output / output.norm(dim=1, keepdim=True) * target).sum()) / pixels
    assert float(loss(output, target).sum() / loss.count(target).sum()) == pytest.approx(expected, rel=1e-12)


def test_by_hand() -> None:
    # right, at a right angle, opposite, and not labelled
    output = torch.tensor([[[[2.0, 0.0, -5.0, 1.0]], [[0.0, 3.0, 0.0, 1.0]], [[0.0, 0.0, 0.0, 1.0]]]])
    target = torch.tensor([[[[1.0, 1.0, 1.0, 0.0]], [[0.0] * 4], [[0.0] * 4]]])
    assert Cosine()(output, target).tolist() == [0 + 1 + 2]
    assert L1()(unit(output), target).tolist() == [0 + 2 + 2]
    assert Cosine().count(target).tolist() == L1().count(target).tolist() == [3]


def test_a_small_angle_keeps_its_digits() -> None:
    """1 - cos of 1e-4 radians is 5e-9, which float32 cannot tell from 0 beside 1."""
    output, target = torch.tensor([1.0, 1e-4, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    value = Cosine()(output[None, :, None, None], target[None, :, None, None])
    assert float(value) == pytest.approx(5e-9, rel=1e-3)


def test_the_gradient_turns_and_never_lengthens() -> None:
    output, target = example()
    output.requires_grad_()
    Cosine()(output, target).sum().backward()
    assert output.grad is not None
    torch.testing.assert_close((output.grad * output).sum(1), torch.zeros(4, 5, 6, dtype=torch.float64))


def test_an_output_of_nothing_has_a_bounded_gradient() -> None:
    for size in (0.0, 1e-30):
        output = torch.full((1, 3, 1, 1), size, requires_grad=True)
        Cosine()(output, torch.tensor([0.0, 0.0, 1.0])[None, :, None, None]).sum().backward()
        assert output.grad is not None
        assert output.grad.isfinite().all()
        assert output.grad.abs().max() < 1e7
