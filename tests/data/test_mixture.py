"""Several data sets as one: ids, labels, maps of ids, the config, and runs on them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from segweave import build, config, rasters
from segweave.check import check
from segweave.config import Config, from_values
from segweave.data.folder import Folder
from segweave.data.mixture import Mixture
from segweave.data.synthetic import Synthetic
from segweave.errors import CheckpointError, ConfigError, DataError
from segweave.predict import predict_run
from segweave.schema import check_config
from segweave.sources import build_dataset, build_tasks
from segweave.tasks import Semantic

HEIGHT, WIDTH = 32, 48
TASKS: dict[str, Any] = {
    "semantic": {"kind": "semantic", "classes": ["road", "sky", "car"]},
    "depth": {"kind": "depth", "max_depth": 10},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`town` has masks of ids 5, 7, 9 and 300; `room` has masks of 0 to 2, and depth on all images but number 3."""
    rng = np.random.default_rng(0)

    def save(pixels: np.ndarray, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for name, count in (("town", 6), ("room", 5)):
        for split, images in (("train", count), ("val", 2)):
            for i in range(images):
                file = f"{split}/{i}.png"
                save(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), tmp_path / name / "images" / file)
                ids = rng.integers(0, 3, (HEIGHT, WIDTH))
                raw = np.array([5, 7, 9], np.uint16)[ids] if name == "town" else ids.astype(np.uint8)
                if name == "town":
                    raw[:3] = 300
                    raw[3] = 255
                save(raw, tmp_path / name / "masks" / file)
                if name == "room" and i != 3:
                    metres = rng.integers(500, 9000, (HEIGHT, WIDTH)).astype(np.uint16)
                    save(metres, tmp_path / name / "depth" / file)
    return tmp_path


def values(root: Path, **data: Any) -> dict[str, Any]:
    """Both sets in the long form."""
    town = {"format": "folder", "root": str(root / "town"), "tasks": {"semantic": "masks"}}
    town["maps"] = {"semantic": {5: 0, 7: "sky", 9: "car", 300: "ignore"}}
    room = {"format": "folder", "root": str(root / "room"), "tasks": {"semantic": "masks", "depth": "depth"}}
    return {"data": {"sets": {"town": town, "room": room}, **data}, "tasks": copy.deepcopy(TASKS)}


def load(made: dict[str, Any], split: str = "train") -> Mixture:
    checked = check_config(from_values(copy.deepcopy(made)))
    dataset = build_dataset(checked, split, build_tasks(checked))
    assert isinstance(dataset, Mixture)
    return dataset


def test_a_set_without_labels_of_the_predicted_tasks_is_not_read(root: Path) -> None:
    made = values(root)
    made["tasks"]["semantic"]["predict"] = False
    assert load(made).ids == [f"room/{i}" for i in range(5)]


def test_ids_sets_and_files(root: Path) -> None:
    data = load(values(root))
    assert data.ids == [f"room/{i}" for i in range(5)] + [f"town/{i}" for i in range(6)]
    assert data.sets == {"room": range(5), "town": range(5, 11)}
    assert data.splits == ["train", "val"]
    assert load(values(root), "val").ids == ["room/0", "room/1", "town/0", "town/1"]
    for index, id in enumerate(data.ids):
        assert data[index].id == id
        assert torch.equal(data.image(index), data[index].image)
    assert data.file(5) == root / "town" / "images" / "train" / "0.png"
    assert data.file(5, "semantic") == root / "town" / "masks" / "train" / "0.png"
    assert data.file(5, "depth") is None


def test_labels_are_those_of_the_files_of_each_set(root: Path) -> None:
    data = load(values(root))
    for index, id in enumerate(data.ids):
        name, _, image = id.partition("/")
        raw = np.asarray(Image.open(root / name / "masks" / "train" / f"{image}.png")).astype(int)
        classes = {5: 0, 7: 1, 9: 2, 300: 255, 255: 255} if name == "town" else {0: 0, 1: 1, 2: 2}
        sample = data[index]
        found = sample.annotations["semantic"]
        assert found.dtype == torch.uint8
        assert np.array_equal(found.numpy(), np.vectorize(classes.__getitem__)(raw))
        alone = data.annotation(index, "semantic")
        assert alone is not None
        assert torch.equal(alone, found)
        assert ("depth" in sample.annotations) == (name == "room" and image != "3")
        for task in TASKS:
            assert data.has_label(index, task) == (task in sample.annotations)
            assert (data.annotation(index, task) is not None) == (task in sample.annotations)
    assert (data.labelled("semantic"), data.labelled("depth")) == (11, 4)


