"""One run folder: what it holds, which weights are the best, when it ends, and going on after a stop."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from segweave import build, checkpoint, experiment
from segweave.errors import CheckpointError, ConfigError, UnreadableError
from segweave.model import MultiTaskModel, create_model
from segweave.run_folder import alone_in
from tiny import lines, steps, tiny


def tensors(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "weights" / f"{name}.safetensors")[0]


def validations(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder) if "seconds" not in line]


class Killed(Exception):
    """Stands for a process that ends in the middle of a step."""


def interrupted(config: Any, name: str, out: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that saved after every step and ended during the one after `after`."""
    genuine = experiment.fit

    def fit(*args: Any, **options: Any) -> Any:
        for step in genuine(*args, **options):
            if step.step == after:
                raise Killed
            yield step

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "_SAVE_SECONDS", -1.0)
        patch.setattr(experiment, "fit", fit)
        with pytest.raises(Killed):
            build.train(config, name, out, quiet=True)
    return out / name


@pytest.mark.parametrize(
    "options",
    [
        {"train": {"epochs": 3}, "balancing": {"method": "uncertainty"}},
        {"train": {"epochs": 3, "ema": 0.9, "accumulate": 2, "batch_size": 2, "workers": 1, "best": "depth/rmse"}},
        {"train": {"epochs": 3, "precision": "fp16", "optimizer": "sgd", "schedule": "cosine", "warmup": 4}},
    ],
    ids=["uncertainty", "ema and accumulation", "fp16"],
)
def test_resume_goes_on_bit_for_bit(options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(**options)
    whole, expected = build.train(config, "whole", tmp_path, quiet=True)
    for after in (2, 5):
        part = interrupted(config, f"part-{after}", tmp_path, after, monkeypatch)
        with (part / "metrics.jsonl").open("a") as log:  # a log that had gone further than the checkpoint
            log.write(json.dumps({"step": after, "total": 1.0, "seconds": 1.0}) + '\n{"step": 99, "half a li')
        again, results = build.train(config, part.name, tmp_path, resume=True, quiet=True)
        assert again == part
        assert steps(part) == steps(whole)
        assert results == expected
        for name in ("last", "best"):
            one, two = tensors(whole, name), tensors(part, name)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[key], two[key]) for key in one)


def test_resuming_a_finished_run_changes_nothing_and_a_longer_plan_goes_on(tmp_path: Path) -> None:
    folder, results = build.train(tiny(), "run", tmp_path, quiet=True)
    before = (folder / "metrics.jsonl").read_bytes()
    again, same = build.train(tiny(), "run", tmp_path, resume=True, quiet=True)
    assert (again, same) == (folder, results)
    assert (folder / "metrics.jsonl").read_bytes() == before
    build.train(tiny(train={"steps": 6}), "run", tmp_path, resume=True, quiet=True)
    assert [line["step"] for line in steps(folder)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tasks": {"scene": {"kind": "classification", "weight": 2.0}}}, "scene"),
        ({"tasks": {"extra": {"kind": "depth", "source": "depth"}}}, "extra"),
        ({"model": {"backbone": "test_efficientnet"}}, r"model\.backbone was .test_resnet. and is"),
        ({"balancing": {"method": "uncertainty"}}, r"balancing\.method was"),
        ({"train": {"steps": 4, "batch_size": 4, "workers": 0, "ema": 0.9}}, r"train\.ema was null and is 0\.9"),
    ],
)
def test_resume_refuses_another_network_and_says_what_differs(changes: dict, named: str, tmp_path: Path) -> None:
    build.train(tiny(train={"steps": 1}), "run", tmp_path, quiet=True)
    with pytest.raises(CheckpointError, match=named):
        build.train(tiny(**changes), "run", tmp_path, resume=True, quiet=True)


