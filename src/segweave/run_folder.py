"""A run folder: making it, what it says of the run, its log, and its checkpoint there and back."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from segweave import checkpoint
from segweave.atomic import sweep, write_text
from segweave.config import Config, dump
from segweave.cost import device_name
from segweave.errors import CheckpointError, ConfigError
from segweave.evaluate import Results
from segweave.model import MultiTaskModel
from segweave.resume import Changes, read_facts


@dataclass
class State:
    """Where a run stands; all of it is in the checkpoint."""

    step: int = 0
    validated: int = 0
    elapsed: float = 0.0
    best: Mapping[str, tuple[float, bool]] | None = None
    best_results: Results | None = None
    stale: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


class Log:
    """`metrics.jsonl`, line by line; a line is with the operating system when `write` returns.

    Args:
        path: of the file.
        also: is told every line, after it was written.

    Raises:
        CheckpointError: the disk is full.
    """

    def __init__(self, path: Path, also: Callable[[Mapping[str, Any]], None] = lambda _: None) -> None:
        self.path = path
        self._also = also
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise self._full(error) from None
        self._also(line)

    def validation(self, step: int, epoch: int, results: Results) -> None:
        """The metrics of a validation, under `task/key`."""
        values = {f"{task}/{k}": v for task, table in results.items() for k, v in table.items() if isinstance(v, float)}
        line = {"step": step, "epoch": epoch, "split": "val"}
        self.write(line | {k: None if math.isnan(v) else v for k, v in values.items()})

    def keep(self) -> None:
        """Brings it to the disk, before a checkpoint that relies on it."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a line that `write` raised for already
            self._file.close()

    def _full(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.path}: cannot be written: {error.strerror}; the last checkpoint is intact")


def check_folder(out: Path) -> None:
    """Refuses a parent of runs that cannot be written to, before any work. Raises ConfigError."""
    place = out.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        found = "cannot be written to" if place.is_dir() else "is not a folder"
        raise ConfigError(f"--out {out}: {place} {found}; choose another folder")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in the same run folder; on Windows, which cannot lock one, it does nothing.

    Raises:
        CheckpointError: another process trains in it.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{folder}: another process trains in it; wait until it has ended, or choose another folder"
            ) from None
        yield
    finally:
        os.close(handle)  # which unlocks it


def new_folder(out: Path, name: str) -> Path:
    """`out/name`, or with the first free number where that exists."""
    if Path(name).name != name:
        raise ConfigError(f"--name {name}: expected a plain name; the folder around the run is --out")
    for number in range(1, 10_000):
        folder = out / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made: {error.strerror}; choose another --out") from None
        return folder
    raise ConfigError(f"{out / name}: 10000 runs of that name exist; choose another --name")


def describe(
    folder: Path,
    config: Config,
    fingerprints: Mapping[str, str],
    seed: int,
    model: MultiTaskModel,
    balancing: str,
) -> None:
    """Writes `config.yaml` and `run.json`; `balancing` is the method's label. Raises CheckpointError."""
    metrics = {name: task.metric() for name, task in model.tasks.items()}
    packages = ("segweave", "torch", "torchvision", "timm", "numpy")
    facts = {
        "started": _now(),
        "device": device_name(model.mean.device),
        "seed": seed,
        "balancing": balancing,
        "data_fingerprint": dict(fingerprints),
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "task_order": list(config.tasks),
        "metrics": {
            name: {"headline": metric.headline, "higher_is_better": dict(metric.keys)}
            for name, metric in metrics.items()
        },
    }
    _write(folder, config, facts)


def record(folder: Path, config: Config, changes: Changes, step: int, device: torch.device) -> None:
    """Writes that the run goes on from `step`, and what is different from there on. Raises CheckpointError."""
    facts = read_facts(folder)
    entry = {"step": step, "at": _now(), "device": device_name(device), "changes": changes}
    facts["resumed"] = [*facts.get("resumed", []), entry]
    for key, (_, new) in changes.items():
        section, _, split = key.partition(".")
        if section == "data_fingerprint":
            facts[section][split] = new
    _write(folder, config, facts)


def remark(folder: Path, config: Config, notes: Iterable[str]) -> None:
    """Adds to `run.json` what the balancing method had to say of the run, each note once. Raises CheckpointError."""
    facts = read_facts(folder)
    facts["notes"] = list(dict.fromkeys([*facts.get("notes", []), *notes]))
    _write(folder, config, facts)


