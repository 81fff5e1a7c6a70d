"""PASCAL-Context with five tasks: what each of its files means, and files that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from segweave.data.pascal_context import PascalContext
from segweave.errors import DataError, UnreadableError
from segweave.metrics.thinning import thin
from segweave.tasks import Edges, Normals, Semantic
from segweave.tasks.task import Task

SIZE = (20, 30)
CHAIR, SKY, WALL, PERSON, MONITOR = 72, 360, 440, 284, 427
"""Of the 459 labels of PASCAL-Context; NYUv2 knows all but the sky, and calls a monitor something else."""


def tasks() -> list[Task]:
    classes = PascalContext.default_classes()
    dense = [Semantic(name, classes=classes[name]) for name in ("semantic", "human_parts", "saliency")]
    return [*dense, Normals("normals"), Edges("edges")]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_labels(root: Path, id: str, labels: np.ndarray) -> Path:
    path = root / "pascal-context" / "trainval" / f"{id}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"LabelMap": labels})
    return path


def save_people(root: Path, id: str, things: Sequence[tuple[int, Mapping[str, np.ndarray]]]) -> Path:
    """PASCAL-Part's annotation of objects, each a class and the masks of its parts."""
    path = root / "human_parts" / f"{id}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = np.empty((1, len(things)), [(name, object) for name in ("class", "class_ind", "mask", "parts")])
    for place, (kind, masks) in enumerate(things):
        parts = np.empty((1, len(masks)), [("part_name", object), ("mask", object)])
        parts[0] = [(name, mask.astype(np.uint8)) for name, mask in masks.items()]
        whole = np.ones(SIZE, np.uint8)
        objects[0, place] = ("person" if kind == 15 else "dog", kind, whole, parts if masks else np.zeros((0, 0)))
    savemat(path, {"anno": {"imname": id, "objects": objects}})
    return path


