"""Surface normals: the files and their frames, what a flip and a zoom do to them, and the whole way from a config."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from segweave import build, rasters
from segweave.batch import Sample
from segweave.check import check
from segweave.config import from_values
from segweave.data.augment import Augment
from segweave.data.streets import render
from segweave.errors import ConfigError, DataError
from segweave.metrics.normals import angle
from segweave.predict import predict_run
from segweave.regularizers.flip_consistency import FlipConsistency
from segweave.regularizers.regularizer import Part
from segweave.schema import check_config
from segweave.tasks.normals import Normals

DIAGONAL = 1 / math.sqrt(2)


def sphere(size: int, radius: float) -> Tensor:
    """A ball before an orthographic camera, [3, size, size]: what is seen at (x, y) faces (x, y, z) / radius."""
    x = (torch.arange(size) + 0.5 - size / 2) / radius
    inside = (1 - x[None].square() - x[:, None].square()).clamp(min=0)
    vectors = torch.stack([x[None].expand(size, size), -x[:, None].expand(size, size), inside.sqrt()])
    return vectors.where(inside > 0, 0)


def random_map(seed: int, height: int = 12, width: int = 15) -> Tensor:
    """Unit vectors that face the camera."""
    drawn = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(torch.stack([drawn[0], drawn[1], drawn[2].abs()]), dim=0)


def degrees(first: Tensor, second: Tensor) -> Tensor:
    return angle(first.movedim(-3, -1), second.movedim(-3, -1))


def rows(vectors: Tensor) -> np.ndarray:
    """[H, W, 3], as files have them."""
    return vectors.permute(1, 2, 0).contiguous().numpy()


def read(task: Normals, path: Path) -> Tensor:
    return task.read(path).as_subclass(Tensor)


def write_png16(path: Path, values: np.ndarray) -> None:
    """16-bit RGB, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_with_the_channels_first_or_last(tmp_path: Path, dtype: type) -> None:
    vectors = random_map(0)
    np.save(tmp_path / "last.npy", rows(vectors).astype(dtype))
    np.save(tmp_path / "first.npy", vectors.numpy().astype(dtype))
    for name in ("last", "first"):
        found = read(Normals("n"), tmp_path / f"{name}.npy")
        assert found.dtype == torch.float32
        # half a unit in the last of float16's 11 bits, per component
        assert degrees(found, vectors).max() < (0.05 if dtype == np.float16 else 1e-4)
        assert (found.norm(dim=0) - 1).abs().max() < 1e-6


def test_images_of_8_and_16_bits(tmp_path: Path) -> None:
    vectors = random_map(1)
    values = (rows(vectors).astype(np.float64) + 1) / 2
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(tmp_path / "8.png")
    np.save(tmp_path / "8.npy", np.rint(values * 255).astype(np.uint8))
    write_png16(tmp_path / "16.png", np.rint(values * 65535).astype(np.uint16))
    # a component is off by 1 / max at most, the vector by sqrt(3) times that
    for name, top in (("8.png", 255), ("8.npy", 255), ("16.png", 65535)):
        found = read(Normals("n"), tmp_path / name)
        assert degrees(found, vectors).max() < math.degrees(math.asin(math.sqrt(3) / top)) + 1e-4
    assert torch.equal(read(Normals("n"), tmp_path / "8.png"), read(Normals("n"), tmp_path / "8.npy"))


def test_the_ends_of_the_integers_are_exact(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 127]]], np.uint8)).save(tmp_path / "8.png")
    write_png16(tmp_path / "16.png", np.array([[[65535, 0, 32768]]], np.uint16))
    assert rasters.read_vectors(tmp_path / "8.png").flatten().tolist() == [1, -1, pytest.approx(-1 / 255)]
    assert rasters.read_vectors(tmp_path / "16.png").flatten().tolist() == [1, -1, pytest.approx(1 / 65535, rel=1e-2)]


def test_what_is_not_labelled_in_floats(tmp_path: Path) -> None:
    values = rows(random_map(2))
    bad = [[0, 0, 0], [math.nan, 0, 1], [math.inf, 0, 0], [0, -math.inf, math.nan], [0, 0, 0.4], [0, 0, 7]]
    values[0, : len(bad)] = bad
    values[1, 0] = [0, 0.6, 0.9]
    np.save(tmp_path / "a.npy", values)
    task = Normals("n")
    for found in (read(task, tmp_path / "a.npy"), task.encode(task.read(tmp_path / "a.npy"))):
        assert (found[:, 0, : len(bad)] == 0).all()
        assert ((found != 0).any(0)).sum() == 12 * 15 - len(bad)
        torch.testing.assert_close(found[:, 1, 0], torch.tensor([0, 0.6, 0.9]) / math.sqrt(1.17))
    # of tensors from Python every length is a direction
    given = task.wrap(torch.tensor([[0.0, math.nan, 0.2], [0, 1, 0], [-9, 1, 0]])[:, None], (1, 3))
    assert task.encode(given)[:, 0].tolist() == [[0, 0, 1], [0, 0, 0], [-1, 0, 0]]


