"""Boxes in COCO's JSON: the annotations of a whole split in one file, and predictions as a list of results."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from segweave.errors import DataError
from segweave.tasks.boxes import Boxes


@dataclass(frozen=True)
class Annotations:
    """A file's boxes by image file name, the id of each image in it, and the category id of each class."""

    boxes: Mapping[str, Boxes]
    images: Mapping[int | str, str]
    categories: Sequence[int]


def read_annotations(
    path: Path, task: str, classes: Sequence[str], named: bool, ignore: Sequence[str] | Literal["others"]
) -> Annotations:
    """Reads `images`, `annotations` and `categories`; an image without annotations has no objects.

    Args:
        named: whether the classes have names that a file's categories must carry; else they are its categories in the
            order of their ids.
        ignore: categories to leave out; `others` for all that are no class.

    Raises:
        DataError: no JSON, a part that is missing, or a category outside the classes.
    """
    content = _parse(path)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise DataError(f"{path}: expected COCO annotations, an object with images, annotations and categories")
    names = {item.get("id"): str(item.get("name")) for item in content["categories"]}
    ordered = [names[id] for id in sorted(names)] if not named else list(classes)
    if not named and len(ordered) != len(classes):
        raise DataError(
            f"{path}: found {len(names)} categories, {', '.join(ordered[:8])}; expected {len(classes)}: name those "
            f"that are wanted in tasks.{task}.classes"
        )
    index = {id: ordered.index(name) for id, name in names.items() if name in ordered}
    images = {item.get("id"): item for item in content["images"]}
    rows: dict[Any, list[list[float]]] = defaultdict(list)
    strays: Counter[str] = Counter()
    for item in content["annotations"]:
        category, owner = item.get("category_id"), item.get("image_id")
        if owner not in images:
            raise DataError(f"{path}: annotation {item.get('id')}: image_id {owner} is none of its images")
        if category not in index:
            strays[names.get(category, f"id {category}")] += 1
            continue
        box = item.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{path}: annotation {item.get('id')}: bbox {box}; expected [left, top, width, height]")
        left, top, width, height = (float(value) for value in box)
        crowd = float(bool(item.get("iscrowd", 0)))
        area = float(item.get("area") or width * height)
        rows[owner].append([left, top, left + width, top + height, index[category], crowd, area])
    wrong = {} if ignore == "others" else {name: n for name, n in strays.items() if name not in ignore}
    if wrong:
        name, count = next(iter(wrong.items()))
        raise DataError(
            f"{path}: category {name!r} ({count} boxes) outside the classes of task {task!r} ({', '.join(classes)}); "
            f"add it to tasks.{task}.classes or tasks.{task}.ignore (`others` for all of them)"
        )
    boxes = {str(item.get("file_name")): _boxes(path, item, rows[id]) for id, item in images.items()}
    ids = {position: id for id, position in index.items()}
    return Annotations(
        boxes,
        {id: str(item.get("file_name")) for id, item in images.items()},
        [ids.get(position, -1) for position in range(len(classes))],
    )


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None


def _boxes(path: Path, image: Mapping[str, Any], rows: Sequence[Sequence[float]]) -> Boxes:
    height, width = image.get("height"), image.get("width")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise DataError(
            f"{path}: image {image.get('file_name')!r}: found height {height}, width {width}; expected both"
        )
    return Boxes.of(torch.tensor(rows, dtype=torch.float32).reshape(-1, 7), (height, width))


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
    path: Path, task: str, classes: Sequence[str], number: Mapping[int, int], key: Callable[[Any], str]
) -> dict[str, list[list[float]]]:
    """Rows x1 y1 x2 y2 score label by image, of a list of results or of an object with such `annotations`.

    Args:
        number: index of a class by category id.
        key: an image's name by what the file calls it.

    Raises:
        DataError: no JSON, or an entry that lacks a part or has a category outside the classes.
    """
    content = _parse(path)
    entries = content.get("annotations") if isinstance(content, dict) else content
    named = {i.get("id"): i.get("file_name") for i in content.get("images", ())} if isinstance(content, dict) else {}
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected COCO results, a list of image_id, category_id, bbox and score")
    found: dict[str, list[list[float]]] = {str(name): [] for name in named.values()}
    for place, entry in enumerate(entries):
        name = entry.get("category")
        label = classes.index(name) if name in classes else number.get(entry.get("category_id"), -1)
        box, score, image = entry.get("bbox"), entry.get("score"), entry.get("image_id")
        if (
            label < 0
            or image is None
            or not isinstance(box, list)
            or len(box) != 4
            or not isinstance(score, int | float)
        ):
            raise DataError(
                f"{path}: entry {place}: found {json.dumps(entry)[:120]}; expected image_id, bbox [left, top, width, "
                f"height], score, and a category_id or category of task {task!r}"
            )
        left, top, width, height = (float(value) for value in box)
        owner = entry.get("file_name") or named.get(image) or key(image)
        found.setdefault(str(owner), []).append([left, top, left + width, top + height, float(score), float(label)])
    return found
