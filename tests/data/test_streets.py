"""The synthetic streets: the same bytes on any machine, exact labels, one layout at every size, and variety."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest

from segweave.data import streets
from segweave.data.streets import CLASSES, OBJECTS, SCENES, WEATHERS, Street, render
from segweave.data.streets_canvas import BUILDING, CAR, FAR, PAVEMENT, ROAD, SKY, TREE, Canvas, chance, noise

# (seed, index, height, width): digest. Made on x86-64 with NumPy 1.26.4 and 2.4.6, with and without AVX2, FMA and
# AVX-512. Where the streets change on purpose, raise streets.EDITION and print the new table.
GOLDEN: dict[tuple[int, int, int, int], str] = {
    (0, 24, 96, 192): "b2a1e1b51ede45e4",
    (0, 42, 48, 80): "244481d7768f34e1",
    (0, 21, 37, 53): "78a16f0461fbc678",
    (0, 26, 96, 192): "f251e5744ac5a6c8",
    (0, 133, 120, 90): "49134647442af597",
    (0, 1, 64, 128): "1928ed576ab2e7b1",
    (0, 10, 96, 192): "8a77bcbd4d53e6c6",
    (0, 2, 96, 192): "8893f06213cad659",
    (-5, 33554435, 50, 100): "352eb78524b5c092",
    (12345678901, 7, 1, 1): "e48b9b2be79efb6a",
}


def digest(street: Street) -> str:
    total = hashlib.sha256()
    for array in (street.image, street.semantic, street.depth, street.instances, street.boxes, street.labels):
        total.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes())
    total.update(f"{street.scene} {street.weather}".encode())
    return total.hexdigest()[:16]


@cache
def street(index: int, height: int = 48, width: int = 96, seed: int = 0) -> Street:
    return render(seed, index, height, width)


def golden(key: tuple[int, int, int, int]) -> Street:
    seed, index, height, width = key
    return street(index, height, width, seed)


def view(index: int, height: int, width: int) -> Canvas:
    """The camera that rendered it, with what it saw."""
    seen = []

    class Spy(Canvas):
        def __init__(self, *args: int, **options: float) -> None:
            super().__init__(*args, **options)  # pyright: ignore
            seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streets, "Canvas", Spy)
        render(0, index, height, width)
    return seen[0]


@pytest.mark.parametrize("key", GOLDEN, ids=str)
def test_the_bytes_are_those_of_every_other_machine(key: tuple[int, int, int, int]) -> None:
    assert digest(golden(key)) == GOLDEN[key]


def test_the_digests_cover_every_scene_and_weather() -> None:
    shown = [golden(key) for key in GOLDEN]
    assert {s.scene for s in shown} == set(range(len(SCENES)))
    assert {s.weather for s in shown} == set(range(len(WEATHERS)))


def test_no_float_overflows_or_turns_into_nan() -> None:
    with np.errstate(all="raise"):
        for index in range(24):
            render(1, index, 24, 48)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 70), (70, 1), (90, 20), (7, 300)])
def test_any_size_can_be_rendered(height: int, width: int) -> None:
    for index in range(10):
        shown = render(0, index, height, width)
        assert shown.image.shape == (height, width, 3)
        assert shown.semantic.shape == shown.depth.shape == shown.instances.shape == (height, width)
        if len(shown.boxes):
            assert (shown.boxes[:, 2:] <= (width, height)).all()


def test_types_and_ranges() -> None:
    for index in range(20):
        shown = street(index)
        assert shown.image.dtype == shown.semantic.dtype == np.uint8
        assert (shown.depth.dtype, shown.boxes.dtype, shown.labels.dtype) == (np.float32, np.float32, np.int64)
        assert shown.depth.max() <= FAR
        assert 20 < shown.image.mean() < 235, "neither black nor white: night and snow must stay legible"
        assert shown.image.std() > 15


def test_sky_and_only_sky_has_no_depth() -> None:
    for index in range(40):
        shown = street(index)
        assert ((shown.depth == 0) == (shown.semantic == SKY)).all()


def test_boxes_are_the_bounds_of_the_visible_pixels_of_one_class() -> None:
    boxes = 0
    for index in range(40):
        shown = street(index)
        assert int(shown.instances.max()) == len(shown.boxes) == len(shown.labels)
        for number, (box, label) in enumerate(zip(shown.boxes.tolist(), shown.labels.tolist(), strict=True), 1):
            rows, columns = np.nonzero(shown.instances == number)
            assert len(rows) >= streets.SMALLEST
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert set(shown.semantic[rows, columns].tolist()) == {CLASSES.index(OBJECTS[label])}
            boxes += 1
    assert boxes > 150


def test_object_pixels_without_a_box_belong_to_objects_too_small_for_one() -> None:
    for index in range(20):
        canvas = view(index, 48, 96)
        shown = street(index)
        stray = (shown.semantic >= CAR) & (shown.instances == 0)
        for number in np.unique(canvas.instance[stray]).tolist():
            assert 0 < (canvas.instance == number).sum() < streets.SMALLEST
        assert (canvas.instance[stray] > 0).all()


def test_depth_of_the_ground_obeys_the_pinhole() -> None:
    for index in range(12):
        canvas, shown = view(index, 48, 96), street(index)
        focal, horizon, eye = canvas.focal, canvas.horizon, canvas.eye
        for row in range(48):
            flat = np.isin(shown.semantic[row], (ROAD, PAVEMENT))
            if flat.any():
                assert shown.depth[row][flat] == pytest.approx(eye * focal / (row + 0.5 - horizon), rel=1e-6)
        assert (shown.semantic == ROAD).any()


def test_a_car_is_as_large_as_its_depth_says() -> None:
    """Metres across = pixels * depth / focal: between a narrow car seen from behind and a bus seen from the side."""
    widths = []
    for index in range(24):
        canvas, shown = view(index, 72, 144), street(index, 72, 144)
        for number, (box, label) in enumerate(zip(shown.boxes, shown.labels, strict=True), 1):
            near = shown.depth[shown.instances == number].min()
            free = box[0] > 0 and box[2] < 144
            if label == 0 and free and (shown.instances == number).sum() > 120:
                widths.append((box[2] - box[0]) * near / canvas.focal)
    assert len(widths) > 20
    assert 1.7 < np.median(widths) < 4.5
    assert max(widths) < 8


def test_nearer_things_hide_farther_ones() -> None:
    """Within a column, the road's depth falls towards the bottom of the picture, and nothing on it is farther away."""
    for index in range(12):
        shown = street(index)
        for column in range(0, 96, 7):
            road = np.flatnonzero(shown.semantic[:, column] == ROAD)
            if len(road) > 1:
                assert (np.diff(shown.depth[road, column]) < 0).all()


