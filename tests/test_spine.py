"""The whole way: a config to a trained run, its metrics, its predictions, and going on after a stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segweave import build, rasters
from segweave.config import from_values
from segweave.errors import CheckpointError, ConfigError, DataError
from segweave.schema import check_config, read_config

TINY = {
    "data": {"format": "synthetic", "size": [48, 80], "count": 12},
    "tasks": {
        "semantic": {"kind": "semantic", "loss": {"cross_entropy": 1, "iou": 1}},
        "depth": {"kind": "depth", "regularizers": {"weight_decay": 1e-4}},
        "scene": {"kind": "classification"},
    },
    "model": {"backbone": "resnet10t", "decoder": {"name": "fpn", "width": 16}, "regularizers": {"feature_norm": 1e-4}},
    "train": {"steps": 4, "batch_size": 4, "workers": 0, "lr": 1e-3},
}


def tiny(**sections: dict) -> object:
    values = json.loads(json.dumps(TINY))
    for name, options in sections.items():
        values[name] = {**values.get(name, {}), **options}
    return check_config(from_values(values))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_logs_evaluates_predicts_and_scores_the_same(tmp_path: Path) -> None:
    config = tiny()
    folder, results = build.train(config, "a", tmp_path, quiet=True)
    steps = [line for line in lines(folder) if "seconds" in line]
    assert [line["step"] for line in steps] == [0, 1, 2, 3]
    for line in steps:
        regularizers = line["regularizer/depth/weight_decay"] + line["regularizer/shared/feature_norm"]
        losses = sum(line[f"loss/{task}"] * line[f"weight/{task}"] for task in TINY["tasks"])
        assert line["total"] == pytest.approx(losses + regularizers, rel=1e-5)
        parts = line["loss/semantic/cross_entropy"] + line["loss/semantic/iou"]
        assert line["loss/semantic"] == pytest.approx(parts, rel=1e-5)
    assert any("semantic/miou" in line and "seconds" not in line for line in lines(folder))
    evaluated = build.evaluate_run(folder, "val")
    assert evaluated["semantic"]["miou"] == pytest.approx(results["semantic"]["miou"], abs=1e-9)
    written = json.loads((folder / "evaluation-val.json").read_text())
    assert written["tasks"]["depth"]["abs_rel"] == pytest.approx(results["depth"]["abs_rel"])

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


def test_resume_repeats_an_uninterrupted_run(tmp_path: Path) -> None:
    whole, _ = build.train(tiny(train={"steps": 6}), "whole", tmp_path, quiet=True)
    first, _ = build.train(tiny(train={"steps": 6, "validate_every": 1}), "part", tmp_path, quiet=True)
    log = first / "metrics.jsonl"
    state = first / "weights" / "state.safetensors"
    # a stop after epoch 1: what was saved then, with a log that had gone further
    from segweave import checkpoint

    tensors, meta = checkpoint.load(state)
    assert meta["step"] == 6
    part, _ = build.train(tiny(train={"steps": 3, "schedule": "constant"}), "short", tmp_path, quiet=True)
    config = tiny(train={"steps": 6, "schedule": "constant"})
    tensors, meta = checkpoint.load(part / "weights" / "state.safetensors")
    checkpoint.save(part / "weights" / "state.safetensors", tensors, {**meta, "finished": False})
    (part / "metrics.jsonl").open("a").write('{"step": 3, "half a li')
    build.train(config, "short", tmp_path, resume=True, quiet=True)
    straight, _ = build.train(config, "straight", tmp_path, quiet=True)
    drop = ("seconds",)
    resumed = [{k: v for k, v in line.items() if k not in drop} for line in lines(part) if "total" in line]
    expected = [{k: v for k, v in line.items() if k not in drop} for line in lines(straight) if "total" in line]
    assert resumed == expected
    assert log.exists()
    assert whole.exists()


def test_every_part_learns_with_every_balancer(tmp_path: Path) -> None:
    for method in ("equal", "uncertainty"):
        config = tiny(balancing={"method": method}, train={"steps": 2, "batch_size": 3, "accumulate": 2, "ema": 0.5})
        torch.manual_seed(0)
        before = build.create_model(build.build_tasks(config), **config.model).state_dict()
        folder, _ = build.train(config, method, tmp_path, quiet=True)
        after = build.load_model(folder).state_dict()
        same = [k for k in before if k.endswith("weight") and torch.equal(before[k], after[k])]
        assert not same


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    folder, _ = build.train(tiny(train={"steps": 1}), "a", tmp_path, quiet=True)
    changed = tiny(tasks={"scene": {"kind": "classification", "classes": 4, "weight": 2.0}})
    with pytest.raises(CheckpointError, match="scene"):
        build.train(changed, "a", tmp_path, resume=True, quiet=True)
    again, _ = build.train(tiny(train={"steps": 1}), "a", tmp_path, quiet=True)
    assert again.name == "a-2"
    weights = folder / "weights" / "best.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="hash"):
        build.load_model(folder)


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
        build.create_model(tasks, backbone="resnet5O")
    with pytest.raises(ConfigError, match="'fpn'"):
        build.create_model(tasks, backbone="resnet10t", decoder="fpm")


@pytest.mark.parametrize("shared", [True, False])
def test_any_size_in_that_size_out(shared: bool) -> None:
    config = tiny()
    model = build.create_model(
        build.build_tasks(config), backbone="resnet10t", decoder={"name": "fpn", "width": 8, "shared": shared}
    ).eval()
    outputs = model(torch.rand(1, 3, 37, 51))
    assert outputs["semantic"].shape == (1, 8, 37, 51)
    assert outputs["depth"].shape == (1, 1, 37, 51)
    assert outputs["scene"].shape == (1, 4)


def folder_config(root: Path, **task: object) -> object:
    return check_config(
        from_values(
            {
                "data": {"format": "folder", "root": str(root), "splits": {"val": 0.2}},
                "tasks": {"semantic": {"kind": "semantic", "classes": 2, **task}},
            }
        )
    )


def test_folder_faults(tmp_path: Path) -> None:
    image = torch.zeros(3, 8, 9, dtype=torch.uint8)
    for name in ("ä b", "-dash", "c"):
        rasters.write_image(image, tmp_path / "images" / f"{name}.png")
        rasters.write_index(torch.ones(8, 9, dtype=torch.uint8), tmp_path / "semantic" / f"{name}.png", [(0, 0, 0)])
    config = folder_config(tmp_path)
    tasks = build.build_tasks(config)
    parts = [set(build.build_dataset(config, split, tasks).ids) for split in ("train",)]
    assert parts[0] <= {"ä b", "-dash", "c"}
    dataset = build.build_dataset(config, "train", tasks)
    where = tmp_path / "semantic" / f"{dataset.ids[0]}.png"
    assert dataset[0].annotations["semantic"].unique().tolist() == [1]
    rasters.write_index(torch.full((8, 9), 7, dtype=torch.uint8), where, [(0, 0, 0)])
    with pytest.raises(DataError, match=r"label id 7 \(72 pixels\)"):
        dataset[0]
    rasters.write_index(torch.ones(8, 8, dtype=torch.uint8), where, [(0, 0, 0)])
    with pytest.raises(DataError, match=r"8x8 but its image .* is 9x8"):
        dataset[0]
    where.unlink()
    assert "semantic" not in build.build_dataset(config, "train", tasks)[0].annotations


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
    matched = build.create_model(tasks, **config.model).encoder.matched
    assert matched is not None
    assert not matched.reshaped
    assert len(matched.loaded) > 100
    assert (folder / "weights" / "best.safetensors").is_file()
