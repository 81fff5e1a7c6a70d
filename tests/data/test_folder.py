"""Layouts of data folders as they occur, splits and missing labels."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segweave.data.dataset import Dataset
from segweave.data.folder import Folder
from segweave.data.layout import by_owner, list_files, read_list, regex, without_suffix
from segweave.errors import ConfigError, DataError
from segweave.tasks import Classification, Depth, Semantic
from segweave.tasks.task import Task

MASK = Semantic("mask", classes=200)
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes an 8 x 6 picture per name; a name of `a/b.png:7` is an image of 7s, so that files can be told apart."""

    def write(*names: str, root: Path = tmp_path / "set") -> Path:
        for entry in names:
            name, _, value = entry.partition(":")
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".txt":
                path.write_text(value or "0")
                continue
            pixels = np.full((6, 8), int(value or 0), np.uint8)
            Image.fromarray(pixels).save(path, {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), "PNG"))
        return root

    return write


def read(root: Path, split: str = "train", *tasks: Any, **options: Any) -> Folder:
    options = {"tasks": {"mask": "masks"}, **options}
    return Folder(split, tasks or [MASK], root=str(root), **options)


def values(dataset: Dataset, task: str = "mask") -> dict[str, int | None]:
    """The value that fills each label."""
    labels = {id: dataset.annotation(i, task) for i, id in enumerate(dataset.ids)}
    return {id: None if label is None else int(label.unique()) for id, label in labels.items()}


def everything(root: Path, **options: Any) -> dict[str, int | None]:
    """Labels of all images: `val` takes a share so small that no id falls into it."""
    return values(read(root, "train", splits={"val": 1e-9}, **options))


# Layouts


@pytest.mark.parametrize(
    ("files", "options", "expected"),
    [
        pytest.param(["images/a.jpg", "masks/a.png:1"], {}, {"a": 1}, id="two folders, two suffixes"),
        pytest.param(["images/a.JPG", "masks/a.PNG:1"], {}, {"a": 1}, id="upper-case suffixes"),
        pytest.param(
            ["images/a.JPG", "m/a_gt.PNG:1"],
            {"images": "images/*.jpg", "tasks": {"mask": "m/{stem}_gt.png"}},
            {"a": 1},
            id="upper-case suffixes in a pattern",
        ),
        pytest.param(
            ["x.png", "x_mask.png:1", "y.png", "y_mask.png:2"],
            {"images": ".", "tasks": {"mask": "{stem}_mask.png"}},
            {"x": 1, "y": 2},
            id="masks beside images, told by their pattern",
        ),
        pytest.param(
            ["d/x.jpg", "d/x.png:3"],
            {"images": "d/*.jpg", "tasks": {"mask": "d/{stem}.png"}},
            {"x": 3},
            id="masks beside images, told by their suffix",
        ),
        pytest.param(
            ["x.png", "y.png", "masks/x.png:4"],
            {"images": "."},
            {"x": 4, "y": None},
            id="masks in a folder below the images",
        ),
        pytest.param(
            ["img/c1/c1_1_rgb.png", "img/c2/c2_1_rgb.png", "gt/c1/c1_1_ids.png:5", "gt/c2/c2_1_ids.png:6"],
            {"images": "img/{stem}_rgb.png", "tasks": {"mask": "gt/{stem}_ids.png"}},
            {"c1/c1_1": 5, "c2/c2_1": 6},
            id="sub-folders, and both sides end differently",
        ),
        pytest.param(
            ["s/p1/images/p1.png", "s/p2/images/p2.png", "s/p1/m/one.png:7"],
            {"images": "s/{stem}/images/{stem}.png", "tasks": {"mask": "s/{stem}/m/*.png"}},
            {"p1": 7, "p2": None},
            id="a folder per image",
        ),
        pytest.param(
            ["images/1.png", "images/10.png", "masks/1_z.png:1", "masks/10_z.png:10"],
            {"tasks": {"mask": "masks/{stem}*.png"}},
            {"1": 1, "10": 10},
            id="an id that begins another one",
        ),
        pytest.param(
            ["images/a.b.c.png", "images/a.b.png", "masks/a.b.c.png:3", "masks/a.b.png:2"],
            {},
            {"a.b.c": 3, "a.b": 2},
            id="dots",
        ),
        pytest.param(
            ["images/c1/1.png", "images/c2/1.png", "masks/c1/1.png:1", "masks/c2/1.png:2"],
            {},
            {"c1/1": 1, "c2/1": 2},
            id="one name in two folders",
        ),
        pytest.param(
            ["images/c1/1.png", "images/c2/2.png", "masks/1.png:1", "masks/2.png:2"],
            {},
            {"c1/1": 1, "c2/2": 2},
            id="images in folders, masks in one",
        ),
        pytest.param(
            [
                f"{d}/{n}"
                for d in ("images", "masks")
                for n in ("ä b.png:1", "-dash.png:2", "日本.png:3", "[x].png:4", "50%.png:5")
            ],
            {},
            {"-dash": 2, "50%": 5, "[x]": 4, "ä b": 1, "日本": 3},
            id="odd names",
        ),
        pytest.param(
            ["images/[x] (1).png", "m [1]/[x] (1)_m.png:4"],
            {"tasks": {"mask": "m [1]/{stem}_m*.png"}},
            {"[x] (1)": 4},
            id="odd names in patterns",
        ),
        pytest.param(
            [
                "images/a.png",
                "images/._a.png",
                "images/.hidden/b.png",
                "images/__MACOSX/a.png",
                "masks/a.png:1",
                "masks/._a.png:9",
            ],
            {},
            {"a": 1},
            id="hidden files",
        ),
        pytest.param(
            [unicodedata.normalize("NFD", "images/é.png"), unicodedata.normalize("NFC", "masks/é.png:1")],
            {},
            {unicodedata.normalize("NFC", "é"): 1},
            id="two spellings of one letter",
        ),
        pytest.param(
            ["images/a/b/c.png", "masks/a/b/c.png:8"], {"images": "images/**/*.png"}, {"a/b/c": 8}, id="any depth"
        ),
    ],
)
def test_layouts(make: Make, files: list[str], options: dict, expected: dict[str, int | None]) -> None:
    found = everything(make(*files), **options)
    assert found == expected
    assert list(found) == sorted(expected)


