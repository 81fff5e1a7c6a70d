"""Boundary loss against the authors' distance maps and brute force, on every path that computes distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from segweave.losses import boundary
from segweave.losses.boundary import Boundary, by_comparison, signed_distances

IGNORE = 255


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def authors_maps(labels: np.ndarray, classes: int) -> np.ndarray:
    """As `one_hot2dist` of the paper's repository makes them, of a fully labelled image."""
    maps = np.zeros((classes, *labels.shape))
    for k in range(classes):
        positive = labels == k
        if positive.any():
            negative = ~positive
            distance: Any = scipy.ndimage.distance_transform_edt
            maps[k] = distance(negative) * negative - (distance(positive) - 1) * positive
    return maps


@pytest.mark.parametrize("first", [0, 1])
def test_is_the_authors_loss_less_its_value_at_the_truth(first: int) -> None:
    output, target = torch.randn(2, 4, 9, 12, dtype=torch.float64, requires_grad=True), torch.randint(0, 3, (2, 9, 12))
    loss = Boundary(IGNORE, first)
    maps = torch.from_numpy(np.stack([authors_maps(labels, 4) for labels in target.numpy()]))[:, first:]
    theirs = (output.softmax(1)[:, first:] * maps).flatten(1).sum(1)
    truth = torch.stack([(target == c).double() for c in range(first, 4)], 1)
    ours = loss(output, target)
    torch.testing.assert_close(ours, theirs - (truth * maps).flatten(1).sum(1), rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(value.sum(), output)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
    assert loss.count(target).tolist() == [108, 108]


def brute_force(labels: np.ndarray, classes: int) -> np.ndarray:
    maps = np.zeros((classes, *labels.shape))
    places = list(np.ndindex(*labels.shape))
    for k in range(classes):
        inside = [p for p in places if labels[p] == k]
        outside = [p for p in places if labels[p] not in (k, -1)]
        if inside and outside:
            for p in places:
                to = outside if labels[p] == k else inside
                nearest = min(np.hypot(p[0] - q[0], p[1] - q[1]) for q in to)
                maps[k][p] = 1 - nearest if labels[p] == k else nearest
    return maps


@pytest.mark.parametrize("maps", [signed_distances, by_comparison])
@pytest.mark.parametrize("at_once", [200, 2**26])
def test_distances_by_brute_force(
    maps: Callable[[Tensor, int], Tensor], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "_AT_ONCE", at_once)
    target = torch.randint(0, 3, (5, 7, 10)).where(torch.rand(5, 7, 10) < 0.7, -1)
    target[1] = torch.where(target[1] == 0, -1, target[1])
    target[2] = torch.where(target[2] < 0, -1, 2)
    target[3] = -1
    target[4] = 0
    target[4, 2, 3:] = 1
    expected = np.stack([brute_force(labels, 4) for labels in target.numpy()])
    torch.testing.assert_close(maps(target, 4), torch.from_numpy(expected).float())
    assert maps(target, 4)[1:4].flatten(2).abs().amax(2).tolist()[1:] == [[0] * 4, [0] * 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_distances_on_a_gpu_are_scipys() -> None:
    target = torch.randint(-1, 4, (3, 60, 80)).repeat_interleave(3, 1).repeat_interleave(3, 2)
    torch.testing.assert_close(signed_distances(target.cuda(), 5).cpu(), signed_distances(target, 5))


def test_by_hand() -> None:
    # a row of 0 0 0 1: phi_1 is 3 2 1 0 and phi_0 is -2 -1 0 1
    target, output = torch.tensor([[[0, 0, 0, 1]]]), torch.zeros(1, 2, 1, 4)
    both = (0.5 * (5 + 3 + 1)) + 0.5 * 1
    torch.testing.assert_close(Boundary(IGNORE)(output, target), torch.tensor([both]))
    torch.testing.assert_close(Boundary(IGNORE, 1)(output, target), torch.tensor([0.5 * (3 + 2 + 1)]))


def test_an_image_of_one_class_costs_nothing() -> None:
    output = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = Boundary(IGNORE)(output, torch.ones(1, 4, 4, dtype=torch.int64))
    value.sum().backward()
    assert value.tolist() == [0]
    assert output.grad is not None
    assert (output.grad == 0).all()


def test_nearer_to_the_truth_costs_less() -> None:
    target = torch.zeros(1, 1, 20, dtype=torch.int64)
    target[..., 10:] = 1
    costs = []
    for edge in (10, 11, 13, 17):
        guess = torch.zeros(1, 2, 1, 20)
        guess[:, 1, :, edge:] = 50
        guess[:, 0, :, :edge] = 50
        costs.append(Boundary(IGNORE, 1)(guess, target).item())
    assert costs == pytest.approx([0, 0, 0 + 1 + 2, 0 + 1 + 2 + 3 + 4 + 5 + 6], abs=1e-5)


def test_compiles_as_one_operator() -> None:
    torch.library.opcheck(signed_distances, (torch.randint(-1, 3, (2, 5, 6)), 3))
