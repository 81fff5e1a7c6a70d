"""Any data as a data set of format `folder`: images as their files are, labels in files that its tasks read back."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from segweave import config as yaml
from segweave import rasters
from segweave.config import Config
from segweave.data.dataset import Dataset
from segweave.data.layout import RASTERS, new_folder
from segweave.errors import ConfigError, DataError, SegweaveError, UnreadableError
from segweave.tasks import TASKS
from segweave.tasks.boxes import Boxes
from segweave.tasks.task import Task

_OF_FILES = ("source", "threshold", "units_per_metre", "ids", "category_ids", "bins")
"""Options of tasks that say how their files are encoded, which those that are written here need not be told."""
_VIEWS = ("size", "augment", "normalise", "sampling")
_GREYS = [(value, value, value) for value in range(256)]
_HALF_MILLIMETRE = 0.5e-3 + 1e-6


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote.

    Args:
        folder: the data, with a `config.yaml` that reads them.
        images: how many there are, by split.
        labels: how many of them have a label, by task and split.
        notes: of reading the data, and of what was written otherwise than expected, with counts.
        problems: images and splits that could not be read and are left out.
    """

    folder: Path
    images: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]
    notes: Mapping[str, int]
    problems: Sequence[str]

    def table(self) -> Table:
        """The numbers for a terminal."""
        table = Table(title=str(self.folder), title_justify="left")
        table.add_column("split")
        for name in ("images", *(f"with {task}" for task in self.labels)):
            table.add_column(name, justify="right")
        for split, count in self.images.items():
            table.add_row(split, str(count), *(str(counts[split]) for counts in self.labels.values()))
        return table


def convert(
    config: Config,
    tasks: Sequence[Task],
    read: Callable[[str], Dataset],
    out: Path,
    splits: Sequence[str] = (),
    console: Console | None = None,
) -> Converted:
    """Writes all images and labels that a config names into a new folder.

    It holds `images/<id>` (byte for byte where an image is a file of its own, else PNG, or `.npy` where it is not 8-bit
    colour), `labels/<task>/<id>` or `labels/<task>.json` (boxes, with crowds and areas), `labels.csv` (whole-image
    classes), `<split>.txt` and, last of all, `config.yaml`. Masks are 8-bit palette PNG with 255 where nothing is
    labelled, or 16-bit PNG where ids are beyond 255; depth is 16-bit PNG in millimetres, or `.npy` in metres for a map
    that these do not hold to half a millimetre, such as one beyond 65.535 m; normals are `.npy`. Derived labels are
    written as they were made, as `.npy` where they are not whole numbers; `origin` tells in the config what they are.
    Where two splits have an image of one id, the split's name comes before all ids. A folder without `config.yaml` is
    the rest of a conversion that was killed.

    Args:
        config: checked, with the tasks that read the labels.
        tasks: of that config.
        read: opens a split of the data for the tasks.
        out: the folder; a numbered one beside it where it holds something.
        splits: which to convert; all by default.
        console: where the progress is shown.

    Raises:
        ConfigError: a split that does not exist, or a folder that cannot be written to.
        DataError: labels that the config does not describe. Images that are damaged or missing are left out.
    """
    datasets, problems = _open(read, splits)
    ids = [id for dataset in datasets.values() for id in dataset.ids]
    apart = len(set(ids)) < len(ids)
    folder = new_folder(out)
    written = _Folder(folder, config, tasks)
    images: dict[str, int] = {}
    notes: Counter[str] = Counter()
    try:
        for split, dataset in datasets.items():
            names = []
            places = range(len(dataset))
            for index in track(places, split, console=console or Console(quiet=True), transient=True):
                id = dataset.ids[index]
                try:
                    names.append(written.add(f"{split}/{id}" if apart else id, split, dataset, index))
                except UnreadableError as error:
                    problems.append(str(error))
            notes.update(dataset.notes)
            images[split] = len(names)
            (folder / f"{split}.txt").write_text("".join(f"images/{name}\n" for name in names), encoding="utf-8")
        written.finish(list(images))
    except OSError as error:
        shutil.rmtree(folder)
        reason = f"{error.filename or folder}: cannot be read or written ({error.strerror})"
        raise ConfigError(f"{reason}; expected room and the right to write in {folder.parent}") from None
    except BaseException:
        shutil.rmtree(folder)
        raise
    labels = {task.name: {split: written.labels[task.name, split] for split in images} for task in tasks}
    return Converted(folder, images, labels, notes + written.notes, problems)


