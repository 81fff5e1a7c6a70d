"""IMTL-G (Liu et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchjd.aggregation import IMTLGWeighting

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import NOISE, Gramian, Matrix, PerTask, Vector, cleaned, cosines, lengths, solved


class IMTLG(GramianBalancer):
    """The sum along which every task gradient has the same projection: `<g_i / |g_i|, d>` is equal for all.

    With the cosines `C` of the gradients, `w_i = (pinv(C) 1)_i / |g_i|`, divided by its sum so that the weights sum
    to 1: the closed form of the paper for independent gradients, written so that it serves dependent ones too. Weights
    may be negative, and large where gradients are nearly opposite; where they are opposite, they are 0. A change of
    scale of a task's loss does not change the direction. The weighting is torchjd's, of the gradients at unit length:
    at their own it depends on the lengths where gradients are dependent.
    """

    paper = "Liu et al. 2021, Towards Impartial Multi-task Learning, ICLR 2021"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(self, tasks: Sequence[str] = (), seed: int = 0, **options: Any) -> None:
        super().__init__(tasks, seed, **options)
        self._weighting = IMTLGWeighting()

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, self._weights)

    def _weights(self, gramian: Matrix) -> Vector:
        norms = lengths(gramian)
        alike = self._weighting(torch.from_numpy(cleaned(cosines(gramian)))).numpy()
        weights = np.divide(alike, norms, out=np.zeros_like(norms), where=norms > 0)
        total = weights.sum()
        return weights / total if abs(total) > NOISE * np.abs(weights).sum() else np.zeros_like(norms)
