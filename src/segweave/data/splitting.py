"""Splits that leak nothing: groups and copies stay together, and every split has its share of each class."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segweave import config as yaml
from segweave.config import Config
from segweave.data import FORMATS, layout
from segweave.data.dataset import Dataset
from segweave.data.dealing import deal
from segweave.data.layout import new_folder
from segweave.data.survey import Record, survey
from segweave.errors import ConfigError, DataError
from segweave.tasks.task import Task

_NEAR = 3
"""Bits of 64 in which the gradients of two pictures that look alike differ at most, as in `check`."""
_FLAT = 8
"""Set bits, or unset ones, below which a picture has hardly any structure, which many share."""


@dataclass(frozen=True)
class Split:
    """What `split` wrote.

    Args:
        folder: with a list file per split, and a `config.yaml` that reads them.
        images: the ids, by split.
        groups: how many groups the images make, and how many images the largest has.
        shares: share of the images that have each class, of all and by split: rows (class, share, share, ...).
        notes: what ties images together beside the groups.
        problems: what could not be read; images among it are in no list.
    """

    folder: Path
    images: Mapping[str, Sequence[str]]
    groups: tuple[int, int]
    shares: Sequence[tuple[str, Sequence[float]]]
    notes: Sequence[str]
    problems: Sequence[str]

    def table(self) -> Table:
        """Sizes and class shares for a terminal."""
        total = sum(map(len, self.images.values()))
        table = Table(title=f"{total} images in {self.groups[0]} groups, the largest of {self.groups[1]}")
        table.add_column("share of images with")
        for name in ("all", *self.images):
            table.add_column(name, justify="right")
        table.add_row("images", str(total), *(str(len(ids)) for ids in self.images.values()), end_section=True)
        for name, shares in self.shares:
            table.add_row(name, *(f"{100 * share:.1f} %" for share in shares))
        return table


def split(
    config: Config,
    tasks: Sequence[Task],
    read: Callable[[Config], Dataset],
    out: Path,
    shares: Mapping[str, float],
    *,
    group: str | None = None,
    stratify: str | None = None,
    near: bool = True,
    seed: int = 0,
    workers: int = 0,
    console: Console | None = None,
) -> Split:
    """Deals the images of a data set into splits, and writes list files for `data.splits`; the same ones every time.

    Images with equal pixels, images that look alike (as in `check`: 64 cells rise or fall to the right, at most 3 of
    them otherwise), and images of one group are never in two splits. Groups are dealt by `deal`.

    Args:
        config: checked; its format must have `splits`.
        tasks: of that config, whose labels are counted.
        read: opens all of the data as the split `train` of a config.
        out: the folder; a numbered one beside it where it holds something.
        shares: of the images, by split but for `train`, which has the rest.
        group: `folder` (images of one folder belong together), a column of `data.table` or of the format `table`, or a
            regular expression that is searched in the id: its first group, or all that it matches, is the image's
            group.
        stratify: the task whose classes are shared out; all that have classes by default.
        near: whether images that look alike stay together.
        seed: another one breaks ties otherwise.
        workers: processes that read.
        console: where the progress is shown.

    Raises:
        ConfigError: a format without `splits`, shares out of range, a task without classes, or a pattern that does not
            fit all images.
        DataError: fewer groups than splits.
    """
    _check(config, shares)
    counted = _counted(tasks, stratify)
    dataset = read(_with_splits(config, {}))
    owners = _owners(config, dataset, group)
    records = survey({"": dataset}, counted, workers)
    found = list(track(records, "reading", len(dataset), console=console or Console(quiet=True), transient=True))
    sound = [record for record in found if record.look]
    problems = [error for record in found for error in record.errors]
    keys = [[("pixels", r.look.digest), *([("group", owners[r.id])] if owners else [])] for r in sound if r.look]
    alike = list(look_alikes([r.look.gradient for r in sound if r.look])) if near else []
    for number, pair in enumerate(alike):
        for place in pair:
            keys[place].append(("alike", number))
    member = united(keys)
    names, present = _presence(sound, counted)
    sizes = np.bincount(member)
    parts = ["train", *shares]
    if len(sizes) < len(parts):
        raise DataError(
            f"{config.source}: found {len(sizes)} groups of images; expected {len(parts)} or more, to split"
        )
    counts = np.zeros((len(sizes), present.shape[1]), np.int64)
    np.add.at(counts, member, present)
    dealt = deal(sizes, counts, [1 - sum(shares.values()), *shares.values()], seed)[member]
    images = {
        part: [r.id for r, at in zip(sound, dealt, strict=True) if at == place] for place, part in enumerate(parts)
    }
    rows = [(name, _shares(present[:, place], dealt, len(parts))) for place, name in enumerate(names)]
    notes = _ties(sound, alike)
    folder = _write(config, dataset, images, out)
    return Split(folder, images, (len(sizes), int(sizes.max())), rows, notes, problems)


def _with_splits(config: Config, splits: Mapping[str, str]) -> Config:
    data = {key: value for key, value in config.data.items() if key != "split_column"}
    return replace(config, data=data | {"splits": splits})


def _check(config: Config, shares: Mapping[str, float]) -> None:
    """Raises ConfigError."""
    if "sets" in config.data or "splits" not in FORMATS.options(config.data["format"]):
        found = "several data sets" if "sets" in config.data else f"format {config.data['format']!r}"
        raise ConfigError(
            f"{config.source}: data: found {found}; expected folder or table: run `segweave data convert`"
        )
    if "{split}" in str(config.data.get("images")):
        raise ConfigError(
            f"data.images: found {config.data['images']!r}; expected a pattern with * for {{split}}; where ids are "
            f"twice then, run `segweave data convert` first"
        )
    if not all(0 < share < 1 for share in shares.values()) or not 0 < sum(shares.values()) < 1:
        found = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ConfigError(f"found the shares {found}; expected each above 0, and less than 1 together")


def _counted(tasks: Sequence[Task], stratify: str | None) -> list[Task]:
    """The tasks whose classes count."""
    named = [task for task in tasks if getattr(task, "classes", None)]
    if stratify is None:
        return named
    chosen = [task for task in named if task.name == stratify]
    if not chosen:
        raise ConfigError(
            f"--stratify: found {stratify!r}; expected a task with classes: {', '.join(task.name for task in named)}"
        )
    return chosen


def _owners(config: Config, dataset: Dataset, group: str | None) -> dict[str, str]:
    """The group of each image; empty where none are asked for."""
    if group is None:
        return {}
    if group == "folder":
        return {id: str(path.parent) for id, path in _paths(dataset).items()}
    file = config.data.get("table") or config.data.get("file")
    if file is not None:
        table = layout.Table(Path(config.data["root"]), file)
        if group in table.columns:
            options = FORMATS.options(config.data["format"])
            key = "image" if "image" in options else "images"
            pattern = config.data.get(key, options[key][1])
            if table.fills(pattern):
                table.images(pattern)
            owners = {id: table.rows[line][group] for id, line in table.lines(dataset.ids).items()}
            return _of_all(dataset, {id: owner for id, owner in owners.items() if owner}, f"column {group!r}")
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ConfigError(
            f"--group: found {group!r}; expected folder, a column or a regular expression: {error}"
        ) from None
    matches = {id: match for id in dataset.ids if (match := pattern.search(id))}
    return _of_all(dataset, {id: match[min(1, pattern.groups)] or "" for id, match in matches.items()}, f"{group!r}")


def _of_all(dataset: Dataset, owners: dict[str, str], what: str) -> dict[str, str]:
    missing = [id for id in dataset.ids if id not in owners]
    if missing:
        raise ConfigError(
            f"--group: {what} says nothing of {len(missing)} of {len(dataset)} images, such as {missing[0]!r}; "
            f"expected a group for each"
        )
    return owners


def look_alikes(gradients: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of places whose 64 bits differ in at most three, but for pictures with hardly any structure.

    Of four parts of 16 bits, at least one is the same then: only such pairs are compared.
    """
    seen = set()
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, bits in enumerate(gradients):
        if _FLAT <= bits.bit_count() <= 64 - _FLAT:
            for part in range(4):
                alike[part, bits >> 16 * part & 0xFFFF].append(place)
    for places in alike.values():
        for one, two in combinations(places, 2):
            if (one, two) not in seen and (gradients[one] ^ gradients[two]).bit_count() <= _NEAR:
                seen.add((one, two))
                yield one, two


