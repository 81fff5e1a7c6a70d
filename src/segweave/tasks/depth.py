"""Monocular depth: metres along the optical axis for every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor, nn

from segweave import rasters
from segweave.errors import ConfigError, DataError
from segweave.metrics.depth import DepthMetric
from segweave.tasks.maps import DenseMap
from segweave.tasks.semantic import image_files
from segweave.tasks.task import CommonOptions, DenseHead, Legend, Prediction, Task

_RAMP = ((252, 253, 191), (254, 176, 120), (241, 96, 93), (183, 55, 121), (114, 31, 129), (44, 17, 95), (0, 0, 4))


class Depth(Task):
    """Metric depth; annotation and target are float32 [H, W] in metres with 0 where nothing is measured.

    Args:
        name: the task's name.
        max_depth: metres; measurements beyond it are not labels, and no prediction exceeds it.
        min_depth: metres; the same at the near end.
        units_per_metre: what a file's values are divided by. Without it 16-bit files are read as millimetres and
            floating-point files as metres; 8-bit files must declare it.
        rescale: divide depth by the zoom factor when an image is randomly scaled, as a longer lens would make things
            look nearer. False declares that depth does not depend on the zoom.

    Raises:
        ConfigError: not 0 < min_depth < max_depth, or units_per_metre not positive.
    """

    kind = "depth"
    losses = ("l1", "silog")
    fill = 0

    def __init__(
        self,
        name: str,
        *,
        max_depth: float = 80.0,
        min_depth: float = 0.1,
        units_per_metre: float | None = None,
        rescale: bool = True,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(name, **common)
        if not 0 < min_depth < max_depth:
            raise ConfigError(
                f"tasks.{name}: found min_depth {min_depth}, max_depth {max_depth}; expected 0 < min < max"
            )
        if units_per_metre is not None and not units_per_metre > 0:
            raise ConfigError(f"tasks.{name}.units_per_metre: found {units_per_metre}; expected a number above 0")
        self.max_depth = float(max_depth)
        self.min_depth = float(min_depth)
        self.units_per_metre = units_per_metre
        self.rescale = rescale
        self.build_criteria()

    def wrap(self, values: Tensor) -> Tensor:
        return DenseMap(values)

    def read(self, path: Path) -> Tensor:
        units = self.units_per_metre
        if units is None:
            bits = rasters.integer_bits(path)
            if bits is not None and bits != 16:
                raise DataError(
                    f"{path}: {bits}-bit depth has no agreed unit; set tasks.{self.name}.units_per_metre (1000 for mm)"
                )
            units = 1000.0 if bits == 16 else 1.0
        return DenseMap(self._valid(rasters.read_values(path) / units))

    def _valid(self, metres: Tensor) -> Tensor:
        # comparisons with NaN are false, so NaN, infinities, zeros and negatives all become "not measured"
        return torch.where((metres >= self.min_depth) & (metres <= self.max_depth), metres, 0.0)

    def zoom(self, annotation: Tensor, factor: float) -> Tensor:
        if not self.rescale:
            return annotation
        return DenseMap(self._valid(annotation.as_subclass(Tensor) / factor))

    def encode(self, annotation: Tensor) -> Tensor:
        return self._valid(annotation.as_subclass(Tensor))

    def head(self, channels: int) -> nn.Module:
        return DenseHead(channels, 1)

    def activate(self, output: Tensor) -> Tensor:
        """Raw [b, 1, H, W] to metres [b, H, W]: a sigmoid on the logarithmic scale from `min_depth` to `max_depth`."""
        span = math.log(self.max_depth / self.min_depth)
        return self.min_depth * torch.exp(span * output[:, 0].float().sigmoid())

    def decode(self, output: Tensor) -> Prediction:
        return {"depth": self.activate(output)}

    def metric(self) -> DepthMetric:
        return DepthMetric(self.min_depth)

    def write(self, folder: Path, id: str, prediction: Prediction) -> Path:
        path = folder / f"{id}.png"
        rasters.write_depth(prediction["depth"].cpu(), path)
        return path

    def predictions(self, folder: Path) -> dict[str, Callable[[], Prediction]]:
        def reader(path: Path) -> Callable[[], Prediction]:
            def read() -> Prediction:
                bits = rasters.integer_bits(path)
                units = self.units_per_metre if bits == 8 and self.units_per_metre else 1000.0 if bits else 1.0
                return {"depth": (rasters.read_values(path) / units)[None]}

            return read

        return {key: reader(path) for key, path in image_files(folder).items()}

    def draw(self, image: Tensor, prediction: Prediction) -> Tensor:  # noqa: ARG002
        depth = prediction["depth"].cpu()
        low, high = self._range(depth)
        position = ((depth.log() - math.log(low)) / math.log(high / low)).clamp(0, 1) * (len(_RAMP) - 1)
        below = position.floor().long().clamp(max=len(_RAMP) - 2)
        ramp = torch.tensor(_RAMP, dtype=torch.float32)
        share = (position - below)[..., None]
        return ((1 - share) * ramp[below] + share * ramp[below + 1]).permute(2, 0, 1).round().to(torch.uint8)

    def legend(self, prediction: Prediction) -> Legend:
        low, high = self._range(prediction["depth"].cpu())
        return Legend(bar=(low, high, "m"), ramp=_RAMP)

    def _range(self, depth: Tensor) -> tuple[float, float]:
        low = max(float(depth.min()), self.min_depth)
        return low, max(float(depth.max()), low * 1.01)
