"""Which tasks should one network learn together? Told from short runs, before the full bill.

One network for all tasks is trained and looked into, one for each task, and one for each pair. What a second task
brought a task in the pairs, or what a step for it did to the task's loss in the network of all, is what it is expected
to bring in any group.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from segweave import build
from segweave.affinities import Probing, matrix, pair, probed, representations, transfer
from segweave.atomic import write_text
from segweave.comparison import Trained, cost_size, gather, made_with, measured_on, network
from segweave.config import Config, dump
from segweave.cost import cost_table
from segweave.data.augment import Resize
from segweave.data.dataset import Dataset
from segweave.data.loader import evaluation_batches
from segweave.data.subset import Subset
from segweave.errors import ConfigError
from segweave.estimates import SEPARATE, SHARED, estimate, resamples
from segweave.groupings import GroupCost, Grouping, groupings, weigh
from segweave.plan import Plan
from segweave.report.advise_page import advice_page
from segweave.report.advised import AdviceResult, AdvisedTask, Proposal
from segweave.report.cost_section import measured_where
from segweave.report.words import percent
from segweave.run_folder import check_folder
from segweave.sources import build_tasks, training_images
from segweave.tasks.task import Task
from segweave.terminal import console
from segweave.trials import Trials, equal_budget, plain, planned
from segweave.variants import Variant, alone, variants

_SHARE = 10
"""The config's steps to one step of a short run."""
_LEAST = 50
"""Steps of a short run, where the config has as many."""
_PROBES = 20
"""Batches of a run on which the gradients of the tasks are compared."""
_IMAGES = 64
"""Images on which representations are compared."""


