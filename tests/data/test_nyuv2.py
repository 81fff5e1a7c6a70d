"""NYUv2 in its three layouts: what their values mean, what is refused, and the real subset."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from segweave.data.nyuv2 import NYUv2
from segweave.errors import ConfigError, DataError
from segweave.tasks import Depth, Normals, Semantic
from segweave.tasks.task import Task

HEIGHT, WIDTH, FRAMES = 12, 16, 12


def classes(layer: str, root: Path) -> Sequence[str]:
    return NYUv2.default_classes({"root": str(root)})[layer]


def made(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    """The folders of images, 40 labels and depth."""
    rng = np.random.default_rng(0)
    base = root / "data"
    for name in ("nyu_images", "nyu_labels40", "nyu_depths"):
        (base / name).mkdir(parents=True)
    for i in range(FRAMES):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(base / "nyu_images" / f"{i}.jpg")
        Image.fromarray(rng.integers(0, 40, (HEIGHT, WIDTH), np.uint8)).save(base / "nyu_labels40" / f"{i}.png")
        Image.fromarray(rng.integers(1, 256, (HEIGHT, WIDTH), np.uint8)).save(base / "nyu_depths" / f"{i}.png")
    (base / "train.txt").write_text("\n".join(map(str, range(9))))
    (base / "test.txt").write_text("\n".join(map(str, range(9, FRAMES))))
    return {"root": str(root)}, [
        Semantic("semantic", classes=classes("semantic40", root), source="semantic40"),
        Depth("depth"),
    ]


def made_arrays(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for name in ("image", "label", "depth", "normal"):
            (root / split / name).mkdir(parents=True)
        for i in range(3):
            normals = rng.normal(size=(HEIGHT, WIDTH, 3))
            normals /= np.linalg.norm(normals, axis=2, keepdims=True)
            normals[:2] = 0
            np.save(root / split / "image" / f"{i}.npy", rng.random((HEIGHT, WIDTH, 3)))
            np.save(root / split / "label" / f"{i}.npy", rng.integers(-1, 13, (HEIGHT, WIDTH)).astype(np.float32))
            np.save(root / split / "depth" / f"{i}.npy", rng.uniform(0, 9, (HEIGHT, WIDTH, 1)).astype(np.float32))
            np.save(root / split / "normal" / f"{i}.npy", normals)
    semantic = Semantic("semantic", classes=classes("semantic13", root))
    return {"root": str(root)}, [semantic, Depth("depth"), Normals("normals")]


def made_mat(root: Path) -> tuple[dict[str, Any], Sequence[Task]]:
    """Written as MATLAB does: its first axis is HDF5's last, and cells are references."""
    rng = np.random.default_rng(2)
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = rng.integers(0, 256, (FRAMES, 3, WIDTH, HEIGHT), np.uint8)
        file["depths"] = rng.uniform(1, 9, (FRAMES, WIDTH, HEIGHT)).astype(np.float32)
        file["rawDepths"] = np.where(rng.random((FRAMES, WIDTH, HEIGHT)) < 0.2, 0, file["depths"]).astype(np.float32)
        file["labels"] = rng.integers(0, 895, (FRAMES, WIDTH, HEIGHT)).astype(np.uint16)
        scenes = []
        for i in range(FRAMES):
            name = f"#refs#/{i}"
            file[name] = np.frombuffer(f"kitchen_{i // 2:04}".encode(), np.uint8).astype(np.uint16)[:, None]
            scenes.append(file[name].ref)
        file["scenes"] = np.array([scenes], h5py.ref_dtype)
    savemat(root / "splits.mat", {"trainNdxs": np.arange(1, 9)[:, None], "testNdxs": np.arange(9, 13)[:, None]})
    savemat(root / "classMapping40.mat", {"mapClass": rng.integers(1, 41, (1, 894)).astype(np.uint8)})
    names = {name: classes(name, root) for name in ("semantic40", "semantic13")}
    tasks: list[Task] = [Semantic(name, classes=names[name]) for name in names]
    return {"root": str(root)}, [*tasks, Depth("depth"), Depth("raw", source="raw_depth")]


def plain(data: NYUv2, index: int, task: str) -> np.ndarray:
    annotation = data.annotation(index, task)
    assert annotation is not None
    return annotation.as_subclass(torch.Tensor).numpy()


