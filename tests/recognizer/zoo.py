"""The published networks at sizes for a test: what the comment ``# small:`` of their recipes says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import yaml

from recognizer.models import PUBLISHED, section_class
from recognizer.models.common import FlowNetwork, Shape
from recognizer.views import VIEWS

RECIPES = Path(__file__).parents[2] / "configs" / "recognizer"
ZOO: tuple[str, ...] = tuple(name for name in PUBLISHED if name != "ststnet")
"""All but the one that has tests of its own."""
BATCH = 2


@dataclass(frozen=True)
class Entry:
    """A network of the zoo as one of its recipes asks for it."""

    name: str
    config: Any
    shape: Shape

    @property
    def module(self) -> ModuleType:
        return import_module(f"recognizer.models.{self.name}")

    def build(self, n_classes: int = 3, seed: int = 0) -> FlowNetwork:
        torch.manual_seed(seed)
        network = self.module.build(self.config, n_classes, self.shape)
        assert isinstance(network, FlowNetwork)
        return network

    def views(self, needs: tuple[str, ...], batch: int = BATCH, seed: int = 0) -> list[torch.Tensor]:
        """Random views of the right shapes and ranges; frames that differ little, as in micro-expressions."""
        draw = torch.Generator().manual_seed(seed)
        f = self.shape.frame_size
        face = torch.rand(batch, 1, f, f, generator=draw) * 0.8 + 0.1
        made = {
            "flow": torch.randn(batch, 3, self.shape.size, self.shape.size, generator=draw) * 0.3,
            "apex": face + torch.randn(batch, 2, f, f, generator=draw) * 0.02,
            "frames": face + torch.randn(batch, self.shape.frames, f, f, generator=draw) * 0.02,
        }
        made["flow"][:, 2] = made["flow"][:, 2].abs()
        for name in needs:  # the others are read in these ranges, too
            if name not in made:
                draws = torch.randn(batch, *VIEWS[name].of(self.shape), generator=draw)
                made[name] = (0.5 + draws * 0.1).clamp(0, 1) if VIEWS[name].dtype is np.uint8 else draws * 0.2
        return [made[name] for name in needs]


@cache
def recipe(name: str) -> dict[str, Any]:
    """configs/recognizer/<name>.yaml."""
    loaded = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def _entry(name: str, data: dict[str, Any], section: dict[str, Any]) -> Entry:
    kind = section_class(name)
    assert kind is not None
    return Entry(name, kind(**section), Shape(**{k: v for k, v in data.items() if k != "input"}))


@cache
def published(name: str) -> Entry:
    """As the recipe has it."""
    settings = recipe(name)
    return _entry(name, settings["data"], settings[name])


@cache
def small(name: str) -> Entry:
    """The recipe with its line ``# small:`` laid over it."""
    settings = recipe(name)
    [line] = [line for line in (RECIPES / f"{name}.yaml").read_text().splitlines() if line.startswith("# small: ")]
    over = yaml.safe_load(line.removeprefix("# small: "))
    assert set(over) <= {"data", name}
    return _entry(name, settings["data"] | over.get("data", {}), settings[name] | over.get(name, {}))
