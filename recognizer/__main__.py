"""`python -m recognizer`."""

from __future__ import annotations

from recognizer.cli import main

main()
