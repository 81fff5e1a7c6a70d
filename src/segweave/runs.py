"""Run folders beside each other: what each run was, how far it came, how good it was. Needs no torch, and is quick."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.table import Table
from safetensors import SafetensorError, safe_open

from segweave.config import Config, load
from segweave.errors import CheckpointError, ConfigError, SegweaveError, nearest
from segweave.plan import Plan
from segweave.resume import all_options, read_facts
from segweave.schema import check_config
from segweave.terminal import duration

_TAIL = 65_536
"""Bytes at the end of a log that hold a whole line."""
_STATE = {"step", "validated", "elapsed", "stale", "best_results"}


@dataclass
class Run:
    """A run folder, as its files tell it.

    Args:
        name: its path below the folder that was searched, or below the working directory with several of them.
        folder: the run.
        facts: its `run.json`.
        config: as it was written.
        options: the config by section, with the defaults of what was not written.
        state: `finished`, `stopped early`, how far it came, or `damaged`.
        steps: that were trained.
        seconds: of training and validation up to the last checkpoint; None where there is none.
        results: of the best validation, by task.
        problem: what is wrong with a damaged one.
    """

    name: str
    folder: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: Config = field(default_factory=Config)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    state: str = "damaged"
    steps: int | None = None
    seconds: float | None = None
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problem: str = ""


class Shown(NamedTuple):
    """A metric of a task; labels that nobody annotated are kept apart from those that somebody did."""

    task: str
    key: str
    derived: bool


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """All runs in folders, at any depth, newest first; a run that is damaged says so itself.

    Raises:
        ConfigError: there is no such folder.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; expected one that holds runs of `segweave train`")
        for place, inside, files in os.walk(folder):
            if {"config.yaml", "run.json"} <= set(files):
                inside.clear()  # no run holds another
                path = Path(place)
                name = path if len(folders) > 1 else path.relative_to(folder)
                found[path.resolve()] = _read(path, name.as_posix() if name.name else path.resolve().name)
    named = sorted(found.values(), key=lambda run: run.name)
    return sorted(named, key=lambda run: run.facts.get("started") or "", reverse=True)


def _read(folder: Path, name: str) -> Run:
    run = Run(name, folder)
    try:
        run.facts = read_facts(folder)
        run.config = check_config(load(folder / "config.yaml"), folder)
        run.options = all_options(run.config)
        saved, last = _saved(folder / "weights"), _last_line(folder / "metrics.jsonl")
        run.steps = step = max(saved.get("step", 0), last.get("step", -1) + 1)
        run.seconds, run.results = saved.get("elapsed"), saved.get("best_results") or {}
        run.state = _state(Plan(**run.config.train), saved, step, last.get("epoch", -1) + 1)
    except SegweaveError as error:
        run.problem = str(error)
    except OSError as error:
        run.problem = f"{error.filename}: cannot be read: {error.strerror}"
    return run


