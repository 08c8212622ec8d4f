"""Digest lists: ``SHA256SUMS`` in every folder that mesynth writes, and what is checked by it.

The file is what ``sha256sum -c SHA256SUMS`` reads: a line ``<sha256>  <path>`` for every file of the folder, paths
relative to it with ``/`` between names, in the order of a walk. A last line, a comment to ``sha256sum``, holds the
number of files and the sha256 of the lines above it, so that a list that was cut off or changed is told from a whole
one. A folder inside that has a list of its own (a checkpoint, the faces of a corpus) is listed by that list alone:
folders can be copied out, and are hashed once. Not listed (:data:`PASSING`) are temporary and lock files, what desktops
leave, the recognizer's ledger, which grows after the folder is finished, and ``throughput.json``, which says how fast a
machine was: with it equal corpora would have unequal lists.

A list is a function of the folder's content: equal content, equal list. It is written before the file that says that
the folder is finished (:func:`mesynth.store.run_folder.write_last`), so a finished folder has one, whenever a kill
comes. That a list must be there is said inside the folder (the key :data:`KEY` of its metadata): one that was removed
is told from a folder that was written before there were lists.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mesynth.core.errors import ManifestError, RunFolderError

LIST = "SHA256SUMS"
KEY = "digests"
"""Entry of a folder's metadata (run.yaml, mesynth.json, ...) that says that its list is :data:`LIST`."""
LEDGER = "recognizer-ledger.jsonl"
PASSING = frozenset({".writing", ".generator", ".DS_Store", "Thumbs.db", "desktop.ini", "throughput.json", LEDGER})
_RUN_FILE = "run.yaml"
_BLOCK = 1 << 20


class DigestError(ManifestError, RunFolderError):
    """A file is not the one that its folder's digest list was written for, or the list is damaged or gone."""


class WrittenBeforeDigests(UserWarning):
    """A folder of an earlier version, which has no digest list: what is read from it is not checked."""


def file_sha256(path: Path) -> str:
    """Hexadecimal digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------- write


def seal(folder: Path, *, ahead: Mapping[str, str] | None = None, without: Collection[str] = ()) -> Path:
    """List every file of ``folder`` as it is now; returns the list, which appears or is replaced as a whole.

    ``ahead``: path -> sha256 of files that get their names next. ``without``: names in the folder itself that are left
    out (journals that are about to be removed).

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as name:
    ...     _ = Path(name, "a.txt").write_text("a")
    ...     print(seal(Path(name)).read_text().splitlines()[0])
    ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a.txt
    """
    known = dict(ahead or {})
    found = (path for path in walk(folder, without) if path not in known)
    return _write(folder, _merged(((path, file_sha256(folder / path)) for path in found), known), durable=True)


def enter(folder: Path, digests: Mapping[str, str]) -> Path:
    """Put files (path -> sha256) into the list of ``folder``; what else it lists stays as it is.

    Raises:
        DigestError: the list is damaged.
    """
    there = entries(folder) if (folder / LIST).is_file() else iter(())
    return _write(folder, _merged((entry for entry in there if entry[0] not in digests), digests))


def enter_files(folder: Path, paths: Iterable[Path]) -> Path:
    """:func:`enter` files as they lie in ``folder``."""
    return enter(folder, {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths})


def unseal(folder: Path) -> None:
    """Remove the list of a folder that is about to be written on."""
    (folder / LIST).unlink(missing_ok=True)


def _merged(entries: Iterator[tuple[str, str]], more: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return heapq.merge(entries, sorted(more.items(), key=_order), key=_order)


def _order(entry: tuple[str, str]) -> tuple[bytes, ...]:
    """A walk's order: names of one folder by their bytes, what a folder holds in its place."""
    return tuple(os.fsencode(name) for name in entry[0].split("/"))


