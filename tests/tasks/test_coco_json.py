"""Boxes in files: COCO annotations and results, boxes from masks, and the whole way through a folder of them."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segweave import build
from segweave.config import Config, from_values
from segweave.data.folder import Folder
from segweave.errors import DataError
from segweave.predict import predict_run
from segweave.schema import check_config
from segweave.sources import build_dataset, build_tasks
from segweave.tasks import Detection


def write_coco(path: Path, **parts: Any) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 80, "height": 48},
            {"id": 9, "file_name": "sub/b.png", "width": 80, "height": 48},
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 4, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [70, 40, 20, 20], "area": 400, "iscrowd": 1},
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | parts), encoding="utf-8")
    return path


def test_annotations_of_a_coco_file(tmp_path: Path) -> None:
    detection = Detection("objects", classes=["person", "car"])
    found = detection.read_all(write_coco(tmp_path / "a.json"))
    assert found is not None
    assert list(found) == ["a.png", "sub/b.png"]
    first, second = found["a.png"]().tolist()
    assert first == [2, 4, 12, 24, 1, 0, 150, 1]
    assert second[:6] == [70, 40, 80, 48, 0, 1]
    assert len(found["sub/b.png"]()) == 0
    assert detection.category_ids == [1, 3]
    again = Detection("objects", **{k: v for k, v in detection.spec().items() if k not in ("kind", "name")})
    assert again.category_ids == [1, 3]


def test_classes_by_number_are_the_categories_in_order(tmp_path: Path) -> None:
    found = Detection("objects", classes=2).read_all(write_coco(tmp_path / "a.json"))
    assert found is not None
    assert found["a.png"]()[:, 4].tolist() == [1, 0]


def test_other_categories_must_be_declared(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"a\.json: category 'person' \(1 boxes\) outside the classes .*ignore"):
        Detection("objects", classes=["car"]).read_all(path)
    for ignore in ("others", ["person"]):
        found = Detection("objects", classes=["car"], ignore=ignore).read_all(path)
        assert found is not None
        assert len(found["a.png"]()) == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"annotations": [{"id": 5, "image_id": 1, "category_id": 3}]},
            "annotation 5: image_id 1 is none of its images",
        ),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2]}]}, r"annotation 5: bbox \[1, 2\]"),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 4, "bbox": [0, 0, 9, 9]}]},
            r"category 'id 4' \(1 box",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10**400, 4]}]},
            "annotation 5: bbox",
        ),
        ({"images": [{"id": 7, "file_name": "a.png"}]}, "image 'a.png': found height None, width None"),
        (
            {"images": [{"id": 7, "file_name": "a.png", "height": math.inf, "width": 9}]},
            "image 'a.png': found height inf, width 9",
        ),
    ],
)
def test_faults_of_a_coco_file_are_named(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Detection("objects", classes=["car", "person"]).read_all(write_coco(tmp_path / "a.json", **parts))


def test_a_byte_order_mark_before_the_annotations_is_no_fault(tmp_path: Path) -> None:
    detection = Detection("objects", classes=["car", "person"])
    path = write_coco(tmp_path / "a.json")
    plain = detection.read_all(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = detection.read_all(path)
    assert plain
    assert marked
    assert {name: reader().tolist() for name, reader in marked.items()} == {
        name: reader().tolist() for name, reader in plain.items()
    }


def test_what_is_no_coco_file(tmp_path: Path) -> None:
    detection = Detection("objects", classes=["car", "person"])
    with pytest.raises(DataError, match=r"a\.json: cannot be read .*; expected a JSON file"):
        detection.read_all(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"a\.json: found no JSON .*; expected a JSON file"):
        detection.read_all(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(DataError, match="expected COCO annotations"):
        detection.read_all(tmp_path / "a.json")


def street(seed: int) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    """A dark picture with coloured rectangles, their mask, and their boxes x y w h with the category."""
    rng = np.random.default_rng(seed)
    image, mask, boxes = rng.integers(0, 40, (48, 80, 3)), np.zeros((48, 80), int), []
    for column in range(seed % 4):
        category = int(rng.integers(1, 3))
        width, height = (int(n) for n in rng.integers(8, 18, 2))
        left, top = 4 + 24 * column, int(rng.integers(2, 46 - height))
        image[top : top + height, left : left + width] = [250, 60, 60] if category == 1 else [60, 60, 250]
        mask[top : top + height, left : left + width] = category
        boxes.append([left, top, width, height, category])
    return image.astype(np.uint8), mask.astype(np.uint8), boxes


def make_set(root: Path, count: int = 24, number: int = 100) -> Path:
    """Photos and masks of rectangles, and COCO files for the splits train and val."""
    for split, first in (("train", 0), ("val", count - count // 4)):
        images, annotations = [], []
        for seed in range(first, count if split == "val" else count - count // 4):
            pixels, mask, boxes = street(seed)
            for folder, values in (("images", pixels), ("masks", mask)):
                path = root / folder / split / f"{number + seed:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
            images.append({"id": number + seed, "file_name": f"{number + seed:06d}.png", "width": 80, "height": 48})
            for left, top, width, height, category in boxes:
                entry = {"image_id": number + seed, "category_id": category, "bbox": [left, top, width, height]}
                annotations.append(entry | {"id": len(annotations) + 1, "area": width * height, "iscrowd": 0})
        parts = {"images": images, "annotations": annotations}
        write_coco(
            root / "annotations" / f"instances_{split}.json",
            categories=[{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
            **parts,
        )
    return root


def config(root: Path) -> Config:
    return check_config(
        from_values(
            {
                "data": {
                    "format": "folder",
                    "root": str(root),
                    "tasks": {"objects": "annotations/instances_{split}.json"},
                },
                "tasks": {
                    "objects": {
                        "kind": "detection",
                        "classes": ["red", "blue"],
                        "finest": 4,
                        "extra": 0,
                        "width": 16,
                    }
                },
                "model": {"backbone": "test_resnet", "decoder": {"name": "fpn", "width": 16}},
                "train": {
                    "epochs": 14,
                    "batch_size": 6,
                    "workers": 0,
                    "lr": 5e-3,
                    "validate_every": 7,
                    "report": False,
                },
            }
        )
    )


def test_from_coco_files_to_coco_results(tmp_path: Path) -> None:
    """Train, evaluate, predict into a file, and score that file: by us, and by pycocotools with the original ids."""
    root = make_set(tmp_path / "set")
    folder, results = build.train(config(root), "run", tmp_path / "runs", quiet=True)
    assert results["objects"]["map50"] > 0.15
    evaluated = build.evaluate_run(folder, "val")["objects"]
    predicted = predict_run(folder, [root / "images" / "val"])
    assert predicted.folder is not None
    scored = build.score_predictions(config(root), predicted.folder, "val")["objects"]
    for key in ("map", "map50", "map_small"):
        assert scored[key] == pytest.approx(evaluated[key], abs=1e-4)

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(root / "annotations" / "instances_val.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(predicted.folder / "objects" / "objects.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert scored["map"] == pytest.approx(evaluation.stats[0], abs=1e-6)
    assert scored["map50"] == pytest.approx(evaluation.stats[1], abs=1e-6)


def test_results_of_others_by_the_numbers_of_the_annotations(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    truth = json.loads((root / "annotations" / "instances_val.json").read_text())
    perfect = [a | {"score": 0.9} for a in truth["annotations"]]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "results.json").write_text(json.dumps(perfect))
    results = build.score_predictions(config(root), tmp_path / "theirs", "val")["objects"]
    assert results["map"] == 1
    (tmp_path / "theirs" / "results.json").write_text(json.dumps([{**perfect[0], "category_id": 77}]))
    with pytest.raises(DataError, match=r"results\.json: entry 0: .*category"):
        build.score_predictions(config(root), tmp_path / "theirs", "val")


def test_results_grow_entry_by_entry(tmp_path: Path) -> None:
    detection = Detection("objects", classes=["a", "b"], category_ids=[5, 9])
    nothing = {"boxes": torch.zeros(2, 4), "scores": torch.zeros(2), "labels": torch.full((2,), -1)}
    some = {
        "boxes": torch.tensor([[1.0, 2, 4, 8], [0, 0, 0, 0]]),
        "scores": torch.tensor([0.5, 0]),
        "labels": torch.tensor([1, -1]),
    }
    path = detection.write(tmp_path, "12", nothing)
    assert json.loads(path.read_text()) == []
    for id in ("12", "ü]", "x"):
        detection.write(tmp_path, id, some)
    detection.write(tmp_path, "y", nothing)
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert [e["image_id"] for e in entries] == [12, "ü]", "x"]
    assert entries[0]["bbox"] == [1, 2, 3, 6]
    assert entries[0]["category_id"] == 9
    found = detection.predictions(tmp_path)
    assert found["ü]"]()["labels"].tolist() == [[1]]
    assert found.get("y")()["boxes"].shape == (1, 0, 4)  # pyright: ignore


def test_boxes_from_masks_are_those_of_the_objects(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    tasks = {
        "objects": {"kind": "detection", "classes": ["red", "blue"], "source": "masks", "derive": "boxes"},
        "masks": {"kind": "semantic", "classes": ["none", "red", "blue"]},
    }
    data = {"format": "folder", "root": str(root), "tasks": {"masks": "masks"}}
    made = check_config(from_values({"data": data, "tasks": tasks}))
    dataset = build_dataset(made, "train", build_tasks(made))
    written = Detection("objects", classes=["red", "blue"])
    truth = Folder("train", [written], root=str(root), tasks={"objects": "annotations/instances_{split}.json"})
    assert dataset.ids == truth.ids
    for index in range(len(dataset)):
        ours = sorted(dataset[index].annotations["objects"].tolist())
        assert ours == sorted(truth[index].annotations["objects"].tolist())


def test_mistakes_in_files(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set")
    detection = Detection("objects", classes=["red", "blue"])
    with pytest.raises(DataError, match=r"found .*\.png; expected labels of task 'objects'.*tasks\.objects\.derive"):
        Folder("train", [detection], root=str(root), tasks={"objects": "masks"})
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["images"][0]["width"] = 81
    path.write_text(json.dumps(content))
    dataset = Folder("train", [detection], root=str(root), tasks={"objects": "annotations/instances_{split}.json"})
    with pytest.raises(DataError, match=r"label is 81x48 but its image .* is 80x48"):
        dataset[0]
    write_coco(path)
    with pytest.raises(DataError, match="has no category of task 'objects'; found car, person, expected some of red"):
        Folder("train", [detection], root=str(root), tasks={"objects": "annotations/instances_{split}.json"})
    write_coco(path, annotations=[], categories=[{"id": 1, "name": "red"}])
    with pytest.raises(DataError, match="no label belongs to an image"):
        Folder("train", [detection], root=str(root), tasks={"objects": "annotations/instances_{split}.json"})


def test_cars_and_pedestrians_of_camvid(real_data: Path) -> None:
    """Boxes from real masks, against scipy's regions of one class counted again."""
    from scipy import ndimage

    root = real_data / "camvid" / "CamVid"
    objects = {"kind": "detection", "classes": ["car", "pedestrian"], "ids": {8: "car", 9: "pedestrian"}}
    data = {"format": "folder", "root": str(root), "images": "{split}", "tasks": {"masks": "{split}annot"}}
    tasks = {"objects": {**objects, "source": "masks", "derive": "boxes"}}
    made = check_config(from_values({"data": data, "tasks": tasks}))
    dataset = build_dataset(made, "val", build_tasks(made))
    counted = 0
    for index in range(5):
        mask = np.array(Image.open(dataset.file(index, "objects")))  # pyright: ignore
        regions, count = ndimage.label(mask == 8, np.ones((3, 3)))  # pyright: ignore
        sizes = ndimage.sum_labels(np.ones_like(mask), regions, range(1, count + 1))
        found = dataset[index].annotations["objects"]
        assert int((found[:, 4] == 0).sum()) == int((np.asarray(sizes) >= 16).sum())
        assert float(found[found[:, 4] == 0, 6].sum()) == float(sum(s for s in sizes if s >= 16))
        counted += len(found)
    assert counted > 10


def test_row_11_boxes_outside_inverted_and_without_area(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Clipped; dropped and counted where nothing is left; said in the log of the training and by `check`."""
    root = make_set(tmp_path / "set")
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    image = content["images"][1]["id"]
    for box in ([70, 40, 30, 30], [90, 10, 10, 10], [10, 10, 0, 5], [20, 20, -4, 6]):
        entry = {"image_id": image, "category_id": 1, "bbox": box, "id": 1000 + len(content["annotations"])}
        content["annotations"].append(entry)
    path.write_text(json.dumps(content))
    plain = config(root)
    quick = replace(plain, train={**plain.train, "epochs": 1, "validate_every": 1})
    build.train(quick, "run", tmp_path / "runs")
    said = " ".join(capsys.readouterr().out.split())
    for fault in (
        "boxes that reach over the image's border: clipped",
        "boxes outside the image: dropped",
        "boxes inverted, without area or not finite: dropped",
    ):
        assert fault in said
    dataset = build.build_dataset(plain, "train", build.build_tasks(plain))
    assert dataset[1].annotations["objects"][-1, :4].tolist() == [70, 40, 80, 48]
    assert len(dataset[1].annotations["objects"]) == len(street(1)[2]) + 1