def _saved(weights: Path) -> dict[str, Any]:
    """What the newest checkpoint says beside its tensors, which are not read; nothing where there is none."""
    places = [weights / "state.safetensors", weights / "previous.safetensors"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    try:
        with safe_open(path, "np") as file:
            saved = json.loads((file.metadata() or {}).get("segweave", "{}"))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file of segweave: {error}") from None
    if _STATE - saved.keys():
        raise CheckpointError(f"{path}: not the state of a training; expected the file that `segweave train` wrote")
    return saved


def _last_line(log: Path) -> dict[str, Any]:
    """The last whole line of a log; nothing where there is none."""
    if not log.is_file():
        return {}
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:  # cut off by what ended the run, or by where the tail begins
            continue
        if isinstance(values, dict):
            return values
    return {}


def _state(plan: Plan, saved: Mapping[str, Any], step: int, epoch: int) -> str:
    """Whether a run came to its end, else how far; whether it is still running, its files do not tell."""
    kept = bool(saved) and saved["validated"] == saved["step"] == step
    minutes = saved.get("elapsed", 0.0) / 60
    if kept and plan.patience is not None and saved["stale"] >= plan.patience:
        return "stopped early"
    if plan.steps is not None:
        done, place = step >= plan.steps, f"step {step} of {plan.steps}"
    elif plan.epochs is not None:
        done, place = epoch >= plan.epochs, f"epoch {epoch} of {plan.epochs}"
    else:
        done, place = minutes >= (plan.minutes or 0), f"{minutes:.1f} of {plan.minutes:g} min"
    if kept and done:
        return "finished"
    return place if saved else f"{place}, nothing saved"


def best_first(runs: Sequence[Run], metric: str) -> list[Run]:
    """The runs in the order of a `task/metric`, those without a value last.

    Raises:
        ConfigError: no run has that metric.
    """
    higher = {
        f"{task}/{key}": better
        for run in runs
        for task, known in run.facts.get("metrics", {}).items()
        for key, better in known["higher_is_better"].items()
    }
    if metric not in higher:
        near = nearest(metric, higher, 3) or "none, no run here names its metrics"
        raise ConfigError(f"--sort: found {metric!r}; expected task/metric of one of the runs; nearest: {near}")
    task, _, key = metric.partition("/")

    def place(run: Run) -> tuple[bool, float]:
        value = run.results.get(task, {}).get(key, math.nan)
        return (True, 0.0) if math.isnan(value) else (False, -value if higher[metric] else value)

    return sorted(runs, key=place)


def choose_tasks(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """The tasks whose results are shown: those named, or all. Raises ConfigError for one that no run has."""
    known = list(dict.fromkeys(task for run in runs for task in [*run.facts.get("task_order", ()), *run.results]))
    for name in names:
        if name not in known:
            raise ConfigError(f"--tasks: no run here has a task {name!r}; nearest: {nearest(name, known, 3)}")
    return list(names) or known


def differences(runs: Sequence[Run]) -> list[str]:
    """The keys of the config, as `section.key`, in which readable runs differ.

    A key that some runs do not have, such as an option of another method, counts where one of the others wrote it.
    """
    readable = [run for run in runs if run.options]
    keys = dict.fromkeys((where, key) for run in readable for where, values in run.options.items() for key in values)
    found = []
    for where, key in keys:
        having = [run for run in readable if key in run.options.get(where, {})]
        first = having[0].options[where][key]
        if any(run.options[where][key] != first for run in having) or (
            len(having) < len(readable) and any(_wrote(run, where, key) for run in having)
        ):
            found.append(f"{where}.{key}")
    return found


def _wrote(run: Run, where: str, key: str) -> bool:
    level: Any = run.config.sections()
    for part in where.split("."):
        level = level.get(part) or {}
    return key in level


def _option(run: Run, key: str) -> str:
    """A key of a run's config, as it could be written; empty where the run has none of that name."""
    where, _, name = key.rpartition(".")
    if name not in run.options.get(where, {}):
        return ""
    value = run.options[where][name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(runs: Sequence[Run], tasks: Sequence[str], sort: str | None) -> list[Shown]:
    """The metrics of a table: of every task its headline, and the one that the runs are sorted by."""
    wanted = [
        (task, known["headline"])
        for name in tasks
        for run in runs
        for task, known in run.facts.get("metrics", {}).items()
        if task == name
    ]
    if sort is not None:
        task, _, key = sort.partition("/")
        wanted.append((task, key))
    return list(
        dict.fromkeys(
            Shown(task, key, "origin" in run.results[task])
            for task, key in wanted
            for run in runs
            if key in run.results.get(task, {})
        )
    )


def _value(run: Run, shown: Shown) -> str:
    values = run.results.get(shown.task, {})
    if shown.key not in values or ("origin" in values) != shown.derived:
        return ""
    return "–" if math.isnan(values[shown.key]) else f"{values[shown.key]:.4f}"


class _Column(NamedTuple):
    title: str
    cells: list[str]
    rank: int
    """Those of a higher one are left out first where there is no room; of rank 0, never."""
    right: bool = False

    @property
    def width(self) -> int:
        return max(cell_len(line) for text in (self.title, *self.cells) for line in text.split("\n"))


def table(
    runs: Sequence[Run], tasks: Sequence[str], sort: str | None, differing: bool, width: int
) -> tuple[Table, list[str]]:
    """A row per run, and the titles of the columns for which there was no room.

    Args:
        runs: in the order of the rows.
        tasks: whose headline values are shown.
        sort: the `task/metric` of that order, which is shown too.
        differing: shows the keys of the config in which the runs differ, in place of the facts of each run.
        width: in characters.
    """
    left = [_Column("run", [run.name for run in runs], 0)]
    if differing:
        left.append(_Column("state", [run.state for run in runs], 1))
        left += [_Column(key, [_option(run, key) for run in runs], 2) for key in differences(runs)]
    else:
        facts = [run.facts for run in runs]
        left += [
            _Column("started, UTC", [(each.get("started") or "").removesuffix(" UTC") for each in facts], 1),
            _Column("state", [run.state for run in runs], 0),
            _Column("seed", [str(each.get("seed", "")) for each in facts], 5, right=True),
            _Column("method", [each.get("balancing") or "" for each in facts], 3),
            _Column("steps", ["" if run.steps is None else str(run.steps) for run in runs], 4, right=True),
            _Column("time", ["" if run.seconds is None else duration(run.seconds) for run in runs], 2, right=True),
        ]
    results = [
        _Column(f"{one.task}\n{one.key}{' (derived)' * one.derived}", [_value(run, one) for run in runs], 0, right=True)
        for one in _shown(runs, tasks, sort)
    ]
    last = [] if differing else [_Column("device", [run.facts.get("device") or "" for run in runs], 6)]
    columns, left_out = [*left, *results, *last], []
    while sum(column.width + 3 for column in columns) + 1 > width and any(column.rank for column in columns):
        # the last of those that matter least
        least = max(range(len(columns)), key=lambda place: (columns[place].rank, place))
        left_out.insert(0, columns.pop(least).title)
    made = Table()
    for column in columns:
        made.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        made.add_row(*cells)
    return made, left_out


def runs_csv(runs: Sequence[Run], tasks: Sequence[str]) -> str:
    """Facts, all metrics of the tasks and the keys in which the runs differ, unrounded, for other programs."""
    metrics = dict.fromkeys(
        (task, key)
        for task in tasks
        for run in runs
        for key, value in run.results.get(task, {}).items()
        if isinstance(value, float | str)
    )
    keys = differences(runs)
    file = io.StringIO()
    writer = csv.writer(file)
    facts = ["run", "folder", "started", "state", "problem", "seed", "method", "steps", "seconds", "device"]
    writer.writerow([*facts, *("/".join(metric) for metric in metrics), *keys])
    for run in runs:
        started, seed, method, device = (run.facts.get(key) for key in ("started", "seed", "balancing", "device"))
        row = [run.name, run.folder, started, run.state, run.problem, seed, method, run.steps, run.seconds, device]
        row += [run.results.get(task, {}).get(key) for task, key in metrics]
        writer.writerow([*row, *(_option(run, key) for key in keys)])
    return file.getvalue()
