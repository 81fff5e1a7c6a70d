"""What short runs tell of how related tasks are, as the measures that advice rests on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float64

from segweave.comparison import Trained, gains, network
from segweave.data.loader import Effective
from segweave.estimates import SEPARATE, SHARED, Estimate, estimate
from segweave.model import MultiTaskModel
from segweave.relatedness import cka, probe, representation
from segweave.report.advised import Measure
from segweave.report.history import Point
from segweave.tasks.task import Task

_PROBED = "relatedness.jsonl"
_NONE = Estimate(math.nan, math.nan, math.nan, (), math.nan)


class Probing:
    """Compares the tasks before every so many steps of a run, and keeps what it finds beside the log.

    Args:
        every: steps from one time to the next; the first is not before step 0, when heads of random weights send
            gradients that mean nothing.
        run: its folder.
        seed: of the run.
    """

    def __init__(self, every: int, run: Path, seed: int) -> None:
        self.every, self.file, self.seed = every, run / _PROBED, seed

    def __call__(
        self, step: int, model: MultiTaskModel, optimizer: torch.optim.Optimizer, batch: Callable[[], Effective]
    ) -> None:
        if step == 0 or step % self.every:
            return
        found = probe(model, batch(), optimizer, self.seed)
        line = {"step": step, "tasks": list(found.tasks)}
        for key, values in (("cosine", found.cosines), ("lookahead", found.lookahead)):
            line[key] = [[value if math.isfinite(value) else None for value in row] for row in values.tolist()]
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def pair(a: str, b: str) -> str:
    """The name of the network for two tasks."""
    return f"{a} with {b}"


def transfer(tasks: Mapping[str, Task], trained: Mapping[str, Trained], images: int) -> Measure:
    """What a second task in the network brought each task's headline, from the networks of pairs and single tasks.

    Args:
        trained: by name; the shared network is that of the pair where there are two tasks.
        images: that were measured.
    """
    names = list(tasks)
    values = [[_NONE] * len(names) for _ in names]
    for i, j in combinations(range(len(names)), 2):
        both = trained.get(pair(names[i], names[j]), trained[SHARED])
        changes = gains(both.values, trained[SEPARATE].values, tasks)
        for task, other in ((i, j), (j, i)):
            headline = tasks[names[task]].metric().headline
            values[task][other] = estimate(changes[names[task]][headline], images)
    return Measure(
        key="transfer",
        title="Transfer gain",
        unit="%",
        meaning=(
            "What the column's task, in one network with the row's, brought the row's headline over a network of its "
            "own, in short runs (Standley et al. 2020)."
        ),
        values=values,
        symmetric=False,
    )


def probed(tasks: Sequence[str], runs: Sequence[Path]) -> list[Measure]:
    """Lookahead and cosines of gradients in the runs of the network of all tasks, one per seed."""
    lines = [_lines(run) for run in runs]
    lookahead = Measure(
        key="lookahead",
        title="Lookahead",
        unit="%",
        meaning=(
            "By how many per cent of its value the row's loss falls on the batch after a step of the shared parameters "
            "for the column's loss alone, mean over the training (Fifty et al. 2021, with the optimizer's step "
            "lengths)."
        ),
        values=_means(tasks, lines, "lookahead"),
        symmetric=False,
        curves=_curves(tasks, lines, "lookahead", symmetric=False),
    )
    cosine = Measure(
        key="cosine",
        title="Cosine of gradients",
        unit="",
        meaning=(
            "Between the gradients of two losses at the shared parameters, mean over the training: 1 where they ask "
            "for the same change, below 0 where they conflict."
        ),
        values=_means(tasks, lines, "cosine"),
        symmetric=True,
        curves=_curves(tasks, lines, "cosine", symmetric=True),
    )
    return [lookahead, cosine]


_Line = tuple[int, Mapping[str, Mapping[tuple[str, str], float]]]
"""A step, and by measure what was found between two tasks."""


def _lines(run: Path) -> list[_Line]:
    """Of a run that was stopped and went on, the last word on each step."""
    found = {}
    file = run / _PROBED
    for text in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        line = json.loads(text)
        table = {
            key: {
                (a, b): value
                for a, row in zip(line["tasks"], line[key], strict=True)
                for b, value in zip(line["tasks"], row, strict=True)
                if value is not None
            }
            for key in ("cosine", "lookahead")
        }
        found[line["step"]] = table
    return sorted(found.items())


def _means(tasks: Sequence[str], runs: Sequence[Sequence[_Line]], key: str) -> list[list[Estimate]]:
    def mean(a: str, b: str) -> Estimate:
        each = [[table[key][a, b] for _, table in lines if (a, b) in table[key]] for lines in runs]
        values = np.array([[fmean(found) if found else math.nan] for found in each])
        return estimate(values, 0)

    return [[_NONE if a == b and key == "cosine" else mean(a, b) for b in tasks] for a in tasks]


def _curves(
    tasks: Sequence[str], runs: Sequence[Sequence[_Line]], key: str, symmetric: bool
) -> dict[str, list[list[Point]]]:
    found = {}
    for i, a in enumerate(tasks):
        for j, b in enumerate(tasks):
            if j > i if symmetric else j != i:
                found[f"{a}|{b}"] = [
                    [(step, table[key][a, b]) for step, table in lines if (a, b) in table[key]] for lines in runs
                ]
    return found


def representations(
    tasks: Sequence[str], separate: Trained, inputs: Sequence[torch.Tensor], split: str, device: torch.device
) -> Measure:
    """How alike the encoders of the single networks see the same images.

    Args:
        separate: the networks of single tasks, in the order of `tasks`.
        inputs: batches of images.
        split: that they are of, which decides which weights are looked into.
        device: where the networks run.
    """
    found = np.full((len(separate.runs[0]), len(tasks), len(tasks)), math.nan)
    for seed in range(len(found)):
        seen = [representation(network(runs[seed], split).to(device), inputs) for runs in separate.runs]
        for i, j in combinations(range(len(tasks)), 2):
            alike = fmean(cka(x, y) for x, y in zip(seen[i], seen[j], strict=True))
            found[seed, i, j] = found[seed, j, i] = alike
    return Measure(
        key="cka",
        title="Representations (CKA)",
        unit="",
        meaning=(
            "Linear centred kernel alignment of the encoders of two networks for one task each, trained from the same "
            "start, mean over the encoder's levels (Kornblith et al. 2019): 1 where they see images alike, 0 where "
            "they have nothing in common."
        ),
        values=[
            [_NONE if i == j else estimate(found[:, i, j, None], 0) for j in range(len(tasks))]
            for i in range(len(tasks))
        ],
        symmetric=True,
    )


def matrix(measure: Measure) -> Float64[np.ndarray, "tasks tasks"]:
    """The means of a measure."""
    return np.array([[one.mean for one in row] for row in measure.values], dtype=np.float64)