def test_layout_does_not_depend_on_the_size() -> None:
    agreement, scenes = [], []
    for index in range(12):
        small, large = street(index), render(0, index, 144, 288)
        agreement.append((large.semantic[1::3, 1::3] == small.semantic).mean())
        scenes.append((small.scene, small.weather) == (large.scene, large.weather))
        both = (small.semantic == ROAD) & (large.semantic[1::3, 1::3] == ROAD)
        assert large.depth[1::3, 1::3][both] == pytest.approx(small.depth[both], rel=1e-4)
    assert all(scenes)
    assert min(agreement) > 0.999  # every third ray of the large picture is a ray of the small one


def test_every_class_scene_weather_and_object_is_common() -> None:
    shown = [street(index, 48, 96) for index in range(100)]
    pixels = sum(np.bincount(s.semantic.ravel(), minlength=len(CLASSES)) for s in shown)
    share = pixels / pixels.sum()
    assert share.min() > 0.006, dict(zip(CLASSES, share, strict=True))
    present = sum(np.isin(range(len(CLASSES)), s.semantic) for s in shown) / len(shown)
    assert present[[ROAD, SKY, TREE]].min() > 0.95
    assert present[[PAVEMENT, BUILDING, *range(CAR, len(CLASSES))]].min() > 0.4
    scenes = np.bincount([s.scene for s in shown], minlength=len(SCENES))
    weathers = np.bincount([s.weather for s in shown], minlength=len(WEATHERS))
    objects = np.bincount(np.concatenate([s.labels for s in shown]), minlength=len(OBJECTS))
    assert scenes.min() > 12
    assert weathers.min() > 4
    assert objects.min() > 100


def test_other_seeds_and_indices_are_other_streets() -> None:
    pictures = {render(seed, index, 12, 24).image.tobytes() for seed in range(4) for index in range(8)}
    assert len(pictures) == 32


def test_a_wet_road_reflects_what_stands_on_it_without_changing_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    wet = next(index for index in range(100) if WEATHERS[street(index).weather] == "rain")
    shown = street(wet)
    monkeypatch.setattr(streets, "reflect", lambda *_: None)
    dry = render(0, wet, 48, 96)
    assert (shown.semantic == dry.semantic).all()
    assert (shown.depth == dry.depth).all()
    changed = (shown.image != dry.image).any(-1)
    assert changed[shown.semantic == ROAD].mean() > 0.5
    assert not changed[~np.isin(shown.semantic, (ROAD, PAVEMENT))].any()


