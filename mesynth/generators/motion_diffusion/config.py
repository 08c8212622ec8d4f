"""Configuration of ``motion_diffusion``: the sections model, loss and optim of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from mesynth.config import check_range, check_weights
from mesynth.core.errors import ConfigError
from mesynth.generators.diffusion_config import KINDS, Sampling
from mesynth.training.config import AdamWConfig

ARGUMENTS = {
    "mean_width": "expect", "mean_blocks": "expect_blocks", "process": "kind", "sigma_share": "share",
    "sigma_min": "floor", "sigma_data": "whole", "lag_std": "wander",
}  # fmt: skip
"""Key of a recipe -> argument of the networks, where they differ: arguments stand in saved generators, and stay."""


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
    mean_width: int = 12
    """Channels at full resolution of the mean model: the regression that says what motion is expected."""
    mean_blocks: int = 1
    """Its blocks that see the AUs."""
    prior: bool = True
    """Whether the mean model starts from the motion prior."""
    face: bool = False
    """Whether it reads fields at the face's own landmarks and starts as the mean of several rigs, as the ``motion_gan``
    of that setting does; the UNet is then told where on the face it looks."""
    process: str = "edm"
    """"edm", or "v" for v-prediction on a cosine schedule."""
    scale: float = 0.024
    """Displacement, share of the width, from which on asinh compresses; rendered pairs have their 99th percentile
    at .0243."""
    sigma_share: float = 0.2
    """Standard deviation of the normalised flow about the mean, over the mean's length around a pixel."""
    sigma_min: float = 0.002
    """The same where the mean is 0."""
    sigma_data: float = 0.15
    """Standard deviation of the normalised flow itself: about the mean of unknown AUs."""
    max_flow: float = 0.06
    """Longest flow of the mean model alone, share of the width, as its motion GAN has it. What is drawn is true flow,
    kept below mesynth.generators.motion_diffusion.network.REACH."""
    steps: int = 8
    """Of the saved generator, unless it is told otherwise; validation takes as many."""
    solver: str = "dpm++"
    """See mesynth.generators.diffusion."""
    guidance: float = 1.0
    """Of the saved generator, unless it is told otherwise; validation has none."""
    spread: float = 1.0
    """Of the saved generator, unless it is told otherwise, and of validation; training does not depend on it."""

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
        if self.process not in KINDS:
            raise ConfigError(f"model.process '{self.process}' is unknown; choose {' or '.join(KINDS)}")
        for name, least, most in (
            ("layers", 1, 4), ("dim", 8, 1024), ("mean_width", 4, 128), ("mean_blocks", 1, 16), ("scale", 0.001, 0.5),
            ("sigma_share", 0, 10), ("sigma_min", 1e-4, 10), ("sigma_data", 1e-3, 10), ("max_flow", 0.005, 0.2),
        ):  # fmt: skip
            check_range("model", self, least, most, name)
        try:
            Sampling(steps=self.steps, solver=self.solver, guidance=self.guidance, spread=self.spread)
        except ConfigError as error:
            raise ConfigError(f"model.{error}") from None

    def check_size(self, size: int) -> None:
        """Whether pictures of ``size`` pixels can be halved as often as there are levels. Raises ConfigError."""
        least = 2 ** len(self.widths)
        if size < 16 or size % least:
            raise ConfigError(
                f"data.size={size} must be a multiple of {least}, at least 16, for {len(self.widths)} levels"
            )

    def arguments(self) -> dict[str, object]:
        """What the network is built from, by the names of its arguments."""
        return {ARGUMENTS.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Squared error of the estimate of the clean flow, weighted by the noise level, the regression's, and a penalty."""

    mean: float = 1.0
    """Charbonnier end-point error of the mean model, pixels; it alone teaches it, and nothing else."""
    occluded: float = 0.1
    """Weight of pixels whose flow is not known or not seen in the frame, against 1."""
    fold: float = 0.0
    """Weight of how far the Jacobian determinant of the estimate lies below .1, where there is little noise."""

    def __post_init__(self) -> None:
        check_range("loss", self, 0, 1, "occluded")
        check_weights("loss", self, "mean", "fold")


@dataclass(frozen=True, kw_only=True)
class OptimConfig(AdamWConfig):
    """AdamW, with a rate of its own for canonical fields."""

    canonical: float = 2.0
    """Learning rate of the mean model's canonical fields over the others'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.canonical < 100:
            raise ConfigError(f"optim.canonical={self.canonical:g} must be positive")


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """A student that does in ``model.steps`` steps (solver "few") what its teacher does in many."""

    teacher: str = ""
    """A saved motion_diffusion of the same architecture, which the student starts as: a folder, or the name of one that
    ships; empty: no teacher."""
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
        return {} if self.teacher else dict.fromkeys(("steps", "guidance"), "distil.teacher names no generator")


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
