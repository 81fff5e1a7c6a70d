"""Cross-entropy against PyTorch, and its hard pixels against a formula in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segweave.errors import ConfigError
from segweave.losses.cross_entropy import CrossEntropy

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def labels(classes: int, *shape: int, ignored: float = 0.2, ignore: int = IGNORE) -> Tensor:
    target = torch.randint(0, classes, shape)
    return torch.where(torch.rand(shape) < ignored, ignore, target)


def logits_of(probability: float) -> Tensor:
    """Two-class logits whose second class has this probability."""
    return torch.tensor([0.0, math.log(probability / (1 - probability))])


@pytest.mark.parametrize("shape", [(), (7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_is_torchs_mean_over_the_batch(shape: tuple[int, ...], weighted: bool, dtype: torch.dtype) -> None:
    output = torch.randn(6, 4, *shape, requires_grad=True)
    target = labels(4, 6, *shape)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0]) if weighted else None
    loss = CrossEntropy(IGNORE, weight)
    mean = loss(output, target.to(dtype)).sum() / loss.count(target.to(dtype)).sum()
    expected = functional.cross_entropy(output, target, weight, ignore_index=IGNORE)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(torch.autograd.grad(mean, output), torch.autograd.grad(expected, output))


def test_hand_value_per_image() -> None:
    output = torch.stack([logits_of(0.25), logits_of(0.5)]).T[None].repeat(2, 1, 1)
    loss = CrossEntropy(IGNORE)
    target = torch.tensor([[1, 0], [IGNORE, 1]])
    torch.testing.assert_close(loss(output, target), torch.tensor([math.log(8), math.log(2)]))
    assert loss.count(target).tolist() == [2, 1]


def test_ignore_of_minus_one_does_not_swallow_255_of_a_uint8_target() -> None:
    assert CrossEntropy(-1).count(torch.tensor([[0, 255]], dtype=torch.uint8)).tolist() == [2]


def test_weight_is_a_buffer() -> None:
    assert "weight" in dict(CrossEntropy(IGNORE, torch.ones(3)).named_buffers())


def test_half_precision_is_raised_and_double_kept() -> None:
    target = labels(3, 2, 4, 4)
    output = torch.randn(2, 3, 4, 4)
    assert CrossEntropy(IGNORE)(output.bfloat16(), target).dtype == torch.float32
    assert CrossEntropy(IGNORE)(output.double(), target).dtype == torch.float64
    half = CrossEntropy(IGNORE)(output.half(), target)
    torch.testing.assert_close(half, CrossEntropy(IGNORE)(output.half().float(), target))


def test_shapes_are_checked() -> None:
    with pytest.raises(Exception, match=r"[Tt]ype"):
        CrossEntropy(IGNORE)(torch.randn(2, 3, 4, 4), torch.zeros(2, 5, 4, dtype=torch.int64))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_label_smoothing_is_torchs(weighted: bool, smoothing: float) -> None:
    output, target = torch.randn(4, 5, 6, 7, requires_grad=True), labels(5, 4, 6, 7)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.0]) if weighted else None
    loss = CrossEntropy(IGNORE, weight, label_smoothing=smoothing)
    mean = loss(output, target.to(torch.uint8)).sum() / loss.count(target.to(torch.uint8)).sum()
    expected = functional.cross_entropy(output, target, weight, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(torch.autograd.grad(mean, output), torch.autograd.grad(expected, output))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.999, 1.0])
def test_hard_pixels_are_the_costliest_of_each_image(weighted: bool, share: float) -> None:
    output, target = torch.randn(3, 4, 8, 10, dtype=torch.float64), labels(4, 3, 8, 10)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0]) if weighted else None
    loss = CrossEntropy(IGNORE, weight, ohem=share)
    for image, (values, truth) in enumerate(zip(output.numpy(), target.numpy(), strict=True)):
        logits, classes = values[:, truth != IGNORE], truth[truth != IGNORE]
        factors = np.ones(4) if weight is None else weight.numpy().astype(np.float64)
        log = logits - np.log(np.exp(logits).sum(0))
        costs = np.sort(-factors[classes] * log[classes, np.arange(len(classes))])[::-1]
        kept = math.ceil(round(share * len(classes), 6))
        assert loss(output, target)[image].item() == pytest.approx(costs[:kept].sum(), rel=1e-12)
        count = factors[classes].sum() * kept / len(classes)
        assert loss.count(target)[image].item() == pytest.approx(count, rel=1e-6)


def test_hard_pixels_alone_have_a_gradient() -> None:
    output, target = torch.randn(2, 3, 10, 10, requires_grad=True), labels(3, 2, 10, 10)
    loss = CrossEntropy(IGNORE, ohem=0.25)
    loss(output, target).sum().backward()
    assert output.grad is not None
    touched = (output.grad != 0).any(1).flatten(1).sum(1)
    assert touched.tolist() == loss.count(target).round().tolist()


def test_a_tenth_of_ten_pixels_is_one() -> None:
    for pixels, share in ((10, 0.1), (100, 0.07), (1000, 0.3)):
        count = CrossEntropy(IGNORE, ohem=share).count(torch.zeros(1, 1, pixels, dtype=torch.uint8))
        assert count.item() == pytest.approx(round(pixels * share))


@pytest.mark.parametrize("options", [{"ohem": 0.0}, {"ohem": 1.5}, {"ohem": math.nan}, {"label_smoothing": -0.1}])
def test_options_are_shares(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"cross_entropy\.{next(iter(options))}: found"):
        CrossEntropy(IGNORE, **options)
