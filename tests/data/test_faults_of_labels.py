"""Labels that are whole and wrong, in every format: ids of no class, other sizes, boxes outside, no measurement."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_faults_every_format import look, make

from segweave.data import FORMATS
from segweave.data.dataset import Dataset
from segweave.errors import SegweaveError

STRAYS: dict[str, dict[str, tuple[int, int | None]]] = {
    "folder": {"semantic": (3, 255)},
    "camvid": {"semantic": (12, 11)},
    "cityscapes": {"semantic": (34, 0), "categories": (34, 0), "objects": (34000, None)},
    "pascal_context": {"semantic": (21, 255)},
    "coco": {"stuff_things": (182, 255), "stuff": (91, 0)},
    "oxford_pets": {"segmentation": (4, 3), "trimap": (0, None)},
    "table": {"mask": (3, 255)},
    "nyuv2": {"semantic": (40, 39)},
    "cwfid": {"vegetation": (2, None)},
}


def masks() -> list[tuple[str, str, int, int | None]]:
    return [(name, task, *values) for name, tasks in STRAYS.items() for task, values in tasks.items()]


def of_mask(name: str, task: str, tmp_path: Path) -> tuple[Dataset, int, Path, np.ndarray]:
    """A labelled image of train, its mask's file and values; the task alone is read."""
    options, tasks = make((name, "made"), tmp_path)
    data = FORMATS.load(name)("train", [reader for reader in tasks if reader.name == task], **options)
    index = next(i for i in range(len(data)) if data.has_label(i, task))
    path = data.file(index, task)
    assert path is not None
    return data, index, path, np.array(Image.open(path))


