"""Hard parameter sharing (Caruana 1997): one encoder for all tasks, one decoder for all or one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segweave.interactions.interaction import Features, Interaction


class Shared(Interaction):
    """Every head reads the shared decoder, a decoder of its own, or a level of the encoder.

    A shared decoder that a single task reads belongs to that task, as its parameters do.

    Args:
        reads: by task: None for the shared decoder, a name in `own` for a decoder of its own, or a level's index.
        decoder: the shared decoder; None if no task reads it.
        own: decoders that belong to one task, by task.
        channels: of the encoder's levels, finest first.
    """

    def __init__(
        self,
        reads: Mapping[str, int | None],
        decoder: nn.Module | None,
        own: Mapping[str, nn.Module],
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.reads = dict(reads)
        self.decoder = decoder
        self.own = nn.ModuleDict(own)
        self.channels = {}
        self._levels: dict[str, tuple[int, ...]] = {}
        for task, level in self.reads.items():
            reader: Any = own.get(task, decoder)
            self.channels[task] = reader.channels if level is None else channels[level]
            self._levels[task] = tuple(reader.levels) if level is None else (level,)
        self._readers = [task for task, level in self.reads.items() if level is None and task not in own]

    def forward(self, levels: Sequence[Tensor]) -> Features:
        decoded = self.decoder(levels) if self.decoder is not None else None
        per_task: dict[str, list[Tensor]] = {}
        for task, level in self.reads.items():
            if level is not None:
                per_task[task] = [levels[level]]
            elif task in self.own:
                per_task[task] = [self.own[task](levels)]
            else:
                assert decoded is not None
                per_task[task] = [decoded]
        return Features(per_task, self._common(levels, decoded))

    def _common(self, levels: Sequence[Tensor], decoded: Tensor | None) -> list[Tensor]:
        """The tensors where every task's own part begins, if all tasks read the same ones."""
        if len(self._readers) > 1:
            # where others go round a decoder that some share, no tensor is read by all
            return [decoded] if decoded is not None and len(self._readers) == len(self.reads) else []
        same = len(set(self._levels.values())) == 1
        return [levels[i] for i in next(iter(self._levels.values()))] if same else []

    def private(self, task: str) -> list[nn.Parameter]:
        if task in self.own:
            return list(self.own[task].parameters())
        return list(self.decoder.parameters()) if self._readers == [task] and self.decoder is not None else []
