"""`segweave data convert` and `segweave data split`: nothing is lost on the way, and nothing leaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from segweave import cli, rasters
from segweave.config import Config, dump, from_values
from segweave.data import FORMATS
from segweave.data.convert import Converted, convert
from segweave.data.dataset import Dataset
from segweave.data.dealing import deal
from segweave.data.splitting import look_alikes, united
from segweave.errors import ConfigError, DataError
from segweave.schema import check_config, read_config
from segweave.sources import build_dataset, build_tasks
from segweave.tasks.boxes import Boxes
from segweave.tasks.task import Task

HEIGHT, WIDTH = 12, 16
SLOPED = {"intrinsics": [20.0, 20.0, 8.0, 6.0], "step": 0.04, "window": 3, "tolerance": 0.9}
COUNTED = {"count": {"classes": [1]}}


def made(name: str, root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    """A small data set of a format, as the format's own test makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "data")
        return import_module(f"test_{name}").made(root)


def config_of(data: dict[str, Any], tasks: Sequence[Task]) -> Config:
    """A config with these very tasks."""
    described = {task.name: {k: v for k, v in task.spec().items() if k != "name"} for task in tasks}
    return check_config(from_values({"data": data, "tasks": described}))


def converted(config: Config, out: Path, splits: Sequence[str] = ()) -> Converted:
    tasks = build_tasks(config)
    return convert(config, tasks, lambda split: build_dataset(config, split, tasks), out, splits)


def opened(config: Config, split: str) -> tuple[Dataset, list[Task]]:
    tasks = build_tasks(config)
    return build_dataset(config, split, tasks), tasks


def same(before: Tensor, after: Tensor, task: Task, reader: Task) -> None:
    """Ids exactly, boxes to a thousandth of a pixel, metres to half a millimetre, vectors to float32's precision."""
    if isinstance(before, Boxes):
        assert isinstance(after, Boxes)
        assert before.canvas_size == after.canvas_size
        torch.testing.assert_close(after.as_subclass(Tensor), before.as_subclass(Tensor), rtol=1e-6, atol=1e-3)
        return
    one, two = task.encode(before), reader.encode(after)
    assert one.dtype == two.dtype
    if one.is_floating_point() and one.ndim > 1:
        assert torch.equal(one == 0, two == 0)
        torch.testing.assert_close(two, one, rtol=0, atol=5.01e-4 if one.ndim == 2 else 1e-6)
    else:
        assert torch.equal(one, two)


def check_same(config: Config, done: Converted, splits: Sequence[str]) -> None:
    """A converted folder holds the images and labels of a config, under ids in the same order."""
    new = read_config(done.folder / "config.yaml")
    for split in splits:
        before, tasks = opened(config, split)
        after, readers = opened(new, split)
        assert len(before) == len(after) == done.images[split]
        assert not after.notes
        for index, id in enumerate(before.ids):
            assert after.ids[index] in (id, f"{split}/{id}")
            one, two = before[index], after[index]
            assert torch.equal(one.image, two.image)
            assert one.annotations.keys() == two.annotations.keys()
            for task, reader in zip(tasks, readers, strict=True):
                if task.name in one.annotations:
                    same(one.annotations[task.name], two.annotations[task.name], task, reader)
                    assert getattr(task, "classes", None) == getattr(reader, "classes", None)
        for task in tasks:
            assert done.labels[task.name][split] == before.labelled(task.name) == after.labelled(task.name)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_converts_without_loss(name: str, tmp_path: Path) -> None:
    options, tasks = made(name, tmp_path / "set")
    config = config_of({"format": name, **options}, tasks)
    done = converted(config, tmp_path / "out")
    assert not done.problems
    check_same(config, done, opened(config, "train")[0].splits)


def save(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(values)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)


