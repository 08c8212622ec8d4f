"""A run's folder: claimed by one configuration, written by one process, its files whole under their final names."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mesynth.core.errors import RunFolderError

RUN_FILE = "run.yaml"
LOCK_FILE = ".writing"


# ---------------------------------------------------------------- one configuration


def config_hash(config: dict[str, Any]) -> str:
    """sha256 of a plain configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def claim_folder(out: Path, config: dict[str, Any]) -> None:
    """Make ``out`` this run's folder, or accept it as an earlier start of the same run.

    Raises:
        RunFolderError: it holds another run, or files of something else, or cannot be written.
    """
    digest = config_hash(config)
    run_file = out / RUN_FILE
    if not run_file.is_file():
        # Another run may claim the folder in the same moment: its first files are no foreign ones.
        if (out.is_file() or _foreign(out)) and not run_file.is_file():
            raise RunFolderError(f"{out} is not empty and holds no run of this command; choose another --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
            _create_text(run_file, yaml.safe_dump({"config": _plain(config), "hash": digest}, sort_keys=False))
        except OSError as error:
            raise RunFolderError(f"{out} cannot be written ({error.strerror}); choose another --out") from None
    try:
        found = (yaml.safe_load(run_file.read_text()) or {}).get("hash")
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError, RecursionError):
        found = None
    if found != digest:
        raise RunFolderError(f"{out} holds another run (see {run_file}); choose another --out or remove it")


def _foreign(out: Path) -> bool:
    """Whether ``out`` holds anything but what a claim in this moment, or a killed one, leaves."""
    return out.is_dir() and any(p.name != LOCK_FILE and not p.name.startswith(f".{RUN_FILE}") for p in out.iterdir())


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


# ---------------------------------------------------------------- one process


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
            mine = _is_at(path, handle.fileno())
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


def _is_at(path: Path, handle: int) -> bool:
    """Whether the open file still lies at ``path``: the holder before may have removed it before our locking it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- whole files


def write_bytes(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` for text."""
    write_bytes(path, text.encode())


def _create_text(path: Path, text: str) -> None:
    """Write a whole file unless another process was first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        temporary.write_text(text)
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links on this file system; or the first run has begun and cleared what lay about
        if not path.exists():
            write_text(path, text)
    finally:
        temporary.unlink(missing_ok=True)
