"""What a training run logged: a series per value, one row per validation, both as a table for other programs."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

Point = tuple[float, float]
"""Step and value."""

_OF_A_STEP = ("loss/", "regularizer/", "total", "lr", "grad_norm")


@dataclass
class History:
    """The lines of `metrics.jsonl`, by name.

    Attributes:
        training: (step, value) of `loss/<task>`, `loss/<task>/<term>`, `regularizer/...`, `weight/<task>`,
            `cosine/<task>|<task>`, `overlap/<task>|<task>`, `total`, `lr` and `grad_norm`; steps without a finite value
            are left out.
        validation: (step, value) of every `<task>/<metric>`.
        rows: one per validation: step, epoch, metrics, and the means over the steps since the last one.
        skipped: steps whose loss or gradient was not finite.
        seconds: that the steps took, without validation.
        images: that were trained on, repetitions included.
        peak_megabytes: the most that weights and tensors held at once in the first steps, in 10^6 bytes, as `Peak`
            counts it; None where it was not measured.
        spaces: steps by where they compared the gradients of the tasks: `features`, `parameters` or `last`.
    """

    training: dict[str, list[Point]] = field(default_factory=dict)
    validation: dict[str, list[Point]] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0
    images: int = 0
    peak_megabytes: float | None = None
    spaces: Counter[str] = field(default_factory=Counter)


def read_history(lines: Iterable[Mapping[str, Any]]) -> History:
    """A log's lines, in their order, as a history."""
    history = History()
    sums: dict[str, list[float]] = {}
    for line in lines:
        step = int(line["step"])
        values = {k: v for k, v in line.items() if "/" in k or k in _OF_A_STEP}
        if line.get("split") is not None:
            row = {"step": step, "epoch": line.get("epoch", math.nan)}
            row |= {key: math.nan if value is None else float(value) for key, value in values.items()}
            row |= {f"train/{key}": total / count for key, (total, count) in sums.items()}
            history.rows.append(row)
            _append(history.validation, step, values)
            sums = {}
            continue
        history.skipped += bool(line.get("skipped"))
        history.seconds += line.get("seconds", 0.0)
        history.images += line.get("images", 0)
        peaks = filter(None, (line.get("peak_megabytes"), history.peak_megabytes))
        history.peak_megabytes = max(peaks, default=None)
        history.spaces.update([line["space"]] if "space" in line else [])
        _append(history.training, step, values)
        for key, value in values.items():
            if isinstance(value, int | float) and key.startswith(_OF_A_STEP):
                total, count = sums.get(key, (0.0, 0))
                sums[key] = [total + value, count + 1]
    return history


def _append(series: dict[str, list[Point]], step: int, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            series.setdefault(key, []).append((step, float(value)))


def results_csv(history: History, origins: Mapping[str, str]) -> str:
    """`results.csv`: a header and a row per validation; empty cells where there is no value.

    Args:
        origins: by task, how its labels came about where nobody annotated them; `<task>/origin` before its metrics.
    """
    columns = list(dict.fromkeys(key for row in history.rows for key in row))
    # metrics before losses, whatever came first in the log
    columns.sort(key=lambda key: (key not in ("step", "epoch"), key.startswith("train/")))
    said = {f"{task}/origin": origin for task, origin in origins.items()}
    for task in origins:
        own = [place for place, key in enumerate(columns) if key.startswith(f"{task}/")]
        if own:
            columns.insert(own[0], f"{task}/origin")
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns)
    for row in history.rows:
        writer.writerow(said.get(key) or _cell(key, row.get(key, math.nan)) for key in columns)
    return file.getvalue()


def _cell(key: str, value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if key in ("step", "epoch") and float(value).is_integer() else f"{value:.6g}"


def smoothed(points: Sequence[Point]) -> list[Point]:
    """An exponential mean over about a twentieth of the points, without the pull towards a start at 0."""
    decay = 1 - 2 / (max(2, len(points) // 20) + 1)
    total = weight = 0.0
    means = []
    for step, value in points:
        total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        means.append((step, total / weight))
    return means


def mean_line(lines: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of several lines at the steps that all of them have; empty without lines."""
    found = [dict(line) for line in lines]
    steps = [step for step in (found[0] if found else ()) if all(step in line for line in found)]
    return [(step, fmean(line[step] for line in found)) for step in steps]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` of the points, the least and the greatest of each stretch among them."""
    if len(points) <= most:
        return list(points)
    stretches = max(1, most // 2)
    kept = []
    for number in range(stretches):
        stretch = points[len(points) * number // stretches : len(points) * (number + 1) // stretches]
        kept += sorted({min(stretch, key=_value), max(stretch, key=_value)})
    return kept


def _value(point: Point) -> float:
    return point[1]


def log_scale(values: Sequence[float]) -> bool:
    """Whether an axis for these values reads better in powers of ten: all above 0, the largest 30 times the least."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 30


def ticks(low: float, high: float, log: bool = False, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten, or those powers."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        stride = max(1, -(-(last - first) // most))
        found = [10.0**power for power in range(first, last + 1, stride) if low <= 10.0**power <= high * (1 + 1e-9)]
        if len(found) >= 2:
            return found
        finer = [f * 10.0**power for power in range(first, last + 1) for f in (1, 2, 5)]
        return [value for value in finer if low <= value <= high]
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    stride = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    return [n * stride for n in range(math.ceil(low / stride - 1e-9), math.floor(high / stride + 1e-9) + 1)]
