"""Angular errors of surface normals over all labelled pixels of a data set (Fouhey, Gupta & Hebert 2013)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from segweave.metrics.metric import Metric, double

_LIMITS = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}
_SUMS = ("pixels", "angle", *_LIMITS, "invalid")
_STEP = 0.001
"""Degrees from one count of the histogram to the next."""


class NormalsMetric(Metric):
    """mean and median (degrees), within_11, within_22, within_30 and `invalid`.

    The error is the angle between the predicted and the true vector, from 0 to 180; lengths do not matter. within_11,
    within_22 and within_30 are the shares of pixels, between 0 and 1, with an error below 11.25, 22.5 and 30 degrees.
    All are over the data set's labelled pixels together, as LibMTL and the papers on NYUv2 compute them, not means of
    images or batches (MTAN's code averages over batches). The measures are those of D. F. Fouhey, A. Gupta & M. Hebert,
    Data-driven 3D primitives for single image understanding (2013).

    The errors are counted to the nearest thousandth of a degree, so the median is exact to 0.0005 degrees in 1.4 MB of
    memory whatever the size of the data; everything else is exact. Predictions that are NaN, infinite or of length 0
    are scored as 180 degrees; `invalid` is their share.
    """

    keys: ClassVar[Mapping[str, bool]] = {
        "mean": False,
        "median": False,
        "within_11": True,
        "within_22": True,
        "within_30": True,
        "invalid": False,
    }
    headline = "mean"
    unit = "degrees"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        self.counts = torch.zeros(round(180 / _STEP) + 1, dtype=torch.int64)

    def update(self, prediction: Mapping[str, Tensor], target: Tensor) -> None:
        """Adds prediction["normals"] and target, vectors [b, 3, H, W]; zero vectors where nothing is labelled."""
        vectors = prediction["normals"].movedim(1, -1)
        target = target.to(vectors.device).movedim(1, -1)
        known = (target != 0).any(-1)
        true, vectors = double(target[known]), double(vectors[known])
        valid = vectors.isfinite().all(-1) & (vectors != 0).any(-1)
        error = torch.where(valid, angle(vectors, true), 180.0)
        values = (torch.ones_like(error), error, *(error < limit for limit in _LIMITS.values()), ~valid)
        self.sums += torch.stack([value.sum(dtype=torch.float64) for value in values]).cpu()
        self.counts += torch.bincount((error / _STEP).round().long(), minlength=len(self.counts)).cpu()

    def compute(self) -> dict[str, float]:
        mean = dict(zip(_SUMS, (self.sums / self.sums[0]).tolist(), strict=True))
        shares = {key: mean[key] for key in (*_LIMITS, "invalid")}
        return {"mean": mean["angle"], "median": self._median(), **shares}

    def _median(self) -> float:
        pixels = int(self.counts.sum())
        if not pixels:
            return float("nan")
        middle = torch.tensor([(pixels - 1) // 2, pixels // 2])
        return float(torch.searchsorted(self.counts.cumsum(0), middle, right=True).double().mean() * _STEP)

    def merge(self, other: Metric) -> None:
        assert isinstance(other, NormalsMetric)
        self.sums += other.sums
        self.counts += other.counts


def angle(first: Float[Tensor, "*shape 3"], second: Float[Tensor, "*shape 3"]) -> Float64[Tensor, "*shape"]:
    """Degrees between vectors of any length; by the arc tangent, as the arc cosine loses small angles."""
    first, second = double(first), double(second)
    return torch.atan2(torch.linalg.cross(first, second).norm(dim=-1), (first * second).sum(-1)).rad2deg()