@pytest.mark.parametrize(
    ("files", "options"),
    [
        pytest.param(["images/{}/1.png", "masks/{}/1.png"], {}, id="splits below"),
        pytest.param(["{}/images/1.png", "{}/masks/1.png"], {}, id="splits above"),
        pytest.param(["images/{}/1.png", "masks/{}/1_m.png"], {"tasks": {"mask": "masks/{stem}_m.png"}}, id="pattern"),
        pytest.param(
            ["{}/1.png", "{}annot/1.png"], {"images": "{split}", "tasks": {"mask": "{split}annot"}}, id="camvid"
        ),
        pytest.param(
            ["leftImg8bit/{}/c/c_1_leftImg8bit.png", "gtFine/{}/c/c_1_gtFine_labelIds.png"],
            {
                "images": "leftImg8bit/{split}/{stem}_leftImg8bit.png",
                "tasks": {"mask": "gtFine/{split}/{stem}_gtFine_labelIds.png"},
            },
            id="cityscapes",
        ),
    ],
)
@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("training", "validation", "testing"), ("train", "valid", "test")]
)
def test_splits_by_folder(make: Make, files: list[str], options: dict, names: tuple[str, ...]) -> None:
    image, mask = files
    root = make(*[image.format(name) for name in names], *[f"{mask.format(n)}:{i}" for i, n in enumerate(names[:2])])
    for number, split in enumerate(("train", "val")):
        (label,) = values(read(root, split, **options)).values()
        assert label == number
    # no label at all for the test images is no mistake
    assert read(root, "test", **options).labelled("mask") == 0
    with pytest.raises(ConfigError, match="no split 'holdout'; it has"):
        read(root, "holdout", **options)


def test_without_a_folder_for_val_a_share_of_train_is_taken(make: Make) -> None:
    names = [f"{i:03d}" for i in range(60)]
    root = make(
        *[f"images/train/{n}.png" for n in names], *[f"masks/train/{n}.png:1" for n in names], "images/test/x.png"
    )
    train, val = read(root, "train"), read(root, "val")
    assert set(train.ids) | set(val.ids) == set(names)
    assert not set(train.ids) & set(val.ids)
    assert len(val) == val.labelled("mask") > 0
    assert read(root, "test").ids == ["x"]


def test_a_folder_for_val_alone_is_not_in_train(make: Make) -> None:
    root = make("images/a.png", "images/val/b.png", "masks/a.png:1", "masks/val/b.png:2")
    assert values(read(root, "train")) == {"a": 1}
    assert values(read(root, "val")) == {"b": 2}


