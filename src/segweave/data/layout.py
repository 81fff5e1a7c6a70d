"""Where the files of a data set lie: listings, patterns, list files and tables."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from segweave.errors import ConfigError, DataError

Named = TypeVar("Named")
RASTERS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".npy"})
"""Suffixes, in lower case, of the files that `rasters` reads."""


def list_files(folder: Path, suffixes: Collection[str] = RASTERS) -> list[str]:
    """Files below a folder with one of the suffixes in any case, sorted, as `/` paths relative to it.

    Links to folders are followed, each folder once. Hidden files and folders (`.DS_Store`, `._x.png`) and `__MACOSX`
    are left out. Raises DataError where a folder cannot be listed.
    """
    found, seen = [], set()

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from None

    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(place)
        known = (status.st_dev, status.st_ino) in seen
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [] if known else [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        names = [] if known else [name for name in files if not name.startswith(".") and suffix_of(name) in suffixes]
        found += [Path(place, name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def new_folder(out: Path) -> Path:
    """Makes `out`, or the first numbered folder beside it where that holds something already.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        for number in range(1, 10_000):
            folder = out if number == 1 else out.with_name(f"{out.name}-{number}")
            folder.mkdir(parents=True, exist_ok=True)
            if not any(folder.iterdir()):
                return folder
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made ({error.strerror}); choose another output folder") from None
    raise ConfigError(f"{out}: 10000 folders of that name hold something; choose another output folder")


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def without_suffix(name: str, suffixes: Collection[str] = RASTERS) -> str:
    """`a/x.v1.PNG` to `a/x.v1`; a name that ends in no known suffix stays as it is. Unicode is normalised to NFC."""
    name = unicodedata.normalize("NFC", name)
    return os.path.splitext(name)[0] if suffix_of(name) in suffixes else name


def last(id: str) -> str:
    return id.rpartition("/")[2]


def examples(found: Iterable[str], ids: Iterable[str], noun: str) -> str:
    """Two names of each side, for messages: what does not fit is best seen side by side."""
    theirs, ours = (", ".join(map(repr, sorted(names)[:2])) for names in (found, ids))
    return f"{noun} are called {theirs}; images {ours}"


def regex(pattern: str, stem: str | None = None) -> re.Pattern[str]:
    """A file pattern as a regular expression; `{stem}` is a group of that name, or the given text."""
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    stem_text = "(?P<stem>.+?)" if stem is None else re.escape(stem)
    text, suffix = os.path.splitext(pattern)
    parts = []
    for part in re.split(r"(\*\*/|\*\*|\*|\{stem\})", unicodedata.normalize("NFC", text)):
        if part == "{stem}":
            parts.append("(?P=stem)" if stem is None and stem_text in parts else stem_text)
        else:
            parts.append(known.get(part, re.escape(part)))
    ending = "".join(known.get(part, re.escape(part)) for part in re.split(r"(\*)", suffix))
    return re.compile(f"{''.join(parts)}(?i:{ending})", re.DOTALL)


def by_id(base: Path, pattern: str, suffixes: Collection[str], where: str) -> dict[str, Path]:
    """Files below `base` that fit a pattern (all of them for ""), by `{stem}` or by their path without suffix.

    Raises:
        DataError: two files of one id.
    """
    found: dict[str, Path] = {}
    fits = regex(pattern) if pattern else None
    for name in list_files(base, suffixes):
        match = fits.fullmatch(unicodedata.normalize("NFC", name)) if fits else None
        if fits and not match:
            continue
        id = match["stem"] if match and "{stem}" in pattern else without_suffix(name, suffixes)
        if id in found:
            raise DataError(
                f"{base / name}: {found[id].name} has the same name {id!r}; expected one file per image: say which in "
                f"{where}, such as '{base.name}/*{os.path.splitext(name)[1]}'"
            )
        found[id] = base / name
    return found


