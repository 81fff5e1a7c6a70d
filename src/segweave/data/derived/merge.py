"""Classes of others: some together, or one against the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from segweave.data.derived.derivation import UNLABELLED, Derivation, Source
from segweave.errors import ConfigError
from segweave.tasks.semantic import IGNORE, Semantic
from segweave.tasks.task import Task


class Merge(Derivation):
    """Classes that hold several of the source's; for `semantic`, also of a single class.

    Args:
        into: by class of the task, the source's classes (names or ids) that it stands for, such as
            `{vehicle: [car, bus], person: [pedestrian, rider]}`. A task of a single class has `background` too.
        rest: the class of what `into` does not name, or `ignore`: not labelled. Unlabelled pixels stay so.

    Raises:
        ConfigError: a class that the task or the source does not have, or one that is named twice.
    """

    gives = "semantic"
    takes = ("classes",)

    def __init__(
        self,
        task: Task,
        source: Source,
        *,
        into: Mapping[str, Sequence[str | int]],
        rest: str = "ignore",
    ) -> None:
        super().__init__(task, source, "merge")
        assert isinstance(task, Semantic)
        self._table: dict[int, int] = {}
        for name, members in into.items():
            place = self._class(name, task, f"into.{name}")
            for member in members:
                id = self._id(member, name)
                if id in self._table:
                    raise ConfigError(f"{self.where}.into.{name}: {member!r} is named twice; expected it once")
                self._table[id] = place
        self._rest = IGNORE if rest == "ignore" else self._class(rest, task, "rest")

    def _class(self, name: str, task: Semantic, key: str) -> int:
        if name not in task.names:
            raise ConfigError(f"{self.where}.{key}: found {name!r}; the task has {', '.join(task.names)}")
        return list(task.names).index(name)

    def _id(self, member: str | int, name: str) -> int:
        names = list(self.source.names)
        if member in names:
            return names.index(str(member))
        if not isinstance(member, int) or member < 0 or (names and member >= len(names)):
            known = f"has {', '.join(names)}" if names else "has no names: expected ids"
            raise ConfigError(f"{self.where}.into.{name}: found {member!r}; {self.source.name!r} {known}")
        return member

    def __call__(self, values: Tensor) -> Tensor:
        highest = max(int(values.max()), *self._table, 0)
        table = torch.full((highest + 2,), self._rest, dtype=torch.uint8)
        table[list(self._table)] = torch.tensor(list(self._table.values()), dtype=torch.uint8)
        table[UNLABELLED] = IGNORE  # -1, the last entry, which no id has
        return table[values.long()]
