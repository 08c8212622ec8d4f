"""The Python shown in the README does what it shows."""

import doctest
from pathlib import Path


def test_readme_examples_run() -> None:
    result = doctest.testfile(str(Path(__file__).parent.parent / "README.md"), module_relative=False)
    assert result.attempted >= 3
    assert result.failed == 0
