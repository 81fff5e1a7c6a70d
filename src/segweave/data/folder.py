"""Images in a folder, and per task a sub-folder, a file pattern or a column of a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from segweave.data import shares
from segweave.data.dataset import match_layers
from segweave.data.files import Label, TaskFiles
from segweave.data.layout import (
    RASTERS,
    Table,
    by_id,
    by_last,
    by_owner,
    examples,
    list_files,
    read_list,
    suffix_of,
    without_suffix,
)
from segweave.errors import ConfigError, DataError
from segweave.tasks.task import Task

_TEXTS = frozenset({".txt"})
_LISTS = frozenset({".txt", ".csv", ".tsv", ".lst"})
_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


class Folder(TaskFiles):
    """A folder of images with labels beside them; any label may be missing on any image.

    In a pattern, `*` is any text within one name, `**` any folders, `{stem}` the image's id, `{split}` the split's
    folder, and `{column}` a cell of the table; the suffix matches in any case. `{stem}` in `images` says which part is
    the id: `leftImg8bit/{split}/{stem}_leftImg8bit.png` fits `gtFine/{split}/{stem}_labelIds.png`, and
    `{stem}/images/*.png` fits `{stem}/mask.png`. Without it the id is the path below the images' folder, without
    suffix.

    Args:
        split: which part to read.
        readers: the tasks, which know how to read their label files.
        root: the folder.
        images: sub-folder, pattern, or column of `table`. Files that a layer claims as labels are no images.
        tasks: by layer, a sub-folder (files with the images' names), a pattern, a column of `table`, or for boxes a
            COCO JSON file. Without it, the layer of a task is the sub-folder of its name.
        table: CSV or TSV file in `root`, a row an image. Unless the images come from it, its rows are joined to them by
            the column that names most of them.
        bands: of the images: null for photographs; a number where all files have so many; or a list of those to read
            from them, in that order, from 1. Pictures show the first three as red, green and blue.
        splits: by split, a list file (an image a line, found by the end of its path), a sub-folder's name,
            `column=value` of the table, or a share of the images that no other split names. `train` is the rest. By
            default the sub-folders train, val and test (also training, valid, validation, testing) where they exist,
            below the images' folder or above it, and `val: 0.2` where none is for val. Shares go by the first 8 bytes
            of the id's SHA-256: the same on every machine, and new images move no old one to another split.

    Raises:
        ConfigError: a split, folder or column that does not exist.
        DataError: no image found, two with one id, or labels of which none belongs to an image.
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
        bands: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(root, "that holds the images", readers, bands)
        self.split = split
        layers = dict(tasks) if tasks else {(name := task.source or task.name): name for task in readers}
        self.layer = match_layers(readers, {layer: layer for layer in layers})
        self._table = Table(self.root, table) if table else None
        self._source = self._table.path if self._table else self.root
        self._pattern = images
        self._pools: dict[str | None, dict[str, Path]] = {}
        self._layers = list(layers.values())
        self._splits = self._default_splits() if splits is None else shares.checked(splits)
        self._must_have(split)
        pool = self._pool(self._part(split))
        self.ids = sorted(self._members(split))
        if not self.ids:
            why = f"found {len(pool)} for data.images {images!r}"
            if self._kind(split) in ("share", "rest"):
                why = shares.none_drawn(split, self._splits, pool)
            raise DataError(f"{self.root}: split {split!r} has no images; {why}")
        self._images = {id: pool[id] for id in self.ids}
        self._labels = {}
        for task in readers:
            found = self._find_labels(task, layers[self.layer[task.name]], pool)
            self._labels[task.name] = {id: found[id] for id in self.ids if id in found}

    def _default_splits(self) -> dict[str, str | float]:
        """Sub-folders with the usual names; images of a table have none."""
        if self._filled(self._pattern):
            return {"val": shares.VAL_SHARE}
        found: dict[str, str | float] = {}
        for name, spellings in ({self.split: (self.split,)} | _NAMES).items():
            there = [spelling for spelling in spellings if self._place(self._pattern, spelling)[2]]
            found |= {name: there[0]} if there else {}
        if "{split}" in self._pattern and not found:
            raise ConfigError(f"data.images: {self._pattern!r}: no such folder for train, val or test in {self.root}")
        return {"val": shares.VAL_SHARE} | found

    def _kind(self, split: str) -> str:
        rule = self._splits.get(split)
        if not isinstance(rule, str):
            return "rest" if rule is None else "share"
        if suffix_of(rule) in _LISTS or (self.root / rule).is_file():
            return "list"
        return "column" if self._table and rule.partition("=")[0] in self._table.columns and "=" in rule else "folder"

    def _part(self, split: str) -> str | None:
        """The sub-folder in which a split's images and labels lie; None where they share one with the other splits."""
        kind = self._kind(split)
        if kind in ("rest", "share") and split != "train":
            return self._part("train")
        if self._filled(self._pattern):
            return None
        rule = str(self._splits.get(split))
        if kind == "folder" and self._place(self._pattern, rule)[2]:
            return rule
        there = [name for name in _NAMES.get(split, ()) if self._place(self._pattern, name)[2]]
        return (there or [split])[0] if "{split}" in self._pattern else None

    def _members(self, split: str) -> list[str]:
        """The ids of a split in its part's pool."""
        named = {name for name in self._splits if self._kind(name) not in ("rest", "share")}
        if split in named - {"train"}:
            return self._named(split)
        pool = self._pool(self._part(split))
        if "train" in named:
            free = self._named("train")
        else:
            taken = {self._pool(self._part(name))[id] for name in named for id in self._named(name)}
            free = [id for id, path in pool.items() if path not in taken]
        return [id for id in free if shares.drawn(id, self._splits) == split]

    def _named(self, split: str) -> list[str]:
        """The ids that a split's list file, folder or column names."""
        kind, rule, part = self._kind(split), str(self._splits[split]), self._part(split)
        pool = self._pool(part)
        if kind == "list":
            found, missing = read_list(self.root / rule, pool)
            if missing and split == self.split:
                self.notes[f"{rule}: {len(missing)} lines name no image, such as {missing[0]!r}"] = 1
            return found
        if kind == "column" and self._table is not None:
            return self._table.matching(rule, pool)
        if part is not None:
            return list(pool)
        inside = [id for id, path in pool.items() if rule in os.path.relpath(path, self.root).split(os.sep)[:-1]]
        if not inside:
            names = ", ".join(sorted(path.name for path in self.root.iterdir() if path.is_dir())[:10]) or "no folders"
            raise ConfigError(f"data.splits.{split}: no images in a folder {rule!r}; {self.root} has {names}")
        return inside

    def _filled(self, pattern: str) -> bool:
        return self._table is not None and self._table.fills(pattern)

    def _place(self, pattern: str, part: str | None) -> tuple[Path, str, bool]:
        """The folder a pattern starts in, the pattern below it, and whether that folder is the part's own."""
        parts = Path(pattern.replace("{split}", part or self.split)).parts
        fixed = next((i for i, name in enumerate(parts) if "*" in name or "{" in name), len(parts))
        base, rest = Path(*parts[:fixed]), "/".join(parts[fixed:])
        if "{split}" in pattern:
            inner = "{split}" in "/".join(Path(pattern).parts[fixed:])
            there = (self.root / base).is_dir() and (not inner or bool(by_id(self.root / base, rest, RASTERS, "")))
            return self.root / base, rest, there
        for place in (self.root / base / part, self.root / part / base) if part else ():
            if place.exists():
                return place, rest, True
        return self.root / base, rest, False

    def _pool(self, part: str | None) -> dict[str, Path]:
        """All images that lie in a part, by id."""
        if part not in self._pools:
            if self._table is not None and self._table.fills(self._pattern):
                self._pools[part] = self._table.images(self._pattern)
            else:
                self._pools[part] = self._listed(part)
        return self._pools[part]

    def _listed(self, part: str | None) -> dict[str, Path]:
        base, rest, _ = self._place(self._pattern, part)
        if not base.is_dir():
            what = "a file; expected" if base.is_file() else "no such folder; expected"
            raise ConfigError(f"data.images: {base}: {what} a sub-folder, a pattern or a column")
        found = by_id(base, rest, RASTERS, "data.images")
        if not found:
            what = _contents(base) or "no files"
            raise DataError(f"{base}: no images for data.images {self._pattern!r}; found {what}")
        for layer in self._layers:
            place, below, _ = self._place(layer, part)
            if self._filled(layer) or not place.is_dir():
                continue
            if "{stem}" in layer:
                claimed = {path for paths in by_owner(place, below, RASTERS, found).values() for path in paths}
            else:
                claimed = {path for path in found.values() if place in path.parents and place != base}
            found = {id: path for id, path in found.items() if path not in claimed} or found
        return found

    def _find_labels(
        self, task: Task, layer: str, pool: Mapping[str, Path], split: str | None = None
    ) -> Mapping[str, Label]:
        """Labels by image. With `split`, those of another split's images: nothing is wrong then if there are none."""
        if self._table is not None and self._table.fills(layer):
            return self._table.labels(layer, pool, as_text=not task.dense)
        part = self._part(split or self.split)
        base, rest, own = self._place(layer, part)
        folders = [str(self._splits[name]) for name in self._splits if self._kind(name) == "folder"]
        if part and not own and any(self._place(layer, name)[2] for name in [*folders, *self._splits, "train"]):
            return {}
        if base.is_file() and not rest:
            return self._from_file(task, base, pool, whole=bool(part) and "{split}" not in layer and not own)
        if not base.is_dir():
            raise ConfigError(
                f"data.tasks: {base}: no such folder; a layer is a sub-folder, a pattern with {{stem}}, or a column"
            )
        suffixes = RASTERS if task.dense else _TEXTS
        if "{stem}" in layer:
            owned = by_owner(base, rest, suffixes, pool)
            found = {id: paths[0] for id, paths in owned.items()}
            files = [without_suffix(name, suffixes) for name in list_files(base, suffixes)]
            for id, paths in owned.items():
                if len(paths) > 1:
                    raise DataError(
                        f"{base}: {len(paths)} files fit data.tasks {layer!r} for image {id!r}, such as "
                        f"{paths[0].name} and {paths[1].name}; expected one: narrow the pattern, or merge the files"
                    )
        else:
            files = by_id(base, rest, suffixes, "data.tasks")
            found = {id: files[id] for id in pool if id in files} or by_last(files, pool)
            alone = sorted(set(files.values()) - set(found.values()))
            # a folder that splits with folders of their own share holds the labels of the others too
            if found and alone and (own or part is None) and not any(base in path.parents for path in pool.values()):
                self.notes[f"{base}: labels without an image: {len(alone)}, such as {alone[0].name}"] = 1
        if not files and (others := _contents(base)):
            how = f"as {', '.join(sorted(suffixes))}"
            if not task.dense:
                how = f"{how} or in one file; those that are made of masks need tasks.{task.name}.derive"
            raise DataError(f"data.tasks: {base}: found {others}; expected labels of task {task.name!r} {how}")
        if files and not found and split is None and not self._of_train(task, layer):
            raise DataError(
                f"data.tasks: {base}: no label belongs to an image; {examples(files, pool, 'labels')}; expected the "
                f"same names, or a pattern that says what differs, such as '{base.name}/{{stem}}_mask.png'"
            )
        return found

    def _of_train(self, task: Task, layer: str) -> bool:
        """Whether the labels of a folder that all splits share are those of the training images."""
        if self.split == "train" or self._part("train") == self._part(self.split):
            return False
        return bool(self._find_labels(task, layer, self._pool(self._part("train")), "train"))

    @property
    def splits(self) -> Sequence[str]:
        return list({"train": "", **self._splits})


def _contents(folder: Path) -> str:
    """`12 .geojson, 1 .DS_Store`, at most four kinds."""
    suffixes = Counter(suffix_of(path.name) or path.name for path in folder.rglob("*") if path.is_file())
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(4))
