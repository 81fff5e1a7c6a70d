"""A comparison's `report.html`: whether sharing one network was worth it, what it cost, and how that was measured."""

from __future__ import annotations

import math
from statistics import fmean

from segweave.estimates import LEVEL, SEPARATE, Estimate
from segweave.report.chart import Line, lines_chart
from segweave.report.compared import Compared, ComparisonResult, Variant
from segweave.report.cost_section import COLUMNS, cost_value, cost_values, sharing
from segweave.report.gallery import grid_html
from segweave.report.history import mean_line
from segweave.report.html import (
    Content,
    Html,
    arrow,
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
from segweave.report.labels_section import labels_section
from segweave.report.pareto import Spot, cost_axis, pareto_chart
from segweave.report.style import SERIES
from segweave.report.train_page import again, fitted
from segweave.report.words import ENOUGH, certainty, interval, p_value, percent, seed_count, toned
from segweave.terminal import duration

_OVER_TASKS, _OVER_METRICS = "Δm over tasks", "Δm % over metrics"
_ZERO = Estimate(0.0, math.nan, math.nan, (), math.nan)


def verdict(task: Compared, variant: Variant, seeds: int, separate: Variant | None = None) -> str:
    """Whether sharing helped a task, in one plain sentence.

    It helped where the interval of the headline's gain lies above 0 and hurt where it lies below.

    Args:
        variant: that shares.
        seeds: how many there were.
        separate: whose value the sentence begins with, where it is given.
    """
    gain = variant.gains.get(task.name, {}).get(task.headline)
    if gain is None:
        return f"Sharing was not measured for {task.name}: no separate network was trained for it."
    ends = [number(one.values[task.name][task.headline].mean, 3) for one in (separate, variant) if one]
    change = f"{task.headline} {' -> '.join(ends)} {task.unit}".rstrip()
    change += "" if task.better[task.headline] else " (lower is better)"
    if math.isnan(gain.mean):
        return f"Whether sharing helped {task.name} is not known: {change}, which gives no relative change."
    change += f", gain {percent(gain.mean)} %"
    if math.isnan(gain.low):
        return f"Whether sharing helped {task.name} cannot be told from so few seeds and images: {change}."
    what = "helped" if gain.low > 0 else "hurt" if gain.high < 0 else "made no measurable difference for"
    return f"Sharing {what} {task.name}: {change} ({certainty(gain)}, {seed_count(seeds)})."


def comparison_page(result: ComparisonResult) -> str:
    """The page, smaller than `train_page.LARGEST` bytes."""
    return fitted(lambda pictures: _page(result, pictures))


def _page(result: ComparisonResult, pictures: int) -> str:
    parts = {
        "worth": ("Is sharing worth it?", [_worth(result), notes(result.notes)]),
        "results": ("Results", [_results(result), _variants(result)]),
        "cost": ("Accuracy against cost", [_costs(result)]),
        **({"labels": ("Fewer labels", [labels_section(result)])} if result.shares else {}),
        "curves": ("Curves", [_curves(result)]),
        "pictures": ("Pictures", [grid_html([task.name for task in result.tasks], result.pictures, pictures)]),
        "again": ("How it was made", [_how(result), again(result.command, result.facts, result.config)]),
    }
    body = join(section(id, title, *content) for id, (title, content) in parts.items())
    return document(result.name, body, result.lead, {id: title for id, (title, _) in parts.items()})


def _worth(result: ComparisonResult) -> Html:
    shared = result.shared
    parts = [tag("ul", join(_card(result, task) for task in result.tasks), class_="cards"), tag("h3", "On the whole")]
    if shared.by_tasks is None or shared.by_metrics is None:
        return join([*parts, paragraph("Without separate networks there is nothing to measure sharing against.")])
    over_tasks = (
        "Mean over the tasks of the relative gain of each one's headline against its separate network (Maninis et al. "
        "2019). Higher is better: above 0, the shared network does better."
    )
    over_metrics = (
        "Mean over all metrics of their relative change, positive for worse (Navon et al. 2022, section 6). Lower is "
        "better: below 0, the shared network does better."
    )
    cards = [
        _delta(f"{_OVER_TASKS} ↑", shared.by_tasks, over_tasks, turned=False),
        _delta(f"{_OVER_METRICS} ↓", shared.by_metrics, over_metrics, turned=True),
    ]
    parts.append(tag("ul", join(cards), class_="cards"))
    if len(result.seeds) < ENOUGH:
        few = f"Intervals from {seed_count(len(result.seeds))} are wide, and a small budget is small evidence"
        parts.append(paragraph(few, ": longer training may turn a result round."))
    return join(parts)


def _card(result: ComparisonResult, task: Compared) -> Html:
    gain = result.shared.gains.get(task.name, {}).get(task.headline)
    heading = tag("h3", join([task.name, tag("span", f" · {task.kind}", class_="soft")]))
    big = "–" if gain is None or math.isnan(gain.mean) else toned(gain.low, gain.high, f"{percent(gain.mean)} %")
    origin = [tag("p", tag("strong", task.origin))] if task.origin else []
    words = verdict(task, result.shared, len(result.seeds), result.separate)
    words = words.replace(" -> ", "\u00a0→ ").replace(" %", "\u00a0%")  # no line breaks there
    labelled = f"{number(task.labelled)} of {number(result.images)} images of {result.split} have a label"
    body = [heading, tag("p", big, class_="big"), *origin, tag("p", words, class_="verdict"), tag("p", labelled)]
    return tag("li", join(body), class_="card")


def _delta(name: str, value: Estimate, meaning: str, turned: bool) -> Html:
    big = toned(value.low, value.high, f"{percent(value.mean)} %", turned)
    gained, lost = (value.high < 0, value.low > 0) if turned else (value.low > 0, value.high < 0)
    plain = "Sharing gained" if gained else "Sharing lost" if lost else "No measurable difference"
    plain = "Not known" if math.isnan(value.low) else plain
    words = [tag("p", f"{plain} ({certainty(value)}).".replace(" %", "\u00a0%"), class_="verdict"), tag("p", meaning)]
    return tag("li", join([tag("h3", name), tag("p", big, class_="big"), *words]), class_="card")


def _name(variant: Variant) -> Html:
    return tag("span", variant.name, class_="variant")


def _results(result: ComparisonResult) -> Html:
    words = (
        f"Means over {seed_count(len(result.seeds))} on the {number(result.images)} images of {result.split}, below "
        f"them the {100 * LEVEL:.0f} % interval. The bold row is the headline. ✓ better and ✗ worse than separate "
        f"networks, where the interval of the gain, paired by seed and image, leaves out 0."
    )
    return join([paragraph(words, soft=True), *(_metrics(result, task) for task in result.tasks)])


def _metrics(result: ComparisonResult, task: Compared) -> Html:
    variants = [variant for variant in result.variants if task.name in variant.values]
    rows: list[list[Content]] = []
    for key, higher in task.better.items():
        values = [variant.values[task.name][key] for variant in variants]
        if not higher and key != task.headline and not any(value.mean for value in values):
            continue  # shares of nothing that went wrong
        gains = [variant.gains.get(task.name, {}).get(key) for variant in variants]
        row: list[Content] = [f"{key}\u00a0{arrow(higher)}"]
        row += [_cell(value, gain) for value, gain in zip(values, gains, strict=True)]
        rows.append([tag("b", cell) for cell in row] if key == task.headline else row)
    origin = f": {task.origin}" if task.origin else ""
    columns = [task.name, *(variant.name for variant in variants)]
    shown = table(columns, rows, f"Metrics of {task.name}{origin}", numeric=range(1, len(columns)))
    if len(result.seeds) < 2:
        return shown
    each = [[_name(one), *one.values[task.name][task.headline].each] for one in variants]
    seeds = table(["", *(f"seed {seed}" for seed in result.seeds)], each, f"{task.headline} of {task.name}")
    return join([shown, details(f"{task.headline} of each seed", seeds)])


def _cell(value: Estimate, gain: Estimate | None) -> Html:
    span = "no interval" if math.isnan(value.low) else f"{number(value.low)} to {number(value.high)}"
    mark = Html()
    if gain is not None and (gain.low > 0 or gain.high < 0):
        sign, what = ("✓", "better") if gain.low > 0 else ("✗", "worse")
        words = f"{what} than separate: {percent(gain.mean)} %, {certainty(gain)}"
        mark = join([toned(gain.low, gain.high, tag("span", sign, role="img", aria_label=words, title=words)), " "])
    return join([mark, number(value.mean), tag("small", span)])


def _variants(result: ComparisonResult) -> Html:
    rows: list[list[Content]] = []
    for variant in result.variants:
        changes = join((tag("code", change) for change in variant.changes), " ") or "none"
        row: list[Content] = [_name(variant)]
        for value in (variant.by_tasks, variant.by_metrics):
            if value is None:
                row += ["the reference" if variant.name == SEPARATE else None, None]
            else:
                whole = join([f"{percent(value.mean)} %", tag("small", interval(value.low, value.high))])
                row += [whole, p_value(value.p)]
        rows.append([*row, changes, ", ".join(variant.tasks)])
    columns = ["variant", f"{_OVER_TASKS} ↑", "p", f"{_OVER_METRICS} ↓", "p", "changes to the config", "tasks"]
    origins = "; ".join(f"{task.name}: {task.origin}" for task in result.tasks if task.origin)
    caption = f"All variants against separate networks{f' ({origins})' if origins else ''}"
    return join([tag("h3", "All variants"), table(columns, rows, caption, numeric=range(1, 5))])


def _pareto(result: ComparisonResult) -> Html:
    measured = [
        (f"series{place % SERIES + 1}", variant.name, variant.cost, gain)
        for place, variant in enumerate(result.variants)
        if (gain := _ZERO if variant.name == SEPARATE else variant.by_tasks) and variant.cost is not None
        if math.isfinite(gain.mean)
    ]
    if len(measured) < 2:
        return paragraph("Nothing to draw: fewer than two variants have both a measured cost and a gain.", soft=True)
    axis, key, unit = cost_axis([cost for _, _, cost, _ in measured])
    spots = [
        Spot(name, cost[key] / unit, gain.mean, gain.low, gain.high, colour) for colour, name, cost, gain in measured
    ]
    words = (
        f"Up is more accurate, left is cheaper. Bars are {100 * LEVEL:.0f} % intervals; separate networks are at 0 by "
        f"definition. A disc is beaten by no other in both, a ring is; variants of nearly one cost stand side by side."
    )
    return tag("div", join([paragraph(words, soft=True), pareto_chart(f"{_OVER_TASKS}, % ↑", axis, spots)]))


def _costs(result: ComparisonResult) -> Html:
    rows: list[list[Content]] = []
    for variant in result.variants:
        cost = [None] * len(COLUMNS) if variant.cost is None else cost_values(variant.cost)
        time = duration(fmean(variant.seconds)) if variant.seconds else None
        memory = cost_value("peak_megabytes", variant.training_megabytes)
        rows.append([_name(variant), variant.networks, *cost, time, memory, variant.steps])
    columns = ["variant", "networks", *(name for name, _ in COLUMNS.values())]
    columns += ["training", "training memory", "steps"]
    whole = table(columns, rows, result.cost_where, numeric=range(1, len(columns)))
    words = paragraph(
        "Of separate networks, the sum; their peak memory is that of all loaded at once and run one after the other. "
        "Training is the time of one seed, the mean over the seeds; its memory is the peak, of the largest network.",
        soft=True,
    )
    separate, shared = result.separate, result.shared
    drawn = [_pareto(result)]
    if separate and separate.cost and shared.cost and not math.isnan(shared.cost["milliseconds"]):
        drawn.append(tag("div", sharing(shared.cost, separate.cost, separate.networks), class_="tight"))
    return join([tag("div", join(drawn), class_="pair"), tag("h3", "Cost of each variant"), whole, words])


def _curves(result: ComparisonResult) -> Html:
    charts = []
    for task in result.tasks:
        seeds = [variant.curves.get(task.name, ()) for variant in result.variants]
        lines = [
            Line(variant.name, mean_line(each), each if len(each) > 1 else ())
            for variant, each in zip(result.variants, seeds, strict=True)
        ]
        if any(line.points for line in lines):
            title = f"{task.name}: {task.headline} {arrow(task.better[task.headline])}"
            charts.append(lines_chart(title, lines, exact=True))
    if not charts:
        return paragraph("There were no validations during training.", soft=True)
    words = (
        "The headline on the validation images while training, by step: the strong line is the mean over the seeds, "
        "faint lines are single ones. The numbers are the last ones of each line, not those of the weights that were "
        "kept."
    )
    return join([paragraph(words, soft=True), tag("div", join(charts), class_="charts")])


def _how(result: ComparisonResult) -> Html:
    count = len(result.seeds)
    seeds = ", ".join(map(str, result.seeds))
    intervals = (
        f"Each value is the mean over {seed_count(count)} ({seeds}). Its {100 * LEVEL:.0f} % interval counts two "
        f"causes of chance: the images, by {number(result.resamples)} bootstrap resamples of them, and the seed, by "
        f"the spread between seeds{' (with one seed, it is not counted)' if count == 1 else ''}. It is that of "
        f"Student's t with the degrees of freedom of Welch and Satterthwaite. All variants are resampled alike, so "
        f"that gains are paired by seed and image. p is that of the two-sided test that the mean gain is 0; with many "
        f"variants and metrics some p below 0.05 come by chance."
    )
    measured = f"Measured on the {number(result.images)} images of {result.split}."
    return join(map(paragraph, (result.budget, result.checkpoint, measured, intervals)))
