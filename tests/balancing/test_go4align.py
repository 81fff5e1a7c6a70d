"""GO4Align, against its formula in NumPy float64, scikit-learn's k-means and all partitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from drive import step
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from segweave.balancing.go4align import GO4Align, group_means
from segweave.errors import ConfigError

NAMES = ("a", "b", "c", "d", "e")


def brute_force(numbers: np.ndarray, groups: int) -> float:
    """Least sum of squared distances to the means over all assignments."""
    least = np.inf
    for labels in itertools.product(range(groups), repeat=len(numbers)):
        picked = np.array(labels)
        parts = [numbers[picked == g] for g in range(groups)]
        least = min(least, sum(((p - p.mean()) ** 2).sum() for p in parts if len(p)))
    return least


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 50, width=32), min_size=2, max_size=6), st.integers(1, 3))
def test_the_groups_are_the_best_ones(numbers: list[float], groups: int) -> None:
    found = group_means(torch.tensor(numbers), groups).numpy().astype(float)
    exact = np.array(numbers, dtype=np.float32).astype(float)
    assert len(set(found.tolist())) <= max(groups, 1) or groups >= len(numbers)
    assert ((exact - found) ** 2).sum() == pytest.approx(brute_force(exact, groups), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_weights_are_those_of_the_authors_program(groups: int) -> None:
    """Its update of the shares and scikit-learn's k-means, of as many starts as find the best groups."""
    balancer = GO4Align(NAMES, groups=groups, step=0.1)
    share = np.full(5, 0.2)
    draw = np.random.default_rng(0)
    for _ in range(6):
        losses = draw.uniform(0.2, 3, 5)
        share = share * np.exp(-0.1 * losses)
        share = share / share.sum()
        indicator = losses.sum() / losses * share
        clusters = KMeans(groups, n_init=20, random_state=0).fit(indicator[:, None])
        wanted = clusters.cluster_centers_[clusters.labels_, 0]
        weights = step(balancer, torch.tensor(losses, dtype=torch.float32, requires_grad=True) * 1.0, NAMES)
        np.testing.assert_allclose(weights.numpy(), wanted, rtol=1e-4)


def test_an_absent_task_keeps_its_share() -> None:
    balancer = GO4Align(NAMES[:3], groups=3, step=0.5)
    step(balancer, torch.tensor([1.0, 2.0, 3.0], requires_grad=True) * 1.0, NAMES[:3])
    step(balancer, torch.tensor([1.0, 1.0], requires_grad=True) * 1.0, ("c", "a"))
    weights = step(balancer, torch.ones(3, requires_grad=True) * 1.0, NAMES[:3])
    # the losses of each task so far: 1 + 1 + 1, 2 + 1, 3 + 1 + 1
    torch.testing.assert_close(weights, 3 * torch.softmax(-0.5 * torch.tensor([3.0, 3.0, 5.0]), 0))


@pytest.mark.parametrize(("option", "value"), [("groups", 0), ("step", -1.0)])
def test_options_are_checked(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        GO4Align(NAMES, **{option: value})  # pyright: ignore