def test_the_ambiguous_label_is_not_labelled_and_depth_is_in_metres(tmp_path: Path) -> None:
    options, tasks = made(tmp_path)
    data = NYUv2("test", tasks, **options)
    assert data.ids == ["10", "11", "9"]
    labels = np.asarray(Image.open(tmp_path / "data" / "nyu_labels40" / "10.png"))
    assert (plain(data, 0, "semantic") == np.where(labels == 39, 255, labels)).all()
    stored = np.asarray(Image.open(tmp_path / "data" / "nyu_depths" / "10.png"))
    np.testing.assert_allclose(plain(data, 0, "depth"), stored / 25.5, rtol=1e-6)  # float32
    assert any("39 is both 'otherprop' and what nobody labelled" in note for note in data.notes)


def test_val_is_drawn_from_train_and_none_is_lost(tmp_path: Path) -> None:
    options, tasks = made(tmp_path)
    train, val = (NYUv2(split, tasks, **options, val=0.4) for split in ("train", "val"))
    assert sorted([*train.ids, *val.ids]) == sorted(map(str, range(9)))
    assert train.splits == ["train", "val", "test"]


def test_lines_of_the_list_without_an_image_are_told(tmp_path: Path) -> None:
    options, tasks = made(tmp_path)
    (tmp_path / "data" / "test.txt").write_text("9\n77\n")
    data = NYUv2("test", tasks, **options)
    assert data.ids == ["9"]
    assert any("1 lines name no image, such as '77'" in note for note in data.notes)


@pytest.mark.parametrize(
    ("folder", "value", "message"),
    [
        ("nyu_labels40", np.full((HEIGHT, WIDTH), 40, np.uint8), r"found label id 40 \(192 pixels\); expected 0 to 39"),
        ("nyu_depths", np.full((HEIGHT, WIDTH), 900, np.uint16), "found 16-bit depth; expected 8 bits"),
    ],
)
def test_values_that_the_folders_do_not_have_are_refused(
    tmp_path: Path, folder: str, value: np.ndarray, message: str
) -> None:
    options, tasks = made(tmp_path)
    Image.fromarray(value).save(tmp_path / "data" / folder / "9.png")
    with pytest.raises(DataError, match=rf"9\.png: {message}"):
        NYUv2("test", tasks, **options)[2]


