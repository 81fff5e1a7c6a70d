from __future__ import annotations

import csv
import io
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segweave.report.history import log_scale, read_history, results_csv, smoothed, thinned, ticks

LOG = [
    {"step": 0, "epoch": 0, "seconds": 1.0, "images": 4, "loss/a": 2.0, "weight/a": 1.0, "total": 2.0, "lr": 0.1},
    {"step": 1, "epoch": 0, "seconds": 2.0, "images": 4, "loss/a": 4.0, "weight/a": 1.0, "total": 4.0, "lr": 0.1},
    {"step": 1, "epoch": 0, "split": "val", "a/score": 0.5, "b/score": None},
    {"step": 2, "epoch": 1, "seconds": 1.0, "images": 3, "loss/a": None, "skipped": True, "not_finite": ["loss/a"]},
    {"step": 3, "epoch": 1, "seconds": 1.0, "images": 4, "loss/a": 1.0, "loss/b": 8.0, "total": 9.0, "lr": 0.05},
    {"step": 3, "epoch": 1, "split": "val", "a/score": 0.75, "b/score": 0.1},
]


def test_a_log_by_hand() -> None:
    history = read_history(LOG)
    assert history.training["loss/a"] == [(0, 2.0), (1, 4.0), (3, 1.0)]
    assert history.training["weight/a"] == [(0, 1.0), (1, 1.0)]
    assert history.validation == {"a/score": [(1, 0.5), (3, 0.75)], "b/score": [(3, 0.1)]}
    assert (history.skipped, history.seconds, history.images) == (1, 5.0, 15)
    assert "not_finite" not in history.training
    assert history.spaces == {}


def test_what_a_log_has_of_task_gradients() -> None:
    values = [("features", 0.5), ("features", None), ("parameters", -0.25)]
    log = [{"step": n, "space": space, "cosine/a|b": c, "overlap/a|b": 0.5} for n, (space, c) in enumerate(values)]
    history = read_history([*log, {"step": 3, "total": 1.0}])
    assert history.training["cosine/a|b"] == [(0, 0.5), (2, -0.25)]
    assert history.training["overlap/a|b"] == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert history.spaces == {"features": 2, "parameters": 1}


def test_the_table_has_a_row_per_validation_and_means_since_the_last() -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(read_history(LOG), {}))))
    assert list(rows[0])[:4] == ["step", "epoch", "a/score", "b/score"]
    assert [row["step"] for row in rows] == ["1", "3"]
    assert rows[0]["b/score"] == ""
    assert float(rows[0]["train/loss/a"]) == 3.0
    assert float(rows[0]["train/total"]) == 3.0
    assert float(rows[1]["train/loss/a"]) == 1.0
    assert float(rows[1]["train/loss/b"]) == 8.0
    assert rows[0]["train/loss/b"] == ""
    assert float(rows[1]["a/score"]) == 0.75


def test_metrics_on_labels_that_nobody_annotated_say_so_in_every_row() -> None:
    origins = {"b": "derived from depth (normals); not a benchmark number", "none": "of no metric"}
    table = csv.DictReader(io.StringIO(results_csv(read_history(LOG), origins)))
    assert table.fieldnames is not None
    assert table.fieldnames[:5] == ["step", "epoch", "a/score", "b/origin", "b/score"]
    rows = list(table)
    assert [row.pop("b/origin") for row in rows] == [origins["b"]] * 2
    assert rows == list(csv.DictReader(io.StringIO(results_csv(read_history(LOG), {}))))


def test_an_empty_log() -> None:
    assert results_csv(read_history([]), {}).strip() == ""


def test_the_running_mean_is_a_weighted_mean() -> None:
    values = [float((7 * n) % 13) for n in range(100)]
    found = smoothed(list(enumerate(values)))
    decay = 1 - 2 / (5 + 1)
    for place in (0, 1, 50, 99):
        weights = [decay ** (place - k) for k in range(place + 1)]
        mean = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert found[place] == (place, pytest.approx(mean, rel=1e-9))
    assert smoothed([(0, 5.0)] * 3) == [(0, pytest.approx(5.0))] * 3


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000), st.integers(2, 300))
def test_thinning_keeps_the_order_and_the_extremes(values: list[float], most: int) -> None:
    points = list(enumerate(values))
    found = thinned(points, most)
    assert len(found) <= most
    assert found == sorted(found)
    assert set(found) <= set(points)
    assert max(v for _, v in found) == max(values)
    assert min(v for _, v in found) == min(values)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    high = low + width
    if not high > low or width < 1e-9 * abs(low):
        return
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in found)
    gaps = [b - a for a, b in pairwise(found)]
    for gap in gaps:
        mantissa = gap / 10 ** math.floor(math.log10(gap) + 1e-6)
        assert min(abs(mantissa - digit) for digit in (1, 2, 5, 10)) < 1e-2 * max(1, abs(low) / width)


def test_logarithmic_ticks() -> None:
    assert ticks(0.02, 300, log=True) == pytest.approx([0.1, 1, 10, 100])
    assert ticks(1e-12, 1.0, log=True) == pytest.approx([1e-12, 1e-9, 1e-6, 1e-3, 1])
    assert ticks(15, 80, log=True) == pytest.approx([20, 50])
    assert ticks(3, 3) == [3]


def test_when_a_scale_is_logarithmic() -> None:
    assert log_scale([0.01, 1.0])
    assert not log_scale([0.1, 1.0])
    assert not log_scale([0.0, 1.0])
    assert not log_scale([])