def _open(read: Callable[[str], Dataset], splits: Sequence[str]) -> tuple[dict[str, Dataset], list[str]]:
    """The splits; of those that nobody named, the ones that can be read, and what is wrong with the others."""
    if splits:
        return {split: read(split) for split in dict.fromkeys(splits)}, []
    datasets, problems = {"train": read("train")}, []
    for split in datasets["train"].splits:
        if split != "train":
            try:
                datasets[split] = read(split)
            except SegweaveError as error:
                problems.append(str(error))
    return datasets, problems


@dataclass
class _Folder:
    """The data set while it is written."""

    path: Path
    config: Config
    tasks: Sequence[Task]
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.bands = _bands(self.config.data)
        self.options = {task.name: _options(task, self.config.tasks[task.name]) for task in self.tasks}
        self._readers = {name: _built(name, options) for name, options in self.options.items()}
        self._boxes: dict[str, dict[str, Boxes]] = defaultdict(dict)
        self._cells: dict[str, dict[str, str]] = defaultdict(dict)
        self._files: list[str] = []

    def add(self, id: str, split: str, dataset: Dataset, index: int) -> str:
        """Writes an image and its labels; returns its file's name below `images`."""
        sample = dataset[index]
        name = self._add_image(id, sample.image, dataset.file(index))
        for task in self.tasks:
            annotation = sample.annotations.get(task.name)
            if annotation is None:
                continue
            if isinstance(annotation, Boxes):
                self._boxes[task.name][name] = annotation
            elif task.dense and getattr(task, "bins", None) is None:
                self._add_map(task, id, annotation)
            else:
                cell = self._cells[task.name][name] = _cell(task, annotation)
                if not cell:
                    continue
            self.labels[task.name, split] += 1
        self._files.append(name)
        return name

    def _add_image(self, id: str, image: Tensor, file: Path | None) -> str:
        stem = self.path / "images" / id
        stem.parent.mkdir(parents=True, exist_ok=True)
        if file is not None and file.suffix.lower() in RASTERS:
            copy = stem.with_name(stem.name + file.suffix)
            shutil.copyfile(file, copy)
            if self._holds(copy, image):
                return f"{id}{file.suffix}"
            copy.unlink()
        self.notes["images that are no files of their own: written anew"] += 1
        if image.dtype == torch.uint8 and image.shape[0] == 3 and self.bands is None:
            rasters.write_image(image, stem.with_name(f"{stem.name}.png"))
            return f"{id}.png"
        path = stem.with_name(f"{stem.name}.npy")
        np.save(path, image.permute(1, 2, 0).contiguous().numpy())
        if not self._holds(path, image):
            raise DataError(f"{path}: image {id!r} cannot be written so that data.bands reads it; convert it alone")
        return f"{id}.npy"

    def _holds(self, path: Path, image: Tensor) -> bool:
        """Whether a file is read as the image that it stands for."""
        try:
            read = rasters.read_image(path, bands=self.bands)[0]
        except DataError:
            return False
        return read.dtype == image.dtype and torch.equal(read, image)

    def _add_map(self, task: Task, id: str, annotation: Tensor) -> None:
        folder, values = self.path / "labels" / task.name, annotation.as_subclass(Tensor)
        if not values.is_floating_point():
            path = folder / f"{id}.png"
            if int(values.max()) <= 255:
                rasters.write_index(values, path, getattr(task, "palette", _GREYS))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.numpy().astype(np.uint16)).save(path)
            return
        target = task.encode(annotation)
        path = task.write(folder, id, task.truth(target))
        if target.ndim == 2 and (task.derivation is not None or not self._comes_back(task.name, path, target)):
            path.unlink()
            np.save(folder / f"{id}.npy", target.numpy())
            self.notes[f"{task.name}: maps that {path.suffix} does not hold: written as .npy"] += 1

    def _comes_back(self, task: str, path: Path, target: Tensor) -> bool:
        reader = self._readers[task]
        read = reader.encode(reader.read(path))
        return torch.equal(read == 0, target == 0) and float((read - target).abs().max()) <= _HALF_MILLIMETRE

    def finish(self, splits: Sequence[str]) -> None:
        """Writes what is of all images: boxes, the table, the config."""
        layers = {}
        for task in self.tasks:
            (self.path / "labels").mkdir(exist_ok=True)
            if task.name in self._boxes:
                layers[task.name] = f"labels/{task.name}.json"
                content = _coco(self._boxes[task.name], self.options[task.name]["classes"])
                (self.path / layers[task.name]).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            elif task.name in self._cells:
                layers[task.name] = task.name
            else:
                layers[task.name] = f"labels/{task.name}"
                (self.path / layers[task.name]).mkdir(exist_ok=True)
        # a pattern, because a column of the table may be called `images` too
        data: dict[str, Any] = {"format": "folder", "root": ".", "images": "images/**", "tasks": layers}
        if self._cells:
            data["table"] = "labels.csv"
            self._write_table(self.path / "labels.csv")
        data["splits"] = {split: f"{split}.txt" for split in splits}
        data |= {} if self.bands is None else {"bands": self.bands}
        # a sampling of several data sets means nothing where there is one
        views = _VIEWS[:-1] if "sets" in self.config.data else _VIEWS
        data |= {key: self.config.data[key] for key in views if self.config.data.get(key) is not None}
        sections = self.config.sections() | {"data": data, "tasks": self.options}
        text = yaml.dump({name: section for name, section in sections.items() if section})
        (self.path / "config.yaml").write_text(text, encoding="utf-8")

    def _write_table(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([_column(self._cells), *self._cells])
            for name in self._files:
                writer.writerow([name, *(cells.get(name, "") for cells in self._cells.values())])


def _bands(data: Mapping[str, Any]) -> int | Sequence[int] | None:
    """The bands of all images; where several data sets choose different ones, how many they are."""
    chosen = [options.get("bands") for options in data.get("sets", {"": data}).values()]
    if all(bands == chosen[0] for bands in chosen):
        return chosen[0]
    counts = [3 if bands is None else bands if isinstance(bands, int) else len(bands) for bands in chosen]
    return counts[0]


def _options(task: Task, written: Mapping[str, Any]) -> dict[str, Any]:
    """A task's options in the new config: without those that say how its files were encoded."""
    options = {key: value for key, value in written.items() if key not in (*_OF_FILES, "ignore")}
    if task.derivation is not None:
        del options["derive"]  # the labels are written as they were derived
        options["origin"] = task.origin
    known = TASKS.options(options["kind"])
    if "classes" in known:
        options["classes"] = list(getattr(task, "classes", ()))
    if task.dense and "ignore" in known:
        options["ignore"] = 255  # a map of 0 and 255 alone is no map of 0 and 1 then
    return options


def _built(name: str, options: Mapping[str, Any]) -> Task:
    return TASKS.load(options["kind"])(name, **{key: value for key, value in options.items() if key != "kind"})


def _cell(task: Task, annotation: Tensor) -> str:
    """The classes of an image, `-` for none of several."""
    scores = task.truth(task.encode(annotation)).get("scores")
    classes: Sequence[str] = getattr(task, "classes", ())
    if scores is None or len(scores) != len(classes):
        raise ConfigError(f"tasks.{task.name}: found labels of kind {task.kind}, which no table holds; leave it out")
    if not scores.any() and not getattr(task, "multi_label", False):
        return ""  # not known
    # a name that would be taken apart is written as its number
    names = [str(number) if re.search(r"[;|]|^\s|\s$|^-?$", name) else name for number, name in enumerate(classes)]
    return ";".join(name for name, score in zip(names, scores.tolist(), strict=True) if score > 0.5) or "-"


def _column(taken: Collection[str]) -> str:
    """A name for the column of the images that no task has."""
    name = "image"
    while name in taken:
        name += "_"
    return name


def _coco(boxes: Mapping[str, Boxes], classes: Sequence[str]) -> dict[str, Any]:
    """COCO annotations of all images, exact: differences of float32, and sums with them, are exact in doubles."""
    images, annotations = [], []
    for number, (name, rows) in enumerate(boxes.items(), 1):
        height, width = rows.canvas_size
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for x1, y1, x2, y2, label, crowd, area, _ in rows.as_subclass(Tensor).double().tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
