"""Cityscapes: tables of labels, objects of instance ids, depth of disparities, and a test split without labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.data.cityscapes import Cityscapes
from segweave.errors import DataError
from segweave.tasks import Depth, Detection, Semantic
from segweave.tasks.task import Task

SIZE = (20, 30)
CAMERA = {
    "extrinsic": {"baseline": 0.209313, "pitch": 0.038, "roll": 0.0, "x": 1.7, "y": 0.1, "yaw": -0.0195, "z": 1.22},
    "intrinsic": {"fx": 2262.52, "fy": 2265.3017905988554, "u0": 1096.98, "v0": 513.137},
}
TRAIN_IDS = [255] * 7 + [
    0,
    1,
    255,
    255,
    2,
    3,
    4,
    255,
    255,
    255,
    5,
    255,
    6,
    7,
    8,
    9,
    10,
    *range(11, 16),
    255,
    255,
    16,
    17,
    18,
]
"""Of the label ids 0 to 33, as in cityscapesscripts."""
CATEGORY_IDS = [0] * 7 + [1] * 4 + [2] * 6 + [3] * 4 + [4] * 2 + [5] + [6] * 2 + [7] * 8
"""The same, with 0 for void."""


def tasks() -> list[Task]:
    classes = Cityscapes.default_classes()
    return [
        Semantic("semantic", classes=classes["semantic"]),
        Semantic("categories", classes=classes["categories"]),
        Detection("objects", classes=classes["objects"]),
        Depth("depth", max_depth=250.0),
    ]


def put(root: Path, kind: str, split: str, stem: str, end: str, content: np.ndarray | dict[str, Any]) -> Path:
    """One file of the release, of `aachen_000000_000019` for example."""
    path = root / kind / split / stem.partition("_")[0] / f"{stem}_{end}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        path.write_text(json.dumps(content))
    else:
        Image.fromarray(content).save(path)
    return path


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    rng = np.random.default_rng(0)
    stems = {
        "train": ["aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313"],
        "val": ["munster_000000_000019"],
        "test": ["berlin_000000_000019", "berlin_000001_000019"],
    }
    for split, names in stems.items():
        for stem in names:
            put(root, "leftImg8bit", split, stem, "leftImg8bit.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            labels = rng.integers(0, 4 if split == "test" else 34, SIZE).astype(np.uint8)
            instances = np.where(labels >= 24, labels.astype(np.uint16) * 1000, labels).astype(np.uint16)
            put(root, "gtFine", split, stem, "gtFine_labelIds.png", labels)
            put(root, "gtFine", split, stem, "gtFine_instanceIds.png", instances)
            put(root, "gtFine", split, stem, "gtFine_color.png", rng.integers(0, 256, (*SIZE, 4), np.uint8))
            put(root, "gtFine", split, stem, "gtFine_polygons.json", {"imgHeight": 20, "imgWidth": 30, "objects": []})
            put(root, "disparity", split, stem, "disparity.png", rng.integers(0, 32257, SIZE).astype(np.uint16))
            if stem != "bochum_000000_000313":  # of one image there is no calibration
                put(root, "camera", split, stem, "camera.json", CAMERA)
    return {"root": str(root)}, tasks()


def test_the_labels_are_those_of_the_benchmark(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    ids = np.resize(np.array([*range(34), 255], np.uint8), SIZE)
    put(tmp_path, "gtFine", "val", "munster_000000_000019", "gtFine_labelIds.png", ids)
    data = Cityscapes("val", readers, **options)
    train, category = np.array(TRAIN_IDS + [255] * 222), np.array([*CATEGORY_IDS, *[0] * 222])
    semantic, categories = data.annotation(0, "semantic"), data.annotation(0, "categories")
    assert semantic is not None
    assert categories is not None
    assert np.array_equal(semantic.numpy(), train[ids])
    # the benchmark's categories leave out what its classes do
    assert np.array_equal(categories.numpy(), np.where(train[ids] == 255, 255, category[ids] - 1))
    classes = Cityscapes.default_classes()
    assert [classes["semantic"][index] for index in (0, 5, 10, 11, 16, 18)] == [
        *("road", "pole", "sky", "person", "train", "bicycle")
    ]
    assert list(classes["categories"]) == ["flat", "construction", "object", "nature", "sky", "human", "vehicle"]


def test_instances_are_boxes_and_groups_are_crowds(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    ids = np.full(SIZE, 7, np.uint16)
    ids[2:5, 3:9] = 26000
    ids[2:5, 9:12] = 26001
    ids[10, 10] = ids[12, 14] = 24012  # one person behind a pole
    ids[0:2, 20:22] = ids[0:2, 25:30] = 33  # two groups of bicycles
    ids[15:17, 0:4] = 29000  # a caravan, which is not evaluated
    ids[18:20, 28:30] = 31000
    put(tmp_path, "gtFine", "val", "munster_000000_000019", "gtFine_instanceIds.png", ids)
    boxes = Cityscapes("val", readers, **options).annotation(0, "objects")
    assert boxes is not None
    classes = list(Cityscapes.default_classes()["objects"])
    assert classes == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    found = {(*row[:4], classes[int(row[4])], *row[5:7]) for row in boxes.tolist()}
    assert found == {
        (3, 2, 9, 5, "car", 0, 18),
        (9, 2, 12, 5, "car", 0, 9),
        (10, 10, 15, 13, "person", 0, 2),
        (28, 18, 30, 20, "train", 0, 4),
        (20, 0, 22, 2, "bicycle", 1, 4),
        (25, 0, 30, 2, "bicycle", 1, 10),
    }
    assert len(boxes) == 6
    data = Cityscapes("val", readers, **options)
    label = data.labels("instances", "val")["munster_000000_000019"]
    instances = data.values("instances", label, "munster_000000_000019").numpy()
    for number, id in enumerate((24012, 26000, 26001, 31000), 1):
        assert np.array_equal(instances == number, ids == id)
    assert instances.max() == 4


def test_depth_is_baseline_times_focal_length_over_disparity(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    values = np.arange(600, dtype=np.uint16).reshape(SIZE) * 53
    values[0, :3] = 0, 1, 2
    put(tmp_path, "disparity", "val", "munster_000000_000019", "disparity.png", values)
    depth = Cityscapes("val", readers, **options).annotation(0, "depth")
    assert depth is not None
    with np.errstate(divide="ignore"):
        metres = 0.209313 * 2262.52 / ((values.astype(np.float64) - 1) / 256)
    metres[values < 2] = 0
    # two roundings of float32, of 6e-8 each
    np.testing.assert_allclose(depth.numpy(), metres, rtol=2e-7)
    assert depth.dtype == torch.float32


def test_a_disparity_without_calibration_is_left_out_and_told(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = Cityscapes("train", readers, **options)
    assert [data.has_label(index, "depth") for index in range(3)] == [True, True, False]
    assert "disparity without its file in camera: left out, such as bochum_000000_000313" in data.notes


def test_only_depth_is_labelled_in_the_test_split(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = Cityscapes("test", readers, **options)
    assert {task.name: data.labelled(task.name) for task in readers} == {
        "semantic": 0,
        "categories": 0,
        "objects": 0,
        "depth": 2,
    }
    assert "objects: the release has no labels of test but empty ones" in data.notes


def test_what_belongs_to_an_image_is_in_the_fingerprint(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    before = Cityscapes("val", readers, **options).fingerprint()
    camera = CAMERA | {"extrinsic": CAMERA["extrinsic"] | {"baseline": 0.22}}
    put(tmp_path, "camera", "val", "munster_000000_000019", "camera.json", camera)
    assert Cityscapes("val", readers, **options).fingerprint() != before


@pytest.mark.parametrize(
    ("kind", "end", "content", "message"),
    [
        ("gtFine", "gtFine_labelIds.png", np.full(SIZE, 34, np.uint8), r"label id 34 \(600 pixels\); expected 0 to 33"),
        ("gtFine", "gtFine_instanceIds.png", np.full(SIZE, 34000, np.uint16), "found instance id 34000"),
        ("gtFine", "gtFine_instanceIds.png", np.full(SIZE, 999, np.uint16), "found instance id 999"),
        ("disparity", "disparity.png", np.full(SIZE, 9, np.uint8), "found L values; expected a 16-bit grey PNG"),
        ("camera", "camera.json", {"intrinsic": CAMERA["intrinsic"]}, "found no extrinsic.baseline"),
        ("gtFine", "gtFine_labelIds.png", np.full((20, 29), 7, np.uint8), "29x20 but its image"),
    ],
)
def test_faults_are_named(tmp_path: Path, kind: str, end: str, content: Any, message: str) -> None:
    options, readers = made(tmp_path)
    path = put(tmp_path, kind, "val", "munster_000000_000019", end, content)
    with pytest.raises(DataError, match=message) as caught:
        Cityscapes("val", readers, **options)[0]
    assert str(path) in str(caught.value)
