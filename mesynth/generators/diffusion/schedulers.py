"""Diffusers' schedulers for denoisers that estimate the clean data themselves. A fresh one for every call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, HeunDiscreteScheduler

from mesynth.generators.diffusion.process import Process
from mesynth.generators.diffusion.sampling import Sampling


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
