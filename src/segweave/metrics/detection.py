"""Mean average precision of boxes over a data set, by the rules of COCO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from segweave.metrics.metric import Metric

IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Ranges of area in square pixels, both ends included."""
_KEPT = 100
"""Boxes of one class in one image that count, the surest."""


class _Image(NamedTuple):
    """What one image adds to one class: scores [D] descending, and per size, IoU and box what became of it."""

    scores: np.ndarray
    hit: np.ndarray  # [sizes, ious, D]
    ignored: np.ndarray  # [sizes, ious, D]
    objects: np.ndarray  # [sizes]


class DetectionMetric(Metric):
    """map, map50, map75 and map_small / map_medium / map_large, between 0 and 1, as pycocotools computes them.

    map is the mean over classes and over IoU thresholds 0.50, 0.55, ... 0.95 of the average precision at 101 recalls;
    map50 and map75 are at one threshold; the sizes are by the true area: below 32^2, from 32^2 to 96^2 and above 96^2
    pixels. The 100 surest boxes of a class count in each image; crowds are matched any number of times and are neither
    hits nor misses. T.-Y. Lin et al., Microsoft COCO (2014), and the definition at cocodataset.org/#detection-eval. A
    class without objects is left out of the mean; without any at all the value is nan. Among boxes of exactly one score
    the images seen first come first, as there. What is kept of an image until `reset` grows with its boxes.

    Args:
        classes: names.
    """

    keys: ClassVar[Mapping[str, bool]] = dict.fromkeys(
        ("map", "map50", "map75", "map_small", "map_medium", "map_large"), True
    )
    headline = "map"

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.reset()

    def reset(self) -> None:
        self._seen: list[list[_Image]] = [[] for _ in self.classes]

    def update(self, prediction: Mapping[str, Tensor], target: Tensor) -> None:
        """Adds boxes [b, K, 4] (x1 y1 x2 y2), scores [b, K] and labels [b, K] (-1: none), and true boxes [b, N, 7]: x1
        y1 x2 y2, label (-1: none), crowd, area."""
        boxes, scores, labels = (
            prediction[key].detach().cpu().double().numpy() for key in ("boxes", "scores", "labels")
        )
        true = target.detach().cpu().double().numpy()
        for row in range(len(true)):
            for index in range(len(self.classes)):
                mine, objects = labels[row] == index, true[row][true[row][:, 4] == index]
                if mine.any() or len(objects):
                    self._seen[index].append(_match(boxes[row][mine], scores[row][mine], objects))

    def _precisions(self, index: int) -> np.ndarray:
        """Average precision of a class by size and IoU, [sizes, ious]; nan without an object of the size."""
        result = np.full((len(SIZES), len(IOUS)), np.nan)
        images = self._seen[index]
        if not images:
            return result
        scores = np.concatenate([image.scores for image in images])
        order = np.argsort(-scores, kind="mergesort")
        hit = np.concatenate([image.hit for image in images], 2)[..., order]
        ignored = np.concatenate([image.ignored for image in images], 2)[..., order]
        objects = np.stack([image.objects for image in images]).sum(0)
        for size in np.flatnonzero(objects):
            for iou in range(len(IOUS)):
                counted = ~ignored[size, iou]
                hits = np.cumsum(hit[size, iou] & counted)
                misses = np.cumsum(~hit[size, iou] & counted)
                result[size, iou] = _average(hits, misses, int(objects[size]))
        return result

    def compute(self) -> dict[str, float]:
        table = np.stack([self._precisions(index) for index in range(len(self.classes))])

        def mean(values: np.ndarray) -> float:
            return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")

        every = {f"map_{size}": mean(table[:, i]) for i, size in enumerate(SIZES) if size != "all"}
        return {"map": mean(table[:, 0]), "map50": mean(table[:, 0, 0]), "map75": mean(table[:, 0, 5])} | every

    def details(self) -> dict[str, Any]:
        """`per_class` {name: {map, map50, map_small, map_medium, map_large, boxes}} of the classes that occur, crowds
        not counted, and `absent_classes` of the others. Undefined values are None."""
        table = {}
        for index, name in enumerate(self.classes):
            count = int(sum(image.objects[0] for image in self._seen[index]))
            if not count:
                continue
            by_size = self._precisions(index)
            values = {"map": by_size[0].mean(), "map50": by_size[0, 0]}
            values |= {f"map_{size}": by_size[i].mean() for i, size in enumerate(SIZES) if size != "all"}
            plain = {key: None if np.isnan(value) else float(value) for key, value in values.items()}
            table[name] = plain | {"boxes": count}
        return {"per_class": table, "absent_classes": [name for name in self.classes if name not in table]}

    def merge(self, other: Metric) -> None:
        assert isinstance(other, DetectionMetric)
        for mine, theirs in zip(self._seen, other._seen, strict=True):
            mine += theirs


