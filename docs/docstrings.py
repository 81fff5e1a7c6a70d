"""Definitions and their docstrings, read from the source text: a page of reference is made without importing torch."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes):$")
_ENTRY = re.compile(r"^    ([\w*]+(?:, [\w*]+)*): (.*)$")

Definition = ast.ClassDef | ast.FunctionDef


@dataclass
class Docstring:
    """A docstring in parts: the text before the first section as Markdown, and what the sections say.

    `entries` holds descriptions by section and name; `a, b: text` describes both. `texts` holds sections as they stand.
    """

    text: str
    entries: dict[str, dict[str, str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return self.text.split("\n\n")[0]


def parse(docstring: str) -> Docstring:
    """A Google-style docstring. Raises ValueError at a line of `Args` or `Attributes` that describes nothing."""
    lines = inspect.cleandoc(docstring).splitlines()
    starts = [i for i, line in enumerate(lines) if _SECTION.match(line)]
    parsed = Docstring("\n".join(lines[: starts[0] if starts else None]).strip())
    for start, end in zip(starts, [*starts, len(lines)][1:], strict=True):
        name, body = lines[start][:-1], lines[start + 1 : end]
        parsed.texts[name] = inspect.cleandoc("\n" + "\n".join(body)).strip()
        if name in ("Args", "Attributes", "Raises"):
            parsed.entries[name] = dict(_entries(body, name))
    return parsed


def _entries(body: list[str], section: str) -> Iterator[tuple[str, str]]:
    names: list[str] = []
    words: list[str] = []
    for line in [*body, "    : end"]:
        match = _ENTRY.match(line)
        if match or line == "    : end":
            for name in names:
                yield name.lstrip("*"), " ".join(words)
            names, words = (match[1].split(", "), [match[2]]) if match else ([], [])
        elif line.startswith("        "):
            words.append(line.strip())
        elif line.strip() and section != "Raises":
            raise ValueError(f"{section}: {line.strip()!r} is neither `name: text` nor the rest of an entry")


@cache
def module_tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no module {module}")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def definition(target: str) -> Definition:
    """The class or function "module:Name". Raises ValueError where there is none."""
    module, _, name = target.partition(":")
    for node in module_tree(module).body:
        if isinstance(node, Definition) and node.name == name:
            return node
    raise ValueError(f"{module} defines no {name}")


def documented(node: Definition) -> Docstring:
    """The docstring of a definition, in parts; empty where it has none."""
    return parse(ast.get_docstring(node) or "")


def constructor(node: Definition) -> ast.FunctionDef | None:
    """What is called: the function itself, or the `__init__` of a class."""
    if isinstance(node, ast.FunctionDef):
        return node
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def cell(text: str) -> str:
    """Text for one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
