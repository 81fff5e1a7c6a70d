"""Balancing methods on NYUv2: the same steps, seeds and batches for all, beside one network per task.

    python benchmarks/methods.py                                    # the committed table: about 45 minutes on one core
    python benchmarks/methods.py --methods upgrad,config --seeds 5 --steps 640 --runs runs/longer --out longer.md
    python benchmarks/methods.py data.size=[180,240] --runs runs/larger --out larger.md    # section.key=value, for all

Data and tasks are those of `examples/nyuv2.yaml`; the images are smaller and the decoder is narrower. Within a seed all
methods start from the same weights and see the same batches, so differences to `equal` are paired. What is measured is
the network after the LAST step, on the 50 test images, at the labels' own size: nothing is chosen on them. A finished
run is kept in the folder of `--runs` and not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from scipy import stats

import segweave
from segweave import build, fit, read_config
from segweave.balancing import METHODS
from segweave.batch import Batch
from segweave.config import Config
from segweave.data.augment import Augment
from segweave.data.loader import Effective, Loader
from segweave.optimizers import Schedule, build_optimizer, parameter_groups
from segweave.plan import Plan

EXAMPLE = Path(__file__).parents[1] / "examples" / "nyuv2.yaml"
SMALLER = ("data.size=[96, 128]", "model.decoder={name: fpn, width: 64}")
EIGHT = ("equal", "uncertainty", "random", "famo", "mgda", "pcgrad", "cagrad", "nash_mtl")
BASELINE = "equal"
SINGLE = "one network per task"


class Metric(NamedTuple):
    """A value that is reported, its unit's factor and digits, and whether it stands for its task."""

    task: str
    key: str
    title: str
    higher: bool
    factor: float
    digits: int
    headline: bool


METRICS = (
    Metric("semantic", "miou", "mIoU, %", True, 100, 2, True),
    Metric("semantic", "pixel_accuracy", "pixel accuracy, %", True, 100, 2, False),
    Metric("depth", "abs_rel", "abs_rel", False, 1, 4, True),
    Metric("depth", "rmse", "rmse, m", False, 1, 4, False),
)

Figures = Mapping[str, float]
"""Metric values of one run by key."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of two or more values, and half the width of its two-sided 95 % interval by Student's t."""
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(stats.t.ppf(0.975, len(values) - 1)) * spread


def verdict(differences: Sequence[float], higher: bool) -> str:
    """`better` or `worse` where the interval of the mean paired difference leaves out 0, else `no difference seen`."""
    mean, half = interval(differences)
    if abs(mean) <= half:
        return "no difference seen"
    return "better" if (mean > 0) is higher else "worse"


def gain(metric: Metric, run: Figures, single: Figures) -> float:
    """Relative change beside the single-task value, positive for better."""
    change = (run[metric.key] - single[metric.key]) / single[metric.key]
    return change if metric.higher else -change


def delta_metrics(run: Figures, single: Figures) -> float:
    """Mean relative drop over all metrics in per cent: lower is better (as in CAGrad, Nash-MTL and FAMO)."""
    return -100 * statistics.mean(gain(metric, run, single) for metric in METRICS)


def delta_tasks(run: Figures, single: Figures) -> float:
    """Mean relative gain over tasks, by one metric each, in per cent: higher is better (Maninis et al. 2019)."""
    return 100 * statistics.mean(gain(metric, run, single) for metric in METRICS if metric.headline)


def stream_of(config: Config) -> list[Effective]:
    """All training batches of one seed, with the labels of every task."""
    plan = Plan(**config.train)
    tasks = build.build_tasks(config)
    dataset = build.build_dataset(config, "train", tasks)
    augment = Augment(config.data["size"], **(config.data.get("augment") or {}))
    loader = Loader(
        dataset,
        {task.name: task for task in tasks},
        augment,
        batch_size=plan.batch_size,
        accumulate=plan.accumulate,
        seed=plan.seed,
    )
    return list(islice(loader, plan.steps))