@pytest.mark.parametrize("weights", [None, "inverse"])
def test_resume_says_that_a_file_of_classes_has_changed(weights: str | None, tmp_path: Path) -> None:
    names = [f"stuff {number}" for number in range(8)]
    file = tmp_path / "classes.txt"
    file.write_text("\n".join(names))
    semantic = {"kind": "semantic", "classes": str(file), "class_weights": weights}
    config = tiny(tasks={"semantic": semantic}, train={"steps": 1})
    build.train(config, "run", tmp_path, quiet=True)
    for changed, message in (
        ([*names, "more"], r"found 9; expected 8 \(class 8 is 'more' and was none\)"),
        (names[:-1], r"found 7; expected 8 \(class 7 is none and was 'stuff 7'\)"),
        ([*names[:3], "other", *names[4:]], r"found 8; expected 8 \(class 3 is 'other' and was 'stuff 3'\)"),
    ):
        file.write_text("\n".join(changed))
        with pytest.raises(CheckpointError, match=rf"run: tasks\.semantic\.classes differ from the run's: {message}"):
            build.train(config, "run", tmp_path, resume=True, quiet=True)
    file.write_text("\n".join(names))
    build.train(config, "run", tmp_path, resume=True, quiet=True)


def test_resume_keeps_the_order_of_the_tasks(tmp_path: Path) -> None:
    config = tiny(train={"steps": 1})
    build.train(config, "run", tmp_path, quiet=True)
    turned = replace(config, tasks=dict(reversed(config.tasks.items())))
    with pytest.raises(CheckpointError, match="in the order semantic, depth, scene"):
        build.train(turned, "run", tmp_path, resume=True, quiet=True)


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none: nothing to resume; expected .*config\.yaml"):
        build.train(tiny(), "none", tmp_path, resume=True, quiet=True)
    assert not (tmp_path / "none").exists()


def test_what_a_run_holds(tmp_path: Path) -> None:
    folder, _ = build.train(tiny(train={"epochs": 2, "seed": 7}), "run", tmp_path, quiet=True)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["seed"] == 7
    assert {split: len(value) for split, value in facts["data_fingerprint"].items()} == {"train": 64, "val": 64}
    assert facts["versions"]["torch"] == version("torch")
    assert facts["task_order"] == ["semantic", "depth", "scene"]
    assert "git_revision" in facts
    weights = sorted(path.name for path in (folder / "weights").iterdir())
    assert weights == ["best.safetensors", "last.safetensors", "previous.safetensors", "state.safetensors"]
    config = build.load_run(folder)[1]
    assert config.sections() == tiny(train={"epochs": 2, "seed": 7}).sections()
    other, _ = build.train(tiny(data={"seed": 1}), "other", tmp_path, quiet=True)
    assert json.loads((other / "run.json").read_text())["data_fingerprint"] != facts["data_fingerprint"]


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    config = tiny(train={"steps": 2})
    folder, _ = build.train(config, "run", tmp_path, quiet=True)
    before = (folder / "metrics.jsonl").read_bytes()
    # a lock is of the open folder, not of the process, so that one process can stand for two
    with alone_in(folder), pytest.raises(CheckpointError, match="another process trains in it"):
        build.train(tiny(train={"steps": 4}), "run", tmp_path, resume=True, quiet=True)
    assert (folder / "metrics.jsonl").read_bytes() == before
    build.train(tiny(train={"steps": 4}), "run", tmp_path, resume=True, quiet=True)
    assert len(steps(folder)) == 4


def test_memory_of_training_counts_what_the_optimizer_keeps(tmp_path: Path) -> None:
    peaks, numbers = {}, 0
    for optimizer in ("sgd", "adamw"):
        folder, _ = build.train(tiny(train={"optimizer": optimizer, "steps": 3}), optimizer, tmp_path, quiet=True)
        first, second, third = (line for line in lines(folder) if "seconds" in line)
        numbers = sum(p.numel() for p in MultiTaskModel.from_pretrained(folder).parameters())
        # weights and their gradients, at the least; only the first steps are measured
        assert 1e6 * second["peak_megabytes"] > 8 * numbers
        assert second["peak_megabytes"] >= first["peak_megabytes"]
        assert "peak_megabytes" not in third
        peaks[optimizer] = 1e6 * second["peak_megabytes"]
    # AdamW keeps two float32 numbers for each weight, SGD with momentum one
    assert peaks["adamw"] - peaks["sgd"] == pytest.approx(4 * numbers, rel=0.05)


