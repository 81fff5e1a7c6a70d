"""Faults of a training from outside: kills, signals, full disks, damaged files, other configs, too little memory.

The numbers in the names are the rows of the design's table of faults, as in `test_bad_input.py`. `doomed.py` has
what the processes do that are to die.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from doomed import MOMENTS, command, die, end_of, start, train_until
from segweave import atomic, build, checkpoint, experiment
from segweave.config import dump, load
from segweave.data.synthetic import Synthetic
from segweave.data.workers import Watch, guarded
from segweave.errors import CheckpointError, DataError
from segweave.losses import CrossEntropy
from segweave.run_folder import Log
from segweave.schema import read_config
from test_bad_input import Cli, Outcome, make_set, refused, run, write_config
from tiny import lines, steps, tiny, values


@pytest.fixture
def segweave(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


def written(folder: Path, **sections: dict[str, Any]) -> Path:
    path = folder / "street.yaml"
    path.write_text(dump(values(**sections)), encoding="utf-8")
    return path


def train(segweave: Cli, config: Path, *arguments: object) -> Outcome:
    return segweave("train", config, *arguments, "--out", config.parent, "--name", "run", "--device", "cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    build.train(read_config(written(folder)), "run", folder, device="cpu", quiet=True)
    return folder


@pytest.fixture
def trained(original: Path, tmp_path: Path) -> Path:
    """A run of four steps with two checkpoints, and beside it the config that made it."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def test_row_20_killed_at_any_moment_a_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "_SAVE_SECONDS", -1.0)
    config = tiny(train={"epochs": 2, "ema": 0.5}, balancing={"method": "uncertainty"})
    whole, results = build.train(config, "whole", tmp_path, quiet=True)
    folder = tmp_path / "part"
    for moment in MOMENTS:
        assert end_of(start(train_until, moment, config, tmp_path)) == -signal.SIGKILL, moment
    assert [path.name for path in (folder / "weights").glob(".*")], "the last kill leaves a temporary file"
    _, resumed = build.train(config, "part", tmp_path, resume=True, quiet=True)
    assert steps(folder) == steps(whole)
    assert [line for line in lines(folder) if "split" in line] == [line for line in lines(whole) if "split" in line]
    assert resumed == results
    for name in ("best", "last"):
        one, two = (checkpoint.load(run / "weights" / f"{name}.safetensors")[0] for run in (whole, folder))
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert not list(folder.rglob(".*"))


def test_row_20_only_the_temporary_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    process = start(os.getpid)
    end_of(process)
    dead = process.pid
    kept = {f".state.safetensors.{os.getppid()}", ".notes", "state.safetensors", ".hidden.txt"}
    for name in (*kept, f".state.safetensors.{dead}", f".last.safetensors.{os.getpid()}"):
        (tmp_path / name).write_bytes(b"half")
    atomic.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


# Signals


def wait_for(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.02)


def logged(log: Path, count: int) -> Callable[[], bool]:
    return lambda: log.is_file() and log.read_bytes().count(b"\n") >= count


@pytest.mark.parametrize(("number", "code", "workers"), [(signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 0)])
def test_row_21_a_signal_finishes_the_step_saves_and_ends(
    number: int, code: int, workers: int, segweave: Cli, tmp_path: Path
) -> None:
    config = written(tmp_path, train={"epochs": 100_000, "workers": workers, "validate_every": 100_000})
    process = start(command, config, None, None)
    folder = tmp_path / "run"
    wait_for(logged(folder / "metrics.jsonl", 2))
    os.killpg(process.pid, number)  # the workers hear of it too
    assert end_of(process) == code
    done = len(steps(folder))
    assert checkpoint.load(folder / "weights" / "state.safetensors")[1]["step"] == done
    assert not list(folder.rglob(".*"))
    if number == signal.SIGTERM:
        outcome = train(segweave, config, "--resume", f"train.steps={done + 1}", "train.workers=0")
        assert outcome.code == 0, outcome
        assert [line["step"] for line in steps(folder)] == list(range(done + 1))


