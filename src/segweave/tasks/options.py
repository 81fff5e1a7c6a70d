"""Options of tasks in the forms that a config may write them in, as the one form that the tasks work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segweave.errors import ConfigError, nearest


def weighted_losses(
    task: str, loss: str | Sequence[str] | Mapping[str, Any], known: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`loss` in its longest form, `{name: {weight: w, option: value}}`.

    Args:
        task: its name, for errors.
        loss: a name, several names, or `{name: weight}` / `{name: {weight: w, option: value}}`.
        known: the losses of the task's kind.

    Raises:
        ConfigError: an unknown loss, or a weight that is not a number above 0.
    """
    if isinstance(loss, str):
        loss = {loss: 1.0}
    elif not isinstance(loss, Mapping):
        loss = dict.fromkeys(loss, 1.0)
    normalised = {}
    for name, value in loss.items():
        if name not in known:
            raise ConfigError(
                f"tasks.{task}.loss.{name}: unknown loss for this kind; nearest: {nearest(name, known, 3)}"
            )
        options = {"weight": 1.0, **value} if isinstance(value, Mapping) else {"weight": value}
        if not isinstance(options["weight"], int | float) or not options["weight"] > 0:
            raise ConfigError(
                f"tasks.{task}.loss.{name}: found weight {options['weight']!r}; expected a number above 0"
            )
        normalised[name] = options
    return normalised


def label_power(task: str, weight: Mapping[str, float]) -> float:
    """The p of a task's `weight: {labels: p}`. Raises ConfigError for anything else, or a p outside [-1, 1]."""
    power = weight.get("labels", 2)
    if set(weight) != {"labels"} or not -1 <= power <= 1:
        raise ConfigError(
            f"tasks.{task}.weight: found {dict(weight)}; expected a number, or {{labels: P}} with P from -1 to 1"
        )
    return float(power)


def class_names(task: str, classes: int | Sequence[str | int] | str | None) -> list[str]:
    """`classes: int | list | path` as a list of names; blank lines of a file do not count.

    Raises:
        ConfigError: none of these, or a name that is there twice.
    """
    where, expected = f"tasks.{task}.classes", "expected a number, a list of names or a file with a name a line"
    if classes is None:
        raise ConfigError(f"{where}: missing; {expected}")
    if isinstance(classes, str):
        try:
            lines = Path(classes).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"{where}: {classes}: cannot be read ({reason}); {expected}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{where}: {classes}: not text in UTF-8; {expected}") from None
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = [f"class {i}" for i in range(classes)] if isinstance(classes, int) else [str(c) for c in classes]
    if not names:
        raise ConfigError(f"{where}: found {classes!r}, which names none; {expected}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: found {', '.join(map(repr, twice))} more than once; expected each name once")
    return names
