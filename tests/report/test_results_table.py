"""Results in a terminal."""

from __future__ import annotations

import io
import math

from rich.console import Console

from segweave.report.table import results_table


def cells(results: dict) -> list[list[str]]:
    """The rows below the head, cell by cell."""
    console = Console(file=io.StringIO(), width=100)
    console.print(results_table(results, "a run"))
    shown = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    return [[cell.rstrip() for cell in line.strip("│").split("│")] for line in shown if line.startswith("│")]


def test_values_classes_and_what_is_not_there() -> None:
    first = {"miou": 0.5, "outside": 0.0, "undefined": math.nan, "absent_classes": ["car", "sign"]}
    first["per_class"] = {"road": {"pixels": 3, "iou": 0.25}, "sky": {"iou": math.nan}}
    found = cells({"ground": first, "depth": {"abs_rel": math.nan, "invalid": math.nan}})
    assert [[cell.strip() for cell in row] for row in found] == [
        ["ground", "miou", "0.5000"],
        ["", "undefined", "–"],
        ["", "iou road", "0.2500"],
        ["", "iou sky", "–"],
        ["", "not in this split", "car, sign"],
        ["depth", "no labels in this split", ""],
    ]


def test_a_share_of_what_went_wrong_is_shown_where_there_is_one() -> None:
    assert [row[1].strip() for row in cells({"depth": {"rmse": 2.0, "invalid": 0.125}})] == ["rmse", "invalid"]
