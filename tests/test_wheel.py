"""The wheel holds the whole typed package and its command, and runs from the unpacked files alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_is_complete_and_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    source = ROOT / "src"
    expected = {p.relative_to(source).as_posix() for p in source.rglob("*.py")} | {"segweave/py.typed"}
    assert expected <= names
    assert not {name for name in names if name.startswith(("tests", "examples", "benchmarks"))}
    described = next(name for name in names if name.endswith("entry_points.txt"))
    assert "segweave = segweave.cli:main" in (tmp_path / "site" / described).read_text()
    code = "import segweave; print(segweave.__file__); from segweave.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    ).stdout
    assert str(tmp_path / "site") in shown
    for verb in ("train", "evaluate", "score", "predict"):
        assert verb in shown
