"""What generators share whose networks draw motion by diffusion: options, and where they run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import torch

from mesynth.core.errors import ConfigError
from mesynth.generators.base import Generator
from mesynth.generators.diffusion.config import Sampling
from mesynth.store.generator_folder import GeneratorFacts

_OPTIONS: dict[str, Any] = {"steps": int, "solver": str, "guidance": (int, float)}


class SampledGenerator(Generator):
    """A trained network with its facts and how it samples: ``steps``, ``solver`` and ``guidance``.

    See :meth:`configured`; ``network`` has ``sampling``, how it samples unless it is told otherwise.
    """

    def __init__(self, network: Any, facts: GeneratorFacts, sampling: Sampling | None = None) -> None:
        self.network, self.facts, self.size = network.eval().requires_grad_(False), facts, facts.size
        self.sampling: Sampling = network.sampling if sampling is None else sampling

    @property
    def steps(self) -> int:
        """Noise levels: evaluations of the network, for all solvers but "heun" (twice as many less one)."""
        return self.sampling.steps

    @property
    def solver(self) -> str:
        """See :class:`mesynth.generators.diffusion.config.Sampling`."""
        return self.sampling.solver

    @property
    def guidance(self) -> float:
        """Strength of the AU condition, 1: as learned."""
        return self.sampling.guidance

    def configured(self, **options: Any) -> Self:
        """The same generator with other ``steps``, ``solver`` or ``guidance``; the network is shared.

        Raises:
            ConfigError: an unknown option, or a value of the wrong type or out of range.
        """
        for name, value in options.items():
            if name not in _OPTIONS:
                raise ConfigError(f"option '{name}' is unknown to {self.family}; choose from {', '.join(_OPTIONS)}")
            if not isinstance(value, _OPTIONS[name]) or isinstance(value, bool):
                raise ConfigError(f"option {name}={value!r} of {self.family} is of the wrong type")
        return type(self)(self.network, self.facts, replace(self.sampling, **options))

    def to(self, device: torch.device | str) -> Self:
        """Run the network there; frames are made on the CPU."""
        self.network.to(device)
        return self
