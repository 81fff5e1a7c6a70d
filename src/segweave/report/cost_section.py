"""What a network costs: its parts, and one shared network against a separate one for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from segweave.report.html import Content, Html, bar, join, paragraph, quantity, table, tag

COLUMNS = {
    "parameters": ("parameters", ""),
    "macs": ("multiply-adds", ""),
    "milliseconds": ("latency", "ms"),
    "peak_megabytes": ("peak memory", "MB"),
}


def cost_section(cost: Mapping[str, Any] | None, missing: str) -> Html:
    """The table, the comparison in bars, and one sentence that says it.

    Args:
        cost: as `cost_table` gives it, or None.
        missing: why there is none.
    """
    if cost is None:
        return paragraph(f"Not measured: {missing}")
    rows = [[row["part"], *cost_values(row)] for row in cost["parts"]]
    rows.append([tag("b", "whole network"), *cost_values(cost["shared"])])
    rows += [[f"separate network for {task}", *cost_values(row)] for task, row in cost["separate"].items()]
    rows.append([tag("b", "all separate networks"), *cost_values(cost["separate_sum"])])
    shown = table(["", *(name for name, _ in COLUMNS.values())], rows, measured_where(cost), numeric=range(1, 5))
    words = paragraph(
        "Multiply-adds are those of convolutions, matrix products and attention. Each part was measured alone, so that "
        "latencies and peaks of the parts need not add up to the whole's.",
        soft=True,
    )
    comparison = sharing(cost["shared"], cost["separate_sum"], len(cost["separate"]))
    return join([comparison, tag("h3", "Parts and networks"), shown, words])


def measured_where(cost: Mapping[str, Any]) -> str:
    """In words, on what `cost_table` measured."""
    height, width = cost["size"]
    return f"One image of {width} x {height} pixels on {cost['device']}, {cost['threads']} threads, forward pass only."


def cost_values(row: Mapping[str, Any]) -> list[Content]:
    """The numbers of a row of `cost_table` in words, in the order of `COLUMNS`."""
    return [cost_value(key, row[key]) for key in COLUMNS]


def cost_value(key: str, value: float) -> str:
    """A number of the column `key` with its unit."""
    unit = COLUMNS[key][1]
    if not unit or math.isnan(value):
        return quantity(value)
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:#.3g}".removesuffix(".") + f" {unit}"


def sharing(shared: Mapping[str, Any], apart: Mapping[str, Any], count: int) -> Html:
    """One shared network against the sum of `count` separate ones, in a sentence and in bars."""
    if count < 2:
        return paragraph("With a single task there is nothing to share.")
    return join([_sentence(shared, apart, count), _bars(shared, apart)])


def _sentence(shared: Mapping[str, Any], apart: Mapping[str, Any], count: int) -> Html:
    time, size = (shared[key] / apart[key] for key in ("milliseconds", "parameters"))
    one, many = (cost_value("milliseconds", row["milliseconds"]) for row in (shared, apart))
    return paragraph(
        f"One shared network answers {'both' if count == 2 else f'all {count}'} tasks in {one} an image; {count} "
        f"separate ones take {many}. Sharing needs ",
        tag("b", f"{100 * time:.0f} %"),
        " of their time and ",
        tag("b", f"{100 * size:.0f} %"),
        " of their parameters.",
    )


def _bars(shared: Mapping[str, Any], apart: Mapping[str, Any]) -> Html:
    rows = []
    for key, (name, _) in COLUMNS.items():
        one, many = shared[key], apart[key]
        most = max(one, many) or 1
        bars = bar(one / most, cost_value(key, one)), bar(many / most, cost_value(key, many), second=True)
        rows.append([name, *bars, f"{one / many:.2f}" if many else "–"])
    return table(["", "shared", "separate", "shared / separate"], rows, "One network against one per task", numeric=[3])