@pytest.mark.parametrize(("name", "task", "stray", "void"), masks())
def test_an_id_outside_the_classes_is_named_with_its_pixels(
    name: str,
    task: str,
    stray: int,
    void: int | None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    data, index, path, values = of_mask(name, task, tmp_path)
    values = values.astype(np.uint16 if stray > 255 else np.uint8)
    values[2:5, 3:7] = stray
    Image.fromarray(values).save(path)
    with pytest.raises(SegweaveError, match=rf"{stray} \(12 pixels\)") as caught:
        data[index]
    assert str(path) in str(caught.value)
    if name != "cityscapes" or task != "objects":
        assert "ignore" in str(caught.value)
        assert "classes" in str(caught.value)


@pytest.mark.parametrize(("name", "task", "stray", "void"), [row for row in masks() if row[3] is not None])
def test_a_mask_without_a_label_counts_nowhere_and_is_told(
    name: str,
    task: str,
    stray: int,  # noqa: ARG001
    void: int,
    tmp_path: Path,
) -> None:
    data, index, path, values = of_mask(name, task, tmp_path)
    Image.fromarray(np.full_like(values, void)).save(path)
    (reader,) = data.readers.values()  # pyright: ignore[reportAttributeAccessIssue]
    target = reader.encode(data[index].annotations[task])
    assert bool((target == 255).all())
    assert reader.describe(target).labelled == 0
    assert "no pixel is labelled" in reader.describe(target).doubts


@pytest.mark.parametrize(("name", "task", "stray", "void"), masks())
def test_a_mask_of_another_size_is_refused_with_both_sizes(
    name: str,
    task: str,
    stray: int,  # noqa: ARG001
    void: int | None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    """Also one of which only boxes are made."""
    data, index, path, values = of_mask(name, task, tmp_path)
    height, width = values.shape[:2]
    Image.fromarray(values[:, :-1]).save(path)
    with pytest.raises(SegweaveError, match=rf"{width - 1}x{height}.*{width}x{height}") as caught:
        data[index]
    assert str(path) in str(caught.value)


def test_boxes_of_nuclei_of_another_size_than_the_image_are_refused(tmp_path: Path) -> None:
    options, tasks = make(("dsb2018", "made"), tmp_path)
    data = FORMATS.load("dsb2018")("train", tasks[1:], **options)
    folder = data.file(0, "objects")
    assert folder is not None
    for path in folder.iterdir():
        Image.open(path).resize((60, 60), Image.Resampling.NEAREST).save(path)
    with pytest.raises(SegweaveError, match="found 60x60; expected 30x") as caught:
        data[0]
    assert str(folder) in str(caught.value)


def test_a_nucleus_of_other_values_is_named_with_its_pixels(tmp_path: Path) -> None:
    options, tasks = make(("dsb2018", "made"), tmp_path)
    data = FORMATS.load("dsb2018")("train", tasks, **options)
    folder = data.file(0, "objects")
    assert folder is not None
    path = min(folder.iterdir())
    values = np.array(Image.open(path))
    values[:2, :3] = 200
    Image.fromarray(values).save(path)
    with pytest.raises(SegweaveError, match=rf"{path.name}: found 200 on 6 pixels"):
        data[0]


def test_instance_ids_of_8_bits_are_not_taken_for_groups(tmp_path: Path) -> None:
    """What 8 bits hold of 1000 times an id is another id."""
    data, index, path, values = of_mask("cityscapes", "objects", tmp_path)
    Image.fromarray((values % 24).astype(np.uint8)).save(path)
    with pytest.raises(SegweaveError, match="found L values; expected a 16-bit grey PNG") as caught:
        data[index]
    assert str(path) in str(caught.value)


def test_values_of_arrays_that_are_no_measurement_are_not_labelled(tmp_path: Path) -> None:
    made = make(("nyuv2", "made_arrays"), tmp_path)
    depth = np.load(tmp_path / "train" / "depth" / "0.npy")
    depth[0, :5, 0] = np.nan, np.inf, -np.inf, 0, -3
    np.save(tmp_path / "train" / "depth" / "0.npy", depth)
    normals = np.load(tmp_path / "train" / "normal" / "0.npy")
    normals[5, :3] = [[0, 0, 0], [np.nan, 0, 1], [np.inf, 0, 0]]
    np.save(tmp_path / "train" / "normal" / "0.npy", normals)
    tasks = {task.name: task for task in made[1]}
    annotations = FORMATS.load("nyuv2")("train", made[1], **made[0])[0].annotations
    target = tasks["depth"].encode(annotations["depth"])
    assert target[0, :5].tolist() == [0] * 5
    assert bool(target.isfinite().all())
    vectors = tasks["normals"].encode(annotations["normals"])
    assert not vectors[:, 5, :3].any()
    assert bool(vectors.isfinite().all())


def test_frames_without_a_measurement_are_not_labelled(tmp_path: Path) -> None:
    import h5py

    made = make(("nyuv2", "made_mat"), tmp_path)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["depths"][:, 0, :4] = [np.nan, np.inf, 0, -1]  # pyright: ignore[reportIndexIssue]
    data = FORMATS.load("nyuv2")("train", made[1], **made[0])
    task = next(task for task in made[1] if task.name == "depth")
    annotation = data.annotation(0, "depth")
    assert annotation is not None
    assert task.encode(annotation)[:4, 0].tolist() == [0] * 4


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("depths", np.zeros((12, 16, 12), np.int32), "depths of int32"),
        ("depths", np.zeros((12, 16), np.float32), r"depths of float32 and shape \(12, 16\)"),
        ("labels", np.full((12, 16, 12), -1, np.int16), "labels of int16"),
        ("labels", np.zeros((12, 16, 12), np.float32), "labels of float32"),
        ("labels", np.zeros((3, 16, 12), np.uint16), "cannot be read"),
    ],
)
def test_variables_of_another_kind_are_refused(tmp_path: Path, name: str, values: np.ndarray, found: str) -> None:
    import h5py

    made = make(("nyuv2", "made_mat"), tmp_path)
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = values
    seen = look("nyuv2", made)
    assert any(re.search(rf"labeled\.mat: found .*{found}", message) for message in seen.messages), seen.messages


def test_frames_that_are_declared_too_large_make_no_memory(tmp_path: Path) -> None:
    import h5py

    made = make(("nyuv2", "made_mat"), tmp_path)
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "r+") as file:
        del file["depths"]
        file.create_dataset("depths", (12, 65536, 65536), np.float32, chunks=(1, 64, 64))
    assert path.stat().st_size < 1e6
    tracemalloc.start()
    seen = look("nyuv2", made)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("labeled.mat: found 65536 x 65536" in message for message in seen.messages)
    assert peak < 20e6


def test_a_label_map_that_is_declared_too_large_makes_no_memory(tmp_path: Path) -> None:
    from scipy.io import savemat

    made = make(("pascal_context", "made"), tmp_path)
    path = tmp_path / "pascal-context" / "trainval" / "2008_000002.mat"
    savemat(path, {"LabelMap": np.zeros((16384, 16384), np.uint8)}, do_compression=True)
    data = FORMATS.load("pascal_context")("val", made[1], **made[0])
    tracemalloc.start()
    with pytest.raises(SegweaveError, match=r"found a variable of \d{9} bytes") as caught:
        data.annotation(0, "edges")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 20e6


# Boxes: outside, inverted, without area, over the border

BOXES = [[-20, -20, -5, -5], [9, 9, 4, 4], [3, 3, 3, 9], [-4, -4, 6, 8]]
KEPT = [[0, 0, 6, 8]]


