"""The contract between the loop and what is trained: a task owns networks and losses, the loop owns everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from mesynth.errors import ConfigError
from mesynth.generators.pipeline import GeneratorFacts
from mesynth.training.batch import Batch


class Updater(Protocol):
    """What a task may do to its networks during a step; given by the loop."""

    def update(self, name: str, loss: torch.Tensor) -> None:
        """Back-propagate ``loss`` and step the optimiser ``name`` (scaled, accumulated and clipped as configured).

        Every parameter of another optimiser keeps its gradient untouched: detach, or freeze, what is not meant.
        """
        ...


@dataclass(frozen=True)
class Facts:
    """What a saved generator says about where it comes from; every pipeline stores it."""

    name: str
    """Of the generator family, for example motion_gan."""
    subjects_seen: tuple[str, ...]
    """``database/subject`` of everyone it learned from; rendered people of the training heads count as well."""
    licences: tuple[str, ...]
    data_hash: str
    config_hash: str
    images: int
    """Pairs seen in training."""
    seed: int
    code_version: str
    figures: Mapping[str, float]
    """Measured on validation pairs."""


class Problem(RuntimeError):
    """Training went wrong in a known way (saturated mask, output independent of the AUs, collapse, NaN)."""


class Task(ABC):
    """One generator family being trained. Built from its configuration; holds no data and no counters."""

    name: ClassVar[str]

    networks: dict[str, nn.Module]
    """Trained networks by name. The loop moves them, wraps them for several processes, saves them; a task reaches
    them through this mapping at every step, because the loop replaces entries by their wrapped form."""
    frozen: dict[str, nn.Module]
    """Fixed networks (judges, feature extractors); moved, never saved."""
    averaged: tuple[str, ...]
    """Names of networks whose exponential moving average is kept, validated and saved as the generator."""

    @abstractmethod
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by name, over :attr:`networks`' parameters. Called once, before networks are wrapped."""

    @abstractmethod
    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """One training step on ``batch`` after ``images`` pairs; returns detached scalars to log.

        All randomness comes from ``batch.randn`` / ``batch.rand`` (or from ``images``), never from global state.
        """

    @abstractmethod
    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Measures of the averaged networks on one batch of validation pairs, each [B] (the loop averages them)."""

    @abstractmethod
    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """A picture [H,W,3] uint8 for people: what the generator does to these pairs."""

    def begun_by(self, family: str) -> Mapping[str, nn.Module]:
        """Networks that a saved generator of ``family`` may begin (``run.start``), by their names in its folder.

        By default those that are averaged, begun by the task's own family. None: the family does not fit.
        """
        return {name: self.networks[name] for name in self.averaged} if family == self.name else {}

    def teachers(self) -> Mapping[str, GeneratorFacts]:
        """Saved generators that the task learns from beside its data, by the recipe's key: whom they saw, it has."""
        return {}

    def check_faces(self, *, alone: bool) -> None:
        """Accept faces without clips (``data.faces``) as part of a batch; ``alone``: nothing else is in it.

        A face alone has ``Batch.paired`` False: its frame is its onset, it has neither flow nor known AUs.

        Raises:
            ConfigError: the task, as it is configured, learns nothing from them. The default.
        """
        raise ConfigError(f"{self.name} learns nothing from faces without clips; leave data.faces out")

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """What is wrong with the run, in one sentence, or "" (see :class:`Problem`). Called after validation."""
        return ""

    @abstractmethod
    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: Facts) -> None:
        """Write a pipeline directory (safetensors, configuration, model card) that ``generators.load`` reads."""

    def parameters(self) -> dict[str, int]:
        """Parameters by network."""
        return {name: sum(p.numel() for p in net.parameters()) for name, net in self.networks.items()}

    def config(self) -> dict[str, Any]:
        """The resolved configuration, plain values."""
        raise NotImplementedError
