"""A table with a row an image: columns of files and columns of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from segweave.data import shares
from segweave.data.dataset import match_layers
from segweave.data.files import Label, TaskFiles
from segweave.data.layout import Table, read_list
from segweave.errors import ConfigError, DataError
from segweave.tasks.task import Task

_SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_TRUTHS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


class Tabular(TaskFiles):
    """Images and labels as a CSV or TSV file with a header names them.

    In `image` and `tasks`, `{column}` stands for that column's cell: `photos/{id}.jpg`. Files lie relative to `root` or
    to the table; they may be anything that is read elsewhere, BMP, GIF and TIFF too. An empty cell is a missing label,
    and a row without an image is left out.

    Args:
        split: which part to read.
        readers: the tasks, which know how to read the cells and the files in them.
        root: the folder.
        file: the table in `root`. It is split by tabs, commas or semicolons, whichever its header has most of.
        image: the column that names the image's file.
        tasks: by layer, the column of its labels or files, several columns of 0 and 1 with a class each, or for boxes a
            COCO JSON file in `root`. Several columns are the task's classes by their names where all names are
            classes, else in their order. Without it, the layer of a task is the column of its name.
        separator: what stands between the labels in a cell, beside `;` and `|`.
        split_column: the column that names each image's split; train, val and test have their usual spellings too.
        splits: as in `folder`, instead of `split_column`: by split, a list file, `column=value`, or a share of the
            images that no other split names. A fifth of the training images validates where nothing else is said.
        bands: of the images, as in `folder`.

    Raises:
        ConfigError: a folder, column or split that does not exist.
        DataError: no image found, a file that is missing, two rows of one image, or a row without a split.
    """

    def __init__(
        self,
        split: str,
        readers: Sequence[Task],
        *,
        root: str,
        file: str,
        image: str = "image",
        tasks: Mapping[str, str | Sequence[str]] | None = None,
        separator: str | None = None,
        split_column: str | None = None,
        splits: Mapping[str, str | float | int] | None = None,
        bands: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(root, "that holds the table", readers, bands)
        if split_column is not None and splits is not None:
            raise ConfigError("data.splits: found beside data.split_column; expected one of them")
        self.separator = separator
        layers = dict(tasks) if tasks else {(name := task.source or task.name): name for task in readers}
        self.layer = match_layers(readers, {layer: layer for layer in layers})
        self._table = Table(self.root, file)
        self._source = self._table.path
        if not self._table.fills(image):
            raise self._no_column(image, "image")
        pool = self._table.images(image)
        self._named = self._by_column(split_column, pool) if split_column else {}
        rules = shares.checked(splits or {})
        for name, rule in rules.items():
            if isinstance(rule, str):
                self._named[name] = self._by_rule(name, rule, pool, told=name == split)
        self._shares: dict[str, str | float] = {name: rule for name, rule in rules.items() if isinstance(rule, float)}
        if splits is None and "val" not in self._named:
            self._shares["val"] = shares.VAL_SHARE
        self._must_have(split)
        self.ids = sorted(self._chosen(split, pool))
        if not self.ids:
            why = shares.none_drawn(split, self._shares, pool) if pool else f"no row has a file in {image!r}"
            raise DataError(f"{self._table.path}: split {split!r} has no images; {why}")
        self._images = {id: pool[id] for id in self.ids}
        self._labels = {}
        for task in readers:
            found = self._find_labels(task, layers[self.layer[task.name]], pool)
            self._labels[task.name] = {id: found[id] for id in self.ids if id in found}

    def _by_column(self, column: str, pool: Mapping[str, Path]) -> dict[str, list[str]]:
        """The ids of each split that a column names."""
        if column not in self._table.columns:
            raise self._no_column(column, "split_column")
        found: dict[str, list[str]] = {}
        for id, line in self._table.lines(pool).items():
            value = self._table.rows[line][column].lower()
            if not value:
                raise DataError(f"{self._table.path}: line {line}, {column!r}: empty; expected the name of a split")
            found.setdefault(_SPELLINGS.get(value, value), []).append(id)
        return found

    def _by_rule(self, split: str, rule: str, pool: Mapping[str, Path], told: bool) -> list[str]:
        """The ids that a list file or a value of a column gives to a split."""
        column, equals, _ = rule.partition("=")
        if equals and not (self.root / rule).is_file():
            if column not in self._table.columns:
                raise self._no_column(column, f"splits.{split}")
            return self._table.matching(rule, pool)
        found, missing = read_list(self.root / rule, pool)
        if missing and told:
            self.notes[f"{rule}: {len(missing)} lines name no image, such as {missing[0]!r}"] = 1
        return found

    def _no_column(self, name: str, key: str) -> ConfigError:
        columns = ", ".join(self._table.columns)
        return ConfigError(f"data.{key}: found {name!r}; expected a column of {self._table.path}: {columns}")

    def _chosen(self, split: str, pool: Mapping[str, Path]) -> list[str]:
        if split in self._named and split != "train":
            return self._named[split]
        taken = {id for ids in self._named.values() for id in ids}
        free = self._named["train"] if "train" in self._named else [id for id in pool if id not in taken]
        return [id for id in free if shares.drawn(id, self._shares) == split]

    def _find_labels(self, task: Task, layer: str | Sequence[str], pool: Mapping[str, Path]) -> Mapping[str, Label]:
        if not isinstance(layer, str):
            return self._of_columns(task, layer, pool)
        if layer not in self._table.columns and (self.root / layer).is_file():
            return self._from_file(task, self.root / layer, pool, whole=True)
        if not self._table.fills(layer):
            raise self._no_column(layer, f"tasks.{self.layer[task.name]}")
        found = self._table.labels(layer, pool, as_text=not task.dense)
        if self.separator is None:
            return found
        return {id: v.replace(self.separator, ";") if isinstance(v, str) else v for id, v in found.items()}

    def _of_columns(self, task: Task, columns: Sequence[str], pool: Mapping[str, Path]) -> Mapping[str, Label]:
        """Labels as text from a column of 0 and 1 for each class; where all cells are empty there is none."""
        where = f"tasks.{self.layer[task.name]}"
        for column in columns:
            if column not in self._table.columns:
                raise self._no_column(column, where)
        classes: Sequence[str] = getattr(task, "classes", ())
        if len(columns) != len(classes):
            found = f"{len(columns)} columns for the {len(classes)} classes of task {task.name!r}"
            raise ConfigError(f"data.{where}: found {found}; expected one a class, or the name of a single column")
        names = columns if set(columns) == set(classes) else classes
        labels: dict[str, Label] = {}
        for id, line in self._table.lines(pool).items():
            cells = [self._table.rows[line][column] for column in columns]
            for column, cell in zip(columns, cells, strict=True):
                if any(cells) and cell.lower() not in _TRUTHS:
                    raise DataError(
                        f"{self._table.path}: line {line}, {column!r}: found {cell!r}; expected 0 or 1, or empty cells "
                        f"in all of {', '.join(columns)}"
                    )
            if any(cells):
                there = [name for name, cell in zip(names, cells, strict=True) if _TRUTHS[cell.lower()]]
                labels[id] = ";".join(there) or "-"
        return labels

    @property
    def splits(self) -> Sequence[str]:
        return list(dict.fromkeys(["train", *self._named, *self._shares]))
