"""The fenced blocks of a page of documentation, and how each is run.

A page is run from top to bottom in one empty folder; `Page.run` says what happens to a block of each language:

- `python` is executed, with the names of the page's earlier blocks.
- `yaml` whose first line is `# NAME.yaml` is written to that file; any other one is a fragment, laid over the page's
  last file (or over a small config) section by section, task by task. Either way its classes are built, and the
  first image of a folder of data is read with all its labels. Data of a published layout are made first where they are
  missing.
- `sh` runs line by line: `segweave ...` in this process with `SMALL` laid under the line's own overrides; `ls`, `cat`,
  `head` and `mkdir` in a shell; `make`, `pip` and `python FILE` must name a target, extras and a file that exist. A
  line that ends in `# exit N` must exit so; every other one with 0.
- `text` after `sh` is its output: a line that starts with `error:` must be what the last command said.
- `json` must parse.
"""

from __future__ import annotations

import copy
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from segweave import balancing, cli, config
from segweave.config import Config
from segweave.schema import check_config

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "data"
LANGUAGES = ("python", "yaml", "sh", "text", "json")
GENERATED = "docs/reference/"
BASE = """
data: {format: synthetic, size: [48, 64], count: 8}
tasks: {semantic: {kind: semantic}, depth: {kind: depth}, scene: {kind: classification}}
"""
SMALL = {
    "model.backbone": "test_resnet",
    "model.backbone_options": "{}",
    "model.pretrained": "false",
    "data.size": "[48, 64]",
    "data.count": "8",
    "train.epochs": "1",
    "train.batch_size": "4",
    "train.workers": "0",
    "train.report": "false",
}
"""What a training run of the documentation is cut down to; a command's own overrides follow, with 2 epochs at most."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def pages() -> list[str]:
    """Every Markdown file of the project that a person wrote, relative to its root."""
    found = [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]]
    return sorted(page for page in found if not page.startswith(GENERATED))


def blocks(page: str) -> list[Block]:
    """The fenced blocks, in order. Fails where a fence is not closed."""
    found, start, opened, indent, language = [], 0, "", "", ""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not opened and (fence := re.match(r"( *)(`{3,}|~{3,}) *(.*)$", line)):
            indent, opened, language, start = fence[1], fence[2], fence[3], number
        elif opened and line.strip() == opened:
            text = "\n".join(inner.removeprefix(indent) for inner in lines[start : number - 1])
            found.append(Block(language, text + "\n", start))
            opened = ""
    assert not opened, f"{page}, line {start}: the block is not closed"
    return found


class Page:
    """One page while it is run, in the working directory."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.name = name
        self.patch, self.capsys = monkeypatch, capsys
        self.names: dict[str, Any] = {}
        self.base: dict[str, Any] = config.parse(BASE)
        self.said = ""

    def run(self, block: Block) -> None:
        where = f"{self.name}, line {block.line}"
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, str(ROOT / self.name), "exec"), self.names)
        elif block.language == "yaml":
            self._yaml(block.text, where)
        elif block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    self._command(line, where)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "text":
            for line in block.text.splitlines():
                assert not line.startswith("error:") or _words(line) in _words(self.said), f"{where}: {self.said}"
        else:
            raise AssertionError(f"{where}: {block.language!r} is none of {', '.join(LANGUAGES)}")

    def _yaml(self, text: str, where: str) -> None:
        values = config.parse(text, where)
        if file := re.match(r"# ([\w.-]+\.yaml)\b", text):
            Path(file[1]).write_text(text, encoding="utf-8")
            self.base = values
        else:
            values = overlaid(self.base, values)
        self._place(values.get("data", {}))
        build(check_config(config.from_values(copy.deepcopy(values), source=where)))

    def _place(self, data: dict[str, Any]) -> None:
        """Makes data in a published layout where a block says that they lie, as the test of the format does."""
        name, root = data.get("format"), Path(data.get("root", "."))
        if name not in ("folder", "synthetic") and not root.exists() and (TESTS / f"test_{name}.py").is_file():
            self.patch.syspath_prepend(TESTS)
            importlib.import_module(f"test_{name}").made(root)

    def _command(self, line: str, where: str) -> None:
        command, _, comment = line.partition(" #")
        wanted = int(match[1]) if (match := re.search(r"exit (\d+)", comment)) else 0
        words = shlex.split(command)
        if words[0] == "segweave":
            self.capsys.readouterr()
            found = self._segweave(words[1:])
            output = self.capsys.readouterr()
            self.said = output.err + output.out
            assert found == wanted, f"{where}: {line}: exit {found}\n{self.said}"
        elif words[0] in ("ls", "cat", "head", "mkdir"):
            subprocess.run(command, shell=True, check=True, capture_output=True)
        elif words[0] == "make":
            for target in words[1:]:
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), where
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), f"{where}: {words[1]}"
        elif words[:2] == ["pip", "install"] or words[:3] == ["uv", "pip", "install"]:
            _installable(words[-1], where)
        else:
            raise AssertionError(f"{where}: this test does not know how to run {words[0]!r}")

    def _segweave(self, arguments: list[str]) -> int:
        if arguments[0] in ("train", "compare", "tune", "advise"):
            given = {word.partition("=")[0] for word in arguments}
            path = next(Path(word) for word in arguments[1:] if word.endswith(".yaml"))
            at = arguments.index(str(path)) + 1
            own = [re.sub(r"^(train\.epochs)=\d+$", r"\1=2", word) for word in arguments[at:]]
            arguments = [*arguments[:at], *small(path, given), *own]
            measured = ["--seeds", "1", "--resamples", "5"]
            few = {"compare": measured, "advise": [*measured, "--steps", "4", "--no-pairs"], "tune": ["--trials", "2"]}
            arguments += few.get(arguments[0], [])
            if arguments[0] == "tune":
                # after a second of training a headline may be 0, to which no gain is relative
                self.patch.setattr("segweave.tune.delta_m", lambda *_: 0.0)
        self.patch.setattr(sys, "argv", ["segweave", *arguments])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0


