"""Nuclei of the Data Science Bowl 2018, one mask per nucleus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from segweave import rasters
from segweave.data.files import Label
from segweave.data.layout import by_id, list_files
from segweave.data.published import Layer, Published
from segweave.errors import DataError


class Nuclei(NamedTuple):
    """The nuclei of an image.

    Args:
        instances: 0 for background, and the nuclei from 1 in the order of their files' names.
        boxes: x1 y1 x2 y2 in pixels and the class 0, one row per nucleus, over all of its mask.
        shared: how many pixels lie in several masks; `instances` gives each to the first.
    """

    instances: Int32[Tensor, "H W"]
    boxes: Float32[Tensor, "N 5"]
    shared: int


class DSB2018(Published):
    """`stage1_train/<id>/images/<id>.png`, and in `masks` beside it a file per nucleus (Caicedo et al. 2019).

    Layers: `semantic`, 1 in a nucleus; `instances`, int32 [H, W] as `Nuclei.instances`; `objects`, their boxes. An
    image without a mask is not labelled. The images of stage 1's test have no masks and are not read.
    """

    known: ClassVar[Mapping[str, Layer]] = {
        "semantic": Layer("semantic", ("nucleus",)),
        "instances": Layer("instances", ("nucleus",)),
        "objects": Layer("detection", ("nucleus",)),
    }
    published = ("train",)
    _latest: tuple[Path, Nuclei] | None = None

    def images(self, split: str) -> Mapping[str, Path]:  # noqa: ARG002
        return by_id(self.folder("stage1_train"), "{stem}/images/*.png", {".png"}, "data.root")

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:  # noqa: ARG002
        folder = self.folder("stage1_train")
        masked = {name.split("/")[0] for name in list_files(folder, {".png"}) if name.split("/")[1:2] == ["masks"]}
        return {id: folder / id / "masks" for id in masked}

    def values(self, layer: str, label: Label, id: str) -> Tensor:
        assert isinstance(label, Path)
        # the tasks ask one after the other, and there may be hundreds of masks
        if self._latest is None or self._latest[0] != label:
            self._latest = label, read_nuclei(label)
        nuclei = self._latest[1]
        header = rasters.read_header(self._images[id])
        if nuclei.instances.shape != (header.height, header.width):
            (height, width), image = nuclei.instances.shape, self._images[id]
            raise DataError(f"{label}: found {width}x{height}; expected {header.width}x{header.height}, as {image}")
        if nuclei.shared:
            self.notes[f"{id}: nuclei overlap in {nuclei.shared} pixels"] = 1
        if layer == "objects":
            return nuclei.boxes
        return nuclei.instances.clone() if layer == "instances" else (nuclei.instances > 0).to(torch.uint8)


def read_nuclei(folder: Path) -> Nuclei:
    """The nuclei whose masks, 255 in the nucleus and 0 elsewhere, are the files of a folder.

    Raises:
        DataError: a mask that cannot be read, is empty, holds other values, or has another size than the first.
    """
    paths = [folder / name for name in list_files(folder, {".png"})]
    instances, boxes, shared = np.zeros((0, 0), np.int32), [], 0
    for number, path in enumerate(paths, 1):
        mask = rasters.read_index(path).numpy()
        instances = np.zeros(mask.shape, np.int32) if number == 1 else instances
        if mask.shape != instances.shape:
            sizes = ["x".join(map(str, shape[::-1])) for shape in (mask.shape, instances.shape)]
            raise DataError(f"{path}: found {sizes[0]}; expected {sizes[1]}, the size of {paths[0].name}")
        inside = mask == 255
        if not (inside | (mask == 0)).all():
            stray = int(mask[~inside & (mask != 0)][0])
            count = int((mask == stray).sum())
            raise DataError(f"{path}: found {stray} on {count} pixels; expected the mask of a nucleus, 0 and 255")
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        if not len(rows):
            raise DataError(f"{path}: found no pixel of 255; expected the mask of a nucleus")
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, 0])
        free = inside & (instances == 0)
        shared += int(inside.sum() - free.sum())
        instances[free] = number
    return Nuclei(torch.from_numpy(instances), torch.tensor(np.array(boxes, np.float32)).reshape(-1, 5), shared)
