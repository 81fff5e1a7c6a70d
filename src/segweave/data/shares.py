"""Splits by share: which split an image is drawn to by its name alone, on every machine the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping

from segweave.errors import ConfigError

VAL_SHARE = 0.2
"""Of the images that validate where nothing else is said."""


def checked(splits: Mapping[str, str | float | int]) -> dict[str, str | float]:
    """`data.splits` with its shares as floats. Raises ConfigError for shares that do not add up."""
    shares = [float(rule) for rule in splits.values() if not isinstance(rule, str)]
    if not all(0 < share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
        raise ConfigError(f"data.splits: found shares {shares}; expected each above 0, and at most 1 together")
    if "train" in splits and shares and not isinstance(splits["train"], str) and abs(sum(shares) - 1) > 1e-9:
        raise ConfigError(f"data.splits: found shares {shares}; with train among them they must add up to 1")
    return {name: rule if isinstance(rule, str) else float(rule) for name, rule in splits.items()}


def drawn(id: str, splits: Mapping[str, str | float]) -> str:
    """The split that a share gives an id to; the shares lie one after the other, the rest is `train`."""
    place, high = position(id), 0.0
    for name, share in splits.items():
        if isinstance(share, float) and name != "train":
            high += share
            if place < high:
                return name
    return "train"


def none_drawn(split: str, splits: Mapping[str, str | float], ids: Collection[str], option: str | None = None) -> str:
    """What to do about a split to which none of `ids` was drawn, for a message.

    Args:
        option: the key of the share, for formats that have one share and no list files.
    """
    others = [share for name, share in splits.items() if isinstance(share, float) and name not in (split, "train")]
    listed = f"name its images in a list file, such as data.splits.{split}: {split}.txt"
    cures = [f"change {option}" if option else listed]
    if split in splits and ids and not others:
        # the first share that takes an image, in whole hundredths
        least = math.floor(100 * min(map(position, ids)) + 1) / 100
        share = f"set {option or f'data.splits.{split}'} to {least:g} or more"
        cures = ([share] if option else [share, listed]) if least < 1 else cures
    return f"none of the {len(ids)} images was drawn for it: few images are drawn unevenly; {', or '.join(cures)}"


def position(id: str) -> float:
    """0 to 1, by the first 8 bytes of the SHA-256 of the id."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") / 2**64
