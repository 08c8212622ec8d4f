"""For all tests: nothing is read from or left in the user's own folders, and Ctrl-C means what it says."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest

from mesynth.preprocess.landmarks import ENVIRONMENT

# A shell that starts the tests in the background has its children ignore Ctrl-C, and theirs after them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Landmarks found by one test may serve another, never another run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
