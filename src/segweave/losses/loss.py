"""What a loss is: a sum and a count per image, so that batches, accumulation and ranks add up exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Loss(nn.Module, ABC):
    """One named loss, per image, not averaged.

    Positional constructor parameters come from the program; keyword-only ones are options a user writes in YAML. An
    image with nothing labelled has count 0, sum exactly 0 and a zero gradient. Half precision is raised to float32.
    """

    @abstractmethod
    def count(self, target: Tensor) -> Float[Tensor, " b"]:
        """What the loss is averaged over, per image; from the target alone."""

    @abstractmethod
    def forward(self, output: Tensor, target: Tensor) -> Float[Tensor, " b"]:
        """The loss summed over what `count` counts, per image."""


def full(output: Tensor) -> Tensor:
    """At least float32, whatever autocast does."""
    return output if output.dtype == torch.float64 else output.float()