def test_what_is_not_labelled_in_images(tmp_path: Path) -> None:
    values = np.rint((rows(random_map(3)) + 1) / 2 * 255).astype(np.uint8)
    values[0, :5] = [[0, 0, 0], [127, 127, 127], [128, 128, 128], [255, 255, 255], [4, 2, 3]]
    Image.fromarray(values).save(tmp_path / "a.png")
    known = (read(Normals("n"), tmp_path / "a.png") != 0).any(0)
    assert not known[0, :5].any()
    assert known.sum() == 12 * 15 - 5
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "black.png")
    assert (read(Normals("n"), tmp_path / "black.png") == 0).all()


def test_other_things_are_no_normals(tmp_path: Path) -> None:
    unit = rows(random_map(4))
    street = render(seed=1, index=0, height=48, width=80).image
    Image.fromarray(street).save(tmp_path / "photo.png")
    np.save(tmp_path / "from0to1.npy", (unit + 1) / 2)
    np.save(tmp_path / "from0to255.npy", (unit + 1) * 127.5)
    for name in ("photo.png", "from0to1.npy", "from0to255.npy"):
        with pytest.raises(DataError, match=rf"{name}: found vectors of length .*expected length 1, as floats from -1"):
            Normals("n").read(tmp_path / name)
    np.save(tmp_path / "two.npy", unit[..., 0])
    np.save(tmp_path / "wide.npy", unit.astype(np.int32))
    for name, found in (("two.npy", "other than three channels"), ("wide.npy", "vectors of int32 values")):
        with pytest.raises(DataError, match=f"{name}: found {found}"):
            Normals("n").read(tmp_path / name)


def test_a_photograph_is_no_normals(real_data: Path) -> None:
    photo = next((real_data / "camvid" / "CamVid" / "val").glob("*.png"))
    with pytest.raises(DataError, match="Is it a map of normals"):
        Normals("n").read(photo)


@pytest.mark.parametrize(
    ("axes", "stored"),
    [
        (["right", "up", "towards"], [0.48, 0.6, 0.64]),
        (["right", "down", "away"], [0.48, -0.6, -0.64]),
        (["left", "up", "towards"], [-0.48, 0.6, 0.64]),
        (["away", "right", "down"], [-0.64, 0.48, -0.6]),
        (["towards", "up", "right"], [0.64, 0.6, 0.48]),
    ],
)
def test_the_axes_of_the_files(axes: list[str], stored: list[float], tmp_path: Path) -> None:
    """One surface, which faces right, up and towards the camera, in five frames."""
    task = Normals("n", axes=axes)
    np.save(tmp_path / "in.npy", np.tile(np.float32(stored), (4, 5, 1)))
    found = read(task, tmp_path / "in.npy")
    torch.testing.assert_close(found[:, 2, 3], torch.tensor([0.48, 0.6, 0.64]))
    task.write(tmp_path / "out", "a", {"normals": found})
    np.testing.assert_allclose(np.load(tmp_path / "out" / "a.npy")[2, 3], stored, atol=1e-7)
    torch.testing.assert_close(task.predictions(tmp_path / "out")["a"]()["normals"][0], found)


