"""The data doctor: its numbers are those of the files, it finds what was put wrong, and nothing in sound data."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave import cli, config
from segweave.check import Checked, check
from segweave.data.inventory import Labels
from segweave.data.survey import Record, survey
from segweave.errors import ConfigError, DataError
from segweave.schema import check_config, read_config
from segweave.sources import build_dataset, build_tasks
from segweave.tasks import TASKS, Depth, Semantic
from segweave.tasks.task import Task

HEIGHT, WIDTH, TRAIN, VAL = 40, 60, 8, 4
SEMANTIC: dict[str, Any] = {"kind": "semantic", "classes": ["road", "sky", "car"]}
DEPTH: dict[str, Any] = {"kind": "depth", "max_depth": 10}


def save(pixels: Any, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(pixels)
    Image.fromarray(array if array.dtype == np.uint16 else array.astype(np.uint8)).save(path, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sound data: noise photos, masks of three classes with some pixels unlabelled, depth of 1 to 9 metres."""
    rng = np.random.default_rng(0)
    for i in range(TRAIN + VAL):
        split = "train" if i < TRAIN else "val"
        save(rng.integers(0, 256, (HEIGHT, WIDTH, 3)), tmp_path / split / "images" / f"{i:02d}.png")
        mask = rng.integers(0, 3, (HEIGHT, WIDTH))
        mask[10:12] = 255
        save(mask, tmp_path / split / "semantic" / f"{i:02d}.png")
        depth = rng.integers(1000, 9000, (HEIGHT, WIDTH)).astype(np.uint16)
        save(depth, tmp_path / split / "depth" / f"{i:02d}.png")
    return tmp_path


def values(root: Path, **tasks: dict[str, Any]) -> dict[str, Any]:
    data = {"format": "folder", "root": str(root)}
    return {"data": data, "tasks": tasks or {"semantic": SEMANTIC, "depth": DEPTH}, "train": {"batch_size": 4}}


def run(root: Path, workers: int = 0, **tasks: dict[str, Any]) -> Checked:
    return check(check_config(config.from_values(values(root, **tasks))), root / "page", workers)


def found(checked: Checked, level: str | None = None) -> list[str]:
    return [finding.text for finding in checked.findings if level in (None, finding.level)]


def sheet(checked: Checked, caption: str) -> dict[Any, dict[str, Any]]:
    """A table by the text of its leading cells."""
    table = next(sheet for sheet in checked.sheets if sheet.caption.startswith(caption))
    keys = 2 if table.columns[:2] == ("task", "split") else 1
    return {tuple(r[:keys]) if keys > 1 else r[0]: dict(zip(table.columns, r, strict=True)) for r in table.rows}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def change(path: Path, edit: Callable[[np.ndarray], Any]) -> None:
    array = pixels(path).copy()
    result = edit(array)
    save(array if result is None else result, path)


def test_sound_data_is_ready_without_a_word(root: Path) -> None:
    checked = run(root)
    assert checked.verdict == "ready to train, 0 warnings"
    assert found(checked) == []


