"""Many ways to train, trained at equal budget and measured alike, in several processes where that is wanted."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console

from segweave import build, checkpoint
from segweave.comparison import Measured, measure
from segweave.config import Config
from segweave.errors import CheckpointError
from segweave.estimates import SEPARATE
from segweave.plan import Plan
from segweave.report.html import number
from segweave.resume import config_changes
from segweave.sources import build_tasks, training_images
from segweave.variants import Variant

_T = TypeVar("_T")


def equal_budget(config: Config, ways: Sequence[Variant], steps: int | None = None) -> tuple[str, list[Variant]]:
    """The budget in words, and the ways with it.

    Args:
        steps: of each network; by default those that the config itself would take, or its minutes.
    """
    plan, tasks = Plan(**config.train), build_tasks(config)
    if steps is None:
        steps = planned(config)
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
    if any(way.column == SEPARATE for way in made) and len(tasks) > 1:
        words += " A separate network saw the same images as the shared one, with the labels of its task alone."
    return words, made


def planned(config: Config) -> int | None:
    """Optimizer steps that a config asks for; None where it asks for minutes."""
    plan, tasks = Plan(**config.train), build_tasks(config)
    sampling = build.build_sampling(config, training_images(config, tasks, plan.seed), tasks, plan)
    return plan.total(sampling.steps)


@dataclass(frozen=True)
class Trials:
    """Where ways to train are trained, and how.

    Args:
        folder: of the runs.
        seeds: that each way is trained with.
        jobs: runs, and measurements, at once; None for as many as there are GPUs. On a CPU they share its cores.
        device: for all of them; None for a GPU each where there is one.
        shown: where progress is printed.
    """

    folder: Path
    seeds: Sequence[int]
    jobs: int | None
    device: str | None
    shown: Console

    def run(self, way: Variant, seed: int) -> Path:
        """The run folder of a way and a seed."""
        return self.folder / way.name / f"seed-{seed}"

    def runs(self, way: Variant) -> list[Path]:
        return [self.run(way, seed) for seed in self.seeds]

    def train(self, ways: Sequence[Variant], watch: Callable[[Path, int], build.Watch] | None = None) -> None:
        """Trains what is not trained yet, seed by seed, so that what is stopped has whole seeds.

        A run that is finished is not trained again, and one that was stopped goes on.

        Args:
            watch: makes from a run folder and its seed what is told before every step; another process must be able to
                get it.

        Raises:
            SegweaveError: whatever cannot be used, or a folder that holds other runs.
        """
        everything = [(way, seed) for seed in self.seeds for way in ways]
        left = [pair for pair in everything if not _finished(self.run(*pair), _seeded(*pair))]
        if len(left) < len(everything):
            found = f"{len(everything) - len(left)} of {len(everything)} runs are there already"
            self.shown.print(found, highlight=False)
        work = {}
        for way, seed in left:
            made = partial(watch, self.run(way, seed), seed) if watch else None
            do = partial(_train_one, _seeded(way, seed), self.run(way, seed), self.shown.quiet or self._several, made)
            work[f"run {way.name}, seed {seed}"] = do
        self.each(work)

    def measure(
        self, ways: Sequence[Variant], split: str, ids: Sequence[str], counts: np.ndarray
    ) -> dict[Path, Measured]:
        """What `comparison.measure` finds of every run."""
        work = {
            self.run(way, seed): partial(_measure_one, self.run(way, seed), way, split, list(ids), counts)
            for way in ways
            for seed in self.seeds
        }
        self.shown.print(f"measuring {len(work)} networks on {len(ids)} images of {split}", highlight=False)
        return dict(zip(work, self.each({str(run): do for run, do in work.items()}, silent=True), strict=True))

    @property
    def _several(self) -> bool:
        return (self.jobs or 1) > 1 or (self.jobs is None and self.device is None and torch.cuda.device_count() > 1)

    def each(self, work: Mapping[str, Callable[[str | None], _T]], silent: bool = False) -> list[_T]:
        """Does all of it on a device each, in processes of their own where there are several jobs.

        Args:
            work: by what is said of it, a function of a device that another process can be sent.
            silent: prints nothing.
        """
        gpus = torch.cuda.device_count() if self.device is None else 0
        jobs = max(1, gpus) if self.jobs is None else self.jobs

        def say(text: str) -> None:
            if not silent:
                self.shown.print(text, highlight=False)

        if jobs == 1 or len(work) < 2:
            found = []
            for place, (name, do) in enumerate(work.items(), 1):
                say(f"{place} of {len(work)}: {name}")
                found.append(do(self.device))
            return found
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        context = multiprocessing.get_context("spawn")
        slots = context.Queue()
        for job in range(jobs):
            slots.put((f"cuda:{job % gpus}" if gpus else self.device, cores[job::jobs] or cores))
        with ProcessPoolExecutor(jobs, context, initializer=_take, initargs=(slots,)) as pool:
            futures = {pool.submit(_here, do): name for name, do in work.items()}
            try:
                for place, future in enumerate(as_completed(futures), 1):
                    future.result()
                    say(f"{place} of {len(work)} is done: {futures[future]}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            return [future.result() for future in futures]


_device: str | None = None
"""Of this process, where it is one of several."""


def _take(slots: Queue[tuple[str | None, list[int]]]) -> None:
    """Takes the device and the cores that this process works on."""
    global _device
    _device, cores = slots.get()
    if cores:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(len(cores))


def _here(do: Callable[[str | None], _T]) -> _T:
    return do(_device)


def _train_one(
    config: Config, run: Path, quiet: bool, watch: Callable[[], build.Watch] | None, device: str | None
) -> None:
    """Trains one network, or goes on with it."""
    resume = (run / "config.yaml").is_file()
    build.train(config, run.name, run.parent, resume, device, quiet, watch=watch() if watch else None)


def _measure_one(
    run: Path, way: Variant, split: str, ids: Sequence[str], counts: np.ndarray, device: str | None
) -> Measured:
    return measure(run, way, split, ids, counts, build.choose_device(device))


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


def plain(value: Any) -> Any:
    """A page's values ready for JSON, without pictures; null for nan."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "pictures"}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
