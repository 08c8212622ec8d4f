"""`python -m recognizer`."""

from recognizer.cli import main

main()
