"""The synthetic data set: its splits, its layers as tasks get them, and what it says of wrong options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segweave.batch import Sample
from segweave.data import streets, streets_soiling
from segweave.data.augment import Augment
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


def soiled_tasks() -> list[Any]:
    return [
        Semantic("soiling", classes=list(streets_soiling.LEVELS)),
        Depth("thickness", min_depth=0.02, max_depth=1.0, rescale=False),
        Classification("soil", classes=list(streets_soiling.SOILS)),
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
        (lambda: data(soiling=1.5), r"data.soiling: found 1.5; expected 0 to 1"),
        (lambda: data(soiling=-0.1), r"data.soiling: found -0.1"),
        (lambda: Synthetic("train", soiled_tasks()[:1]), "tasks.soiling: layer 'soiling'.*data.soiling above 0"),
        (lambda: Synthetic("train", [Depth("d", source="thickness")]), "tasks.d: .*'thickness'.*data.soiling above 0"),
        (lambda: Synthetic("train", [Depth("d")], soiling=0.5), "tasks.d: .*no layer.*thickness.*name one"),
        (lambda: Synthetic("train", [Depth("soiling")], soiling=0.5), "soiling.*'semantic'.*expected depth, thickness"),
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
    variants += [{"soiling": 0.5}, {"soiling": 0.9}]
    prints = [data(**variant).fingerprint() for variant in variants]
    assert len(set(prints)) == len(variants)
    assert data().fingerprint() == prints[0]
    monkeypatch.setattr(streets, "EDITION", streets.EDITION + 1)
    assert data().fingerprint() not in prints


def test_dirt_alone_changes_no_fingerprint_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on clean streets go on, whatever becomes of the dirt."""
    clean, soiled = data().fingerprint(), data(soiling=0.5).fingerprint()
    assert data(soiling=0).fingerprint() == clean
    monkeypatch.setattr(streets_soiling, "EDITION", streets_soiling.EDITION + 1)
    assert data().fingerprint() == clean
    assert data(soiling=0.5).fingerprint() != soiled


def test_another_seed_gives_other_streets() -> None:
    assert not np.array_equal(data(seed=0)[0].image, data(seed=1)[0].image)


def test_a_soiled_sample_is_the_street_with_its_dirt() -> None:
    dataset = Synthetic("test", [*tasks(), *soiled_tasks()], size=(24, 48), count=12, seed=5, soiling=0.9)
    for index in (0, 7):
        place = (2 << 24) + index
        street = streets.render(5, place, 24, 48)
        soiled = streets_soiling.soil(street.image, 5, place, 0.9)
        sample = dataset[index]
        assert (sample.image.permute(1, 2, 0).numpy() == soiled.image).all()
        assert (sample.annotations["semantic"].numpy() == street.semantic).all()
        assert (sample.annotations["soiling"].numpy() == soiled.levels).all()
        assert (sample.annotations["thickness"].numpy() == soiled.thickness).all()
        assert int(sample.annotations["soil"]) == soiled.soil
        clean = data("test", seed=5)[index].annotations
        for name in clean:
            assert torch.equal(sample.annotations[name].as_subclass(Tensor), clean[name].as_subclass(Tensor))
        for name in ("soiling", "thickness", "soil"):
            alone = dataset.annotation(index, name)
            assert alone is not None
            assert torch.equal(alone.as_subclass(Tensor), sample.annotations[name].as_subclass(Tensor))


def test_crops_and_flips_move_picture_street_and_dirt_together() -> None:
    """A picture that shows the row and column of each pixel says where the labels must come from."""
    readers = {task.name: task for task in (*tasks(), *soiled_tasks())}
    dataset = Synthetic("train", list(readers.values()), size=(32, 64), count=6, soiling=0.9)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    augment, flipped = Augment(None, scale=None, crop=(16, 24), flip=0.5, colour=0), 0
    for index in range(6):
        sample = dataset[index]
        place = Sample(sample.id, torch.stack([rows, columns, rows]), sample.annotations)
        moved = augment(place, readers, torch.Generator().manual_seed(index))
        row, column = moved.image[0].round().long(), moved.image[1].round().long()
        flipped += int(column[0, 0] > column[0, 1])
        for name in ("semantic", "depth", "soiling", "thickness"):
            before, after = (part.annotations[name].as_subclass(Tensor) for part in (sample, moved))
            assert torch.equal(after, before[row, column])
    assert 0 < flipped < 6
