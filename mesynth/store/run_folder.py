"""A run's folder: claimed by one configuration, written by one process, its files whole under their final names."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.store import digests
from mesynth.store.remote import is_remote, place

RUN_FILE = "run.yaml"
LOCK_FILE = ".writing"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


# ---------------------------------------------------------------- one configuration


def config_hash(config: dict[str, Any]) -> str:
    """sha256 of a plain configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def claim_folder(out: Path, config: dict[str, Any]) -> None:
    """Make ``out`` this run's folder, or accept it as an earlier start of the same run.

    Raises:
        RunFolderError: it holds another run, or files of something else, or cannot be written.
        DigestError: its run.yaml was changed after it was finished.
    """
    require_name(out)
    digest = config_hash(config)
    run_file = out / RUN_FILE
    if not run_file.is_file():
        # Another run may claim the folder in the same moment: its first files are no foreign ones.
        if (out.is_file() or _foreign(out)) and not run_file.is_file():
            raise RunFolderError(f"{out} is not empty and holds no run of this command; choose another --out")
        try:
            _make(out)
            run = {"config": _plain(config), "hash": digest, digests.KEY: digests.LIST}
            _create_text(run_file, yaml.safe_dump(run, sort_keys=False))
        except OSError as error:
            _unmake(out)
            raise RunFolderError(f"{out} cannot be written ({error.strerror}); choose another --out") from None
    if claimed(out) != digest:
        raise RunFolderError(f"{out} holds another run (see {run_file}); choose another --out or remove it")


def claimed(out: Path) -> str:
    """:func:`config_hash` of the run that ``out`` holds; "" of none, or of one whose record cannot be read.

    Raises:
        DigestError: its run.yaml was changed after it was finished.
    """
    digests.check(out, [RUN_FILE], partly=True)
    try:
        return str((yaml.safe_load((out / RUN_FILE).read_text(encoding="utf-8")) or {}).get("hash", ""))
    except (yaml.YAMLError, AttributeError, ValueError, RecursionError, FileNotFoundError):
        return ""


def require_name(out: Path) -> None:
    """Raise RunFolderError for a name that is no text, whose records could not be written later, and for an address."""
    if is_remote(out):
        raise RunFolderError(f"{place(out)} is an address, and this is written into a folder; choose one as --out")
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise RunFolderError(
            f"the name {os.fsencode(out)!r} is no text in UTF-8; choose another --out, or set PYTHONUTF8=1"
        ) from None
    if "\0" in str(out):
        raise RunFolderError(f"the name {str(out)!r} holds a NUL character; choose another --out")


_made: dict[str, list[Path]] = {}
"""By absolute name: folders that this process made for a run that has not written anything yet, the innermost first."""


def _make(folder: Path) -> None:
    """Make ``folder`` and those above it, so that :func:`_unmake` can remove just those that were not there."""
    place = Path(os.path.abspath(folder))
    missing = [path for path in (place, *place.parents) if not path.exists()]
    if missing:
        _made[str(place)] = missing
    place.mkdir(parents=True, exist_ok=True)


def _unmake(folder: Path) -> None:
    """Remove what :func:`_make` made, as far as nothing lies in it."""
    for path in _made.pop(os.path.abspath(folder), ()):
        with suppress(OSError):
            path.rmdir()


def _foreign(out: Path) -> bool:
    """Whether ``out`` holds anything but what a claim in this moment, or a killed one, leaves."""
    return out.is_dir() and any(p.name != LOCK_FILE and not p.name.startswith(f".{RUN_FILE}") for p in out.iterdir())


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


