"""Hard parameter sharing (Caruana 1997): one encoder for all tasks, one decoder for all or one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segweave.interactions.interaction import Features, Interaction


class Shared(Interaction):
    """Every head reads the shared decoder, a decoder of its own, or a level of the encoder.

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
        for task, level in self.reads.items():
            reader: Any = own.get(task, decoder)
            self.channels[task] = reader.channels if level is None else channels[level]

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
        """Where every task's own part begins; nowhere if some tasks share a decoder that others go round."""
        if decoded is None:
            return list(levels)
        shares = [level is None and task not in self.own for task, level in self.reads.items()]
        return [decoded] if all(shares) else []

    def private(self, task: str) -> list[nn.Parameter]:
        return list(self.own[task].parameters()) if task in self.own else []
