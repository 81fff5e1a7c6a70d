from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from page_reader import Page
from sample_run import NASTY
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from segweave.estimates import Estimate
from segweave.groupings import GroupCost, groupings, merging_order, weigh
from segweave.report.advise_page import advice, advice_page
from segweave.report.advised import AdviceResult, AdvisedTask, Measure, Proposal
from segweave.report.cost_section import COLUMNS
from segweave.report.dendrogram import dendrogram, leaf_order
from segweave.report.heat_map import Cell, heat_map, shade
from segweave.report.style import SHEET

NONE = math.nan
NAMES = [
    "semantic",
    "depth",
    "normals",
    "edges",
    "parts",
    "lanes",
    "saliency",
    "height",
    "instances",
    *map(str, range(3)),
]


def estimates(values: np.ndarray, reach: float) -> list[list[Estimate]]:
    return [[Estimate(v, v - reach, v + reach, (v - 0.25, v + 0.25), 0.031) for v in row] for row in values.tolist()]


def result(tasks: int = 4, names: Sequence[str] = NAMES, limits: dict[str, float] | None = None) -> AdviceResult:
    """Tasks of even and of odd positions are two families."""
    names = names[:tasks]
    drawn = np.random.default_rng(tasks)
    place = np.arange(tasks)
    affinity = np.where((place[:, None] + place) % 2 == 0, 3.0, -2.0) + drawn.normal(0, 0.8, (tasks, tasks))
    np.fill_diagonal(affinity, NONE)
    cosines = np.tanh((affinity + affinity.T) / 20)
    keys = tuple(COLUMNS)
    separate = [
        dict(zip(keys, (9.1e6 + 1e5 * n, 5.2e9 + 1e8 * n, 21.5 + n, 88.4 + n), strict=True)) for n in place.tolist()
    ]
    shared = dict(zip(keys, (1e7 + 2e5 * tasks, 6e9 + 4e8 * tasks, 23.0 + 2.5 * tasks, 95.0 + 3 * tasks), strict=True))
    cost, importance, limits = GroupCost(shared, separate), [1.0 + n % 2 for n in range(tasks)], limits or {}
    found = groupings(affinity, cost, importance, limits, 5).found
    extremes = {"all together": [place.tolist()], "each by itself": [[n] for n in place.tolist()]}
    ends = {name: weigh(groups, affinity, cost, importance, limits) for name, groups in extremes.items()}
    found += [one for one in ends.values() if one.groups not in [other.groups for other in found]]
    titles = {one.groups: name for name, one in ends.items()}
    proposals = [
        Proposal(
            groups=[[names[n] for n in group] for group in one.groups],
            gains=dict(zip(names, one.gains, strict=True)),
            gain=one.gain,
            cost=one.cost,
            costs=[cost([group]) for group in one.groups],
            fits=one.fits,
            title=titles.get(one.groups, ""),
            configs=[f"advice/network_{n + 1}.yaml" for n in range(len(one.groups))] if one is found[0] else [],
        )
        for one in found
    ]
    steps = range(0, 400, 10)
    curves = {
        f"{a}|{b}": [[(step, cosines[i, j] + 0.1 * math.sin(step / 30 + seed)) for step in steps] for seed in range(2)]
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i < j
    }
    return AdviceResult(
        name="advise streets",
        lead="Which tasks of streets.yaml to train together",
        tasks=[
            AdvisedTask(
                name, "depth" if n % 2 else "semantic", "rmse" if n % 2 else "miou", "m" if n % 2 else "", n % 2 == 0,
                importance[n], 400 - 30 * n, 480, separate[n], {key: cost.added[key][n] for key in keys[:3]},
                [63.0 + n, 65.0 + n], Estimate(0.4321 + 0.1 * n, 0.4 + 0.1 * n, 0.46 + 0.1 * n, (0.4, 0.5), 0.01),
                "derived from semantic" if n == 3 else "",
            )
            for n, name in enumerate(names)
        ],
        measures=[
            Measure("transfer", "Transfer gain", "%", "What another task brings.", estimates(affinity, 1.5), False),
            Measure("cosine", "Gradient cosine", "", "Of the task gradients.", estimates(cosines, 0.05), True, curves),
        ],
        proposals=proposals,
        limits=limits,
        exact=True,
        seeds=[0, 1],
        steps=400,
        planned=4000,
        split="val",
        images=100,
        budget="Pairs and single tasks, 400 steps each.",
        cost_where="One image of 256 x 128 pixels on a CPU, 2 threads.",
        command="segweave advise streets.yaml --seeds 2",
        facts={"segweave": "0.1", "device": "cpu"},
        config="tasks: []\n",
        notes=["The labels of edges are derived."],
    )  # fmt: skip


