"""Configuration of ``motion_diffusion``: the sections model, loss and optim of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.generators.diffusion import KINDS, Sampling


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture, and how the saved generator samples; see mesynth.generators.motion_diffusion.network."""

    widths: tuple[int, ...] = (24, 48, 96)
    """Channels at each level, from half the picture's size down."""
    attention: int = 1
    """How many of the lowest levels attend to the AUs (the middle always does)."""
    layers: int = 1
    """Residual blocks of a level."""
    dim: int = 64
    """Length of an AU's token."""
    expect: int = 12
    """Channels at full resolution of the regression that says what motion is expected."""
    expect_blocks: int = 1
    """Its blocks that see the AUs."""
    prior: bool = True
    """Whether the regression starts from the motion prior."""
    kind: str = "edm"
    """"edm", or "v" for v-prediction on a cosine schedule."""
    scale: float = 0.024
    """Displacement, share of the width, from which on asinh compresses; rendered pairs have their 99th percentile
    at .0243."""
    share: float = 0.2
    """How far the normalised flow is likely to lie from what is expected, over what is expected around a pixel."""
    floor: float = 0.002
    """The same where nothing is expected."""
    whole: float = 0.15
    """Standard deviation of the normalised flow itself: how far it lies from what is expected of unknown AUs."""
    max_flow: float = 0.06
    """Longest flow of the regression alone, share of the width, as its motion GAN has it. What is drawn is true flow,
    kept below mesynth.generators.motion_diffusion.network.REACH."""
    steps: int = 8
    """Of the saved generator, unless it is told otherwise; validation takes as many."""
    solver: str = "dpm++"
    """See mesynth.generators.diffusion."""
    guidance: float = 1.0
    """Of the saved generator, unless it is told otherwise; validation has none."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.widths) <= 5:
            raise ConfigError(f"model.widths has {len(self.widths)} levels; give 2 to 5")
        for width in self.widths:
            if width % 8 or not 8 <= width <= 512:
                raise ConfigError(f"model.widths={width} is no multiple of 8 within 8..512")
        if not 0 <= self.attention <= len(self.widths):
            raise ConfigError(
                f"model.attention={self.attention} is outside 0..{len(self.widths)}, the levels there are"
            )
        for name, least, most in (("layers", 1, 4), ("dim", 8, 1024), ("expect", 4, 128), ("expect_blocks", 1, 16)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"model.{name}={getattr(self, name)} is outside {least}..{most}")
        if self.kind not in KINDS:
            raise ConfigError(f"model.kind '{self.kind}' is unknown; choose {' or '.join(KINDS)}")
        for name, low, high in (
            ("scale", 0.001, 0.5),
            ("share", 0, 10),
            ("floor", 1e-4, 10),
            ("whole", 1e-3, 10),
            ("max_flow", 0.005, 0.2),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"model.{name}={getattr(self, name):g} is outside {low:g}..{high:g}")
        try:
            Sampling(steps=self.steps, solver=self.solver, guidance=self.guidance)
        except ConfigError as error:
            raise ConfigError(f"model.{error}") from None


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Squared error of the estimate of the clean flow, weighted by the noise level, the regression's, and a penalty."""

    expect: float = 1.0
    """Charbonnier end-point error of what is expected, pixels; reaches the regression alone, and alone reaches it."""
    occluded: float = 0.1
    """Weight of pixels whose flow is not known or not seen in the frame, against 1."""
    fold: float = 0.0
    """Weight of how far the Jacobian determinant of the estimate lies below .1, where there is little noise."""

    def __post_init__(self) -> None:
        if not 0 <= self.occluded <= 1:
            raise ConfigError(f"loss.occluded={self.occluded:g} is outside 0..1")
        for name in ("expect", "fold"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ConfigError(f"loss.{name}={value} is no weight; give a number >= 0")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW."""

    lr: float = 1e-3
    """Learning rate."""
    canonical: float = 2.0
    """Learning rate of the regression's canonical fields over the others'."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.lr < 100:
            raise ConfigError(f"optim.lr={self.lr:g} must be positive")
        if not 0 < self.canonical < 100:
            raise ConfigError(f"optim.canonical={self.canonical:g} must be positive")
        for name in ("beta1", "beta2", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name):g} is outside [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """A student that does in ``model.steps`` looks (solver "few") what its teacher does in many."""

    teacher: str = ""
    """Folder of a saved motion_diffusion of the same architecture, which the student starts as; empty: no teacher."""
    steps: int = 16
    """Of the teacher."""
    guidance: float = 1.0
    """Of the teacher; the student learns its effect and samples without."""

    def __post_init__(self) -> None:
        try:
            Sampling(steps=self.steps, guidance=self.guidance)
        except ConfigError as error:
            raise ConfigError(f"distil.{error}") from None

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        return {} if self.teacher else dict.fromkeys(("steps", "guidance"), "distil.teacher names no folder")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sections of a recipe with ``task: motion_diffusion``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)

    def __post_init__(self) -> None:
        if self.distil.teacher and (self.model.solver != "few" or self.model.guidance != 1):
            raise ConfigError(
                f"distil.teacher makes a student with model.solver=few and model.guidance=1, not "
                f"{self.model.solver} and {self.model.guidance:g}; set them"
            )

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        out = {} if self.model.prior else {"optim.canonical": "model.prior=false has no canonical fields"}
        if self.distil.teacher:
            out |= dict.fromkeys(
                ("model.prior", "loss", "optim.canonical"), "distil.teacher is all that is learned from"
            )
        return out

    def shape(self) -> dict[str, object]:
        """What the network is built from, by name."""
        return {f.name: getattr(self.model, f.name) for f in fields(self.model)}