def test_the_tables_hold_the_numbers_of_the_files(root: Path) -> None:
    (root / "train" / "semantic" / "00.png").unlink()
    change(root / "train" / "depth" / "01.png", lambda a: a.__setitem__(slice(0, 20), 0))
    checked = run(root)
    masks = [pixels(p) for p in sorted((root / "train" / "semantic").iterdir())]
    for index, name in enumerate(SEMANTIC["classes"]):
        row = sheet(checked, "Classes of semantic")[name]
        count = sum(int((mask == index).sum()) for mask in masks)
        labelled = sum(int((mask != 255).sum()) for mask in masks)
        assert row["train pixels"] == count
        assert row["train share"] == f"{100 * count / labelled:.1f} %"
        assert row["train images"] == TRAIN - 1
        assert row["val images"] == VAL
    coverage = sheet(checked, "Label coverage")
    assert coverage["semantic", "train"]["labelled images"] == TRAIN - 1
    assert coverage["semantic", "train"]["of the images"] == "87.5 %"
    assert coverage["semantic", "train"]["of their pixels"] == f"{100 * 38 / 40:.1f} %"
    assert coverage["depth", "train"]["of their pixels"] == f"{100 * (TRAIN - 0.5) / TRAIN:.1f} %"
    depths = [pixels(p) for p in sorted((root / "train" / "depth").iterdir())]
    ranges = sheet(checked, "Ranges")["depth", "train"]
    assert ranges["lowest"] == pytest.approx(min(d[d > 0].min() for d in depths) / 1000)
    assert ranges["highest"] == pytest.approx(max(d.max() for d in depths) / 1000)
    medians = sorted(np.median(d[d > 0]) / 1000 for d in depths)
    assert ranges["median of the images' medians"] == pytest.approx(medians[(TRAIN - 1) // 2])
    images = sheet(checked, "Images")["train"]
    assert (images["images"], images["readable"], images["sizes"]) == (TRAIN, TRAIN, 1)
    assert images["median"] == f"{WIDTH} x {HEIGHT}"
    assert (images["type x bands"], images["values"]) == ("uint8 x 3", "0 to 255")


def test_workers_change_nothing(root: Path) -> None:
    (root / "train" / "images" / "01.png").write_bytes(b"")
    change(root / "val" / "semantic" / "09.png", lambda a: np.full_like(a, 1))
    one, two = run(root), run(root, workers=2)
    assert one.sheets == two.sheets
    assert one.findings == two.findings
    assert len(one.findings) > 1


def test_every_error_is_listed_and_alike_ones_together(root: Path) -> None:
    for i in range(6):
        change(root / "train" / "semantic" / f"{i:02d}.png", lambda a, i=i: a.__setitem__((slice(0, i + 1), 0), 7 + i))
    (root / "train" / "images" / "03.png").write_text("no image")
    (root / "val" / "images" / "09.png").write_bytes((root / "val" / "images" / "09.png").read_bytes()[:500])
    checked = run(root)
    errors = found(checked, "error")
    assert checked.errors == len(errors) == 3
    assert checked.verdict.startswith("3 errors, ")
    labels = next(text for text in errors if "outside the 3 classes" in text)
    assert "semantic/00.png: label id 7 (1 pixels)" in labels
    assert labels.endswith("; and 5 more like it: train/01, train/02, train/03 and 2 more")
    assert sum("train/images/03.png: found a file that starts with b'no image'" in text for text in errors) == 1
    assert sum("val/images/09.png: found an unreadable file" in text for text in errors) == 1
    # the labels of an image that cannot be read are counted nevertheless
    assert sheet(checked, "Images")["val"]["readable"] == VAL - 1
    # and the images of labels that cannot be read
    assert sheet(checked, "Images")["train"]["readable"] == TRAIN - 1
    assert sheet(checked, "Label coverage")["depth", "val"]["labelled images"] == VAL
    assert sheet(checked, "Label coverage")["semantic", "train"]["labelled images"] == TRAIN - 6


def test_a_label_that_names_no_class_is_told_with_its_file_and_its_image_still_counts(root: Path) -> None:
    for i in range(TRAIN):
        label = root / "train" / "scene" / f"{i:02d}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("zebra" if i == 2 else "city")
    shutil.copy(root / "train" / "images" / "02.png", root / "val" / "images" / "09.png")
    checked = run(root, scene={"kind": "classification", "classes": ["city", "country"]})
    (error,) = found(checked, "error")
    assert f"{root / 'train' / 'scene' / '02.txt'}: label 'zebra' is not a class" in error
    assert sheet(checked, "Images")["train"]["readable"] == TRAIN
    assert sheet(checked, "Classes of scene")["city"]["train images"] == TRAIN - 1
    assert any("of val also in train (equal pixels): train/02 and val/09;" in w for w in found(checked, "warning"))


def photo(root: Path, edit: Callable[[np.ndarray], Any]) -> None:
    change(root / "train" / "images" / "02.png", edit)


def mask(root: Path, edit: Callable[[np.ndarray], Any], *numbers: int) -> None:
    for number in numbers or (2,):
        change(root / "train" / "semantic" / f"{number:02d}.png", edit)


def depth(root: Path, edit: Callable[[np.ndarray], Any], *numbers: int) -> None:
    for number in numbers or (2,):
        change(root / "train" / "depth" / f"{number:02d}.png", edit)


def frame(array: np.ndarray, value: int) -> None:
    array[:1] = array[-1:] = array[:, :1] = array[:, -1:] = value


def white_frame(array: np.ndarray) -> None:
    array[array > 200] = 60
    frame(array, 255)


def upside_down(root: Path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    save(pixels(root / "train" / "images" / "02.png")[::-1, ::-1], root / "train" / "images" / "02.png", exif=exif)


def as_jpeg(root: Path) -> None:
    path = root / "train" / "semantic" / "02.png"
    save(pixels(path) * 0, path.with_suffix(".jpg"))
    path.unlink()


def copy_label(root: Path) -> None:
    shutil.copy(root / "train" / "semantic" / "03.png", root / "train" / "semantic" / "02.png")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda root: photo(root, lambda a: a * 0), "images: the image is black (1 image: train/02)"),
        (lambda root: photo(root, lambda a: a * 0 + 255), "images: the image is white (1 image: train/02)"),
        (lambda root: photo(root, lambda a: a * 0 + 90), "images: the image is of a single colour (1 image: train/02)"),
        (lambda root: photo(root, lambda a: a // 64), "images: the image is nearly black (no value above 3 %)"),
        (lambda root: photo(root, lambda a: 255 - a // 64), "images: the image is nearly white (no value below 97 %)"),
        (lambda root: photo(root, white_frame), "images: a frame of one colour round the image (1 image: train/02)"),
        (lambda root: mask(root, lambda a: a * 0 + 1), "semantic: every labelled pixel is 'sky' (1 image: train/02)"),
        (lambda root: mask(root, lambda a: a * 0 + 255), "semantic: no pixel is labelled (1 image: train/02)"),
        (
            lambda root: mask(root, sparse),
            "semantic: under 2 % of the pixels are labelled (1 image: train/02)",
        ),
        (lambda root: mask(root, lambda a: frame(a, 255)), "semantic: a border without labels all round (1 image"),
        (copy_label, "semantic: 1 labels are identical to another one while the images differ: train/02 and train/03"),
        (
            as_jpeg,
            "semantic: the label is a JPEG, whose compression changes values; save it as PNG (1 image: train/02)",
        ),
        (upside_down, "semantic: the photo is turned by its EXIF and the label is not; save both upright (1 image"),
        (lambda root: depth(root, lambda a: a * 0), "depth: nothing is measured (1 image: train/02)"),
        (lambda root: depth(root, lambda a: a * 0 + 4000), "depth: the same depth everywhere (1 image: train/02)"),
        (lambda root: depth(root, sparse_depth), "depth: under 2 % of the pixels are measured (1 image: train/02)"),
        (lambda root: depth(root, far), "depth: over 10 % of the depths are the largest, 10 m (clipped?) (1 image"),
    ],
)
def test_suspicious_images_and_labels_are_named(root: Path, spoil: Callable[[Path], Any], expected: str) -> None:
    spoil(root)
    warnings = found(run(root), "warning")
    assert any(text.startswith(expected) for text in warnings), warnings


def sparse(array: np.ndarray) -> np.ndarray:
    kept = array[20, 5:40].copy()
    array[:] = 255
    array[20, 5:40] = kept
    return array


def sparse_depth(array: np.ndarray) -> np.ndarray:
    array[:, 1:] = 0
    array[30:] = 0
    return array


def far(array: np.ndarray) -> np.ndarray:
    array[:5] = 10_000
    return array


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, ""),
        (255.0, ""),
        (np.nan, "the image holds values that are not finite"),
    ],
)
def test_floating_point_images_and_their_range(root: Path, factor: float, expected: str) -> None:
    for path in (root / "train" / "images").iterdir():
        array = pixels(path).astype(np.float32) / 255
        array[5:] *= factor
        np.save(path.with_suffix(".npy"), array)
        path.unlink()
    warnings = found(run(root), "warning")
    assert warnings[0].startswith(
        "the images hold values of several kinds: float32 x 3 in 8 images, uint8 x 3 in 4 images"
    )
    told = [w for w in warnings[1:] if w.startswith(f"images: {expected}") and "8 images" in w]
    assert len(told) == len(warnings) - 1 == bool(expected)


def test_depth_in_another_unit_is_noticed(root: Path) -> None:
    checked = run(root, depth={**DEPTH, "units_per_metre": 20_000, "min_depth": 0.01})
    assert "depth: no depth beyond 0.45 m where 10 m are expected" in " ".join(found(checked, "warning"))


def test_a_binary_mask_with_its_values_swapped_is_noticed(root: Path) -> None:
    rng = np.random.default_rng(1)
    for path in root.glob("*/semantic/*.png"):
        save(rng.random((HEIGHT, WIDTH)) < 0.1, path)
    task = {"kind": "semantic", "classes": ["weed"]}
    assert found(run(root, semantic=task), "warning") == []
    for path in root.glob("*/semantic/*.png"):
        change(path, lambda a: 1 - a)
    text = f"semantic: 'weed' covers over 75 % of the pixels in {TRAIN + VAL} of {TRAIN + VAL} images; if it is"
    assert [w.startswith(text) for w in found(run(root, semantic=task), "warning")] == [True]


def test_copies_within_and_across_splits_are_paired(root: Path) -> None:
    for split, name in (("val", "09"), ("train", "05")):
        Image.open(root / "train" / "images" / "02.png").save(root / split / "images" / f"{name}.png", compress_level=1)
    warnings = found(run(root), "warning")
    assert any(w.startswith("1 image of val also in train (equal pixels): train/02 and val/09;") for w in warnings)
    assert any(w.startswith("1 image of train twice there (equal pixels): train/02 and train/05;") for w in warnings)


def test_a_copy_saved_anew_is_advice_and_noise_is_not(root: Path) -> None:
    rng = np.random.default_rng(2)
    for path in root.glob("*/images/*.png"):
        save(np.kron(rng.integers(0, 256, (8, 10, 3)), np.ones((5, 6, 1))), path)
    assert found(run(root)) == []
    Image.open(root / "train" / "images" / "02.png").save(root / "val" / "images" / "09.jpg", quality=80)
    (root / "val" / "images" / "09.png").unlink()
    checked = run(root)
    assert found(checked, "warning") == []
    assert [a.startswith("1 image of val almost as in train: train/02 and val/09;") for a in found(checked)] == [True]


def test_classes_that_are_missing_or_rare(root: Path) -> None:
    for path in root.glob("train/semantic/*.png"):
        change(path, lambda a: np.where(a == 2, 0, a))
    for path in root.glob("val/semantic/*.png"):
        change(path, lambda a: np.where(a == 1, 0, a))
    warnings = found(run(root), "warning")
    assert "semantic: no training label of 'car', which cannot be learnt" in warnings
    absent = "semantic: no validation label of 'sky': left out of the mean of the metrics, which is then one of 2 of 3"
    assert any(w.startswith(absent) for w in warnings)


def few_cars(root: Path) -> None:
    """Cars in one training image of eight, and one of validation, in three columns."""
    for path in root.glob("*/semantic/*.png"):
        kept = 3 if path.stem in ("02", "09") else 0
        change(path, lambda a, kept=kept: np.where((a == 2) & (np.arange(WIDTH) >= kept), 0, a))


def counts_as(root: Path, weighting: Any) -> str:
    """How many pixels of road one of car weighs, by weights that the task itself makes of the training labels."""
    task = Semantic("semantic", classes=SEMANTIC["classes"], class_weights=weighting)
    task.prepare(lambda: (torch.from_numpy(pixels(p).copy()) for p in sorted(root.glob("train/semantic/*.png"))))
    weights = dict(zip(task.classes, task.spec()["class_weights"], strict=True))
    ratio = weights["car"] / weights["road"]
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def test_imbalance_of_classes_is_told_with_what_each_setting_would_do(root: Path) -> None:
    few_cars(root)
    checked = run(root)
    weights, crops, repeats = found(checked, "advice")
    rows = sheet(checked, "Classes of semantic")
    pixels_of = {name: rows[name]["train pixels"] for name in SEMANTIC["classes"]}
    share = {name: f"{100 * pixels_of[name] / sum(pixels_of.values()):.2g} %" for name in pixels_of}
    ratio = pixels_of["road"] / pixels_of["car"]
    assert ratio > 20
    assert weights == (
        f"semantic: 'car' is {share['car']} of the pixels and 'road' {share['road']}, {ratio:,.0f} times as many; "
        f"tasks.semantic.class_weights: balanced would make a pixel of 'car' count as {counts_as(root, 'balanced')} of "
        f"'road', median_frequency as {counts_as(root, 'median_frequency')}, {{name: inverse, power: 0.5}} as "
        f"{counts_as(root, {'name': 'inverse', 'power': 0.5})}, effective_number as "
        f"{counts_as(root, 'effective_number')}"
    )
    assert crops == (
        f"semantic: under 2 % of the pixels are 'car' ({share['car']}); data.augment.rare: {{task: semantic, chance: "
        f"0.5, classes: [car]}}, with a data.augment.crop smaller than the images, would show one of them in at least "
        f"half of the crops of images that have one"
    )
    # 4/8 shows one image of eight sqrt(4) = 2 times, and road and sky at most once
    assert repeats == (
        "semantic: 'car' is in 1 of 8 labelled images and 'road' in 8; data.sampling: {name: repeat_factor, task: "
        "semantic, threshold: 0.5} would show those with 'car' twice in an epoch of 9 images instead of 8"
    )


def settings_of(advice: str) -> Any:
    """What stands after `data.augment.rare:` or `data.sampling:`, as a config would read it."""
    written = advice.partition("data.augment.rare: " if "rare:" in advice else "data.sampling: ")[2]
    return config.parse(written[: written.index("}") + 1], "advice")


def test_what_is_recommended_can_be_pasted_and_is_then_no_longer_recommended(root: Path) -> None:
    few_cars(root)
    _, crops, repeats = found(run(root), "advice")
    config_values = values(root, semantic={**SEMANTIC, "class_weights": "median_frequency"})
    config_values["data"] |= {
        "sampling": settings_of(repeats),
        "augment": {"crop": [20, 20], "rare": settings_of(crops)},
    }
    (advice,) = found(check(check_config(config.from_values(config_values)), root / "page", 0), "advice")
    made = counts_as(root, "median_frequency")
    assert advice.partition("; ")[2] == (
        f"tasks.semantic.class_weights: median_frequency makes a pixel of 'car' count as {made} of 'road'"
    )
    config_values["data"]["augment"]["rare"]["classes"] = ["cart"]
    with pytest.raises(ConfigError, match=r"rare\.classes: unknown class 'cart'; did you mean 'car'"):
        check(check_config(config.from_values(config_values)), root / "page2", 0)


def test_losses_without_class_weights_get_no_advice_about_them(root: Path) -> None:
    few_cars(root)
    advice = found(run(root, semantic={**SEMANTIC, "loss": "dice"}), "advice")
    assert len(advice) == 2
    assert not any("class_weights" in text for text in advice)


def test_names_that_yaml_would_read_otherwise_are_quoted_in_advice(root: Path) -> None:
    few_cars(root)
    names = ["road", "sky", "cars, and: vans"]
    _, crops, _ = found(run(root, semantic={"kind": "semantic", "classes": names}), "advice")
    assert settings_of(crops) == {"task": "semantic", "chance": 0.5, "classes": names[2:]}


def test_tasks_with_unlike_numbers_of_labels(root: Path) -> None:
    for path in sorted(root.glob("train/depth/*.png"))[2:]:
        path.unlink()
    (advice,) = found(run(root), "advice")
    # a step of 4 of 8 images misses both labelled ones in 15 of its 70 choices
    assert advice == (
        "tasks: of 8 training images semantic 8, depth 2 are labelled; 21 % of the steps of 4 have no label for depth, "
        "and none by data.sampling: {name: tasks, minimum: 1}; tasks.depth.weight: {labels: -0.5} would be 2"
    )


def test_a_task_with_few_labels_in_every_step_needs_no_advice(root: Path) -> None:
    for path in sorted(root.glob("train/depth/*.png"))[4:]:
        path.unlink()
    # a step of 4 of 8 images misses all four labelled ones in 1 of 70 choices
    assert found(run(root), "advice") == []


def test_data_sets_of_unlike_size(root: Path) -> None:
    small = root / "small"
    for split, name in (("train", "00"), ("train", "01"), ("val", "08")):
        for kind in ("images", "semantic", "depth"):
            (small / split / kind).mkdir(parents=True, exist_ok=True)
            shutil.move(root / split / kind / f"{name}.png", small / split / kind / f"{name}.png")
    for i in range(20, 22):
        for kind, top in (("images", 256), ("semantic", 3), ("depth", 256)):
            shape = (HEIGHT, WIDTH, 3) if kind == "images" else (HEIGHT, WIDTH)
            drawn = np.random.default_rng(i).integers(0, top, shape)
            save((drawn + 1000).astype(np.uint16) if kind == "depth" else drawn, root / f"train/{kind}/{i}.png")
    layers = {"semantic": "semantic", "depth": "depth"}
    folders = {"large": root, "small": small}
    sets = {name: {"format": "folder", "root": str(folder), "tasks": layers} for name, folder in folders.items()}
    mixed: dict[str, Any] = values(root) | {"data": {"sets": sets}}
    (advice,) = found(check(check_config(config.from_values(mixed)), root / "page", 0), "advice")
    # 8 and 2 of 10: square roots in the ratio 2 to 1 give 7 and 3
    assert advice == (
        "data sets: large has 8 training images and small 2, which is 20 % of an epoch; data.sampling: {name: "
        "temperature, temperature: 2} would make it 30 %, and uniform 50 %"
    )
    mixed["data"]["sampling"] = "uniform"
    assert found(check(check_config(config.from_values(mixed)), root / "page2", 0), "advice") == []


def test_a_task_with_few_labels_or_none(root: Path) -> None:
    for i in range(40):
        save(np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3)), root / "train" / "images" / f"more{i}.png")
    for path in sorted(root.glob("train/depth/*.png"))[3:]:
        path.unlink()
    warnings = found(run(root), "warning")
    assert any(
        w.startswith("depth: 3 of 48 training images (6.2 %) carry a label, 0.25 in a step of 4") for w in warnings
    )
    (root / "val" / "depth").rename(root / "val" / "elsewhere")
    assert "depth: no validation image has a label for it, so it cannot be measured" in found(run(root), "warning")


