"""How noise is added to data and taken away, and how samples are drawn: sections of a recipe, read without torch.

Both processes, EDM and v-prediction on a cosine schedule, are written for noise that is simply added,
``x = clean + sigma noise`` (Karras et al., "Elucidating the design space of diffusion-based generative models", 2022),
so that one sampler serves both. A network never sees ``sigma`` or ``x`` as they are: it gets ``x`` at unit variance and
the noise level as a number of 0..1000.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from mesynth.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

KINDS = ("edm", "v")
_SNR_LIMIT = 5.0
_EDM_MEAN, _EDM_SPREAD = math.log(math.exp(-1.2) / 0.5), 1.2
"""Of ln(sigma / sigma_data) in training; Karras et al. give the mean for sigma_data = .5."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """How noise is added and taken away.

    Raises:
        ConfigError: an unknown kind, or a range of noise that is none.
    """

    kinds: ClassVar[tuple[str, ...]] = KINDS
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
        if self.kind not in self.kinds:
            raise ConfigError(f"process kind '{self.kind}' is unknown; choose {' or '.join(self.kinds)}")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name != "kind" and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"process {f.name}={value} must be positive")
        if self.sigma_min >= self.sigma_max:
            raise ConfigError(f"process sigma_min={self.sigma_min:g} must be below sigma_max={self.sigma_max:g}")

    def train_sigma(self, u: torch.Tensor) -> torch.Tensor:
        """The noise level to train at, [B], for uniform numbers ``u`` [B] in [0,1): rises with ``u``."""
        import torch

        u = u.clamp(1e-6, 1 - 1e-6)
        if self.kind == "edm":
            ratio = torch.exp(_EDM_MEAN + _EDM_SPREAD * math.sqrt(2) * torch.erfinv(2 * u - 1))
        else:
            ratio = torch.tan(u * (math.pi / 2))
        return (self.sigma_data * ratio).clamp(self.sigma_min, self.sigma_max)

    def level(self, sigma: torch.Tensor) -> torch.Tensor:
        """The noise level as networks are told it, [B] in 0..1000: ln sigma, or the cosine schedule's time."""
        import torch

        if self.kind == "edm":
            low, high = math.log(self.sigma_min), math.log(self.sigma_max)
            return 1000 * (torch.log(sigma) - low) / (high - low)
        return (2000 / math.pi) * torch.atan(sigma / self.sigma_data)

    def denoised(
        self, network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Estimate of the clean data [B,...] from ``x`` [B,...] with noise ``sigma`` [B].

        ``network``: (x [B,...] at unit variance, noise level [B] in 0..1000) -> [B,...].
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


SOLVERS = ("dpm++", "heun", "euler", "few")
MAX_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are drawn.

    Raises:
        ConfigError: a value out of range.
    """

    steps: int = 8
    """Noise levels; "heun" evaluates the network twice at all but the last."""
    solver: str = "dpm++"
    """"dpm++": second-order multistep (Lu et al., 2022); "heun" (Karras et al., 2022); "euler" (DDIM); "few": noise is
    put back after every step, for networks distilled to one to four steps (Song et al., 2023)."""
    guidance: float = 1.0
    """Classifier-free guidance (Ho and Salimans, 2021): 1 is none. For the caller's ``denoise``."""
    rho: float = 7.0
    """Karras et al.'s spacing of the noise levels: more of them at little noise."""
    spread: float = 1.0
    """Standard deviation of the noise that a draw starts from, over that of training: how far draws lie apart."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"steps={self.steps} is outside 1..{MAX_STEPS}")
        if self.solver not in SOLVERS:
            raise ConfigError(f"solver '{self.solver}' is unknown; choose {', '.join(SOLVERS)}")
        if not 0 <= self.guidance <= 20:
            raise ConfigError(f"guidance={self.guidance:g} is outside 0..20")
        if not 1 <= self.rho <= 100:
            raise ConfigError(f"rho={self.rho:g} is outside 1..100")
        if not 0 <= self.spread <= 10:
            raise ConfigError(f"spread={self.spread:g} is outside 0..10; 1 is that of training")
