"""A module of the user's own as an encoder, for the Python API."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segweave.backbones.backbone import Backbone
from segweave.errors import ConfigError


class CustomBackbone(Backbone):
    """Wraps a module that maps images [B, C, H, W] to a list of maps, finest first. It is tried out once.

    Args:
        body: the module.
        channels, strides: of its maps; a map of stride s is H / s by W / s for image sizes that s divides.
        mean, std: per band of images in [0, 1]; their number is that of the bands.

    Raises:
        ConfigError: maps of other channels or sizes than declared.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__()
        self.body = body
        self.channels, self.strides = list(channels), list(strides)
        self.names = [f"level{i}" for i in range(len(self.channels))]
        self.size_multiple = (max(self.strides), max(self.strides))
        self.mean, self.std = list(mean), list(std)
        self._try_out()

    def _try_out(self) -> None:
        height, width = 2 * max(self.strides), 3 * max(self.strides)
        was_training = self.body.training
        with torch.no_grad():
            levels = self.body.eval()(torch.zeros(1, len(self.mean), height, width))
        self.body.train(was_training)
        found = [tuple(level.shape[1:]) for level in levels]
        expected = [(c, height // s, width // s) for c, s in zip(self.channels, self.strides, strict=True)]
        if found != expected:
            raise ConfigError(f"encoder: an image of {height} x {width} gives maps {found}; declared were {expected}")

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.body(images))