def test_images_of_several_sizes_need_a_size(root: Path) -> None:
    for kind in ("images", "semantic", "depth"):
        path = root / "train" / kind / "02.png"
        Image.open(path).crop((0, 0, 50, 30)).save(path)
    errors = found(run(root), "error")
    assert errors == [
        "training images have 2 sizes (60 x 40 is that of 7 in 8) and cannot share a batch; set data.size or "
        "data.augment.crop"
    ]
    sized = values(root)
    sized["data"]["size"] = [32, 32]
    checked = check(check_config(config.from_values(sized)), root / "page2", 0)
    assert checked.errors == 0
    assert sheet(checked, "Images")["train"]["smallest"] == "50 x 30"


def test_a_split_without_images_is_an_error_of_its_own(root: Path) -> None:
    broken = values(root)
    broken["data"] |= {"images": "train/images", "tasks": {"semantic": "train/semantic", "depth": "train/depth"}}
    broken["data"]["splits"] = {split: f"{split}.txt" for split in ("train", "val", "test")}
    for split, lines in (("train", "00\n01\n02\n"), ("val", "03\n"), ("test", "nothing here\n")):
        (root / f"{split}.txt").write_text(lines)
    checked = check(check_config(config.from_values(broken)), root / "page", 0)
    assert [e.split("test.txt: ")[1][:29] for e in found(checked, "error")] == ["none of its 1 lines names an "]
    assert list(sheet(checked, "Images")) == ["train", "val"]
    (root / "train.txt").write_text("nothing here\n")
    checked = check(check_config(config.from_values(broken)), root / "page", 0)
    assert (checked.errors, list(sheet(checked, "Images"))) == (2, ["val"])
    (root / "val.txt").write_text("nothing here\n")
    with pytest.raises(DataError, match="none of its 1 lines"):
        check(check_config(config.from_values(broken)), root / "page", 0)