def by_end(names: Iterable[str], ids: Collection[str]) -> dict[str, str]:
    """For every id the name that ends in it, with more folders before it or none; no name where several do.

    A name belongs to the longest id that it ends in, and one that is equal to an id to that one alone.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        id = next((end for end in ends if end in ids), None)
        if id is not None:
            found.setdefault(id, []).append(name)
    return {id: id if id in owned else owned[0] for id, owned in found.items() if id in owned or len(owned) == 1}


def by_last(files: Mapping[str, Named], ids: Collection[str]) -> dict[str, Named]:
    """Files by the last part of the path alone, where that is unique: images in folders, labels in one."""
    theirs, ours = (Counter(map(last, names)) for names in (files, ids))
    single = {last(key): path for key, path in files.items() if theirs[last(key)] == 1}
    return {id: single[last(id)] for id in ids if ours[last(id)] == 1 and last(id) in single}


def by_owner(base: Path, pattern: str, suffixes: Collection[str], ids: Collection[str]) -> dict[str, list[Path]]:
    """Files below `base` that fit a pattern with `{stem}`, by id; a file belongs to the longest id that fits."""
    found: dict[str, list[Path]] = {}
    plain = "*" not in pattern
    text, suffix = os.path.splitext(pattern)
    exact = {text.replace("{stem}", id) + suffix.lower(): id for id in ids} if plain else {}
    before = unicodedata.normalize("NFC", pattern.partition("{stem}")[0])
    for name in list_files(base, suffixes):
        normal = unicodedata.normalize("NFC", name)
        if plain:
            head, tail = os.path.splitext(normal)
            owner = exact.get(head + tail.lower())
        else:
            fixed = "*" not in before
            starts = range(len(before), len(before) + normal.startswith(before)) if fixed else range(len(normal))
            cuts = ((end - start, normal[start:end]) for start in starts for end in range(start + 1, len(normal) + 1))
            candidates = sorted((size, id) for size, id in cuts if id in ids)
            owner = next((id for _, id in reversed(candidates) if regex(pattern, id).fullmatch(normal)), None)
        if owner is not None:
            found.setdefault(owner, []).append(base / name)
    return found


def read_list(path: Path, pool: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """The ids that a list file names, and its lines that name none; of a line, the end of the path decides.

    Raises:
        ConfigError: it cannot be read.
        DataError: a line that fits two images, or no line that fits any.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.splits: {path}: cannot be read as a list of images: {error}") from None
    ends: dict[str, set[tuple[str, str]]] = {}
    for id, file in pool.items():
        for form in (id, without_suffix(file.as_posix())):
            ends.setdefault(last(form), set()).add((form, id))

    def find(entry: str) -> str | None:
        wanted = without_suffix(entry.strip().strip("\"'").replace("\\", "/")).split("/")[::-1]
        scores: dict[str, int] = {}
        for form, id in ends.get(wanted[0], ()):
            pairs = zip(wanted, form.split("/")[::-1], strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            scores[id] = max(scores.get(id, 0), same)
        best = sorted(id for id, score in scores.items() if score == max(scores.values()))
        if len(best) > 1:
            raise DataError(f"{path}: {entry!r} may be {best[0]!r} or {best[1]!r}; write its path with more folders")
        return best[0] if best else None

    found, missing = dict[str, None](), list[str]()
    for line in lines:
        # a name may hold spaces, and a line may go on with the name of the mask
        entries = dict.fromkeys([line, re.split(r"[\t,;]", line)[0], line.split()[0]])
        id = next((id for id in map(find, entries) if id is not None), None)
        if id is not None:
            found[id] = None
        elif not line.startswith("#"):
            missing.append(line)
    if not found:
        raise DataError(f"{path}: none of its {len(missing)} lines names an image; {examples(missing, pool, 'lines')}")
    return list(found), missing


class Table:
    """A CSV or TSV file with a header, an image a row.

    Raises:
        DataError: it cannot be read, or has no rows.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.path = root, root / name
        self.columns: list[str] = []
        self.rows: dict[int, dict[str, str]] = {}
        self._own: dict[str, int] = {}
        try:
            text = self.path.read_text(encoding="utf-8-sig")
            header = text.split("\n", 1)[0]
            delimiter = "\t" if suffix_of(name) == ".tsv" else max(",;\t", key=header.count)
            reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not self.columns:
                    self.columns = cells
                    if twice := [name for name in cells if name and cells.count(name) > 1]:
                        raise DataError(f"{self.path}: found two columns {twice[0]!r}; expected each name once")
                elif any(cells):
                    if any(cells[len(self.columns) :]):
                        raise DataError(
                            f"{self.path}: line {reader.line_num}: found {len(cells)} cells; expected "
                            f"{len(self.columns)}, as the header has: put quotes around a cell with {delimiter!r} in it"
                        )
                    cells += [""] * len(self.columns)
                    self.rows[reader.line_num] = dict(zip(self.columns, cells, strict=False))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.path}: cannot be read as a table: {error}") from None
        if not self.rows:
            raise DataError(f"{self.path}: found no rows; expected a header and a row per image")

    def fills(self, pattern: str) -> bool:
        """Whether a pattern is a column, or has `{column}` in it."""
        return pattern in self.columns or any(f"{{{c}}}" in pattern for c in self.columns if c not in ("stem", "split"))

    def _cell(self, pattern: str, number: int) -> str:
        row = self.rows[number]
        if pattern in self.columns:
            return row[pattern]
        used = [column for column in self.columns if f"{{{column}}}" in pattern]
        for column in used:
            pattern = pattern.replace(f"{{{column}}}", row[column])
        return pattern if all(row[column] for column in used) else ""

    def _file(self, pattern: str, number: int) -> Path:
        cell = self._cell(pattern, number)
        for path in (self.root / cell, self.path.parent / cell):
            if path.is_file():
                return path
        raise DataError(
            f"{self.path}: line {number}, {pattern!r}: no file {cell!r}; expected a file's path relative to {self.root}"
        )

    def images(self, pattern: str) -> dict[str, Path]:
        """Image files by id. Raises DataError for a file that is missing or in two rows."""
        found: dict[str, Path] = {}
        for number in self.rows:
            if not self._cell(pattern, number):
                continue
            path = self._file(pattern, number)
            relative = os.path.relpath(path, self.root)
            id = without_suffix(path.name if relative.startswith("..") else Path(relative).as_posix())
            if id in found:
                raise DataError(f"{self.path}: lines {self._own[id]} and {number} are both of {id!r}; expected one")
            found[id], self._own[id] = path, number
        return found

    def lines(self, ids: Collection[str]) -> dict[str, int]:
        """The line of each image: of the column that names most of the images unless images came from the table."""
        if self._own:
            return {id: self._own[id] for id in ids if id in self._own}
        short = Counter(map(last, ids))
        names = {last(id): id for id in ids if short[last(id)] == 1} | {id: id for id in ids}
        best: dict[str, list[int]] = {}
        for column in self.columns:
            found: dict[str, list[int]] = {}
            for number, row in self.rows.items():
                cell = without_suffix(row[column].replace("\\", "/"))
                id = names.get(cell) or names.get(last(cell))
                if id is not None:
                    found.setdefault(id, []).append(number)
            best = max(best, found, key=len)
        for id, numbers in best.items():
            if len(numbers) > 1:
                raise DataError(f"{self.path}: lines {numbers[0]} and {numbers[1]} are both of {id!r}; expected one")
        return {id: number for id, (number,) in best.items()}

    def matching(self, rule: str, ids: Collection[str]) -> list[str]:
        """The images whose row says `column=value`."""
        column, _, value = rule.partition("=")
        return [id for id, number in self.lines(ids).items() if self.rows[number][column] == value.strip()]

    def labels(self, pattern: str, ids: Collection[str], as_text: bool) -> dict[str, Path | str]:
        """Non-empty cells by image, as text or as files. Raises DataError for a file that is missing."""
        found: dict[str, Path | str] = {}
        for id, number in self.lines(ids).items():
            filled = pattern.replace("{stem}", id)
            if self._cell(filled, number):
                is_text = as_text and pattern in self.columns
                found[id] = self._cell(filled, number) if is_text else self._file(filled, number)
        return found