@pytest.fixture
def hard(tmp_path: Path) -> dict[str, Any]:
    """Values of a config whose labels are written in every way that the tasks' options know, two images unlabelled."""
    rng = np.random.default_rng(0)
    root, size = tmp_path / "set", (HEIGHT, WIDTH)
    rows = ["image;images;marks"]  # a task called as the folder of the images is
    coco: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    coco["categories"] = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 9, "name": "thing"}]
    for number in range(6):
        name = f"{number}.v1"
        save(root / "images" / f"{name}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        rows.append(
            f"{name}.png;{('a;b', 'c, d', '')[number % 3]!r}".replace("'", '"') + f';"{("-", "x;y", "")[number % 3]}"'
        )
        if number > 3:
            continue
        save(root / "road" / f"{name}.png", 255 * rng.integers(0, 2, size, np.uint8))
        save(root / "masks" / f"{name}.png", rng.choice(np.array([0, 1, 2, 6, 255], np.uint8), size))
        save(root / "far" / f"{name}.npy", rng.uniform(-1, 90, size).astype(np.float32))
        save(root / "near" / f"{name}.png", rng.integers(0, 256, size, np.uint8))
        save(root / "edges" / f"{name}.png", 255 * rng.integers(0, 2, size, np.uint8))
        vectors = rng.normal(size=(*size, 3))
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        save(root / "faces" / f"{name}.png", (127.5 + 127.5 * vectors).round().astype(np.uint8))
        coco["images"].append({"id": number, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH})
        for category in (3, 7, 9) if number else ():
            x, y, w, h = (float(v) for v in rng.uniform(0.3, 7, 4))
            box = {"bbox": [x, y, w, h], "area": w * h / 3, "iscrowd": int(category == 7)}
            coco["annotations"].append(
                {"id": len(coco["annotations"]), "image_id": number, "category_id": category} | box
            )
    (root / "t.csv").write_text("\n".join(rows))
    (root / "boxes.json").write_text(json.dumps(coco))
    layers = {name: name for name in ("road", "masks", "far", "near", "edges", "faces")}
    layers |= {"objects": "boxes.json", "images": "images", "marks": "marks"}
    data = {"format": "folder", "root": str(root), "images": "images/*", "table": "t.csv", "tasks": layers}
    data |= {"splits": {"val": 0.4}, "size": [8, 8]}
    tasks = {
        "road": {"kind": "semantic", "classes": ["road"], "threshold": 128},
        "masks": {"kind": "semantic", "classes": 3, "ignore": 6, "colours": {"class 1": [9, 8, 7]}},
        "there": {"kind": "classification", "derive": "presence", "source": "masks", "classes": 3, "ignore": [6]},
        "far": {"kind": "depth", "max_depth": 80},
        "near": {"kind": "depth", "units_per_metre": 25.5},
        "edges": {"kind": "edges", "threshold": 128},
        "faces": {"kind": "normals", "axes": ["left", "down", "towards"]},
        "objects": {"kind": "detection", "classes": ["cat", "dog"], "ignore": "others"},
        "blobs": {"kind": "detection", "classes": ["road"], "min_pixels": 2, "source": "road", "derive": "boxes"},
        "margins": {"kind": "edges", "source": "road", "derive": {"boundary": {"side": "inner", "width": 2}}},
        "middles": {"kind": "depth", "source": "masks", "derive": "distance", "rescale": False, "min_depth": 0.01},
        "sloped": {"kind": "normals", "source": "near", "derive": {"normals": SLOPED}},
        "number": {"kind": "classification", "source": "road", "derive": COUNTED, "bins": [0, 1, 9]},
        "images": {"kind": "classification", "classes": ["a;b", "c, d"]},
        "marks": {"kind": "classification", "classes": ["x", "y"], "multi_label": True},
    }
    return {"data": data, "tasks": tasks, "train": {"steps": 3}}


def test_every_way_to_write_labels_is_read_and_written_anew(hard: dict[str, Any], tmp_path: Path) -> None:
    config = check_config(from_values(hard))
    done = converted(config, tmp_path / "out")
    check_same(config, done, ["train", "val"])
    new = read_config(done.folder / "config.yaml")
    assert new.train == {"steps": 3}
    assert new.data["size"] == [8, 8]
    # beyond 65.535 m a PNG of millimetres would clip
    assert {path.suffix for path in (done.folder / "labels" / "far").iterdir()} == {".npy"}
    assert {path.suffix for path in (done.folder / "labels" / "near").iterdir()} == {".png"}
    assert {path.suffix for path in (done.folder / "labels" / "middles").iterdir()} == {".npy"}
    assert new.tasks["sloped"]["origin"] == "derived from near (normals); not a benchmark number"
    assert "derive" not in new.tasks["sloped"]
    crowds = json.loads((done.folder / "labels" / "objects.json").read_text())["annotations"]
    assert sum(box["iscrowd"] for box in crowds) == 3
    assert len(crowds) == 6


def test_images_are_the_same_bytes(hard: dict[str, Any], tmp_path: Path) -> None:
    done = converted(check_config(from_values(hard)), tmp_path / "out")
    for number in range(6):
        assert (done.folder / "images" / f"{number}.v1.png").read_bytes() == (
            tmp_path / "set" / "images" / f"{number}.v1.png"
        ).read_bytes()


