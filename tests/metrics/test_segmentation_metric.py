"""Segmentation scores against scikit-learn and torchmetrics, over any split into batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segweave.errors import DataError
from segweave.metrics.segmentation import SegmentationMetric

IGNORE = 255


@st.composite
def labels(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of classes, predicted and true labels [n, 2, 3]; some ignored, some predictions outside the classes."""
    classes = draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 5)), 2, 3)
    true = draw(arrays(np.int64, shape, elements=st.sampled_from([*range(classes), IGNORE])))
    predicted = draw(arrays(np.int64, shape, elements=st.sampled_from([*range(classes), -1, classes, IGNORE])))
    return classes, predicted, true


def metric_of(classes: int, *batches: tuple[np.ndarray, np.ndarray]) -> SegmentationMetric:
    metric = SegmentationMetric([str(i) for i in range(classes)], IGNORE)
    for predicted, true in batches:
        metric.update({"labels": torch.from_numpy(predicted)}, torch.from_numpy(true.astype(np.uint8)))
    return metric


@settings(max_examples=30, deadline=None)
@given(labels())
def test_is_scikit_learns(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    classes, predicted, true = case
    metric = metric_of(classes, (predicted, true))
    values, details = metric.compute(), metric.details()
    t, p = true[true != IGNORE], predicted[true != IGNORE]
    if not len(t):
        assert all(math.isnan(value) for value in values.values())
        return
    p = np.where((p < 0) | (p >= classes), classes, p)
    present = np.unique(t)
    confusion = sklearn.metrics.confusion_matrix(t, p, labels=range(classes + 1))
    assert details["confusion"] == confusion[:-1].tolist()
    options = {"labels": present, "average": "macro", "zero_division": 0}
    assert values["miou"] == pytest.approx(sklearn.metrics.jaccard_score(t, p, **options), abs=1e-12)
    assert values["mean_accuracy"] == pytest.approx(sklearn.metrics.recall_score(t, p, **options), abs=1e-12)
    options["average"] = "weighted"
    assert values["fwiou"] == pytest.approx(sklearn.metrics.jaccard_score(t, p, **options), abs=1e-12)
    assert values["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(t, p), abs=1e-12)
    assert values["outside"] == pytest.approx((p == classes).mean(), abs=1e-12)
    iou = sklearn.metrics.jaccard_score(t, p, labels=present, average=None, zero_division=0)
    recall = sklearn.metrics.recall_score(t, p, labels=present, average=None, zero_division=0)
    for name, i, r in zip(present.astype(str), iou, recall, strict=True):
        assert details["per_class"][name]["iou"] == pytest.approx(i, abs=1e-12)
        assert details["per_class"][name]["accuracy"] == pytest.approx(r, abs=1e-12)
        assert details["per_class"][name]["pixels"] == (t == int(name)).sum()
    assert details["absent_classes"] == [str(c) for c in range(classes) if c not in present]


@settings(max_examples=25, deadline=None)
@given(labels(), st.data())
def test_any_split_and_order_is_identical(case: tuple[int, np.ndarray, np.ndarray], data: st.DataObject) -> None:
    classes, predicted, true = case
    images = data.draw(st.permutations(range(len(true))))
    cut = data.draw(st.integers(0, len(images)))
    left = metric_of(classes, *((predicted[i : i + 1], true[i : i + 1]) for i in images[:cut]))
    right = metric_of(classes, (predicted[images[cut:]], true[images[cut:]]))
    first, second = data.draw(st.permutations([left, right]))
    first.merge(second)
    whole = metric_of(classes, (predicted, true))
    np.testing.assert_equal(first.compute(), whole.compute())
    assert first.details() == whole.details()


@pytest.mark.parametrize("classes", [2, 5])
def test_is_torchmetrics(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(0, classes, (6, 9, 11), generator=generator)
    noise = torch.randint(0, classes, true.shape, generator=generator)
    predicted = torch.where(torch.rand(true.shape, generator=generator) < 0.6, true, noise)
    true[torch.rand(true.shape, generator=generator) < 0.2] = IGNORE
    metric = metric_of(classes, (predicted.numpy(), true.numpy()))
    kinds = torchmetrics.classification
    options = {"num_classes": classes, "ignore_index": IGNORE}
    iou = kinds.MulticlassJaccardIndex(average="none", **options)(predicted, true)
    accuracy = kinds.MulticlassAccuracy(average="none", **options)(predicted, true)
    table = metric.details()["per_class"].values()
    assert [row["iou"] for row in table] == pytest.approx(iou.tolist(), abs=1e-6)
    assert [row["accuracy"] for row in table] == pytest.approx(accuracy.tolist(), abs=1e-6)
    confusion = kinds.MulticlassConfusionMatrix(**options)(predicted, true)
    assert metric.confusion[:, :-1].tolist() == confusion.tolist()
    values = metric.compute()
    for key, kind, average in (
        ("miou", kinds.MulticlassJaccardIndex, "macro"),
        ("fwiou", kinds.MulticlassJaccardIndex, "weighted"),
        ("pixel_accuracy", kinds.MulticlassAccuracy, "micro"),
        ("mean_accuracy", kinds.MulticlassAccuracy, "macro"),
    ):
        assert values[key] == pytest.approx(float(kind(average=average, **options)(predicted, true)), abs=1e-6), key


def test_is_not_the_mean_over_images() -> None:
    """IoU 1 on the 8 pixels of one image and 1 / 2 on the 4 of the other; their mean would be 3 / 4."""
    true, predicted = np.zeros((2, 1, 8), np.int64), np.zeros((2, 1, 8), np.int64)
    true[1, 0, 4:] = IGNORE
    predicted[1, 0, :2] = 1
    assert metric_of(2, (predicted, true)).compute()["miou"] == 10 / 12


def test_a_value_outside_the_classes_is_a_miss() -> None:
    metric = SegmentationMetric(["a", "b", "never"], IGNORE)
    metric.update({"labels": torch.tensor([[[0, IGNORE, 1, -3]]])}, torch.tensor([[[0, 0, 1, 1]]]))
    values = metric.compute()
    assert values["outside"] == 0.5
    assert values["miou"] == 0.5
    assert values["pixel_accuracy"] == 0.5
    assert metric.details()["absent_classes"] == ["never"]
    assert metric.details()["confusion"] == [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_a_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(DataError, match="1 pixels outside 0 to 1"):
        metric_of(2, (np.zeros((1, 1, 2), np.int64), np.array([[[0, 7]]])))
    with pytest.raises(DataError, match="expected"):
        metric_of(2, (np.zeros((1, 1, 2), np.int64), np.zeros((1, 1, 3), np.int64)))
