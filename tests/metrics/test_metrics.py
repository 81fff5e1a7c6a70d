"""Metrics against scikit-learn and torchmetrics, over any split into batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics

from segweave.metrics.classification import ClassificationMetric
from segweave.metrics.depth import DepthMetric
from segweave.metrics.segmentation import SegmentationMetric


def labels(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 5, (6, 9, 11), generator=generator)
    noise = torch.randint(0, 5, (6, 9, 11), generator=generator)
    predicted = torch.where(torch.rand(6, 9, 11, generator=generator) < 0.6, target, noise)
    target[torch.rand(6, 9, 11, generator=generator) < 0.2] = 255
    return predicted, target.to(torch.uint8)


def test_segmentation_against_both_oracles() -> None:
    predicted, target = labels()
    metric, other = SegmentationMetric(list("abcde"), 255), SegmentationMetric(list("abcde"), 255)
    metric.update({"labels": predicted[:2]}, target[:2])
    other.update({"labels": predicted[2:]}, target[2:])
    metric.merge(other)
    values = metric.compute()
    known = target != 255
    t, p = target[known].numpy(), predicted[known].numpy()
    assert np.array_equal(metric.confusion[:, :-1].numpy(), sklearn.metrics.confusion_matrix(t, p))
    assert values["miou"] == pytest.approx(sklearn.metrics.jaccard_score(t, p, average="macro"), abs=1e-12)
    assert values["fwiou"] == pytest.approx(sklearn.metrics.jaccard_score(t, p, average="weighted"), abs=1e-12)
    assert values["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(t, p), abs=1e-12)
    assert values["mean_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(t, p), abs=1e-12)
    theirs = torchmetrics.classification.MulticlassJaccardIndex(5, ignore_index=255)(predicted, target.long())
    assert values["miou"] == pytest.approx(float(theirs), abs=1e-6)


def test_a_value_outside_the_classes_is_a_miss() -> None:
    metric = SegmentationMetric(["a", "b", "never"], 255)
    metric.update({"labels": torch.tensor([[[0, 255, 1, -3]]])}, torch.tensor([[[0, 0, 1, 1]]]))
    values = metric.compute()
    assert values["outside"] == 0.5
    assert values["miou"] == 0.5
    assert metric.details()["absent_classes"] == ["never"]


@pytest.mark.parametrize("classes", [2, 4])
def test_single_label_classification(classes: int) -> None:
    rng = np.random.default_rng(classes)
    target = rng.integers(0, classes, 60)
    scores = rng.integers(1, 4, (60, classes)).astype(float)  # few values: many ties
    scores /= scores.sum(1, keepdims=True)
    metric = ClassificationMetric([str(i) for i in range(classes)])
    for part in (slice(0, 13), slice(13, 60)):
        metric.update({"scores": torch.from_numpy(scores[part])}, torch.from_numpy(target[part]))
    values = metric.compute()
    decided = scores.argmax(1)
    auroc = sklearn.metrics.roc_auc_score(target, scores[:, 1] if classes == 2 else scores, multi_class="ovr")
    assert values["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(target, decided))
    assert values["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(target, decided, average="macro"))
    assert values["auroc"] == pytest.approx(auroc)


def test_multi_label_classification() -> None:
    rng = np.random.default_rng(3)
    target = rng.integers(0, 2, (40, 3)).astype(float)
    scores = rng.uniform(size=(40, 3)).round(1)
    metric = ClassificationMetric(list("abc"), multi_label=True)
    metric.update({"scores": torch.from_numpy(scores)}, torch.from_numpy(target))
    values = metric.compute()
    assert values["accuracy"] == pytest.approx(((scores > 0.5) == target).mean())
    assert values["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(target, scores > 0.5, average="macro"))
    assert values["auroc"] == pytest.approx(sklearn.metrics.roc_auc_score(target, scores, average="macro"))


def test_depth_by_formula() -> None:
    rng = np.random.default_rng(0)
    p, t = rng.uniform(0.5, 9, (4, 6, 6)), rng.uniform(0.5, 9, (4, 6, 6))
    t[rng.uniform(size=t.shape) < 0.3] = 0
    metric, other = DepthMetric(), DepthMetric()
    metric.update({"depth": torch.from_numpy(p[:1])}, torch.from_numpy(t[:1]))
    other.update({"depth": torch.from_numpy(p[1:])}, torch.from_numpy(t[1:]))
    metric.merge(other)
    p, t = p[t > 0], t[t > 0]
    ratio, d = np.maximum(p / t, t / p), np.log(p) - np.log(t)
    expected = {
        "abs_rel": (abs(p - t) / t).mean(),
        "sq_rel": ((p - t) ** 2 / t).mean(),
        "rmse": sklearn.metrics.root_mean_squared_error(t, p),
        "rmse_log": np.sqrt((d**2).mean()),
        "delta1": (ratio < 1.25).mean(),
        "delta2": (ratio < 1.25**2).mean(),
        "delta3": (ratio < 1.25**3).mean(),
        "silog": d.std(),
        "invalid": 0.0,
    }
    assert metric.compute() == pytest.approx(expected)


def test_bad_depth_predictions_are_counted() -> None:
    metric = DepthMetric(min_depth=0.5)
    metric.update({"depth": torch.tensor([[[math.nan, math.inf, 0.0, 2.0]]])}, torch.full((1, 1, 4), 2.0))
    values = metric.compute()
    assert values["invalid"] == 0.75
    assert values["abs_rel"] == pytest.approx(0.75 * 0.75)


@pytest.mark.parametrize("metric", [SegmentationMetric(["a"], 255), ClassificationMetric(["a", "b"]), DepthMetric()])
def test_no_data_is_nan(metric: object) -> None:
    assert all(math.isnan(value) for value in metric.compute().values())  # type: ignore[attr-defined]
