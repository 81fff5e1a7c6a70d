from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from page_reader import Page
from sample_run import NASTY, noise

from segweave.estimates import Estimate
from segweave.report.chart import Line, lines_chart
from segweave.report.compare_page import comparison_page, verdict
from segweave.report.compared import Compared, ComparisonResult, Share, Variant
from segweave.report.gallery import Picture, PictureRow
from segweave.report.history import mean_line
from segweave.report.html import number
from segweave.report.pareto import Spot, front, pareto_chart
from segweave.report.train_page import LARGEST

NONE = math.nan


def estimate(mean: float, reach: float = 0.1, p: float = 0.2) -> Estimate:
    return Estimate(mean, mean - reach, mean + reach, (mean - 0.05, mean + 0.05), p)


def variant(name: str, tasks: list[str], place: int) -> Variant:
    """Its values, gains and costs differ from those of every other place."""
    values = {
        task: {"miou": estimate(0.4123 + 0.1 * place + 0.01 * n), "rmse": estimate(1.5678 + place + 0.1 * n)}
        for n, task in enumerate(tasks)
    }
    gains = {task: {"miou": estimate(3.3 * place, 1.0, 0.01), "rmse": estimate(-2.2, 3.0)} for task in tasks}
    return Variant(
        name=name,
        tasks=tasks,
        changes=[f"balancing.method={NASTY}"] if place > 1 else [],
        values=values,
        gains=gains if place else {},
        by_tasks=estimate(5.4 * place, 1.1, 0.031) if place else None,
        by_metrics=estimate(-6.5 * place, 1.2, 0.00032) if place else None,
        seconds=[100.0, 140.0 + 60 * place],
        cost={
            "parameters": 7_650_000 + 1_000_000 * place,
            "macs": 3_210_000_000 + 1_000_000_000 * place,
            "milliseconds": 65.4 + place,
            "peak_megabytes": 87.6 + place,
        },
        curves={task: [[(9, 0.1), (19, 0.2)], [(9, 0.3), (19, 0.6), (29, 0.9)]] for task in tasks},
        steps=1234 + place,
        training_megabytes=432.0 + place,
        networks=1 if place else len(tasks),
    )


def result(*, side: int = 24, images: int = 1) -> ComparisonResult:
    names = ["lanes", NASTY]
    better = {"miou": True, "rmse": False}
    tasks = [
        Compared(names[0], "semantic", "miou", "", better, 77),
        Compared(names[1], "depth", "rmse", "m", better, 66, f"derived from {NASTY}"),
    ]
    picture = Picture(noise(side, side), [(NASTY, (1, 2, 3))], (0.5, 8.0, "m"), [(0, 0, 0), (9, 9, 9)])
    columns = [(column, picture) for column in ("truth", "separate", "multi-task")]
    shown = [(names[0], columns), (names[1], columns[1:])]
    return ComparisonResult(
        name=f"compare {NASTY}",
        lead=NASTY,
        tasks=tasks,
        variants=[variant(name, names, place) for place, name in enumerate(("separate", "multi-task", NASTY))],
        seeds=[3, 8],
        split="test",
        images=88,
        resamples=500,
        checkpoint="Picked on val.",
        budget="Equal steps.",
        cost_where=f"One image on {NASTY}",
        pictures=[PictureRow(f"{NASTY} {n}", noise(side, side), shown) for n in range(images)],
        command=f"segweave compare '{NASTY}'",
        facts={"path": NASTY},
        config=f"tasks: {NASTY}\n",
        notes=[NASTY],
    )


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(comparison_page(result()))


def test_accuracy_by_the_number_of_labels() -> None:
    made = result()
    labels = {
        name: {task.name: 120 + place for task in made.tasks} for place, name in enumerate(("separate", "multi-task"))
    }
    few = replace(variant("others whole", ["lanes"], 3), gains={"lanes": {"miou": estimate(-7.7, 0.5)}})
    shares = [
        Share(0.25, made.variants[:2], labels),
        Share(0.25, [few], {"others whole": {"lanes": 131}}, scarce="lanes"),
        Share(1.0, made.variants[:2], {name: dict.fromkeys(table, 480) for name, table in labels.items()}),
    ]
    text = comparison_page(replace(made, shares=shares))
    page = Page(text)
    charts = [svg["aria-label"] for svg in page.named("svg") if "training labels" in svg.get("aria-label", "")]
    assert len(charts) == 2
    assert charts[0].startswith("lanes: miou ↑ by number of training labels. separate from 0.412")
    assert "others whole" in charts[0]
    assert "others whole" not in charts[1]
    rows = re.findall(r"<tr>(.*?)</tr>", text.partition('id="labels"')[2].partition("</section>")[0], re.DOTALL)
    shown = [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]
    assert shown[1] == ["lanes", "multi-task", "25 %", "121", "0.5123", "+3.3 %", "+2.3 to +4.3 %"]
    assert shown[3] == ["lanes", "others whole", "25 %", "131", "0.7123", "-7.7 %", "-8.2 to -7.2 %"]
    assert len(shown) == 6
    assert "derived from" in shown[4][0]
    assert 'id="labels"' not in comparison_page(made)


