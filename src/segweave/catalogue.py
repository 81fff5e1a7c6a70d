"""Tables of names, and the options behind a name, read without importing what they name.

The constructor of a class is the schema of its YAML section: its keyword-only parameters are the keys a user may
write, with their types and defaults; its positional parameters come from the program. The signature is read from the
source text, because importing torch, torchvision and timm takes seconds and a misspelt key should be answered at once.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from segweave.errors import ConfigError, nearest

_TYPES = {"Any": Any, "Literal": Literal, "Mapping": Mapping, "Sequence": Sequence, "Path": Path}


class Catalogue(Mapping[str, str]):
    """A closed table of names: `{"iou": "SoftIoU"}` says that file `iou.py` of this folder holds class `SoftIoU`.

    Args:
        noun: what one entry is called in messages, such as "loss".
        package: dotted name of the folder.
        classes: class name by config name; the config name is the file stem.
        base: class whose keyword-only options an entry that takes `**common` has too, as "module:Class".
    """

    def __init__(self, noun: str, package: str, classes: Mapping[str, str], base: str | None = None) -> None:
        self.noun = noun
        self.package = package
        self._classes = dict(classes)
        self._base = base

    def __getitem__(self, name: str) -> str:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def load(self, name: str) -> type:
        """The class behind a name. Raises ConfigError with the three nearest names where there is none."""
        self.require(name)
        return getattr(importlib.import_module(f"{self.package}.{name}"), self._classes[name])

    def require(self, name: str, where: str = "") -> None:
        """Raises ConfigError, naming the three nearest, unless `name` is in the table."""
        if name not in self._classes:
            raise ConfigError(
                f"{where}{': ' if where else ''}unknown {self.noun} {name!r}; nearest: {nearest(name, self, 3)}"
            )

    def options(self, name: str) -> dict[str, tuple[Any, Any]]:
        """`{option: (type, default)}` of an entry, from its source; `...` stands for "no default"."""
        self.require(name)
        own, open_ended = signature_options(f"{self.package}.{name}:{self._classes[name]}")
        if open_ended and self._base:
            own = signature_options(self._base)[0] | own
        return own

    def attribute(self, name: str) -> type:
        """Module `__getattr__` (PEP 562) of the folder: `segweave.losses.SoftIoU` imports `iou.py` when asked for."""
        for stem, class_name in self._classes.items():
            if class_name == name:
                return self.load(stem)
        raise AttributeError(f"module {self.package!r} has no attribute {name!r}")


@cache
def signature_options(target: str) -> tuple[dict[str, tuple[Any, Any]], bool]:
    """Keyword-only options of "module:Class" (its constructor) or "module:function", read from the source text.

    A class without a constructor has that of its first base, and one whose constructor takes `**options` has the
    options of its first base too, if that is of this package.

    Returns:
        `{option: (type, default)}`, and whether the signature also takes `**options`.
    """
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name), None)
    if node is None:  # imported there from elsewhere
        elsewhere = _imported(tree, name)
        assert elsewhere is not None, target
        return signature_options(elsewhere)
    options: dict[str, tuple[Any, Any]] = {}
    if isinstance(node, ast.ClassDef):
        parent = _parent(tree, node, module)
        constructors = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if not constructors:
            return signature_options(parent) if parent else ({}, False)
        node = constructors[0]
        if node.args.kwarg is not None and parent:
            options |= signature_options(parent)[0]
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        assert argument.annotation is not None, f"{target}: {argument.arg} has no annotation"
        # The text comes from this package's own source, never from a user.
        annotation = eval(ast.unparse(argument.annotation), {"__builtins__": __builtins__}, _TYPES)
        options[argument.arg] = (annotation, ... if default is None else ast.literal_eval(default))
    return options, node.args.kwarg is not None


def lineage(target: str) -> list[str]:
    """ "module:Class" and its first bases within this package, each where it is defined; a function alone."""
    found = []
    place: str | None = target
    while place is not None:
        module, _, name = place.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert spec.origin is not None, module
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        node = next((n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name), None)
        if node is None:
            place = _imported(tree, name)
            continue
        found.append(place)
        place = _parent(tree, node, module) if isinstance(node, ast.ClassDef) else None
    return found


def _parent(tree: ast.Module, node: ast.ClassDef, module: str) -> str | None:
    """`module:Class` of the first base of a class, where that is one of this package."""
    base = node.bases[0].id if node.bases and isinstance(node.bases[0], ast.Name) else None
    if any(isinstance(n, ast.ClassDef) and n.name == base for n in tree.body):
        return f"{module}:{base}"
    return _imported(tree, base) if base else None


def _imported(tree: ast.Module, name: str) -> str | None:
    """`module:name` of what is imported under a name from this package."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("segweave."):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return f"{statement.module}:{alias.name}"
    return None


def check(values: Mapping[str, Any], options: Mapping[str, tuple[Any, Any]], where: str) -> dict[str, Any]:
    """Validates one section of a config against its options; keys that were not written stay absent.

    Args:
        where: the section's dotted name, such as "tasks.semantic", for messages.

    Raises:
        ConfigError: unknown key (with the nearest name), missing key, or a value of the wrong type.
    """
    for key in values:
        if key == "_target_":
            raise ConfigError(f"{where}._target_: refused; segweave builds only the classes in its own tables")
        if key not in options:
            raise ConfigError(f"{where}.{key}: unknown key; did you mean {nearest(str(key), options)}?")
    try:
        model = _model(tuple(options), tuple(repr(o) for o in options.values()), options)(**values)
    except ValidationError as error:
        raise ConfigError(_first_problem(error, options, where)) from None
    return {key: getattr(model, key) for key in values}


_models: dict[tuple[tuple[str, ...], tuple[str, ...]], type[BaseModel]] = {}


def _model(names: tuple[str, ...], shapes: tuple[str, ...], options: Mapping[str, tuple[Any, Any]]) -> type[BaseModel]:
    if (names, shapes) not in _models:
        fields: dict[str, Any] = dict(options)
        config = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), arbitrary_types_allowed=True)
        _models[names, shapes] = create_model("Section", __config__=config, **fields)
    return _models[names, shapes]


def _first_problem(error: ValidationError, options: Mapping[str, tuple[Any, Any]], where: str) -> str:
    problem = error.errors(include_url=False)[0]
    option = str(problem["loc"][0])
    if problem["type"] == "missing":
        return f"{where}.{option}: missing; expected {describe(options[option][0])}"
    keys = [str(part) for part in problem["loc"][1:] if isinstance(part, int)]
    place = ".".join([where, option, *keys])
    return f"{place}: found {problem['input']!r}; expected {describe(options[option][0])}"


def describe(annotation: Any) -> str:
    """A type in a user's words: `one of 'fp32', 'bf16'`, `a whole number`, `a list of numbers`."""
    plain = {
        Any: "anything",
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    if annotation in plain:
        return plain[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(repr(choice) for choice in arguments)
    if origin in (list, tuple, Sequence) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        inner = describe(arguments[0]) if arguments else "values"
        return f"a list of {inner.removeprefix('a ').replace('number', 'numbers')}"
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return f"a mapping of names to {describe(arguments[1])}" if len(arguments) > 1 else "a mapping"
    if arguments:
        return " or ".join(describe(argument) for argument in arguments)
    return str(annotation)