def test_every_line_of_the_log(tmp_path: Path) -> None:
    config = tiny(train={"epochs": 2, "accumulate": 2}, balancing={"method": "uncertainty"})
    folder, _ = build.train(config, "run", tmp_path, quiet=True)
    made = lines(folder)
    of_steps = [line for line in made if "seconds" in line]
    of_validation = [line for line in made if "seconds" not in line]
    assert [(line["step"], line["epoch"], line["images"]) for line in of_steps] == [
        (0, 0, 8),
        (1, 0, 4),
        (2, 1, 8),
        (3, 1, 4),
    ]
    for line in of_steps:
        assert line["seconds"] > 0
        assert line["grad_norm"] > 0
        assert {"loss/semantic", "loss/depth", "loss/scene"} <= line.keys()
        assert {"weight/semantic", "weight/depth", "weight/scene", "lr"} <= line.keys()
        assert {"regularizer/depth/weight_decay", "regularizer/shared/feature_norm"} <= line.keys()
        parts = line["loss/semantic/cross_entropy"] + line["loss/semantic/iou"]
        assert line["loss/semantic"] == pytest.approx(parts, rel=1e-5)
        regularizers = line["regularizer/depth/weight_decay"] + line["regularizer/shared/feature_norm"]
        losses = sum(line[f"loss/{task}"] * line[f"weight/{task}"] for task in config.tasks)
        assert line["total"] == pytest.approx(losses + regularizers, rel=1e-5)
    assert [(line["step"], line["split"]) for line in of_validation] == [(1, "val"), (3, "val")]
    assert {"semantic/miou", "depth/abs_rel", "scene/accuracy"} <= of_validation[0].keys()


@pytest.mark.parametrize(
    ("best", "higher"), [("depth/abs_rel", False), ("depth/delta1", True), ("semantic/pixel_accuracy", True)]
)
def test_the_best_weights_are_those_of_the_best_validation(best: str, higher: bool, tmp_path: Path) -> None:
    config = tiny(train={"epochs": 5, "lr": 3e-3, "best": best, "schedule": "constant"})
    folder, results = build.train(config, "run", tmp_path, quiet=True)
    task, key = best.split("/")
    seen = [line[best] for line in lines(folder) if "seconds" not in line]
    assert len(seen) == 5
    assert results[task][key] == (max(seen) if higher else min(seen))
    assert build.evaluate_run(folder)[task][key] == pytest.approx(results[task][key], abs=1e-9)


def test_mean_relative_gain_keeps_what_is_better_on_average(tmp_path: Path) -> None:
    folder, results = build.train(tiny(train={"epochs": 4, "schedule": "constant"}), "run", tmp_path, quiet=True)
    kept: dict[str, float] | None = None
    for line in (line for line in lines(folder) if "seconds" not in line):
        new = {key: line[key] for key in ("semantic/miou", "depth/abs_rel", "scene/accuracy")}
        if kept is None:
            kept = new
            continue
        gain = 0.0
        for key, value in new.items():
            change = (value - kept[key]) / kept[key] if kept[key] else 0.0
            gain += -change if key == "depth/abs_rel" else change
        kept = new if gain > 0 else kept
    assert kept is not None
    assert results["semantic"]["miou"] == kept["semantic/miou"]
    assert results["depth"]["abs_rel"] == kept["depth/abs_rel"]


def test_an_unknown_best_metric_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.best: found 'semantic/mIoU'.*'semantic/miou'"):
        build.train(tiny(train={"best": "semantic/mIoU"}), "run", tmp_path, quiet=True)
    assert not (tmp_path / "run").exists()


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    config = tiny(train={"epochs": 50, "lr": 1e-12, "patience": 2})
    folder, _ = build.train(config, "run", tmp_path, quiet=True)
    validations = [line for line in lines(folder) if "seconds" not in line]
    assert 3 <= len(validations) < 50


class Clock:
    """Stands for the `time` module: a clock that moves by `tick` seconds when it is read, and else by hand."""

    def __init__(self) -> None:
        self.now = self.tick = 0.0

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


