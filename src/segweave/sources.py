"""A config's tasks and data, apart from `build`, so that looking at data loads no network library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segweave.catalogue import check
from segweave.config import Config
from segweave.data import DERIVATIONS, FORMATS
from segweave.errors import ConfigError, SegweaveError
from segweave.tasks import TASKS

if TYPE_CHECKING:
    from segweave.data.dataset import Dataset
    from segweave.data.derived.derivation import Derivation, Kind, Source
    from segweave.data.derived.targets import Target
    from segweave.data.mixture import Part
    from segweave.tasks.task import Task

_OUR_KEYS = ("format", "augment", "normalise", "sampling", "maps", "read", "cache", "fraction")
_INSTANCES = "instances"
"""How the name of a layer ends in which each object has a number and 0 is none."""
_NEAREST, _FARTHEST = 1e-3, 1e4
"""Depth in metres that counts where no task says what does."""
_KINDS: Mapping[str, Kind] = {"semantic": "classes", "depth": "metres"}
"""What labels of a task may be made into others, by its kind."""
_AFTER_READING = ("augment", "normalise", "sampling", "cache", "fraction")


def build_tasks(config: Config) -> list[Task]:
    """The tasks that a config's network predicts, in its order.

    Classes that are not written are the data format's, where it knows them.

    Raises:
        ConfigError: options that do not fit, no task to predict, or data sets that know different classes.
    """
    predicted = [name for name, options in config.tasks.items() if options.get("predict", True)]
    if config.tasks and not predicted:
        raise ConfigError(f"tasks: found predict: false in all of {', '.join(config.tasks)}; expected one to predict")
    return [_build_task(config, name) for name in predicted]


def _build_task(config: Config, name: str) -> Task:
    options = dict(config.tasks[name])
    kind = options.pop("kind")
    if "classes" in TASKS.options(kind) and options.get("classes") is None and not _derived(options):
        options["classes"] = _known_classes(config.data, name, options.get("source") or name, kind)
    return TASKS.load(kind)(name, **options)


def _derived(options: Mapping[str, Any]) -> bool:
    """Whether a task's labels are made of others, so that its classes are not those of its source."""
    from segweave.tasks.task import chosen

    return chosen(options.get("derive")) is not None


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
    """One split of a config's data, with what is derived of it; of several data sets, of those that have that split.

    Raises:
        ConfigError: options that do not fit, a split that does not exist, or a set without labels for any task.
        DataError: no images, or labels that belong to none.
    """
    readers = {task.name: task for task in tasks if task.derivation is None}
    if len(readers) == len(tasks):
        return _read(config, split, tasks)
    from segweave.data.derived.targets import Derived

    read = list(readers)
    targets = [_target(config, task, readers) for task in tasks if task.derivation is not None]
    return Derived(_read(config, split, list(readers.values()), targets), read, targets)


def _target(config: Config, task: Task, readers: dict[str, Task]) -> Target:
    """A derived task with its derivation; adds the reader of its source to `readers`, where that is not there yet."""
    from segweave.data.derived.derivation import Source
    from segweave.data.derived.targets import Target

    assert task.derivation is not None
    how, options = task.derivation
    if task.source is None:
        raise ConfigError(f"tasks.{task.name}.source: missing; expected the task or layer that {how} is derived from")
    if how == "distance" and options.get("unit") == "pixels" and _scaled(config.data):
        raise ConfigError(
            f"tasks.{task.name}.derive.distance.unit: found pixels, and images are scaled; expected share, or neither "
            f"data.size nor a data.augment.scale (null)"
        )
    made: type[Derivation] = DERIVATIONS.load(how)
    if task.source in config.tasks and task.source != task.name:
        reader = _source_task(config, task, readers)
        source = Source(task.source, _KINDS[reader.kind], getattr(reader, "names", ()))
    else:
        reader, source = _source_layer(config, task, task.source, made, readers)
    readers.setdefault(reader.name, reader)
    own = {} if _is_of_config(reader) else _in_sets(config, task, task.source, made.reading)
    derivations = {name: made(other, source, **options) for name, other in own.items()}
    return Target(task, reader.name, made(task, source, **options), derivations)


def _in_sets(config: Config, task: Task, layer: str, reading: Sequence[str]) -> dict[str, Task]:
    """A task that is derived from a layer, by data set, for those whose `read` has options of it for that layer."""
    own: dict[str, Task] = {}
    for name, options in config.data.get("sets", {}).items():
        given = options.get("read", {}).get(layer, {})
        try:
            if any(option in given for option in reading):
                own[name] = _reading_as(task, reading, given, f"read.{layer}")
        except ConfigError as error:
            raise ConfigError(f"data.sets.{name}: {error}") from None
    return own