def mask(rows: slice, columns: slice) -> np.ndarray:
    pixels = np.zeros(SIZE, bool)
    pixels[rows, columns] = True
    return pixels


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    rng = np.random.default_rng(0)
    ids = {"train": ["2008_000003", "2008_000008", "2008_000015"], "val": ["2008_000002", "2008_000009"]}
    for split, names in ids.items():
        for id in names:
            save(root / "JPEGImages" / f"{id}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            semantic = rng.choice([*range(21), 255], SIZE).astype(np.uint8)
            save(root / "semseg" / ("VOC12" if id == "2008_000003" else "pascal-context") / f"{id}.png", semantic)
            save(root / "normals_distill" / f"{id}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
            save(root / "sal_distill" / f"{id}.png", rng.integers(0, 256, SIZE, np.uint8))
            save_labels(root, id, np.repeat(rng.choice([WALL, SKY, PERSON], (20, 1)), 30, 1).astype(np.uint16))
            people = [(15, {"hair": mask(slice(0, 4), slice(0, 4))})] if id != "2008_000008" else [(12, {})]
            save_people(root, id, people)
        (root / "ImageSets" / "Context").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Context" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return {"root": str(root)}, tasks()


def test_semantic_labels_are_those_of_voc_where_there_are_some(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    save(tmp_path / "semseg" / "pascal-context" / "2008_000003.png", np.zeros(SIZE, np.uint8))
    data = PascalContext("train", readers, **options)
    for index, folder in enumerate(("VOC12", "pascal-context")):
        stored = np.asarray(Image.open(tmp_path / "semseg" / folder / f"{data.ids[index]}.png"))
        assert np.array_equal(data[index].annotations["semantic"], stored)


def test_parts_of_people(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    whole = slice(None)
    parts = {
        "torso": mask(slice(4, 12), slice(2, 9)),
        "neck": mask(slice(3, 4), slice(4, 6)),
        "reye": mask(slice(1, 2), slice(4, 5)),
        "luarm": mask(slice(5, 9), slice(0, 2)),
        "rhand": mask(slice(9, 11), slice(9, 11)),
        "luleg": mask(slice(12, 15), slice(2, 5)),
        "rfoot": mask(slice(18, 20), slice(6, 9)),
    }
    second = {"head": mask(slice(0, 6), slice(6, 12))}  # in front of the first one's torso
    things = [(15, parts), (12, {"torso": mask(whole, whole)}), (15, second), (15, {})]
    save_people(tmp_path, "2008_000002", things)
    expected = np.zeros(SIZE, np.uint8)
    for name, part in (("torso", 2), ("neck", 2), ("reye", 1), ("luarm", 3), ("rhand", 4), ("luleg", 5), ("rfoot", 6)):
        expected[parts[name]] = part
    expected[second["head"]] = 1
    data = PascalContext("val", readers, **options)
    assert np.array_equal(data[0].annotations["human_parts"], expected)
    assert list(PascalContext.default_classes()["human_parts"]) == [
        *("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")
    ]


def test_an_image_without_parts_of_people_is_not_labelled(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = PascalContext("train", readers, **options)
    assert (data[1].annotations["human_parts"] == 255).all()
    listed = {"2008_000003": [15], "2008_000008": [12, -1], "2008_000015": [7, 15]}
    (tmp_path / "ImageSets" / "Parts").mkdir()
    (tmp_path / "ImageSets" / "Parts" / "train.txt").write_text(json.dumps(listed))
    data = PascalContext("train", readers, **options)
    assert [data.has_label(index, "human_parts") for index in range(3)] == [True, False, True]


def test_saliency_begins_at_128(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    save(tmp_path / "sal_distill" / "2008_000002.png", np.resize(np.array([0, 127, 128, 255], np.uint8), SIZE))
    found = PascalContext("val", readers, **options)[0].annotations["saliency"]
    assert np.array_equal(found, np.resize([0, 0, 1, 1], SIZE))


def test_normals_are_known_where_nyu_has_the_label(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    labels = np.resize(np.array([CHAIR, SKY, WALL, MONITOR, PERSON], np.uint16), SIZE)
    save_labels(tmp_path, "2008_000002", labels)
    found = PascalContext("val", readers, **options)[0].annotations["normals"]
    stored = np.asarray(Image.open(tmp_path / "normals_distill" / "2008_000002.png")).astype(np.float64)
    expected = np.where((labels == SKY)[..., None], 0, 2 * stored / 255 - 1).transpose(2, 0, 1)
    # float32 of values up to 1
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-7)
    assert (found.as_subclass(torch.Tensor) == 0).all(0).numpy()[labels == SKY].all()


def test_edges_lie_where_the_labels_change(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    rng = np.random.default_rng(1)
    labels = np.kron(rng.integers(0, 4, (4, 5)), np.ones((5, 6))).astype(np.uint16)
    save_labels(tmp_path, "2008_000002", labels)
    changes = np.zeros(SIZE, bool)
    for y in range(20):
        for x in range(30):
            # beyond the border the image goes on mirrored, its last line once
            around = [(abs(y - 1), x), (y + 1 if y < 19 else 18, x), (y, abs(x - 1)), (y, x + 1 if x < 29 else 28)]
            changes[y, x] = sum(int(labels[place]) for place in around) != 4 * int(labels[y, x])
    found = PascalContext("val", readers, **options)[0].annotations["edges"]
    assert np.array_equal(found, thin(changes))
    assert 0 < int(found.sum()) < int(changes.sum())


def test_a_line_without_an_image_is_told(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    (tmp_path / "JPEGImages" / "2008_000009.jpg").unlink()
    data = PascalContext("val", readers, **options)
    assert list(data.ids) == ["2008_000002"]
    assert "val.txt: lines without an image: 1, such as '2008_000009'" in data.notes


def test_faults_of_matlab_files_are_named(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = PascalContext("val", readers, **options)

    def refused(path: Path, task: str, message: str, kind: type[DataError] = DataError) -> None:
        with pytest.raises(kind, match=message) as caught:
            data.annotation(0, task)
        assert str(path) in str(caught.value)

    path = save_labels(tmp_path, "2008_000002", np.full(SIZE, 460, np.uint16))
    refused(path, "edges", r"found label id 460 \(600 pixels\); expected 0 to 459")
    refused(path, "normals", "found label id 460")
    path = save_labels(tmp_path, "2008_000002", np.full((20, 29), WALL, np.uint16))
    refused(tmp_path / "normals_distill" / "2008_000002.png", "normals", "found 30x20; expected 29x20")
    for damaged in (path.read_bytes()[:200], b"", b"no MATLAB file" * 99):
        path.write_bytes(damaged)
        refused(path, "edges", "cannot be read", UnreadableError)
    savemat(path, {"labels": np.zeros(SIZE)})
    refused(path, "edges", "expected MATLAB's format 5 with LabelMap", UnreadableError)
    path = save_people(tmp_path, "2008_000002", [(15, {"tail": mask(slice(0, 2), slice(0, 2))})])
    refused(path, "human_parts", "'tail'.*expected anno.objects")
    path = save_people(tmp_path, "2008_000002", [(15, {"head": np.ones((20, 29))})])
    refused(path, "human_parts", "a mask of 30x20")


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("semseg/pascal-context", np.full(SIZE, 21, np.uint8), r"label id 21 \(600 pixels\); expected 0 to 20"),
        ("normals_distill", np.full(SIZE, 21, np.uint8), "other than three channels"),
        ("sal_distill", np.full((20, 29), 21, np.uint8), "29x20 but its image"),
    ],
)
def test_faults_of_png_files_are_named(tmp_path: Path, name: str, pixels: np.ndarray, message: str) -> None:
    options, readers = made(tmp_path)
    path = tmp_path / name / "2008_000002.png"
    save(path, pixels)
    with pytest.raises(DataError, match=message) as caught:
        PascalContext("val", readers, **options)[0]
    assert str(path) in str(caught.value)
