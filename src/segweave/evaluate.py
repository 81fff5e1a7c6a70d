"""Metrics of every task over a data set, from a model or from prediction files, at the labels' own size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from segweave.batch import Sample
from segweave.data.dataset import Dataset
from segweave.data.layout import by_end, examples
from segweave.errors import DataError
from segweave.metrics.metric import Metric
from segweave.model import MultiTaskModel
from segweave.tasks.task import Prediction, Task

Results = dict[str, dict[str, Any]]
"""By task: metric values by key, the metric's details, and the `origin` of labels that are no annotations."""


def evaluate(
    model: MultiTaskModel,
    batches: Iterable[tuple[Tensor, list[Sample]]],
    readers: Mapping[str, Task] | None = None,
) -> Results:
    """Runs a model over images and scores its predictions at each image's own size.

    Args:
        batches: resized images [B, C, h, w] in [0, 1] with the samples as read, from `evaluation_batches`.
        readers: the tasks that read the labels, by name, where they are not the model's own.
    """
    metrics = {name: task.metric() for name, task in model.tasks.items()}
    for _, name, prediction, target in _answers(model, batches, readers or model.tasks):
        metrics[name].update(prediction, target)
    return {name: _values(metric, (readers or model.tasks).get(name)) for name, metric in metrics.items()}


def evaluate_images(
    model: MultiTaskModel, batches: Iterable[tuple[Tensor, list[Sample]]]
) -> dict[str, dict[str, Metric]]:
    """The same image by image: by task, and by the id of each image with a label, a metric that saw this one alone."""
    metrics: dict[str, dict[str, Metric]] = {name: {} for name in model.tasks}
    for id, name, prediction, target in _answers(model, batches, model.tasks):
        metrics[name][id] = model.tasks[name].metric()
        metrics[name][id].update(prediction, target)
    return metrics


def resampled(
    metric: Metric, images: Sequence[Metric | None], counts: Int64[np.ndarray, "rows images"]
) -> dict[str, Float64[np.ndarray, " rows"]]:
    """A metric's values on resamples of images.

    Args:
        metric: of the same class and constructor as those of the images; it is reset.
        images: what each image alone gave, None without a label.
        counts: how often each image counts, by resample.
    """
    rows = []
    for row in counts:
        metric.reset()
        for place in np.flatnonzero(row).tolist():
            if (image := images[place]) is not None:
                for _ in range(int(row[place])):
                    metric.merge(image)
        rows.append(metric.compute())
    return {key: np.array([row[key] for row in rows], np.float64) for key in metric.keys}


@torch.inference_mode()
def _answers(
    model: MultiTaskModel, batches: Iterable[tuple[Tensor, list[Sample]]], readers: Mapping[str, Task]
) -> Iterator[tuple[str, str, Prediction, Tensor]]:
    """For every label its image's id, its task, the prediction and the target, at the image's own size."""
    device = model.mean.device
    was_training = model.training
    model.eval()
    for images, samples in batches:
        outputs = model(images.to(device))
        for row, sample in enumerate(samples):
            for name, annotation in sample.annotations.items():
                task = model.tasks[name]
                used, size = ((i.shape[-2], i.shape[-1]) for i in (images, sample.image))
                output = task.resize(outputs[name][row : row + 1], used, size)
                yield sample.id, name, task.decode(output), readers[name].encode(annotation)[None].to(device)
    model.train(was_training)


def score(tasks: Sequence[Task], dataset: Dataset, folder: Path) -> Results:
    """Scores prediction files of any origin: `folder/<task>/<id>.*`, or `folder/<id>.*` for a single task.

    Raises:
        DataError: a missing folder, a labelled image without a prediction, or one of another size than its label.
    """
    results = {}
    for task in tasks:
        place = folder / task.name if (folder / task.name).is_dir() else folder
        if not folder.is_dir() or (place == folder and len(tasks) > 1):
            raise DataError(
                f"{folder / task.name}: no such folder of predictions for task {task.name!r}; expected a folder per "
                f"task, which may be left out for a single one"
            )
        found = task.predictions(place)
        # a flat folder may hold the predictions of images in sub-folders, as far as their names tell them apart
        ours, theirs = (Counter(Path(key).name for key in keys) for keys in (dataset.ids, found))
        stems = {Path(key).name: key for key in found if theirs[Path(key).name] == 1}
        ends = by_end(found, set(dataset.ids))
        scored = matched = 0
        metric = task.metric()
        for index, id in enumerate(dataset.ids):
            annotation = dataset.annotation(index, task.name)
            if annotation is None:
                continue
            name = Path(id).name
            key = ends.get(id) or (stems.get(name) if ours[name] == 1 else None)
            scored, matched = scored + 1, matched + (key is not None)
            reader = found[key] if key is not None else found.get(id)
            if reader is None:
                some = f", such as {next(iter(found))!r}" if found else ""
                raise DataError(
                    f"{place}: no prediction for image {id!r}; found {len(found)}{some}; expected one of that name "
                    f"for every labelled image"
                )
            prediction, target = reader(), task.encode(annotation)[None]
            if task.dense and target.ndim == 3:
                for value in prediction.values():
                    if value.shape != target.shape:
                        raise DataError(
                            f"{place}: {id}: size {list(value.shape[1:])}; its label has {list(target.shape[1:])}"
                        )
            metric.update(prediction, target)
        if found and scored and not matched:
            raise DataError(f"{place}: no prediction is of an image here; {examples(found, dataset.ids, 'they')}")
        results[task.name] = _values(metric, task)
    return results


def _values(metric: Metric, reader: Task | None) -> dict[str, Any]:
    """A metric's values and details, and how the labels came about where nobody annotated them."""
    origin = {"origin": reader.origin} if reader is not None and reader.origin else {}
    return {**metric.compute(), **metric.details(), **origin}


def headline(results: Mapping[str, Mapping[str, Any]], tasks: Iterable[Task]) -> dict[str, tuple[float, bool]]:
    """Each task's headline value, and whether higher is better."""
    metrics = {task.name: task.metric() for task in tasks}
    return {n: (float(results[n][m.headline]), m.higher_is_better) for n, m in metrics.items() if n in results}


def relative_gain(new: Mapping[str, tuple[float, bool]], old: Mapping[str, tuple[float, bool]]) -> float:
    """Mean over tasks of the relative change of the headline value, positive for better.

    Relative to the old value, or to the new one where the old one is 0. A value where there was none (nan) counts as a
    gain of 1, none where there was one as a loss of 1.
    """
    gains = []
    for name, (value, higher) in new.items():
        before = old[name][0]
        if math.isnan(value) or math.isnan(before):
            gains.append(float(math.isnan(before)) - float(math.isnan(value)))
            continue
        change = (value - before) / (abs(before) or abs(value) or 1.0)
        gains.append(change if higher else -change)
    return sum(gains) / len(gains)