def advise(
    config: Config,
    *,
    steps: int | None = None,
    seeds: int = 2,
    pairs: bool = True,
    importance: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
    out: Path | None = None,
    split: str = "val",
    draws: int = 200,
    jobs: int | None = None,
    device: str | None = None,
    command: str = "",
    shown: Console | None = None,
) -> tuple[Path, AdviceResult]:
    """Trains short runs, measures, and writes `advice.json`, `report.html` and a config for each proposed network.

    Runs that are there already are not trained again, and one that was stopped goes on.

    Args:
        config: from `read_config` or `check_config`, with at least two tasks.
        steps: of each short run; by default a tenth of the config's, and at least 50 of them.
        seeds: how many, from the config's own on.
        pairs: whether to train a network for each pair of tasks; without them the advice rests on the lookahead.
        importance: weights of the tasks' gains by name; 1 by default.
        limits: the most that the networks may cost together: `parameters`, `macs`, `milliseconds`, `peak_megabytes` or
            `networks`.
        out: the folder; `advise/<name of the config>` by default.
        split: where to measure, by default `val`: what is chosen on the images of `test` looks better there than it is.
        draws: resamples of the images behind the intervals of gains.
        jobs: runs at once; by default as many as there are GPUs. On a CPU they share its cores.
        device: `cpu`, `cuda` or `cuda:N` for all runs; by default a GPU for each job where there is one.
        command: that does this again, for the page.
        shown: where progress is printed; nowhere by default.

    Raises:
        ConfigError: fewer than two tasks, an option out of its range, or limits that no grouping keeps.
        SegweaveError: whatever in the config or the data cannot be used, or a folder that holds other runs.
    """
    tasks = {task.name: task for task in build_tasks(config)}
    weights = _importance(tasks, importance or {})
    if len(tasks) < 2:
        raise ConfigError(f"tasks: found {', '.join(tasks)}; expected two or more to advise on")
    for option, value, least in (("seeds", seeds, 1), ("resamples", draws, 2), ("steps", steps or _LEAST, 4)):
        if value < least:
            raise ConfigError(f"--{option}: found {value}; expected at least {least}")
    out = Path("advise") / Path(config.source).stem if out is None else out
    shown = shown or console(quiet=True)
    check_folder(out)
    whole = planned(config)
    if steps is None:
        if whole is None:
            raise ConfigError("train.minutes: found a budget in minutes; expected --steps of the short runs with it")
        steps = min(whole, max(_LEAST, whole // _SHARE))
    split, images = measured_on(config, split)
    budget, ways = equal_budget(config, _ways(config, steps, pairs), steps)
    first = Plan(**config.train).seed
    trials = Trials(out / "runs", range(first, first + seeds), jobs, device, shown)
    shared = next(way for way in ways if way.name == SHARED)
    trials.train([shared], partial(Probing, max(1, steps // _PROBES)))
    place, names = build.choose_device(device), list(tasks)
    costs = cost_table(network(trials.run(shared, first), split).to(place), *cost_size(config, images))
    cost = GroupCost(costs["shared"], [costs["separate"][name] for name in names])
    weighed, asked = [weights[name] for name in names], limits or {}
    # limits that nothing keeps are said before all else is trained
    groupings(np.zeros((len(names), len(names))), cost, weighed, asked, 1, names=names)
    trials.train([way for way in ways if way is not shared])
    measured = trials.measure(ways, split, images.ids, resamples(len(images), draws))
    trained = {one.name: one for one in gather(ways, {way.name: trials.runs(way) for way in ways}, measured)}

    measures = [
        *([transfer(tasks, trained, len(images))] if pairs else []),
        *probed(names, trials.runs(shared)),
        representations(names, trained[SEPARATE], _inputs(images, config), split, place),
    ]
    affinity = matrix(measures[0])
    unknown = ~np.isfinite(affinity) & ~np.eye(len(names), dtype=bool)
    affinity[unknown] = 0.0
    arguments = affinity, cost, weighed, asked
    found = groupings(*arguments, names=names)
    together, apart = (weigh(groups, *arguments) for groups in ([range(len(names))], [[i] for i in range(len(names))]))
    proposals = _proposals(names, found.found, {"all together": together, "each by itself": apart}, cost)
    proposals[0] = replace(proposals[0], configs=_written(config, proposals[0].groups, out / "groups"))
    notes = [
        f"What {names[j]} brings {names[i]} is not known and was taken as 0." for i, j in np.argwhere(unknown).tolist()
    ]
    if measured_on(config)[0] == split:
        notes.append(
            f"`compare` measures on {split} as well, on the images of this choice, which looks better there than it is."
        )
    if not pairs:
        notes.append("Without pairs, expected gains are those of a step's loss in per cent, not of the metric.")
    made = AdviceResult(
        name=Path(config.source).stem,
        lead=f"{len(tasks)} tasks: {', '.join(tasks)}. Which of them one network should learn together.",
        tasks=_tasks(config, tasks, trained[SEPARATE], costs, cost, weights, first, len(images)),
        measures=measures,
        proposals=proposals,
        limits=asked,
        exact=found.exact,
        seeds=list(trials.seeds),
        steps=steps,
        planned=whole,
        split=split,
        images=len(images),
        budget=budget,
        cost_where=measured_where(costs),
        command=command,
        facts=made_with(trials.run(shared, first), trials.seeds),
        config=dump(config.sections()),
        notes=notes,
    )
    write_text(out / "advice.json", json.dumps(plain(made), indent=1, ensure_ascii=False))
    write_text(out / "report.html", advice_page(made))
    return out, made


def _importance(tasks: Collection[str], given: Mapping[str, float]) -> dict[str, float]:
    for name, value in given.items():
        if name not in tasks:
            raise ConfigError(f"--importance {name}: no such task; expected some of {', '.join(tasks)}")
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"--importance {name}: found {value}; expected a number of at least 0")
    weights = {name: given.get(name, 1.0) for name in tasks}
    if not any(weights.values()):
        raise ConfigError("--importance: found 0 for every task; expected a number above 0 for one of them")
    return weights


def _ways(config: Config, steps: int, pairs: bool) -> list[Variant]:
    """The network of all tasks, those of pairs, and those of single ones."""
    train = dict(config.train)
    # a schedule as a whole, with the config's share of warm-up at most, validated at its end alone
    warmup = min(Plan(**train).warmup, steps // 5)
    short = replace(config, train={**train, "warmup": warmup, "validate_every": steps})
    names = [task.name for task in build_tasks(config)]
    both = {pair(a, b): [f"tasks={a},{b}"] for a, b in combinations(names, 2) if pairs and len(names) > 2}
    return variants(short, both)


def _inputs(images: Dataset, config: Config) -> list[torch.Tensor]:
    """Batches of images on which representations are compared: evenly spread ones, as they are evaluated."""
    chosen = np.linspace(0, len(images) - 1, min(_IMAGES, len(images))).round().astype(int).tolist()
    return [batch for batch, _ in evaluation_batches(Subset(images, chosen), Resize(config.data.get("size")))]


def _proposals(
    names: Sequence[str], found: Sequence[Grouping], special: Mapping[str, Grouping], cost: GroupCost
) -> list[Proposal]:
    """The groupings by their names, with those that stand for something among them or behind them."""
    titles = {one.groups: title for title, one in special.items()}
    known = {one.groups for one in found}
    behind = [one for one in special.values() if one.groups not in known]
    return [
        Proposal(
            groups=[[names[task] for task in group] for group in one.groups],
            gains=dict(zip(names, one.gains, strict=True)),
            gain=one.gain,
            cost=one.cost,
            costs=[cost([group]) for group in one.groups],
            fits=one.fits,
            title=titles.get(one.groups, ""),
        )
        for one in [*found, *behind]
    ]


def _written(config: Config, groups: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """A config for each network; those of an earlier advice are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for before in folder.glob("*.yaml"):
        before.unlink()
    paths = []
    for place, group in enumerate(groups, 1):
        path = folder / f"{place}-{'-'.join(group)}"[:100]
        text = f"# Network {place} of {len(groups)}: {', '.join(group)}.\n{dump(alone(config, group).sections())}"
        write_text(path.with_name(f"{path.name}.yaml"), text)
        paths.append(f"{path}.yaml")
    return paths


def _tasks(
    config: Config,
    tasks: Mapping[str, Task],
    separate: Trained,
    costs: Mapping[str, Any],
    cost: GroupCost,
    importance: Mapping[str, float],
    seed: int,
    measured: int,
) -> list[AdvisedTask]:
    training = training_images(config, list(tasks.values()), seed)
    found = []
    for place, (name, task) in enumerate(tasks.items()):
        metric = task.metric()
        found.append(
            AdvisedTask(
                name=name,
                kind=task.kind,
                headline=metric.headline,
                unit=metric.unit,
                better=metric.keys[metric.headline],
                importance=importance[name],
                labelled=training.labelled(name),
                images=len(training),
                cost=costs["separate"][name],
                added={key: values[place] for key, values in cost.added.items()},
                seconds=[history.seconds for history in separate.histories[place]],
                alone=estimate(separate.values[name][metric.headline], measured),
                origin=task.origin or "",
            )
        )
    return found


def table(made: AdviceResult) -> Table:
    """The proposals with their expected gains and costs."""
    shown = Table(title=f"{made.name}: {len(made.tasks)} tasks, {len(made.seeds)} seeds of {made.steps} steps")
    shown.add_column("tasks, a bar between networks")
    for column in ("expected gain, %", "networks", "parameters", "latency, ms", "peak memory, MB"):
        shown.add_column(column, justify="right")
    for one in made.proposals:
        groups = " | ".join(", ".join(group) for group in one.groups)
        kept = "" if one.fits else ", beyond the limits"
        title = f" ({one.title}{kept})" if one.title else kept
        numbers = [f"{one.cost[key]:.4g}" for key in ("milliseconds", "peak_megabytes")]
        size = f"{one.cost['parameters'] / 1e6:.2f} M"
        shown.add_row(f"{groups}{title}", percent(one.gain), f"{one.cost['networks']:.0f}", size, *numbers)
    return shown