def test_bands_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        save(tmp_path / "set" / "images" / f"{number}.npy", rng.integers(0, 4000, (HEIGHT, WIDTH, 5), np.uint16))
        save(tmp_path / "set" / "mask" / f"{number}.png", rng.integers(0, 2, (HEIGHT, WIDTH), np.uint8))
    data = {"format": "folder", "root": str(tmp_path / "set"), "bands": [5, 1], "splits": {"val": 0.5}}
    config = check_config(from_values({"data": data, "tasks": {"mask": {"kind": "semantic", "classes": 2}}}))
    done = converted(config, tmp_path / "out")
    check_same(config, done, ["train", "val"])
    assert rasters.read_image(done.folder / "images" / "0.npy", bands=5)[0].shape == (5, HEIGHT, WIDTH)


def test_a_mixture_becomes_one_folder(tmp_path: Path) -> None:
    sets = {}
    for name, layer, top in (("one", "masks", 2), ("two", "masks", 5)):
        for number in range(8):
            rng = np.random.default_rng(number)
            save(tmp_path / name / "images" / f"{number}.png", rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
            save(tmp_path / name / layer / f"{number}.png", rng.integers(0, top, (HEIGHT, WIDTH), np.uint8))
        sets[name] = {
            "format": "folder",
            "root": str(tmp_path / name),
            "tasks": {"masks": "masks"},
            "splits": {"val": 0.4},
        }
    sets["two"]["maps"] = {"masks": {0: 1, 1: 0, 2: 0, 3: "ignore", 4: 1}}
    config = check_config(from_values({"data": {"sets": sets}, "tasks": {"masks": {"kind": "semantic", "classes": 2}}}))
    done = converted(config, tmp_path / "out")
    check_same(config, done, ["train", "val"])


def test_ids_that_two_splits_have_are_told_apart(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            rng = np.random.default_rng(len(split) + number)
            save(
                tmp_path / "set" / split / "images" / f"{number}.png",
                rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
            )
            save(tmp_path / "set" / split / "mask" / f"{number}.png", rng.integers(0, 2, (HEIGHT, WIDTH), np.uint8))
    data = {"format": "folder", "root": str(tmp_path / "set")}
    config = check_config(from_values({"data": data, "tasks": {"mask": {"kind": "semantic", "classes": 2}}}))
    done = converted(config, tmp_path / "out")
    check_same(config, done, ["train", "val"])
    assert opened(read_config(done.folder / "config.yaml"), "val")[0].ids == ["val/0", "val/1"]


def test_a_conversion_that_fails_leaves_nothing(hard: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "set" / "masks" / "3.v1.png", np.full((HEIGHT, WIDTH), 4, np.uint8))
    with pytest.raises(DataError, match=r"3\.v1\.png: label id 4"):
        converted(check_config(from_values(hard)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def run(*words: str) -> int:
    """The exit code of a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["segweave", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def test_convert_prints_what_it_wrote(hard: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(dump(hard))
    out = tmp_path / "out"
    assert run("data", "convert", str(tmp_path / "c.yaml"), "--out", str(out), "--splits", "val") == 0
    shown = capsys.readouterr()
    assert f"config: {out / 'config.yaml'}" in shown.out
    assert "far: maps that .png does not hold: written as .npy" in shown.err
    assert sorted(path.name for path in out.glob("*.txt")) == ["val.txt"]
    # an unreadable image is left out and told; the folder has a number, because the other one holds something
    victim = tmp_path / "set" / "images" / "0.v1.png"
    victim.write_bytes(victim.read_bytes()[:60])
    assert run("data", "convert", str(tmp_path / "c.yaml"), "--out", str(out)) == 1
    shown = capsys.readouterr()
    assert str(victim) in shown.err
    lines = "".join((tmp_path / "out-2" / f"{split}.txt").read_text() for split in ("train", "val")).split()
    assert sorted(lines) == [f"images/{number}.v1.png" for number in range(1, 6)]
    assert run("data", "convert", str(tmp_path / "c.yaml"), "--out", str(out), "--splits", "holdout") == 2
    assert "holdout" in capsys.readouterr().err


# splits


def scenes(root: Path, count: int = 40) -> dict[str, Any]:
    """A config's values of that many images in groups `s<number>` of five with a rare class in some."""
    rows = ["image,scene,kind"]
    for number in range(count):
        rng = np.random.default_rng(number)
        scene = number // 5
        save(root / "images" / f"s{scene}_{number:02}.png", rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
        labels = rng.integers(0, 2, (HEIGHT, WIDTH), np.uint8)
        if scene % 4 == 0:
            labels[0] = 2
        save(root / "mask" / f"s{scene}_{number:02}.png", labels)
        rows.append(f"s{scene}_{number:02},{scene},{'ab'[scene % 2]}")
    (root / "t.csv").write_text("\n".join(rows))
    data = {"format": "folder", "root": str(root), "table": "t.csv", "tasks": {"mask": "mask", "kind": "kind"}}
    kinds = {"kind": "classification", "classes": ["a", "b"]}
    return {"data": data, "tasks": {"mask": {"kind": "semantic", "classes": 3}, "kind": kinds}}


def parts(folder: Path) -> dict[str, set[str]]:
    """The ids of every split, as the config reads them."""
    config = read_config(folder / "config.yaml")
    return {split: set(opened(config, split)[0].ids) for split in config.data["splits"]}


@pytest.mark.parametrize("group", ["scene", r"^(s\d+)_", r"s\d+"])
def test_groups_stay_together_and_classes_are_shared_out(
    group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(dump(scenes(tmp_path / "set")))
    words = ["data", "split", str(tmp_path / "c.yaml"), "--val", "0.25", "--test", "0.25", "--group", group]
    assert run(*words, "--out", str(tmp_path / "lists")) == 0
    assert "40 images in 8 groups, the largest of 5" in capsys.readouterr().out
    found = parts(tmp_path / "lists")
    assert {split: len(ids) for split, ids in found.items()} == {"train": 20, "val": 10, "test": 10}
    owners = {split: {id.split("_")[0] for id in ids} for split, ids in found.items()}
    assert sum(map(len, owners.values())) == 8
    # of eight scenes two have the rare class and four are b: a split of two scenes can have one b
    kinds = {split: sorted(int(owner[1:]) % 2 for owner in of) for split, of in owners.items()}
    assert kinds == {"train": [0, 0, 1, 1], "val": [0, 1], "test": [0, 1]}
    assert run(*words, "--out", str(tmp_path / "lists")) == 0
    assert parts(tmp_path / "lists-2") == found


def test_copies_and_look_alikes_stay_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = scenes(tmp_path / "set", 20)
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3)
    smooth = 127 + 100 * np.sin(smooth / 9 + np.arange(64)[:, None, None] / 5)
    for number in range(6):  # frames that differ by noise, and copies of one
        frame = smooth + np.random.default_rng(number % 4).normal(0, 1, smooth.shape)
        save(tmp_path / "set" / "images" / f"x{number}.png", frame.clip(0, 255).astype(np.uint8))
    (tmp_path / "c.yaml").write_text(dump(values))
    words = ["data", "split", str(tmp_path / "c.yaml"), "--val", "0.4", "--out"]
    assert run(*words, str(tmp_path / "near")) == 0
    shown = capsys.readouterr()
    assert "21 groups, the largest of 6" in shown.out
    assert "4 images have the pixels of another one" in shown.err
    for ids in parts(tmp_path / "near").values():
        assert len([id for id in ids if id[0] == "x"]) in (0, 6)
    assert run(*words, str(tmp_path / "exact"), "--no-near") == 0
    assert "24 groups, the largest of 2" in capsys.readouterr().out
    for ids in parts(tmp_path / "exact").values():
        assert ("x0" in ids) == ("x4" in ids)
        assert ("x1" in ids) == ("x5" in ids)


def test_images_that_cannot_be_read_are_in_no_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(dump(scenes(tmp_path / "set", 10)))
    (tmp_path / "set" / "images" / "s0_00.png").write_bytes(b"no image")
    assert run("data", "split", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "lists")) == 1
    assert "s0_00.png" in capsys.readouterr().err
    assert sum(map(len, parts(tmp_path / "lists").values())) == 9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--val", "0"], "found the shares val 0"),
        (["--val", "0.6", "--test", "0.5"], "less than 1 together"),
        (["--group", "(s"], "--group: found '(s'; expected folder, a column or a regular expression"),
        (["--group", "s7"], "--group: 's7' says nothing of 10 of 10 images"),
        (["--group", "folder"], "found 1 groups of images; expected 2 or more"),
        (["--stratify", "depth"], "--stratify: found 'depth'; expected a task with classes: mask, kind"),
        (["data.images=images/{split}"], "data.images: found 'images/{split}'"),
    ],
)
def test_what_cannot_be_split(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(dump(scenes(tmp_path / "set", 10)))
    assert run("data", "split", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "lists"), *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


def test_a_format_without_lists_is_to_be_converted_first(tmp_path: Path) -> None:
    from segweave.data.splitting import split

    options, tasks = made("camvid", tmp_path / "set")
    config = config_of({"format": "camvid", **options}, tasks)
    with pytest.raises(
        ConfigError, match="found format 'camvid'; expected folder or table: run `segweave data convert`"
    ):
        split(config, tasks, lambda _: build_dataset(config, "train", tasks), tmp_path / "lists", {"val": 0.2})


def test_a_table_is_split_by_lists_instead_of_its_column(tmp_path: Path) -> None:
    options, tasks = made("table", tmp_path / "set")
    (tmp_path / "c.yaml").write_text(dump(config_of({"format": "table", **options}, tasks).sections()))
    words = [
        "data",
        "split",
        str(tmp_path / "c.yaml"),
        "--group",
        "kind",
        "--val",
        "0.3",
        "--out",
        str(tmp_path / "lists"),
    ]
    assert run(*words) == 2  # some rows have no kind
    assert run(*words[:3], "--val", "0.3", "--out", str(tmp_path / "lists")) == 0
    found = parts(tmp_path / "lists")
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 12


Deal = tuple[np.ndarray, np.ndarray, list[float], int]


@st.composite
def deals(draw: st.DrawFn) -> Deal:
    """Groups of images, labels of those images, shares of two or three splits, and a seed."""
    groups = draw(st.integers(4, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = rng.integers(1, draw(st.integers(1, 9)) + 1, groups)
    labels = draw(st.integers(0, 6))
    counts = rng.binomial(sizes[:, None], rng.uniform(0, 1, (1, labels)) ** 2)
    shares = draw(st.sampled_from([[0.8, 0.2], [0.5, 0.5], [0.7, 0.2, 0.1], [0.34, 0.33, 0.33], [0.95, 0.05]]))
    return sizes, counts, shares, draw(st.integers(0, 3))


def distance(counts: np.ndarray, shares: Sequence[float], dealt: np.ndarray) -> float:
    """How far splits are from their shares of each label, in sum over labels and splits."""
    totals = np.maximum(counts.sum(0), 1)
    there = (counts.sum(0) > 0) * np.asarray(shares)[:, None]
    of_split = np.stack([counts[dealt == place].sum(0) / totals for place in range(len(shares))])
    return float(np.abs(of_split - there).sum())


@settings(max_examples=150, deadline=None)
@given(deals())
def test_sizes_are_within_one_group_and_labels_no_worse_than_by_chance(case: Deal) -> None:
    sizes, counts, shares, seed = case
    dealt = deal(sizes, counts, shares, seed)
    assert np.array_equal(dealt, deal(sizes, counts, shares, seed))
    assert sorted(set(dealt.tolist())) == list(range(len(shares)))
    of_split = np.bincount(dealt, weights=sizes, minlength=len(shares))
    off = np.abs(of_split - np.asarray(shares) * sizes.sum())
    assert off.max() <= sizes.max() + 1e-6, (of_split, shares)
    rng = np.random.default_rng(0)
    chances = []
    for _ in range(30):  # groups in any order, each to a split with room
        room, chance = np.asarray(shares) * sizes.sum(), np.zeros(len(sizes), int)
        for group in rng.permutation(len(sizes)):
            chance[group] = rng.choice(np.flatnonzero(room > 1e-9))
            room[chance[group]] -= sizes[group]
        if len(set(chance.tolist())) == len(shares):  # an empty split may be nearer, and is no split
            chances.append(distance(counts, shares, chance))
    assert not chances or distance(counts, shares, dealt) <= np.mean(chances) + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), max_size=3), min_size=1, max_size=12))
def test_what_shares_a_key_is_united(keys: list[list[int]]) -> None:
    reach = np.eye(len(keys), dtype=bool)
    for one, first in enumerate(keys):
        for two, second in enumerate(keys):
            reach[one, two] |= bool(set(first) & set(second))
    for _ in keys:
        reach |= (reach.astype(int) @ reach.astype(int)) > 0
    found = united(keys)
    assert np.array_equal(found[:, None] == found, reach)
    assert sorted(set(found.tolist())) == list(range(int(found.max()) + 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=5)), min_size=1, max_size=8))
def test_pairs_of_at_most_three_bits_are_found_and_no_others(pictures: list[tuple[int, set[int]]]) -> None:
    bits = [base for base, _ in pictures] + [base ^ sum(1 << place for place in turned) for base, turned in pictures]
    structured = [8 <= value.bit_count() <= 56 for value in bits]
    expected = {
        (one, two)
        for two in range(len(bits))
        for one in range(two)
        if structured[one] and structured[two] and (bits[one] ^ bits[two]).bit_count() <= 3
    }
    found = list(look_alikes(bits))
    assert set(found) == expected
    assert len(found) == len(expected)
