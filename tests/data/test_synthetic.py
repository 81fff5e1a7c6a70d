"""The synthetic data set: its splits, its layers as tasks get them, and what it says of wrong options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segweave.data import streets
from segweave.data.synthetic import Synthetic
from segweave.errors import ConfigError
from segweave.tasks.boxes import Boxes
from segweave.tasks.classification import Classification
from segweave.tasks.depth import Depth
from segweave.tasks.detection import Detection
from segweave.tasks.semantic import Semantic


def tasks() -> list[Any]:
    return [
        Semantic("semantic", classes=list(streets.CLASSES)),
        Depth("depth"),
        Classification("scene", classes=list(streets.SCENES)),
        Detection("objects", classes=list(streets.OBJECTS)),
    ]


def made(root: Path) -> tuple[dict[str, Any], list[Any]]:  # noqa: ARG001
    return {"size": [24, 40], "count": 4}, tasks()


def data(split: str = "train", **options: Any) -> Synthetic:
    return Synthetic(split, tasks(), **{"size": (24, 48), "count": 12} | options)


@pytest.mark.parametrize(("count", "held_out"), [(1, 8), (12, 8), (44, 8), (45, 9), (480, 96)])
def test_counts_of_the_splits(count: int, held_out: int) -> None:
    assert len(data("train", count=count)) == count
    for split in ("val", "test"):
        assert len(data(split, count=count)) == held_out
        assert data(split, count=count).labelled("objects") == held_out


def test_splits_share_no_image_and_no_id() -> None:
    sets = [data(split) for split in ("train", "val", "test")]
    ids = [id for dataset in sets for id in dataset.ids]
    pictures = {dataset[index].image.numpy().tobytes() for dataset in sets for index in range(len(dataset))}
    assert len(set(ids)) == len(ids) == len(pictures) == 12 + 8 + 8


def test_a_larger_count_keeps_the_images_it_had() -> None:
    few, many = data(count=3), data(count=30)
    for index in range(3):
        assert torch.equal(few[index].image, many[index].image)


def test_a_sample_is_the_rendered_street() -> None:
    dataset = data("val", seed=5)
    for index in (0, 7):
        street = streets.render(5, (1 << 24) + index, 24, 48)
        sample = dataset[index]
        assert sample.id == dataset.ids[index]
        assert (sample.image.permute(1, 2, 0).numpy() == street.image).all()
        given = sample.annotations
        assert set(given) == {"semantic", "depth", "scene", "objects"}
        assert (given["semantic"].numpy() == street.semantic).all()
        assert (given["depth"].numpy() == street.depth).all()
        assert int(given["scene"]) == street.scene
        for name in given:
            alone = dataset.annotation(index, name)
            assert alone is not None
            assert torch.equal(alone.as_subclass(Tensor), given[name].as_subclass(Tensor))


def test_the_layer_objects_hands_boxes_and_labels_to_a_detection_task() -> None:
    task = Detection("anything", classes=list(streets.OBJECTS))  # found by its kind, not by its name
    dataset = Synthetic("train", [task], size=(48, 96), count=6)
    for index in range(6):
        street = streets.render(0, index, 48, 96)
        annotation = dataset[index].annotations["anything"]
        assert isinstance(annotation, Boxes)
        assert annotation.canvas_size == (48, 96)
        assert (annotation[:, :4].numpy() == street.boxes).all()
        assert (annotation[:, 4].numpy() == street.labels).all()


def test_an_image_without_objects_has_no_boxes() -> None:
    task = Detection("objects", classes=list(streets.OBJECTS))
    annotation = Synthetic("train", [task], size=(1, 1), count=1)[0].annotations["objects"]
    assert annotation.shape == (0, 8)
    assert task.encode(annotation).shape == (0, 7)


def test_default_classes_by_layer_and_by_kind() -> None:
    classes = Synthetic.default_classes()
    assert classes["semantic"] == streets.CLASSES
    assert classes["scene"] == classes["classification"] == streets.SCENES
    assert classes["objects"] == classes["detection"] == ("car", "person", "sign")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: data("dev"), "dev.*train, val and test"),
        (lambda: data(size=(24,)), r"\[24\].*height, width"),
        (lambda: data(size=(24, 48, 3)), r"\[24, 48, 3\].*height, width"),
        (lambda: data(size=(0, 48)), r"\[0, 48\].*positive"),
        (lambda: data(size=(24, -48)), r"\[24, -48\].*positive"),
        (lambda: data(count=0), "count 0.*positive"),
        (lambda: Synthetic("train", [Depth("depth", source="normals")]), "tasks.depth.source.*normals.*objects"),
        (lambda: Synthetic("train", [Unknown("poses")]), "tasks.poses.*semantic, objects, depth, scene"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_say_what_was_found_and_expected(make: Callable[[], Synthetic], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


class Unknown(Depth):
    kind = "keypoints"


def test_the_fingerprint_changes_with_whatever_changes_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [{}, {"seed": 1}, {"size": (24, 50)}, {"size": (26, 48)}, {"count": 13}, {"split": "val"}]
    prints = [data(**variant).fingerprint() for variant in variants]
    assert len(set(prints)) == len(variants)
    assert data().fingerprint() == prints[0]
    monkeypatch.setattr(streets, "EDITION", streets.EDITION + 1)
    assert data().fingerprint() not in prints


def test_another_seed_gives_other_streets() -> None:
    assert not np.array_equal(data(seed=0)[0].image, data(seed=1)[0].image)
