"""From noise to data: one loop for all solvers, which are diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, HeunDiscreteScheduler

from mesynth.generators.diffusion.config import Process, Sampling

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