def _write(folder: Path, listed: Iterator[tuple[str, str]], *, durable: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / LIST
    temporary = folder / f".{LIST}.{os.urandom(8).hex()}.tmp"  # a process number is not one of all machines
    whole, count = hashlib.sha256(), 0
    try:
        with open(temporary, "wb") as file:
            for path, digest in listed:
                line = _line(path, digest)
                whole.update(line)
                file.write(line)
                count += 1
            file.write(_end(count, whole.hexdigest()))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


# ---------------------------------------------------------------- the format


_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"))


def _line(path: str, digest: str) -> bytes:
    """As coreutils write it: a line with an escaped name begins with a backslash."""
    escaped = path
    for plain, code in _ESCAPES:
        escaped = escaped.replace(plain, code)
    begin = "\\" if escaped != path else ""
    return os.fsencode(f"{begin}{digest}  {escaped}\n")


def _end(count: int, digest: str) -> bytes:
    return f"# {count} files; sha256 of the lines above: {digest}\n".encode()


def entries(folder: Path) -> Iterator[tuple[str, str]]:
    """(path, sha256) of each line. Only after the last one is known whether the list is whole.

    Raises:
        DigestError: it is missing or damaged.
    """
    whole, count, ended = hashlib.sha256(), 0, False
    try:
        with (folder / LIST).open("rb") as file:
            for raw in file:
                line = raw.removesuffix(b"\n").removesuffix(b"\r") + b"\n"  # a copy by way of Windows
                if ended or not raw.endswith(b"\n"):
                    raise _damaged(folder)
                if line.startswith(b"#"):
                    ended = line == _end(count, whole.hexdigest())
                    if not ended:
                        raise _damaged(folder)
                    continue
                whole.update(line)
                count += 1
                yield _parsed(folder, line)
    except OSError as error:
        raise DigestError(f"{folder / LIST} cannot be read ({error.strerror}); restore it from a copy") from None
    if not ended:
        raise _damaged(folder)


def _parsed(folder: Path, line: bytes) -> tuple[str, str]:
    escaped = line.startswith(b"\\")
    digest, path = line[escaped : 64 + escaped], line[64 + escaped : -1]
    if len(digest) != 64 or path[:2] not in (b"  ", b" *"):
        raise _damaged(folder)
    name = os.fsdecode(path[2:])
    if escaped:
        pieces = name.split("\\\\")
        name = "\\".join(piece.replace("\\n", "\n").replace("\\r", "\r") for piece in pieces)
    return name, digest.decode("ascii", "replace")


def _damaged(folder: Path) -> DigestError:
    return DigestError(
        f"{folder / LIST} is damaged or was cut off; restore it from a copy, make {folder} anew, or, if its files are "
        f"known to be whole, list them again with `mesynth verify {folder} --seal`"
    )


# ---------------------------------------------------------------- read


def check(
    folder: Path,
    names: Iterable[str],
    *,
    beside: Iterable[str] = (),
    promised: bool | None = None,
    partly: bool = False,
) -> bool:
    """Whether ``folder`` has a list; then each file of ``names`` that it has is the one listed, and each of ``beside``
    that is there and listed as well.

    ``promised``: whether metadata say that there must be a list; None: look into run.yaml. A folder that was written
    before there were lists, and a file that its list lacks, are warned of (:class:`WrittenBeforeDigests`).
    ``partly``: the folder may be unfinished, and a list, or the file in it, may be missing yet.

    Raises:
        DigestError: a file was changed or is missing; or the list is damaged or gone.
    """
    names = list(names)
    if not (folder / LIST).is_file():
        if partly:
            return False
        if promised or (promised is None and says_sealed(folder)):
            raise DigestError(gone(folder))
        _warn(f"{folder} was written before digests: it has no {LIST}, and what is read from it is not checked")
        return False
    wanted = {*names, *beside}
    listed = {path: digest for path, digest in entries(folder) if path in wanted}
    names += sorted(name for name in listed if name not in names and (folder / name).is_file())
    for name in names:
        path = folder / name
        if not path.is_file():
            if name in listed:
                raise DigestError(f"{path} is missing: {LIST} lists it; {_way_out(folder)}")
        elif name not in listed:
            if not partly:
                _warn(f"{path} is not in the folder's {LIST}: it is not checked")
        elif file_sha256(path) != listed[name]:
            raise DigestError(
                f"{path} is not the file that was written (its sha256 is not the one in {LIST}): it was changed or "
                f"damaged; {_way_out(folder)}"
            )
    return True


def _warn(what: str) -> None:
    warnings.warn(f"{what}; `mesynth verify --seal` lists its files as they are", WrittenBeforeDigests, stacklevel=3)


def gone(folder: Path) -> str:
    """What is said of a folder whose list was removed."""
    return (
        f"{folder} has lost its {LIST}, so that nothing says whether its files are whole; copy the folder again with "
        f"it, run the command that made it again if that was stopped, or accept the files as they are with "
        f"`mesynth verify {folder} --seal`"
    )


def _way_out(folder: Path) -> str:
    return f"restore it from a copy or make {folder} anew (`mesynth verify {folder} --seal` accepts a change meant)"


def says_sealed(folder: Path) -> bool:
    """Whether the folder's run.yaml says that it has a list once it is finished."""
    try:
        with (folder / _RUN_FILE).open("rb") as file:
            return any(line.rstrip() == f"{KEY}: {LIST}".encode() for line in file)
    except OSError:
        return False


# ---------------------------------------------------------------- the whole folder


def walk(folder: Path, without: Collection[str] = ()) -> Iterator[str]:
    """Paths of the files that a list has, in its order; memory is that of one folder's names."""
    for path in _walk(folder, "", (os.path.realpath(folder),)):
        if path.partition("/")[0] not in without:
            yield path


def _walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    with os.scandir(folder) as found:
        names = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in names:
        path = prefix + entry.name
        if _passes(entry.name) or path == LIST:
            continue
        if entry.is_dir():
            inner = Path(entry.path)
            if (inner / LIST).is_file():
                yield f"{path}/{LIST}"
            elif (real := os.path.realpath(inner)) not in above:  # a link to a folder above has no end
                yield from _walk(inner, f"{path}/", (*above, real))
        elif entry.is_file():
            yield path


def _passes(name: str) -> bool:
    """Whether a file is of a moment: being written, or a desktop's own."""
    return (
        name in PASSING
        or name.endswith(".tmp")
        or (name.startswith(".") and (name.endswith((".new", ".old", ".writing")) or name.startswith(".writing-")))
    )


@dataclass(frozen=True)
class Finding:
    """One thing about a file of a folder, relative to it."""

    path: str
    what: str
    harm: bool = True
    """False: it is only to be known, like a file that somebody put beside."""


def listed_folders(folder: Path, prefix: str = "") -> Iterator[str]:
    """Where lists lie, as prefixes of paths: "" for the folder itself, ``generator/`` and so on inside, outer first."""
    if (folder / prefix / LIST).is_file():
        yield prefix
    for path in walk(folder / prefix):
        if path.endswith(f"/{LIST}"):
            yield from listed_folders(folder, prefix + path.removesuffix(LIST))


def audit(folder: Path, report: Callable[[int, int], object] | None = None) -> Iterator[Finding]:
    """Every difference between ``folder`` and its list, and the lists of folders inside it.

    ``report`` is told how many files were looked at, of how many. A folder without a list yields nothing of its own.
    Memory does not grow with the number of files.
    """
    done = total = 0
    whole = []
    for prefix in listed_folders(folder):
        try:
            total += sum(1 for _ in entries(folder / prefix))
            whole.append(prefix)
        except DigestError as error:
            yield Finding(prefix + LIST, str(error).removeprefix(f"{folder / prefix / LIST} "))
    for prefix in whole:
        for finding in _audit(folder / prefix):
            if finding is not None:
                yield Finding(prefix + finding.path, finding.what, finding.harm)
            else:
                done += 1
                if report:
                    report(done, total)


def _audit(folder: Path) -> Iterator[Finding | None]:
    """What is to be said of a folder whose list is whole; None for each file that was looked at."""
    listed, found = entries(folder), ((path, "") for path in walk(folder))
    for path, sides in groupby(heapq.merge(listed, found, key=_order), key=lambda entry: entry[0]):
        digests = [digest for _, digest in sides]
        if not any(digests):
            yield Finding(path, f"is not in {LIST}: somebody put it there later", harm=False)
            continue
        try:  # a folder inside may have got a list of its own since, and hide what it holds
            same = file_sha256(folder / path) == max(digests)
        except FileNotFoundError:
            yield Finding(path, f"is missing: {LIST} lists it")
            continue
        except OSError as error:
            yield Finding(path, f"cannot be read ({error.strerror}); {LIST} lists it")
            continue
        yield None
        if not same:
            yield Finding(path, f"is not the file that was written (its sha256 is not the one in {LIST})")
