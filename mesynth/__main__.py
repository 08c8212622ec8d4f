"""``python -m mesynth``."""

from __future__ import annotations

from mesynth.cli import main

main()