def timed(clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds_per_step: float = 0.0) -> None:
    """Lets the run's length depend on this clock alone."""
    genuine = experiment.fit

    def fit(*args: Any, **options: Any) -> Any:
        for step in genuine(*args, **options):
            clock.now += seconds_per_step
            yield step

    monkeypatch.setattr(experiment, "fit", fit)
    monkeypatch.setattr(experiment, "time", clock)


def test_minutes_end_a_run_by_the_clock_with_a_schedule_that_reaches_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(Clock(), monkeypatch, seconds_per_step=1.5)
    config = tiny(train={"minutes": 0.2, "warmup": 0, "lr": 1e-3, "schedule": "poly"})
    folder, _ = build.train(config, "run", tmp_path, quiet=True)
    # 12 seconds are 8 steps of 1.5, and each takes the rate of the time that has passed before it
    assert [line["lr"] for line in steps(folder)] == pytest.approx([1e-3 * (1 - i / 8) ** 0.9 for i in range(8)])
    assert [line["step"] for line in lines(folder) if "seconds" not in line] == [2, 5, 7]


# after the first epoch every look at the clock takes a second: the time runs out at each place of a step in turn
@pytest.mark.parametrize("looks", range(5, 11))
def test_the_last_weights_are_validated_and_saved_wherever_the_time_runs_out(
    looks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    timed(clock, monkeypatch)
    saves: list[int] = []
    genuine = experiment.save

    def save(folder: Path, parts: Any, state: Any, kept: Any) -> None:
        saves.append(state.step)
        clock.tick = 1.0
        genuine(folder, parts, state, kept)

    monkeypatch.setattr(experiment, "save", save)
    folder, _ = build.train(tiny(train={"minutes": looks / 60}), "run", tmp_path, quiet=True)
    last = steps(folder)[-1]["step"]
    assert last in (3, 4)  # of the second epoch, but not its end
    assert [line["step"] for line in validations(folder)] == [2, last]
    assert saves == [3, last + 1]


def test_a_run_resumed_at_its_end_validates_what_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, expected = build.train(tiny(train={"steps": 5, "schedule": "constant"}), "whole", tmp_path, quiet=True)
    part = interrupted(tiny(train={"steps": 9, "schedule": "constant"}), "part", tmp_path, 5, monkeypatch)
    shorter = tiny(train={"steps": 5, "schedule": "constant"})
    _, results = build.train(shorter, "part", tmp_path, resume=True, quiet=True)
    assert steps(part) == steps(whole)
    assert validations(part) == validations(whole)
    assert results == expected


@pytest.mark.parametrize("failing", [0, 1], ids=["after an epoch", "at the end"])
def test_a_validation_that_failed_is_made_up_for_on_resume(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(train={"steps": 5})
    whole, expected = build.train(config, "whole", tmp_path, quiet=True)
    genuine, count = build.run, itertools.count()

    def run(model: Any, loader: Any, validate: Any, *arguments: Any, **options: Any) -> Any:
        def validation(network: Any) -> Any:
            if next(count) == failing:
                raise UnreadableError("a.png: damaged.")
            return validate(network)

        return genuine(model, loader, validation, *arguments, **options)

    monkeypatch.setattr(build, "run", run)
    with pytest.raises(UnreadableError, match=r"a\.png: damaged\..* --resume"):
        build.train(config, "part", tmp_path, quiet=True)
    part, results = build.train(config, "part", tmp_path, resume=True, quiet=True)
    assert steps(part) == steps(whole)
    assert validations(part) == validations(whole)
    assert results == expected


def test_an_averaged_network_has_statistics_that_belong_to_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, average, seen = experiment.fit, {}, 0

    def fit(model: MultiTaskModel, *args: Any, **options: Any) -> Any:
        nonlocal seen
        for step in genuine(model, *args, **options):
            seen += 1
            for key, value in model.state_dict().items():
                if value.is_floating_point():  # W and the norms' means and variances alike: e <- e + (1 - decay)(x - e)
                    before = average.get(key, value)
                    average[key] = before + 0.25 * (value - before)
            yield step

    monkeypatch.setattr(experiment, "fit", fit)
    folder, _ = build.train(tiny(train={"ema": 0.75, "lr": 1e-2}), "run", tmp_path, quiet=True)
    assert seen == 4
    kept = tensors(folder)
    statistics = [key for key in kept if "running_" in key]
    assert statistics
    for key, value in average.items():
        torch.testing.assert_close(kept[key], value, rtol=1e-4, atol=1e-6, msg=key)
    live = checkpoint.load(folder / "weights" / "state.safetensors")[0]
    assert any(not torch.allclose(kept[key], live[f"model.{key}"], rtol=1e-2) for key in statistics)


def test_validation_comes_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    folder, _ = build.train(tiny(train={"epochs": 5, "validate_every": 2}), "run", tmp_path, quiet=True)
    assert [line["epoch"] for line in lines(folder) if "seconds" not in line] == [1, 3, 4]


def test_what_is_frozen_stays_and_the_rest_learns(tmp_path: Path) -> None:
    config = tiny(train={"freeze": ["encoder"], "steps": 2})
    folder, _ = build.train(config, "run", tmp_path, quiet=True)
    torch.manual_seed(0)
    start = dict(create_model(build.build_tasks(config), **config.model).state_dict())
    end = dict(MultiTaskModel.from_pretrained(folder).state_dict())
    moved = {name.partition(".")[0] for name in start if not torch.equal(start[name], end[name])}
    assert moved == {"interaction", "heads"}  # the encoder's running statistics stay as well
    with pytest.raises(ConfigError, match=r"train\.freeze: no parameter starts with 'backbone'"):
        build.train(tiny(train={"freeze": ["backbone"]}), "other", tmp_path, quiet=True)


def test_balanced_class_weights_are_computed_once_and_kept(tmp_path: Path) -> None:
    config = tiny(tasks={"semantic": {"kind": "semantic", "class_weights": "balanced"}})
    folder, _ = build.train(config, "run", tmp_path, quiet=True)
    weights = MultiTaskModel.from_pretrained(folder).tasks["semantic"].spec()["class_weights"]
    tasks = build.build_tasks(config)
    dataset = build.build_dataset(config, "train", tasks)
    pixels = sum(
        torch.bincount(torch.as_tensor(dataset[i].annotations["semantic"]).flatten(), minlength=8)
        for i in range(len(dataset))
    )
    assert isinstance(pixels, torch.Tensor)
    present = int((pixels > 0).sum())
    expected = [float(pixels.sum() / (present * n)) if n else 0.0 for n in pixels.tolist()]
    assert weights == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3, "epochs": 2}, "expected one of steps, epochs and minutes"),
        ({"batch_size": 0}, r"train\.batch_size: found 0"),
        ({"accumulate": 0}, r"train\.accumulate: found 0"),
        ({"lr": 0.0}, r"train\.lr: found 0"),
        ({"epochs": -1}, r"train\.epochs: found -1"),
        ({"steps": 0}, r"train\.steps: found 0"),
        ({"minutes": 0}, r"train\.minutes: found 0"),
        ({"clip": -1.0}, r"train\.clip: found -1"),
        ({"ema": 1.5}, r"train\.ema: found 1.5"),
        ({"workers": -1}, r"train\.workers: found -1"),
    ],
)
def test_plans_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment.Plan(**options)


def test_a_second_run_of_a_name_gets_a_number(tmp_path: Path) -> None:
    names = [build.train(tiny(train={"steps": 1}), "run", tmp_path, quiet=True)[0].name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_the_bar_tells_losses_rate_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build.train(tiny(train={"epochs": 2}), "run", tmp_path)
    shown = capsys.readouterr().out
    assert "epoch 1, step 3/6: semantic miou" in shown
    assert "best so far" in shown
    assert not math.isnan(float(shown.split("semantic miou ")[1].split(",")[0]))


def test_a_name_is_no_path_and_a_run_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a plain name"):
        build.train(tiny(), "../out", tmp_path / "runs", quiet=True)
    with pytest.raises(CheckpointError, match=r"nope: no run here; expected .*config\.yaml"):
        build.evaluate_run(tmp_path / "nope")
