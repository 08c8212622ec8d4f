"""Random numbers of many draws at once, each a function of its own seed: no draw knows its batch.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) in vectorised form: a Generator a pair would cost more than the pair.
"""

from __future__ import annotations

import numpy as np

from mesynth.seeds import derived

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, uint64 -> uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw_seeds(seed: int, purpose: str, draws: np.ndarray) -> np.ndarray:
    """[B] int64, not negative: one seed a draw [B] int64, a function of (seed, purpose, draw)."""
    # Two 31-bit halves: neighbouring draws of neighbouring seeds must not meet.
    base = np.uint64(derived(seed, purpose, 0)) << np.uint64(32) | np.uint64(derived(seed, purpose, 1))
    mixed = _mix(_mix(base + np.asarray(draws, np.int64).astype(np.uint64) * _GAMMA) + _GAMMA)
    return (mixed >> np.uint64(1)).astype(np.int64)


def uniforms(seeds: np.ndarray, purpose: str, n: int) -> np.ndarray:
    """[B,n] float64 in [0,1): row b depends on ``seeds[b]`` and ``purpose`` alone."""
    start = _mix(np.asarray(seeds, np.int64).astype(np.uint64) ^ np.uint64(derived(0, purpose)))
    steps = np.arange(1, n + 1, dtype=np.uint64) * _GAMMA
    return (_mix(start[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
