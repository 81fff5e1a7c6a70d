"""Depth errors over all measured pixels of a data set (Eigen, Puhrsch & Fergus 2014, section 4.2; KITTI's SILog)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from segweave.metrics.metric import Metric, double

_SUMS = ("pixels", "abs_rel", "sq_rel", "square", "square_log", "log", "delta1", "delta2", "delta3", "invalid")


class DepthMetric(Metric):
    """abs_rel, sq_rel and rmse (metres), rmse_log, delta1 to delta3, silog and `invalid`.

    The errors are 0 or more, delta and `invalid` between 0 and 1, all over the data set's measured pixels: D. Eigen, C.
    Puhrsch & R. Fergus, Depth map prediction from a single image using a multi-scale deep network (2014), section 4.2.
    silog is `sqrt(mean(d^2) - mean(d)^2)`, d = log prediction - log target, not times 100: the root of their equation
    3, over the data set and not per image. delta k is the share of pixels whose
    `max(p / t, t / p)` is below 1.25^k. Predictions that are NaN, infinite or not above 0 are scored as `min_depth`;
    `invalid` is their share.

    Args:
        min_depth: metres, above 0.
    """

    keys: ClassVar[Mapping[str, bool]] = {
        "abs_rel": False,
        "sq_rel": False,
        "rmse": False,
        "rmse_log": False,
        "delta1": True,
        "delta2": True,
        "delta3": True,
        "silog": False,
        "invalid": False,
    }
    headline = "abs_rel"

    def __init__(self, min_depth: float = 1e-3) -> None:
        self.min_depth = min_depth
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(len(_SUMS), dtype=torch.float64)

    def update(self, prediction: Mapping[str, Tensor], target: Tensor) -> None:
        """Adds prediction["depth"] and target, metres [b, H, W]; target 0 where nothing is measured."""
        depth = prediction["depth"]
        target = target.to(depth.device)
        measured = target > 0
        true, depth = double(target[measured]), double(depth[measured])
        valid = depth.isfinite() & (depth > 0)
        depth = torch.where(valid, depth, self.min_depth)
        log = depth.log() - true.log()
        ratio = torch.maximum(depth / true, true / depth)
        error = depth - true
        values = (
            torch.ones_like(true),
            error.abs() / true,
            error.square() / true,
            error.square(),
            log.square(),
            log,
            ratio < 1.25,
            ratio < 1.25**2,
            ratio < 1.25**3,
            ~valid,
        )
        self.sums += torch.stack([value.sum(dtype=torch.float64) for value in values]).cpu()

    def compute(self) -> dict[str, float]:
        mean = dict(zip(_SUMS, (self.sums / self.sums[0]).tolist(), strict=True))
        variance = mean["square_log"] - mean["log"] ** 2
        return {
            "abs_rel": mean["abs_rel"],
            "sq_rel": mean["sq_rel"],
            "rmse": mean["square"] ** 0.5,
            "rmse_log": mean["square_log"] ** 0.5,
            "delta1": mean["delta1"],
            "delta2": mean["delta2"],
            "delta3": mean["delta3"],
            "silog": 0.0 if variance < 0 else variance**0.5,
            "invalid": mean["invalid"],
        }

    def merge(self, other: Metric) -> None:
        assert isinstance(other, DepthMetric)
        self.sums += other.sums
