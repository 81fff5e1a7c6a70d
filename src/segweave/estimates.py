"""Means over seeds and images with intervals, and the relative gains of one network over others.

A result depends on the seed it was trained with and on the images it was measured on. Both are few. Of `values[s, r]`,
the result of seed `s` on resample `r` of the images, the mean over the seeds has the variance

    v = s_seeds^2 / S + s_images^2,

with `s_seeds` the standard deviation of the results over the seeds, on all images, and `s_images` that of the mean over
the seeds between resamples of the images (the bootstrap of Efron, Bootstrap methods: another look at the jackknife,
1979). All networks are resampled alike, so that differences are paired by seed and image. The interval is that of
Student's t with the degrees of freedom of Welch and Satterthwaite (Satterthwaite, An approximate distribution of
estimates of variance components, 1946): percentiles of a bootstrap over three seeds would be far too narrow
(Hesterberg, What teachers should know about the bootstrap, 2015, on small samples).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

LEVEL = 0.95
SHARED, SEPARATE = "multi-task", "separate"
"""Names of the ways to train that are compared: one network for all tasks, and one for each."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: over the seeds, on all images.
        low, high: its 95 % interval; nan where nothing tells it.
        each: the value of each seed.
        p: of the two-sided test that the mean is 0, from the same distribution; nan where there is no interval.
    """

    mean: float
    low: float
    high: float
    each: tuple[float, ...]
    p: float


def resamples(images: int, count: int, seed: int = 0) -> Int64[np.ndarray, "rows images"]:
    """How often each image counts: a row of ones, then `count` rows drawn with replacement."""
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(images, np.full(images, 1 / images), size=count) if images else np.zeros((count, 0))
    return np.concatenate([np.ones((1, images)), drawn]).astype(np.int64)


def estimate(values: Float64[np.ndarray, "seeds rows"], images: int) -> Estimate:
    """Of the results of every seed: on all images in the first column, on resamples of them in the others.

    Args:
        values: nan where a resample has nothing that defines the result; such a resample is left out.
        images: how many there were to draw from.
    """
    seeds = len(values)
    each, mean = tuple(values[:, 0].tolist()), float(values[:, 0].mean())
    drawn = values[:, 1:].mean(0)
    drawn = drawn[np.isfinite(drawn)]
    by_image = float(drawn.var(ddof=1)) if len(drawn) > 1 and images > 1 else math.nan
    by_seed = float(values[:, 0].var(ddof=1)) / seeds if seeds > 1 else math.nan
    parts = [(by_image, images - 1), (by_seed, seeds - 1)]
    parts = [(variance, freedom) for variance, freedom in parts if math.isfinite(variance)]
    variance = sum(variance for variance, _ in parts)
    if not parts or not math.isfinite(mean):
        return Estimate(mean, math.nan, math.nan, each, math.nan)
    if variance == 0:
        return Estimate(mean, mean, mean, each, float(mean == 0))
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    p = 2 * float(stats.t.sf(abs(mean) / math.sqrt(variance), freedom))
    return Estimate(mean, mean - reach, mean + reach, each, p)


def gain(
    new: Float64[np.ndarray, "seeds rows"], old: Float64[np.ndarray, "seeds rows"], higher_is_better: bool
) -> Float64[np.ndarray, "seeds rows"]:
    """The change of each seed in per cent of the old value's mean over the seeds, positive for better.

    Its mean over the seeds is then the relative change of the means. nan where the old mean is 0 or a value undefined.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        change = 100 * (new - old) / np.abs(old.mean(0))
    change = np.where(np.isfinite(change), change, np.nan)
    return change if higher_is_better else -change


def mean_gain(gains: Mapping[str, Float64[np.ndarray, "seeds rows"]]) -> Float64[np.ndarray, "seeds rows"]:
    """The mean over what is in `gains`, each in per cent and positive for better.

    Of the headline value of each task it is the Delta_m of Maninis et al., Attentive single-tasking of multiple tasks
    (2019). Of all metrics, with the sign changed, it is the Delta_m % of Navon et al., Multi-task learning
    as a bargaining game (2022), section 6, where lower is better.
    """
    return np.mean(np.stack(list(gains.values())), axis=0)
