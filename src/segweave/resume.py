"""What may change when a run goes on, and what it must stay.

How far a run goes and how it is run may change, and the two settings that an error about a loss tells to change (`lr`,
`clip`). What is learnt, from which data and by what method may not: the run would be none that a config describes.
Changes are written into the run's `config.yaml`, and into `run.json` with the step from which they hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segweave.balancing import METHODS
from segweave.catalogue import signature_options
from segweave.config import Config, load
from segweave.data import FORMATS, SAMPLINGS
from segweave.errors import CheckpointError
from segweave.tasks import TASKS

if TYPE_CHECKING:
    from segweave.tasks.task import Task

FREE = ("steps", "epochs", "minutes", "patience", "validate_every", "workers", "compile", "report", "track")
FREE += ("lr", "clip")
_CHOICES = {"data": "format", "tasks": "kind", "balancing": "method"}

Changes = dict[str, tuple[Any, Any]]
"""By dotted key: what the run had, and what it has from now on."""


def config_changes(folder: Path, config: Config) -> Changes:
    """What a config changes about a run that is to go on with it, before any of its data is looked at.

    Raises:
        CheckpointError: there is no run, or something changed that must not; with the run's values and the new ones.
    """
    source = folder / "config.yaml"
    if not source.is_file():
        raise CheckpointError(f"{folder}: nothing to resume; expected {source} and {folder / 'weights'}")
    before = load(source)
    if before.tasks.keys() == config.tasks.keys() and list(before.tasks) != list(config.tasks):
        raise CheckpointError(
            f"{folder}: was trained with its tasks in the order {', '.join(before.tasks)}; keep that order"
        )
    changes: Changes = {}
    old, new = all_options(before), all_options(config)
    for where in dict.fromkeys([*old, *new]):
        if where not in old or where not in new:
            changes[where] = ("it" if where in old else None, "it" if where in new else None)
            continue
        choice = _CHOICES.get(where.partition(".")[0])
        keys = {**old[where], **new[where]}
        if choice in keys and old[where].get(choice) != new[where].get(choice):
            keys = [choice]
        for key in keys:
            one, two = old[where].get(key), new[where].get(key)
            if one != two:
                changes[f"{where}.{key}"] = (one, two)
    _refuse(folder, _fixed(changes, new["train"], old["train"]))
    return changes


def all_options(config: Config) -> dict[str, dict[str, Any]]:
    """All options with the defaults of those that were not written, by section."""

    def filled(options: Mapping[str, tuple[Any, Any]], values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: default for key, (_, default) in options.items() if default is not ...} | dict(values)

    augment = signature_options("segweave.data.augment:Augment")[0]
    data = dict(config.data)
    sets = {f"data.sets.{name}": options for name, options in data.pop("sets", {}).items()}
    if not sets:
        data = filled(FORMATS.options(data["format"]), data)
    data["augment"] = filled(augment, config.data.get("augment") or {})
    data["augment.device"] = data["augment"].pop("device")
    sampling = {"name": "proportional", **(config.data.get("sampling") or {})}
    data["sampling"] = filled(SAMPLINGS.options(sampling["name"]), sampling)
    sections = {"data": data}
    sections |= {where: filled(FORMATS.options(options["format"]), options) for where, options in sets.items()}
    for name, options in config.tasks.items():
        sections[f"tasks.{name}"] = filled(TASKS.options(options["kind"]), options)
    sections["model"] = filled(signature_options("segweave.model:create_model")[0], config.model)
    method = {"method": "equal", **config.balancing}
    sections["balancing"] = filled(METHODS.options(method["method"]), method)
    sections["train"] = filled(signature_options("segweave.plan:Plan")[0], config.train)
    return sections


def _fixed(changes: Changes, new: Mapping[str, Any], old: Mapping[str, Any]) -> Changes:
    """Those that are not allowed. A `root` may move: the data's fingerprint says whether it is the same."""
    free = {key for key in changes if key.startswith("data.") and key.endswith(".root")}
    free |= {"data.cache", "data.augment.device"}
    free |= {f"train.{key}" for key in FREE}
    if new["batch_size"] * new["accumulate"] == old["batch_size"] * old["accumulate"]:
        free |= {"train.batch_size", "train.accumulate"}  # the same images per step, in pieces that fit the memory
    return {key: pair for key, pair in changes.items() if key not in free}


def _refuse(folder: Path, fixed: Changes) -> None:
    if not fixed:
        return
    parts = []
    for key, (one, two) in list(fixed.items())[:4]:
        if (one, two) in ((None, "it"), ("it", None)):
            parts.append(f"{key.replace('tasks.', 'task ', 1)} is {'gone' if two is None else 'new'}")
        else:
            parts.append(f"{key} was {_short(one)} and is {_short(two)}")
    more = f" and {len(fixed) - 4} more" if len(fixed) > 4 else ""
    raise CheckpointError(
        f"{folder}: was trained otherwise: {'; '.join(parts)}{more}. Undo that, or start a new run without --resume\n"
        f"(what may change: train.{', '.join(FREE)}, and batch_size with accumulate if their product stays)"
    )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 48 else f"{text[:45]}..."


def check_classes(folder: Path, tasks: Sequence[Task], specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares the classes with the run's: a config may show no more of them than the name of a file.

    Args:
        folder: of the run.
        tasks: as they are now.
        specs: of those of the run, by name; none where it came to no checkpoint.

    Raises:
        CheckpointError: a task has others, with how many, and the first that differs.
    """
    for task in tasks:
        now, before = getattr(task, "classes", []), specs.get(task.name, {}).get("classes", [])
        if task.name in specs and list(now) != before:
            place, (new, old) = next(
                (place, pair) for place, pair in enumerate(zip_longest(now, before)) if pair[0] != pair[1]
            )
            raise CheckpointError(
                f"{folder}: tasks.{task.name}.classes differ from the run's: found {len(now)}; expected {len(before)} "
                f"(class {place} is {_class(new)} and was {_class(old)}). Restore them, or start a new run without "
                f"--resume"
            )


def _class(name: str | None) -> str:
    return "none" if name is None else repr(name)


def data_changes(folder: Path, fingerprints: Mapping[str, str], accepted: bool) -> Changes:
    """Which splits are no longer those that the run was trained and validated on.

    Args:
        folder: of the run.
        fingerprints: by split, as the data are now.
        accepted: whether the user knows that files have changed, such as mended ones.

    Raises:
        CheckpointError: some have changed and that is not accepted, or the run does not say what it was trained on.
    """
    if not (folder / "run.json").is_file() and not (folder / "weights").exists():
        return {}  # killed before it began
    before = read_facts(folder)["data_fingerprint"]
    changes = {
        f"data_fingerprint.{split}": (before[split], now) for split, now in fingerprints.items() if before[split] != now
    }
    if changes and not accepted:
        splits = " and ".join(key.partition(".")[2] for key in changes)
        raise CheckpointError(
            f"{folder}: files of the data have changed since the run began (split {splits}): its numbers would be of "
            f"two data sets.\nRestore them, start a new run without --resume, or, as after mending damaged files, go "
            f"on with --resume --changed-data"
        )
    return changes


def read_facts(folder: Path) -> dict[str, Any]:
    """A run's `run.json`. Raises CheckpointError."""
    path = folder / "run.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not {"train", "val"} <= facts["data_fingerprint"].keys():
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(
            f"{path}: missing or damaged; expected the fingerprints of the data of both splits; start a new run"
        ) from None
    return facts