def united(keys: Sequence[Iterable[Hashable]]) -> Int[np.ndarray, " N"]:
    """Numbers 0, 1, ... of the sets into which places fall that share a key, directly or by way of others."""
    parent = list(range(len(keys)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[Hashable, int] = {}
    for place, own in enumerate(keys):
        for key in own:
            parent[root(place)] = root(first.setdefault(key, place))
    return np.unique([root(place) for place in range(len(keys))], return_inverse=True)[1].reshape(-1)


def _presence(records: Sequence[Record], tasks: Sequence[Task]) -> tuple[list[str], Int[np.ndarray, "N L"]]:
    """Which classes are on which images, and which images have a label at all where not all have one."""
    names, columns = [], []
    for task in tasks:
        labels = [record.labels.get(task.name) for record in records]
        if None in labels:
            names.append(f"{task.name}: a label")
            columns.append([label is not None for label in labels])
        for name in getattr(task, "names", None) or task.classes:  # pyright: ignore[reportAttributeAccessIssue]
            names.append(f"{task.name}: {name}")
            columns.append([label is not None and label.counts.get(name, 0) > 0 for label in labels])
    return names, np.array(columns, np.int64).reshape(len(names), len(records)).T


def _shares(present: Int[np.ndarray, " N"], dealt: Int[np.ndarray, " N"], splits: int) -> list[float]:
    return [float(present.mean()), *(float(present[dealt == place].mean()) for place in range(splits))]


def _ties(records: Sequence[Record], alike: Sequence[tuple[int, int]]) -> list[str]:
    copies = Counter(record.look.digest for record in records if record.look)
    equal = sum(count for count in copies.values() if count > 1)
    near = len({place for pair in alike for place in pair})
    return [
        *([f"{equal} images have the pixels of another one: copies are kept in one split"] if equal else []),
        *([f"{near} images look almost like another one: they are kept in one split (--no-near)"] if near else []),
    ]


def _paths(dataset: Dataset) -> dict[str, Path]:
    paths = {id: dataset.file(index) for index, id in enumerate(dataset.ids)}
    return {id: path for id, path in paths.items() if path is not None}


def _write(config: Config, dataset: Dataset, images: Mapping[str, Sequence[str]], out: Path) -> Path:
    """The list files and the config; raises ConfigError where they cannot be written."""
    root, paths = Path(config.data["root"]), _paths(dataset)
    folder = new_folder(out)
    lists = {part: os.path.relpath(folder / f"{part}.txt", root) for part in images}
    sections = _with_splits(config, lists).sections()
    try:
        for part, ids in images.items():
            lines = [f"{_line(paths[id], root)}\n" for id in ids]
            (folder / f"{part}.txt").write_text("".join(lines), encoding="utf-8")
        text = yaml.dump({name: section for name, section in sections.items() if section})
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    return folder


def _line(path: Path, root: Path) -> str:
    """An image's path from the root's own name on, which fits no second image; elsewhere the whole path."""
    below = os.path.relpath(path, root)
    return (path if below.startswith("..") else Path(root.name, below)).as_posix()
