"""Databases by name."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from mesynth.core.errors import DatasetLayoutError, MesynthError, WrongRoot
from mesynth.core.registry import Registry
from mesynth.datasets.database import Database
from mesynth.datasets.files import contents, subfolders
from mesynth.datasets.load import Asked, Loaded, Selection, load_release, usable
from mesynth.store.manifest import FILE_NAME, Manifest

DATABASES: Registry[Database] = Registry(
    "database",
    "mesynth.databases",
    {
        "casme": "mesynth.datasets.casme:CASME",
        "casme2": "mesynth.datasets.casme2:CASME2",
        "samm": "mesynth.datasets.samm:SAMM",
        "samm_long": "mesynth.datasets.samm_long:SAMM_LONG",
        "smic": "mesynth.datasets.smic:SMIC",
        "casme_sq": "mesynth.datasets.casme_sq:CASME_SQ",
        "casme3": "mesynth.datasets.casme3:CASME3",
        "mmew": "mesynth.datasets.mmew:MMEW",
        "4dme": "mesynth.datasets.fourdme:FOURDME",
        "dfme": "mesynth.datasets.dfme:DFME",
        "meview": "mesynth.datasets.meview:MEVIEW",
        "megc2019": "mesynth.datasets.composites:MEGC2019",
        "cmed": "mesynth.datasets.composites:CMED",
        "generic": "mesynth.datasets.generic:GENERIC",
    },
)
"""Every database by name. Others add theirs with :func:`register`, or by an entry point of ``mesynth.databases``."""
_DEPTH = 9  # a SMIC frame lies seven levels below its root
CORPUS = "corpus"
"""Any folder that prepare, render or generate wrote: a manifest already."""
EXPORT = "export"
"""What `mesynth export` wrote; it comes back as it was, and is no release to be loaded."""
FLOW_FOLDERS = "flow_folders"
"""Published flow images, see :mod:`mesynth.datasets.flow_folders`."""


def register(database: Database) -> Database:
    """Make ``database`` known under its name: to ``prepare``, ``--check`` and :func:`load`.

    A package that is installed beside mesynth declares the same in its ``pyproject.toml``::

        [project.entry-points."mesynth.databases"]
        mine = "my_package.loader:MINE"

    Raises:
        ConfigError: a database of that name ships with mesynth.

    >>> from mesynth.datasets.database import Database, Release
    >>> mine = Database(
    ...     name="mine", title="Mine", fps=100.0, licence="of my laboratory", paper="",
    ...     is_release=lambda folder: (folder / "mine.csv").is_file(),
    ...     read=lambda root, part, frames: Release(lines=()),
    ... )
    >>> register(mine).name in DATABASES
    True
    >>> DATABASES.remove("mine")
    """
    DATABASES.register(database.name, database)
    return database


def database_of(path: Path) -> tuple[str, Path] | None:
    """(name, root) of the release that the file or folder ``path`` lies in, None if it lies in none."""
    path = path.resolve()
    for folder in (path, *path.parents)[:_DEPTH]:
        if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):  # a parent that is not ours to list
            continue
        for name in DATABASES:
            if DATABASES[name].is_release(folder):
                return name, folder
    return None


def require_database(name: str) -> Database:
    """The database of that name. Raises DatasetLayoutError on an unknown one."""
    if name not in DATABASES:
        near = _meant(name)
        meant = f"; did you mean {near}?" if near else ""
        names = ", ".join([*DATABASES, *_TREES])
        raise DatasetLayoutError(f"database '{name}' is unknown; choose from {names}{meant}")
    return DATABASES[name]


def _meant(text: str) -> str:
    """The name that a misspelt one, or a title as papers write it, means: ``CASME II``, ``CAS(ME)2``, ``MEGC19``."""
    key = re.sub(r"[\s_-]", "", text.lower())
    titles = {re.sub(r"[\s_-]", "", DATABASES[name].title.lower()): name for name in DATABASES}
    for dropped in ("", "^", "()"):  # CAS(ME)^2 is not CASME 2
        for title, name in titles.items():
            if key == "".join(char for char in title if char not in dropped):
                return name
    plain = re.sub("i{2,3}$", lambda numeral: str(len(numeral[0])), re.sub(r"[^a-z0-9]", "", key))
    near = difflib.get_close_matches(plain, [*DATABASES, *_TREES], n=1)
    return near[0] if near else ""


def load_release_of(name: str, root: Path | str, **asked: Unpack[Asked]) -> Loaded:
    """See :func:`mesynth.datasets.load.load_release`, by the database's name; a wrong root is told the right one."""
    database, root = require_database(name), Path(root)
    with right_root(name, root):
        return load_release(database, root, **asked)


