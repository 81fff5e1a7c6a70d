from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from segweave import build, checkpoint, summary
from segweave.batch import Sample
from segweave.cli import app
from segweave.data.synthetic import Synthetic
from segweave.errors import CheckpointError, DataError
from segweave.report.html import number
from segweave.summary import chosen, mean_ranks
from tiny import lines, tiny, values

QUICK = {"steps": 4, "report": True, "validate_every": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.train(tiny(train=QUICK), "a run", tmp_path_factory.mktemp("runs"), quiet=True)[0]


def test_a_run_ends_with_its_page(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert len(page) < 5_000_000
    results = checkpoint.load(run / "weights" / "state.safetensors")[1]["best_results"]
    for value in (results["semantic"]["miou"], results["depth"]["abs_rel"], results["scene"]["accuracy"]):
        assert f'<p class="big">{number(value)}' in page
    for words in ("2 best, 2 around the median and the 2 worst", "8 scored validation images, of 8 in all"):
        assert words in page
    for words in ("data:image/webp", "head depth", "separate network for scene", "test_resnet", "semantic: iou"):
        assert words in page
    facts = json.loads((run / "run.json").read_text())
    for fact in (*facts["data_fingerprint"].values(), facts["started"], facts["versions"]["torch"]):
        assert fact in page
    assert "segweave train" in page
    assert "a run" in page
    assert not list(run.glob(".*"))


def test_the_table_repeats_the_log(run: Path) -> None:
    with (run / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    logged = [line for line in lines(run) if line.get("split")]
    assert len(rows) == len(logged) == 2
    for row, line in zip(rows, logged, strict=True):
        assert int(row["step"]) == line["step"]
        for key, value in line.items():
            if "/" in key and value is not None:
                assert float(row[key]) == pytest.approx(value, rel=1e-5)
    steps = [line["loss/depth"] for line in lines(run) if "seconds" in line]
    assert [float(row["train/loss/depth"]) for row in rows] == pytest.approx([np.mean(steps[:3]), steps[3]], rel=1e-5)
    assert Image.open(run / "results.png").size[0] > 1000


def test_the_verb_makes_it_anew(run: Path) -> None:
    before = (run / "report.html").read_text(encoding="utf-8")
    for name in ("report.html", "results.csv", "results.png"):
        (run / name).unlink()
    done = CliRunner().invoke(app, ["report", str(run), "--device", "cpu"])
    assert done.output.strip() == f"report: {run / 'report.html'}"
    assert (run / "results.csv").is_file()
    assert (run / "results.png").is_file()
    after = (run / "report.html").read_text(encoding="utf-8")
    # everything but the measured latencies is the same
    assert before.partition('id="cost"')[0] == after.partition('id="cost"')[0]


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path, run: Path) -> None:
    with pytest.raises(CheckpointError, match="no run here"):
        build.report_run(tmp_path)
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_text((run / name).read_text())
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "best.safetensors").write_bytes((run / "weights" / "best.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"state\.safetensors: no such file"):
        build.report_run(tmp_path)
    checkpoint.save(tmp_path / "weights" / "state.safetensors", {"x": torch.zeros(1)}, {"best_results": None})
    with pytest.raises(CheckpointError, match="not been validated yet"):
        build.report_run(tmp_path)
    (tmp_path / "weights" / "state.safetensors").write_bytes((run / "weights" / "state.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be read"):
        build.report_run(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_without_a_report(tmp_path: Path) -> None:
    folder, _ = build.train(tiny(), "plain", tmp_path, quiet=True)
    assert not [name for name in ("report.html", "results.csv", "results.png") if (folder / name).exists()]


def test_a_variant_of_a_method_never_goes_by_the_methods_name(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(values(train={**QUICK, "steps": 1}, balancing={"method": "famo", "exact": False})))
    shown = CliRunner().invoke(app, ["train", str(config), "--out", str(tmp_path), "--name", "run", "--device", "cpu"])
    label, run = "famo (next-step loss)", tmp_path / "run"
    assert f"best weights, {label}" in " ".join(shown.output.split())
    assert json.loads((run / "run.json").read_text())["balancing"] == label
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"Balancing: {label}." in page
    assert f"<dt>balancing</dt><dd>{label}</dd>" in page
    assert f"What {label} multiplied" in page
    # beside the config, which says exact: false, there is no other name
    assert "famo" not in page.partition("<h3>Config")[0].replace(label, "")
    assert "exact: false" in page.partition("<h3>Config")[2]


def test_what_a_method_had_to_say_is_in_terminal_and_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A second process that goes on with the run says it again, and the page once."""
    why = "balancing.space: auto compares gradients at the parameters, which is dearer: the heads read no features in"
    for steps in (1, 2):
        config = tiny(train={"steps": steps, "schedule": "constant"}, balancing={"method": "pcgrad"})
        build.train(config, "run", tmp_path, resume=steps == 2)
        assert " ".join(capsys.readouterr().out.split()).count(why) == 1
    page = build.report_run(tmp_path / "run", "cpu").read_text(encoding="utf-8")
    assert page.count(why) == 1
    assert why in page.partition('id="results"')[2].partition("</section>")[0]
    assert "in 2 steps at the shared parameters." in page


def test_many_remarks_of_a_method_are_not_all_told() -> None:
    history, state = summary.read_history([]), {"step": 4, "stale": 0}
    told = summary._notes({"notes": list("abcdef")}, state, history, build.Plan(steps=4))
    assert told == ["a.", "b.", "c.", "d.", "2 more remarks of the balancing method are in run.json."]


def test_a_resumed_run_writes_it_again_and_says_so(tmp_path: Path) -> None:
    def words(steps: int, resume: bool) -> str:
        config = tiny(train={**QUICK, "steps": steps, "schedule": "constant"})
        folder, _ = build.train(config, "again", tmp_path, resume=resume, quiet=True)
        return (folder / "report.html").read_text(encoding="utf-8")

    assert "Went on at step" not in words(2, resume=False)
    assert "Went on at step 2 on 20" in words(4, resume=True)
    (tmp_path / "again" / "report.html").unlink()
    # nothing is left to do, but the page comes back, and no other end of the training is told of
    again = words(4, resume=True)
    assert again.count("Went on at step") == 1
    assert "with changes: train.steps from 2 to 4." in again
    assert len((tmp_path / "again" / "results.csv").read_text().splitlines()) == 4  # after steps 2, 3 and 4


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), torch.OutOfMemoryError("too little"), DataError("gone")]
)
def test_a_page_that_fails_loses_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(build, "write_report", fail)
    shutil.copytree(run, tmp_path / "kept")
    folder, results = build.train(tiny(train=QUICK), "kept", tmp_path, resume=True, quiet=True)
    assert results["depth"]
    assert (folder / "weights" / "best.safetensors").is_file()
    # the page that was there would tell of another end
    assert not (folder / "report.html").exists()
    told = capsys.readouterr().err
    assert str(error) in told
    assert f"segweave report {folder}" in told


class Partly(Synthetic):
    """Validation images of which one cannot be read, one has no label, and none has a scene."""

    def __getitem__(self, index: int) -> Sample:
        if index == 2:
            raise DataError("val-2.png: <damaged>")
        sample = super().__getitem__(index)
        kept = {} if index == 3 else {k: v for k, v in sample.annotations.items() if k != "scene"}
        return Sample(f"<{sample.id}>", sample.image, kept)

    def labelled(self, task: str) -> int:
        return 0 if task == "scene" else len(self) - 2


def rewritten(run: Path, size: Any, **data: Any) -> str:
    model, config = build.load_run(run)
    dataset = Partly("val", list(model.tasks.values()), size=(48, 80), count=12, **data)
    plan = build.Plan(**config.train)
    return summary.write_report(run, model, dataset, plan, size).read_text(encoding="utf-8")


def test_what_cannot_be_read_or_is_not_labelled_is_said(run: Path) -> None:
    page = rewritten(run, None)
    assert "val-2.png: &lt;damaged&gt;" in page
    assert "of 7 scored validation images, of 8 in all" in page
    assert "(no label for this image)" in page
    assert "0 of 8 validation images have a label" in page
    assert "&lt;val" in page
    assert "<val" not in page


def test_no_image_can_be_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Partly, index: int) -> Sample:  # noqa: ARG001
        raise DataError("all damaged")

    monkeypatch.setattr(Partly, "__getitem__", fail)
    page = rewritten(run, None)
    assert "No validation image has a label that could rank it" in page
    assert "Not measured: no validation image could be read" in page
    assert page.count("all damaged") == 1


def test_what_cannot_be_measured_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(summary, "cost_table", fail)
    assert "Not measured: CUDA out of memory<" in rewritten(run, (48, 80))


def test_an_unfinished_run_says_so(run: Path) -> None:
    state = {"step": 7, "stale": 3, "elapsed": 60.0, "unreadable": {"a": "a.png: damaged"}}
    history = summary.read_history(lines(run))

    def notes(**plan: Any) -> str:
        return " ".join(summary._notes({}, state, history, build.Plan(**plan)))

    assert "Not finished: 7 of 9 steps" in notes(steps=9)
    assert "Not finished" not in notes(steps=7)
    assert "Not finished: 2 of 8 epochs" in notes(epochs=8)
    assert "Not finished: 1.0 of 5 minutes" in notes(minutes=5)
    assert "Stopped early: 3 validations" in notes(epochs=8, patience=3)
    assert "1 training images could not be read and were left out, such as: a.png: damaged" in notes(steps=7)


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 5)), min_size=2, max_size=30))
def test_ranks_agree_with_scipy(values: list[tuple[int, int | None]]) -> None:
    scores = [{"a": float(a)} | ({} if b is None else {"b": float(b)}) for a, b in values]
    found = mean_ranks(scores, {"a": True, "b": False})
    a = (scipy.stats.rankdata([-entry["a"] for entry in scores]) - 1) / (len(scores) - 1)
    known = [k for k, entry in enumerate(scores) if "b" in entry]
    b = (scipy.stats.rankdata([scores[k]["b"] for k in known]) - 1) / max(1, len(known) - 1)
    ranks = {k: [a[k]] for k in range(len(scores))}
    for k, rank in zip(known, b, strict=True):
        ranks[k].append(rank)
    np.testing.assert_allclose(found, [np.mean(ranks[k]) for k in range(len(scores))])


def test_an_image_without_a_score_has_no_rank() -> None:
    found = mean_ranks([{"a": 1.0}, {"a": math.nan}, {}, {"a": 2.0}], {"a": True})
    assert found[0] == 1
    assert found[3] == 0
    assert math.isnan(found[1])
    assert math.isnan(found[2])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, {"typical": []}),
        (1, {"typical": [0]}),
        (2, {"good": [0], "typical": [], "worst": [1]}),
        (3, {"good": [0], "typical": [1], "worst": [2]}),
        (9, {"good": [0, 1, 2], "typical": [3, 4, 5], "worst": [8, 7, 6]}),
        (50, {"good": [0, 1, 2], "typical": [23, 24, 25], "worst": [49, 48, 47]}),
    ],
)
def test_the_best_the_middle_and_the_worst(count: int, expected: dict) -> None:
    assert chosen([k / 100 for k in range(count)], 3) == expected
    backwards = chosen([-k / 100 for k in range(count)], 3)
    if count > 2:
        assert backwards["good"] == [count - 1 - k for k in expected["good"]]
