"""Edges: matchings against brute force and the benchmark's assignment, thinning and suppression by pixel, F by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import scipy.sparse.csgraph
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segweave.errors import DataError
from segweave.metrics.edge_matching import match, near
from segweave.metrics.edges import EdgeMetric
from segweave.metrics.thinning import suppress, thin
from segweave.tasks.edges import Edges

EIGHT = np.ones((3, 3), int)
SMALL = arrays(np.bool_, st.tuples(st.integers(1, 4), st.integers(1, 4)))
MAPS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def most_pairs(predicted: np.ndarray, true: np.ndarray, radius: float) -> int:
    """Every matching there is: each predicted pixel is left apart, or joined to one of the true ones that are left."""
    rows, columns = np.argwhere(predicted), np.argwhere(true)
    best = {frozenset[int](): 0}
    for row in rows:
        free = [j for j, column in enumerate(columns) if math.dist(row, column) <= radius]
        longer = dict(best)
        for used, pairs in best.items():
            for j in free:
                if j not in used:
                    key = used | {j}
                    longer[key] = max(longer.get(key, 0), pairs + 1)
        best = longer
    return max(best.values())


@settings(max_examples=60, deadline=None)
@given(SMALL, st.data(), st.sampled_from([0.0, 0.9, 1.0, 1.5, 2.0, math.sqrt(5), 3.7]))
def test_matches_as_many_as_brute_force(predicted: np.ndarray, data: st.DataObject, radius: float) -> None:
    true = data.draw(arrays(np.bool_, predicted.shape))
    true.flat[8:] = False  # 2^8 sets of true pixels at most
    columns = match(near(predicted, true, radius))
    joined = columns >= 0
    pairs = zip(np.argwhere(predicted)[joined], np.argwhere(true)[columns[joined]], strict=True)
    assert all(math.dist(one, other) <= radius for one, other in pairs)
    assert len(set(columns[joined].tolist())) == joined.sum()
    assert joined.sum() == most_pairs(predicted, true, radius)


@settings(max_examples=25, deadline=None)
@given(MAPS, st.data(), st.sampled_from([1.0, 2.0, 3.2]))
def test_matches_as_many_as_the_least_cost_of_the_benchmark(
    predicted: np.ndarray, data: st.DataObject, radius: float
) -> None:
    """match.cc's assignment with every outlier: distances for pairs, 100 tolerances for whatever else."""
    true = data.draw(arrays(np.bool_, predicted.shape))
    rows, columns = np.argwhere(predicted), np.argwhere(true)
    cost = np.full((len(rows) + len(columns),) * 2, 100 * radius)
    distance = np.linalg.norm(rows[:, None] - columns[None], axis=2)
    cost[: len(rows), : len(columns)] = np.where(distance <= radius, distance, 1e9)
    chosen = scipy.optimize.linear_sum_assignment(cost)
    pairs = int(((chosen[0] < len(rows)) & (chosen[1] < len(columns))).sum())
    assert (match(near(predicted, true, radius)) >= 0).sum() == pairs


@pytest.mark.parametrize("radius", [0.0, 1.0, 2.9, 6.0])
def test_pixels_that_are_near(radius: float) -> None:
    generator = np.random.default_rng(0)
    places, true = generator.random((2, 23, 17)) < 0.3
    distance = np.linalg.norm(np.argwhere(places)[:, None] - np.argwhere(true)[None], axis=2)
    assert np.array_equal(near(places, true, radius).toarray() > 0, distance <= radius)


@settings(max_examples=60, deadline=None)
@given(SMALL, st.data(), st.sampled_from([1.0, 1.5, 2.3]))
def test_any_start_leads_to_as_many_pairs(predicted: np.ndarray, data: st.DataObject, radius: float) -> None:
    true = data.draw(arrays(np.bool_, predicted.shape))
    pairs = near(predicted, true, radius)
    start = np.full(pairs.shape[0], -1)
    for row in data.draw(st.permutations(range(pairs.shape[0]))):
        free = sorted(set(pairs.indices[pairs.indptr[row] : pairs.indptr[row + 1]].tolist()) - set(start.tolist()))
        start[row] = data.draw(st.sampled_from([-2, -1, *free]))
    left = start == -2
    found, apart = match(pairs, start), match(pairs[np.flatnonzero(~left)])
    assert (found[left] == -2).all()
    assert (found >= 0).sum() == (apart >= 0).sum()
    assert len(set(found[found >= 0].tolist())) == (found >= 0).sum()
    assert all(pairs.toarray()[row, column] for row, column in enumerate(found.tolist()) if column >= 0)


