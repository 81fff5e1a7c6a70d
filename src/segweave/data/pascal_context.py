"""PASCAL-Context with five tasks: what every pixel is, parts of people, what stands out, normals and edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Integer
from scipy import ndimage
from torch import Tensor

from segweave import rasters
from segweave.data.files import Label
from segweave.data.layout import RASTERS, by_id, read_list
from segweave.data.published import Layer, Published, read_classes, read_matlab
from segweave.errors import DataError
from segweave.json_file import read_json
from segweave.metrics.thinning import thin

_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")
_PART = {
    "head": "hair head lear lebrow leye mouth nose rear rebrow reye",
    "torso": "neck torso",
    "upper arm": "luarm ruarm",
    "lower arm": "lhand llarm rhand rlarm",
    "upper leg": "luleg ruleg",
    "lower leg": "lfoot llleg rfoot rlleg",
}
_PART_CLASS = {name: _PARTS.index(part) for part, names in _PART.items() for name in names.split()}
_PERSON, _LAST, _UNLABELLED = 15, 459, 255
_INDOORS = (
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56,
    59, 61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124,
    135, 141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202,
    213, 215, 216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261,
    263, 269, 272, 273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314,
    315, 319, 323, 329, 330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383,
    384, 397, 401, 403, 405, 407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442,
    443, 444, 446, 454, 457,
)  # fmt: skip
"""PASCAL-Context's labels that NYUv2 has too, and tvmonitor: where a network trained on NYUv2 knows normals."""
_VALUES = {
    "semantic": {index: index for index in (*range(len(_CLASSES)), _UNLABELLED)},
    "saliency": {value: int(value > 127) for value in range(256)},
}


class PascalContext(Published):
    """`JPEGImages`, `ImageSets/Context`, and the labels of five tasks: the release PASCAL_MT.

    K.-K. Maninis et al., Attentive single-tasking of multiple tasks (2019); also used by MTI-Net (Vandenhende et al.
    2020) and InvPT. Which file means what is as in the authors' `pascal_context.py`. The images are those of
    PASCAL-Context (Mottaghi et al. 2014), 4998 for training and 5105 for validation.

    Layers:

    - `semantic`: 21 classes of PASCAL VOC by `semseg/VOC12`, for images without a file there by
      `semseg/pascal-context`.
    - `human_parts`: background and 6 parts of people by `human_parts/*.mat` (PASCAL-Part, Chen et al. 2014). An image
      without a part of a person is not labelled; a person without parts is background. `ImageSets/Parts/*.txt`,
      which the authors' program writes, saves a look into images without people.
    - `saliency`: one class by `sal_distill/*.png`, from the value 128 on.
    - `normals`: `normals_distill/*.png`, where the value v of red, green and blue stands for 2 v / 255 - 1, on the
      labels of `pascal-context/trainval/*.mat` that NYUv2 has too; elsewhere they are not labelled. As with the
      authors, x changes its sign with a left-right flip. The release does not say where y and z point: they are
      taken as they are, so that predictions compare with its own.
    - `edges`: where the Laplacian of `LabelMap` in `pascal-context/trainval/*.mat` is not 0, thinned.

    Saliency and normals are distilled: predictions of other networks, not measurements.
    """

    known: ClassVar[Mapping[str, Layer]] = {
        "semantic": Layer("semantic", _CLASSES),
        "human_parts": Layer("semantic", _PARTS),
        "saliency": Layer("semantic", ("salient",)),
        "normals": Layer("normals"),
        "edges": Layer("edges"),
    }
    published = ("train", "val")

    def images(self, split: str) -> Mapping[str, Path]:
        pool = by_id(self.folder("JPEGImages"), "", RASTERS, "data.root")
        path = self.folder("ImageSets/Context") / f"{split}.txt"
        ids, missing = read_list(path, pool)
        if missing:
            self.notes[f"{path.name}: lines without an image: {len(missing)}, such as {missing[0]!r}"] = 1
        return {id: pool[id] for id in ids}

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:
        if layer == "semantic":
            semseg = self.folder("semseg/pascal-context").parent
            found = _files(semseg / "pascal-context")
            return found | _files(semseg / "VOC12") if (semseg / "VOC12").is_dir() else found
        if layer == "saliency":
            return _files(self.folder("sal_distill"))
        if layer == "human_parts":
            return self._with_people(_files(self.folder("human_parts"), ".mat"), split)
        maps = _files(self.folder("pascal-context/trainval"), ".mat")
        if layer == "edges":
            return maps
        normals = _files(self.folder("normals_distill"))
        if alone := [id for id in normals if id not in maps]:
            self.notes[f"normals without a LabelMap: left out: {len(alone)}, such as {alone[0]!r}"] = 1
        return {id: (path, maps[id]) for id, path in normals.items() if id in maps}

    def _with_people(self, files: Mapping[str, Path], split: str) -> dict[str, Label]:
        path = self.folder("ImageSets") / "Parts" / f"{split}.txt"
        if not path.is_file():
            return dict(files)
        listed = read_json(path)
        if not isinstance(listed, dict) or not all(isinstance(kinds, list) for kinds in listed.values()):
            raise DataError(f"{path}: found no table of classes by image; expected one, or remove it")
        return {id: file for id, file in files.items() if _PERSON in listed.get(id, [_PERSON])}

    def values(self, layer: str, label: Label, id: str) -> Tensor:
        if isinstance(label, tuple):
            path, label_map = label
            return _normals(path, label_map)
        assert isinstance(label, Path)
        if layer == "edges":
            changes = ndimage.laplace(_label_map(label).astype(np.float64), mode="mirror")
            return torch.from_numpy(thin(changes != 0).astype(np.uint8))
        if layer == "human_parts":
            header = rasters.read_header(self._images[id])
            return _human_parts(label, (header.height, header.width))
        return read_classes(label, _VALUES[layer], "0 to 20, or 255" if layer == "semantic" else "8-bit values")


