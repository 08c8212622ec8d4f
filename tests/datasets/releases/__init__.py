"""Tiny folders that look like the real releases, quirks and junk files included. No real data."""
