"""A config's tasks and data, apart from `build`, so that looking at data loads no network library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segweave.config import Config
from segweave.data import FORMATS
from segweave.tasks import TASKS

if TYPE_CHECKING:
    from segweave.data.dataset import Dataset
    from segweave.tasks.task import Task


def build_tasks(config: Config) -> list[Task]:
    """The tasks of a config, in its order; classes that are not written are the data format's, where it knows them."""
    known = FORMATS.load(config.data["format"]).default_classes()  # pyright: ignore
    tasks = []
    for name, options in config.tasks.items():
        options = dict(options)
        kind = options.pop("kind")
        if "classes" in TASKS.options(kind) and options.get("classes") is None:
            default = known.get(options.get("source") or name) or known.get(kind)
            options["classes"] = list(default) if default else None
        tasks.append(TASKS.load(kind)(name, **options))
    return tasks


def build_dataset(config: Config, split: str, tasks: Sequence[Task]) -> Dataset:
    """One split of a config's data."""
    options = {key: value for key, value in config.data.items() if key not in ("format", "augment")}
    if "size" not in FORMATS.options(config.data["format"]):
        options.pop("size", None)
    return FORMATS.load(config.data["format"])(split, tasks, **options)
