"""The toy generator in the registry, for one test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesynth.training.config import Recipe, load_recipe
from tests.builders import with_family
from tests.training import toy


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """``recipe("loss.noise=0", images=64)``: a short run of the toy task, with overrides and run keys."""
    with_family(monkeypatch, "toy", toy.TOY)
    file = tmp_path / "toy.yaml"

    def make(*overrides: str, **run: object) -> Recipe:
        file.write_text(toy.recipe_text(**run))
        return load_recipe(file, overrides)

    return make