def _source_task(config: Config, task: Task, readers: Mapping[str, Task]) -> Task:
    """The task that reads what another one is derived from."""
    name = str(task.source)
    reader = readers.get(name) or _build_task(config, name)
    if reader.derivation is not None:
        raise ConfigError(f"tasks.{task.name}.source: {name!r} is derived itself; expected what that is derived from")
    if reader.kind not in _KINDS:
        raise ConfigError(
            f"tasks.{task.name}.source: {name!r} is of kind {reader.kind}; expected a task of kind "
            f"{' or '.join(_KINDS)}, or a layer"
        )
    return reader


def _source_layer(
    config: Config, task: Task, layer: str, made: type[Derivation], readers: Mapping[str, Task]
) -> tuple[Task, Source]:
    """A reader of the layer that a task is derived from; one that is there already where it reads the same."""
    from segweave.data.derived.derivation import Source
    from segweave.data.derived.targets import LayerIds
    from segweave.tasks.depth import Depth

    if made.takes == ("metres",):
        assert task.derivation is not None
        how, options = task.derivation
        reader = Depth(task.name, source=layer, min_depth=_NEAREST, max_depth=_FARTHEST)
        reader.units_per_metre = options.get("units_per_metre")
        reader.units_option = f"tasks.{task.name}.derive.{how}.units_per_metre"
        return reader, Source(layer, "metres")
    if layer.endswith(_INSTANCES):
        kind, source = _INSTANCES, Source(layer, "instances")
    else:
        names = _known_classes(config.data, layer, layer, "") or []
        kind, source = "semantic", Source(layer, "classes", ["background", *names] if len(names) == 1 else names)
    same = [reader for reader in readers.values() if isinstance(reader, LayerIds) and reader.source == layer]
    return same[0] if same else LayerIds(task.name, layer, kind), source


def _scaled(data: Mapping[str, Any]) -> bool:
    """Whether images are brought to another size, or to random ones as they are by default."""
    augment = data.get("augment") or {}
    return data.get("size") is not None or augment.get("scale", ()) is not None


def _read(config: Config, split: str, tasks: Sequence[Task], targets: Sequence[Target] = ()) -> Dataset:
    """The images and the labels that files hold; `targets` are derived from them."""
    data = config.data
    if "sets" not in data:
        return _build(data, data.get("size"), split, tasks)
    from segweave.data.mixture import Mixture

    parts: dict[str, Part] = {}
    others: dict[str, None] = {}
    for name, options in data["sets"].items():
        if not _serves(options, tasks) and len(tasks) < len(config.tasks):
            continue  # its labels are of tasks that are not predicted
        try:
            try:
                parts[name] = _part(options, data.get("size"), split, tasks, targets)
            except ConfigError:
                # where all else is well, it is the split that this set does not have
                splits = _part(options, data.get("size"), "train", tasks, targets).dataset.splits
                if split in splits:
                    raise
                others |= dict.fromkeys(splits)
        except SegweaveError as error:
            raise type(error)(f"data.sets.{name}: {error}") from None
    if not parts:
        raise ConfigError(f"data.sets: none has a split {split!r}; they have {', '.join(others)}")
    return Mixture(parts, tasks)


def _serves(options: Mapping[str, Any], tasks: Sequence[Task]) -> bool:
    """Whether one of several data sets has labels for any of the tasks, or does not say."""
    from segweave.data.dataset import labelled_layers

    layers = FORMATS.load(options["format"]).layers(options)  # pyright: ignore[reportAttributeAccessIssue]
    return layers is None or bool(labelled_layers(tasks, layers))


def training_images(config: Config, tasks: Sequence[Task], seed: int) -> Dataset:
    """The images to train on: the train split behind its cache, or the fraction of it that the config asks for.

    Raises:
        ConfigError: as `build_dataset` and `cached`.
        DataError: as `build_dataset`.
    """
    dataset = cached(config, "train", tasks, build_dataset(config, "train", tasks))
    fraction = config.data.get("fraction")
    if fraction is None:
        return dataset
    from segweave.data.fraction import Fraction

    return Fraction(dataset, fraction, [task.name for task in tasks], seed)


