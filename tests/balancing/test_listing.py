"""`segweave methods`."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from segweave.balancing import METHODS
from segweave.cli import app


def test_all_methods_are_listed_with_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, ["methods"])
    assert done.exit_code == 0, done.output
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.output.splitlines() if "│" in line]
    found: dict[str, list[str]] = {}
    name = ""
    for cells in lines:
        name = cells[0] or name
        row = found.setdefault(name, [""] * len(cells))
        found[name] = [f"{old} {new}".strip() for old, new in zip(row, cells, strict=True)]
    assert set(found) == set(METHODS)
    for name, (_, family, cost, options, paper) in found.items():
        method = METHODS.load(name)
        assert family == method.family
        assert (cost, paper) == (" ".join(method.cost.split()), " ".join(method.paper.split()))
        assert all(option in options for option in METHODS.options(name))
    assert "exact: true" in found["famo"][3]