def only(config: Config, stream: Sequence[Effective], task: str) -> tuple[Config, list[Effective]]:
    """The config and the batches of one task alone."""
    alone = [
        Effective(item.step, item.epoch, [Batch(b.ids, b.images, {task: b.targets[task]}) for b in item.micro])
        for item in stream
    ]
    return Config(**{**config.sections(), "tasks": {task: config.tasks[task]}}, source=config.source), alone


def train(config: Config, stream: Sequence[Effective]) -> dict[str, Any]:
    """One run from its first to its last step, then the test images.

    Returns:
        `figures` by metric; `conflicts`, the share of steps in which the gradients of the tasks had a negative cosine,
        None for methods that do not look; `skipped`, the steps left out as not finite.
    """
    plan = Plan(**config.train)
    torch.manual_seed(plan.seed)
    tasks = build.build_tasks(config)
    model = build.create_model(tasks, **config.model)
    options = {key: value for key, value in config.balancing.items() if key != "method"}
    balancer = METHODS.load(config.balancing["method"])([task.name for task in tasks], plan.seed, **options)
    groups = parameter_groups(model, balancer, plan.lr, plan.weight_decay, plan.backbone_lr_scale, plan.freeze)
    optimizer = build_optimizer(plan.optimizer, groups)
    steps = list(
        fit(
            model,
            stream,
            optimizer=optimizer,
            balancer=balancer,
            schedule=Schedule(optimizer, plan.schedule, plan.warmup),
            progress=lambda step: step / len(stream),
            clip=plan.clip,
            precision=plan.precision,
            seed=plan.seed,
        )
    )
    cosines = [value for step in steps for value in step.cosines.values()]
    results = build.build_validation(config, build.build_dataset(config, "val", tasks), 0)(model)
    return {
        "figures": {m.key: results[m.task][m.key] for m in METRICS if m.task in results},
        "conflicts": statistics.mean(value < 0 for value in cosines) if cosines else None,
        "skipped": sum(bool(step.not_finite) for step in steps),
    }