@pytest.mark.parametrize("axes", [[], ["right", "up"], ["right", "left", "up"], ["x", "y", "z"], ["up"] * 3])
def test_axes_that_are_none(axes: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.n\.axes: found \[.*expected three words: right or left"):
        Normals("n", axes=axes)


def test_a_flip_mirrors_the_scene() -> None:
    """A ball in the middle is its own mirror image; a wall on the left that faces right is one on the right after."""
    task = Normals("n")
    ball = sphere(40, 17.0)
    assert torch.equal(functional.horizontal_flip(task.wrap(ball, (40, 40))).as_subclass(Tensor), ball)
    wall = torch.zeros(3, 4, 6)
    wall[0, :, :2], wall[2, :, 2:] = 1, 1
    flipped = functional.horizontal_flip(task.wrap(wall, (4, 6))).as_subclass(Tensor)
    assert (flipped[0, :, 4:] == -1).all()
    assert (flipped[2, :, :4] == 1).all()


@pytest.mark.parametrize("size", [(80, 80), (20, 20), (60, 90)])
def test_another_size_turns_nothing(size: tuple[int, int]) -> None:
    """The ball of twice the radius has the same normals at twice the place; a stretched picture shows a round ball."""
    ball = sphere(40, 17.0)
    resized = functional.resize(Normals("n").wrap(ball, (40, 40)), list(size)).as_subclass(Tensor)
    lengths = resized.norm(dim=0)
    assert ((lengths == 0) | ((lengths - 1).abs() < 1e-6)).all()
    at = [((torch.arange(n) + 0.5) * 40 / n).long() for n in size]
    assert degrees(resized, ball[:, at[0]][:, :, at[1]])[lengths > 0].max() < 10  # a neighbour is some 5 degrees off
    if size == (80, 80):
        larger = sphere(80, 34.0)
        steep = larger[2] > 0.5
        assert degrees(resized, larger)[steep & (lengths > 0)].max() < 3  # a quarter of a pixel away from the centre


def test_augmented_vectors_are_those_of_the_places_they_show() -> None:
    """The image holds the places, the vectors are a function of the place; x changes its sign with every flip."""
    height, width = 30, 44
    down, across = (torch.arange(n) + 0.5 for n in (height, width))
    image = torch.stack([down[:, None].expand(height, width), across.expand(height, width), torch.ones(height, width)])
    tilt = math.pi * (image[0] / height - 0.5), math.pi * (image[1] / width - 0.5)
    vectors = torch.stack([tilt[1].sin() * tilt[0].cos(), tilt[0].sin(), tilt[1].cos() * tilt[0].cos()])
    task = Normals("n")
    augment = Augment([40, 50], scale=(0.6, 1.6), crop=[36, 48], flip=0.5, colour=0)
    flips = 0
    for seed in range(20):
        sample = Sample("a", image, {"n": task.wrap(vectors, (height, width))})
        moved = augment(sample, {"n": task}, torch.Generator().manual_seed(seed))
        found = task.encode(moved.annotations["n"])
        inside = (found != 0).any(0)
        assert (found.norm(dim=0)[inside] - 1).abs().max() < 1e-6
        line = moved.image[1][inside.any(1)][0]
        flip = bool(line[inside[inside.any(1)][0]].diff().mean() < 0)
        flips += flip
        row, column = (math.pi * (moved.image[i] / n - 0.5) for i, n in ((0, height), (1, width)))
        expected = torch.stack([column.sin() * row.cos(), row.sin(), column.cos() * row.cos()])
        expected[0] *= -1 if flip else 1
        # nearest against linear: half a source pixel, which is 180 / 30 degrees wide, across and down
        assert degrees(found, expected)[inside].max() < 6
    assert 0 < flips < 20


def test_predictions_are_unit_vectors_at_any_size_and_precision() -> None:
    task = Normals("n")
    output = torch.randn(2, 3, 9, 11) * torch.tensor([1e-3, 100])[:, None, None, None]
    for raw in (output, output.bfloat16(), task.resize(output, (9, 11), (31, 17))):
        with torch.autocast("cpu", torch.bfloat16):
            found = task.decode(raw)["normals"]
        assert found.dtype == torch.float32
        assert (found.norm(dim=1) - 1).abs().max() < 1e-6
    assert task.resize(output, (9, 11), (31, 17)).shape == (2, 3, 31, 17)


def test_a_network_that_mirrors_is_consistent() -> None:
    """What it says of the mirrored image is the mirrored scene, whose x points the other way."""
    task, raw = Normals("n"), torch.randn(2, 3, 6, 8)
    mirrored = raw.flip(-1) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    part = Part(soft=lambda: task.soft(raw), mirrored=lambda: task.mirror(task.soft(mirrored)))
    assert float(FlipConsistency()(part)) == 0
    unturned = Part(soft=lambda: task.soft(raw), mirrored=lambda: task.mirror(task.soft(raw.flip(-1))))
    assert float(FlipConsistency()(unturned)) > 0.1
    assert task.form == "map"


def test_pictures() -> None:
    task = Normals("n")
    image = torch.full((3, 1, 6), 100, dtype=torch.uint8)
    target = torch.tensor([[1, 0, 0, DIAGONAL, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, DIAGONAL, 0, 1]])[:, None]
    drawn = task.draw(image, task.truth(target))[:, 0].T.tolist()
    assert drawn[:3] == [[255, 128, 128], [128, 255, 128], [128, 128, 255]]
    assert drawn[4] == [128, 128, 128]
    names = [name for name, _ in task.legend(task.truth(target)).entries]
    assert names == ["right", "left", "up", "down", "towards the camera", "not labelled"]
    prediction = {"normals": torch.tensor([0.0, 0.0, 2.0])[:, None, None].repeat(1, 1, 6)}
    prediction["normals"][:, 0, 5] = math.nan
    errors = task.draw_error(image, prediction, target)[:, 0].T.tolist()
    legend = task.error_legend(prediction, target)
    assert legend.bar == (0, 45, "degrees or more")
    assert tuple(errors[2]) == legend.ramp[0]
    # at 90 and 45 degrees, and where no vector is predicted
    assert tuple(errors[0]) == tuple(errors[3]) == tuple(errors[5]) == legend.ramp[-1]
    assert errors[4] == [128, 128, 128]


def test_what_check_says_of_a_map() -> None:
    task = Normals("n", axes=["right", "up", "away"])
    summary = task.describe(sphere(40, 17.0))
    assert (summary.labelled, summary.total) == (int((sphere(40, 17.0)[2] > 0).sum()), 1600)
    low, middle, high = next(iter(summary.values.values()))
    assert 0 < low < 5
    assert middle == pytest.approx(45, abs=2)  # half of the disc lies within sin(45 degrees) of its radius
    assert 75 < high < 90
    assert not summary.doubts
    assert not task.judge([summary] * 3)
    away = task.describe(sphere(40, 17.0) * torch.tensor([1.0, 1.0, -1.0])[:, None, None])
    (text,) = task.judge([away] * 3)
    assert text.startswith("the normals are 135 degrees off")
    assert "check tasks.n.axes, which are [right, up, away]" in text
    assert task.describe(torch.zeros(3, 8, 8)).doubts == ["no pixel is labelled"]
    flat = torch.tensor([0.0, 0.0, 1.0])[:, None, None].repeat(1, 8, 80)
    assert task.describe(flat).doubts == ["the same normal everywhere"]
    flat[:, :, 1:] = 0
    assert task.describe(flat).doubts[-1] == "under 2 % of the pixels are labelled"
    assert not task.judge([task.describe(torch.zeros(3, 8, 8))])


def store(folder: Path, images: int = 6) -> None:
    """Streets with the normals of a wavy ground in OpenCV's frame, part of them not labelled."""
    (folder / "faces").mkdir(parents=True)
    for index in range(images):
        street = render(seed=5, index=index, height=48, width=80)
        rasters.write_image(torch.from_numpy(street.image).permute(2, 0, 1), folder / "images" / f"{index}.png")
        y, x = np.mgrid[:48, :80] / 8 + index
        vectors = np.stack([0.4 * np.sin(x), -0.5 - 0.3 * np.cos(y), np.full_like(x, -1.0)], 2)
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        vectors[:4] = 0
        np.save(folder / "faces" / f"{index}.npy", vectors.astype(np.float32))


def test_trains_evaluates_predicts_and_scores_the_same(tmp_path: Path) -> None:
    store(tmp_path)
    faces = {
        "kind": "normals",
        "axes": ["right", "down", "away"],
        "loss": {"cosine": 1, "l1": 0.2},
        "regularizers": {"flip_consistency": 0.1, "smoothness": 0.1},
    }
    values = {
        "data": {"format": "folder", "root": str(tmp_path), "splits": {"val": 0.4}, "size": [48, 80]},
        "tasks": {"faces": faces},
        "model": {"backbone": "test_resnet", "decoder": {"name": "fpn", "width": 16}},
        "train": {"steps": 30, "batch_size": 2, "workers": 0, "lr": 1e-2, "report": False},
    }
    config = check_config(from_values(values))
    checked = check(config, tmp_path / "page", 0)
    assert not [finding.text for finding in checked.findings if "axes" in finding.text]
    folder, results = build.train(config, "a", tmp_path / "runs", quiet=True)
    assert results["faces"]["mean"] < 45  # a network that knows nothing is 90 degrees off
    assert results["faces"]["invalid"] == 0

    assert not predict_run(folder, [tmp_path / "images"], tmp_path / "p").problems
    written = np.load(tmp_path / "p" / "faces" / "0.npy")
    assert written.shape == (48, 80, 3)
    assert written.dtype == np.float32
    # in the frame of the label files, in which up and towards the camera are negative
    assert (written.reshape(-1, 3).mean(0)[1:] < -0.2).all()
    scored = build.score_predictions(config, tmp_path / "p", "val")
    evaluated = build.evaluate_run(folder, "val")
    for key, value in results["faces"].items():
        assert evaluated["faces"][key] == pytest.approx(value, abs=1e-9)
        assert scored["faces"][key] == pytest.approx(value, abs=1e-4)

    values["tasks"]["faces"] = {**faces, "axes": ["right", "down", "towards"]}
    wrong = check(check_config(from_values(values)), tmp_path / "page2", 0)
    assert any("tasks.faces.axes" in finding.text for finding in wrong.findings)
