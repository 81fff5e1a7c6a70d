"""Trained ways to train, measured on the same images, as what the comparison's page tells."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from segweave.config import Config, dump
from segweave.cost import cost_table
from segweave.data.augment import Resize
from segweave.data.dataset import Dataset
from segweave.data.loader import evaluation_batches
from segweave.errors import ConfigError, SegweaveError
from segweave.estimates import SEPARATE, Estimate, estimate, gain, mean_gain
from segweave.evaluate import evaluate_images, resampled
from segweave.metrics.metric import FAULTS
from segweave.model import MultiTaskModel
from segweave.report.compared import Compared, ComparisonResult, Share
from segweave.report.compared import Variant as Shown
from segweave.report.cost_section import measured_where
from segweave.report.gallery import Picture, PictureRow
from segweave.report.history import History, Point, read_history
from segweave.resume import read_facts
from segweave.sources import build_dataset, build_tasks, cached, training_images
from segweave.summary import Answers, example
from segweave.tasks.task import Task
from segweave.variants import Shared, Variant

_PICTURES = 4
"""Images in the grid."""

Values = Mapping[str, Mapping[str, Float64[np.ndarray, "seeds rows"]]]
"""By task and key of its metric: of every seed, on all images and then on every resample of them."""


@dataclass(frozen=True)
class Trained:
    """One way to train, or the networks of single tasks together, with its runs by network and seed, and its values."""

    name: str
    variants: Sequence[Variant]
    runs: Sequence[Sequence[Path]]
    values: Values

    @cached_property
    def histories(self) -> list[list[History]]:
        return [[_history(run) for run in runs] for runs in self.runs]


def measured_on(config: Config, split: str | None = None) -> tuple[str, Dataset]:
    """The split to measure on, and its images: by default `test` where every task has labels there, else `val`."""
    tasks = build_tasks(config)
    if split is None:
        validation = build_dataset(config, "val", tasks)
        if "test" not in validation.splits:
            return "val", validation
        dataset = build_dataset(config, "test", tasks)
        return ("test", dataset) if all(dataset.labelled(task.name) for task in tasks) else ("val", validation)
    return split, build_dataset(config, split, tasks)


Measured = Mapping[str, Mapping[str, Float64[np.ndarray, " rows"]]]
"""The same of one network."""


def gather(
    ways: Sequence[Variant], runs: Mapping[str, Sequence[Path]], measured: Mapping[Path, Measured]
) -> list[Trained]:
    """What was measured by way; the networks of single tasks are one way, and the first.

    Args:
        runs: by the name of the way, one per seed.
        measured: by run.
    """
    found: dict[str, Values] = {}
    for way in ways:
        by_seed = [measured[run] for run in runs[way.name]]
        found[way.name] = {
            task: {key: np.stack([seed[task][key] for seed in by_seed]) for key in by_seed[0][task]}
            for task in way.tasks
        }
    apart = [way for way in ways if way.column == SEPARATE]
    trained = [Trained(way.column, [way], [runs[way.name]], found[way.name]) for way in ways if way not in apart]
    if apart:
        values = {task: table for way in apart for task, table in found[way.name].items()}
        trained.insert(0, Trained(SEPARATE, apart, [runs[way.name] for way in apart], values))
    return trained


def measure(
    run: Path,
    way: Variant,
    split: str,
    ids: Sequence[str],
    counts: Int64[np.ndarray, "rows images"],
    device: torch.device,
) -> Measured:
    """A run's network on all images of a split.

    Args:
        way: that the run trained.
        ids: of the images.
        counts: how often each image counts, from `resamples`.

    Raises:
        ConfigError: the way's data has other images in that split.
        SegweaveError: labels or weights that cannot be read.
    """
    model = network(run, split).to(device)
    tasks = list(model.tasks.values())
    dataset = cached(way.config, split, tasks, build_dataset(way.config, split, tasks))
    if list(dataset.ids) != list(ids):
        raise ConfigError(f"--variant {way.name}: its data has other images in split {split!r}; expected the same ones")
    found = evaluate_images(model, evaluation_batches(dataset, Resize(way.config.data.get("size"))))
    return {
        name: resampled(model.tasks[name].metric(), [by_id.get(id) for id in dataset.ids], counts)
        for name, by_id in found.items()
    }


def network(run: Path, split: str) -> MultiTaskModel:
    """A run's network with weights that were not chosen on a split: the last ones on the one that chooses."""
    weights = "last" if split == "val" else "best"
    return MultiTaskModel.from_pretrained(run / "weights" / f"{weights}.safetensors")