def test_labels_of_all_splits_in_one_folder(make: Make) -> None:
    root = make("images/train/a.png", "images/val/b.png", "images/test/c.png", "masks/a.png:1", "masks/b.png:2")
    assert [values(read(root, split)) for split in ("train", "val", "test")] == [{"a": 1}, {"b": 2}, {"c": None}]


def test_named_folders_and_a_share(make: Make) -> None:
    root = make(
        *[f"images/day/{i}.png" for i in range(40)], "images/night/n.png", "masks/day/3.png:3", "masks/night/n.png:4"
    )
    splits = {"train": "day", "val": 0.25, "night": "night"}
    parts = {split: read(root, split, splits=splits) for split in splits}
    assert parts["night"].ids == ["n"]
    assert sorted([*parts["train"].ids, *parts["val"].ids]) != sorted(parts["train"].ids)
    labels = values(parts["train"]) | values(parts["val"])
    assert {id for id, label in labels.items() if label is not None} == {"3"}
    with pytest.raises(ConfigError, match=r"no images in a folder 'dusk'; .* has images, masks"):
        read(root, "val", splits={"val": "dusk"})


# List files


def images(root: Path, make: Make, *names: str) -> Path:
    return make(
        *[f"images/{name}.png" for name in names], *[f"masks/{name}.png:{i}" for i, name in enumerate(names)], root=root
    )


@pytest.mark.parametrize(
    "text",
    [
        "a\nb c\n",
        "a.png\nb c.png",
        "/somewhere/else/images/a.png\n/somewhere/else/images/b c.png\n",
        "images/a.png masks/a.png\nimages/b c.png\tmasks/b c.png\n",
        "a.png,a_mask.png\n'b c.png',x\n",
        "\ufeffa\r\nb c\r\n\r\n",
        "# two images\na\n\n  b c  \n",
        "D:\\data\\a.png\nD:\\data\\b c.PNG\n",
        "a\na\nb c\n",
    ],
    ids=["stems", "names", "absolute", "two columns", "commas", "BOM and CRLF", "comments", "backslashes", "repeated"],
)
def test_list_files(make: Make, tmp_path: Path, text: str) -> None:
    root = images(tmp_path / "set", make, "a", "b c", "d")
    (root / "val.txt").write_bytes(text.encode())
    splits = {"val": "val.txt"}
    assert read(root, "val", splits=splits).ids == ["a", "b c"]
    assert read(root, "train", splits=splits).ids == ["d"]
    assert not read(root, "val", splits=splits).notes


def test_list_of_another_data_set_names_both_sides(make: Make, tmp_path: Path) -> None:
    root = images(tmp_path / "set", make, "a", "b")
    (root / "val.txt").write_text("p\nq\nr\n")
    with pytest.raises(DataError, match=r"val.txt: none of its 3 lines .* 'p', 'q'; images 'a', 'b'"):
        read(root, "val", splits={"val": "val.txt"})
    (root / "val.txt").write_text("a\nq\nr\n")
    assert list(read(root, "val", splits={"val": "val.txt"}).notes) == ["val.txt: 2 lines name no image, such as 'q'"]
    with pytest.raises(ConfigError, match=r"other.txt: cannot be read"):
        read(root, "val", splits={"val": "other.txt"})


def test_list_entries_need_folders_where_names_repeat(make: Make) -> None:
    root = make("images/c1/1.png", "images/c2/1.png", "images/c3/2.png", "masks/c1/1.png:1")
    (root / "val.txt").write_text("/x/c1/1.png\n2\n")
    assert read(root, "val", splits={"val": "val.txt"}).ids == ["c1/1", "c3/2"]
    (root / "val.txt").write_text("1.png\n")
    with pytest.raises(DataError, match=r"'1.png' may be 'c1/1' or 'c2/1'"):
        read(root, "val", splits={"val": "val.txt"})


# Shares


