"""Databases by name."""

from __future__ import annotations

import os
from pathlib import Path

from mesynth.core.errors import DatasetLayoutError
from mesynth.datasets.casme import CASME
from mesynth.datasets.casme2 import CASME2
from mesynth.datasets.casme3 import CASME3
from mesynth.datasets.casme_sq import CASME_SQ
from mesynth.datasets.cmed import CMED
from mesynth.datasets.database import Database
from mesynth.datasets.dfme import DFME
from mesynth.datasets.fourdme import FOURDME
from mesynth.datasets.generic import GENERIC
from mesynth.datasets.load import Loaded, load_release, usable
from mesynth.datasets.megc2019 import MEGC2019
from mesynth.datasets.meview import MEVIEW
from mesynth.datasets.mmew import MMEW
from mesynth.datasets.samm import SAMM
from mesynth.datasets.smic import SMIC
from mesynth.store.manifest import Manifest

_ALL = (CASME, CASME2, SAMM, SMIC, CASME_SQ, CASME3, MMEW, FOURDME, DFME, MEVIEW, MEGC2019, CMED, GENERIC)
DATABASES: dict[str, Database] = {database.name: database for database in _ALL}
_DEPTH = 9  # a SMIC frame lies seven levels below its root
CORPUS = "corpus"
"""Any folder that prepare, render or generate wrote: a manifest already."""
EXPORT = "export"
"""What `mesynth export` wrote; it comes back as it was, and is no release to be loaded."""


def database_of(path: Path) -> tuple[str, Path] | None:
    """(name, root) of the release that the file or folder ``path`` lies in, None if it lies in none."""
    path = path.resolve()
    for folder in (path, *path.parents)[:_DEPTH]:
        if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):  # a parent that is not ours to list
            continue
        for name, database in DATABASES.items():
            if database.is_release(folder):
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
