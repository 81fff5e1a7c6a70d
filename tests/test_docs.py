"""Every block of the documentation runs, page by page; links lead somewhere; the reference says what each key means."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import segweave as sw
from doc_blocks import LANGUAGES, ROOT, Block, Page, blocks, pages
from segweave.catalogue import Catalogue
from segweave.errors import SegweaveError
from segweave.rasters import write_image

PAGES = pages()
RUN = [page for page in PAGES if {block.language for block in blocks(page)} - {"text"}]


@pytest.mark.parametrize("page", PAGES)
def test_no_block_escapes_being_run(page: str) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page}, line {block.line}: {block.language!r}"


@pytest.mark.parametrize("page", RUN)
def test_blocks_run_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    if page.startswith("README"):
        a_street_data_set(tmp_path)
    running = Page(page, monkeypatch, capsys)
    for block in blocks(page):
        running.run(block)
    if page == "docs/first_network.md":
        learns(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("", "no language"),
        ("bash", "segweave --help"),
        ("python", "assert 1 == 2"),
        ("json", "{"),
        ("yaml", "train: {learning_rate: 1.0}"),
        ("yaml", "tasks: {semantic: {kind: semantic, loss: lovas}}"),
        ("yaml", "tasks: {semantic: {kind: semantic, loss: {focal: {gama: 2.0}}}}"),
        ("yaml", "model: {decoder: {name: fpn, with: 64}}"),
        ("yaml", "model: {backbone: resnet51}"),
        ("yaml", "data: {format: folder, root: nowhere}"),
        ("yaml", "balancing: {method: equals}"),
        ("yaml", "train: {freeze: [encoder.nothing]}"),
        ("sh", "segweave train missing.yaml"),
        ("sh", "segweave --help   # exit 2"),
        ("sh", "rm -r data"),
        ("sh", "ls missing"),
        ("sh", "make coffee"),
        ("sh", "pip install segweave[coffee]"),
        ("sh", "python missing.py"),
        ("text", "error: nobody said this"),
    ],
)
def test_a_wrong_block_fails(
    language: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    running = Page("page.md", monkeypatch, capsys)
    with pytest.raises((AssertionError, ValueError, SegweaveError, subprocess.CalledProcessError)):
        running.run(Block(language, text + "\n", 1))


def learns(shown: str) -> None:
    """The page's own training made both tasks better."""
    epochs = re.findall(r"loss ([\d.]+), mIoU ([\d.]+), scene accuracy ([\d.]+)", shown)
    losses, mious, accuracies = zip(*[tuple(map(float, line)) for line in epochs], strict=True)
    assert len(epochs) == 4
    assert losses[-1] < 0.8 * losses[0]
    assert mious[-1] > max(0.32, mious[0])
    assert accuracies[-1] > max(0.5, accuracies[0])


