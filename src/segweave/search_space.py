"""Which keys of a config a search may change, and within which bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segweave.config import Config, parse
from segweave.errors import ConfigError, nearest
from segweave.plan import Plan
from segweave.resume import all_options
from segweave.variants import EQUAL, variants

_WEIGHT, _RATE, _BETA = (0.1, 10.0), (0.2, 5.0), (0.01, 100.0)
"""Factors on the config's own value within which a task's weight, the learning rate and a regulariser's are sought."""
_VIEWS = ("data.augment.", "data.sampling.", "data.normalise")
"""What of the data may be sought: the images stay the same ones."""
_LOG = 10
"""From how many times the lower bound on the upper one makes the scale logarithmic."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, on a logarithmic scale where that is positive and `high` at least 10 times it.

    Args:
        key: dotted, of the config.
        own: the config's value, between them.
        whole: whether they are whole numbers.
    """

    key: str
    low: float
    high: float
    own: float
    whole: bool = False

    @property
    def log(self) -> bool:
        return self.low > 0 and self.high >= _LOG * self.low

    @property
    def ends(self) -> list[str]:
        return [self.change(self.low), self.change(self.high)]

    def change(self, value: float) -> str:
        """As it is written on a command line, to four digits."""
        return f"{self.key}={round(value) if self.whole else format(value, '.4g')}"

    def __str__(self) -> str:
        return f"{self.key}={self.low!r}..{self.high!r}"


@dataclass(frozen=True)
class Choice:
    """Some values, as they are written on a command line.

    Args:
        key: dotted, of the config.
        values: the config's own among them.
        own: the config's.
    """

    key: str
    values: Sequence[str]
    own: str

    @property
    def ends(self) -> list[str]:
        return [self.change(value) for value in self.values]

    def change(self, value: str) -> str:
        """As it is written on a command line."""
        return f"{self.key}={value}"

    def __str__(self) -> str:
        return f"{self.key}={','.join(self.values)}"


Space = Sequence[Range | Choice]


def search_space(config: Config, search: Sequence[str] = (), methods: Sequence[str] = ()) -> Space:
    """What is searched.

    Args:
        config: from `read_config` or `check_config`.
        search: `KEY=LOW..HIGH` or `KEY=a,b,c` each; without any, the weights of all predicted tasks but the first, the
            learning rate and the regularisers' weights, around their own values.
        methods: of balancing, which are searched as well.

    Raises:
        ConfigError: nothing to search, a key that cannot be searched, bounds without the config's own value between
            them, or a value with which the config cannot be trained.
    """
    space = [_written(config, text) for text in search] or _default(config)
    if methods:
        space.append(_choice(config, "balancing.method", methods, "--methods"))
    keys = [dimension.key for dimension in space]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ConfigError(f"--search {twice[0]}: found twice; expected each key once")
    for dimension in space:
        for end in dimension.ends:
            _check(config, end)
    return space


def tried(config: Config, changes: Sequence[str]) -> Config:
    """The config with changes, as `compare` has it with a variant of these; itself without any."""
    return variants(config, {"tuned": changes}, separate=False)[-1].config if changes else config


def _default(config: Config) -> list[Range | Choice]:
    predicted = {name: config.tasks[name] for name in _predicted(config)}
    around = {f"tasks.{name}.weight": (options.get("weight", 1.0), _WEIGHT) for name, options in predicted.items()}
    around.pop(next(iter(around)))  # ratios alone matter: what all have in common is the learning rate's
    around["train.lr"] = (Plan(**config.train).lr, _RATE)
    parts = {"model": config.model} | {f"tasks.{name}": options for name, options in predicted.items()}
    for where, options in parts.items():
        betas = (options.get("regularizers") or {}).items()
        around |= {f"{where}.regularizers.{name}": (beta, _BETA) for name, beta in betas}
    return [
        Range(key, low * own, high * own, float(own))
        for key, (own, (low, high)) in around.items()
        if not isinstance(own, Mapping) and own > 0  # a weight by its number of labels, or a regulariser without one
    ]


def _predicted(config: Config) -> list[str]:
    return [name for name, options in config.tasks.items() if options.get("predict", True)]


def _written(config: Config, text: str) -> Range | Choice:
    where = f"--search {text}"
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values:
        raise ConfigError(f"{where}: expected KEY=LOW..HIGH or KEY=a,b,c, such as train.lr=1e-4..1e-2")
    if key in EQUAL or (key.startswith("data.") and not key.startswith(_VIEWS)):
        raise ConfigError(f"{where}: expected no other images, budget or seed: all trials have those of the config")
    if ".." not in values:
        return _choice(config, key, [value.strip() for value in values.split(",")], where)
    own = _own(config, key, where)
    try:
        low, high = (float(value) for value in values.split("..", 1))
    except ValueError:
        raise ConfigError(f"{where}: found {values}; expected two numbers, such as 1e-4..1e-2") from None
    if isinstance(own, bool) or not isinstance(own, int | float) or not low <= own <= high or low == high:
        raise ConfigError(
            f"{where}: the config has {key}={_text(own)}; expected LOW below HIGH and a number between them: the first "
            f"trial is the config itself, as it stands"
        )
    whole = isinstance(own, int) and all(isinstance(parse(value), int) for value in values.split("..", 1))
    return Range(key, low, high, own, whole)


def _choice(config: Config, key: str, values: Sequence[str], where: str) -> Choice:
    """The config's own value first."""
    own = _text(_own(config, key, where))
    others = [value for value in values if _text(parse(value, where)) != own]
    if not all(values) or len(set(others)) < len(others) or not others:
        raise ConfigError(
            f"{where}: found {', '.join(values)}; expected each once, and one other than {own}, which is the config's"
        )
    return Choice(key, [own, *others], own)


def _own(config: Config, key: str, where: str) -> Any:
    """The config's value of a key, or its default."""
    options = all_options(config)
    sections = [section for section in options if key.startswith(f"{section}.")]
    value: Any = options[max(sections, key=len)] if sections else {}
    for part in key.removeprefix(f"{max(sections, key=len, default='')}.").split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = [f"{section}.{name}" for section, values in options.items() for name in values]
            raise ConfigError(f"{where}: the config has no {key}; nearest: {nearest(key, known, 3)}, or write it there")
        value = value[part]
    if isinstance(value, Mapping | list | tuple):
        raise ConfigError(f"{where}: the config has {key}={value}; expected a key with a single value")
    return value


def _text(value: Any) -> str:
    """As YAML has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _check(config: Config, change: str) -> None:
    """Raises ConfigError for a change with which the config cannot be trained, or that changes what is predicted."""
    try:
        made = tried(config, [change])
        Plan(**made.train)
    except ConfigError as error:
        raise ConfigError(f"{change}: {str(error).removeprefix('--variant tuned: ')}") from None
    before, now = _predicted(config), _predicted(made)
    if before != now:
        raise ConfigError(f"{change}: predicts {', '.join(now)}; expected the same tasks: {', '.join(before)}")
