"""CWFID, carrots and weeds in field images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from torch import Tensor

from segweave import rasters
from segweave.data.files import Label
from segweave.data.layout import by_id
from segweave.data.published import Layer, Published, read_classes
from segweave.errors import DataError

_PLANTS = ("crop", "weed")
_COLOURS = {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2}
_UNLABELLED = 255
_VEGETATION = {0: 1, 1: 0}
"""Class by value of the masks, which call the soil 1."""


class CWFID(Published):
    """`images`, `masks` and `annotations`, split by `train_test_split.yaml` (Haug and Ostermann, ECCV workshops 2014).

    Layer `vegetation`: 1 where the one-bit mask is 0, for the release calls the soil 1. Layer `plants`: soil by the
    mask, crop and weed by the colours of the annotation; vegetation without a colour, about a tenth of it, is not
    labelled. Layer `objects`: a box round the corners of each polygon of the annotation's YAML file, as drawn: it may
    hold several plants, and soil between leaves.

    Image 28 is in train and in test.
    """

    known: ClassVar[Mapping[str, Layer]] = {
        "vegetation": Layer("semantic", ("vegetation",)),
        "plants": Layer("semantic", ("soil", *_PLANTS)),
        "objects": Layer("detection", _PLANTS),
    }
    published = ("train", "test")

    def images(self, split: str) -> Mapping[str, Path]:
        pool = by_id(self.folder("images"), "{stem}_image.png", {".png"}, "data.root")
        path, listed = self._lists
        wanted = listed[split]
        absent = [id for id in wanted if id not in pool]
        if absent:
            self.notes[f"{path}: {len(absent)} of {len(wanted)} {split} images are absent, such as {absent[0]}"] = 1
        both = [id for id in listed["train"] if id in listed["test"]]
        if both:
            self.notes[f"{path}: {', '.join(both)} in train and in test; leave it out of one of them"] = 1
        return {id: pool[id] for id in wanted if id in pool}

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:  # noqa: ARG002
        if layer == "objects":
            return by_id(self.folder("annotations"), "{stem}_annotation.yaml", {".yaml"}, "data.root")
        masks = by_id(self.folder("masks"), "{stem}_mask.png", {".png"}, "data.root")
        if layer == "vegetation":
            return masks
        found = by_id(self.folder("annotations"), "{stem}_annotation.png", {".png"}, "data.root")
        return {id: found[id] for id in found if id in masks}

    def values(self, layer: str, label: Label, id: str) -> Tensor:
        assert isinstance(label, Path)
        if layer == "objects":
            return _boxes(label)
        mask = label if layer == "vegetation" else self.folder("masks") / f"{id}_mask.png"
        vegetation = read_classes(mask, _VEGETATION, "a one-bit mask, 1 for soil")
        if layer == "vegetation":
            return vegetation
        plants = rasters.read_index(label, _COLOURS)
        if plants.shape != vegetation.shape:
            (height, width), (h, w) = vegetation.shape, plants.shape
            raise DataError(f"{label}: found {w}x{h}; expected {width}x{height}, the size of {mask}")
        coloured, on_soil = int((plants != 0).sum()), int(((plants != 0) & (vegetation == 0)).sum())
        if 2 * on_soil > coloured:
            raise DataError(f"{mask}: found 1 under {on_soil} of {coloured} coloured pixels; expected 1 for soil")
        if on_soil:
            self.notes[f"{id}: {on_soil} pixels are coloured as plants where the mask has soil"] = 1
        return torch.where((plants == 0) & (vegetation == 1), _UNLABELLED, plants).to(torch.uint8)

    @cached_property
    def _lists(self) -> tuple[Path, dict[str, list[str]]]:
        """The list file, and the ids that it names by split."""
        path = self.folder("images").parent / "train_test_split.yaml"
        lists = _load(path)
        try:
            return path, {split: [f"{int(number):03}" for number in lists[split]] for split in self.published}
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: found {error!r}; expected lists of numbers, train and test") from None


def _boxes(path: Path) -> Tensor:
    """Rows x1 y1 x2 y2 class, one per polygon."""
    plants = _load(path)
    rows = []
    try:
        # where there is one plant or one point, there is no list
        for plant in np.atleast_1d(plants["annotation"]):
            across, down = (np.atleast_1d(np.asarray(plant["points"][axis], float)) for axis in "xy")
            if plant["type"] not in _PLANTS:
                raise ValueError(f"the type {plant['type']!r}")
            if across.shape != down.shape:
                raise ValueError(f"{across.size} x for {down.size} y")
            rows.append([across.min(), down.min(), across.max(), down.max(), _PLANTS.index(plant["type"])])
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        expected = f"annotation: a list of polygons, with type {' or '.join(_PLANTS)} and points: x, y"
        raise DataError(f"{path}: found {error!r}; expected {expected}") from None
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}); expected a YAML file") from None