def _history(run: Path) -> History:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return read_history(json.loads(line) for line in lines)


def gains(new: Values, old: Values, tasks: Mapping[str, Task]) -> Values:
    """Relative changes in per cent, positive for better, seed by seed and resample by resample."""
    return {
        name: {key: gain(value, old[name][key], tasks[name].metric().keys[key]) for key, value in table.items()}
        for name, table in new.items()
    }


def mean_gains(
    changes: Values, tasks: Mapping[str, Task]
) -> tuple[Float64[np.ndarray, "seeds rows"], Float64[np.ndarray, "seeds rows"] | None]:
    """Over the headlines of the tasks, higher is better; and over all metrics with the sign changed, lower is better.

    Shares of what is no prediction at all and metrics that were 0 before on some seed are left out of the second.
    """
    heads = {name: table[tasks[name].metric().headline] for name, table in changes.items()}
    every = {
        f"{name}/{key}": values
        for name, table in changes.items()
        for key, values in table.items()
        if key not in FAULTS and np.isfinite(values[:, 0]).all()
    }
    return mean_gain(heads), -mean_gain(every) if every else None


def shares(measured: Sequence[tuple[Shared, Sequence[Trained]]], config: Config, images: int, seed: int) -> list[Share]:
    """The ways on shares of the labels; where the labels of one task are few, beside its network on as many images.

    Args:
        measured: from few labels to many.
        images: that were measured.
        seed: of the training images that are counted.
    """
    tasks = {task.name: task for task in build_tasks(config)}
    found = []
    base: Values = {}
    for share, trained in measured:
        base = trained[0].values if trained[0].name == SEPARATE else base
        shown = [_shown(way, base, tasks, images, None) for way in trained]
        labels = {
            way.name: {
                task: training_images(variant.config, build_tasks(variant.config), seed).labelled(task)
                for variant in way.variants
                for task in variant.tasks
            }
            for way in trained
        }
        found.append(Share(share.fraction, shown, labels, share.scarce))
    return found


def result(
    config: Config,
    trained: Sequence[Trained],
    images: Dataset,
    split: str,
    seeds: Sequence[int],
    draws: int,
    budget: str,
    command: str,
    device: torch.device,
    fewer: Sequence[Share] = (),
) -> ComparisonResult:
    """What the page tells; the costs are measured on the device, on a network of the first seed."""
    tasks = {task.name: task for task in build_tasks(config)}
    base = trained[0].values if trained[0].name == SEPARATE else {}
    costs, where = _costs(trained, split, cost_size(config, images), device)
    best = config.train.get("best", "mean_relative_gain")
    return ComparisonResult(
        name=Path(config.source).stem,
        lead=f"{len(tasks)} tasks: {', '.join(tasks)}. One network for all of them, beside other ways to train.",
        tasks=[_compared(task, images) for task in tasks.values()],
        variants=[_shown(way, base, tasks, len(images), costs.get(way.name)) for way in trained],
        seeds=seeds,
        split=split,
        images=len(images),
        resamples=draws,
        checkpoint=(
            "Measured on the validation images with the weights after the last step: nothing was chosen on them."
            if split == "val"
            else f"Measured on split {split} with the best weights, picked on the validation images by {best}."
        ),
        budget=budget,
        cost_where=where,
        pictures=_pictures(trained, images, split, Resize(config.data.get("size")), device),
        command=command,
        facts=made_with(trained[-1].runs[0][0], seeds),
        config=dump(config.sections()),
        notes=list(dict.fromkeys(note for way in trained for note in _notes(way))),
        shares=fewer,
    )


def _compared(task: Task, images: Dataset) -> Compared:
    metric = task.metric()
    labelled = images.labelled(task.name)
    return Compared(task.name, task.kind, metric.headline, metric.unit, metric.keys, labelled, task.origin or "")


