"""Whether `segweave advise` tells which tasks belong together, where that is known.

    python benchmarks/grouping.py                 # two hours on 2 cores

On streets through a soiled lens, tasks of the street and tasks of the dirt are two families by construction: in how
many seeds, each with streets and a network of its own, is that the best way to divide the tasks among two networks? On
NYUv2, the gains of six pairs of tasks were measured by `data_efficiency.py`, whose `comparison.json` is read: does the
order of the pairs by each measure agree?

It writes the tables to `--out`.
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

import numpy as np
from scipy import stats

from segweave.groupings import GroupCost, groupings

HERE = Path(__file__).parent
STREETS, PHOTOS = HERE / "soiled_streets.yaml", HERE / "sharing_nyuv2.yaml"
FAMILIES = [["semantic", "layout"], ["soiling", "dirty", "thickness"]]


def advised(config: Path, folder: Path, redraw: bool, *options: str) -> dict[str, Any]:
    """What `segweave advise` found, after training what is not trained yet, unless it is to be drawn anew alone."""
    command = [sys.executable, "-m", "segweave", "advise", str(config), *options, "--out", str(folder)]
    if not redraw:
        subprocess.run(command, check=True)
    return json.loads((folder / "advice.json").read_text(encoding="utf-8"))


def means(measure: Mapping[str, Any]) -> np.ndarray:
    """Its matrix; nan where nothing is known."""
    return np.array([[np.nan if one["mean"] is None else one["mean"] for one in row] for row in measure["values"]])


def divided(found: Mapping[str, Any], measure: Mapping[str, Any]) -> list[list[str]]:
    """The best two networks by one measure."""
    names = [task["name"] for task in found["tasks"]]
    together = next(one for one in found["proposals"] if len(one["groups"]) == 1)
    cost = GroupCost(together["cost"], [task["cost"] for task in found["tasks"]])
    best = groupings(means(measure), cost, [1.0] * len(names), {"networks": 2}).found
    two = next(one for one in best if len(one.groups) == 2)
    return [[names[task] for task in group] for group in two.groups]


def streets(arguments: argparse.Namespace) -> list[str]:
    families = " and ".join(", ".join(family) for family in FAMILIES)
    lines = ["", "## Two families of tasks by construction", ""]
    lines += [
        f"Tasks of the street and of the dirt on the lens: {families}. At most two networks, one seed, no pairs; in"
    ]
    lines[-1] += " each column other streets, other dirt and another start. Found the families?"
    for steps in arguments.street_steps:
        rows: dict[str, list[str]] = {}
        facts: list[str] = []
        for seed in range(arguments.seeds):
            chance = [f"train.seed={seed}", f"data.seed={seed}"]
            options = ["--seeds", "1", "--steps", str(steps), "--no-pairs", "--max-networks", "2"]
            folder = arguments.runs / f"streets-{steps}-{seed}"
            found = advised(STREETS, folder, arguments.redraw, *chance, *options)
            same = [sorted(map(sorted, groups)) for groups in (found["proposals"][0]["groups"], FAMILIES)]
            rows.setdefault("the proposal, by lookahead", []).append("yes" if same[0] == same[1] else "no")
            for measure in found["measures"][1:]:
                right = sorted(map(sorted, divided(found, measure))) == same[1]
                rows.setdefault(f"two networks by {measure['key']}", []).append("yes" if right else "no")
            facts = made(found)
        head = [f"{steps} steps", *(f"seed {seed}" for seed in range(arguments.seeds)), "in all"]
        body = [[name, *row, f"**{row.count('yes')} of {len(row)}**"] for name, row in rows.items()]
        lines += [*table(head, body), *facts]
    return lines


def photos(arguments: argparse.Namespace) -> list[str]:
    comparison = json.loads(arguments.comparison.read_text(encoding="utf-8"))
    options = ["--seeds", str(arguments.photo_seeds), "--steps", str(arguments.photo_steps)]
    found = advised(PHOTOS, arguments.runs / "nyuv2", arguments.redraw, *options)
    names = [task["name"] for task in found["tasks"]]
    heads = {task["name"]: task["headline"] for task in comparison["tasks"]}
    gains = np.full((len(names), len(names)), np.nan)
    for variant in comparison["variants"]:
        if len(variant["tasks"]) == 2:
            a, b = variant["tasks"]
            for task, other in ((a, b), (b, a)):
                place = names.index(task), names.index(other)
                gains[place] = variant["gains"][task][heads[task]]["mean"]
    pairs = list(combinations(range(len(names)), 2))
    truth = [np.mean([gains[i, j], gains[j, i]]) for i, j in pairs]
    shown = {one["key"]: means(one) for one in found["measures"]}
    by_pair = {key: [np.mean([m[i, j], m[j, i]]) for i, j in pairs] for key, m in shown.items()}
    lines = ["", "## Gains of pairs on NYUv2", ""]
    lines += [f"Advice from {arguments.photo_steps} steps and {arguments.photo_seeds} seeds; gains of the headlines by"]
    lines[-1] += (
        f" `segweave compare` in {comparison['variants'][0]['steps']} steps and {len(comparison['seeds'])} seeds"
    )
    lines[-1] += ", mean of both tasks of a pair, in per cent."
    head = ["pair", "measured gain", *by_pair]
    body = [
        [f"{names[i]}, {names[j]}", f"{truth[place]:+.1f}", *(f"{by_pair[key][place]:.3g}" for key in by_pair)]
        for place, (i, j) in enumerate(pairs)
    ]
    lines += table(head, body)
    agreed = []
    for key, values in by_pair.items():
        rho, tau = stats.spearmanr(values, truth), stats.kendalltau(values, truth)
        agreed.append([key, f"{rho.statistic:+.2f} (p {rho.pvalue:.2g})", f"{tau.statistic:+.2f} (p {tau.pvalue:.2g})"])
    lines += [
        "",
        "Agreement of the orders of the six pairs, with the chance of as much by luck:",
    ]
    return [*lines, *table(["measure", "Spearman's rho", "Kendall's tau"], agreed), *made(found), *made(comparison)]


def made(found: Mapping[str, Any]) -> list[str]:
    known = found["facts"]
    names = ("device", "started", "python", "torch", "torchvision", "timm", "git revision")
    return ["", f"{found['name']}: {', '.join(f'{name} {known[name]}' for name in names)}."]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["streets", "nyuv2"], default=["streets", "nyuv2"])
    parser.add_argument("--seeds", type=int, default=10, help="of the streets")
    parser.add_argument("--street-steps", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--photo-seeds", type=int, default=2)
    parser.add_argument("--photo-steps", type=int, default=60)
    parser.add_argument("--redraw", action="store_true", help="tables of the advice that is there already")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "grouping")
    default = HERE.parent / "runs" / "data_efficiency" / "nyuv2" / "comparison.json"
    parser.add_argument("--comparison", type=Path, default=default)
    parser.add_argument("--out", type=Path, default=HERE / "grouping.md")
    arguments = parser.parse_args()
    words = shlex.join(["python", "benchmarks/grouping.py", *sys.argv[1:]])
    lines = ["# Which tasks belong together, told beforehand", "", f"Made by `{words}` on {date.today()}."]
    for name in arguments.only:
        lines += {"streets": streets, "nyuv2": photos}[name](arguments)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
