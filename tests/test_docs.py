"""Every Python block of the documentation runs, page by page, and every command of the README exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_blocks_run_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    if page == "docs/first_network.md":
        learns(capsys.readouterr().out)


def test_the_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    small = ["data.count=16", "data.size=[48,80]", "train.epochs=1", "train.workers=0", "model.backbone=test_resnet"]
    importlib.import_module("python_api").main(small)
    found = re.findall(r"evaluated ([\d.]+), scored from files ([\d.]+)", capsys.readouterr().out)
    assert len(found) == 3
    assert all(abs(float(one) - float(two)) <= 1e-4 for one, two in found)
    assert len(list(tmp_path.glob("runs/python-api/predictions/pictures/*.png"))) == 8


def learns(shown: str) -> None:
    """The page's own training made both tasks better."""
    epochs = re.findall(r"loss ([\d.]+), mIoU ([\d.]+), scene accuracy ([\d.]+)", shown)
    losses, mious, accuracies = zip(*[tuple(map(float, line)) for line in epochs], strict=True)
    assert len(epochs) == 4
    assert losses[-1] < 0.8 * losses[0]
    assert mious[-1] > max(0.32, mious[0])
    assert accuracies[-1] > max(0.5, accuracies[0])


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_of_the_project_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