def thinned_by_pixel(edges: np.ndarray) -> np.ndarray:
    """Guo and Hall's conditions, one pixel at a time, a pass at once."""
    now, before = edges.copy(), None
    while before is None or not np.array_equal(now, before):
        before = now.copy()
        for last in (False, True):
            padded, gone = np.pad(now, 1), []
            for y, x in np.argwhere(now):
                window = padded[y : y + 3, x : x + 3]
                n = [*window[0], window[1, 2], window[2, 2], window[2, 1], window[2, 0], window[1, 0]]
                nw, north, ne, east, se, south, sw, west = (bool(v) for v in n)
                ring = [east, ne, north, nw, west, sw, south, se, east]
                crossings = sum(not ring[i] and (ring[i + 1] or ring[i + 2]) for i in (0, 2, 4, 6))
                n1 = sum(ring[i] or ring[i + 1] for i in (0, 2, 4, 6))
                n2 = sum(ring[i + 1] or ring[i + 2] for i in (0, 2, 4, 6))
                blocked = (south or sw or not nw) and west if last else (north or ne or not se) and east
                if crossings == 1 and 2 <= min(n1, n2) <= 3 and not blocked:
                    gone.append((y, x))
            for y, x in gone:
                now[y, x] = False
    return now


@settings(max_examples=60, deadline=None)
@given(MAPS)
def test_thinning_is_guo_and_halls_and_keeps_every_piece_and_hole(edges: np.ndarray) -> None:
    thinned = thin(edges)
    assert np.array_equal(thinned, thinned_by_pixel(edges))
    assert not (thinned & ~edges).any()
    assert np.array_equal(thin(thinned), thinned)
    pieces, count = scipy.ndimage.label(edges, EIGHT)
    assert scipy.ndimage.label(thinned, EIGHT)[1] == count == len(np.unique(pieces[thinned]))
    # a hole is background, four neighbours connected
    assert scipy.ndimage.label(~np.pad(thinned, 1))[1] == scipy.ndimage.label(~np.pad(edges, 1))[1]


def test_sixty_four_maps_are_thinned_at_once_as_each_alone() -> None:
    generator = np.random.default_rng(0)
    share = np.linspace(0.2, 0.95, 64)[:, None, None]
    maps = generator.random((64, 17, 23)) < share
    together = (maps.astype(np.uint64) << np.arange(64, dtype=np.uint64)[:, None, None]).sum(0)
    thinned = thin(together)
    for bit, alone in enumerate(maps):
        assert np.array_equal(thinned >> np.uint64(bit) & np.uint64(1), thin(alone))


def test_thick_lines_become_one_pixel_wide() -> None:
    bar = np.zeros((11, 30), bool)
    bar[3:8, 3:27] = True
    thinned = thin(bar)
    assert thinned.sum(0).max() == 1
    assert thinned[5].sum() >= 18
    slanted = np.zeros((30, 30), bool)
    for i in range(4, 26):
        slanted[i - 2 : i + 3, i] = True
    assert thin(slanted)[:, 8:22].sum(0).tolist() == [1] * 14  # but for its ends


@pytest.mark.parametrize("line", [np.eye(9, dtype=bool), np.ones((1, 9), bool), np.ones((9, 1), bool), np.eye(1) > 0])
def test_thin_lines_stay(line: np.ndarray) -> None:
    assert np.array_equal(thin(line), line)


def suppressed_by_pixel(edges: np.ndarray) -> np.ndarray:
    """Dollar and Zitnick's edgesNms with radius 1, border 5 and factor 1.01, and the direction it is called with."""
    height, width = edges.shape
    kernel = np.outer(triangle := np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25, triangle)
    padded = np.pad(edges, 4, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (9, 9))
    smooth = (windows * kernel).sum((2, 3))
    dy, dx = np.gradient(smooth)
    dxx, (dyy, dxy) = np.gradient(dx)[1], np.gradient(dy)
    direction = np.mod(np.arctan(dyy * np.sign(-dxy) / (dxx + 1e-5)), np.pi)
    kept = edges.copy()
    for y, x in itertools.product(range(height), range(width)):
        for d in (-1, 1):
            px = min(max(x + d * math.cos(direction[y, x]), 0), width - 1)
            py = min(max(y + d * math.sin(direction[y, x]), 0), height - 1)
            x0, y0 = min(int(px), width - 2), min(int(py), height - 2)
            a, b = px - x0, py - y0
            corners = edges[y0 : y0 + 2, x0 : x0 + 2]
            value = (1 - b) * ((1 - a) * corners[0, 0] + a * corners[0, 1])
            value += b * ((1 - a) * corners[1, 0] + a * corners[1, 1])
            if 1.01 * edges[y, x] < value:
                kept[y, x] = 0
        for place, length in ((y, height), (x, width)):
            kept[y, x] *= min(place / 5, (length - 1 - place) / 5, 1)
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_suppression_is_that_of_the_toolbox(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(24, 31))
    edges = 1 / (1 + np.exp(-6 * scipy.ndimage.gaussian_filter(noise, 1.5)))
    found = suppress(edges)
    # a value within rounding of the limit may fall either way; with these seeds none does
    np.testing.assert_allclose(found, suppressed_by_pixel(edges), atol=1e-12)
    assert 0.1 < (found > 0).mean() < 0.6