SEMANTIC = Compared("semantic", "semantic", "miou", "", {"miou": True}, 50)
DEPTH = Compared("depth", "depth", "rmse", "m", {"rmse": False}, 50)


def pair(task: Compared, old: float, new: float, gain: Estimate | None) -> tuple[Variant, Variant]:
    def one(name: str, value: float, gains: dict[str, dict[str, Estimate]]) -> Variant:
        values = {task.name: {task.headline: estimate(value)}}
        return replace(variant(name, [task.name], 0), values=values, gains=gains)

    gains = {} if gain is None else {task.name: {task.headline: gain}}
    return one("multi-task", new, gains), one("separate", old, {})


def sentence(task: Compared, old: float, new: float, gain: Estimate | None, seeds: int = 3) -> str:
    shared, separate = pair(task, old, new, gain)
    return verdict(task, shared, seeds, separate)


def test_a_verdict_says_what_the_interval_says() -> None:
    assert sentence(SEMANTIC, 0.412, 0.431, Estimate(4.6, 1.2, 8.0, (), 0.01)) == (
        "Sharing helped semantic: miou 0.412 -> 0.431, gain +4.6 % (95 % interval +1.2 to +8.0 %, p 0.01, 3 seeds)."
    )
    assert sentence(SEMANTIC, 0.412, 0.4, Estimate(-2.9, -3.9, -0.04, (), 1e-5)) == (
        "Sharing hurt semantic: miou 0.412 -> 0.400, gain -2.9 % (95 % interval -3.9 to -0.04 %, p < 0.001, 3 seeds)."
    )
    assert sentence(DEPTH, 0.5, 0.49, Estimate(2.0, -1.0, 5.0, (), 0.0625), seeds=1) == (
        "Sharing made no measurable difference for depth: rmse 0.500 -> 0.490 m (lower is better), "
        "gain +2.0 % (95 % interval -1.0 to +5.0 %, p 0.062, 1 seed)."
    )


def test_a_verdict_without_an_interval_does_not_judge() -> None:
    assert sentence(SEMANTIC, 0.412, 0.431, Estimate(4.6, NONE, NONE, (4.6,), NONE), seeds=1) == (
        "Whether sharing helped semantic cannot be told from so few seeds and images: miou 0.412 -> 0.431, gain +4.6 %."
    )
    assert sentence(SEMANTIC, 0.0, 0.431, Estimate(NONE, NONE, NONE, (NONE,), NONE)) == (
        "Whether sharing helped semantic is not known: miou 0.000 -> 0.431, which gives no relative change."
    ).replace("0.000", "0")
    assert sentence(SEMANTIC, 0.412, 0.431, None) == (
        "Sharing was not measured for semantic: no separate network was trained for it."
    )


@pytest.mark.parametrize(("low", "high"), [(0.0, 4.0), (-4.0, 0.0), (0.0, 0.0)])
def test_an_interval_that_touches_zero_shows_no_difference(low: float, high: float) -> None:
    gain = Estimate((low + high) / 2, low, high, (), 0.05)
    assert "no measurable difference" in sentence(SEMANTIC, 0.4, 0.4, gain)


