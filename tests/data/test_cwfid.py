"""CWFID: the inverted mask, the unlabelled vegetation, the boxes of polygons, the leak, and the real subset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segweave.data.cwfid import CWFID
from segweave.errors import DataError
from segweave.tasks import Detection, Semantic
from segweave.tasks.task import Task

COLOURS = np.array([(0, 0, 0), (0, 255, 0), (255, 0, 0)], np.uint8)
HEIGHT, WIDTH = 20, 30


def tasks() -> list[Task]:
    known = CWFID.default_classes()
    return [
        Semantic("vegetation", classes=known["vegetation"]),
        Semantic("plants", classes=known["plants"]),
        Detection("objects", classes=known["objects"]),
    ]


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "annotations"):
        (root / name).mkdir(parents=True)
    for number in range(1, 11):
        id = f"{number:03}"
        soil, kinds = rng.random((HEIGHT, WIDTH)) < 0.7, rng.integers(0, 3, (HEIGHT, WIDTH))
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(root / "images" / f"{id}_image.png")
        Image.fromarray(soil).save(root / "masks" / f"{id}_mask.png")
        colours = COLOURS[np.where(soil, 0, kinds)]
        Image.fromarray(colours).save(root / "annotations" / f"{id}_annotation.png")
        plants = [{"type": "weed", "points": {"x": [3.0, 9.0, 5.0], "y": [2.0, 4.0, 8.0]}}]
        plants += [{"type": "crop", "points": {"x": 4.0, "y": 7.0}}]
        document = {"filename": f"{id}_image.png", "annotation": plants}
        (root / "annotations" / f"{id}_annotation.yaml").write_text(yaml.safe_dump(document))
    (root / "annotations" / "003_annotation.yaml").unlink()
    (root / "train_test_split.yaml").write_text("train: [1, 2, 3, 4, 5, 6, 7, 44]\ntest: [7, 8, 9, 10]\n")
    return {"root": str(root), "val": 0.4}, tasks()


def test_masks_are_inverted_and_vegetation_without_colour_is_not_labelled(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = CWFID("test", readers, **options)
    assert data.ids == ["007", "008", "009", "010"]
    soil = np.asarray(Image.open(tmp_path / "masks" / "009_mask.png"))
    colours = np.asarray(Image.open(tmp_path / "annotations" / "009_annotation.png"))
    sample = data[2].annotations
    assert (sample["vegetation"].numpy() == ~soil).all()
    kinds = np.where((colours == COLOURS[1]).all(2), 1, np.where((colours == COLOURS[2]).all(2), 2, 255))
    assert (sample["plants"].numpy() == np.where(soil, 0, kinds)).all()
    assert 255 in sample["plants"].unique()


def test_a_box_goes_round_the_corners_of_a_polygon_and_a_single_point_has_none(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = CWFID("test", readers, **options)
    boxes = data[0].annotations["objects"].as_subclass(torch.Tensor)
    assert boxes[:, :5].tolist() == [[3, 2, 9, 8, 1]]
    assert data.notes["boxes inverted, without area or not finite: dropped"] == 1


def test_one_plant_is_no_list(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    plant = {"type": "crop", "points": {"x": [1.0, 5.0], "y": [2.0, 6.0]}}
    (tmp_path / "annotations" / "007_annotation.yaml").write_text(yaml.safe_dump({"annotation": plant}))
    boxes = CWFID("test", readers, **options)[0].annotations["objects"].as_subclass(torch.Tensor)
    assert boxes[:, :5].tolist() == [[1, 2, 5, 6, 0]]


def test_colours_on_soil_are_told_and_masks_that_are_not_inverted_are_refused(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    path, colours = tmp_path / "masks" / "007_mask.png", tmp_path / "annotations" / "007_annotation.png"
    soil, drawn = np.asarray(Image.open(path)), np.asarray(Image.open(colours)).copy()
    place = tuple(np.argwhere(soil)[0])
    drawn[place] = COLOURS[2]
    Image.fromarray(drawn).save(colours)
    data = CWFID("test", readers, **options)
    assert int(data[0].annotations["plants"][place]) == 2
    assert data.notes["007: 1 pixels are coloured as plants where the mask has soil"] == 1
    Image.fromarray(~soil).save(path)
    with pytest.raises(
        DataError, match=r"007_mask\.png: found 1 under \d+ of \d+ coloured pixels; expected 1 for soil"
    ):
        CWFID("test", readers, **options)[0]


def test_the_leak_and_the_absent_image_are_told(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    notes = " ".join(CWFID("train", readers, **options).notes)
    assert "007 in train and in test" in notes
    assert "1 of 8 train images are absent, such as 044" in notes


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "masks/007_mask.png",
            np.full((HEIGHT, WIDTH), 255, np.uint8),
            r"found label id 255 \(600 pixels\); expected a one-bit mask",
        ),
        (
            "annotations/007_annotation.png",
            np.full((HEIGHT, WIDTH, 3), 9, np.uint8),
            r"found \(9, 9, 9\) on 600 pixels",
        ),
        ("annotations/007_annotation.png", np.zeros((HEIGHT, 7, 3), np.uint8), "found 7x20; expected 30x20"),
        (
            "annotations/007_annotation.yaml",
            "annotation: [{type: tree, points: {x: 1, y: 2}}]",
            r"found .*the type .tree.*; expected annotation",
        ),
        ("annotations/007_annotation.yaml", "annotation: [", "cannot be read"),
    ],
)
def test_what_the_release_does_not_have_is_refused(tmp_path: Path, file: str, content: Any, message: str) -> None:
    options, readers = made(tmp_path)
    path = tmp_path / file
    path.write_text(content) if isinstance(content, str) else Image.fromarray(content).save(path)
    with pytest.raises(DataError, match=rf"{path.name}: {message}"):
        CWFID("test", readers, **options)[0]


@pytest.mark.parametrize("text", ["train: [1]", "train: [one]\ntest: []", "- 1", "train: ["])
def test_a_list_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    options, readers = made(tmp_path)
    (tmp_path / "train_test_split.yaml").write_text(text)
    with pytest.raises(DataError, match=r"train_test_split\.yaml: (found|cannot be read)"):
        CWFID("train", readers, **options)


def test_the_real_subset(real_data: Path) -> None:
    splits = {
        split: CWFID(split, tasks(), root=str(real_data / "cwfid"), val=0.3) for split in ("train", "val", "test")
    }
    assert sorted([*splits["train"].ids, *splits["val"].ids]) == [
        f"{n:03}" for n in (2, 5, 6, 7, 8, 11, 12, 14, 16, 17, 18, 19, 20, 28)
    ]
    assert splits["test"].ids == [f"{n:03}" for n in (1, 3, 4, 9, 10, 13, 28)]
    for sample in (splits["test"][i] for i in (0, 6)):
        vegetation, plants = (sample.annotations[name].as_subclass(torch.Tensor) for name in ("vegetation", "plants"))
        assert 0.01 < float(vegetation.float().mean()) < 0.5  # a field is mostly soil
        assert set(plants.unique().tolist()) == {0, 1, 2, 255}
        assert bool((vegetation[(plants == 255) | (plants == 1) | (plants == 2)] == 1).all())
        boxes = sample.annotations["objects"].as_subclass(torch.Tensor)
        assert set(boxes[:, 4].tolist()) == {0, 1}
        # the polygons were drawn round the colours, so that a colour outside every box of its class is rare
        for colour in (1, 2):
            inside = torch.zeros(plants.shape, dtype=torch.bool)
            for x1, y1, x2, y2 in boxes[boxes[:, 4] == colour - 1, :4].int().tolist():
                inside[y1 : y2 + 1, x1 : x2 + 1] = True
            assert float((inside & (plants == colour)).sum() / (plants == colour).sum()) > 0.99


@pytest.mark.parametrize(("share", "images"), [(0.01, 1), (0.3, 2), (0.6, 4)])
def test_as_many_images_validate_as_the_share_says_and_at_least_one(share: float, images: int, tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    train, val = (CWFID(split, readers, **options | {"val": share}) for split in ("train", "val"))
    assert (len(train), len(val)) == (7 - images, images)
    assert not set(train.ids) & set(val.ids)
