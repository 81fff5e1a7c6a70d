"""What is wrong with a data set, or likely to be, or worth knowing before training: rules over an inventory."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median_low
from typing import Literal

import numpy as np

from segweave.data.inventory import Inventory, Labels
from segweave.data.survey import Record
from segweave.tasks.task import Task

Place = tuple[str, int]
"""An image by its split and its position there."""

_NAMED = 3
_FEW_LABELS, _RARE = 0.1, 3
_FRAMED, _FRAMES = 0.9, 10
_ALIKE_BITS, _ALIKE_PAIRS = 3, 50_000_000


@dataclass(frozen=True)
class Finding:
    """One thing found: an `error` stops training, a `warning` is likely to be a mistake, `advice` may help.

    Args:
        text: what was found, with numbers, names and a cure.
        places: images that show it, the first ones where there are many.
    """

    level: Literal["error", "warning", "advice"]
    text: str
    places: Sequence[Place] = ()


def find(inventory: Inventory, tasks: Sequence[Task], batch: int, one_size: bool) -> list[Finding]:
    """Everything that the rules find, errors first.

    Args:
        batch: images of a training step.
        one_size: whether the config brings all images to one size.
    """
    records = [record for split in inventory.records.values() for record in split]
    found = [*_messages(records), *_sizes(inventory, batch, one_size)]
    for task in tasks:
        labels = inventory.labels[task.name]
        found += [*_coverage(task, labels, batch), *_classes(task, labels), *_judgements(task, labels)]
        found += _frames(task, [record for record in records if task.name in record.labels])
    found += [*_same_images(inventory), *_same_labels(records, tasks), *_doubts(records), *_look_alikes(inventory)]
    found += _notes(records)
    order = ("error", "warning", "advice")
    return sorted(found, key=lambda finding: order.index(finding.level))


def _messages(records: Iterable[Record]) -> Iterator[Finding]:
    """Errors of one kind together: the words count, not the names and numbers in them."""
    alike: dict[str, list[tuple[Record, str]]] = defaultdict(list)
    for record in records:
        for message in record.errors:
            alike[_words(message)].append((record, message))
    for group in alike.values():
        names = _names([record for record, _ in group[1:]])
        text = group[0][1] + (f"; and {len(group) - 1} more like it: {names}" if names else "")
        yield Finding("error", text, _places(record for record, _ in group))


def _words(message: str) -> str:
    """A message without the quotations, paths, numbers and lists of them in it."""
    bare = re.sub(r"b?'[^']*'|b?\"[^\"]*\"|\S*[/\\]\S*|-?\d+", "#", message)
    return re.sub(r"(#[\w ()#]*?)(, \1)+", r"\1", bare)


def _sizes(inventory: Inventory, batch: int, one_size: bool) -> Iterator[Finding]:
    looks = [record.look for record in inventory.records.get("train", ()) if record.look]
    sizes = Counter(look.size for look in looks)
    if len(sizes) > 1 and batch > 1 and not one_size:
        (height, width), count = sizes.most_common(1)[0]
        yield Finding(
            "error",
            f"training images have {len(sizes)} sizes ({width} x {height} is that of {count} in {len(looks)}) and "
            f"cannot share a batch; set data.size or data.augment.crop",
        )
    kinds = Counter(look.values for split in inventory.records.values() for r in split if (look := r.look))
    if len(kinds) > 1:
        shown = ", ".join(f"{kind} x {bands} in {count} images" for (kind, bands), count in kinds.most_common())
        yield Finding("warning", f"the images hold values of several kinds: {shown}; are they of one source?")


def _coverage(task: Task, by_split: Mapping[str, Labels], batch: int) -> Iterator[Finding]:
    train = by_split.get("train")
    read = len(train.summaries) if train else 0
    if train and not read:
        cure = f"check data.tasks and tasks.{task.name}.source"
        yield Finding("error", f"{task.name}: no training image has a label for it that can be read; {cure}")
    elif train and read < _FEW_LABELS * train.images:
        share = read / train.images
        yield Finding(
            "warning",
            f"{task.name}: {read} of {train.images} training images ({100 * share:.1f} %) carry a label, "
            f"{batch * share:.2g} in a step of {batch} on average; raise train.batch_size or train.accumulate",
        )
    validation = by_split.get("val")
    if validation and not validation.summaries:
        yield Finding("warning", f"{task.name}: no validation image has a label for it, so it cannot be measured")


def _classes(task: Task, by_split: Mapping[str, Labels]) -> Iterator[Finding]:
    train, validation = by_split.get("train"), by_split.get("val")
    seen = [name for name, count in train.counts.items() if count] if train else []
    if not train or not seen:
        if train and train.counts:
            yield Finding("warning", f"{task.name}: no training label of any class, so that nothing can be learnt")
        return
    missing = [name for name in train.counts if name not in seen]
    if missing:
        yield Finding("warning", f"{task.name}: no training label of {_quoted(missing)}, which cannot be learnt")
    if validation and validation.summaries:
        absent = [name for name in validation.counts if not validation.counts[name]]
        if absent:
            yield Finding(
                "warning",
                f"{task.name}: no validation label of {_quoted(absent)}: left out of the mean of the metrics, which is "
                f"then one of {len(validation.counts) - len(absent)} of {len(validation.counts)} classes",
            )
    rare = [name for name in seen if train.occurs[name] <= _RARE]
    if rare and len(train.summaries) > 10 * _RARE:
        counts = ", ".join(f"{name!r} in {train.occurs[name]}" for name in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more classes" if len(rare) > _NAMED else ""
        yield Finding("warning", f"{task.name}: hardly any training image shows {counts}{more}; label more of them")


def _judgements(task: Task, by_split: Mapping[str, Labels]) -> Iterator[Finding]:
    for text in task.judge([summary for labels in by_split.values() for summary in labels.summaries]):
        yield Finding("warning", f"{task.name}: {text}")


def _frames(task: Task, records: Sequence[Record]) -> Iterator[Finding]:
    """A class whose frame is as wide, but for a pixel, in nearly every label: what nobody labelled, not a scene."""
    frames = [record.frames[task.name] for record in records if task.name in record.frames]
    if not frames:
        return
    value = Counter(value for value, _ in frames).most_common(1)[0][0]
    middle = median_low([width for found, width in frames if found == value])
    alike = [
        record
        for record in records
        if (found := record.frames.get(task.name)) and found[0] == value and abs(found[1] - middle) <= 1
    ]
    names = list(records[0].labels[task.name].counts)
    if len(alike) < max(_FRAMED * len(records), _FRAMES) or value >= len(names):
        return
    yield Finding(
        "warning",
        f"{task.name}: {names[value]!r} is a frame about {middle} pixels wide round {len(alike)} of {len(records)} "
        f"labels, and may stand for what nobody labelled, there and elsewhere; if so, add its id to "
        f"tasks.{task.name}.ignore",
        _places(alike),
    )


def _same_images(inventory: Inventory) -> Iterator[Finding]:
    """Equal pixels, found by a hash of them: in two splits, or twice in one."""
    by_digest: dict[bytes, list[Record]] = defaultdict(list)
    for records in inventory.records.values():
        for record in records:
            if record.look:
                by_digest[record.look.digest].append(record)
    groups = [group for group in by_digest.values() if len(group) > 1]
    for one, two in combinations(inventory.splits, 2):
        pairs = []
        for group in groups:
            firsts, seconds = ([r for r in group if r.split == split] for split in (one, two))
            pairs += [(firsts[0], second) for second in seconds if firsts]
        if pairs:
            yield Finding(
                "warning",
                f"{_images(len(pairs))} of {two} also in {one} (equal pixels): {_pairs(pairs)}; what was trained on "
                f"measures nothing: remove it from one of them",
                _places(record for pair in pairs for record in pair),
            )
    for split in inventory.splits:
        copies = [[r for r in group if r.split == split] for group in groups]
        pairs = [(group[0], other) for group in copies for other in group[1:]]
        if pairs:
            yield Finding(
                "warning",
                f"{_images(len(pairs))} of {split} twice there (equal pixels): {_pairs(pairs)}; it weighs double",
                _places(record for pair in pairs for record in pair),
            )


def _same_labels(records: Sequence[Record], tasks: Sequence[Task]) -> Iterator[Finding]:
    """The same map or boxes on different images; labels that are suspicious anyway or hold one value are left out."""
    for task in tasks:
        by_digest: dict[bytes, list[Record]] = defaultdict(list)
        for record in records:
            summary = record.labels.get(task.name)
            filled = summary and (summary.values or sum(summary.counts.values()))
            if record.look and summary and filled and summary.unit != "images" and not summary.doubts:
                by_digest[record.digests[task.name]].append(record)
        pairs = []
        for group in by_digest.values():
            pairs += [
                (group[0], r) for r in group[1:] if r.look and group[0].look and r.look.digest != group[0].look.digest
            ]
        if pairs:
            yield Finding(
                "warning",
                f"{task.name}: {len(pairs)} labels are identical to another one while the images differ: "
                f"{_pairs(pairs)}; a file saved under a wrong name?",
                _places(record for pair in pairs for record in pair),
            )


def _doubts(records: Sequence[Record]) -> Iterator[Finding]:
    alike: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        for task, doubts in record.doubts.items():
            for doubt in doubts:
                alike[task, doubt].append(record)
    for (task, doubt), group in alike.items():
        text = f"{task or 'images'}: {doubt} ({_images(len(group))}: {_names(group)})"
        yield Finding("warning", text, _places(group))


def _look_alikes(inventory: Inventory) -> Iterator[Finding]:
    """Pictures of two splits whose cells rise and fall alike: frames of one film, or copies saved anew."""
    for one, two in combinations(inventory.splits, 2):
        first, second = ([r for r in inventory.records[split] if r.look] for split in (one, two))
        if not first or not second or len(first) * len(second) > _ALIKE_PAIRS:
            continue
        gradients = np.array([r.look.gradient for r in first if r.look], np.uint64)
        pairs = [(first[at], b) for b in second if (at := _nearest(b, gradients, first)) is not None]
        if pairs:
            yield Finding(
                "advice",
                f"{_images(len(pairs))} of {two} almost as in {one}: {_pairs(pairs)}; frames of one film, and copies "
                f"saved anew, belong into one split",
                _places(record for pair in pairs for record in pair),
            )


def _nearest(record: Record, gradients: np.ndarray, others: Sequence[Record]) -> int | None:
    """Position of the other image whose gradients differ least, if by few bits and if not equal to it."""
    assert record.look is not None
    bits = record.look.gradient
    if not 8 <= bits.bit_count() <= 56:
        return None  # hardly any structure, which many pictures share
    differing = (gradients ^ np.uint64(bits)).view(np.uint8).reshape(-1, 8)
    distances = np.unpackbits(differing, axis=1).sum(1)
    near = int(distances.argmin())
    other = others[near].look
    return near if distances[near] <= _ALIKE_BITS and other and other.digest != record.look.digest else None


def _notes(records: Iterable[Record]) -> Iterator[Finding]:
    notes: Counter[str] = Counter()
    for record in records:
        notes.update(record.notes)
    for note, count in notes.most_common():
        yield Finding("advice", f"{note} ({count})")


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _names(records: Sequence[Record]) -> str:
    shown = ", ".join(f"{record.split}/{record.id}" for record in records[:_NAMED])
    return f"{shown} and {len(records) - _NAMED} more" if len(records) > _NAMED else shown


def _pairs(pairs: Sequence[tuple[Record, Record]]) -> str:
    shown = ", ".join(f"{a.split}/{a.id} and {b.split}/{b.id}" for a, b in pairs[:_NAMED])
    return f"{shown}, {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else shown


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown


def _places(records: Iterable[Record], most: int = 4) -> list[Place]:
    return list(dict.fromkeys((record.split, record.index) for record in records))[:most]
