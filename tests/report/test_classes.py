from __future__ import annotations

from page_reader import Page
from sample_run import NASTY

from segweave.report.classes import class_table, confusion


def test_rows_are_shares_of_the_true_class() -> None:
    page = Page(confusion("a", ["cat", NASTY], [[3, 1, 0], [0, 2, 0]]))
    cells = [td for td in page.named("td") if "title" in td]
    assert [td["style"] for td in cells] == ["--p:75%", "--p:25%", "--p:100%"]
    assert cells[1]["title"] == f"true cat, predicted {NASTY}: 1 of 4 (25.0 %)"
    assert [th["scope"] for th in page.named("th")] == ["col", "col", "row", "row"]
    assert "7525" in page.words
    assert "no class" not in page.words


def test_predictions_of_no_class_have_a_column() -> None:
    page = Page(confusion("a", ["cat", "dog"], [[3, 0, 1], [0, 0, 0]]))
    assert "no class" in page.words
    assert "true cat, predicted no class: 1 of 4 (25.0 %)" in str(page.named("td"))


def test_a_rare_confusion_is_not_shown_as_none() -> None:
    assert "·" in Page(confusion("a", ["cat", "dog"], [[999, 1], [0, 5]])).words


def test_many_classes_become_a_picture_and_the_largest_confusions() -> None:
    names = [f"class {n}" for n in range(60)]
    counts = [[0] * 60 for _ in names]
    for n in range(60):
        counts[n][n] = 90
        counts[n][(n + 1) % 60] = n
    shown = confusion("a", names, counts)
    page = Page(shown)
    (picture,) = page.named("img")
    right = 60 * 90 / sum(map(sum, counts))
    assert f"{100 * right:.1f} % of everything" in picture["alt"]
    assert len(page.named("tr")) == 26
    assert page.words.index("class 59") < page.words.index("class 58")
    assert len(shown) < 130_000


def test_classes_and_those_that_are_not_there() -> None:
    values = {
        "per_class": {"cat": {"iou": 0.25, "pixels": 1000}, "dog": {"iou": None, "pixels": 0}},
        "absent_classes": [NASTY],
    }
    shown = class_table("a", values)
    page = Page(shown)
    assert "--share:25.0%" in shown
    assert f"not in the means: {NASTY}." in page.words
    assert "0.2500" in page.words
    assert class_table("a", {"score": 1.0}) == ""
