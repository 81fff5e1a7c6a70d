"""Dirt on the lens: the same bytes on any machine, labels that agree with each other, and what it hides."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from segweave.data.streets import render
from segweave.data.streets_soiling import LEVELS, SOILS, Soiled, soil

# (seed, index, height, width, strength): digest, as in test_streets.py. Where the dirt changes on purpose, raise
# streets_soiling.EDITION and print the new table.
GOLDEN: dict[tuple[int, int, int, int, float], str] = {
    (0, 24, 96, 192, 0.9): "cbed3547e142e7e0",
    (0, 3, 48, 80, 1.0): "054d0c5ad9c1eea2",
    (0, 2, 37, 53, 0.5): "17e4ecba9774db89",
    (-5, 33554435, 50, 100, 0.8): "de5f1532b6e02e87",
    (12345678901, 7, 1, 1, 0.9): "c9f7be13d22ae734",
}
GREY = np.full((48, 96, 3), 128, np.uint8)


def digest(soiled: Soiled) -> str:
    total = hashlib.sha256()
    for array in (soiled.image, soiled.thickness, soiled.levels):
        total.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes())
    total.update(str(soiled.soil).encode())
    return total.hexdigest()[:16]


def dirt(index: int, strength: float = 0.9, seed: int = 0, image: np.ndarray = GREY) -> Soiled:
    return soil(image, seed, index, strength)


@pytest.mark.parametrize("key", GOLDEN, ids=str)
def test_the_bytes_are_those_of_every_other_machine(key: tuple[int, int, int, int, float]) -> None:
    seed, index, height, width, strength = key
    assert digest(soil(render(seed, index, height, width).image, seed, index, strength)) == GOLDEN[key]


def test_levels_are_thirds_of_the_thickness() -> None:
    for index in range(20):
        soiled = dirt(index)
        assert (soiled.image.dtype, soiled.thickness.dtype, soiled.levels.dtype) == (np.uint8, np.float32, np.uint8)
        assert 0 <= soiled.thickness.min() <= soiled.thickness.max() <= 1
        assert (soiled.levels == np.ceil(soiled.thickness * 3)).all()


def test_dirt_depends_on_its_seed_and_index_and_on_nothing_in_the_picture() -> None:
    maps = {dirt(index, seed=seed).thickness.tobytes() for seed in range(4) for index in range(8)}
    assert len(maps) == 32
    for index in range(8):
        first, other = dirt(index), dirt(index, 0.3, image=render(0, index, 48, 96).image)
        assert (first.thickness == other.thickness).all()
        assert first.soil == other.soil


def test_a_clean_part_of_the_lens_shows_the_street_and_a_soiled_one_hides_it() -> None:
    """Of two pictures behind the same dirt, the difference that is left is the share that is not hidden."""
    black, white = np.zeros_like(GREY), np.full_like(GREY, 255)
    for index in range(8):
        for strength in (0.0, 0.5, 1.0):
            dark, bright = dirt(index, strength, image=black), dirt(index, strength, image=white)
            left = bright.image.astype(int) - dark.image
            hidden = 1 - left / 255
            assert (left[dark.levels == 0] == 255).all()
            # both pictures are rounded to whole numbers
            assert (hidden <= strength * dark.thickness[:, :, None] + 1.01 / 255).all()
            assert (hidden >= 0.4 * strength * dark.thickness[:, :, None] - 1.01 / 255).all()
            if strength == 1 and dark.thickness.max() == 1:
                assert hidden.max() > 0.97


def test_layout_does_not_depend_on_the_size() -> None:
    for index in range(6):
        small, large = dirt(index), dirt(index, image=np.zeros((144, 288, 3), np.uint8))
        # every third ray of the large picture is a ray of the small one
        assert large.thickness[1::3, 1::3] == pytest.approx(small.thickness, abs=1e-6)
        assert large.soil == small.soil


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 70), (70, 1), (7, 300)])
def test_any_size_can_be_soiled(height: int, width: int) -> None:
    with np.errstate(all="raise"):
        soiled = dirt(3, image=np.zeros((height, width, 3), np.uint8))
    assert soiled.image.shape == (height, width, 3)
    assert soiled.thickness.shape == soiled.levels.shape == (height, width)


def test_every_level_and_soil_is_common() -> None:
    shown = [dirt(index) for index in range(100)]
    pixels = np.concatenate([s.levels.ravel() for s in shown])
    share = np.bincount(pixels, minlength=len(LEVELS)) / len(pixels)
    assert share.min() > 0.1, dict(zip(LEVELS, share, strict=True))
    assert np.bincount([s.soil for s in shown], minlength=len(SOILS)).min() > 20
