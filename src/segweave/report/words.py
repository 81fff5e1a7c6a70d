"""Gains and how sure they are, in the words of every page."""

from __future__ import annotations

import math

from segweave.estimates import LEVEL, Estimate
from segweave.report.html import Content, Html, tag

ENOUGH = 5
"""Seeds from which on a page does not warn of their small number."""


def percent(value: float) -> str:
    """With its sign, which a value near 0 keeps by one more digit."""
    return "–" if math.isnan(value) else f"{value:+z.{2 if 0.005 <= abs(value) < 0.05 else 1}f}"


def interval(low: float, high: float) -> str:
    return "no interval" if math.isnan(low) else f"{percent(low)} to {percent(high)} %"


def p_value(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def certainty(gain: Estimate) -> str:
    if math.isnan(gain.low):
        return "no interval"
    return f"{100 * LEVEL:.0f} % interval {interval(gain.low, gain.high)}, p {p_value(gain.p)}"


def seed_count(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def toned(low: float, high: float, text: Content, turned: bool = False) -> Html:
    """In the colour of good or bad where all from `low` to `high` is on one side of 0."""
    up, down = ("bad", "good") if turned else ("good", "bad")
    return tag("span", text, class_=up if low > 0 else down if high < 0 else None)
