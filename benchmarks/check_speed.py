"""How long `segweave check` takes on 1000 images of 480 x 360 with masks and depth, from the start of the process.

    python benchmarks/check_speed.py [--count 1000] [--cores 2] [--kind png jpg]

The data is made here: rendered streets with a little noise, as a camera adds it, because a PNG of flat colours would be
read faster than a photo. Everything is written to a temporary folder, about 500 MB for PNG.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 360, 480
CONFIG = """
data: {{format: folder, root: {root}, tasks: {{semantic: masks, depth: depth}}}}
tasks:
  semantic: {{kind: semantic, classes: [road, pavement, building, sky, tree, car, person, sign]}}
  depth: {{kind: depth, max_depth: 80}}
"""


def write(index: int, root: Path, kind: str) -> None:
    """One photo of a street, its mask and its depth in millimetres."""
    from segweave.data import streets

    street = streets.render(0, index, HEIGHT, WIDTH)
    noise = np.random.default_rng(index).normal(0, 3, street.image.shape)
    image = (street.image + noise).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(image).save(root / "images" / f"{index:05d}.{kind}", quality=92)
    Image.fromarray(street.semantic.astype(np.uint8)).save(root / "masks" / f"{index:05d}.png")
    millimetres = (1000 * street.depth).round().clip(0, 65535).astype(np.uint16)
    Image.fromarray(millimetres).save(root / "depth" / f"{index:05d}.png")


def make(root: Path, kind: str, count: int) -> None:
    for name in ("images", "masks", "depth"):
        (root / name).mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write, root=root, kind=kind), range(count), chunksize=16))


def measure(root: Path, cores: int) -> tuple[float, float]:
    """Seconds on the wall, and of the processors, of one run in a process of its own on so many cores."""
    config = root / "speed.yaml"
    config.write_text(CONFIG.format(root=root), encoding="utf-8")
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "segweave", "check", str(config), "--out", str(root / "page")],
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    print(done.stdout.strip().splitlines()[-2])
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--kind", nargs="+", default=["png", "jpg"], choices=["png", "jpg"])
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("segweave", "torch", "pillow", "numpy"))
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, Python {platform.python_version()}, {packages}")
    for kind in options.kind:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            make(root, kind, options.count)
            seconds, busy = measure(root, options.cores)
        what = f"{options.count} {kind} of {WIDTH} x {HEIGHT} with masks and depth, {options.cores} cores"
        print(f"{what}: {seconds:.1f} s ({busy:.1f} s of processor time)")


if __name__ == "__main__":
    main()