def cells(text: str, table: int) -> tuple[list[str], list[dict[str, str]]]:
    """The names of a heat map's rows, and its cells with their texts, a row after the other."""
    body = re.findall(r'class="scroll matrix agreement".*?</table>', text)[table]
    names = re.findall(r'<th scope="row"[^>]*>(.*?)</th>', body)
    found = re.findall(r"<td([^>]*)>([^<]*)</td>", body.partition("<tbody>")[2])
    return names, [dict(re.findall(r'([\w-]+)="([^"]*)"', attributes)) | {"text": text} for attributes, text in found]


def test_every_part_is_there() -> None:
    page = Page(advice_page(result()))
    targets = [a["href"][1:] for a in page.named("a")[1:]]
    assert targets == ["together", "groupings", "related", "tasks", "again"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert set(targets) <= set(ids)
    assert len(set(ids)) == len(ids)
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert "segweave advise streets.yaml --seeds 2" in page.words
    assert "nan" not in page.words


def test_the_advice_in_plain_words() -> None:
    made = result()
    best, whole = made.proposals[0], next(one for one in made.proposals if one.title == "all together")
    assert [list(group) for group in best.groups] == [["semantic", "normals"], ["depth", "edges"]]
    assert advice(made) == (
        f"Train semantic and normals together; depth and edges together. The expected gain over separate networks is "
        f"+{best.gain:.1f} %, and all tasks together would gain {whole.gain:+.1f} %."
    )
    odd = replace(best, groups=[["semantic", "normals", "depth"], ["edges"]], gain=1.0)
    assert advice(replace(made, proposals=[odd])) == (
        "Train semantic, normals and depth together, and edges by itself. The expected gain over separate networks is "
        "+1.0 %."
    )
    two = replace(best, groups=[["semantic", "normals"], ["depth"], ["edges"]])
    assert "together, and depth and edges each by itself." in advice(replace(made, proposals=[two]))
    assert advice(replace(made, proposals=[whole])).startswith("Train all tasks in one network.")
    alone = next(one for one in made.proposals if one.title == "each by itself")
    assert advice(replace(made, proposals=[alone])).startswith("Train every task in a network of its own. ")


def test_every_number_is_the_given_one() -> None:
    made = result()
    text = advice_page(made)
    page = Page(text)
    for one in made.proposals:
        assert f"{one.gain:+z.1f}\u00a0%" in page.words
        assert f"{one.cost['milliseconds']:#.3g} ms" in page.words
    best = made.proposals[0]
    for name, gain in best.gains.items():
        tone = "good" if gain > 0 else "bad"
        assert f'<span>{name}</span><b><span class="{tone}">{gain:+.1f}\u00a0%</span></b>' in text
    assert f"{best.costs[0]['parameters'] / 1e6:#.3g} M parameters" in page.words
    for path in best.configs:
        assert path in page.words
    for n, task in enumerate(made.tasks):
        assert f"{400 - 30 * n} of 480{100 * (400 - 30 * n) / 480:.0f} %{1 + n % 2}" in page.words
        assert f"{task.cost['milliseconds']:#.3g} ms" in page.words
        assert f"1 min {4 + n} s" in page.words
        assert f"{task.headline} {0.4321 + 0.1 * n:.4f}" in page.words


def test_a_small_budget_is_said_to_be_small() -> None:
    made = result()
    words = Page(advice_page(made)).words
    assert "The runs had 400 steps, the config has 4\u202f000: a small budget is small evidence" in words
    assert "Numbers from 2 seeds are uncertain." in words
    sure = sum(abs(one.mean) > 1.5 for row in made.measures[0].values for one in row)
    assert f"{sure} of its 12 intervals leave out 0." in words
    plenty = Page(advice_page(replace(made, planned=400, seeds=list(range(5))))).words
    assert "small evidence" not in plenty
    assert "are uncertain" not in plenty
    blind = [[Estimate(one.mean, NONE, NONE, (one.mean,), NONE) for one in row] for row in made.measures[0].values]
    unsure = Page(advice_page(replace(made, measures=[replace(made.measures[0], values=blind)], seeds=[0]))).words
    assert "no intervals that would say how much of it is chance" in unsure
    assert "Numbers from 1 seed are uncertain." in unsure
    vague = [[replace(one, low=-9.0, high=9.0) for one in row] for row in made.measures[0].values]
    assert "All of it may be chance." in advice_page(
        replace(made, measures=[replace(made.measures[0], values=vague), *made.measures[1:]])
    )


@pytest.mark.parametrize("tasks", [2, 4, 9, 12])
def test_the_heat_map_has_the_numbers_and_the_colours_of_their_signs(tasks: int) -> None:
    made = result(tasks)
    text = advice_page(made)
    names = [task.name for task in made.tasks]
    values = np.array([[one.mean for one in row] for row in made.measures[0].values])
    rows, found = cells(text, 0)
    assert sorted(rows) == sorted(names)
    assert len(found) == tasks**2
    for place, cell in enumerate(found):
        helped, helps = (names.index(rows[n]) for n in divmod(place, tasks))
        if helped == helps:
            assert cell == {"class": "own", "text": ""}
            continue
        value = values[helped, helps]
        assert cell["text"] == f"{value:+z.1f}" or abs(value) < 0.05
        assert (cell.get("class") == "opposed") == (value < 0)
        share = 100 * math.sqrt(abs(value) / np.nanmax(np.abs(values)))
        assert cell["style"] == f"--p:{share:.0f}%"
        assert cell["title"].startswith(f"{names[helped]}, helped by {names[helps]}: {cell['text']} (95 % interval ")
    assert cells(text, 1)[0] == rows, "the tasks of both tables are in one order"


@pytest.mark.parametrize("tasks", [2, 5, 12])
def test_the_tree_is_that_of_scipy(tasks: int) -> None:
    affinity = np.random.default_rng(tasks).normal(0, 4, (tasks, tasks))
    similar = (affinity + affinity.T) / 2
    np.fill_diagonal(similar, 0)
    # the distance is counted from another place than the code counts it
    expected = linkage(squareform(100 - similar - 100 * np.eye(tasks), checks=False), "average")
    merges = merging_order(affinity)
    assert leaf_order(merges, tasks) == leaves_list(expected).tolist()
    names = NAMES[:tasks]
    drawn = dendrogram(names, merges, "tree", "gain", {names[0]: "series2"})
    page = Page(drawn)
    paths = [path["d"] for path in page.named("path") if path.get("class") == "branch"]
    brackets = [tuple(map(float, re.findall(r"-?[\d.]+", path))) for path in paths]
    heights = 100 - expected[:, 2]
    assert len(brackets) == tasks - 1
    # right is unlike, to scale; tenths of a pixel are what is written
    rights = np.array([bracket[2] for bracket in brackets])
    if tasks > 2:
        slope, start = np.polyfit(heights, rights, 1)
        assert slope < 0
        assert slope * heights + start == pytest.approx(rights, abs=0.11)
    leaves = [(float(one["cy"]), one["style"]) for one in page.named("circle")]
    assert leaves == sorted(leaves)
    assert [style for _, style in leaves].count("fill:var(--series2)") == 1
    at = {round(height): names[task] for (height, _), task in zip(leaves, leaves_list(expected), strict=True)}
    texts = {round(float(text["y"]) - 4): text for text in page.named("text") if text.get("class") == "name"}
    assert texts.keys() == at.keys()
    assert re.findall("(?:<title>([^<]*)</title>)\\1", drawn) == [at[place] for place in sorted(at)]
    label = page.named("svg")[0]["aria-label"]
    first = merges[0]
    assert f"{names[first[0]]} with {names[first[1]]}: " in label


def test_what_was_not_measured_has_a_dash_and_no_colour() -> None:
    made = result(3)
    unknown = Estimate(NONE, NONE, NONE, (NONE, NONE), NONE)
    values = [list(row) for row in made.measures[0].values]
    values[0][1] = values[1][0] = unknown
    task = replace(made.tasks[0], alone=None, seconds=(), cost={**made.tasks[0].cost, "milliseconds": NONE})
    proposals = [replace(one, cost={**one.cost, "milliseconds": NONE}) for one in made.proposals]
    text = advice_page(
        replace(
            made,
            tasks=[task, *made.tasks[1:]],
            measures=[replace(made.measures[0], values=values)],
            proposals=proposals,
        )
    )
    assert "nan" not in Page(text).words
    assert "parameters in millions →" in Page(text).words
    _, found = cells(text, 0)
    dashes = [cell for cell in found if cell["text"] == "–"]
    assert len(dashes) == 2
    assert all("style" not in cell and cell["title"].endswith("– (no interval)") for cell in dashes)


def test_limits_are_said_and_kept() -> None:
    limits = {"milliseconds": 70.0, "networks": 2.0}
    words = Page(advice_page(result(limits=limits))).words
    assert "Within the limits: latency at most 70.0 ms, networks at most 2." in words
    assert "fits" in words
    assert "fits" not in Page(advice_page(result())).words


def test_names_are_text() -> None:
    long = "a task with a name that is far too long for a tree"
    text = advice_page(result(3, [NASTY, long, "depth"]))
    page = Page(text)
    assert len(page.named("script")) == 1
    assert "<script>alert" not in text
    assert page.words.count(NASTY) > 5
    assert page.words.count(long) > 5
    assert f"{long[:18]}…" in page.words
    assert "url(" not in text


def test_one_task_has_nothing_to_share() -> None:
    words = Page(advice_page(result(1))).words
    assert "There is one task, and one network. The expected gain over separate networks is +0.0 %." in words
    assert "With a single task there is nothing to compare." in words
    assert "nan" not in words


def test_curves_are_of_both_directions_where_they_are_one_number() -> None:
    page = Page(advice_page(result(3)))
    labels = [svg["aria-label"] for svg in page.named("svg") if " by step" in svg["aria-label"]]
    assert [label.split(" by step")[0] for label in labels] == ["semantic with", "depth with", "normals with"]
    assert "semantic from" in labels[2]
    assert "depth from" in labels[2]
    made = result(3)
    one_way = replace(made.measures[1], symmetric=False)
    labels = [svg["aria-label"] for svg in Page(advice_page(replace(made, measures=[one_way]))).named("svg")]
    assert [label.split(" by step")[0] for label in labels if " by step" in label] == [
        "semantic helped by",
        "depth helped by",
    ]


def test_no_rule_for_other_parts_reaches_the_cells() -> None:
    """A cell with a class that lays out pictures elsewhere would be no cell any more."""
    assert not re.search(r"(^|[}\n,])\.(opposed|own)\b", SHEET)


def test_shades_keep_small_numbers_visible() -> None:
    assert [shade(value, 4.0) for value in (-4.0, -1.0, 0.0, 0.04, 9.0)] == pytest.approx([-1, -0.5, 0, 0.1, 1])
    text = heat_map(["a", "b"], [[None, Cell("1", 0.5, "x")], [Cell("-1", -0.25, "y"), None]], "words")
    assert re.findall(r'<td style="--p:(\d+)%"( class="opposed")?', text) == [("50", ""), ("25", ' class="opposed"')]
