"""What is unlike in number, classes, tasks and data sets, and what settings would do about it: advice with numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, comb
from typing import Any

import numpy as np

from segweave.config import dump
from segweave.data.findings import Finding
from segweave.data.inventory import Inventory, Labels
from segweave.data.sampling.repeat_factor import repeat_factors
from segweave.data.sampling.temperature import quotas
from segweave.tasks.class_weights import Occurrence, class_weights
from segweave.tasks.task import Task

_RATIO, _SETS = 20.0, 4.0
"""From which number of times on a class or a data set is told to be larger than another."""
_SHOWN, _TWICE = 8, 4
"""In which part of the images of the class that most show a class is rare; the threshold that shows these twice."""
_SHARE = 0.02
"""Of the pixels, below which crops are laid round a class."""
_MISSED = 0.05
"""Of the steps, above which labels are put into them."""
_NAMED, _LISTED = 3, 10


def imbalances(
    inventory: Inventory, tasks: Sequence[Task], sets: Mapping[str, int], batch: int, data: Mapping[str, Any]
) -> Iterator[Finding]:
    """A piece of advice for each setting that would change something, with what it would make of these labels.

    Args:
        sets: training images by data set.
        batch: images of a training step.
        data: the config's section.
    """
    trained = {task.name: labels for task in tasks if (labels := inventory.labels[task.name].get("train"))}
    sampling = (data.get("sampling") or {"name": "proportional"})["name"]
    texts = [text for task in tasks if task.name in trained for text in _classes(task, trained[task.name], data)]
    texts += [*_tasks(tasks, trained, batch, sampling), *_sets(sets, sampling)]
    yield from (Finding("advice", text) for text in texts)


def _classes(task: Task, labels: Labels, data: Mapping[str, Any]) -> list[str]:
    seen = {name: count for name, count in labels.counts.items() if count}
    if not seen:
        return []
    most, least = max(seen, key=seen.__getitem__), min(seen, key=seen.__getitem__)
    rare = sorted((name for name in seen if seen[most] >= _RATIO * seen[name]), key=seen.__getitem__)
    found = [*_weights(task, labels, most, least), *_crops(task, labels, rare, data)] if rare else []
    found += _repeats(task, labels, data)
    if rare and not found and not (task.weightings or task.locates):
        times = seen[most] / seen[least]
        found = [f"{most!r} has {_figure(times)} times the {labels.unit} of {least!r}; more of it would help"]
    return [f"{task.name}: {text}" for text in found]


def _weights(task: Task, labels: Labels, most: str, least: str) -> Iterator[str]:
    """What class weights make of the rarest class beside the commonest, which is all that the losses see of them."""
    if not task.weightings:
        return
    one = labels.unit.removesuffix("s")
    one = f"{'an' if one[0] in 'aeiou' else 'a'} {one}"
    text = (
        f"{least!r} is {_share(labels, least)} of the {labels.unit} and {most!r} {_share(labels, most)}, "
        f"{_figure(labels.counts[most] / labels.counts[least])} times as many; tasks.{task.name}.class_weights: "
    )
    names = list(labels.counts)
    counted = _occurrence(labels)

    def times(weights: Sequence[float]) -> str:
        return _figure(weights[names.index(least)] / weights[names.index(most)])

    given = getattr(task, "class_weights", None)
    if given is not None:
        listed = not isinstance(given, str | Mapping)
        weights = given if listed else class_weights(counted, given)
        if weights[names.index(most)]:
            named = "the list" if listed else _flow(given)
            yield f"{text}{named} makes {one} of {least!r} count as {times(weights)} of {most!r}"
        return
    asked = ["balanced", "median_frequency", {"name": "inverse", "power": 0.5}, "effective_number"]
    known = [w for w in asked if (w if isinstance(w, str) else w["name"]) in task.weightings]
    first, *others = ((_flow(weighting), times(class_weights(counted, weighting))) for weighting in known)
    rest = ", ".join(f"{name} as {number}" for name, number in others)
    yield f"{text}{first[0]} would make {one} of {least!r} count as {first[1]} of {most!r}, {rest}"


def _occurrence(labels: Labels) -> Occurrence:
    """The labels' classes as `class_weights` counts them."""
    counts = np.array([list(summary.counts.values()) for summary in labels.summaries], np.int64)
    return Occurrence(counts.sum(0), (counts > 0).sum(0), ((counts > 0) * counts.sum(1, keepdims=True)).sum(0))


