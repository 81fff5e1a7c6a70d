"""The whole way: a config to a trained run, its metrics and its predictions, on synthetic and on real data."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segweave import build, rasters
from segweave.config import from_values
from segweave.data.streets import CLASSES, render
from segweave.errors import CheckpointError, ConfigError
from segweave.model import MultiTaskModel, create_model
from segweave.schema import check_config, read_config
from tiny import TINY, tiny


def test_a_run_evaluates_predicts_and_scores_the_same(tmp_path: Path) -> None:
    config = tiny()
    folder, results = build.train(config, "a", tmp_path, quiet=True)
    evaluated = build.evaluate_run(folder, "val")
    assert evaluated["semantic"]["miou"] == pytest.approx(results["semantic"]["miou"], abs=1e-9)
    written = json.loads((folder / "evaluation-val.json").read_text())
    assert written["tasks"]["depth"]["abs_rel"] == round(results["depth"]["abs_rel"], 4)
    table = (folder / "evaluation-val.csv").read_text()
    assert f"semantic,iou/road,{evaluated['semantic']['per_class']['road']['iou']:.4f}" in table

    # the validation images as files: predicting them and scoring the files gives what evaluating gave
    dataset = build.build_dataset(config, "val", build.build_tasks(config))
    for index in range(len(dataset)):
        rasters.write_image(dataset[index].image, tmp_path / "images" / f"{dataset.ids[index]}.png")
    command = [sys.executable, "-m", "segweave", "predict", str(folder), str(tmp_path / "images")]
    done = subprocess.run([*command, "--out", str(tmp_path / "p")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scored = build.score_predictions(config, tmp_path / "p", "val")
    for task, key in (("semantic", "miou"), ("depth", "abs_rel"), ("scene", "accuracy")):
        assert scored[task][key] == pytest.approx(results[task][key], abs=1e-4)
    picture, _ = rasters.read_image(tmp_path / "p" / "pictures" / "val-000000.png")
    assert picture.shape[0] == 3


def store(folder: Path, images: int = 6) -> None:
    """Streets that no split of TINY has, as files: masks with and without sky, depth in centimetres."""
    for index in range(images):
        street = render(seed=5, index=index, height=48, width=80)
        rasters.write_image(torch.from_numpy(street.image).permute(2, 0, 1), folder / "images" / f"{index}.png")
        labels = torch.from_numpy(street.semantic)
        rasters.write_index(labels, folder / "semantic" / f"{index}.png", [])
        rasters.write_index(torch.where(labels == 3, 200, labels), folder / "no-sky" / f"{index}.png", [])
        rasters.write_depth(torch.from_numpy(street.depth) / 10, folder / "depth" / f"{index}.png")


def test_evaluation_on_other_data(tmp_path: Path) -> None:
    folder, _ = build.train(tiny(train={"steps": 2}), "a", tmp_path, quiet=True)
    store(tmp_path)
    data = {"format": "folder", "root": str(tmp_path), "splits": {"val": 0.99}}
    (tmp_path / "data.yaml").write_text(json.dumps({"data": {**data, "tasks": {"semantic": "semantic"}}}))
    command = [sys.executable, "-m", "segweave", "evaluate", str(folder), "--data", str(tmp_path / "data.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no labels in this split") == 2  # depth and scene, of which the data names no layer
    assert f"written: {folder / 'evaluation-data-val.json'}" in done.stdout.splitlines()

    semantic = {"kind": "semantic", "classes": list(CLASSES)}
    tasks = {"semantic": semantic, "depth": {"kind": "depth", "units_per_metre": 100.0}}
    other = check_config(from_values({"data": data, "tasks": tasks}))
    results = build.evaluate_run(folder, "val", other)
    assert results["semantic"]["per_class"].keys() <= set(CLASSES)
    assert math.isnan(results["scene"]["accuracy"])
    millimetres = check_config(from_values({"data": data, "tasks": {"depth": {"kind": "depth"}}}))
    assert build.evaluate_run(folder, "val", millimetres)["depth"]["rmse"] != results["depth"]["rmse"]

    tasks["semantic"] = {**semantic, "ignore": 200, "source": "no-sky"}
    other = check_config(from_values({"data": data, "tasks": tasks}))
    assert "sky" in build.evaluate_run(folder, "val", other)["semantic"]["absent_classes"]
    tasks["semantic"] = {"kind": "semantic", "classes": 8}
    with pytest.raises(ConfigError, match=r"tasks\.semantic: found .*class 0.* the run has .*road"):
        build.evaluate_run(folder, "val", check_config(from_values({"data": data, "tasks": tasks})))


def test_every_part_learns_with_every_balancer(tmp_path: Path) -> None:
    for method in ("equal", "uncertainty"):
        config = tiny(balancing={"method": method}, train={"steps": 2, "batch_size": 3, "accumulate": 2, "ema": 0.5})
        torch.manual_seed(0)
        before = create_model(build.build_tasks(config), **config.model).state_dict()
        folder, _ = build.train(config, method, tmp_path, quiet=True)
        after = MultiTaskModel.from_pretrained(folder).state_dict()
        same = [k for k in before if k.endswith("weight") and torch.equal(before[k], after[k])]
        assert not same


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder, _ = build.train(tiny(train={"steps": 1}), "a", tmp_path, quiet=True)
    weights = folder / "weights" / "best.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="hash"):
        MultiTaskModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "did you mean 'lr'"),
        ("train.lr=fast", "expected a number"),
        ("tasks.semantic.clases=3", "did you mean 'classes'"),
        ("tasks.semantic.kind=semantik", "nearest: 'semantic'"),
        ("balancing.method=eqal", "nearest: 'equal'"),
        ("model._target_=os.system", "refused"),
    ],
)
def test_config_mistakes_exit_with_two_and_no_traceback(override: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    from segweave.config import dump

    path.write_text(dump(TINY))
    command = [sys.executable, "-X", "importtime", "-m", "segweave", "train", str(path), override]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    error = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert len(error) <= 2
    assert message in error[0]
    assert not any(line.endswith((" torch", " timm", " torchvision")) for line in done.stderr.splitlines())


def test_unknown_encoder_and_decoder_name_the_nearest() -> None:
    config = tiny()
    tasks = build.build_tasks(config)
    with pytest.raises(ConfigError, match="'resnet50'"):
        create_model(tasks, backbone="resnet5O")
    with pytest.raises(ConfigError, match="'fpn'"):
        create_model(tasks, backbone="resnet10t", decoder="fpm")


@pytest.mark.parametrize("shared", [True, False])
def test_any_size_in_that_size_out(shared: bool) -> None:
    config = tiny()
    model = create_model(
        build.build_tasks(config), backbone="resnet10t", decoder={"name": "fpn", "width": 8, "shared": shared}
    ).eval()
    outputs = model(torch.rand(1, 3, 37, 51))
    assert outputs["semantic"].shape == (1, 8, 37, 51)
    assert outputs["depth"].shape == (1, 1, 37, 51)
    assert outputs["scene"].shape == (1, 4)


@pytest.mark.parametrize(("name", "counts"), [("camvid", (123, 51)), ("nyuv2", (250, 50))])
def test_real_data_trains_by_config_alone(name: str, counts: tuple[int, int], real_data: Path, tmp_path: Path) -> None:
    root = real_data / ("camvid/CamVid" if name == "camvid" else "nyuv2/data")
    weights = real_data / "weights" / "mobilenetv1_100_partial.safetensors"
    example = Path(__file__).parents[1] / "examples" / f"{name}.yaml"
    changes = [
        f"data.root={root}",
        f"model.pretrained={weights}",
        "data.size=[60, 80]",
        "model.decoder={name: fpn, width: 16}",
    ]
    config = read_config(example, [*changes, "train.steps=2", "train.batch_size=2", "train.workers=0"])
    tasks = build.build_tasks(config)
    assert tuple(len(build.build_dataset(config, split, tasks)) for split in ("train", "val")) == counts
    folder, results = build.train(config, name, tmp_path, quiet=True)
    assert 0 <= results["semantic"]["miou"] <= 1
    matched = create_model(tasks, **config.model).encoder.matched
    assert matched is not None
    assert not matched.reshaped
    assert len(matched.loaded) > 100
    assert (folder / "weights" / "best.safetensors").is_file()
