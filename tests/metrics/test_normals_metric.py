"""Angular errors against NumPy in float64 and LibMTL's formula, over any split into batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segweave.metrics.normals import NormalsMetric, angle


def maps(seed: int, images: int = 4, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of any length and unit targets [n, 3, 7, 9] in float32, a quarter of them not labelled."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(images, 3, 7, 9))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    predicted = (true + spread * rng.normal(size=true.shape)) * rng.uniform(0.1, 9, size=(images, 1, 7, 9))
    return predicted.astype(np.float32), np.where(rng.random((images, 1, 7, 9)) < 0.75, true, 0).astype(np.float32)


def metric_of(*batches: tuple[np.ndarray, np.ndarray]) -> NormalsMetric:
    metric = NormalsMetric()
    for predicted, true in batches:
        metric.update({"normals": torch.from_numpy(predicted)}, torch.from_numpy(true))
    return metric


def errors(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Degrees of every labelled pixel, by the arc cosine."""
    p, t = (np.moveaxis(values.astype(np.float64), 1, -1)[(true != 0).any(1)] for values in (predicted, true))
    cosine = (p * t).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(t, axis=1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from([0.01, 0.3, 3.0]))
def test_is_numpys(seed: int, images: int, spread: float) -> None:
    case = maps(seed, images, spread)
    values, expected = metric_of(case).compute(), errors(*case)
    assert values["mean"] == pytest.approx(expected.mean(), rel=1e-9)
    # half of the histogram's thousandth of a degree
    assert values["median"] == pytest.approx(np.median(expected), abs=0.0005 + 1e-9)
    for key, limit in (("within_11", 11.25), ("within_22", 22.5), ("within_30", 30)):
        assert values[key] == pytest.approx((expected < limit).mean(), rel=1e-12)
    assert values["invalid"] == 0


def test_is_libmtls() -> None:
    """Its code in float32: predictions normalised, `acos` of the clamped product, all pixels of all batches."""
    records = []
    batches = [maps(seed) for seed in range(3)]
    for predicted, true in batches:
        pred, gt = torch.from_numpy(predicted), torch.from_numpy(true)
        pred = pred / torch.norm(pred, p=2, dim=1, keepdim=True)
        product = torch.sum(pred * gt, 1).masked_select(torch.sum(gt, dim=1) != 0)
        records.append(np.degrees(torch.acos(torch.clamp(product, -1, 1)).numpy()))
    record = np.concatenate(records)
    values = metric_of(*batches).compute()
    # the arc cosine of a float32 near 1 is wrong by up to 0.02 degrees
    assert values["mean"] == pytest.approx(record.mean(), abs=1e-3)
    assert values["median"] == pytest.approx(np.median(record), abs=2e-3)
    for key, limit in (("within_11", 11.25), ("within_22", 22.5), ("within_30", 30)):
        assert values[key] == pytest.approx((record < limit).mean(), abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(4)), st.integers(0, 4))
def test_any_split_and_order_is_the_same(seed: int, images: list[int], cut: int) -> None:
    predicted, true = maps(seed)
    left = metric_of(*((predicted[i : i + 1], true[i : i + 1]) for i in images[:cut]))
    left.merge(metric_of((predicted[images[cut:]], true[images[cut:]])))
    found, expected = left.compute(), metric_of((predicted, true)).compute()
    assert found.pop("mean") == pytest.approx(expected.pop("mean"), rel=1e-12)
    assert found == expected


def test_by_hand() -> None:
    """0, 45, 90 and 180 degrees; two pixels are not labelled, and the median is between the middle two."""
    true = np.zeros((1, 3, 2, 3), np.float32)
    true[0, 2, 0] = 1
    true[0, 0, 1, 0] = 1
    predicted = np.ones((1, 3, 2, 3), np.float32)
    predicted[0, :, 0, 0] = 0, 0, 5
    predicted[0, :, 0, 1] = 3, 0, 3
    predicted[0, :, 0, 2] = 0, -2, 0
    predicted[0, :, 1, 0] = -1, 0, 0
    values = metric_of((predicted, true)).compute()
    assert values["mean"] == pytest.approx(315 / 4, rel=1e-12)
    assert values["median"] == pytest.approx((45 + 90) / 2, rel=1e-12)
    assert (values["within_11"], values["within_22"], values["within_30"]) == (1 / 4, 1 / 4, 1 / 4)


def test_the_limits() -> None:
    degrees = torch.tensor([11.2499, 11.2501, 22.4999, 22.5001, 29.9999, 30.0001], dtype=torch.float64).deg2rad()
    true = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[None, :, None, None].expand(1, 3, 1, 6)
    predicted = torch.stack([degrees.cos(), degrees.sin(), torch.zeros(6)])[None, :, None]
    metric = NormalsMetric()
    metric.update({"normals": predicted}, true)
    values = metric.compute()
    assert (values["within_11"], values["within_22"], values["within_30"]) == (1 / 6, 3 / 6, 5 / 6)


def test_is_not_the_mean_over_images() -> None:
    true = np.zeros((2, 3, 1, 4), np.float32)
    true[:, 2] = 1
    true[1, 2, 0, 1:] = 0
    predicted = true.copy()
    predicted[1] = [[[1]], [[0]], [[0]]]
    values = metric_of((predicted, true)).compute()
    assert values["mean"] == pytest.approx(90 / 5, rel=1e-12)  # 45 by images
    assert values["median"] == 0
    assert values["within_30"] == 0.8


def test_small_angles_keep_their_digits() -> None:
    """By the arc cosine in float32 anything below 0.02 degrees is 0."""
    turned = torch.tensor([1.0, 1e-5, 0.0])
    assert float(angle(turned, torch.tensor([1.0, 0.0, 0.0]))) == pytest.approx(math.degrees(1e-5), rel=1e-6)


def test_bad_predictions_are_counted_and_scored_as_the_opposite() -> None:
    predicted = torch.tensor([[math.nan, 0, 1], [0, 0, math.inf], [0, 0, 0], [0, 0, 2]]).T[None, :, None]
    true = torch.tensor([0.0, 0.0, 1.0])[None, :, None, None].expand(1, 3, 1, 4)
    metric = NormalsMetric()
    metric.update({"normals": predicted}, true)
    values = metric.compute()
    assert values["invalid"] == 0.75
    assert values["mean"] == 135
    assert values["median"] == 180
    assert values["within_11"] == 0.25
