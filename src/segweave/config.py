"""A YAML 1.2 file with `key=value` overrides to plain, ordered Python values, and back."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segweave.errors import ConfigError, nearest

SECTIONS = ("data", "tasks", "model", "balancing", "train")
_MAX_NODES = 100_000
_LIMITS = ("steps", "epochs", "minutes")  # one of them: writing one on the command line replaces the file's


@dataclass(frozen=True)
class Config:
    """One run as the user described it: plain values by section, in the order they were written."""

    data: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    balancing: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    source: str = "config"

    def sections(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SECTIONS}


class _Loader(yaml.SafeLoader):
    """PyYAML with YAML 1.2's scalars (`1e-3` is a number, `on` and `1:30` are text), no repeated keys, no bombs."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: ARG002
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise ConfigError(f"line {key_node.start_mark.line + 1}: a key must be plain text")
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def parse(text: str, source: str = "config") -> Any:
    """YAML text to plain values.

    Raises:
        ConfigError: syntax, a repeated key, a tag that would build an object, or aliases that expand beyond reason.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _count_nodes(node)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        cure = "; indent with blanks, not with tabs" if "'\\t'" in (error.problem or "") else ""
        raise ConfigError(f"{source}: {line}{error.problem or error.context}{cure}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{source}: not YAML that can be read: {' '.join(str(error).split())}") from None


_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float")}


def _count_nodes(root: yaml.Node | None) -> None:
    """Counts nodes with every alias expanded, children before parents, so that nested aliases cannot multiply."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: frozenset[int]) -> int:
        if id(node) in above:
            raise ConfigError("an alias refers to its own parent")
        if id(node) not in sizes:
            children: Iterable[yaml.Node] = ()
            if isinstance(node, yaml.MappingNode):
                children = (part for pair in node.value for part in pair)
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            sizes[id(node)] = 1 + sum(size(child, above | {id(node)}) for child in children)
            if sizes[id(node)] > _MAX_NODES:
                raise ConfigError(f"aliases expand to more than {_MAX_NODES} values")
        return sizes[id(node)]

    if root is not None:
        size(root, frozenset())


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a config file and applies `section.key=value` overrides; `${NAME}` and `${NAME:-default}` are expanded.

    A value that is one such variable and nothing else may be a number or true or false: `lr: ${LR}`.

    Raises:
        ConfigError: the file is missing or is not such a config.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not text; expected a YAML file in UTF-8") from None
    return from_values(parse(text, str(path)), overrides, str(path))


def from_values(values: Any, overrides: Iterable[str] = (), source: str = "config") -> Config:
    """The same from values that were parsed already."""
    if not isinstance(values, dict):
        found = "nothing" if values is None else repr(values)
        raise ConfigError(f"{source}: expected a mapping with the sections {', '.join(SECTIONS)}; found {found}")
    values = _expand(values, source)  # which also gives every YAML alias a copy of its own, to be overridden alone
    _name_sets(values, source)
    for override in overrides:
        _override(values, override)
        _name_sets(values, source)
    for key, section in values.items():
        if key not in SECTIONS:
            raise ConfigError(f"{source}: {key}: unknown section; did you mean {nearest(str(key), SECTIONS)}?")
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{source}: {key}: expected a mapping; found {section!r}")
    return Config(**{key: section or {} for key, section in values.items()}, source=source)


def _name_sets(values: dict[Any, Any], source: str) -> None:
    """Several data sets as a list, alone or as `data.sets`, become `data.sets` by name."""
    if isinstance(values.get("data"), list):
        values["data"] = {"sets": values["data"]}
    if isinstance(values.get("data"), dict) and isinstance(values["data"].get("sets"), list):
        values["data"]["sets"] = _by_name(values["data"]["sets"], source)


def _by_name(sets: list[Any], source: str) -> dict[str, Any]:
    """A list of data sets by their `name`, else by that of their folder or format, with a number where it is taken."""
    named: dict[str, Any] = {}
    for place, options in enumerate(sets, 1):
        if not isinstance(options, dict):
            raise ConfigError(f"{source}: data, set {place}: expected a mapping with its format; found {options!r}")
        options = dict(options)
        own = options.pop("name", None)
        taken = [other.get("name") for other in sets[place:] if isinstance(other, dict)] + list(named)
        if own is not None and (own in taken or not isinstance(own, str)):
            raise ConfigError(f"{source}: data, set {place}: found the name {own!r}; expected text, of this set alone")
        name = plain = Path(str(options.get("root", ""))).name or str(options.get("format"))
        number = 1
        while own is None and name in taken:
            number += 1
            name = f"{plain}-{number}"
        named[name if own is None else own] = options
    return named


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or (len(parts) == 1 and parts[0] not in SECTIONS):
        raise ConfigError(f"override {override!r}: expected section.key=value, such as train.lr=1e-3")
    level = values
    for depth, part in enumerate(parts[:-1], 1):
        if level.get(part) is None:
            level[part] = {}
        level = level[part]
        if not isinstance(level, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(parts[:depth])} is {level!r}, not a section")
    if len(parts) == 2 and parts[0] == "train" and parts[1] in _LIMITS:
        for limit in _LIMITS:
            level.pop(limit, None)
    level[parts[-1]] = _expand(parse(text, f"override {override!r}"), f"override {override!r}")


def _expand(value: Any, source: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, source) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, source) for item in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name not in os.environ and default is None:
            raise ConfigError(f"{source}: {value}: environment variable {name} is not set, and it has no default")
        return os.environ.get(name) or default or ""

    text = _VARIABLE.sub(variable, value)
    alone = _VARIABLE.fullmatch(value) is not None
    return (
        parse(text, source) if alone and _Loader("").resolve(yaml.ScalarNode, text, (True, False)) in _PLAIN else text
    )


def dump(values: Mapping[str, Any]) -> str:
    """Plain values to YAML text that `parse` reads back to the same values, in the same order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


class _Dumper(yaml.SafeDumper):
    """Quotes text by YAML 1.2's rules, so that text that looks like a number to `_Loader` stays text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds at these as if they were line breaks, and then they come back as blanks
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
_Dumper.add_representer(str, _text)
