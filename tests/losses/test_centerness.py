"""Centre-ness loss against its divergence from the truth in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segweave.losses.centerness import Centerness


def test_is_its_divergence_from_the_truth() -> None:
    """Worked in float64 with numpy, at points on the border and in the very middle too."""
    rng = np.random.default_rng(0)
    sides = np.concatenate([rng.uniform(0, 30, (40, 4)), [[0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 0, 0], [-1, 5, 5, 5]]])
    logits = rng.normal(0, 3, len(sides))
    near, far = np.minimum(sides[:, :2], sides[:, 2:]), np.maximum(sides[:, :2], sides[:, 2:])
    true = np.sqrt(np.prod(np.where(far > 0, near / np.where(far > 0, far, 1), 0), 1).clip(0))
    found = 1 / (1 + np.exp(-logits))

    def entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.where(p > 0, p * np.log(q), 0) - np.where(p < 1, (1 - p) * np.log(1 - q), 0)

    expected = (entropy(true, found) - entropy(true, true))[(sides >= 0).all(1)].sum()
    ours = Centerness()(torch.tensor(logits)[None], torch.tensor(sides)[None])
    assert float(ours) == pytest.approx(float(expected), rel=1e-9)
