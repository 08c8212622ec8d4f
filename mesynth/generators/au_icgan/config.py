"""Configuration of ``au_icgan``: the sections model, loss and optim of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesynth.config import check_at_least_one, check_weights
from mesynth.core.errors import ConfigError
from mesynth.training.config import AdamConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes. Published: 64, 6, 64, 6."""

    width: int = 64
    """Channels of the generator's first layer."""
    blocks: int = 6
    """Residual blocks."""
    film: bool = True
    """AUs also scale the residual blocks (ours); false: tiled channels alone, as published."""
    relative: bool = True
    """Colour is a change of the input's (ours); false: drawn from nothing, as published."""
    prior: bool = True
    """The generator sees what the motion prior would do (ours); false: picture and AUs alone, as published."""
    critic_width: int = 64
    """Channels of the first layer of both discriminators."""
    critic_layers: int = 6
    """Stride-2 layers of both, as far as the picture allows."""

    def __post_init__(self) -> None:
        check_at_least_one("model", self, "width", "blocks", "critic_width", "critic_layers")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights; 0 switches a loss off. Those of GANimation's family unless marked ours."""

    adversarial: float = 1.0
    """Realism, Wasserstein."""
    penalty: float = 10.0
    """Gradient penalty of the realism critic."""
    au: float = 1.0
    """AU intensities read by the intensity discriminator (GANimation: 4000 for a mean over AUs on another scale)."""
    cycle: float = 10.0
    """L1 of the picture that is asked to go back."""
    mask: float = 0.1
    """Mean of what the mask changes."""
    smooth: float = 1e-5
    """Total variation of the mask, summed over pixels."""
    pixel: float = 30.0
    """L1 to the real frame of the pair (ours; 0: unpaired, as published)."""

    def __post_init__(self) -> None:
        check_weights("loss", self)
        if not (self.adversarial or self.au or self.pixel):
            raise ConfigError("loss.adversarial, loss.au and loss.pixel are all 0: nothing would be learned; set one")

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        return {} if self.adversarial else {"penalty": "loss.adversarial=0 trains no realism critic"}


@dataclass(frozen=True, kw_only=True)
class OptimConfig(AdamConfig):
    """Published: 1e-4 for all, betas .5 and .999, five critic steps to one of the generator."""

    lr_critic: float = 2e-4
    """Of both discriminators: two time-scales instead of five steps."""
    critic_steps: int = 1
    """Updates of the realism critic to one of the generator."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.critic_steps <= 20:
            raise ConfigError(f"optim.critic_steps={self.critic_steps} is outside 1..20")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The task's sections of a recipe."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
