"""One run folder: epochs of `fit`, validation, the best and the last weights, the log, and going on after a stop."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segweave import checkpoint
from segweave.balancing.balancer import Balancer
from segweave.config import Config, dump
from segweave.data.loader import Loader
from segweave.errors import CheckpointError, ConfigError
from segweave.evaluate import Results, headline, relative_gain
from segweave.model import MultiTaskModel
from segweave.optimizers import Schedule, build_optimizer, parameter_groups
from segweave.train import Step, fit

_SAVE_SECONDS = 300.0


class Plan:
    """How to train.

    Args:
        steps, epochs, minutes: when to stop; one of them, 60 epochs by default.
        batch_size: images that go through the network together.
        accumulate: such batches per optimizer step; losses are averaged over all of them.
        lr: of the decoders and heads at its peak.
        optimizer: `adamw` or `sgd`.
        weight_decay: the optimizer's own; biases and norms are not decayed.
        backbone_lr_scale: factor on the encoder's rate.
        freeze: prefixes of parameter names that are not trained, such as `encoder`.
        schedule: `poly`, `cosine` or `constant`, after `warmup` steps.
        clip: largest gradient norm.
        ema: decay of an exponential average of the weights, which is then what is validated and kept.
        precision: `fp32`, or autocast to `bf16` or `fp16`.
        best: `task/metric` that chooses the best weights, or `mean_relative_gain` over all tasks' headline values
            relative to the best so far.
        patience: validations without a better one before training stops early.
        validate_every: epochs between validations.
        workers: processes that read data; by default one where there is more than one core.
        seed: of everything.
        report: kept for the report page.

    Raises:
        ConfigError: values that make no sense together.
    """

    def __init__(
        self,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        batch_size: int = 8,
        accumulate: int = 1,
        lr: float = 3e-4,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        weight_decay: float = 0.01,
        backbone_lr_scale: float = 1.0,
        freeze: list[str] | None = None,
        schedule: Literal["poly", "cosine", "constant"] = "poly",
        warmup: int = 0,
        clip: float | None = None,
        ema: float | None = None,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        best: str = "mean_relative_gain",
        patience: int | None = None,
        validate_every: int = 1,
        workers: int | None = None,
        seed: int = 0,
        report: bool = True,
    ) -> None:
        if sum(limit is not None for limit in (steps, epochs, minutes)) > 1:
            raise ConfigError("train: expected one of steps, epochs and minutes; found several")
        for key, value in (("batch_size", batch_size), ("accumulate", accumulate), ("validate_every", validate_every)):
            if value < 1:
                raise ConfigError(f"train.{key}: found {value}; expected at least 1")
        if not lr > 0:
            raise ConfigError(f"train.lr: found {lr}; expected a number above 0")
        self.steps, self.minutes = steps, minutes
        self.epochs = 60 if steps is None and epochs is None and minutes is None else epochs
        self.batch_size, self.accumulate = batch_size, accumulate
        self.lr, self.optimizer, self.weight_decay = lr, optimizer, weight_decay
        self.backbone_lr_scale, self.freeze = backbone_lr_scale, freeze or []
        self.schedule, self.warmup, self.clip = schedule, warmup, clip
        self.ema, self.precision, self.best = ema, precision, best
        self.patience, self.validate_every = patience, validate_every
        self.workers, self.seed, self.report = workers, seed, report

    def total(self, steps_per_epoch: int) -> int | None:
        """Optimizer steps in all; None where a time decides."""
        if self.steps is not None:
            return self.steps
        return None if self.epochs is None else self.epochs * steps_per_epoch


@dataclass
class _State:
    """Where a run stands; all of it is in the checkpoint."""

    step: int = 0
    elapsed: float = 0.0
    best: Mapping[str, tuple[float, bool]] | None = None
    best_results: Results | None = None
    stale: int = 0
    finished: bool = False


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
    """Trains to the plan's end; returns the run folder and the best validation results."""
    folder = out / name if resume else _new_folder(out, name)
    balancer.to(model.mean.device)
    groups = parameter_groups(model, balancer, plan.lr, plan.weight_decay, plan.backbone_lr_scale, plan.freeze)
    optimizer = build_optimizer(plan.optimizer, groups)
    schedule = Schedule(optimizer, plan.schedule, plan.warmup)
    ema = None
    if plan.ema is not None:
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(plan.ema)
        ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
    parts = {"model": model, "balancer": balancer, "optimizer": optimizer} | ({"ema": ema} if ema else {})
    state = _State()
    console = Console(quiet=quiet)
    if resume:
        _restore(folder, parts, state, model)
    else:
        _describe(folder, config, fingerprint, plan)
    if model.encoder.matched is not None and not resume:
        console.print(f"pretrained encoder: {model.encoder.matched}")
    stream = loader(state.step)
    total = plan.total(stream.steps_per_epoch)
    started = time.monotonic() - state.elapsed

    def progress(step: int) -> float:
        if total is not None:
            return step / total
        return (time.monotonic() - started) / (60 * (plan.minutes or 1))

    log = (folder / "metrics.jsonl").open("a", encoding="utf-8")
    saved = time.monotonic()
    steps = fit(
        model,
        stream,
        optimizer=optimizer,
        balancer=balancer,
        schedule=schedule,
        progress=progress,
        clip=plan.clip,
        precision=plan.precision,
        ema=ema,
        seed=plan.seed,
    )
    kept: Any = ema.module if ema is not None else model
    with log, _bar(console, total) as bar:
        job = bar.add_task("train", total=total, completed=state.step, detail="")
        if not state.finished:
            for step in steps:
                log.write(json.dumps(step.record()) + "\n")
                state.step, state.elapsed = step.step + 1, time.monotonic() - started
                bar.update(job, completed=state.step, detail=_detail(step))
                done = progress(state.step) >= 1
                at_end = state.step % stream.steps_per_epoch == 0
                epoch = state.step // stream.steps_per_epoch
                if done or (at_end and epoch % plan.validate_every == 0):
                    bar.update(job, detail="validating")
                    results = validate(kept)
                    _log_validation(log, step, results)
                    _keep_best(folder, kept, plan, state, results)
                    done = done or (plan.patience is not None and state.stale >= plan.patience)
                    state.finished = done
                    log.flush()
                    _save(folder, parts, state, kept)
                    saved = time.monotonic()
                elif time.monotonic() - saved > _SAVE_SECONDS:
                    log.flush()
                    _save(folder, parts, state, kept)
                    saved = time.monotonic()
                if done:
                    break
    assert state.best_results is not None
    return folder, state.best_results


