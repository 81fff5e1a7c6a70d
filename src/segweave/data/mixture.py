"""Several data sets as one: each with tasks of its own, and with its own meaning of the values in its files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int16, Integer, UInt8
from torch import Tensor

from segweave import rasters
from segweave.batch import Sample
from segweave.data.dataset import Dataset
from segweave.errors import ConfigError, DataError
from segweave.tasks.maps import DenseMap
from segweave.tasks.semantic import IGNORE, Semantic
from segweave.tasks.task import Task

_IDS = 1 << 16
_UNKNOWN = -1


@dataclass(frozen=True)
class Part:
    """One data set of a mixture.

    Args:
        dataset: whose readers are those of its tasks; `RawIds` for the tasks in `maps`.
        tasks: the names of those that it has labels for.
        maps: by task, the class of every id in its files, from `class_table`.
        read: by layer, the options of tasks that its readers have and those of other sets have not.
    """

    dataset: Dataset
    tasks: Collection[str]
    maps: Mapping[str, Int16[Tensor, 65536]] = field(default_factory=dict)
    read: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Mixture(Dataset):
    """The images of several data sets; an id is the set's name, a slash, and the image's id there.

    The sets stand in the order of their names, however they were written. An image has no label for the tasks that its
    set does not have.

    Args:
        parts: by name.
        tasks: those that read the labels.
    """

    def __init__(self, parts: Mapping[str, Part], tasks: Sequence[Task]) -> None:
        self.parts = {name: parts[name] for name in sorted(parts)}
        self.tasks = {task.name: task for task in tasks}
        self.ids = [f"{name}/{id}" for name, part in self.parts.items() for id in part.dataset.ids]
        self._places = [(name, index) for name, part in self.parts.items() for index in range(len(part.dataset))]

    @cached_property
    def notes(self) -> Counter[str]:
        notes: Counter[str] = Counter()
        for name in self.parts:
            self._take_notes(name, notes)
        return notes

    def _take_notes(self, name: str, notes: Counter[str]) -> None:
        """What a set has noted since, under its name."""
        noted = self.parts[name].dataset.notes
        notes.update({f"{name}: {note}": count for note, count in noted.items()})
        noted.clear()

    @property
    def sets(self) -> Mapping[str, range]:
        places, start = {}, 0
        for name, part in self.parts.items():
            places[name] = range(start, start + len(part.dataset))
            start += len(part.dataset)
        return places

    def image(self, index: int) -> Tensor:
        name, inner = self._places[index]
        return self.parts[name].dataset.image(inner)

    def __getitem__(self, index: int) -> Sample:
        name, inner = self._places[index]
        notes = self.notes
        try:
            sample = self.parts[name].dataset[inner]
        finally:
            self._take_notes(name, notes)
        annotations = {task: self._mapped(index, task, label) for task, label in sample.annotations.items()}
        return Sample(self.ids[index], sample.image, annotations)

    def annotation(self, index: int, task: str) -> Tensor | None:
        name, inner = self._places[index]
        part = self.parts[name]
        label = part.dataset.annotation(inner, task) if task in part.tasks else None
        return None if label is None else self._mapped(index, task, label)

    def _mapped(self, index: int, task: str, label: Tensor) -> Tensor:
        name = self._places[index][0]
        table = self.parts[name].maps.get(task)
        if table is None:
            return label
        try:
            mapped = classes_of(label.as_subclass(Tensor), table)
        except DataError as error:
            cure = f"data.sets.{name}.maps does not name: name it there, as a class or as ignore"
            raise DataError(f"{self.file(index, task) or self.ids[index]}: {error} that {cure}") from None
        return self.tasks[task].wrap(mapped, (mapped.shape[0], mapped.shape[1]))

    def has_label(self, index: int, task: str) -> bool:
        name, inner = self._places[index]
        part = self.parts[name]
        return task in part.tasks and part.dataset.has_label(inner, task)

    def labelled(self, task: str) -> int:
        return sum(part.dataset.labelled(task) for part in self.parts.values() if task in part.tasks)

    @property
    def splits(self) -> Sequence[str]:
        return list(dict.fromkeys(split for part in self.parts.values() for split in part.dataset.splits))

    def file(self, index: int, task: str | None = None) -> Path | None:
        name, inner = self._places[index]
        part = self.parts[name]
        return part.dataset.file(inner, task) if task is None or task in part.tasks else None

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, part in self.parts.items():
            maps = {task: table.tolist() for task, table in sorted(part.maps.items())}
            read = {layer: sorted(options.items()) for layer, options in sorted(part.read.items())}
            digest.update(repr((name, sorted(part.tasks), maps, read, part.dataset.fingerprint())).encode())
        return digest.hexdigest()


class RawIds(Semantic):
    """Stands for a task in a data set with other ids: reads masks as they are, whatever the ids in them.

    Args:
        task: for whose labels it stands.
        layer: where the data set has them.
    """

    def __init__(self, task: Task, layer: str) -> None:
        super().__init__(task.name, classes=IGNORE, ignore=IGNORE, source=layer)

    def read(self, path: Path) -> Tensor:
        return DenseMap(rasters.read_index(path))


def class_table(ids: Mapping[int, int | str], task: Task, where: str) -> Int16[Tensor, 65536]:
    """The class of every id of 16 bits; -1 for those that `ids` does not name, but for 255, which is not labelled.

    Args:
        ids: class by id; a class is its number, its name, or `ignore`.
        task: whose classes they are.
        where: the mapping's place in the config.

    Raises:
        ConfigError: a task that reads no masks of classes, an id beyond 16 bits, or an unknown class.
    """
    if task.reads != Semantic.kind:
        raise ConfigError(f"{where}: task {task.name!r} reads {task.reads}; expected one that reads masks of class ids")
    # a binary task has a name for the background too
    names: Sequence[str] = getattr(task, "names", None) or getattr(task, "classes", ())
    table = torch.full((_IDS,), _UNKNOWN, dtype=torch.int16)
    table[IGNORE] = IGNORE
    for id, wanted in ids.items():
        if not 0 <= id < _IDS:
            raise ConfigError(f"{where}: found id {id}; expected 0 to {_IDS - 1}")
        number = IGNORE if wanted == "ignore" else names.index(wanted) if wanted in names else wanted
        if not isinstance(number, int) or not (0 <= number < len(names) or number == IGNORE):
            raise ConfigError(f"{where}.{id}: found {wanted!r}; expected ignore or a class: {', '.join(names)}")
        table[id] = number
    return table


def classes_of(ids: Integer[Tensor, "H W"], table: Int16[Tensor, 65536]) -> UInt8[Tensor, "H W"]:
    """A mask of ids as one of classes. Raises DataError for ids that the table does not name."""
    ids = ids.long()
    inside = (ids >= 0) & (ids < len(table))
    mapped = torch.where(inside, table[torch.where(inside, ids, 0)], _UNKNOWN)
    if bool((mapped == _UNKNOWN).any()):
        found, pixels = torch.unique(ids[mapped == _UNKNOWN], return_counts=True)
        strays = zip(found.tolist()[:5], pixels.tolist(), strict=False)
        raise DataError(f"label id {', '.join(f'{id} ({count} pixels)' for id, count in strays)}")
    return mapped.to(torch.uint8)
