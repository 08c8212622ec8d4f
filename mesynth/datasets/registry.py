"""Loaders by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mesynth.datasets.casme2 import is_release, load_casme2
from mesynth.errors import DatasetLayoutError
from mesynth.manifest import Manifest

LOADERS: dict[str, Callable[[Path], Manifest]] = {
    "casme2": load_casme2,
    "corpus": Manifest.read,  # any folder that prepare, render or generate wrote
}


# How each database's root is told; kept beside LOADERS so that a new loader brings both.
ROOTS: dict[str, Callable[[Path], bool]] = {"casme2": is_release}


def database_of(path: Path) -> tuple[str, Path] | None:
    """(name, root) of the release that the file or folder ``path`` lies in, None if it lies in none."""
    path = path.resolve()
    for folder in (path, *path.parents)[:6]:
        for name, is_root in ROOTS.items():
            if folder.is_dir() and is_root(folder):
                return name, folder
    return None


def load(name: str, root: Path | str) -> Manifest:
    """The manifest of the database ``name`` in the folder ``root``.

    Raises:
        DatasetLayoutError: unknown name, or a folder that is not laid out like the release.
    """
    if name not in LOADERS:
        raise DatasetLayoutError(f"database '{name}' is unknown; choose from {', '.join(LOADERS)}")
    return LOADERS[name](Path(root))