def _write(folder: Path, config: Config, facts: Mapping[str, Any]) -> None:
    try:
        write_text(folder / "config.yaml", dump(_plain(config.sections())))
        write_text(folder / "run.json", json.dumps(facts, indent=1, ensure_ascii=False))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror}") from None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _git_revision() -> str | None:
    """Of the working directory, with `-dirty` where files differ from it; None outside a repository."""
    if shutil.which("git") is None:
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def save(folder: Path, parts: Mapping[str, Any], state: State, kept: MultiTaskModel) -> None:
    """Writes the last weights and the training state; the state before stays as `previous.safetensors`."""
    tensors: dict[str, torch.Tensor] = {}
    held = {name: checkpoint.flatten(part.state_dict(), name, tensors) for name, part in parts.items()}
    meta = {"parts": held, **vars(state), "tasks": [task.spec() for task in kept.tasks.values()]}
    weights = folder / "weights"
    kept.save(weights / "last.safetensors")
    # the state comes last: what it tells of is then there
    checkpoint.save(weights / "state.safetensors", tensors, meta, keep=weights / "previous.safetensors")


def restore(folder: Path, parts: Mapping[str, Any], state: State, model: MultiTaskModel) -> None:
    """Puts parts and state back to the last checkpoint, or leaves them at the start where the run came to none.

    Raises:
        CheckpointError: it is damaged or foreign, or of other tasks or parts.
    """
    weights, log = folder / "weights", folder / "metrics.jsonl"
    sweep(folder)
    sweep(weights)
    path = _newest(weights)
    if path is not None:
        _load(folder, path, parts, state, model)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    try:
        write_text(log, "".join(line + "\n" for line in lines if _done(line, state.step)))
    except OSError as error:
        raise CheckpointError(f"{log}: cannot be written: {error.strerror}") from None


def task_specs(folder: Path) -> dict[str, dict[str, Any]]:
    """By name, the `Task.spec` of a run's tasks after they were prepared; none where it came to no checkpoint.

    Raises:
        CheckpointError: it is damaged or foreign.
    """
    path = _newest(folder / "weights")
    if path is None:
        return {}
    return {spec["name"]: spec for spec in _state(path)[1]["tasks"]}


def _newest(weights: Path) -> Path | None:
    # a process that was killed between the two renamings of a save left the newest one under the older name
    places = [weights / "state.safetensors", weights / "previous.safetensors"]
    return next((place for place in places if place.is_file()), None)


def _state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, meta = checkpoint.load(path)
    if {"tasks", "parts", *vars(State())} - meta.keys():
        raise CheckpointError(f"{path}: not the state of a training; expected the file that `segweave train` wrote")
    return tensors, meta


def _load(folder: Path, path: Path, parts: Mapping[str, Any], state: State, model: MultiTaskModel) -> None:
    tensors, meta = _state(path)
    saved, specs = meta.pop("tasks"), json.loads(json.dumps([task.spec() for task in model.tasks.values()]))
    old, new = ({task["name"]: task for task in tasks} for tasks in (saved, specs))
    if old != new:
        # what a config does not show, such as the contents of a file of classes
        changed = [
            f"tasks.{name}.{key}"
            for name in old.keys() | new.keys()
            for key in old.get(name, {}).keys() | new.get(name, {}).keys()
            if old.get(name, {}).get(key) != new.get(name, {}).get(key)
        ]
        raise CheckpointError(f"{folder}: was trained otherwise: {', '.join(sorted(changed))} changed; start a new run")
    held = meta.pop("parts")
    if held.keys() != parts.keys():
        changed = ", ".join(sorted(held.keys() ^ parts.keys()))
        raise CheckpointError(f"{folder}: was trained with other parts: {changed} added or removed; start a new run")
    for name, value in held.items():
        try:
            parts[name].load_state_dict(checkpoint.restore(value, tensors))
        except (KeyError, RuntimeError, ValueError) as error:
            found = str(error).strip().splitlines()
            raise CheckpointError(f"{folder}: was trained with another {name}: {found[0]}") from None
    for key, value in meta.items():
        setattr(state, key, value)
    if state.best is not None:
        state.best = {name: (value, higher) for name, (value, higher) in state.best.items()}


def _done(line: str, steps: int) -> bool:
    """Whether a line of the log is whole and tells of a step before the checkpoint."""
    try:
        return json.loads(line)["step"] < steps
    except (ValueError, KeyError, TypeError):
        return False
