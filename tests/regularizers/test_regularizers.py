"""Every regulariser by hand values and by its derivatives."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segweave.regularizers
from segweave.errors import ConfigError
from segweave.regularizers import REGULARIZERS
from segweave.regularizers.betas import check_betas
from segweave.regularizers.feature_norm import FeatureNorm
from segweave.regularizers.flip_consistency import FlipConsistency
from segweave.regularizers.orthogonality import Orthogonality
from segweave.regularizers.regularizer import Part, Regularizer, check_regularizers
from segweave.regularizers.smoothness import Smoothness
from segweave.regularizers.weight_decay import WeightDecay

IMAGES = torch.rand(1, 3, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

PARTS: dict[str, Callable[..., Part]] = {
    "weight_decay": lambda a, b: Part([a, b]),
    "feature_norm": lambda a, b: Part(features=[a, b]),
    "smoothness": lambda a, b: Part(images=IMAGES, soft=lambda: torch.cat([a, b], 3)),
    "flip_consistency": lambda a, b: Part(images=IMAGES, soft=lambda: a, mirrored=lambda: b),
    "orthogonality": lambda a, b: Part(projections=[[a.flatten(0, 2), b.flatten(0, 2)]]),
}
"""What each reads, made of two tensors [1, 2, 2, 2]."""


def test_no_regulariser_escapes() -> None:
    assert PARTS.keys() == REGULARIZERS.keys()
    for module in pkgutil.iter_modules(segweave.regularizers.__path__):
        importlib.import_module(f"segweave.regularizers.{module.name}")
    ours = {kind for kind in Regularizer.__subclasses__() if kind.__module__.startswith("segweave")}
    assert ours == {REGULARIZERS.load(name) for name in REGULARIZERS}


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_derivatives(name: str) -> None:
    regularizer = REGULARIZERS.load(name)()
    torch.manual_seed(0)
    tensors = [torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *t: regularizer(PARTS[name](*t)), tensors)
    assert regularizer(PARTS[name](*tensors)) > 0


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_reads_only_what_it_says(name: str) -> None:
    """What is missing here raises where it is read; a soft prediction or a second forward costs time."""
    regularizer = REGULARIZERS.load(name)()
    part = PARTS[name](torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
    assert regularizer.soft == (part.soft is not Part().soft)
    assert regularizer.twice == (part.mirrored is not Part().mirrored)
    assert not regularizer.twice or regularizer.soft
    assert regularizer(part).shape == ()


def test_weight_decay_by_hand_leaves_out_biases_and_norms() -> None:
    matrix = torch.tensor([[1.0, -2.0], [3.0, 0.0]], requires_grad=True)
    kernel = torch.full((1, 2, 1, 1), 2.0, requires_grad=True)
    bias = torch.tensor([100.0], requires_grad=True)
    value = WeightDecay()(Part([matrix, bias, kernel]))
    assert value.item() == (1 + 4 + 9 + 4 + 4) / 2
    value.backward()
    # the derivative of w^2 / 2 is w itself, what an optimizer's coupled weight decay adds
    torch.testing.assert_close(matrix.grad, matrix.detach(), rtol=0, atol=0)
    torch.testing.assert_close(kernel.grad, kernel.detach(), rtol=0, atol=0)
    assert bias.grad is None


def test_weight_decay_without_weights_is_zero() -> None:
    assert WeightDecay()(Part(list(nn.BatchNorm2d(3).parameters()))).item() == 0
    assert WeightDecay()(Part(features=[torch.ones(1, 1, 2, 2)])).item() == 0


def test_feature_norm_by_hand_counts_every_tensor_the_same() -> None:
    small = torch.tensor([[[[3.0]]]], requires_grad=True)
    large = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]]]], requires_grad=True)
    value = FeatureNorm()(Part([torch.full((2, 2), 100.0)], [small, large]))
    assert value.item() == (9 + 6 / 4) / 2
    value.backward()
    # d/df of f^2 / (2 tensors * elements) is f / elements
    torch.testing.assert_close(small.grad, small.detach(), rtol=0, atol=0)
    torch.testing.assert_close(large.grad, large.detach() / 4, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_feature_norm_of_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    value = FeatureNorm()(Part(features=[torch.full((1, 1, 2, 2), 1024.0, dtype=dtype)]))
    assert value.dtype == torch.float32
    assert value.item() == 1024.0**2


def test_feature_norm_without_features_is_zero() -> None:
    assert FeatureNorm()(Part([torch.ones(2, 2)])).item() == 0


def smoothness(images: Tensor, prediction: Tensor) -> float:
    return Smoothness()(Part(images=images, soft=lambda: prediction)).item()


def test_smoothness_is_the_equation() -> None:
    torch.manual_seed(0)
    images, prediction = torch.rand(2, 3, 5, 6).double(), torch.randn(2, 4, 5, 6).double()
    total = 0.0
    for step in ((0, 1), (1, 0)):
        terms = []
        for b, c, y, x in torch.cartesian_prod(*(torch.arange(n) for n in prediction.shape)).tolist():
            if y + step[0] < 5 and x + step[1] < 6:
                edge = sum(abs(images[b, k, y + step[0], x + step[1]] - images[b, k, y, x]) for k in range(3)) / 3
                slope = abs(prediction[b, c, y + step[0], x + step[1]] - prediction[b, c, y, x])
                terms.append(float(slope) * math.exp(-float(edge)))
        total += sum(terms) / len(terms)
    assert smoothness(images, prediction) == pytest.approx(total, rel=1e-10)


def test_a_step_costs_less_on_an_edge_of_the_image() -> None:
    step = torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]])
    assert smoothness(torch.zeros(1, 3, 1, 4), step) == pytest.approx(1 / 3)
    assert smoothness(step.expand(1, 3, 1, 4), step) == pytest.approx(math.exp(-1) / 3)
    assert smoothness(step.expand(1, 3, 1, 4), torch.full_like(step, 7.0)) == 0


def test_flip_consistency_by_hand() -> None:
    left, right = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.5]])
    assert FlipConsistency()(Part(soft=lambda: left, mirrored=lambda: right)).item() == 0.0625
    assert FlipConsistency()(Part(soft=lambda: left, mirrored=lambda: left)).item() == 0


def orthogonality(*groups: list[Tensor]) -> float:
    return Orthogonality()(Part(projections=groups)).item()


def test_orthogonality_of_directions() -> None:
    east, north, between = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 1.0]])
    assert orthogonality([east, north]) == 0
    assert orthogonality([east, -3 * east]) == pytest.approx(1)
    # of single directions it is the squared cosine
    assert orthogonality([east, between]) == pytest.approx(0.5)
    assert orthogonality([east, north, between]) == pytest.approx(1 / 3)
    # a group is of one tensor: its directions mean nothing to another group
    assert orthogonality([east, between], [north]) == pytest.approx(0.5)
    assert orthogonality([east, torch.zeros(3, 2)]) == 0


def test_orthogonality_is_the_cosine_of_the_gram_matrices() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 7), torch.randn(5, 7)
    expected = nn.functional.cosine_similarity((a.T @ a).flatten(), (b.T @ b).flatten(), dim=0).item()
    assert orthogonality([a, b]) == pytest.approx(expected, rel=1e-5)
    assert orthogonality([1e-4 * a, 1e4 * b]) == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert orthogonality([a, b]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("groups", [(), ([torch.ones(1, 2)], [torch.ones(1, 2)])])
def test_orthogonality_needs_two_heads_at_one_place(groups: tuple[list[Tensor], ...]) -> None:
    with pytest.raises(ConfigError, match="no two heads read the same features"):
        orthogonality(*groups)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ({"smothness": 1}, r"^here: unknown regularizer 'smothness'; nearest: 'smoothness'"),
        ({"weight_decay": -1e-4}, r"^here\.weight_decay: found -0.0001; expected a number of 0 or more"),
        ({"weight_decay": math.nan}, r"^here\.weight_decay: found nan"),
        ({"weight_decay": math.inf}, r"^here\.weight_decay: found inf"),
        ({"weight_decay": True}, r"^here\.weight_decay: found True"),
        ({"weight_decay": "1e-4"}, r"^here\.weight_decay: found '1e-4'"),
        ("weight_decay", r"^here: found 'weight_decay'; expected `name: number`"),
    ],
)
def test_a_wrong_beta_is_refused(betas: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_betas(betas, "here")


def test_right_betas() -> None:
    check_betas(None, "here")
    check_betas({"weight_decay": 0, "smoothness": 0.5}, "here")
    check_regularizers({"smoothness": 0.5}, "here", "map")


@pytest.mark.parametrize(
    ("name", "owner", "message"),
    [
        ("smoothness", "scores", r"found at tasks with scores; .*tasks\.<name>\.regularizers, .*tasks with a map"),
        ("smoothness", "shared", r"found at the shared part; .*tasks\.<name>\.regularizers"),
        ("flip_consistency", "none", r"found at other tasks; .*tasks with a map and tasks with scores"),
        ("orthogonality", "map", r"found at tasks with a map; expected under model\.regularizers"),
    ],
)
def test_a_regulariser_at_the_wrong_place_is_refused(name: str, owner: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^here\.{name}: {message}"):
        check_regularizers({name: 1.0}, "here", owner)
