"""Run folders beside each other: which are found, what is said of them, and in what order."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from segweave import build, cli
from segweave.config import dump
from segweave.errors import ConfigError
from segweave.runs import Run, best_first, choose_tasks, differences, find_runs, runs_csv, table
from tiny import tiny, values

METRICS = {
    "semantic": {"headline": "miou", "higher_is_better": {"miou": True, "pixel_accuracy": True}},
    "depth": {"headline": "abs_rel", "higher_is_better": {"abs_rel": False, "rmse": False}},
}
RESULTS = {"semantic": {"miou": 0.5, "pixel_accuracy": 0.8, "per_class": {}}, "depth": {"abs_rel": 0.2, "rmse": 3.0}}


def made(
    folder: Path,
    started: str = "2026-11-27 20:04 UTC",
    results: dict[str, Any] | None = RESULTS,
    last: tuple[int, int] = (3, 0),
    saved: dict[str, Any] | None = None,
    **sections: dict[str, Any],
) -> Path:
    """The plain files of a run, as `segweave.run_folder` writes them.

    Args:
        started, results: of the run; None for one without a checkpoint.
        last: step and epoch of the log's last line.
        saved: what its checkpoint says otherwise than that it was just validated.
        sections: of its config, over those of `tiny.TINY`.
    """
    folder.mkdir(parents=True)
    config = values(**sections)
    (folder / "config.yaml").write_text(dump(config))
    facts = {
        "started": started,
        "device": "a card",
        "seed": config["train"].get("seed", 0),
        "balancing": "equal",
        "data_fingerprint": {"train": "0", "val": "1"},
        "task_order": list(config["tasks"]),
        "metrics": METRICS,
    }
    (folder / "run.json").write_text(json.dumps(facts))
    step, epoch = last
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "epoch": epoch, "split": "val"}) + "\n")
    if results is not None:
        meta = {"step": step + 1, "validated": step + 1, "elapsed": 143.2, "stale": 0, "best_results": results}
        (folder / "weights").mkdir()
        save_file(
            {"model.a": np.zeros(9)},
            folder / "weights" / "state.safetensors",
            {"segweave": json.dumps(meta | (saved or {})), "sha256": ""},
        )
    return folder


def text(runs: list[Run], width: int = 10_000, **options: Any) -> str:
    console = Console(width=width, markup=False)
    shown, _ = table(runs, choose_tasks(runs, ()), options.get("sort"), options.get("differing", False), width)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def test_a_run_that_was_just_trained(tmp_path: Path) -> None:
    folder, results = build.train(tiny(train={"seed": 3}), "street", tmp_path, quiet=True, device="cpu")
    (run,) = find_runs([tmp_path])
    assert (run.name, run.state, run.steps, run.problem) == ("street", "finished", 4, "")
    assert run.folder == folder
    assert run.facts["seed"] == 3
    heads = {"semantic": "miou", "depth": "abs_rel", "scene": "accuracy"}
    assert {task: known["headline"] for task, known in run.facts["metrics"].items()} == heads
    assert run.facts["metrics"]["depth"]["higher_is_better"]["delta1"] is True
    assert run.facts["metrics"]["depth"]["higher_is_better"]["rmse"] is False
    row = next(line for line in text([run]).splitlines() if "street" in line)
    for task, key in heads.items():
        assert run.results[task][key] == results[task][key]
        assert f" {results[task][key]:.4f} " in row
    for fact in (" finished ", " equal ", run.facts["started"][:16], run.facts["device"]):
        assert fact in row


@pytest.mark.parametrize(
    ("train", "last", "saved", "state"),
    [
        ({"steps": 4}, (3, 0), {}, "finished"),
        ({"steps": 9}, (3, 0), {}, "step 4 of 9"),
        ({"steps": 4}, (3, 0), {"validated": 2}, "step 4 of 4"),  # its last validation is owed
        ({"steps": 9}, (6, 2), {"step": 4, "validated": 4}, "step 7 of 9"),  # the log is ahead of the checkpoint
        ({"steps": 9, "patience": 2}, (3, 0), {"stale": 2}, "stopped early"),
        ({"epochs": 3}, (8, 2), {}, "finished"),
        ({"epochs": 3}, (5, 1), {}, "epoch 2 of 3"),
        ({"epochs": 3}, (6, 2), {"step": 6, "validated": 6}, "epoch 3 of 3"),
        ({"minutes": 2.0}, (3, 0), {}, "finished"),
        ({"minutes": 10.0}, (3, 0), {}, "2.4 of 10 min"),
    ],
)
def test_how_far_a_run_came(
    tmp_path: Path, train: dict[str, Any], last: tuple[int, int], saved: dict[str, Any], state: str
) -> None:
    made(tmp_path / "run", train=train, last=last, saved=saved)
    assert find_runs([tmp_path])[0].state == state


def test_a_run_without_a_checkpoint_and_a_log_that_was_cut_off(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", results=None, train={"steps": 9})
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "ep')
    (run,) = find_runs([tmp_path])
    assert (run.state, run.steps, run.seconds, run.results) == ("step 4 of 9, nothing saved", 4, None, {})
    (folder / "metrics.jsonl").unlink()
    assert find_runs([tmp_path])[0].state == "step 0 of 9, nothing saved"


def test_the_older_state_stands_in_for_one_that_a_kill_left_out(tmp_path: Path) -> None:
    weights = made(tmp_path / "run") / "weights"
    (weights / "state.safetensors").rename(weights / "previous.safetensors")
    assert find_runs([tmp_path])[0].results == RESULTS


def test_runs_are_found_at_any_depth_once_and_the_newest_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("runs/old"), "2025-12-31 23:59 UTC")
    made(Path("runs/new"), "2026-01-02 00:00 UTC")
    made(Path("runs/pair/runs/separate depth/seed-1"), "2026-01-01 00:00 UTC")
    made(Path("runs/pair/runs/separate depth/seed-0"), "2026-01-01 00:00 UTC")
    made(Path("runs/new/predictions/no run"))  # inside another
    (Path("runs") / "converted").mkdir()
    (Path("runs") / "converted" / "config.yaml").write_text("data: {format: folder}\n")
    names = ["new", "pair/runs/separate depth/seed-0", "pair/runs/separate depth/seed-1", "old"]
    assert [run.name for run in find_runs([Path("runs")])] == names
    assert [run.name for run in find_runs([Path("runs"), Path("runs/pair")])] == [f"runs/{name}" for name in names]
    assert [run.name for run in find_runs([Path("runs/old")])] == ["old"]
    with pytest.raises(ConfigError, match="elsewhere: no such folder"):
        find_runs([Path("elsewhere")])


def test_the_best_comes_first_by_the_direction_of_the_metric(tmp_path: Path) -> None:
    for name, miou, abs_rel in (("a", 0.3, 0.3), ("b", 0.5, 0.2), ("c", float("nan"), 0.1), ("d", 0.4, 0.4)):
        results = {"semantic": {"miou": miou, "pixel_accuracy": 0.1}, "depth": {"abs_rel": abs_rel, "rmse": 7.1234}}
        made(tmp_path / name, results=results)
    made(tmp_path / "e", results=None)
    runs = find_runs([tmp_path])
    assert [run.name for run in best_first(runs, "semantic/miou")] == ["b", "d", "a", "c", "e"]
    assert [run.name for run in best_first(runs, "depth/abs_rel")] == ["c", "b", "a", "d", "e"]
    assert "7.1234" not in text(runs)
    assert text(runs, sort="depth/rmse").count("7.1234") == 4  # what they are sorted by is shown
    with pytest.raises(ConfigError, match=r"--sort: found 'depth/rsme'.*nearest: 'depth/rmse'"):
        best_first(runs, "depth/rsme")


def test_only_the_keys_in_which_runs_differ(tmp_path: Path) -> None:
    tasks = {"semantic": {"kind": "semantic", "predict": False}, "more": {"kind": "depth", "source": "depth"}}
    made(tmp_path / "a", train={"lr": 3e-4, "clip": 5.0})
    made(tmp_path / "b", train={"lr": 1e-3, "weight_decay": 0.01}, balancing={"method": "cagrad", "c": 0.3})
    made(tmp_path / "c", train={"lr": 1e-3}, tasks=tasks)
    made(tmp_path / "d")
    (tmp_path / "d" / "run.json").write_text("{")  # of a damaged one nothing differs
    runs = find_runs([tmp_path])
    found = differences(runs)
    assert [key for key in found if key.startswith("tasks.")] == [
        "tasks.semantic.loss",
        "tasks.semantic.predict",
        "tasks.more.source",
        "tasks.more.kind",
    ]
    # not the weight decay, which is the default written; nor the options of cagrad that nobody wrote
    assert {key for key in found if not key.startswith("tasks.")} == {
        "balancing.method",
        "balancing.c",
        "train.lr",
        "train.clip",
    }
    shown = text(runs, differing=True)
    assert "train.lr" in shown
    assert "train.weight_decay" not in shown
    assert "started" not in shown
    row = [cell.strip() for line in shown.splitlines() if " a " in line for cell in line.split("│")[1:-1]]
    assert row[:2] == ["a", "finished"]
    assert {"0.0003", "5.0", "equal", "0.5000"} <= set(row)


def test_labels_that_nobody_annotated_have_a_column_of_their_own(tmp_path: Path) -> None:
    made(tmp_path / "a")
    made(tmp_path / "b", results=RESULTS | {"depth": {"abs_rel": 0.1, "rmse": 1.0, "origin": "made of masks"}})
    lines = text(find_runs([tmp_path])).splitlines()
    header, first, second = (lines[row].replace("┃", "│").split("│") for row in (2, 4, 5))
    assert [cell.strip() for cell in header[-5:-2]] == ["miou", "abs_rel", "abs_rel (derived)"]
    assert [cell.strip() for cell in first[-5:-2]] == ["0.5000", "0.2000", ""]
    assert [cell.strip() for cell in second[-5:-2]] == ["0.5000", "", "0.1000"]


def test_a_damaged_run_is_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "whole")
    (made(tmp_path / "facts") / "run.json").write_text('{"seed": 0}')
    (made(tmp_path / "config") / "config.yaml").write_text("train: {step: 4}\ntasks: {a: {kind: depth}}\n")
    state = made(tmp_path / "state") / "weights" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    foreign = made(tmp_path / "foreign") / "weights" / "state.safetensors"
    save_file({"a": np.zeros(2)}, foreign)
    states = {run.name: run.state for run in find_runs([tmp_path])}
    assert states == dict.fromkeys(("facts", "config", "state", "foreign"), "damaged") | {"whole": "finished"}
    monkeypatch.setattr("sys.argv", ["segweave", "runs", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    out, err = capsys.readouterr()
    assert out.count(" damaged ") == 4
    assert "runs: 5" in out
    for name, reason in (
        ("facts", "run.json: missing or damaged"),
        ("config", "data.format: missing"),
        ("state", f"{state}: not a safetensors file"),
        ("foreign", f"{foreign}: not the state of a training"),
    ):
        assert next(line for line in err.splitlines() if line.startswith(f"{name}: damaged: ")).count(reason) == 1


@pytest.mark.parametrize("width", [60, 80, 100, 130])
def test_a_narrow_terminal_loses_what_matters_least(tmp_path: Path, width: int) -> None:
    made(tmp_path / "a" / "street-of-houses")
    made(tmp_path / "b" / "street-of-houses", train={"steps": 400})
    runs = find_runs([tmp_path])
    shown, left_out = table(runs, ["semantic", "depth"], None, False, width)
    order = ["started, UTC", "time", "method", "steps", "seed", "device"]
    assert set(left_out) == set(order[len(order) - len(left_out) :])
    assert (width == 130) == (left_out == [])
    written = text(runs, width)
    assert max(map(len, written.splitlines())) <= width
    for needed in ("a/street-of-houses", "step 4 of 400", "miou", "0.2000"):
        assert needed in written  # unbroken
    assert len(shown.columns) == 10 - len(left_out)


def test_the_command_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("runs/a"), results=RESULTS | {"depth": {"abs_rel": 0.123456789, "rmse": float("nan")}}, train={"seed": 1})
    made(Path("runs/b"), train={"lr": 1e-5})

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["segweave", "runs", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    code, out, err = call("--sort", "depth/abs_rel", "--tasks", "depth", "--csv", "all.csv")
    assert (code, err) == (0, "")
    rows = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert rows == ["a", "b"]
    assert "miou" not in out
    with Path("all.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["run"], first["state"], first["seed"], first["steps"]) == ("a", "finished", "1", "4")
    assert (float(first["depth/abs_rel"]), first["depth/rmse"], second["depth/rmse"]) == (0.123456789, "nan", "3.0")
    assert (first["train.lr"], second["train.lr"]) == ("0.001", "1e-05")
    assert "semantic/miou" not in first
    assert "train.steps" not in first
    code, _, err = call("--tasks", "depht")
    assert (code, err) == (2, "error: --tasks: no run here has a task 'depht'; nearest: 'depth', 'semantic', 'scene'\n")
    assert call("--csv", "nowhere/all.csv")[0] == 2
    Path("none").mkdir()
    assert call("none") == (0, "runs: 0\n", "")


def test_all_metrics_are_in_the_csv(tmp_path: Path) -> None:
    made(tmp_path / "a", results=RESULTS | {"depth": {"abs_rel": 0.1, "origin": "of masks"}})
    runs = find_runs([tmp_path])
    header, row = csv.reader(runs_csv(runs, choose_tasks(runs, ())).splitlines())
    told = dict(zip(header, row, strict=True))
    assert {key: told[key] for key in told if "/" in key} == {
        "semantic/miou": "0.5",
        "semantic/pixel_accuracy": "0.8",
        "depth/abs_rel": "0.1",
        "depth/origin": "of masks",
    }


def test_torch_is_not_needed(tmp_path: Path) -> None:
    made(tmp_path / "a")
    code = (
        "import sys; from pathlib import Path; from segweave.runs import find_runs\n"
        f"assert find_runs([Path({str(tmp_path)!r})])[0].state == 'finished'\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
