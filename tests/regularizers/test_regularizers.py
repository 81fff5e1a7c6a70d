"""Regularisers by hand values and by their derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segweave.regularizers import REGULARIZERS
from segweave.regularizers.feature_norm import FeatureNorm
from segweave.regularizers.regularizer import Regularizer
from segweave.regularizers.weight_decay import WeightDecay


def test_weight_decay_by_hand_leaves_out_biases_and_norms() -> None:
    matrix = torch.tensor([[1.0, -2.0], [3.0, 0.0]], requires_grad=True)
    kernel = torch.full((1, 2, 1, 1), 2.0, requires_grad=True)
    bias = torch.tensor([100.0], requires_grad=True)
    value = WeightDecay()([matrix, bias, kernel], [])
    assert value.item() == (1 + 4 + 9 + 4 + 4) / 2
    value.backward()
    # the derivative of w^2 / 2 is w itself, what an optimizer's coupled weight decay adds
    assert torch.equal(matrix.grad, matrix.detach())
    assert torch.equal(kernel.grad, kernel.detach())
    assert bias.grad is None


def test_weight_decay_without_weights_is_zero() -> None:
    assert WeightDecay()(list(nn.BatchNorm2d(3).parameters()), []).item() == 0
    assert WeightDecay()([], [torch.ones(1, 1, 2, 2)]).item() == 0


def test_feature_norm_by_hand_counts_every_tensor_the_same() -> None:
    small = torch.tensor([[[[3.0]]]], requires_grad=True)
    large = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]]]], requires_grad=True)
    value = FeatureNorm()([torch.full((2, 2), 100.0)], [small, large])
    assert value.item() == (9 + 6 / 4) / 2
    value.backward()
    # d/df of f^2 / (2 tensors * elements) is f / elements
    assert torch.equal(small.grad, small.detach())
    assert torch.equal(large.grad, large.detach() / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_feature_norm_of_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    value = FeatureNorm()([], [torch.full((1, 1, 2, 2), 1024.0, dtype=dtype)])
    assert value.dtype == torch.float32
    assert value.item() == 1024.0**2


def test_feature_norm_without_features_is_zero() -> None:
    assert FeatureNorm()([torch.ones(2, 2)], []).item() == 0


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_derivatives(name: str) -> None:
    regularizer = REGULARIZERS.load(name)()
    assert isinstance(regularizer, Regularizer)
    torch.manual_seed(0)
    tensors = [torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *t: regularizer(t, t), tensors)
    assert regularizer(tensors, tensors) > 0
