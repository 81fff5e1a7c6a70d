"""Nuclei of the Data Science Bowl: instances, boxes, overlaps, and the real subset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.data.dsb2018 import DSB2018, read_nuclei
from segweave.errors import DataError
from segweave.tasks import Detection, Semantic
from segweave.tasks.task import Task


def tasks() -> list[Task]:
    return [Semantic("semantic", classes=["nucleus"]), Detection("objects", classes=["nucleus"])]


def save_masks(folder: Path, masks: Sequence[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(folder / f"{number:02}.png")


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    rng = np.random.default_rng(0)
    for number in range(10):
        folder, size = root / "stage1_train" / f"{number:064x}", (20 + number, 30)
        (folder / "images").mkdir(parents=True)
        image = np.dstack([rng.integers(0, 256, (*size, 3)), np.full(size, 255)]).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{number:064x}.png")
        if number != 3:  # one image is not labelled
            masks = np.zeros((3, *size), bool)
            for mask in masks:
                top, left = rng.integers(0, 15, 2)
                mask[top : top + 4, left : left + 5] = True
            save_masks(folder / "masks", masks)
    return {"root": str(root)}, tasks()


def test_instances_boxes_and_overlaps_are_those_of_the_masks(tmp_path: Path) -> None:
    masks = np.zeros((3, 8, 9), bool)
    masks[0, 1:4, 2:6] = True
    masks[1, 3:6, 5:9] = True  # shares one pixel with the first
    masks[2, 7, 0] = True
    save_masks(tmp_path, masks)
    nuclei = read_nuclei(tmp_path)
    expected = np.zeros((8, 9), np.int32)
    for number in (2, 1, 0):  # the first lies on top
        expected[masks[number]] = number + 1
    assert (nuclei.instances.numpy() == expected).all()
    assert nuclei.instances.dtype == torch.int32
    assert nuclei.boxes.tolist() == [[2, 1, 6, 4, 0], [5, 3, 9, 6, 0], [0, 7, 1, 8, 0]]
    assert nuclei.shared == 1


def test_every_layer_is_of_the_same_masks_and_the_overlap_is_told(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    train = DSB2018("train", readers, **options)
    id = train.ids[0]
    masks = np.zeros((2, 20 + int(id, 16), 30), bool)
    masks[0, 2:5, 2:5] = masks[1, 4:9, 4:9] = True
    folder = tmp_path / "stage1_train" / id / "masks"
    for path in folder.iterdir():
        path.unlink()
    save_masks(folder, masks)
    data = DSB2018("train", readers, **options)
    sample = data[0]
    assert (sample.annotations["semantic"].numpy() == masks.any(0)).all()
    assert sample.annotations["objects"].as_subclass(torch.Tensor)[:, :4].tolist() == [[2, 2, 5, 5], [4, 4, 9, 9]]
    assert data.values("instances", folder, id).unique().tolist() == [0, 1, 2]
    assert data.notes[f"{id}: nuclei overlap in 1 pixels"] == 1


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((20, 30), 7, np.uint8), "found 7 on 600 pixels; expected the mask"),
        (np.zeros((20, 30), np.uint8), "found no pixel of 255"),
        (np.full((5, 6), 255, np.uint8), "found 6x5; expected 30x"),
    ],
)
def test_what_is_no_mask_of_a_nucleus_is_refused(tmp_path: Path, mask: np.ndarray, message: str) -> None:
    options, readers = made(tmp_path)
    id = DSB2018("train", readers, **options).ids[0]
    Image.fromarray(mask).save(tmp_path / "stage1_train" / id / "masks" / "99.png")
    with pytest.raises(DataError, match=rf"99\.png: {message}"):
        DSB2018("train", readers, **options)[0]


def test_the_real_subset(real_data: Path) -> None:
    splits = {split: DSB2018(split, tasks(), root=str(real_data / "dsb2018")) for split in ("train", "val")}
    assert sum(map(len, splits.values())) == 83
    files = sum(1 for _ in (real_data / "dsb2018" / "stage1_train").glob("*/masks/*.png"))
    assert files == 3701
    sample = splits["val"][0]
    count = sum(1 for _ in (real_data / "dsb2018" / "stage1_train" / sample.id / "masks").glob("*.png"))
    assert sample.annotations["objects"].shape[0] == count
    assert sample.image.shape[0] == 3
