"""Average precision against pycocotools on the same boxes."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from segweave.metrics.detection import DetectionMetric

CLASSES = ["car", "person", "sign"]
Image = tuple[Tensor, Tensor, Tensor, Tensor]


def scene(rng: np.random.Generator, objects: int, found: int, side: float = 300, crowd: float = 0.1) -> Image:
    """True boxes [N, 7] and found ones, some of them near a true one; scores of few values, so that there are ties."""
    corner = rng.uniform(0, side, (objects, 2))
    size = np.exp(rng.uniform(np.log(4), np.log(side / 2), (objects, 2)))
    boxes = np.concatenate([corner, corner + size], 1)
    labels = rng.integers(0, len(CLASSES), objects)
    area = size.prod(1) * rng.uniform(0.4, 1.0, objects)
    true = np.column_stack([boxes, labels, rng.random(objects) < crowd, area])
    near = boxes[rng.integers(0, objects, found)] if objects else rng.uniform(0, side, (found, 4))
    shifted = near + rng.normal(0, 0.06, (found, 4)) * np.tile(near[:, 2:] - near[:, :2], 2)
    shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2] + 0.5)
    scores = rng.integers(1, 20, found) / 20
    of_class = labels[rng.integers(0, objects, found)] if objects else rng.integers(0, 3, found)
    of_class = np.where(rng.random(found) < 0.2, rng.integers(0, 3, found), of_class)
    return torch.from_numpy(true), torch.from_numpy(shifted), torch.from_numpy(scores), torch.from_numpy(of_class)


def reference(images: list[Image]) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' twelve numbers, and its precisions [iou, recall, class, size, detections]."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for id, (true, boxes, scores, labels) in enumerate(images, 1):
        for x1, y1, x2, y2, label, crowd, area in true.tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"image_id": id, "category_id": int(label) + 1, "bbox": box, "iscrowd": int(crowd), "area": area}
            annotations.append(entry | {"id": len(annotations) + 1})
        for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": id, "category_id": label + 1, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": id} for id in range(1, len(images) + 1)],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"]


def measured(images: list[Image], batch: int = 3) -> DetectionMetric:
    """Through padded batches."""
    metric = DetectionMetric(CLASSES)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        true = torch.full((len(part), max(len(i[0]) for i in part), 7), -1.0, dtype=torch.float64)
        most = max(len(i[1]) for i in part)
        boxes, scores = torch.zeros(len(part), most, 4, dtype=torch.float64), torch.zeros(len(part), most)
        scores, labels = scores.double(), torch.full((len(part), most), -1)
        for row, image in enumerate(part):
            true[row, : len(image[0])], boxes[row, : len(image[1])] = image[0], image[1]
            scores[row, : len(image[1])], labels[row, : len(image[1])] = image[2], image[3]
        metric.update({"boxes": boxes, "scores": scores, "labels": labels}, true)
    return metric


@pytest.mark.parametrize("seed", range(6))
def test_is_what_pycocotools_computes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [scene(rng, int(rng.integers(0, 25)), int(rng.integers(1, 60))) for _ in range(12)]
    stats, precision = reference(images)
    metric = measured(images)
    found = metric.compute()
    keys = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
    for key, expected in zip(keys, stats[:6], strict=True):
        assert found[key] == pytest.approx(expected, abs=1e-6), key
    table = metric.details()["per_class"]
    for index, name in enumerate(CLASSES):
        for key, size in (("map", 0), ("map_small", 1), ("map_medium", 2), ("map_large", 3)):
            values = precision[:, :, index, size, 2]
            expected = values[values > -1].mean() if (values > -1).any() else None
            assert table[name][key] == (None if expected is None else pytest.approx(expected, abs=1e-6)), (name, key)
        at_half = precision[0, :, index, 0, 2]
        assert table[name]["map50"] == pytest.approx(at_half[at_half > -1].mean(), abs=1e-6)
        assert table[name]["boxes"] == sum(int(((t[:, 4] == index) & (t[:, 5] == 0)).sum()) for t, *_ in images)


def test_thousands_of_boxes_and_more_than_count_in_an_image() -> None:
    rng = np.random.default_rng(0)
    images = [scene(rng, 1500, 3000, side=3000), scene(rng, 0, 40)]
    stats, _ = reference(images)
    assert measured(images).compute()["map"] == pytest.approx(stats[0], abs=1e-6)


def test_nothing_to_find_and_nothing_found() -> None:
    rng = np.random.default_rng(1)
    true, boxes, scores, labels = scene(rng, 5, 5, crowd=0)
    nothing = (boxes[:0], scores[:0], labels[:0])
    assert measured([(true, *nothing)]).compute()["map"] == 0
    empty = measured([(true[:0], boxes, scores, labels)])
    assert np.isnan(empty.compute()["map"])
    assert empty.details()["absent_classes"] == CLASSES
    only_crowds = true.clone()
    only_crowds[:, 5] = 1
    assert np.isnan(measured([(only_crowds, boxes, scores, labels)]).compute()["map"])


def test_a_box_worked_by_hand() -> None:
    """One object, found twice: the surer box has IoU 0.8, the other is right but comes too late."""
    true = torch.tensor([[0.0, 0, 10, 10, 0, 0, 100]]).double()
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 10]]).double()
    metric = measured([(true, boxes, torch.tensor([0.9, 0.8]).double(), torch.tensor([0, 0]))])
    # up to IoU 0.80 the first box is a hit (precision 1); above, the second one is, after one false (precision 1/2)
    assert metric.compute()["map"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert metric.compute()["map50"] == 1
