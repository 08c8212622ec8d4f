"""Synthesis of micro-expression sequences with controlled action units, exact flow and provenance."""

from __future__ import annotations

__version__ = "0.1.0"
