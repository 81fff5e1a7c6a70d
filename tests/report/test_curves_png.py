from __future__ import annotations

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from sample_run import lines

from segweave.report import curves_png as curves
from segweave.report.curves_png import curves_png
from segweave.report.history import read_history

BETTER = ("score", {"score": True, "wrong": False}, "")


def drawn(history: list[dict], tasks: list[str]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = Image.open(io.BytesIO(curves_png(read_history(history), dict.fromkeys(tasks, BETTER))))
    assert picture.format == "PNG"
    return np.asarray(picture.convert("RGB"))


def test_a_row_for_the_whole_and_one_per_task() -> None:
    one, two = (drawn(lines(tasks), tasks) for tasks in (["a"], ["a", "街道 $x$"]))
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] == round(1.5 * one.shape[0])
    # the second task's losses are drawn, in the colour of the first line
    row = two[two.shape[0] * 2 // 3 :, : two.shape[1] // 3]
    assert (np.abs(row.astype(int) - [0x1B, 0x59, 0xB3]).sum(-1) < 30).any()


def test_what_was_not_logged_is_said_and_nothing_fails() -> None:
    assert drawn([], ["a"]).shape == drawn(lines(["a"], steps=1, every=1), ["a"]).shape


def test_very_many_tasks_stay_a_picture_that_programs_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_TALLEST", 400)
    tasks = ["a", "b", "c"]
    assert drawn(lines(tasks, steps=3, every=3), tasks).shape[0] == pytest.approx(400, abs=3)


def test_importing_it_imports_no_plots_and_drawing_sets_up_no_window() -> None:
    script = (
        "import sys; from segweave.report.curves_png import curves_png; assert 'matplotlib' not in sys.modules\n"
        "from segweave.report.history import read_history; curves_png(read_history([]), {})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