def test_a_record_is_small_whatever_the_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    save(rng.integers(0, 256, (720, 960, 3)), tmp_path / "train" / "images" / "a.png")
    save(rng.integers(0, 3, (720, 960)), tmp_path / "train" / "semantic" / "a.png")
    tasks = build_tasks(check_config(config.from_values(values(tmp_path, semantic=SEMANTIC))))
    data = build_dataset(check_config(config.from_values(values(tmp_path, semantic=SEMANTIC))), "train", tasks)
    (record,) = survey({"train": data}, tasks, 0)
    assert isinstance(record, Record)
    assert record.look is not None
    assert record.look.size == (720, 960)
    assert len(pickle.dumps(record)) < 2000


@pytest.mark.parametrize("kind", list(TASKS))
def test_every_task_kind_describes_its_labels(kind: str) -> None:
    assert TASKS.load(kind).describe is not Task.describe


def test_sums_over_images() -> None:
    task, labels = Semantic("semantic", classes=3), Labels(2)
    for target in ([[0, 0, 255]], [[1, 0, 1]]):
        labels.add(task.describe(torch.tensor(target, dtype=torch.uint8)))
    assert dict(labels.counts) == {"class 0": 3, "class 1": 2, "class 2": 0}
    assert dict(labels.occurs) == {"class 0": 2, "class 1": 1, "class 2": 0}
    assert (labels.labelled, labels.total, labels.unit) == (5, 6, "pixels")


