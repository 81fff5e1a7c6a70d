"""The layouts of NYU Depth v2: where its files are and what their values mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from segweave import rasters
from segweave.data.layout import RASTERS, by_id, read_list
from segweave.data.published import Layer, read_classes, read_matlab
from segweave.decoding import refuse_size
from segweave.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES_13 = "bed books ceiling chair floor furniture objects picture sofa table tv wall window"
_NAMES_40 = (
    "wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain dresser "
    "pillow mirror floormat clothes ceiling books refrigerator television paper towel showercurtain box whiteboard "
    "person nightstand toilet sink lamp bathtub bag otherstructure otherfurniture otherprop"
)
_CLASSES_13, _CLASSES_40 = tuple(_NAMES_13.split()), tuple(_NAMES_40.split())
# of the 40 classes in their order, the number of the one of the 13: class13Mapping.mat of Handa et al. (CVPR 2016)
_TO_13 = (
    *(12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5),
    *(7, 3, 2, 6, 11, 7, 7, 7, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 6, 7),
)
_UNLABELLED = 255
_AMBIGUOUS, _PER_METRE = 39, 25.5
_CLASS_40 = {id: id for id in range(_AMBIGUOUS)} | {_AMBIGUOUS: _UNLABELLED}
"""Class by id in the folders."""
_AXES = {"images": (4, "u"), "labels": (3, "u"), "depths": (3, "f"), "rawDepths": (3, "f")}
"""Of the variables of the MATLAB file: how many axes, and the kind of numpy's types."""


class Layout(ABC):
    """One of the layouts, lying in a folder.

    Args:
        base: the folder.

    Attributes:
        mark: a file or folder that tells the layout.
        layers: by name.
        splits: of the release.
        doubts: by layer, what a user should hear of every label.
    """

    mark: ClassVar[str]
    layers: ClassVar[Mapping[str, Layer]]
    splits: ClassVar[Sequence[str]]
    doubts: ClassVar[Mapping[str, str]] = {}

    def __init__(self, base: Path) -> None:
        self.base = base

    @cached_property
    def scenes(self) -> Mapping[str, str]:
        """The scene of each image, where the release says it."""
        return {}

    @abstractmethod
    def images(self, split: str, notes: Counter[str]) -> Mapping[str, Path]:
        """As of `Published`."""

    @abstractmethod
    def labels(self, layer: str, split: str) -> Mapping[str, Path]:
        """As of `Published`."""

    @abstractmethod
    def values(self, layer: str, path: Path, id: str) -> Tensor:
        """As of `Published`."""

    def image(self, path: Path, id: str) -> tuple[Tensor, str | None] | None:  # noqa: ARG002
        """As of `rasters.read_image`; None for an image that is a file of its own."""
        return None


class Folders(Layout):
    """Images, 40 labels and 8-bit depth in folders, and a list file for each split."""

    mark = "nyu_images"
    layers: ClassVar[Mapping[str, Layer]] = {
        "semantic40": Layer("semantic", _CLASSES_40[:_AMBIGUOUS]),
        "depth": Layer("depth"),
    }
    splits = ("train", "test")
    doubts: ClassVar[Mapping[str, str]] = {
        "semantic40": f"label {_AMBIGUOUS} is both {_CLASSES_40[_AMBIGUOUS]!r} and what nobody labelled: not labelled"
    }

    def images(self, split: str, notes: Counter[str]) -> Mapping[str, Path]:
        pool = by_id(self.base / self.mark, "", RASTERS, "data.root")
        path = self.base / f"{split}.txt"
        found, missing = read_list(path, pool)
        if missing:
            notes[f"{path}: {len(missing)} lines name no image, such as {missing[0]!r}"] = 1
        return {id: pool[id] for id in found}

    def labels(self, layer: str, split: str) -> Mapping[str, Path]:  # noqa: ARG002
        folder = self.base / ("nyu_depths" if layer == "depth" else "nyu_labels40")
        if not folder.is_dir():
            raise DataError(f"{folder}: found no such folder; expected the labels of {layer}")
        return by_id(folder, "", RASTERS, "data.root")

    def values(self, layer: str, path: Path, id: str) -> Tensor:  # noqa: ARG002
        if layer == "depth":
            if (bits := rasters.integer_bits(path)) != 8:
                raise DataError(f"{path}: found {f'{bits}-bit' if bits else 'float'} depth; expected 8 bits")
            return rasters.read_values(path) / _PER_METRE
        return read_classes(path, _CLASS_40, f"0 to {_AMBIGUOUS}")


class Arrays(Layout):
    """Arrays [H, W] or [H, W, channels] of floats in `.npy` files that are called 0.npy, 1.npy, ..."""

    mark = "train/image"
    layers: ClassVar[Mapping[str, Layer]] = {
        "semantic13": Layer("semantic", _CLASSES_13),
        "depth": Layer("depth"),
        "normals": Layer("normals"),
    }
    splits = ("train", "val")

    def _files(self, split: str, kind: str) -> Mapping[str, Path]:
        folder = self.base / split / kind
        if not folder.is_dir():
            raise DataError(f"{folder}: found no such folder; expected .npy files")
        return by_id(folder, "", {".npy"}, "data.root")

    def images(self, split: str, notes: Counter[str]) -> Mapping[str, Path]:  # noqa: ARG002
        return self._files(split, "image")

    def labels(self, layer: str, split: str) -> Mapping[str, Path]:
        return self._files(split, {"semantic13": "label", "depth": "depth", "normals": "normal"}[layer])

    def values(self, layer: str, path: Path, id: str) -> Tensor:  # noqa: ARG002
        if layer == "normals":
            return rasters.read_vectors(path)
        values = rasters.read_values(path)
        if layer == "depth":
            return values
        stray = values[(values != values.round()) | ~((values >= -1) & (values < len(_CLASSES_13)))]
        if len(stray):
            found = f"the label {stray[0]:g} ({len(stray)} pixels outside the classes)"
            raise DataError(f"{path}: found {found}; expected 0 to 12, and -1 for what is not labelled")
        return torch.where(values < 0, _UNLABELLED, values).to(torch.uint8)


