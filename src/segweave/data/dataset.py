"""What a data set is: samples by position, with stable ids; and what one is that wraps another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

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

    def image(self, index: int) -> Tensor:
        """One image alone, [C, H, W] as read; formats that can leave its labels unread do. Raises DataError."""
        return self[index].image

    @abstractmethod
    def annotation(self, index: int, task: str) -> Tensor | None:
        """One label alone, None where the image has none."""

    @abstractmethod
    def labelled(self, task: str) -> int:
        """How many images carry a label for the task, without decoding any."""

    def has_label(self, index: int, task: str) -> bool:
        """Whether an image carries a label for the task; formats that know it without decoding one say so."""
        return self.annotation(index, task) is not None

    @property
    def sets(self) -> Mapping[str, range]:
        """The places of the data sets that this one is made of, by name; a single one has none."""
        return {"": range(len(self))}

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
    def default_classes(cls, options: Mapping[str, Any] | None = None) -> Mapping[str, Sequence[str]]:  # noqa: ARG003
        """Class names by layer, and by task kind where one layer is of it; empty where the format knows none.

        Args:
            options: of a config; without them, of all that the format may hold.
        """
        return {}

    @classmethod
    def layers(cls, options: Mapping[str, Any]) -> Mapping[str, str] | None:
        """Kind by layer of data with these options of a config; None where nothing says which layers there are."""
        layers = options.get("tasks")
        return {layer: layer for layer in layers} if layers else None


class Wrapper(Dataset):
    """Another data set whose samples are made or kept otherwise: it answers all that a subclass does not.

    What a format is asked for before there is any data, `default_classes` and `layers`, is its own.

    Args:
        dataset: it.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.ids = dataset.ids

    @cached_property
    def notes(self) -> Counter[str]:
        return self.dataset.notes

    def image(self, index: int) -> Tensor:
        return self.dataset.image(index)

    def annotation(self, index: int, task: str) -> Tensor | None:
        return self.dataset.annotation(index, task)

    def labelled(self, task: str) -> int:
        return self.dataset.labelled(task)

    def has_label(self, index: int, task: str) -> bool:
        return self.dataset.has_label(index, task)

    @property
    def sets(self) -> Mapping[str, range]:
        return self.dataset.sets

    @property
    def splits(self) -> Sequence[str]:
        return self.dataset.splits

    def file(self, index: int, task: str | None = None) -> Path | None:
        return self.dataset.file(index, task)

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()


def match_layers(tasks: Sequence[Task], layers: Mapping[str, str]) -> dict[str, str]:
    """The layer of each task: its `source`, else its name, else its kind where one layer has it.

    Args:
        layers: kind by layer name.

    Raises:
        ConfigError: no layer, or several of the kind.
    """
    matched = {}
    for task in tasks:
        layer = _layer(task, layers)
        if layer is None and task.source is not None:
            raise ConfigError(f"tasks.{task.name}.source: no layer {task.source!r}; the data has {', '.join(layers)}")
        if layer is None:
            raise ConfigError(
                f"tasks.{task.name}: the data has no layer of that name (it has {', '.join(layers) or 'none'}); "
                f"name one in tasks.{task.name}.source"
            )
        matched[task.name] = layer
    return matched


def must_read(tasks: Sequence[Task], matched: Mapping[str, str], layers: Mapping[str, str]) -> None:
    """Raises ConfigError for a task whose layer is not of the kind that it reads.

    Args:
        matched: layer by task.
        layers: kind by layer name.
    """
    for task in tasks:
        layer = matched[task.name]
        if layers[layer] != task.reads:
            fitting = ", ".join(name for name, kind in layers.items() if kind == task.reads)
            raise ConfigError(
                f"tasks.{task.name}.source: layer {layer!r} holds labels of kind {layers[layer]!r}; this task reads "
                f"{task.reads!r}: expected {fitting or 'another format'}"
            )


def labelled_layers(tasks: Sequence[Task], layers: Mapping[str, str]) -> dict[str, str]:
    """The layers of those of the tasks that one of several data sets has labels for.

    As in `match_layers`, but the kind alone decides only for the one task of its kind: a second one may well be
    labelled in another set only.

    Args:
        layers: kind by layer name.
    """
    found = {}
    for task in tasks:
        layer = _layer(task, layers)
        alone = sum(other.kind == task.kind for other in tasks) == 1
        if layer is not None and (alone or layer in (task.source, task.name)):
            found[task.name] = layer
    return found


def _layer(task: Task, layers: Mapping[str, str]) -> str | None:
    of_kind = [layer for layer, kind in layers.items() if kind == task.kind]
    if task.source is not None:
        return task.source if task.source in layers else None
    if task.name in layers:
        return task.name
    return of_kind[0] if len(of_kind) == 1 else None
