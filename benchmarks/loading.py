"""How many augmented images a second one core reads: segweave with and without its cache, and what else people use.

    python benchmarks/loading.py                # a quarter of an hour on 2 cores; makes 32 pairs of 1024 x 2048 first

The others are PIL with torchvision's transforms v2, on tensors and on PIL images, and OpenCV with albumentations 2.0.8,
which is installed into an environment of its own under `--environments`. In each round every arm makes one batch of the
same images, in an order drawn anew, on the same core; what is shown is the median over the rounds, and ratios are taken
within a round. All files are in the system's memory, as those of a training set are that fits there. `loading_arms.py`
says what is done to an image.

The cache is filled and each of its entries checked before the rounds, as in the first epoch of a training; what that
takes is shown too. It writes the tables to `--out`.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from balancing import Check, interval, processor, table
from workers import working

HERE = Path(__file__).parent
OURS = ("segweave", "segweave, cache", "torchvision tensors", "torchvision PIL")
THEIRS = ("albumentations",)
NAMES = {
    "segweave": "segweave",
    "segweave, cache": "segweave with `data.cache: decoded`",
    "torchvision tensors": "PIL + torchvision v2, on tensors",
    "torchvision PIL": "PIL + torchvision v2, on PIL images",
    "albumentations": "OpenCV + albumentations",
}
BATCH = 8
HEIGHT, WIDTH = 1024, 2048
STREETS = ("road", "pavement", "building", "sky", "tree", "car", "person", "sign")


class Set(NamedTuple):
    """Pairs of files, and how segweave reads them."""

    options: dict[str, Any]
    tasks: dict[str, Any]
    pairs: list[tuple[str, str]]
    crop: int


def write(index: int, root: Path) -> None:
    """A street with a little noise, as a camera adds it, and its mask; flat colours would be read faster."""
    from segweave.data import streets

    street = streets.render(0, index, HEIGHT, WIDTH)
    noise = np.random.default_rng(index).normal(0, 3, street.image.shape)
    image = (street.image + noise).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(street.semantic.astype(np.uint8)).save(root / "masks" / f"{index:03d}.png")
    Image.fromarray(image).save(root / "images" / f"{index:03d}.png")


def streets_set(root: Path, count: int) -> Set:
    """Made where it is not there yet."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(count) if not (root / "images" / f"{index:03d}.png").exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write, root=root), missing))
    names = [f"{index:03d}.png" for index in range(count)]
    options = {"format": "folder", "root": str(root), "tasks": {"semantic": "masks"}, "splits": {}}
    tasks = {"semantic": {"kind": "semantic", "classes": list(STREETS)}}
    return Set(options, tasks, [(str(root / "images" / name), str(root / "masks" / name)) for name in names], 512)


def camvid_set(root: Path) -> Set:
    images = sorted((root / "CamVid" / "train").glob("*.png"))
    pairs = [(str(path), str(root / "CamVid" / "trainannot" / path.name)) for path in images]
    return Set({"format": "camvid", "root": str(root)}, {"semantic": {"kind": "semantic"}}, pairs, 256)


def albumentations(environments: Path) -> Path:
    """The interpreter of an environment with albumentations from PyPI."""
    python = environments / "albumentations" / "bin" / "python"
    packages = ["albumentations==2.0.8", "opencv-python-headless", f"numpy=={version('numpy')}"]
    uv = shutil.which("uv")
    make = [uv, "venv", "--quiet"] if uv else [sys.executable, "-m", "venv"]
    install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    if not python.exists():
        subprocess.run([*make, str(environments / "albumentations")], check=True)
    subprocess.run([*install, "--quiet", *packages], check=True)
    return python


def timed(workers: Mapping[str, Any], count: int, rounds: int) -> dict[str, list[float]]:
    """Images a second by arm, one number a round."""
    draw, found = random.Random(0), defaultdict(list)
    for number in range(rounds + 1):
        indices = draw.sample(range(count), BATCH)
        shapes = set()
        for arm in draw.sample(list(workers), len(workers)):
            answer = workers[arm].must("batch", arm=arm, indices=indices, seed=number)
            shapes.add((*answer["images"], *answer["masks"], answer["type"].removeprefix("torch.")))
            if number:  # the first round warms up
                found[arm].append(BATCH / answer["seconds"])
        assert len(shapes) == 1, shapes
    return found