def _match(boxes: np.ndarray, scores: np.ndarray, objects: np.ndarray) -> _Image:
    """Matches the boxes of one class in one image, surest first, each to the free object of the highest IoU.

    Args:
        boxes, scores: [D, 4] and [D].
        objects: [N, 7], x1 y1 x2 y2, label, crowd, area.
    """
    order = np.argsort(-scores, kind="mergesort")[:_KEPT]
    boxes, scores = boxes[order], scores[order]
    crowd, area = objects[:, 5] > 0, objects[:, 6]
    overlaps = overlap(boxes, objects[:, :4], crowd)
    found = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    shape = (len(SIZES), len(IOUS), len(boxes))
    hit, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    totals = np.zeros(len(SIZES), int)
    for size, (low, high) in enumerate(SIZES.values()):
        aside = crowd | (area < low) | (area > high)
        totals[size] = (~aside).sum()
        taken = np.zeros((len(IOUS), len(objects)), bool)
        for box in range(len(boxes)):
            index, reached = _choose(overlaps[box], aside, taken, crowd)
            hit[size, :, box] = reached
            ignored[size, reached, box] = aside[index[reached]]
            taken[np.flatnonzero(reached), index[reached]] = True
        beyond = (found < low) | (found > high)
        ignored[size] |= ~hit[size] & beyond
    return _Image(scores, hit, ignored, totals)


def _choose(
    overlaps: np.ndarray, aside: np.ndarray, taken: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The object that a box is matched to at each IoU threshold, and whether there is one.

    One that counts comes before any that is set aside; of equal overlaps the last one is taken, as pycocotools does.
    """
    index, reached = np.zeros(len(IOUS), int), np.zeros(len(IOUS), bool)
    if not len(overlaps):
        return index, reached
    enough = overlaps >= np.minimum(IOUS, 1 - 1e-10)[:, None]
    free = enough & (~taken | crowd)
    for group in (~aside, aside):
        values = np.where(free & group, overlaps, -1.0)
        best = values.shape[1] - 1 - values[:, ::-1].argmax(1)
        there = ~reached & (values.max(1) >= 0)
        index, reached = np.where(there, best, index), reached | there
    return index, reached


def overlap(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of boxes [D, 4] and objects [N, 4], [D, N]; of a crowd the share of the box that lies in it."""
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, objects)]
    union = np.where(crowd[None], areas[0][:, None], areas[0][:, None] + areas[1][None] - shared)
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def _average(hits: np.ndarray, misses: np.ndarray, objects: int) -> float:
    """Mean over 101 recalls of the highest precision at that recall or a higher one."""
    recall = hits / objects
    precision = hits / np.maximum(hits + misses, np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, _RECALLS, side="left")
    return (
        float(np.where(place < len(envelope), envelope[np.minimum(place, len(envelope) - 1)], 0).mean())
        if len(envelope)
        else 0.0
    )
