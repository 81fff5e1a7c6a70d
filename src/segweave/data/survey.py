"""Every image of several data sets and all its labels, read once by several processes into a few numbers each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer, Shaped
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from segweave import rasters
from segweave.batch import Sample
from segweave.data.dataset import Dataset
from segweave.errors import DataError
from segweave.tasks.task import Summary, Task

_JPEG = b"\xff\xd8\xff"
_DARK, _BRIGHT, _RIM = 0.03, 0.97, 0.12
_PLAIN = "the image is of a single colour"


@dataclass(frozen=True)
class Look:
    """An image in numbers.

    Args:
        size: height and width.
        values: type of its values, such as `uint8`, and the number of bands.
        low, high: its smallest and largest value.
        digest: of its decoded pixels, so that equal images in other files are found.
        gradient: 64 bits, whether the green of 8 x 8 cells rises to the right: close for pictures that look alike.
    """

    size: tuple[int, int]
    values: tuple[str, int]
    low: float
    high: float
    digest: bytes
    gradient: int


@dataclass
class Record:
    """What was found of one image of a split.

    Args:
        split, index, id: which one.
        look: None where the image cannot be read.
        labels: by task, of the labels that can be read.
        digests: of the labels' targets by task.
        frames: by task, the value that is all there is at the border of a map of classes, and how many pixels wide.
        doubts: what makes the image or its label suspicious, by task; `` for the image itself.
        errors: messages, each naming its file.
        notes: of reading it, such as conversions.
    """

    split: str
    index: int
    id: str
    look: Look | None = None
    labels: dict[str, Summary] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    frames: dict[str, tuple[int, int]] = field(default_factory=dict)
    doubts: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def survey(datasets: Mapping[str, Dataset], tasks: Sequence[Task], workers: int) -> Iterator[Record]:
    """One record per image, in order, split after split; no image is kept. The processes start at once.

    Args:
        datasets: by split.
        tasks: whose labels are read.
        workers: processes that read; 0 reads in this one.
    """
    places = [(split, index) for split, dataset in datasets.items() for index in range(len(dataset))]
    return iter(DataLoader(_Reader(datasets, tasks, places), batch_size=None, num_workers=workers))


class _Reader(TorchDataset):
    def __init__(
        self, datasets: Mapping[str, Dataset], tasks: Sequence[Task], places: Sequence[tuple[str, int]]
    ) -> None:
        self.datasets = datasets
        self.tasks = tasks
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> Record:
        split, index = self.places[position]
        dataset = self.datasets[split]
        record = Record(split, index, dataset.ids[index])
        dataset.notes.clear()
        image, annotations = self._read(dataset, record)
        if image is not None:
            record.look = look(image)
            record.doubts[""] = image_doubts(image)
        turned = image is not None and _turned_unseen(dataset.notes, image)
        for task in self.tasks:
            if task.name in annotations:
                target = task.encode(annotations[task.name])
                summary = task.describe(target)
                record.labels[task.name] = summary
                record.digests[task.name] = digest(target)
                if task.dense and target.ndim == 2 and summary.counts and (found := frame(target)):
                    record.frames[task.name] = found
                record.doubts[task.name] = list(summary.doubts)
            path = dataset.file(index, task.name)
            if path and task.dense and path.suffix.lower() != ".npy":
                record.doubts.setdefault(task.name, []).extend(_file_doubts(path, turned))
        record.notes = dict(dataset.notes)
        return record

    def _read(self, dataset: Dataset, record: Record) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        """The image and its labels; if they cannot be read together, those of them that can be read alone."""
        try:
            sample = dataset[record.index]
            return sample.image, sample.annotations
        except DataError as error:
            record.errors.append(str(error))
        path = dataset.file(record.index)
        try:
            image = dataset.image(record.index) if path else None
        except DataError:
            image = None  # the first error told of it
        return image, self._labels(dataset, record)

    def _labels(self, dataset: Dataset, record: Record) -> dict[str, Tensor]:
        """Those that can be read one by one; adds what else is wrong to the record's errors."""
        annotations = {}
        for task in self.tasks:
            try:
                annotation = dataset.annotation(record.index, task.name)
            except DataError as error:
                if str(error) not in record.errors:
                    record.errors.append(str(error))
                continue
            if annotation is not None:
                annotations[task.name] = annotation
        return annotations


def digest(values: Tensor) -> bytes:
    """16 bytes of a tensor's type, shape and values, whatever their order in memory."""
    plain = values.as_subclass(Tensor).detach().contiguous().numpy()
    start = repr((plain.dtype.str, plain.shape)).encode()
    return hashlib.blake2b(plain.tobytes(), digest_size=16, key=start[:64]).digest()


