"""What a finished run has to tell: its log, the best network's answers to validation images, its cost, on one page."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segweave import checkpoint
from segweave.atomic import whole_file
from segweave.batch import Sample
from segweave.cost import cost_table
from segweave.data.augment import Resize
from segweave.data.dataset import Dataset
from segweave.drawing import shown, thinned
from segweave.errors import CheckpointError, DataError, SegweaveError
from segweave.model import MultiTaskModel
from segweave.plan import Plan
from segweave.report.curves_png import curves_png
from segweave.report.gallery import Example, Gallery, Picture, Said, Shown
from segweave.report.history import History, read_history, results_csv
from segweave.report.html import number
from segweave.report.train_page import TaskResult, TrainingRun, training_page
from segweave.tasks.task import Legend, Prediction, Task
from segweave.terminal import duration

_RANKED = 200
"""Validation images that are scored one by one, evenly spread, to choose the examples from."""
_EACH, _PICTURES = 3, 280
"""Examples of each group, and pictures in all: with very many tasks there are fewer examples."""
_SIDE, _REMARKS = 720, 4
_COST_SECONDS = 8.0


@torch.inference_mode()
def write_report(folder: Path, model: MultiTaskModel, dataset: Dataset, plan: Plan, size: Sequence[int] | None) -> Path:
    """Writes `results.csv`, `results.png` and `report.html` of a run from what it has kept; returns the page.

    Args:
        folder: the run.
        model: with the run's best weights; the device it is on is the one whose cost is measured.
        dataset: the validation images.
        plan: that the run was trained by.
        size: height and width that the network works at; None for the images' own.

    Raises:
        CheckpointError: a run that has kept nothing yet.
        OSError: a file that cannot be written.
    """
    state, facts = _state(folder), json.loads((folder / "run.json").read_text(encoding="utf-8"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    history = read_history(json.loads(line) for line in lines)
    tasks = [_result(task, state["best_results"], dataset) for task in model.tasks.values()]
    _write(folder / "results.csv", results_csv(history, {t.name: t.origin for t in tasks if t.origin}).encode())
    _write(folder / "results.png", curves_png(history, {t.name: (t.headline, t.better, t.origin) for t in tasks}))
    was_training = model.training
    model.eval()
    answers = Answers(model, dataset, Resize(size))
    gallery = _gallery(answers)
    cost, missing = _cost(answers, size)
    model.train(was_training)
    page = training_page(
        TrainingRun(
            name=folder.name,
            lead=_lead(model, history, state, facts),
            tasks=tasks,
            history=history,
            validation_images=len(dataset),
            gallery=gallery,
            cost=cost,
            cost_missing=missing,
            command=f"segweave train {shlex.quote(str(folder / 'config.yaml'))} --name {shlex.quote(folder.name)}",
            facts=_facts(facts, state, history),
            config=(folder / "config.yaml").read_text(encoding="utf-8"),
            notes=_notes(facts, state, history, plan),
            method=facts.get("balancing", "the balancing method"),
        )
    )
    _write(folder / "report.html", page.encode())
    return folder / "report.html"


def _state(folder: Path) -> dict[str, Any]:
    """What the run's checkpoint says beside its tensors."""
    path = folder / "weights" / "state.safetensors"
    state = checkpoint.load(path)[1]
    if state.get("best_results") is None:
        raise CheckpointError(f"{path}: this run has not been validated yet; go on with `segweave train --resume`")
    return state


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def _result(task: Task, results: Mapping[str, Any], dataset: Dataset) -> TaskResult:
    metric = task.metric()
    return TaskResult(
        name=task.name,
        kind=task.kind,
        headline=metric.headline,
        unit=metric.unit,
        better=metric.keys,
        values=results.get(task.name, {}),
        classes=getattr(metric, "classes", ()),
        labelled=dataset.labelled(task.name),
        origin=task.origin or "",
    )


