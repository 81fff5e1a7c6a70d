"""The data doctor: reads a whole data set before it is trained on, and says what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from segweave.config import Config
from segweave.data.augment import Augment
from segweave.data.dataset import Dataset
from segweave.data.derived.targets import Derived
from segweave.data.findings import Finding, Place, find
from segweave.data.imbalance import imbalances
from segweave.data.inventory import Inventory, Labels, sheets, take_inventory
from segweave.data.layout import new_folder
from segweave.data.survey import Record, sample_of, survey
from segweave.drawing import shown, thinned
from segweave.errors import ConfigError, DataError
from segweave.plan import Plan
from segweave.report.check_page import Cell, Drawn, Remark, Sheet, check_page
from segweave.report.html import number
from segweave.report.picture import Panel
from segweave.sources import build_dataset, build_tasks
from segweave.tasks.task import Task

_SAMPLES, _SHOWN, _PIXELS = 4, 12, 480
_WIDEST = 50
"""Characters of a table's cell of text, before it goes on in a second line, also where lines may be of any length."""
_STYLES = {"error": "bold red", "warning": "yellow", "advice": "cyan"}


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Args:
        findings: errors first, then warnings, then advice.
        sheets: tables of what the data holds.
        page: the HTML page.
    """

    findings: Sequence[Finding]
    sheets: Sequence[Sheet]
    page: Path

    @property
    def errors(self) -> int:
        return sum(finding.level == "error" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """`ready to train`, or how many errors stand before that; and the warnings."""
        warnings = sum(finding.level == "warning" for finding in self.findings)
        parts = [_plural(self.errors, "error")] if self.errors else ["ready to train"]
        return ", ".join([*parts, _plural(warnings, "warning")])


def check(
    config: Config, out: Path | None = None, workers: int | None = None, console: Console | None = None
) -> Checked:
    """Reads every image and label of all splits, and writes a page of samples and of what was found.

    Args:
        config: checked.
        out: folder of the page; `check/<config>` by default, with a number where it holds something.
        workers: processes that read; as many as there are cores by default, 0 for none but this one.
        console: where the progress is shown.

    Raises:
        ConfigError: a config that cannot be used, or a folder that cannot be written to.
        DataError: no split has an image.
    """
    plan = Plan(**config.train)
    tasks = build_tasks(config)
    augment = Augment(config.data.get("size"), **(config.data.get("augment") or {}))
    augment.check({task.name: task for task in tasks})
    datasets, faults = _open(config, tasks)
    name = Path(config.source).stem
    folder = new_folder(out or Path("check") / name)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: cannot be written to; choose another --out")
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = {split: dict(dataset.notes) for split, dataset in datasets.items()}
    sizes = {split: len(dataset) for split, dataset in datasets.items()}
    # the processes are forked before the bar's thread starts, whose locks they would inherit
    records = _watched(survey(datasets, tasks, workers), sum(sizes.values()), console or Console(quiet=True))
    inventory = take_inventory(records, sizes, tasks)
    one_size = bool(config.data.get("size") or (config.data.get("augment") or {}).get("crop"))
    batch = plan.batch_size * plan.accumulate
    found = find(inventory, tasks, batch, one_size)
    parts = datasets["train"].sets if "train" in datasets else {}
    found += imbalances(inventory, tasks, {name: len(places) for name, places in parts.items()}, batch, config.data)
    listed = [Finding("advice", f"{split}: {note}") for split, notes in before.items() for note in notes]
    findings = [*(Finding("error", fault) for fault in faults), *found, *listed]
    album = _Album(datasets, tasks)
    remarks = [
        Remark(finding.level, finding.text, album.draw(finding.places if place < _SHOWN else ()))
        for place, finding in enumerate(findings)
    ]
    samples = {split: album.draw(_spread(split, count)) for split, count in sizes.items()}
    tables = [*_sets(datasets, tasks), *_derived(datasets, tasks, inventory), *sheets(inventory)]
    checked = Checked(findings, tables, folder / "check.html")
    page = check_page(name, checked.verdict, remarks, checked.sheets, samples)
    try:
        checked.page.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{checked.page}: cannot be written ({error.strerror}); choose another --out") from None
    return checked


def _open(config: Config, tasks: Sequence[Task]) -> tuple[dict[str, Dataset], list[str]]:
    """All splits of the data that hold images, and what is wrong with the others."""
    datasets: dict[str, Dataset] = {}
    faults: dict[str, DataError] = {}
    waiting = ["train", "val"]
    while waiting:
        split = waiting.pop(0)
        try:
            datasets[split] = build_dataset(config, split, tasks)
        except DataError as error:
            faults[split] = error
            continue
        waiting += [name for name in datasets[split].splits if name not in (*datasets, *faults, *waiting)]
    if not datasets:
        raise faults["train"]
    return datasets, list(dict.fromkeys(map(str, faults.values())))


def _sets(datasets: Mapping[str, Dataset], tasks: Sequence[Task]) -> list[Sheet]:
    """A table of the data sets of a mixture: how many images each has, and how many with a label for which task."""
    rows: list[list[Cell]] = []
    for name, split in sorted((name, split) for split, dataset in datasets.items() for name in dataset.sets if name):
        dataset = datasets[split]
        places = dataset.sets[name]
        labels = [sum(dataset.has_label(index, task.name) for index in places) for task in tasks]
        rows.append([name, split, len(places), *labels])
    columns = ("data set", "split", "images", *(f"with {task.name}" for task in tasks))
    return [Sheet("Data sets", columns, rows)] if rows else []


def _derived(datasets: Mapping[str, Dataset], tasks: Sequence[Task], inventory: Inventory) -> list[Sheet]:
    """A table of the tasks whose labels are made of others: how, from what, how many, and what to know of them."""
    dataset = next(iter(datasets.values()))
    targets = dataset.targets if isinstance(dataset, Derived) else {}
    rows: list[list[Cell]] = []
    for task in tasks:
        if task.derive is None:
            continue
        counts = [_amount(labels) for labels in inventory.labels[task.name].values()]
        target = targets.get(task.name)
        if target is None:  # the task makes them itself, of masks of classes
            rows.append([task.name, str(task.derive), f"{task.source or task.name} (classes)", *counts, "exact"])
            continue
        source = target.derivation.source
        rows.append([task.name, target.how, f"{source.name} ({source.kind})", *counts, target.derivation.stated])
    columns = ("task", "derived by", "from", *inventory.splits, "what to know")
    return [Sheet("Derived labels: not annotated, and not a benchmark's", columns, rows)] if rows else []


def _amount(labels: Labels) -> str:
    """`3 images, 1,234 boxes`: how many labels there are, of the classes together."""
    images = _plural(len(labels.summaries), "image")
    if labels.unit == "images":
        return images
    count = labels.labelled if labels.unit == "pixels" else sum(labels.counts.values())
    return f"{images}, {count:,} {labels.unit}"


def _watched(records: Iterable[Record], total: int, console: Console) -> Iterator[Record]:
    columns = (TextColumn("reading"), BarColumn(24), MofNCompleteColumn(), TextColumn("images,"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=console) as bar:
        yield from bar.track(records, total=total)


def _spread(split: str, count: int) -> list[Place]:
    """A few places over a whole split, the first and the last among them."""
    last = max(1, min(_SAMPLES, count) - 1)
    return list(dict.fromkeys((split, round(i * (count - 1) / last)) for i in range(min(_SAMPLES, count))))


class _Album:
    """Draws images with their labels, each one once."""

    def __init__(self, datasets: Mapping[str, Dataset], tasks: Sequence[Task]) -> None:
        self.datasets = datasets
        self.tasks = tasks
        self._drawn: dict[Place, Drawn | None] = {}

    def draw(self, places: Iterable[Place]) -> list[Drawn]:
        """Those of the images that can be read."""
        for place in places:
            if place not in self._drawn:
                self._drawn[place] = self._draw(*place)
        return [drawn for place in places if (drawn := self._drawn[place])]

    def _draw(self, split: str, index: int) -> Drawn | None:
        sample = sample_of(self.datasets[split], index)
        if sample is None:
            return None
        height, width = sample.image.shape[-2:]
        factor = min(1.0, _PIXELS / max(height, width))
        small = max(1, round(height * factor)), max(1, round(width * factor))
        panels, texts = [], []
        for task in self.tasks:
            if task.name not in sample.annotations:
                texts.append(f"{task.name}: no label")
                continue
            truth = task.truth(task.encode(sample.annotations[task.name]))
            legend = task.legend(truth)
            if legend.text:
                texts.append(f"{task.name}: {legend.text}")
                continue
            if task.dense:
                picture = task.draw(shown(sample.image, small), thinned(truth, height, width, small))
            else:
                picture = shown(task.draw(shown(sample.image, (height, width)), truth), small)
            panels.append(Panel(task.name, picture, legend.entries, legend.bar, legend.ramp))
        image = Panel("image", shown(sample.image, small), text="\n".join(texts))
        return Drawn(f"{split}/{sample.id}", [image, *panels])


def report(checked: Checked) -> Group:
    """Everything for a terminal, the verdict last."""
    parts: list[Table | Text] = [_terminal(sheet) for sheet in checked.sheets]
    for finding in checked.findings:
        parts.append(Text.assemble((f"{finding.level}: ", _STYLES[finding.level]), finding.text))
    parts.append(Text(f"\n{checked.verdict}", "bold red" if checked.errors else "bold green"))
    return Group(*parts)


def _terminal(sheet: Sheet) -> Table:
    table = Table(title=sheet.caption, title_justify="left")
    for place, name in enumerate(sheet.columns):
        if place == 0 or place in sheet.figures:
            table.add_column(Text(name), justify="right" if place else "left")
        else:
            table.add_column(Text(name), max_width=_WIDEST)
    for row in sheet.rows:
        table.add_row(*(Text(_text(cell)) for cell in row))
    return table


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "" if cell is None else number(cell)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