def load(name: str, root: Path | str, *, skip_bad: bool = False, **asked: Unpack[Asked]) -> Manifest:
    """The manifest of the database ``name`` in the folder ``root``.

    ``asked``: ``part``, ``frames``, ``annotation``, ``select`` of :func:`mesynth.datasets.load.load_release`.
    ``skip_bad`` leaves out clips that cannot be used instead of raising on the first.

    Raises:
        DatasetLayoutError: unknown name, or a folder that is not laid out like the release (with the one that is, where
            it is near).
        ConfigError: ``select`` names what is not there.
    """
    if name == CORPUS:
        return asked.get("select", Selection()).rows(Manifest.read(root))
    loaded = load_release_of(name, root, **asked)
    return usable(loaded, skip_bad=skip_bad)


# ---------------------------------------------------------------- roots


_UP, _DOWN = 9, 5
"""Levels above and below a folder on which a root is looked for."""
_MOST_FOLDERS, _MOST_SECONDS = 4000, 3.0
_SHOWN = 3
_ARCHIVE = re.compile(r"\.(zip|rar|7z|tar|tgz|tbz2?|txz|gz|bz2|xz|[zr]\d\d|00\d)$", re.IGNORECASE)
_TREES: dict[str, tuple[str, Callable[[Path], bool]]] = {
    CORPUS: ("a corpus of mesynth", lambda f: (f / FILE_NAME).is_file()),
    EXPORT: ("an export of mesynth", lambda f: (f / "export.json").is_file() and (f / "provenance.jsonl").is_file()),
    FLOW_FOLDERS: ("flow images", lambda f: any((f / name / "u_test").is_dir() for name in subfolders(f).values())),
}
"""What prepare takes that is no release: what it is, and its sign."""


@dataclass(frozen=True)
class Root:
    """A folder that ``mesynth prepare`` takes, and under which name."""

    name: str
    path: Path

    @property
    def command(self) -> str:
        """The way in."""
        return f"mesynth prepare {self.name} --root {_word(self.path)}"


@contextmanager
def right_root(name: str, root: Path) -> Iterator[None]:
    """Reading ``root`` as one of ``name``: DatasetLayoutError that names the right root where it is wrong."""
    try:
        if not root.is_dir():
            raise WrongRoot(_no_folder(root))
        yield
    except WrongRoot as error:
        raise DatasetLayoutError(advised(str(error), name, root)) from None
    except (FileNotFoundError, NotADirectoryError) as error:  # of a reader from outside, which opens what it expects
        if name not in DATABASES or DATABASES[name].is_release(root):
            raise
        reason = f"no {Path(str(error.filename)).name} in {root}: {contents(root)}"
        raise DatasetLayoutError(advised(reason, name, root)) from None


def find_roots(path: Path, name: str = "") -> list[Root]:
    """The root that ``path`` lies in, or else the roots that lie in it; of ``name`` alone where it is given.

    The one recogniser of roots: a folder is one if its database knows it by its listing (``is_release``, ``is_root``),
    reads it, and finds frames where its annotation says. A file stands for its folder, a path that is not there for
    the folder that it should be in. Composites are found by name alone, since they are made of other roots.
    """
    start = _full(path)
    while not start.is_dir():
        start = start.parent
    for folder in (start, *start.parents[:_UP]):
        if root := _root(folder, name):
            return [root]
    return _lower(start, name, _DOWN if path.exists() else 1)


