"""A config that trains in a second, and readers of what it leaves."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from segweave.config import Config, from_values
from segweave.schema import check_config

TINY: dict[str, Any] = {
    "data": {"format": "synthetic", "size": [48, 80], "count": 12},
    "tasks": {
        "semantic": {"kind": "semantic", "loss": {"cross_entropy": 1, "iou": 1}},
        "depth": {"kind": "depth", "regularizers": {"weight_decay": 1e-4}},
        "scene": {"kind": "classification"},
    },
    "model": {
        "backbone": "test_resnet",
        "decoder": {"name": "fpn", "width": 16},
        "regularizers": {"feature_norm": 1e-4},
    },
    "train": {"steps": 4, "batch_size": 4, "workers": 0, "lr": 1e-3, "report": False},
}


def values(**sections: dict[str, Any]) -> dict[str, Any]:
    """TINY with some keys of its sections replaced; of the three limits of training only the given one stays."""
    changed = copy.deepcopy(TINY)
    for name, options in sections.items():
        section = changed.setdefault(name, {})
        if name == "train" and {"epochs", "minutes"} & options.keys():
            section.pop("steps", None)
        section.update(options)
    return changed


def tiny(**sections: dict[str, Any]) -> Config:
    return check_config(from_values(values(**sections)))


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def steps(folder: Path) -> list[dict[str, Any]]:
    """Its lines that tell of a step, without what it took, which may differ between two runs of the same numbers."""
    machine = ("seconds", "waited", "peak_megabytes")
    return [{k: v for k, v in line.items() if k not in machine} for line in lines(folder) if "seconds" in line]
