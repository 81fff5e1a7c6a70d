"""How far the gradients of the tasks agree: their cosines, how often they conflict, and where they were compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from segweave.report.chart import Line, lines_chart
from segweave.report.heat_map import Cell, heat_map, scale, shade
from segweave.report.history import History, Point
from segweave.report.html import Content, Html, bar, details, join, number, paragraph, table, tag

_SPACES = {
    "features": "at the features that all heads read",
    "parameters": "at the shared parameters",
    "last": "at the parameters of the last layer that all tasks read",
}
_ROWS, _NAMED, _CHARTS = 10, 6, 6


@dataclass(frozen=True)
class _Pair:
    """What the log has about the gradients of two tasks.

    Args:
        tasks: their names.
        cosines: (step, cosine), where it is defined.
        overlaps: (step, share of the images labelled for either that are labelled for both), at every step that
            compared the two.
        blind: why there is no cosine, where there is none.
    """

    tasks: tuple[str, str]
    cosines: Sequence[Point]
    overlaps: Sequence[Point]
    blind: str

    @property
    def name(self) -> str:
        return "\u00a0| ".join(self.tasks)

    @property
    def steps(self) -> int:
        return len(self.cosines)

    @property
    def conflicts(self) -> int:
        """Steps whose cosine is below 0."""
        return sum(cosine < 0 for _, cosine in self.cosines)

    @property
    def share(self) -> float:
        return self.conflicts / self.steps

    @property
    def mean(self) -> float:
        return fmean(cosine for _, cosine in self.cosines)

    @property
    def overlap(self) -> float:
        return fmean(share for _, share in self.overlaps)

    def in_words(self) -> str:
        if not self.cosines:
            return f"{self.name}: {self.blind}"
        counts = f"below 0 in {number(self.conflicts)} of {number(self.steps)} steps"
        return f"{self.name}: mean cosine {self.mean:z.3f}, {counts}, overlap {self.overlap:.2f}"


def gradients_section(tasks: Sequence[str], history: History) -> Html:
    """Heat maps of the mean cosine and of the share of conflicting steps, the pairs in numbers, and cosines by step.

    Args:
        tasks: names, in the network's order.
        history: whose `cosine/a|b` and `overlap/a|b` have the names in that order.
    """
    if len(tasks) < 2:
        return paragraph("With a single task there is nothing to compare.", soft=True)
    if not history.spaces:
        how = (
            "The task gradients were not compared. Gradient methods do so at every step, loss methods with ",
            tag("code", "balancing.monitor: true"),
            ", which changes no result and costs one more backward pass per task.",
        )
        return paragraph(*how, soft=True)
    pairs = {names: _pair(names, history) for names in combinations(tasks, 2)}
    known = sorted((pair for pair in pairs.values() if pair.cosines), key=lambda pair: (-pair.share, pair.mean))
    parts = [paragraph(_where(history), soft=True), _maps(tasks, pairs), _without(list(pairs.values()))]
    if known:
        parts += [_numbers(known, history), _by_step(known)]
    return join(parts)


def _pair(names: tuple[str, str], history: History) -> _Pair:
    key = "|".join(names)
    overlaps = history.training.get(f"overlap/{key}", [])
    if not overlaps:
        blind = "no batch had labels of both"
    elif "features" in history.spaces and not any(share for _, share in overlaps):
        blind = "no image had labels of both"
    else:
        blind = "the gradient of one was zero in every step"
    return _Pair(names, history.training.get(f"cosine/{key}", []), overlaps, blind)


def _where(history: History) -> str:
    places = [f"in {number(count)} steps {_SPACES[space]}" for space, count in history.spaces.most_common()]
    words = (
        f"Two tasks conflict where the cosine between their gradients is below 0. The gradients were compared "
        f"{' and '.join(places)}"
    )
    if set(history.spaces) == {"parameters"}:
        return f"{words}."
    narrow = "at the features" if "features" in history.spaces else "at the last layer"
    return f"{words}; no conflict {narrow} does not imply none at the shared parameters."


def _maps(tasks: Sequence[str], pairs: Mapping[tuple[str, str], _Pair]) -> Html:
    counts = [pair.steps for pair in pairs.values() if pair.cosines]
    least, most = (number(f(counts, default=0)) for f in (min, max))
    steps = f"{most} steps" if least == most else f"{least} to {most} steps"
    cosine = _map(tasks, pairs, f"Mean cosine over {steps}", _cosine_cell)
    share = _map(tasks, pairs, f"Conflicts: percentage of {steps} with a cosine below 0", _share_cell)
    return tag("div", join([tag("div", join([cosine, scale("-1 opposed", "1 alike")])), share]), class_="maps")


def _map(
    tasks: Sequence[str],
    pairs: Mapping[tuple[str, str], _Pair],
    caption: str,
    shown: Callable[[_Pair], tuple[str, float]],
) -> Html:
    """A symmetric table of all pairs, in which `shown` gives the text and colour, from -1 to 1, of one."""

    def cell(row: str, column: str) -> Cell | None:
        if row == column:
            return None
        pair = pairs.get((row, column)) or pairs[column, row]
        text, colour = shown(pair) if pair.cosines else ("–", math.nan)
        return Cell(text, colour, pair.in_words())

    return heat_map(tasks, [[cell(row, column) for column in tasks] for row in tasks], caption)


def _cosine_cell(pair: _Pair) -> tuple[str, float]:
    return f"{pair.mean:z.2f}", shade(pair.mean)


def _share_cell(pair: _Pair) -> tuple[str, float]:
    return f"{100 * pair.share:.0f}", -pair.share


def _without(pairs: Sequence[_Pair]) -> Html:
    """Which pairs have no cosine, by the reason."""
    names: dict[str, list[str]] = {}
    for pair in pairs:
        if not pair.cosines:
            names.setdefault(pair.blind, []).append(pair.name)
    reasons = []
    for reason, of in names.items():
        more = f" and {len(of) - _NAMED} more" if len(of) > _NAMED else ""
        reasons.append(f"{reason} ({', '.join(of[:_NAMED])}{more})")
    return paragraph(f"A dash stands where there is no cosine: {'; '.join(reasons)}.", soft=True) if names else Html()


def _numbers(pairs: Sequence[_Pair], history: History) -> Html:
    partial = any(pair.overlap < 1 for pair in pairs)
    rows: list[list[Content]] = []
    for pair in pairs:
        counts = f"{100 * pair.share:.0f} % ({number(pair.conflicts)} of {number(pair.steps)})"
        rows.append([pair.name, f"{pair.mean:z.3f}", bar(pair.share, counts, second=True), f"{pair.overlap:.2f}"])
    columns = ["tasks", "mean cosine", "conflicting steps", "overlap"]
    if not partial:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    whole = table(columns, rows, "The pairs, the most conflicting first", numeric=(1, 3))
    if len(rows) > _ROWS:
        whole = details(f"The {len(rows)} pairs as a table", whole)
    if not partial:
        return whole
    words = "Overlap is the mean share of the images labelled for either of the two that are labelled for both."
    if "features" in history.spaces:
        words += " At the features, images labelled for one only pull a cosine towards 0."
    return join([whole, paragraph(words, soft=True)])


def _by_step(pairs: Sequence[_Pair]) -> Html:
    charts = [lines_chart(pair.name, [Line("running mean", pair.cosines)], zero=True) for pair in pairs[:_CHARTS]]
    some = f"The {_CHARTS} of {len(pairs)} pairs that conflict most often. " if len(pairs) > _CHARTS else ""
    words = paragraph(f"{some}Each line is the running mean; below 0 the two tasks conflict.", soft=True)
    return join([tag("h3", "Cosine by step"), words, tag("div", join(charts), class_="charts")])
