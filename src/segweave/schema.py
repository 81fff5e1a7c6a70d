"""A config file to checked values, without importing torch: a misspelt key is answered at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segweave import config
from segweave.balancing import METHODS
from segweave.catalogue import check, signature_options
from segweave.config import Config
from segweave.data import DERIVATIONS, FORMATS, SAMPLINGS
from segweave.errors import ConfigError, nearest
from segweave.losses import LOSSES
from segweave.regularizers.betas import check_betas
from segweave.tasks import TASKS

_PATHS = ("root",)
_VIEWS = {"size": (list[int] | None, None), "augment": (Any, None), "sampling": (Any, None)}  # of all of the data
_VIEWS |= {"normalise": (bool | int | None, None), "cache": (Any, None)}
_VIEWS |= {"fraction": (float | dict[str, float] | None, None)}
_OF_A_SET = {"maps": (dict[str, dict[int, int | str]], None), "read": (dict[str, dict[str, Any]], None)}
_UNCHANGED = {"scale": None, "flip": 0.0, "colour": 0.0}  # the augmentation that does nothing


def read_config(path: str | Path, overrides: Iterable[str] = (), data_only: bool = False) -> Config:
    """Reads, overrides and checks a config; paths in it become absolute.

    A relative path is looked for beside the config file first, then in the working directory.

    Args:
        path: the YAML file.
        overrides: `section.key=value` each.
        data_only: it may leave out the tasks, to describe data for the tasks of a run.

    Raises:
        ConfigError: with the key, what was found, what was expected and the nearest name.
    """
    return check_config(config.load(path, overrides), Path(path).expanduser().parent, data_only)


def check_config(raw: Config, base: Path = Path(), data_only: bool = False) -> Config:
    """The same for a config that was read already."""
    if not raw.tasks and not data_only:
        raise ConfigError(f"{raw.source}: tasks: missing; expected at least one task")
    data = _checked_sets(raw.data, base) if "sets" in raw.data else _checked_set(raw.data, "data", _VIEWS, base)
    data |= _checked_views(data)
    tasks = {}
    for name, options in raw.tasks.items():
        if not isinstance(options, Mapping):
            raise ConfigError(f"tasks.{name}: expected a mapping with its kind; found {options!r}")
        tasks[str(name)] = _with_choice(options, "kind", TASKS, f"tasks.{name}")
        _check_losses(options.get("loss"), f"tasks.{name}.loss")
        _check_derivation(options.get("derive"), f"tasks.{name}.derive")
        check_betas(options.get("regularizers"), f"tasks.{name}.regularizers")
        if isinstance(options.get("classes"), str):
            tasks[str(name)]["classes"] = _locate(options["classes"], base)
    _check_layers(data.get("sets", {}), tasks)
    _check_fraction(data.get("fraction"), tasks)
    model = check(raw.model, signature_options("segweave.model:create_model")[0], "model")
    model |= _checked_bands(data, model)
    check_betas(model.get("regularizers"), "model.regularizers")
    if isinstance(model.get("pretrained"), str):
        model["pretrained"] = _locate(model["pretrained"], base)
    balancing = _with_choice({"method": "equal", **raw.balancing}, "method", METHODS, "balancing")
    train = check(raw.train, signature_options("segweave.plan:Plan")[0], "train")
    return replace(raw, data=data, tasks=tasks, model=model, balancing=balancing, train=train)


def _checked_set(options: Mapping[str, Any], where: str, extra: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """One data set: its format with that format's options, and those of `extra`."""
    checked = _with_choice(options, "format", FORMATS, where, extra)
    for key in _PATHS:
        if isinstance(checked.get(key), str):
            checked[key] = _locate(checked[key], base)
    return checked


