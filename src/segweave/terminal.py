"""Where text for people goes: a terminal at its own width, or a file or pipe, in which no line is broken."""

from __future__ import annotations

from rich.console import Console

_UNBROKEN = 10_000


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints what it is given: `[blue]` in a file's name is no colour and `:car:` no picture."""
    made = Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _UNBROKEN  # whoever reads it, such as grep or a log, needs whole lines
    return made


def duration(seconds: float) -> str:
    """As `1 h 5 min`, `2 min 23 s` or `4.7 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
