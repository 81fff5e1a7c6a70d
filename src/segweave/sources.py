"""A config's tasks and data, apart from `build`, so that looking at data loads no network library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segweave.config import Config
from segweave.data import FORMATS
from segweave.errors import ConfigError, SegweaveError
from segweave.tasks import TASKS

if TYPE_CHECKING:
    from segweave.data.dataset import Dataset
    from segweave.data.mixture import Part
    from segweave.tasks.task import Task

_OUR_KEYS = ("format", "augment", "normalise", "sampling", "maps")


def build_tasks(config: Config) -> list[Task]:
    """The tasks of a config, in its order; classes that are not written are the data format's, where it knows them.

    Raises:
        ConfigError: options that do not fit, or data sets that know different classes.
    """
    tasks = []
    for name, options in config.tasks.items():
        options = dict(options)
        kind = options.pop("kind")
        if "classes" in TASKS.options(kind) and options.get("classes") is None:
            options["classes"] = _known_classes(config.data, name, options.get("source") or name, kind)
        tasks.append(TASKS.load(kind)(name, **options))
    return tasks


def _known_classes(data: Mapping[str, Any], task: str, layer: str, kind: str) -> list[str] | None:
    """The class names of the format's layer, or of its one layer of that kind; sets that map its ids have no say."""
    found: dict[tuple[str, ...], str] = {}
    for name, options in data.get("sets", {"": data}).items():
        known = FORMATS.load(options["format"]).default_classes(options)  # pyright: ignore[reportAttributeAccessIssue]
        classes = known.get(layer) or known.get(kind)
        if classes and layer not in options.get("maps", {}):
            found.setdefault(tuple(classes), name)
    if len(found) > 1:
        (first, one), (second, two), *_ = found.items()
        raise ConfigError(
            f"tasks.{task}.classes: missing, and the data sets know different ones: {one} has {', '.join(first)}; "
            f"{two} has {', '.join(second)}; write them, and data.sets.*.maps where the ids differ"
        )
    return list(next(iter(found))) if found else None


def build_dataset(config: Config, split: str, tasks: Sequence[Task]) -> Dataset:
    """One split of a config's data; of several data sets, that split of those that have it.

    Raises:
        ConfigError: options that do not fit, a split that does not exist, or a set without labels for any task.
        DataError: no images, or labels that belong to none.
    """
    data = config.data
    if "sets" not in data:
        return _build(data, data.get("size"), split, tasks)
    from segweave.data.mixture import Mixture

    parts: dict[str, Part] = {}
    others: dict[str, None] = {}
    for name, options in data["sets"].items():
        try:
            try:
                parts[name] = _part(options, data.get("size"), split, tasks)
            except ConfigError:
                # where all else is well, it is the split that this set does not have
                splits = _part(options, data.get("size"), "train", tasks).dataset.splits
                if split in splits:
                    raise
                others |= dict.fromkeys(splits)
        except SegweaveError as error:
            raise type(error)(f"data.sets.{name}: {error}") from None
    if not parts:
        raise ConfigError(f"data.sets: none has a split {split!r}; they have {', '.join(others)}")
    return Mixture(parts, tasks)


def _part(options: Mapping[str, Any], size: Any, split: str, tasks: Sequence[Task]) -> Part:
    """One of several data sets, with those of the tasks that it has labels for."""
    from segweave.data.dataset import labelled_layers
    from segweave.data.mixture import Part, RawIds, class_table

    layers = FORMATS.load(options["format"]).layers(options)  # pyright: ignore[reportAttributeAccessIssue]
    if layers is None:
        raise ConfigError("tasks: missing; expected where this set has which labels, such as {semantic: masks}")
    found = labelled_layers(tasks, layers)
    if not found:
        raise ConfigError(f"has the layers {', '.join(layers)}, labels for none of {', '.join(t.name for t in tasks)}")
    maps = options.get("maps", {})
    if unknown := [layer for layer in maps if layer not in layers]:
        raise ConfigError(f"maps.{unknown[0]}: no such layer; the set has {', '.join(layers)}")
    readers = {task.name: task for task in tasks if task.name in found}
    tables = {
        task: class_table(maps[layer], readers[task], f"maps.{layer}") for task, layer in found.items() if layer in maps
    }
    own = [RawIds(task, found[task.name]) if task.name in tables else task for task in readers.values()]
    return Part(_build(options, size, split, own), tuple(readers), tables)


def _build(options: Mapping[str, Any], size: Any, split: str, tasks: Sequence[Task]) -> Dataset:
    given = {key: value for key, value in options.items() if key not in _OUR_KEYS}
    if "size" not in FORMATS.options(options["format"]):
        given.pop("size", None)
    elif size is not None:
        given.setdefault("size", size)
    return FORMATS.load(options["format"])(split, tasks, **given)
