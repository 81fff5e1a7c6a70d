"""Other ways to train what a config describes: with some of its tasks, with one network per task, with changes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segweave.config import Config, from_values
from segweave.errors import ConfigError
from segweave.estimates import SEPARATE, SHARED
from segweave.schema import check_config

EQUAL = tuple(f"train.{key}" for key in ("steps", "epochs", "minutes", "patience", "seed"))
"""Keys that all ways to train have in common."""


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Args:
        name: of the variant.
        config: what is trained.
        changes: to the config that all are variants of, as they were written.
        shown: the name in tables; networks of single tasks share one.
    """

    name: str
    config: Config
    changes: Sequence[str] = ()
    shown: str = ""

    @property
    def column(self) -> str:
        return self.shown or self.name

    @property
    def tasks(self) -> list[str]:
        """Those that its network predicts."""
        return [name for name, options in self.config.tasks.items() if options.get("predict", True)]


def written(text: str) -> tuple[str, list[str]]:
    """The name and the changes of a variant such as `upgrad balancing.method=upgrad`, or `pair tasks=semantic,depth`.

    Raises:
        ConfigError: no name, or no changes.
    """
    try:
        name, *changes = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--variant {text!r}: {error}") from None
    if not changes or "=" in name:
        raise ConfigError(f"--variant {text!r}: expected a name and changes: 'upgrad balancing.method=upgrad'")
    return name, changes


def shares_written(text: str) -> list[float]:
    """The numbers of `0.1,0.25,0.5`. Raises ConfigError for what is none."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"--data-fractions {text}: expected numbers above 0 and at most 1, as 0.1,0.25") from None


def weights_written(text: str) -> dict[str, float]:
    """The numbers of `semantic=2,depth=0.5`. Raises ConfigError for what is none."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"--importance {part}: expected a task and a number, as semantic=2") from None
    return found


def variants(config: Config, changed: Mapping[str, Sequence[str]], separate: bool = True) -> list[Variant]:
    """The config itself, then its variants, then one network per task.

    Args:
        config: from `read_config` or `check_config`.
        changed: by name, changes `section.key=value`, and `tasks=<task>,<task>` for some of the tasks alone.
        separate: whether there is a network per task; of a config with a single task there is none.

    Raises:
        ConfigError: a name that cannot be a folder's or is taken, an unknown task, or a change that does not fit.
    """
    shared = Variant(SHARED, config)
    found = [shared]
    for name, changes in changed.items():
        if not re.fullmatch(r"\w[\w .-]*", name) or name == SHARED or name.split()[0] == SEPARATE:
            raise ConfigError(
                f"--variant {name}: found this name; expected letters, digits, '_', '-', '.' and blanks, and neither "
                f"{SHARED} nor {SEPARATE}"
            )
        if equal := [change for change in changes if change.partition("=")[0].strip() in EQUAL]:
            raise ConfigError(
                f"--variant {name}: found {equal[0]}; expected no other budget and no seed of its own: all that are "
                f"compared have those of the config"
            )
        found.append(Variant(name, _changed(config, name, changes), changes))
    if separate and len(shared.tasks) > 1:
        found += [Variant(f"{SEPARATE} {task}", alone(config, [task]), shown=SEPARATE) for task in shared.tasks]
    return found


@dataclass(frozen=True)
class Shared:
    """The ways to train on a share of the labels.

    Args:
        fraction: of the training images, or of the labels of the task `scarce` alone.
        ways: the config itself and one network per task; with `scarce` the config alone.
    """

    fraction: float
    ways: Sequence[Variant]
    scarce: str = ""


def with_fewer_labels(config: Config, fractions: Iterable[float], scarce: str | None) -> list[Shared]:
    """The config itself and one network per task on shares of the training images.

    Args:
        fractions: above 0 and at most 1.
        scarce: a task of which the config is also trained with that share of the labels and all of the other tasks'.
            What is derived from its labels is as scarce as they are.

    Raises:
        ConfigError: a fraction out of range, an unknown task, or a config that has a fraction already.
    """
    if config.data.get("fraction") is not None:
        raise ConfigError("data.fraction: found beside --data-fractions; expected one of them")
    found = []
    for fraction in sorted(set(fractions)):
        ways = variants(_few(config, fraction), {})
        if fraction < 1:
            ways = [replace(way, name=f"{way.name}, {fraction:g} of the images", shown=way.column) for way in ways]
        found.append(Shared(fraction, ways))
        if scarce is not None and fraction < 1:
            name = f"{SHARED}, {fraction:g} of {scarce}"
            same = dict.fromkeys(_read_from(config, scarce), fraction)
            way = Variant(name, _few(config, same), shown=f"{SHARED}, all labels of other tasks")
            found.append(Shared(fraction, [way], scarce))
    return found


def _read_from(config: Config, task: str) -> list[str]:
    """A task, and those whose labels are derived from the same annotations."""
    layer = config.tasks.get(task, {}).get("source", task)
    derived = [name for name, options in config.tasks.items() if options.get("derive") is not None]
    return [task, *(name for name in derived if name != task and config.tasks[name].get("source") in (task, layer))]


def _few(config: Config, fraction: float | Mapping[str, float]) -> Config:
    if fraction == 1:
        return config
    return check_config(replace(config, data={**config.data, "fraction": fraction}))


def _changed(config: Config, name: str, changes: Iterable[str]) -> Config:
    kept = [change for change in changes if not change.startswith("tasks=")]
    try:
        made = check_config(from_values(config.sections(), kept, config.source))
        for change in changes:
            if change.startswith("tasks="):
                made = alone(made, [task.strip() for task in change.removeprefix("tasks=").split(",")])
    except ConfigError as error:
        raise ConfigError(f"--variant {name}: {error}") from None
    return made


def alone(config: Config, tasks: Collection[str]) -> Config:
    """The config with only these tasks predicted, on the same images in the same order.

    What names a task that is gone (`train.best`, and the sampling and the crops that favour it) is left out. A single
    task needs no balancing.

    Raises:
        ConfigError: an unknown task.
    """
    for task in tasks:
        if task not in config.tasks:
            raise ConfigError(f"tasks: found {task!r}; expected some of {', '.join(config.tasks)}")
    data, train = dict(config.data), dict(config.train)
    for key in ("sampling", "augment"):
        if isinstance(data.get(key), Mapping):
            data[key] = _without(data[key], tasks)
    if isinstance(data.get("augment"), Mapping) and data["augment"].get("rare"):
        data["augment"] = {**data["augment"], "rare": _without(data["augment"]["rare"], tasks)}
    if train.get("best", "").partition("/")[0] not in tasks:
        train.pop("best", None)
    described = {name: {**options, "predict": name in tasks} for name, options in config.tasks.items()}
    balancing = config.balancing if len(tasks) > 1 else {"method": "equal"}
    return replace(config, data=data, tasks=described, balancing=balancing, train=train)


def _without(options: Mapping[str, Any], tasks: Collection[str]) -> dict[str, Any] | None:
    """Options of a sampling or of crops without the tasks that are gone; None where they are about one of these."""
    if options.get("task", next(iter(tasks))) not in tasks:
        return None
    least = options.get("minimum")
    if isinstance(least, Mapping):
        return {**options, "minimum": {task: number for task, number in least.items() if task in tasks}}
    return dict(options)