def _crops(task: Task, labels: Labels, rare: Sequence[str], data: Mapping[str, Any]) -> Iterator[str]:
    augment = data.get("augment") or {}
    small = [name for name in rare if name in task.locates and labels.counts[name] < _SHARE * labels.labelled]
    if not small or augment.get("rare"):
        return
    named = ", ".join(f"{name!r} ({_share(labels, name)})" for name in small[:_NAMED])
    more = f" and {len(small) - _NAMED} more" if len(small) > _NAMED else ""
    crop = "" if augment.get("crop") else ", with a data.augment.crop smaller than the images,"
    classes = _flow({"classes": small if len(small) <= _LISTED else "auto"}).strip("{}")
    yield (
        f"under {100 * _SHARE:g} % of the {labels.unit} are {named}{more}; data.augment.rare: {{task: {task.name}, "
        f"chance: 0.5, {classes}}}{crop} would show one of them in at least half of the crops of images that "
        f"have one"
    )


def _repeats(task: Task, labels: Labels, data: Mapping[str, Any]) -> Iterator[str]:
    """How often images of the class that fewest show would come, at the threshold that shows them twice."""
    occurs = {name: images for name, images in labels.occurs.items() if images}
    most, least = max(occurs, key=occurs.__getitem__), min(occurs, key=occurs.__getitem__)
    if data.get("sampling") or occurs[most] < _SHOWN * occurs[least]:
        return
    read = len(labels.summaries)
    threshold = float(f"{_TWICE * occurs[least] / read:.4g}")
    shown = [[name for name, count in summary.counts.items() if count] for summary in labels.summaries]
    factors = repeat_factors([*shown, *[None] * (labels.images - read)], threshold)
    yield (
        f"{least!r} is in {occurs[least]} of {read} labelled images and {most!r} in {occurs[most]}; data.sampling: "
        f"{{name: repeat_factor, task: {task.name}, threshold: {threshold:g}}} would show those with {least!r} twice "
        f"in an epoch of {ceil(round(sum(factors), 6))} images instead of {labels.images}"
    )


def _tasks(tasks: Sequence[Task], trained: Mapping[str, Labels], batch: int, sampling: str) -> Iterator[str]:
    """Where steps of random images often have no label for a task, which they then leave out."""
    read = {name: len(labels.summaries) for name, labels in trained.items() if labels.summaries}
    if len(read) < 2 or sampling != "proportional":
        return
    images = next(iter(trained.values())).images
    least = min(read, key=read.__getitem__)
    step = min(batch, images)
    missed = comb(images - read[least], step) / comb(images, step)
    if missed < _MISSED:
        return
    counts = ", ".join(f"{name} {count}" for name, count in read.items())
    text = (
        f"tasks: of {images} training images {counts} are labelled; {100 * missed:.0f} % of the steps of {batch} have "
        f"no label for {least}, and none by data.sampling: {{name: tasks, minimum: 1}}"
    )
    if all(task.label_power is None for task in tasks):
        text += f"; tasks.{least}.weight: {{labels: -0.5}} would be {_figure((images / read[least]) ** 0.5)}"
    yield text


def _sets(sets: Mapping[str, int], sampling: str) -> Iterator[str]:
    if sampling != "proportional" or len(sets) < 2 or max(sets.values()) < _SETS * min(sets.values()):
        return
    least, most = min(sets, key=sets.__getitem__), max(sets, key=sets.__getitem__)
    total = sum(sets.values())
    tempered = dict(zip(sets, quotas(list(sets.values()), 2), strict=True))
    yield (
        f"data sets: {most} has {sets[most]} training images and {least} {sets[least]}, which is "
        f"{100 * sets[least] / total:.2g} % of an epoch; data.sampling: {{name: temperature, temperature: 2}} would "
        f"make it {100 * tempered[least] / total:.2g} %, and uniform {100 / len(sets):.2g} %"
    )


def _share(labels: Labels, name: str) -> str:
    return f"{100 * labels.counts[name] / sum(labels.counts.values()):.2g} %"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _flow(value: str | Mapping[str, Any]) -> str:
    """A name, or options, as they stand in a line of a config."""
    return value if isinstance(value, str) else " ".join(line.strip() for line in dump(value).splitlines())