def training_and_validation(
    config: Config, tasks: Sequence[Task], seed: int, held_out: float | None = None
) -> tuple[Dataset, Dataset]:
    """The images to train on and those that validate: the splits `train` and `val`.

    Args:
        held_out: a share of the training images that validates in place of `val`, which is not read then.

    Raises:
        ConfigError: as `training_images`, or a task without a label in one of the parts.
        DataError: as `build_dataset`.
    """
    dataset = training_images(config, tasks, seed)
    if held_out is None:
        return dataset, cached(config, "val", tasks, build_dataset(config, "val", tasks))
    from segweave.data.subset import hold_out

    return hold_out(dataset, held_out, [task.name for task in tasks], seed)


def cached(config: Config, split: str, tasks: Sequence[Task], dataset: Dataset) -> Dataset:
    """The data set of a split behind the cache that its config asks for, if any. Raises ConfigError."""
    wanted = config.data.get("cache")
    if wanted is None:
        return dataset
    from segweave.data.cache import Cached

    how = repr((split, {key: value for key, value in config.data.items() if key not in _AFTER_READING}))
    return Cached(dataset, tasks, how, **{key: value for key, value in wanted.items() if key != "name"})


def _part(options: Mapping[str, Any], size: Any, split: str, tasks: Sequence[Task], targets: Sequence[Target]) -> Part:
    """One of several data sets, with those of the tasks that it has labels for."""
    from segweave.data.dataset import labelled_layers
    from segweave.data.mixture import Part, RawIds, class_table

    layers = FORMATS.load(options["format"]).layers(options)  # pyright: ignore[reportAttributeAccessIssue]
    if layers is None:
        raise ConfigError("tasks: missing; expected where this set has which labels, such as {semantic: masks}")
    found = labelled_layers(tasks, layers)
    if not found:
        raise ConfigError(f"has the layers {', '.join(layers)}, labels for none of {', '.join(t.name for t in tasks)}")
    maps, read = options.get("maps", {}), options.get("read", {})
    for key, given in (("maps", maps), ("read", read)):
        if unknown := [layer for layer in given if layer not in layers]:
            raise ConfigError(f"{key}.{unknown[0]}: no such layer; the set has {', '.join(layers)}")
    if both := [layer for layer in maps if layer in read]:
        raise ConfigError(f"read.{both[0]}: found beside maps.{both[0]}, which says what every id is; expected one")
    readers = {task.name: task for task in tasks if task.name in found}
    for layer, given in read.items():
        of_layer = {name: task for name, task in readers.items() if found[name] == layer}
        readers |= _own_readers(of_layer, targets, given, f"read.{layer}")
    tables = {
        task: class_table(maps[layer], readers[task], f"maps.{layer}") for task, layer in found.items() if layer in maps
    }
    own = [RawIds(task, found[task.name]) if task.name in tables else task for task in readers.values()]
    return Part(_build(options, size, split, own), tuple(readers), tables, read)


def _own_readers(
    readers: Mapping[str, Task], targets: Sequence[Target], given: Mapping[str, Any], where: str
) -> dict[str, Task]:
    """The tasks that read a layer, by name, as they do where its files hold other values than elsewhere.

    Args:
        readers: of the layer, by name.
        targets: some of which may be derived from it; `_in_sets` takes their options.
        given: the options, at `where` in the config.

    Raises:
        ConfigError: options that say no such thing, or that do not fit the task.
    """
    own = [task for task in readers.values() if _is_of_config(task)]
    derivations = [t.derivation for t in targets if t.source in readers and readers[t.source] not in own]
    known = {option: (Any, None) for reads in (*own, *derivations) for option in reads.reading}
    if not known:
        raise ConfigError(f"{where}: found {', '.join(given)}; expected none: no task has such options for it")
    check(given, known, where)
    return {task.name: _reading_as(task, task.reading, given, where) for task in own}


def _is_of_config(reader: Task) -> bool:
    """Whether it reads as a task of that kind; readers of a layer that is no task's take all ids as they are."""
    return type(reader) is TASKS.load(reader.kind)


def _reading_as(task: Task, reading: Sequence[str], given: Mapping[str, Any], where: str) -> Task:
    """The same task with those of the options of `reading` that are given. Raises ConfigError."""
    options = {option: value for option, value in given.items() if option in reading}
    spec = task.spec() | check(options, TASKS.options(task.kind), where)
    return TASKS.load(spec.pop("kind"))(spec.pop("name"), **spec)


def _build(options: Mapping[str, Any], size: Any, split: str, tasks: Sequence[Task]) -> Dataset:
    given = {key: value for key, value in options.items() if key not in _OUR_KEYS}
    if "size" not in FORMATS.options(options["format"]):
        given.pop("size", None)
    elif size is not None:
        given.setdefault("size", size)
    return FORMATS.load(options["format"])(split, tasks, **given)
