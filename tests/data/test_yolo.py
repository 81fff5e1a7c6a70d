"""Ultralytics' layout: what lines mean, where files may lie, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segweave.data.yolo import Yolo
from segweave.errors import ConfigError, DataError
from segweave.tasks import Detection, Semantic
from segweave.tasks.task import Task

HEIGHT, WIDTH = 20, 40
NAMES = ["cat", "dog"]


def tasks() -> list[Task]:
    return [Detection("boxes", classes=NAMES), Semantic("semantic", classes=["background", *NAMES])]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)


def write(root: Path, name: str, *lines: str) -> Path:
    path = root / "labels" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    for split in ("train", "val"):
        for number in range(4):
            picture(root / "images" / split / f"{number}.png", number + len(split))
        write(root, f"{split}/0", "0 0.1 0.1 0.6 0.1 0.6 0.9", "1 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9")
        write(root, f"{split}/1", "1 0 0 1 0 1 1 0 1", "1 0 0 1 0 1 1 0 1")
        write(root, f"{split}/2")  # and 3 has no file: an image of background, too
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return {"root": str(root)}, tasks()


def one(root: Path, *lines: str, task: Task | None = None, name: str = "a") -> torch.Tensor | None:
    """The label of the only training image, whose file has these lines."""
    for split in ("train", "val"):
        picture(root / "images" / split / f"{name}.png")
    write(root, f"train/{name}", *lines)
    data = Yolo("train", [task or Detection("boxes", classes=NAMES)], root=str(root))
    return data.annotation(0, task.name if task else "boxes")


def test_boxes_are_in_pixels(tmp_path: Path) -> None:
    found = one(tmp_path, "1 0.5 0.5 0.25 0.5", "", "0 0.25 0.1 0.1 0.2")
    assert found is not None
    # by hand, of 40 x 20: centre 20, 10 and size 10 x 10; centre 10, 2 and size 4 x 4
    torch.testing.assert_close(
        found[:, :5].as_subclass(torch.Tensor), torch.tensor([[15.0, 5, 25, 15, 1], [8, 0, 12, 4, 0]])
    )


def test_polygons_have_boxes_round_them(tmp_path: Path) -> None:
    found = one(tmp_path, "0 0.25 0.5 0.5 0.25 0.75 1")
    assert found is not None
    torch.testing.assert_close(found[:, :5].as_subclass(torch.Tensor), torch.tensor([[10.0, 5, 30, 20, 0]]))


def test_smaller_polygons_lie_on_larger_ones_in_masks_and_instances(tmp_path: Path) -> None:
    lines = ("1 0.5 0 0.75 0 0.75 0.5 0.5 0.5", "0 0 0 1 0 1 1 0 1", "0 0.6 0 0.85 0 0.85 0.5 0.6 0.5")
    expected = np.full((HEIGHT, WIDTH), 1)
    expected[:10, 20:30] = 2
    expected[:10, 24:34] = 1  # as many pixels as the first one, and later
    found = one(tmp_path, *lines, task=Semantic("semantic", classes=["background", *NAMES]))
    assert found is not None
    assert np.array_equal(found.numpy(), expected)
    reader = Semantic("instances", classes=4)
    reader.reads = reader.kind = "instances"  # pyright: ignore[reportAttributeAccessIssue]
    numbers = one(tmp_path, *lines, task=reader)
    expected[:], expected[:10, 20:30], expected[:10, 24:34] = 2, 1, 3
    assert numbers is not None
    assert np.array_equal(numbers.numpy(), expected)


def test_an_image_without_objects_is_labelled_with_none(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = Yolo("train", readers, **options)
    assert list(data.ids) == ["train/0", "train/1", "train/2", "train/3"]
    assert data.labelled("boxes") == data.labelled("semantic") == 4
    for index in (2, 3):
        boxes, mask = (data.annotation(index, task) for task in ("boxes", "semantic"))
        assert boxes is not None
        assert mask is not None
        assert boxes.shape == (0, 8)
        assert not mask.any()
    assert data.file(3, "boxes") is None


def test_a_split_without_any_label_file_is_not_labelled(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    picture(tmp_path / "images" / "test" / "x.png")
    (tmp_path / "data.yaml").unlink()
    data = Yolo("test", readers, **options)
    assert data.labelled("boxes") == 0
    assert data.annotation(0, "boxes") is None
    assert any("not labelled" in note for note in data.notes)


def test_a_line_that_is_there_twice_counts_once_and_is_noted(tmp_path: Path) -> None:
    options, readers = made(tmp_path)
    data = Yolo("train", readers, **options)
    assert data[1].annotations["boxes"].shape[0] == 1
    assert data.notes["lines that are twice in a label file: counted once"] == 2  # once by each task


def test_boxes_over_the_border_are_clipped_and_empty_ones_dropped(tmp_path: Path) -> None:
    found = one(tmp_path, "0 1.005 0.5 0.5 0.5", "0 0.5 0.5 0 0.5")
    assert found is not None
    assert found.shape[0] == 1
    torch.testing.assert_close(found[0, :4].as_subclass(torch.Tensor), torch.tensor([30.2, 5, 40, 15]))
    assert sum(Detection("boxes", classes=NAMES).notes(found).values()) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.5", "found 4 values"),
        ("0 0.5 0.5 0.5 0.5 0.9", "found 6 values"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "found 8 values"),
        ("2 0.5 0.5 0.5 0.5", "found class 2; expected a whole number from 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "found class -1"),
        ("0.5 0.5 0.5 0.5 0.5", "found class 0.5"),
        ("0 20 10 10 10", "found 20; expected shares"),
        ("0 0.5 -0.2 0.5 0.5", "found -0.2; expected shares"),
        ("0 nan 0.5 0.5 0.5", "found nan; expected shares"),
        ("inf 0.5 0.5 0.5 0.5", "found inf; expected"),
        ("cat 0.5 0.5 0.5 0.5", "expected numbers"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt: line 3: ") as caught:
        one(tmp_path, "0 0.5 0.5 0.5 0.5", "", line)
    assert said in str(caught.value)


def test_a_box_makes_no_mask(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt: line 2: found a box; expected a polygon"):
        one(tmp_path, "0 0 0 1 0 1 1", "0 0.5 0.5 0.5 0.5", task=Semantic("semantic", classes=3))


def test_classes_must_be_those_of_the_yaml(tmp_path: Path) -> None:
    options, _ = made(tmp_path)
    with pytest.raises(ConfigError, match=r"tasks\.boxes\.classes: found dog, cat; expected cat, dog"):
        Yolo("train", [Detection("boxes", classes=["dog", "cat"])], **options)
    with pytest.raises(ConfigError, match=r"tasks\.semantic\.classes: .*expected background, cat, dog"):
        Yolo("train", [Semantic("semantic", classes=NAMES)], **options)
    assert len(Yolo("train", [Detection("boxes", classes=2)], **options)) == 4
    known = Yolo.default_classes(options)
    assert known["boxes"] == known["detection"] == NAMES
    assert known["semantic"] == ["background", *NAMES]


@pytest.mark.parametrize("layout", ["split below images", "images below split", "lists", "several", "elsewhere"])
def test_layouts(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    below = {"images below split": "{split}/images", "several": "{split}/images"}.get(layout, "images/{split}")
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            image = root / below.format(split=split) / f"{number}.jpg"
            picture(image, number)
            label = root / below.replace("images", "labels").format(split=split) / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{number % 2} 0.5 0.5 0.5 0.5\n")
    text = {
        "lists": "train: train.txt\nval: lists/val.txt\nnames: [cat, dog]\n",
        "several": "train: [../train/images]\nval: [val/images]\nnc: 2\n",
        "elsewhere": f"path: /of/another/machine\ntrain: images/train\nval: {root}/images/val\nnc: 2\n",
    }.get(layout)
    if text:
        (root / "set.yaml").write_text(text)
    if layout == "lists":
        (root / "lists").mkdir()
        (root / "train.txt").write_text(
            "./images/train/0.jpg\nimages/train/1.jpg\nimages/train/2.jpg\nimages/gone.jpg\n"
        )
        (root / "lists" / "val.txt").write_text(f"../images/val/0.jpg\n{root}/images/val/1.jpg\n")
    for place in (root, root / "set.yaml") if text else (root,):
        for split, count in (("train", 3), ("val", 2)):
            data = Yolo(split, [Detection("boxes", classes=NAMES)], root=str(place))
            assert list(data.ids) == [f"{split}/{number}" for number in range(count)]
            rows = [data[index].annotations["boxes"] for index in range(count)]
            assert [int(row[0, 4]) for row in rows] == [number % 2 for number in range(count)]
    if layout == "lists":
        data = Yolo("train", [Detection("boxes", classes=NAMES)], root=str(root))
        assert any("1 listed images are missing" in note and "gone.jpg" in note for note in data.notes)


@pytest.mark.parametrize("count", [2, 40])
def test_without_a_split_for_it_an_exact_share_validates(count: int, tmp_path: Path) -> None:
    """A fifth of the images, at least one: those with the lowest SHA-256, as of every format."""
    names = [f"{number:02}" for number in range(count)]
    for name in names:
        picture(tmp_path / "images" / f"{name}.png", size=(4, 4))
        write(tmp_path, name, "0 0.5 0.5 1 1")
    parts = [Yolo(split, [Detection("boxes", classes=NAMES)], root=str(tmp_path)).ids for split in ("train", "val")]
    lowest = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[: max(1, count // 5)]
    assert parts == [sorted(set(names) - set(lowest)), sorted(lowest)]


def test_a_single_class_needs_no_name_for_the_background(tmp_path: Path) -> None:
    options, _ = made(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    write(tmp_path, "train/0", "0 0 0 1 0 1 1 0 1")
    mask = Yolo("train", [Semantic("semantic", classes=["cat"])], **options).annotation(0, "semantic")
    assert mask is not None
    assert mask.as_subclass(torch.Tensor).unique().tolist() == [1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: images/nowhere\n", "train: found 'images/nowhere'; expected a folder or a list file"),
        ("train: images/train\nnames: {1: cat}\n", "names: found the numbers 1; expected 0, 1, 2"),
        ("train: images/train\nkpt_shape: [17, 3]\n", "kpt_shape: found labels of keypoints"),
        ("train: images/train\nnames: cat\n", "expected a list of names"),
    ],
)
def test_a_wrong_yaml_is_named(text: str, said: str, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"data\.yaml") as caught:
        Yolo("train", tasks(), root=str(tmp_path))
    assert said in str(caught.value)


def test_two_images_of_one_label_file_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "a.png")
    picture(tmp_path / "images" / "train" / "a.jpg")
    with pytest.raises(DataError, match="one image for a label file"):
        Yolo("train", tasks(), root=str(tmp_path))
