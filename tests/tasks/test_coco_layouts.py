"""COCO files as they are met in the wild: their folders, numbers, sizes and faults, and results for them."""

from __future__ import annotations

import json
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.config import from_values
from segweave.data.augment import Augment
from segweave.data.findings import find
from segweave.data.folder import Folder
from segweave.data.inventory import take_inventory
from segweave.data.loader import Loader
from segweave.data.survey import survey
from segweave.errors import DataError
from segweave.evaluate import score
from segweave.schema import check_config
from segweave.sources import build_dataset, build_tasks
from segweave.tasks import Detection
from segweave.tasks.boxes import Boxes

CLASSES = ["car", "person"]


def again(detection: Detection) -> Detection:
    """The task as a checkpoint holds it."""
    plain = json.loads(json.dumps(detection.spec()))
    return Detection(plain.pop("name"), **{key: value for key, value in plain.items() if key != "kind"})


def write(path: Path, names: list[str], categories: dict[int, str], box: Any = (2, 4, 10, 20), **of: Any) -> Path:
    """A COCO file with one box of the first category in every image."""
    images = [{"id": id, "file_name": name, "width": 80, "height": 48} | of for id, name in enumerate(names, 1)]
    entries = [
        {"id": id, "image_id": id, "category_id": min(categories), "bbox": list(box)} for id in range(1, len(names) + 1)
    ]
    content = {
        "images": images,
        "annotations": entries,
        "categories": [{"id": id, "name": name} for id, name in categories.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def two_cameras(root: Path) -> Path:
    """Photos of two folders that share their names; the file calls them by their way from the root."""
    names = [f"images/val/{camera}/{number:03d}.webp" for camera in ("one", "two") for number in range(2)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 48)).save(root / name)
    return write(root / "val.json", [*names, "images/val/one/gone.webp"], {3: "car", 7: "person"})


def dataset_of(root: Path, detection: Detection) -> Folder:
    return Folder("val", [detection], root=str(root), tasks={"objects": "{split}.json"})


def test_paths_from_the_root_and_images_that_are_not_there(tmp_path: Path) -> None:
    two_cameras(tmp_path)
    dataset = dataset_of(tmp_path, Detection("objects", classes=CLASSES))
    assert dataset.ids == ["one/000", "one/001", "two/000", "two/001"]
    assert dataset.labelled("objects") == 4
    assert list(dataset.notes) == [
        "val.json: 1 of its images are not in the data, such as 'images/val/one/gone.webp'",
    ]


@pytest.mark.parametrize("called", ["image_id", "file_name"])
def test_results_with_the_files_own_numbers_or_names(tmp_path: Path, called: str) -> None:
    truth = json.loads(two_cameras(tmp_path).read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    results = [{**entry, "score": 0.9} for entry in truth["annotations"]]
    if called == "file_name":
        results = [{**entry, "file_name": names[entry["image_id"]], "image_id": -1} for entry in results]
    detection = Detection("objects", classes=CLASSES)
    dataset = dataset_of(tmp_path, detection)
    (tmp_path / "found").mkdir()
    path = tmp_path / "found" / "results.json"
    path.write_text(json.dumps(results))
    assert score([detection], dataset, tmp_path / "found")["objects"]["map"] == 1
    path.write_text("[]")
    assert score([detection], dataset, tmp_path / "found")["objects"]["map"] == 0
    path.write_text(json.dumps([{**results[0], "image_id": 99, "file_name": "another.png"}]))
    with pytest.raises(
        DataError, match=r"no prediction is of an image here; they are called 'another'; images 'one/000"
    ):
        score([detection], dataset, tmp_path / "found")


@pytest.mark.parametrize("entry", [3, {"image_id": [1]}, {"bbox": [0, 0, None, 5]}, {"bbox": 3}, {"score": "high"}])
def test_results_that_are_none(tmp_path: Path, entry: Any) -> None:
    sound = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    (tmp_path / "a.json").write_text(json.dumps([sound, sound | entry if isinstance(entry, dict) else entry]))
    with pytest.raises(DataError, match=r"a\.json: entry 1: found .*; expected image_id, bbox"):
        Detection("objects", classes=1).predictions(tmp_path)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (
            "annotations",
            [{"image_id": 1, "category_id": 1, "bbox": [None, 1, 2, 3]}],
            r"annotation None: bbox \[None, 1",
        ),
        ("annotations", [{"id": 4, "image_id": 1, "category_id": 1, "bbox": "all"}], "annotation 4: bbox all"),
        ("annotations", [4], "annotation 4: no object"),
        ("annotations", None, "annotations: found None; expected a list"),
        ("images", [{"file_name": "a.png"}], "images: expected a list of objects, each with an id"),
        ("categories", ["car"], "categories: expected a list of objects, each with an id"),
    ],
)
def test_annotations_that_are_none(tmp_path: Path, part: str, value: Any, message: str) -> None:
    path = write(tmp_path / "a.json", ["a.png"], {1: "car"})
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: value}))
    with pytest.raises(DataError, match=message):
        Detection("objects", classes=["car"]).read_all(path)


