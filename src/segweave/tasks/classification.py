"""Whole-image classification: one class an image, or any number of labels."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from segweave import rasters
from segweave.errors import ConfigError, DataError, UnreadableError
from segweave.metrics.classification import ClassificationMetric
from segweave.tasks.maps import DenseMap
from segweave.tasks.semantic import SUFFIXES
from segweave.tasks.task import CommonOptions, Legend, PooledHead, Prediction, Summary, Task, class_names

UNKNOWN = 255


class Classification(Task):
    """Class of the whole image; target int64 [] (single) or float32 [C] of 0 / 1 (multi-label).

    Args:
        name: the task's name.
        classes: how many, their names, or a file of names.
        multi_label: any number of classes an image, each with its own sigmoid.
        derive: `presence` reads the class-index mask of `source` and labels the classes that occur in it, after
            augmentation, so that a crop is labelled by what it shows. Implies `multi_label`.
        ignore: mask ids that are no class, for `derive`; 255 never is.

    Raises:
        ConfigError: a loss that does not fit `multi_label`.
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
        derive: Literal["presence"] | None = None,
        ignore: int | Sequence[int] | None = None,
        **common: Unpack[CommonOptions],
    ) -> None:
        self.multi_label = multi_label or derive is not None
        fitting = ("bce", "focal") if self.multi_label else ("cross_entropy", "focal")
        super().__init__(name, **{"loss": fitting[0]} | common)  # pyright: ignore[reportArgumentType]
        if not set(self.loss_options) <= set(fitting):
            raise ConfigError(
                f"tasks.{name}.loss: found {list(self.loss_options)}; expected {' or '.join(fitting)} here"
            )
        self.classes = class_names(name, classes)
        self.derive = derive
        self.dense = derive is not None
        self.reads = self.kind if derive is None else "semantic"
        self.ignore = [ignore] if isinstance(ignore, int) else list(ignore or ())
        self.build_criteria(ignore=-1)

    def resize(self, output: Tensor, used: tuple[int, int], size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return output

    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        return DenseMap(values) if self.derive else values

    def read(self, path: Path) -> Tensor:
        if self.derive:
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
        if self.derive or not text:
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
        if not self.derive:
            return annotation
        counts = torch.bincount(annotation.as_subclass(Tensor).flatten().long(), minlength=256)
        present = counts[: len(self.classes)] > 0
        # a mask in which nothing is labelled does not say that there is nothing
        return present.float() if present.any() else torch.full((len(self.classes),), -1.0)

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


def _without_suffix(image: str) -> str:
    return str(Path(image).with_suffix("")) if Path(image).suffix.lower() in SUFFIXES else image