def test_without_the_separate_network_the_verdict_has_one_value() -> None:
    shared, _ = pair(SEMANTIC, 0.4, 0.431, estimate(4.6))
    assert verdict(SEMANTIC, shared, 3).startswith("Sharing helped semantic: miou 0.431, gain +4.6 %")


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_beats(seed: int) -> None:
    """Small whole numbers, so that there are ties and equal points."""
    drawn = torch.randint(0, 6, (12, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    points = [(float(cost), float(gain)) for cost, gain in drawn]
    expected = {
        place
        for place, (cost, gain) in enumerate(points)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
    }
    found = front(points)
    assert len(found) == len(expected)
    assert set(found) == expected
    assert [points[place][0] for place in found] == sorted(points[place][0] for place in found)


def test_the_chart_of_gain_and_cost_is_drawn_to_scale() -> None:
    spots = [
        Spot("separate", 100.0, 0.0, NONE, NONE, "series1"),
        Spot(NASTY, 50.0, 4.0, 2.0, 6.0, "series2"),
        Spot("worse", 75.0, -4.0, -8.0, 0.0, "series3"),
    ]
    page = Page(pareto_chart("gain", "latency", spots))
    discs = [(float(c["cx"]), float(c["cy"])) for c in page.named("circle")]
    (x0, y0), (x1, y1), (x2, y2) = discs
    # tenths of a pixel are what is written
    assert x0 - x2 == pytest.approx(x2 - x1, abs=0.21)
    assert y2 - y0 == pytest.approx(y0 - y1, abs=0.21)
    fills = [c["style"].split(";")[0] for c in page.named("circle")]
    assert fills == ["fill:var(--panel)", "fill:var(--series2)", "fill:var(--panel)"]
    bars = [p["d"] for p in page.named("path") if p.get("class") == "interval"]
    assert len(bars) == 2
    low, high = map(float, re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", bars[0])[0])
    assert y1 == pytest.approx((low + high) / 2, abs=0.11)
    assert page.words.endswith(f"Beaten by no other: {NASTY}.")
    assert "50.0, +4.0 % (+2.0 to +6.0 %)" in page.named("svg")[0]["aria-label"]


def test_names_in_the_chart_lie_apart() -> None:
    """Eight variants of one cost and nearly one gain, as balancing methods are."""
    spots = [Spot(f"method {n}", 20.0, 1.0 + 0.01 * n, -1.0, 3.0, "series1") for n in range(8)]
    page = Page(pareto_chart("gain", "latency", spots))
    boxes = []
    for text in (one for one in page.named("text") if one.get("class") == "name"):
        x, y, width = float(text["x"]), float(text["y"]), 5.5 * len("method 0")
        left = x if text["text-anchor"] == "start" else x - width
        boxes.append((left, y, left + width))
        assert 0 <= left <= left + width <= 360
        assert 0 <= y <= 270
    assert len(boxes) == 8
    for place, (left, y, right) in enumerate(boxes):
        for other_left, other_y, other_right in boxes[place + 1 :]:
            assert abs(y - other_y) >= 6 or right <= other_left or other_right <= left
    places = sorted(float(c["cx"]) for c in page.named("circle"))
    assert all(after - before >= 7.9 for before, after in pairwise(places))


def test_every_part_is_there(page: Page) -> None:
    targets = [a["href"][1:] for a in page.named("a")[1:]]
    assert targets == ["worth", "results", "cost", "curves", "pictures", "again"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert set(targets) <= set(ids)
    assert len(set(ids)) == len(ids)
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for words in (
        "Picked on val.",
        "Equal steps.",
        "500 bootstrap resamples",
        "2 seeds (3, 8)",
        "Intervals from 2 seeds",
    ):
        assert words in page.words


def test_every_number_is_the_given_one(page: Page) -> None:
    given = result()
    for one in given.variants:
        for values in one.values.values():
            for value in values.values():
                assert f"{number(value.mean)}{number(value.low)} to {number(value.high)}" in page.words
        for task in given.tasks:
            each = one.values[task.name][task.headline].each
            assert f"{one.name}{number(each[0])}{number(each[1])}" in page.words
    # by hand: the gains, costs and times of the second and third variant
    for words in ("+5.4 %+4.3 to +6.5 %0.031", "-6.5 %-7.7 to -5.3 %< 0.001", "+10.8 %+9.7 to +11.9 %0.031"):
        assert words in page.words
    for words in (
        "7.65 M3.21 G65.4 ms87.6 MB2 min 0 s432 MB1\u202f234",
        "9.65 M5.21 G67.4 ms89.6 MB3 min 0 s434 MB1\u202f236",
    ):
        assert words in page.words
    assert "77 of 88 images of test have a label" in page.words
    # 66.4 / 65.4 and 8.65 / 7.65
    assert "Sharing needs 102 % of their time and 113 % of their parameters." in page.words


def test_marks_stand_where_the_interval_leaves_out_zero(page: Page) -> None:
    """The gains of miou are above 0 in both sharing variants, those of rmse reach over 0, for both tasks."""
    marks = [span for span in page.named("span") if span.get("role") == "img"]
    assert len(marks) == 4
    assert all(mark["aria-label"].startswith("better than separate: ") for mark in marks)
    assert page.words.count("✓") == 4 + 1  # and in the explanation
    worse = [replace(one, gains=one.gains and {"lanes": {"miou": estimate(-3.0)}}) for one in result().variants]
    words = Page(comparison_page(replace(result(), variants=worse))).words
    assert words.count("✗") == 2 + 1


def test_derived_labels_are_said_to_be(page: Page) -> None:
    origin = f"derived from {NASTY}"
    assert f"Metrics of {NASTY}: {origin}" in page.words
    assert f"{NASTY}: {origin})" in page.words
    assert any(name == "strong" for name, _ in page.elements)


def test_names_are_text_and_nothing_is_fetched() -> None:
    text = comparison_page(result())
    page = Page(text)
    assert len(page.named("script")) == 1
    assert "<script>alert" not in text
    assert page.words.count(NASTY) > 20
    for _, attributes in page.elements:
        for key in ("src", "href", "srcset", "action"):
            assert re.match(r"(#|data:|$)", attributes.get(key, "")), attributes
    assert "url(" not in text
    assert "@import" not in text
    assert all(picture["alt"] for picture in page.named("img"))
    assert len(page.named("img")) == 1 + 3 + 2
    assert f"No truth of {NASTY}" in page.words


def test_the_page_stays_small_whatever_the_pictures() -> None:
    text = comparison_page(replace(result(side=300, images=8), config="x" * 10_000_000))
    assert len(text.encode()) < LARGEST
    assert len(Page(text).named("img")) == 8 * 6


def test_one_task_one_seed_no_cost_no_pictures() -> None:
    whole = result()
    value = Estimate(0.5, NONE, NONE, (0.5,), NONE)
    alone = replace(
        whole.variants[1],
        tasks=["lanes"],
        values={"lanes": {"miou": value, "rmse": value}},
        gains={},
        by_tasks=None,
        by_metrics=None,
        seconds=[10.0],
        cost=None,
        curves={},
    )
    words = Page(
        comparison_page(replace(whole, tasks=whole.tasks[:1], variants=[alone], seeds=[3], pictures=[], notes=[]))
    ).words
    for part in (
        "Without separate networks there is nothing to measure sharing against.",
        "Sharing was not measured for lanes",
        "0.5000no interval",
        "Nothing to draw",
        "There were no validations during training.",
        "There are no pictures.",
        "10.0 s",
        "with one seed, it is not counted",
    ):
        assert part in words
    assert "nan" not in words


def test_what_nothing_tells_is_not_judged() -> None:
    whole = result()
    gain = Estimate(2.0, NONE, NONE, (2.0,), NONE)
    unknown = Estimate(NONE, NONE, NONE, (NONE,), NONE)
    gains = {task.name: {"miou": gain, "rmse": unknown} for task in whole.tasks}
    shared = replace(whole.variants[1], gains=gains, by_tasks=gain, by_metrics=unknown)
    words = Page(comparison_page(replace(whole, variants=[whole.variants[0], shared]))).words
    assert words.count("Not known (no interval).") == 2
    assert "+2.0 %no interval" in words
    assert "nan" not in words
    assert words.count("✓") + words.count("✗") == 2  # in the explanation


def test_costs_fall_back_to_parameters() -> None:
    whole = result()
    costs = [one.cost for one in whole.variants]
    untimed = [
        replace(one, cost={**cost, "milliseconds": NONE})
        for one, cost in zip(whole.variants, costs, strict=True)
        if cost
    ]
    words = Page(comparison_page(replace(whole, variants=untimed[:2]))).words
    assert "parameters in millions →" in words
    assert "7.65 M3.21 G–87.6 MB" in words
    assert "nan" not in words


def test_a_mean_curve_has_the_steps_that_all_seeds_have() -> None:
    lines = [[(9, 0.1), (19, 0.2)], [(9, 0.3), (19, 0.6), (29, 0.9)]]
    found = mean_line(lines)
    assert [step for step, _ in found] == [9, 19]
    assert [value for _, value in found] == pytest.approx([0.2, 0.4])
    assert mean_line([]) == []
    chart = Page(lines_chart("miou", [Line("none", []), Line("both", found, lines)], exact=True))
    drawn = [path for path in chart.named("path") if "style" in path]
    assert [path.get("class") for path in drawn] == ["raw", "raw", None]
    # the line without points keeps its colour to itself
    assert {path["style"] for path in drawn} == {"stroke:var(--series2)"}
    assert chart.words.endswith("both 0.4000")