def box_hit(up: tuple[float, float] = (0.0, 3.0), lean: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple:
    canvas = Canvas(60, 120, focal=60.0, horizon=30.0, centre=60.0, eye=1.5)
    hit = canvas.solid((2.0, 4.0), up, (10.0, 20.0), lean)
    assert hit is not None
    return canvas, hit


def test_a_solid_meets_the_rays_where_geometry_says() -> None:
    canvas, hit = box_hit()
    full = np.zeros((60, 120), bool)
    full[hit.window] = hit.mask
    depth = np.zeros((60, 120))
    depth[hit.window] = hit.depth
    rays = canvas.x[0]
    for column in range(120):
        x = rays[column]
        if 2 <= x * 10 <= 4:  # the near face
            assert full[30, column]
            assert depth[30, column] == 10
        elif 10 < 2 / x < 20 if x > 0 else False:  # the flank at x = 2
            assert full[30, column]
            assert depth[30, column] == pytest.approx(2 / x)
        else:
            assert not full[30, column]
    near = full & (depth == 10)
    rows = np.flatnonzero(near.any(1))
    assert (rows[0], rows[-1]) == (21, 38)  # 30 +- 1.5 / 10 * 60


def test_the_lid_of_a_low_solid_is_seen_from_above() -> None:
    canvas, hit = box_hit(up=(0.0, 0.5))
    assert hit.lid[hit.mask].any()
    rows = canvas.y[hit.window[0]] + 0 * hit.depth
    lid = hit.lid & hit.mask
    assert hit.depth[lid] == pytest.approx(1.0 / rows[lid])  # the eye is 1 m above it
    assert hit.up[lid] == pytest.approx(0.5)


def test_a_leaning_near_side_recedes_with_height() -> None:
    _, hit = box_hit(lean=(0.5, 0.0, 0.0))
    face = hit.mask & ~hit.flank & ~hit.lid
    assert hit.depth[face] == pytest.approx(10 + 0.5 * hit.up[face])


def test_solids_and_cards_out_of_the_picture_are_none() -> None:
    canvas = Canvas(60, 120, focal=60.0, horizon=30.0, centre=60.0, eye=1.5)
    assert canvas.solid((30.0, 32.0), (0.0, 2.0), (5.0, 9.0)) is None
    assert canvas.card(-40.0, 8.0, 1.0, 2.0) is None


def test_paint_keeps_the_nearest() -> None:
    canvas = Canvas(4, 6, focal=6.0, horizon=2.0, centre=3.0, eye=1.5)
    everywhere, window = np.ones((4, 6), bool), (slice(0, 4), slice(0, 6))
    canvas.paint(window, everywhere, np.full((3, 1, 1), 0.5), CAR, 9.0, 7)
    canvas.paint(window, everywhere, np.full((3, 1, 1), 0.1), TREE, np.where(np.arange(6) < 2, 5.0, 12.0)[None])
    assert (canvas.semantic == np.where(np.arange(6) < 2, TREE, CAR)).all()
    assert (canvas.depth == np.where(np.arange(6) < 2, 5.0, 9.0)).all()
    assert (canvas.instance == np.where(np.arange(6) < 2, 0, 7)).all()
    assert (canvas.image[0] == np.where(np.arange(6) < 2, 0.1, 0.5)).all()


def test_a_mirror_sees_the_picture_upside_down_from_below_the_ground() -> None:
    """A mirrored point at height h looks as the real camera would see it at height -h."""
    options = {"focal": 60.0, "horizon": 20.0, "centre": 60.0, "eye": 1.5}
    mirror = Canvas(60, 120, **options, mirror=True)  # pyright: ignore
    hit = mirror.solid((-1.0, 1.0), (0.0, 1.0), (10.0, 11.0))
    assert hit is not None
    rows = np.flatnonzero(hit.mask.any(1)) + hit.window[0].start + mirror.first
    assert (rows[0], rows[-1]) == (28, 34)  # from 20 + 1.5 / 11 * 60, its underside, to 20 + 2.5 / 10 * 60


def test_random_numbers_are_uniform_and_noise_is_smooth() -> None:
    values = chance(3, np.arange(4096)[:, None], np.arange(8)[None])
    histogram = np.histogram(values, 8, (0, 1))[0]
    assert histogram.min() > 3800
    assert histogram.max() < 4400
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.05
    x = np.arange(0, 40, 0.02)
    line = noise(x + 100, np.full(1, 5.5), 3)
    assert 0 <= line.min() < 0.3
    assert 0.7 < line.max() < 1
    assert abs(np.diff(line)).max() < 0.09