def made_by() -> dict[str, str]:
    """The code that trains."""
    command = ["git", "-C", str(Path(segweave.__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    versions = {name: version(name) for name in ("torch", "torchvision", "timm")}
    commit = f"{version('segweave')} (commit {done.stdout.strip() or 'unknown'})"
    return {"segweave": commit, **versions, "python": platform.python_version()}


def run_all(
    methods: Sequence[str], seeds: Sequence[int], changes: Sequence[str], folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Every method and single-task network with every seed, read from the folder where it is there already.

    Raises:
        SystemExit: the folder holds a run by other settings or other code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    code = made_by()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        config = read_config(EXAMPLE, [*SMALLER, *changes, f"train.seed={seed}"])
        stream: list[Effective] = []
        for name in [*methods, *config.tasks]:
            method = "equal" if name in config.tasks else name
            own = read_config(EXAMPLE, [*SMALLER, *changes, f"train.seed={seed}", f"balancing.method={method}"])
            settings = json.loads(json.dumps({"config": own.sections(), "code": code}))
            file = folder / f"{name}-{seed}.json"
            if not file.is_file():
                started = time.perf_counter()
                stream = stream or stream_of(config)
                made = train(*(only(own, stream, name) if name in config.tasks else (own, stream)))
                place = {"date": date.today().isoformat(), "machine": f"{processor()}, {os.cpu_count()} cores"}
                file.write_text(json.dumps({**made, **place, "settings": settings}, indent=1), encoding="utf-8")
                shown = ", ".join(f"{key} {value:.4f}" for key, value in made["figures"].items())
                print(f"seed {seed}, {name}: {shown} ({time.perf_counter() - started:.0f} s)", flush=True)
            run = json.loads(file.read_text(encoding="utf-8"))
            if run["settings"] != settings:
                raise SystemExit(
                    f"{file}: made with other settings or code; expected {settings}; choose another --runs"
                )
            found.setdefault(name, []).append(run)
    return found


def shown(metric: Metric, value: float, sign: str = "") -> str:
    return f"{metric.factor * value:{sign}.{metric.digits}f}"


def with_interval(metric: Metric, values: Sequence[float], sign: str = "") -> str:
    mean, half = interval(values)
    return f"{shown(metric, mean, sign)} ± {shown(metric, half)}"


def percent(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:+.1f} ± {half:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def column(figures: Sequence[Figures], metric: Metric) -> list[float]:
    return [run[metric.key] for run in figures]


def differences(figures: Mapping[str, Sequence[Figures]], name: str, metric: Metric) -> list[float]:
    """Seed by seed, the method's value minus the baseline's."""
    pairs = zip(column(figures[name], metric), column(figures[BASELINE], metric), strict=True)
    return [own - base for own, base in pairs]


def accuracy_table(figures: Mapping[str, Sequence[Figures]], conflicts: Mapping[str, str]) -> str:
    """Means and intervals of every method, and both delta-m beside the single-task networks of the same seed."""
    arrows = [f"{metric.title} {'↑' if metric.higher else '↓'}" for metric in METRICS]
    head = ["method", *arrows, "Δm over metrics, % ↓", "Δm over tasks, % ↑", "steps in conflict"]
    rows = []
    for name, runs in figures.items():
        pairs = list(zip(runs, figures[SINGLE], strict=True))
        deltas = [percent([delta(*pair) for pair in pairs]) for delta in (delta_metrics, delta_tasks)]
        deltas = ["", ""] if name == SINGLE else deltas
        title = name if name == SINGLE else f"`{name}`"
        values = [with_interval(metric, column(runs, metric)) for metric in METRICS]
        rows.append([title, *values, *deltas, conflicts.get(name, "")])
    return table(head, rows)


def difference_table(figures: Mapping[str, Sequence[Figures]]) -> str:
    """Paired differences to the baseline, in words and figures."""
    rows = []
    for name in figures:
        if name != BASELINE:
            cells = []
            for metric in METRICS:
                found = differences(figures, name, metric)
                cells.append(f"{verdict(found, metric.higher)} ({with_interval(metric, found, '+')})")
            rows.append([name if name == SINGLE else f"`{name}`", *cells])
    return table([f"minus `{BASELINE}`", *(metric.title for metric in METRICS)], rows)


def findings(figures: Mapping[str, Sequence[Figures]]) -> list[str]:
    """What the tables say, in sentences."""
    methods = [name for name in figures if name not in (BASELINE, SINGLE)]
    count, seen, told = len(methods) * len(METRICS), 0, []
    for name in methods:
        words = {m.title.split(",")[0]: verdict(differences(figures, name, m), m.higher) for m in METRICS}
        by_word = {word: [title for title, said in words.items() if said == word] for word in ("better", "worse")}
        seen += sum(map(len, by_word.values()))
        parts = [f"{word} in {' and '.join(titles)}" for word, titles in by_word.items() if titles]
        told += [f"`{name}` {', '.join(parts)}"] if parts else []
    sentences = [
        f"Of {count} differences between a method and `{BASELINE}`, {seen} lie outside their 95 % interval"
        f"{': ' if told else ''}{'; '.join(told)}. Chance alone would put about {0.05 * count:.1f} there if no method "
        "differed."
    ]
    best = []
    for metric in METRICS:
        means = {name: statistics.mean(column(runs, metric)) for name, runs in figures.items() if name != SINGLE}
        best.append(f"{metric.title.split(',')[0]} `{(max if metric.higher else min)(means, key=means.__getitem__)}`")
    sentences.append(f"The best means are: {', '.join(best)}.")
    pairs = list(zip(figures[BASELINE], figures[SINGLE], strict=True))
    for title, delta, higher in (("metrics", delta_metrics, False), ("tasks", delta_tasks, True)):
        values = [delta(*pair) for pair in pairs]
        sentences.append(
            f"Beside {SINGLE}, `{BASELINE}` has a Δm over {title} of {percent(values)} %: {verdict(values, higher)}."
        )
    return sentences


def page(found: Mapping[str, Sequence[Mapping[str, Any]]], command: str) -> str:
    """The Markdown of all runs, as `run_all` returns them."""
    latest = max((run for runs in found.values() for run in runs), key=lambda run: run["date"])
    config, code = latest["settings"]["config"], latest["settings"]["code"]
    figures = {name: [run["figures"] for run in runs] for name, runs in found.items() if name not in config["tasks"]}
    alone = zip(*(found[task] for task in config["tasks"]), strict=True)
    figures[SINGLE] = [{key: value for run in runs for key, value in run["figures"].items()} for runs in alone]
    conflicts = {
        name: f"{100 * statistics.mean(run['conflicts'] for run in runs):.0f} %"
        for name, runs in found.items()
        if runs[0]["conflicts"] is not None
    }
    seeds, plan = len(figures[BASELINE]), config["train"]
    height, width = config["data"]["size"]
    images = plan["steps"] * plan["batch_size"]
    wide = stats.t.ppf(0.975, seeds - 1) / math.sqrt(seeds)
    optimizer = Plan(**plan).optimizer
    scale_free = (
        "Its steps do not depend on a factor common to all gradients, so methods whose weights sum to 1 need no other "
        "rate than those whose weights sum to the number of tasks. "
    )
    notes = [
        f"The budget is small: {images} images are seen, and an interval of {seeds} seeds reaches {wide:.1f} standard "
        "deviations to either side. A difference that was not seen may still exist, and longer training may order the "
        "methods differently."
    ]
    skipped = {name: sum(run["skipped"] for run in runs) for name, runs in found.items()}
    notes += [f"`{name}` skipped {count} steps that were not finite." for name, count in skipped.items() if count]
    lines = [
        "# Balancing methods on NYUv2",
        f"`{command}`",
        f"{latest['date']}; {latest['machine']}, one thread a run; "
        f"{', '.join(f'{name} {number}' for name, number in code.items())}.",
        f"{seeds} seeds of {plan['steps']} steps at batch {plan['batch_size']}, {height}x{width} pixels, "
        f"{config['model']['backbone']} from {Path(str(config['model']['pretrained'])).name}, {optimizer} with a peak "
        f"rate of {plan['lr']} for all. {scale_free if optimizer == 'adamw' else ''}Every method has its default "
        "options; those by gradient compare at the features that all heads read. The network after the last step is "
        "measured on the test images at 640x480; nothing was chosen on them. Figures are means with the half-width of "
        "their 95 % interval over seeds (Student's t).",
        "## What it shows",
        "\n".join(f"- {sentence}" for sentence in [*findings(figures), *notes]),
        "## Accuracy",
        accuracy_table(figures, conflicts),
        f"Δm is relative to {SINGLE} with the same seed and steps: over all four metrics, and over the two tasks by "
        "mIoU and abs_rel. Those networks share nothing, so together they train for twice the steps. Steps in conflict "
        "are those whose task gradients had a negative cosine.",
        f"## Differences to `{BASELINE}`",
        "Paired by seed, without a correction for their number.",
        difference_table(figures),
    ]
    return "\n\n".join(lines) + "\n"


def processor() -> str:
    """The model name where Linux tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(EIGHT), help="names with commas; `equal` is always among them")
    parser.add_argument("--seeds", type=int, default=3, help="how many, at least 2")
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"), help="folder of finished runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("changes", nargs="*", help="section.key=value, for all")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds: found {arguments.seeds}; expected at least 2, or there is no interval")
    torch.set_num_threads(1)
    methods = list(dict.fromkeys([BASELINE, *arguments.methods.split(",")]))
    changes = [f"train.steps={arguments.steps}", *arguments.changes]
    found = run_all(methods, range(arguments.seeds), changes, arguments.runs)
    text = page(found, shlex.join(["python", "benchmarks/methods.py", *sys.argv[1:]]))
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
