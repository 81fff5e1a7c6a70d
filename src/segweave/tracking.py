"""A run's numbers in TensorBoard, MLflow or W&B as they are logged. Training waits for none, and ends by none."""

from __future__ import annotations

import importlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any
from uuid import uuid4

from segweave.atomic import write_text
from segweave.config import Config, dump
from segweave.errors import ConfigError

_PATIENCE = 60.0
"""Seconds that the end of a run waits for a tracker to take what is left."""
_PROJECT = "segweave"

Row = tuple[int, Mapping[str, float]]
"""A step, and numbers by name."""


class Tracker(ABC):
    """Where numbers go besides the run folder. It is called from one thread, which is not that of the training.

    The constructor raises ConfigError where the package is missing; what the others raise ends the tracking alone.
    """

    @abstractmethod
    def begin(self, folder: Path, config: Config, step: int, id: str | None) -> str | None:
        """Begins, or goes on from `step` with what an earlier call returned as the `id`.

        Args:
            folder: `tracking` in the run folder, which is there.
            config: of the run.
            step: the first that is to come.
            id: None where the run is new to the tracker.
        """

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Adds rows, in the order of their steps; one of validation follows that of its step. Called before `end`."""

    @abstractmethod
    def end(self, best: Mapping[str, float], finished: bool) -> None:
        """Adds the results of the best validation and closes; `finished` is false where the run was stopped."""


class TensorBoard(Tracker):
    """Event files in `tracking/tensorboard` of the run. Steps that are trained again replace what they wrote before."""

    def __init__(self) -> None:
        self._writer_class = _package("torch.utils.tensorboard", "pip install 'segweave[track]'").SummaryWriter

    def begin(self, folder: Path, config: Config, step: int, id: str | None) -> str | None:  # noqa: ARG002
        self._writer = self._writer_class(str(folder / "tensorboard"), purge_step=step, flush_secs=30)
        text = "".join(f"    {line}\n" for line in dump(config.sections()).splitlines())  # a block of code in Markdown
        self._writer.add_text("config", text, step)
        return None

    def write(self, rows: Sequence[Row]) -> None:
        for step, values in rows:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._step = step

    def end(self, best: Mapping[str, float], finished: bool) -> None:  # noqa: ARG002
        self.write([(self._step, best)])
        self._writer.close()


class MLflow(Tracker):
    """A run on the server of `MLFLOW_TRACKING_URI`, in the experiment `MLFLOW_EXPERIMENT_NAME` or else `segweave`.

    The keys of the config are its params, those of the run's first start. `|` in a name, which MLflow refuses, becomes
    `:`. Steps that are trained again after a kill are in it twice, with the same values.
    """

    _MOST_METRICS, _MOST_PARAMS, _LONGEST = 1000, 100, 500
    """That MLflow takes in one call, and characters of a param that its older servers take."""

    def __init__(self) -> None:
        self._mlflow = _package("mlflow", "pip install mlflow")
        self._entities = _package("mlflow.entities", "pip install mlflow")

    def begin(self, folder: Path, config: Config, step: int, id: str | None) -> str | None:  # noqa: ARG002
        self._client = self._mlflow.MlflowClient()
        if id is not None:
            self._id = id
            self._client.update_run(id, status="RUNNING")
            return id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        self._id = self._client.create_run(experiment, run_name=str(folder.parent)).info.run_id
        params = [self._entities.Param(key, str(v)[: self._LONGEST]) for key, v in _flat(config.sections())]
        for start in range(0, len(params), self._MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + self._MOST_PARAMS])
        return self._id

    def write(self, rows: Sequence[Row]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(name.replace("|", ":"), value, now, step)
            for step, values in rows
            for name, value in values.items()
        ]
        for start in range(0, len(metrics), self._MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[start : start + self._MOST_METRICS])
        self._step = rows[-1][0]

    def end(self, best: Mapping[str, float], finished: bool) -> None:
        self.write([(self._step, best)])
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class WandB(Tracker):
    """A run of W&B, in the project `WANDB_PROJECT` or else `segweave`; its files are in `tracking/wandb` of the run."""

    def __init__(self) -> None:
        self._wandb = _package("wandb", "pip install wandb")

    def begin(self, folder: Path, config: Config, step: int, id: str | None) -> str | None:  # noqa: ARG002
        id = id or uuid4().hex
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=str(folder.parent),
            id=id,
            resume="allow",
            dir=str(folder),
            config=config.sections(),
            allow_val_change=True,
            settings={"console": "off", "silent": True},  # which would catch what the terminal shows, or add to it
        )
        return id

    def write(self, rows: Sequence[Row]) -> None:
        for step, values in rows:
            self._run.log(dict(values), step=step)

    def end(self, best: Mapping[str, float], finished: bool) -> None:
        self._run.summary.update(dict(best))
        self._run.finish(exit_code=0 if finished else 1)


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def build_trackers(names: Sequence[str]) -> dict[str, Tracker]:
    """By name, for `Tracking`. Raises ConfigError where the package of one is not installed."""
    return {name: TRACKERS[name]() for name in names}


class Tracking:
    """Hands a run to trackers, to each from a thread of its own.

    Args:
        trackers: by name.
        folder: of the run; what a tracker needs to go on is kept in `tracking` there.
        config: of the run.
        step: the first that is to come.
        say: prints a warning; there is one at most from each tracker.
    """

    def __init__(
        self, trackers: Mapping[str, Tracker], folder: Path, config: Config, step: int, say: Callable[[str], None]
    ) -> None:
        self._feeds = [_Feed(name, made, folder / "tracking", config, step, say) for name, made in trackers.items()]
        self._best: dict[str, float] | None = None

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of `metrics.jsonl`: its numbers by their names, those of a validation as `val/<task>/<metric>`."""
        validation = "split" in line
        values = {
            f"{line['split']}/{key}" if validation else key: float(value)
            for key, value in line.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "step"
            if not validation or "/" in key
        }
        for feed in self._feeds:
            feed.queue.put((line["step"], values))
            if feed.ident is None:  # a run that has nothing left to do begins none
                feed.start()

    def finish(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """The run has come to its end: the results of the best validation, as `best/<task>/<metric>`."""
        self._best = {
            f"best/{task}/{key}": value
            for task, values in results.items()
            for key, value in values.items()
            if isinstance(value, float) and value == value
        }

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        begun = [feed for feed in self._feeds if feed.ident is not None]
        for feed in begun:
            feed.queue.put(_End(self._best))
        limit = time.monotonic() + _PATIENCE
        for feed in begun:
            feed.join(max(0.0, limit - time.monotonic()))
            if feed.is_alive():
                feed.say(f"{feed.name} has not taken everything within {_PATIENCE:g} s; metrics.jsonl has it all")


@dataclass(frozen=True)
class _End:
    best: Mapping[str, float] | None
    """The results of a run that came to its end."""


class _Feed(Thread):
    """Gives one tracker what there is, all that has gathered at once."""

    def __init__(
        self, name: str, tracker: Tracker, folder: Path, config: Config, step: int, say: Callable[[str], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.queue: SimpleQueue[Row | _End] = SimpleQueue()
        self.say = say
        self._tracker, self._folder, self._config, self._step = tracker, folder, config, step

    def run(self) -> None:
        try:
            self._begin()
            for rows, end in self._gathered():
                if rows:
                    self._tracker.write(rows)
                if end is not None:
                    self._tracker.end(end.best or {}, end.best is not None)
        except Exception as error:
            # a server that is gone, a login that has expired: whatever a tracker raises, the training goes on
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.say(f"{self.name} gets nothing more of this run: {reason}; metrics.jsonl has it all")

    def _begin(self) -> None:
        self._folder.mkdir(exist_ok=True)
        kept = self._folder / f"{self.name}.id"
        before = kept.read_text(encoding="utf-8") if kept.is_file() else None
        id = self._tracker.begin(self._folder, self._config, self._step, before)
        if id not in (None, before):
            write_text(kept, id)

    def _gathered(self) -> Iterator[tuple[list[Row], _End | None]]:
        end = None
        while end is None:
            items = [self.queue.get()]
            while not self.queue.empty():
                items.append(self.queue.get())
            end = next((item for item in items if isinstance(item, _End)), None)
            yield [item for item in items if not isinstance(item, _End)], end


def _package(name: str, cure: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"train.track: {name} cannot be imported ({error}); {cure}") from None


def _flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested sections by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value
