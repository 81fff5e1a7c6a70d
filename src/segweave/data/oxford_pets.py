"""The Oxford-IIIT pets: cats and dogs of 37 breeds, their outlines, and the heads of half of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import torch
from torch import Tensor

from segweave import rasters
from segweave.data.files import Label
from segweave.data.layout import RASTERS, by_id
from segweave.data.published import Layer, Published, read_classes
from segweave.errors import DataError

_BREEDS = (
    "Abyssinian", "american_bulldog", "american_pit_bull_terrier", "basset_hound", "beagle", "Bengal", "Birman",
    "Bombay", "boxer", "British_Shorthair", "chihuahua", "Egyptian_Mau", "english_cocker_spaniel", "english_setter",
    "german_shorthaired", "great_pyrenees", "havanese", "japanese_chin", "keeshond", "leonberger", "Maine_Coon",
    "miniature_pinscher", "newfoundland", "Persian", "pomeranian", "pug", "Ragdoll", "Russian_Blue", "saint_bernard",
    "samoyed", "scottish_terrier", "shiba_inu", "Siamese", "Sphynx", "staffordshire_bull_terrier", "wheaten_terrier",
    "yorkshire_terrier",
)  # fmt: skip
_SPECIES = ("cat", "dog")
_TRIMAP = {
    "segmentation": {1: 1, 2: 0, 3: 255},
    "trimap": {1: 0, 2: 1, 3: 2},
}


class OxfordPets(Published):
    """`images`, and `annotations` with `trainval.txt`, `test.txt`, `trimaps` and `xmls`.

    O. M. Parkhi et al., Cats and dogs (2012); what the values mean is in the README of its annotations. `trainval.txt`
    is split into train and val by `val`.

    Layers:

    - `segmentation`: the pet against the background; what the release calls "not classified", the outline, is not
      labelled.
    - `trimap`: pet, background and border, the outline as a class of its own.
    - `breed`: the 37 classes, by the lists. A line whose number and name disagree is refused.
    - `species`: cat or dog, by the lists.
    - `head`: a box, with the species, of the training images that have a file in `xmls`. The corners in it count
      pixels from 1, the last one included, as in PASCAL VOC.

    Some of the images called `.jpg` are GIF or PNG files (Abyssinian_34 and Egyptian_Mau_139 are among those that other
    readers leave out or mend) and are read for what they are.
    """

    known: ClassVar[Mapping[str, Layer]] = {
        "segmentation": Layer("semantic", ("pet",)),
        "trimap": Layer("semantic", ("pet", "background", "border")),
        "breed": Layer("classification", _BREEDS),
        "species": Layer("classification", _SPECIES),
        "head": Layer("detection", _SPECIES),
    }
    published = ("train", "test")

    def images(self, split: str) -> Mapping[str, Path]:
        files, listed = by_id(self.folder("images"), "", RASTERS, "data.root"), self._listed(split)
        if missing := [id for id in listed if id not in files]:
            self.notes[f"{self._list(split).name}: lines without an image: {len(missing)}, such as {missing[0]!r}"] = 1
        return {id: files[id] for id in listed if id in files}

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:
        place = self.folder("annotations")
        if layer in ("breed", "species"):
            return {id: numbers[layer == "species"] for id, numbers in self._listed(split).items()}
        if layer == "head":
            # only images for training have one
            return by_id(place / "xmls", "", {".xml"}, "data.root") if split == "train" else {}
        return by_id(place / "trimaps", "", {".png"}, "data.root")

    def _list(self, split: str) -> Path:
        return self.folder("annotations") / ("trainval.txt" if split == "train" else "test.txt")

    def _listed(self, split: str) -> dict[str, tuple[str, str]]:
        """The numbers of breed and species, from 1, of each image of a list."""
        path = self._list(split)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); expected the list of the release") from None
        listed: dict[str, tuple[str, str]] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            id, breed, species, *_ = [*line.split(), "", "", ""]
            name = id.rpartition("_")[0]
            # cats have a capital letter
            meant = (str(_BREEDS.index(name) + 1), str(2 - name[0].isupper())) if name in _BREEDS else None
            if meant is None or meant != (breed, species) or id in listed:
                expected = " ".join((id, *meant)) if meant else "a breed and a number"
                raise DataError(f"{path}: line {number}: found {line.strip()!r}; expected {expected}, each image once")
            listed[id] = meant
        if not listed:
            raise DataError(f"{path}: found no line; expected an image a line, with the numbers of breed and species")
        return listed

    def values(self, layer: str, label: Label, id: str) -> Tensor:
        if isinstance(label, str):
            return torch.tensor(int(label) - 1)
        assert isinstance(label, Path)
        if layer == "head":
            return _head(label, self._images[id])
        return read_classes(label, _TRIMAP[layer], "1 pet, 2 background and 3 neither")


def _head(path: Path, image: Path) -> Tensor:
    """Rows x1 y1 x2 y2 class."""
    header = rasters.read_header(image)
    try:
        root = ElementTree.parse(path).getroot()
        size = [int(root.findtext(f"size/{side}", "")) for side in ("width", "height")]
        objects = root.findall("object")
        names = [item.findtext("name", "").strip() for item in objects]
        boxes = [
            [float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for item in objects
        ]
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected VOC's XML with size, name and bndbox") from None
    if size != [header.width, header.height]:
        raise DataError(
            f"{path}: found a size of {size[0]}x{size[1]}; expected {header.width}x{header.height}, that of {image}"
        )
    if strays := [name for name in names if name not in _SPECIES]:
        raise DataError(f"{path}: found {strays[0]!r}; expected {' or '.join(_SPECIES)}")
    rows = [[x1 - 1, y1 - 1, x2, y2, _SPECIES.index(name)] for name, (x1, y1, x2, y2) in zip(names, boxes, strict=True)]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
