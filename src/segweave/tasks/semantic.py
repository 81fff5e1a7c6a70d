"""Semantic segmentation: one class for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from segweave import rasters
from segweave.errors import ConfigError, DataError
from segweave.metrics.segmentation import SegmentationMetric
from segweave.palette import default_palette
from segweave.tasks.class_weights import WEIGHTINGS, Weights, checked, class_weights, occurrence, takes_factors, told
from segweave.tasks.maps import DenseMap
from segweave.tasks.options import class_names
from segweave.tasks.task import CommonOptions, DenseHead, Legend, Prediction, Summary, Task

IGNORE = 255
"""Unlabelled pixels inside segweave, whatever the files call them."""
SUFFIXES = {".png", ".tif", ".tiff", ".npy", ".bmp", ".gif", ".jpg", ".jpeg"}
"""Of raster files; what else follows a dot belongs to an image's name."""
_SPARSE, _MOST = 0.02, 0.75
_GREY, _WRONG = (128, 128, 128), (235, 30, 40)


class Semantic(Task):
    """One class per pixel; annotation and target are uint8 [H, W] with 255 where nothing is labelled.

    Args:
        name: the task's name.
        classes: how many, their names, or a file of names; at most 255. A single class makes the task binary with one
            logit: 0 in a mask is background, 1 is the class.
        ignore: ids in the files that mean "not labelled", beside 255 which always does.
        class_weights: a factor per class in cross_entropy and focal (the other losses take none), or what makes them
            from the training labels: `balanced`, `inverse`, `median_frequency` or `effective_number`, or
            `{name: inverse, power: 0.5}` and the like, as `tasks/class_weights.py` defines them. A class without a
            pixel gets 0.
        threshold: of a single class: file values from it on are the class and lower ones background, such as 128 for
            masks of 0 and 255, or for masks stored as JPEG. By default 1 is the class and 255 is not labelled.
        colours: `{class name or id: [red, green, blue]}`, each 0 to 255, for RGB masks and for the pictures. The key
            `ignore` is the colour of what is not labelled.

    Raises:
        ConfigError: more than 255 classes, a threshold for several, weights or colours that do not fit the classes, or
            weights without a loss that takes them.
    """

    kind = "semantic"
    losses = ("cross_entropy", "focal", "bce", "iou", "dice", "tversky", "lovasz", "boundary")
    form = "map"
    fill = IGNORE
    reading = ("ignore", "threshold", "colours")

    def __init__(
        self,
        name: str,
        *,
        classes: int | Sequence[str | int] | str | None = None,
        ignore: int | Sequence[int] | None = None,
        class_weights: Sequence[float]
        | Literal["balanced", "inverse", "median_frequency", "effective_number"]
        | Mapping[str, Any]
        | None = None,
        threshold: int | None = None,
        colours: Mapping[str | int, Sequence[int]] | None = None,
        **common: Unpack[CommonOptions],
    ) -> None:
        super().__init__(name, **common)
        self.classes = class_names(name, classes)
        self.binary = len(self.classes) == 1
        self.names = ["background", *self.classes] if self.binary else self.classes
        self.locates = self.names
        if len(self.names) > IGNORE:
            raise ConfigError(f"tasks.{name}.classes: found {len(self.names)}; expected at most {IGNORE}")
        self.ignore = [ignore] if isinstance(ignore, int) else list(ignore or ())
        if threshold is not None and not self.binary:
            raise ConfigError(f"tasks.{name}.threshold: found {len(self.classes)} classes; expected a single one")
        self.threshold = threshold
        self.colours = self._by_class(colours or {})
        palette = default_palette(len(self.names))
        self.palette: list[tuple[int, int, int]] = []
        for name_, fallback in zip(self.names, palette, strict=True):
            red, green, blue = self.colours.get(name_, fallback)
            self.palette.append((red, green, blue))
        self.weightings = tuple(WEIGHTINGS) if takes_factors(self.loss_options) else ()
        self._set_class_weights(class_weights)

    def _by_class(self, colours: Mapping[str | int, Sequence[int]]) -> dict[str, list[int]]:
        """The colours by class name; a number that is no class's name is an id."""
        named: dict[str, list[int]] = {}
        for key, colour in colours.items():
            where, known = f"tasks.{self.name}.colours.{key}", str(key) in (*self.names, "ignore")
            if not known and isinstance(key, int) and 0 <= key < len(self.names):
                known, key = True, self.names[key]
            if not known:
                raise ConfigError(f"{where}: not a class; expected some of {self.names}, their ids, or 'ignore'")
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ConfigError(f"{where}: found {list(colour)}; expected [red, green, blue], each 0 to 255")
            if str(key) in named:
                raise ConfigError(f"{where}: {str(key)!r} has two colours; expected one")
            named[str(key)] = list(colour)
        return named

    def _set_class_weights(self, weights: Weights) -> None:
        self.class_weights = checked(weights, len(self.names), self.weightings, self.loss_options, self.name)
        tensor = torch.tensor(self.class_weights) if isinstance(self.class_weights, list) else None
        self.build_criteria(ignore=IGNORE, weight=tensor, first=1 if self.binary else 0)

    def prepare(self, targets: Callable[[], Iterable[Tensor]]) -> Sequence[str]:
        if not isinstance(self.class_weights, str | Mapping):
            return ()
        weights = class_weights(occurrence(targets(), len(self.names)), self.class_weights)
        self._set_class_weights(weights)
        return (told(self.names, weights),)

    def recall(self, spec: Mapping[str, Any]) -> None:
        super().recall(spec)
        if isinstance(self.class_weights, str | Mapping):
            self._set_class_weights(spec["class_weights"])

    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        """Class ids [H, W] as an annotation. Raises DataError for ids that are neither classes nor ignored."""
        # of the many masks with 8 bits no wider copy is made, which would take longer than all that is done with it
        labels = values if values.dtype == torch.uint8 else values.to(torch.int32)
        for value in self.ignore:
            if labels.dtype != torch.uint8 or 0 <= value <= IGNORE:
                labels = labels.masked_fill(labels == value, IGNORE)
        strays, pixels = self._strays(labels)
        if len(strays):
            pairs = zip(strays[:5].tolist(), pixels.tolist(), strict=False)
            raise DataError(
                f"label id {', '.join(f'{value} ({n} pixels)' for value, n in pairs)} outside the {len(self.names)} "
                f"classes of task {self.name!r}; add it to tasks.{self.name}.ignore or to tasks.{self.name}.classes"
            )
        return DenseMap(labels.to(torch.uint8))

    def _strays(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Ids that are neither classes nor ignored, and how many pixels have each."""
        if labels.dtype == torch.uint8:
            signed = labels.view(torch.int8)  # 255 is -1
            if signed.amin() >= -1 and signed.amax() < len(self.names):
                return labels.new_empty(0), labels.new_empty(0)
            pixels = torch.bincount(labels.flatten(), minlength=IGNORE + 1)
            pixels[: len(self.names)] = pixels[IGNORE] = 0
            return pixels.nonzero()[:, 0], pixels[pixels > 0]
        stray = ((labels < 0) | (labels >= len(self.names))) & (labels != IGNORE)
        return torch.unique(labels[stray], return_counts=True)

    def read(self, path: Path) -> Tensor:
        labels = self._read_ids(path)
        if self.binary and self.threshold is None and IGNORE not in self.ignore and _is_white_on_black(labels):
            raise DataError(
                f"{path}: every pixel is 0 or 255, and 255 means not labelled; set tasks.{self.name}.threshold: 128 "
                f"if 255 is {self.classes[0]!r}, or tasks.{self.name}.ignore: 255 if it is not labelled"
            )
        try:
            return self.wrap(labels, (labels.shape[0], labels.shape[1]))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def notes(self, annotation: Tensor) -> Mapping[str, int]:
        two = len(self.classes) == 2 and IGNORE not in self.ignore
        if not two or not _is_white_on_black(annotation.as_subclass(Tensor)):
            return {}
        other = self.classes[1]
        cure = f"if 255 is {other!r}, write classes: [{other}] and threshold: 128; else ignore: 255 says so"
        return {f"tasks.{self.name}: a mask of 0 and 255 alone, where 255 is not labelled; {cure}": 1}

    def _read_ids(self, path: Path, written: bool = False) -> Tensor:
        table = {}
        for key, (red, green, blue) in self.colours.items():
            table[int(red), int(green), int(blue)] = IGNORE if key == "ignore" else self.names.index(key)
        labels = rasters.read_index(path, table or None)
        if self.threshold is None:
            return labels
        labels = labels.to(torch.int32)
        return labels if written else (labels >= self.threshold).to(torch.int32)

    def encode(self, annotation: Tensor) -> Tensor:
        return annotation.as_subclass(Tensor)

    def spot(
        self, annotation: Tensor, classes: Sequence[str] | None, chance: tuple[float, float]
    ) -> tuple[int, int] | None:
        labels = annotation.as_subclass(Tensor).numpy()
        pixels = np.bincount(labels.ravel(), minlength=len(self.names))
        shown = [label for name in classes or self.classes if pixels[label := self.names.index(name)]]
        if not shown:
            return None
        label = shown[int(chance[0] * len(shown))]
        place = np.flatnonzero(labels == label)[int(chance[1] * pixels[label])]
        row, column = divmod(int(place), labels.shape[1])
        return row, column

    def head(self, channels: Sequence[int], strides: Sequence[int]) -> nn.Module:  # noqa: ARG002
        return DenseHead(channels[0], len(self.classes))

    def activate(self, output: Tensor) -> Tensor:
        # softmax over (0, x) is the sigmoid of x: every multi-class loss serves one logit, cross-entropy becomes BCE
        return torch.cat([torch.zeros_like(output), output], 1) if self.binary else output

    def soft(self, output: Tensor) -> Tensor:
        """Probabilities of the classes, [b, C, H, W]."""
        return self.activate(output).float().softmax(1)

    def decode(self, output: Tensor) -> Prediction:
        return {"labels": (output[:, 0] > 0).long() if self.binary else output.argmax(1)}

    def metric(self) -> SegmentationMetric:
        return SegmentationMetric(self.names, IGNORE)

    def write(self, folder: Path, id: str, prediction: Prediction) -> Path:
        path = folder / f"{id}.png"
        rasters.write_index(prediction["labels"].cpu(), path, self.palette)
        return path

    def predictions(self, folder: Path) -> dict[str, Callable[[], Prediction]]:
        def reader(path: Path) -> Callable[[], Prediction]:
            def read() -> Prediction:
                labels = self._read_ids(path, written=True)
                # a prediction of 0 and 1 alone, such as one of ours, holds the classes already
                if self.threshold is not None and int(labels.max()) > 1:
                    labels = (labels >= self.threshold).to(torch.int32)
                return {"labels": labels.long()[None]}

            return read

        return {key: reader(path) for key, path in image_files(folder).items()}

    def describe(self, target: Tensor) -> Summary:
        pixels = np.bincount(target.numpy().ravel(), minlength=IGNORE + 1)
        counts = dict(zip(self.names, pixels.tolist(), strict=False))
        labelled = sum(counts.values())
        found = [name for name, count in counts.items() if count]
        doubts = []
        if labelled < _SPARSE * target.numel():
            doubts.append(
                f"under {100 * _SPARSE:.0f} % of the pixels are labelled" if labelled else "no pixel is labelled"
            )
        if len(found) == 1:
            doubts.append(f"every labelled pixel is {found[0]!r}")
        if labelled and all(
            bool((edge == IGNORE).all()) for edge in (target[0], target[-1], target[:, 0], target[:, -1])
        ):
            doubts.append("a border without labels all round")
        return Summary("pixels", counts, labelled, target.numel(), doubts=doubts)

    def judge(self, summaries: Sequence[Summary]) -> Sequence[str]:
        if not self.binary:
            return ()
        shares = [s.counts[self.classes[0]] / s.labelled for s in summaries if s.labelled]
        inverted = sum(share > _MOST for share in shares)
        if 2 * inverted <= len(shares):
            return ()
        return [
            f"{self.classes[0]!r} covers over {100 * _MOST:.0f} % of the pixels in {inverted} of {len(shares)} images; "
            f"if it is the background that the masks call 1, invert them"
        ]

    def draw(self, image: Tensor, prediction: Prediction) -> Tensor:
        labels = prediction["labels"].cpu()
        colours = torch.zeros(IGNORE + 1, 3)
        colours[: len(self.palette)] = torch.tensor(self.palette, dtype=torch.float32)
        layer = colours[labels].permute(2, 0, 1)
        layer = torch.where(labels == IGNORE, _hatch(*labels.shape), layer)
        return (0.4 * image.float() + 0.6 * layer).round().clamp(0, 255).to(torch.uint8)

    def legend(self, prediction: Prediction) -> Legend:
        shown = torch.bincount(prediction["labels"].flatten().cpu(), minlength=IGNORE + 1)
        order = shown[: len(self.names)].argsort(descending=True).tolist()
        entries = [(self.names[i], self.palette[i]) for i in order if shown[i] > 0]
        return Legend(entries=[*entries, *([("not labelled (striped)", _GREY)] if shown[IGNORE] else [])])

    def truth(self, target: Tensor) -> Prediction:
        return {"labels": target.long()}

    def draw_error(self, image: Tensor, prediction: Prediction, target: Tensor) -> Tensor:
        labels, target = prediction["labels"].cpu(), target.cpu()
        # grey, so that the one colour is the error's
        dimmed = 40 + 0.5 * image.float().mean(0, keepdim=True).expand(3, -1, -1)
        red = torch.tensor(_WRONG, dtype=torch.float32)[:, None, None]
        drawn = torch.where(labels == target, dimmed, 0.25 * dimmed + 0.75 * red)
        drawn = torch.where(target == IGNORE, 0.4 * dimmed + 0.6 * _hatch(*target.shape), drawn)
        return drawn.round().clamp(0, 255).to(torch.uint8)

    def error_legend(self, prediction: Prediction, target: Tensor) -> Legend:
        labelled = target.cpu() != IGNORE
        wrong = labelled & (prediction["labels"].cpu() != target.cpu())
        entries = [("wrong", _WRONG)] if wrong.any() else []
        return Legend(entries=[*entries, *([] if labelled.all() else [("not labelled (striped)", _GREY)])])


def _hatch(height: int, width: int) -> Tensor:
    """[H, W] of diagonal stripes in two greys, which no class has."""
    period = max(4, height // 30)
    stripe = (torch.arange(height)[:, None] + torch.arange(width)) % period < period // 2
    return torch.where(stripe, 90.0, 166.0)


def _is_white_on_black(labels: Tensor) -> bool:
    white = labels == IGNORE
    return bool(white.any() and not white.all() and (white | (labels == 0)).all())


def image_files(folder: Path) -> dict[str, Path]:
    """Every raster file below a folder, by its path without suffix. Raises DataError where two share a stem."""
    files: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != "."):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in files:
            raise DataError(f"{path}: {files[key].name} has the same stem; expected one file per image")
        files[key] = path
    return files
