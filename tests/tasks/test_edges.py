"""Edges: files, lines that stay whole when reduced, pictures, doubts, and a training from files to scored files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional

from segweave import build, rasters
from segweave.batch import Sample
from segweave.config import from_values
from segweave.data.augment import Augment
from segweave.errors import ConfigError, DataError
from segweave.schema import check_config
from segweave.tasks.edge_map import EdgeMap
from segweave.tasks.edges import Edges
from segweave.tasks.maps import DenseMap
from tiny import values

GREYS = [(i, i, i) for i in range(256)]
EIGHT = np.ones((3, 3), int)
HIT, FALSE, MISSED, GREY, YELLOW = (0, 158, 115), (86, 180, 233), (235, 30, 40), (128, 128, 128), (255, 200, 0)


def written(path: Path, *rows: list[float], floats: bool = False) -> Path:
    if floats:
        np.save(path.with_suffix(".npy"), np.array(rows, np.float32))
        return path.with_suffix(".npy")
    rasters.write_index(torch.tensor(rows).long(), path, GREYS)
    return path


@pytest.mark.parametrize(
    ("options", "file", "floats", "expected"),
    [
        ({}, [0, 1, 255, 1], False, [0, 1, 255, 1]),
        ({}, [0, 0, 0, 0], False, [0, 0, 0, 0]),
        ({}, [0, 1, np.nan, 1], True, [0, 1, 255, 1]),
        ({"threshold": 128}, [0, 255, 127, 128], False, [0, 1, 0, 1]),
        ({"threshold": 0.5}, [0, 1, 0.4, 0.5], True, [0, 1, 0, 1]),
        ({"threshold": 0.5}, [0, 1, np.nan, 0.2], True, [0, 1, 255, 0]),
        ({"threshold": 1, "ignore": 7}, [0, 7, 2, 255], False, [0, 255, 1, 1]),
        ({"ignore": 255}, [0, 255, 0, 255], False, [0, 255, 0, 255]),
        ({"ignore": [7, 9]}, [0, 7, 9, 1], False, [0, 255, 255, 1]),
    ],
)
def test_files(options: dict[str, Any], file: list[float], floats: bool, expected: list[int], tmp_path: Path) -> None:
    found = Edges("e", **options).read(written(tmp_path / "a.png", file, floats=floats))
    assert isinstance(found, EdgeMap)
    assert found.dtype == torch.uint8
    assert found.tolist() == [expected]


@pytest.mark.parametrize(
    ("file", "floats", "message"),
    [
        ([0, 255, 0, 0], False, r"a\.png: every pixel is 0 or 255.*e\.threshold: 128.*e\.ignore: 255"),
        ([0, 1, 2, 2], False, r"a\.png: found 2 \(2 pixels\); expected 0, 1 on edges, and 255"),
        ([0, 0.25, 1, 1], True, r"a\.npy: found 0\.25 \(1 pixels\).*tasks\.e\.threshold"),
    ],
)
def test_files_that_do_not_say_what_an_edge_is(file: list[float], floats: bool, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        Edges("e").read(written(tmp_path / "a.png", file, floats=floats))


def test_predictions_of_any_origin(tmp_path: Path) -> None:
    task = Edges("e")
    rasters.write_index(torch.tensor([[0, 51, 255]]), tmp_path / "own.png", GREYS)
    np.save(tmp_path / "wide.npy", np.array([[0, 13107, 65535]], np.uint16))
    np.save(tmp_path / "floats.npy", np.array([[0, 0.2, 1]]))
    for read in task.predictions(tmp_path).values():
        torch.testing.assert_close(read()["edges"], torch.tensor([[[0, 0.2, 1]]]))
    np.save(tmp_path / "logits.npy", np.array([[-3.0, 0.2, 1]]))
    np.save(tmp_path / "long.npy", np.array([[3, 0, 1]]))
    found = task.predictions(tmp_path)
    with pytest.raises(DataError, match=r"logits\.npy: found -3 to 1; expected probabilities"):
        found["logits"]()
    with pytest.raises(DataError, match=r"long\.npy: found 32-bit integers"):
        found["long"]()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dist": 0}, r"tasks\.e\.max_dist: found 0"),
        ({"thresholds": 0}, r"tasks\.e\.thresholds: found 0"),
        ({"thresholds": 255}, "expected 1 to 254"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Edges("e", **options)


def lines(generator: np.random.Generator, height: int, width: int) -> Tensor:
    """A few straight lines one pixel wide, eight neighbours connected."""
    drawn = torch.zeros(height, width, dtype=torch.uint8)
    for _ in range(3):
        (y0, y1), (x0, x1) = generator.integers(0, height, 2), generator.integers(0, width, 2)
        steps = max(abs(y1 - y0), abs(x1 - x0)) + 1
        drawn[np.linspace(y0, y1, steps).round().astype(int), np.linspace(x0, x1, steps).round().astype(int)] = 1
    return drawn


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.integers(3, 40), st.data())
def test_reducing_keeps_every_line_whole_and_thin(seed: int, height: int, width: int, data: st.DataObject) -> None:
    edges = lines(np.random.default_rng(seed), height, width)
    size = [data.draw(st.integers(1, height)), data.draw(st.integers(1, width))]
    small = functional.resize(EdgeMap(edges), size)
    assert isinstance(small, EdgeMap)
    found = small.as_subclass(Tensor).numpy()
    assert set(np.unique(found)) <= {0, 1}
    # each edge pixel marks the one its centre lies in, and no other is marked
    centres = (np.argwhere(edges.numpy()) + 0.5) * np.array(size) / [height, width]
    expected = np.zeros(size, int)
    expected[tuple(np.floor(centres).astype(int).T)] = 1
    assert np.array_equal(found, expected)
    before = scipy.ndimage.label(edges.numpy(), EIGHT)[1]
    assert scipy.ndimage.label(found, EIGHT)[1] <= before


def test_the_nearest_pixel_alone_would_cut_it() -> None:
    edges = torch.zeros(40, 40, dtype=torch.uint8)
    edges[7] = 1
    assert functional.resize(EdgeMap(edges), [16, 16]).sum() == 16
    assert functional.resize(DenseMap(edges), [16, 16]).sum() == 0


def test_enlarging_takes_the_nearest_pixel() -> None:
    values_ = torch.tensor([[0, 1, 255], [1, 0, 0]], dtype=torch.uint8)
    large = functional.resize(EdgeMap(values_), [4, 6]).as_subclass(Tensor)
    assert torch.equal(large, values_.repeat_interleave(2, 0).repeat_interleave(2, 1))
    # one axis each way: 3 columns to 1, of which the middle is nearest and an edge wins
    assert functional.resize(EdgeMap(values_), [4, 1]).as_subclass(Tensor).tolist() == [[1], [1], [1], [1]]


def test_other_moves_keep_the_type_and_the_values() -> None:
    values_ = torch.tensor([[0, 1, 255], [1, 0, 0]], dtype=torch.uint8)
    edges = EdgeMap(values_)
    moved = {
        "flip": functional.horizontal_flip(edges),
        "crop": functional.crop(edges, 0, 1, 2, 2),
        "pad": functional.pad(edges, [1, 0, 0, 1], fill=255),
        "resized": functional.resized_crop(edges, 0, 1, 2, 2, [2, 2]),
    }
    assert all(isinstance(value, EdgeMap) for value in moved.values())
    plain = {name: value.as_subclass(Tensor).tolist() for name, value in moved.items()}
    assert plain["flip"] == [[255, 1, 0], [0, 0, 1]]
    assert plain["crop"] == plain["resized"] == [[1, 255], [0, 0]]
    assert plain["pad"] == [[255, 0, 1, 255], [255, 1, 0, 0], [255, 255, 255, 255]]


def test_augmentation_moves_edges_with_the_image() -> None:
    """A bright line one pixel wide and its edge, at half size: the edge is where the line is, and in one piece."""
    image, edges = torch.zeros(3, 60, 80, dtype=torch.uint8), torch.zeros(60, 80, dtype=torch.uint8)
    rows = torch.arange(80) // 3 + 15
    image[:, rows, torch.arange(80)] = 255
    edges[rows, torch.arange(80)] = 1
    task = Edges("e")
    augment = Augment(None, scale=(0.5, 0.5), flip=0.5, colour=0)
    for seed in range(6):
        sample = Sample("a", image, {"e": task.wrap(edges, (60, 80))})
        moved = augment(sample, {"e": task}, torch.Generator().manual_seed(seed))
        target = task.encode(moved.annotations["e"])
        assert type(target) is Tensor
        known = target != 255
        assert known.sum() == 30 * 40
        inside, bright = (values_[known].view(30, 40) for values_ in (target, moved.image[0]))
        assert inside.unique().tolist() == [0, 1]
        assert scipy.ndimage.label(inside.numpy(), EIGHT)[1] == 1
        assert bool(inside.any(0).all())
        assert bright[inside == 1].float().mean() > 5 * bright[inside == 0].float().mean()


def test_probability_is_the_sigmoid_of_the_one_logit() -> None:
    task = Edges("e")
    raw = torch.tensor([-2.0, 0.0, 3.0]).view(1, 1, 1, 3)
    torch.testing.assert_close(task.decode(raw)["edges"], raw[:, 0].sigmoid())
    torch.testing.assert_close(task.soft(raw), raw.sigmoid())
    torch.testing.assert_close(task.activate(raw).softmax(1)[:, 1:], raw.sigmoid())
    assert task.decode(raw.to(torch.bfloat16))["edges"].dtype == torch.float32


IMAGE = torch.full((3, 20, 24), 100, dtype=torch.uint8)


def scene() -> tuple[Tensor, Tensor]:
    """A target with two lines and unlabelled rows, and a prediction of one of them a pixel off, and of a third."""
    target, edges = torch.zeros(20, 24, dtype=torch.uint8), torch.zeros(20, 24)
    target[7, 6:18] = target[13, 6:18] = 1
    target[:3] = 255
    edges[8, 6:18], edges[16, 6:18] = 0.9, 0.8
    return target, edges


def where(drawn: Tensor, colour: tuple[int, int, int]) -> list[int]:
    """The rows that have a colour."""
    return (drawn == torch.tensor(colour)[:, None, None]).all(0).nonzero()[:, 0].unique().tolist()


def test_pictures_of_truth_and_prediction() -> None:
    task, (target, edges) = Edges("e"), scene()
    drawn = task.draw(IMAGE, task.truth(target))
    assert (where(drawn, YELLOW), where(drawn, GREY)) == ([7, 13], [0, 1, 2])
    assert [name for name, _ in task.legend(task.truth(target)).entries] == ["not labelled"]
    drawn = task.draw(IMAGE, {"edges": edges})
    assert drawn[:, 8, 8].tolist() == [234, 185, 5]  # 0.1 of half the image's 100, 0.9 of the colour
    assert drawn[:, 5, 8].tolist() == [50, 50, 50]
    legend = task.legend({"edges": edges})
    assert (legend.bar, list(legend.entries)) == ((0.0, 1.0, "probability"), [])


def test_pictures_of_errors_have_the_metrics_tolerance() -> None:
    target, edges = scene()
    near, exact = (Edges("e", max_dist=share, nms=False) for share in (0.05, 0.01))
    drawn = near.draw_error(IMAGE, {"edges": edges}, target)
    # the best threshold is between 0.8 and 0.9, where the third line is gone
    assert [where(drawn, colour) for colour in (HIT, FALSE, MISSED, GREY)] == [[8], [], [13], [0, 1, 2]]
    drawn = exact.draw_error(IMAGE, {"edges": edges}, target)
    assert [where(drawn, colour) for colour in (HIT, FALSE, MISSED)] == [[], [8, 16], [7, 13]]
    names = [name for name, _ in near.error_legend({"edges": edges}, target).entries]
    assert names == ["found", "false alarm", "missed", "not labelled"]


def test_doubts() -> None:
    task = Edges("e")
    outline, region = torch.zeros(30, 30, dtype=torch.uint8), torch.zeros(30, 30, dtype=torch.uint8)
    outline[4:26, 15] = 1
    region[4:26, 4:26] = 1
    thick, nothing = torch.zeros_like(outline), torch.zeros_like(outline)
    thick[4:26, 10:15] = 1
    outline[0] = 255
    summary = task.describe(outline)
    assert (summary.counts, summary.labelled, summary.total) == ({"no edge": 848, "edge": 22}, 870, 900)
    assert list(summary.doubts) == []
    assert "over 30 % of the labelled pixels are edges" in task.describe(region).doubts[0]
    assert "inside thick lines" in task.describe(thick).doubts[0]
    assert list(task.describe(nothing).doubts) == ["no pixel is an edge"]
    assert list(task.describe(torch.full_like(outline, 255)).doubts) == ["no pixel is labelled"]
    good, bad = task.describe(outline), task.describe(region)
    assert "edges in 2 of 3 images" in task.judge([good, bad, bad])[0]
    assert list(task.judge([good, good, bad])) == []
    assert list(task.judge([])) == []


def test_training_on_files_evaluates_and_scores_the_same(tmp_path: Path) -> None:
    """Bright boxes and their outlines, as 0 and 255."""
    generator = np.random.default_rng(0)
    for index in range(8):
        image, edges = torch.full((3, 48, 64), 40, dtype=torch.uint8), torch.zeros(48, 64, dtype=torch.int64)
        (top, left), (height, width) = generator.integers(6, 16, 2), generator.integers(10, 24, 2)
        image[:, top : top + height, left : left + width] = 200
        edges[[top, top + height], left : left + width] = 255
        edges[top : top + height + 1, [left, left + width]] = 255
        rasters.write_image(image, tmp_path / "data" / "images" / f"{index}.png")
        rasters.write_index(edges, tmp_path / "data" / "outlines" / f"{index}.png", GREYS)
    options = values(train={"steps": 3, "batch_size": 2})
    options["data"] = {"format": "folder", "root": str(tmp_path / "data"), "size": [48, 64], "splits": {"val": 0.4}}
    loss = {"balanced_bce": {"weight": 50, "pos_weight": 0.95}, "dice": 1}
    regularizers = {"smoothness": 0.1, "flip_consistency": 0.1}
    options["tasks"] = {
        "outlines": {"kind": "edges", "threshold": 128, "thresholds": 9, "loss": loss, "regularizers": regularizers}
    }
    config = check_config(from_values(options))
    folder, results = build.train(config, "a", tmp_path, quiet=True)
    evaluated = build.evaluate_run(folder, "val")
    assert evaluated["outlines"]["ods_f"] == pytest.approx(results["outlines"]["ods_f"], abs=1e-9)
    command = [sys.executable, "-m", "segweave", "predict", str(folder), str(tmp_path / "data" / "images")]
    done = subprocess.run([*command, "--out", str(tmp_path / "p")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scored = build.score_predictions(config, tmp_path / "p", "val")
    # the metric rounds to 255ths, as the files do: the numbers are the same, not only close
    assert json.dumps(scored["outlines"]) == json.dumps(evaluated["outlines"])
    assert 0 < scored["outlines"]["ods_f"] <= 1
    report = build.report_run(folder).read_text(encoding="utf-8")
    assert re.search("ods_f", report)
