"""The Oxford pets: trimaps, the numbers of the lists, boxes of heads, and images that are not what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.data.oxford_pets import OxfordPets
from segweave.errors import DataError
from segweave.tasks import Classification, Detection, Semantic
from segweave.tasks.task import Task

BREEDS = {"Abyssinian": (1, 1), "american_bulldog": (2, 2), "Sphynx": (34, 1), "yorkshire_terrier": (37, 2)}
"""Class id and species of some breeds, as in the release."""
XML = """<annotation><folder>OXIIIT</folder><filename>{id}.jpg</filename>
<size><width>{width}</width><height>20</height><depth>3</depth></size><segmented>0</segmented>
<object><name>{name}</name><pose>Frontal</pose><truncated>0</truncated><occluded>0</occluded>
<bndbox><xmin>4</xmin><ymin>2</ymin><xmax>11</xmax><ymax>9</ymax></bndbox><difficult>0</difficult></object></annotation>
"""


def tasks() -> list[Task]:
    classes = OxfordPets.default_classes()
    return [
        Semantic("segmentation", classes=classes["segmentation"]),
        Semantic("trimap", classes=classes["trimap"]),
        Classification("breed", classes=classes["breed"]),
        Classification("species", classes=classes["species"]),
        Detection("head", classes=classes["head"]),
    ]


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    rng = np.random.default_rng(0)
    place = root / "annotations"
    for folder in ("images", "annotations/trimaps", "annotations/xmls"):
        (root / folder).mkdir(parents=True)
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for name, (breed, species) in BREEDS.items():
        for number in range(1, 7):
            id, trained = f"{name}_{number}", number < 5
            image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
            # some files of the release are not JPEG, whatever their names say
            kind = "GIF" if id == "Abyssinian_2" else "PNG" if id == "Sphynx_1" else "JPEG"
            (image.convert("RGBA") if kind == "PNG" else image).save(root / "images" / f"{id}.jpg", kind)
            if id != "Abyssinian_1":
                trimap = Image.fromarray(rng.integers(1, 4, (20, 30)).astype(np.uint8))
                trimap.save(place / "trimaps" / f"{id}.png")
            if trained and number != 2:
                text = XML.format(id=id, width=30, name=("cat", "dog")[species - 1])
                (place / "xmls" / f"{id}.xml").write_text(text)
            lists["trainval" if trained else "test"].append(f"{id} {breed} {species} 1")
    (place / "trimaps" / "._Sphynx_1.png").write_bytes(b"left by macOS, as in the release")
    for name, lines in lists.items():
        (place / f"{name}.txt").write_text("\n".join(lines) + "\n")
    every = ["#Image CLASS-ID SPECIES BREED ID", *lists["trainval"], *lists["test"]]
    (place / "list.txt").write_text("\n".join(every))
    return {"root": str(root)}, tasks()


def at(data: OxfordPets, id: str, task: str) -> torch.Tensor:
    annotation = data.annotation(list(data.ids).index(id), task)
    assert annotation is not None
    return annotation


def test_the_outline_is_not_labelled_or_a_class_of_its_own(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = OxfordPets("test", readers, **options)
    stored = np.asarray(Image.open(tmp_path / "annotations" / "trimaps" / "Sphynx_5.png"))
    assert np.array_equal(at(data, "Sphynx_5", "segmentation"), np.select([stored == 1, stored == 2], [1, 0], 255))
    assert np.array_equal(at(data, "Sphynx_5", "trimap"), stored - 1)
    assert list(OxfordPets.default_classes()["trimap"]) == ["pet", "background", "border"]


def test_breed_and_species_are_those_of_the_lists(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = OxfordPets("test", readers, **options)
    for name, (breed, species) in BREEDS.items():
        assert int(at(data, f"{name}_6", "breed")) == breed - 1
        assert int(at(data, f"{name}_6", "species")) == species - 1
        assert OxfordPets.default_classes()["breed"][breed - 1] == name
    assert len(set(OxfordPets.default_classes()["breed"])) == 37


def test_heads_are_boxes_of_training_images(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    parts = {split: OxfordPets(split, readers, **options) for split in ("train", "val", "test")}
    assert not set(parts["train"].ids) & set(parts["val"].ids)
    assert len(parts["train"]) + len(parts["val"]) == 16
    assert [parts[split].labelled("head") for split in ("test",)] == [0]
    heads = {}
    for data in (parts["train"], parts["val"]):
        for index, id in enumerate(data.ids):
            if (box := data.annotation(index, "head")) is not None:
                heads[id] = box[:, :5].tolist()
    # pixels 4 to 11 of the file, counted from 1, lie between 3 and 11
    species = {name: species - 1 for name, (_, species) in BREEDS.items()}
    assert heads == {f"{name}_{n}": [[3, 1, 11, 9, species[name]]] for name in BREEDS for n in (1, 3, 4)}


def test_files_are_read_for_what_they_are(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    for split in ("train", "val"):
        data = OxfordPets(split, readers, **options)
        for index, id in enumerate(data.ids):
            assert data.image(index).shape == (3, 20, 30)
            if id in ("Abyssinian_2", "Sphynx_1"):
                expected = Image.open(tmp_path / "images" / f"{id}.jpg").convert("RGB")
                assert np.array_equal(data.image(index).permute(1, 2, 0).numpy(), np.asarray(expected))


def test_a_line_without_an_image_is_told(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    (tmp_path / "images" / "Sphynx_6.jpg").unlink()
    data = OxfordPets("test", readers, **options)
    assert "Sphynx_6" not in data.ids
    assert "test.txt: lines without an image: 1, such as 'Sphynx_6'" in data.notes


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Sphynx_5 33 1 1", "Sphynx_5 34 1"),
        ("Sphynx_5 34 2 1", "Sphynx_5 34 1"),
        ("Sphynx_5", "Sphynx_5 34 1"),
        ("sphinx_5 34 1 1", "a breed and a number"),
        ("Sphynx_6 34 1 1", "each image once"),
    ],
)
def test_a_line_that_contradicts_itself_is_refused(tmp_path: Path, line: str, expected: str) -> None:
    options, readers = made(tmp_path)
    path = tmp_path / "annotations" / "test.txt"
    path.write_text(f"Sphynx_6 34 1 1\n{line}\n")
    with pytest.raises(DataError, match=rf"test\.txt: line 2: found {line!r}; expected .*{expected}"):
        OxfordPets("test", readers, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (XML.format(id="", width=31, name="cat"), "found a size of 31x20; expected 30x20"),
        (XML.format(id="", width=30, name="fox"), "found 'fox'; expected cat or dog"),
        (XML.format(id="", width=30, name="cat").replace("<xmin>4</xmin>", ""), "cannot be read"),
        ("<annotation>", "cannot be read"),
    ],
)
def test_faults_of_boxes_are_named(tmp_path: Path, text: str, message: str) -> None:
    options, readers = made(tmp_path)
    data = OxfordPets("train", readers, **options)
    index = next(index for index in range(len(data)) if data.has_label(index, "head"))
    path = data.file(index, "head")
    assert path is not None
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        data.annotation(index, "head")
    assert str(path) in str(caught.value)


def test_a_value_beyond_the_trimap_is_named(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "annotations" / "trimaps" / "Sphynx_5.png")
    data = OxfordPets("test", readers, **options)
    with pytest.raises(
        DataError, match=r"Sphynx_5\.png: found label id 0 \(600 pixels\); expected 1 pet, 2 background"
    ):
        at(data, "Sphynx_5", "trimap")
