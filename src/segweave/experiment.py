"""One run folder: epochs of `fit`, validation, the best and the last weights, the log, and going on after a stop."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segweave import checkpoint
from segweave.balancing.balancer import Balancer
from segweave.config import Config, dump
from segweave.cost import device_name
from segweave.data.loader import Loader
from segweave.errors import CheckpointError, ConfigError, SegweaveError, UnreadableError, nearest
from segweave.evaluate import Results, headline, relative_gain
from segweave.model import MultiTaskModel
from segweave.optimizers import Schedule, build_optimizer, parameter_groups
from segweave.plan import Plan
from segweave.report.bar import TrainingBar
from segweave.train import Step, fit

_SAVE_SECONDS = 300.0


@dataclass
class _State:
    """Where a run stands; all of it is in the checkpoint."""

    step: int = 0
    validated: int = 0
    elapsed: float = 0.0
    best: Mapping[str, tuple[float, bool]] | None = None
    best_results: Results | None = None
    stale: int = 0
    resumed_at: list[int] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def run(
    model: MultiTaskModel,
    loader: Callable[[int], Loader],
    validate: Callable[[MultiTaskModel], Results],
    balancer: Balancer,
    plan: Plan,
    *,
    config: Config,
    fingerprint: str,
    name: str,
    out: Path,
    resume: bool = False,
    quiet: bool = False,
) -> tuple[Path, Results]:
    """Trains to the plan's end; returns the run folder and the best validation results.

    Raises:
        ConfigError: `plan.best` is no metric of this network, or the run folder cannot be made.
        CheckpointError: nothing to resume, or something else than this network.
    """
    _check_best(plan, model)
    folder = out / name if resume else _new_folder(out, name)
    try:
        return folder, _train(model, loader, validate, balancer, plan, config, fingerprint, folder, resume, quiet)
    except SegweaveError:
        if not resume and not (folder / "weights").exists():
            shutil.rmtree(folder)  # a run that ended before it kept anything
        raise


def _train(
    model: MultiTaskModel,
    loader: Callable[[int], Loader],
    validate: Callable[[MultiTaskModel], Results],
    balancer: Balancer,
    plan: Plan,
    config: Config,
    fingerprint: str,
    folder: Path,
    resume: bool,
    quiet: bool,
) -> Results:
    balancer.to(model.mean.device)
    groups = parameter_groups(model, balancer, plan.lr, plan.weight_decay, plan.backbone_lr_scale, plan.freeze)
    optimizer = build_optimizer(plan.optimizer, groups)
    ema = None
    if plan.ema is not None:
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(plan.ema)
        ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
    scaler = torch.amp.GradScaler(model.mean.device.type, enabled=plan.precision == "fp16")
    parts = {"model": model, "balancer": balancer, "optimizer": optimizer, "scaler": scaler}
    parts |= {"ema": ema} if ema else {}
    state = _State()
    schedule = Schedule(optimizer, plan.schedule, plan.warmup)
    console = Console(quiet=quiet)
    if resume:
        _restore(folder, parts, state, model)
    else:
        _describe(folder, config, fingerprint, plan, model.mean.device)
        if model.encoder.matched is not None:
            console.print(f"pretrained encoder: {model.encoder.matched}")
    stream = loader(state.step)
    stream.unreadable.update(state.unreadable)
    total = plan.total(stream.steps_per_epoch)
    started = time.monotonic() - state.elapsed

    def progress(step: int) -> float:
        if total is not None:
            return step / total
        return (time.monotonic() - started) / (60 * (plan.minutes or 1))

    def done() -> bool:
        return progress(state.step) >= 1 or (plan.patience is not None and state.stale >= plan.patience)

    def due() -> bool:
        """Whether the weights as they are have to be validated and have not been."""
        epochs, inside = divmod(state.step, stream.steps_per_epoch)
        return state.validated < state.step and (ending or (inside == 0 and epochs % plan.validate_every == 0))

    def epoch() -> int:
        return (state.step - 1) // stream.steps_per_epoch

    def show(step: Step) -> None:
        bar.update(progress(state.step), place(), step.losses, step.images / step.seconds)

    def place() -> str:
        return f"epoch {epoch() + 1}, step {state.step}{f'/{total}' if total else ''}"

    saved = time.monotonic()
    told: set[str] = set()
    kept: Any = ema.module if ema is not None else model
    steps = fit(
        model,
        stream,
        optimizer=optimizer,
        balancer=balancer,
        schedule=schedule,
        progress=progress,
        clip=plan.clip,
        precision=plan.precision,
        scaler=scaler,
        ema=ema,
        seed=plan.seed,
    )
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log, TrainingBar(console) as bar:
        # asked once a step: the time must not run out between a step and the question whether to validate it
        ending = state.step > 0 and done()
        if resume and not ending:
            state.resumed_at.append(state.step)
        step: Step | None = None
        # a finished run that is resumed with the same plan has nothing left to do; another may owe a validation
        while due() or not ending:
            if not due():
                step = next(steps)
                missed = {id: why for id, why in stream.unreadable.items() if id not in state.unreadable}
                log.write(json.dumps(step.record() | ({"unreadable": missed} if missed else {})) + "\n")
                for why in missed.values():
                    console.print(f"image left out: {why}", highlight=False)
                state.unreadable |= missed
                for note in sorted(stream.notes.keys() - told):
                    console.print(f"data: {note} (said once, whatever the number of images)")
                for note in [note for note in balancer.notes if note not in told]:
                    console.print(f"{note} (said once)", highlight=False)
                told |= stream.notes.keys() | balancer.notes.keys()
                if step.not_finite:
                    shown = ", ".join(step.ids[:8])
                    console.print(f"step {step.step} skipped: {', '.join(step.not_finite)} not finite; images {shown}")
                state.step, state.elapsed = step.step + 1, time.monotonic() - started
                show(step)
                ending = done()
            if due():
                bar.validating()
                try:
                    results = validate(kept)
                except UnreadableError as error:
                    # the metrics of the other images would be those of another data set; the hours of training stay
                    _save(folder, parts, state, kept)
                    raise UnreadableError(f"validation: {error} Then go on with --resume from {folder}.") from None
                _log_validation(log, state.step - 1, epoch(), results)
                better = _keep_best(folder, kept, plan, state, results)
                state.validated = state.step
                console.print(
                    f"{place()}: {_summary(results, model)}{', best so far' if better else ''}", highlight=False
                )
                if step is not None:
                    show(step)
                ending = ending or done()
            elif time.monotonic() - saved <= _SAVE_SECONDS:
                continue
            log.flush()
            state.elapsed = time.monotonic() - started
            _save(folder, parts, state, kept)
            saved = time.monotonic()
    assert state.best_results is not None
    return state.best_results


def check_folder(out: Path) -> None:
    """Refuses a parent of runs that cannot be written to, before any work. Raises ConfigError."""
    place = out.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        found = "cannot be written to" if place.is_dir() else "is not a folder"
        raise ConfigError(f"--out {out}: {place} {found}; choose another folder")


def _check_best(plan: Plan, model: MultiTaskModel) -> None:
    known = [f"{name}/{key}" for name, task in model.tasks.items() for key in task.metric().keys]
    if plan.best != "mean_relative_gain" and plan.best not in known:
        near = nearest(plan.best, ["mean_relative_gain", *known], 3)
        raise ConfigError(
            f"train.best: found {plan.best!r}; expected mean_relative_gain or task/metric; nearest: {near}"
        )


def _new_folder(out: Path, name: str) -> Path:
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


def _describe(folder: Path, config: Config, fingerprint: str, plan: Plan, device: torch.device) -> None:
    (folder / "config.yaml").write_text(dump(_plain(config.sections())), encoding="utf-8")
    packages = ("segweave", "torch", "torchvision", "timm", "numpy")
    facts = {
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device_name(device),
        "seed": plan.seed,
        "data_fingerprint": fingerprint,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "task_order": list(config.tasks),
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


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


def _summary(results: Results, model: MultiTaskModel) -> str:
    heads = headline(results, model.tasks.values())
    return ", ".join(f"{name} {model.tasks[name].metric().headline} {value:.4f}" for name, (value, _) in heads.items())


def _log_validation(log: Any, step: int, epoch: int, results: Results) -> None:
    values = {f"{task}/{key}": v for task, table in results.items() for key, v in table.items() if isinstance(v, float)}
    line = {"step": step, "epoch": epoch, "split": "val"}
    log.write(json.dumps(line | {k: None if math.isnan(v) else v for k, v in values.items()}) + "\n")


def _keep_best(folder: Path, model: MultiTaskModel, plan: Plan, state: _State, results: Results) -> bool:
    """Keeps the weights where they are the best so far, and says whether they are."""
    heads = headline(results, model.tasks.values())
    if plan.best != "mean_relative_gain":
        task, _, key = plan.best.partition("/")
        heads = {task: (float(results[task][key]), model.tasks[task].metric().keys[key])}
    if state.best is not None and relative_gain(heads, state.best) <= 0:
        state.stale += 1
        return False
    state.best, state.best_results, state.stale = heads, results, 0
    model.save(folder / "weights" / "best.safetensors")
    return True


def _save(folder: Path, parts: Mapping[str, Any], state: _State, kept: MultiTaskModel) -> None:
    tensors: dict[str, torch.Tensor] = {}
    held = {name: checkpoint.flatten(part.state_dict(), name, tensors) for name, part in parts.items()}
    tasks = [task.spec() for task in kept.tasks.values()]
    kept.save(folder / "weights" / "last.safetensors")
    # the state comes last: what it tells of is then there
    checkpoint.save(folder / "weights" / "state.safetensors", tensors, {"parts": held, **vars(state), "tasks": tasks})


def _restore(folder: Path, parts: Mapping[str, Any], state: _State, model: MultiTaskModel) -> None:
    path = folder / "weights" / "state.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder}: nothing to resume; expected {path}")
    tensors, meta = checkpoint.load(path)
    saved, specs = meta.pop("tasks"), json.loads(json.dumps([task.spec() for task in model.tasks.values()]))
    old, new = ({task["name"]: task for task in tasks} for tasks in (saved, specs))
    if old != new:
        changed = sorted(name for name in old | new if old.get(name) != new.get(name))
        raise CheckpointError(f"{folder}: was trained with other tasks: {', '.join(changed)} changed; start a new run")
    if list(old) != list(new):
        raise CheckpointError(f"{folder}: was trained with its tasks in the order {', '.join(old)}; keep that order")
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
    log = folder / "metrics.jsonl"
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if _done(line, state.step)]
    log.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _done(line: str, steps: int) -> bool:
    """Whether a line of the log is whole and tells of a step before the checkpoint."""
    try:
        return json.loads(line)["step"] < steps
    except (ValueError, KeyError):
        return False