# ---------------------------------------------------------------- one process


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold the folder ``out`` for this process; the hold ends with it, however it ends, and leaves no file behind.

    A writer that was killed leaves an empty ``.writing``, which holds nobody up, and files that it had begun under
    temporary names; the next one removes both. Who writes a folder holds it from the first byte to the last: of any
    number that start together one goes on, the others are told. A mistake that shows before anything was written
    gives the folder's claim up, so that the command put right may have the same folder; a folder that was made for
    this run then goes, too.

    Raises:
        RunFolderError: another process (or another thread of this one) holds it, or it cannot be written.
    """
    with _held(out, out / LOCK_FILE):
        for left in out.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(left.name) and left.is_file():
                left.unlink(missing_ok=True)
        try:
            yield
        except MesynthError:
            _give_up(out)
            raise


def give_up(out: Path) -> None:
    """Remove the claim of a folder that holds nothing else, and the folder if it was made for this run."""
    _give_up(out)
    _unmake(out)


def _give_up(out: Path) -> None:
    """Remove the claim of a folder that holds nothing else, but for folders without a file."""
    files = {path.name: path for path in out.iterdir() if path.is_file()}
    if files.keys() - {LOCK_FILE} == {RUN_FILE} and not any(p.is_file() for f in out.iterdir() for p in f.rglob("*")):
        for folder in (path for path in out.iterdir() if path.is_dir() and not path.is_symlink()):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            files[RUN_FILE].unlink()


@contextmanager
def only_maker(out: Path) -> Iterator[None]:
    """:func:`only_writer` for a folder that appears as a whole, and is not there before: the lock lies beside it.

    Raises:
        RunFolderError: ``out`` is there already, another process makes it, or it cannot be written.
    """
    place = Path(os.path.abspath(out))
    try:
        out.lstat()  # a name that cannot be is found out before the work
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written ({error.strerror}); choose another --out") from None
    with _held(out, place.parent / f".{_short(place.name)}{LOCK_FILE}"):
        if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
            raise RunFolderError(f"{out} is not empty; choose another --out")
        yield


@contextmanager
def _held(out: Path, lock: Path) -> Iterator[None]:
    require_name(out)
    try:
        with ExitStack() as stack:
            try:
                _make(lock.parent)
                held = stack.enter_context(file_lock(lock, wait=False))
            except OSError as error:
                raise RunFolderError(f"{out} cannot be written ({error.strerror}); choose another --out") from None
            if not held:
                raise RunFolderError(f"{out} is being written by another process; wait for it or choose another --out")
            yield
    except BaseException:
        _unmake(lock.parent)  # when the lock is gone
        raise
    _made.pop(os.path.abspath(lock.parent), None)


@contextmanager
def file_lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock the file ``path``, made as needed and removed in the end; yields whether it is held.

    ``wait``: until another process lets go; without it False is yielded at once. On a file system without locks True
    is yielded, and two writers are the user's to avoid.

    Raises:
        OSError: the file cannot be made.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, ".lock")
    ...     with file_lock(path, wait=False) as one, file_lock(path, wait=False) as two:
    ...         held = one, two, path.exists()
    ...     held, path.exists()
    ((True, False, True), False)
    """
    lock = FileLock(path, thread_local=False)
    try:
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            yield True
            return
        yield lock.is_locked
    finally:
        if lock.is_locked:  # also where Ctrl-C came right after it was taken
            # While it is held: afterwards it may be another's. Who has opened it by now finds that it has no name any
            # more and opens the next. Windows refuses, and removes the file when it is let go.
            with suppress(OSError):
                path.unlink(missing_ok=True)
            lock.release()


# ---------------------------------------------------------------- whole files


_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.tmp", re.DOTALL)


def temporary_beside(path: Path) -> Path:
    """A name in the folder of ``path`` that nobody else has, whatever process, thread or machine asks.

    It is no longer than a file system takes, where that of ``path`` is not.

    >>> one, other = (temporary_beside(Path("folder", "plan.jsonl")) for _ in range(2))
    >>> one.parent == other.parent == Path("folder"), one == other, one.name[:12], one.suffix
    (True, False, '.plan.jsonl.', '.tmp')
    """
    return path.parent / f".{_short(path.name)}.{os.urandom(8).hex()}.tmp"


def _short(name: str) -> str:
    return os.fsencode(name)[:200].decode(errors="ignore")


def write_bytes(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename; folders are made as needed.

    Raises:
        RunFolderError: ``path`` is a device or a pipe, which renaming would replace, or an address.
    """
    if is_remote(path):
        raise RunFolderError(
            f"{place(path)} is at an address, where nothing is put beside; choose a file of this machine"
        )
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RunFolderError(f"{path} is a device or a pipe, and no file is put in its place; choose another")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` for text."""
    write_bytes(path, text.encode())


def write_last(path: Path, data: bytes, *, without: Collection[str] = ()) -> None:
    """Write the file that says that its folder is finished, after the folder's digest list: a finished one has a list.

    ``without``: see :func:`mesynth.store.digests.seal`.
    """
    digests.seal(path.parent, ahead={path.name: hashlib.sha256(data).hexdigest()}, without=without)
    write_bytes(path, data)


def write_listed(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name into a folder that is finished or has no list yet; its list has them, too."""
    digests.enter(folder, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    for name, data in files.items():
        write_bytes(folder / name, data)


def write_beside(path: Path, data: bytes) -> None:
    """Write a file into a folder that may be finished: where that has a digest list, the list has the file, too."""
    if (path.parent / digests.LIST).is_file():
        write_listed(path.parent, {path.name: data})
    else:
        write_bytes(path, data)


def _create_text(path: Path, text: str) -> None:
    """Write a whole file unless another process was first."""
    temporary = temporary_beside(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # no hard links on this file system; or the first run has begun and cleared what lay about
        if not path.exists():
            write_text(path, text)
    finally:
        temporary.unlink(missing_ok=True)
