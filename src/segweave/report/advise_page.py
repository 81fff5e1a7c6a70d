"""The advice's `report.html`: which tasks to train together, what that is expected to bring, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from segweave.estimates import LEVEL, Estimate
from segweave.groupings import merging_order
from segweave.report.advised import AdviceResult, AdvisedTask, Measure, Proposal
from segweave.report.chart import Line, lines_chart
from segweave.report.cost_section import COLUMNS, cost_values
from segweave.report.dendrogram import dendrogram, leaf_order
from segweave.report.heat_map import Cell, heat_map, scale, shade
from segweave.report.history import mean_line
from segweave.report.html import (
    Content,
    Html,
    details,
    document,
    join,
    notes,
    number,
    paragraph,
    section,
    table,
    tag,
)
from segweave.report.pareto import Spot, cost_axis, pareto_chart
from segweave.report.style import SERIES
from segweave.report.train_page import again
from segweave.report.words import ENOUGH, certainty, interval, p_value, percent, seed_count, toned
from segweave.terminal import duration


def advice_page(result: AdviceResult) -> str:
    """The page."""
    parts = {
        "together": ("Which tasks belong together?", [_together(result), notes(result.notes)]),
        "groupings": ("Groupings", [_groupings(result)]),
        "related": ("How related the tasks are", [_related(result)]),
        "tasks": ("Tasks", [_tasks(result)]),
        "again": ("How it was made", [_how(result), again(result.command, result.facts, result.config)]),
    }
    body = join(section(id, title, *content) for id, (title, content) in parts.items())
    return document(result.name, body, result.lead, {id: title for id, (title, _) in parts.items()})


def advice(result: AdviceResult) -> str:
    """What to train together, in one or two plain sentences."""
    best = result.proposals[0]
    several = [_listed(group) for group in best.groups if len(group) > 1]
    single = [name for group in best.groups if len(group) == 1 for name in group]
    if len(best.groups) == 1:
        first = "Train all tasks in one network." if len(result.tasks) > 1 else "There is one task, and one network."
    elif not several:
        first = "Train every task in a network of its own."
    else:
        alone = f", and {_listed(single)} {'by itself' if len(single) == 1 else 'each by itself'}" if single else ""
        first = f"Train {'; '.join(f'{names} together' for names in several)}{alone}."
    return f"{first} The expected gain over separate networks is {percent(best.gain)} %{_against(result)}."


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _against(result: AdviceResult) -> str:
    """The gain of all tasks together, where that is something else than what is proposed."""
    whole = next((one for one in result.proposals[1:] if len(one.groups) == 1), None)
    if whole is None or len(result.tasks) < 2:
        return ""
    return f", and all tasks together would gain {percent(whole.gain)} %"


def _signed(value: float) -> Html:
    return toned(value, value, f"{percent(value)}\u00a0%")


def _together(result: AdviceResult) -> Html:
    best = result.proposals[0]
    cards = [_card(place, best) for place in range(len(best.groups))]
    parts = [paragraph(tag("b", advice(result))), tag("ul", join(cards), class_="cards")]
    if result.limits:
        asked = ", ".join(f"{name} at most {_amount(key, limit)}" for key, name, limit in _limits(result.limits))
        parts.append(paragraph(f"Within the limits: {asked}."))
    parts += [paragraph(words) for words in _doubts(result)]
    return join(parts)


def _card(place: int, proposal: Proposal) -> Html:
    group = proposal.groups[place]
    dot = tag("i", class_="dot", style=f"background:var(--{_colour(place)})", aria_hidden="true")
    rows = [tag("li", join([tag("span", name), tag("b", _signed(proposal.gains[name]))])) for name in group]
    costs = zip(cost_values(proposal.costs[place]), COLUMNS.values(), strict=True)
    cost = ", ".join(f"{value} {name}" for value, (name, _) in costs if value != "–")
    written = [tag("p", tag("code", proposal.configs[place]))] if proposal.configs else []
    body = [tag("h3", join([dot, f"Network {place + 1}"])), tag("ul", join(rows), class_="gains"), tag("p", cost)]
    return tag("li", join([*body, *written]), class_="card")


def _colour(network: int) -> str:
    return f"series{network % SERIES + 1}"


def _limits(limits: Mapping[str, float]) -> list[tuple[str, str, float]]:
    return [(key, COLUMNS[key][0] if key in COLUMNS else key, limit) for key, limit in limits.items()]


def _amount(key: str, value: float) -> str:
    if key not in COLUMNS:
        return number(int(value))
    empty = dict.fromkeys(COLUMNS, math.nan)
    return str(cost_values({**empty, key: value})[list(COLUMNS).index(key)])


def _doubts(result: AdviceResult) -> list[str]:
    """What the reader should hold against the advice."""
    words = []
    if len(result.tasks) > 1:
        chosen = result.measures[0]
        known = [one for row in _between(chosen) for one in row if not math.isnan(one.low)]
        sure = sum(one.low > 0 or one.high < 0 for one in known)
        rests = f"It rests on {chosen.title.lower()} between two tasks at a time, not on networks for these groups"
        words.append(
            f"{rests}; {sure} of its {number(len(known))} intervals leave out 0."
            if known
            else f"{rests}; there are no intervals that would say how much of it is chance."
        )
        if known and not sure:
            words.append("All of it may be chance.")
    if result.planned is not None and result.steps < result.planned:
        short = f"The runs had {number(result.steps)} steps, the config has {number(result.planned)}"
        words.append(f"{short}: a small budget is small evidence, and longer training may turn a result round.")
    if len(result.seeds) < ENOUGH:
        words.append(f"Numbers from {seed_count(len(result.seeds))} are uncertain.")
    return [" ".join(words)] if words else []


def _between(measure: Measure) -> list[list[Estimate]]:
    """The estimates of different tasks; of measures without direction each pair once."""
    return [
        [one for j, one in enumerate(row) if (j > i if measure.symmetric else j != i)]
        for i, row in enumerate(measure.values)
    ]


def _groupings(result: AdviceResult) -> Html:
    names = [task.name for task in result.tasks]
    costs = [name for name, _ in COLUMNS.values()]
    columns = ["", "tasks, a bar between networks", "expected gain", "networks", *costs]
    rows: list[list[Content]] = []
    gains: list[list[Content]] = []
    for place, one in enumerate(result.proposals, start=1):
        said = [tag("small", one.title)] if one.title else []
        name = tag("span", join([" | ".join(", ".join(group) for group in one.groups), *said]), class_="variant wide")
        row = [str(place), name, _signed(one.gain), number(int(one.cost["networks"])), *cost_values(one.cost)]
        rows.append([*row, "yes" if one.fits else "no"] if result.limits else row)
        gains.append([str(place), *(_signed(one.gains[name]) for name in names)])
    weighed = "of all there are" if result.exact else "of those that were tried: there are too many to weigh all"
    words = paragraph(
        f"The best {weighed}, with all tasks together and each by itself. The expected gain is the mean over the "
        f"tasks, weighted by importance; that of a task is the mean of what the others of its network bring it one by "
        f"one (Standley et al. 2020, Fifty et al. 2021), and 0 by itself. Costs are those of all networks of a "
        f"grouping; their memory is that of all loaded at once and run one after the other.",
        soft=True,
    )
    caption = f"Proposals. {result.cost_where}"
    whole = table([*columns, "fits"] if result.limits else columns, rows, caption, numeric=range(2, 8))
    title = "Expected gain of each task"
    each = details(title, table(["", *names], gains, title, numeric=range(1, len(names) + 1)))
    return join([words, whole, each, _pareto(result)])


def _pareto(result: AdviceResult) -> Html:
    if len(result.proposals) < 2:
        return Html()
    axis, key, unit = cost_axis([one.cost for one in result.proposals])
    spots = [
        Spot(one.title or f"{place + 1}", one.cost[key] / unit, one.gain, math.nan, math.nan, _colour(place))
        for place, one in enumerate(result.proposals)
    ]
    words = paragraph(
        "Up gains more, left is cheaper. Numbers are those of the table. A disc is beaten by no other in both, a ring "
        "is; groupings of nearly one cost stand side by side.",
        soft=True,
    )
    return join([tag("h3", "Gain against cost"), words, pareto_chart("Expected gain, % ↑", axis, spots)])


def _related(result: AdviceResult) -> Html:
    names = [task.name for task in result.tasks]
    if len(names) < 2:
        return paragraph("With a single task there is nothing to compare.", soft=True)
    chosen = result.measures[0]
    merges = merging_order(np.array([[one.mean for one in row] for row in chosen.values], dtype=np.float64))
    order = leaf_order(merges, len(names))
    colours = {name: _colour(n) for n, group in enumerate(result.proposals[0].groups) for name in group}
    tree = dendrogram(names, merges, f"Which join first, by {chosen.title.lower()}", _axis(chosen), colours)
    words = (
        "In each table, a row is the task that is helped and a column the task that helps; blue is for, orange "
        "against. The proposal rests on the first measure. The tree joins the tasks by the mean of both directions, "
        "average linkage; dots have the colours of the proposed networks."
    )
    first, *others = [_measure(names, one, order) for one in result.measures]
    maps = tag("div", join([first, tag("div", tree), *others]), class_="pair")
    numbers = [details(f"{one.title} in numbers", _numbers(names, one)) for one in result.measures]
    curves = [_curves(names, one) for one in result.measures if one.curves]
    return join([paragraph(words, soft=True), maps, *numbers, *curves])


def _axis(measure: Measure) -> str:
    return f"{measure.title.lower()}, {measure.unit}" if measure.unit else measure.title.lower()


def _measure(names: Sequence[str], measure: Measure, order: Sequence[int]) -> Html:
    """The table of a measure, its tasks in the order of the tree."""
    sizes = [abs(one.mean) for row in _between(measure) for one in row if math.isfinite(one.mean)]
    most = (max(sizes, default=0.0) or 1.0) if measure.unit else 1.0

    def cell(i: int, j: int) -> Cell | None:
        one = measure.values[i][j]
        if i == j:
            return None
        of = f"{names[i]} with {names[j]}" if measure.symmetric else f"{names[i]}, helped by {names[j]}"
        tone = shade(one.mean, most) if math.isfinite(one.mean) else math.nan
        return Cell(_value(measure, one.mean), tone, f"{of}: {_value(measure, one.mean)} ({_sure(measure, one)})")

    cells = [[cell(i, j) for j in order] for i in order]
    unit = f", {measure.unit}" if measure.unit else ""
    ends = (f"{-most:z.3g} {measure.unit}", f"+{most:.3g} {measure.unit}") if measure.unit else ("-1", "1")
    shown = heat_map([names[i] for i in order], cells, f"{measure.title}{unit}")
    return tag("div", join([shown, scale(*ends), paragraph(measure.meaning, soft=True)]))


def _value(measure: Measure, value: float) -> str:
    if math.isnan(value):
        return "–"
    return percent(value) if measure.unit else f"{value:z.2f}"


def _span(measure: Measure, one: Estimate) -> str:
    if measure.unit or math.isnan(one.low):
        return interval(one.low, one.high)
    return f"{one.low:z.2f} to {one.high:z.2f}"


def _sure(measure: Measure, one: Estimate) -> str:
    if measure.unit or math.isnan(one.low):
        return certainty(one)
    return f"{100 * LEVEL:.0f} % interval {_span(measure, one)}"


def _numbers(names: Sequence[str], measure: Measure) -> Html:
    rows: list[list[Content]] = []
    for i, row in enumerate(measure.values):
        for j, one in enumerate(row):
            if j > i if measure.symmetric else j != i:
                each = ", ".join(_value(measure, value) for value in one.each)
                rows.append([names[i], names[j], _value(measure, one.mean), _span(measure, one), p_value(one.p), each])
    ends = ["task", "and"] if measure.symmetric else ["task", "helped by"]
    columns = [*ends, f"{measure.title}{f', {measure.unit}' if measure.unit else ''}", "95 %", "p", "each seed"]
    return table(columns, rows, measure.title, numeric=(2, 3, 4))


def _curves(names: Sequence[str], measure: Measure) -> Html:
    charts = []
    for name in names:
        lines = []
        for other in names:
            seeds = measure.curves.get(f"{name}|{other}", ())
            if measure.symmetric and not seeds:
                seeds = measure.curves.get(f"{other}|{name}", ())
            lines.append(Line(other, mean_line(seeds)))
        if any(line.points for line in lines):
            charts.append(lines_chart(f"{name} {'with' if measure.symmetric else 'helped by'}", lines, zero=True))
    words = paragraph("Running mean of the mean over the seeds, by step; the numbers are the last ones.", soft=True)
    shown = join([words, tag("div", join(charts), class_="charts")])
    return join([tag("h3", f"{measure.title} by step"), shown])


def _tasks(result: AdviceResult) -> Html:
    rows: list[list[Content]] = [_task(task) for task in result.tasks]
    costs = [name for key, (name, _) in COLUMNS.items() if key != "peak_megabytes"]
    columns = ["task", "labels", "importance", *costs, "peak memory", "training", "headline alone"]
    words = paragraph(
        "Labels are those of the training images, below them their coverage. Each cost is that of a network for the "
        "task alone, below it what the task adds to a network that has the others. Training is the time of a network "
        "for it alone, the mean over the seeds.",
        soft=True,
    )
    return join([words, table(columns, rows, f"Tasks. {result.cost_where}", numeric=range(1, len(columns)))])


def _task(task: AdvisedTask) -> list[Content]:
    origin = f", {task.origin}" if task.origin else ""
    name = join([task.name, tag("small", f"{task.kind}{origin}")])
    share = f"{100 * task.labelled / task.images:.0f} %" if task.images else "–"
    labels = join([f"{number(task.labelled)} of {number(task.images)}", tag("small", share)])
    alone, added = cost_values(task.cost), cost_values({**task.added, "peak_megabytes": math.nan})
    cost = [join([one, tag("small", f"adds {more}")]) for one, more in zip(alone[:3], added[:3], strict=True)]
    value: Content = None
    if task.alone is not None:
        ends = [task.alone.low, task.alone.high]
        span = "no interval" if math.isnan(ends[0]) else " to ".join(number(end) for end in ends)
        shown = f"{task.headline} {number(task.alone.mean)} {task.unit}".rstrip()
        value = join([shown, " ↑" if task.better else " ↓", tag("small", span)])
    time = duration(fmean(task.seconds)) if task.seconds else None
    return [name, labels, f"{task.importance:g}", *cost, alone[3], time, value]


def _how(result: AdviceResult) -> Html:
    count = len(result.seeds)
    steps = f"Each run had {number(result.steps)} steps of the optimizer"
    steps += f"; the config itself has {number(result.planned)}." if result.planned is not None else "."
    measured = f"Gains were measured on the {number(result.images)} images of {result.split}."
    seeds = (
        f"Each number is the mean over {seed_count(count)} ({', '.join(map(str, result.seeds))}) with its "
        f"{100 * LEVEL:.0f} % interval. With many pairs, some intervals leave out 0 by chance."
    )
    search = "Every grouping was weighed." if result.exact else "Groupings were merged and mended step by step."
    return join(map(paragraph, (result.budget, steps, measured, seeds, search)))
