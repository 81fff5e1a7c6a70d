"""Whole-image classification: one class an image, or any number of labels."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from segweave import rasters
from segweave.errors import ConfigError, DataError, UnreadableError
from segweave.metrics.classification import ClassificationMetric
from segweave.tasks.class_weights import Weights, checked, class_weights, occurrence, told
from segweave.tasks.maps import DenseMap
from segweave.tasks.options import class_names
from segweave.tasks.semantic import SUFFIXES
from segweave.tasks.task import PRESENCE, CommonOptions, Legend, PooledHead, Prediction, Summary, Task

UNKNOWN = 255
FIRST_OBJECT = 256
"""The lowest number of an object in the maps that are counted."""


class Classification(Task):
    """Class of the whole image; target int64 [] (single) or float32 [C] of 0 / 1 (multi-label).

    `derive: presence` reads the class-index mask of `source` and labels the classes that occur in it, after
    augmentation, so that a crop is labelled by what it shows. It implies `multi_label`.

    Args:
        name: the task's name.
        classes: how many, their names, or a file of names.
        multi_label: any number of classes an image, each with its own sigmoid.
        ignore: mask ids that are no class, for `derive: presence`; 255 never is.
        bins: the lowest number of objects of every class, ascending from 0, for `derive: count`: [0, 1, 5] are none, 1
            to 4, and 5 or more, which is what the classes are called unless `classes` says otherwise.
        class_weights: a factor per class in the losses of one class an image, or `balanced`, `inverse` or
            `effective_number` of the training labels, or `{name: inverse, power: 0.5}` and the like, as
            `tasks/class_weights.py` defines them. A class without an image gets 0.

    Raises:
        ConfigError: a loss or class weights that do not fit `multi_label`, weights that do not fit the classes, or bins
            that fit neither `derive` nor the classes.
    """

    kind = "classification"
    losses = ("cross_entropy", "bce", "focal")
    form = "scores"
    dense = False
    fill = UNKNOWN
    place = "encoder"

    def __init__(
        self,
        name: str,
        *,
        classes: int | Sequence[str | int] | str | None = None,
        multi_label: bool = False,
        ignore: int | Sequence[int] | None = None,
        bins: Sequence[int] | None = None,
        class_weights: Sequence[float]
        | Literal["balanced", "inverse", "effective_number"]
        | Mapping[str, Any]
        | None = None,
        **common: Unpack[CommonOptions],
    ) -> None:
        present = common.get("derive") == PRESENCE
        self.multi_label = multi_label or present
        fitting = ("bce", "focal") if self.multi_label else ("cross_entropy", "focal")
        super().__init__(name, **{"loss": fitting[0]} | common)  # pyright: ignore[reportArgumentType]
        if not set(self.loss_options) <= set(fitting):
            raise ConfigError(
                f"tasks.{name}.loss: found {list(self.loss_options)}; expected {' or '.join(fitting)} here"
            )
        self.present = present
        self.bins = self._checked_bins(bins)
        self.classes = class_names(name, _ranges(bins) if classes is None and bins else classes)
        if bins and len(self.classes) != len(bins):
            raise ConfigError(f"tasks.{name}.classes: found {len(self.classes)}; expected one for each of bins {bins}")
        self.dense = present or bins is not None
        self.reads = "semantic" if present else self.kind
        self.reading = ("ignore",) if present else ()
        self.ignore = [ignore] if isinstance(ignore, int) else list(ignore or ())
        # median_frequency would be 1 for all: an image of a class holds no other
        self.weightings = () if self.multi_label else ("balanced", "inverse", "effective_number")
        self._set_class_weights(class_weights)

    def _set_class_weights(self, weights: Weights) -> None:
        if weights is not None and self.multi_label:
            raise ConfigError(
                f"tasks.{self.name}.class_weights: found {weights!r}; expected none where an image has any number of "
                f"classes"
            )
        self.class_weights = checked(weights, len(self.classes), self.weightings, self.loss_options, self.name)
        tensor = torch.tensor(self.class_weights) if isinstance(self.class_weights, list) else None
        self.build_criteria(ignore=-1, weight=tensor)

    def prepare(self, targets: Callable[[], Iterable[Tensor]]) -> Sequence[str]:
        if not isinstance(self.class_weights, str | Mapping):
            return ()
        weights = class_weights(occurrence(targets(), len(self.classes)), self.class_weights)
        self._set_class_weights(weights)
        return (told(self.classes, weights),)

    def recall(self, spec: Mapping[str, Any]) -> None:
        super().recall(spec)
        if isinstance(self.class_weights, str | Mapping):
            self._set_class_weights(spec["class_weights"])

    def _checked_bins(self, bins: Sequence[int] | None) -> list[int] | None:
        counted = self.derivation is not None and self.derivation[0] == "count"
        where = f"tasks.{self.name}.bins: found {bins}"
        if (bins is not None) != counted or (counted and self.multi_label):
            raise ConfigError(f"{where}; expected bins with derive: count, without multi_label, and not otherwise")
        if bins is None:
            return None
        if len(bins) < 2 or bins[0] != 0 or list(bins) != sorted(set(bins)):
            raise ConfigError(f"{where}; expected ascending numbers from 0, such as [0, 1, 5]")
        return list(bins)

    def resize(self, output: Tensor, used: tuple[int, int], size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return output

    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return DenseMap(values) if self.dense else values

    def read(self, path: Path) -> Tensor:
        if self.present:
            return self._read_mask(path)
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnreadableError(f"{path}: expected a text file with a class name; {error}") from None
        try:
            label = self.parse(text)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if label is None:
            raise DataError(f"{path}: empty; expected a class of task {self.name!r}")
        return label

    def _read_mask(self, path: Path) -> Tensor:
        labels = rasters.read_index(path).to(torch.int32)
        for value in self.ignore:
            labels = torch.where(labels == value, UNKNOWN, labels)
        stray = labels[(labels != UNKNOWN) & ((labels < 0) | (labels >= len(self.classes)))]
        if len(stray):
            raise DataError(
                f"{path}: label id {int(stray[0])} ({int((stray == stray[0]).sum())} pixels) outside the "
                f"{len(self.classes)} classes of task {self.name!r}; add it to tasks.{self.name}.ignore or .classes"
            )
        return DenseMap(labels.to(torch.uint8))

    def parse(self, text: str) -> Tensor | None:
        """A class name or id; several, separated by `;` or `|`, for multi-label; `-` for none of them."""
        text = text.strip()
        if self.dense or not text:
            return None
        if not self.multi_label:
            return torch.tensor(self._id(text))
        target = torch.zeros(len(self.classes))
        for part in text.replace("|", ";").split(";"):
            if part.strip() and part.strip() != "-":
                target[self._id(part.strip())] = 1
        return target

    def _id(self, text: str) -> int:
        if text in self.classes:
            return self.classes.index(text)
        if text.isdigit() and int(text) < len(self.classes):
            return int(text)
        raise DataError(f"label {text!r} is not a class of task {self.name!r}; expected one of {self.classes}")

    def encode(self, annotation: Tensor) -> Tensor:
        if not self.dense:
            return annotation
        if self.bins is not None:
            return self._counted(annotation.as_subclass(Tensor), self.bins)
        counts = torch.bincount(annotation.as_subclass(Tensor).flatten().long(), minlength=256)
        present = counts[: len(self.classes)] > 0
        # a mask in which nothing is labelled does not say that there is nothing
        return present.float() if present.any() else torch.full((len(self.classes),), -1.0)

    def _counted(self, objects: Tensor, bins: Sequence[int]) -> Tensor:
        """The class of the number of objects that a map shows; -1 where nothing of it is known."""
        if bool((objects == UNKNOWN).all()):
            return torch.tensor(-1)
        number = len(objects[objects >= FIRST_OBJECT].unique())
        return torch.tensor(bisect_right(bins, number) - 1)

    def head(self, channels: Sequence[int], strides: Sequence[int]) -> nn.Module:  # noqa: ARG002
        return PooledHead(channels[0], len(self.classes))

    def soft(self, output: Tensor) -> Tensor:
        """Probabilities of the classes, [b, C]."""
        return self.decode(output)["scores"]

    def decode(self, output: Tensor) -> Prediction:
        return {"scores": output.float().sigmoid() if self.multi_label else output.float().softmax(1)}

    def metric(self) -> ClassificationMetric:
        return ClassificationMetric(self.classes, self.multi_label)

    def write(self, folder: Path, id: str, prediction: Prediction) -> Path:
        path = folder / f"{self.name}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        scores = prediction["scores"].tolist()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["image", "label", *self.classes])
            writer.writerow([id, self._label(prediction), *(f"{score:.6f}" for score in scores)])
        return path

    def _label(self, prediction: Prediction) -> str:
        scores = prediction["scores"]
        if not self.multi_label:
            return self.classes[int(scores.argmax())]
        return ";".join(c for c, score in zip(self.classes, scores.tolist(), strict=True) if score > 0.5) or "-"

    def predictions(self, folder: Path) -> dict[str, Callable[[], Prediction]]:
        path = folder / f"{self.name}.csv"
        if not path.exists():
            tables = sorted(folder.glob("*.csv"))
            if len(tables) != 1:
                raise DataError(f"{folder}: found {len(tables)} CSV files; expected {self.name}.csv")
            path = tables[0]
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        # the image's column is called so in our files, and comes first in most others
        named = [(row.get("image") or next(iter(row.values()), "") or "", row) for row in rows]
        return {_without_suffix(image): self._row_reader(row, path) for image, row in named}

    def _row_reader(self, row: dict[str, str], path: Path) -> Callable[[], Prediction]:
        def read() -> Prediction:
            if not any(name in row for name in self.classes):
                return {"scores": self._scores_of(row, path)[None]}
            try:
                return {"scores": torch.tensor([[float(row[name]) for name in self.classes]])}
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}: {row.get('image')}: expected a score column per class; {error!r}") from None

        return read

    def _scores_of(self, row: dict[str, str], path: Path) -> Tensor:
        """Scores of 0 and 1 from a table that has decisions only."""
        scores = torch.zeros(len(self.classes))
        for part in (row.get("label") or "").replace("|", ";").split(";"):
            if part.strip() and part.strip() != "-":
                try:
                    scores[self._id(part.strip())] = 1
                except DataError as error:
                    raise DataError(f"{path}: image {row.get('image')!r}: {error}") from None
        if not self.multi_label and scores.sum() != 1:
            raise DataError(
                f"{path}: image {row.get('image')!r}: found label {row.get('label')!r}; expected one of "
                f"{', '.join(self.classes)} in a column `label`, or a column of scores per class"
            )
        return scores

    def describe(self, target: Tensor) -> Summary:
        present = target > 0 if self.multi_label else torch.arange(len(self.classes)) == target
        counts = dict(zip(self.classes, present.int().tolist(), strict=True))
        return Summary("images", counts, int((target >= 0).all()))

    def draw(self, image: Tensor, prediction: Prediction) -> Tensor:  # noqa: ARG002
        return image

    def legend(self, prediction: Prediction) -> Legend:
        scores = prediction["scores"].tolist()
        ranked = sorted(zip(scores, self.classes, strict=True), key=lambda pair: pair[0], reverse=True)
        shown = [(s, c) for s, c in ranked if s > 0.5] if self.multi_label else ranked[: int(ranked[0][0] > 0)]
        # a truth has no probabilities, and is 0 everywhere where it is not known
        return Legend(text=", ".join(c if s == 1 else f"{c} {s:.2f}" for s, c in shown) or "none")

    def truth(self, target: Tensor) -> Prediction:
        """Scores of 0 and 1; -1, where it is not known."""
        if self.multi_label:
            return {"scores": target.float()}
        scores = torch.zeros(len(self.classes))
        if target >= 0:
            scores[int(target)] = 1
        return {"scores": scores}

    def draw_error(self, image: Tensor, prediction: Prediction, target: Tensor) -> Tensor:  # noqa: ARG002
        return image

    def error_legend(self, prediction: Prediction, target: Tensor) -> Legend:
        scores, target = prediction["scores"].cpu(), target.cpu()
        if not self.multi_label:
            return Legend(text="not known" if target < 0 else "right" if scores.argmax() == target else "wrong")
        said = scores > 0.5
        missed = [c for c, wrong in zip(self.classes, (target == 1) & ~said, strict=True) if wrong]
        invented = [c for c, wrong in zip(self.classes, (target == 0) & said, strict=True) if wrong]
        parts = [f"{what}: {', '.join(names)}" for what, names in (("missed", missed), ("invented", invented)) if names]
        return Legend(text="; ".join(parts) or "right")


def _ranges(bins: Sequence[int]) -> list[str]:
    """`0`, `1 to 4`, `5 or more` of 0, 1 and 5."""
    names = [f"{low} to {high - 1}" if high > low + 1 else str(low) for low, high in pairwise(bins)]
    return [*names, f"{bins[-1]} or more"]


def _without_suffix(image: str) -> str:
    return str(Path(image).with_suffix("")) if Path(image).suffix.lower() in SUFFIXES else image
