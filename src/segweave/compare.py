"""Is sharing worth it? One network for all tasks against one per task, and other ways to train, at equal budget.

Every way is trained with the same seeds, for the same number of steps. All are measured on the same images with weights
that were not chosen on them, and differences are paired by seed and by image.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields, is_dataclass, replace
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from segweave import build, checkpoint
from segweave.atomic import write_text
from segweave.comparison import measure, measured_on, result, shares
from segweave.config import Config
from segweave.errors import CheckpointError, ConfigError
from segweave.estimates import SEPARATE, Estimate, resamples
from segweave.plan import Plan
from segweave.report.compare_page import comparison_page, verdict
from segweave.report.compared import ComparisonResult
from segweave.report.html import number
from segweave.resume import config_changes
from segweave.run_folder import check_folder
from segweave.sources import build_tasks, training_images
from segweave.terminal import console
from segweave.variants import Variant, variants, with_fewer_labels


def compare(
    config: Config,
    changed: Mapping[str, Sequence[str]] | None = None,
    *,
    seeds: int = 3,
    separate: bool = True,
    fractions: Sequence[float] = (),
    scarce: str | None = None,
    out: Path | None = None,
    split: str | None = None,
    draws: int = 200,
    jobs: int | None = None,
    device: str | None = None,
    command: str = "",
    shown: Console | None = None,
) -> tuple[Path, ComparisonResult]:
    """Trains, measures, and writes `comparison.json` and `report.html`; returns the folder and what is in them.

    A run that is finished is not trained again, and one that was stopped goes on.

    Args:
        config: from `read_config` or `check_config`.
        changed: changes to it by the name of a variant, as `segweave.variants.variants` takes them.
        seeds: how many, from the config's own on.
        separate: whether to train one network per task, too.
        fractions: shares of the training images on which the config itself and one network per task are trained, too.
        scarce: a task of which the config is also trained with these shares of the labels and all of the other tasks'.
        out: the folder; `compare/<name of the config>` by default.
        split: where to measure: by default `test` where every task has labels there, else `val`.
        draws: resamples of the images behind the intervals.
        jobs: runs at once; by default as many as there are GPUs. On a CPU they share its cores.
        device: `cpu`, `cuda` or `cuda:N` for all runs; by default a GPU for each job where there is one.
        command: that does this again, for the page.
        shown: where progress is printed; nowhere by default.

    Raises:
        SegweaveError: whatever in the config or the data cannot be used, or a folder that holds other runs.
    """
    for option, value, least in (("seeds", seeds, 1), ("jobs", jobs or 1, 1), ("resamples", draws, 2)):
        if value < least:
            raise ConfigError(f"--{option}: found {value}; expected at least {least}")
    if scarce is not None and not fractions:
        raise ConfigError(f"--scarce {scarce}: expected --data-fractions with it, the shares of its labels")
    out = Path("compare") / Path(config.source).stem if out is None else out
    shown = shown or console(quiet=True)
    check_folder(out)
    place = build.choose_device(device)
    budget, ways = _equal_budget(config, variants(config, changed or {}, separate))
    fewer = [
        replace(share, ways=_equal_budget(config, share.ways)[1])
        for share in (with_fewer_labels(config, [*fractions, 1], scarce) if fractions else ())
    ]
    everything = list({way.name: way for way in [*ways, *(way for share in fewer for way in share.ways)]}.values())
    split, images = measured_on(config, split)
    first = Plan(**config.train).seed
    numbers = list(range(first, first + seeds))
    _train(everything, numbers, out / "runs", jobs, device, shown)
    runs = {way.name: [_run(out / "runs", way, seed) for seed in numbers] for way in everything}
    shown.print(f"measuring {len(everything) * seeds} networks on {len(images)} images of {split}", highlight=False)
    counts = resamples(len(images), draws)
    trained = measure(ways, runs, images, split, counts, place)
    few = [(share, measure(share.ways, runs, images, split, counts, place)) for share in fewer]
    told = shares(few, config, len(images), numbers[0])
    made = result(config, trained, images, split, numbers, draws, budget, command, place, told)
    write_text(out / "comparison.json", json.dumps(_plain(made), indent=1, ensure_ascii=False))
    write_text(out / "report.html", comparison_page(made))
    return out, made


def _equal_budget(config: Config, ways: Sequence[Variant]) -> tuple[str, list[Variant]]:
    """The budget in words, and the ways with it: the steps that the config itself would take, or its minutes."""
    plan, tasks = Plan(**config.train), build_tasks(config)
    sampling = build.build_sampling(config, training_images(config, tasks, plan.seed), tasks, plan)
    steps = plan.total(sampling.steps)
    limit = {"minutes": plan.minutes} if steps is None else {"steps": steps}
    made = []
    for way in ways:
        train = {key: value for key, value in way.config.train.items() if key not in ("steps", "epochs", "minutes")}
        train |= {**limit, "patience": None, "report": False}
        made.append(replace(way, config=replace(way.config, train=train)))
    long = f"{plan.minutes:g} minutes" if steps is None else f"{number(steps)} steps"
    sizes = {p.batch_size * p.accumulate for p in (Plan(**way.config.train) for way in made)}
    each = f" of {number(min(sizes))} images" if len(sizes) == 1 else ", of the numbers of images that each says"
    words = f"Every network was trained for {long}{each}, with the same seeds. Early stopping was off."
    if any(way.column == SEPARATE for way in made):
        words += " A separate network saw the same images as the shared one, with the labels of its task alone."
    return words, made


def _run(folder: Path, way: Variant, seed: int) -> Path:
    return folder / way.name / f"seed-{seed}"


def _train(
    ways: Sequence[Variant], seeds: Sequence[int], folder: Path, jobs: int | None, device: str | None, shown: Console
) -> None:
    """Trains what is not trained yet, seed by seed, so that a comparison that is stopped has whole seeds."""
    everything = [(way, seed) for seed in seeds for way in ways]
    left = [(way, seed) for way, seed in everything if not _finished(_run(folder, way, seed), _seeded(way, seed))]
    if len(left) < len(everything):
        shown.print(f"{len(everything) - len(left)} of {len(everything)} runs are there already", highlight=False)
    gpus = torch.cuda.device_count() if device is None else 0
    jobs = max(1, gpus) if jobs is None else jobs
    if jobs == 1 or len(left) < 2:
        for place, (way, seed) in enumerate(left, 1):
            shown.print(f"run {place} of {len(left)}: {way.name}, seed {seed}", highlight=False)
            _train_one(way, seed, folder, device, shown.quiet)
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    context = multiprocessing.get_context("spawn")
    slots = context.Queue()
    for job in range(jobs):
        slots.put((f"cuda:{job % gpus}" if gpus else device, cores[job::jobs] or cores))
    with ProcessPoolExecutor(jobs, context, initializer=_take, initargs=(slots,)) as pool:
        futures = {pool.submit(_train_here, way, seed, folder): (way, seed) for way, seed in left}
        try:
            for place, future in enumerate(as_completed(futures), 1):
                way, seed = futures[future]
                future.result()
                shown.print(f"run {place} of {len(left)} is done: {way.name}, seed {seed}", highlight=False)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_device: str | None = None
"""Of this process, where it is one of several that train."""


def _take(slots: Queue[tuple[str | None, list[int]]]) -> None:
    """Takes the device and the cores that this process trains on."""
    global _device
    _device, cores = slots.get()
    if cores:
        os.sched_setaffinity(0, cores)


def _train_here(way: Variant, seed: int, folder: Path) -> None:
    _train_one(way, seed, folder, _device, quiet=True)


def _train_one(way: Variant, seed: int, folder: Path, device: str | None, quiet: bool) -> None:
    """Trains one network, or goes on with it."""
    run = _run(folder, way, seed)
    resume = (run / "config.yaml").is_file()
    build.train(_seeded(way, seed), run.name, run.parent, resume, device, quiet)


def _seeded(way: Variant, seed: int) -> Config:
    return replace(way.config, train={**way.config.train, "seed": seed})


def _finished(run: Path, config: Config) -> bool:
    """Whether a run of this config has come to its end.

    Raises:
        CheckpointError: it is there by another config, or went further.
    """
    state = run / "weights" / "state.safetensors"
    if not state.is_file():
        return False
    config_changes(run, config)
    plan, meta = Plan(**config.train), checkpoint.load(state)[1]
    if plan.steps is None:
        return meta["elapsed"] >= 60 * (plan.minutes or 0) and meta["best_results"] is not None
    if meta["step"] > plan.steps:
        raise CheckpointError(
            f"{run}: was trained for {meta['step']} steps; expected {plan.steps}; choose another --out"
        )
    return meta["step"] == meta["validated"] == plan.steps


def table(made: ComparisonResult) -> Table:
    """Each task's headline by every way, and both mean gains."""
    shown = Table(title=f"{made.name}, {made.split}: {len(made.seeds)} seeds, {made.images} images")
    shown.add_column("")
    for variant in made.variants:
        shown.add_column(variant.name, justify="right")
    for task in made.tasks:
        arrow = "higher" if task.better[task.headline] else "lower"
        cells = [
            _cell(variant.values[task.name][task.headline], "{:.4f}") if task.name in variant.values else ""
            for variant in made.variants
        ]
        derived = f" ({task.origin})" if task.origin else ""
        shown.add_row(f"{task.name} {task.headline}, {arrow} is better{derived}", *cells)
    for title, key in (
        ("mean over tasks, %, higher is better", "by_tasks"),
        ("mean over metrics, %, lower is better", "by_metrics"),
    ):
        estimates = [getattr(variant, key) for variant in made.variants]
        if any(estimates):
            shown.add_row(f"Δm, {title}", *(_cell(e, "{:+.2f}") if e else "" for e in estimates))
    return shown


def _cell(value: Estimate, form: str) -> str:
    if value.low != value.low:
        return form.format(value.mean)
    return f"{form.format(value.mean)} ({form.format(value.low)} to {form.format(value.high)})"


def sentences(made: ComparisonResult) -> list[str]:
    """Whether sharing helped, hurt or made no measurable difference, for each task."""
    separate = next((variant for variant in made.variants if variant.name == SEPARATE), None)
    return [verdict(task, made.shared, len(made.seeds), separate) for task in made.tasks if separate]


def _plain(value: Any) -> Any:
    """Ready for JSON, without pictures."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != "pictures"}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
