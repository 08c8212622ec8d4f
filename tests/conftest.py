"""For all tests: nothing is read from or left in the user's own folders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mesynth.preprocess.cache import ENVIRONMENT


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Landmarks found by one test may serve another, never another run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(tmp_path_factory.mktemp("cache")))
        yield
