"""What families share whose networks draw by diffusion: sampling, what a network is told, and the generator.

From noise to data: one loop for all solvers, which are diffusers' schedulers. A network is told one token per action
unit and side, and their sum as one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Self

import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, HeunDiscreteScheduler
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.generators.base import Generator
from mesynth.generators.blocks import FREQUENCIES, fourier_intensity
from mesynth.generators.diffusion_config import Process, Sampling
from mesynth.store.generator_folder import GeneratorFacts

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x [B,...], sigma [B]) -> estimate of the clean data [B,...]; guidance is its own affair (:func:`guided`)."""


def guided(asked: torch.Tensor, null: torch.Tensor, guidance: float) -> torch.Tensor:
    """Estimates with and without the condition -> the guided one."""
    return null + guidance * (asked - null)


def sample_conditioned(network: Any, told: Any, untold: Any, noise: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Data like ``noise`` [B,...] under a condition.

    ``network.denoised(x, sigma, condition)`` estimates clean data, ``network.process`` says how noise is added.
    ``told`` and ``untold``: dataclasses of tensors [B,...], the condition, and the same rows without it, which guidance
    leads away from.
    """
    if sampling.guidance == 1:
        return sample(lambda x, sigma: network.denoised(x, sigma, told), noise, sampling, network.process)
    both = type(told)(*(torch.cat([getattr(c, f.name) for c in (told, untold)]) for f in fields(told)))

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with_it, without = network.denoised(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
        return guided(with_it, without, sampling.guidance)

    return sample(denoise, noise, sampling, network.process)


def sample(
    denoise: Denoise,
    noise: torch.Tensor,
    sampling: Sampling,
    process: Process,
    *,
    keep: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Clean data [B,...] from standard normal ``noise`` [B,...], the same for the same noise.

    ``sampling.spread`` scales the noise: of Gaussian data each draw then lies so many times as far from the mean.

    ``keep``: (mask [B,1,h,w] in {0,1}, clean [B,C,h,w]). Where the mask is 0 the data is ``clean``, to the bit, and
    at every step what surrounds it is ``clean`` with as much noise as the rest has (Lugmayr et al., "RePaint", 2022).
    """

    noise = sampling.spread * noise

    def estimate(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return _held(denoise(x, x.new_full((len(x),), sigma)), keep)

    def surrounded(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x if keep is None else _held(x, (keep[0], keep[1] + sigma * noise))

    if sampling.solver == "few":
        out = torch.zeros_like(noise)
        for sigma in few_levels(sampling, process):
            out = estimate(surrounded(out + sigma * noise, sigma), sigma)
        return out

    solver = scheduler(sampling, process)
    x = noise * float(solver.sigmas[0])
    for i, t in enumerate(solver.timesteps):
        sigma = float(solver.sigmas[i])
        x = surrounded(x, sigma)
        x = solver.step(estimate(x, sigma), t, x, return_dict=False)[0]
    return _held(x, keep)


def few_levels(sampling: Sampling, process: Process) -> list[float]:
    """Noise levels of the "few" solver, from sigma_max down; sigma_min would be the next."""
    high, low = process.sigma_max ** (1 / sampling.rho), process.sigma_min ** (1 / sampling.rho)
    return [(high + i / sampling.steps * (low - high)) ** sampling.rho for i in range(sampling.steps)]


def _held(x: torch.Tensor, keep: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    return x if keep is None else torch.where(keep[0] > 0, x, keep[1])


# ---------------------------------------------------------------- schedulers


class _Multistep(EDMDPMSolverMultistepScheduler):
    """DPM++ that is given estimates of the clean data."""

    def precondition_outputs(self, sample: torch.Tensor, model_output: torch.Tensor, sigma: Any) -> torch.Tensor:
        """Nothing is left to be done."""
        return model_output


class _Euler(EDMEulerScheduler):
    """Euler steps (DDIM) that are given estimates of the clean data."""

    def precondition_outputs(self, sample: torch.Tensor, model_output: torch.Tensor, sigma: Any) -> torch.Tensor:
        """Nothing is left to be done."""
        return model_output


class _Heun(HeunDiscreteScheduler):
    """Heun's method at noise levels that are given, whatever its own betas are."""

    levels: np.ndarray

    def _convert_to_karras(self, in_sigmas: Any, num_inference_steps: int) -> np.ndarray:
        return self.levels


def scheduler(sampling: Sampling, process: Process) -> Any:
    """Set to ``sampling.steps`` steps from the most noise to none; ``sigmas[i]`` is the noise at step ``i``."""
    made: Any
    if sampling.solver == "heun":
        made = _Heun(prediction_type="sample", num_train_timesteps=2)
        made.register_to_config(use_karras_sigmas=True)
        high, low = (sigma ** (1 / sampling.rho) for sigma in (process.sigma_max, process.sigma_min))
        made.levels = np.linspace(high, low, sampling.steps) ** sampling.rho
    else:
        kind = _Multistep if sampling.solver == "dpm++" else _Euler
        made = kind(
            sigma_min=process.sigma_min, sigma_max=process.sigma_max, sigma_data=process.sigma_data, rho=sampling.rho
        )
    made.is_scale_input_called = True  # inputs are scaled by the process; else Euler warns
    made.set_timesteps(sampling.steps)
    made.set_begin_index(0)
    return made


# ---------------------------------------------------------------- the condition


DROP_ALL, DROP_AUS, DROP_ONE = 0.1, 0.1, 0.1
"""Shares of training rows that lose the whole condition, all AUs, single AUs."""
HIDDEN = 1 / 3
"""How many AUs those of the last kind lose."""


@dataclass(frozen=True, eq=False)
class Condition:
    """The condition of B rows, after what is left out was left out."""

    tokens: torch.Tensor
    """[B,2K,dim]: the subject's left and right of each AU in turn"""
    pooled: torch.Tensor
    """[B,dim]"""


class AUTokens(nn.Module):
    """AU intensities [B,K,2] -> :class:`Condition`.

    A token is the AU's embedding + the side's + the Fourier features of the intensity times an embedding of the AU's
    own, so that every AU says in its own way how much of it there is. An unknown AU has a learned token, and a row
    without condition a learned sequence: neither is the same as an AU at rest.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.unit = nn.Parameter(0.5 * torch.randn(N_AUS, 1, dim))
        self.scale = nn.Parameter(torch.randn(N_AUS, 1, dim))
        self.side = nn.Parameter(0.5 * torch.randn(1, 2, dim))
        self.intensity = nn.Linear(1 + 2 * FREQUENCIES, dim, bias=False)
        self.unknown = nn.Parameter(0.5 * torch.randn(dim))
        self.null = nn.Parameter(0.5 * torch.randn(2 * N_AUS, dim))
        self.null_pooled = nn.Parameter(0.5 * torch.randn(dim))
        self.pool = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, aus: torch.Tensor, known: torch.Tensor, null: torch.Tensor | None = None) -> Condition:
        """``aus`` [B,K,2] in [0,1]; ``known`` [B,K,2] bool; ``null`` [B] bool: rows without any condition."""
        amount = self.scale * self.intensity(fourier_intensity(aus * known))
        place = self.unit + self.side
        each = torch.where(known[..., None], place + amount, place + self.unknown)
        # An AU at rest adds nothing to the sum, whoever it is.
        added = torch.where(known[..., None], amount * (1 + self.side), self.unknown * self.scale / N_AUS)
        tokens, pooled = each.flatten(1, 2), self.pool(added.flatten(1, 2).sum(1))
        if null is not None:
            tokens = torch.where(null[:, None, None], self.null, tokens)
            pooled = torch.where(null[:, None], self.null_pooled, pooled)
        return Condition(tokens, pooled)


def dropped(known: torch.Tensor, rand: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What training hides: ``known`` [B,K,2] bool and uniform ``rand`` [B,1+2K] -> (known, null [B] bool).

    A row loses its whole condition, or all AUs, or each AU with the probability ``HIDDEN``, or (most rows) nothing.
    """
    which = rand[:, :1, None]
    holes = (which >= DROP_ALL + DROP_AUS) & (which < DROP_ALL + DROP_AUS + DROP_ONE)
    blind = (which >= DROP_ALL) & (which < DROP_ALL + DROP_AUS)
    hidden = (rand[:, 1:].view(known.shape) < HIDDEN) & holes
    return known & ~hidden & ~blind, rand[:, 0] < DROP_ALL


# ---------------------------------------------------------------- the generator


_OPTIONS: dict[str, Any] = {"steps": int, "solver": str, "guidance": (int, float), "spread": (int, float)}


class SampledGenerator(Generator):
    """A trained network with its facts and how it samples: ``steps``, ``solver``, ``guidance`` and ``spread``.

    See :meth:`configured`; ``network`` has ``sampling``, how it samples unless it is told otherwise.
    """

    def __init__(self, network: Any, facts: GeneratorFacts, sampling: Sampling | None = None) -> None:
        self.network, self.facts, self.size = network.eval().requires_grad_(False), facts, facts.size
        self.sampling: Sampling = network.sampling if sampling is None else sampling

    steps = property(
        attrgetter("sampling.steps"), doc="Noise levels: evaluations of the network, twice for heun less one."
    )
    solver = property(attrgetter("sampling.solver"), doc="See mesynth.generators.diffusion_config.Sampling.")
    guidance = property(attrgetter("sampling.guidance"), doc="Strength of the AU condition, 1: as learned.")
    spread = property(attrgetter("sampling.spread"), doc="Distance of a draw from the mean draw, 1: as learned.")

    def configured(self, **options: Any) -> Self:
        """The same generator with other ``steps``, ``solver``, ``guidance`` or ``spread``; the network is shared.

        Raises:
            ConfigError: an unknown option, or a value of the wrong type or out of range.
        """
        for name, value in options.items():
            if name not in _OPTIONS:
                raise ConfigError(f"option '{name}' is unknown to {self.family}; choose from {', '.join(_OPTIONS)}")
            if not isinstance(value, _OPTIONS[name]) or isinstance(value, bool):
                raise ConfigError(f"option {name}={value!r} of {self.family} is of the wrong type")
        made = copy(self)
        made.sampling = replace(self.sampling, **options)
        return made
