"""Per-class values and confusions of a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from segweave.report.html import Html, bar, captioned, image, join, number, paragraph, table, tag

_CELLS = 40 * 40
_PAIRS = 25


def class_table(task: str, results: Mapping[str, Any]) -> Html:
    """A row per class, with a bar of the first value, which lies between 0 and 1; empty where a task has no classes."""
    rows = results.get("per_class")
    if not rows:
        return Html()
    columns = list(next(iter(rows.values())))
    head = columns[0]
    shown = []
    for name, values in rows.items():
        share = values.get(head)
        known = isinstance(share, int | float) and math.isfinite(share)
        first = bar(share, number(share)) if known else Html("–")  # pyright: ignore[reportArgumentType]
        shown.append([name, first, *(values.get(key) for key in columns[1:])])
    parts = [table(["class", *columns], shown, f"{task}: {len(shown)} classes in the validation images")]
    absent = results.get("absent_classes") or []
    if absent:
        names = ", ".join(absent)
        parts.append(paragraph(f"Not in the validation images, and so not in the means: {names}.", soft=True))
    return join(parts)


def confusion(task: str, names: Sequence[str], counts: Sequence[Sequence[int]], cells: int = _CELLS) -> Html:
    """Which class is taken for which, in shares of the true one.

    Args:
        names: of the rows and columns; one column more than names is for predictions that are no class.
        counts: rows true, columns predicted.
        cells: of a table of numbers at most; larger ones become a picture and a list of the most frequent confusions.
    """
    columns = list(names)
    if counts and len(counts[0]) > len(columns):
        outside = sum(row[-1] for row in counts)
        counts = [row[:-1] for row in counts] if not outside else counts
        columns += ["no class"] if outside else []
    totals = [sum(row) for row in counts]
    if len(counts) * len(columns) <= cells:
        return _matrix(task, names, columns, counts, totals)
    return join([_picture(task, counts, totals), _pairs(task, names, columns, counts, totals)])


def _matrix(
    task: str, names: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], totals: Sequence[int]
) -> Html:
    head = join(tag("th", tag("span", name), scope="col", class_="up") for name in columns)
    rows = []
    for name, row, total in zip(names, counts, totals, strict=True):
        cells = join(_cell(name, column, count, total) for column, count in zip(columns, row, strict=True))
        rows.append(tag("tr", join([tag("th", name, scope="row"), cells])))
    caption = (
        f"{task}: of each true class (row), the percentage predicted as each class (column); empty is 0, a dot less "
        f"than 0.5"
    )
    corner = tag("td", tag("span", "true \\ predicted", class_="soft"))
    body = [tag("thead", tag("tr", join([corner, head]))), tag("tbody", join(rows))]
    return captioned(join(body), caption, "matrix small" if len(columns) > 20 else "matrix")


def _cell(true: str, predicted: str, count: int, total: int) -> Html:
    if not count:
        return tag("td")
    share = 100 * count / total
    text = "·" if share < 0.5 else f"{share:.0f}"
    title = f"true {true}, predicted {predicted}: {number(count)} of {number(total)} ({share:.1f} %)"
    return tag("td", text, style=f"--p:{share:.0f}%", title=title)


def _picture(task: str, counts: Sequence[Sequence[int]], totals: Sequence[int]) -> Html:
    """A pixel block per pair of classes, white for 0 and dark blue for all."""
    table_ = torch.tensor(counts, dtype=torch.float64)[:, : len(counts)]
    shares = (table_ / torch.tensor(totals, dtype=torch.float64).clamp(min=1)[:, None]).sqrt()[..., None]
    colours = 255 + shares * (torch.tensor([8.0, 48.0, 107.0]) - 255)
    block = -(-560 // len(counts))
    pixels = colours.round().to(torch.uint8).permute(2, 0, 1)
    pixels = pixels.repeat_interleave(block, 1).repeat_interleave(block, 2)
    right = float(table_.diagonal().sum() / max(1, sum(totals)))
    alt = f"Confusions of {task}: {len(counts)} classes, {100 * right:.1f} % of everything on the diagonal"
    caption = tag(
        "figcaption",
        f"{task}: true classes from top to bottom, predicted ones from left to right, in the order of the config; the "
        f"darker, the larger the share of the true class (dark blue is all of it, on a square-root scale). The most "
        f"frequent confusions follow in numbers.",
    )
    picture = image(pixels, alt, 120_000, pixels.shape[-1])
    return tag("figure", join([picture, caption]), class_="matrix")


def _pairs(
    task: str, names: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], totals: Sequence[int]
) -> Html:
    wrong = [
        (count / total, true, predicted, count, total)
        for true, row, total in zip(names, counts, totals, strict=True)
        for predicted, count in zip(columns, row, strict=True)
        if count and true != predicted
    ]
    wrong.sort(key=lambda pair: pair[0], reverse=True)
    rows = [[t, p, bar(s, f"{100 * s:.1f} %"), n, all_] for s, t, p, n, all_ in wrong[:_PAIRS]]
    title = f"{task}: the {len(rows)} largest confusions, in shares of the true class"
    return table(["true", "predicted", "share", "count", "of"], rows, title)
