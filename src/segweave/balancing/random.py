"""Random loss weighting, RLW (Lin et al. 2022, algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.balancer import LossBalancer


class Random(LossBalancer):
    """`sum_i w_i L_i` with `w = softmax(xi)`, xi from N(0, 1) anew at every step: the litmus test of the others.

    The numbers are functions of (seed, step, task): the same on every process, in any order of the tasks and after a
    resume, and the same throughout an effective batch.
    """

    cost = "none"
    paper = "Lin et al., Reasonable Effectiveness of Random Weighting, TMLR 2022, arXiv 2111.10603"

    def combine(
        self,
        losses: Float[Tensor, " n"],
        tasks: Sequence[str],
        last: bool,  # noqa: ARG002
        whole: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " n"]]:
        weights = torch.softmax(self.memory.normal(self.seed, tasks), 0).to(whole)
        return (weights * losses).sum(), weights
