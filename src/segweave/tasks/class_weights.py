"""Factors of the classes in a loss, from how often each class occurs in the training labels.

Places are what a loss is averaged over: the labelled pixels of a map, or the images of a whole-image task. A class that
occurs nowhere gets 0, and no other class's factor depends on it. The losses divide by the factors of what they saw, so
a common scale changes no training; each function states the scale that it has, for the numbers to be read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from segweave.catalogue import check, signature_options
from segweave.errors import ConfigError, nearest
from segweave.losses import LOSSES
from segweave.losses.class_mass import ClassWeighted

Weights = Sequence[float] | str | Mapping[str, Any] | None
"""`class_weights` as a config has it: a factor per class, a weighting's name or `{name: ..., options}`, or none."""


class Occurrence(NamedTuple):
    """How often each of C classes occurs.

    Args:
        places: n_c, the labelled places of class c.
        images: in how many images class c occurs.
        around: the labelled places, of any class, of the images in which class c occurs.
    """

    places: Int64[np.ndarray, " C"]
    images: Int64[np.ndarray, " C"]
    around: Int64[np.ndarray, " C"]


def occurrence(targets: Iterable[Tensor], classes: int) -> Occurrence:
    """Counts encoded targets, one an image: integers of any shape, of which those outside 0 to C - 1 do not count."""
    places, images, around = (np.zeros(classes, np.int64) for _ in range(3))
    for target in targets:
        values = target.numpy().ravel()
        counts = np.bincount(values[(values >= 0) & (values < classes)], minlength=classes)
        places += counts
        images += counts > 0
        around += (counts > 0) * counts.sum()
    return Occurrence(places, images, around)


def balanced(seen: Occurrence) -> Float64[np.ndarray, " C"]:
    """N / (K n_c), with N the places of all classes and K the classes that occur: 1 on average over the places."""
    present = seen.places > 0
    return _where(present, seen.places.sum() / (max(1, present.sum()) * np.maximum(seen.places, 1)))


def inverse(seen: Occurrence, *, power: float = 1.0) -> Float64[np.ndarray, " C"]:
    """1 / f_c^power, with f_c = n_c / N the class's frequency, scaled to 1 on average over the classes that occur.

    A power of 1 has the ratios of `balanced`, and 0.5 their square roots.

    Args:
        power: above 0, and at most 1.

    Raises:
        ConfigError: a power out of range.
    """
    if not 0 < power <= 1:
        raise ConfigError(f"class_weights.power: found {power}; expected above 0, and at most 1")
    frequencies = np.maximum(seen.places, 1) / max(1, seen.places.sum())
    return _averaging_1(seen.places > 0, frequencies**-power)


def median_frequency(seen: Occurrence) -> Float64[np.ndarray, " C"]:
    """median(f) / f_c, with f_c the share of the class in the places of those images that show it.

    The median is over the classes that occur; one of its frequency has the factor 1. D. Eigen & R. Fergus, Predicting
    depth, surface normals and semantic labels with a common multi-scale convolutional architecture (2015), section
    6.3.2.
    """
    present = seen.places > 0
    frequencies = np.maximum(seen.places, 1) / np.maximum(seen.around, 1)
    return _where(present, np.median(frequencies[present]) / frequencies if present.any() else frequencies)


def effective_number(
    seen: Occurrence, *, beta: float = 0.999, of: Literal["images", "places"] = "images"
) -> Float64[np.ndarray, " C"]:
    """(1 - beta) / (1 - beta^m_c), m_c the class's samples, scaled to 1 on average over the classes that occur.

    Y. Cui et al., Class-balanced loss based on effective number of samples (2019), sections 3 and 4. With m_c far above
    1 / (1 - beta) all classes weigh the same, as they do with pixels for samples unless beta is very near to 1.

    Args:
        beta: 0 to below 1; 0 weighs all alike, and towards 1 the ratios become those of 1 / m_c.
        of: a sample is an image that shows the class, because its pixels resemble each other, or every place.

    Raises:
        ConfigError: a beta out of range.
    """
    if not 0 <= beta < 1:
        raise ConfigError(f"class_weights.beta: found {beta}; expected 0 or more, and below 1")
    samples = seen.images if of == "images" else seen.places
    return _averaging_1(samples > 0, (1 - beta) / (1 - beta ** np.maximum(samples, 1)))


WEIGHTINGS = {
    "balanced": balanced,
    "inverse": inverse,
    "median_frequency": median_frequency,
    "effective_number": effective_number,
}


def class_weights(seen: Occurrence, weighting: str | Mapping[str, Any]) -> list[float]:
    """The factors of the classes by a weighting's name, or `{name: ..., options}`."""
    name, options = _name_and_options(weighting)
    return WEIGHTINGS[name](seen, **options).tolist()


def told(classes: Sequence[str], weights: Sequence[float]) -> str:
    """The factors in a line of text."""
    pairs = zip(classes, weights, strict=True)
    return f"class weights {', '.join(f'{name} {weight:.3g}' for name, weight in pairs)}"


def takes_factors(losses: Iterable[str]) -> bool:
    """Whether one of the losses takes a factor per class."""
    return any(issubclass(LOSSES.load(name), ClassWeighted) for name in losses)


def checked(
    weights: Weights, classes: int, known: Sequence[str], losses: Collection[str], task: str
) -> list[float] | str | Mapping[str, Any] | None:
    """A task's `class_weights`, a factor per class as floats.

    Args:
        known: the weightings that the task can take.
        losses: of the task, by name.

    Raises:
        ConfigError: neither a factor per class nor one of `known` with right options, or no loss that takes factors.
    """
    where = f"tasks.{task}.class_weights"
    if weights is None:
        return None
    if not takes_factors(losses):
        taking = " or ".join(name for name in LOSSES if issubclass(LOSSES.load(name), ClassWeighted))
        raise ConfigError(
            f"{where}: found {weights!r}, and no loss of {', '.join(losses)} takes them; expected {taking}"
        )
    if isinstance(weights, str | Mapping):
        _check_weighting(weights, known, where)
        return weights
    factors = [float(weight) for weight in weights]
    if len(factors) != classes or not all(0 <= factor < math.inf for factor in factors):
        raise ConfigError(f"{where}: found {weights}; expected {classes} numbers, finite and none negative")
    return factors


def _check_weighting(weighting: str | Mapping[str, Any], known: Sequence[str], where: str) -> None:
    name, options = _name_and_options(weighting)
    if name not in known:
        raise ConfigError(f"{where}: found {name!r}; expected {', '.join(known)}; did you mean {nearest(name, known)}?")
    check(options, signature_options(f"{__name__}:{name}")[0], where)
    one = np.ones(1, np.int64)
    try:
        WEIGHTINGS[name](Occurrence(one, one, one), **options)
    except ConfigError as error:
        raise ConfigError(f"{where.removesuffix('class_weights')}{error}") from None


def _name_and_options(weighting: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(weighting, str):
        return weighting, {}
    return str(weighting.get("name")), {key: value for key, value in weighting.items() if key != "name"}


def _where(present: np.ndarray, factors: np.ndarray) -> Float64[np.ndarray, " C"]:
    return np.where(present, factors, 0.0)


def _averaging_1(present: np.ndarray, factors: np.ndarray) -> Float64[np.ndarray, " C"]:
    return _where(present, factors / (factors[present].mean() if present.any() else 1))
