"""Seeds made from whole numbers, so that every random number is a function of what it is for."""

from __future__ import annotations

import hashlib


def seed_for(*parts: int) -> int:
    """A 63-bit seed from whole numbers, the same on any machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