def test_depth_is_described_in_metres() -> None:
    summary = Depth("depth").describe(torch.tensor([[0.0, 1.0, 4.0, 9.0]]))
    assert summary.values == {"depth in m": (1.0, 4.0, 9.0)}
    assert (summary.labelled, summary.total) == (3, 4)


# The command line and its page


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["segweave", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_verb_and_its_exit_codes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "street.yaml"
    path.write_text(config.dump(values(root)), encoding="utf-8")
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "200")
    assert command(monkeypatch, "check", path, "--workers", "0") == 0
    shown = capsys.readouterr()
    assert "12/12 images" in shown.err
    assert "ready to train, 0 warnings" in shown.out
    assert "Classes of semantic" in shown.out
    assert "page: check/street/check.html" in shown.out
    assert command(monkeypatch, "check", path, "tasks.semantic.classes=[road]", "--workers", "0") == 1
    shown = capsys.readouterr()
    assert "error: " in shown.out
    assert "Traceback" not in shown.out + shown.err
    assert "page: check/street-2/check.html" in shown.out, "an older page is kept"
    assert command(monkeypatch, "check", path, "data.rot=x") == 2
    (root / "taken").write_text("a file")
    assert command(monkeypatch, "check", path, "--out", "taken/below") == 2
    assert not (root / "check" / "street-3").exists()