def test_shares_are_disjoint_complete_and_those_documented(make: Make, tmp_path: Path) -> None:
    names = [f"{i:03d}" for i in range(100)]
    root = images(tmp_path / "set", make, *names)
    splits = {"val": 0.2, "test": 0.3}
    parts = {split: set(read(root, split, splits=splits).ids) for split in ("train", "val", "test")}
    position = {n: int.from_bytes(hashlib.sha256(n.encode()).digest()[:8], "big") / 2**64 for n in names}
    assert parts["val"] == {n for n in names if position[n] < 0.2}
    assert parts["test"] == {n for n in names if 0.2 <= position[n] < 0.5}
    assert parts["train"] == set(names) - parts["val"] - parts["test"]
    assert parts["val"] == set(read(root, "val").ids), "0.2 is the default"
    assert parts["val"] == set(read(root, "val", splits={"train": 0.8, "val": 0.2}).ids)
    more = [f"new{i}" for i in range(50)]
    images(root, make, *more)
    again = {split: set(read(root, split, splits=splits).ids) for split in parts}
    assert all(parts[split] == again[split] & set(names) for split in parts)


@pytest.mark.parametrize("splits", [{"val": 0.0}, {"val": 1.5}, {"val": 0.6, "test": 0.6}, {"train": 0.5, "val": 0.2}])
def test_shares_that_make_no_sense(make: Make, tmp_path: Path, splits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"data.splits: found shares .*expected|data.splits: found shares .*must"):
        read(images(tmp_path / "set", make, "a"), "val", splits=splits)


def test_an_empty_split_is_an_error_that_counts(make: Make, tmp_path: Path) -> None:
    root = images(tmp_path / "set", make, "a", "b")
    with pytest.raises(DataError, match=r"split 'val' has no images; none of the 2 images was drawn") as error:
        read(root, "val", splits={"val": 1e-9})
    said = re.search(r"set data\.splits\.val to (0\.\d+) or more", str(error.value))
    assert said
    assert len(read(root, "val", splits={"val": float(said[1])})) > 0
    with pytest.raises(DataError, match=r"has no images"):
        read(root, "val", splits={"val": float(said[1]) - 0.02})
    with pytest.raises(DataError, match=r"split 'train' has no images; .*data\.splits\.train: train\.txt"):
        read(root, "train", splits={"val": 1.0})


# Tables


def table(root: Path, text: str, name: str = "labels.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text.encode())
    return root


SCENE = Classification("scene", classes=["city", "road"])
TAGS = Classification("tags", classes=["sun", "rain"], multi_label=True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("file,kind,seg\nimages/a.png,city,masks/a.png\nimages/b.png,,\nimages/c.png,1,masks/c.png\n", "labels.csv"),
        (
            "\ufefffile;kind;seg\r\nimages/a.png;city;masks/a.png\r\nimages/b.png;;\r\nimages/c.png;road;masks/c.png",
            "t.csv",
        ),
        ("file\tkind\tseg\nimages/a.png\tcity\tmasks/a.png\n\nimages/b.png\nimages/c.png\troad\tmasks/c.png", "t.TSV"),
        (
            'file, "kind", seg\n"images/a.png", city, masks/a.png\nimages/b.png,,\nimages/c.png,road,masks/c.png\n',
            "t.csv",
        ),
    ],
    ids=["comma", "semicolon, BOM, CRLF", "tab, short row", "quotes and blanks"],
)
def test_tables(make: Make, text: str, name: str) -> None:
    root = table(make("images/a.png", "images/b.png", "images/c.png", "masks/a.png:1", "masks/c.png:3"), text, name)
    options = {"table": name, "images": "file", "tasks": {"scene": "kind", "mask": "seg"}, "splits": {"val": 1e-9}}
    dataset = read(root, "train", SCENE, MASK, **options)
    assert values(dataset) == {"images/a": 1, "images/b": None, "images/c": 3}
    assert values(dataset, "scene") == {"images/a": 0, "images/b": None, "images/c": 1}
    assert (dataset.labelled("scene"), dataset.labelled("mask")) == (2, 2)


def test_a_table_beside_a_folder_is_joined_by_the_column_of_names(make: Make) -> None:
    text = "n,image_id,kind,when\n0,b,road,1\n1,a.jpg,city,2\n2,zzz,city,3\n"
    root = table(make("images/a.jpg", "images/b.jpg", "images/c.jpg", "masks/b.png:2"), text)
    options = {"table": "labels.csv", "tasks": {"scene": "kind", "mask": "masks"}, "splits": {"val": 1e-9}}
    dataset = read(root, "train", SCENE, MASK, **options)
    assert values(dataset, "scene") == {"a": 0, "b": 1, "c": None}
    assert values(dataset) == {"a": None, "b": 2, "c": None}


