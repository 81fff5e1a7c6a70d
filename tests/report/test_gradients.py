from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest
from page_reader import Page

from segweave.report.gradients import gradients_section
from segweave.report.history import History, read_history

TASKS = ["a", "b", "c"]
COSINES = {("a", "b"): [-0.5, -0.1, 0.2, 0.0], ("a", "c"): [0.4, None, 0.6, None], ("b", "c"): [None] * 4}


def history(
    cosines: Mapping[tuple[str, str], Sequence[float | None]], overlaps: Mapping[tuple[str, str], float], space: str
) -> History:
    """A log of steps with these cosines by pair; the overlap is 1 where it is not given."""
    steps = max(map(len, cosines.values()))
    log = []
    for step in range(steps):
        line = {"step": step, "space": space}
        for pair, values in cosines.items():
            line |= {f"cosine/{'|'.join(pair)}": values[step], f"overlap/{'|'.join(pair)}": overlaps.get(pair, 1.0)}
        log.append(line)
    return read_history(log)


def maps(section: str) -> list[list[list[str]]]:
    """The cells of both heat maps, a row after the other."""
    bodies = re.findall(r'class="scroll matrix agreement".*?<tbody>(.*?)</tbody>', section)
    return [[re.findall("<td[^>]*>(.*?)</td>", row) for row in body.split("</tr>")[:-1]] for body in bodies]


def test_means_and_shares_by_hand() -> None:
    section = gradients_section(TASKS, history(COSINES, {("a", "c"): 0.5, ("b", "c"): 0.0}, "features"))
    mean, conflicts = maps(section)
    # (-0.5 - 0.1 + 0.2 + 0) / 4 = -0.1; a cosine of 0 is no conflict
    assert mean == [["", "-0.10", "0.50"], ["-0.10", "", "–"], ["0.50", "–", ""]]
    assert conflicts == [["", "50", "0"], ["50", "", "–"], ["0", "–", ""]]
    words = Page(section).words
    assert "Mean cosine over 2 to 4 steps" in words
    assert "50 % (2 of 4)" in words
    assert "0 % (0 of 2)" in words
    assert "no image had labels of both (b\u00a0| c)" in words
    assert re.search(r"a\u00a0\| c0\.5000 % \(0 of 2\)0\.50", words), "mean, share, and overlap"
    assert "images labelled for one only pull a cosine towards 0" in words


def test_the_colour_is_by_the_sign_and_the_square_root() -> None:
    section = gradients_section(
        TASKS, history({("a", "b"): [-0.25], ("a", "c"): [0.01], ("b", "c"): [-1.0]}, {}, "last")
    )
    cells = [td for td in Page(section).named("td") if td.get("style")]
    assert [(td["style"], td.get("class")) for td in cells[:3]] == [
        ("--p:50%", "opposed"),
        ("--p:10%", None),
        ("--p:50%", "opposed"),
    ]
    assert "--p:100%" in cells[3]["style"] + cells[5]["style"]
    assert cells[0]["title"] == "a\u00a0| b: mean cosine -0.250, below 0 in 1 of 1 steps, overlap 1.00"


@pytest.mark.parametrize(
    ("space", "overlap", "reason"),
    [
        ("features", 0.0, "no image had labels of both"),
        ("features", 0.5, "the gradient of one was zero in every step"),
        # at the parameters tasks without a common image have a cosine, unless a gradient is zero
        ("parameters", 0.0, "the gradient of one was zero in every step"),
    ],
)
def test_why_there_is_no_cosine(space: str, overlap: float, reason: str) -> None:
    pair = ("a", "b")
    words = Page(gradients_section(TASKS, history({pair: [None, None]}, {pair: overlap}, space))).words
    assert f"{reason} (a\u00a0| b)" in words
    assert "no batch had labels of both (a\u00a0| c, b\u00a0| c)" in words
    assert "Cosine by step" not in words


@pytest.mark.parametrize(
    ("space", "where"),
    [
        ("features", "at the features that all heads read; no conflict at the features does not imply none at the"),
        ("last", "of the last layer that all tasks read; no conflict at the last layer does not imply none at the"),
        ("parameters", "in 1 steps at the shared parameters."),
    ],
)
def test_where_they_were_compared_is_said(space: str, where: str) -> None:
    words = Page(gradients_section(["a", "b"], history({("a", "b"): [0.1]}, {}, space))).words
    assert where in words
    assert ("does not imply" in words) == (space != "parameters")
    assert "Overlap" not in words, "every image has both labels"


def test_several_spaces_are_told_with_their_steps() -> None:
    log = [{"step": n, "space": "parameters" if n else "features", "overlap/a|b": 1, "cosine/a|b": 0} for n in range(3)]
    words = Page(gradients_section(["a", "b"], read_history(log))).words
    assert "in 2 steps at the shared parameters and in 1 steps at the features that all heads read; no" in words


def test_without_cosines_how_to_get_them() -> None:
    words = Page(gradients_section(TASKS, read_history([{"step": 0, "weight/a": 1.0}]))).words
    assert words.startswith("The task gradients were not compared. Gradient methods do so at every step")
    assert "balancing.monitor: true" in words
    assert "With a single task" in gradients_section(["a"], History())


@pytest.mark.parametrize("count", [2, 16])
def test_any_number_of_tasks_the_most_conflicting_pairs_first(count: int) -> None:
    names = [f"task {n}" for n in range(count)]
    pairs = list(combinations(names, 2))
    # the k-th pair conflicts in k of all the steps
    cosines = {pair: [-0.1 if step < k else 0.3 for step in range(len(pairs))] for k, pair in enumerate(pairs)}
    section = gradients_section(names, history(cosines, {}, "features"))
    page = Page(section)
    for rows in maps(section):
        assert len(rows) == count
        assert rows == [list(column) for column in zip(*rows, strict=True)], "symmetric"
        assert all((cell == "") == (i == j) for i, row in enumerate(rows) for j, cell in enumerate(row))
    titles = re.findall(r"<figcaption><b>(.*?)</b>", section)
    assert titles == ["\u00a0| ".join(pair) for pair in pairs[::-1][:6]]
    assert ("The 6 of 120 pairs that conflict most often." in page.words) == (count == 16)
    assert bool(page.named("details")) == (count == 16)
    headings = re.findall(r'<th scope="row">(.*?)</th>', section)
    assert headings == ["\u00a0| ".join(pair) for pair in pairs[::-1]]
