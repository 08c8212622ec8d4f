"""Configuration of ``flow_volume``: the sections model, loss and optim of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.generators.motion_diffusion.config import ModelConfig as MotionModelConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig(MotionModelConfig):
    """The 2D network's architecture (that of the ``motion_diffusion`` it starts from), and what is added for time."""

    wander: float = 0.06
    """How far AUs keep from the profile, a share of the clip (standard deviation): noise is scaled by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.wander <= 0.2:
            raise ConfigError(f"model.wander={self.wander:g} is outside 0..0.2, shares of the clip")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Squared error of the estimate of the clean flow at all key times, weighted by the noise level."""

    occluded: float = 0.1
    """Weight of pixels whose flow is not known or not seen in the frame, against 1."""
    expect: float = 0.0
    """Weight of the end-point error of what is expected at the apex; 0: what is expected stays as it is."""

    def __post_init__(self) -> None:
        if not 0 <= self.occluded <= 1:
            raise ConfigError(f"loss.occluded={self.occluded:g} is outside 0..1")
        if not (np.isfinite(self.expect) and self.expect >= 0):
            raise ConfigError(f"loss.expect={self.expect} is no weight; give a number >= 0")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW."""

    lr: float = 1e-3
    """Learning rate of what is added for time."""
    flat: float = 0.3
    """Learning rate of the 2D network's UNet and tokens over that; 0: they stay as they are."""
    canonical: float = 2.0
    """Learning rate of the regression's canonical fields over that."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.lr < 100:
            raise ConfigError(f"optim.lr={self.lr:g} must be positive")
        if not 0 <= self.flat <= 10:
            raise ConfigError(f"optim.flat={self.flat:g} is outside 0..10")
        if not 0 < self.canonical < 100:
            raise ConfigError(f"optim.canonical={self.canonical:g} must be positive")
        for name in ("beta1", "beta2", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name):g} is outside [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sections of a recipe with ``task: flow_volume``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        if not self.loss.expect:
            return {"optim.canonical": "loss.expect=0 leaves the regression as it is"}
        return {} if self.model.prior else {"optim.canonical": "model.prior=false has no canonical fields"}

    def shape(self) -> dict[str, object]:
        """What the network is built from, by name."""
        return {f.name: getattr(self.model, f.name) for f in fields(self.model)}