def a_street_data_set(folder: Path) -> None:
    """What the README's config and commands speak of: data/street, other images, and predictions of another program."""
    from segweave.data.streets import CLASSES, OBJECTS, render
    from segweave.rasters import write_depth, write_index

    root = folder / "data" / "street"
    palette = [(i, i, i) for i in range(len(CLASSES))]
    names = [f"street-{index}" for index in range(6)]
    for index, name in enumerate(names):
        street = render(seed=3, index=index, height=48, width=64)
        image, labels = torch.from_numpy(street.image).permute(2, 0, 1), torch.from_numpy(street.semantic)
        write_image(image, root / "images" / f"{name}.png")
        write_image(image, folder / ("images" if index % 2 else "more") / f"{name}.jpg")
        write_index(labels, root / "masks" / f"{name}.png", palette)
        write_index(labels, folder / "other" / "predictions" / "semantic" / f"{name}.png", palette)
        write_depth(torch.from_numpy(street.depth), root / "depth" / f"{name}_d.png")
        write_depth(torch.from_numpy(street.depth), folder / "other" / "predictions" / "depth" / f"{name}.png")
        (root / "scenes").mkdir(exist_ok=True)
        (root / "scenes" / f"{name}.txt").write_text(["city", "road"][index % 2])
    boxes = [(name, render(seed=3, index=index, height=48, width=64)) for index, name in enumerate(names)]
    found = [
        {"image_id": name, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for name, street in boxes
        for (x1, y1, x2, y2), label in zip(street.boxes.tolist(), street.labels.tolist(), strict=True)
    ]
    (folder / "other" / "predictions" / "objects").mkdir()
    (folder / "other" / "predictions" / "objects" / "objects.json").write_text(json.dumps(found))
    images = [{"id": name, "file_name": f"{name}.png", "height": 48, "width": 64} for name in names]
    categories = [{"id": number, "name": name} for number, name in enumerate(OBJECTS, 1)]
    for split in ("train", "val", "test"):
        content = {"images": images, "categories": categories, "annotations": found}
        (root / f"boxes_{split}.json").write_text(json.dumps(content))
    scenes = "".join(f"{name},{['city', 'road'][index % 2]}\n" for index, name in enumerate(names))
    (folder / "other" / "predictions" / "scene").mkdir()
    (folder / "other" / "predictions" / "scene" / "scene.csv").write_text("image,label\n" + scenes)
    for split, part in (("train", names[:4]), ("val", names[4:]), ("test", names[4:])):
        (root / f"{split}.txt").write_text("\n".join(part))
    (folder / "classes.txt").write_text("\n".join(CLASSES))


def test_the_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    tiny = ["data.count=16", "data.size=[48,80]", "model.backbone=test_resnet"]
    tiny += ["train.epochs=1", "train.workers=0", "train.report=false"]
    importlib.import_module("python_api").main(tiny)
    found = re.findall(r"evaluated ([\d.]+), scored from files ([\d.]+)", capsys.readouterr().out)
    assert len(found) == 3
    assert all(abs(float(one) - float(two)) <= 1e-4 for one, two in found)
    assert len(list(tmp_path.glob("runs/python-api/predictions/pictures/*.png"))) == 8


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """To a file of the project; from the site, which has docs/ alone, to a file in there or to a generated page."""
    text = re.sub(r"^( *)```.*?^\1```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        place = ((ROOT / page).parent / target).resolve()
        if place.parent == ROOT / "docs" / "reference":
            assert place.name in ("config.md", "python.md"), f"{page}: {target}"
            continue
        assert place.exists(), f"{page}: {target}"
        assert not page.startswith("docs/") or place.is_relative_to(ROOT / "docs"), (
            f"{page}: {target} is not on the site"
        )


def test_the_navigation_has_every_page_once() -> None:
    def paths(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [path for item in (entry.values() if isinstance(entry, dict) else entry) for path in paths(item)]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    written = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert sorted(paths(site["nav"])) == sorted([*written, "reference/config.md", "reference/python.md"])
    assert site["theme"]["font"] is False  # fonts from elsewhere would tell others who reads this


def test_the_page_on_the_house_has_the_floors_that_are_checked() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    checked = [re.findall(r"segweave\.(\w+)", layer) for layer in layers[0]["layers"]]
    table = (ROOT / "docs" / "house.md").read_text(encoding="utf-8").partition("| floor |")[2].partition("\n\n")[0]
    shown = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert [sorted(floor) for floor in shown] == [sorted(floor) for floor in checked if floor != ["__main__"]]


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The two scripts that make the pages of reference."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("config_reference"), importlib.import_module("python_reference")


def test_the_config_reference_has_every_table_name_and_option(reference: tuple[ModuleType, ModuleType]) -> None:
    made = reference[0]
    rooms = [found.name for found in pkgutil.iter_modules(sw.__path__) if found.ispkg]
    modules = [importlib.import_module(f"segweave.{room}") for room in rooms]
    tables = {id(value) for module in modules for value in vars(module).values() if isinstance(value, Catalogue)}
    assert tables == {id(table) for table in made.CATALOGUES}
    text = made.page()
    for table in made.CATALOGUES:
        for name in table:
            # a kind of task and a derivation may have the same name
            sections = re.findall(rf"^### `[^`]*\b{name}`.*?(?=^##)", text + "\n##", re.MULTILINE | re.DOTALL)
            assert sections, f"{table.noun} {name}"
            options = made.entry_options(table, name)
            assert [option.name for option in options] == [*dict.fromkeys(option.name for option in options)]
            assert {option.name for option in options} == set(table.options(name))
            for option in options:
                assert option.meaning, f"{table.noun} {name}: the docstring says nothing of {option.name}"
                assert f"| `{option.name}` |" in (text if table is made.TASKS else "".join(sections))


@pytest.mark.parametrize(
    "target",
    ["segweave.plan:Plan", "segweave.model:create_model", "segweave.data.augment:Augment", "segweave.tasks.task:Task"],
)
def test_every_key_of_a_section_is_described(target: str, reference: tuple[ModuleType, ModuleType]) -> None:
    options = reference[0].options(target)
    assert options
    assert [option.name for option in options if not option.meaning] == []
    text = reference[0].page()
    assert all(f"| `{option.name}` |" in text for option in options)


def test_the_python_reference_has_every_public_name(reference: tuple[ModuleType, ModuleType]) -> None:
    made = reference[1]
    text = made.page()
    shown = {target.partition(":")[2] for targets in made.PARTS.values() for target in targets}
    public = {name for name in sw.__all__ if not isinstance(getattr(sw, name), ModuleType)}
    assert public <= shown
    for name in shown:
        assert f"### `{name}`" in text
    for targets in made.PARTS.values():
        for target in targets:
            module, _, name = target.partition(":")
            assert getattr(importlib.import_module(module), name).__doc__ in _docstrings(module), target


def _docstrings(module: str) -> list[str | None]:
    """The docstrings of what a module itself defines; a class without one would show its parent's."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    nodes = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [ast.get_docstring(node, clean=False) for node in nodes]


def test_docstrings_are_taken_apart(reference: tuple[ModuleType, ModuleType]) -> None:
    from docstrings import parse  # pyright: ignore

    assert reference
    parsed = parse(
        """One line.

        More of `it`.

        Args:
            one, two: both of
                them.
            three: the last: of all.

        Raises:
            ValueError: never.
        """
    )
    assert parsed.text == "One line.\n\nMore of `it`."
    assert parsed.entries["Args"] == {"one": "both of them.", "two": "both of them.", "three": "the last: of all."}
    assert parsed.entries["Raises"] == {"ValueError": "never."}
    with pytest.raises(ValueError, match="nor the rest"):
        parse("One.\n\nArgs:\n    no colon here\n")


def test_the_site_builds_without_warnings(tmp_path: Path, reference: tuple[ModuleType, ModuleType]) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("reference", "__pycache__"))
    (tmp_path / "docs" / "reference").mkdir()
    for made in reference:
        (tmp_path / "docs" / "reference" / made.PAGE.name).write_text(made.page(), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = sorted(path.relative_to(tmp_path / "site").as_posix() for path in tmp_path.glob("site/**/index.html"))
    assert len(pages) == len([page for page in PAGES if page.startswith("docs/")]) + len(reference)
    # nothing that a page shows comes from elsewhere
    loaded = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")
    for path in tmp_path.glob("site/**/*.html"):
        assert loaded.findall(path.read_text(encoding="utf-8")) == [], path
