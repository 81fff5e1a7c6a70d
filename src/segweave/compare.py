"""Is sharing worth it? One network for all tasks against one per task, and other ways to train, at equal budget.

Every way is trained with the same seeds, for the same number of steps. All are measured on the same images with weights
that were not chosen on them, and differences are paired by seed and by image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from segweave import build
from segweave.atomic import write_text
from segweave.comparison import gather, measured_on, result, shares
from segweave.config import Config
from segweave.errors import ConfigError
from segweave.estimates import SEPARATE, Estimate, resamples
from segweave.plan import Plan
from segweave.report.compare_page import comparison_page, verdict
from segweave.report.compared import ComparisonResult
from segweave.run_folder import check_folder
from segweave.terminal import console
from segweave.trials import Trials, equal_budget, plain
from segweave.variants import variants, with_fewer_labels


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
        jobs: runs, and measurements, at once; by default as many as there are GPUs. On a CPU they share its cores.
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
    budget, ways = equal_budget(config, variants(config, changed or {}, separate))
    fewer = [
        replace(share, ways=equal_budget(config, share.ways)[1])
        for share in (with_fewer_labels(config, [*fractions, 1], scarce) if fractions else ())
    ]
    everything = list({way.name: way for way in [*ways, *(way for share in fewer for way in share.ways)]}.values())
    split, images = measured_on(config, split)
    first = Plan(**config.train).seed
    trials = Trials(out / "runs", range(first, first + seeds), jobs, device, shown)
    trials.train(everything)
    runs = {way.name: trials.runs(way) for way in everything}
    measured = trials.measure(everything, split, images.ids, resamples(len(images), draws))
    trained = gather(ways, runs, measured)
    few = [(share, gather(share.ways, runs, measured)) for share in fewer]
    told = shares(few, config, len(images), first)
    made = result(config, trained, images, split, trials.seeds, draws, budget, command, place, told)
    write_text(out / "comparison.json", json.dumps(plain(made), indent=1, ensure_ascii=False))
    write_text(out / "report.html", comparison_page(made))
    return out, made


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