def checks(found: Mapping[str, Sequence[float]], large: bool) -> list[Check]:
    """Time of the better of the others over ours, as a limit from above on ours over theirs."""
    others = [arm for arm in found if not arm.startswith("segweave")]
    best = max(others, key=lambda arm: statistics.median(found[arm]))
    made = []
    for arm, limit in (("segweave", 1.0), ("segweave, cache", 0.25 if large else 1.0)):
        ratios = [theirs / ours for ours, theirs in zip(found[arm], found[best], strict=True)]
        made.append(Check(f"time of {NAMES[arm]} / that of {NAMES[best]}", ratios, limit))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--count", type=int, default=32, help="pairs of 1024 x 2048")
    parser.add_argument("--data", type=Path, default=HERE.parent / "runs" / "loading", help="where they are made")
    real = Path(os.environ.get("SEGWEAVE_DATA", HERE.parent / ".." / "shared" / "data"))
    parser.add_argument("--camvid", type=Path, default=real / "camvid")
    parser.add_argument("--environments", type=Path, default=HERE.parent / "runs" / "environments")
    parser.add_argument("--out", type=Path, default=HERE / "loading.md")
    arguments = parser.parse_args()
    python = albumentations(arguments.environments)
    sets = {f"{HEIGHT} x {WIDTH} PNG": streets_set(arguments.data.resolve(), arguments.count)}
    if arguments.camvid.is_dir():
        sets["CamVid, 360 x 480 PNG"] = camvid_set(arguments.camvid.resolve())
    required, parts, others = [], [], {}
    for name, made in sets.items():
        with (
            tempfile.TemporaryDirectory(dir=arguments.data) as cache,
            working(sys.executable, "loading_arms.py") as own,
            working(python, "loading_arms.py") as other,
        ):
            assert own
            assert other
            common = {**made._asdict(), "cache": cache}
            facts = own.must("open", arms=OURS, **common)
            other.must("open", arms=THEIRS, **common)
            others = other.must("versions", packages=["albumentations", "opencv-python-headless"])
            workers = {**dict.fromkeys(OURS, own), **dict.fromkeys(THEIRS, other)}
            found = timed(workers, len(made.pairs), arguments.rounds)
            size = sum(path.stat().st_size for path in Path(cache).glob("*/*/*")) / len(made.pairs)
        required += [check.row(name) for check in checks(found, name.startswith(str(HEIGHT)))]
        rows = []
        for arm, rates in found.items():
            low, high = interval(rates)
            rows.append([NAMES[arm], f"{statistics.median(rates):.1f}", f"{low:.1f} to {high:.1f}"])
        rows.sort(key=lambda row: float(row[1]))
        parts.append(
            f"## {name}\n\n{len(made.pairs)} pairs, crop {made.crop}. An entry of the cache has {size / 1e6:.2f} MB; "
            f"reading, changing and keeping an image takes {1000 * facts['fill']:.1f} ms, and the first read of an "
            f"entry, with its checksum, {1000 * facts['check']:.1f} ms.\n"
        )
        parts.append(table(["", "images/s on one core", "95 %"], rows) + "\n")
    options = "".join(
        f" --{key} {shlex.quote(str(value))}"
        for key, value in vars(arguments).items()
        if key in ("rounds", "count") and value != parser.get_default(key)
    )
    packages = ("torch", "torchvision", "pillow", "numpy")
    named = ", ".join(f"{name} {number}" for name, number in {**{p: version(p) for p in packages}, **others}.items())
    head = (
        f"# How fast images are read\n\nMade by `python benchmarks/loading.py{options}` on {date.today()}: one core of "
        f"{processor()}, Python {platform.python_version()}, {named}.\n{arguments.rounds} rounds of {BATCH} images: "
        f"random scale {0.75} to {1.5}, crop, flip, colour, to float32. A limit is met where the median is below it, "
        f"not met\nwhere its 95 % interval lies above it, and open between.\n"
    )
    limits = "## What is asked for\n\n" + table(["data", "", "ratio", "95 %", "at most", "met"], required) + "\n"
    text = "\n".join([head, limits, *parts])
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
