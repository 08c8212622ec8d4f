"""Where pretrained weights are looked for, without downloading and without importing what ships them."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Need:
    """One optional piece: what it is for, whether it is here, where it is looked for, what to do."""

    name: str
    purpose: str
    present: bool
    where: str
    remedy: str
    instead: str
    """What is used while it is missing."""


def hub_folder() -> Path:
    """torch.hub's checkpoint folder: ``$TORCH_HOME/hub/checkpoints`` or its default under the cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    home = Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser()
    return home / "hub" / "checkpoints"


def package_file(package: str, name: str) -> Path | None:
    """``name`` inside an installed package, found without importing the package; None if it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / name
    return path if path.is_file() else None
