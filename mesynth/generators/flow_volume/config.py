"""Configuration of ``flow_volume``: the sections model, loss and optim of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesynth.config import check_range, check_weights
from mesynth.generators.motion_diffusion.config import ModelConfig as MotionModelConfig
from mesynth.generators.motion_diffusion.config import OptimConfig as MotionOptimConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig(MotionModelConfig):
    """The 2D network's architecture (that of the ``motion_diffusion`` it starts from), and what is added for time."""

    lag_std: float = 0.06
    """Standard deviation of how far AUs keep from the profile, a share of the clip: noise is scaled by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("model", self, 0, 0.2, "lag_std")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Squared error of the estimate of the clean flow at all key times, weighted by the noise level."""

    occluded: float = 0.1
    """Weight of pixels whose flow is not known or not seen in the frame, against 1."""
    mean: float = 0.0
    """Weight of the end-point error of the mean model at the apex; 0: it stays as it is."""

    def __post_init__(self) -> None:
        check_range("loss", self, 0, 1, "occluded")
        check_weights("loss", self, "mean")


@dataclass(frozen=True, kw_only=True)
class OptimConfig(MotionOptimConfig):
    """AdamW: ``lr`` is the learning rate of what is added for time."""

    flat: float = 0.3
    """Learning rate of the 2D network's UNet and tokens over that; 0: they stay as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("optim", self, 0, 10, "flat")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sections of a recipe with ``task: flow_volume``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        if not self.loss.mean:
            return {"optim.canonical": "loss.mean=0 leaves the mean model as it is"}
        return {} if self.model.prior else {"optim.canonical": "model.prior=false has no canonical fields"}
