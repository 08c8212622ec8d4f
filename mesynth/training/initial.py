"""Initial weights from a saved generator: which ones, whom they have seen, and whether they fit."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from mesynth.core.errors import ConfigError, LeakError
from mesynth.store.generator_folder import INDEX, WEIGHTS, GeneratorFacts, read_facts, saved_folder, shipped_models
from mesynth.training.config import Recipe
from mesynth.training.record import GENERATOR, RECIPE
from mesynth.training.task import Task

_NOT_ARCHITECTURE = ("size", "steps", "solver", "guidance")
"""Configuration that may differ: a network without a layer of a fixed size can go on with larger pictures, and how one
samples is no part of it."""


def refuse_leak(what: str, facts: GeneratorFacts, subjects: Collection[str]) -> None:
    """Raises LeakError if a generator that a run learns from, ``what``, has learned from one of ``subjects``."""
    leaked = sorted(set(subjects) & set(facts.subjects_seen))
    if leaked:
        raise LeakError(
            f"{what} has learned from {leaked[0]}, who must not be seen; "
            f"begin with a generator that never saw them, or without {what.partition('=')[0]}"
        )


@dataclass(frozen=True)
class InitialWeights:
    """A checked saved generator to begin with."""

    name: str
    """As the recipe names it."""
    folder: Path
    facts: GeneratorFacts

    @property
    def sha256(self) -> str:
        """Of its weights; where the folder lies does not matter."""
        return self.facts.weights_sha256

    def refuse_leak(self, subjects: Collection[str]) -> None:
        """Raises LeakError if the generator learned from one of ``subjects``."""
        refuse_leak(f"run.start={self.name}", self.facts, subjects)

    def load_into(self, task: Task) -> None:
        """Put the saved weights into the networks of ``task`` that they may begin; all must be there and fit.

        Raises:
            ConfigError: another family, or another architecture (the first difference is named).
        """
        begun = task.begun_by(self.facts.name)
        if not begun:
            raise ConfigError(
                f"run.start={self.name} holds weights of {self.facts.name}; this recipe trains {task.name}"
            )
        for name in begun:
            if name not in self.facts.networks:
                raise ConfigError(
                    f"run.start={self.name} holds no network '{name}' (only {', '.join(self.facts.networks)}); "
                    "choose another generator"
                )
        for name in self.facts.networks:
            if name not in begun:
                continue
            saved = load_file(self.folder / name / WEIGHTS)
            configured = json.loads((self.folder / name / "config.json").read_text())
            difference = _difference(begun[name], configured, saved)
            if difference:
                raise ConfigError(
                    f"run.start={self.name} has another architecture: {name}: {difference}; "
                    "give the recipe the model section it was trained with"
                )
            begun[name].load_state_dict(saved)


def open_initial(recipe: Recipe) -> InitialWeights | None:
    """The generator that ``run.start`` names, every file of it checked; None where it names none.

    Raises:
        ConfigError: nothing there, or a run that has not finished.
        PipelineError: a damaged or foreign folder, or one that does not say whom it learned from.
    """
    given = recipe.run.start
    if given is None:
        return None
    folder = saved_folder(given)
    if not folder.is_dir():
        known = ", ".join(shipped_models())
        raise ConfigError(
            f"run.start={given} is no folder; give a saved generator, the folder of a finished run, or one that ships "
            f"({known})"
        )
    if not (folder / INDEX).is_file() and (folder / RECIPE).is_file():
        folder = folder / GENERATOR
        if not folder.is_dir():
            raise ConfigError(f"run.start={given} is a run that has not finished; train it to its end first")
    facts = read_facts(folder)
    if not facts.subjects_seen:
        raise ConfigError(f"run.start={given} does not say whom it learned from (subjects_seen is empty); retrain it")
    return InitialWeights(str(given), folder, facts)


def _difference(network: nn.Module, configured: Mapping[str, Any], saved: Mapping[str, torch.Tensor]) -> str:
    """The first difference between a network and what was saved, or ""."""
    own = dict(getattr(network, "config", {}))
    for key in sorted(own.keys() & configured.keys()):
        if key.startswith("_") or key in _NOT_ARCHITECTURE:
            continue
        # As JSON has it: a tuple was saved as a list.
        here, there = (json.dumps(value, default=str) for value in (own[key], configured[key]))
        if here != there:
            return f"{key} is {here} here and {there} there"
    state = network.state_dict()
    for key in (*state, *(key for key in saved if key not in state)):
        if key not in saved or key not in state:
            return f"{key} is missing {'there' if key in state else 'here'}"
        if state[key].shape != saved[key].shape:
            return f"{key} is {list(state[key].shape)} here and {list(saved[key].shape)} there"
    return ""