def _root(folder: Path, name: str) -> Root | None:
    if not _listable(folder):
        return None
    # What cannot be looked into (of another user, of the system) is no root; what is only looked at is not warned of.
    with suppress(OSError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tree, (_, sign) in _TREES.items():
            if name in ("", tree) and sign(folder):
                return Root(tree, folder)
        names = [name] if name else [other for other in DATABASES if DATABASES[other].is_root is None]
        return next((Root(other, folder) for other in names if other in DATABASES and readable(other, folder)), None)
    return None


def _lower(start: Path, name: str, levels: int) -> list[Root]:
    """Level by level; a large tree is not walked to its end, and nothing is looked for inside a root."""
    found: list[Root] = []
    until, count, level = time.monotonic() + _MOST_SECONDS, 0, [start]
    for _ in range(levels):
        deeper: list[Path] = []
        for folder in filter(_listable, level):
            inside: list[str] = []
            with suppress(OSError):
                inside = sorted(subfolders(folder).values())
            for below in inside:
                count += 1
                if count > _MOST_FOLDERS or time.monotonic() > until:
                    return found
                if root := _root(folder / below, name):
                    found.append(root)
                else:
                    deeper.append(folder / below)
        level = deeper
    return found


def readable(name: str, folder: Path) -> tuple[str, str] | None:
    """The first (part, frames) of the database that ``folder`` holds, annotation and frames; None where it is no root.

    >>> readable("casme2", Path("nowhere")) is None
    True
    """
    database = DATABASES[name]
    if not _listable(folder) or not (database.is_root or database.is_release)(folder):
        return None
    for part in database.parts:
        for frames in database.frames:
            try:
                lines = database.read(folder, part, frames).lines
            except (MesynthError, OSError):
                continue
            if any(line.folder and (folder / line.folder).exists() for line in lines):
                return part, frames
    return None


def advised(reason: str, name: str, root: Path) -> str:
    """``reason``, why ``root`` is not taken as one of ``name``, and the way out: the right root where it is near."""
    said = reason.partition("; ")[0]
    title = _title(name)
    database = None if name in _TREES else DATABASES[name]
    own = find_roots(root, name)
    if own and own[0].path == _full(root):  # another part or other frames were meant
        held = readable(name, root) if database else None
        whole = reason if "--annotation" in reason else said
        return f"{whole}; this copy has part {held[0]}, frames {held[1]}" if held else reason
    if own:
        uses = " or ".join(f"--root {_word(found.path)}" for found in own[:_SHOWN])
        return f"{said}; {title} is {_where(root, own[0].path)}: use {uses}"
    others = find_roots(root)
    inside = bool(others) and (_full(root).is_relative_to(others[0].path) or not root.is_dir())
    if database and database.is_root and not inside and _listable(root) and database.is_root(root):
        return reason  # a composite: one of its members is the matter
    if others:
        uses = ", and ".join(f"{_title(other.name)}: use `{other.command}`" for other in others[:_SHOWN])
        # Anyone's table of clips is one's own recordings: it may be the wanted one under another name.
        lead = reason if "--annotation" in reason and others[0].name == "generic" else said
        own_place = _full(root).is_relative_to(others[0].path)
        where = "this is" if own_place else "it holds" if root.is_dir() else "near it is"
        return f"{lead}; {where} {uses}{_beside(root, name)}"
    if archives := _archives(root):
        return f"{said}; unpack {', '.join(archives[:_SHOWN])} first"
    if "--annotation" in reason and root.is_dir() and any(root.iterdir()):
        return reason
    if near := _beside(root, name):
        return said + near
    return f"{said}; the root of {title} holds {database.layout}" if database and database.layout else reason


def corpus_near(path: Path) -> str:
    """What to give instead of ``path``, in which no corpus is: one that is near, or a release to be prepared first."""
    if own := find_roots(path, CORPUS):
        return "there is one in " + " and ".join(str(found.path) for found in own[:_SHOWN])
    if not (found := find_roots(path)):
        return ""
    place = "this" if _full(path).is_relative_to(found[0].path) else str(found[0].path)
    return f"{place} is {_title(found[0].name)}: use `{found[0].command} --out FOLDER`, and that folder"


def _title(name: str) -> str:
    return _TREES[name][0] if name in _TREES else DATABASES[name].title


def _full(path: Path) -> Path:
    """Absolute, without ``..``; links stay as they were written."""
    return Path(os.path.abspath(path))


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def _listable(folder: Path) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)


def _where(root: Path, found: Path) -> str:
    levels = len(_full(root).parts) - len(found.parts)
    side = "higher" if levels > 0 else "lower"
    nested = _full(root).is_relative_to(found) or found.is_relative_to(_full(root))
    return f"{abs(levels)} level{'s' if abs(levels) > 1 else ''} {side}" if levels and nested else "near"


def _beside(root: Path, name: str) -> str:
    """A root of what was meant in a folder beside the given one."""
    parent = (_full(root).parent if root.is_file() else _full(root)).parent
    found = _lower(parent, name, 1) if _listable(parent) else []
    return f"; {_title(name)} is beside it: --root {_word(found[0].path)}" if found else ""


def _archives(root: Path) -> list[str]:
    if root.is_file():
        return [root.name] if _ARCHIVE.search(root.name) else []
    return sorted(p.name for p in root.iterdir() if _ARCHIVE.search(p.name) and p.is_file()) if _listable(root) else []


def _no_folder(root: Path) -> str:
    if root.exists():
        way = "give the folder of the release"
        if root.suffix.lower() in {".xlsx", ".xls", ".csv"}:
            way += f", and this file with --annotation {_word(root)} if it lies elsewhere"
        return f"{root} is a file, and the root is a folder; {way}"
    parent = _full(root).parent
    near = difflib.get_close_matches(root.name, subfolders(parent).values(), n=1) if _listable(parent) else []
    return f"{root} does not exist" + (f", but {parent / near[0]} does" if near else "") + "; give the release's folder"
