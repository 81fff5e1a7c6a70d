"""A training run as plain values, with names that would break a page that does not escape them."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from segweave.report.gallery import GROUPS, Example, Gallery, Picture, Said, Shown
from segweave.report.history import read_history
from segweave.report.train_page import TaskResult, TrainingRun

NASTY = "<script>alert(1)</script> \"quoted\" & 'söme' 街道"


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """The picture that compresses least."""
    drawn = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.uint8)


def lines(tasks: list[str], steps: int = 40, every: int = 10) -> list[dict[str, Any]]:
    """A log; the losses fall as 1 / step, cosines alternate, and every tenth step is followed by a validation."""
    found = []
    for step in range(steps):
        line: dict[str, Any] = {"step": step, "epoch": step // every, "seconds": 0.5, "images": 4}
        for place, task in enumerate(tasks):
            value = (place + 1) / (step + 1)
            line |= {f"loss/{task}": value, f"loss/{task}/first": value / 4, f"loss/{task}/second": 3 * value / 4}
            line[f"weight/{task}"] = 1.0 + place * step / steps
        for pair in combinations(tasks, 2):
            line |= {f"cosine/{'|'.join(pair)}": 0.3 - 0.8 * (step % 2), f"overlap/{'|'.join(pair)}": 1.0}
        line |= {"space": "features"} if len(tasks) > 1 else {}
        line |= {"regularizer/shared/weight_decay": 1e-5 * (1 + step), "total": 1.0 / (step + 1)}
        line |= {"lr": 1e-3 * (1 - step / steps), "grad_norm": 2.0}
        found.append(line)
        if (step + 1) % every == 0:
            values = {f"{task}/score": step / steps for task in tasks} | {f"{task}/wrong": 0.0 for task in tasks}
            found.append({"step": step, "epoch": step // every, "split": "val", **values})
    return found


def cost(tasks: list[str]) -> dict[str, Any]:
    row = {"parameters": 1_234_567, "macs": 9_876_543_210, "milliseconds": 12.3, "peak_megabytes": 45.6}
    parts = [{"part": part, **row} for part in ("encoder", "decoder", *(f"head {task}" for task in tasks))]
    apart = {key: value * len(tasks) for key, value in row.items()}
    separate = dict.fromkeys(tasks, row)
    place = {"size": [48, 80], "device": "a processor", "threads": 1}
    return {**place, "parts": parts, "shared": row, "separate": separate, "separate_sum": apart}


def sample_run(tasks: int = 2, classes: int = 3, size: tuple[int, int] = (48, 80), examples: int = 3) -> TrainingRun:
    """Tasks with classes and pictures, and one that answers in words; the last example has no labels."""
    names = [f"task {number}" for number in range(tasks)]
    labels = [f"class {number}" for number in range(classes - 1)] + [NASTY]
    counts = [[(row * 7 + column * 3) % 11 for column in range(classes + 1)] for row in range(classes)]
    values = {
        "score": 0.7312,
        "wrong": 0.0,
        "per_class": {label: {"iou": 0.25, "auroc": None, "pixels": 1234567} for label in labels[1:]},
        "absent_classes": labels[:1],
        "confusion": counts,
    }
    better = {"score": True, "wrong": False}
    results = [TaskResult(name, "kind", "score", "m", better, values, labels, 7) for name in names]
    results.append(TaskResult("words", "kind", "score", "", better, {"score": math.nan, "wrong": math.nan}, (), 0))
    picture = noise(*size)
    layer = Picture(picture, [(NASTY, (255, 0, 0))], (0.5, 8.0, "m"), [(0, 0, 0), (255, 255, 255)])
    shown = []
    for number in range(3 * examples):
        known = number < 3 * examples - 1
        pictures = [Shown(name, layer, layer if known else None, layer if known else None) for name in names]
        said = [Said("words", NASTY, "truth", "wrong") if known else Said("words", NASTY)]
        group = list(GROUPS)[number // examples]
        shown.append(Example(f"{NASTY} {number}", group, picture, [("task 0", "score", 0.5, "")], pictures, said))
    return TrainingRun(
        name=f"run {NASTY}",
        lead="A network.",
        tasks=results,
        history=read_history(lines(names)),
        validation_images=8,
        gallery=Gallery(shown, "Ranked.", [f"{NASTY}: cannot be read"]),
        cost=cost(names),
        cost_missing="",
        command=f"segweave train '{NASTY}'",
        facts={"seed": "0", "path": NASTY},
        config=f"tasks: {NASTY}\n",
        notes=["Resumed."],
    )
