"""One writer to a folder at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesynth.errors import RunFolderError

LOCK_FILE = ".writing"


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold the folder ``out`` for this process; the hold ends with it, however it ends, and leaves no file behind.

    Raises:
        RunFolderError: another process (or another thread of this one) holds it.
    """
    try:
        import fcntl
    except ImportError:  # a system without advisory locks: two writers are the user's to avoid
        yield
        return
    path = out / LOCK_FILE
    with open(path, "wb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one before may have removed the file between our opening and our locking it.
            mine = path.is_file() and os.path.samestat(os.fstat(handle.fileno()), path.stat())
        except BlockingIOError:
            mine = False
        except OSError:  # a file system without locks
            mine = True
        if not mine:
            raise RunFolderError(f"{out} is being written by another process; wait for it or choose another --out")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
