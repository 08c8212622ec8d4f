"""What the training of several families shares: networks and optimisers, known failures, and what is worth saving.

A family's task says which networks there are and what its losses are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.generators.base import save_trained
from mesynth.store.generator_folder import GeneratorFacts
from mesynth.training import losses as L
from mesynth.training.task import Problem, Task


class GANTask(Task):
    """A generator and what judges it. ``networks`` are built by the family, the generator first; None: not needed."""

    averaged = ("generator",)
    card: ClassVar[dict[str, str]]
    """The family's own words on its card: ``title``, ``what``, ``limits``, and ``use`` if it has a call of its own."""

    def __init__(self, config: Any, size: int, **networks: nn.Module | None) -> None:
        self._config, self.size = config, size
        self.networks = {name: network for name, network in networks.items() if network is not None}
        self.frozen = {}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """One Adam a network; see :func:`mesynth.training.losses.adam`."""
        return L.adam(self.networks, self._config.optim)

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """NaN, an output that ignores the AUs, or that equals the input."""
        return L.known_failure(logged, measured)

    @abstractmethod
    def unheard(self, generator: nn.Module) -> str:
        """Why the generator is not worth saving, as it does not hear what is asked of it; "" where it does."""

    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: GeneratorFacts) -> None:
        """See the base class.

        Raises:
            Problem: see :meth:`unheard`.
        """
        generator = averaged["generator"]
        if why := self.unheard(generator):
            raise Problem(f"{self.name} is not saved: {why}")
        save_trained(folder, {"generator": generator}, facts, **self.card)


UNMOVED = """and does not move: the flow of its clips is estimated from their frames (TV-L1). It draws neither
head motion nor style. No FACS coder has looked at it; the figures below are all that was measured."""
"""Limits of those that paint, on their cards."""


class PaintingTask(GANTask):
    """A GAN that paints a face at AU intensities."""

    taught: ClassVar[str]
    """What it needs pairs for: "it has nothing real to ..." """
    remedy: ClassVar[str]
    """What helps where its AUs change nothing."""

    @abstractmethod
    def drawn(self, generator: nn.Module, pictures: torch.Tensor, aus: torch.Tensor) -> torch.Tensor:
        """Pictures [N,3,S,S] of onsets at AU intensities [N,K,2], without noise and class."""

    def reach(self, generator: nn.Module) -> float:
        """Largest grey-level difference at any pixel between the pictures of two AUs at full intensity."""
        device = next(generator.parameters()).device
        return L.au_reach(lambda pictures, aus: self.drawn(generator, pictures, aus), self.size, device)

    def unheard(self, generator: nn.Module) -> str:
        """No AU changes a grey level: nothing was learned, or a mask is saturated."""
        reach = self.reach(generator)
        if reach >= 1:
            return ""
        return (
            f"its output does not depend on the AUs (at most {reach:.2g} grey levels between two AUs at full "
            f"intensity); train longer or {self.remedy}"
        )

    def check_faces(self, *, alone: bool) -> None:
        """See the base class: what an expression looks like is learned from pairs."""
        if alone:
            raise ConfigError(
                f"{self.name} has nothing real to {self.taught}: data.faces shows no expression; add data.manifests "
                "(or rendered pairs)"
            )


class DiffusedMotionTask(Task):
    """Motion that is drawn by diffusion. There is one network, the generator."""

    averaged = ("generator",)
    network: ClassVar[type[Any]]
    card: ClassVar[dict[str, str]]
    """As :attr:`GANTask.card`."""
    still: ClassVar[str] = "train longer or lower optim.lr"
    """What helps where nothing moves."""
    deaf: ClassVar[str]
    """What helps where the AUs do not matter."""

    def __init__(self, config: Any, size: int) -> None:
        config.model.check_size(size)
        self._config, self.size = config, size
        self.networks: dict[str, nn.Module] = {"generator": self.network(size=size, **config.model.arguments())}
        self.frozen: dict[str, nn.Module] = {}

    def adam_w(self, groups: Iterable[dict[str, Any]]) -> dict[str, torch.optim.Optimizer]:
        """One AdamW for those of the groups that hold parameters."""
        o = self._config.optim
        held = [group for group in groups if group["params"]]
        adam = torch.optim.AdamW(held, lr=o.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay)
        return {"generator": adam}

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """Known failures: nothing moves, or the AUs do not matter. Seeds that do not matter are in the figures."""
        return L.motion_failure(measured, self.size, still=self.still, deaf=self.deaf)

    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: GeneratorFacts) -> None:
        """See the base class."""
        save_trained(folder, {"generator": averaged["generator"]}, facts, **self.card)