def _shown(
    way: Trained, base: Values, tasks: Mapping[str, Task], images: int, cost: Mapping[str, float] | None
) -> Shown:
    def estimates(values: Values) -> dict[str, dict[str, Estimate]]:
        return {name: {key: estimate(v, images) for key, v in table.items()} for name, table in values.items()}

    changes = gains(way.values, base, tasks) if base and way.name != SEPARATE else {}
    by_tasks, by_metrics = mean_gains(changes, tasks) if changes else (None, None)
    curves: dict[str, list[list[Point]]] = {}
    for variant, histories in zip(way.variants, way.histories, strict=True):
        for task in variant.tasks:
            key = f"{task}/{tasks[task].metric().headline}"
            curves[task] = [history.validation.get(key, []) for history in histories]
    states = [json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]) for run in way.runs[0]]
    return Shown(
        name=way.name,
        tasks=[task for variant in way.variants for task in variant.tasks],
        changes=way.variants[0].changes,
        values=estimates(way.values),
        gains=estimates(changes),
        by_tasks=None if by_tasks is None else estimate(by_tasks, images),
        by_metrics=None if by_metrics is None else estimate(by_metrics, images),
        seconds=[sum(history.seconds for history in seed) for seed in zip(*way.histories, strict=True)],
        cost=cost,
        curves=curves,
        steps=max(state["step"] for state in states) + 1,
        training_megabytes=max(history.peak_megabytes or math.nan for seed in way.histories for history in seed),
        networks=len(way.variants),
    )


def _costs(
    trained: Sequence[Trained], split: str, size: Sequence[int], device: torch.device
) -> tuple[dict[str, Mapping[str, float]], str]:
    """The cost of each way, by name, and where it was measured; empty where it could not be."""
    costs: dict[str, Mapping[str, float]] = {}
    known: dict[str, Mapping[str, float]] = {}
    where = ""
    for way in trained:
        if way.name == SEPARATE:
            continue
        model = network(way.runs[0][0], split).to(device)
        # ways that differ in training alone have one network
        make = repr((model.spec, [(name, tuple(value.shape)) for name, value in model.named_parameters()]))
        if make in known:
            costs[way.name] = known[make]
            continue
        try:
            table = cost_table(model, size[0], size[1])
        except (SegweaveError, RuntimeError) as error:
            # torch raises RuntimeError where memory is short or an operator cannot be counted
            where = f"The cost of {way.name} was not measured: {str(error).strip().splitlines()[0]}"
            continue
        costs[way.name] = known[make] = table["shared"]
        if way is not trained[0] and trained[0].name == SEPARATE:
            # beside the first way that shares, in turns with it
            costs.setdefault(SEPARATE, table["separate_sum"])
        where = where or measured_where(table)
    return costs, where


@torch.inference_mode()
def _pictures(
    trained: Sequence[Trained], images: Dataset, split: str, resize: Resize, device: torch.device
) -> list[PictureRow]:
    """Images evenly spread over the split, with what the networks of the first seed answer; unreadable ones are not."""
    ways = trained[:2] if trained[0].name == SEPARATE else trained[:1]
    answers = [
        (way.name, Answers(network(runs[0], split).to(device), images, resize)) for way in ways for runs in way.runs
    ]
    rows = []
    count = min(_PICTURES, len(images))
    for index in [len(images) * (2 * place + 1) // (2 * count) for place in range(count)]:
        made = [(name, example(one, index, "typical", [])) for name, one in answers]
        shown: dict[str, list[tuple[str, Picture]]] = {}
        for name, answer in made:
            for picture in answer.shown if answer else ():
                truth = [("truth", picture.truth)] if picture.truth else []
                shown.setdefault(picture.task, truth).append((name, picture.prediction))
        if (first := made[0][1]) is not None and shown:
            rows.append(PictureRow(first.id, first.image, list(shown.items())))
    return rows


def cost_size(config: Config, images: Dataset) -> Sequence[int]:
    """Height and width at which costs are measured: the config's, or those of the first image."""
    return config.data.get("size") or tuple(images.image(0).shape[-2:])


def made_with(run: Path, seeds: Sequence[int]) -> dict[str, str]:
    """Device, data and versions of a run, which stands for all."""
    facts = read_facts(run)
    return {
        "seeds": ", ".join(map(str, seeds)),
        "started": str(facts.get("started")),
        "device": str(facts.get("device")),
        **{f"data fingerprint, {split}": value for split, value in facts["data_fingerprint"].items()},
        "git revision": facts.get("git_revision") or "not in a git repository",
        "python": facts["python"],
        **facts["versions"],
    }


def _notes(way: Trained) -> list[str]:
    notes = []
    for runs, histories in zip(way.runs, way.histories, strict=True):
        for run, history in zip(runs, histories, strict=True):
            place = f"{run.parent.name}, {run.name}"
            facts: Mapping[str, Any] = read_facts(run)
            for resumed in facts.get("resumed", ()):
                changed = "; ".join(f"{key} from {old} to {new}" for key, (old, new) in resumed["changes"].items())
                if changed:
                    notes.append(f"{place} went on at step {resumed['step']} with changes: {changed}.")
            if history.skipped:
                notes.append(f"{place}: {history.skipped} steps were skipped because a loss was not finite.")
    return notes
