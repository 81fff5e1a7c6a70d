"""CamVid, street scenes from a car, in the layout of SegNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from segweave.data.files import Label
from segweave.data.layout import RASTERS, by_id
from segweave.data.published import Layer, Published, read_classes

_CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
_VOID, _UNLABELLED = 11, 255
_CLASS = {id: id for id in range(len(_CLASSES))} | {_VOID: _UNLABELLED}
"""Class by id of the files."""


class CamVid(Published):
    """`train`, `val` and `test`, and labels of the images' names in `trainannot`, `valannot` and `testannot`.

    Layer `semantic`: 11 classes (Brostow et al. 2009, reduced by Badrinarayanan et al. 2017); 11 is void, not labelled.
    The list files are not needed, and splits may be absent. Neighbouring frames look alike, also across the splits of
    the release.
    """

    known: ClassVar[Mapping[str, Layer]] = {"semantic": Layer("semantic", _CLASSES)}

    def find(self) -> None:
        here = self.folder("train").parent
        self.published = [split for split in ("train", "val", "test") if (here / split).is_dir()]
        for split in {"val", "test"} - set(self.published):
            self.notes[f"{here}: no folder {split!r}, which the release has"] = 1

    def images(self, split: str) -> Mapping[str, Path]:
        return by_id(self.folder(split), "", RASTERS, "data.root")

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:  # noqa: ARG002
        return by_id(self.folder(f"{split}annot"), "", RASTERS, "data.root")

    def values(self, layer: str, label: Label, id: str) -> Tensor:  # noqa: ARG002
        assert isinstance(label, Path)
        return read_classes(label, _CLASS, f"0 to {_VOID - 1}, and {_VOID} for void")
