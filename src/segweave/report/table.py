"""Results as a terminal table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from segweave.metrics.metric import FAULTS


def results_table(results: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A row per task and metric, and per class its first metric.

    Shares that are 0 and say nothing are left out, as is all of a task without labels; a dash is a value that nothing
    defines. Labels that nobody annotated have a row first that says so.
    """
    table = Table(title=title)
    table.add_column("task")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for task, values in results.items():
        first = "origin" not in values
        if all(math.isnan(value) for value in values.values() if isinstance(value, float)):
            table.add_row(task, "no labels in this split", "")
            continue
        if not first:
            table.add_row(task, "labels", values["origin"])
        for key, value in values.items():
            if isinstance(value, float) and not (key in FAULTS and value == 0):
                table.add_row(task if first else "", key, _shown(value))
                first = False
        for name, row in values.get("per_class", {}).items():
            key, value = next((key, value) for key, value in row.items() if isinstance(value, float))
            table.add_row("", f"  {key} {name}", _shown(value))
        absent = values.get("absent_classes")
        if absent:
            table.add_row("", "not in this split", ", ".join(absent))
    return table


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
