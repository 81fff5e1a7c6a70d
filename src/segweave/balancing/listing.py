"""The table of all balancing methods that `segweave methods` prints."""

from __future__ import annotations

from rich.table import Table

from segweave.balancing import METHODS
from segweave.balancing.balancer import Balancer

_NONE = "-"


def methods_table() -> Table:
    """Family, cost beside a plain sum, options with their defaults, and paper of every method."""
    table = Table(title="balancing: {method: NAME, option: value}", row_styles=["", "dim"])
    for column in ("method", "family", "cost", "options", "paper"):
        table.add_column(column, overflow="fold")
    for name in METHODS:
        method: type[Balancer] = METHODS.load(name)
        options = [
            option if default is ... else f"{option}: {_shown(default)}"
            for option, (_, default) in METHODS.options(name).items()
        ]
        table.add_row(name, method.family, method.cost, ", ".join(options) or _NONE, method.paper)
    return table


def _shown(default: object) -> str:
    """As it is written in YAML."""
    if default is None:
        return "null"
    return str(default).lower() if isinstance(default, bool) else str(default)
