"""One random stream per purpose and item, so that no result depends on order or on process count."""

from __future__ import annotations

import zlib

import numpy as np

from mesynth.core.errors import ConfigError


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A generator that depends on (seed, purpose, index) alone. Raises ConfigError for a negative seed.

    >>> bool(stream(0, "noise", 3).random() == stream(0, "noise", 3).random())
    True
    """
    if seed < 0:
        raise ConfigError(f"seed={seed} must not be negative; give 0 or more")
    words: tuple[int, int, int] | np.ndarray = (seed, zlib.crc32(purpose.encode()), index)
    if max(seed, index) < 2**32 and index >= 0:
        words = np.array(words, np.uint32)  # the same stream; numpy takes longer to turn the numbers into this itself
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def derived(seed: int, purpose: str, index: int = 0) -> int:
    """A 31-bit seed that depends on (seed, purpose, index) alone, for interfaces that take an integer."""
    return int(stream(seed, purpose, index).integers(2**31))
