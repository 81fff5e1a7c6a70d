"""Whether sharing pays where labels are few: accuracy against the number of labels on real photos.

    python benchmarks/data_efficiency.py            # hours on 2 cores, ten minutes on a GPU with 16 cores and --jobs 14

Every network is trained for the same steps by `segweave compare`, which goes on where it was stopped. Compared are one
network for all tasks, one for each, and on NYUv2 one with few labels of the classes and all of depth. On NYUv2 all
pairs of tasks are trained, too: `grouping.py` asks whether their gains can be told beforehand.

It writes the tables to `--out` and the chart to `--chart`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
FRACTIONS = "0.1,0.25,0.5,1"
PAIRED = ("semantic", "depth", "normals", "edges")
STUDIES: dict[str, tuple[str, list[str]]] = {
    "NYUv2": (
        "sharing_nyuv2.yaml",
        [
            *("--scarce", "semantic"),
            *(word for a, b in combinations(PAIRED, 2) for word in ("--variant", f"{a}-{b} tasks={a},{b}")),
        ],
    ),
    "CamVid": ("sharing_camvid.yaml", []),
}
SEPARATE, SHARED = "separate", "multi-task"


def compared(study: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What `segweave compare` found, after training what is not trained yet."""
    config, options = STUDIES[study]
    folder = arguments.runs / study.lower()
    command = [sys.executable, "-m", "segweave", "compare", str(HERE / config), "--seeds", str(arguments.seeds)]
    command += [f"train.steps={arguments.steps}"] if arguments.steps else []
    command += ["--data-fractions", FRACTIONS, *options, "--out", str(folder)]
    command += ["--jobs", str(arguments.jobs)] if arguments.jobs else []
    if not arguments.redraw:
        subprocess.run(command, check=True)
    return json.loads((folder / "comparison.json").read_text(encoding="utf-8"))


def told(estimate: Mapping[str, Any], form: str = "{:.3f}") -> str:
    if estimate["low"] is None:
        return form.format(estimate["mean"])
    return " ".join(
        [form.format(estimate["mean"]), f"({form.format(estimate['low'])} to {form.format(estimate['high'])})"]
    )


def verdict(gain: Mapping[str, Any] | None) -> str:
    if gain is None or gain["low"] is None:
        return "–"
    seen = "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "no difference seen"
    return f"{told(gain, '{:+.1f}')} %: {seen}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))]


def by_labels(found: Mapping[str, Any], task: Mapping[str, Any]) -> list[list[str]]:
    """A row per share of the labels and network: labels, the headline, and the gain over the task's own network."""
    rows = []
    for share in found["shares"]:
        for variant in share["variants"]:
            if task["name"] not in variant["values"] or share["scarce"] not in ("", task["name"]):
                continue
            gain = variant["gains"].get(task["name"], {}).get(task["headline"])
            labels = share["labels"][variant["name"]][task["name"]]
            value = told(variant["values"][task["name"]][task["headline"]])
            gained = "" if variant["name"] == SEPARATE else verdict(gain)
            rows.append([f"{100 * share['fraction']:g} %", str(labels), variant["name"], value, gained])
    return rows


def pairs(found: Mapping[str, Any]) -> list[list[str]]:
    """For every task by itself, what each partner brought it."""
    heads = {task["name"]: task["headline"] for task in found["tasks"]}
    rows = []
    for task, headline in heads.items():
        row = [f"{task} {headline}"]
        for partner in heads:
            variant = next(
                (v for v in found["variants"] if set(v["tasks"]) == {task, partner} and task != partner), None
            )
            row.append(verdict(variant["gains"][task][headline]) if variant else "")
        everything = next(v for v in found["variants"] if v["name"] == SHARED)
        rows.append([*row, verdict(everything["gains"][task][headline])])
    return rows


