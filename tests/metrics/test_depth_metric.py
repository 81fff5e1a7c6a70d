"""Depth errors against scikit-learn, torchmetrics and the formulas, over any split into batches."""

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

from segweave.metrics.depth import DepthMetric


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true metres [n, 2, 3]; some not measured."""
    shape = (draw(st.integers(1, 5)), 2, 3)
    metres = st.floats(0.125, 80, width=32)
    return draw(arrays(np.float32, shape, elements=metres)), draw(
        arrays(np.float32, shape, elements=st.just(0.0) | metres)
    )


def metric_of(*batches: tuple[np.ndarray, np.ndarray]) -> DepthMetric:
    metric = DepthMetric(min_depth=0.1)
    for predicted, true in batches:
        metric.update({"depth": torch.from_numpy(predicted)}, torch.from_numpy(true))
    return metric


@settings(max_examples=30, deadline=None)
@given(maps())
def test_is_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    values = metric_of(case).compute()
    p, t = (values[case[1] > 0].astype(np.float64) for values in case)
    if not len(t):
        assert all(math.isnan(value) for value in values.values())
        return
    ratio, d = np.maximum(p / t, t / p), np.log(p) - np.log(t)
    expected = {
        "abs_rel": sklearn.metrics.mean_absolute_percentage_error(t, p),
        "sq_rel": sklearn.metrics.mean_squared_error(t, p, sample_weight=1 / t) * (1 / t).mean(),
        "rmse": sklearn.metrics.root_mean_squared_error(t, p),
        "rmse_log": sklearn.metrics.root_mean_squared_error(np.log(t), np.log(p)),
        "delta1": (ratio < 1.25).mean(),
        "delta2": (ratio < 1.25**2).mean(),
        "delta3": (ratio < 1.25**3).mean(),
        "silog": d.std(),
        "invalid": 0.0,
    }
    # mean(d^2) - mean(d)^2 of equal d is some 1e-15 d^2, and its root some 1e-7 d
    assert values == pytest.approx(expected, rel=1e-9, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(maps(), st.data())
def test_any_split_and_order_is_the_same(case: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    predicted, true = case
    images = data.draw(st.permutations(range(len(true))))
    cut = data.draw(st.integers(0, len(images)))
    left = metric_of(*((predicted[i : i + 1], true[i : i + 1]) for i in images[:cut]))
    right = metric_of((predicted[images[cut:]], true[images[cut:]]))
    first, second = data.draw(st.permutations([left, right]))
    first.merge(second)
    expected = metric_of(case).compute()
    assert first.compute() == pytest.approx(expected, rel=1e-12, abs=1e-7, nan_ok=True)
    for share in ("delta1", "delta2", "delta3", "invalid"):
        np.testing.assert_equal(first.compute()[share], expected[share])


def test_is_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, true = (torch.rand(4, 6, 6, generator=generator) * 9 + 0.5 for _ in range(2))
    values = metric_of((predicted.numpy(), true.numpy())).compute()
    assert values["abs_rel"] == pytest.approx(float(torchmetrics.MeanAbsolutePercentageError()(predicted, true)))
    assert values["rmse"] == pytest.approx(float(torchmetrics.MeanSquaredError(squared=False)(predicted, true)))
    logs = torchmetrics.MeanSquaredError(squared=False)(predicted.log(), true.log())
    assert values["rmse_log"] == pytest.approx(float(logs))


def test_by_hand() -> None:
    """Ratios 1, 1.25 (not below 1.25), 1.5 (below 1.25^2) and 4."""
    true = np.array([[[2.0, 4.0, 2.0], [1.0, 0.0, 0.0]]])
    values = metric_of((np.array([[[2.0, 5.0, 3.0], [4.0, 9.0, 0.1]]]), true)).compute()
    assert values["abs_rel"] == (1 / 4 + 1 / 2 + 3) / 4
    assert values["sq_rel"] == (1 / 4 + 1 / 2 + 9) / 4
    assert values["rmse"] == math.sqrt((1 + 1 + 9) / 4)
    assert (values["delta1"], values["delta2"], values["delta3"]) == (1 / 4, 3 / 4, 3 / 4)


def test_is_not_the_mean_over_images() -> None:
    true, predicted = np.full((2, 1, 4), 2.0), np.full((2, 1, 4), 3.0)
    true[1, 0, 1:] = 0
    predicted[1] = 2
    assert metric_of((predicted, true)).compute()["abs_rel"] == 0.4  # 0.25 by images
    # each image is right up to its own scale, but they are not right together
    assert metric_of((predicted, true)).compute()["silog"] == pytest.approx(math.log(1.5) * math.sqrt(0.2 * 0.8))


def test_bad_predictions_are_counted_and_scored_as_the_least_depth() -> None:
    metric = DepthMetric(min_depth=0.5)
    metric.update({"depth": torch.tensor([[[math.nan, math.inf, 0.0, -1.0, 2.0]]])}, torch.full((1, 1, 5), 2.0))
    values = metric.compute()
    assert values["invalid"] == 0.8
    assert values["abs_rel"] == pytest.approx(0.8 * 0.75)
    assert values["delta1"] == 0.2
