"""One panel of three sources, written once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mesynth.panel.write import PanelConfig, draft, write_panel
from mesynth.store.manifest import Manifest
from tests.panel.corpora import write_corpus


class Panel(NamedTuple):
    """Where it lies, what it is made of, and its key."""

    folder: Path
    corpora: dict[str, Manifest]
    key: dict[str, Any]


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Panel:
    root = tmp_path_factory.mktemp("panel")
    corpora = {
        kind: write_corpus(root / kind, kind, first=8 * number)
        for number, kind in enumerate(("real", "rendered", "synthetic"))
    }
    folder = write_panel(draft(corpora, PanelConfig(clips=18, practice=3, repeats=4)), root / "panel")
    return Panel(folder, corpora, json.loads((folder / "key.json").read_text()))
