"""Corpora and exports of them, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesynth.corpus.exports.run import export
from mesynth.store.manifest import Manifest
from tests.corpus.exports import corpora


@pytest.fixture(scope="session")
def samples() -> Manifest:
    return corpora.samples()


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return corpora.mixed(tmp_path_factory.mktemp("mixed") / "corpus")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Manifest, str], Path]:
    """The folder of a corpus exported to a form with default options."""
    root = tmp_path_factory.mktemp("exports")
    made: dict[tuple[Path, str], Path] = {}

    def folder(source: Manifest, form: str) -> Path:
        key = (source.root, form)
        if key not in made:
            made[key] = root / f"{len(made)}-{form}"
            export(source, form, made[key])
        return made[key]

    return folder
