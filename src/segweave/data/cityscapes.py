"""Cityscapes, street scenes of 50 cities, with finely drawn labels and depth from stereo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from segweave import rasters
from segweave.data.files import Label
from segweave.data.layout import RASTERS, by_id
from segweave.data.published import Layer, Published, read_classes
from segweave.errors import DataError
from segweave.json_file import read_json
from segweave.tasks.objects import objects_of

_LABELS = (
    (7, "road", "flat"),
    (8, "sidewalk", "flat"),
    (11, "building", "construction"),
    (12, "wall", "construction"),
    (13, "fence", "construction"),
    (17, "pole", "object"),
    (19, "traffic light", "object"),
    (20, "traffic sign", "object"),
    (21, "vegetation", "nature"),
    (22, "terrain", "nature"),
    (23, "sky", "sky"),
    (24, "person", "human"),
    (25, "rider", "human"),
    (26, "car", "vehicle"),
    (27, "truck", "vehicle"),
    (28, "bus", "vehicle"),
    (31, "train", "vehicle"),
    (32, "motorcycle", "vehicle"),
    (33, "bicycle", "vehicle"),
)
"""The labels that are evaluated, in the order of their train ids: id, name and category."""
_IDS, _INSTANCES, _UNLABELLED = 34, 1000, 255
_SCENE = tuple(name for _, name, _ in _LABELS)
_CATEGORIES = tuple(dict.fromkeys(category for _, _, category in _LABELS))
_THINGS = {id: name for id, name, category in _LABELS if category in ("human", "vehicle")}
_OTHERS = dict.fromkeys((*range(_IDS), 255), _UNLABELLED)
_CLASSES = {
    "semantic": _OTHERS | {id: index for index, (id, _, _) in enumerate(_LABELS)},
    "categories": _OTHERS | {id: _CATEGORIES.index(category) for id, _, category in _LABELS},
}
"""Class by label id; 255 is -1, the license plate, in 8 bits."""


class Cityscapes(Published):
    """`leftImg8bit`, `gtFine`, `disparity` and `camera`, each with the splits and in them a folder a city.

    M. Cordts et al., The Cityscapes dataset for semantic urban scene understanding (2016). Tables and file names are
    those of the authors' `cityscapesscripts` (`helpers/labels.py`, `json2instanceImg.py`, README).

    Layers:

    - `semantic`: the 19 classes of the benchmark by `*_gtFine_labelIds.png`; ids that it does not evaluate are not
      labelled.
    - `categories`: the 7 categories of the same classes, as the benchmark scores them.
    - `objects`: the boxes of 8 classes by the 16-bit `*_gtFine_instanceIds.png`, in which 1000 times the id plus a
      number is an object. A region with an id alone is a group that nobody told apart: each connected one is a
      crowd. Objects of one pixel count too, whatever `min_pixels` says.
    - `instances`: the objects, without the groups, from 1 in the order of their values; 0 elsewhere.
    - `depth`: metres along the optical axis, `baseline * fx / d` with `d = (p - 1) / 256` for the 16-bit value p of
      `*_disparity.png`, baseline and fx of `*_camera.json`. p = 0 is not measured and p = 1 infinitely far. A map
      without its camera file is left out, with a note.

    The labels of `test` are empty in the release: of that split only depth is labelled.
    """

    known: ClassVar[Mapping[str, Layer]] = {
        "semantic": Layer("semantic", _SCENE),
        "categories": Layer("semantic", _CATEGORIES),
        "objects": Layer("detection", tuple(_THINGS.values())),
        "instances": Layer("instances", tuple(_THINGS.values())),
        "depth": Layer("depth"),
    }

    def images(self, split: str) -> Mapping[str, Path]:
        return self._files("leftImg8bit", split, "_leftImg8bit.png")

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:
        if layer == "depth":
            maps, cameras = self._files("disparity", split, "_disparity.png"), self._cameras(split)
            if alone := [id for id in maps if id not in cameras]:
                self.notes[f"disparity without its file in camera: left out, such as {alone[0]}"] = len(alone)
            return {id: (path, cameras[id]) for id, path in maps.items() if id in cameras}
        if split == "test":
            self.notes[f"{layer}: the release has no labels of test but empty ones"] = 1
            return {}
        kind = "instanceIds" if layer in ("objects", "instances") else "labelIds"
        return self._files("gtFine", split, f"_gtFine_{kind}.png")

    def _files(self, folder: str, split: str, end: str) -> dict[str, Path]:
        return by_id(self.folder(folder) / split, f"*/{{stem}}{end}", RASTERS | {".json"}, "data.root")

    def _cameras(self, split: str) -> dict[str, Path]:
        try:
            return self._files("camera", split, "_camera.json")
        except DataError:  # no depth without it, which the note says
            return {}

    def values(self, layer: str, label: Label, id: str) -> Tensor:  # noqa: ARG002
        if isinstance(label, tuple):
            path, camera = label
            return _depth(path, camera)
        assert isinstance(label, Path)
        if layer in ("objects", "instances"):
            return _boxes(label) if layer == "objects" else _instances(label)
        return read_classes(label, _CLASSES[layer], f"0 to {_IDS - 1}")


def _must_be_16_bit(path: Path) -> None:
    if rasters.integer_bits(path) != 16:
        raise DataError(f"{path}: found {rasters.read_header(path).mode} values; expected a 16-bit grey PNG")


def _instance_ids(path: Path) -> Integer[np.ndarray, "H W"]:
    _must_be_16_bit(path)
    values = rasters.read_index(path).long().numpy()
    ids = np.where(values < _INSTANCES, values, values // _INSTANCES)
    if ids.min() < 0 or ids.max() >= _IDS:
        stray = int(values[(ids < 0) | (ids >= _IDS)][0])
        found = f"instance id {stray} ({int((values == stray).sum())} pixels)"
        raise DataError(f"{path}: found {found}; expected an id, 0 to {_IDS - 1}, or 1000 times it plus k")
    return values


def _boxes(path: Path) -> Tensor:
    """Rows x1 y1 x2 y2 class crowd area."""
    values = _instance_ids(path)
    classes = {id: index for index, id in enumerate(_THINGS)}
    single = objects_of(np.where(values < _INSTANCES, 0, values), "instances", classes, 1)
    groups = objects_of(np.where(values < _INSTANCES, values, 0), "components", classes, 1)
    rows = torch.tensor([*single, *groups], dtype=torch.float32).reshape(-1, 7)
    rows[len(single) :, 5] = 1
    return rows


def _instances(path: Path) -> Tensor:
    values = _instance_ids(path)
    found, numbers = np.unique(values, return_inverse=True)
    objects = np.isin(found // _INSTANCES, list(_THINGS))
    return torch.from_numpy((np.cumsum(objects) * objects).astype(np.int32)[numbers].reshape(values.shape))


def _depth(path: Path, camera: Path | bytes) -> Tensor:
    assert isinstance(camera, Path)
    content = read_json(camera)
    try:
        baseline, focal = float(content["extrinsic"]["baseline"]), float(content["intrinsic"]["fx"])
    except (KeyError, TypeError, ValueError):
        baseline = focal = math.nan
    if not (0 < baseline < math.inf and 0 < focal < math.inf):
        raise DataError(f"{camera}: found no extrinsic.baseline and intrinsic.fx above 0; expected metres and pixels")
    _must_be_16_bit(path)
    values = rasters.read_index(path).float()
    return torch.where(values > 1, baseline * focal * 256 / (values - 1), 0.0)