def test_an_id_that_the_map_lacks_is_an_error_that_names_it_and_its_file(root: Path) -> None:
    made = values(root)
    del made["data"]["sets"]["town"]["maps"]["semantic"][300]
    data = load(made)
    file = root / "town" / "masks" / "train" / "2.png"
    with pytest.raises(DataError) as error:
        data[7]
    assert str(error.value) == (
        f"{file}: label id 300 ({3 * WIDTH} pixels) that data.sets.town.maps does not name: name it there, as a class "
        f"or as ignore"
    )
    with pytest.raises(DataError, match="label id 300"):
        data.annotation(7, "semantic")
    assert data[0].annotations["semantic"].max() == 2  # only that set has the map
    # without any map these ids are outside the classes, as in a single data set
    del made["data"]["sets"]["town"]["maps"]
    with pytest.raises(DataError, match=r"2\.png: label id .*300 .* outside the 3 classes"):
        load(made)[7]


@pytest.mark.parametrize("wrong", [-1, 70000])
def test_ids_beyond_16_bits_are_in_no_map(root: Path, wrong: int) -> None:
    path = root / "town" / "masks" / "train" / "0.png"
    path.unlink()
    np.save(path.with_suffix(".npy"), np.full((HEIGHT, WIDTH), wrong, np.int32))
    with pytest.raises(DataError, match=rf"0\.npy: label id {wrong} \({HEIGHT * WIDTH} pixels\)"):
        load(values(root))[5]
    made = values(root)
    made["data"]["sets"]["town"]["maps"]["semantic"][wrong] = 0
    with pytest.raises(ConfigError, match=rf"maps\.semantic: found id {wrong}; expected 0 to 65535"):
        load(made)


def test_a_map_holds_for_every_task_that_reads_the_layer(root: Path) -> None:
    made = values(root)
    made["tasks"]["there"] = {"kind": "classification", "derive": "presence", "source": "semantic"}
    made["tasks"]["there"]["classes"] = TASKS["semantic"]["classes"]
    data = load(made)
    raw = np.asarray(Image.open(root / "town" / "masks" / "train" / "0.png"))
    label = data.annotation(5, "there")
    assert label is not None
    assert data.tasks["there"].encode(label).tolist() == [float(id in raw) for id in (5, 7, 9)]
    made["data"]["sets"]["room"]["maps"] = {"depth": {0: 0}}
    with pytest.raises(
        ConfigError, match=r"room: maps\.depth: task 'depth' reads depth; expected one that reads masks"
    ):
        load(made)


def test_labels_that_no_file_holds_are_mapped_too(root: Path) -> None:
    made = values(root)
    streets: dict[str, Any] = {"format": "synthetic", "count": 3, "size": [HEIGHT, WIDTH]}
    streets["maps"] = {"semantic": {id: min(id, 2) for id in range(8)}}
    made["data"]["sets"]["streets"] = streets
    data = load(made)
    start = data.sets["streets"].start
    original = Synthetic("train", [Semantic("semantic", classes=8)], count=3, size=[HEIGHT, WIDTH])
    found, wanted = (dataset.annotation(place, "semantic") for dataset, place in ((data, start), (original, 0)))
    assert found is not None
    assert wanted is not None
    assert torch.equal(found.as_subclass(Tensor), wanted.as_subclass(Tensor).clamp(max=2))
    del streets["maps"]["semantic"][0]
    with pytest.raises(DataError, match=r"^streets/train-000000: label id 0 "):
        load(made)[start]


