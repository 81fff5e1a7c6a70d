"""What a comparison found, as plain values for its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segweave.estimates import SEPARATE, SHARED, Estimate
from segweave.report.gallery import PictureRow
from segweave.report.history import Point


@dataclass(frozen=True)
class Compared:
    """A task of the comparison.

    Args:
        name, kind: of the task.
        headline, unit: key of the value that stands for it, and its unit.
        better: every key of the metric, with whether a higher value is better.
        labelled: measured images with a label for it.
        origin: how its labels came about where nobody annotated them.
    """

    name: str
    kind: str
    headline: str
    unit: str
    better: Mapping[str, bool]
    labelled: int
    origin: str = ""


@dataclass(frozen=True)
class Variant:
    """One way to train, over all seeds.

    Args:
        name: `separate` (one network per task), `multi-task` (the config), or a variant's own.
        tasks: that it was trained for.
        changes: to the config, such as `balancing.method=upgrad`.
        values: by task and key of its metric, on the measured split.
        gains: by task and key, the change against `separate` in per cent, positive for better; empty for `separate`
            itself and where there are no separate networks.
        by_tasks: mean over the tasks of the gains of their headlines, in per cent; higher is better.
        by_metrics: mean over the metrics of the gains with their sign changed, in per cent; lower is better.
        seconds: of training, by seed; the sum over the networks.
        cost: parameters, macs, milliseconds and peak_megabytes, as `cost_table` gives them for a network or for the
            sum of separate ones; nan for what was not measured.
        curves: by task, a line of (step, headline on the validation images) per seed.
        steps: of the optimizer, in each network.
        training_megabytes: peak memory of training, the largest over networks and seeds, in 10^6 bytes; nan where it
            was not measured.
        networks: that answer all tasks together.
    """

    name: str
    tasks: Sequence[str]
    changes: Sequence[str]
    values: Mapping[str, Mapping[str, Estimate]]
    gains: Mapping[str, Mapping[str, Estimate]]
    by_tasks: Estimate | None
    by_metrics: Estimate | None
    seconds: Sequence[float]
    cost: Mapping[str, float] | None
    curves: Mapping[str, Sequence[Sequence[Point]]]
    steps: int
    training_megabytes: float = math.nan
    networks: int = 1


@dataclass(frozen=True)
class Share:
    """The ways to train on a share of the labels.

    Args:
        fraction: of the training images, or of the labels of the task `scarce` alone.
        variants: gains are relative to the separate networks on that share.
        labels: training labels by variant and task.
        scarce: the task that has few labels while the others keep theirs; empty for shares of the images.
    """

    fraction: float
    variants: Sequence[Variant]
    labels: Mapping[str, Mapping[str, int]]
    scarce: str = ""


@dataclass(frozen=True)
class ComparisonResult:
    """Everything that the page tells, as plain values.

    Args:
        name: of the comparison.
        lead: one line about it.
        tasks: in the network's order.
        variants: in the order of their columns and colours; `multi-task` is among them.
        seeds: that each variant was trained with.
        split, images: that were measured.
        resamples: of the images, for the intervals.
        checkpoint: which weights were measured, and on what split they were picked.
        budget: what is equal among the variants.
        cost_where: size, device and threads of the measured costs.
        pictures: example images.
        command: that compares the same again.
        facts: versions, device, data and the like.
        config: YAML.
        notes: what a reader should know before the numbers.
        shares: the same on fewer labels, the fewest first.
    """

    name: str
    lead: str
    tasks: Sequence[Compared]
    variants: Sequence[Variant]
    seeds: Sequence[int]
    split: str
    images: int
    resamples: int
    checkpoint: str
    budget: str
    cost_where: str
    pictures: Sequence[PictureRow]
    command: str
    facts: Mapping[str, str]
    config: str
    notes: Sequence[str] = ()
    shares: Sequence[Share] = ()

    @property
    def shared(self) -> Variant:
        return next(variant for variant in self.variants if variant.name == SHARED)

    @property
    def separate(self) -> Variant | None:
        return next((variant for variant in self.variants if variant.name == SEPARATE), None)