@dataclass
class Answers:
    """The network's predictions for single images.

    Attributes:
        seconds: that the last forward pass took.
        first: height and width of the first image.
        unreadable: why images could not be read, each reason once.
    """

    model: MultiTaskModel
    dataset: Dataset
    resize: Resize
    seconds: float = 0.0
    first: tuple[int, int] | None = None
    unreadable: dict[str, None] = field(default_factory=dict)

    def read(self, index: int) -> Sample | None:
        try:
            return self.dataset[index]
        except DataError as error:
            self.unreadable[str(error)] = None
            return None

    def outputs(self, sample: Sample) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Raw outputs by task, and the size that the network saw."""
        image = self.resize(sample.image)[None].to(self.model.mean.device)
        self.first = self.first or (image.shape[-2], image.shape[-1])
        started = time.perf_counter()
        outputs = self.model(image)
        self.seconds = time.perf_counter() - started
        return outputs, (image.shape[-2], image.shape[-1])

    def scores(self, index: int) -> dict[str, float] | None:
        """The headline value of every task on one image alone, for those it has a label of; None if unreadable."""
        sample = self.read(index)
        if sample is None:
            return None
        outputs, used = self.outputs(sample)
        values = {}
        for name, annotation in sample.annotations.items():
            task = self.model.tasks[name]
            metric = task.metric()
            output = task.resize(outputs[name], used, (sample.image.shape[-2], sample.image.shape[-1]))
            metric.update(task.decode(output), task.encode(annotation)[None].to(output.device))
            values[name] = float(metric.compute()[metric.headline])
        return values


def mean_ranks(scores: Sequence[Mapping[str, float]], higher_is_better: Mapping[str, bool]) -> list[float]:
    """The mean over tasks of an image's rank, from 0 (best) to 1 (worst), equal scores sharing theirs.

    Args:
        scores: by task, one entry per image; nan or a missing key where an image has no score.

    Returns:
        One value per image, nan for those without any score.
    """
    ranks = np.full((len(higher_is_better), len(scores)), np.nan)
    for row, (task, higher) in enumerate(higher_is_better.items()):
        values = np.array([entry.get(task, np.nan) for entry in scores]) * (-1 if higher else 1)
        known = ~np.isnan(values)
        found = values[known]
        below = (found[None] < found[:, None]).sum(1)
        equal = (found[None] == found[:, None]).sum(1) - 1
        ranks[row, known] = (below + equal / 2) / max(1, len(found) - 1)
    counted = (~np.isnan(ranks)).sum(0)
    with np.errstate(invalid="ignore"):
        return (np.nansum(ranks, 0) / np.where(counted, counted, np.nan)).tolist()


def chosen(ranks: Sequence[float], each: int) -> dict[str, list[int]]:
    """Positions of the best, the middle and the last (worst first) of the images that have a rank."""
    order = sorted((i for i, rank in enumerate(ranks) if rank == rank), key=lambda i: ranks[i])
    if len(order) < 3:
        return {"good": order[:-1], "typical": [], "worst": order[1:]} if len(order) == 2 else {"typical": order}
    each = min(each, len(order) // 3)
    middle = (len(order) - each) // 2
    return {"good": order[:each], "typical": order[middle : middle + each], "worst": order[: -each - 1 : -1]}


def _gallery(answers: Answers) -> Gallery:
    model, dataset = answers.model, answers.dataset
    ranked = sorted({len(dataset) * k // min(len(dataset), _RANKED) for k in range(min(len(dataset), _RANKED))})
    scored = [(index, scores) for index in ranked if (scores := answers.scores(index)) is not None]
    metrics = {name: task.metric() for name, task in model.tasks.items()}
    ranks = mean_ranks([scores for _, scores in scored], {name: m.higher_is_better for name, m in metrics.items()})
    pictured = sum(task.dense for task in model.tasks.values())
    each = max(1, min(_EACH, _PICTURES // (3 * (1 + 3 * pictured))))
    groups = chosen(ranks, each)
    labels = ", ".join(f"{name} by {metric.headline}" for name, metric in metrics.items())
    counts = {name: len(groups.get(name, ())) for name in ("good", "typical", "worst")}
    how = (
        f"The {counts['good']} best, {counts['typical']} around the median and the {counts['worst']} worst (worst "
        f"first) of {len(scored)} scored validation images, of {len(dataset)} in all. An image is ranked by the "
        f"score of each task on it alone ({labels}); the mean of its ranks over the tasks decides."
    )
    if not any(groups.values()):
        groups = {"typical": list(range(min(each, len(scored))))}
        how = "No validation image has a label that could rank it; these are the first ones."
    examples = []
    for group, places in groups.items():
        for place in places:
            index, scores = scored[place]
            values = [
                (name, metrics[name].headline, value, model.tasks[name].origin or "")
                for name, value in scores.items()
                if value == value
            ]
            examples.append(example(answers, index, group, values))
    return Gallery([one for one in examples if one], how, list(answers.unreadable))


def example(answers: Answers, index: int, group: str, scores: list[tuple[str, str, float, str]]) -> Example | None:
    """One image with what each task should have said and what it said; None where it cannot be read."""
    sample = answers.read(index)
    if sample is None:
        return None
    outputs, used = answers.outputs(sample)
    height, width = sample.image.shape[-2:]
    factor = min(1.0, _SIDE / max(height, width))
    small = max(1, round(height * factor)), max(1, round(width * factor))
    picture = shown(sample.image, small)
    pictures, words = [], []
    for name, task in answers.model.tasks.items():
        size = small if task.dense else (height, width)
        under = picture if task.dense else shown(sample.image, (height, width))
        output = task.resize(outputs[name], used, size)
        prediction = {key: value[0].cpu() for key, value in task.decode(output).items()}
        target = None
        if name in sample.annotations:
            whole = task.encode(sample.annotations[name])
            target = thinned({"target": whole}, height, width, small)["target"] if task.dense else whole
        if legend := task.legend(prediction).text:
            words.append(_said(task, prediction, legend, target))
        else:
            pictures.append(_shown(task, under, prediction, target, small))
    return Example(sample.id, group, picture, scores, pictures, words)


def _said(task: Task, prediction: Prediction, words: str, target: Tensor | None) -> Said:
    if target is None:
        return Said(task.name, words)
    truth, verdict = task.legend(task.truth(target)).text, task.error_legend(prediction, target).text
    return Said(task.name, words, truth, verdict)


def _shown(task: Task, image: Tensor, prediction: Prediction, target: Tensor | None, size: tuple[int, int]) -> Shown:
    def picture(drawn: Tensor, legend: Legend) -> Picture:
        return Picture(shown(drawn, size), legend.entries, legend.bar, legend.ramp)

    if target is None:
        return Shown(task.name, picture(task.draw(image, prediction), task.legend(prediction)))
    truth = task.truth(target)
    prediction = task.beside(prediction, truth)
    return Shown(
        task.name,
        picture(task.draw(image, prediction), task.legend(prediction)),
        picture(task.draw(image, truth), task.legend(truth)),
        picture(task.draw_error(image, prediction, target), task.error_legend(prediction, target)),
    )


def _cost(answers: Answers, size: Sequence[int] | None) -> tuple[dict[str, Any] | None, str]:
    """The cost table, or why there is none; it takes as many runs as fit in a few seconds."""
    place = size or answers.first
    if place is None:
        return None, "no validation image could be read, and the config gives no size"
    each = answers.seconds * (2 + 2 * len(answers.model.tasks))
    repeats = max(1, min(10, int(_COST_SECONDS / max(each, 1e-6))))
    try:
        return cost_table(answers.model, place[0], place[1], repeats=repeats), ""
    except (SegweaveError, RuntimeError) as error:
        # torch raises RuntimeError where memory is short or an operator cannot be counted
        return None, str(error).strip().splitlines()[0]


def _lead(model: MultiTaskModel, history: History, state: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    tasks = ", ".join(model.tasks)
    backbone = model.spec.get("backbone") or "an encoder of one's own"
    method = f" Balancing: {facts['balancing']}." if "balancing" in facts else ""
    return (
        f"One network ({backbone}) for {len(model.tasks)} tasks: {tasks}. Trained for {number(state['step'])} steps on "
        f"{number(history.images)} images, repetitions included.{method}"
    )


def _facts(facts: Mapping[str, Any], state: Mapping[str, Any], history: History) -> dict[str, str]:
    unknown = "not recorded"
    shown_facts = {
        "started": facts.get("started") or unknown,
        "training and validation": duration(state["elapsed"]),
        "training steps alone": duration(history.seconds),
        "peak memory of training": f"{history.peak_megabytes:,.0f} MB" if history.peak_megabytes else unknown,
        "device": facts.get("device") or unknown,
        "seed": str(facts["seed"]),
        "balancing": facts.get("balancing") or unknown,
        **{f"data fingerprint, {split}": value for split, value in facts["data_fingerprint"].items()},
        "git revision": facts.get("git_revision") or "not in a git repository",
        "python": facts["python"],
    }
    return shown_facts | dict(facts["versions"])


def _notes(facts: Mapping[str, Any], state: Mapping[str, Any], history: History, plan: Plan) -> list[str]:
    notes = []
    epoch = history.rows[-1]["epoch"] + 1 if history.rows else 0
    if plan.patience is not None and state["stale"] >= plan.patience:
        notes.append(f"Stopped early: {state['stale']} validations in a row brought nothing better.")
    elif plan.steps is not None and state["step"] < plan.steps:
        notes.append(f"Not finished: {state['step']} of {plan.steps} steps.")
    elif plan.epochs is not None and epoch < plan.epochs:
        notes.append(f"Not finished: {epoch:.0f} of {plan.epochs} epochs.")
    elif plan.minutes is not None and state["elapsed"] < 60 * plan.minutes:
        notes.append(f"Not finished: {state['elapsed'] / 60:.1f} of {plan.minutes:g} minutes.")
    for resumed in facts.get("resumed", ()):
        changed = "; ".join(f"{key} from {old} to {new}" for key, (old, new) in resumed["changes"].items())
        changes = f", with changes: {changed}" if changed else ""
        notes.append(f"Went on at step {resumed['step']} on {resumed['at']} ({resumed['device']}){changes}.")
    said = facts.get("notes", [])
    notes += [f"{note}." for note in said[:_REMARKS]]
    if len(said) > _REMARKS:
        notes.append(f"{len(said) - _REMARKS} more remarks of the balancing method are in run.json.")
    if history.skipped:
        notes.append(f"{history.skipped} steps were skipped because a loss or gradient was not finite.")
    if unreadable := state.get("unreadable"):
        some = "; ".join(list(unreadable.values())[:5])
        notes.append(f"{len(unreadable)} training images could not be read and were left out, such as: {some}")
    return notes
