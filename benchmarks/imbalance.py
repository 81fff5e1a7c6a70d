"""What class weights, rare-class crops and repeated images do to the rare classes of CamVid, paired by seed.

    python benchmarks/imbalance.py                                    # the committed table
    python benchmarks/imbalance.py --arms balanced,rare_crops --seeds 5 --runs runs/more --out more.md
    python benchmarks/imbalance.py train.steps=600 --runs runs/longer --out longer.md    # section.key=value, for all

The weights and the images are those of `examples/camvid.yaml`, with the semantic task alone, a narrow decoder and crops
of half the height and width: a run takes two minutes on one core. Within a seed all arms start from the same weights.
What is measured is the network after the LAST step, on the validation images, at the labels' own size: nothing is
chosen on them. Rare classes are those with less than 2 % of the labelled training pixels, fixed before any training. A
finished run is kept in the folder of `--runs` and not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from methods import interval, made_by, processor, table, verdict
from segweave import build, read_config
from segweave.config import Config
from segweave.tasks.class_weights import occurrence

EXAMPLE = Path(__file__).parents[1] / "examples" / "camvid.yaml"
SHARE = 0.02
COMMON = (
    "data.augment.crop=[90, 120]",
    "model.decoder={name: fpn, width: 32}",
    "train.steps=250",
    "train.report=false",
    "train.workers=0",
    "train.validate_every=1000000",
)
BASELINE = "nothing"
ARMS: Mapping[str, tuple[str, ...]] = {
    BASELINE: (),
    "balanced": ("tasks.semantic.class_weights=balanced",),
    "inverse_root": ("tasks.semantic.class_weights={name: inverse, power: 0.5}",),
    "median_frequency": ("tasks.semantic.class_weights=median_frequency",),
    "effective_number": ("tasks.semantic.class_weights=effective_number",),
    "rare_crops": ("data.augment.rare={task: semantic, chance: 0.5, classes: RARE}",),
    "repeat_factor": ("data.sampling={name: repeat_factor, task: semantic, threshold: 1.0}",),
}
"""The changes of each arm; RARE stands for the names of the rare classes. `inverse` has the ratios of `balanced`."""


def semantic_alone(changes: Sequence[str]) -> Config:
    config = read_config(EXAMPLE, [*COMMON, *changes])
    return Config(**{**config.sections(), "tasks": {"semantic": config.tasks["semantic"]}}, source=config.source)


def rare_classes(config: Config) -> dict[str, float]:
    """Share of the labelled training pixels by class, of those below `SHARE`."""
    (task,) = build.build_tasks(config)
    dataset = build.build_dataset(config, "train", [task])
    labels = (label for index in range(len(dataset)) if (label := dataset.annotation(index, task.name)) is not None)
    pixels = occurrence(map(task.encode, labels), len(task.locates)).places
    shares = dict(zip(task.locates, (pixels / pixels.sum()).tolist(), strict=True))
    return {name: share for name, share in shares.items() if 0 < share < SHARE}


def measure(config: Config, name: str, rare: Sequence[str]) -> dict[str, float]:
    """One run from its first to its last step: mIoU, the mean IoU of the rare classes, pixel accuracy, IoU by class."""
    with tempfile.TemporaryDirectory() as folder:
        _, results = build.train(config, name, folder, device="cpu", quiet=True)
    found = results["semantic"]
    classes = {key: float(row["iou"]) for key, row in found["per_class"].items()}
    figures = {"mIoU": float(found["miou"]), "rare mIoU": statistics.mean(classes[key] for key in rare)}
    return figures | {"pixel accuracy": float(found["pixel_accuracy"])} | {key: classes[key] for key in rare}


def run_all(
    arms: Sequence[str], seeds: Sequence[int], changes: Sequence[str], folder: Path, rare: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Every arm with every seed, read from the folder where it is there already.

    Raises:
        SystemExit: the folder holds a run by other settings or other code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for arm in arms:
            own = [change.replace("RARE", f"[{', '.join(rare)}]") for change in ARMS[arm]]
            config = semantic_alone([*changes, *own, f"train.seed={seed}"])
            settings = json.loads(json.dumps({"config": config.sections(), "code": made_by()}))
            file = folder / f"{arm}-{seed}.json"
            if not file.is_file():
                started = time.perf_counter()
                figures = measure(config, f"{arm}-{seed}", rare)
                place = {"date": date.today().isoformat(), "machine": f"{processor()}, {os.cpu_count()} cores"}
                file.write_text(json.dumps({"figures": figures, **place, "settings": settings}, indent=1))
                shown = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
                print(f"seed {seed}, {arm}: {shown} ({time.perf_counter() - started:.0f} s)", flush=True)
            run = json.loads(file.read_text(encoding="utf-8"))
            if run["settings"] != settings:
                raise SystemExit(f"{file}: made with other settings or code; choose another --runs")
            found.setdefault(arm, []).append(run)
    return found


def with_interval(values: Sequence[float], sign: str = "") -> str:
    mean, half = interval(values)
    return f"{100 * mean:{sign}.2f} ± {100 * half:.2f}"


def page(found: Mapping[str, Sequence[Mapping[str, Any]]], rare: Mapping[str, float], command: str) -> str:
    """The Markdown of all runs, as `run_all` returns them."""
    latest = max((run for runs in found.values() for run in runs), key=lambda run: run["date"])
    config, code = latest["settings"]["config"], latest["settings"]["code"]
    keys = list(found[BASELINE][0]["figures"])
    columns = {arm: {key: [run["figures"][key] for run in runs] for key in keys} for arm, runs in found.items()}
    means = [[f"`{arm}`", *(with_interval(values[key]) for key in keys)] for arm, values in columns.items()]
    differences, told = [], []
    for arm, values in columns.items():
        if arm == BASELINE:
            continue
        apart = {key: [a - b for a, b in zip(values[key], columns[BASELINE][key], strict=True)] for key in keys}
        words = {key: verdict(apart[key], higher=True) for key in keys}
        differences.append([f"`{arm}`", *(f"{words[key]} ({with_interval(apart[key], '+')})" for key in keys)])
        told.append(f"- `{arm}`: mIoU {words['mIoU']}, mean IoU of the rare classes {words['rare mIoU']}.")
    seeds, plan = len(found[BASELINE]), config["train"]
    count = len(differences) * len(keys)
    shares = ", ".join(f"{name} {100 * share:.2f} %" for name, share in rare.items())
    height, width = config["data"]["size"]
    crop = "x".join(map(str, config["data"]["augment"]["crop"]))
    settings = [f"- `{arm}`: {', '.join(f'`{change}`' for change in ARMS[arm]) or 'the baseline'}" for arm in found]
    lines = [
        "# Rare classes on CamVid",
        f"`{command}`",
        f"{latest['date']}; {latest['machine']}; {', '.join(f'{name} {number}' for name, number in code.items())}.",
        f"{seeds} seeds of {plan['steps']} steps at batch {plan['batch_size']}, images of {height}x{width} in crops of "
        f"{crop}, {config['model']['backbone']}. The network after the last step is measured on the validation images; "
        f"nothing was chosen on them. Rare are the classes with under {100 * SHARE:.0f} % of the labelled training "
        f"pixels: {shares}. Figures are in per cent, means with the half-width of their 95 % interval over seeds "
        "(Student's t).",
        "\n".join([*settings, "", f"RARE is [{', '.join(rare)}]."]),
        "## What it shows",
        "\n".join(told),
        f"Of {count} differences chance alone would put about {0.05 * count:.1f} outside their interval. A difference "
        "that was not seen may still exist: the budget is small.",
        "## IoU",
        table(["arm", *(f"{key} ↑" for key in keys)], means),
        f"## Differences to `{BASELINE}`",
        "Paired by seed, without a correction for their number.",
        table([f"minus `{BASELINE}`", *keys], differences),
    ]
    return "\n\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default=",".join(ARMS), help=f"names with commas; `{BASELINE}` is always among them")
    parser.add_argument("--seeds", type=int, default=5, help="how many, at least 2")
    parser.add_argument("--runs", type=Path, default=Path("runs/imbalance"), help="folder of finished runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("changes", nargs="*", help="section.key=value, for all")
    arguments = parser.parse_args()
    arms = list(dict.fromkeys([BASELINE, *arguments.arms.split(",")]))
    if unknown := [arm for arm in arms if arm not in ARMS]:
        parser.error(f"--arms: found {', '.join(unknown)}; expected some of {', '.join(ARMS)}")
    if arguments.seeds < 2:
        parser.error(f"--seeds: found {arguments.seeds}; expected at least 2, or there is no interval")
    rare = rare_classes(semantic_alone(arguments.changes))
    print(f"rare: {', '.join(f'{name} {100 * share:.2f} %' for name, share in rare.items())}", flush=True)
    found = run_all(arms, range(arguments.seeds), arguments.changes, arguments.runs, list(rare))
    text = page(found, rare, shlex.join(["python", "benchmarks/imbalance.py", *sys.argv[1:]]))
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
