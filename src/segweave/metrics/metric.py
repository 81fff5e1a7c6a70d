"""What a metric is: counts that add up, over batches and over processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Metric(ABC):
    """Accumulates predictions against targets, on the CPU; the order and the size of the batches make no difference.

    Attributes:
        headline: key of the value that stands for the task.
        unit: of that value; empty for fractions.
        higher_is_better: of that value.
    """

    headline: str
    unit: str = ""
    higher_is_better: bool = True

    @abstractmethod
    def update(self, prediction: Mapping[str, Tensor], target: Tensor) -> None:
        """Adds a batch; the first axis is the image."""

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
