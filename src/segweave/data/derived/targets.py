"""A data set with the labels that are made of its others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Integer
from torch import Tensor

from segweave import rasters
from segweave.batch import Sample
from segweave.data.dataset import Dataset, Wrapper
from segweave.data.derived import DERIVATIONS
from segweave.data.derived.derivation import UNLABELLED, Derivation
from segweave.errors import DataError
from segweave.tasks.maps import DenseMap
from segweave.tasks.semantic import IGNORE, Semantic
from segweave.tasks.task import Task


@dataclass(frozen=True)
class Target:
    """A task whose labels are derived.

    Args:
        task: it.
        source: the name of the reader in the inner data set whose labels they are made of.
        derivation: how.
        own: by data set, how in those whose files hold other values.
    """

    task: Task
    source: str
    derivation: Derivation
    own: Mapping[str, Derivation] = field(default_factory=dict)

    @property
    def how(self) -> str:
        """The name of the derivation, and below it all its options that have a value, one a line."""
        assert self.task.derivation is not None
        name, given = self.task.derivation
        options = {key: default for key, (_, default) in DERIVATIONS.options(name).items()} | dict(given)
        return "\n".join([name, *_listed({key: value for key, value in options.items() if value is not None})])


class Derived(Wrapper):
    """A data set of any format and what is derived of its labels, as they are in the files: before any augmentation.

    An image has a derived label where it has that which it is made of.

    Args:
        dataset: it, whose readers are those of `tasks` that read files and those of the sources.
        tasks: the names of those whose labels it has itself; its other readers are sources alone.
        targets: the derived ones.
    """

    def __init__(self, dataset: Dataset, tasks: Sequence[str], targets: Sequence[Target]) -> None:
        super().__init__(dataset)
        self.tasks = tasks
        self.targets = {target.task.name: target for target in targets}

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        annotations = {task: sample.annotations[task] for task in self.tasks if task in sample.annotations}
        for name, target in self.targets.items():
            if target.source in sample.annotations:
                annotations[name] = self._made(index, target, sample.annotations[target.source])
        return Sample(sample.id, sample.image, annotations)

    def annotation(self, index: int, task: str) -> Tensor | None:
        if task not in self.targets:
            return self.dataset.annotation(index, task)
        target = self.targets[task]
        label = self.dataset.annotation(index, target.source)
        return None if label is None else self._made(index, target, label)

    def _made(self, index: int, target: Target, label: Tensor) -> Tensor:
        plain = label.as_subclass(Tensor)
        name = next(name for name, places in self.sets.items() if index in places)
        derivation = target.own.get(name, target.derivation)
        kind = derivation.source.kind
        size = (plain.shape[0], plain.shape[1])
        try:
            return target.task.wrap(derivation(plain if kind == "metres" else _ids(plain, kind)), size)
        except DataError as error:
            file = self.dataset.file(index, target.source) or self.ids[index]
            raise DataError(f"{file}: derived for task {target.task.name!r}: {error}") from None

    def _read_as(self, task: str) -> str:
        return self.targets[task].source if task in self.targets else task

    def has_label(self, index: int, task: str) -> bool:
        return self.dataset.has_label(index, self._read_as(task))

    def labelled(self, task: str) -> int:
        return self.dataset.labelled(self._read_as(task))

    def file(self, index: int, task: str | None = None) -> Path | None:
        return self.dataset.file(index, None if task is None else self._read_as(task))

    def fingerprint(self) -> str:
        made = [(name, target.task.derive, target.task.source) for name, target in sorted(self.targets.items())]
        return hashlib.sha256(repr((self.dataset.fingerprint(), made)).encode()).hexdigest()


def _listed(options: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines of `key: value`; those of a mapping stand indented below its key."""
    lines = []
    for key, value in options.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_listed(value, indent + "  ")]
        else:
            values = value if isinstance(value, list | tuple) else [value]
            lines.append(f"{indent}{key}: {', '.join(map(str, values))}")
    return lines


def _ids(values: Integer[Tensor, "H W"], kind: str) -> Tensor:
    """Ids with `UNLABELLED` for what annotations of classes call 255; every id of instances is one."""
    ids = values.to(torch.int32)
    return ids if kind == "instances" else ids.masked_fill(ids == IGNORE, UNLABELLED)


class LayerIds(Semantic):
    """Reads a layer that no task reads: masks of ids, of classes or of instances, as they are.

    Args:
        name: of the first task whose labels are made of them.
        layer: where the data has them.
        kind: of the layer, `semantic` or `instances`.
    """

    def __init__(self, name: str, layer: str, kind: str) -> None:
        super().__init__(name, classes=IGNORE, ignore=IGNORE, source=layer)
        self.reads = kind

    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return DenseMap(values)

    def read(self, path: Path) -> Tensor:
        return DenseMap(rasters.read_index(path))
