"""What balancing costs: a training step by each method, beside a plain sum of the losses, LibMTL and TorchJD.

    python benchmarks/balancing.py                    # about an hour and a half on 2 cores
    python benchmarks/balancing.py --rounds 3 --cells "3 ASPP heads" --arms segweave/equal bf16

The floor is the step that one writes by hand: forward, `sum(losses).backward()`, `optimizer.step()`. All others train
the same network on the same batch. In each round every one takes one step, in an order drawn anew, with a step of the
floor before and after it; a ratio is that to the mean of the two, since a shared machine drifts within seconds, and
what is shown is the median over the rounds. What took more than 2 floors in the first round steps in every third one
only. At the parameters ours and the peers' methods step one after the other, and are compared by their own times.

LibMTL is installed into an environment of its own under `--environments`, and left out with a message where that fails;
its ratios are to a floor in that environment. Peak memory is that of a process of its own for each. Ours is
`balancer.backward` in the hand-written loop: what balancing costs, without the log of `segweave.fit`.

On a GPU the steps are those of a larger network, since a small one waits for Python there; they are timed with its
events, and copies from the device are counted.
It writes the tables to `--out` and the chart to `--chart`.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import shlex
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from balancing_arms import Cell
from workers import Worker, working

HERE = Path(__file__).parent
ARMS = "balancing_arms.py"
CELLS = {
    "3 ASPP heads": Cell("resnet18", "aspp", 3, 4, 144, 192),
    **{f"{n} light heads": Cell("resnet18", "light", n, 4, 144, 192) for n in (16, 8, 4, 2)},
    "ResNet-50": Cell("resnet50", "aspp", 3, 8, 288, 384),
}
SHOWN = ("3 ASPP heads", "16 light heads", "ResNet-50")
BY_LOSS = ("equal", "fixed", "uncertainty", "uncertainty_softmax", "dwa", "random", "geometric_mean", "imtl_l", "stch")
BY_LOSS += ("go4align", "ldc_mtl", "famo", "famo (next-step loss)")
AT_FEATURES = ("gradnorm", "mgda", "pcgrad", "gradvac", "graddrop", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl")
AT_FEATURES += ("fairgrad", "upgrad", "dualproj", "config", "conicgrad", "imgrad")
AT_PARAMETERS = ("mgda", "pcgrad", "cagrad", "upgrad", "imtl_g", "moco", "modo", "sdmgrad", "db_mtl", "excess_mtl")
FEW = ("mgda", "pcgrad", "upgrad", "cagrad", "imtl_g")
PEERS = {"mgda": "MGDA", "pcgrad": "PCGrad", "cagrad": "CAGrad", "upgrad": "UPGrad", "imtl_g": "IMTLG"}
LIBMTLS = {method: f"libmtl/{'IMTL' if method == 'imtl_g' else PEERS[method]}" for method in FEW}
WEIGHED = ("segweave/equal/losses", "segweave/upgrad/features", "segweave/graddrop/features")
WEIGHED += ("segweave/upgrad/parameters", "torchjd/UPGrad", "libmtl/PCGrad")
TORCH = ("torch", "torchvision", "timm")
AGAIN = "floor/again"
"""The floor, timed as a method is: it differs from 1 by the noise alone."""

LIBMTL = ("EW", "UW", "DWA", "GLS", "RLW", "GradNorm", "MGDA", "PCGrad", "GradVac", "CAGrad", "IMTL")
LIBMTL += ("MGDA at the features", "IMTL at the features", "GradNorm at the features", "GradDrop at the features")

_DEAR = 2
"""Floors that a step of the first round may take to be repeated in every round."""

_SELDOM = 3
"""What is dearer steps in every such round."""


def arms_of(cell: str) -> list[str]:
    """The steps that are timed in a cell."""
    whole = cell in ("3 ASPP heads", "ResNet-50")
    losses, features = (BY_LOSS, AT_FEATURES) if whole or cell == "16 light heads" else (BY_LOSS[:3], FEW)
    parameters, peers = (AT_PARAMETERS, FEW) if whole else (FEW[:3], FEW[:3])
    libmtl = LIBMTL if whole else ("EW", "MGDA", "PCGrad", "MGDA at the features")
    return [
        AGAIN,
        *(f"segweave/{method}/losses" for method in losses),
        *(f"segweave/{method}/features" for method in features),
        *(f"segweave/{method}/parameters" for method in parameters),
        *(f"segweave/{method}/last" for method in (("upgrad", "moco") if whole else ())),
        *(f"torchjd/{PEERS[method]}" for method in peers),
        *(f"libmtl/{method}" for method in libmtl),
    ]


def libmtl(environments: Path) -> Path | None:
    """The interpreter of an environment with LibMTL from PyPI and the torch of this one; None where there is none."""
    folder = environments / "libmtl"
    python = folder / "bin" / "python"
    packages = ["LibMTL", "scipy", *(f"{name}=={version(name).split('+')[0]}" for name in TORCH)]
    uv = shutil.which("uv")
    make = [uv, "venv", "--quiet"] if uv else [sys.executable, "-m", "venv"]
    install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    try:
        if not python.exists():
            subprocess.run([*make, str(folder)], check=True)
        subprocess.run([*install, "--quiet", *packages], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"LibMTL is left out: {error}", flush=True)
        return None
    return python


def libmtl_version(python: Path | None) -> str:
    words = "from importlib.metadata import version; print(version('LibMTL'))"
    return subprocess.check_output([str(python), "-c", words], text=True).strip() if python else "left out"


class Timed(NamedTuple):
    """The steps of a cell.

    Args:
        seconds: by arm and round.
        ratios: the same, to the floor: to the mean of a step of it just before and one just after.
        failed: what an arm refused.
        floor: median seconds of the floor.
    """

    seconds: Mapping[str, Mapping[int, float]]
    ratios: Mapping[str, Sequence[float]]
    failed: Mapping[str, str]
    floor: float

    def between(self, ours: str, theirs: str) -> list[float]:
        """Times of one arm in those of another, by round; empty where one was not timed."""
        both = self.seconds.get(ours, {}).keys() & self.seconds.get(theirs, {}).keys()
        return [self.seconds[ours][number] / self.seconds[theirs][number] for number in sorted(both)]


def timed(own: Worker, other: Worker | None, arms: Sequence[str], rounds: int, bf16: Sequence[str]) -> Timed:
    seconds: dict[str, dict[int, float]] = defaultdict(dict)
    ratios: dict[str, list[float]] = defaultdict(list)
    failed: dict[str, str] = {}
    floors = []
    draw = random.Random(0)
    turns = [arm for arm in arms if other or not arm.startswith("libmtl")] + [f"{arm} bf16" for arm in bf16]
    # what is compared directly is timed in turn
    groups = [[f"segweave/{m}/parameters", f"torchjd/{PEERS[m]}", LIBMTLS[m]] for m in FEW]
    groups = [[arm for arm in group if arm in turns] for group in groups]
    grouped = {arm for group in groups for arm in group}
    groups += [[arm] for arm in turns if arm not in grouped]

    def step(arm: str) -> float | None:
        worker = other if arm.startswith("libmtl") else own
        assert worker
        answer = worker("step", arm=arm.removesuffix(" bf16"), bf16=arm.endswith(" bf16"))
        if "error" in answer:
            failed[arm] = answer["error"]
        return answer.get("seconds")

    def floor(arm: str) -> float:
        worker = other if arm.startswith("libmtl") else own
        assert worker
        floors.append(worker.must("step", arm="floor/", bf16=False)["seconds"])
        return floors[-1]

    for number in range(rounds):
        draw.shuffle(groups)
        just: tuple[bool, float] | None = None  # whose floor stepped last, and how long
        for group in groups:
            draw.shuffle(group)
            if number % _SELDOM and any(ratios[arm] and ratios[arm][0] > _DEAR for arm in group):
                continue
            for arm in group:
                if arm in failed:
                    continue
                side = arm.startswith("libmtl")
                before = just[1] if just and just[0] == side else floor(arm)
                took = step(arm)
                after = floor(arm)
                just = side, after
                if took is not None:
                    seconds[arm][number] = took
                    ratios[arm].append(2 * took / (before + after))
        print(f"  round {number + 1} of {rounds}: the floor takes {statistics.median(floors):.3f} s", flush=True)
    ordered = {arm: ratios[arm] for arm in turns if ratios[arm]}
    return Timed(seconds, ordered, failed, statistics.median(floors))


def memory(pythons: Mapping[str, Path | str], cell: Cell, arms: Sequence[str]) -> dict[str, dict[str, float]]:
    """Megabytes at the peak, of the process and above an empty one, each in a process of its own."""
    found = {}
    for arm in arms:
        with working(pythons[arm.split("/")[0]], ARMS) as worker:
            assert worker
            worker.must("build", cell=asdict(cell), bf16=[False])
            found[arm] = worker.must("memory", arm=arm, bf16=False)
    return found


class Check(NamedTuple):
    """What is required of a cell.

    Args:
        what: in words.
        found: ratios, one a round; or a single number.
        limit: from above, of their median.
    """

    what: str
    found: Sequence[float]
    limit: float

    def row(self, cell: str) -> list[str]:
        low, high = interval(self.found)
        met = "yes" if statistics.median(self.found) <= self.limit else "**no**" if low > self.limit else "open"
        span = f"{low:.3f} to {high:.3f}" if len(self.found) > 1 else ""
        return [cell, self.what, f"{statistics.median(self.found):.3f}", span, f"{self.limit:.3f}", met]


def interval(found: Sequence[float]) -> tuple[float, float]:
    """Of the median, at 95 % by the signs of the differences from it; of fewer than six numbers, their whole range."""
    ordered, n = sorted(found), len(found)
    cut = 0
    while cut + 1 < n / 2 and 2 * sum(math.comb(n, k) for k in range(cut + 1)) / 2**n <= 0.05:
        cut += 1
    place = max(cut - 1, 0)
    return ordered[place], ordered[n - 1 - place]


def checks(cell: str, steps: Timed, megabytes: Mapping[str, Mapping[str, float]], on_gpu: bool) -> list[Check]:
    """The dearest of a family is the largest of many medians, and so above the truth; the family's own is not."""
    ratios = steps.ratios

    def family(words: str, methods: Sequence[str], space: str, limit: float) -> list[Check]:
        there = {m: ratios[f"segweave/{m}/{space}"] for m in methods if f"segweave/{m}/{space}" in ratios}
        if not there:
            return []
        dearest = max(there, key=lambda method: statistics.median(there[method]))
        every = [ratio for found in there.values() for ratio in found]
        return [
            Check(f"{words} / floor, all {len(there)} together", every, limit),
            Check(f"{words} / floor, the dearest ({dearest})", there[dearest], limit),
        ]

    found = family("methods by loss", [name for name in BY_LOSS if name != "famo"], "losses", 1.03)
    if famo := ratios.get("segweave/famo/losses"):
        found.append(Check("FAMO / floor", famo, 1.35))
    if cell in SHOWN:
        found += family("gradient methods at the features", AT_FEATURES, "features", 1.1)
    least = 1.3 if cell == "3 ASPP heads" else 1.1
    for method in FEW:
        for whose, arm, limit in (
            ("TorchJD's", f"torchjd/{PEERS[method]}", 1.0),
            ("LibMTL's", LIBMTLS[method], 1 / least),
        ):
            if both := steps.between(f"segweave/{method}/parameters", arm):
                found.append(Check(f"{method} at the parameters / {whose}", both, limit))
    if not on_gpu and (precise := ratios.get("segweave/upgrad/features bf16")):
        found.append(Check("bf16 and channels last, at the features / floor in fp32", precise, 0.6))
    for arm, size in megabytes.items():
        if arm.endswith("/features"):
            ratio = size["megabytes"] / megabytes["floor/"]["megabytes"]
            found.append(Check(f"peak memory of {arm.split('/')[1]} at the features / floor", [ratio], 1.15))
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def spoken(arm: str) -> tuple[str, str]:
    """Whose, and what."""
    side, _, rest = arm.partition("/")
    method, _, where = rest.partition("/")
    where, precise = where.removesuffix(" bf16"), ", bf16 and channels last" if where.endswith(" bf16") else ""
    place = {"features": " at the features", "parameters": " at the parameters", "last": " at the last layer"}.get(
        where, ""
    )
    if arm == AGAIN:
        return "", "the floor again"
    return {"segweave": "segweave", "torchjd": "TorchJD", "libmtl": "LibMTL"}[side], method + place + precise


