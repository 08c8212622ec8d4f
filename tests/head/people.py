"""Rendered people, each built once for all tests."""

from __future__ import annotations

from functools import lru_cache

from mesynth.head import Subject


@lru_cache(None)
def frontal(seed: int) -> Subject:
    """The person of ``seed``, facing the camera, 128 pixels."""
    return Subject(seed, frontal=True)