def _checked_sets(data: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Several data sets by name, with the options of all of them beside `sets`."""
    checked = check(data, {"sets": (dict[str, dict[str, Any]], ...), **_VIEWS}, "data")
    if not checked["sets"]:
        raise ConfigError("data.sets: found none; expected at least one data set")
    for name, options in checked["sets"].items():
        where = f"data.sets.{name}"
        if not re.fullmatch(r"\w[\w .-]*", name):
            raise ConfigError(f"{where}: found the name {name!r}; expected letters, digits, '_', '-', '.' and blanks")
        checked["sets"][name] = _checked_set(options, where, _OF_A_SET, base)
    return checked


def _check_layers(sets: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """A layer that no task reads is misspelt: the set would be without these labels, and nothing would say so."""
    known = {key for name, options in tasks.items() for key in (name, options.get("source"), options["kind"])}
    for name, options in sets.items():
        for layer in options.get("tasks") or ():
            if tasks and layer not in known:
                near = nearest(layer, tasks)
                raise ConfigError(f"data.sets.{name}.tasks.{layer}: no task reads this layer; did you mean {near}?")


def _check_fraction(fraction: float | Mapping[str, float] | None, tasks: Mapping[str, Any]) -> None:
    by_task = fraction if isinstance(fraction, Mapping) else {} if fraction is None else {"": fraction}
    for task, share in by_task.items():
        where = f"data.fraction.{task}" if task else "data.fraction"
        if task and task not in tasks:
            raise ConfigError(f"{where}: no such task; did you mean {nearest(task, tasks)}?")
        if not 0 < share <= 1:
            raise ConfigError(f"{where}: found {share}; expected a share above 0 and at most 1")


def _checked_views(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data.size`, `augment`, `sampling` and `cache` where they are written: how images come, however they are read."""
    views: dict[str, Any] = {}
    sampling = data.get("sampling")
    if sampling is not None:
        sampling = {"name": sampling} if isinstance(sampling, str) else sampling
        if not isinstance(sampling, Mapping):
            raise ConfigError(f"data.sampling: found {sampling!r}; expected a name, or a mapping with a name in it")
        views["sampling"] = _with_choice(sampling, "name", SAMPLINGS, "data.sampling")
    cache = data.get("cache")
    if cache is not None:
        cache = {"name": cache} if isinstance(cache, str) else cache
        if not isinstance(cache, Mapping) or cache.get("name") != "decoded":
            raise ConfigError(f"data.cache: found {cache!r}; expected decoded, or {{name: decoded}} with its options")
        own = {key: value for key, value in cache.items() if key != "name"}
        own = check(own, signature_options("segweave.data.cache:Cached")[0], "data.cache")
        views["cache"] = {"name": "decoded", **own}
    size, augment = data.get("size"), data.get("augment")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"data.size: found {list(size)}; expected [height, width] in whole pixels, both above 0")
    if augment is False:
        views["augment"] = dict(_UNCHANGED)
    elif isinstance(augment, Mapping):
        views["augment"] = check(augment, signature_options("segweave.data.augment:Augment")[0], "data.augment")
    elif augment is not None:
        raise ConfigError(f"data.augment: found {augment!r}; expected a mapping, false for none, or null for the usual")
    return views


def data_bands(options: Mapping[str, Any]) -> int:
    """How many bands the images of a data set, or of the first of several, are read with."""
    bands = next(iter(options.get("sets", {"": options}).values())).get("bands")
    return 3 if bands is None else bands if isinstance(bands, int) else len(bands)


def _checked_bands(data: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """`model.in_channels` as the `bands` of the data have it, where they are written."""
    sets = data.get("sets", {"": data})
    bands = {name: options.get("bands") for name, options in sets.items()}
    for name, found in bands.items():
        if found is not None and min([found] if isinstance(found, int) else found, default=0) < 1:
            where = f"data.sets.{name}" if name else "data"
            raise ConfigError(f"{where}.bands: found {found}; expected how many there are, or a list of them from 1")
    counts = {name: data_bands(options) for name, options in sets.items()}
    if len(set(counts.values())) > 1:
        raise ConfigError(f"data.sets: found {counts} bands; expected as many in every set: choose with sets.*.bands")
    limit = data.get("normalise")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit < 1:
        raise ConfigError(f"data.normalise: found {limit}; expected true, false or a number of images")
    first, *others = bands.values()
    given = first if all(other == first for other in others) else next(iter(counts.values()))
    if model.get("in_channels", given or 3) != (given or 3):
        found = model["in_channels"]
        raise ConfigError(f"model.in_channels: found {found}; the data have {given or 3}; set data.bands alone")
    return {} if given is None else {"in_channels": given}


def _with_choice(
    section: Mapping[str, Any], key: str, table: Any, where: str, extra: Mapping[str, tuple[Any, Any]] | None = None
) -> dict[str, Any]:
    """Checks a section whose `key` chooses the class that has the other options, but for those of `extra`."""
    if not isinstance(section.get(key), str):
        raise ConfigError(f"{where}.{key}: missing; expected one of {', '.join(table)}")
    table.require(section[key], f"{where}.{key}")
    options = (extra or {}) | table.options(section[key])
    values = {name: value for name, value in section.items() if name != key}
    return {key: section[key], **check(values, options, where)}


def _check_losses(loss: Any, where: str) -> None:
    """A name, several names, or `{name: weight}` / `{name: {weight: w, option: value}}`; which fit, the task knows."""
    for name in [loss] if isinstance(loss, str) else loss or ():
        LOSSES.require(name, where)
        if isinstance(loss, Mapping) and isinstance(loss[name], Mapping):
            check(loss[name], {"weight": (float, 1.0)} | LOSSES.options(name), f"{where}.{name}")


def _check_derivation(derive: Any, where: str) -> None:
    """A name or `{name: {option: value}}`; `presence` is of kind `classification` alone."""
    if derive is None or derive == "presence":
        return
    chosen = {derive: {}} if isinstance(derive, str) else derive
    if len(chosen) != 1:
        raise ConfigError(f"{where}: found {', '.join(chosen) or 'none'}; expected one of {', '.join(DERIVATIONS)}")
    ((name, options),) = chosen.items()
    DERIVATIONS.require(name, where)
    check(options, DERIVATIONS.options(name), f"{where}.{name}")


def _locate(path: str, base: Path) -> str:
    """The path as it is found: `~` is the home folder; a missing one stays as it was written, for the message."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:  # `~name` of nobody
        return path
    for folder in (base, Path()):
        if (folder / expanded).exists():
            return str((folder / expanded).resolve())
    return path if expanded == Path(path) else str(expanded)
