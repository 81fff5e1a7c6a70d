"""Aligned-MTL (Senushkin et al. 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torchjd.aggregation import AlignedMTLWeighting

from segweave.balancing.balancer import GramianBalancer
from segweave.balancing.gramians import Gramian, PerTask, cleaned, solved
from segweave.errors import ConfigError


class AlignedMTL(GramianBalancer):
    """The mean of the task gradients after their principal components are brought to one length.

    With the gradients `J = U S V'`, they are replaced by `s U V'`, orthogonal and of one scale; the weights are
    `s U S^-1 U' 1 / n`, where the authors' program takes the sum of the replaced gradients and not their mean. They
    depend on the smallest component, so that with nearly parallel gradients the step is short. The weighting is
    torchjd's.

    Args:
        tasks, seed: of `Balancer`.
        scale: `s` is the smallest singular value that is not 0 (as published), the root of the median eigenvalue of
            the Gramian, or that of their mean.
        options: of `GramianBalancer`.
    """

    paper = "Senushkin et al. 2023, Independent Component Alignment for Multi-Task Learning, arXiv 2305.19000"
    cost = "a plain sum at the features, a backward pass per task at the parameters"

    def __init__(
        self,
        tasks: Sequence[str] = (),
        seed: int = 0,
        *,
        scale: Literal["min", "median", "rmse"] = "min",
        **options: Any,
    ) -> None:
        super().__init__(tasks, seed, **options)
        if scale not in ("min", "median", "rmse"):
            raise ConfigError(f"balancing.scale: found {scale!r}; expected one of 'min', 'median', 'rmse'")
        self._weighting = AlignedMTLWeighting(scale_mode=scale)

    def weigh(self, gramian: Gramian, tasks: tuple[str, ...], losses: PerTask, last: bool) -> PerTask:  # noqa: ARG002
        return solved(gramian, lambda array: self._weighting(torch.from_numpy(cleaned(array))).numpy())