def _new_folder(out: Path, name: str) -> Path:
    """`out/name`, or with the first free number where that exists."""
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


def _describe(folder: Path, config: Config, fingerprint: str, plan: Plan) -> None:
    (folder / "config.yaml").write_text(dump(_plain(config.sections())), encoding="utf-8")
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    packages = ("segweave", "torch", "torchvision", "timm", "numpy")
    facts = {
        "seed": plan.seed,
        "data_fingerprint": fingerprint,
        "git_revision": found.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "task_order": list(config.tasks),
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _bar(console: Console, total: int | None) -> Progress:
    columns = (MofNCompleteColumn(), TimeRemainingColumn()) if total else ()
    return Progress(
        TextColumn("{task.description}"), BarColumn(24), *columns, TextColumn("{task.fields[detail]}"), console=console
    )


def _detail(step: Step) -> str:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
    return f"{losses}  {step.images / step.seconds:.1f} images/s"


def _log_validation(log: Any, step: Step, results: Results) -> None:
    values = {f"{task}/{key}": v for task, table in results.items() for key, v in table.items() if isinstance(v, float)}
    line = {"step": step.step, "epoch": step.epoch, "split": "val"}
    log.write(json.dumps(line | {k: None if math.isnan(v) else v for k, v in values.items()}) + "\n")


def _keep_best(folder: Path, model: MultiTaskModel, plan: Plan, state: _State, results: Results) -> None:
    heads = headline(results, model.tasks.values())
    if plan.best != "mean_relative_gain":
        task, _, key = plan.best.partition("/")
        if task not in results or not isinstance(results[task].get(key), float):
            known = [f"{t}/{k}" for t, table in results.items() for k, v in table.items() if isinstance(v, float)]
            raise ConfigError(f"train.best: {plan.best!r} is no metric of this run; it has {', '.join(known)}")
        errors = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "outside", "invalid")
        heads = {task: (float(results[task][key]), key not in errors)}
    if state.best is not None and relative_gain(heads, state.best) <= 0:
        state.stale += 1
        return
    state.best, state.best_results, state.stale = heads, results, 0
    save_weights(folder / "weights" / "best.safetensors", model)


def save_weights(path: Path, model: MultiTaskModel) -> None:
    """A network's tensors with what is needed to build it again."""
    meta = {"model": model.spec, "tasks": [task.spec() for task in model.tasks.values()]}
    checkpoint.save(path, model.state_dict(), meta)


def _save(folder: Path, parts: Mapping[str, Any], state: _State, kept: MultiTaskModel) -> None:
    tensors: dict[str, torch.Tensor] = {}
    held = {name: checkpoint.flatten(part.state_dict(), name, tensors) for name, part in parts.items()}
    tasks = [task.spec() for task in kept.tasks.values()]
    checkpoint.save(folder / "weights" / "state.safetensors", tensors, {"parts": held, **vars(state), "tasks": tasks})
    save_weights(folder / "weights" / "last.safetensors", kept)


def _restore(folder: Path, parts: Mapping[str, Any], state: _State, model: MultiTaskModel) -> None:
    path = folder / "weights" / "state.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder}: nothing to resume; expected {path}")
    tensors, meta = checkpoint.load(path)
    old, new = ({task["name"]: task for task in tasks} for tasks in (meta.pop("tasks"), _specs(model)))
    if old != new:
        changed = sorted(name for name in old | new if old.get(name) != new.get(name))
        raise CheckpointError(f"{folder}: was trained with other tasks: {', '.join(changed)} changed; start a new run")
    for name, value in meta.pop("parts").items():
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


def _specs(model: MultiTaskModel) -> list[dict[str, Any]]:
    return json.loads(json.dumps([task.spec() for task in model.tasks.values()]))


def _done(line: str, steps: int) -> bool:
    """Whether a line of the log is whole and tells of a step before the checkpoint."""
    try:
        return json.loads(line)["step"] < steps
    except (ValueError, KeyError):
        return False
