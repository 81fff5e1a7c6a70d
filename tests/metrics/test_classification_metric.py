"""Classification scores against scikit-learn and torchmetrics, over any split into batches."""

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

from segweave.metrics.classification import ClassificationMetric

FEW = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])  # many ties


@st.composite
def single(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    classes, images = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    scores = draw(arrays(np.float64, (images, classes), elements=FEW))
    return scores, draw(arrays(np.int64, images, elements=st.integers(-1, classes - 1)))


@st.composite
def multiple(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = (draw(st.integers(1, 8)), draw(st.integers(1, 4)))
    scores = draw(arrays(np.float64, shape, elements=FEW))
    return scores, draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0, -1.0])))


def metric_of(*batches: tuple[np.ndarray, np.ndarray]) -> ClassificationMetric:
    scores, target = batches[0]
    metric = ClassificationMetric([str(i) for i in range(scores.shape[1])], multi_label=target.ndim == 2)
    for scores, target in batches:
        metric.update({"scores": torch.from_numpy(scores)}, torch.from_numpy(target))
    return metric


def auroc(truth: np.ndarray, scores: np.ndarray) -> float:
    return sklearn.metrics.roc_auc_score(truth, scores) if 0 < truth.sum() < len(truth) else math.nan


def mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=30, deadline=None)
@given(single())
def test_single_label_is_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, target = case
    metric = metric_of(case)
    values, details = metric.compute(), metric.details()
    scores, target = scores[target >= 0], target[target >= 0]
    if not len(target):
        assert all(math.isnan(value) for value in values.values())
        return
    decided, present, classes = scores.argmax(1), np.unique(target), scores.shape[1]
    f1 = sklearn.metrics.f1_score(target, decided, labels=present, average=None, zero_division=0)
    areas = [auroc(target == c, scores[:, c]) for c in range(classes)]
    assert values["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(target, decided))
    assert values["macro_f1"] == pytest.approx(f1.mean())
    assert values["auroc"] == pytest.approx(areas[1] if classes == 2 else mean(areas), nan_ok=True)
    assert values["invalid"] == 0
    assert [row["f1"] for row in details["per_class"].values()] == pytest.approx(f1)
    assert list(details["per_class"]) == present.astype(str).tolist()
    confusion = sklearn.metrics.confusion_matrix(target, decided, labels=range(classes))
    assert [row[:-1] for row in details["confusion"]] == confusion.tolist()
    assert all(row[-1] == 0 for row in details["confusion"])


@settings(max_examples=30, deadline=None)
@given(multiple())
def test_multi_label_is_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, target = case
    values = metric_of(case).compute()
    known = target >= 0
    columns = [(target[known[:, c], c], scores[known[:, c], c]) for c in range(target.shape[1])]
    f1 = [sklearn.metrics.f1_score(t, s > 0.5, zero_division=0) for t, s in columns if t.sum()]
    right = ((scores > 0.5) == target)[known]
    assert values["accuracy"] == pytest.approx(right.mean() if len(right) else math.nan, nan_ok=True)
    assert values["macro_f1"] == pytest.approx(mean(f1), nan_ok=True)
    assert values["auroc"] == pytest.approx(mean([auroc(t, s) for t, s in columns]), nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(single() | multiple(), st.data())
def test_any_split_and_order_is_identical(case: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    scores, target = case
    spoilt = data.draw(arrays(np.bool_, scores.shape, elements=st.booleans()))
    scores = np.where(spoilt, math.nan, scores)
    images = data.draw(st.permutations(range(len(target))))
    cut = data.draw(st.integers(0, len(images) - 1))
    empty = (scores[:0], target[:0])
    left = metric_of(empty, *((scores[i : i + 1], target[i : i + 1]) for i in images[:cut]))
    right = metric_of((scores[images[cut:]], target[images[cut:]]))
    first, second = data.draw(st.permutations([left, right]))
    first.merge(second)
    whole = metric_of((scores, target))
    np.testing.assert_equal(first.compute(), whole.compute())
    assert first.details() == whole.details()


@pytest.mark.parametrize("classes", [3, 5])
def test_single_label_is_torchmetrics(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    scores = torch.rand(80, classes, generator=generator).softmax(1)
    target = torch.randint(-1, classes, (80,), generator=generator)
    values = metric_of((scores.numpy(), target.numpy())).compute()
    kinds, options = torchmetrics.classification, {"num_classes": classes, "ignore_index": -1}
    for key, kind in (
        ("accuracy", kinds.MulticlassAccuracy(average="micro", **options)),
        ("macro_f1", kinds.MulticlassF1Score(**options)),
        ("auroc", kinds.MulticlassAUROC(**options)),
    ):
        assert values[key] == pytest.approx(float(kind(scores, target)), abs=1e-6), key


def test_multi_label_is_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(80, 4, generator=generator)
    target = torch.randint(-1, 2, (80, 4), generator=generator)
    values = metric_of((scores.numpy(), target.double().numpy())).compute()
    kinds, options = torchmetrics.classification, {"num_labels": 4, "ignore_index": -1}
    for key, kind in (
        ("accuracy", kinds.MultilabelAccuracy(average="micro", **options)),
        ("macro_f1", kinds.MultilabelF1Score(**options)),
        ("auroc", kinds.MultilabelAUROC(**options)),
    ):
        assert values[key] == pytest.approx(float(kind(scores, target)), abs=1e-6), key


def test_one_class_in_the_truth_has_no_auroc() -> None:
    metric = metric_of((np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0])))
    values = metric.compute()
    assert math.isnan(values["auroc"])
    assert values["accuracy"] == 0.5
    assert values["macro_f1"] == 2 / 3
    assert metric.details()["per_class"]["0"]["auroc"] is None
    assert metric.details()["absent_classes"] == ["1"]


@pytest.mark.parametrize("column", [0, 1])
def test_nan_score_of_an_image_is_a_miss(column: int) -> None:
    """argmax takes NaN for the largest, so that a NaN of the true class was right."""
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    scores[0, column] = math.nan
    metric = metric_of((scores, np.array([0, 0, 1])))
    values = metric.compute()
    assert values["accuracy"] == 2 / 3
    assert values["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert values["auroc"] == 0.5  # of two pairs, the one with the NaN is in the wrong order
    assert values["invalid"] == 1 / 3
    assert metric.details()["confusion"] == [[1, 0, 1], [0, 1, 0]]


def test_nan_score_of_an_entry_is_a_miss_whatever_the_truth() -> None:
    """NaN > 0.5 is false, so that a NaN of an absent class was right."""
    scores = np.array([[0.9, math.nan], [math.nan, 0.2], [0.1, 0.7], [math.nan, 0.6]])
    target = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    values = metric_of((scores, target)).compute()
    assert values["accuracy"] == 5 / 7
    assert values["invalid"] == 2 / 7
    # first class: one found, one missed; second: two found, one claimed in vain
    assert values["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert values["auroc"] == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_nan_everywhere_is_the_worst_there_is() -> None:
    values = metric_of((np.full((6, 3), math.nan), np.array([0, 1, 2, 0, 1, 2]))).compute()
    assert values == {"accuracy": 0, "macro_f1": 0, "auroc": 0, "invalid": 1}
    values = metric_of((np.full((2, 2), math.nan), np.array([[0.0, 1.0], [1.0, 0.0]]))).compute()
    assert values == {"accuracy": 0, "macro_f1": 0, "auroc": 0, "invalid": 1}
