"""Configuration of ``flow_gan``: the sections model, loss and optim of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesynth.config import check_at_least_one, check_weights
from mesynth.core.errors import ConfigError
from mesynth.training.config import AdamConfig

CONDITIONS = ("class", "aus", "both")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes. The paper's abstract states none."""

    width: int = 32
    """Channels of the generator's last level; the first has 8 times as many."""
    z: int = 64
    """Noise numbers."""
    condition: str = "both"
    """class, aus, or both (each is left out of a third of the pairs, so that either serves alone)."""
    unit: float = 0.0025
    """Motion, as a share of the side, up to which the drawn scale is about linear."""
    limit: float = 0.06
    """Largest motion, as a share of the side."""
    prior: bool = True
    """Draw a change of the motion prior's flow for the AUs (ours; false: all is drawn, as published)."""
    critic_width: int = 32
    critic_layers: int = 4
    """Stride-2 layers of the discriminator, as far as the picture allows."""

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ConfigError(f"model.condition '{self.condition}' is unknown; choose from {', '.join(CONDITIONS)}")
        check_at_least_one("model", self, "width", "z", "critic_width", "critic_layers")
        if not 0 < self.unit < self.limit <= 1:
            raise ConfigError(f"model.unit={self.unit:g} and model.limit={self.limit:g}: need 0 < unit < limit <= 1")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights; 0 switches a loss off."""

    adversarial: float = 1.0
    """Hinge."""
    classes: float = 1.0
    """Auxiliary classifier, where a pair has a class."""
    au: float = 0.3
    """AU intensities read by the discriminator (ours)."""
    pixel: float = 3.0
    """L1 to the pair's flow, both compressed, where AUs are asked for (ours; 0: as published). A class alone names many
    motions: its drawings are left to the discriminator, unless condition=class and there is nothing else."""
    diversity: float = 0.1
    """Two draws for one request should differ (mode seeking; Mao et al., CVPR 2019; ours)."""

    def __post_init__(self) -> None:
        check_weights("loss", self)
        if not (self.adversarial or self.pixel):
            raise ConfigError("loss.adversarial and loss.pixel are both 0: nothing would be learned; set one")

    @property
    def judged(self) -> bool:
        """Whether a discriminator is needed."""
        return bool(self.adversarial or self.classes or self.au)


@dataclass(frozen=True, kw_only=True)
class OptimConfig(AdamConfig):
    """SAGAN's two time-scales and betas."""

    lr_critic: float = 4e-4
    beta1: float = 0.0
    beta2: float = 0.9


@dataclass(frozen=True, kw_only=True)
class Config:
    """The task's sections of a recipe."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