def test_the_page_needs_nothing_else_and_shows_every_label(root: Path) -> None:
    mask(root, lambda a: a * 0 + 1, 4)
    page = run(root).page.read_text(encoding="utf-8")
    assert "http:" not in page
    assert "https:" not in page
    assert "src=" not in page.replace('src="data:image/webp;base64,', "")
    # four samples of train, four of val, and the suspicious one, each with two labels
    assert page.count("<img") == 9 * 3
    assert "every labelled pixel is &#x27;sky&#x27;" in page
    for split in ("train", "val"):
        assert f"Samples of {split}" in page


@pytest.mark.skipif("SEGWEAVE_TIMING" not in os.environ, reason="needs a quiet machine: set SEGWEAVE_TIMING")
def test_a_thousand_images_are_read_in_twenty_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(1000):
        coarse = np.kron(rng.integers(0, 256, (36, 48, 3)), np.ones((10, 10, 1)))
        save((coarse + rng.normal(0, 4, coarse.shape)).clip(0, 255), tmp_path / "images" / f"{i:04d}.png")
        save(np.kron(rng.integers(0, 3, (36, 48)), np.ones((10, 10))), tmp_path / "semantic" / f"{i:04d}.png")
    path = tmp_path / "speed.yaml"
    path.write_text(config.dump(values(tmp_path, semantic=SEMANTIC)), encoding="utf-8")
    allowed = sorted(os.sched_getaffinity(0))[:2]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "segweave", "check", str(path), "--out", str(tmp_path / "page")],
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    assert seconds < 20


