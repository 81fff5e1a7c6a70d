"""CamVid in SegNet's layout: what its values mean, and the real subset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.data.camvid import CamVid
from segweave.errors import ConfigError, DataError
from segweave.tasks import Classification, Semantic
from segweave.tasks.task import Task


def tasks() -> list[Task]:
    return [Semantic("semantic", classes=CamVid.default_classes()["semantic"])]


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    for number, split in enumerate(("train", "val", "test")):
        rng = np.random.default_rng(number)
        for folder in (split, f"{split}annot"):
            (root / "CamVid" / folder).mkdir(parents=True)
        for frame in range(4):
            name = f"000{number}TP_00{frame}.png"
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(root / "CamVid" / split / name)
            if frame:  # one frame is not labelled
                labels = Image.fromarray(rng.integers(0, 12, (20, 30), np.uint8))
                labels.save(root / "CamVid" / f"{split}annot" / name)
    return {"root": str(root)}, tasks()


def test_void_is_not_labelled_and_all_else_is_as_stored(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = CamVid("val", readers, **options)
    stored = np.asarray(Image.open(tmp_path / "CamVid" / "valannot" / f"{data.ids[1]}.png"))
    found = data.annotation(1, "semantic")
    assert found is not None
    assert torch.equal(found, torch.from_numpy(np.where(stored == 11, 255, stored)))
    assert data.annotation(0, "semantic") is None


def test_an_id_beyond_void_is_named(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    path = tmp_path / "CamVid" / "trainannot" / "0000TP_002.png"
    Image.fromarray(np.full((20, 30), 12, np.uint8)).save(path)
    with pytest.raises(
        DataError, match=r"0000TP_002\.png: found label id 12 \(600 pixels\); expected 0 to 10, and 11 for"
    ):
        CamVid("train", readers, **options)[2]


def test_the_presence_of_classes_is_read_of_the_masks(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    scene = Classification("scene", classes=readers[0].classes, derive="presence", source="semantic")  # pyright: ignore
    data = CamVid("train", [scene], **options)
    stored = np.asarray(Image.open(tmp_path / "CamVid" / "trainannot" / "0000TP_001.png"))
    annotation = data.annotation(1, "scene")
    assert annotation is not None
    assert scene.encode(annotation).tolist() == [float(c in stored) for c in range(11)]


def test_the_real_subset(real_data: Path) -> None:
    counts = {}
    for split in ("train", "val"):
        data = CamVid(split, tasks(), root=str(real_data / "camvid"))
        counts[split] = len(data)
        assert data.labelled("semantic") == len(data)
        sample = data[0]
        assert sample.image.shape == (3, 360, 480)
        assert set(sample.annotations["semantic"].unique().tolist()) <= {*range(11), 255}
    assert counts == {"train": 123, "val": 51}


def test_classes_in_another_order_are_refused_and_a_mere_number_is_not(tmp_path: Path) -> None:
    options, _ = made(tmp_path)
    classes = list(CamVid.default_classes()["semantic"])
    with pytest.raises(ConfigError, match=r"tasks\.semantic\.classes: found bicyclist, .*in this order"):
        CamVid("train", [Semantic("semantic", classes=classes[::-1])], **options)
    with pytest.raises(ConfigError, match=r"tasks\.semantic\.classes: found class 0, "):
        CamVid("train", [Semantic("semantic", classes=10)], **options)
    assert len(CamVid("train", [Semantic("semantic", classes=11)], **options)) == 4
