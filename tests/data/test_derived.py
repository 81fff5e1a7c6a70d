"""Derived targets from the config to the results."""

from __future__ import annotations

import copy
import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from test_derived_masks import flooded
from test_dsb2018 import made as made_nuclei

from segweave import build
from segweave.check import check, report
from segweave.config import Config
from segweave.data.augment import Augment
from segweave.data.derived import DERIVATIONS
from segweave.data.derived.boundary import thick, thin
from segweave.errors import ConfigError, DataError
from segweave.report.table import results_table
from segweave.schema import check_config
from segweave.sources import build_dataset, build_tasks
from segweave.tasks import Edges


def read(data: dict[str, Any], tasks: dict[str, Any], split: str = "train") -> tuple[Any, dict[str, Any]]:
    config = check_config(Config(data=data, tasks=tasks))
    built = build_tasks(config)
    return build_dataset(config, split, built), {task.name: task for task in built}


def every(data: dict[str, Any], tasks: dict[str, Any]) -> list[torch.Tensor]:
    """All labels of the last task on the training images."""
    dataset = read(data, tasks)[0]
    labels = [dataset[index].annotations.get(list(tasks)[-1]) for index in range(len(dataset))]
    return [label for label in labels if label is not None]


ALL = {
    "borders": {"kind": "edges", "source": "instances", "derive": {"boundary": {"side": "inner"}}},
    "boxes": {"kind": "detection", "classes": ["nucleus"], "source": "instances", "derive": "boxes"},
    "counts": {"kind": "classification", "source": "instances", "derive": "count", "bins": [0, 1, 3]},
    "centres": {
        "kind": "depth",
        "source": "instances",
        "derive": "distance",
        "rescale": False,
        "min_depth": 0.01,
        "max_depth": 1,
    },
}


def test_a_published_layer_that_no_task_reads(tmp_path: Path) -> None:
    options, _ = made_nuclei(tmp_path)
    tasks = {"semantic": {"kind": "semantic"}, **ALL}
    dataset, built = read({"format": "dsb2018", **options}, tasks)
    alone, _ = read({"format": "dsb2018", **options}, ALL)
    assert set(dataset[0].annotations) == set(tasks)
    for index in range(len(dataset)):
        sample = dataset[index]
        for name in ALL:
            assert dataset.has_label(index, name) == (name in sample.annotations)
            if name in sample.annotations:
                for same in (dataset.annotation(index, name), alone[index].annotations[name]):
                    assert torch.equal(same, sample.annotations[name])
                built[name].describe(built[name].encode(sample.annotations[name]))
        if "semantic" in sample.annotations:
            edges, nuclei = sample.annotations["borders"], sample.annotations["semantic"]
            assert int(edges.sum()) > 0
            assert (nuclei[edges == 1] == 1).all()
            assert torch.equal(sample.annotations["centres"] > 0, nuclei == 1)
    assert dataset.labelled("borders") == dataset.labelled("semantic") > 0
    assert dataset.file(0, "borders") == dataset.file(0, "semantic")
    changed = {**ALL, "borders": {**ALL["borders"], "derive": "boundary"}}
    assert alone.fingerprint() != read({"format": "dsb2018", **options}, changed)[0].fingerprint()


