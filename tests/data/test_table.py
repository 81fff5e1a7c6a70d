"""A table of files and labels: columns, splits, several labels a cell, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.data.table import Tabular
from segweave.errors import ConfigError, DataError
from segweave.tasks import Classification, Detection, Semantic
from segweave.tasks.task import Task

SUFFIXES = ("bmp", "gif", "tif", "png", "jpg", "tiff")


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (8, 10, 3), np.uint8)


def tasks() -> list[Task]:
    marks = Classification("marks", classes=["red", "old"], multi_label=True)
    return [Semantic("mask", classes=3), Classification("kind", classes=["cat", "dog"]), marks]


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    (root / "photos").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = ["number\tfile\tmask\tkind\tred\told\tpart"]
    for number in range(12):
        suffix = SUFFIXES[number % len(SUFFIXES)]
        name = f"photos/{number:02}.{suffix}"
        image = Image.fromarray(pixels(number))
        (image.quantize(16) if suffix == "gif" else image).save(root / name)
        mask = f"masks/{number}.png" if number % 4 else ""
        if mask:
            labels = np.random.default_rng(number).integers(0, 3, (8, 10), np.uint8)
            Image.fromarray(labels).save(root / mask)
        kind, red, old = ("cat", "dog", "")[number % 3], *(("1", "0"), ("0", "0"), ("", ""))[number // 2 % 3]
        part = ("train", "Training", "valid", "test")[number % 4]
        rows.append("\t".join([str(number), name, mask, kind, red, old, part]))
    (root / "labels.tsv").write_text("\n".join(rows))
    options = {"root": str(root), "file": "labels.tsv", "image": "file", "split_column": "part"}
    return options | {"tasks": {"mask": "mask", "kind": "kind", "marks": ["red", "old"]}}, tasks()


def small(root: Path, text: str, count: int = 4) -> Path:
    """Images a0.png to a3.png beside a table `t.csv` of that text."""
    root.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(pixels(number)).save(root / f"a{number}.png")
    (root / "t.csv").write_text(text)
    return root


def read(root: Path, task: Task, split: str = "train", **options: Any) -> list[list[float] | float | None]:
    """The labels of all images of a split; all images train where nothing else is said."""
    options = {"splits": {}} | options
    data = Tabular(split, [task], root=str(root), file="t.csv", **options)
    labels = [data.annotation(index, task.name) for index in range(len(data))]
    return [None if label is None else label.tolist() for label in labels]


def test_the_table_says_where_everything_is(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    ids = {split: Tabular(split, readers, **options).ids for split in ("train", "val", "test")}
    assert ids == {
        "train": [f"photos/{number:02}" for number in (0, 1, 4, 5, 8, 9)],
        "val": [f"photos/{number:02}" for number in (2, 6, 10)],
        "test": [f"photos/{number:02}" for number in (3, 7, 11)],
    }
    data = Tabular("train", readers, **options)
    for index, number in enumerate((0, 1, 4, 5, 8, 9)):
        sample = data[index]
        if SUFFIXES[number % 6] in ("bmp", "tif", "png", "tiff"):  # lossless
            assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), pixels(number))
        assert sample.image.shape == (3, 8, 10)
        mask = sample.annotations.get("mask")
        assert (mask is None) == (number % 4 == 0)
        if mask is not None:
            assert np.array_equal(mask.numpy(), np.random.default_rng(number).integers(0, 3, (8, 10), np.uint8))
    assert [int(label) if (label := data.annotation(i, "kind")) is not None else None for i in range(6)] == [
        0, 1, 1, None, None, 0,
    ]  # fmt: skip
    marks = [data.annotation(i, "marks") for i in range(6)]
    assert [None if mark is None else mark.tolist() for mark in marks] == [[1, 0], [1, 0], None, None, [0, 0], [0, 0]]


def test_columns_of_zero_and_one_are_classes_by_name_else_in_order(tmp_path: Path) -> None:
    root = small(tmp_path, "image,old,red\na0.png,1,0\na1.png,0,0\na2.png,true,1.0\na3.png,,\n")
    task = Classification("marks", classes=["red", "old"], multi_label=True)
    assert read(root, task, tasks={"marks": ["old", "red"]}) == [[0, 1], [0, 0], [1, 1], None]
    other = Classification("marks", classes=["x", "y"], multi_label=True)
    assert read(root, other, tasks={"marks": ["old", "red"]}) == [[1, 0], [0, 0], [1, 1], None]


def test_one_of_several_columns_is_a_single_class(tmp_path: Path) -> None:
    root = small(tmp_path, "image,cat,dog\na0.png,1,0\na1.png,0,1\na2.png,,\na3.png,1,1\n")
    task = Classification("kind", classes=["cat", "dog"])
    with pytest.raises(DataError, match=r"t\.csv: image 'a3': label 'cat;dog' is not a class"):
        read(root, task, tasks={"kind": ["cat", "dog"]})
    (root / "t.csv").write_text("image,cat,dog\na0.png,1,0\na1.png,0,1\na2.png,,\n")
    assert read(root, task, tasks={"kind": ["cat", "dog"]}) == [0, 1, None]


def test_several_labels_in_a_cell(tmp_path: Path) -> None:
    task = Classification("marks", classes=["red", "old"], multi_label=True)
    root = small(tmp_path, "image,marks\na0.png,red old\na1.png,-\na2.png,old\na3.png,\n")
    assert read(root, task, separator=" ") == [[1, 1], [0, 0], [0, 1], None]
    with pytest.raises(DataError, match="image 'a0': label 'red old' is not a class"):
        read(root, task)


def test_cells_fill_patterns(tmp_path: Path) -> None:
    root = small(tmp_path, "id,kind\n0,cat\n2,dog\n")
    assert read(root, Classification("kind", classes=["cat", "dog"]), image="a{id}.png") == [0, 1]


def test_boxes_come_from_one_file(tmp_path: Path) -> None:
    root = small(tmp_path, "image\na0.png\na1.png\n")
    images = [{"id": 1, "file_name": "a1.png", "height": 8, "width": 10}]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (root / "boxes.json").write_text(json.dumps(content))
    found = read(root, Detection("boxes", classes=["cat"]), tasks={"boxes": "boxes.json"})
    assert found == [None, [[1, 2, 4, 6, 0, 0, 12, 1]]]


def test_splits_by_list_by_column_and_by_share(tmp_path: Path) -> None:
    root = small(
        tmp_path, "image,kind,part\n" + "".join(f"a{n}.png,cat,{'use' if n < 30 else 'hold'}\n" for n in range(40)), 40
    )
    task = Classification("kind", classes=["cat", "dog"])
    (root / "some.txt").write_text("a1.png\na2.png\ngone.png\n")

    def ids(split: str, splits: dict[str, str | float] | None) -> set[str]:
        return set(Tabular(split, [task], root=str(root), file="t.csv", splits=splits).ids)

    rules: dict[str, str | float] = {"test": "part=hold", "extra": "some.txt", "val": 0.5}
    parts = {split: ids(split, rules) for split in ("train", "val", "test", "extra")}
    assert parts["test"] == {f"a{n}" for n in range(30, 40)}
    assert parts["extra"] == {"a1", "a2"}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 40
    assert 5 <= len(parts["val"]) <= 23  # of a binomial of 28 and a half, all but one in a thousand
    assert ids("train", None) | ids("val", None) == {f"a{n}" for n in range(40)}
    data = Tabular("extra", [task], root=str(root), file="t.csv", splits=rules)
    assert any("1 lines name no image" in note for note in data.notes)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"image": "photo"}, ConfigError, "data.image: found 'photo'; expected a column of"),
        ({"split_column": "part"}, ConfigError, "data.split_column: found 'part'; expected a column of"),
        ({"splits": {"test": "part=x"}}, ConfigError, "data.splits.test: found 'part'"),
        ({"tasks": {"kind": "sort"}}, ConfigError, "data.tasks.kind: found 'sort'; expected a column of"),
        ({"tasks": {"kind": ["cat", "dog"]}}, ConfigError, "data.tasks.kind: found 'cat'"),
        ({"tasks": {"kind": ["kind"]}}, ConfigError, "1 columns for the 2 classes of task 'kind'"),
        ({"tasks": {"kind": ["kind", "extra"]}}, DataError, "line 2, 'kind': found 'cat'; expected 0 or 1"),
        ({"split_column": "extra"}, DataError, "line 3, 'extra': empty; expected the name of a split"),
        ({"splits": {}, "split_column": "extra"}, ConfigError, "data.splits: found beside data.split_column"),
        ({"file": "gone.csv"}, DataError, "gone.csv: cannot be read as a table"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], said: str, tmp_path: Path) -> None:
    root = small(tmp_path, "image,kind,extra\na0.png,cat,1\na1.png,dog,\n")
    task = Classification("kind", classes=["cat", "dog"])
    with pytest.raises(error) as caught:
        Tabular("train", [task], **{"root": str(root), "file": "t.csv"} | options)
    assert said in str(caught.value)


def test_missing_files_and_rows_twice_are_named(tmp_path: Path) -> None:
    task = Classification("kind", classes=["cat", "dog"])
    root = small(tmp_path, "image,kind\na0.png,cat\na9.png,dog\n")
    with pytest.raises(DataError, match=r"t\.csv: line 3, 'image': no file 'a9\.png'"):
        read(root, task)
    (root / "t.csv").write_text("image,kind\na0.png,cat\na0.png,dog\n")
    with pytest.raises(DataError, match=r"lines 2 and 3 are both of 'a0'"):
        read(root, task)


def test_cells_beside_the_columns_are_refused(tmp_path: Path) -> None:
    task = Classification("kind", classes=["cat", "dog"])
    root = small(tmp_path, "image,note,kind\na0.png,big, tame,cat\n")
    with pytest.raises(DataError, match=r"t\.csv: line 2: found 4 cells; expected 3, as the header has: put quotes"):
        read(root, task)
    (root / "t.csv").write_text('image,note,kind,\na0.png,"big, tame",cat,,\n')
    assert read(root, task) == [0]
    (root / "t.csv").write_text("image,kind,kind\na0.png,cat,dog\n")
    with pytest.raises(DataError, match=r"t\.csv: found two columns 'kind'; expected each name once"):
        read(root, task)


def test_the_fingerprint_follows_a_cell(tmp_path: Path) -> None:
    task = Classification("kind", classes=["cat", "dog"])
    prints = set()
    for kind in ("cat", "dog"):
        root = small(tmp_path, f"image,kind\na0.png,{kind}\na1.png,cat\n")
        prints.add(Tabular("train", [task], root=str(root), file="t.csv", splits={}).fingerprint())
    assert len(prints) == 2
    assert torch.equal(
        Tabular("train", [task], root=str(root), file="t.csv", splits={}).image(0),
        torch.from_numpy(pixels(0)).permute(2, 0, 1),
    )
