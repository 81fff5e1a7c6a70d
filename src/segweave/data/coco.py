"""COCO 2017: photographs with boxes of 80 classes of things, and every pixel as a thing or as stuff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from segweave import rasters
from segweave.data.files import Label
from segweave.data.layout import RASTERS, by_id, without_suffix
from segweave.data.published import Layer, Published, read_classes
from segweave.errors import DataError
from segweave.json_file import read_json
from segweave.tasks.task import Task

_UNLABELLED, _OTHER = 255, 183
_OF_MASKS = ("annotations", "stuffthingmaps")
"""Folders in which those of stuffthingmaps may lie, which are called as those of the images."""
_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, "
    "backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
    "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, "
    "spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, "
    "potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, "
    "hair drier, toothbrush, hair brush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, "
    "cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, "
    "dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, "
    "fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, "
    "mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, "
    "railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, "
    "stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, "
    "window-other, wood"
)
"""Of the category ids from 1 on: 91 things, then 91 kinds of stuff."""
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Things that no annotation has."""
_MERGED = (
    "tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged, floor-other-merged, "
    "pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged, food-other-merged, "
    "building-other-merged, rock-merged, wall-other-merged, rug-merged"
)
"""Of the panoptic category ids from 184 on."""
_KEPT = (
    92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154, 155,
    156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181,
)  # fmt: skip
"""Stuff that is not merged in the panoptic annotations."""

_ALL = {id: name for id, name in enumerate(_NAMES.split(", "), 1) if id not in _UNUSED}
_THINGS = {id: name for id, name in _ALL.items() if id <= 91}
_STUFF = {id: name for id, name in _ALL.items() if id > 91} | {_OTHER: "other"}
_PANOPTIC = _THINGS | {id: _ALL[id] for id in _KEPT} | dict(enumerate(_MERGED.split(", "), 184))


def _numbered(ids: Sequence[int]) -> dict[int, int]:
    return {id: index for index, id in enumerate(ids)}


_CLASSES = {
    # the values of these files are one below the ids
    "stuff_things": {id - 1: index for id, index in _numbered(list(_ALL)).items()} | {255: _UNLABELLED},
    "stuff": _numbered(list(_STUFF)) | {0: _UNLABELLED},
    "panoptic": _numbered(list(_PANOPTIC)),
}
_VALUES = {
    "stuff_things": "an id of COCO-Stuff less 1, 0 to 181 but for 11 unused things, or 255",
    "stuff": "0, an id of stuff, 92 to 182, or 183 for all things",
}


