"""What a surveyed data set holds: sums over its records, and the tables that show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from segweave.data.survey import Record
from segweave.report.check_page import Cell, Sheet
from segweave.tasks.task import Summary, Task


@dataclass
class Labels:
    """The labels of one task in one split, added up.

    Args:
        images: of the split.
        unit: what `counts` counts.
        counts: by class, of all labels.
        occurs: by class, in how many images.
        labelled, total: places with a label, and all places of labelled images.
        summaries: of every label that was read.
    """

    images: int
    unit: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    occurs: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    total: int = 0
    summaries: list[Summary] = field(default_factory=list)

    def add(self, summary: Summary) -> None:
        self.unit = summary.unit
        for name, count in summary.counts.items():
            self.counts[name] += count
            self.occurs[name] += count > 0
        self.labelled += summary.labelled
        self.total += summary.total
        self.summaries.append(summary)


@dataclass(frozen=True)
class Inventory:
    """All records of a data set, by split, and the labels by task and split."""

    records: Mapping[str, Sequence[Record]]
    labels: Mapping[str, Mapping[str, Labels]]

    @property
    def splits(self) -> list[str]:
        return list(self.records)


def take_inventory(records: Iterable[Record], splits: Mapping[str, int], tasks: Sequence[Task]) -> Inventory:
    """Adds up the records of a survey; `splits` has the number of images by split."""
    kept: dict[str, list[Record]] = {split: [] for split in splits}
    labels = {task.name: {split: Labels(count) for split, count in splits.items()} for task in tasks}
    for record in records:
        kept[record.split].append(record)
        for name, summary in record.labels.items():
            labels[name][record.split].add(summary)
    return Inventory(kept, labels)


def sheets(inventory: Inventory) -> list[Sheet]:
    """Tables of the images, the labels, the classes of every task, and the ranges of its values."""
    return [_images(inventory), _coverage(inventory), *_classes(inventory), *_values(inventory)]


def _images(inventory: Inventory) -> Sheet:
    rows: list[list[Cell]] = []
    for split, records in inventory.records.items():
        looks = [record.look for record in records if record.look]
        sizes = sorted({look.size for look in looks}, key=lambda size: size[0] * size[1])
        middle = median_low([look.size[0] * look.size[1] for look in looks]) if looks else 0
        typical = next((size for size in sizes if size[0] * size[1] == middle), None)
        shown = [size and f"{size[1]} x {size[0]}" for size in (*sizes[:1], typical, *sizes[-1:])] if sizes else []
        kinds = ", ".join(sorted({f"{kind} x {bands}" for kind, bands in (look.values for look in looks)}))
        span = f"{min(look.low for look in looks):g} to {max(look.high for look in looks):g}" if looks else ""
        rows.append([split, len(records), len(looks), *(shown or [None] * 3), len(sizes), kinds, span])
    columns = ("split", "images", "readable", "smallest", "median", "largest", "sizes", "type x bands", "values")
    return Sheet("Images (width x height)", columns, rows)


def _coverage(inventory: Inventory) -> Sheet:
    rows: list[list[Cell]] = []
    for task, by_split in inventory.labels.items():
        for split, labels in by_split.items():
            read = len(labels.summaries)
            share = _percent(labels.labelled, labels.total) if labels.total > read else None
            rows.append([task, split, read, _percent(read, labels.images), share])
    return Sheet("Label coverage", ("task", "split", "labelled images", "of the images", "of their pixels"), rows)


def _classes(inventory: Inventory) -> list[Sheet]:
    made = []
    for task, by_split in inventory.labels.items():
        names = list(next((labels.counts for labels in by_split.values() if labels.counts), {}))
        unit = next((labels.unit for labels in by_split.values() if labels.unit), "")
        if not names:
            continue
        columns = ["class"]
        for split in by_split:
            columns += [f"{split} {unit}", *([f"{split} share"] if unit == "pixels" else [])]
            columns += [] if unit == "images" else [f"{split} images"]
        rows: list[list[Cell]] = []
        for name in names:
            row: list[Cell] = [name]
            for labels in by_split.values():
                row.append(labels.counts[name])
                row += [_percent(labels.counts[name], labels.labelled)] if unit == "pixels" else []
                row += [] if unit == "images" else [labels.occurs[name]]
            rows.append(row)
        made.append(Sheet(f"Classes of {task}", columns, rows))
    return made


def _values(inventory: Inventory) -> list[Sheet]:
    rows: list[list[Cell]] = []
    for task, by_split in inventory.labels.items():
        for split, labels in by_split.items():
            for quantity in dict.fromkeys(key for s in labels.summaries for key in s.values):
                spans = [summary.values[quantity] for summary in labels.summaries if quantity in summary.values]
                lows, middles, highs = zip(*spans, strict=True)
                rows.append([task, split, quantity, min(lows), float(median_low(middles)), max(highs)])
    columns = ("task", "split", "quantity", "lowest", "median of the images' medians", "highest")
    return [Sheet("Ranges of label values", columns, rows)] if rows else []


def _percent(part: int, whole: int) -> str | None:
    """`12.3 %`; never 0.0 or 100.0 for what is not exactly that."""
    if not whole:
        return None
    share = 100 * part / whole
    if 0 < share < 0.05:
        return "< 0.1 %"
    return "> 99.9 %" if 99.95 <= share < 100 else f"{share:.1f} %"
