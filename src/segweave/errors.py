"""Mistakes that a user can mend. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SegweaveError(Exception):
    """Something the user can mend: the message says where, what was found, what was expected, and the cure."""


class ConfigError(SegweaveError):
    """A config, an option or a command line that does not say something segweave can do."""


class DataError(SegweaveError):
    """A file, a label or a data set that is not what its description says."""


class UnreadableError(DataError):
    """A file that is missing or damaged: training goes on without a few of them, unlike with a wrong label."""


class DivergedError(SegweaveError):
    """A training whose loss was no longer a finite number."""


class CheckpointError(SegweaveError):
    """A run folder or a weights file that cannot be used as asked."""


def nearest(name: str, known: Iterable[str], count: int = 1) -> str:
    """The `count` names most like `name`, quoted and joined: `'fpn', 'unet'`; empty where nothing is known."""
    return ", ".join(repr(match) for match in difflib.get_close_matches(name, list(known), n=count, cutoff=0.0))
