"""What a metric is: counts that add up, over batches and over processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

FAULTS = ("outside", "invalid")
"""Keys of shares of predictions that are none, beside the scores of the others."""


class Metric(ABC):
    """Accumulates predictions against targets, on the CPU; the order and the size of the batches make no difference.

    Attributes:
        keys: every key of `compute`, with whether a higher value of it is better.
        headline: key of the value that stands for the task.
        unit: of that value; empty for fractions.
    """

    keys: ClassVar[Mapping[str, bool]]
    headline: str
    unit: str = ""

    @property
    def higher_is_better(self) -> bool:
        """Of the headline value."""
        return self.keys[self.headline]

    @abstractmethod
    def update(self, prediction: Mapping[str, Tensor], target: Tensor) -> None:
        """Adds a batch; the first axis is the image. Nothing of the caller's is kept, and the devices may differ."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Values by key; nan where nothing defines them."""

    def details(self) -> dict[str, Any]:
        """Tables behind the values, ready for JSON: per class, confusion, what was left out."""
        return {}

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Adds the counts of another metric of the same class and constructor, as if its data had been seen here."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets everything seen."""


def double(values: Tensor) -> Tensor:
    """float64, where they are if that device has the type, else on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).detach().double()


def copy(values: Tensor) -> Tensor:
    """float64 on the CPU, in memory of its own: what a caller does to its tensor later changes nothing."""
    return values.detach().cpu().to(torch.float64, copy=True)
