"""Boxes in COCO's JSON: the annotations of a whole split in one file, and predictions as a list of results."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32

from segweave.errors import DataError
from segweave.json_file import read_json
from segweave.tasks.boxes import Boxes
from segweave.tasks.semantic import SUFFIXES
from segweave.tasks.task import Prediction

_SUFFIXES = SUFFIXES | {".webp"}


@dataclass(frozen=True)
class Annotations:
    """A reader of the boxes by image file name, each image's file name by its id, and the category id of each class.

    A class that the file does not know has a negative category id.
    """

    boxes: Mapping[str, Callable[[], Boxes]]
    images: Mapping[int | str, str]
    categories: Sequence[int]


def read_annotations(
    path: Path,
    task: str,
    classes: Sequence[str],
    *,
    named: bool,
    numbers: Sequence[int],
    ignore: Sequence[str] | Literal["others"],
) -> Annotations:
    """Reads `images`, `annotations` and `categories`; an image without annotations has no objects.

    Args:
        named: whether the classes have names to be looked up among the file's categories.
        numbers: category ids of the classes, for those whose name no category has. Without names and numbers the
            classes are the file's categories in the order of their ids.
        ignore: categories to leave out; `others` for all that are no class.

    Raises:
        DataError: no JSON, a part that is missing, or a category outside the classes.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise DataError(f"{path}: expected COCO annotations, an object with images, annotations and categories")
    if not isinstance(content["annotations"], list):
        raise DataError(f"{path}: annotations: found {content['annotations']!r:.40}; expected a list")
    names = {id: str(item.get("name")) for id, item in _entries(path, content, "categories").items()}
    index = _indices(path, task, classes, names, named, numbers)
    images = _entries(path, content, "images")
    rows, strays = _rows(path, content["annotations"], images, index)
    wrong = {} if ignore == "others" else {names.get(id, f"id {id}"): n for id, n in strays.items()}
    wrong = {name: n for name, n in wrong.items() if name not in ignore}
    if wrong:
        name, count = next(iter(wrong.items()))
        raise DataError(
            f"{path}: category {name!r} ({count} boxes) outside the classes of task {task!r} ({', '.join(classes)}); "
            f"add it to tasks.{task}.classes or tasks.{task}.ignore (`others` for all of them)"
        )
    boxes: dict[str, Callable[[], Boxes]] = {}
    for id, item in images.items():
        name = str(item.get("file_name"))
        if name in boxes:
            raise DataError(f"{path}: found two images {name!r}, id {id} is the second one; expected each once")
        # arrays, because a process that is sent many thousands of tensors runs out of file handles
        table = np.array(rows.get(id, ()), np.float32).reshape(-1, 7)
        boxes[name] = partial(_boxes, table, _size(path, item))
    ids = {position: id for id, position in index.items()}
    known = {id: str(item.get("file_name")) for id, item in images.items()}
    return Annotations(boxes, known, [ids.get(position, -1 - position) for position in range(len(classes))])


def _entries(path: Path, content: Mapping[str, Any], part: str) -> dict[Any, Mapping[str, Any]]:
    """The entries of a list by their id."""
    try:
        return {item["id"]: item for item in content[part]}
    except (TypeError, KeyError):
        raise DataError(f"{path}: {part}: expected a list of objects, each with an id") from None


def _indices(
    path: Path, task: str, classes: Sequence[str], names: Mapping[Any, str], named: bool, numbers: Sequence[int]
) -> dict[Any, int]:
    """The class of each category id."""
    if not named and not numbers:
        if len(names) != len(classes):
            raise DataError(
                f"{path}: found {len(names)} categories, {', '.join(list(names.values())[:8])}; expected "
                f"{len(classes)}: name those that are wanted in tasks.{task}.classes"
            )
        return {id: position for position, id in enumerate(sorted(names, key=lambda id: (isinstance(id, str), id)))}
    index = {id: classes.index(name) for id, name in names.items() if name in classes}
    taken = set(index.values())
    for position, id in enumerate(numbers):
        if position not in taken and id in names and id not in index:
            index[id] = position
    if not index:
        raise DataError(
            f"{path}: has no category of task {task!r}; found {', '.join(list(names.values())[:8]) or 'none'}, "
            f"expected some of {', '.join(classes)}"
        )
    return index


