"""Task weights, regularisers' weights, learning rate and method by search: what a balancing method has to beat.

Every trial is trained like the config, for as many steps. Its score is the mean relative gain over trial 0, the config
itself, on images that `compare` does not measure on: the best of many trials flatters on the images that chose it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from segweave import build
from segweave.atomic import write_text
from segweave.comparison import measured_on
from segweave.config import Config, dump
from segweave.data.dataset import Dataset
from segweave.errors import ConfigError, DivergedError
from segweave.estimates import gain, mean_gain
from segweave.evaluate import Results, headline
from segweave.plan import Plan
from segweave.report.html import number
from segweave.resume import all_options
from segweave.run_folder import check_folder
from segweave.search_space import Space, search_space, tried
from segweave.sources import build_tasks, training_and_validation
from segweave.tasks.task import Task
from segweave.terminal import console
from segweave.trials import planned

if TYPE_CHECKING:
    from optuna.trial import Trial

    from segweave.study import Ended, Study

_SHOWN = 10
"""Trials in the table at most."""
_PER_KEY = 10
"""Trials that ended, by key that is searched, below which the search is said to be small."""
_FREE = ("workers", "compile", "report", "track")
"""Of the section `train`: what a study may go on with otherwise."""

Headlines = Mapping[str, float]
"""By task; nan where it is undefined."""


@dataclass(frozen=True)
class Tried:
    """A trial that came to its end.

    Args:
        number: from 0, the config itself.
        state: `finished`, `pruned`, `diverged` (its loss was no longer finite) or `undefined` (a headline was).
        changes: to the config, `section.key=value` each; none of trial 0.
        values: by key, as they are written in the changes.
        gain: mean over tasks of the headline's relative gain over trial 0, in per cent; None for one that did not
            finish.
        headlines: by task, of its last validation.
    """

    number: int
    state: str
    changes: Sequence[str]
    values: Mapping[str, str]
    gain: float | None
    headlines: Headlines


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Args:
        name: of the config.
        images: which images the trials were scored on, in words.
        budget: of each trial, in words.
        space: what was searched.
        trials: those that came to their end, in order.
    """

    name: str
    images: str
    budget: str
    space: Sequence[str]
    trials: Sequence[Tried]

    @property
    def best(self) -> Tried:
        return max(self.trials, key=lambda trial: -math.inf if trial.gain is None else trial.gain)