def coco_boxes(root: Path) -> None:
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    item = content["annotations"][0]
    content["annotations"] = [
        item | {"id": n, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": abs((x2 - x1) * (y2 - y1)), "iscrowd": 0}
        for n, (x1, y1, x2, y2) in enumerate(BOXES)
    ]
    path.write_text(json.dumps(content))


def pet_boxes(root: Path) -> None:
    path = root / "annotations" / "xmls" / "Abyssinian_1.xml"
    start, item, end = re.split(r"(<object>.*</object>)", path.read_text(), flags=re.DOTALL)
    items = []
    for x1, y1, x2, y2 in BOXES:
        sides = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        filled = item
        for side, value in sides.items():
            filled = re.sub(rf"<{side}>\d+<", f"<{side}>{value}<", filled)
        items.append(filled)
    path.write_text(start + "".join(items) + end)


def field_boxes(root: Path) -> None:
    """A polygon has no direction: what is inverted elsewhere is a polygon all the same."""
    rows = [{"type": "crop", "points": {"x": [x1, x2], "y": [y1, y2]}} for x1, y1, x2, y2 in BOXES]
    for number in range(1, 8):
        (root / "annotations" / f"{number:03}_annotation.yaml").write_text(json.dumps({"annotation": rows}))


@pytest.mark.parametrize(
    ("name", "task", "damage", "kept", "dropped"),
    [
        ("coco", "objects", coco_boxes, KEPT, 2),
        ("oxford_pets", "head", pet_boxes, KEPT, 2),
        ("cwfid", "objects", field_boxes, [[4, 4, 9, 9], *KEPT], 1),
    ],
)
def test_boxes_are_clipped_or_dropped_and_counted(
    name: str, task: str, damage: Callable[[Path], None], kept: list[list[int]], dropped: int, tmp_path: Path
) -> None:
    made = make((name, "made"), tmp_path)
    damage(tmp_path)
    data = FORMATS.load(name)("train", made[1], **made[0])
    sample = data[0]
    assert sample.annotations[task].as_subclass(torch.Tensor)[:, :4].tolist() == kept
    assert data.notes["boxes inverted, without area or not finite: dropped"] == dropped
    assert data.notes["boxes outside the image: dropped"] == 1
    assert data.notes["boxes that reach over the image's border: clipped"] == 1


def test_polygons_outside_their_tile_are_told(tmp_path: Path) -> None:
    spacenet = import_module("test_spacenet")
    made = make(("spacenet", "made"), tmp_path)
    data = FORMATS.load("spacenet")("train", made[1], **made[0])
    path = data.file(0, "footprints")
    assert path is not None
    outside = [(x + 500, y) for x, y in spacenet.BUILDING]
    spacenet.write_vectors(path, "Polygon", [outside, spacenet.BUILDING])
    sample = data[0]
    assert int(sample.annotations["footprints"].sum()) == 70
    assert len(sample.annotations["objects"]) == 1
    assert data.notes["features that lie outside their image: left out"] == 3  # of three tasks


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_tile_whose_pixels_have_no_area_is_refused(scale: float, tmp_path: Path) -> None:
    georeference = import_module("test_georeference")
    made = make(("spacenet", "made"), tmp_path)
    data = FORMATS.load("spacenet")("train", made[1], **made[0])
    path = data.file(0)
    assert path is not None
    georeference.write_geotiff(path, np.zeros((3, 40, 50), np.uint16), (7e5, 3e6), scale, georeference.UTM)
    with pytest.raises(SegweaveError, match="found pixels without area") as caught:
        data[0]
    assert str(path) in str(caught.value)


def test_a_reference_system_that_is_no_text_is_refused(tmp_path: Path) -> None:
    made = make(("spacenet", "made"), tmp_path)
    data = FORMATS.load("spacenet")("train", made[1], **made[0])
    path = data.file(0, "footprints")
    assert path is not None
    ring = [[0, 0], [1e300, 0], [0, 1]]
    for content in (
        {"crs": {"properties": {"name": 5}}, "features": []},
        {"features": [{"geometry": {"type": "Polygon", "coordinates": [ring]}}]},
        {"features": [{"geometry": {"type": "Polygon", "coordinates": [[[10**400, 0]]]}}]},
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(SegweaveError, match=f"{path.name}: cannot be read"):
            data[0]


def test_two_annotations_of_one_file_are_refused(tmp_path: Path) -> None:
    made = make(("coco", "made"), tmp_path)
    path = tmp_path / "annotations" / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][0] | {"segments_info": []})
    path.write_text(json.dumps(content))
    assert any(f"{path}: found 1 annotations of a file that has another" in m for m in look("coco", made).messages)
