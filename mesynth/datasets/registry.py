"""Loaders by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mesynth.datasets.casme2 import load_casme2
from mesynth.errors import DatasetLayoutError
from mesynth.manifest import Manifest

LOADERS: dict[str, Callable[[Path], Manifest]] = {
    "casme2": load_casme2,
    "corpus": Manifest.read,  # any folder that prepare, render or generate wrote
}


def load(name: str, root: Path | str) -> Manifest:
    """The manifest of the database ``name`` in the folder ``root``.

    Raises:
        DatasetLayoutError: unknown name, or a folder that is not laid out like the release.
    """
    if name not in LOADERS:
        raise DatasetLayoutError(f"database '{name}' is unknown; choose from {', '.join(LOADERS)}")
    return LOADERS[name](Path(root))
