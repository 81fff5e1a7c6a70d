"""The regularisers of a network, each with what it reads of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from segweave.batch import Batch
from segweave.interactions.interaction import Features
from segweave.model import MultiTaskModel
from segweave.regularizers import REGULARIZERS
from segweave.regularizers.regularizer import Part, Regularizer


class Penalties:
    """Sum of beta R over the tasks and the shared part of a network."""

    def __init__(self, model: MultiTaskModel) -> None:
        self._model = model
        private = model.private()
        self._owners = [(name, task.regularizers, private[name]) for name, task in model.tasks.items()]
        self._owners.append(("shared", model.regularizers, model.shared()))
        names = {name for _, betas, _ in self._owners for name in betas}
        self._built: dict[str, Regularizer] = {name: REGULARIZERS.load(name)() for name in sorted(names)}
        self._soft = self._tasks(lambda regularizer: regularizer.soft)
        self._twice = self._tasks(lambda regularizer: regularizer.twice)

    def _tasks(self, asks: Callable[[Regularizer], bool]) -> list[str]:
        owners = [owner for owner, betas, _ in self._owners if any(asks(self._built[name]) for name in betas)]
        return [owner for owner in owners if owner in self._model.tasks]

    def rows(self, batch: Batch) -> dict[str, Int64[Tensor, " b"]]:
        """The images whose output each task is to give: the labelled ones, or all where a regulariser reads them."""
        labelled = {name: target.rows for name, target in batch.targets.items()}
        return labelled | dict.fromkeys(self._soft, torch.arange(len(batch), device=batch.images.device))

    def labelled(self, batch: Batch, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of outputs for these rows, the ones that belong to the targets."""
        rows = {name: target.rows for name, target in batch.targets.items() if name in outputs}
        return {name: outputs[name][own] if name in self._soft else outputs[name] for name, own in rows.items()}

    def __call__(
        self,
        batch: Batch,
        features: Features,
        levels: Sequence[Tensor],
        outputs: Mapping[str, Tensor],
        share: float,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """What is added to the losses of a micro-batch, and its parts by `owner/name`.

        Args:
            batch, features, levels: what went through the network, what the heads read of it, the encoder's levels.
            outputs: raw, for `rows`.
            share: of the effective batch's images that are in this micro-batch, so that accumulation changes nothing.
        """
        total = levels[0].new_zeros((), dtype=torch.float32)
        values = {}
        mirrored = cache(partial(self._mirrored, batch))
        for owner, betas, parameters in self._owners:
            if not betas:
                continue
            own = features.per_task.get(owner, levels)
            if owner == "shared":
                part = Part(parameters, own, batch.images, projections=self._projections(features))
            else:
                soft = cache(partial(self._soften, owner, outputs))
                part = Part(parameters, own, batch.images, soft, partial(self._back, owner, mirrored))
            for name, beta in betas.items():
                value = share * beta * self._built[name](part).to(total)
                total = total + value
                values[f"{owner}/{name}"] = value.detach()
        return total, values

    def _soften(self, task: str, outputs: Mapping[str, Tensor]) -> Tensor:
        return self._model.tasks[task].soft(outputs[task])

    def _back(self, task: str, mirrored: Callable[[], Mapping[str, Tensor]]) -> Tensor:
        return self._model.tasks[task].mirror(self._soften(task, mirrored()))

    def _mirrored(self, batch: Batch) -> dict[str, Tensor]:
        """Raw outputs for the mirrored images, of the tasks that are to be consistent."""
        rows = torch.arange(len(batch), device=batch.images.device)
        with keep_statistics(self._model):
            features, _ = self._model.features(batch.images.flip(-1))
            height, width = batch.images.shape[-2:]
            return self._model.outputs(features, height, width, dict.fromkeys(self._twice, rows))

    def _projections(self, features: Features) -> list[list[Float[Tensor, "_ _"]]]:
        """The first weights of the heads that read a single tensor, by that tensor."""
        groups: dict[int, list[Tensor]] = {}
        for task, maps in features.per_task.items():
            width = maps[0].shape[1]
            weights = [p for p in self._model.heads[task].parameters() if p.ndim >= 2 and p.shape[1] == width]
            if len(maps) == 1 and weights:
                groups.setdefault(id(maps[0]), []).append(weights[0].movedim(1, -1).flatten(0, -2))
        return list(groups.values())


@contextmanager
def keep_statistics(model: nn.Module) -> Iterator[None]:
    """Normalisation takes the statistics of what goes through it and leaves its running ones alone."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    # those in evaluation read their running statistics whatever this says
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
