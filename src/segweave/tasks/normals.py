"""Surface normals: the direction in which the surface behind every pixel faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median_low
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from segweave import rasters
from segweave.errors import ConfigError, DataError
from segweave.losses.cosine import unit
from segweave.metrics.normals import NormalsMetric, angle
from segweave.tasks.maps import DenseMap
from segweave.tasks.ramp import ERROR_RAMP, UNKNOWN, coloured
from segweave.tasks.semantic import image_files
from segweave.tasks.task import CommonOptions, DenseHead, Legend, Prediction, Summary, Task

_AXES = (("right", "left"), ("up", "down"), ("towards", "away"))
"""The directions of x, y and z, and their opposites."""
_SHORTEST, _LONGEST, _OFF = 0.5, 1.5, 0.1
_WORST_SHOWN = 45.0
_QUANTITY, _SPARSE, _AWAY, _MEDIAN = "degrees off the optical axis, towards the camera", 0.02, 100.0, 20_000


class NormalMap(DenseMap):
    """float32 [3, H, W], vectors x y z of which x points to the right; zero vectors are not labelled.

    As in every `DenseMap` the pixel whose centre is nearest counts, so that the length stays. A left-right flip negates
    x. A crop or another size turns no surface: the vectors stay those of the scene before the camera, also where the
    picture of it is stretched.
    """


class Normals(Task):
    """Unit vectors normal to the surfaces, in the camera's frame; annotation and target are float32 [3, H, W].

    x points to the right, y up and z towards the camera, so that a surface seen head-on has (0, 0, 1). Zero vectors are
    not labelled; nor are NaN and infinite ones. Predictions are unit vectors. The random scale of the augmentation
    leaves the vectors as they are: a longer lens brings a surface nearer but does not turn it.

    Files are `.npy` of floats from -1 to 1, [H, W, 3] or [3, H, W], or images with 8 or 16 bits of red, green and blue
    for x, y and z, where the value v stands for `2 v / max - 1`, max 255 or 65535. Lengths from 0.5 to 1.5 are brought
    to 1; other vectors, such as black, white and middle grey, which an integer cannot make exactly 0, are not labelled.

    Args:
        name: the task's name.
        axes: where the files' first, second and third value point: `right` or `left`, `up` or `down`, and `towards` the
            camera or `away` from it, in any order. [right, down, away] is OpenCV's frame, [right, down, towards] that
            of 2D-3D-S and Omnidata. Predictions are written in the same frame.

    Raises:
        ConfigError: axes that are not one of each pair.
    """

    kind = "normals"
    losses = ("cosine", "l1")
    form = "map"
    fill = 0
    reading = ("axes",)

    def __init__(
        self, name: str, *, axes: Sequence[str] = ("right", "up", "towards"), **common: Unpack[CommonOptions]
    ) -> None:
        super().__init__(name, **common)
        pairs = [[word for word in axes if word in pair] for pair in _AXES]
        if len(axes) != 3 or any(len(found) != 1 for found in pairs):
            raise ConfigError(
                f"tasks.{name}.axes: found {list(axes)}; expected three words: right or left, up or down, towards or "
                f"away, in the order of the files' values"
            )
        self.axes = list(axes)
        self._order = [self.axes.index(word) for (word,) in pairs]
        self._signs = torch.tensor([1.0 if pair[0] in self.axes else -1.0 for pair in _AXES])
        self.build_criteria()

    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return NormalMap(values)

    def read(self, path: Path) -> Tensor:
        vectors = rasters.read_vectors(path)
        length = vectors.norm(dim=0)
        known = (length >= _SHORTEST) & (length <= _LONGEST)
        blank = (vectors == vectors[:1]).all(0) & (length > _LONGEST)
        meant = (length >= _SHORTEST) & length.isfinite() & ~blank
        if 2 * int(((length - 1).abs() > _OFF)[meant].sum()) > int(meant.sum()):
            raise DataError(
                f"{path}: found vectors of length {length[meant].median():.3g} (median); expected length 1, as floats "
                f"from -1 to 1 or as integers v that stand for 2 v / max - 1. Is it a map of normals?"
            )
        return NormalMap(_normalised(self._into_frame(vectors).where(known, 0)))

    def _into_frame(self, vectors: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
        """From the axes of the files to x right, y up, z towards the camera."""
        return vectors[self._order] * self._signs[:, None, None]

    def encode(self, annotation: Tensor) -> Tensor:
        return _normalised(annotation.as_subclass(Tensor))

    def head(self, channels: Sequence[int], strides: Sequence[int]) -> nn.Module:  # noqa: ARG002
        return DenseHead(channels[0], 3)

    def activate(self, output: Tensor) -> Tensor:
        """Raw [b, 3, H, W] to unit vectors, float32."""
        return unit(output)

    def soft(self, output: Tensor) -> Tensor:
        """The unit vectors, [b, 3, H, W]."""
        return unit(output)

    def mirror(self, soft: Tensor) -> Tensor:
        return _mirrored(soft)

    def decode(self, output: Tensor) -> Prediction:
        return {"normals": unit(output)}

    def metric(self) -> NormalsMetric:
        return NormalsMetric()

    def write(self, folder: Path, id: str, prediction: Prediction) -> Path:
        path = folder / f"{id}.npy"
        vectors = prediction["normals"].cpu()
        values = torch.empty_like(vectors)
        values[self._order] = vectors * self._signs[:, None, None]
        rasters.write_vectors(values, path)
        return path

    def predictions(self, folder: Path) -> dict[str, Callable[[], Prediction]]:
        def reader(path: Path) -> Callable[[], Prediction]:
            return lambda: {"normals": self._into_frame(rasters.read_vectors(path))[None]}

        return {key: reader(path) for key, path in image_files(folder).items()}

    def describe(self, target: Tensor) -> Summary:
        known = (target != 0).any(0)
        vectors = target[:, known].numpy()
        count = vectors.shape[1]
        if not count:
            return Summary("pixels", {}, 0, known.numel(), doubts=["no pixel is labelled"])
        off = np.degrees(np.arccos(vectors[2].clip(-1, 1)))
        # every so many of many values have the same median to three digits, at a tenth of the time
        middle = float(np.median(off[:: max(1, count // _MEDIAN)]))
        doubts = []
        if (vectors == vectors[:, :1]).all():
            doubts.append("the same normal everywhere")
        if count < _SPARSE * known.numel():
            doubts.append(f"under {100 * _SPARSE:.0f} % of the pixels are labelled")
        span = (float(off.min()), middle, float(off.max()))
        return Summary("pixels", {}, count, known.numel(), {_QUANTITY: span}, doubts)

    def judge(self, summaries: Sequence[Summary]) -> Sequence[str]:
        middles = [summary.values[_QUANTITY][1] for summary in summaries if summary.values]
        if not middles or median_low(middles) < _AWAY:
            return ()
        return [
            f"the normals are {median_low(middles):.0f} degrees off the optical axis towards the camera (median), but "
            f"what is seen faces the camera; check tasks.{self.name}.axes, which are [{', '.join(self.axes)}]"
        ]

    def draw(self, image: Tensor, prediction: Prediction) -> Tensor:  # noqa: ARG002
        vectors = prediction["normals"].cpu().float()
        drawn = (127.5 + 127.5 * vectors.nan_to_num(0)).round().clamp(0, 255)
        return torch.where((vectors != 0).any(0), drawn, torch.tensor(UNKNOWN)[:, None, None]).to(torch.uint8)

    def legend(self, prediction: Prediction) -> Legend:
        entries = [
            ("right", (255, 128, 128)),
            ("left", (0, 128, 128)),
            ("up", (128, 255, 128)),
            ("down", (128, 0, 128)),
        ]
        return Legend([*entries, ("towards the camera", (128, 128, 255)), *_unlabelled(prediction["normals"])])

    def truth(self, target: Tensor) -> Prediction:
        return {"normals": target}

    def draw_error(self, image: Tensor, prediction: Prediction, target: Tensor) -> Tensor:  # noqa: ARG002
        """The angle between predicted and true, from 0 to 45 degrees and beyond."""
        vectors, target = prediction["normals"].cpu(), target.cpu()
        degrees = angle(vectors.movedim(0, -1), target.movedim(0, -1))
        return coloured(degrees / _WORST_SHOWN, ERROR_RAMP, (target != 0).any(0))

    def error_legend(self, prediction: Prediction, target: Tensor) -> Legend:  # noqa: ARG002
        return Legend(_unlabelled(target), bar=(0.0, _WORST_SHOWN, "degrees or more"), ramp=ERROR_RAMP)


def _normalised(vectors: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """At length 1; zero where a vector is zero, NaN or infinite."""
    length = vectors.norm(dim=0)
    return torch.where(length.isfinite() & (length > 0), vectors / length, 0.0)


def _mirrored(vectors: Float[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b 3 H W"]:
    """What a camera sees in a mirror: left and right change places, and x its sign."""
    return vectors.flip(-1) * vectors.new_tensor([-1.0, 1.0, 1.0])[:, None, None]


def _unlabelled(vectors: Float[Tensor, "3 H W"]) -> list[tuple[str, tuple[int, int, int]]]:
    return [] if (vectors != 0).any(0).all() else [("not labelled", UNKNOWN)]


@functional.register_kernel(functional.horizontal_flip, tv_tensor_cls=NormalMap)
def _flip(value: NormalMap) -> NormalMap:
    return NormalMap(_mirrored(value.as_subclass(Tensor)))
