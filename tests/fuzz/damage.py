"""Seeded damage to files, and the rule every reader is held to."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from mesynth.core.errors import MesynthError

T = TypeVar("T")


def damaged(data: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """``n`` damaged copies: bits and bytes changed, cut short, blanked, doubled, with foreign bytes inside."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        out = bytearray(data)
        at = int(rng.integers(len(data)))
        length = int(rng.integers(1, max(2, min(64, len(data)))))
        match i % 6:
            case 0:
                out[at] ^= 1 << int(rng.integers(8))
            case 1:
                for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
                    out[place] = int(rng.integers(256))
            case 2:
                del out[at:]
            case 3:
                out[at : at + length] = bytes(len(out[at : at + length]))
            case 4:
                out[at:at] = out[at : at + length]
            case _:
                out[at:at] = rng.bytes(length)
        yield bytes(out)


def result(read: Callable[[], T]) -> T | None:
    """What ``read`` returns, or None where it refuses with one line of ours. Anything else fails the test."""
    try:
        return read()
    except MesynthError as error:
        message = str(error)
        assert message.strip()
        assert len(message.splitlines()) == 1, message
        return None


def peak(read: Callable[[], object]) -> int:
    """The most bytes that Python and numpy held while ``read`` ran."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
