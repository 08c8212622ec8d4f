"""What picture is to be expected of an onset and its AUs, as another saved generator says it.

Diffusion then draws what is different (docs/decisions/015). The other generator stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mesynth.generators.au_icgan import AUICGenerator
from mesynth.generators.formation import form
from mesynth.generators.motion_gan import MotionGenerator
from mesynth.generators.pipeline import GeneratorFacts, PipelineError, load_network, read_facts

FAMILIES: dict[str, Any] = {"motion_gan": MotionGenerator, "au_icgan": AUICGenerator}
"""Families that say the same of the same request: nothing in them is drawn."""


def expected_picture(network: Any, onset: torch.Tensor, aus: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The frame [B,3,S,S] of onsets [B,3,S,S] in [0,1] and AUs [B,K,2]; of unknown AUs rest is expected.

    Where no AU is asked for it is the onset to the bit. Without gradients.
    """
    with torch.no_grad():
        made = network(onset, aus * known)
        picture: torch.Tensor = made.picture if hasattr(made, "picture") else form(onset, made)
    return picture


def load_expectation(family: str, folder: Path) -> Any:
    """The network of a family in a folder that holds its ``config.json`` and weights; frozen.

    Raises:
        PipelineError: a family that says no picture, or weights of another class.
    """
    if family not in FAMILIES:
        raise PipelineError(f"{folder} is said to be a {family}; a picture is expected of {' or '.join(FAMILIES)}")
    network: Any = load_network(FAMILIES[family], folder)
    return network.eval().requires_grad_(False)


def find_expectation(folder: Path) -> GeneratorFacts:
    """Facts of a saved generator that can say what is expected, every file of it checked.

    Raises:
        PipelineError: no saved generator, a damaged one, another family, or one that does not say whom it has seen.
    """
    facts = read_facts(folder)
    if facts.name not in FAMILIES:
        raise PipelineError(f"{folder} holds a {facts.name}; give a {' or '.join(FAMILIES)}")
    if not facts.subjects_seen:
        raise PipelineError(f"{folder} does not say whom it learned from (subjects_seen is empty); retrain it")
    return facts