def test_a_column_may_fill_a_pattern_and_name_the_split(make: Make) -> None:
    text = "id,fold,tags,seg\na,train,sun;rain,m/a_x.png\nb,val,-,\nc,train,,\n"
    root = table(make("pics/a.jpg", "pics/b.jpg", "pics/c.jpg", "m/a_x.png:1"), text)
    options = {
        "table": "labels.csv",
        "images": "pics/{id}.jpg",
        "tasks": {"mask": "seg", "tags": "tags"},
        "splits": {"train": "fold=train", "val": "fold=val"},
    }
    train, val = (read(root, split, MASK, TAGS, **options) for split in ("train", "val"))
    assert train.ids == ["pics/a", "pics/c"]
    assert train[0].annotations["tags"].tolist() == [1, 1]
    assert "tags" not in train[1].annotations
    assert val[0].annotations["tags"].tolist() == [0, 0]
    assert values(train) == {"pics/a": 1, "pics/c": None}


def test_mistakes_in_tables_name_the_line(make: Make) -> None:
    root = table(make("images/a.png", "masks/a.png:1"), "file,kind\nimages/a.png,city\nimages/x.png,city\n")
    options: dict[str, Any] = {
        "table": "labels.csv",
        "images": "file",
        "tasks": {"scene": "kind"},
        "splits": {"val": 1e-9},
    }
    with pytest.raises(DataError, match=r"labels.csv: line 3, 'file': no file 'images/x.png'; expected .* relative to"):
        read(root, "train", SCENE, **options)
    table(root, "file,kind\nimages/a.png,city\nimages/a.png,road\n")
    with pytest.raises(DataError, match=r"lines 2 and 3 are both of 'images/a'"):
        read(root, "train", SCENE, **options)
    table(root, "file,kind\nimages/a.png,vilage\n")
    with pytest.raises(DataError, match=r"labels.csv: image 'images/a': label 'vilage' is not a class .*city"):
        read(root, "train", SCENE, **options).annotation(0, "scene")
    table(root, "file,seg\nimages/a.png,masks/none.png\n")
    with pytest.raises(DataError, match=r"line 2, 'seg': no file 'masks/none.png'"):
        read(root, "train", **{**options, "tasks": {"mask": "seg"}})
    table(root, "file,kind\n")
    with pytest.raises(DataError, match="found no rows"):
        read(root, "train", SCENE, **options)
    with pytest.raises(DataError, match=r"none.csv: cannot be read as a table"):
        read(root, "train", SCENE, **{**options, "table": "none.csv"})


def test_ids_of_files_outside_the_root_stay_inside_the_output(make: Make, tmp_path: Path) -> None:
    make("x.png", root=tmp_path / "elsewhere")
    root = table(
        make("images/a.png"), f"file,kind\n{tmp_path / 'elsewhere' / 'x.png'},city\nimages/../images/a.png,road\n"
    )
    dataset = read(
        root, "train", SCENE, table="labels.csv", images="file", tasks={"scene": "kind"}, splits={"val": 1e-9}
    )
    assert dataset.ids == ["images/a", "x"]


# Mistakes


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            ["images/a_rgb.png", "masks/a_m.png"],
            {},
            r"masks: no label belongs to an image; labels are called 'a_m'; images 'a_rgb'",
        ),
        (["images/a.png", "images/a.jpg"], {}, r"a.png: a.jpg has the same name 'a'; expected one .* 'images/\*.png'"),
        (["images/a.png", "masks/a.png", "masks/a.npy"], {}, r"a.png: a.npy has the same name 'a'; .*data.tasks"),
        (["images/a.txt"], {}, r"no images for data.images 'images'; found 1 .txt"),
        (["pictures/a.png"], {}, r"data.images: .*images: no such folder"),
        (["images/a.png"], {}, r"data.tasks: .*masks: no such folder; a layer is"),
        (["images/a.png", "masks/a.txt"], {}, r"masks: found 1 .txt; expected labels of task 'mask' as .*\.png"),
        (
            ["images/a.png", "m/a_1.png", "m/a_2.png"],
            {"tasks": {"mask": "m/{stem}_*.png"}},
            r"2 files fit .* for image 'a'",
        ),
        (["a.png"], {"images": "{split}"}, r"data.images: '\{split\}': no such folder for train, val or test in"),
        (["images/a.png", "m/b.png"], {"tasks": {"mask": "m/{stem}.png"}}, r"no label belongs to an image; .*'b'"),
    ],
)
def test_mistakes_in_layouts(make: Make, files: list[str], options: dict, message: str) -> None:
    root = make(*files)
    with pytest.raises((ConfigError, DataError), match=message):
        read(root, **options)


