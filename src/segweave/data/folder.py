"""Images in a folder, and per task a sub-folder, a file pattern or a column of a table."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from segweave import rasters
from segweave.batch import Sample
from segweave.data.dataset import Dataset, match_layers
from segweave.errors import ConfigError, DataError
from segweave.tasks.task import Task

_IMAGES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".npy"}
_LABELS = _IMAGES | {".txt"}
_LISTS = {".txt", ".csv", ".lst"}


class Folder(Dataset):
    """A folder of images with labels beside them; any label may be missing on any image.

    Args:
        split: which part to read.
        readers: the tasks, which know how to read their label files.
        root: the folder.
        images: sub-folder, or pattern with `{split}` and `*`, or a column of `table`.
        tasks: by layer, a sub-folder, a pattern with `{split}`, `{stem}`, or a column of `table`. Without it, the layer
            of a task is the sub-folder of its name.
        table: CSV or TSV file in `root`, a row an image.
        splits: by split, a list file (entries are matched by file name), a sub-folder's name, or a share of the images
            chosen by a hash of their ids, the rest being `train`. By default sub-folders `train` and `val` where they
            exist, else `val: 0.2`.

    Raises:
        ConfigError: a split, folder or column that does not exist.
        DataError: no image found, or two with one id.
    """

    def __init__(
        self,
        split: str,
        readers: Sequence[Task],
        *,
        root: str,
        images: str = "images",
        tasks: Mapping[str, str] | None = None,
        table: str | None = None,
        splits: Mapping[str, str | float | int] | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ConfigError(f"data.root: {root}: no such folder")
        self.split = split
        self.notes: Counter[str] = Counter()
        self.readers = {task.name: task for task in readers}
        layers = dict(tasks) if tasks else {(task.source or task.name): (task.source or task.name) for task in readers}
        self.layer = match_layers(readers, {layer: layer for layer in layers})
        self._rows = self._read_table(table) if table else None
        self._splits = splits
        self._by_folder = "{split}" in images
        self._images = self._find_images(images)
        self.ids = sorted(self._select(self._images))
        if not self.ids:
            raise DataError(
                f"{self.root}: split {split!r} has no images; found {len(self._images)} below data.images {images!r}"
            )
        self._labels = {name: self._find_labels(layers[layer]) for name, layer in self.layer.items()}

    def _read_table(self, table: str) -> list[dict[str, str]]:
        path = self.root / table
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as a table: {error}") from None

    def _base(self, pattern: str) -> tuple[Path, str]:
        """A sub-folder or pattern as the folder it starts in and the pattern below that."""
        pattern = pattern.replace("{split}", self.split)
        parts = Path(pattern).parts
        fixed = next((i for i, part in enumerate(parts) if "*" in part or "{" in part), len(parts))
        base = self.root.joinpath(*parts[:fixed])
        if fixed == len(parts):
            for candidate in (self.root / self.split / pattern, base / self.split):
                if self._splits is None and candidate.is_dir():
                    base = candidate
                    self._by_folder = True
                    break
        return base, "/".join(parts[fixed:])

    def _find_images(self, images: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        if self._rows is not None and self._rows and images in self._rows[0]:
            paths = [(Path(row[images]).with_suffix("").as_posix(), self.root / row[images]) for row in self._rows]
        else:
            base, rest = self._base(images)
            if not base.is_dir():
                raise ConfigError(f"data.images: {base}: no such folder for split {self.split!r}")
            files = sorted(base.glob(rest) if rest else base.rglob("*"))
            paths = [(p.relative_to(base).with_suffix("").as_posix(), p) for p in files]
        for key, path in paths:
            if path.suffix.lower() not in _IMAGES:
                continue
            if key in found:
                raise DataError(f"{path}: {found[key].name} has the same id {key!r}; expected one file per image")
            found[key] = path
        return found

    def _select(self, images: Mapping[str, Path]) -> list[str]:
        splits = self._splits
        if splits is None:
            if self._by_folder:
                return list(images)
            splits = {"val": 0.2}
        if self.split not in splits and self.split != "train":
            raise ConfigError(f"data.splits: no split {self.split!r}; it has {', '.join({'train': 0, **splits})}")
        rule = splits.get(self.split)
        if isinstance(rule, str):
            if Path(rule).suffix.lower() in _LISTS:
                return self._listed(images, self.root / rule)
            return [key for key in images if key.startswith(f"{rule}/")] or list(images)
        shares = {
            name: float(share) for name, share in splits.items() if not isinstance(share, str) and name != "train"
        }
        taken = {key: _share(key) for key in images}
        low = 0.0
        for name, share in shares.items():
            if name == self.split:
                return [key for key, position in taken.items() if low <= position < low + share]
            low += share
        return [key for key, position in taken.items() if position >= low]

    def _listed(self, images: Mapping[str, Path], path: Path) -> list[str]:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"data.splits.{self.split}: {path}: cannot be read as a list: {error}") from None
        names = {re.split(r"[\s,;]", line.strip())[0] for line in lines if line.strip()}
        stems = {Path(name).stem if Path(name).suffix.lower() in _LABELS else Path(name).name for name in names}
        return [key for key in images if key in names or Path(key).name in stems]

    def _find_labels(self, layer: str) -> dict[str, Path | str]:
        if self._rows is not None and self._rows and layer in self._rows[0]:
            column = {key: row[layer] for key, row in zip(self._images, self._rows, strict=True)}
            return {key: column[key] for key in self.ids if column[key] and column[key].strip()}
        if "{stem}" in layer:
            pattern = layer.replace("{split}", self.split)
            found: dict[str, Path | str] = {}
            for key in self.ids:
                stem = pattern.replace("{stem}", key)
                matches = sorted(self.root.glob(stem)) if "*" in stem else [self.root / stem]
                if matches and matches[0].is_file():
                    found[key] = matches[0]
            return found
        base, rest = self._base(layer)
        if not base.is_dir():
            raise ConfigError(f"data.tasks: {base}: no such folder; a layer is a sub-folder, a pattern or a column")
        files = {
            p.relative_to(base).with_suffix("").as_posix(): p
            for p in sorted(base.glob(rest) if rest else base.rglob("*"))
            if p.suffix.lower() in _LABELS
        }
        return {key: files[key] for key in self.ids if key in files}

    def annotation(self, index: int, task: str) -> Tensor | None:
        label = self._labels[task].get(self.ids[index])
        if label is None:
            return None
        reader = self.readers[task]
        if isinstance(label, str):
            try:
                annotation = reader.parse(label)
            except DataError as error:
                raise DataError(f"{self.root}: image {self.ids[index]!r}: {error}") from None
            return annotation if annotation is not None else reader.read(self.root / label)
        return reader.read(label)

    def __getitem__(self, index: int) -> Sample:
        path = self._images[self.ids[index]]
        image, note = rasters.read_image(path)
        if note:
            self.notes[note] += 1
        annotations = {}
        for name, reader in self.readers.items():
            annotation = self.annotation(index, name)
            if annotation is None:
                continue
            if reader.dense and annotation.shape[-2:] != image.shape[-2:]:
                (height, width), (h, w) = image.shape[-2:], annotation.shape[-2:]
                raise DataError(
                    f"{self._labels[name][self.ids[index]]}: label is {w}x{h} but its image {path} is "
                    f"{width}x{height}; expected the same size"
                )
            annotations[name] = annotation
        return Sample(self.ids[index], image, annotations)

    def labelled(self, task: str) -> int:
        return len(self._labels[task])

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for key in self.ids:
            paths = [self._images[key], *(labels.get(key) for labels in self._labels.values())]
            sizes = [p.stat().st_size if isinstance(p, Path) else p for p in paths]
            digest.update(repr((key, sizes)).encode())
        return digest.hexdigest()


def _share(key: str) -> float:
    """Position of an id in [0, 1), the same on every machine and whatever else is in the folder."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