def section(study: str, found: Mapping[str, Any]) -> list[str]:
    seeds = ", ".join(map(str, found["seeds"]))
    lines = ["", f"## {study}", "", f"{found['budget']} Seeds {seeds}; {found['images']} images of {found['split']}. "]
    lines[-1] += f"{found['checkpoint']} {found['facts']['device']}, Python {found['facts']['python']}, "
    lines[-1] += ", ".join(f"{name} {found['facts'][name]}" for name in ("torch", "torchvision", "timm"))
    lines[-1] += f", git revision {found['facts']['git revision']}, {found['facts']['started']}."
    lines += [line for note in found["notes"] for line in ("", note)]
    for task in found["tasks"]:
        arrow = "higher" if task["better"][task["headline"]] else "lower"
        origin = f"; {task['origin']}" if task["origin"] else ""
        lines += ["", f"**{task['name']}**, {task['headline']}, {arrow} is better{origin}:"]
        lines += table(["share", "labels", "network", task["headline"], "gain over separate"], by_labels(found, task))
    if any(len(variant["tasks"]) == 2 < len(found["tasks"]) for variant in found["variants"]):
        names = [task["name"] for task in found["tasks"]]
        lines += ["", "What a second task brought, and all others together, with all labels:"]
        lines += table(["", *(f"with {name}" for name in names), "with all"], pairs(found))
    shared, apart = (next(v for v in found["variants"] if v["name"] == name) for name in (SHARED, SEPARATE))
    if shared["cost"] and apart["cost"]:
        ratio = shared["cost"]["milliseconds"] / apart["cost"]["milliseconds"]
        lines += ["", f"One network takes {100 * ratio:.0f} % of the latency of separate ones. {found['cost_where']}"]
    return lines


def chart(studies: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Each task's headline by its number of labels."""
    count = max(len(found["tasks"]) for found in studies.values())
    figure, axes = plt.subplots(len(studies), count, figsize=(3.2 * count, 3.0 * len(studies)), squeeze=False)
    for row, (study, found) in zip(axes, studies.items(), strict=True):
        for place, axis in enumerate(row):
            if place >= len(found["tasks"]):
                axis.axis("off")
                continue
            task = found["tasks"][place]
            lines: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
            for share in found["shares"]:
                for variant in share["variants"]:
                    if task["name"] in variant["values"] and share["scarce"] in ("", task["name"]):
                        point = (share["labels"][variant["name"]][task["name"]], variant["values"][task["name"]])
                        lines.setdefault(variant["name"], []).append((point[0], point[1][task["headline"]]))
            for number, (name, points) in enumerate(sorted(lines.items(), key=lambda item: item[0] != SEPARATE)):
                points = sorted(points, key=lambda point: point[0])
                labels, values = [p[0] for p in points], [p[1] for p in points]
                shade = axis.plot(labels, [v["mean"] for v in values], "o-", color=f"C{number}", label=name, ms=3)
                low, high = ([v[end] for v in values] for end in ("low", "high"))
                if None not in (*low, *high):
                    axis.fill_between(labels, low, high, color=shade[0].get_color(), alpha=0.15, lw=0)
            labels = sorted({label for points in lines.values() for label, _ in points})
            axis.set_xscale("log")
            axis.set_xticks(labels, [str(label) for label in labels])
            axis.minorticks_off()
            arrow = "↑" if task["better"][task["headline"]] else "↓"
            axis.set_title(f"{study}: {task['name']}, {task['headline']} {arrow}", fontsize=9)
            axis.set_xlabel("training labels", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=3, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of every training; by default those of the configs")
    parser.add_argument("--jobs", type=int, help="runs at once; by default one per GPU")
    parser.add_argument("--redraw", action="store_true", help="tables and chart of comparisons that are there already")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "data_efficiency")
    parser.add_argument("--out", type=Path, default=HERE / "data_efficiency.md")
    parser.add_argument("--chart", type=Path, default=HERE.parent / "docs" / "pictures" / "data_efficiency.png")
    arguments = parser.parse_args()
    studies = {study: compared(study, arguments) for study in arguments.only}
    words = shlex.join(["python", "benchmarks/data_efficiency.py", *sys.argv[1:]])
    lines = ["# Sharing where labels are few", "", f"Made by `{words}` on {date.today()}."]
    lines += [
        "",
        "Means over the seeds with 95 % intervals over seeds and images, gains in per cent of the separate network's",
        "value, positive for better. The budget is small: longer training may turn a result round.",
    ]
    for study, found in studies.items():
        lines += section(study, found)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    chart(studies, arguments.chart)


if __name__ == "__main__":
    main()
