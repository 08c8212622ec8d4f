"""From noise to data: one loop for all solvers. The solvers are diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mesynth.errors import ConfigError
from mesynth.generators.diffusion.process import Process

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
    from mesynth.generators.diffusion.schedulers import scheduler

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