def small(path: Path, given: set[str] = frozenset()) -> list[str]:  # pyright: ignore[reportArgumentType]
    """The overrides that make a run of this config a matter of a second, but for the keys that are given."""
    synthetic = path.is_file() and config.load(path).data.get("format") == "synthetic"
    limits = {"train.steps", "train.epochs", "train.minutes"}
    left_out = (limits if limits & given else set()) | (set() if synthetic else {"data.count"})
    return [f"{key}={value}" for key, value in SMALL.items() if key not in left_out]


def overlaid(base: dict[str, Any], fragment: dict[str, Any]) -> dict[str, Any]:
    """A fragment over a config: more tasks, keys of a section, or another choice; data and tasks together are new."""
    whole = copy.deepcopy(base)
    if {"data", "tasks"} <= fragment.keys():
        whole["tasks"] = {}
    for section, values in fragment.items():
        if section == "data" and "format" in values:
            whole["data"] = values
        elif section == "balancing" and "method" in values:
            whole["balancing"] = values
        else:
            whole[section] = {**(whole.get(section) or {}), **values}
    return whole


def build(checked: Config) -> None:
    """Builds what a config names, with a small encoder in place of a documented one, which timm must know."""
    import timm

    import segweave as sw
    from segweave.optimizers import parameter_groups
    from segweave.plan import Plan

    made = sw.build.build_tasks(checked)
    model = dict(checked.model)
    name = str(model.pop("backbone", "resnet50"))
    assert timm.is_model(name.split(".")[0]), f"timm has no {name}"
    model |= {"pretrained": False, "backbone_options": None}
    network = sw.create_model(made, backbone=name if name.startswith("test_") else "test_resnet", **model)
    options = {key: value for key, value in checked.balancing.items() if key != "method"}
    balancing.METHODS.load(checked.balancing["method"])([task.name for task in made], **options)
    plan = Plan(**checked.train)
    parameter_groups(network, None, plan.lr, plan.weight_decay, plan.backbone_lr_scale, plan.freeze)
    if checked.data.get("format") != "synthetic":
        dataset = sw.build.build_dataset(checked, "train", made)
        assert dataset[0].image.ndim == 3
        assert [task.name for task in made if dataset.labelled(task.name) == 0] == []


def _words(text: str) -> str:
    return " ".join(text.split())


def _installable(requirement: str, where: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, _, extras = requirement.strip("'\"").partition("[")
    assert name in (project["name"], "."), f"{where}: {requirement}"
    for extra in filter(None, extras.rstrip("]").split(",")):
        assert extra in project.get("optional-dependencies", {}), f"{where}: no extra {extra}"
