"""Frames round maps of classes: how wide they are, and when `check` takes them for what nobody labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.check import check
from segweave.config import from_values
from segweave.data.survey import frame
from segweave.schema import check_config


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ((slice(2, 8), slice(2, 10)), (3, 2)),
        ((slice(1, 8), slice(4, 10)), (3, 1)),
        ((slice(4, 9), slice(3, 5)), (3, 1)),
        ((slice(0, 2), slice(3, 5)), None),
        ((slice(4, 5), slice(11, 12)), None),
        ((slice(0, 0), slice(0, 0)), None),
    ],
)
def test_the_width_is_the_least_of_the_four_sides(
    inside: tuple[slice, slice], expected: tuple[int, int] | None
) -> None:
    classes = torch.full((10, 12), 3, dtype=torch.uint8)
    classes[inside] = 1
    assert frame(classes) == expected


@pytest.mark.parametrize(("kind", "told"), [("frame", True), ("background", False), ("few", False)])
def test_a_frame_as_wide_everywhere_is_told(kind: str, told: bool, tmp_path: Path) -> None:
    """Objects on a background have frames too, but each its own; and a handful of labels proves nothing."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for number in range(2 if kind == "few" else count):
            mask = rng.integers(0, 3, (24, 24)).astype(np.uint8)
            width = 2 + number % 5 if kind == "background" else 2
            mask[:width] = mask[-width:] = 3
            mask[:, :width] = mask[:, -width:] = 3
            mask[width, width] = 0
            for folder, pixels in (("images", rng.integers(0, 256, (24, 24, 3), np.uint8)), ("masks", mask)):
                (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / folder / split / f"{number}.png")
    data = {"format": "folder", "root": str(tmp_path), "tasks": {"ground": "masks"}}
    tasks = {"ground": {"kind": "semantic", "classes": ["road", "sky", "car", "other"]}}
    made = check_config(from_values({"data": data, "tasks": tasks, "train": {"batch_size": 2}}))
    texts = [finding.text for finding in check(made, tmp_path / "page", 0).findings]
    found = [text for text in texts if "'other' is a frame about 2 pixels wide round 16 of 16 labels" in text]
    assert len(found) == told, texts
