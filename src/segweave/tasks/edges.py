"""Edge detection: the probability that a pixel lies on an edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from segweave import rasters
from segweave.errors import ConfigError, DataError
from segweave.metrics.edges import EdgeMetric, in_levels
from segweave.tasks.edge_map import EdgeMap
from segweave.tasks.semantic import IGNORE, image_files
from segweave.tasks.task import CommonOptions, DenseHead, Legend, Prediction, Summary, Task

_NAMES = ("no edge", "edge")
_GREYS = [(value, value, value) for value in range(256)]
_EDGE, _UNLABELLED = (255, 200, 0), (128, 128, 128)
_RAMP = ((40, 40, 40), _EDGE)
_HIT, _FALSE, _MISSED = (0, 158, 115), (86, 180, 233), (235, 30, 40)
_VERDICTS = (("found", _HIT), ("false alarm", _FALSE), ("missed", _MISSED))
_MANY, _INSIDE = 0.3, 0.1


class Edges(Task):
    """Edges; annotation and target are uint8 [H, W]: 1 on an edge, 0 elsewhere, 255 where nothing is labelled.

    A file holds 0 and 1, and 255 for what is not labelled, as integers or as `.npy` or TIFF floats; any other value
    is refused without a `threshold`, and so is a file of 0 and 255 alone, which may mean either. An image has one map:
    where several people drew edges (BSDS), make one of theirs. Predictions are 8-bit grey PNG of 255 times the
    probability, as evaluations of edges read them.

    Args:
        name: the task's name.
        threshold: file values from it on are edges and lower ones are not, such as 128 for files of 0 and 255.
        ignore: file values that mean "not labelled", beside 255, which does unless there is a threshold.
        max_dist: how far from a true edge a predicted one may lie to count as found in the metric, as a share of the
            image's diagonal: 0.0075 for BSDS and PASCAL-Context, 0.011 for NYUv2.
        thresholds: how many probabilities the metric tries, 1 to 254; 99 in published numbers. With 33 an image of
            480 x 640 takes 0.1 to 0.4 s on one core: fewer, or a larger `train.validate_every`, where validation takes
            long.
        nms: whether the metric suppresses probabilities across their edges before it thins them, as published numbers
            are made. False for predictions that come suppressed.

    Raises:
        ConfigError: max_dist not above 0, or thresholds outside 1 to 254.
    """

    kind = "edges"
    losses = ("balanced_bce", "bce", "focal", "dice", "tversky")
    form = "map"
    fill = IGNORE
    reading = ("threshold", "ignore")

    def __init__(
        self,
        name: str,
        *,
        threshold: float | None = None,
        ignore: int | Sequence[int] | None = None,
        max_dist: float = 0.0075,
        thresholds: int = 33,
        nms: bool = True,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(name, **common)
        if not 0 < max_dist < 1:
            raise ConfigError(f"tasks.{name}.max_dist: found {max_dist}; expected a share between 0 and 1")
        if not 1 <= thresholds <= 254:
            raise ConfigError(f"tasks.{name}.thresholds: found {thresholds}; expected 1 to 254")
        self.threshold = threshold
        self.ignore = [ignore] if isinstance(ignore, int) else list(ignore or ())
        self.max_dist = max_dist
        self.thresholds = thresholds
        self.nms = nms
        self.build_criteria(ignore=IGNORE, first=1)

    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return EdgeMap(values)

    def read(self, path: Path) -> Tensor:
        floats = rasters.integer_bits(path) is None
        values = rasters.read_values(path) if floats else rasters.read_index(path).to(torch.int32)
        unlabelled = torch.isin(values, torch.tensor(self.ignore, dtype=values.dtype)) | values.isnan()
        if self.threshold is None:
            self._refuse(path, values[~unlabelled])
            unlabelled |= values == IGNORE
            edges = values == 1
        else:
            edges = values >= self.threshold
        return EdgeMap(edges.to(torch.uint8).masked_fill(unlabelled, IGNORE))

    def _refuse(self, path: Path, values: Tensor) -> None:
        """Raises DataError where values without a threshold do not say what an edge is."""
        if values.unique().tolist() == [0, IGNORE] and IGNORE not in self.ignore:
            raise DataError(
                f"{path}: every pixel is 0 or 255, and 255 means not labelled; set tasks.{self.name}.threshold: 128 "
                f"if 255 is an edge, or tasks.{self.name}.ignore: 255 if it is not labelled"
            )
        strays, pixels = values[(values != 0) & (values != 1) & (values != IGNORE)].unique(return_counts=True)
        if len(strays):
            found = ", ".join(f"{v:g} ({n} pixels)" for v, n in zip(strays[:5].tolist(), pixels.tolist(), strict=False))
            raise DataError(
                f"{path}: found {found}; expected 0, 1 on edges, and 255 where nothing is labelled; set "
                f"tasks.{self.name}.threshold to the least value of an edge"
            )

    def encode(self, annotation: Tensor) -> Tensor:
        return annotation.as_subclass(Tensor)

    def head(self, channels: Sequence[int], strides: Sequence[int]) -> nn.Module:  # noqa: ARG002
        return DenseHead(channels[0], 1)

    def activate(self, output: Tensor) -> Tensor:
        # softmax over (0, x) is the sigmoid of x: losses of several classes serve one logit
        return torch.cat([torch.zeros_like(output), output], 1)

    def soft(self, output: Tensor) -> Tensor:
        """Probability of an edge, [b, 1, H, W]."""
        return output.float().sigmoid()

    def decode(self, output: Tensor) -> Prediction:
        return {"edges": self.soft(output)[:, 0]}

    def metric(self) -> EdgeMetric:
        return EdgeMetric(IGNORE, self.max_dist, self.thresholds, self.nms)

    def write(self, folder: Path, id: str, prediction: Prediction) -> Path:
        path = folder / f"{id}.png"
        rasters.write_index(in_levels(prediction["edges"].cpu()), path, _GREYS)
        return path

    def predictions(self, folder: Path) -> dict[str, Callable[[], Prediction]]:
        def reader(path: Path) -> Callable[[], Prediction]:
            return lambda: {"edges": _probabilities(path)[None]}

        return {key: reader(path) for key, path in image_files(folder).items()}

    def describe(self, target: Tensor) -> Summary:
        edges, known = target == 1, target != IGNORE
        found, labelled = int(edges.sum()), int(known.sum())
        # a pixel whose eight neighbours are edges too: a minimum over each window of 3 x 3
        solid = -nn.functional.max_pool2d(-edges.float()[None], 3, 1, 1)
        doubts = []
        if not labelled:
            doubts.append("no pixel is labelled")
        elif not found:
            doubts.append("no pixel is an edge")
        elif found > _MANY * labelled:
            doubts.append(f"over {100 * _MANY:.0f} % of the labelled pixels are edges (regions, or inverted?)")
        elif solid.sum() > _INSIDE * found:
            doubts.append(
                f"over {100 * _INSIDE:.0f} % of the edge pixels lie inside thick lines (the metric wants all found)"
            )
        counts: dict[str, int] = dict(zip(_NAMES, (labelled - found, found), strict=True))
        return Summary("pixels", counts, labelled, target.numel(), doubts=doubts)

    def judge(self, summaries: Sequence[Summary]) -> Sequence[str]:
        shares = [summary.counts["edge"] / summary.labelled for summary in summaries if summary.labelled]
        many = sum(share > _MANY for share in shares)
        if 2 * many <= len(shares):
            return ()
        return [
            f"over {100 * _MANY:.0f} % of the pixels are edges in {many} of {len(shares)} images; if 0 is the edge, "
            f"invert the files; if these are regions, use kind: semantic"
        ]

    def draw(self, image: Tensor, prediction: Prediction) -> Tensor:
        """Edges over the darkened image, the brighter the more probable."""
        edges = prediction["edges"].cpu().float()
        share = edges.nan_to_num(0).clamp(0, 1)
        drawn = torch.lerp(0.5 * image.float(), _colour(_EDGE), share)
        return _bytes(torch.where(edges.isnan(), _colour(_UNLABELLED), drawn))

    def legend(self, prediction: Prediction) -> Legend:
        unlabelled = [("not labelled", _UNLABELLED)] if prediction["edges"].isnan().any() else []
        return Legend(unlabelled, bar=(0.0, 1.0, "probability"), ramp=_RAMP)

    def truth(self, target: Tensor) -> Prediction:
        return {"edges": (target == 1).float().masked_fill(target == IGNORE, torch.nan)}

    def draw_error(self, image: Tensor, prediction: Prediction, target: Tensor) -> Tensor:
        """Found, false and missed edges at the threshold that suits this image best, with the metric's tolerance."""
        target = target.cpu()
        best = self.metric().best_comparison(prediction["edges"].cpu(), target)
        drawn = 40 + 0.5 * image.float().mean(0, keepdim=True).expand(3, -1, -1)
        drawn = torch.where(target == IGNORE, _colour(_UNLABELLED), drawn)
        missed = (target == 1).numpy() & ~best.found
        layers = ((missed, _MISSED), (best.predicted & ~best.right, _FALSE), (best.right, _HIT))
        for pixels, colour in layers:
            drawn = torch.where(torch.from_numpy(pixels), _colour(colour), drawn)
        return _bytes(drawn)

    def error_legend(self, prediction: Prediction, target: Tensor) -> Legend:  # noqa: ARG002
        unlabelled = [("not labelled", _UNLABELLED)] if (target == IGNORE).any() else []
        return Legend(entries=[*_VERDICTS, *unlabelled])


def _probabilities(path: Path) -> Tensor:
    """A file of predictions, float32 [H, W] from 0 to 1. Raises DataError."""
    bits = rasters.integer_bits(path)
    if bits == 32:
        raise DataError(f"{path}: found 32-bit integers; expected 8 or 16 bits, or floats from 0 to 1")
    if bits is not None:
        return rasters.read_index(path).float() / (2**bits - 1)
    values = rasters.read_values(path)
    if not bool(((values >= 0) & (values <= 1)).all()):
        low, high = float(values.min()), float(values.max())
        raise DataError(f"{path}: found {low:g} to {high:g}; expected probabilities from 0 to 1")
    return values


def _colour(colour: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32)[:, None, None]


def _bytes(drawn: Tensor) -> UInt8[Tensor, "3 H W"]:
    return drawn.round().clamp(0, 255).to(torch.uint8)