def test_depth_in_three_units_is_the_same_metres(tmp_path: Path) -> None:
    """Multiples of 1/8 m are whole millimetres and whole 256ths; floats are metres without being told."""
    metres = np.random.default_rng(0).integers(8, 72, (HEIGHT, WIDTH)) / 8
    for name, file in (("mm", "a.png"), ("kitti", "a.png"), ("floats", "a.npy")):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "depth").mkdir()
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name / "images" / "a.png")
        if file == "a.npy":
            np.save(tmp_path / name / "depth" / file, metres.astype(np.float32))
        else:
            Image.fromarray((metres * (256 if name == "kitti" else 1000)).astype(np.uint16)).save(
                tmp_path / name / "depth" / file
            )
    common = {"format": "folder", "tasks": {"depth": "depth"}, "splits": {}}
    sets = {name: {**common, "root": str(tmp_path / name)} for name in ("mm", "kitti", "floats")}
    made = {"data": {"sets": sets}, "tasks": {"depth": TASKS["depth"]}}
    before = load(made)
    sets["kitti"]["read"] = {"depth": {"units_per_metre": 256}}
    data = load(made)
    found = [data[index].annotations["depth"].as_subclass(Tensor).double() for index in range(3)]
    assert all(np.array_equal(depth.numpy(), metres) for depth in found)
    assert not np.array_equal(before[1].annotations["depth"].numpy(), metres)
    assert data.fingerprint() != before.fingerprint()


def test_masks_of_a_threshold_of_a_colour_and_of_another_ignored_id(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
    ids[0] = 7
    colours = np.array([[0, 0, 0], [9, 200, 3], *[[255, 255, 255]] * 6], np.uint8)
    files = {"plain": ids, "white": np.where(ids == 1, 200, 30).astype(np.uint8), "green": colours[ids]}
    sets: dict[str, Any] = {}
    for name, pixels in files.items():
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "masks").mkdir()
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name / "images" / "a.png")
        Image.fromarray(pixels).save(tmp_path / name / "masks" / "a.png")
        sets[name] = {"format": "folder", "root": str(tmp_path / name), "tasks": {"plant": "masks"}, "splits": {}}
    sets["plain"]["read"] = {"plant": {"ignore": 7}}
    sets["white"]["read"] = {"plant": {"threshold": 128}}
    table = {"plant": [9, 200, 3], "background": [0, 0, 0], "ignore": [255, 255, 255]}
    sets["green"]["read"] = {"plant": {"colours": table}}
    data = load({"data": {"sets": sets}, "tasks": {"plant": {"kind": "semantic", "classes": ["plant"]}}})
    for index, id in enumerate(data.ids):
        expected = ids.copy()
        expected[0] = 0 if id.startswith("white") else 255
        assert np.array_equal(data[index].annotations["plant"].numpy(), expected), id


