"""Monocular depth: metres along the optical axis for every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from segweave import rasters
from segweave.errors import ConfigError, DataError
from segweave.metrics.depth import DepthMetric
from segweave.tasks.maps import DenseMap
from segweave.tasks.ramp import ERROR_RAMP, UNKNOWN, coloured
from segweave.tasks.semantic import image_files
from segweave.tasks.task import CommonOptions, DenseHead, Legend, Prediction, Summary, Task

_WORST_SHOWN = 0.5
_RAMP = ((252, 253, 191), (254, 176, 120), (241, 96, 93), (183, 55, 121), (114, 31, 129), (44, 17, 95), (0, 0, 4))
_QUANTITY, _SPARSE, _SATURATED, _MEDIAN = "depth in m", 0.02, 0.1, 20_000


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
    losses = ("l1", "silog", "berhu", "gradient_matching")
    form = "map"
    fill = 0
    reading = ("units_per_metre",)

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
        self.units_option = f"tasks.{name}.units_per_metre"
        self.rescale = rescale
        self.build_criteria()

    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return DenseMap(values)

    def read(self, path: Path) -> Tensor:
        units = self.units_per_metre
        if units is None:
            bits = rasters.integer_bits(path)
            if bits is not None and bits != 16:
                raise DataError(f"{path}: {bits}-bit depth has no agreed unit; set {self.units_option} (1000 for mm)")
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

    def head(self, channels: Sequence[int], strides: Sequence[int]) -> nn.Module:  # noqa: ARG002
        return DenseHead(channels[0], 1)

    def activate(self, output: Tensor) -> Tensor:
        """Raw [b, 1, H, W] to metres [b, H, W]: a sigmoid on the logarithmic scale from `min_depth` to `max_depth`."""
        span = math.log(self.max_depth / self.min_depth)
        return self.min_depth * torch.exp(span * output[:, 0].float().sigmoid())

    def soft(self, output: Tensor) -> Tensor:
        """Logarithm of the metres, [b, 1, H, W]: its differences are relative ones, the same near and far."""
        return self.activate(output).log()[:, None]

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
                units = None if rasters.in_millimetres(path) else self.units_per_metre
                units = units or (1000.0 if bits else 1.0)
                return {"depth": (rasters.read_values(path) / units)[None]}

            return read

        return {key: reader(path) for key, path in image_files(folder).items()}

    def describe(self, target: Tensor) -> Summary:
        values = target.numpy()
        measured = values[values > 0]
        if not len(measured):
            return Summary("pixels", {}, 0, target.numel(), doubts=["nothing is measured"])
        # every so many of many values have the same median to three digits, at a tenth of the time
        middle = float(np.median(measured[:: max(1, len(measured) // _MEDIAN)]))
        low, high = float(measured.min()), float(measured.max())
        doubts = []
        if low == high:
            doubts.append("the same depth everywhere")
        elif (measured >= 0.999 * self.max_depth).mean() > _SATURATED:
            doubts.append(
                f"over {100 * _SATURATED:.0f} % of the depths are the largest, {self.max_depth:g} m (clipped?)"
            )
        if len(measured) < _SPARSE * target.numel():
            doubts.append(f"under {100 * _SPARSE:.0f} % of the pixels are measured")
        return Summary("pixels", {}, len(measured), target.numel(), {_QUANTITY: (low, middle, high)}, doubts)

    def judge(self, summaries: Sequence[Summary]) -> Sequence[str]:
        highest = max((s.values[_QUANTITY][2] for s in summaries if s.values), default=self.max_depth)
        if highest >= self.max_depth / 10:
            return ()
        return [
            f"no depth beyond {highest:.3g} m where {self.max_depth:g} m are expected; check "
            f"tasks.{self.name}.units_per_metre, or lower tasks.{self.name}.max_depth"
        ]

    def draw(self, image: Tensor, prediction: Prediction) -> Tensor:  # noqa: ARG002
        depth = prediction["depth"].cpu()
        low, high = self._range(prediction)
        return coloured((depth.log() - math.log(low)) / math.log(high / low), _RAMP, depth > 0)

    def legend(self, prediction: Prediction) -> Legend:
        low, high = self._range(prediction)
        unmeasured = [("not measured", UNKNOWN)] if (prediction["depth"] <= 0).any() else []
        return Legend(unmeasured, bar=(low, high, "m"), ramp=_RAMP)

    def _range(self, prediction: Prediction) -> tuple[float, float]:
        """Metres at the ends of the colours: those of `range` where it is there, else of the measured pixels."""
        if "range" in prediction:
            low, high = prediction["range"].tolist()
            return low, high
        measured = prediction["depth"][prediction["depth"] > 0].cpu()
        if not len(measured):
            return self.min_depth, self.max_depth
        low = max(float(measured.min()), self.min_depth)
        return low, max(float(measured.max()), low * 1.01)

    def truth(self, target: Tensor) -> Prediction:
        return {"depth": target}

    def beside(self, prediction: Prediction, truth: Prediction) -> Prediction:
        return {**prediction, "range": torch.tensor(self._range(truth), dtype=torch.float64)}

    def draw_error(self, image: Tensor, prediction: Prediction, target: Tensor) -> Tensor:  # noqa: ARG002
        """|predicted - true| / true, from 0 to 50 % and beyond."""
        depth, target = prediction["depth"].cpu(), target.cpu()
        return coloured((depth - target).abs() / target / _WORST_SHOWN, ERROR_RAMP, target > 0)

    def error_legend(self, prediction: Prediction, target: Tensor) -> Legend:  # noqa: ARG002
        unmeasured = [("not measured", UNKNOWN)] if (target <= 0).any() else []
        return Legend(unmeasured, bar=(0.0, 100 * _WORST_SHOWN, "% or more"), ramp=ERROR_RAMP)