def test_an_image_listed_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", ["a.png", "a.png"], {1: "car"})
    with pytest.raises(DataError, match=r"two images 'a\.png', id 2 is the second one"):
        Detection("objects", classes=["car"]).read_all(path)


def test_sizes_written_as_floats(tmp_path: Path) -> None:
    found = Detection("objects", classes=["car"]).read_all(
        write(tmp_path / "a.json", ["a.png"], {1: "car"}, height=48.0)
    )
    assert found is not None
    boxes = found["a.png"]()
    assert isinstance(boxes, Boxes)
    assert boxes.canvas_size == (48, 80)


def test_classes_by_number_survive_a_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", ["a.png"], {7: "car", 9: "person"})
    detection = Detection("objects", classes=2)
    untrained = again(detection)
    detection.read_all(path)
    for reader in (detection, again(detection), untrained):
        found = reader.read_all(path)
        assert found is not None
        assert found["a.png"]()[:, 4].tolist() == [0]
        assert reader.category_ids == [7, 9]


def test_names_go_before_numbers_and_numbers_before_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", ["a.png"], {7: "Auto", 9: "person"})
    found = Detection("objects", classes=CLASSES, category_ids=[7, 3]).read_all(path)
    assert found is not None
    assert found["a.png"]()[:, 4].tolist() == [0]
    other = write(tmp_path / "b.json", ["a.png"], {7: "person", 9: "car"})
    found = Detection("objects", classes=CLASSES, category_ids=[7, 9]).read_all(other)
    assert found is not None
    assert found["a.png"]()[:, 4].tolist() == [1]


def test_classes_that_a_file_lacks(tmp_path: Path) -> None:
    """They keep a checkpoint from nothing, get their number from a later file, and are no error unless all lack."""
    detection = Detection("objects", classes=["car", "bus", "tram"], ignore="others")
    detection.read_all(write(tmp_path / "a.json", ["a.png"], {1: "car", 2: "boat"}))
    assert detection.category_ids == [1, -2, -3]
    later = again(detection)
    later.read_all(write(tmp_path / "b.json", ["a.png"], {1: "car", 4: "tram"}))
    assert later.category_ids == [1, -2, 4]
    with pytest.raises(DataError, match=r"no category of task 'objects'; found boat, expected some of car, bus, tram"):
        later.read_all(write(tmp_path / "c.json", ["a.png"], {2: "boat"}))


def test_boxes_from_masks_that_a_table_names(tmp_path: Path) -> None:
    mask = np.zeros((48, 80), np.uint8)
    mask[10:20, 30:50] = 1
    for folder, values in (("photos", np.zeros((48, 80, 3), np.uint8)), ("masks", mask)):
        (tmp_path / folder).mkdir()
        Image.fromarray(values).save(tmp_path / folder / f"{folder}.png")
    (tmp_path / "table.csv").write_text("photo,mask\nphotos/photos.png,masks/masks.png\n")
    data: dict[str, Any] = {"format": "folder", "root": str(tmp_path), "images": "photo", "table": "table.csv"}
    data["splits"] = {"val": 0.0001}
    tasks = {"objects": {"kind": "detection", "classes": ["car"], "source": "mask", "derive": "boxes"}}
    config = check_config(from_values({"data": data, "tasks": tasks}))
    dataset = build_dataset(config, "train", build_tasks(config))
    assert dataset[0].annotations["objects"][:, :4].tolist() == [[30, 10, 50, 20]]


def test_many_images_travel_to_other_processes_without_a_file_handle_each(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [f"{number}.png" for number in range(500)], {1: "car"})
    readers = Detection("objects", classes=["car"]).read_all(path)
    open_before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    content = ForkingPickler.dumps(readers)
    if open_before:
        assert len(list(Path("/proc/self/fd").iterdir())) < open_before + 20
    there = pickle.loads(content)
    assert there["7.png"]()[0, :4].tolist() == [2, 4, 12, 24]


def test_boxes_come_whole_from_a_process_that_was_not_forked(tmp_path: Path) -> None:
    """As in Python 3.14 and on macOS: what goes there and back is pickled by torch's rules."""
    two_cameras(tmp_path)
    detection = Detection("objects", classes=CLASSES)
    loader = Loader(dataset_of(tmp_path, detection), {"objects": detection}, Augment(None, crop=(40, 64)))
    stream = loader._torch.dataset
    there = pickle.loads(ForkingPickler.dumps(stream))
    (ours, *_), (theirs, *_) = (one[[(0, 0, 0), (0, 1, 2)]] for one in (stream, there))
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.targets["objects"].value, theirs.targets["objects"].value)
    back = pickle.loads(ForkingPickler.dumps(there.dataset[0])).annotations["objects"]
    assert isinstance(back, Boxes)
    assert (back.canvas_size, back.notes) == ((48, 80), {})


def test_check_speaks_of_data_without_a_single_box(tmp_path: Path) -> None:
    path = two_cameras(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    detection = Detection("objects", classes=CLASSES)
    folder = dataset_of(tmp_path, detection)
    inventory = take_inventory(survey({"train": folder}, [detection], 0), {"train": len(folder)}, [detection])
    warnings = [finding.text for finding in find(inventory, [detection], 2, one_size=True)]
    assert "objects: no training label of any class, so that nothing can be learnt" in warnings
