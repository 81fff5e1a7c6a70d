"""Targets derived from masks and instances, against loops over pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from segweave.data.derived.boundary import Boundary, thick, thin
from segweave.data.derived.boxes import ComponentBoxes
from segweave.data.derived.count import Count
from segweave.data.derived.derivation import Source
from segweave.data.derived.distance import Distance, distance_map, objects_in
from segweave.data.derived.merge import Merge
from segweave.errors import ConfigError
from segweave.tasks import Classification, Depth, Detection, Edges, Semantic

CLASSES = Source("masks", "classes", ["road", "car", "person"])
INSTANCES = Source("instances", "instances")


def random_ids(seed: int, unlabelled: float = 0.05) -> np.ndarray:
    """Blocks of ids 0 to 2, and some unlabelled pixels."""
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(0, 3, (3, 4)), np.ones((3, 3), int)).astype(np.int32)
    ids[rng.random(ids.shape) < unlabelled] = -1
    return ids


def pixels(ids: np.ndarray) -> Iterator[tuple[int, int]]:
    return iter(np.ndindex(*ids.shape))  # pyright: ignore[reportReturnType]


def nearest(ids: np.ndarray, y: int, x: int, other: bool) -> float:
    """The distance to the nearest labelled pixel of another id, or to the nearest unlabelled one."""
    found = [
        math.dist((y, x), (i, j))
        for i, j in pixels(ids)
        if (ids[i, j] == -1) != other and (not other or ids[i, j] != ids[y, x])
    ]
    return min(found, default=math.inf)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_thick_boundary_is_what_lies_near_another_id(seed: int, width: int) -> None:
    ids = random_ids(seed)
    made = thick(ids, width)
    for y, x in pixels(ids):
        if ids[y, x] == -1:
            expected = 255
        elif nearest(ids, y, x, other=True) <= width:
            expected = 1
        else:
            expected = 255 if nearest(ids, y, x, other=False) <= width else 0
        assert made[y, x] == expected, (y, x)


@pytest.mark.parametrize("seed", range(6))
def test_a_thin_boundary_looks_right_and_down(seed: int) -> None:
    ids = random_ids(seed)
    made = thin(ids)
    for y, x in pixels(ids):
        beside = [ids[i, j] for i, j in ((y, x + 1), (y + 1, x)) if i < ids.shape[0] and j < ids.shape[1]]
        other = any(id not in (-1, ids[y, x]) for id in beside)
        doubt = ids[y, x] == -1 or (not other and -1 in beside)
        assert made[y, x] == (255 if doubt else int(other)), (y, x)


def test_no_doubt_changes_a_boundary_that_is_labelled() -> None:
    """Whatever ids the unlabelled pixels have, the labelled pixels of the boundary stay as they are."""
    rng = np.random.default_rng(0)
    ids = random_ids(1, 0.1)
    for make in (thin, lambda ids: thick(ids, 2)):
        made = make(ids)
        for _ in range(20):
            whole = np.where(ids == -1, rng.integers(0, 4, ids.shape), ids).astype(np.int32)
            assert (make(whole) == made)[made != 255].all()


def test_sides_of_a_boundary() -> None:
    ids = torch.zeros(5, 8, dtype=torch.int32)
    ids[1:4, 1:4], ids[1:4, 4:6] = 300, 7  # two objects that touch; beyond 255 is an id too
    task = Edges("edges")
    inner = Boundary(task, INSTANCES, side="inner")(ids)
    outer = Boundary(task, INSTANCES, side="outer")(ids)
    assert inner.tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 0, 0],
        [0, 1, 0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert outer.tolist() == [
        [0, 1, 1, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0, 1, 0],
        [0, 1, 1, 1, 1, 1, 0, 0],
    ]
    both = Boundary(task, INSTANCES, side="both")(ids)
    assert torch.equal(both, inner | outer)
    with pytest.raises(ConfigError, match=r"width: found 2; expected 1, or another side"):
        Boundary(task, INSTANCES, width=2)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unlabelled", [0, 0.05])
def test_a_distance_is_known_where_no_unlabelled_pixel_is_nearer(seed: int, unlabelled: float) -> None:
    ids = random_ids(seed, unlabelled)
    made = distance_map(ids)
    for y, x in pixels(ids):
        other, unknown = (nearest(ids, y, x, other=which) for which in (True, False))
        known = ids[y, x] != -1 and other <= unknown and other < math.inf
        # float32 holds a root to 6e-8 of it
        assert made[y, x] == pytest.approx(other if known else 0, rel=1e-6), (y, x)


def test_there_is_no_distance_where_there_is_nothing_else() -> None:
    assert not distance_map(np.zeros((4, 5), np.int32)).any()
    assert not distance_map(np.full((4, 5), -1, np.int32)).any()


def test_shares_reach_one_in_each_object_and_background_has_none() -> None:
    ids = torch.zeros(9, 14, dtype=torch.int32)
    ids[2:7, 2:7], ids[2:5, 7:10] = 5, 255
    task = Depth("centres", rescale=False, max_depth=20)
    shares, distances = (Distance(task, INSTANCES, unit=unit)(ids) for unit in ("share", "pixels"))
    assert (shares[ids == 0] == 0).all()
    assert [float(distances[ids == id].max()) for id in (5, 255)] == [3, 2]
    for id, largest in ((5, 3), (255, 2)):
        assert torch.equal(shares[ids == id], distances[ids == id] / largest)
    classes = torch.zeros(5, 9, dtype=torch.int32)
    classes[1:4, 1:4] = classes[2, 6] = 1  # two regions of one class
    shares = Distance(task, CLASSES, background=0)(classes)
    assert (float(shares[2, 2]), float(shares[2, 6]), float(shares[1, 1]), float(shares[0, 0])) == (1, 1, 0.5, 0)
    with pytest.raises(ConfigError, match=r"tasks\.far\.rescale: found true"):
        Distance(Depth("far"), INSTANCES)


def flooded(ids: np.ndarray) -> list[list[tuple[int, int]]]:
    """The pixels of every region of one id, connected by sides or corners; none of unlabelled pixels."""
    regions, seen = [], set()
    for start in pixels(ids):
        region, waiting = [], [] if ids[start] == -1 else [start]
        while waiting:
            place = waiting.pop()
            if place not in seen:
                seen.add(place)
                region.append(place)
                waiting += [p for p in pixels(ids) if math.dist(p, place) < 1.5 and ids[p] == ids[place]]
        regions += [region] if region else []
    return regions


@pytest.mark.parametrize("seed", range(6))
def test_regions_connect_by_sides_and_corners(seed: int) -> None:
    ids = random_ids(seed)
    numbers = objects_in(ids, instances=False)
    assert (numbers[ids == -1] == 0).all()
    found = [{int(numbers[place]) for place in region} for region in flooded(ids)]
    assert all(len(number) == 1 for number in found)
    assert len(set.union(*found)) == len(found)
    assert 0 not in set.union(*found)


def around(region: list[tuple[int, int]], place: int) -> list[float]:
    ys, xs = zip(*region, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1, place, 0, len(region)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("least", [1, 4])
def test_boxes_are_those_of_every_region(seed: int, least: int) -> None:
    ids = random_ids(seed)
    task = Detection("objects", classes=["person", "car"], min_pixels=least)
    rows = ComponentBoxes(task, CLASSES)(torch.from_numpy(ids))
    places = {1: 1, 2: 0}  # car and person
    regions = [region for region in flooded(ids) if ids[region[0]] in places and len(region) >= least]
    assert sorted(rows.tolist()) == sorted(around(region, places[ids[region[0]]]) for region in regions)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_those_of_every_instance(seed: int) -> None:
    """Whatever its number, 255 among them, and in however many pieces it lies."""
    names = np.array([0, 255, 1200, 254, 256, 3], np.int32)
    ids = random_ids(seed, 0)
    ids = names[ids + 3 * (np.random.default_rng(seed).random(ids.shape) > 0.5)]
    rows = ComponentBoxes(Detection("objects", classes=["cell"], min_pixels=1), INSTANCES)(torch.from_numpy(ids))
    objects = [[place for place in pixels(ids) if ids[place] == id] for id in np.unique(ids) if id]
    assert sorted(rows.tolist()) == sorted(around(pixels_of, 0) for pixels_of in objects)


def test_boxes_by_the_values_of_a_mask() -> None:
    masks = torch.tensor([[24001, 24002, 7, 26, 0]], dtype=torch.int32)
    cityscapes = Detection("objects", classes=["person", "car"], ids={24: "person", 26: "car"}, min_pixels=1)
    rows = ComponentBoxes(cityscapes, INSTANCES)(masks)
    assert rows[:, [0, 4]].tolist() == [[3, 1], [0, 0], [1, 0]]
    unnamed = Source("masks", "classes")
    binary = torch.tensor([[-1, 0, 9, 0, 7, 7]], dtype=torch.int32)  # -1 is 255 in the file
    alone = Detection("objects", classes=["blob"], min_pixels=1)
    assert ComponentBoxes(alone, unnamed)(binary)[:, [0, 2]].tolist() == [[4, 6], [2, 3]]
    white = Detection("objects", classes=["blob"], ids={255: "blob"}, min_pixels=1)
    assert ComponentBoxes(white, unnamed)(binary)[:, [0, 2]].tolist() == [[0, 1]]
    for source in (INSTANCES, unnamed):
        with pytest.raises(ConfigError, match=r"tasks\.objects\.ids: missing.*expected such as \{1: a\}"):
            ComponentBoxes(Detection("objects", classes=["a", "b"]), source)
    with pytest.raises(ConfigError, match=r"found 'dog'; 'masks' has road, car, person"):
        ComponentBoxes(Detection("objects", classes=["dog"]), CLASSES)


@pytest.mark.parametrize("seed", range(3))
def test_merged_and_binary_classes_pixel_by_pixel(seed: int) -> None:
    ids = random_ids(seed)
    two = Merge(Semantic("two", classes=["a", "b"]), CLASSES, into={"b": ["road", "person"], "a": ["car"]})
    one = Merge(Semantic("one", classes=["car"]), CLASSES, into={"car": ["car"]}, rest="background")
    for made, table in ((two, {0: 1, 1: 0, 2: 1, -1: 255}), (one, {0: 0, 1: 1, 2: 0, -1: 255})):
        found = made(torch.from_numpy(ids))
        assert all(found[place] == table[ids[place]] for place in pixels(ids))


def test_merged_classes() -> None:
    masks = torch.tensor([[0, 1, 2], [-1, 2, 0]], dtype=torch.int32)
    two = Semantic("two", classes=["still", "movable"])
    assert Merge(two, CLASSES, into={"movable": ["car", 2]}, rest="still")(masks).tolist() == [[0, 1, 1], [255, 1, 0]]
    assert Merge(two, CLASSES, into={"still": ["road"], "movable": ["car"]})(masks).tolist() == [
        [0, 1, 255],
        [255, 255, 0],
    ]
    binary = Semantic("car", classes=["car"])
    assert Merge(binary, CLASSES, into={"car": ["car"]}, rest="background")(masks).tolist() == [[0, 1, 0], [255, 0, 0]]
    unnamed = Merge(binary, Source("ids", "classes"), into={"car": [900]}, rest="background")
    assert unnamed(torch.tensor([[900, 5, -1]], dtype=torch.int32)).tolist() == [[1, 0, 255]]


@pytest.mark.parametrize(
    ("into", "message"),
    [
        ({"movable": ["cars"]}, "found 'cars'; 'masks' has road, car, person"),
        ({"movable": [3]}, "found 3; 'masks' has road, car, person"),
        ({"moving": ["car"]}, "into.moving: found 'moving'; the task has still, movable"),
        ({"movable": ["car"], "still": [1]}, "1 is named twice"),
    ],
)
def test_mistakes_in_merged_classes(into: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Merge(Semantic("two", classes=["still", "movable"]), CLASSES, into=into)


def test_counts_are_of_what_is_seen() -> None:
    task = Classification("count", bins=[0, 1, 3], derive="count")
    assert task.classes == ["0", "1 to 2", "3 or more"]
    ids = torch.zeros(4, 8, dtype=torch.int32)
    ids[0, 0], ids[0, 1], ids[3, 6:] = 9, 255, 256
    label = task.wrap(Count(task, INSTANCES)(ids), (4, 8))
    assert int(task.encode(label)) == 2
    assert [int(task.encode(label[:, part])) for part in (slice(0, 2), slice(1, 4), slice(2, 5))] == [1, 1, 0]
    ids[2, 2] = -1
    assert int(task.encode(task.wrap(Count(task, INSTANCES)(ids), (4, 8)))) == -1
    masks = torch.tensor([[1, 0, 1], [0, 2, 1], [2, 0, 0]], dtype=torch.int32)
    regions = {"car": 2, "person": 1}
    for name, number in regions.items():
        numbers = task.wrap(Count(task, CLASSES, classes=[name])(masks), (3, 3))
        assert len(numbers[numbers > 255].unique()) == number
    empty = Count(task, INSTANCES, unlabelled="empty")(ids)
    assert int(task.encode(task.wrap(empty, (4, 8)))) == 2
    with pytest.raises(ConfigError, match=r"classes: found None; expected some, whose regions are counted"):
        Count(task, CLASSES)
    with pytest.raises(ConfigError, match=r"tasks\.x\.bins: found \[1, 2\]; expected ascending numbers from 0"):
        Classification("x", bins=[1, 2], derive="count")
    with pytest.raises(ConfigError, match=r"tasks\.x\.bins: found None; expected bins with derive: count"):
        Classification("x", classes=2, derive="count")


@pytest.mark.parametrize("seed", range(6))
def test_regions_and_instances_are_counted_in_every_crop(seed: int) -> None:
    ids = random_ids(seed, 0)
    task = Classification("count", bins=list(range(13)), derive="count")
    regions = task.wrap(Count(task, CLASSES, classes=["car", 2])(torch.from_numpy(ids)), ids.shape)  # pyright: ignore
    instances = task.wrap(Count(task, INSTANCES)(torch.from_numpy(ids)), ids.shape)  # pyright: ignore
    for top, left in ((0, 0), (2, 1), (4, 6)):
        window = {(y, x) for y in range(top, top + 5) for x in range(left, left + 6)}
        shown = [region for region in flooded(ids) if ids[region[0]] in (1, 2) and window & set(region)]
        crop = np.s_[top : top + 5, left : left + 6]
        assert int(task.encode(regions[crop])) == len(shown)
        assert int(task.encode(instances[crop])) == len({ids[place] for place in window} - {0})


# normals