def test_a_missing_root_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.root: .*nowhere: no such folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"no images for data.images 'images'; found no files"):
        read(tmp_path)


def test_links_are_followed_once(make: Make, tmp_path: Path) -> None:
    make("a.png", "b.png", root=tmp_path / "store")
    root = make("masks/a.png:1")
    (root / "images").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "store")
    assert everything(root) == {"a": 1, "b": None}


# Exact reading


def test_files_of_every_kind_are_read_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (6, 8), dtype=np.uint8)
    labels[0, 0] = 255
    metres = rng.uniform(1, 60, (6, 8)).astype(np.float32)
    metres[0, 1] = np.nan
    millimetres = np.nan_to_num(metres * 1000).round().astype(np.uint16)
    for folder in ("images", "mask", "depth"):
        (tmp_path / folder).mkdir()
    palette = Image.fromarray(labels)
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "mask" / "a.png")
    Image.fromarray(labels).save(tmp_path / "mask" / "b.tif")
    np.save(tmp_path / "mask" / "c.npy", labels)
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "mask" / "d.png")
    Image.fromarray(millimetres).save(tmp_path / "depth" / "a.png")
    np.save(tmp_path / "depth" / "b.npy", metres)
    Image.fromarray(metres).save(tmp_path / "depth" / "c.tif")
    Image.fromarray(colour).save(tmp_path / "images" / "a.png")
    Image.fromarray(colour).save(tmp_path / "images" / "b.tif")
    np.save(tmp_path / "images" / "c.npy", colour)
    Image.fromarray(colour).save(tmp_path / "images" / "d.jpg")
    tasks = [Semantic("mask", classes=5), Depth("depth", max_depth=100)]
    dataset = Folder("train", tasks, root=str(tmp_path), splits={"val": 1e-9})
    exact = torch.from_numpy(colour).permute(2, 0, 1)
    for index, id in enumerate(dataset.ids):
        sample = dataset[index]
        assert sample.annotations["mask"].tolist() == labels.tolist()
        jpeg = np.asarray(Image.open(tmp_path / "images" / "d.jpg"))
        assert torch.equal(sample.image, torch.from_numpy(jpeg.copy()).permute(2, 0, 1) if id == "d" else exact)
    for index, tolerance in ((0, 5e-4), (1, 0), (2, 0)):
        depth = torch.as_tensor(np.nan_to_num(metres))
        torch.testing.assert_close(
            dataset[index].annotations["depth"].as_subclass(torch.Tensor), depth, atol=tolerance, rtol=1e-7
        )
    assert "depth" not in dataset[3].annotations


# Names and patterns


@given(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_stem_fits_its_own_pattern(stem: str) -> None:
    match = regex("a/{stem}_x.png").fullmatch(f"a/{stem}_x.PNG")
    assert match is not None
    assert match["stem"] == stem
    assert regex("{stem}/*.png", stem).fullmatch(f"{stem}/anything.png")
    assert without_suffix(f"{stem}.PnG") == unicodedata.normalize("NFC", stem)


def test_patterns_stay_in_their_folder() -> None:
    assert regex("a/*.png").fullmatch("a/b.png")
    assert not regex("a/*.png").fullmatch("a/b/c.png")
    assert not regex("a/*.png").fullmatch("a/bxpng")
    assert regex("a/**/*.png").fullmatch("a/b/c/d.png")
    assert regex("a/**/*.png").fullmatch("a/d.png")
    assert regex("{stem}/{stem}.png").fullmatch("x/x.png")
    assert not regex("{stem}/{stem}.png").fullmatch("x/y.png")


def test_ten_thousand_files_are_matched_in_seconds(tmp_path: Path) -> None:
    for i in range(2000):
        (tmp_path / f"{i}_extra_part.png").touch()
    ids = {str(i) for i in range(2000)}
    owned = by_owner(tmp_path, "{stem}_*.png", (".png",), ids)
    assert len(owned) == 2000
    assert len(list_files(tmp_path)) == 2000
    (tmp_path / "l.txt").write_text("\n".join(ids))
    assert len(read_list(tmp_path / "l.txt", {id: tmp_path / f"{id}.png" for id in ids})[0]) == 2000


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    if not root.exists() or not any(root.iterdir()):
        rng = np.random.default_rng(1)
        for name in ("images", "semantic", "scene"):
            (root / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (10, 14, 3), dtype=np.uint8)).save(root / "images" / f"{i}.png")
            if i % 2:
                Image.fromarray(rng.integers(0, 3, (10, 14), dtype=np.uint8)).save(root / "semantic" / f"{i}.png")
            if i % 3:
                (root / "scene" / f"{i}.txt").write_text("ab"[i % 2])
    return {"root": str(root)}, [Semantic("semantic", classes=3), Classification("scene", classes=["a", "b"])]


