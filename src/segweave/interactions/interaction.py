"""What stands between the encoder and the heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn


@dataclass
class Features:
    """What an interaction hands on.

    Args:
        per_task: what each task's head reads: a pyramid, or one map in a list.
        common: tensors from which on the tasks go apart, the cut for balancing; empty where there is no such cut.
        auxiliary: early outputs by task, scored by `Task.loss`.
    """

    per_task: Mapping[str, list[Tensor]]
    common: list[Tensor] = field(default_factory=list)
    auxiliary: Mapping[str, list[Tensor]] = field(default_factory=dict)


class Interaction(nn.Module, ABC):
    """Decides what each task reads.

    Attributes:
        channels, strides: by task, of the maps that its head reads, finest first.
        reads_outputs: whether it reads what heads put out, which then run on images without a label of theirs too.
    """

    channels: Mapping[str, list[int]]
    strides: Mapping[str, list[int]]
    reads_outputs: ClassVar[bool] = False

    @abstractmethod
    def forward(self, levels: Sequence[Tensor]) -> Features:
        """The encoder's pyramid [B, C_i, H/s_i, W/s_i], finest first, to the features of every task."""

    @abstractmethod
    def private(self, task: str) -> list[nn.Parameter]:
        """Parameters in here that only this task uses."""

    def between(self) -> list[nn.Parameter]:
        """Parameters between the common tensors and the heads that several tasks use; none for most."""
        return []
