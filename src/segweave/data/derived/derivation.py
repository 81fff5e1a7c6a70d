"""What a derivation is: labels of one kind made of those of another, image by image, before any augmentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from segweave.errors import ConfigError
from segweave.tasks.task import Task

Kind = Literal["classes", "instances", "metres"]
"""What labels are made of: ids of classes, a number for every object and 0 for none, or depth."""
UNLABELLED = -1
"""The id of pixels that are not labelled, in what a derivation is given."""


@dataclass(frozen=True)
class Source:
    """What a derivation is made of.

    Args:
        name: the task or the layer.
        kind: of its labels.
        names: of the classes, in the order of their ids; empty where nothing says them.
    """

    name: str
    kind: Kind
    names: Sequence[str] = ()


class Derivation(ABC):
    """Makes the plain values that a task's `wrap` takes of plain values of its source.

    Args:
        task: whose labels are made.
        source: of what.

    Raises:
        ConfigError: a task of another kind, or another source.
    """

    gives: ClassVar[str]
    """The kind of task that reads what it makes."""
    takes: ClassVar[tuple[Kind, ...]] = ("classes", "instances")
    """The kinds of source."""
    reading: ClassVar[Sequence[str]] = ()
    """The task's options that say what the values of a layer mean, which may differ from data set to data set."""

    def __init__(self, task: Task, source: Source, how: str) -> None:
        self.where = f"tasks.{task.name}.derive.{how}"
        if task.kind != self.gives:
            raise ConfigError(f"{self.where}: found a task of kind {task.kind}; it makes labels of kind {self.gives}")
        if source.kind not in self.takes:
            raise ConfigError(
                f"{self.where}: source {source.name!r} holds {source.kind}; expected {' or '.join(self.takes)}"
            )
        self.source = source

    @abstractmethod
    def __call__(self, values: Tensor) -> Tensor:
        """The label of one image.

        Args:
            values: int32 [H, W] of ids with `UNLABELLED`, or float32 [H, W] of metres with 0 where nothing is measured.
        """

    @property
    def stated(self) -> str:
        """What a user should know of the labels, such as their unit or the error to expect."""
        return "exact"
