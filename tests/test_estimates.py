"""Means over seeds and images against SciPy, NumPy and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segweave.estimates import estimate, gain, mean_gain, resamples


def test_without_a_spread_over_the_images_it_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(0.5, 0.1, 5), generator.normal(0.4, 0.1, 5)
    difference = ours - theirs
    found = estimate(np.repeat(difference[:, None], 21, axis=1), images=50)
    expected = stats.ttest_rel(ours, theirs)
    low, high = expected.confidence_interval(0.95)
    np.testing.assert_allclose([found.mean, found.low, found.high], [difference.mean(), low, high], rtol=1e-12)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-12)
    assert found.each == tuple(difference)


def test_of_one_seed_it_is_the_bootstrap_of_the_mean_over_the_images() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    counts = resamples(400, 4000)
    found = estimate((counts @ values / 400)[None], images=400)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    # the bootstrap's standard error is known to 1 / sqrt(2 * 4000) of itself, and is sqrt(399 / 400) of the other
    expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator, held, rounds = np.random.default_rng(2), 0, 600
    counts = resamples(40, 100)
    for _ in range(rounds):
        # a result is 1 + what its seed adds + the mean of what its images add, which all seeds share
        images = generator.normal(0, 1, 40)
        values = 1 + generator.normal(0, 0.15, 3)[:, None] + (counts @ images / 40)[None]
        found = estimate(values, images=40)
        held += found.low <= 1 <= found.high
    # 3 standard deviations of 600 draws; the approximation of the degrees of freedom is on the safe side
    assert 0.95 - 0.027 <= held / rounds <= 0.995


@pytest.mark.parametrize(
    ("values", "images", "expected"),
    [
        ([[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]], 9, (2.0, 2.0, 2.0, 0.0)),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], 9, (0.0, 0.0, 0.0, 1.0)),
        ([[2.0, 2.0, 2.0]], 1, (2.0, math.nan, math.nan, math.nan)),
        ([[math.nan, 1.0, 2.0]], 9, (math.nan, math.nan, math.nan, math.nan)),
    ],
)
def test_what_has_no_spread_or_no_value(values: list[list[float]], images: int, expected: tuple[float, ...]) -> None:
    found = estimate(np.array(values), images)
    np.testing.assert_array_equal([found.mean, found.low, found.high, found.p], expected)


def test_a_resample_that_defines_nothing_is_left_out() -> None:
    values = np.array([[1.0, 0.5, math.nan, 1.5, 1.1]])
    assert estimate(values, 7) == estimate(values[:, [0, 1, 3, 4]], 7)


@given(images=st.integers(1, 30), count=st.integers(2, 20), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_resamples_draw_as_many_images_as_there_are(images: int, count: int, seed: int) -> None:
    counts = resamples(images, count, seed)
    assert counts.shape == (count + 1, images)
    assert (counts[0] == 1).all()
    assert (counts.sum(1) == images).all()
    np.testing.assert_array_equal(counts, resamples(images, count, seed))


def test_gains_by_hand() -> None:
    new, old = np.array([[0.6, 0.3, 1.0], [0.8, 0.3, 1.0]]), np.array([[0.5, 0.4, 0.0], [0.3, 0.4, 0.0]])
    # the old means are 0.4, 0.4 and 0
    expected = np.array([[25, -25, math.nan], [125, -25, math.nan]])
    np.testing.assert_allclose(gain(new, old, True), expected)
    np.testing.assert_allclose(gain(new, old, False), -expected)
    np.testing.assert_allclose(gain(new, old, True)[:, 0].mean(), 100 * (0.7 / 0.4 - 1))
    # one task 20 % better, one whose error is 25 % smaller
    gains = {
        "a": gain(np.array([[0.6]]), np.array([[0.5]]), True),
        "b": gain(np.array([[3.0]]), np.array([[4.0]]), False),
    }
    np.testing.assert_allclose(mean_gain(gains), [[22.5]])
