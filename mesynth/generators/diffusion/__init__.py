"""What the diffusion generators share: the noise process, sampling, and tokens for action units.

How noise is added to data and taken away again: EDM, or v-prediction on a cosine schedule.

Both are written for noise that is simply added, ``x = clean + sigma noise`` (Karras et al., "Elucidating the design
space of diffusion-based generative models", 2022), so that one sampler serves both. A network never sees ``sigma`` or
``x`` as they are: it gets ``x`` at unit variance and the noise level as a number of 0..1000.

From noise to data: one loop for all solvers. The solvers are diffusers' schedulers.

Diffusers' schedulers for denoisers that estimate the clean data themselves. A fresh one for every call.

What a diffusion network is told: one token per action unit and side, and their sum as one vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, HeunDiscreteScheduler
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.generators.blocks import FREQUENCIES, fourier_intensity

# ------------------------------------------------------------------- process


KINDS = ("edm", "v")
_SNR_LIMIT = 5.0
_EDM_MEAN, _EDM_SPREAD = math.log(math.exp(-1.2) / 0.5), 1.2
"""Of ln(sigma / sigma_data) in training; Karras et al. give the mean for sigma_data = .5."""

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x [B,...] at unit variance, noise level [B] in 0..1000) -> [B,...]."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """How noise is added and taken away.

    Raises:
        ConfigError: an unknown kind, or a range of noise that is none.
    """

    kind: str = "edm"
    """"edm": noise levels log-normal, loss weight 1 / c_out^2 (Karras et al., 2022); "v": v-prediction (Salimans and
    Ho, 2022), cosine schedule, weight min(SNR, 5) (Hang et al., 2023)."""
    sigma_data: float = 0.5
    """Standard deviation of the data."""
    sigma_min: float = 0.002
    """Least noise of training and sampling, in the data's unit."""
    sigma_max: float = 80.0
    """Most noise: sampling starts from it."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"process kind '{self.kind}' is unknown; choose {' or '.join(KINDS)}")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name != "kind" and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"process {f.name}={value} must be positive")
        if self.sigma_min >= self.sigma_max:
            raise ConfigError(f"process sigma_min={self.sigma_min:g} must be below sigma_max={self.sigma_max:g}")

    def train_sigma(self, u: torch.Tensor) -> torch.Tensor:
        """The noise level to train at, [B], for uniform numbers ``u`` [B] in [0,1): rises with ``u``."""
        u = u.clamp(1e-6, 1 - 1e-6)
        if self.kind == "edm":
            ratio = torch.exp(_EDM_MEAN + _EDM_SPREAD * math.sqrt(2) * torch.erfinv(2 * u - 1))
        else:
            ratio = torch.tan(u * (math.pi / 2))
        return (self.sigma_data * ratio).clamp(self.sigma_min, self.sigma_max)

    def level(self, sigma: torch.Tensor) -> torch.Tensor:
        """The noise level as networks are told it, [B] in 0..1000: ln sigma, or the cosine schedule's time."""
        if self.kind == "edm":
            low, high = math.log(self.sigma_min), math.log(self.sigma_max)
            return 1000 * (torch.log(sigma) - low) / (high - low)
        return (2000 / math.pi) * torch.atan(sigma / self.sigma_data)

    def denoised(self, network: Network, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Estimate of the clean data [B,...] from ``x`` [B,...] with noise ``sigma`` [B].

        ``c_skip x + c_out network(c_in x, level)``: a network that says 0 is the best linear denoiser. The network's
        target has unit variance at every sigma; "v" differs in its sign (v = alpha noise - sigma clean).
        """
        wide = sigma.view(-1, *[1] * (x.ndim - 1))
        total = (wide.square() + self.sigma_data**2).sqrt()
        out = network(x / total, self.level(sigma)).to(x.dtype)
        sign = 1.0 if self.kind == "edm" else -1.0
        return (self.sigma_data / total).square() * x + sign * self.sigma_data * (wide / total) * out

    def target(self, x: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What :meth:`denoised`'s network has to say for ``clean`` to come out; all [B,...] but ``sigma`` [B] > 0."""
        wide = sigma.view(-1, *[1] * (x.ndim - 1))
        total = (wide.square() + self.sigma_data**2).sqrt()
        sign = 1.0 if self.kind == "edm" else -1.0
        return sign * (clean - (self.sigma_data / total).square() * x) * total / (self.sigma_data * wide)

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """Loss weight [B] of ``|denoised - clean|^2``."""
        ratio = sigma / self.sigma_data
        if self.kind == "edm":
            return (1 + ratio.square()) / sigma.square()
        return ratio.pow(-2).clamp(max=_SNR_LIMIT) / self.sigma_data**2


# ------------------------------------------------------------------- sampling


SOLVERS = ("dpm++", "heun", "euler", "few")
MAX_STEPS = 1000

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x [B,...], sigma [B]) -> estimate of the clean data [B,...]; guidance is its own affair (:func:`guided`)."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are drawn.

    Raises:
        ConfigError: a value out of range.
    """

    steps: int = 8
    """Noise levels; "heun" looks at the network twice at all but the last."""
    solver: str = "dpm++"
    """"dpm++": second-order multistep (Lu et al., 2022); "heun" (Karras et al., 2022); "euler" (DDIM); "few": noise is
    put back after every look, for networks distilled to one to four steps (Song et al., 2023)."""
    guidance: float = 1.0
    """Classifier-free guidance (Ho and Salimans, 2021): 1 is none. For the caller's ``denoise``."""
    rho: float = 7.0
    """Karras et al.'s spacing of the noise levels: more of them at little noise."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"steps={self.steps} is outside 1..{MAX_STEPS}")
        if self.solver not in SOLVERS:
            raise ConfigError(f"solver '{self.solver}' is unknown; choose {', '.join(SOLVERS)}")
        if not 0 <= self.guidance <= 20:
            raise ConfigError(f"guidance={self.guidance:g} is outside 0..20")
        if not 1 <= self.rho <= 100:
            raise ConfigError(f"rho={self.rho:g} is outside 1..100")


def guided(asked: torch.Tensor, null: torch.Tensor, guidance: float) -> torch.Tensor:
    """Estimates with and without the condition -> the guided one."""
    return null + guidance * (asked - null)


def sample(
    denoise: Denoise,
    noise: torch.Tensor,
    sampling: Sampling,
    process: Process,
    *,
    keep: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Clean data [B,...] from standard normal ``noise`` [B,...], the same for the same noise.

    ``keep``: (mask [B,1,h,w] in {0,1}, clean [B,C,h,w]). Where the mask is 0 the data is ``clean``, to the bit, and
    at every step what surrounds it is ``clean`` with as much noise as the rest has (Lugmayr et al., "RePaint", 2022).
    """

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


# ------------------------------------------------------------------- schedulers


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
    """Set to ``sampling.steps`` steps from the most noise to none; ``sigmas[i]`` is the noise at look ``i``."""
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


# ------------------------------------------------------------------- tokens


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
