"""A command that is stopped in the middle: by Ctrl-C, or by a kill, right before a file of its folder gets its name.

    python -m tests.stopped SIGNAL NUMBER FOLDER MODULE WORDS...

runs ``python -m MODULE WORDS...`` and sends its own process the signal before the NUMBERth renaming in FOLDER (from 1).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests import warm
from tests.builders import tree_bytes


@contextmanager
def renamings(folder: Path, reached: Callable[[int], object]) -> Iterator[None]:
    """``reached(n)`` is called before the n-th file of ``folder``, or of a folder in it, gets its name."""
    replace, place, count = os.replace, os.path.abspath(folder) + os.sep, 0

    def watched(source: Any, target: Any, **options: Any) -> None:
        nonlocal count
        if os.path.abspath(target).startswith(place):
            count += 1
            reached(count)
        replace(source, target, **options)

    with patch.object(os, "replace", watched):
        yield


def whole_run(folder: Path, run: Callable[[], object]) -> tuple[int, dict[str, bytes]]:
    """Number of renamings in ``folder`` of a ``run`` that nobody stops, and the files it leaves."""
    last = 0

    def reached(number: int) -> None:
        nonlocal last
        last = number

    with renamings(folder, reached):
        run()
    return last, tree_bytes(folder)


def check_stop(
    how: signal.Signals, share: float, whole: tuple[int, dict[str, bytes]], folder: Path, words: Sequence[object],
    again: Callable[[], object], last: str,
) -> None:  # fmt: skip
    """``words`` (module and arguments) are stopped in ``folder``: one line at most is said, no file there is another
    than that of the ``whole`` run, the one that ends it, ``last``, is missing, and the same command leaves its bytes.

    ``again`` is that command once more. Journals, digest lists and temporary files may differ until then.
    """
    number = 1 + round(share * (whole[0] - 1))
    ended = warm.run("tests.stopped", how.name, str(number), str(folder), *map(str, words))
    assert ended.returncode == (130 if how is signal.SIGINT else -how), ended.stderr
    assert "Traceback" not in ended.stderr
    left = tree_bytes(folder)
    if how is signal.SIGINT:
        assert "the same command goes on" in ended.stderr
        assert not any(name.endswith(".tmp") for name in left)
    assert last not in left
    for name, data in left.items():
        if "parts" not in Path(name).parts and not name.endswith((".tmp", ".writing", "SHA256SUMS")):
            assert whole[1][name] == data, name
    again()
    assert tree_bytes(folder) == whole[1]


if __name__ == "__main__":
    how, number, folder, *words = sys.argv[1:]
    sys.argv = words

    def reached(now: int) -> None:
        if now == int(number):
            os.kill(os.getpid(), signal.Signals[how])

    with renamings(Path(folder), reached):
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
