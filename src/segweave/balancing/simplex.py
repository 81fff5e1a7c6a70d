"""Task weights that sum to 1, kept by task: projection on the simplex, units and shares of the tasks of a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segweave.balancing.memory import Memory


def project(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The nearest point of the simplex (Duchi et al. 2008, figure 1), without a look at the values by the host."""
    falling = values.sort(descending=True).values
    excess = (falling.cumsum(0) - 1) / torch.arange(1, len(values) + 1, device=values.device, dtype=values.dtype)
    held = (falling > excess).sum() - 1
    return (values - excess.gather(0, held.clamp(min=0)[None])).clamp(min=0)


def length(rows: Float[Tensor, "n P"]) -> Float[Tensor, ""]:
    """The mean length of the rows; 1 where all are zeros, so that it can divide."""
    mean = torch.linalg.vector_norm(rows, dim=1).mean()
    return torch.where(mean > 0, mean, 1.0)


def shares(
    memory: Memory, tasks: Sequence[str], like: Float[Tensor, "n P"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, ""]]:
    """The weights of these tasks, and the part of everything that they have together.

    What is held is relative to the tasks that are absent, and 1 for a task that is new. Tasks without any part have
    equal weights.
    """
    held = memory.stack(tasks, like.new_ones(()), "share")
    together = held.sum()
    return torch.where(together > 0, held / together, 1 / len(tasks)), together


def keep(memory: Memory, tasks: Sequence[str], weights: Float[Tensor, " n"], together: Float[Tensor, ""]) -> None:
    """Holds new weights of these tasks; the others keep their part."""
    memory.write(tasks, weights * together, "share")