class Matlab(Layout):
    """All frames in one file of MATLAB's version 7.3, which is HDF5, its axes in the opposite order."""

    mark = "nyu_depth_v2_labeled.mat"
    layers: ClassVar[Mapping[str, Layer]] = {
        "semantic40": Layer("semantic", _CLASSES_40),
        "semantic13": Layer("semantic", _CLASSES_13),
        "depth": Layer("depth"),
        "raw_depth": Layer("depth"),
    }
    splits = ("train", "test")
    _classes: np.ndarray

    def images(self, split: str, notes: Counter[str]) -> Mapping[str, Path]:  # noqa: ARG002
        path = self.base / self.mark
        with _opened(path) as file:
            count, *shape = file["images"].shape
        if len(shape) != 3 or shape[0] != 3:
            raise DataError(f"{path}: found images of shape {[count, *shape]}; expected [frames, 3, width, height]")
        numbers = _variable(self.base / "splits.mat", f"{split}Ndxs")
        if numbers.size and not 1 <= numbers.min() <= numbers.max() <= count:
            found = f"{split}Ndxs from {numbers.min()} to {numbers.max()}"
            raise DataError(f"{self.base / 'splits.mat'}: found {found}; expected 1 to {count}, the frames of {path}")
        return {f"{number:04}": path for number in numbers.tolist()}

    def labels(self, layer: str, split: str) -> Mapping[str, Path]:
        if layer in ("semantic40", "semantic13"):
            self._classes = _classes_of(self.base / "classMapping40.mat")
        return self.images(split, Counter())

    def image(self, path: Path, id: str) -> tuple[Tensor, str | None]:
        return torch.from_numpy(self._frame(path, "images", id).transpose(0, 2, 1).copy()), None

    def values(self, layer: str, path: Path, id: str) -> Tensor:
        if layer in ("depth", "raw_depth"):
            name = "depths" if layer == "depth" else "rawDepths"
            return torch.from_numpy(self._frame(path, name, id).T.astype(np.float32))
        labels = self._frame(path, "labels", id).T
        if labels.max() >= len(self._classes):
            found, most = f"label {labels.max()} in frame {id}", len(self._classes) - 1
            raise DataError(f"{path}: found {found}; expected at most {most}, the classes of classMapping40.mat")
        table = self._classes if layer == "semantic40" else np.array([0, *_TO_13], np.uint8)[self._classes]
        # 0, which is not labelled, becomes 255
        return torch.from_numpy((table - np.uint8(1))[labels])

    @staticmethod
    def _frame(path: Path, name: str, id: str) -> np.ndarray:
        with _opened(path) as file:
            values = file[name]
            if (values.ndim, values.dtype.kind) != _AXES[name]:
                found = f"{name} of {values.dtype} and shape {values.shape}"
                raise DataError(f"{path}: found {found}; expected those of NYU's labelled data set")
            refuse_size(path, values.shape[-1], values.shape[-2], rasters.MAX_PIXELS)
            return values[int(id) - 1]

    @cached_property
    def scenes(self) -> Mapping[str, str]:
        with _opened(self.base / self.mark) as file:
            names = [bytes(file[name][()].astype(np.uint8)).decode() for name in file["scenes"][()].ravel()]
        return {f"{number:04}": name for number, name in enumerate(names, 1)}


LAYOUTS: Sequence[type[Layout]] = (Matlab, Folders, Arrays)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file by h5py, opened anew each time, since HDF5 cannot be shared with forked processes."""
    try:
        import h5py
    except ImportError:
        raise ConfigError(f"{path}: reading it needs h5py: pip install 'segweave[mat]'") from None
    try:
        with h5py.File(path) as file:
            yield file
    except DataError:
        raise
    except Exception as error:  # h5py raises nearly anything for damaged bytes
        what = " ".join(str(error).split())
        raise DataError(
            f"{path}: found a file that cannot be read ({what}); expected NYU's labelled data set"
        ) from None


def _variable(path: Path, name: str) -> np.ndarray:
    """The numbers of a variable in a MATLAB file of version 5."""
    if not path.is_file():
        raise DataError(f"{path}: found no such file; expected it beside {Matlab.mark}, with {name}")
    numbers = read_matlab(path, name)
    if numbers.dtype.kind not in "iuf":
        raise DataError(f"{path}: found {name} of {numbers.dtype}; expected numbers")
    return numbers.astype(np.int64).ravel()


def _classes_of(path: Path) -> np.ndarray:
    """The number of the one of the 40 classes by the number of the one of the 894; 0 is not labelled."""
    numbers = _variable(path, "mapClass")
    if not numbers.size or not 1 <= numbers.min() <= numbers.max() <= len(_CLASSES_40):
        raise DataError(f"{path}: found mapClass of {sorted({*numbers.tolist()})}; expected numbers from 1 to 40")
    return np.concatenate([[0], numbers]).astype(np.uint8)
