"""Boxes and polygons in text files beside the images, in the layout that Ultralytics reads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segweave import config, rasters
from segweave.data.files import Label
from segweave.data.layout import RASTERS, list_files, without_suffix
from segweave.data.published import Layer, Published
from segweave.data.vectors import fill
from segweave.errors import ConfigError, DataError, UnreadableError

_SPELLINGS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_TOLERANCE = 0.01
_BOX, _TRIANGLE = 5, 7


class Yolo(Published):
    """Images below `images`, and for each a text file of the same name below `labels`, a line an object.

    A line is `class cx cy w h` (a box) or `class x1 y1 x2 y2 x3 y3 ...` (a polygon), in shares of the image's width and
    height. `root` is a data YAML with `train`, `val`, `test` (each a folder, a list file, or several of them), `names`,
    and `path`, below its own folder or absolute; a folder with one such file; or a folder with images/{train,val,test}
    or {train,val,test}/images. A `path` that does not exist, such as that of another machine, is the YAML's folder.

    Layers:

    - `boxes`: boxes, and the boxes round polygons.
    - `semantic`: 0 for background and 1 more than the class inside polygons, so that the classes are `background` and
      those of the files, or a single class. A pixel is inside if its centre is. Where polygons overlap, the one of
      fewer pixels lies on top, and of equal ones the later.
    - `instances`: 0 for background, and inside polygons the place of the object in its file, from 1; overlaps likewise.

    As Ultralytics does (`verify_image_label` in its data/utils.py, 2025): an image whose file is empty or missing has
    no objects, lines that are there twice count once, and coordinates may lie 0.01 outside 0 to 1. Unlike there, what
    else is wrong in a file is an error and not an image less, and boxes that reach over the border are clipped. Where
    no image of a split has a file, its images are not labelled.
    """

    known: ClassVar[Mapping[str, Layer]] = {
        "boxes": Layer("detection"),
        "semantic": Layer("semantic"),
        "instances": Layer("instances"),
    }
    listings = (".yaml", ".yml")

    def find(self) -> None:
        self._listing = _listing(self.root)
        self.published = list(self._listing.places)

    @classmethod
    def offered(cls, options: Mapping[str, Any]) -> Mapping[str, Layer]:
        names = _listing(Path(options["root"]).expanduser()).names if "root" in options else None
        if names is None:
            return cls.known
        classes = {"boxes": names, "semantic": ["background", *names], "instances": names}
        return {name: Layer(layer.kind, classes[name]) for name, layer in cls.known.items()}

    def images(self, split: str) -> Mapping[str, Path]:
        base = self._listing.base
        found: dict[str, Path] = {}
        missing: list[Path] = []
        for place in self._listing.places[split]:
            paths = [place / name for name in list_files(place)] if place.is_dir() else _listed(place, base)
            for path in paths:
                if not path.is_file():
                    missing.append(path)
                    continue
                id = _id(path, base)
                if found.setdefault(id, path) != path:
                    raise DataError(
                        f"{path}: has the id {id!r}, as {found[id]} has; expected one image for a label file"
                    )
        if missing:
            self.notes[f"{split}: {len(missing)} listed images are missing, such as {missing[0]}"] = 1
        return found

    def labels(self, layer: str, split: str) -> Mapping[str, Label]:  # noqa: ARG002
        files = {id: _label_file(image) for id, image in self._images.items()}
        there = {id: path for id, path in files.items() if path.is_file()}
        if not there:
            wanted = files[self.ids[0]]
            self.notes[f"{split}: none of its {len(files)} images has a label file, such as {wanted}: not labelled"] = 1
            return {}
        return {id: there.get(id, "") for id in files}

    def values(self, layer: str, label: Label, id: str) -> Tensor:
        header = rasters.read_header(self._images[id])
        objects = self._objects(label, layer) if isinstance(label, Path) else []
        size = (header.height, header.width)
        if layer == "boxes":
            rows = [(*_bounds(found.points, size), found.label) for found in objects]
            return torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
        boxed = [found.line for found in objects if found.box]
        if boxed:
            raise DataError(
                f"{label}: line {boxed[0]}: found a box; expected a polygon, class x1 y1 x2 y2 x3 y3 ..., for layer "
                f"{layer!r}"
            )
        values = [found.label + 1 if layer == "semantic" else place for place, found in enumerate(objects, 1)]
        return self._painted([found.points for found in objects], values, size)

    def _painted(self, polygons: Sequence[np.ndarray], values: Sequence[int], size: tuple[int, int]) -> Tensor:
        """int32 [H, W] of the polygons' values, the smaller ones over the larger ones, and 0 elsewhere."""
        # one mask at a time: those of all objects of a large image would not fit
        inside, canvas = np.zeros(size, bool), np.zeros(size, np.int32)

        def draw(points: np.ndarray) -> np.ndarray:
            inside[:] = False
            fill(inside, [points * size[::-1]])
            return inside

        pixels = [int(draw(points).sum()) for points in polygons]
        if empty := pixels.count(0):
            self.notes["polygons in which no pixel has its centre: left out"] += empty
        for place in sorted(range(len(pixels)), key=lambda place: -pixels[place]):
            canvas[draw(polygons[place])] = values[place]
        return torch.from_numpy(canvas)

    def _objects(self, path: Path, layer: str) -> list[_Object]:
        """The objects of a label file, in its order. Raises DataError with the line."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UnreadableError(f"{path}: expected a text file with a line an object; {error}") from None
        classes = self._classes(layer)
        found: dict[tuple[float, ...], _Object] = {}
        twice = 0
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            values = _numbers(path, number, line)
            label = int(values[0])
            if label != values[0] or not 0 <= label < classes:
                raise DataError(
                    f"{path}: line {number}: found class {line.split()[0]}; expected a whole number from 0 to "
                    f"{classes - 1}, the classes of layer {layer!r}"
                )
            twice += values in found
            points = np.array(values[1:]).reshape(-1, 2)
            found.setdefault(values, _Object(number, label, len(values) == _BOX, points))
        if twice:
            self.notes["lines that are twice in a label file: counted once"] += twice
        return list(found.values())

    def _classes(self, layer: str) -> int:
        """How many classes the files may name: those of the YAML, else those of the tasks."""
        if self._listing.names is not None:
            return len(self._listing.names)
        readers = [reader for task, reader in self.readers.items() if self.layer[task] == layer]
        named = [getattr(reader, "names", getattr(reader, "classes", ())) for reader in readers]
        return max(map(len, named)) - (layer == "semantic")


class _Object(NamedTuple):
    """A line of a label file; `points` are the corners of a polygon, or centre and size of a box, in shares."""

    line: int
    label: int
    box: bool
    points: np.ndarray


class _Listing(NamedTuple):
    """The folders and list files by split, below `base` unless they say otherwise, and the classes if known."""

    base: Path
    places: Mapping[str, Sequence[Path]]
    names: Sequence[str] | None = None


def _listing(root: Path) -> _Listing:
    """Raises ConfigError or DataError where the layout is another."""
    if not root.exists():
        raise ConfigError(f"data.root: {root}: no such folder or file; expected a data YAML or a folder of images")
    if root.is_file():
        return _of_yaml(root)
    texts = [path for path in sorted(root.iterdir()) if path.suffix.lower() in (".yaml", ".yml")]
    sources = [path for path in texts if "train" in _values(path)]
    if len(sources) > 1:
        raise ConfigError(f"data.root: {root}: found {', '.join(path.name for path in sources)}; expected one: name it")
    if sources:
        return _of_yaml(sources[0])
    places: dict[str, list[Path]] = {}
    for split, spellings in _SPELLINGS.items():
        folders = [place for name in spellings for place in (root / "images" / name, root / name / "images")]
        there = [place for place in folders if place.is_dir()]
        if there:
            places[split] = there
    if not places and (root / "images").is_dir():
        places["train"] = [root / "images"]
    if "train" not in places:
        names = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise DataError(f"{root}: found {names}; expected a data YAML, images/train or train/images")
    return _Listing(root, places)


def _values(path: Path) -> Mapping[str, Any]:
    """What a YAML says; nothing where it is no mapping. Raises ConfigError."""
    try:
        values = config.parse(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from None
    return values if isinstance(values, dict) else {}


def _of_yaml(path: Path) -> _Listing:
    values = _values(path)
    if "kpt_shape" in values:
        raise ConfigError(f"{path}: kpt_shape: found labels of keypoints; expected boxes or polygons")
    base = path.parent / str(values.get("path") or "")
    base = base if base.is_dir() else path.parent
    places = {}
    for split, spellings in _SPELLINGS.items():
        entry = next((values[name] for name in spellings if values.get(name)), None)
        if entry is not None:
            entries = entry if isinstance(entry, list) else [entry]
            places[split] = [_place(path, split, str(name), base) for name in entries]
    if "train" not in places:
        raise ConfigError(f"{path}: train: missing; expected a folder or a list of images")
    names = values.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ConfigError(f"{path}: names: found the numbers {', '.join(map(str, names))}; expected 0, 1, 2, ...")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list | None):
        raise ConfigError(f"{path}: names: found {names!r:.60}; expected a list of names")
    return _Listing(base, places, None if names is None else [str(name) for name in names])


def _place(source: Path, split: str, entry: str, base: Path) -> Path:
    """Where a folder or list file of a YAML is; `../` before it may be too much, as in exports of Roboflow."""
    for place in (base / entry, base / entry.removeprefix("../")):
        if place.exists():
            return place
    raise ConfigError(f"{source}: {split}: found {entry!r}; expected a folder or a list file, relative to {base}")


def _listed(path: Path, base: Path) -> list[Path]:
    """The images that a list file names: absolute, or relative to its folder or to `base`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of images: {error}") from None
    found = dict.fromkeys(line.strip().replace("\\", "/") for line in lines if line.strip())
    paths = []
    for line in found:
        nearer, further = Path(os.path.normpath(path.parent / line)), Path(os.path.normpath(base / line))
        paths.append(nearer if nearer.is_file() else further)
    return paths


