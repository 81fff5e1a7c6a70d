"""One run folder: epochs of `fit`, validation, the best and the last weights, the log, and going on after a stop."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from segweave import terminal
from segweave.balancing.balancer import Balancer
from segweave.config import Config
from segweave.data.loader import Loader
from segweave.errors import ConfigError, SegweaveError, UnreadableError, nearest
from segweave.evaluate import Results, headline, relative_gain
from segweave.model import MultiTaskModel
from segweave.optimizers import Schedule, build_optimizer, parameter_groups
from segweave.peak import Peak, held
from segweave.plan import Plan
from segweave.report.bar import TrainingBar
from segweave.resume import Changes
from segweave.run_folder import Log, State, alone_in, describe, new_folder, record, remark, restore, save
from segweave.shortage import explained
from segweave.stopping import Stop
from segweave.tracking import Tracker, Tracking
from segweave.train import WEIGHED, Step, fit

_SAVE_SECONDS = 300.0
_RECENT = 50
"""Steps over which the time spent waiting for data is shown."""


def run(
    model: MultiTaskModel,
    loader: Callable[[int], Loader],
    validate: Callable[[MultiTaskModel], Results],
    balancer: Balancer,
    plan: Plan,
    *,
    config: Config,
    fingerprints: Mapping[str, str],
    name: str,
    out: Path,
    changes: Changes | None = None,
    trackers: Mapping[str, Tracker] | None = None,
    quiet: bool = False,
    go_on: Callable[[int, Results], bool] | None = None,
    watch: Callable[[int, MultiTaskModel, torch.optim.Optimizer], None] | None = None,
) -> tuple[Path, Results]:
    """Trains to the plan's end; returns the run folder and the best validation results.

    Ctrl-C and SIGTERM finish the step and save it before they end the run.

    Args:
        fingerprints: of the data, by split.
        changes: goes on with the run of that name, about which this is different; None begins a new one.
        trackers: by name, where the numbers of the log go as well.
        go_on: is asked after every validation but the last, with the step as the log counts it and the results; the
            run ends, saved, where it says no.
        watch: is told before every step, with its number, and must leave network and optimizer as they are.

    Raises:
        ConfigError: `plan.best` is no metric of this network, or the run folder cannot be made.
        CheckpointError: something else to resume than this network, another process that trains in the folder, or the
            disk is full.
        SegweaveError: the memory ran out, or the loss was not finite for too long.
    """
    _check_best(plan, model)
    folder = new_folder(out, name) if changes is None else out / name
    try:
        with alone_in(folder), Stop() as stop:
            if not (folder / "run.json").is_file():  # a run that was killed as it began has none yet
                describe(folder, config, fingerprints, plan.seed, model, balancer.label)
            results = _train(
                model,
                loader,
                validate,
                balancer,
                plan,
                config,
                folder,
                changes,
                trackers or {},
                quiet,
                stop,
                go_on,
                watch,
            )
    except BaseException:
        if changes is None and not (folder / "weights").exists():
            shutil.rmtree(folder)  # a run that ended before it kept anything
        raise
    return folder, results


def _train(
    model: MultiTaskModel,
    loader: Callable[[int], Loader],
    validate: Callable[[MultiTaskModel], Results],
    balancer: Balancer,
    plan: Plan,
    config: Config,
    folder: Path,
    changes: Changes | None,
    trackers: Mapping[str, Tracker],
    quiet: bool,
    stop: Stop,
    go_on: Callable[[int, Results], bool] | None,
    watch: Callable[[int, MultiTaskModel, torch.optim.Optimizer], None] | None,
) -> Results:
    balancer.to(model.mean.device)
    groups = parameter_groups(model, balancer, plan.lr, plan.weight_decay, plan.backbone_lr_scale, plan.freeze)
    optimizer = build_optimizer(plan.optimizer, groups)
    if plan.compile:
        model.compile()
    ema = None
    if plan.ema is not None:
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(plan.ema)
        # norms' statistics are averaged like the weights, which they belong to: the newest ones are those of others
        ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    scaler = torch.amp.GradScaler(model.mean.device.type, enabled=plan.precision == "fp16")
    parts = {"model": model, "balancer": balancer, "optimizer": optimizer, "scaler": scaler}
    parts |= {"ema": ema} if ema else {}
    state = State()
    schedule = Schedule(optimizer, plan.schedule, plan.warmup)
    console = terminal.console(quiet=quiet)
    if changes is not None:
        restore(folder, parts, state, model)
    if state.step == 0 and model.encoder.matched is not None:
        console.print(f"pretrained encoder: {model.encoder.matched}")
    stream = loader(state.step)
    stream.unreadable.update(state.unreadable)
    console.print(stream.epoch_line(), highlight=False)
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
        waiting = sum(step.waited for step in recent) / sum(step.seconds for step in recent)
        bar.update(progress(state.step), place(), step.losses, step.images / step.seconds, waiting)

    def place() -> str:
        return f"epoch {epoch() + 1}, step {state.step}{f'/{total}' if total else ''}"

    saved = time.monotonic()
    told: set[str] = set()
    recent: deque[Step] = deque(maxlen=_RECENT)
    kept: Any = ema.module if ema is not None else model
    # torch.compile compiles nothing below what counts the tensors of a CPU
    peak = None if plan.compile and model.mean.device.type != "cuda" else Peak(model.mean.device)
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
        peak=peak,
    )
    size = config.data.get("size")
    with (
        Tracking(trackers, folder, config, state.step, console.print) as tracking,
        Log(folder / "metrics.jsonl", tracking.line) as log,
        TrainingBar(console) as bar,
    ):
        # asked once a step: the time must not run out between a step and the question whether to validate it
        ending = state.step > 0 and done()
        if changes is not None and (changes or not ending):
            record(folder, config, changes, state.step, model.mean.device)
        step: Step | None = None
        # a finished run that is resumed with the same plan has nothing left to do; another may owe a validation
        while due() or not ending:
            if not due():
                with explained(f"step {state.step}", plan, size):
                    if watch is not None:
                        watch(state.step, model, optimizer)
                    step = next(steps)
                recent.append(step)
                missed = {id: why for id, why in stream.unreadable.items() if id not in state.unreadable}
                line = step.record() | ({"unreadable": missed} if missed else {})
                if peak is not None and step.step < WEIGHED:
                    whole = held(model, balancer, *([ema] if ema else [])) + peak.bytes
                    line["peak_megabytes"] = round(whole / 1e6, 3)
                log.write(line)
                for why in missed.values():
                    console.print(f"image left out: {why}", highlight=False)
                state.unreadable |= missed
                for note in sorted(stream.notes.keys() - told):
                    console.print(f"data: {note} (said once, whatever the number of images)")
                if balancer.notes.keys() - told:
                    remark(folder, config, balancer.notes)
                for note in [note for note in balancer.notes if note not in told]:
                    console.print(f"{note} (said once)", highlight=False)
                told |= stream.notes.keys() | balancer.notes.keys()
                if step.not_finite:
                    shown = ", ".join(step.ids[:8])
                    console.print(f"step {step.step} skipped: {', '.join(step.not_finite)} not finite; images {shown}")
                state.step, state.elapsed = step.step + 1, time.monotonic() - started
                show(step)
                ending = done()
            results = None
            if due() and stop.signal is None:
                bar.validating()
                # one that a signal breaks off is made up for when the run goes on
                with suppress(KeyboardInterrupt), stop.at_once():
                    try:
                        with explained(f"validation after step {state.step}", plan, size):
                            results = validate(kept)
                    except SegweaveError as error:
                        # the metrics of fewer images would be those of other data; the hours of training stay
                        save(folder, parts, state, kept)
                        if not isinstance(error, UnreadableError):
                            raise
                        cure = f"Then go on with --resume --changed-data from {folder}."
                        raise UnreadableError(f"validation: {error} {cure}") from None
            if results is not None:
                log.validation(state.step - 1, epoch(), results)
                better = _keep_best(folder, kept, plan, state, results)
                state.validated = state.step
                console.print(
                    f"{place()}: {_summary(results, model)}{', best so far' if better else ''}", highlight=False
                )
                if step is not None:
                    show(step)
                ending = ending or done() or (go_on is not None and not go_on(state.step - 1, results))
            elif stop.signal is None and time.monotonic() - saved <= _SAVE_SECONDS:
                continue
            log.keep()
            state.elapsed = time.monotonic() - started
            save(folder, parts, state, kept)
            saved = time.monotonic()
            if stop.signal is not None:
                console.print(f"stopped and saved after step {state.step - 1}; --resume goes on from {folder}")
                stop.leave()
        assert state.best_results is not None
        tracking.finish(state.best_results)
    return state.best_results


def _check_best(plan: Plan, model: MultiTaskModel) -> None:
    known = [f"{name}/{key}" for name, task in model.tasks.items() for key in task.metric().keys]
    if plan.best != "mean_relative_gain" and plan.best not in known:
        near = nearest(plan.best, ["mean_relative_gain", *known], 3)
        raise ConfigError(
            f"train.best: found {plan.best!r}; expected mean_relative_gain or task/metric; nearest: {near}"
        )


def _summary(results: Results, model: MultiTaskModel) -> str:
    parts = []
    for name, (value, _) in headline(results, model.tasks.values()).items():
        derived = " (derived)" if model.tasks[name].origin else ""
        parts.append(f"{name} {model.tasks[name].metric().headline} {value:.4f}{derived}")
    return ", ".join(parts)


def _keep_best(folder: Path, model: MultiTaskModel, plan: Plan, state: State, results: Results) -> bool:
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