def test_what_is_below_the_least_is_suppressed_and_the_rest_as_ever() -> None:
    edges = scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((24, 31)), 1)
    least = float(np.median(edges))
    assert np.array_equal(suppress(edges, least), np.where(edges < least, 0, suppress(edges)))


def test_suppression_leaves_the_ridge() -> None:
    edges = np.tile(np.exp(-((np.arange(21) - 10.0) ** 2) / 8), (30, 1))
    kept = suppress(edges)
    assert np.argwhere(kept[5:-5] > 0.2)[:, 1].tolist() == [10] * 20
    assert suppress(np.zeros((1, 1))).tolist() == [[0]]
    assert suppress(np.full((1, 7), 0.5)).shape == (1, 7)


def lines(*rows: tuple[int, slice, float], size: int = 20) -> torch.Tensor:
    """[size, size] with horizontal lines of a value."""
    drawn = torch.zeros(size, size)
    for row, columns, value in rows:
        drawn[row, columns] = value
    return drawn


def exact(thresholds: int) -> EdgeMetric:
    """Matches a pixel with itself only: 0.01 of the diagonal of 20 x 20 is 0.28 pixels."""
    return EdgeMetric(255, 0.01, thresholds, nms=False)


FIRST = lines((5, slice(4, 12), 1.0)).to(torch.uint8)


def test_ods_and_ois_by_hand() -> None:
    """Thresholds 1/4, 1/2, 3/4; image a finds its line at 0.8 and another at 0.6, image b finds its line at 0.4."""
    metric = exact(3)
    a = lines((5, slice(4, 12), 0.8), (9, slice(4, 12), 0.6))
    b = lines((5, slice(4, 12), 0.4))
    metric.update({"edges": torch.stack([a, b])}, torch.stack([FIRST, FIRST]))
    assert metric.counts.tolist() == [[16, 24, 16], [8, 16, 16], [8, 8, 16]]
    values = metric.compute()
    assert values["ods_f"] == pytest.approx(0.8)
    assert (values["ods_precision"], values["ods_recall"]) == pytest.approx((2 / 3, 1.0))
    assert values["ois_f"] == 1.0
    details = metric.details()
    assert details["threshold"] == 0.25
    assert np.array(details["curve"]) == pytest.approx(
        np.array([[0.25, 2 / 3, 1, 0.8], [0.5, 0.5, 0.5, 0.5], [0.75, 1, 0.5, 2 / 3]])
    )