def chart(results: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Ratios to the floor in the cells of `SHOWN`, a dot for each method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cells = [cell for cell in SHOWN if cell in results]
    groups = {
        "segweave, losses": ("#0072b2", lambda a: a.startswith("segweave") and a.endswith("losses")),
        "segweave, features": ("#009e73", lambda a: a.startswith("segweave") and a.endswith("features")),
        "segweave, parameters": ("#56b4e9", lambda a: a.startswith("segweave") and a.endswith("parameters")),
        "TorchJD, parameters": ("#d55e00", lambda a: a.startswith("torchjd")),
        "LibMTL, losses": ("#cc79a7", lambda a: a in {f"libmtl/{m}" for m in ("EW", "UW", "DWA", "GLS", "RLW")}),
        "LibMTL, features": ("#cc79a7", lambda a: a.startswith("libmtl") and a.endswith("at the features")),
        "LibMTL, parameters": (
            "#cc79a7",
            lambda a: a in {f"libmtl/{m}" for m in ("GradNorm", "MGDA", "PCGrad", "GradVac", "CAGrad", "IMTL")},
        ),
    }
    figure, axes = plt.subplots(1, len(cells), figsize=(4.6 * len(cells) + 1, 3.3), sharey=True, layout="constrained")
    for axis, cell in zip([axes] if len(cells) == 1 else axes, cells, strict=True):
        for place, (colour, belongs) in enumerate(groups.values()):
            found = sorted(ratio for arm, ratio in results[cell].items() if belongs(arm))
            axis.plot(found, [-place] * len(found), "o", color=colour, alpha=0.55, markersize=7, markeredgewidth=0)
            if found:
                axis.annotate(
                    f"{statistics.median(found):.2f}",
                    (max(found), -place),
                    xytext=(8, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
        axis.axvline(1, color="0.35", linewidth=1, linestyle=":")
        axis.set_xscale("log")
        ticks = [t for t in (1, 1.5, 2, 3, 5, 10, 20, 40) if t <= 1.3 * max(results[cell].values())]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.set_xlim(0.85, 1.5 * max(results[cell].values()))
        axis.set_title(cell, fontsize=10)
        axis.set_xlabel("time of a training step, in steps of a plain sum")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="x", color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.set_yticks([-place for place in range(len(groups))], list(groups))
        axis.tick_params(axis="y", length=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), help="by default all that the machine is for")
    parser.add_argument("--arms", nargs="+", default=[""], help="parts of names, such as features; all by default")
    parser.add_argument("--environments", type=Path, default=HERE.parent / "runs" / "environments")
    parser.add_argument("--out", type=Path, default=HERE / "balancing.md")
    parser.add_argument("--chart", type=Path, default=HERE.parent / "docs" / "pictures" / "balancing_cost.png")
    arguments = parser.parse_args()
    theirs = libmtl(arguments.environments)
    pythons = {"floor": sys.executable, "segweave": sys.executable, "torchjd": sys.executable, "libmtl": theirs}
    results, parts, required, text = {}, [], [], ""
    with working(sys.executable, ARMS) as own, working(theirs, ARMS) as other:
        assert own
        facts = own.must("facts")
        on_gpu = facts["device"] != "cpu"
        for name in arguments.cells or [cell for cell in CELLS if on_gpu == (cell == "ResNet-50")]:
            cell = CELLS[name]
            arms = [arm for arm in arms_of(name) if any(part in arm for part in arguments.arms)]
            precise = cell.heads == "aspp" and facts["bf16"] and any(part in "bf16" for part in arguments.arms)
            bf16 = ["segweave/upgrad/features"] if precise else []
            print(f"{name}: {cell}", flush=True)
            for worker in filter(None, (own, other)):
                worker.must("build", cell=asdict(cell), bf16=[False, True] if bf16 and worker is own else [False])
            steps = timed(own, other, arms, arguments.rounds, bf16)
            medians = {arm: statistics.median(found) for arm, found in steps.ratios.items()}
            results[name] = medians
            weighed = ["floor/", *(arm for arm in WEIGHED if arm in medians)]
            megabytes = memory(pythons, cell, weighed) if cell.heads == "aspp" else {}
            required += [check.row(name) for check in checks(name, steps, megabytes, on_gpu)]
            rows = []
            for arm, found in steps.ratios.items():
                quarters = statistics.quantiles(found, n=4) if len(found) > 1 else [found[0]] * 3
                peak = f"{megabytes[arm]['megabytes']:.0f} MB" if arm in megabytes else ""
                rows.append([*spoken(arm), f"{medians[arm]:.3f}", f"{quarters[0]:.3f} to {quarters[2]:.3f}", peak])
            rows += [[*spoken(arm), "refused", why, ""] for arm, why in steps.failed.items()]
            if on_gpu:
                copies = {}
                for row, arm in zip(rows, steps.ratios, strict=False):
                    if arm.startswith("segweave"):
                        asked = {"arm": arm.removesuffix(" bf16"), "bf16": arm.endswith(" bf16")}
                        copies[arm] = own.must("copies", **asked)["copies"]
                        row[-1] = f"{row[-1]} {copies[arm]} copies to the host".strip()
                most = Check(f"copies to the host in a step, of {len(copies)} ways", [max(copies.values())], 1)
                required.append(most.row(name))
            size = f"batch {cell.batch}, {cell.height} x {cell.width}"
            peak = f", {megabytes['floor/']['megabytes']:.0f} MB at the peak" if megabytes else ""
            parts.append(
                f"## {name}\n\n{cell.encoder}, dilated, {size}; the floor takes {1000 * steps.floor:.0f} ms{peak}.\n"
            )
            parts.append(table(["", "method", "time / floor", "middle half of the rounds", "peak memory"], rows) + "\n")
            text = page(arguments, facts, theirs, required, parts)
            arguments.out.write_text(text, encoding="utf-8")
            if any(name in results for name in SHOWN):
                chart(results, arguments.chart)
    print(text)


def page(
    arguments: argparse.Namespace,
    facts: Mapping[str, Any],
    theirs: Path | None,
    required: Sequence[list[str]],
    parts: Sequence[str],
) -> str:
    """What was measured so far, as Markdown."""
    words = list(required)
    if not facts["bf16"]:
        words.append(["", "bf16 and channels last", "not measured", "", "0.600", "this CPU has no AVX512-BF16"])
    packages = ", ".join(f"{name} {version(name)}" for name in (*TORCH, "torchjd"))
    cpu = f"{os.cpu_count()} cores of {processor()}, {facts['threads']} threads"
    machine = cpu if facts["device"] == "cpu" else facts["device"]
    options = f" --rounds {arguments.rounds}" if arguments.rounds != 15 else ""
    for option in ("cells", "arms"):
        if getattr(arguments, option) not in (None, [""]):
            options += f" --{option} " + " ".join(map(shlex.quote, getattr(arguments, option)))
    head = (
        f"# What balancing costs\n\nMade by `python benchmarks/balancing.py{options}` on {date.today()}: {machine}, "
        f"Python {platform.python_version()}, {packages}, LibMTL {libmtl_version(theirs)}.\n"
        f"{arguments.rounds} rounds; every number is a ratio to a plain sum of the losses on the same network and "
        f"batch, just before and just after. A limit is met where the median is below it, not met\n"
        f"where its 95 % interval lies above it, and open between.\n"
    )
    limits = "## What is asked for\n\n" + table(["network", "", "ratio", "95 %", "at most", "met"], words) + "\n"
    return "\n".join([head, limits, *parts])


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
