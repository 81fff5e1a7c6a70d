"""F-measure of edges at the best threshold of the data set (ODS) and of each image (OIS), after BSDS's protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, UInt8, UInt64
from torch import Tensor

from segweave.errors import DataError
from segweave.metrics.edge_matching import match, near
from segweave.metrics.metric import Metric
from segweave.metrics.thinning import suppress, thin

_LEVELS = 255
_WORD = 64
"""Thresholds that are thinned together, each a bit."""
_BETWEEN = 100
"""Points on the line between two thresholds' precision and recall, its ends among them."""


@dataclass(frozen=True)
class Comparison:
    """A prediction at one threshold: its edges, which of them are matched, and which true pixels they are matched to.

    Args:
        threshold: probability from which on a pixel is an edge.
        predicted: thinned, without unlabelled pixels.
        right: those of `predicted` that are matched.
        found: as many true pixels.
    """

    threshold: float
    predicted: Bool[np.ndarray, "H W"]
    right: Bool[np.ndarray, "H W"]
    found: Bool[np.ndarray, "H W"]


class EdgeMetric(Metric):
    """ods_f, ois_f, ods_precision and ods_recall, all between 0 and 1; nan without a true edge.

    The protocol of P. Arbelaez, M. Maire, C. Fowlkes & J. Malik, Contour detection and hierarchical image segmentation
    (2011), section 3.1, as `edgesEvalDir` of Dollar & Zitnick's toolbox has it, for one annotator an image. Per
    threshold: the prediction is suppressed across its edges (`suppress`), thresholded, thinned (`thin`) and matched one
    to one (`edge_matching`) with the labels, which are used as they are. Over the data set, precision is matched pixels
    by predicted ones, recall matched by true ones, and F their harmonic mean. ods_f is the largest F of one threshold
    for all, with precision and recall linear between neighbouring thresholds; ois_f is the F of the sums over images
    of the counts at each one's best threshold, the lowest of equal ones (the highest in an image without a true edge,
    which the published program does not foresee).

    Probabilities are rounded to 255ths first, as the 8-bit files of the field hold them, so that a prediction and its
    file get the same score. Predicted pixels that are not labelled do not count. A value that is NaN is 0.

    An image of 480 x 640 takes about 0.1 s at 33 thresholds and 0.3 s at 99 on one core where few pixels are
    probable, and 0.4 s and 0.7 s where most have some probability, as at the start of a training. Fewer thresholds
    lower ods_f by little, because it is interpolated between them.

    Args:
        ignore: true value that is not labelled.
        max_dist: how far apart matched pixels may be, as a share of the image's diagonal: 0.0075 for BSDS and
            PASCAL-Context, 0.011 for NYUv2.
        thresholds: how many, evenly from 0 to 1 without both; 99 in published numbers. At most 254.
        nms: suppress probabilities across their edges first, as published numbers of networks are made; False for
            predictions that are suppressed already.
    """

    keys: ClassVar[Mapping[str, bool]] = {"ods_f": True, "ois_f": True, "ods_precision": True, "ods_recall": True}
    headline = "ods_f"

    def __init__(self, ignore: int, max_dist: float = 0.0075, thresholds: int = 33, nms: bool = True) -> None:
        self.ignore = ignore
        self.max_dist = max_dist
        self.thresholds = np.arange(1, thresholds + 1) / (thresholds + 1)
        # the least integer v with v / 255 >= k / (thresholds + 1), exactly
        cuts = [-(-_LEVELS * k // (thresholds + 1)) for k in range(1, thresholds + 1)]
        self._least = cuts[0]
        self._words = [_bits(cuts[first : first + _WORD]) for first in range(0, thresholds, _WORD)]
        self.nms = nms
        self.reset()

    def reset(self) -> None:
        self.counts = np.zeros((len(self.thresholds), 3), np.int64)
        """Matched, predicted and true pixels by threshold."""
        self.best = np.zeros(3, np.int64)
        """The same at the best threshold of each image."""

    def update(self, prediction: Mapping[str, Tensor], target: Tensor) -> None:
        """Adds prediction["edges"], probabilities, and target, 0 or 1 for an edge or `ignore`; both [b, H, W].

        Raises:
            DataError: shapes that differ, or a target of another value.
        """
        edges, target = prediction["edges"].detach().cpu(), target.cpu()
        if edges.shape != target.shape:
            raise DataError(f"predicted edges {list(edges.shape)}; expected {list(target.shape)}")
        if stray := int(((target != 0) & (target != 1) & (target != self.ignore)).sum()):
            raise DataError(f"target: {stray} pixels that are neither 0, 1 nor {self.ignore}; expected no others")
        for values, labels in zip(edges, target, strict=True):
            _, chosen, joined = self._matchings(values, labels.numpy())
            counts = _counts(chosen, joined, int((labels == 1).sum()))
            self.counts += counts
            self.best += counts[_best_threshold(counts)]

    def best_comparison(self, edges: Float[Tensor, "H W"], target: Integer[Tensor, "H W"]) -> Comparison:
        """One image on the CPU at the threshold with its largest F."""
        places, chosen, joined = self._matchings(edges, target.numpy())
        true = (target == 1).numpy()
        best = _best_threshold(_counts(chosen, joined, int(true.sum())))
        right = joined[best] >= 0
        maps = []
        for pixels in (places[chosen[best]], places[right], np.flatnonzero(true)[joined[best][right]]):
            maps.append(np.zeros_like(true))
            maps[-1].flat[pixels] = True
        return Comparison(float(self.thresholds[best]), *maps)

    def _matchings(
        self, edges: Float[Tensor, "H W"], labels: Integer[np.ndarray, "H W"]
    ) -> tuple[Int[np.ndarray, " places"], Bool[np.ndarray, "thresholds places"], Int[np.ndarray, "thresholds places"]]:
        """One image at every threshold.

        Returns:
            The pixels that are predicted at some threshold, as indices into the flat image; which of them are at each;
            and the true pixel that each is matched to, by its place among the true ones, -1 for none.
        """
        values, known, true = self._values(edges), labels != self.ignore, labels == 1
        words = [thin(word[values]) * known for word in self._words]
        somewhere = np.bitwise_or.reduce(words) != 0
        bits = [word[somewhere] for word in words]
        levels = range(len(self.thresholds))
        chosen = np.stack([bits[k // _WORD] >> np.uint64(k % _WORD) & np.uint64(1) for k in levels]).astype(bool)
        # those of the highest thresholds first, so that all of the pixels at a threshold are among the first ones
        lasting = len(chosen) - 1 - chosen[::-1].argmax(0)
        order = np.argsort(-lasting, kind="stable")
        chosen = chosen[:, order]
        pairs = near(somewhere, true, self.max_dist * math.hypot(*true.shape))[order]
        joined = np.full(chosen.shape, -1)
        last = joined[0].copy()
        for k in reversed(levels):
            count = np.count_nonzero(lasting >= k)
            start = np.where(chosen[k], last, -2)[:count]
            last[:count] = match(pairs[:count], start).clip(-1)
            joined[k] = last
        return np.flatnonzero(somewhere)[order], chosen, joined

    def _values(self, edges: Float[Tensor, "H W"]) -> UInt8[np.ndarray, "H W"]:
        levels = in_levels(edges).numpy()
        if not self.nms:
            return levels
        return np.rint(suppress(levels / _LEVELS, self._least / _LEVELS) * _LEVELS).astype(np.uint8)

    def compute(self) -> dict[str, float]:
        if not self.best[2]:
            return dict.fromkeys(self.keys, math.nan)
        f, precision, recall, _ = self._data_set()
        best = _precision_recall_f(self.best[None])[2]
        return {"ods_f": f, "ois_f": float(best[0]), "ods_precision": precision, "ods_recall": recall}

    def _data_set(self) -> tuple[float, float, float, float]:
        """The largest F with its precision, recall and threshold."""
        precision, recall, _ = _precision_recall_f(self.counts)
        share = np.linspace(0, 1, _BETWEEN)
        lines = []
        for values in (precision, recall, self.thresholds):
            before = np.concatenate([values[:1], values[:-1]])
            lines.append(((1 - share) * before[:, None] + share * values[:, None]).ravel())
        f = _harmonic(lines[0], lines[1])
        at = int(f.argmax())
        return float(f[at]), float(lines[0][at]), float(lines[1][at]), float(lines[2][at])

    def details(self) -> dict[str, Any]:
        """`threshold` of ods_f, and `curve`: threshold, precision, recall and F of each, over the data set."""
        if not self.best[2]:
            return {"threshold": None, "curve": []}
        rows = np.stack([self.thresholds, *_precision_recall_f(self.counts)], 1)
        return {"threshold": self._data_set()[3], "curve": rows.tolist()}

    def merge(self, other: Metric) -> None:
        assert isinstance(other, EdgeMetric)
        self.counts += other.counts
        self.best += other.best


def in_levels(edges: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Probabilities as whole 255ths, what is outside 0 to 1 cut off."""
    return edges.nan_to_num(0, 1, 0).clamp(0, 1).mul(_LEVELS).round().to(torch.uint8)


def _bits(cuts: Sequence[int]) -> UInt64[np.ndarray, 256]:
    """For every level the cuts that it reaches, each as the bit of its place."""
    reached = np.arange(_LEVELS + 1)[:, None] >= np.array(cuts)
    return (reached.astype(np.uint64) << np.arange(len(cuts), dtype=np.uint64)).sum(1)


def _counts(
    chosen: Bool[np.ndarray, "thresholds places"], joined: Int[np.ndarray, "thresholds places"], true: int
) -> Int[np.ndarray, "thresholds 3"]:
    """Matched, predicted and true pixels by threshold, as `EdgeMetric._matchings` gives them."""
    return np.stack([(joined >= 0).sum(1), chosen.sum(1), np.full(len(joined), true)], 1)


def _harmonic(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).eps)


def _precision_recall_f(counts: Int[np.ndarray, "rows 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of matched, predicted and true pixels; 0 where nothing is predicted, or nothing true."""
    matched, predicted, true = np.moveaxis(counts, -1, 0)
    precision, recall = matched / np.maximum(predicted, 1), matched / np.maximum(true, 1)
    return precision, recall, _harmonic(precision, recall)


def _best_threshold(counts: Int[np.ndarray, "thresholds 3"]) -> int:
    """The first with the largest F; the last, with the fewest false alarms, where nothing is true."""
    return int(_precision_recall_f(counts)[2].argmax()) if counts[0, 2] else len(counts) - 1