def folder(root: Path) -> dict[str, Any]:
    """Four images with masks of three classes and depth in 16 bits."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "depth"):
        (root / name).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(root / "images" / f"{number}.png")
        mask = np.kron(rng.integers(0, 3, (3, 4)), np.ones((8, 8), int)).astype(np.uint8)
        mask[0, 0] = 9
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        if number:  # one image has no depth
            Image.fromarray(np.full((24, 32), 2000, np.uint16)).save(root / "depth" / f"{number}.png")
    return {"format": "folder", "root": str(root), "splits": {"val": 0.5}}


MASKS = {"kind": "semantic", "classes": ["road", "car", "person"], "ignore": [9]}
FOLDER = {
    "masks": MASKS,
    "borders": {"kind": "edges", "source": "masks", "derive": "boundary"},
    "movable": {
        "kind": "semantic",
        "classes": ["movable"],
        "source": "masks",
        "derive": {"merge": {"into": {"movable": ["car", "person"]}, "rest": "background"}},
    },
    "slopes": {
        "kind": "normals",
        "source": "depth",
        "derive": {"normals": {"intrinsics": [30, 30, 16, 12], "window": 5, "step": 0.001}},
    },
}


def test_a_task_is_read_with_its_own_options(tmp_path: Path) -> None:
    dataset, built = read(folder(tmp_path), FOLDER)
    labelled = 0
    for index in range(len(dataset)):
        labels = dataset[index].annotations
        masks = labels["masks"].as_subclass(torch.Tensor)
        plain = masks.to(torch.int32).masked_fill(masks == 255, -1).numpy()
        assert masks[0, 0] == 255  # by the task's `ignore`
        assert (labels["borders"].numpy() == thin(plain)).all()
        assert torch.equal(labels["movable"].as_subclass(torch.Tensor) == 1, (masks == 1) | (masks == 2))
        assert torch.equal(labels["movable"] == 255, masks == 255)
        if "slopes" in labels:
            labelled += 1
            assert (built["slopes"].encode(labels["slopes"])[2] == 1).all()
    assert labelled == dataset.labelled("slopes")


def test_presence_is_what_a_crop_shows(tmp_path: Path) -> None:
    task = {"kind": "classification", "classes": 3, "ignore": 9, "source": "masks", "derive": "presence"}
    dataset, built = read(folder(tmp_path), {"masks": MASKS, "there": task})
    for index in range(len(dataset)):
        labels = dataset[index].annotations
        for crop in (np.s_[:, :], np.s_[3:9, 5:13], np.s_[0:4, 0:4]):
            shown = set(labels["masks"][crop].unique().tolist())
            assert built["there"].encode(labels["there"][crop]).tolist() == [float(id in shown) for id in range(3)]


def test_a_source_that_is_not_among_the_tasks_is_read_as_the_config_says(tmp_path: Path) -> None:
    config = check_config(Config(data=folder(tmp_path), tasks=FOLDER))
    whole, _ = read(dict(config.data), FOLDER)
    (borders,) = (task for task in build_tasks(config) if task.name == "borders")
    alone = build_dataset(config, "train", [borders])
    for index in range(len(alone)):
        labels = alone[index].annotations
        assert set(labels) == {"borders"}
        assert torch.equal(labels["borders"], whole[index].annotations["borders"])


def test_a_task_called_as_the_layer_that_it_is_derived_from(tmp_path: Path) -> None:
    movable = {**FOLDER["movable"], "derive": {"merge": {"into": {"movable": [1, 2]}, "rest": "background"}}}
    dataset, _ = read(folder(tmp_path), {"masks": {**movable, "source": "masks"}})
    masks = torch.from_numpy(np.array(Image.open(dataset.file(0, "masks"))))
    made = dataset[0].annotations["masks"]
    assert torch.equal(made == 1, (masks == 1) | (masks == 2))
    assert int(made[0, 0]) == 0  # the rest, as no task says that 9 is not labelled


def test_the_unit_of_depth_in_8_bits_is_named_where_it_is_written(tmp_path: Path) -> None:
    data = folder(tmp_path)
    for path in (tmp_path / "depth").iterdir():
        Image.fromarray(np.full((24, 32), 51, np.uint8)).save(path)
    slopes: dict[str, Any] = copy.deepcopy(FOLDER["slopes"])
    with pytest.raises(
        DataError, match=r"8-bit depth has no agreed unit; set tasks\.slopes\.derive\.normals\.units_per"
    ):
        every(data, {"slopes": slopes})
    with pytest.raises(DataError, match=r"set tasks\.depth\.units_per_metre"):
        every(data, {"depth": {"kind": "depth"}, "slopes": slopes})
    of_the_set = {**data, "tasks": {"depth": "depth"}, "read": {"depth": {"units_per_metre": 25.5}}}
    told = every({"sets": {"one": of_the_set}}, {"slopes": slopes})
    slopes["derive"]["normals"]["units_per_metre"] = 25.5
    made = every(data, {"slopes": slopes})
    assert len(made) == len(told) > 0
    ahead = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand(3, 24, 32)
    for normals in (*made, *told):  # of a wall; float32
        assert torch.allclose(normals.as_subclass(torch.Tensor), ahead, atol=1e-6)
    slopes["derive"]["normals"]["units_per_metre"] = -1
    with pytest.raises(ConfigError, match=r"^tasks\.slopes\.derive\.normals\.units_per_metre: found -1; expected"):
        read(data, {"slopes": slopes})


def test_augmentation_moves_derived_labels_with_the_image(tmp_path: Path) -> None:
    """A mirrored boundary is that of the mirrored mask, up to the side on which `thin` draws it."""
    tasks = {"masks": MASKS, "borders": {**FOLDER["borders"], "derive": {"boundary": {"side": "both"}}}}
    dataset, built = read(folder(tmp_path), tasks)
    augment = Augment(None, scale=None, flip=1.0, colour=0.0)
    moved = augment(dataset[0], built, torch.Generator().manual_seed(0)).annotations
    masks = moved["masks"].as_subclass(torch.Tensor).to(torch.int32)
    assert (moved["borders"].numpy() == thick(masks.masked_fill(masks == 255, -1).numpy(), 1)).all()


def test_results_on_derived_labels_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder(tmp_path / "set")
    ground = {**MASKS, "source": "masks"}
    tasks = {"ground": ground, "borders": {**FOLDER["borders"], "source": "ground"}, "slopes": FOLDER["slopes"]}
    model = {"backbone": "test_resnet", "decoder": {"name": "fpn", "width": 8}}
    options = {"steps": 1, "batch_size": 2, "workers": 0}
    config = check_config(Config(data={**data, "size": [32, 32]}, tasks=tasks, model=model, train=options))
    origin = "derived from depth (normals); not a benchmark number"
    run, results = build.train(config, "run", tmp_path)
    assert results["slopes"]["origin"] == origin
    assert results["borders"]["origin"] == "derived from ground (boundary); not a benchmark number"
    assert "origin" not in results["ground"]
    assert re.search(r"slopes mean [\d.]+ \(derived\)", " ".join(capsys.readouterr().out.split()))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"<strong>{origin}</strong>" in page  # beside the value
    assert f"Metrics of slopes: {origin}" in page
    captions = re.findall(r"<figcaption><b>[^<]+</b><span[^>]*>(ground [^<]*)</span>", page)
    assert len(captions) == len(build_dataset(config, "val", build_tasks(config)))
    for caption in captions:
        scores = dict(re.findall(r"(\w+) (?:\w+) [\d.]+(?:, ([^·]+?))?(?: · |$)", caption))
        assert scores.pop("slopes", origin) == origin  # one image has no depth
        assert scores == {"ground": "", "borders": "derived from ground (boundary); not a benchmark number"}
    assert origin in "".join(captions)
    with (run / "results.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["slopes/origin"] == origin
    assert "ground/origin" not in row
    build.evaluate_run(run, "train")
    written = json.loads((run / "evaluation-train.json").read_text())["tasks"]
    assert written["slopes"]["origin"] == origin
    assert f"slopes,origin,{origin}" in (run / "evaluation-train.csv").read_text().splitlines()
    masks = check_config(Config(data={**data, "tasks": {"masks": "masks"}}, source="masks.yaml"), data_only=True)
    assert {name for name, values in build.evaluate_run(run, "val", masks).items() if "origin" in values} == {"borders"}
    measured = check_config(Config(data=data, tasks={"slopes": {"kind": "normals"}}, source="other.yaml"))
    for number in range(4):  # labels of the same task that somebody measured
        np.save(measured_folder(tmp_path) / f"{number}.npy", np.tile(np.float32([0, 0, 1]), (24, 32, 1)))
    assert "origin" not in build.evaluate_run(run, "val", measured)["slopes"]
    console = Console(width=200, file=io.StringIO())
    console.print(results_table(results, "run"))
    lines = [line for line in console.file.getvalue().splitlines() if origin in line]  # pyright: ignore
    assert len(lines) == 1
    assert "slopes" in lines[0]


def measured_folder(root: Path) -> Path:
    folder = root / "set" / "slopes"
    folder.mkdir(exist_ok=True)
    return folder


def test_several_data_sets_with_ids_of_their_own(tmp_path: Path) -> None:
    """A boundary between two ids of one class is none: ids become classes before anything is derived."""
    one = folder(tmp_path / "one")
    other = folder(tmp_path / "other")
    one["tasks"] = other["tasks"] = {"masks": "masks"}
    other["maps"] = {"masks": {0: "road", 1: "road", 2: "car", 9: "ignore"}}
    tasks = {name: FOLDER[name] for name in ("masks", "borders")}
    dataset, _ = read({"sets": {"one": one, "other": other}}, tasks)
    for index in range(len(dataset)):
        labels = dataset[index].annotations
        masks = labels["masks"].as_subclass(torch.Tensor)
        plain = masks.to(torch.int32).masked_fill(masks == 255, -1).numpy()
        assert (labels["borders"].numpy() == thin(plain)).all()
    assert len(dataset.sets) == 2


def test_synthetic_streets() -> None:
    tasks = {
        "edges": {"kind": "edges", "source": "semantic", "derive": {"boundary": {"side": "both"}}},
        "cars": {
            "kind": "classification",
            "source": "semantic",
            "derive": {"count": {"classes": ["car"]}},
            "bins": [0, 1, 2],
        },
    }
    dataset, built = read({"format": "synthetic", "size": [32, 48], "count": 3}, tasks)
    for index in range(3):
        sample = dataset[index]
        assert 0 < int((sample.annotations["edges"] == 1).sum()) < 32 * 48
        assert int(built["cars"].encode(sample.annotations["cars"])) in (0, 1, 2)


def test_check_says_what_is_derived(tmp_path: Path) -> None:
    more = {
        "objects": {"kind": "detection", "classes": ["car"], "source": "masks", "derive": "boxes"},
        "there": {"kind": "classification", "classes": 3, "ignore": 9, "source": "masks", "derive": "presence"},
    }
    config = check_config(Config(data=folder(tmp_path / "data"), tasks=FOLDER | more, source="derived"))
    images, objects, known = [], [], []
    for split in ("train", "val"):
        dataset, _ = read(dict(config.data), FOLDER, split)
        masks = [dataset[index].annotations["masks"].numpy().astype(int) for index in range(len(dataset))]
        images.append(f"{len(masks)} image{'s' * (len(masks) > 1)}")
        objects.append(sum(mask[region[0]] == 1 for mask in masks for region in flooded(mask)))
        known.append(sum((mask != 255).sum() for mask in masks))
    checked = check(config, out=tmp_path / "out", workers=0)
    (sheet,) = (sheet for sheet in checked.sheets if sheet.caption.startswith("Derived labels"))
    rows = {str(row[0]): [str(cell) for cell in row[1:]] for row in sheet.rows}
    assert rows["borders"][:2] == ["boundary\nside: thin\nwidth: 1\nbackground: 0", "masks (classes)"]
    assert rows["movable"][0] == "merge\ninto:\n  movable: car, person\nrest: background"
    assert rows["movable"][2:4] == [f"{n}, {count:,} pixels" for n, count in zip(images, known, strict=True)]
    assert rows["objects"][2:4] == [f"{n}, {count:,} boxes" for n, count in zip(images, objects, strict=True)]
    assert rows["there"] == ["presence", "masks (classes)", *images, "exact"]
    assert rows["slopes"][0] == "normals\nintrinsics: 30, 30, 16, 12\nstep: 0.001\nwindow: 5\ntolerance: 0.02"
    assert rows["slopes"][1] == "depth (metres)"
    assert "expected mean error on planes, in degrees: " in rows["slopes"][4]
    assert set(rows) == {"borders", "movable", "slopes", "objects", "there"}
    assert any(sheet.caption == "Classes of movable" for sheet in checked.sheets)
    page = checked.page.read_text(encoding="utf-8")
    assert "not a benchmark" in page
    assert "merge\ninto:\n  movable: car, person\nrest: background</td>" in page
    pipe = Console(width=10_000, file=io.StringIO())
    pipe.print(report(checked))
    lines = pipe.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    start = next(place for place, line in enumerate(lines) if "Derived labels" in line)
    table = list(itertools.takewhile(lambda line: line[:1] in "┏┃┡│└├", lines[start + 1 :]))
    assert len(table) > len(rows)
    assert max(map(len, table)) < 200
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table if line.startswith("│")]
    assert [row[1] for row in cells].count("movable: car, person") == 1
    # the sentence goes on below, whole
    slopes = next(place for place, row in enumerate(cells) if row[0] == "slopes")
    said = " ".join(row[-1] for row in itertools.takewhile(lambda row: row[0] in ("", "slopes"), cells[slopes:]))
    assert said.strip() == rows["slopes"][4]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "edges", "source": "masks", "derive": "boundry"}, "derivation 'boundry'; nearest: 'boundary'"),
        ({"kind": "edges", "source": "masks", "derive": {"boundary": {"widht": 2}}}, "did you mean 'width'"),
        ({"kind": "edges", "source": "masks", "derive": {"boundary": {}, "merge": {}}}, "expected one of boundary"),
        ({"kind": "edges", "derive": "boundary"}, r"tasks\.made\.source: missing; expected the task or layer"),
        ({"kind": "depth", "source": "masks", "derive": "boundary"}, "makes labels of kind edges"),
        ({"kind": "edges", "source": "two", "derive": "boundary"}, "'two' is derived itself; expected what that is"),
        ({"kind": "edges", "source": "lines", "derive": "boundary"}, "'lines' is of kind edges; expected a task"),
        ({"kind": "edges", "source": "maks", "derive": "boundary"}, r"maks: no such folder"),
        (
            {"kind": "depth", "source": "masks", "derive": {"distance": {"unit": "pixels"}}, "rescale": False},
            "found pixels, and images are scaled",
        ),
    ],
)
def test_mistakes_in_a_config_are_named(task: dict[str, Any], message: str, tmp_path: Path) -> None:
    others = {"masks": MASKS, "two": FOLDER["movable"]}
    others |= {"lines": {"kind": "edges"}} if task.get("source") == "lines" else {}
    with pytest.raises(ConfigError, match=message):
        read(folder(tmp_path), {**others, "made": task})


def test_a_derived_task_is_built_again_from_its_spec() -> None:
    for kind in (Edges("a", source="b", derive={"boundary": {"width": 2, "side": "both"}}), Edges("a")):
        spec = json.loads(json.dumps(kind.spec()))
        del spec["kind"]
        assert Edges(**spec).derivation == kind.derivation


def test_every_derivation_is_tested_here() -> None:
    assert set(DERIVATIONS) == {"boundary", "boxes", "merge", "count", "distance", "normals"}
