"""Processes that train and are to be killed or interrupted, forked from a server that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from segweave import build, checkpoint, cli, experiment
from segweave.config import Config

# a fork of the test's own process could hang: its OpenMP threads are not forked with it
_CONTEXT = multiprocessing.get_context("forkserver")
# torch._dynamo: the first optimizer imports it
_CONTEXT.set_forkserver_preload(["segweave.build", "segweave.cli", "torch._dynamo", "timm"])


def start(action: Callable[..., object], *arguments: object) -> Any:
    process = _CONTEXT.Process(target=action, args=arguments)
    process.start()
    return process


def end_of(process: Any) -> int:
    """Its exit code, or minus the signal that killed it."""
    process.join(60)
    if process.is_alive():
        process.kill()
        raise AssertionError("still alive after a minute")
    return process.exitcode


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _at_optimizer_step(count: int) -> None:
    genuine, calls = torch.optim.AdamW.step, []

    def step(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        made = genuine(self, *arguments)
        return die() if len(calls) == count else made

    torch.optim.AdamW.step = step


def _with_half_a_state_written() -> None:
    genuine = checkpoint.save_file

    def save_file(tensors: Any, path: Path, *rest: Any) -> None:
        genuine(tensors, path, *rest)
        if ".state" in path.name:
            os.truncate(path, path.stat().st_size // 2)
            die()

    checkpoint.save_file = save_file


def _at_renaming(name: str, done: bool) -> None:
    """As a file gets its final name, just before or just after."""
    genuine = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == name and not done:
            die()
        genuine(self, target)
        return die() if target.name == name else target

    Path.replace = replace


MOMENTS: dict[str, Callable[[], None]] = {
    "before the first checkpoint": lambda: _at_optimizer_step(1),
    "in the second step": lambda: _at_optimizer_step(2),
    "with half a checkpoint written": _with_half_a_state_written,
    "between the two renamings of a save": lambda: _at_renaming("previous.safetensors", done=True),
    "as resuming writes the log anew": lambda: _at_renaming("metrics.jsonl", done=False),
    "with the best weights newer than the checkpoint": lambda: _at_renaming("best.safetensors", done=True),
    "as the checkpoint gets its name": lambda: _at_renaming("state.safetensors", done=False),
}


def train_until(moment: str, config: Config, out: Path) -> None:
    """Saves after every step and kills itself at a moment."""
    MOMENTS[moment]()
    experiment._SAVE_SECONDS = -1.0
    build.train(config, "part", out, resume=(out / "part").exists(), quiet=True)


def command(config: Path, mark: Path | None, stuck: str | None) -> None:
    """`segweave train` in a process group of its own, as a terminal or a scheduler starts it.

    Args:
        stuck: `evaluate` or `fit`, which makes the mark and never ends.
    """

    def endless(*_: object, **__: object) -> Any:
        assert mark is not None
        mark.touch()
        while True:
            time.sleep(0.02)

    os.setpgid(0, 0)
    if stuck == "evaluate":
        build.evaluate = endless
    if stuck == "fit":
        experiment.fit = lambda *_, **__: (endless() for _ in range(1))
    sys.argv = ["segweave", "train", str(config), "--out", str(config.parent), "--name", "run", "--device", "cpu"]
    cli.main()
