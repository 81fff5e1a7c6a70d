"""Hard parameter sharing (Caruana 1997): one encoder for all tasks, one decoder for all or one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segweave.decoders.decoder import Decoder
from segweave.interactions.interaction import Features, Interaction


class Shared(Interaction):
    """Every head reads the shared decoder, a decoder of its own, or a level of the encoder.

    Of a decoder, a head reads the map or the pyramid that the map is fused of. What a single task reads belongs to
    that task, as its parameters do: a decoder, or the fusing of a decoder whose pyramid others read.

    Args:
        reads: by task: `map` or `pyramid` of a decoder, or the index of a level of the encoder.
        decoder: the shared decoder; None if no task reads it.
        own: decoders that belong to one task, by task.
        channels, strides: of the encoder's levels, finest first.
    """

    def __init__(
        self,
        reads: Mapping[str, int | str],
        decoder: Decoder | None,
        own: Mapping[str, Decoder],
        channels: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.reads = dict(reads)
        self.decoder = decoder
        self.own = nn.ModuleDict(own)
        self.channels, self.strides = {}, {}
        self._levels: dict[str, tuple[int, ...]] = {}
        for task, place in self.reads.items():
            reader: Any = own.get(task, decoder)
            if isinstance(place, int):
                self.channels[task], self.strides[task] = [channels[place]], [strides[place]]
            elif place == "pyramid":
                self.channels[task], self.strides[task] = list(reader.pyramid_channels), list(reader.pyramid_strides)
            else:
                self.channels[task], self.strides[task] = [reader.channels], [reader.stride]
            self._levels[task] = (place,) if isinstance(place, int) else tuple(reader.levels)
        self._readers = [task for task, place in self.reads.items() if isinstance(place, str) and task not in own]
        self._of_map = [task for task in self._readers if self.reads[task] == "map"]
        fusing = {id(p) for p in decoder.fusing(channels, strides)} if decoder is not None else set()
        self._fusing = [name for name, p in (decoder.named_parameters() if decoder else ()) if id(p) in fusing]
        mapless = [own[task] for task, place in self.reads.items() if place == "pyramid" and task in own]
        mapless += [decoder] if decoder is not None and not self._of_map else []
        for parameter in (p for reader in mapless for p in reader.fusing(channels, strides)):
            parameter.requires_grad_(False)  # nobody reads the map that it helps to make

    def forward(self, levels: Sequence[Tensor]) -> Features:
        # as views, or a task's gradient at one level would run through the others
        pyramid = [level.view_as(level) for level in self.decoder.pyramid(levels)] if self.decoder is not None else []
        fused = [self.decoder.fuse(pyramid)] if self.decoder is not None and self._of_map else []
        per_task: dict[str, list[Tensor]] = {}
        for task, place in self.reads.items():
            if isinstance(place, int):
                per_task[task] = [levels[place]]
            elif task in self.own:
                own: Any = self.own[task]
                per_task[task] = own.pyramid(levels) if place == "pyramid" else [own(levels)]
            else:
                per_task[task] = pyramid if place == "pyramid" else fused
        return Features(per_task, self._common(levels, pyramid, fused))

    def compile(self, *args: Any, **options: Any) -> None:
        """As one graph; not at all where some tasks read a pyramid and others the map that is made of it.

        Their gradients at the pyramid would stay inside that graph.
        """
        if not 0 < len(self._of_map) < len(self._readers):
            super().compile(*args, **options)

    def _common(self, levels: Sequence[Tensor], pyramid: list[Tensor], fused: list[Tensor]) -> list[Tensor]:
        """The tensors where every task's own part begins, if all tasks read the same ones."""
        if len(self._readers) > 1:
            # where others go round a decoder that some share, no tensor is read by all
            if len(self._readers) < len(self.reads):
                return []
            return fused if len(self._of_map) == len(self._readers) else pyramid
        same = len(set(self._levels.values())) == 1
        return [levels[i] for i in next(iter(self._levels.values()))] if same else []

    def private(self, task: str) -> list[nn.Parameter]:
        if task in self.own:
            return list(self.own[task].parameters())
        if self.decoder is None or task not in self._readers:
            return []
        if self._readers == [task]:
            return list(self.decoder.parameters())
        return self._fusing_parameters() if self._of_map == [task] else []

    def between(self) -> list[nn.Parameter]:
        apart = len(self._readers) == len(self.reads) and 1 < len(self._of_map) < len(self._readers)
        return self._fusing_parameters() if apart else []

    def _fusing_parameters(self) -> list[nn.Parameter]:
        assert self.decoder is not None
        return [self.decoder.get_parameter(name) for name in self._fusing]
