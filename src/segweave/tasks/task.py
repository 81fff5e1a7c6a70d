"""What a task kind is: reading labels, the head, the losses, the metric, the pictures."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from segweave.batch import Terms
from segweave.errors import ConfigError, nearest
from segweave.losses import LOSSES
from segweave.metrics.metric import Metric
from segweave.tasks.options import label_power, weighted_losses

Prediction = Mapping[str, Tensor]
"""What a task says of a batch of images, by name; the first axis of every tensor is the image."""
PRESENCE = "presence"
"""The `derive` of a task that reads masks itself."""


class CommonOptions(TypedDict, total=False):
    """The options that every task kind has; `Task` documents them and holds their defaults."""

    weight: float | Mapping[str, float]
    loss: str | Sequence[str] | Mapping[str, float | Mapping[str, Any]] | None
    average: Literal["pixel", "image"]
    regularizers: Mapping[str, float]
    source: str | None
    derive: str | Mapping[str, Mapping[str, Any]] | None
    origin: str | None
    decoder: str | Mapping[str, Any] | None
    at: str | None


@dataclass(frozen=True)
class Legend:
    """What a reader needs beside a picture: coloured names, or a bar from `low` to `high`, or a line of text."""

    entries: Sequence[tuple[str, tuple[int, int, int]]] = ()
    bar: tuple[float, float, str] | None = None
    ramp: Sequence[tuple[int, int, int]] = ()
    text: str = ""


@dataclass(frozen=True)
class Summary:
    """One image's label in numbers that add up over images, for `segweave check`.

    Args:
        unit: what `counts` counts: `pixels`, `boxes` or `images`.
        counts: by class name in the task's order, zeros too; empty for kinds without classes.
        labelled: how many of `total` places carry a label; places are the pixels of a map, or the one image.
        total: of places.
        values: (lowest, median, highest) by quantity with its unit, such as `depth in m`; empty where there are none.
        doubts: what makes the label suspicious, in the same words for every image with the same fault.
    """

    unit: str
    counts: Mapping[str, int]
    labelled: int = 1
    total: int = 1
    values: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    doubts: Sequence[str] = ()


class Task(ABC):
    """One thing the network predicts.

    Args:
        name: unique in a network; metrics, files and logs are named after it.
        weight: alpha, by which the task's loss is multiplied. Positive. `{labels: p}` makes it (n / N)^p, with n the
            labelled ones of the N training images and p from -1 to 1: with -1 a task with few labels weighs more, with
            1 a label weighs the same in every task, and a task that all images are labelled for has 1.
        loss: a name, several names, or `{name: weight}` / `{name: {weight: w, option: value}}`.
        average: `pixel` divides a loss by everything it counts in the effective batch, as published numbers are made;
            `image` averages within each image first.
        regularizers: beta by the regulariser's name, on this task's own parameters, the features its head reads, and
            what it predicts.
        source: the data set's layer with this task's labels; otherwise the layer of the task's name, or of its kind.
            With `derive`, the task or the layer of which its labels are made.
        derive: makes the task's labels of those of `source`: the name of a derivation, or `{name: {option: value}}`.
        origin: how labels came about that nobody annotated, shown beside every result on them. Labels that `derive`
            makes have one by default.
        decoder: a decoder of the task's own (a name or `{name: ..., options}`) instead of the model's.
        at: where the head reads: `decoder`, `pyramid` (the maps that the decoder fuses, for kinds that read several),
            `encoder` (its last level) or a level such as `stride16` or `layer3`.
        predict: false leaves the task out of the network; its labels only serve tasks that are derived from it.

    Raises:
        ConfigError: an unknown loss, a weight that is not positive, or a power out of range.
    """

    kind: ClassVar[str]
    losses: ClassVar[tuple[str, ...]]
    """Names of the losses that make sense for this kind; the first is the default."""
    dense: bool = True
    """Whether annotations have the image's height and width."""
    fill: ClassVar[float] = 0
    """Value of annotation pixels outside the image."""
    form: ClassVar[Literal["map", "scores", "none"]] = "none"
    """What `soft` gives: a map [b, C, H, W] that mirrors as its image does, scores [b, C] that stay, or nothing."""
    place: ClassVar[str] = "decoder"
    """Where the head reads unless `at` says otherwise; `pyramid` for the kinds that read several maps."""
    derivation: tuple[str, Mapping[str, Any]] | None
    """The name and the options of what makes its labels of others; None where files hold them."""
    reads: str
    """The kind whose label files it reads; its own, unless it makes its labels of another's."""
    reading: Sequence[str] = ()
    """The options that say what the values in its files mean, which may differ from data set to data set."""
    locates: Sequence[str] = ()
    """The classes whose pixels `spot` finds; none for kinds without a class per pixel."""
    weightings: tuple[str, ...] = ()
    """The ways in which `class_weights` may be made from the training labels; none for kinds without the option."""

    def __init__(
        self,
        name: str,
        *,
        weight: float | Mapping[str, float] = 1.0,
        loss: str | Sequence[str] | Mapping[str, float | Mapping[str, Any]] | None = None,
        average: Literal["pixel", "image"] = "pixel",
        regularizers: Mapping[str, float] | None = None,
        source: str | None = None,
        derive: str | Mapping[str, Mapping[str, Any]] | None = None,
        origin: str | None = None,
        decoder: str | Mapping[str, Any] | None = None,
        at: str | None = None,
        predict: bool = True,
    ) -> None:
        if not re.fullmatch(r"\w[\w -]*", name) or name == "shared" or hasattr(nn.ModuleDict(), name):
            raise ConfigError(
                f"tasks: found the name {name!r}; expected letters, digits, '_', '-' and blanks, and none that is "
                f"taken (such as 'shared' or 'keys')"
            )
        self.label_power = label_power(name, weight) if isinstance(weight, Mapping) else None
        alpha = 1.0 if isinstance(weight, Mapping) else float(weight)
        if not alpha > 0:
            raise ConfigError(f"tasks.{name}.weight: found {weight}; expected a number above 0")
        self.name = name
        self.reads = self.kind
        self.weight = alpha
        self.loss_options = weighted_losses(name, loss or self.losses[0], self.losses)
        self.average = average
        self.regularizers = dict(regularizers or {})
        self.source = source
        self.derive = derive
        self.derivation = chosen(derive)
        self.origin = origin or _origin(derive, source)
        self.decoder = decoder
        self.at = at
        self.predict = predict
        self.criteria = nn.ModuleDict()

    def spec(self) -> dict[str, Any]:
        """`{kind, name, option: value}` that `TASKS` builds the same task from; every option is an attribute."""
        parameters = [p for kind in (type(self), Task) for p in inspect.signature(kind.__init__).parameters.values()]
        names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"loss"}
        values = {name: getattr(self, name) for name in sorted(names)}
        if self.label_power is not None:
            values["weight"] = {"labels": self.label_power}
        return {"kind": self.kind, "name": self.name, "loss": self.loss_options} | values

    def build_criteria(self, **given: Any) -> None:
        """Builds the named losses; each constructor takes from `given` the positional arguments it has."""
        self.criteria = nn.ModuleDict()
        for name, options in self.loss_options.items():
            constructor = LOSSES.load(name)
            wanted = inspect.signature(constructor).parameters
            rest = {key: value for key, value in options.items() if key != "weight"}
            for key in rest:
                if key not in LOSSES.options(name):
                    raise ConfigError(
                        f"tasks.{self.name}.loss.{name}.{key}: unknown option"
                        + (f"; did you mean {nearest(key, LOSSES.options(name))}?" if LOSSES.options(name) else "")
                    )
            self.criteria[name] = constructor(**{k: v for k, v in given.items() if k in wanted}, **rest)

    def counts(self, target: Tensor) -> dict[str, Float[Tensor, " b"]]:
        """What each named loss is averaged over, per image: known before the network runs."""
        counts = {name: criterion.count(target) for name, criterion in self.criteria.items()}  # pyright: ignore
        if self.average == "image":
            counts = {name: (count > 0).to(count.dtype) for name, count in counts.items()}
        return counts

    def loss(self, output: Tensor, target: Tensor) -> Mapping[str, Terms]:
        """One entry per named loss, already multiplied by that loss's own weight (not by alpha)."""
        activated = self.activate(output)
        terms = {}
        for name, criterion in self.criteria.items():
            weight = float(self.loss_options[name]["weight"])
            term = Terms(weight * criterion(activated, target), criterion.count(target))  # pyright: ignore
            terms[name] = term.per_image() if self.average == "image" else term
        return terms

    def activate(self, output: Tensor) -> Tensor:
        """The head's raw output as what the losses are defined on."""
        return output

    def soft(self, output: Tensor) -> Tensor:
        """The raw output as float32 that regularisers compare, shaped as `form` says; kinds of `none` have none."""
        raise NotImplementedError(f"{self.kind} has no soft prediction of {tuple(output.shape)}")

    def mirror(self, soft: Tensor) -> Tensor:
        """What `soft` gives, as it would be of the mirrored image."""
        return soft.flip(-1) if self.form == "map" else soft

    def resize(self, output: Tensor, used: tuple[int, int], size: tuple[int, int]) -> Tensor:  # noqa: ARG002
        """The raw output for an image of another size; unchanged where the output has no pixels.

        Args:
            used: (height, width) of the image that the network saw.
            size: (height, width) that is wanted.
        """
        if not self.dense or output.ndim != 4 or output.shape[-2:] == size:
            return output
        return nn.functional.interpolate(output.float(), size, mode="bilinear", align_corners=False)

    def zoom(self, annotation: Tensor, factor: float) -> Tensor:  # noqa: ARG002
        """What a camera that zooms in by `factor` does to the annotation's values; nothing for most kinds."""
        return annotation

    def parse(self, text: str) -> Tensor | None:  # noqa: ARG002
        """A table's cell as an annotation; None for the kinds whose cells hold file names."""
        return None

    def size(self, annotation: Tensor) -> tuple[int, int] | None:
        """(height, width) of the image that a label belongs to; None for labels that do not say."""
        return (annotation.shape[-2], annotation.shape[-1]) if self.dense else None

    def notes(self, annotation: Tensor) -> Mapping[str, int]:  # noqa: ARG002
        """What was mended in a label when it was read, and how often, for a user to hear of once."""
        return {}

    def read_all(self, path: Path) -> Mapping[str, Callable[[], Tensor]] | None:  # noqa: ARG002
        """Readers of the annotations of all images of a split in one file, by image file name; None for kinds without.

        A reader travels to other processes, and many thousands of them together take little memory.

        Raises:
            DataError: a file that cannot be read, or with labels outside the classes.
        """
        return None

    def stack(self, targets: Sequence[Tensor]) -> Tensor:
        """Encoded targets of several images as one tensor [b, ...]."""
        return torch.stack(list(targets))

    def prepare(self, targets: Callable[[], Iterable[Tensor]]) -> Sequence[str]:  # noqa: ARG002
        """Computes what depends on the training set (such as class weights) from its encoded targets, and tells it."""
        return ()

    def weigh(self, labelled: int, images: int) -> Sequence[str]:
        """Makes a weight that depends on the labels from their number, above 0, and that of the images; tells it."""
        if self.label_power is None:
            return ()
        self.weight = (labelled / images) ** self.label_power
        self.label_power = None
        return (f"weight {self.weight:.4g}, from labels on {labelled} of {images} training images",)

    def recall(self, spec: Mapping[str, Any]) -> None:
        """Takes what `prepare` and `weigh` would make from the `spec` of the task after them, without its labels."""
        if self.label_power is not None:
            self.weight, self.label_power = spec["weight"], None

    def spot(
        self,
        annotation: Tensor,  # noqa: ARG002
        classes: Sequence[str] | None,  # noqa: ARG002
        chance: tuple[float, float],  # noqa: ARG002
    ) -> tuple[int, int] | None:
        """Row and column of a pixel of one of the classes; None without one, and for kinds that do not locate them.

        Args:
            classes: names; None for all, but for the background of a binary task.
            chance: two numbers from 0 to below 1. The first chooses among those of the classes that the annotation
                shows, the second among the pixels of that class, all alike.
        """
        return None

    @abstractmethod
    def wrap(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        """Plain values as this kind's annotation type, which augmentation knows how to transform.

        Args:
            values: of one image.
            size: its (height, width).
        """

    @abstractmethod
    def read(self, path: Path) -> Tensor:
        """One label file as an annotation. Raises DataError."""

    @abstractmethod
    def encode(self, annotation: Tensor) -> Tensor:
        """An augmented annotation as the training target of one image."""

    @abstractmethod
    def head(self, channels: Sequence[int], strides: Sequence[int]) -> nn.Module:
        """Feature maps to raw output, as a module called with `(maps, height, width)`.

        Args:
            channels, strides: of the maps [b, C_i, H/s_i, W/s_i] that it reads, finest first; a single one unless the
                head reads the pyramid.
        """

    @abstractmethod
    def decode(self, output: Tensor) -> Prediction:
        """Raw output to a prediction by tensor operations only, so that exported networks hold the same code."""

    @abstractmethod
    def metric(self) -> Metric:
        """A new, empty metric."""

    @abstractmethod
    def write(self, folder: Path, id: str, prediction: Prediction) -> Path:
        """Writes the prediction of ONE image (no batch axis) under `folder` in the field's format."""

    @abstractmethod
    def predictions(self, folder: Path) -> dict[str, Callable[[], Prediction]]:
        """The prediction files of any origin in a folder: a reader by image id. Raises DataError."""

    @abstractmethod
    def draw(self, image: UInt8[Tensor, "3 H W"], prediction: Prediction) -> UInt8[Tensor, "3 H W"]:
        """The prediction of one image over the image."""

    @abstractmethod
    def legend(self, prediction: Prediction) -> Legend:
        """What to print beside the picture of this prediction; a text where the picture shows nothing of it."""

    @abstractmethod
    def truth(self, target: Tensor) -> Prediction:
        """The encoded target of one image as a prediction for `draw` and `legend`, unlabelled pixels and all."""

    def describe(self, target: Tensor) -> Summary:  # noqa: ARG002
        """The encoded target of one image in numbers, with what makes it suspicious."""
        return Summary("images", {})

    def judge(self, summaries: Sequence[Summary]) -> Sequence[str]:  # noqa: ARG002
        """What all labels of the data together make suspicious, each as one sentence with its numbers and a cure."""
        return ()

    def beside(self, prediction: Prediction, truth: Prediction) -> Prediction:  # noqa: ARG002
        """A prediction to be drawn beside its truth, so that a colour means the same in both."""
        return prediction

    @abstractmethod
    def draw_error(
        self, image: UInt8[Tensor, "3 H W"], prediction: Prediction, target: Tensor
    ) -> UInt8[Tensor, "3 H W"]:
        """Where the prediction of one image is wrong, over the image; the image itself for kinds without pixels."""

    @abstractmethod
    def error_legend(self, prediction: Prediction, target: Tensor) -> Legend:
        """What to print beside the picture of `draw_error`; for kinds without pixels, in words what is wrong."""


def chosen(derive: str | Mapping[str, Mapping[str, Any]] | None) -> tuple[str, Mapping[str, Any]] | None:
    """The derivation that `derive` names, and its options; none for `PRESENCE`."""
    if derive is None or derive == PRESENCE:
        return None
    return (derive, {}) if isinstance(derive, str) else next(iter(derive.items()))


def _origin(derive: str | Mapping[str, Mapping[str, Any]] | None, source: str | None) -> str | None:
    if derive is None:
        return None
    how = derive if isinstance(derive, str) else next(iter(derive))
    return f"derived from {source or 'masks'} ({how}); not a benchmark number"


class DenseHead(nn.Module):
    """A 1 x 1 convolution, then bilinear enlargement to the network's input size."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(channels, outputs, 1)

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> Tensor:
        output = self.classifier(maps[0])
        return nn.functional.interpolate(output, (height, width), mode="bilinear", align_corners=False)


class PooledHead(nn.Module):
    """Global average pooling, then a linear layer."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, outputs)

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> Tensor:  # noqa: ARG002
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(maps[0], 1), 1))
