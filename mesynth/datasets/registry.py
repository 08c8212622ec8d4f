"""Databases by name."""

from __future__ import annotations

import os
from pathlib import Path

from mesynth.core.errors import DatasetLayoutError
from mesynth.core.registry import Registry
from mesynth.datasets.database import Database
from mesynth.datasets.load import Loaded, load_release, usable
from mesynth.store.manifest import Manifest

DATABASES: Registry[Database] = Registry(
    "database",
    "mesynth.databases",
    {
        "casme": "mesynth.datasets.casme:CASME",
        "casme2": "mesynth.datasets.casme2:CASME2",
        "samm": "mesynth.datasets.samm:SAMM",
        "smic": "mesynth.datasets.smic:SMIC",
        "casme_sq": "mesynth.datasets.casme_sq:CASME_SQ",
        "casme3": "mesynth.datasets.casme3:CASME3",
        "mmew": "mesynth.datasets.mmew:MMEW",
        "4dme": "mesynth.datasets.fourdme:FOURDME",
        "dfme": "mesynth.datasets.dfme:DFME",
        "meview": "mesynth.datasets.meview:MEVIEW",
        "megc2019": "mesynth.datasets.megc2019:MEGC2019",
        "cmed": "mesynth.datasets.cmed:CMED",
        "generic": "mesynth.datasets.generic:GENERIC",
    },
)
"""Every database by name. Others add theirs with :func:`register`, or by an entry point of ``mesynth.databases``."""
_DEPTH = 9  # a SMIC frame lies seven levels below its root
CORPUS = "corpus"
"""Any folder that prepare, render or generate wrote: a manifest already."""
EXPORT = "export"
"""What `mesynth export` wrote; it comes back as it was, and is no release to be loaded."""


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
        raise DatasetLayoutError(f"database '{name}' is unknown; choose from {', '.join([*DATABASES, CORPUS, EXPORT])}")
    return DATABASES[name]


def load_release_of(name: str, root: Path | str, *, part: str = "", frames: str = "") -> Loaded:
    """See :func:`mesynth.datasets.load.load_release`, by the database's name."""
    return load_release(require_database(name), root, part=part, frames=frames)


def load(name: str, root: Path | str, *, part: str = "", frames: str = "", skip_bad: bool = False) -> Manifest:
    """The manifest of the database ``name`` in the folder ``root``.

    ``part``, ``frames``: see :class:`mesynth.datasets.database.Database`. ``skip_bad`` leaves out clips that
    cannot be used instead of raising on the first.

    Raises:
        DatasetLayoutError: unknown name, or a folder that is not laid out like the release.
    """
    if name == CORPUS:
        return Manifest.read(root)
    return usable(load_release_of(name, root, part=part, frames=frames), skip_bad=skip_bad)