class Coco(Published):
    """`train2017`, `val2017` and `test2017`, also in `images`, and `annotations`.

    T.-Y. Lin et al., Microsoft COCO (2014); H. Caesar et al., COCO-Stuff (2018), whose README and `labels.txt` have the
    values; A. Kirillov et al., Panoptic segmentation (2019), with the categories of the authors' `panopticapi`.

    Layers:

    - `objects`: boxes by `annotations/instances_train2017.json`. The 80 classes have gaps in their category ids, which
      predictions are written with. Fewer classes work too: `ignore: others`. Boxes need no masks, so that
      polygons and RLE are not decoded.
    - `stuff_things`: 80 things and 91 kinds of stuff, by the PNG files of stuffthingmaps, in `stuffthingmaps/train2017`
      or `annotations/train2017`.
    - `stuff`: 91 kinds of stuff, and all things as `other`, by `stuff_train2017_pixelmaps`, also in `annotations`.
    - `panoptic`: 80 things and 53 kinds of stuff, by `annotations/panoptic_train2017.json` and the PNG files in
      `panoptic_train2017`, also in `annotations`, whose segment id is R + 256 G + 65536 B. Pixels of no segment
      are not labelled.
    - `instances`: the objects of the same files, from 1 in the order of their annotation; 0 for stuff, crowds and
      pixels of no segment.

    `test` has no labels in the release.
    """

    known: ClassVar[Mapping[str, Layer]] = {
        "objects": Layer("detection", tuple(_THINGS.values())),
        "stuff_things": Layer("semantic", tuple(_ALL.values())),
        "stuff": Layer("semantic", tuple(_STUFF.values())),
        "panoptic": Layer("semantic", tuple(_PANOPTIC.values())),
        "instances": Layer("instances", tuple(_THINGS.values())),
    }
    by_name = ("objects",)

    def images(self, split: str) -> Mapping[str, Path]:
        place = self._one_of(f"images/{split}2017", f"{split}2017")
        if place.parent.name in _OF_MASKS:
            raise DataError(f"{self.root}: found only masks in {place}; expected a folder of photographs of that name")
        return by_id(place, "", RASTERS, "data.root")

    def labels_of(self, task: Task, layer: str, split: str) -> Mapping[str, Label]:
        if layer != "objects" or split == "test":
            return self.labels(layer, split)
        path = self.folder("annotations") / f"instances_{split}2017.json"
        readers = {without_suffix(name): reader for name, reader in (task.read_all(path) or {}).items()}
        if missing := [id for id in readers if id not in self._images]:
            self.notes[f"{path.name}: {len(missing)} of its images are not in the data, such as {missing[0]!r}"] = 1
        return readers

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:
        if split == "test":
            self.notes[f"{layer}: the release has no labels of test"] = 1
            return {}
        if layer in ("panoptic", "instances"):
            return self._segments(split)
        places = {
            "stuff_things": tuple(f"{folder}/{split}2017" for folder in _OF_MASKS),
            "stuff": (f"stuff_{split}2017_pixelmaps",),
        }
        return by_id(self._one_of(*places[layer]), "", {".png"}, "data.root")

    def _one_of(self, *names: str) -> Path:
        """The first of these folders that there is. Raises DataError."""
        for name in names[:-1]:
            with suppress(DataError):
                return self.folder(name)
        return self.folder(names[-1])

    def _segments(self, split: str) -> dict[str, Label]:
        """A PNG file and its segments, int32 triples of segment id, category id and crowd, by image."""
        files = by_id(self.folder(f"panoptic_{split}2017"), "", {".png"}, "data.root")
        path = self.folder("annotations") / f"panoptic_{split}2017.json"
        found: dict[str, Label] = {}
        try:
            annotations = read_json(path)["annotations"]
            listed = {without_suffix(item["file_name"]): item["segments_info"] for item in annotations}
            if len(listed) < len(annotations):
                twice = len(annotations) - len(listed)
                raise DataError(f"{path}: found {twice} annotations of a file that has another; expected one of each")
            for id, segments in listed.items():
                rows = [(item["id"], item["category_id"], bool(item.get("iscrowd"))) for item in segments]
                if strays := [category for _, category, _ in rows if category not in _PANOPTIC]:
                    raise DataError(f"{path}: {id}: found category {strays[0]}; expected one of the 133 of COCO's")
                if id in files:
                    found[id] = files[id], np.array(rows, np.int32).tobytes()
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path}: found no panoptic annotations ({error!r}); expected file_name and segments_info with id and "
                f"category_id"
            ) from None
        if missing := [id for id in listed if id not in files]:
            self.notes[f"{path.name}: annotations without a PNG file: {len(missing)}, such as {missing[0]}"] = 1
        return found

    def annotation(self, index: int, task: str) -> Tensor | None:
        label = self._labels[task].get(self.ids[index])
        return label() if callable(label) else super().annotation(index, task)

    def values(self, layer: str, label: Label, id: str) -> Tensor:  # noqa: ARG002
        if isinstance(label, tuple):
            path, segments = label
            return _panoptic(path, segments, layer)
        assert isinstance(label, Path)
        return read_classes(label, _CLASSES[layer], _VALUES[layer])


def _panoptic(path: Path, segments: Path | bytes, layer: str) -> Tensor:
    assert isinstance(segments, bytes)
    mode = rasters.read_header(path).mode
    if mode != "RGB":
        raise DataError(f"{path}: found {mode} pixels; expected RGB, whose colours are segment ids")
    red, green, blue = rasters.read_image(path)[0].numpy().astype(np.int32)
    ids = red + 256 * green + 65536 * blue
    rows = np.frombuffer(segments, np.int32).reshape(-1, 3).tolist()
    if layer == "panoptic":
        values = {0: _UNLABELLED} | {id: _CLASSES["panoptic"][category] for id, category, _ in rows}
    else:
        objects = [id for id, category, crowd in rows if category in _THINGS and not crowd]
        values = dict.fromkeys((0, *(id for id, _, _ in rows)), 0) | {id: n for n, id in enumerate(objects, 1)}
    known = np.array(sorted(values))
    slots = np.searchsorted(known, ids).clip(max=len(known) - 1)
    strays = ids[known[slots] != ids]
    if len(strays):
        count = int((strays == strays[0]).sum())
        raise DataError(
            f"{path}: found segment id {strays[0]} ({count} pixels); expected those of its annotation, or 0"
        )
    kind = np.uint8 if layer == "panoptic" else np.int32
    return torch.from_numpy(np.array([values[id] for id in known.tolist()], kind)[slots])
