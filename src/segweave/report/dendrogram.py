"""Which tasks join first, as a tree in inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segweave.report.chart import labels
from segweave.report.history import ticks
from segweave.report.html import Html, join, number, paragraph, tag

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BELOW = 420, 138, 12, 8, 24, 26
_LETTERS = 19

Merge = tuple[int, int, float]
"""Two clusters and their similarity; clusters are the tasks by position, and then one for each merge."""


def leaf_order(merges: Sequence[Merge], tasks: int) -> list[int]:
    """Positions of the tasks from top to bottom, so that no branches cross."""
    members = [[task] for task in range(tasks)]
    for a, b, _ in merges:
        members.append(members[a] + members[b])
    return members[-1]


def dendrogram(
    names: Sequence[str], merges: Sequence[Merge], title: str, axis: str, colours: Mapping[str, str]
) -> Html:
    """The tree, its tasks to the left; a bracket is as far right as the two that it joins are unlike.

    Args:
        merges: one less than there are names, and at least one; in the order of `groupings.merging_order`.
        axis: what the similarity is, in words.
        colours: of the page's, by name: the networks that the tasks are proposed for.
    """
    height = _TOP + _ROW * len(names) + _BELOW
    values = [similarity for _, _, similarity in merges]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - room, high + room

    def x(similarity: float) -> float:
        return _LEFT + (high - similarity) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    order = leaf_order(merges, len(names))
    places = {task: (float(_LEFT), _TOP + _ROW * (row + 0.5)) for row, task in enumerate(order)}
    base = height - _BELOW
    drawn, words, members = [], [], [[name] for name in names]
    marks = ticks(low, high)
    for value, text in zip(marks, labels(marks), strict=True):
        drawn.append(tag("path", d=f"M{x(value):.1f} {_TOP}V{base}", class_="axis" if value == 0 else "grid"))
        drawn.append(tag("text", text, x=f"{x(value):.1f}", y=base + 17, text_anchor="middle"))
    for place, (a, b, similarity) in enumerate(merges):
        (xa, ya), (xb, yb), right = places[a], places[b], x(similarity)
        bracket = f"M{xa:.1f} {ya:.1f}H{right:.1f}V{yb:.1f}H{xb:.1f}"
        joined = f"{', '.join(members[a])} with {', '.join(members[b])}: {number(similarity, 3)}"
        drawn.append(tag("path", tag("title", joined), d=bracket, class_="branch"))
        places[len(names) + place] = right, (ya + yb) / 2
        members.append(members[a] + members[b])
        words.append(joined)
    for task in order:
        name, y = names[task], places[task][1]
        shown = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        colour = f"fill:var(--{colours[name]})" if name in colours else "fill:var(--edge)"
        drawn.append(tag("circle", cx=_LEFT, cy=f"{y:.1f}", r="4.5", style=colour))
        label = join([tag("title", name), shown])
        drawn.append(tag("text", label, x=_LEFT - 9, y=f"{y + 4:.1f}", text_anchor="end", class_="name"))
    label = f"{title}. {'; '.join(words)}."
    picture = tag("svg", join(drawn), viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=label)
    below = paragraph(f"← more alike · {axis} · less alike →", soft=True)
    return tag("figure", join([tag("figcaption", tag("b", title)), picture, below]), class_="chart tree")