# Real data with known faults


def test_cwfid_leaks_an_image_and_has_an_inverted_mask(real_data: Path, tmp_path: Path) -> None:
    for split, ids in (("train", (2, 5, 28)), ("val", (1, 28))):
        (tmp_path / f"{split}.txt").write_text("".join(f"{i:03d}_image.png\n" for i in ids))
    path = tmp_path / "cwfid.yaml"
    data = {"format": "folder", "root": str(real_data / "cwfid"), "images": "images/{stem}_image.png"}
    data |= {"tasks": {"vegetation": "masks/{stem}_mask.png"}}
    data |= {"splits": {split: str(tmp_path / f"{split}.txt") for split in ("train", "val")}}
    tasks = {"vegetation": {"kind": "semantic", "classes": ["vegetation"]}}
    path.write_text(config.dump({"data": data, "tasks": tasks}))
    warnings = found(check(read_config(path), tmp_path / "page", 0), "warning")
    assert any("1 image of val also in train (equal pixels): train/028 and val/028" in w for w in warnings)
    assert any("'vegetation' covers over 75 % of the pixels in 5 of 5 images" in w for w in warnings)


def test_kvasir_masks_are_jpegs(real_data: Path, tmp_path: Path) -> None:
    data = {"format": "folder", "root": str(real_data / "kvasir_jpegmasks" / "Kvasir-SEG"), "splits": {"val": 0.3}}
    data |= {"tasks": {"semantic": "masks"}, "size": [64, 64]}
    tasks = {"semantic": {"kind": "semantic", "classes": ["polyp"]}}
    raw = {"data": data, "tasks": tasks}
    checked = check(check_config(config.from_values(raw)), tmp_path / "a", 0)
    assert "outside the 2 classes" in found(checked, "error")[0]
    assert any("the label is a JPEG" in w and "(5 images" in w for w in found(checked, "warning"))
    tasks["semantic"]["threshold"] = 128
    assert check(check_config(config.from_values(raw)), tmp_path / "b", 0).errors == 0