def folder_set(root: Path) -> Folder:
    options, tasks = made(root)
    return Folder("train", tasks, **options)


def test_the_fingerprint_follows_the_data(tmp_path: Path) -> None:
    before = folder_set(tmp_path / "set")
    first = before.fingerprint()
    path = tmp_path / "set" / "images" / f"{before.ids[0]}.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    os.utime(path)
    assert folder_set(tmp_path / "set").fingerprint() == first
    path.write_bytes(data)
    second = folder_set(tmp_path / "set").fingerprint()
    assert second != first
    scene = next(id for id in before.ids if (tmp_path / "set" / "scene" / f"{id}.txt").exists())
    (tmp_path / "set" / "scene" / f"{scene}.txt").unlink()
    assert folder_set(tmp_path / "set").fingerprint() not in (first, second)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        before.fingerprint()


# Real data


def test_real_layouts(real_data: Path) -> None:
    plants = Semantic(
        "plants",
        classes=["soil", "crop", "weed"],
        colours={"soil": [0, 0, 0], "crop": [0, 255, 0], "weed": [255, 0, 0]},
    )
    bare = Semantic("bare", classes=["vegetation", "soil"])
    layers = {"plants": "annotations/{stem}_annotation.png", "bare": "masks/{stem}_mask.png"}
    root = str(real_data / "cwfid")
    field = Folder("train", [plants, bare], root=root, images="images/{stem}_image.png", tasks=layers)
    assert field.labelled("plants") == field.labelled("bare") == len(field) == 19
    assert field[0].annotations["plants"].unique().tolist() == [0, 1, 2]
    assert field[0].annotations["bare"].unique().tolist() == [0, 1]

    cells = {"root": str(real_data / "dsb2018" / "stage1_train"), "images": "{stem}/images/*.png"}
    nuclei = Semantic("nuclei", classes=2)
    with pytest.raises(DataError, match=r"files fit data.tasks '\{stem\}/masks/\*.png'"):
        Folder("train", [nuclei], tasks={"nuclei": "{stem}/masks/*.png"}, **cells)
    whole = Folder("train", [nuclei], tasks={"nuclei": "{stem}/images/{stem}.png"}, **cells, splits={"val": 1e-9})
    assert len(whole) == whole.labelled("nuclei") == 83

    tiles = real_data / "spacenet_sample" / "solaris" / "data"
    layers = {"nuclei": "vectortile_test_expected/geoms_{stem}.geojson"}
    with pytest.raises(DataError, match=r"found 100 .geojson; expected labels"):
        Folder("train", [nuclei], root=str(tiles), images="rastertile_test_expected", tasks=layers)
    land = Semantic("land", classes=1, ignore=255)
    tile = {"images": "{stem}_geotiff.tif", "tasks": {"land": "{stem}_fp_mask_from_geojson.tif"}}
    scenes = Folder("val", [land], root=str(tiles), splits={"val": 1.0}, **tile)
    assert scenes.ids == ["sample"]
    sample = scenes[0]
    assert sample.image.dtype == torch.uint16
    assert sample.annotations["land"].shape == (900, 900)
    assert scenes.notes == {"grey repeated to 3 channels": 1, "16-bit": 1}


def test_labels_without_an_image_are_told(make: Make) -> None:
    root = make("images/a.png", "images/b.png", "masks/a.png:1", "masks/b.png:2", "masks/c.png:3")
    said = f"{root / 'masks'}: labels without an image: 1, such as c.png"
    assert dict(read(root).notes) == {said: 1}
    (root / "masks" / "c.png").unlink()
    assert not read(root).notes


def test_labels_of_other_splits_are_not_without_an_image(make: Make) -> None:
    root = make("images/train/a.png", "images/val/b.png", "masks/a.png:1", "masks/b.png:2")
    assert not read(root).notes
    assert not read(root, "val").notes