def test_ods_lies_between_two_thresholds() -> None:
    """Precision 1/2 to 1 and recall 1 to 1/2: F is 2/3 at both, and 3/4 halfway, which 100 points nearly meet."""
    metric = exact(2)
    edges = lines((5, slice(4, 8), 0.9), (5, slice(8, 12), 0.4), (9, slice(4, 12), 0.4))
    metric.update({"edges": edges[None]}, FIRST[None])
    values = metric.compute()
    assert values["ods_f"] == pytest.approx(0.75, abs=1e-4)
    assert values["ois_f"] == pytest.approx(2 / 3)
    assert metric.details()["threshold"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("nms", [True, False])
def test_counts_at_many_thresholds_are_those_of_each_alone(nms: bool) -> None:
    """Thinned and matched one threshold at a time, by the bipartite matching of scipy."""
    generator = np.random.default_rng(0)
    true = np.abs(scipy.ndimage.gaussian_filter(generator.normal(size=(40, 50)), 4)) < 0.01
    noise = scipy.ndimage.gaussian_filter(generator.normal(size=(40, 50)), 1.2)
    edges = 1 / (1 + np.exp(1 - 3 * scipy.ndimage.gaussian_filter(true.astype(float), 1) - 4 * noise))
    target = true.astype(np.uint8)
    target[:6] = 255
    metric = EdgeMetric(255, 0.03, 150, nms=nms)
    metric.update({"edges": torch.from_numpy(edges)[None]}, torch.from_numpy(target)[None])
    levels = np.rint(edges * 255)
    values = np.rint(suppress(levels / 255) * 255) if nms else levels
    for threshold, found in zip(metric.thresholds, metric.counts.tolist(), strict=True):
        predicted = thin(values / 255 >= threshold - 1e-9) & (target != 255)
        pairs = near(predicted, target == 1, 0.03 * math.hypot(40, 50))
        columns = scipy.sparse.csgraph.maximum_bipartite_matching(pairs, perm_type="column")
        assert found == [(columns >= 0).sum(), predicted.sum(), (target == 1).sum()]
    assert len(np.unique(metric.counts[:, 0])) > 50


def test_one_threshold() -> None:
    metric = exact(1)
    metric.update({"edges": FIRST[None] * 0.49}, FIRST[None])
    assert metric.compute()["ods_f"] == 0.0
    metric = exact(1)
    metric.update({"edges": FIRST[None] * 0.51}, FIRST[None])
    assert metric.compute() == {"ods_f": 1.0, "ois_f": 1.0, "ods_precision": 1.0, "ods_recall": 1.0}


@pytest.mark.parametrize(("max_dist", "found"), [(0.034, 0.0), (0.036, 1.0)])
def test_a_line_beside_the_true_one_is_found_within_the_tolerance(max_dist: float, found: float) -> None:
    """One pixel of the diagonal of 28.28 is 0.0354 of it."""
    metric = EdgeMetric(255, max_dist, 3, nms=False)
    metric.update({"edges": lines((6, slice(4, 12), 1.0))[None]}, FIRST[None])
    assert metric.compute()["ods_f"] == found


def test_a_pixel_is_matched_once() -> None:
    metric = EdgeMetric(255, 3 / math.hypot(20, 20), 1, nms=False)
    edges = lines((5, slice(4, 12), 1.0), (7, slice(4, 12), 1.0))
    metric.update({"edges": edges[None]}, FIRST[None])
    assert metric.counts.tolist() == [[8, 16, 8]]


def test_thick_predictions_are_thinned_and_unlabelled_pixels_do_not_count() -> None:
    edges = lines(*((row, slice(3, 13), 1.0) for row in (4, 5, 6)), (15, slice(4, 12), 1.0))
    target = FIRST.clone()
    target[12:] = 255
    metric = exact(1)
    metric.update({"edges": edges[None]}, target[None])
    matched, predicted, true = metric.counts[0].tolist()
    assert (matched, true) == (8, 8)
    assert predicted == int(thin(edges.numpy() > 0)[:12].sum()) <= 10


def test_an_image_without_a_true_edge_takes_its_fewest_false_alarms() -> None:
    metric = exact(3)
    edges = lines((5, slice(4, 12), 0.9), (9, slice(4, 12), 0.4))
    metric.update({"edges": edges[None]}, torch.zeros(1, 20, 20, dtype=torch.uint8))
    assert metric.best.tolist() == [0, 8, 0]
    assert all(math.isnan(value) for value in metric.compute().values())
    assert metric.details() == {"threshold": None, "curve": []}


@pytest.mark.parametrize("nms", [True, False])
def test_a_file_scores_as_the_prediction_does(nms: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    target = torch.zeros(32, 40, dtype=torch.uint8)
    target[8:24, 12] = target[20, 8:30] = 1
    edges = (0.4 * target + 0.6 * torch.rand(32, 40)).clamp(0, 1)
    task = Edges("edges", nms=nms, thresholds=50)
    task.write(tmp_path, "a", {"edges": edges})
    metrics = task.metric(), task.metric()
    metrics[0].update({"edges": edges[None]}, target[None])
    metrics[1].update(task.predictions(tmp_path)["a"](), target[None])
    assert metrics[0].counts.tolist() == metrics[1].counts.tolist()
    assert 0 < metrics[0].compute()["ods_f"] < 1


def test_impossible_numbers_are_no_edges_or_sure_ones() -> None:
    edges = lines((5, slice(4, 12), 7.0), (9, slice(4, 12), math.nan), (11, slice(4, 12), -1.0))
    metric = exact(3)
    metric.update({"edges": edges[None]}, FIRST[None])
    assert metric.counts.tolist() == [[8, 8, 8]] * 3


def test_targets_and_shapes_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"target: 8 pixels that are neither 0, 1 nor 255"):
        exact(1).update({"edges": torch.zeros(1, 20, 20)}, 2 * FIRST[None])
    with pytest.raises(DataError, match=r"predicted edges \[1, 20, 19\]"):
        exact(1).update({"edges": torch.zeros(1, 20, 19)}, FIRST[None])
