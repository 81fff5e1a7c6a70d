from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from page_reader import Page
from sample_run import NASTY

from segweave.report.chart import Line, labels, lines_chart, training_chart, validation_chart


def paths(chart: str) -> list[list[tuple[float, float]]]:
    """The points of every line that is no axis or grid."""
    drawn = [p["d"] for p in Page(chart).named("path") if p.get("class") not in ("grid", "axis")]
    return [[tuple(map(float, place.split())) for place in d[1:].split("L")] for d in drawn]  # pyright: ignore


def test_points_lie_where_their_values_are() -> None:
    points = [(0, 1.0), (10, 3.0), (20, 2.0)]
    (line,) = paths(validation_chart("score", points, higher_is_better=True))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    # upwards is smaller in SVG; halfway in value is halfway in place
    assert y1 < y2 < y0
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.11)


def test_powers_of_ten_are_equally_far_apart_on_a_logarithmic_axis() -> None:
    points = [(step, 10.0**-step) for step in range(4)]
    chart = training_chart("loss", points)
    assert "log scale" in chart
    raw, _ = paths(chart)
    gaps = [b[1] - a[1] for a, b in pairwise(raw)]
    assert gaps[0] > 0
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.21)


def test_the_best_validation_is_marked() -> None:
    points = [(9, 0.5), (19, 0.9), (29, 0.7)]
    for higher, best in ((True, "0.9000 at step 19"), (False, "0.5000 at step 9")):
        chart = validation_chart("score", points, higher)
        assert f"Best {best}" in chart
        assert f"best {best[:6]}" in Page(chart).words


def test_a_chart_is_read_aloud_and_escapes_its_title() -> None:
    page = Page(training_chart(NASTY, [(0, 4.0), (1, 2.0)]))
    (svg,) = page.named("svg")
    assert svg["role"] == "img"
    assert svg["aria-label"].startswith(f"{NASTY} by step. From 4.000 at step 0")
    assert NASTY in page.words
    assert not page.named("script")


def test_a_million_steps_take_a_few_kilobytes() -> None:
    points = [(step, 2 + math.sin(step / 1000)) for step in range(100_000)]
    assert len(training_chart("loss", points)) < 16_000


def test_an_outlier_does_not_flatten_the_rest() -> None:
    points = [(step, 1.0 + 0.1 * (step % 2)) for step in range(1000)]
    points[1] = (1, 1e9)
    page = training_chart("loss", [*points])
    ticks = re.findall(r'text-anchor="end">([^<]+)<', page)
    assert not any("e" in tick for tick in ticks), ticks


@pytest.mark.parametrize("points", [[(0, 0.0)], [(5, 2.0), (6, 2.0)], [(0, -1.0), (1, -2.0)], [(0, 1e-12), (1, 1e12)]])
def test_awkward_values_have_a_chart(points: list[tuple[float, float]]) -> None:
    for chart in (
        training_chart("a", points),
        validation_chart("a", points, True),
        lines_chart("a", [Line("b", points)]),
    ):
        assert "nan" not in chart
        assert all(0 <= x <= 340 and 0 <= y <= 190 for line in paths(chart) for x, y in line)


@pytest.mark.parametrize(("sign", "ticks"), [(1, ["0", "0.1"]), (-1, ["-0.1", "0"])])
def test_zero_is_in_a_frame_that_asks_for_it(sign: int, ticks: list[str]) -> None:
    chart = lines_chart("a", [Line("b", [(0, 0.1 * sign), (1, 0.11 * sign)])], zero=True)
    found = re.findall(r'text-anchor="end">([^<]+)<', chart)
    assert set(ticks) <= set(found)
    assert "0" not in re.findall(
        r'text-anchor="end">([^<]+)<', lines_chart("a", [Line("b", [(0, 0.1 * sign), (1, 0.11 * sign)])])
    )


def test_zero_is_a_line_between_values_of_both_signs() -> None:
    def axes(values: list[float]) -> int:
        chart = lines_chart("a", [Line("b", list(enumerate(values)))])
        return sum(path.get("class") == "axis" for path in Page(chart).named("path"))

    assert axes([-1.0, 1.0]) == 2
    assert axes([1.0, 2.0]) == axes([-3.0, -2.0]) == 1


def test_every_line_has_a_name_and_a_look_of_its_own() -> None:
    lines = [Line(f"task {n}", [(0, n), (1, n + 1)]) for n in range(10)]
    page = Page(lines_chart("weight", lines))
    looks = [(p["style"], p.get("stroke-dasharray")) for p in page.named("path") if "style" in p]
    assert len(set(looks[:8])) == 8
    assert len(page.named("li")) == 10
    keys = page.named("i")
    assert [("dashed" in key["class"]) for key in keys] == [dash is not None for _, dash in looks]
    assert "task 3 3.750" in page.words


@pytest.mark.parametrize(
    "values", [[1.8e-5, 1.9e-5, 2.0e-5], [0.1, 0.2], [0, 5000, 10000], [1e6, 2e6], [0.00025, 0.0005]]
)
def test_labels_differ_where_their_values_do(values: list[float]) -> None:
    found = labels(values)
    assert len(set(found)) == len(values)
    for text, value in zip(found, values, strict=True):
        assert float(text.replace("k", "e3")) == pytest.approx(value)
