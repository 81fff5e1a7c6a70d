"""What advice on grouping tasks rests on, as plain values for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segweave.estimates import Estimate
from segweave.report.history import Point


@dataclass(frozen=True)
class AdvisedTask:
    """A task, what it costs and what there is to learn it from.

    Args:
        name, kind: of the task.
        headline, unit: key of the value that stands for it, and its unit.
        better: whether a higher headline is better.
        importance: the user's weight in the expected gain of a grouping.
        labelled, images: training images with a label for it, and all of them.
        cost: parameters, macs, milliseconds and peak_megabytes of a network for it alone.
        added: parameters, macs and milliseconds that it adds to a network that has the other tasks.
        seconds: of training a network for it alone, by seed; empty where none was trained.
        alone: its headline by such a network.
        origin: how its labels came about where nobody annotated them.
    """

    name: str
    kind: str
    headline: str
    unit: str
    better: bool
    importance: float
    labelled: int
    images: int
    cost: Mapping[str, float]
    added: Mapping[str, float]
    seconds: Sequence[float] = ()
    alone: Estimate | None = None
    origin: str = ""


@dataclass(frozen=True)
class Measure:
    """How related the tasks are by one measure.

    Args:
        key: `transfer`, `lookahead`, `cosine` or `cka`.
        title, unit: for its heat map.
        meaning: one or two sentences: what a number says, and the source.
        values: `values[i][j]` is what task `j` does for task `i`, nan on the diagonal where nothing is meant.
        symmetric: whether both directions are one number.
        curves: by `a|b`, what task `b` does for task `a`, one line of (step, value) per seed; one key for both
            directions where they are one number; empty for what is measured once.
    """

    key: str
    title: str
    unit: str
    meaning: str
    values: Sequence[Sequence[Estimate]]
    symmetric: bool
    curves: Mapping[str, Sequence[Sequence[Point]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """One way to divide the tasks among networks.

    Args:
        groups: names of tasks by network.
        gains: expected gain of each task over a network of its own, in per cent, positive for better.
        gain: their mean, weighted by importance.
        cost: parameters, macs, milliseconds, peak_megabytes and networks, of all networks together.
        fits: whether it keeps the limits.
        title: where it stands for something, such as `all together`.
        costs: parameters, macs, milliseconds and peak_megabytes of each network, in the order of `groups`.
        configs: the file written for each group, in the order of `groups`; empty where none was.
    """

    groups: Sequence[Sequence[str]]
    gains: Mapping[str, float]
    gain: float
    cost: Mapping[str, float]
    costs: Sequence[Mapping[str, float]]
    fits: bool = True
    title: str = ""
    configs: Sequence[str] = ()


@dataclass(frozen=True)
class AdviceResult:
    """Everything that the page tells, as plain values.

    Args:
        name: of the config.
        lead: one line about it.
        tasks: in the network's order.
        measures: the one that the groupings rest on first.
        proposals: the best first, then the next best, with all tasks together and each by itself among them.
        limits: what a grouping may cost, by the keys of `Proposal.cost`.
        exact: whether every grouping was weighed.
        seeds: of the short runs.
        steps: of the optimizer in each of them.
        planned: steps of the config itself.
        split, images: on which gains were measured.
        budget: what was trained, in words.
        cost_where: size, device and threads of the measured costs.
        command: that gives the advice again.
        facts: versions, device, data and the like.
        config: YAML.
        notes: what a reader should know before the numbers.
    """

    name: str
    lead: str
    tasks: Sequence[AdvisedTask]
    measures: Sequence[Measure]
    proposals: Sequence[Proposal]
    limits: Mapping[str, float]
    exact: bool
    seeds: Sequence[int]
    steps: int
    planned: int | None
    split: str
    images: int
    budget: str
    cost_where: str
    command: str
    facts: Mapping[str, str]
    config: str
    notes: Sequence[str] = ()