def _files(folder: Path, suffix: str = ".png") -> dict[str, Path]:
    return by_id(folder, "", {suffix}, "data.root")


def _label_map(path: Path) -> Integer[np.ndarray, "H W"]:
    labels = read_matlab(path, "LabelMap")
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or not labels.size:
        raise DataError(f"{path}: found a LabelMap of {labels.dtype} {labels.shape}; expected integers [H, W]")
    strays = labels[(labels < 0) | (labels > _LAST)]
    if strays.size:
        count = int((strays == strays[0]).sum())
        raise DataError(f"{path}: found label id {strays[0]} ({count} pixels); expected 0 to {_LAST}")
    return labels


def _normals(path: Path, label_map: Path | bytes) -> Tensor:
    assert isinstance(label_map, Path)
    vectors, labels = rasters.read_vectors(path), _label_map(label_map)
    if vectors.shape[1:] != labels.shape:
        (height, width), (h, w) = vectors.shape[1:], labels.shape
        raise DataError(f"{path}: found {width}x{height}; expected {w}x{h}, the size of {label_map}")
    return torch.where(torch.from_numpy(np.isin(labels, _INDOORS)), vectors, 0.0)


def _human_parts(path: Path, size: tuple[int, int]) -> Tensor:
    parts = np.zeros(size, np.uint8)
    try:
        for thing in read_matlab(path, "anno")["objects"][0, 0].ravel():
            if thing["class_ind"].item() == _PERSON:
                for part in thing["parts"].ravel():
                    parts[part["mask"].astype(bool)] = _PART_CLASS[part["part_name"].item()]
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: found {error!r}; expected anno.objects with class_ind and parts, each with a known part_name and "
            f"a mask of {size[1]}x{size[0]}"
        ) from None
    return torch.from_numpy(parts if parts.any() else np.full(size, _UNLABELLED, np.uint8))
