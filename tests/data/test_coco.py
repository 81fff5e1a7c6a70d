"""COCO: the ids of its three sets of classes, boxes against pycocotools, and segments of panoptic files."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from segweave.data.coco import Coco
from segweave.errors import DataError
from segweave.tasks import Detection, Semantic
from segweave.tasks.task import Task

UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
IDS = [id for id in range(1, 91) if id not in UNUSED]
SIZE = (20, 30)


def tasks() -> list[Task]:
    classes = Coco.default_classes()
    dense = [Semantic(name, classes=classes[name]) for name in ("stuff_things", "stuff", "panoptic")]
    return [Detection("objects", classes=classes["objects"]), *dense]


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    image.save(path)


def segment_colours(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    rng = np.random.default_rng(0)
    names = Coco.default_classes()["objects"]
    categories = [{"id": id, "name": name, "supercategory": ""} for id, name in zip(IDS, names, strict=True)]
    values = [id - 1 for id in (*IDS, *range(92, 183))] + [255]
    for split, numbers in {"train": (9, 25, 30), "val": (139, 285), "test": (1,)}.items():
        images, boxes, panoptic = [], [], []
        for number in numbers:
            stem = f"{number:012}"
            save(root / f"{split}2017" / f"{stem}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            images.append({"id": number, "file_name": f"{stem}.jpg", "height": 20, "width": 30})
            for place in range(2 if number != 25 else 0):  # an image without objects
                x, y, w, h = 3.5 + place, 2.25, 10.5, 7.0
                crowd = place == 1
                rle = {"counts": [30, 20, 550], "size": list(SIZE)}
                boxes.append(
                    {"id": len(boxes) + 1, "image_id": number, "category_id": (90, 13)[place], "iscrowd": int(crowd)}
                    | {
                        "bbox": [x, y, w, h],
                        "area": 55.5,
                        "segmentation": rle if crowd else [[x, y, x + w, y, x, y + h]],
                    }
                )
            if split == "test":
                continue
            save(root / "stuffthingmaps" / f"{split}2017" / f"{stem}.png", rng.choice(values, SIZE).astype(np.uint8))
            stuff = rng.choice([0, *range(92, 184)], SIZE).astype(np.uint8)
            save(root / "annotations" / f"stuff_{split}2017_pixelmaps" / f"{stem}.png", stuff, "P")
            segments = [{"id": 300, "category_id": 1, "iscrowd": 0}, {"id": 65536 * 7 + 5, "category_id": 200}]
            pixels = rng.choice([0, 300, 65536 * 7 + 5], SIZE)
            save(root / "annotations" / f"panoptic_{split}2017" / f"{stem}.png", segment_colours(pixels))
            panoptic.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
        if split != "test":
            instances = {"images": images, "annotations": boxes, "categories": categories}
            (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(instances))
            content = {"images": images, "annotations": panoptic, "categories": []}
            (root / "annotations" / f"panoptic_{split}2017.json").write_text(json.dumps(content))
    return {"root": str(root)}, tasks()


def test_boxes_are_those_of_the_file(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = Coco("train", readers, **options)
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO(str(tmp_path / "annotations" / "instances_train2017.json"))
    classes = list(Coco.default_classes()["objects"])
    for index, id in enumerate(data.ids):
        found = data.annotation(index, "objects")
        assert found is not None
        assert len(found) == (0 if id == "000000000025" else 2)
        expected = []
        for item in oracle.loadAnns(oracle.getAnnIds(imgIds=[int(id)])):
            x, y, w, h = item["bbox"]
            name = oracle.cats[item["category_id"]]["name"]
            expected.append([x, y, x + w, y + h, classes.index(name), item["iscrowd"], item["area"], 1])
        assert found.tolist() == expected
    # predictions are written with the ids of the release
    assert readers[0].category_ids == IDS  # pyright: ignore[reportAttributeAccessIssue]


def test_fewer_classes_and_other_places_of_the_folders(tmp_path: Path) -> None:
    options, _ = made(tmp_path)
    (tmp_path / "images").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").rename(tmp_path / "images" / f"{split}2017")
        (tmp_path / "stuffthingmaps" / f"{split}2017").rename(tmp_path / "annotations" / f"{split}2017")
    signs = Detection("objects", classes=["stop sign"], ignore="others")
    stuff = Semantic("stuff_things", classes=Coco.default_classes()["stuff_things"])
    sample = Coco("train", [signs, stuff], **options)[0]
    assert sample.annotations["objects"][:, 4:6].tolist() == [[0, 1]]
    stored = np.asarray(Image.open(tmp_path / "annotations" / "train2017" / "000000000009.png"))
    assert np.array_equal(sample.annotations["stuff_things"] == 255, stored == 255)


def test_the_classes_are_those_of_the_releases() -> None:
    classes = Coco.default_classes()
    assert {name: len(set(names)) for name, names in classes.items() if name != "detection"} == {
        "objects": 80,
        "stuff_things": 171,
        "stuff": 92,
        "panoptic": 133,
        "instances": 80,
    }
    assert [classes["objects"][IDS.index(id)] for id in (1, 13, 44, 62, 90)] == [
        *("person", "stop sign", "bottle", "chair", "toothbrush")
    ]
    assert list(classes["stuff_things"][:80]) == list(classes["panoptic"][:80]) == list(classes["objects"])
    assert list(classes["stuff_things"][80:]) == list(classes["stuff"][:-1])
    assert [classes["stuff"][id - 92] for id in (92, 106, 124, 149, 169, 182, 183)] == [
        *("banner", "clouds", "grass", "road", "tree", "wood", "other")
    ]
    assert [classes["panoptic"][place] for place in (80, 82, 83, 115, 116, 119, 132)] == [
        *("banner", "bridge", "cardboard", "window-other", "tree-merged", "sky-other-merged", "rug-merged")
    ]


def test_values_of_stuff_are_classes(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    things = np.resize(np.array([0, 12, 89, 91, 181, 255], np.uint8), SIZE)
    save(tmp_path / "stuffthingmaps" / "val2017" / "000000000139.png", things)
    stuff = np.resize(np.array([92, 182, 183, 0], np.uint8), SIZE)
    save(tmp_path / "annotations" / "stuff_val2017_pixelmaps" / "000000000139.png", stuff, "P")
    sample = Coco("val", readers, **options)[0]
    assert np.array_equal(sample.annotations["stuff_things"], np.resize([0, 11, 79, 80, 170, 255], SIZE))
    assert np.array_equal(sample.annotations["stuff"], np.resize([0, 90, 91, 255], SIZE))


def test_segments_are_classes(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    found = Coco("val", readers, **options)[1].annotations["panoptic"]
    stored = np.asarray(Image.open(tmp_path / "annotations" / "panoptic_val2017" / "000000000285.png"))
    for y in range(20):
        for x in range(30):
            red, green, blue = map(int, stored[y, x])
            assert int(found[y, x]) == {0: 255, 300: 0, 65536 * 7 + 5: 132}[red + 256 * green + 65536 * blue]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    (tmp_path / "train2017" / "000000000030.jpg").unlink()
    (tmp_path / "annotations" / "panoptic_train2017" / "000000000025.png").unlink()
    data = Coco("train", readers, **options)
    assert data.labelled("panoptic") == 1
    assert set(data.notes) == {
        "instances_train2017.json: 1 of its images are not in the data, such as '000000000030'",
        "panoptic_train2017.json: annotations without a PNG file: 1, such as 000000000025",
    }
    test = Coco("test", readers, **options)
    assert [test.labelled(task.name) for task in readers] == [0, 0, 0, 0]
    assert "panoptic: the release has no labels of test" in test.notes


def test_a_segment_of_another_class_changes_the_fingerprint(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    before = Coco("val", readers, **options).fingerprint()
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    path.write_text(path.read_text().replace('"category_id": 200', '"category_id": 199', 1))
    assert Coco("val", readers, **options).fingerprint() != before


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("stuffthingmaps/val2017", np.full(SIZE, 11, np.uint8), r"label id 11 \(600 pixels\); expected an id of COCO"),
        (
            "annotations/stuff_val2017_pixelmaps",
            np.full(SIZE, 91, np.uint8),
            r"label id 91 \(600 pixels\); expected 0,",
        ),
        ("annotations/panoptic_val2017", np.full((*SIZE, 3), 1, np.uint8), r"segment id 65793 \(600 pixels\)"),
        ("annotations/panoptic_val2017", np.full(SIZE, 44, np.uint8), "found L pixels; expected RGB"),
    ],
)
def test_faults_of_values_are_named(tmp_path: Path, name: str, pixels: np.ndarray, message: str) -> None:
    options, readers = made(tmp_path)
    path = tmp_path / name / "000000000139.png"
    save(path, pixels)
    with pytest.raises(DataError, match=message) as caught:
        Coco("val", readers, **options)[0]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"category_id": 200', '"category_id": 201', "000000000139: found category 201; expected one of the 133"),
        ('"segments_info"', '"segments"', "found no panoptic annotations"),
        ('{"images"', '{"images', "found no JSON"),
    ],
)
def test_faults_of_panoptic_annotations_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    options, readers = made(tmp_path)
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message) as caught:
        Coco("val", readers, **options)
    assert str(path) in str(caught.value)


def test_instances_are_the_things_that_somebody_told_apart(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    segments = [(700, 3, 0), (2, 149, 0), (70000, 1, 1), (5, 3, 0)]
    items = [{"id": id, "category_id": category, "iscrowd": crowd} for id, category, crowd in segments]
    annotation = {"image_id": 139, "file_name": "000000000139.png", "segments_info": items}
    (tmp_path / "annotations" / "panoptic_val2017.json").write_text(json.dumps({"annotations": [annotation]}))
    ids = np.resize([0, 700, 2, 70000, 5], SIZE)
    save(tmp_path / "annotations" / "panoptic_val2017" / "000000000139.png", segment_colours(ids))
    data = Coco("val", readers, **options)
    label = data.labels("instances", "val")["000000000139"]
    assert np.array_equal(data.values("instances", label, "000000000139"), np.resize([0, 1, 0, 0, 2], SIZE))


def test_masks_are_not_taken_for_images(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    (tmp_path / "train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"found only masks in .*stuffthingmaps"):
        Coco("train", readers, **options)
