"""``python -m mesynth``."""

from mesynth.cli import main

main()
