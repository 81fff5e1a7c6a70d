"""The reference of every section of a config, made from the constructors and their docstrings.

    python docs/config_reference.py

writes docs/reference/config.md. A key's type and default come from the signature, its meaning from the `Args:` of the
docstring; tests/test_docs.py fails where a key has none, or where a table of names is left out of `CATALOGUES`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docstrings import cell, definition, documented

from segweave.balancing import METHODS
from segweave.catalogue import Catalogue, describe, lineage, signature_options
from segweave.data import DERIVATIONS, FORMATS, SAMPLINGS
from segweave.decoders import DECODERS
from segweave.interactions import INTERACTIONS
from segweave.losses import LOSSES
from segweave.regularizers import REGULARIZERS
from segweave.tasks import TASKS

PAGE = Path(__file__).parent / "reference" / "config.md"
CATALOGUES = (FORMATS, SAMPLINGS, DERIVATIONS, TASKS, LOSSES, REGULARIZERS, DECODERS, INTERACTIONS, METHODS)
TASK = "segweave.tasks.task:Task"


@dataclass(frozen=True)
class Option:
    """One key of a section; `meaning` is empty where the docstring says nothing of it."""

    name: str
    kind: str
    default: str
    meaning: str


def options(target: str, *bases: str, without: frozenset[str] = frozenset()) -> list[Option]:
    """The keys that "module:Class" or "module:function" takes, its own before those of its bases."""
    found: dict[str, Option] = {}
    for place in (target, *bases):
        meanings: dict[str, str] = {}
        for ancestor in reversed(lineage(place)):
            meanings |= documented(definition(ancestor)).entries.get("Args", {})
        for name, (annotation, default) in signature_options(place)[0].items():
            if name not in found and name not in without:
                shown = "required" if default is ... else f"`{_yaml(default)}`"
                found[name] = Option(name, describe(annotation), shown, meanings.get(name, ""))
    return list(found.values())


def entry_options(catalogue: Catalogue, name: str) -> list[Option]:
    """The keys of one name of a table, those of its base too where it takes them."""
    target = f"{catalogue.package}.{name}:{catalogue[name]}"
    open_ended = signature_options(target)[1]
    base = catalogue._base if open_ended else None
    own = options(target, *([base] if base else []))
    assert [option.name for option in own if option.name not in catalogue.options(name)] == [], name
    return own


def _yaml(value: Any) -> str:
    """A default as a user would write it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def table(rows: list[Option]) -> Iterator[str]:
    if not rows:
        yield "No options.\n"
        return
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for row in rows:
        kind = re.sub(r"'([^']*)'", r"`\1`", row.kind)
        yield f"| `{row.name}` | {cell(kind)} | {cell(row.default)} | {cell(row.meaning)} |"
    yield ""


def _prose(target: str) -> str:
    return documented(definition(target)).text


def _constant(target: str, name: str) -> tuple[str, ...]:
    """A class attribute that is a tuple of names, such as the `losses` of a task kind; empty where there is none."""
    for statement in definition(target).body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if any(ast.unparse(target) == name for target in targets):
            return tuple(ast.literal_eval(statement.value))
    return ()


def _losses_of(kind: str) -> tuple[str, ...]:
    return _constant(f"{TASKS.package}.{kind}:{TASKS[kind]}", "losses")


def _entries(catalogue: Catalogue, key: str, hidden: frozenset[str] = frozenset()) -> Iterator[str]:
    for name in catalogue:
        target = f"{catalogue.package}.{name}:{catalogue[name]}"
        yield f"### `{key}{name}`\n"
        yield _prose(target) + "\n"
        if catalogue is TASKS:
            names = ", ".join(f"[`{loss}`](#loss-{loss})" for loss in _losses_of(name))
            yield f"Losses: {names} ([which to choose](../losses.md)).\n"
        if catalogue is REGULARIZERS:
            fits = _constant(target, "fits") or _constant("segweave.regularizers.regularizer:Regularizer", "fits")
            yield f"Fits {', '.join(f'`{owner}`' for owner in fits)}.\n"
        yield from table([option for option in entry_options(catalogue, name) if option.name not in hidden])


def _loss_entries() -> Iterator[str]:
    for name in LOSSES:
        kinds = [kind for kind in TASKS if name in _losses_of(kind)]
        yield f"### `{name}` {{ #loss-{name} }}\n"
        yield f"For {', '.join(f'`{kind}`' for kind in kinds)}.\n" if kinds else ""
        yield _prose(f"{LOSSES.package}.{name}:{LOSSES[name]}") + "\n"
        yield from table(entry_options(LOSSES, name))


