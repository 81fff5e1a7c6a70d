"""A config file to checked values, without importing torch: a misspelt key is answered at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segweave import config
from segweave.balancing import METHODS
from segweave.catalogue import check, signature_options
from segweave.config import Config
from segweave.data import FORMATS
from segweave.errors import ConfigError
from segweave.losses import LOSSES
from segweave.regularizers.betas import check_betas
from segweave.tasks import TASKS

_PATHS = ("root",)
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
    data = _with_choice(raw.data, "format", FORMATS, "data", {"augment", "size"})
    data |= _checked_views(data)
    tasks = {}
    for name, options in raw.tasks.items():
        if not isinstance(options, Mapping):
            raise ConfigError(f"tasks.{name}: expected a mapping with its kind; found {options!r}")
        tasks[str(name)] = _with_choice(options, "kind", TASKS, f"tasks.{name}")
        _check_losses(options.get("loss"), f"tasks.{name}.loss")
        check_betas(options.get("regularizers"), f"tasks.{name}.regularizers")
        if isinstance(options.get("classes"), str):
            tasks[str(name)]["classes"] = _locate(options["classes"], base)
    model = check(raw.model, signature_options("segweave.model:create_model")[0], "model")
    check_betas(model.get("regularizers"), "model.regularizers")
    if isinstance(model.get("pretrained"), str):
        model["pretrained"] = _locate(model["pretrained"], base)
    balancing = _with_choice({"method": "equal", **raw.balancing}, "method", METHODS, "balancing")
    train = check(raw.train, signature_options("segweave.plan:Plan")[0], "train")
    for key in _PATHS:
        if isinstance(data.get(key), str):
            data[key] = _locate(data[key], base)
    return replace(raw, data=data, tasks=tasks, model=model, balancing=balancing, train=train)


def _checked_views(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data.size` and `data.augment` where they are written: how large and how varied the network sees an image."""
    views: dict[str, Any] = {}
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


def _with_choice(
    section: Mapping[str, Any], key: str, table: Any, where: str, extra: Iterable[str] = ()
) -> dict[str, Any]:
    """Checks a section whose `key` chooses the class that has the other options."""
    if not isinstance(section.get(key), str):
        raise ConfigError(f"{where}.{key}: missing; expected one of {', '.join(table)}")
    table.require(section[key], f"{where}.{key}")
    options = {name: (Any, None) for name in extra if name != "size"} | table.options(section[key])
    if "size" in extra:
        options.setdefault("size", (list[int] | None, None))
    values = {name: value for name, value in section.items() if name != key}
    return {key: section[key], **check(values, options, where)}


def _check_losses(loss: Any, where: str) -> None:
    """A name, several names, or `{name: weight}` / `{name: {weight: w, option: value}}`; which fit, the task knows."""
    for name in [loss] if isinstance(loss, str) else loss or ():
        LOSSES.require(name, where)
        if isinstance(loss, Mapping) and isinstance(loss[name], Mapping):
            check(loss[name], {"weight": (float, 1.0)} | LOSSES.options(name), f"{where}.{name}")


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