def _id(path: Path, base: Path) -> str:
    """The path below the data's folder, without suffix and without folders called `images`."""
    below = os.path.relpath(path, base)
    *folders, name = Path(path.name if below.startswith("..") else below).parts
    return without_suffix("/".join([*(folder for folder in folders if folder != "images"), name]))


def _label_file(image: Path) -> Path:
    """The last folder `images` of the path becomes `labels`."""
    folders = list(image.parts[:-1])
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, without_suffix(image.name, RASTERS) + ".txt")


def _numbers(path: Path, number: int, line: str) -> tuple[float, ...]:
    """A line's values. Raises DataError for what is neither box nor polygon, or not in shares of the image."""
    try:
        values = tuple(map(float, line.split()))
    except ValueError:
        raise DataError(f"{path}: line {number}: found {line.strip()[:60]!r}; expected numbers") from None
    if len(values) != _BOX and (len(values) < _TRIANGLE or len(values) % 2 == 0):
        raise DataError(
            f"{path}: line {number}: found {len(values)} values; expected 5, class cx cy w h, or class and x y of "
            f"three corners or more"
        )
    outside = [v for v in values[1:] if not -_TOLERANCE <= v <= 1 + _TOLERANCE]
    if outside or not math.isfinite(values[0]):
        raise DataError(
            f"{path}: line {number}: found {outside[0] if outside else values[0]:g}; expected shares of the image's "
            f"width and height, from 0 to 1"
        )
    return values


def _bounds(points: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 in pixels of a polygon, or of a box by its centre and size; `points` is [N, 2], in shares."""
    height, width = size
    if len(points) == 2:
        centre, sides = points
        low, high = centre - sides / 2, centre + sides / 2
    else:
        low, high = points.min(0), points.max(0)
    return (float(low[0] * width), float(low[1] * height), float(high[0] * width), float(high[1] * height))
