"""Random task gradients, and the weights that a method by Gramian gives them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from segweave.balancing import METHODS
from segweave.balancing.balancer import GramianBalancer

NAMES = tuple("abcdefgh")
many = settings(max_examples=60, deadline=None)
few = settings(max_examples=25, deadline=None)


@st.composite
def jacobians(draw: Callable, most: int = 6) -> np.ndarray:
    """Gradients in few or many dimensions, of like or very unlike length."""
    n, size = draw(st.integers(2, most)), draw(st.sampled_from([8, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    spread = draw(st.sampled_from([0.0, 1.0]))
    return rng.normal(size=(n, size)) * np.exp(spread * rng.normal(size=(n, 1))) + draw(st.sampled_from([-0.3, 0, 1]))


def weigh(name: str, jacobian: np.ndarray, **options: object) -> np.ndarray:
    """Weights in float64, so that an oracle is met to more than float32."""
    balancer = METHODS.load(name)(NAMES, 5, **options)
    assert isinstance(balancer, GramianBalancer)
    gramian = torch.from_numpy(jacobian @ jacobian.T)
    return balancer.weigh(gramian, NAMES[: len(gramian)], torch.ones(len(gramian)), True).numpy()