_INTRODUCTION = """\
# Config reference

Made from the constructors of the installed version. A config has the sections `data`, `tasks`, `model`, `balancing`
and `train`; only `data` and `tasks` must be there. An unknown key, a value of the wrong type or an unknown name stops
with exit code 2 before anything is loaded, and names the nearest one that exists. `section.key=value` after a config on
the command line overrides one key. `${NAME}` and `${NAME:-default}` in a value are taken from the environment. Relative
paths are looked for beside the config first, then in the working directory.
"""
_SETS = """\
### `sets`

Several data sets at once, by name: `data: {sets: {town: {format: folder, ...}, room: {...}}}`. Each has a `format`, its
options, and `maps`: by layer, the class (its number, its name, or `ignore`) of every id in its masks; or `read`: by
layer, options of its task that hold for this set alone, `units_per_metre` of depth, `ignore`, `threshold` and `colours`
of semantic, `threshold` and `ignore` of edges, `axes` of normals. The other keys of `data` are those of all sets.
`data: [{format: folder, ...}, ...]` is the short form, in which a set is called by its `name`, or by that of its
folder. An image's id begins with its set's name: `town/0001`.
"""
_CACHE = """\
### `cache`

`data.cache: decoded` or `{name: decoded, option: value}` keeps every image and its labels as training has decoded
them, in files that are mapped into memory: a random crop then reads the part that it shows. It serves training and its
validation, changes no result, and may be switched on or off between a run and its `--resume`.
"""
_SAMPLING = """\
### `sampling`

Which images make each step of an epoch: `data.sampling: NAME` or `{name: NAME, option: value}`, `proportional` by
default. A step is one of the optimizer, with batch_size x accumulate images.
"""
_TASKS = """\
## tasks

A mapping of names of your choice to tasks: `tasks: {ground: {kind: semantic, classes: 4}}`. Each has a `kind`, the
options of every task, and those of its kind.

### Options of every task
"""
_DERIVATIONS = """\
## Derivations

`tasks.<name>.derive: NAME`, or `{NAME: {option: value}}`, makes the task's labels of those of `source`: a task of the
config, or a layer that no task reads, which holds a number per object where its name ends in `instances`. It sees the
labels of an image as they are in the files, before any augmentation. `presence` is an option of kind `classification`.
"""
_LOSSES = """\
## Losses

Named in `tasks.<name>.loss`: a name, a list of names, `{name: weight}`, or `{name: {weight: 1.0, option: value}}`.
`weight` is every loss's own factor, 1 by default.
"""
_REGULARIZERS = """\
## Regularisers

Named with their beta in `tasks.<name>.regularizers` or `model.regularizers`. Each says whom it fits: a task whose
prediction is a `map` or `scores`, any other task (`none`), or the `shared` part.
"""
_DECODERS = """\
## Decoders

`model.decoder: NAME`, or `model.decoder: {name: NAME, shared: true, option: value}`. `shared: false` gives each task a
decoder of its own; `tasks.<name>.decoder` gives one to that task.
"""
_BALANCING = """\
## balancing

`method` is one of the names below, `equal` by default; the other keys are that method's.
"""


_FRACTION = (
    "share of the training images that are used, or by task, of the labels of that task; drawn by `train.seed`, "
    "smaller ones out of larger ones."
)


def page() -> str:
    """The whole page as Markdown."""
    common = options(TASK)
    kinds = Option("kind", f"one of {', '.join(f'`{kind}`' for kind in TASKS)}", "required", "what it predicts.")
    size = "height and width at which the network sees an image; `null` keeps each image's own."
    normalise = (
        "whether `model.mean` and `model.std` are computed over the training images, or over at most so many of them; "
        "`null` does so where `bands` is set or images are floats."
    )
    data = [
        Option("format", f"one of {', '.join(f'`{name}`' for name in FORMATS)}", "required", "one of those below."),
        Option("size", "a list of whole numbers or null", "`null`", size),
        Option("augment", "a mapping", "see below", "random changes to training images."),
        Option("sampling", "text or a mapping", "`proportional`", "which images make each step."),
        Option("sets", "a mapping", "none", "several data sets in place of one `format`; or `data` is a list of them."),
        Option("cache", "`decoded` or a mapping", "none", "whether decoded images and labels are kept on the disk."),
        Option("fraction", "a number, or a mapping to numbers", "none", _FRACTION),
        Option("normalise", "true, false, a whole number or null", "`null`", normalise),
    ]
    lines = [
        _INTRODUCTION,
        "## data\n",
        *table(data),
        *_entries(FORMATS, "format: "),
        "### `augment`\n",
        _prose("segweave.data.augment:Augment") + "\n",
        *table(options("segweave.data.augment:Augment")),
        "### `augment.rare`\n",
        _prose("segweave.data.rare_crops:RareCrops") + "\n",
        *table(options("segweave.data.rare_crops:RareCrops")),
        _CACHE,
        *table(options("segweave.data.cache:Cached")),
        _SETS,
        _SAMPLING,
        *_entries(SAMPLINGS, "sampling: "),
        _TASKS,
        *table([kinds, *common]),
        *_entries(TASKS, "kind: ", frozenset(option.name for option in common)),
        _DERIVATIONS,
        *_entries(DERIVATIONS, "derive: "),
        _LOSSES,
        *_loss_entries(),
        _REGULARIZERS,
        *_entries(REGULARIZERS, ""),
        "## model\n",
        *table(options("segweave.model:create_model")),
        _DECODERS,
        *_entries(DECODERS, ""),
        "## Interactions\n",
        "`model.interaction: NAME`.\n",
        *_entries(INTERACTIONS, ""),
        _BALANCING,
        *_entries(METHODS, "method: "),
        "## train\n",
        *table(options("segweave.plan:Plan")),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
