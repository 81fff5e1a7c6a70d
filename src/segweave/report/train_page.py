"""`report.html`: what a training run reached, how, at what cost, and how to do it again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segweave.report.chart import POINTS, Line, lines_chart, training_chart, validation_chart
from segweave.report.classes import class_table, confusion
from segweave.report.cost_section import cost_section
from segweave.report.gallery import Gallery, gallery_html
from segweave.report.gradients import gradients_section
from segweave.report.history import History
from segweave.report.html import (
    Html,
    arrow,
    code,
    details,
    document,
    facts,
    join,
    notes,
    number,
    paragraph,
    section,
    table,
    tag,
)

LARGEST = 5_000_000
"""Bytes that a page stays below."""
_PICTURES, _CHARTS, _CELLS, _CONFIG, _ROWS = 3_000_000, 900_000, 4_000, 60_000, 60


@dataclass(frozen=True)
class TaskResult:
    """What one task reached.

    Args:
        name, kind: of the task.
        headline, unit: key of the value that stands for it, and its unit.
        better: every key of the metric, with whether a higher value is better.
        values: the best weights' metrics on the validation images, and tables: per_class, absent_classes, confusion.
        classes: names, where the task has some.
        labelled: validation images with a label for it.
        origin: how its labels came about where nobody annotated them.
    """

    name: str
    kind: str
    headline: str
    unit: str
    better: Mapping[str, bool]
    values: Mapping[str, Any]
    classes: Sequence[str] = ()
    labelled: int = 0
    origin: str = ""

    @property
    def measured(self) -> bool:
        return math.isfinite(self.values.get(self.headline, math.nan))


@dataclass(frozen=True)
class TrainingRun:
    """Everything that the page tells, as plain values.

    Args:
        name: of the run.
        lead: one line about it.
        tasks: their results, in the network's order.
        history: of the training.
        validation_images: how many there are.
        gallery: example images.
        cost: as `cost_table` gives it; None where it could not be measured, for the reason in `cost_missing`.
        command: that trains the same again.
        facts: versions, seed, device, data and the like.
        config: YAML.
        notes: what a reader should know before the numbers: an unfinished or resumed run, images left out.
        method: label of the balancing method, where the run has it.
    """

    name: str
    lead: str
    tasks: Sequence[TaskResult]
    history: History
    validation_images: int
    gallery: Gallery
    cost: Mapping[str, Any] | None
    cost_missing: str
    command: str
    facts: Mapping[str, str]
    config: str
    notes: Sequence[str] = field(default_factory=tuple)
    method: str = "the balancing method"


def training_page(run: TrainingRun) -> str:
    """The page, smaller than `LARGEST` bytes."""
    return fitted(lambda pictures: _page(run, pictures))


def fitted(page: Callable[[int], str]) -> str:
    """A page smaller than `LARGEST` bytes: where it is not, its pictures get smaller.

    Args:
        page: makes it, with at most so many characters for all pictures.
    """
    pictures = _PICTURES
    while True:
        text = page(pictures)
        if len(text.encode()) < LARGEST or pictures < 10_000:
            return text
        pictures //= 2


def _page(run: TrainingRun, pictures: int) -> str:
    parts = {
        "results": ("Results", [_cards(run), notes(run.notes), _metrics(run)]),
        "examples": ("Examples", [gallery_html(run.gallery, pictures)]),
        "classes": ("Classes and confusions", [_classes(run.tasks)]),
        "curves": ("Training", [_curves(run)]),
        "weights": ("Weight of each task", [_weights(run)]),
        "gradients": ("Task gradients", [gradients_section([task.name for task in run.tasks], run.history)]),
        "cost": ("Cost", [cost_section(run.cost, run.cost_missing)]),
        "again": ("How it was made", [again(run.command, run.facts, run.config)]),
    }
    body = join(section(id, title, *content) for id, (title, content) in parts.items())
    return document(run.name, body, run.lead, {id: title for id, (title, _) in parts.items()})


def _cards(run: TrainingRun) -> Html:
    cards = []
    for task in run.tasks:
        labelled = f"{number(task.labelled)} of {number(run.validation_images)} validation images have a label"
        higher = task.better[task.headline]
        if task.measured:
            unit = tag("small", f" {task.unit}") if task.unit else ""
            value = tag("p", join([number(task.values[task.headline]), unit]), class_="big")
            words = f"{task.headline} {arrow(higher)} {'higher' if higher else 'lower'} is better"
        else:
            value = tag("p", "–", class_="big")
            words = f"{task.headline}: no validation image has a label that defines it"
        heading = tag("h3", join([task.name, tag("span", f" · {task.kind}", class_="soft")]))
        parts = [heading, value, *_origin(task), tag("p", words), tag("p", labelled)]
        cards.append(tag("li", join(parts), class_="card"))
    return tag("ul", join(cards), class_="cards")


def _origin(task: TaskResult) -> list[Html]:
    return [tag("p", tag("strong", task.origin))] if task.origin else []


def _metrics(run: TrainingRun) -> Html:
    last = run.history.rows[-1] if run.history.rows else {}
    tables = []
    for task in run.tasks:
        rows = []
        for key, higher in task.better.items():
            value = task.values.get(key, math.nan)
            if not (value == 0 and not higher and key != task.headline):  # shares of nothing that went wrong
                rows.append([f"{key}\u00a0{arrow(higher)}", value, last.get(f"{task.name}/{key}")])
        origin = f": {task.origin}" if task.origin else ""
        tables.append(table([task.name, "best", "last"], rows, f"Metrics of {task.name}{origin}"))
    words = (
        "Measured on the validation images at their own size, with the weights that were kept as the best and with the "
        "last ones. ↑ higher is better, ↓ lower is better."
    )
    return join([tag("h3", "All metrics"), paragraph(words, soft=True), tag("div", join(tables), class_="trio")])


def _curves(run: TrainingRun) -> Html:
    history = run.history
    better = {f"{task.name}/{key}": higher for task in run.tasks for key, higher in task.better.items()}
    metrics = {key: history.validation[key] for key in better if key in history.validation}
    # shares of what went wrong, where nothing did
    metrics = {key: points for key, points in metrics.items() if better[key] or any(value for _, value in points)}
    most = max(40, min(POINTS, _CHARTS // (24 * max(1, len(history.training) + len(metrics)))))
    parts: list[Html] = []

    def charts(title: str, keys: Iterable[tuple[str, str]]) -> None:
        known = [(name, history.training[key], key) for key, name in keys if key in history.training]
        drawn = [training_chart(name, points, most, exact=key == "lr") for name, points, key in known]
        if drawn:
            parts.extend([tag("h3", title), tag("div", join(drawn), class_="charts")])

    drawn = [validation_chart(key, points, better[key], most) for key, points in metrics.items()]
    if drawn:
        said = [paragraph(f"{task.name}: {task.origin}.", soft=True) for task in run.tasks if task.origin]
        parts += [tag("h3", "Validation metrics"), *said, tag("div", join(drawn), class_="charts")]
    if len(history.rows) == 1:
        parts.append(paragraph("There was one validation only, so each of these has a single point.", soft=True))
    parts.append(
        paragraph("Below, by step: the faint line is what each step gave, the strong one its running mean.", soft=True)
    )
    charts(
        "Total, learning rate and gradient",
        [("total", "total loss"), ("lr", "learning rate"), ("grad_norm", "gradient norm")],
    )
    losses: list[tuple[str, str]] = []
    for task in run.tasks:
        terms = [key for key in history.training if key.startswith(f"loss/{task.name}/")]
        # a single term is the whole
        losses += [(f"loss/{task.name}", f"{task.name}: all terms")] if len(terms) != 1 else []
        losses += [(key, key[5:].replace("/", ": ", 1)) for key in terms]
    charts("Losses, times the weights of the config", losses)
    beta = [
        (key, key.partition("/")[2].replace("/", ": ")) for key in history.training if key.startswith("regularizer/")
    ]
    charts("Regularisers", beta)
    if not beta:
        parts.append(paragraph("This run has no regularisers.", soft=True))
    return join([*parts, _validations(history)])


def _validations(history: History) -> Html:
    if not history.rows:
        return Html()
    stride = -(-len(history.rows) // _ROWS)
    rows = history.rows[::-1][::stride][::-1]
    keys = [
        key for key in dict.fromkeys(k for row in rows for k in row) if not key.startswith(("train/", "epoch", "step"))
    ]
    body = [[f"step {number(int(row['step']))}", *(row.get(key) for key in keys)] for row in rows]
    some = "" if stride == 1 else f", every {stride}th of them; results.csv has all"
    whole = table(["validation", *keys], body, f"{len(history.rows)} validations{some}")
    return details("The validations as a table", whole)


def _weights(run: TrainingRun) -> Html:
    lines = [
        Line(task.name, run.history.training[f"weight/{task.name}"])
        for task in run.tasks
        if f"weight/{task.name}" in run.history.training
    ]
    if not lines:
        return paragraph("The log has no weights.", soft=True)
    words = (
        f"What {run.method} multiplied each task's loss by, on top of its fixed weight in the config (running mean)."
    )
    if all(value == 1 for line in lines for _, value in line.points):
        words += " It was 1 throughout, as with equal weights."
    drawn = [lines_chart("weight", lines), lines_chart("loss times weight", _weighted(run.history, lines), zero=True)]
    return join([paragraph(words, soft=True), tag("div", join(drawn), class_="charts")])


def _weighted(history: History, weights: Sequence[Line]) -> list[Line]:
    """How much of the total each task was, at the steps where it had a label."""
    lines = []
    for line in weights:
        losses = dict(history.training.get(f"loss/{line.name}", ()))
        points = [(step, weight * losses[step]) for step, weight in line.points if step in losses]
        lines += [Line(line.name, points)] if points else []
    return lines


def _classes(tasks: Sequence[TaskResult]) -> Html:
    parts, nothing, cells = [], [], _CELLS
    for task in tasks:
        shown = class_table(task.name, task.values)
        counts = task.values.get("confusion") or []
        if any(map(any, counts)) and len(task.classes) == len(counts):
            matrix = confusion(task.name, task.classes, counts, min(1600, cells))
            cells -= min(cells, len(counts) ** 2)
        else:
            matrix = paragraph("No confusions: an image or pixel has no single class here.", soft=True)
        if shown:
            wide = "pair" if 0 < len(counts) <= 20 else None
            parts.append(join([tag("h3", task.name), *_origin(task), tag("div", join([shown, matrix]), class_=wide)]))
        else:
            nothing.append(task.name)
    if nothing:
        parts.append(paragraph(f"Without classes, or without a label of any: {', '.join(nothing)}.", soft=True))
    return join(parts)


def again(command: str, known: Mapping[str, str], config: str) -> Html:
    """The command that trains the same again, facts about the run, and its config, shortened where it is very long."""
    if len(config) > _CONFIG:
        config = config[:_CONFIG] + "\n# ... the rest is in config.yaml of the run\n"
    return join(
        [
            tag("h3", "Command"),
            code(command, "Command that trains this again"),
            tag("h3", "Facts"),
            facts(known),
            tag("h3", "Config"),
            code(config, "Configuration in YAML"),
        ]
    )
