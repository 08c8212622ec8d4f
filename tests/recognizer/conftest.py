"""Corpora shared by the tests of this folder."""

from __future__ import annotations

import os

import pytest
import torch

from mesynth.store.manifest import Manifest
from recognizer.data import DataConfig, FlowSet, load
from tests.recognizer.corpora import write_corpus

# Two threads wait for each other longer than they work on networks this small, more so under pytest-xdist.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """real: 8 subjects x 6; shuffled: the same size without content; synthetic: 20 x 12 of other people."""
    root = tmp_path_factory.mktemp("corpora")
    return {
        "real": write_corpus(root / "real"),
        "shuffled": write_corpus(root / "shuffled", shuffled=True, clips=12),
        "synthetic": write_corpus(
            root / "synthetic", subjects=20, clips=12, kind="synthetic", database="made", seed=1,
            subjects_seen=(), generator="prior",
        ),
    }  # fmt: skip


@pytest.fixture(scope="session")
def sets(corpora: dict[str, Manifest]) -> dict[str, FlowSet]:
    """The same, loaded."""
    return {name: load(manifest, DataConfig()) for name, manifest in corpora.items()}