def one_image(root: Path, layer: str, label: np.ndarray | dict[str, Any]) -> dict[str, Any]:
    """A set of one image, `a.png`, with a mask of these ids, or COCO annotations."""
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "a.png")
    if isinstance(label, dict):
        image = {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
        (root / "boxes.json").write_text(json.dumps({"images": [image], **label}), encoding="utf-8")
        return {"format": "folder", "root": str(root), "tasks": {layer: "boxes.json"}, "splits": {}}
    (root / "masks").mkdir()
    Image.fromarray(label).save(root / "masks" / "a.png")
    return {"format": "folder", "root": str(root), "tasks": {layer: "masks"}, "splits": {}}


def coco(categories: dict[int, str]) -> dict[str, Any]:
    """A box of each category, the first of them leftmost."""
    return {
        "categories": [{"id": id, "name": name} for id, name in categories.items()],
        "annotations": [
            {"id": place, "image_id": 1, "category_id": id, "bbox": [8 * place, 4, 6, 9]}
            for place, id in enumerate(categories)
        ],
    }


def lefts(boxes: Tensor) -> dict[int, float]:
    """The left side of the one box of each class."""
    rows = boxes.as_subclass(Tensor)
    assert len(rows) == len(rows[:, 4].unique())
    return {int(label): float(left) for left, label in rows[:, [0, 4]].tolist()}


def test_boxes_of_other_names_numbers_and_categories_to_ignore(tmp_path: Path) -> None:
    sets = {
        "english": one_image(tmp_path / "english", "objects", coco({1: "car", 2: "person"})),
        "german": one_image(tmp_path / "german", "objects", coco({2: "Hund", 7: "Mensch", 5: "Auto"})),
    }
    made = {"data": {"sets": sets}, "tasks": {"objects": {"kind": "detection", "classes": ["car", "person"]}}}
    with pytest.raises(DataError, match=r"data\.sets\.german: .*boxes\.json: has no category of task 'objects'"):
        load(made)
    read: dict[str, Any] = {"category_ids": [5, 7]}
    sets["german"]["read"] = {"objects": read}
    with pytest.raises(DataError, match=r"category 'Hund' \(1 boxes\) outside the classes"):
        load(made)
    read["ignore"] = ["Hund"]
    data = load(made)
    assert data.ids == ["english/a", "german/a"]
    assert [lefts(data[index].annotations["objects"]) for index in range(2)] == [{0: 0, 1: 8}, {0: 16, 1: 8}]
    assert getattr(data.tasks["objects"], "category_ids") == [1, 2]  # noqa: B009 (of the files that it reads itself)


def test_a_number_means_what_the_file_itself_calls_it(tmp_path: Path) -> None:
    """That 1 is a car in the first file makes no car of the second one's dog."""
    sets = {
        "first": one_image(tmp_path / "first", "objects", coco({1: "car", 2: "person"})),
        "second": one_image(tmp_path / "second", "objects", coco({1: "dog", 2: "person"})),
    }
    objects = {"kind": "detection", "classes": ["car", "person"], "ignore": ["dog"]}
    data = load({"data": {"sets": sets}, "tasks": {"objects": objects}})
    assert [lefts(data[index].annotations["objects"]) for index in range(2)] == [{0: 0, 1: 8}, {1: 8}]


@pytest.mark.parametrize("layer", ["masks", "instances"])
def test_boxes_made_of_masks_with_other_ids(tmp_path: Path, layer: str) -> None:
    """Of instances the ids are thousands."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint16)
    pixels[4:10, 5:12], pixels[15:25, 20:30] = 1, 2
    many = 1000 if layer == "instances" else 1
    sets = {
        "one": one_image(tmp_path / "one", layer, pixels * many),
        "other": one_image(tmp_path / "other", layer, np.array([0, 26, 24], np.uint16)[pixels] * many),
    }
    objects = {"kind": "detection", "classes": ["car", "person"], "source": layer, "derive": "boxes"}
    objects["ids"] = {1: "car", 2: "person"}
    made = {"data": {"sets": sets}, "tasks": {"objects": objects}}

    def boxes() -> tuple[list[dict[int, float]], str]:
        checked = check_config(from_values(copy.deepcopy(made)))
        data = build_dataset(checked, "train", build_tasks(checked))
        alone = [data.annotation(index, "objects") for index in range(2)]
        found = [lefts(data[index].annotations["objects"]) for index in range(2)]
        assert found == [lefts(label) for label in alone if label is not None]
        return found, data.fingerprint()

    without, first = boxes()
    assert without == [{0: 5, 1: 20}, {}]
    sets["other"]["read"] = {layer: {"ids": {24: "car", 26: "person"}}}
    found, second = boxes()
    assert found == [{0: 5, 1: 20}, {0: 20, 1: 5}]
    assert first != second
    sets["other"]["read"] = {layer: {"ids": {24: "lorry"}}}
    with pytest.raises(ConfigError, match=r"^data\.sets\.other: tasks\.objects\.ids\.24: 'lorry' is no class"):
        boxes()
    sets["other"]["read"] = {layer: {"idz": {24: "car"}}}
    with pytest.raises(ConfigError, match=rf"other: read\.{layer}\.idz: unknown key; did you mean 'ids'"):
        boxes()
    made["tasks"]["objects"] = {"kind": "edges", "source": layer, "derive": "boundary"}
    with pytest.raises(ConfigError, match=rf"other: read\.{layer}: found idz; expected none: no task has such options"):
        boxes()


def test_classes_that_are_present_beside_another_ignored_id(tmp_path: Path) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[8:] = 2
    strays = {"none": None, "seven": 7, "one": 1}
    sets = {}
    for name, stray in strays.items():
        pixels = ids.copy()
        if stray is not None:
            pixels[:4] = stray
        sets[name] = one_image(tmp_path / name, "masks", pixels)
    there = {"kind": "classification", "derive": "presence", "source": "masks", "classes": ["sky", "car", "road"]}
    made = {"data": {"sets": sets}, "tasks": {"there": there}}
    sets["one"]["read"] = {"masks": {"ignore": 1}}
    with pytest.raises(DataError, match=r"label id 7 .* outside the 3 classes"):
        load(made)[2]
    sets["seven"]["read"] = {"masks": {"ignore": [7, 9]}}
    data = load(made)
    task = data.tasks["there"]
    assert data.ids == ["none/a", "one/a", "seven/a"]
    assert [task.encode(data[index].annotations["there"]).tolist() for index in range(3)] == [[1, 0, 1]] * 3
    sets["one"].pop("read")
    assert task.encode(load(made)[1].annotations["there"]).tolist() == [1, 1, 1]


def test_notes_carry_the_name_of_their_set(root: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(root / "town" / "images" / "train" / "0.png")
    Image.new("L", (WIDTH, HEIGHT), 5).save(root / "town" / "masks" / "train" / "extra.png")
    data = load(values(root))
    assert [note.partition(": ")[0] for note in data.notes] == ["town"]
    assert "labels without an image: 1, such as extra.png" in next(iter(data.notes))
    data.notes.clear()
    data[0]
    assert not data.notes
    data[5]
    assert [note.partition(": ")[0] for note in data.notes] == ["town"]  # of the conversion from grey
    data.notes.clear()
    assert not data.notes


def test_the_fingerprint_tells_files_maps_and_sets_apart(root: Path) -> None:
    made = values(root)
    first = load(made).fingerprint()
    assert load(made).fingerprint() == first
    turned = copy.deepcopy(made)
    turned["data"]["sets"] = dict(reversed(made["data"]["sets"].items()))
    assert load(turned).fingerprint() == first
    other, renamed, without = (copy.deepcopy(made) for _ in range(3))
    other["data"]["sets"]["town"]["maps"]["semantic"][5] = 1
    renamed["data"]["sets"]["village"] = renamed["data"]["sets"].pop("town")
    del without["data"]["sets"]["room"]["tasks"]["depth"]
    found = [load(case).fingerprint() for case in (other, renamed, without)]
    mask = root / "town" / "masks" / "train" / "0.png"
    rasters.write_index(torch.full((HEIGHT, WIDTH), 5, dtype=torch.uint8), mask, [])
    assert len({first, *found, load(made).fingerprint()}) == 5


def test_a_split_is_that_of_the_sets_that_have_it(root: Path) -> None:
    made = values(root)
    made["data"]["sets"]["streets"] = {"format": "synthetic", "count": 3}
    made["data"]["sets"]["streets"]["maps"] = {"semantic": dict.fromkeys(range(8), 0)}
    assert load(made, "test").sets.keys() == {"streets"}
    assert list(load(made).splits) == ["train", "val", "test"]
    with pytest.raises(ConfigError, match=r"data\.sets: none has a split 'tset'; they have train, val, test"):
        load(made, "tset")


def test_the_short_form_names_its_sets(root: Path) -> None:
    long = values(root)["data"]["sets"]
    town, room = long["town"], long["room"]
    listed = {"data": [town, room, room, {**room, "name": "study"}], "tasks": TASKS}
    made = from_values(listed, ["data.size=[16,24]", "data.sampling=uniform"])
    assert list(made.data["sets"]) == ["town", "room", "room-2", "study"]
    assert made.data["sets"]["town"] == town
    checked = check_config(made)
    assert checked.data["size"] == [16, 24]
    assert checked.data["sampling"] == {"name": "uniform"}
    changed = from_values({"data": [town, room], "tasks": TASKS}, ["data.sets.town.root=elsewhere"])
    assert changed.data["sets"]["town"]["root"] == "elsewhere"
    # what a run writes is read back as it was
    assert from_values(config.parse(config.dump(checked.sections()))).data == checked.data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.samplin=uniform", r"data\.samplin: unknown key; did you mean 'sampling'"),
        ("data.sampling=unifrom", r"data\.sampling\.name: unknown sampling 'unifrom'; nearest: 'uniform'"),
        ("data.sampling={name: tasks, minimun: 2}", r"data\.sampling\.minimun: unknown key; did you mean 'minimum'"),
        ("data.sampling={name: round_robin, by: set}", r"sampling\.by: found 'set'; expected one of 'image', 'batch'"),
        ("data.sampling=[uniform]", r"data\.sampling: found \['uniform'\]; expected a name"),
        ("data.sets.town.rot=x", r"data\.sets\.town\.rot: unknown key; did you mean 'root'"),
        ("data.sets.town.augment=false", r"data\.sets\.town\.augment: unknown key"),
        ("data.sets.town.format=foldr", r"data\.sets\.town\.format: unknown data format 'foldr'; nearest: 'folder'"),
        ("data.sets.town.maps={semantic: {a: 0}}", r"data\.sets\.town\.maps.*: found"),
        ("data.sets.town.maps={masks: {5: 0}}", r"data\.sets\.town: maps\.masks: no such layer; the set has semantic"),
        ("data.sets.town.maps={semantic: {5: roda}}", r"maps\.semantic\.5: found 'roda'; expected ignore or a class"),
        ("data.sets.town.maps={semantic: {5: 3}}", r"maps\.semantic\.5: found 3; expected ignore or a class"),
        ("data.sets.room.read={depht: {units_per_metre: 1}}", r"room: read\.depht: no such layer; the set has"),
        ("data.sets.room.read={depth: {units: 1}}", r"read\.depth\.units: unknown key; did you mean 'units_per_metre'"),
        ("data.sets.room.read={depth: {max_depth: 1}}", r"room: read\.depth\.max_depth: unknown key"),
        ("data.sets.room.read={depth: {units_per_metre: a}}", r"read\.depth\.units_per_metre: found 'a'; expected"),
        ("data.sets.town.read={semantic: {ignore: 5}}", r"town: read\.semantic: found beside maps\.semantic"),
        ("data.sets.town.tasks={semantik: masks}", r"no task reads this layer; did you mean 'semantic'"),
        ("data.sets.town.tasks=null", r"data\.sets\.town: tasks: missing; expected where this set has which labels"),
        ("data.sets.town.root=/nowhere", r"data\.sets\.town: data\.root: /nowhere: no such folder"),
        ("data.sets={}", r"data\.sets: found none"),
        ("data.sets.a/b={format: synthetic}", r"found the name 'a/b'; expected letters"),
        ("data.format=folder", r"data\.format: unknown key"),
        ("tasks.depth.source=layer", r"tasks\.depth: no training image has a label"),
    ],
)
def test_mistakes_in_the_config_are_named(root: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build.train(check_config(from_values(values(root), [change])), "a", root / "runs", quiet=True)
    assert not (root / "runs" / "a").exists()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["town"], "data, set 1: expected a mapping with its format; found 'town'"),
        ([{"format": "synthetic", "name": "a"}] * 2, "set 1: found the name 'a'; expected text, of this set alone"),
        ([{"format": "synthetic", "name": 3}], "data, set 1: found the name 3"),
    ],
)
def test_mistakes_in_a_list_of_sets_are_named(sets: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_values({"data": sets, "tasks": TASKS})


def test_a_set_without_any_of_the_tasks_is_refused(root: Path) -> None:
    made = values(root)
    made["tasks"]["depth"]["source"] = "metres"
    made["data"]["sets"]["room"]["tasks"] = {"metres": "depth"}
    assert load(made).labelled("depth") == 4
    made["data"]["sets"]["streets"] = {"format": "synthetic", "count": 3}
    del made["tasks"]["semantic"], made["data"]["sets"]["town"]
    with pytest.raises(ConfigError, match=r"data\.sets\.streets: has the layers .*, labels for none of depth"):
        load(made)


def test_a_second_task_of_a_kind_is_not_guessed_to_be_labelled(root: Path) -> None:
    made = values(root)
    made["data"]["sets"]["streets"] = {"format": "synthetic", "count": 3}
    made["tasks"]["lanes"] = {"kind": "semantic", "classes": 3}
    made["data"]["sets"]["room"]["tasks"]["lanes"] = "masks"
    data = load(made)
    found = {name: data.has_label(places.start, "lanes") for name, places in data.sets.items()}
    assert found == {"room": True, "streets": False, "town": False}


def test_sets_that_know_different_classes_need_them_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def classes(**folder: Any) -> int:
        sets = {"a": {"format": "synthetic"}, "b": {"format": "folder", "root": ".", "tasks": {"semantic": "x"}}}
        sets["b"] |= folder
        made = check_config(from_values({"data": {"sets": sets}, "tasks": {"semantic": {"kind": "semantic"}}}))
        (task,) = build_tasks(made)
        assert isinstance(task, Semantic)
        return len(task.classes)

    assert classes() == 8
    monkeypatch.setattr(Folder, "default_classes", classmethod(lambda *_: {"semantic": ["floor", "wall"]}))
    with pytest.raises(ConfigError, match=r"tasks\.semantic\.classes: missing, .* b has floor, wall; write them"):
        classes()
    assert classes(maps={"semantic": {0: 0, 1: 2}}) == 8


def tiny(root: Path, **data: Any) -> Config:
    made = values(root, size=[HEIGHT, WIDTH], **data)
    made["model"] = {"backbone": "test_resnet", "decoder": {"name": "fpn", "width": 16}}
    made["train"] = {"epochs": 2, "batch_size": 4, "workers": 0, "schedule": "constant", "report": False}
    return check_config(from_values(made, source="mixed.yaml"))


def changed(made: Config, *overrides: str) -> Config:
    return check_config(from_values(made.sections(), overrides, "mixed.yaml"))


def test_a_run_trains_resumes_evaluates_predicts_and_scores(root: Path) -> None:
    runs = root / "runs"
    mixed = tiny(root, sampling={"name": "tasks", "minimum": {"depth": 2}})
    folder, results = build.train(changed(mixed, "train.report=true"), "a", runs, quiet=True)
    assert (folder / "report.html").is_file()
    assert build.evaluate_run(folder)["semantic"]["miou"] == pytest.approx(results["semantic"]["miou"], abs=1e-9)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"].keys() == {"semantic", "depth"} for line in lines if "loss" in line)

    longer = changed(mixed, "train.epochs=3")
    resumed, _ = build.train(longer, "a", runs, resume=True, quiet=True)
    straight, _ = build.train(longer, "b", runs, quiet=True)
    one, two = (load_file(place / "weights" / "last.safetensors") for place in (resumed, straight))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    for change, message in (
        ("data.sampling=uniform", "data.sampling was .*tasks.* and is .*uniform"),
        ("data.sets.town.maps.semantic={5: 1, 7: 1, 9: 2, 300: 255}", r"data\.sets\.town\.maps was"),
        ("data.sets.attic={format: synthetic, count: 1}", r"data\.sets\.attic is new"),
    ):
        with pytest.raises(CheckpointError, match=message):
            build.train(changed(longer, change), "a", runs, resume=True, quiet=True)
    (root / "town").rename(root / "elsewhere")
    moved = changed(longer, f"data.sets.town.root={root / 'elsewhere'}")
    build.train(moved, "a", runs, resume=True, quiet=True)

    dataset = build_dataset(moved, "val", build_tasks(moved))
    for index, id in enumerate(dataset.ids):
        rasters.write_image(dataset[index].image, root / "pictures" / f"{id}.png")
    predict_run(folder, [str(root / "pictures")], root / "predictions")
    scored, evaluated = build.score_predictions(moved, root / "predictions"), build.evaluate_run(folder)
    for task, key in (("semantic", "miou"), ("depth", "abs_rel")):
        assert scored[task][key] == pytest.approx(evaluated[task][key], abs=1e-4)
    other = check_config(from_values({"data": dict(moved.data)}), data_only=True)
    assert build.evaluate_run(folder, data=other)["semantic"]["miou"] == evaluated["semantic"]["miou"]


@pytest.mark.parametrize(
    ("sampling", "line"),
    [
        ("proportional", "an epoch: 11 images (room 5, town 6), 3 steps"),
        ("uniform", "an epoch: 12 images (room 6, town 6), 3 steps"),
        ("{name: round_robin, by: batch}", "an epoch: 16 images (room 8, town 8), 4 steps"),
    ],
)
def test_the_epoch_is_told_when_training_starts(
    root: Path, sampling: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build.train(changed(tiny(root), f"data.sampling={sampling}", "train.steps=1"), "a", root / "runs")
    assert line in capsys.readouterr().out.splitlines()


def test_check_lists_every_set(root: Path) -> None:
    checked = check(tiny(root), root / "page", 0)
    table = checked.sheets[0]
    assert table.caption == "Data sets"
    assert table.columns == ("data set", "split", "images", "with semantic", "with depth")
    assert [tuple(row) for row in table.rows] == [
        ("room", "train", 5, 5, 4),
        ("room", "val", 2, 2, 2),
        ("town", "train", 6, 6, 0),
        ("town", "val", 2, 2, 0),
    ]
    assert not checked.errors
    mask = root / "town" / "masks" / "train" / "1.png"
    rasters.write_index(torch.full((HEIGHT, WIDTH), 8, dtype=torch.uint8), mask, [])
    again = check(tiny(root), root / "again", 0)
    assert [f.text for f in again.findings if f.level == "error" and "1.png: label id 8" in f.text]
