"""Prediction files of images, folders and globs; what is written is what scoring reads."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segweave import predict as module
from segweave import rasters
from segweave.batch import Sample
from segweave.data import Folder
from segweave.errors import ConfigError, DataError
from segweave.evaluate import evaluate, score
from segweave.model import MultiTaskModel, create_model
from segweave.predict import find_images, new_folder, predict
from segweave.tasks import Classification, Depth, Semantic


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    torch.manual_seed(3)
    tasks = [
        Semantic("semantic", classes=["röad", "sky", "car"], colours={"car": [255, 0, 0]}),
        Semantic("water", classes=["water"]),
        Depth("depth", max_depth=50),
        Classification("scene", classes=["city, old", "road"]),
        Classification("tags", classes=["sun", "rain"], multi_label=True),
    ]
    network = create_model(tasks, backbone="resnet10t", decoder={"name": "fpn", "width": 16})
    with torch.no_grad():
        for head in network.heads.values():
            if isinstance(head.classifier, nn.Conv2d):
                head.classifier.weight *= 30  # so that an untrained network is not of one opinion everywhere
    return network.eval()


def photo(path: Path, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


# Sources


def ids(*sources: Path | str) -> dict[str, str]:
    return {id: path.name for id, path in find_images(sources)}


def test_folders_files_and_globs(tmp_path: Path) -> None:
    for name in ("a/x.JPG", "a/sub/y.png", "a/.hidden.png", "a/._x.png", "b/c1/1.png", "b/c2/2.png", "b/[1].png"):
        photo(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "b" / "c1" / "notes.txt").write_text("")
    assert ids(tmp_path / "a") == {"sub/y": "y.png", "x": "x.JPG"}
    assert ids(tmp_path / "a" / "x.JPG") == {"x": "x.JPG"}
    assert ids(f"{tmp_path}/b/*/*") == {"c1/1": "1.png", "c2/2": "2.png"}
    assert ids(f"{tmp_path}/b/c*") == {"c1/1": "1.png", "c2/2": "2.png"}
    assert ids(f"{tmp_path}/**/*.png") == {"a/sub/y": "y.png", "b/[1]": "[1].png", "b/c1/1": "1.png", "b/c2/2": "2.png"}
    assert ids(tmp_path / "b" / "[1].png") == {"[1]": "[1].png"}
    assert ids(tmp_path / "a", tmp_path / "a" / "x.JPG", f"{tmp_path}/a/*.JPG") == {"sub/y": "y.png", "x": "x.JPG"}


def test_two_files_of_one_id_keep_apart(tmp_path: Path, model: MultiTaskModel) -> None:
    for number, name in enumerate(("a/1.png", "b/1.png", "c/1.png", "c/1.jpg")):
        photo(tmp_path / name, seed=number)
    assert ids(tmp_path / "a", tmp_path / "b") == {"a/1": "1.png", "b/1": "1.png"}
    assert ids(tmp_path / "c") == {"1.jpg": "1.jpg", "1.png": "1.png"}
    done = list(predict(model, [tmp_path / "c", tmp_path / "c" / "1.png"], tmp_path / "p"))
    assert sorted(done) == [("1.jpg", None), ("1.png", None)]
    assert sorted(path.name for path in (tmp_path / "p" / "semantic").iterdir()) == ["1.jpg.png", "1.png.png"]


def test_ids_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "c/a/x.png"):
        photo(tmp_path / name)
    with pytest.raises(ConfigError, match=r"would be written over .*both are 'a/x'; rename one"):
        find_images([tmp_path / "a", tmp_path / "b", tmp_path / "c"])


def test_sources_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("")
    assert find_images([tmp_path / "empty"]) == [(str(tmp_path / "empty"), tmp_path / "empty")]
    for source in ("none.png", "*.png", "*.txt", "none/*.png"):
        with pytest.raises(ConfigError, match=r"no such file or folder|no image .* fits this pattern"):
            find_images([f"{tmp_path}/{source}"])
    good = photo(tmp_path / "x.png")
    assert find_images([tmp_path / "empty", good]) == [("x", good), (str(tmp_path / "empty"), tmp_path / "empty")]


# Files


def test_what_is_written_is_what_scoring_reads(tmp_path: Path, model: MultiTaskModel) -> None:
    root = tmp_path / "set"
    rng = np.random.default_rng(0)
    for i in range(3):
        photo(root / "images" / "sub" / f"{i}.v1.png", 40 + i, 56, i)
        for name, top in (("semantic", 3), ("water", 2)):
            path = root / name / "sub" / f"{i}.v1.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, top, (40 + i, 56), dtype=np.uint8)).save(path)
        path = root / "depth" / "sub" / f"{i}.v1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(500, 40_000, (40 + i, 56), dtype=np.uint16)).save(path)
    rows = [["image", "scene", "tags"], *[[f"{i}.v1.png", "road", "sun"] for i in range(3)]]
    with (root / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    layers = {name: name for name in model.tasks}
    tasks = list(model.tasks.values())
    dataset = Folder("val", tasks, root=str(root), tasks=layers, table="t.csv", splits={"val": 1.0})
    done = list(predict(model, [root / "images"], tmp_path / "p"))
    assert done == [(id, None) for id in dataset.ids]
    written = score(tasks, dataset, tmp_path / "p")

    def batches() -> list[tuple[torch.Tensor, list[Sample]]]:
        return [((dataset[i].image.float() / 255)[None], [dataset[i]]) for i in range(3)]

    direct = evaluate(model, batches())
    for task, key, tolerance in (
        ("semantic", "miou", 0),
        ("water", "miou", 0),
        ("depth", "abs_rel", 1e-4),
        ("scene", "accuracy", 0),
    ):
        assert written[task][key] == pytest.approx(direct[task][key], abs=tolerance + 1e-12)
    outputs = model.predict((dataset[0].image.float() / 255)[None])
    labels = rasters.read_index(tmp_path / "p" / "semantic" / "sub" / "0.v1.png")
    assert torch.equal(labels.long(), outputs["semantic"]["labels"][0])
    assert len(labels.unique()) > 1
    file = Image.open(tmp_path / "p" / "semantic" / "sub" / "0.v1.png")
    assert file.mode == "P"
    assert file.getpalette()[6:9] == [255, 0, 0]  # pyright: ignore[reportOptionalSubscript]
    millimetres = rasters.read_values(tmp_path / "p" / "depth" / "sub" / "0.v1.png")
    assert rasters.read_header(tmp_path / "p" / "depth" / "sub" / "0.v1.png").mode == "I;16"
    torch.testing.assert_close(millimetres / 1000, outputs["depth"]["depth"][0], atol=5.1e-4, rtol=0)
    with (tmp_path / "p" / "scene" / "scene.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == list(dataset.ids)
    assert float(table[0]["city, old"]) == pytest.approx(float(outputs["scene"]["scores"][0, 0]), abs=1e-6)
    assert table[0]["label"] in ("city, old", "road")


def test_scoring_counts_strange_values_as_misses_and_finds_files_by_stem(tmp_path: Path) -> None:
    root, flat = tmp_path / "set", tmp_path / "flat"
    flat.mkdir()
    (root / "mask" / "sub").mkdir(parents=True)
    photo(root / "images" / "sub" / "a.png", 4, 4)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / "mask" / "sub" / "a.png")
    task = Semantic("mask", classes=2)
    dataset = Folder("val", [task], root=str(root), splits={"val": 1.0})
    guess = np.zeros((4, 4), np.uint8)
    guess[0] = (7, 255, 1, 0)
    Image.fromarray(guess).save(flat / "a.png")
    results = score([task], dataset, flat)["mask"]
    assert results["pixel_accuracy"] == pytest.approx(13 / 16)
    assert results["outside"] == pytest.approx(2 / 16)
    (flat / "a.png").unlink()
    with pytest.raises(DataError, match="no prediction for image 'sub/a'"):
        score([task], dataset, flat)


def test_a_task_called_pictures_is_not_painted_over(tmp_path: Path) -> None:
    network = create_model(
        [Semantic("pictures", classes=2)], backbone="resnet10t", decoder={"name": "fpn", "width": 16}
    )
    list(predict(network, [photo(tmp_path / "x.png")], tmp_path / "p"))
    assert rasters.read_header(tmp_path / "p" / "pictures" / "x.png").mode == "P"
    assert rasters.read_header(tmp_path / "p" / "composed" / "x.png").mode == "RGB"


def test_an_output_that_cannot_be_made_or_filled(tmp_path: Path, model: MultiTaskModel) -> None:
    (tmp_path / "file").write_text("")
    image = photo(tmp_path / "x.png")
    for place in ("file", "file/below"):
        with pytest.raises(ConfigError, match="cannot be made"):
            list(predict(model, [image], tmp_path / place))
        with pytest.raises(ConfigError, match=r"file.*cannot be made .*choose another"):
            new_folder(tmp_path / place)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "scene").write_text("in the way")
    with pytest.raises(DataError, match=r"scene: cannot be written"):
        list(predict(model, [image], tmp_path / "p"))


def test_new_folders_are_numbered(tmp_path: Path) -> None:
    for expected in ("p", "p-2", "p-3"):
        folder = new_folder(tmp_path / "p")
        assert folder.name == expected
        (folder / "x").touch()
    assert new_folder(tmp_path / "deep" / "q").is_dir()
    assert new_folder(tmp_path / "deep" / "q").name == "q", "an empty folder is used"


# Huge images


@pytest.mark.parametrize(("height", "width"), [(91, 67), (10, 200), (300, 20), (16, 16)])
def test_strips_are_the_whole_enlargement(
    model: MultiTaskModel, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(1, 1, 32, 24, generator=generator)
    whole = nn.functional.interpolate(output, (height, width), mode="bilinear", align_corners=False)
    strips = [module._enlarged(output, top, min(height, top + 7), height, width) for top in range(0, height, 7)]
    torch.testing.assert_close(torch.cat(strips, -2), whole, atol=1e-5, rtol=1e-5)
    depth = model.tasks["depth"]
    used = (32, 24)
    expected = module._decode(depth, output, used, height, width)["depth"]
    monkeypatch.setattr(module, "_VALUES", 3 * width)
    torch.testing.assert_close(
        module._decode(depth, output, used, height, width)["depth"], expected, atol=1e-4, rtol=1e-4
    )


def test_a_huge_image_needs_no_more_of_the_network(
    model: MultiTaskModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import Counter

    monkeypatch.setattr(module, "_NETWORK_PIXELS", 4096)
    monkeypatch.setattr(module, "_VALUES", 100_000)
    monkeypatch.setattr(module, "_SHOWN", 100)
    seen: list[tuple[int, ...]] = []
    handle = model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    notes: Counter[str] = Counter()
    list(predict(model, [photo(tmp_path / "x.png", 600, 900)], tmp_path / "p", None, notes))
    handle.remove()
    assert seen[0][-2] * seen[0][-1] <= 4096 * 1.7  # with what fills the last stride
    assert list(notes) == ["more than 4096 pixels, shrunk for the network"]
    for name in ("semantic", "water", "depth"):
        header = rasters.read_header(tmp_path / "p" / name / "x.png")
        assert (header.height, header.width) == (600, 900)