def look(image: Shaped[Tensor, "C H W"]) -> Look:
    """An image in numbers."""
    pixels = _channels_last(image)
    height, width, bands = pixels.shape
    low, high = float(pixels.min()), float(pixels.max())
    content = digest(image.permute(1, 2, 0))
    return Look((height, width), (pixels.dtype.name, bands), low, high, content, _gradient(pixels))


def _channels_last(image: Tensor) -> np.ndarray:
    """[H, W, C], which is how files lie in memory."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _gradient(pixels: np.ndarray) -> int:
    height, width, bands = pixels.shape
    step = max(1, min(height, width) // 64)
    green = torch.from_numpy(pixels[::step, ::step, min(1, bands - 1)].astype(np.float32))
    cells = torch.nn.functional.adaptive_avg_pool2d(green[None, None], (8, 9))[0, 0]
    bits = np.packbits((cells[:, 1:] > cells[:, :-1]).numpy().ravel())
    return int.from_bytes(bits.tobytes(), "big")


def image_doubts(image: Shaped[Tensor, "C H W"]) -> list[str]:
    """What makes an image suspicious: one colour, values out of range, hardly any light or dark, or a plain frame."""
    pixels = _channels_last(image)
    top = {"uint8": 255.0, "uint16": 65535.0}.get(pixels.dtype.name, 1.0)
    first = pixels[0, 0]
    # a few pixels tell most pictures from a single colour, so that few are compared whole
    if (pixels[::16, ::16] == first).all() and (pixels == first).all():
        return ["the image is black" if not first.any() else "the image is white" if (first == top).all() else _PLAIN]
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return ["the image holds values that are not finite"]
    if float(pixels.max()) <= _DARK * top:
        return [f"the image is nearly black (no value above {100 * _DARK:.0f} %)"]
    if pixels.dtype.kind == "u" and float(pixels.min()) >= _BRIGHT * top:
        return [f"the image is nearly white (no value below {100 * _BRIGHT:.0f} %)"]
    outer, inner = (_ring(pixels, at) for at in (0, max(2, min(pixels.shape[:2]) // 25)))
    apart = float(np.abs(np.median(outer, 0) - np.median(inner, 0)).max())
    framed = float(np.ptp(outer, 0).max()) <= _RIM * top and apart > _RIM * top
    return ["a frame of one colour round the image"] if framed else []


def frame(classes: Integer[Tensor, "H W"]) -> tuple[int, int] | None:
    """The value of the outermost pixels and how many pixels wide its frame is; None without one, or with no inside."""
    value = int(classes[0, 0])
    inside = classes != value
    if not inside.any():
        return None
    ends = [torch.nonzero(inside.any(axis))[[0, -1], 0].tolist() for axis in (1, 0)]
    width = min(min(first, length - 1 - last) for (first, last), length in zip(ends, classes.shape, strict=True))
    return (value, width) if width else None


def _ring(pixels: np.ndarray, at: int) -> np.ndarray:
    """The pixels [n, C] at a distance from the nearest edge; a small image has one ring only."""
    at = min(at, (min(pixels.shape[:2]) - 1) // 2)
    inside = pixels[at : pixels.shape[0] - at, at : pixels.shape[1] - at]
    return np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).astype(np.float32)


def _turned_unseen(notes: Iterable[str], image: Tensor) -> bool:
    """Whether an image was turned by its EXIF so that its size does not tell if its label was drawn on it upright."""
    turned = [note for note in notes if note.startswith("EXIF orientation")]
    quarter = any(f"orientation {number} " in note for note in turned for number in (5, 6, 7, 8))
    return bool(turned) and not (quarter and image.shape[-2] != image.shape[-1])


def _file_doubts(path: Path, turned: bool) -> list[str]:
    """Of a label's file; `turned` says that the image was turned by its EXIF."""
    doubts = []
    try:
        with path.open("rb") as file:
            if file.read(3) == _JPEG:
                doubts.append("the label is a JPEG, whose compression changes values; save it as PNG")
        if turned and not rasters.read_header(path).rotated:
            doubts.append("the photo is turned by its EXIF and the label is not; save both upright")
    except (OSError, DataError):
        return []  # an error of its own tells of a file that cannot be read
    return doubts


def sample_of(dataset: Dataset, index: int) -> Sample | None:
    """An image with its labels once more, to be drawn; None where it cannot be read."""
    try:
        return dataset[index]
    except DataError:
        return None