def test_the_arrays_are_as_stored_but_for_what_is_not_labelled(tmp_path: Path) -> None:
    options, tasks = made_arrays(tmp_path)
    data = NYUv2("val", tasks, **options)
    assert data.splits == ["train", "val"]
    assert data.ids == ["0", "1", "2"]
    stored = {name: np.load(tmp_path / "val" / name / "1.npy") for name in ("image", "label", "depth", "normal")}
    assert (data[1].image.numpy() == stored["image"].astype(np.float32).transpose(2, 0, 1)).all()
    assert (plain(data, 1, "semantic") == np.where(stored["label"] < 0, 255, stored["label"])).all()
    assert (plain(data, 1, "depth") == stored["depth"][..., 0]).all()
    assert (plain(data, 1, "normals") == stored["normal"].astype(np.float32).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("value", [13.0, -2.0, 0.5, np.nan])
def test_a_label_that_the_arrays_do_not_have_is_refused(tmp_path: Path, value: float) -> None:
    options, tasks = made_arrays(tmp_path)
    labels = np.zeros((HEIGHT, WIDTH), np.float32)
    labels[3, 4] = value
    np.save(tmp_path / "val" / "label" / "0.npy", labels)
    with pytest.raises(DataError, match=rf"0\.npy: found the label {value:g} \(1 pixels outside.*expected 0 to 12"):
        NYUv2("val", tasks, **options)[0]


def test_matlab_frames_are_upright_and_mapped_to_40_and_13_classes(tmp_path: Path) -> None:
    """Against the arrays in MATLAB's own order, H x W x 3 x N, and a class at a time."""
    options, tasks = made_mat(tmp_path)
    data = NYUv2("test", tasks, **options)
    assert data.ids == ["0009", "0010", "0011", "0012"]
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat") as file:
        of_matlab: dict[str, np.ndarray] = {name: np.asarray(file[name]).T for name in ("images", "labels", "depths")}
        raw = np.asarray(file["rawDepths"]).T
    sample = data[1]
    assert (sample.image.permute(1, 2, 0).numpy() == of_matlab["images"][..., 9]).all()
    assert (plain(data, 1, "depth") == of_matlab["depths"][..., 9]).all()
    assert (plain(data, 1, "raw") == raw[..., 9]).all()
    from scipy.io import loadmat

    to_40 = loadmat(tmp_path / "classMapping40.mat")["mapClass"][0]
    in_13 = {"bookshelf": "furniture", "door": "wall", "curtain": "window", "desk": "table", "floormat": "floor"}
    names_40, names_13 = (classes(name, tmp_path) for name in ("semantic40", "semantic13"))
    for label, in_40, coarse in zip(
        of_matlab["labels"][..., 9].flat,
        plain(data, 1, "semantic40").flat,
        plain(data, 1, "semantic13").flat,
        strict=True,
    ):
        assert in_40 == (255 if label == 0 else to_40[label - 1] - 1)
        if label and names_40[in_40] in names_13:
            assert names_13[coarse] == names_40[in_40]
        if label and names_40[in_40] in in_13:
            assert names_13[coarse] == in_13[names_40[in_40]]
        assert (coarse == 255) == (label == 0)


def test_frames_of_a_scene_are_drawn_together(tmp_path: Path) -> None:
    options, tasks = made_mat(tmp_path)
    train, val = (NYUv2(split, tasks, **options, val=0.5).ids for split in ("train", "val"))
    assert len(train) + len(val) == 8
    assert {(int(id) - 1) // 2 for id in train}.isdisjoint((int(id) - 1) // 2 for id in val)


@pytest.mark.parametrize("name", ["splits.mat", "classMapping40.mat"])
def test_a_file_missing_beside_the_matlab_file_is_named(tmp_path: Path, name: str) -> None:
    options, tasks = made_mat(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: found no such file; expected it beside nyu_depth_v2_labeled\.mat"):
        NYUv2("train", tasks, **options)


def test_matlab_faults_are_told(tmp_path: Path) -> None:
    options, tasks = made_mat(tmp_path)
    mapping = tmp_path / "classMapping40.mat"
    savemat(mapping, {"mapClass": np.ones((1, 9), np.uint8)})
    with pytest.raises(DataError, match=r"labeled\.mat: found label \d+ in frame 0009; expected at most 9"):
        NYUv2("test", tasks, **options)[0]
    savemat(mapping, {"mapClass": np.full((1, 894), 41, np.uint8)})
    with pytest.raises(DataError, match=r"classMapping40\.mat: found mapClass of \[41\]"):
        NYUv2("test", tasks, **options)
    mapping.write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match=r"classMapping40\.mat: cannot be read .*with mapClass"):
        NYUv2("test", tasks, **options)
    with pytest.raises(ConfigError, match=r"data\.bands: found 4; expected none or 3"):
        NYUv2("test", tasks, **options, bands=4)
    savemat(tmp_path / "splits.mat", {"trainNdxs": [[1]], "testNdxs": [[13]]})
    with pytest.raises(DataError, match="testNdxs from 13 to 13; expected 1 to 12"):
        NYUv2("test", tasks[2:], **options)
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"labeled\.mat: found a file that cannot be read"):
        NYUv2("train", tasks[2:], **options)


def test_without_h5py_the_install_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, tasks = made_mat(tmp_path)
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "h5py":
            raise ImportError
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs h5py: pip install 'segweave\[mat\]'"):
        NYUv2("train", tasks[2:], **options)


def test_a_layer_that_the_layout_lacks_is_named(tmp_path: Path) -> None:
    options, _ = made(tmp_path)
    with pytest.raises(ConfigError, match="no layer 'semantic13'; the data has semantic40, depth"):
        NYUv2("train", [Semantic("labels", classes=13, source="semantic13")], **options)
    assert len(classes("semantic", tmp_path)) == 39


def test_the_real_subset(real_data: Path) -> None:
    root = real_data / "nyuv2"
    tasks: list[Task] = [Semantic("semantic", classes=classes("semantic", root)), Depth("depth", max_depth=10)]
    counts = {split: NYUv2(split, tasks, root=str(root)) for split in ("train", "val", "test")}
    assert len(counts["train"]) + len(counts["val"]) == 250
    assert len(counts["test"]) == 50
    sample = counts["test"][0]
    labels = sample.annotations["semantic"]
    assert (labels[:6] == 255).all()
    assert (labels[:, -6:] == 255).all()
    depth = sample.annotations["depth"]
    assert 0.7 < float(depth.min()) < float(depth.max()) <= 10
