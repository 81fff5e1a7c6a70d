"""What a data set is: samples by position, with stable ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from segweave.batch import Sample
from segweave.errors import ConfigError
from segweave.tasks.task import Task


class Dataset(ABC):
    """Images with the annotations that exist for them.

    Attributes:
        ids: stable and unique names of the images, in order.
    """

    ids: Sequence[str]

    @cached_property
    def notes(self) -> Counter[str]:
        """What a user should hear of once (converted files, list entries without an image), and how often so far."""
        return Counter()

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """One image with all its annotations. Raises DataError."""

    @abstractmethod
    def annotation(self, index: int, task: str) -> Tensor | None:
        """One label alone, None where the image has none."""

    @abstractmethod
    def labelled(self, task: str) -> int:
        """How many images carry a label for the task, without decoding any."""

    @property
    def splits(self) -> Sequence[str]:
        """The splits that this data has, this one among them."""
        return ("train", "val")

    def file(self, index: int, task: str | None = None) -> Path | None:  # noqa: ARG002
        """Where an image is, or its label for a task; None for what has no file of its own."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the data does."""

    @classmethod
    def default_classes(cls) -> Mapping[str, Sequence[str]]:
        """Class names by layer, and by task kind where one layer is of it; empty where the format knows none."""
        return {}


def match_layers(tasks: Sequence[Task], layers: Mapping[str, str]) -> dict[str, str]:
    """The layer of each task: its `source`, else its name, else its kind where one layer has it.

    Args:
        layers: kind by layer name.

    Raises:
        ConfigError: no layer, or several of the kind.
    """
    matched = {}
    for task in tasks:
        of_kind = [layer for layer, kind in layers.items() if kind == task.kind]
        if task.source is not None and task.source not in layers:
            raise ConfigError(f"tasks.{task.name}.source: no layer {task.source!r}; the data has {', '.join(layers)}")
        if task.source is not None:
            matched[task.name] = task.source
        elif task.name in layers:
            matched[task.name] = task.name
        elif len(of_kind) == 1:
            matched[task.name] = of_kind[0]
        else:
            raise ConfigError(
                f"tasks.{task.name}: the data has no layer of that name (it has {', '.join(layers) or 'none'}); "
                f"name one in tasks.{task.name}.source"
            )
    return matched
