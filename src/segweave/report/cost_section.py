"""What a network costs: its parts, and one shared network against a separate one for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segweave.report.html import Content, Html, bar, join, paragraph, quantity, table, tag

_COLUMNS = {
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
    height, width = cost["size"]
    where = f"One image of {width} x {height} pixels on {cost['device']}, {cost['threads']} threads, forward pass only."
    rows = [[row["part"], *_values(row)] for row in cost["parts"]]
    rows.append([tag("b", "whole network"), *_values(cost["shared"])])
    rows += [[f"separate network for {task}", *_values(row)] for task, row in cost["separate"].items()]
    rows.append([tag("b", "all separate networks"), *_values(cost["separate_sum"])])
    shown = table(["", *(name for name, _ in _COLUMNS.values())], rows, where, numeric=range(1, 5))
    words = paragraph(
        "Multiply-adds are those of convolutions, matrix products and attention. Each part was measured alone, so that "
        "latencies and peaks of the parts need not add up to the whole's.",
        soft=True,
    )
    return join([_sentence(cost), _comparison(cost), tag("h3", "Parts and networks"), shown, words])


def _values(row: Mapping[str, Any]) -> list[Content]:
    return [_value(key, row[key]) for key in _COLUMNS]


def _value(key: str, value: float) -> str:
    unit = _COLUMNS[key][1]
    return (
        quantity(value)
        if not unit
        else f"{value:,.0f} {unit}"
        if value >= 1000
        else f"{value:#.3g}".removesuffix(".") + f" {unit}"
    )


def _sentence(cost: Mapping[str, Any]) -> Html:
    shared, apart, count = cost["shared"], cost["separate_sum"], len(cost["separate"])
    if count < 2:
        return paragraph("With a single task there is nothing to share.")
    time, size = (shared[key] / apart[key] for key in ("milliseconds", "parameters"))
    one, many = (_value("milliseconds", row["milliseconds"]) for row in (shared, apart))
    return paragraph(
        f"One shared network answers {'both' if count == 2 else f'all {count}'} tasks in {one} an image; {count} "
        f"separate ones take {many}. Sharing needs ",
        tag("b", f"{100 * time:.0f} %"),
        " of their time and ",
        tag("b", f"{100 * size:.0f} %"),
        " of their parameters.",
    )


def _comparison(cost: Mapping[str, Any]) -> Html:
    if len(cost["separate"]) < 2:
        return Html()
    rows = []
    for key, (name, _) in _COLUMNS.items():
        shared, apart = cost["shared"][key], cost["separate_sum"][key]
        most = max(shared, apart) or 1
        one = bar(shared / most, _value(key, shared))
        rows.append(
            [name, one, bar(apart / most, _value(key, apart), second=True), f"{shared / apart:.2f}" if apart else "–"]
        )
    return table(["", "shared", "separate", "shared / separate"], rows, "One network against one per task", numeric=[3])