def _rows(
    path: Path, annotations: Sequence[Any], images: Mapping[Any, Any], index: Mapping[Any, int]
) -> tuple[dict[Any, list[list[float]]], Counter[Any]]:
    """Rows x1 y1 x2 y2 class crowd area by image id, and how many boxes other categories have."""
    rows: dict[Any, list[list[float]]] = defaultdict(list)
    strays: Counter[Any] = Counter()
    for item in annotations:
        try:
            category, owner, box = item.get("category_id"), item.get("image_id"), item.get("bbox")
            if owner not in images:
                raise DataError(f"{path}: annotation {item.get('id')}: image_id {owner} is none of its images")
            if category not in index:
                strays[category] += 1
                continue
            left, top, width, height = map(float, box)
            area = float(item.get("area") or width * height)
        except (AttributeError, TypeError, ValueError, OverflowError):
            found = item.get("id") if isinstance(item, dict) else item
            shown = f"bbox {item.get('bbox')}, area {item.get('area')}" if isinstance(item, dict) else "no object"
            raise DataError(
                f"{path}: annotation {found}: {shown}; expected bbox [left, top, width, height] and numbers"
            ) from None
        crowd = float(bool(item.get("iscrowd", 0)))
        rows[owner].append([left, top, left + width, top + height, index[category], crowd, area])
    return rows, strays


def _size(path: Path, image: Mapping[str, Any]) -> tuple[int, int]:
    sides = height, width = image.get("height"), image.get("width")
    if not all(
        (isinstance(side, int) or (isinstance(side, float) and side.is_integer())) and side >= 1 for side in sides
    ):
        raise DataError(
            f"{path}: image {image.get('file_name')!r}: found height {height}, width {width}; expected both"
        )
    return int(height or 0), int(width or 0)


def _boxes(rows: Float32[np.ndarray, "N 7"], size: tuple[int, int]) -> Boxes:
    return Boxes.of(torch.from_numpy(rows), size)


def append_results(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Adds entries to a JSON list, which is whole again after each call; the file is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(result, ensure_ascii=False) for result in results)
    if not path.exists():
        path.write_text("[]\n", encoding="utf-8")
    if not lines:
        return
    with path.open("rb+") as file:
        file.seek(-min(8, file.seek(0, os.SEEK_END)), os.SEEK_END)
        tail = file.read()
        kept = tail[: tail.rindex(b"]")].rstrip()
        file.seek(len(kept) - len(tail), os.SEEK_END)
        file.write(f"{',' if kept != b'[' else ''}\n{lines}\n]\n".encode())
        file.truncate()


def read_results(
    path: Path, task: str, classes: Sequence[str], number: Mapping[int, int], images: Mapping[Any, str]
) -> Results:
    """Boxes by image, of a list of results or of an object with such `annotations`.

    Args:
        number: index of a class by category id.
        images: file names by image id; an image that is not among them is called by its id.

    Raises:
        DataError: no JSON, or an entry that lacks a part or has a category outside the classes.
    """
    content = read_json(path)
    entries, named = content, dict(images)
    rows: dict[str, list[list[float]]] = {}
    if isinstance(content, dict):
        entries = content.get("annotations")
        listed = _entries(path, content, "images") if "images" in content else {}
        named |= {id: str(image.get("file_name")) for id, image in listed.items()}
        rows = {_name(named[id]): [] for id in listed}
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected COCO results, a list of image_id, category_id, bbox and score")
    for place, entry in enumerate(entries):
        try:
            name = entry.get("category")
            label = classes.index(name) if name in classes else number[entry.get("category_id")]
            owner = entry.get("file_name") or named.get(entry["image_id"], entry["image_id"])
            left, top, width, height = map(float, entry["bbox"])
            row = [left, top, left + width, top + height, float(entry["score"]), float(label)]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise DataError(
                f"{path}: entry {place}: found {json.dumps(entry)[:120]}; expected image_id, bbox [left, top, width, "
                f"height], score, and a category_id or category of task {task!r}"
            ) from None
        rows.setdefault(_name(str(owner)), []).append(row)
    return Results({name: partial(_prediction, of_image) for name, of_image in rows.items()})


class Results(dict[str, Callable[[], Prediction]]):
    """Readers by image. A list says nothing of an image where nothing was found: `get` answers with no boxes."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002
        return super().get(key, partial(_prediction, ()))


def _prediction(rows: Sequence[Sequence[float]]) -> Prediction:
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return {"boxes": table[None, :, :4], "scores": table[None, :, 4], "labels": table[None, :, 5].long()}


def _name(file: str) -> str:
    """An image's name as data sets have it: `/` between folders, no suffix, composed characters."""
    name, suffix = os.path.splitext(unicodedata.normalize("NFC", file.replace("\\", "/")))
    return name.removeprefix("./") if suffix.lower() in _SUFFIXES else (name + suffix).removeprefix("./")
