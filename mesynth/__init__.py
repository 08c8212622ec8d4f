"""Synthesis of micro-expression sequences with controlled action units, exact flow and provenance."""

__version__ = "0.1.0"
