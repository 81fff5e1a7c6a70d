"""The reference of the Python API, made from signatures and docstrings.

    python docs/python_reference.py

writes docs/reference/python.md. tests/test_docs.py fails where one of `PARTS` does not exist or says nothing, or where
a public name of the package is in none of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docstrings import Definition, Docstring, cell, constructor, definition, documented

PAGE = Path(__file__).parent / "reference" / "python.md"

PARTS: dict[str, tuple[str, ...]] = {
    "Networks": (
        "segweave.model:create_model",
        "segweave.model:MultiTaskModel",
        "segweave.backbones.custom:CustomBackbone",
    ),
    "Training": (
        "segweave.train:fit",
        "segweave.train:Step",
        "segweave.data.loader:Loader",
        "segweave.data.augment:Augment",
        "segweave.data.mixture:Mixture",
        "segweave.data.mixture:Part",
    ),
    "Evaluation and prediction": (
        "segweave.evaluate:evaluate",
        "segweave.data.loader:evaluation_batches",
        "segweave.data.augment:Resize",
        "segweave.predict:predict",
        "segweave.predict:predict_run",
        "segweave.predict:Predicted",
    ),
    "What the command line calls": (
        "segweave.schema:read_config",
        "segweave.config:Config",
        "segweave.build:train",
        "segweave.build:load_run",
        "segweave.build:report_run",
        "segweave.build:evaluate_run",
        "segweave.build:score_predictions",
        "segweave.check:check",
        "segweave.check:Checked",
        "segweave.data.convert:convert",
        "segweave.data.convert:Converted",
        "segweave.data.splitting:split",
        "segweave.data.splitting:Split",
        "segweave.cost:cost_table",
        "segweave.sources:build_tasks",
        "segweave.sources:build_dataset",
    ),
    "Base classes": (
        "segweave.tasks.task:Task",
        "segweave.data.dataset:Dataset",
        "segweave.data.derived.derivation:Derivation",
        "segweave.data.sampling.sampling:Sampling",
        "segweave.losses.loss:Loss",
        "segweave.metrics.metric:Metric",
        "segweave.regularizers.regularizer:Regularizer",
        "segweave.decoders.decoder:Decoder",
        "segweave.interactions.interaction:Interaction",
        "segweave.backbones.backbone:Backbone",
        "segweave.balancing.method:Balancer",
        "segweave.balancing.method:LossBalancer",
        "segweave.balancing.method:Comparing",
        "segweave.balancing.balancer:GramianBalancer",
        "segweave.balancing.balancer:JacobianBalancer",
        "segweave.balancing.balancer:RowBalancer",
    ),
    "Types": (
        "segweave.batch:Sample",
        "segweave.batch:Labelled",
        "segweave.batch:Batch",
        "segweave.batch:Terms",
        "segweave.data.derived.derivation:Source",
        "segweave.balancing.objective:Objective",
        "segweave.balancing.objective:Balance",
        "segweave.interactions.interaction:Features",
    ),
    "Errors": (
        "segweave.errors:SegweaveError",
        "segweave.errors:ConfigError",
        "segweave.errors:DataError",
        "segweave.errors:CheckpointError",
    ),
}


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """The public methods of a class that say something."""
    functions = (n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))
    return [n for n in functions if ast.get_docstring(n)]


def signature(node: Definition, name: str) -> str:
    """How it is called, without `self`; one parameter a line where it is long."""
    function = constructor(node)
    if function is None:
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)] if _is_dataclass(node) else []
        return _wrapped(name, [ast.unparse(n) for n in fields], "")
    arguments = function.args
    decorators = {ast.unparse(d) for d in function.decorator_list}
    if "property" in decorators:
        return f"{name}: {ast.unparse(function.returns) if function.returns else 'Any'}"
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = list(zip(positional, defaults, strict=True))
    if pairs and pairs[0][0].arg in ("self", "cls"):
        pairs = pairs[1:]
    parts = [_parameter(argument, default) for argument, default in pairs]
    if arguments.vararg:
        parts.append(f"*{_parameter(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [_parameter(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        parts.append(f"**{_parameter(arguments.kwarg, None)}")
    returns = "" if isinstance(node, ast.ClassDef) or function.returns is None else ast.unparse(function.returns)
    return _wrapped(name, parts, returns)


def _is_dataclass(node: Definition) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    value = "" if default is None else f" = {ast.unparse(default)}" if kind else f"={ast.unparse(default)}"
    return f"{argument.arg}{kind}{value}"


def _wrapped(name: str, parts: list[str], returns: str) -> str:
    arrow = f" -> {returns}" if returns else ""
    parts = [part if '"' in part else part.replace("'", '"') for part in parts]
    short = f"{name}({', '.join(parts)}){arrow}"
    if len(short) <= 88 or not parts:
        return short
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){arrow}"])


def _described(docstring: Docstring) -> Iterator[str]:
    yield docstring.text + "\n"
    for section, noun in (("Args", "parameter"), ("Attributes", "attribute"), ("Raises", "raises")):
        if entries := docstring.entries.get(section):
            yield f"| {noun} | |"
            yield "|---|---|"
            for text in dict.fromkeys(entries.values()):
                names = ", ".join(f"`{name}`" for name in entries if entries[name] == text)
                yield f"| {names} | {cell(text)} |"
            yield ""
    for section in ("Returns", "Yields"):
        if section in docstring.texts:
            yield f"**{section}** {' '.join(docstring.texts[section].split())}\n"


def _entry(target: str) -> Iterator[str]:
    module, _, name = target.partition(":")
    node = definition(target)
    yield f"### `{name}` {{ #{name} }}\n"
    noun = "class " if isinstance(node, ast.ClassDef) else ""
    yield f"`{module}`\n"
    yield f"```text\n{noun}{signature(node, name)}\n```\n"
    yield from _described(documented(node))
    for method in methods(node) if isinstance(node, ast.ClassDef) else []:
        yield f"#### `{name}.{method.name}`\n"
        yield f"```text\n{signature(method, method.name)}\n```\n"
        yield from _described(documented(method))


_INTRODUCTION = """\
# Python reference

Made from the signatures and docstrings of the installed version; [Python API](../python_api.md) shows how they go
together. `Float[Tensor, "B C H W"]` is a tensor with its axes by name, as jaxtyping writes it. The classes behind the
names in a config, such as `segweave.losses.SoftIoU`, are in the [config reference](config.md).
"""


def page() -> str:
    """The whole page as Markdown."""
    lines = [_INTRODUCTION]
    for title, targets in PARTS.items():
        lines.append(f"## {title}\n")
        for target in targets:
            lines += _entry(target)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
