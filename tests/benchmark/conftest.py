"""Figures of the benchmark are compared to the bit: one thread, as in the tests of the measures."""

from __future__ import annotations

from tests.metrics.conftest import _one_thread  # noqa: F401
