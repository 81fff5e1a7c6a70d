"""What trackers get of a run: everything in the log, once, also when it goes on; and nothing they do ends a training.

TensorBoard is the real one. MLflow and W&B are stand-ins that record calls: their signatures are those of mlflow 3.17.2
and wandb 0.31.0, so that a call that these would refuse fails here too.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segweave import build, tracking
from segweave.config import load
from segweave.errors import ConfigError
from segweave.resume import FREE
from segweave.tracking import Tracking
from tiny import lines, tiny


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every number of a run's log by the name that it has in a tracker."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in lines(folder):
        for key, value in line.items():
            if key == "step" or isinstance(value, bool | str | None | dict | list):
                continue
            if "split" in line and key == "epoch":
                continue
            name = f"val/{key}" if "split" in line else key
            series.setdefault(name, []).append((line["step"], value))
    return series


def train(out: Path, resume: bool = False, **options: Any) -> tuple[Path, dict[str, Any]]:
    return build.train(tiny(train=options), "street", out, resume, device="cpu", quiet="loud" not in str(out))


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tracking" / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    return read


def test_tensorboard_has_the_log_and_the_results(tmp_path: Path) -> None:
    folder, results = train(tmp_path, track="tensorboard")
    read, expected = events(folder), logged(folder)
    best = {
        f"best/{task}/{key}": value
        for task, values in results.items()
        for key, value in values.items()
        if isinstance(value, float) and not math.isnan(value)
    }
    assert {"loss/semantic/iou", "regularizer/depth/weight_decay", "val/depth/abs_rel", "lr"} <= expected.keys()
    assert set(read.Tags()["scalars"]) == expected.keys() | best.keys()
    for name, points in expected.items():
        found = read.Scalars(name)
        assert [one.step for one in found] == [step for step, _ in points]
        # the file holds float32
        np.testing.assert_allclose([one.value for one in found], [value for _, value in points], rtol=1e-6)
    for name, value in best.items():
        assert read.Scalars(name)[0].value == pytest.approx(value, rel=1e-6)
    text = read.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.replace("    ", "", 1).splitlines()[0] == "data:"
    assert "test_resnet" in text


def test_tensorboard_goes_on_in_the_same_curves(tmp_path: Path) -> None:
    train(tmp_path, track="tensorboard")
    train(tmp_path, resume=True, track="tensorboard", steps=7)
    folder, _ = train(tmp_path, resume=True, track="tensorboard", steps=7)  # nothing is left to do
    read, expected = events(folder), logged(folder)
    assert [step for step, _ in expected["total"]] == [0, 1, 2, 3, 4, 5, 6]
    for name, points in expected.items():
        assert [one.step for one in read.Scalars(name)] == [step for step, _ in points]


def test_steps_that_are_trained_again_are_there_once(tmp_path: Path) -> None:
    config, step = tiny(), {"split": "val", "depth/abs_rel": 0.5}
    for first, last, value in ((0, 6, 1.0), (3, 8, 2.0)):  # killed after step 5, saved after step 2
        with Tracking(tracking.build_trackers(["tensorboard"]), tmp_path, config, first, print) as tracked:
            for number in range(first, last):
                tracked.line({"step": number, "epoch": 0, "total": value})
            tracked.line({"step": last - 1, "epoch": 0, **step})
    read = events(tmp_path)
    found = [(one.step, one.value) for one in read.Scalars("total")]
    assert found == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0), (6, 2.0), (7, 2.0)]
    assert [(one.step, one.value) for one in read.Scalars("val/depth/abs_rel")] == [(7, 0.5)]


class FakeServer:
    """Stands in for `mlflow` and `wandb`, and keeps what they were given."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[tuple[str, float, int]]] = {}
        self.params: dict[str, dict[str, str]] = {}
        self.experiments: dict[str, str] = {}
        self.status: dict[str, list[str]] = {}
        self.names: list[str | None] = []
        self.inits: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.summary: dict[str, Any] = {}
        self.exit_codes: list[int | None] = []
        self.fails_from: int | None = None
        self.held: threading.Event | None = None

    def answer(self) -> None:
        """As a server does: after a while, or with an error where it is gone."""
        if self.held is not None:
            self.held.wait(30)
        if self.fails_from is not None:
            self.fails_from -= 1
            if self.fails_from < 0:
                raise ConnectionError("the server is gone\nand a second line")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer()
    for name in ("MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    class Metric:
        def __init__(self, key: str, value: float, timestamp: int, step: int) -> None:
            assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789_/-.: "), key  # MLflow refuses others
            self.key, self.value, self.timestamp, self.step = key, value, timestamp, step

    class Param:
        def __init__(self, key: str, value: str) -> None:
            self.key, self.value = key, value

    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> Any:
            found = server.experiments.get(name)
            return None if found is None else SimpleNamespace(experiment_id=found)

        def create_experiment(
            self, name: str, artifact_location: str | None = None, tags: dict[str, Any] | None = None
        ) -> str:
            del artifact_location, tags
            return server.experiments.setdefault(name, "7")

        def create_run(
            self,
            experiment_id: str,
            start_time: int | None = None,
            tags: dict[str, Any] | None = None,
            run_name: str | None = None,
        ) -> Any:
            del start_time, tags
            assert experiment_id == "7"
            server.names.append(run_name)
            id = f"run-{len(server.names)}"
            server.metrics[id], server.params[id], server.status[id] = [], {}, ["RUNNING"]
            return SimpleNamespace(info=SimpleNamespace(run_id=id))

        def log_batch(
            self,
            run_id: str,
            metrics: Sequence[Metric] = (),
            params: Sequence[Param] = (),
            tags: Sequence[Any] = (),
            synchronous: bool | None = None,
        ) -> None:
            del synchronous
            server.answer()
            assert len(metrics) <= 1000
            assert len(params) + len(tags) <= 100
            assert all(abs(metric.timestamp / 1000 - time.time()) < 60 for metric in metrics)
            server.metrics[run_id] += [(metric.key, metric.value, metric.step) for metric in metrics]
            for param in params:
                assert server.params[run_id].setdefault(param.key, param.value) == param.value  # they never change

        def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
            del name
            server.status[run_id].append(str(status))

        def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
            del end_time
            server.status[run_id].append(str(status))

    class Run:
        summary = server.summary

        def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            del commit
            server.answer()
            assert step is not None
            assert not server.rows or step >= server.rows[-1][0]  # W&B leaves out what is earlier
            server.rows.append((step, data))

        def finish(self, exit_code: int | None = None) -> None:
            server.exit_codes.append(exit_code)

    def init(
        *,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        allow_val_change: bool | None = None,
        resume: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Run:
        assert dir is not None
        assert Path(dir).is_dir()
        server.inits.append({"project": project, "id": id, "name": name, "config": config, "resume": resume})
        assert allow_val_change
        assert settings is not None
        assert settings["console"] == "off"
        return Run()

    modules: Mapping[str, dict[str, Any]] = {
        "mlflow": {"MlflowClient": MlflowClient},
        "mlflow.entities": {"Metric": Metric, "Param": Param},
        "wandb": {"init": init},
    }
    for name, attributes in modules.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return server


def by_name(metrics: list[tuple[str, float, int]]) -> dict[str, list[tuple[int, float]]]:
    series: dict[str, list[tuple[int, float]]] = {}
    for name, value, step in metrics:
        series.setdefault(name, []).append((step, value))
    return series


def test_mlflow_has_the_log_the_config_and_the_results_also_of_a_run_that_goes_on(
    tmp_path: Path, server: FakeServer
) -> None:
    train(tmp_path, track="mlflow")
    folder, results = train(tmp_path, resume=True, track=["mlflow"], steps=6, lr=1e-4)
    assert server.experiments == {"segweave": "7"}
    assert server.names == [str(folder)]  # one run of theirs
    series = by_name(server.metrics["run-1"])
    assert {name: points for name, points in series.items() if not name.startswith("best/")} == logged(folder)
    assert series["best/depth/abs_rel"][-1] == (5, results["depth"]["abs_rel"])
    assert server.status["run-1"] == ["RUNNING", "FINISHED", "RUNNING", "FINISHED"]
    params = server.params["run-1"]
    assert (params["train.lr"], params["tasks.semantic.loss.iou"], params["data.size"]) == ("0.001", "1.0", "[48, 80]")
    assert load(folder / "config.yaml").train["lr"] == 1e-4


def test_many_rows_go_to_mlflow_in_calls_that_it_takes(tmp_path: Path, server: FakeServer) -> None:
    with Tracking(tracking.build_trackers(["mlflow"]), tmp_path / "runs", tiny(), 0, print) as tracked:
        (tmp_path / "runs").mkdir()
        for step in range(300):
            tracked.line({"step": step, "epoch": 0} | {f"cosine/a|{other}": 0.5 for other in "bcdefghij"})
    series = by_name(server.metrics["run-1"])
    assert series["cosine/a:b"] == [(step, 0.5) for step in range(300)]
    assert len(series) == 10
    assert server.status["run-1"] == ["RUNNING", "KILLED"]  # nothing said that it had come to its end


def test_wandb_has_the_log_the_config_and_the_results_also_of_a_run_that_goes_on(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "streets")
    train(tmp_path, track=["wandb"])
    folder, results = train(tmp_path, resume=True, track="wandb", steps=6, lr=1e-4)
    first, second = server.inits
    assert first["id"] == second["id"] == (folder / "tracking" / "wandb.id").read_text()
    assert [one["project"] for one in server.inits] == ["streets"] * 2
    assert first["name"] == str(folder)
    assert first["resume"] == "allow"
    assert [one["config"]["train"]["lr"] for one in server.inits] == [1e-3, 1e-4]
    series: dict[str, list[tuple[int, float]]] = {}
    for step, row in server.rows:
        for name, value in row.items():
            series.setdefault(name, []).append((step, value))
    assert series == logged(folder)
    assert server.summary["best/depth/abs_rel"] == results["depth"]["abs_rel"]
    assert server.exit_codes == [0, 0]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
@pytest.mark.parametrize("calls", [0, 1])
def test_a_server_that_goes_away_is_one_warning(
    tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str], name: str, calls: int
) -> None:
    server.fails_from = calls
    folder, results = train(tmp_path / "loud", track=name)
    assert len([line for line in lines(folder) if "seconds" in line]) == 4
    assert results["depth"]["abs_rel"] > 0
    told = [line for line in capsys.readouterr().out.splitlines() if "server is gone" in line]
    assert told == [f"{name} gets nothing more of this run: the server is gone; metrics.jsonl has it all"]


def test_training_does_not_wait_for_a_server_that_hangs(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.held = threading.Event()
    monkeypatch.setattr(tracking, "_PATIENCE", 0.1)
    folder, _ = train(tmp_path / "loud", track=["wandb", "tensorboard"])
    assert not server.rows
    assert "wandb has not taken everything within 0.1 s; metrics.jsonl has it all" in capsys.readouterr().out
    server.held.set()
    assert logged(folder).keys() <= set(events(folder).Tags()["scalars"])  # another one waits for nobody


@pytest.mark.parametrize(
    ("name", "module", "cure"),
    [
        ("tensorboard", "torch.utils.tensorboard", "pip install 'segweave[track]'"),
        ("mlflow", "mlflow", "pip install mlflow"),
        ("wandb", "wandb", "pip install wandb"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, cure: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it is then an ImportError
    with pytest.raises(ConfigError) as refused:
        train(tmp_path / "runs", track=name)
    assert str(refused.value).startswith(f"train.track: {module} cannot be imported")
    assert str(refused.value).endswith(cure)
    assert not (tmp_path / "runs").exists()


def test_the_key_is_checked_and_may_change_when_a_run_goes_on() -> None:
    assert "track" in FREE
    with pytest.raises(ConfigError, match=r"train\.track: found 'tensorbord'; expected one of 'tensorboard', 'mlflow'"):
        tiny(train={"track": "tensorbord"})