def tune(
    config: Config,
    *,
    trials: int = 30,
    search: Sequence[str] = (),
    methods: Sequence[str] = (),
    share: float = 0.2,
    out: Path | None = None,
    device: str | None = None,
    shown: Console | None = None,
) -> tuple[Path, Tuned]:
    """Trains, and writes `best.yaml` and `tune.json` after every trial; returns the folder and what was found.

    A search that was stopped goes on: trials that ended are kept, the one that was stopped is trained to its end.

    Args:
        config: from `read_config` or `check_config`.
        trials: how many in all, with those that are there.
        search, methods: as `search_space` takes them.
        share: of the training images that are held out to score on, where `compare` measures on `val`.
        out: the folder; `tune/<name of the config>` by default.
        device: `cpu`, `cuda` or `cuda:N`; by default cuda where there is one.
        shown: where progress is printed; nowhere by default.

    Raises:
        ConfigError: Optuna is missing, a space that cannot be searched, a headline of trial 0 to which no gain is
            relative, or a folder with another search.
        SegweaveError: whatever in the config or the data cannot be used.
    """
    try:
        from segweave.study import Study
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ConfigError('tune needs optuna: pip install "segweave[tune]"') from None
    if trials < 1:
        raise ConfigError(f"--trials: found {trials}; expected at least 1")
    if not 0 < share < 1:
        raise ConfigError(f"--holdout: found {share:g}; expected a share of the training images between 0 and 1")
    space = search_space(config, search, methods)
    out = Path("tune") / Path(config.source).stem if out is None else out
    shown = shown or console(quiet=True)
    check_folder(out)
    build.choose_device(device)
    held_out = share if measured_on(config)[0] == "val" else None
    tasks, plan = build_tasks(config), Plan(**config.train)
    parts = training_and_validation(config, tasks, plan.seed, held_out)
    budget, limits = _budget(config, plan)
    images = _images(parts, held_out)
    shown.print(f"scored on {images}", highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    about = {section: dict(options) for section, options in all_options(config).items()}
    about["train"] = {key: value for key, value in about["train"].items() if key not in _FREE}
    about["tune"] = {"search": [str(dimension) for dimension in space], "holdout": held_out}
    study = Study(out / "trials.journal", about, space, plan.seed, (limits.get("steps") or 0) // 3)

    def found() -> Tuned:
        tried_so_far = [_tried(ended, space, out, tasks) for ended in study.ended()]
        return Tuned(Path(config.source).stem, images, budget, about["tune"]["search"], tried_so_far)

    first: Mapping[int, Headlines] = {}
    for place in range(trials):
        trial = study.begin(place)
        if trial is not None:
            changes = _changes(space, trial.params, place)
            shown.print(f"trial {place} of {trials}: {' '.join(changes) or 'the config itself'}", highlight=False)
            made = tried(config, changes)
            made = replace(made, train={**made.train, **limits})
            told = _attempt(study, trial, made, out, first, tasks, held_out, device, shown.quiet)
            shown.print(f"trial {place} of {trials}: {told}", highlight=False)
            _write(out, config, found())
        first = first or _validations(out, 0, tasks)
    return out, found()


def _budget(config: Config, plan: Plan) -> tuple[str, dict[str, Any]]:
    """How long each trial is trained, in words and as keys of `train`: as the config itself with all of its images."""
    steps = planned(config)
    limit = {"minutes": plan.minutes} if steps is None else {"steps": steps}
    limits = dict.fromkeys(("steps", "epochs", "minutes", "patience")) | limit | {"report": False}
    return f"{plan.minutes:g} minutes" if steps is None else f"{number(steps)} steps", limits


def _images(parts: tuple[Dataset, Dataset], held_out: float | None) -> str:
    training, scoring = map(len, parts)
    if held_out is None:
        return f"the {scoring} images of split val: `compare` measures on split test"
    return f"{scoring} of the {training + scoring} training images, held out: `compare` measures on split val"


def _attempt(
    study: Study,
    trial: Trial,
    config: Config,
    out: Path,
    first: Mapping[int, Headlines],
    tasks: Sequence[Task],
    held_out: float | None,
    device: str | None,
    quiet: bool,
) -> str:
    """Trains one, or goes on with it, and tells the study how it ended; returns that in words.

    Args:
        first: the headlines of trial 0 by step; empty for that one itself.
    """
    run = _run(out, trial.number)
    stopped = bool(first) and trial.should_prune()  # it may have been stopped as it was about to be pruned

    def go_on(step: int, results: Results) -> bool:
        nonlocal stopped
        if step in first:
            now = {name: value for name, (value, _) in headline(results, tasks).items()}
            stopped = _report(study, trial, step, delta_m(now, first[step], tasks)) and trial.should_prune()
        return not stopped

    if not stopped:
        try:
            resume = (run / "config.yaml").is_file()
            build.train(config, run.name, out, resume, device, quiet, held_out=held_out, go_on=go_on)
        except DivergedError:
            if not first:
                raise
            study.give_up(trial, "diverged")
            return "given up, the loss was no longer finite"
    history = _validations(out, trial.number, tasks)
    if stopped:
        study.give_up(trial, "pruned")
        return f"pruned after step {max(history)}"
    base = first or history
    for step in history.keys() & base.keys():
        _report(study, trial, step, delta_m(history[step], base[step], tasks))
    score = delta_m(_last(history), _last(base), tasks)
    if math.isfinite(score):
        study.finish(trial, score)
        return f"Δm {score:+.2f} %"
    if first:
        study.give_up(trial, "undefined")
        return "given up, a headline is undefined"
    wrong = {name: value for name, value in _last(base).items() if not value or math.isnan(value)}
    raise ConfigError(
        f"{run}: found the headlines {wrong}; expected numbers other than 0, to which gains are relative: train for "
        f"longer, or leave these tasks out by tasks.{next(iter(wrong))}.predict=false"
    )


def _report(study: Study, trial: Trial, step: int, score: float) -> bool:
    """Whether there is a score to report."""
    if math.isfinite(score):
        study.report(trial, step, score)
    return math.isfinite(score)


def delta_m(new: Headlines, old: Headlines, tasks: Sequence[Task]) -> float:
    """Mean over tasks of the relative gain of the headline in per cent, higher is better: `estimates.mean_gain`.

    nan where a headline is undefined, or was 0 before.
    """
    gains = {}
    for task in tasks:
        now, before = (np.array([[headlines[task.name]]]) for headlines in (new, old))
        gains[task.name] = gain(now, before, task.metric().higher_is_better)
    return float(mean_gain(gains)[0, 0])


def _run(out: Path, place: int) -> Path:
    return out / f"trial-{place:04d}"


def _validations(out: Path, place: int, tasks: Sequence[Task]) -> dict[int, Headlines]:
    """The headlines of a trial's validations by step, in order; none of one that diverged before its first."""
    log = _run(out, place) / "metrics.jsonl"
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines() if log.is_file() else ())
    keys = {task.name: f"{task.name}/{task.metric().headline}" for task in tasks}
    return {
        line["step"]: {name: math.nan if line[key] is None else line[key] for name, key in keys.items()}
        for line in lines
        if line.get("split") == "val"
    }


def _last(history: Mapping[int, Headlines]) -> Headlines:
    return history[max(history)] if history else {}


def _changes(space: Space, values: Mapping[str, Any], place: int) -> list[str]:
    """What a trial changes about the config; trial 0 nothing, to the last digit."""
    return [dimension.change(values[dimension.key]) for dimension in space] if place else []


def _tried(ended: Ended, space: Space, out: Path, tasks: Sequence[Task]) -> Tried:
    values = {d.key: d.change(ended.values[d.key]).partition("=")[2] for d in space}
    headlines = _last(_validations(out, ended.number, tasks))
    return Tried(ended.number, ended.state, _changes(space, ended.values, ended.number), values, ended.score, headlines)


def _write(out: Path, config: Config, tuned: Tuned) -> None:
    """Raises ConfigError where the folder cannot be written to."""
    best = tried(config, tuned.best.changes)
    told: dict[str, Any] = asdict(tuned) | {"best": tuned.best.number}
    for trial in told["trials"]:
        trial["headlines"] = {name: None if math.isnan(v) else v for name, v in trial["headlines"].items()}
    try:
        write_text(out / "best.yaml", dump({name: section for name, section in best.sections().items() if section}))
        write_text(out / "tune.json", json.dumps(told, indent=1, ensure_ascii=False))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None


def table(tuned: Tuned) -> Table:
    """The best trials and the config itself, with what they changed and each task's headline."""
    best = sorted((t for t in tuned.trials if t.gain is not None), key=lambda trial: -(trial.gain or 0))
    rows = best[:_SHOWN] if tuned.trials[0] in best[:_SHOWN] else [*best[: _SHOWN - 1], tuned.trials[0]]
    shown = Table(title=f"{tuned.name}: the best of {len(tuned.trials)} trials of {tuned.budget}")
    for name in ("trial", "Δm, %", *rows[0].values, *rows[0].headlines):
        shown.add_column(name, justify="right")
    for trial in rows:
        place = "config" if trial.number == 0 else str(trial.number)
        cells = [f"{value:.4f}" for value in trial.headlines.values()]
        shown.add_row(place, f"{trial.gain:+.2f}", *trial.values.values(), *cells)
    return shown


def sentences(tuned: Tuned) -> list[str]:
    """How the trials ended, and what their scores are worth."""
    counts = Counter(trial.state for trial in tuned.trials)
    told = [
        f"{len(tuned.trials)} trials of {tuned.budget}: {', '.join(f'{n} {state}' for state, n in counts.items())}. "
        f"Scored on {tuned.images}."
    ]
    if len(tuned.trials) < _PER_KEY * len(tuned.space):
        told.append(f"That is a small search: {len(tuned.trials)} trials for {len(tuned.space)} keys.")
    if tuned.best.changes:
        told.append(
            f"The Δm of the best of {counts['finished']} on the images that chose it is optimistic; `compare` gives "
            f"the honest number, over several seeds:"
        )
    else:
        told.append("No trial was better than the config itself.")
    return told