def test_row_21_a_signal_breaks_off_a_validation_that_resuming_makes_up_for(segweave: Cli, tmp_path: Path) -> None:
    config = written(tmp_path, train={"steps": 3})
    mark = tmp_path / "validating"
    process = start(command, config, mark, "evaluate")
    wait_for(mark.exists)
    os.kill(process.pid, signal.SIGTERM)
    assert end_of(process) == 143
    folder = tmp_path / "run"
    meta = checkpoint.load(folder / "weights" / "state.safetensors")[1]
    assert (meta["step"], meta["validated"]) == (3, 0)
    assert train(segweave, config, "--resume").code == 0
    assert [line["step"] for line in lines(folder) if "split" in line] == [2]


def test_row_21_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    mark = tmp_path / "stuck"
    process = start(command, written(tmp_path), mark, "fit")
    wait_for(mark.exists)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.is_alive(), "the first waits for the step"
    os.kill(process.pid, signal.SIGINT)
    assert end_of(process) == 130
    assert not (tmp_path / "run").exists()


# Files


def test_row_22_a_disk_that_fills_during_a_save_leaves_the_old_checkpoint(
    segweave: Cli, trained: Path, tmp_path: Path
) -> None:
    state = trained / "weights" / "state.safetensors"
    before = {path.name: path.read_bytes() for path in state.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # no file may grow beyond it: the weights fit, and of the state a half
        resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size // 2, hard))
        outcome = train(segweave, tmp_path / "street.yaml", "--resume", "train.steps=5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(outcome, str(state), "cannot be written", "intact")
    after = {path.name: path.read_bytes() for path in state.parent.iterdir()}
    assert after.keys() == before.keys()
    assert after["state.safetensors"] == before["state.safetensors"]
    outcome = train(segweave, tmp_path / "street.yaml", "--resume", "train.steps=5")
    assert outcome.code == 0, outcome
    assert len(steps(trained)) == 5


def test_row_22_a_disk_that_is_full_for_the_log() -> None:
    with Log(Path("/dev/full")) as log, pytest.raises(CheckpointError, match=r"/dev/full: cannot be written: No space"):
        log.write({"step": 0})


class Trap:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def damage(path: Path, how: str, mark: Path) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[-len(data) // 3 :]
    elif how == "flipped tensor":
        data[-9] ^= 1
    elif how == "flipped counter":  # in the header, where the steps and the best values stand
        place = data.index(rb"\"validated\": ") + len(rb"\"validated\": ")
        data[place] ^= 1
    elif how == "pickle":
        data = bytearray(pickle.dumps(Trap(mark)))
    elif how == "foreign":
        data = bytearray(safetensors.torch.save({"weight": torch.zeros(3)}))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("cut", "not a safetensors file"),
        ("flipped tensor", "do not match their hash"),
        ("flipped counter", "do not match their hash"),
        ("pickle", "not a safetensors file"),
        ("foreign", "not written by segweave"),
    ],
)
def test_row_23_a_damaged_checkpoint_is_refused_and_the_good_one_named(
    how: str, why: str, segweave: Cli, trained: Path, tmp_path: Path
) -> None:
    weights, config, mark = trained / "weights", tmp_path / "street.yaml", tmp_path / "mark"
    damage(weights / "state.safetensors", how, mark)
    outcome = train(segweave, config, "--resume")
    refused(outcome, str(weights / "state.safetensors"), why, f"{weights / 'previous.safetensors'} is whole (step 3)")
    assert not mark.exists()
    if how == "cut":
        before = steps(trained)
        (weights / "previous.safetensors").rename(weights / "state.safetensors")
        assert train(segweave, config, "--resume").code == 0
        assert steps(trained) == before


def test_row_23_damaged_weights_name_the_others_of_the_run(segweave: Cli, trained: Path, tmp_path: Path) -> None:
    weights = trained / "weights"
    damage(weights / "best.safetensors", "pickle", tmp_path / "mark")
    outcome = segweave("evaluate", trained)
    refused(outcome, "best.safetensors: not a safetensors file", f"{weights / 'last.safetensors'} is whole")
    damage(weights / "last.safetensors", "cut", tmp_path / "mark")
    refused(segweave("evaluate", trained), f"nor is {weights / 'last.safetensors'} whole")
    assert not (tmp_path / "mark").exists()


def test_row_23_weights_in_place_of_a_training_state(segweave: Cli, trained: Path, tmp_path: Path) -> None:
    weights = trained / "weights"
    (weights / "state.safetensors").write_bytes((weights / "best.safetensors").read_bytes())
    refused(train(segweave, tmp_path / "street.yaml", "--resume"), "state.safetensors: not the state of a training")


# Going on with something else


def test_row_24_another_config_is_refused_with_the_difference(segweave: Cli, trained: Path, tmp_path: Path) -> None:
    config = tmp_path / "street.yaml"
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    for override, shown in (
        ("train.seed=1", "train.seed was 0 and is 1"),
        ("train.batch_size=2", "train.batch_size was 4 and is 2"),
        ("train.accumulate=2", "train.accumulate was 1 and is 2"),
        ("train.optimizer=sgd", 'train.optimizer was "adamw" and is "sgd"'),
        ("train.precision=bf16", 'train.precision was "fp32"'),
        ("train.ema=0.9", "train.ema was null and is 0.9"),
        ("train.best=depth/rmse", 'train.best was "mean_relative_gain" and is "depth/rmse"'),
        ("train.schedule=cosine", "train.schedule"),
        ("train.weight_decay=0.1", "train.weight_decay was 0.01 and is 0.1"),
        ("balancing.method=uncertainty", "balancing.method"),
        ("data.size=[96,160]", "data.size was [48, 80] and is [96, 160]"),
        ("data.seed=3", "data.seed was 0 and is 3"),
        ("data.augment.flip=0.0", "data.augment"),
        ("model.backbone=test_efficientnet", 'model.backbone was "test_resnet"'),
        ("model.pretrained=true", "model.pretrained was false and is true"),
        ("tasks.depth.weight=2.0", "tasks.depth.weight was 1.0 and is 2.0"),
        ("tasks.scene={kind: classification, classes: [a, b]}", "tasks.scene.classes"),
        ("tasks.scene={kind: depth, source: depth}", 'tasks.scene.kind was "classification" and is "depth"'),
        ("tasks.extra={kind: depth, source: depth}", "task extra is new"),
    ):
        refused(train(segweave, config, "--resume", override), f"{trained}: was trained otherwise", shown, "new run")
    refused(train(segweave, config, "--resume", "train.seed=1", "train.best=depth/rmse"), "train.seed", "train.best")
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_row_24_what_may_change_is_written_into_the_run(segweave: Cli, trained: Path, tmp_path: Path) -> None:
    changes = ["train.epochs=2", "train.lr=5e-4", "train.batch_size=2", "train.accumulate=2", "train.patience=9"]
    outcome = train(segweave, tmp_path / "street.yaml", "--resume", *changes)
    assert outcome.code == 0, outcome
    assert len(steps(trained)) == 6
    kept = load(trained / "config.yaml").train
    assert "steps" not in kept
    assert (kept["epochs"], kept["lr"], kept["batch_size"], kept["accumulate"], kept["patience"]) == (2, 5e-4, 2, 2, 9)
    resumed = json.loads((trained / "run.json").read_text())["resumed"]
    assert resumed[0]["step"] == 4
    assert resumed[0]["changes"]["train.lr"] == [1e-3, 5e-4]
    refused(train(segweave, tmp_path / "street.yaml", "--resume", "train.steps=9", "train.batch_size=8"), "batch_size")


@pytest.mark.parametrize("split", ["train", "val"])
def test_row_24_changed_files_of_the_data_are_refused_until_accepted(split: str, segweave: Cli, tmp_path: Path) -> None:
    make_set(tmp_path / "set")
    config = write_config(tmp_path, model={"backbone": "test_resnet"}, train={"steps": 1, "report": False})
    assert train(segweave, config).code == 0
    image = tmp_path / "set" / "images" / ("00.png" if split == "val" else "05.png")
    image.write_bytes((tmp_path / "set" / "images" / "09.png").read_bytes())
    outcome = train(segweave, config, "--resume", "train.steps=2")
    refused(outcome, f"files of the data have changed since the run began (split {split})", "--resume --changed-data")
    assert train(segweave, config, "--resume", "--changed-data", "train.steps=2").code == 0
    assert train(segweave, config, "--resume", "train.steps=3").code == 0, "they are the run's data now"
    resumed = json.loads((tmp_path / "run" / "run.json").read_text())["resumed"]
    assert [f"data_fingerprint.{split}" in entry["changes"] for entry in resumed] == [True, False]
    (tmp_path / "set").rename(tmp_path / "moved")
    outcome = train(segweave, config, "--resume", f"data.root={tmp_path / 'moved'}", "train.steps=4")
    assert outcome.code == 0, outcome


def test_row_24_a_run_that_does_not_say_what_it_was_trained_on(segweave: Cli, trained: Path, tmp_path: Path) -> None:
    (trained / "run.json").write_text('{"data_fingerprint": "0123"}')
    refused(train(segweave, tmp_path / "street.yaml", "--resume"), "run.json: missing or damaged", "new run")


# Memory


def test_row_25_out_of_memory_names_the_settings_to_lower(
    segweave: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "street.yaml"
    with monkeypatch.context() as patch:
        patch.setattr(CrossEntropy, "forward", lambda *_: torch.empty(2**60, dtype=torch.uint8))
        outcome = train(segweave, config, "--resume", "train.steps=5")
    refused(outcome, "step 4: out of memory with train.batch_size 4 of 48 x 80", "lower", "data.size")
    cure = ["train.batch_size=2", "train.accumulate=2"]
    assert " ".join(cure) in outcome.err
    assert train(segweave, config, "--resume", "train.steps=5", *cure).code == 0
    assert [line["images"] for line in steps(trained)][-1] == 4


def test_row_26_a_killed_worker_is_named_with_its_image(
    segweave: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Synthetic.__getitem__

    def read(self: Synthetic, index: int) -> Any:
        if self.ids[index] == "train-000007" and os.getpid() != main:
            die()
        return genuine(self, index)

    main = os.getpid()
    monkeypatch.setattr(Synthetic, "__getitem__", read)
    # in one batch: the training waits for it, and is in no function whose types are checked in tests when it is told
    outcome = train(segweave, written(tmp_path), "train.workers=1", "train.batch_size=12")
    refused(outcome, "train.workers: worker 0 (process ", "'train-000007'", "memory", "--resume")
    # noticed by torch's signal handler or by a closed pipe, whichever comes first
    assert "was killed (Killed)" in outcome.err or "ended unexpectedly" in outcome.err


def test_row_26_a_worker_that_ends_as_it_hands_a_batch_over_is_named_too() -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    child.start()
    watch = Watch(["a", "b"], 1)
    watch._now[0] = torch.tensor([child.pid, 1])

    def broken(error: OSError | None) -> Iterator[int]:
        yield 1
        if error is None:
            os.kill(child.pid or 0, signal.SIGKILL)
        raise error or ConnectionResetError(104, "Connection reset by peer")

    # an error of another origin is passed on while all workers live
    with pytest.raises(FileNotFoundError):
        list(guarded(broken(FileNotFoundError("x.png")), watch))
    stream = guarded(broken(None), watch)
    assert next(stream) == 1
    with pytest.raises(DataError, match=rf"worker 0 \(process {child.pid}\) .* ended unexpectedly .*'b'"):
        next(stream)
