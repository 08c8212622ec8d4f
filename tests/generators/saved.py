"""A small untrained motion generator in which every head says something, and its saved form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.store.generator_folder import save_pipeline

FACTS: dict[str, Any] = {
    "name": "motion_gan", "subjects_seen": ("rendered/a", "rendered/b"), "licences": ("CC0-1.0",), "data_hash": "d",
    "config_hash": "c", "images": 12, "seed": 3, "code_version": "0", "figures": {"epe": 0.5},
}  # fmt: skip
SIZE = 32


def lively(seed: int = 0, **options: Any) -> MotionGenerator:
    """Heads start at zero; here they are drawn, so that mask, residual and the bent part have something to say."""
    torch.manual_seed(seed)
    network = MotionGenerator(**{"size": SIZE, "width": 8, "template": 24, "blocks": 1, **options})
    for layer in (network.shift, network.correct, network.bend, network.paint):
        if layer is not None:
            torch.nn.init.normal_(layer.weight, std=0.02)
    return network.eval()


def saved(folder: Path, seed: int = 0, **facts: Any) -> MotionGenerator:
    """Save :func:`lively` into ``folder``."""
    network = lively(seed)
    save_pipeline(folder, {"generator": network}, {**FACTS, **facts}, "# card\n", size=SIZE)
    return network
