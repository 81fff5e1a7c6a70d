"""The network: backbone -> interaction -> heads -> `{task: raw output}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segweave.backbones import Encoder
from segweave.interactions.interaction import Features, Interaction
from segweave.tasks.task import Prediction, Task


class MultiTaskModel(nn.Module):
    """One encoder, several heads. Any image size in, that size out.

    Args:
        tasks: in the order of the outputs.
        encoder: the shared backbone.
        interaction: what stands between it and the heads.
        mean, std: per band, of images in [0, 1]; normalisation is part of the network.
        regularizers: beta by name, for the shared parameters and the encoder's levels.
        spec: plain values to rebuild the network from.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: Encoder,
        interaction: Interaction,
        mean: Sequence[float],
        std: Sequence[float],
        regularizers: Mapping[str, float] | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = {task.name: task for task in tasks}
        self.encoder = encoder
        self.interaction = interaction
        self.heads = nn.ModuleDict({task.name: task.head(interaction.channels[task.name]) for task in tasks})
        self.regularizers = dict(regularizers or {})
        self.spec = dict(spec or {})
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=True)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=True)

    def features(self, images: Float[Tensor, "B C H W"]) -> tuple[Features, list[Tensor]]:
        """Images in [0, 1] to what the heads read, and the encoder's levels."""
        normalised = (images - self.mean) / self.std
        height, width = images.shape[-2:]
        stride = max(self.encoder.strides)
        bottom, right = -height % stride, -width % stride
        if bottom or right:
            normalised = nn.functional.pad(normalised, (0, right, 0, bottom))
        levels = self.encoder(normalised)
        return self.interaction(levels), levels

    def outputs(
        self, features: Features, height: int, width: int, rows: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Raw output per task, of its `rows` only where given; tasks without a row are left out.

        Args:
            height, width: of the images, without padding.
            rows: int64 indices by task; None runs every head on every image.
        """
        stride = max(self.encoder.strides)
        padded = height + -height % stride, width + -width % stride
        outputs = {}
        for name, head in self.heads.items():
            maps = features.per_task[name][0]
            wanted = rows.get(name) if rows is not None else None
            if rows is not None and (wanted is None or len(wanted) == 0):
                continue
            if wanted is not None and len(wanted) < len(maps):
                maps = maps[wanted]
            output = head(maps, *padded)
            outputs[name] = output[..., :height, :width] if self.tasks[name].dense and output.ndim == 4 else output
        return outputs

    def forward(self, images: Float[Tensor, "B C H W"]) -> dict[str, Tensor]:
        """Images in [0, 1] to the raw output of every task, at the images' size."""
        features, _ = self.features(images)
        return self.outputs(features, images.shape[-2], images.shape[-1])

    @torch.inference_mode()
    def predict(self, images: Float[Tensor, "B C H W"]) -> dict[str, Prediction]:
        """Images in [0, 1] to decoded predictions per task."""
        return {name: self.tasks[name].decode(output) for name, output in self(images).items()}

    def private(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that only one task uses, by task."""
        return {name: [*self.interaction.private(name), *self.heads[name].parameters()] for name in self.tasks}

    def shared(self) -> list[nn.Parameter]:
        """Parameters that no single task owns."""
        owned = {id(p) for parameters in self.private().values() for p in parameters}
        return [p for p in self.parameters() if id(p) not in owned]

    def to(self, *args: Any, **kwargs: Any) -> MultiTaskModel:
        """Moves the network, and the class weights that its tasks' losses hold."""
        super().to(*args, **kwargs)
        for task in self.tasks.values():
            task.criteria.to(self.mean.device)
        return self
