"""Accuracy against the number of training labels."""

from __future__ import annotations

from collections.abc import Sequence

from segweave.estimates import SEPARATE, Estimate
from segweave.report.chart import Line, lines_chart
from segweave.report.compared import Compared, ComparisonResult
from segweave.report.history import Point
from segweave.report.html import Content, Html, arrow, join, number, paragraph, table, tag


def labels_section(result: ComparisonResult) -> Html:
    """A chart per task, and the gains over separate networks with as many labels."""
    charts = [_chart(task, result) for task in result.tasks]
    words = (
        "The headline by the number of training labels. Every network was trained for as many steps as with all "
        "labels, on fewer images or fewer labels, which each seed draws anew. The strong line is the mean over the "
        "seeds, the faint ones are its 95 % interval; the numbers are those with the most labels."
    )
    rows = [row for task in result.tasks for row in _gains(task, result)]
    head = ["task", "network", "share", "labels", "headline", "gain over separate", "95 %"]
    shown = table(head, rows, "Gains over separate networks with as many labels", numeric=range(2, 7))
    return join([paragraph(words, soft=True), tag("div", join(charts), class_="charts"), shown])


def _points(task: Compared, result: ComparisonResult) -> dict[str, list[tuple[int, float, Estimate, Estimate | None]]]:
    """By way: training labels, share, headline and its gain, from few labels to many."""
    found: dict[str, list[tuple[int, float, Estimate, Estimate | None]]] = {}
    for share in result.shares:
        for variant in share.variants:
            if task.name in variant.values and share.scarce in ("", task.name):
                gain = variant.gains.get(task.name, {}).get(task.headline)
                value = variant.values[task.name][task.headline]
                row = (share.labels[variant.name][task.name], share.fraction, value, gain)
                found.setdefault(variant.name, []).append(row)
    return {name: sorted(rows, key=lambda row: row[0]) for name, rows in found.items()}


def _chart(task: Compared, result: ComparisonResult) -> Html:
    lines = []
    for name, rows in _points(task, result).items():
        ends: Sequence[Sequence[Point]] = [
            [(labels, value.low) for labels, _, value, _ in rows if value.low == value.low],
            [(labels, value.high) for labels, _, value, _ in rows if value.high == value.high],
        ]
        lines.append(Line(name, [(labels, value.mean) for labels, _, value, _ in rows], [one for one in ends if one]))
    title = f"{task.name}: {task.headline} {arrow(task.better[task.headline])}"
    return lines_chart(title, lines, exact=True, by="number of training labels")


def _gains(task: Compared, result: ComparisonResult) -> list[list[Content]]:
    rows: list[list[Content]] = []
    for name, points in _points(task, result).items():
        for labels, share, value, gain in points if name != SEPARATE else ():
            ends = ["–", "–"] if gain is None else [f"{gain.mean:+.1f} %", f"{gain.low:+.1f} to {gain.high:+.1f} %"]
            derived = f" ({task.origin})" if task.origin else ""
            rows.append([f"{task.name}{derived}", name, f"{100 * share:g} %", number(labels), value.mean, *ends])
    return rows
