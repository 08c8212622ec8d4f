"""One random stream per purpose and item, so that no result depends on order or on process count."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator that depends on (seed, purpose, index) alone.

    >>> bool(stream(0, "noise", 3).random() == stream(0, "noise", 3).random())
    True
    """
    return np.random.default_rng(np.random.SeedSequence((seed, zlib.crc32(purpose.encode()), index)))


def derived(seed: int, purpose: str, index: int = 0) -> int:
    """A 31-bit seed that depends on (seed, purpose, index) alone, for interfaces that take an integer."""
    return int(stream(seed, purpose, index).integers(2**31))
