"""From files of any bands through the network: gradients, the command line, first layers, pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segweave import MultiTaskModel, cli, create_model
from segweave.backbones import Encoder
from segweave.batch import Sample
from segweave.config import dump, from_values, load
from segweave.data.augment import Augment, to_float
from segweave.data.folder import Folder
from segweave.drawing import shown
from segweave.errors import ConfigError
from segweave.rasters import read_image
from segweave.schema import check_config
from segweave.tasks import Semantic

Cli = Callable[..., str]
CONFIG: dict[str, Any] = {
    "data": {"format": "folder", "root": "set", "tasks": {"semantic": "masks"}, "splits": {"val": 0.25}},
    "tasks": {"semantic": {"kind": "semantic", "classes": ["dark", "bright"]}},
    "model": {"backbone": "test_resnet", "decoder": {"name": "fpn", "width": 16}},
    "train": {"steps": 3, "batch_size": 4, "workers": 0, "lr": 1e-3, "report": False},
}


@pytest.fixture
def segweave(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """The command line in this process; what it prints, and ` code N` where it fails."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["segweave", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return captured.out + captured.err + (f" code {code}" if code else "")

    return run


def scene(bands: int, kind: str, seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """[H, W, C], in 11 bits of 16 or in kelvins, with a brighter rectangle, and its mask."""
    random = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    top, left = random.integers(0, size // 2, 2)
    mask[top : top + size // 2, left : left + size // 2] = 1
    low, step = {"uint8": (60, 90), "uint16": (300, 900), "float32": (280.0, 12.0)}[kind]
    values = low + step * mask[..., None].astype(float) + random.normal(0, step / 8, (size, size, bands))
    return values.astype(kind), mask


def fill(root: Path, bands: int, kind: str, count: int = 12, suffix: str = "tif") -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        values, mask = scene(bands, kind, number)
        if suffix == "npy":
            np.save(root / "images" / f"{number:02}.npy", values)
        else:
            layout = "contig" if bands > 1 else None
            pixels = values if bands > 1 else values[..., 0]
            path = root / "images" / f"{number:02}.tif"
            tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig=layout)
        Image.fromarray(mask).save(root / "masks" / f"{number:02}.png")


def config(path: Path, data: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **train: Any) -> Path:
    sections = {"data": CONFIG["data"] | (data or {}), "model": CONFIG["model"] | (model or {})}
    path.write_text(dump(CONFIG | sections | {"train": CONFIG["train"] | train}))
    return path


@pytest.mark.parametrize("suffix", ["tif", "npy"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 4, 13])
def test_from_file_to_gradient(tmp_path: Path, bands: int, kind: str, suffix: str) -> None:
    fill(tmp_path, bands, kind, 2, suffix)
    task = Semantic("semantic", classes=2)
    folder = Folder("train", [task], root=str(tmp_path), tasks={"semantic": "masks"}, splits={}, bands=bands)
    augment = Augment([32, 32], scale=(0.5, 0.8))
    samples = [augment(folder[i], {"semantic": task}, torch.Generator().manual_seed(i)) for i in range(2)]
    images = torch.stack([to_float(sample.image) for sample in samples])
    assert images.shape == (2, bands, 32, 32)
    assert str(folder.image(0).dtype) == f"torch.{kind}"
    model = create_model([task], in_channels=bands, mean=[0.5] * bands, std=[0.2] * bands, **CONFIG["model"])
    model(images)["semantic"].square().mean().backward()
    first = next(model.encoder.parameters())
    assert first.shape[1] == bands
    assert first.grad is not None
    assert bool((first.grad.abs().sum((0, 2, 3)) > 0).all())  # of every band


@pytest.mark.parametrize(("bands", "kind"), [([3, 2, 1, 4], "uint16"), (13, "float32")])
def test_the_command_line_with_any_bands(segweave: Cli, tmp_path: Path, bands: int | list[int], kind: str) -> None:
    count = bands if isinstance(bands, int) else len(bands)
    fill(tmp_path / "set", count, kind)
    path = config(tmp_path / "c.yaml", {"bands": bands})
    said = segweave("train", path)
    assert f"normalisation: mean and deviation of {count} bands over all" in said, said
    stored = load(tmp_path / "runs" / "c" / "config.yaml").model
    members = Folder(
        "train", [Semantic("semantic", classes=2)], root=str(tmp_path / "set"), tasks={"semantic": "masks"},
        splits={"val": 0.25}, bands=bands,
    )  # fmt: skip
    pixels = np.concatenate([members.image(i).flatten(1).numpy() for i in range(len(members))], 1)
    whole = pixels.astype(np.float64) / {"uint16": 65535, "float32": 1}[kind]
    np.testing.assert_allclose(stored["mean"], whole.mean(1), rtol=1e-12)
    np.testing.assert_allclose(stored["std"], whole.std(1), rtol=1e-12)
    model = MultiTaskModel.from_pretrained(tmp_path / "runs" / "c")
    assert model.bands == bands
    np.testing.assert_allclose(model.mean.flatten().numpy(), stored["mean"], rtol=1e-6)
    model.save_pretrained(tmp_path / "hub")
    assert MultiTaskModel.from_pretrained(tmp_path / "hub").bands == bands
    assert "code" not in segweave("evaluate", "runs/c")
    assert "code" not in segweave("predict", "runs/c", "set/images")
    pictures = sorted((tmp_path / "runs" / "c" / "predictions" / "pictures").glob("*.png"))
    assert len(pictures) == 12
    longer = config(tmp_path / "c.yaml", {"bands": bands}, steps=5)
    again = segweave("train", longer, "--resume")
    assert "code" not in again, again
    assert "normalisation" not in again
    assert load(tmp_path / "runs" / "c" / "config.yaml").model == stored
    odd = np.zeros((40, 40, 2), kind)
    tifffile.imwrite(tmp_path / "other.tif", odd, photometric="minisblack", planarconfig="contig")
    assert "other.tif: found 2 bands; expected" in segweave("predict", "runs/c", tmp_path / "other.tif")


def test_satellite_tiles_of_one_band_train(segweave: Cli, real_data: Path, tmp_path: Path) -> None:
    tiles = sorted((real_data / "spacenet_sample" / "solaris" / "data").glob("rastertile_test_expected/*.tif"))[:12]
    (tmp_path / "set" / "masks").mkdir(parents=True)
    (tmp_path / "set" / "images").mkdir()
    for tile in tiles:
        (tmp_path / "set" / "images" / tile.name).write_bytes(tile.read_bytes())
        bright = (tifffile.imread(tile) > 400).astype(np.uint8)
        Image.fromarray(bright).save(tmp_path / "set" / "masks" / f"{tile.stem}.png")
    said = segweave("train", config(tmp_path / "c.yaml", {"bands": 1, "normalise": 5}, steps=2))
    assert "mean and deviation of 1 band over 5 of" in said, said
    assert load(tmp_path / "runs" / "c" / "config.yaml").data["normalise"] == 5


def test_photographs_are_normalised_as_before_unless_asked(segweave: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "set", 3, "uint8", suffix="npy")
    assert "normalisation" not in segweave("train", config(tmp_path / "a.yaml"))
    assert "mean" not in load(tmp_path / "runs" / "a" / "config.yaml").model
    assert "mean and deviation of 3 bands" in segweave("train", config(tmp_path / "b.yaml", {"normalise": True}))
    given = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
    assert "normalisation" not in segweave("train", config(tmp_path / "c.yaml", {"normalise": True}, given))
    assert load(tmp_path / "runs" / "c" / "config.yaml").model["mean"] == given["mean"]


def test_a_file_of_other_bands_names_a_good_one(segweave: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "set", 4, "uint16")
    folder = Folder("train", [], root=str(tmp_path / "set"), splits={"val": 0.25}, bands=4)
    odd = tmp_path / "set" / "images" / f"{folder.ids[-1]}.tif"
    tifffile.imwrite(odd, np.zeros((40, 40, 13), np.uint16), photometric="minisblack", planarconfig="contig")
    said = segweave("train", config(tmp_path / "c.yaml", {"bands": 4}))
    assert f"{folder.ids[-1]}.tif: found 13 bands; expected 4, as data.bands says" in said
    assert f"{folder.ids[0]}.tif, has 4 bands of uint16" in said


@pytest.mark.parametrize(
    ("data", "model", "says"),
    [
        ({"bands": 0}, {}, r"data\.bands: found 0"),
        ({"bands": [0, 1]}, {}, r"data\.bands: found \[0, 1\]"),
        ({"bands": []}, {}, r"data\.bands: found \[\]"),
        ({"bands": "rgb"}, {}, r"data\.bands: found 'rgb'"),
        ({"normalise": 0}, {}, r"data\.normalise: found 0"),
        ({"normalise": "data"}, {}, r"data\.normalise: found 'data'"),
        ({"bands": 4}, {"in_channels": 3}, r"model\.in_channels: found 3; the data have 4"),
        ({}, {"in_channels": 4}, r"model\.in_channels: found 4; the data have 3"),
    ],
)
def test_bands_are_checked_before_anything_is_read(data: dict[str, Any], model: dict[str, Any], says: str) -> None:
    values = CONFIG | {"data": CONFIG["data"] | data, "model": CONFIG["model"] | model}
    with pytest.raises(ConfigError, match=says):
        check_config(from_values(values))


@pytest.mark.parametrize("name", ["mobilenetv1_100_partial.safetensors", "mobilenetv1_100_partial.pth"])
def test_real_first_layers_see_a_grey_image_alike(real_data: Path, name: str) -> None:
    """timm's rule: summed for one band, so that one band is three equal ones; repeated and scaled by 3 / C for more."""
    options = {"pad_type": "same", "bn_eps": 1e-3, "out_indices": [0, 1, 2, 3]}
    weights = str(real_data / "weights" / name)
    rgb, grey, six = (Encoder("mobilenetv1_100", weights, options, bands).eval() for bands in (3, 1, 6))
    image = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = rgb(image.expand(-1, 3, -1, -1))
        for encoder, bands in ((grey, 1), (six, 6)):
            assert encoder.matched is not None
            assert len(encoder.matched.adapted) == 1
            for level, found in zip(expected, encoder(image.expand(-1, bands, -1, -1)), strict=True):
                # only the order of the first sum differs: float32 rounding, through 11 blocks
                torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_pictures_are_stretched(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, 13, kind, 1)
    image = read_image(tmp_path / "images" / "00.tif", bands=13)[0]
    picture = shown(image, (40, 40))
    assert picture.shape == (3, 40, 40)
    values = image[:3].double().flatten(1).numpy()
    low, high = np.percentile(values, [2, 98], axis=1)
    expected = np.clip((values - low[:, None]) / (high - low)[:, None], 0, 1) * 255
    # float32 in between, and rounding to whole numbers
    assert np.abs(picture.flatten(1).numpy() - expected).max() <= 1
    assert picture.flatten(1).float().std(1).min() > 60
    bytes_ = torch.randint(0, 50, (4, 8, 8), dtype=torch.uint8)
    assert torch.equal(shown(bytes_, (8, 8)), bytes_[:3])


def test_padding_and_colour_keep_to_the_range_of_the_file() -> None:
    kelvin = 280 + 10 * torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    for image in (kelvin, kelvin.repeat(2, 1, 1), (kelvin * 10).int().to(torch.uint16)):
        moved = Augment(None, scale=(0.5, 0.5), flip=0, colour=0)(Sample("a", image, {}), {}, torch.Generator())
        values = moved.image.flatten(1)
        inside = moved.image[:, :10, :10].flatten(1)
        torch.testing.assert_close(moved.image[:, 15, 15], inside.mean(1), rtol=1e-5, atol=0)
        assert values.min() >= inside.min()
        assert values.max() <= inside.max()
    recoloured = Augment(None, scale=None, flip=0, colour=0.5)(Sample("a", kelvin, {}), {}, torch.Generator())
    assert torch.equal(recoloured.image, kelvin)
