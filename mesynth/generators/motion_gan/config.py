"""Configuration of ``motion_gan``: the sections model, loss and optim of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesynth.config import check_adam, check_range, check_weights
from mesynth.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture; see mesynth.generators.motion_gan.network."""

    width: int = 16
    """Channels at full resolution; 2, 4 and 8 times as many below."""
    z: int = 0
    """Noise numbers that vary the style of a clip; 0: the motion is a function of face and AUs."""
    blocks: int = 2
    """FiLM blocks that see the AUs."""
    template: int = 48
    """Side of the canonical fields, started from the motion prior; 0: none."""
    correction: bool = True
    """Whether the decoder corrects the canonical fields face by face."""
    residual: bool = True
    """Whether light and wrinkles may be painted over the warped onset. On skin the 64 px recipe painted speckles."""
    max_flow: float = 0.06
    """Longest flow, share of the width."""
    face: bool = False
    """Fields are read at the face's own landmarks, start as the mean of several rigs and turn with the head; without,
    they start as the motion prior's in the crop's frame."""
    discriminator: int = 32
    """Channels of the discriminator's first layer."""
    reader: int = 24
    """Channels of the AU reader's first layer."""

    def __post_init__(self) -> None:
        check_range("model", self, 4, 256, "width", "discriminator", "reader")
        check_range("model", self, 0, 512, "z")
        check_range("model", self, 1, 16, "blocks")
        if self.template and not 8 <= self.template <= 256:
            raise ConfigError(f"model.template={self.template} is outside 8..256 (or 0 for none)")
        if not self.template and not self.correction:
            raise ConfigError("model.template=0 with model.correction=false leaves nothing to move; set one")
        if not 0.005 <= self.max_flow <= 0.2:
            raise ConfigError(f"model.max_flow={self.max_flow:g} is outside .005...2 of the width")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights; 0 switches a term off and spares its computation."""

    epe: float = 5.0
    """Charbonnier end-point error against the exact flow, pixels."""
    l1: float = 10.0
    """Multi-scale L1 between made and real frame."""
    perceptual: float = 0.0
    """LPIPS between made and real frame; needs the AlexNet trunk on this machine."""
    tv: float = 0.0
    """Edge-aware total variation of the flow."""
    smooth: float = 0.0
    """Second differences of the flow."""
    adversarial: float = 0.0
    """Hinge loss of the discriminator on (onset, frame, flow, strain)."""
    r1: float = 0.5
    """Gradient penalty on a sixteenth of the real pairs (times 16)."""
    au_head: float = 0.0
    """AU intensity that the discriminator's own head, trained on real pairs, reads off the made motion."""
    au: float = 0.0
    """AU intensity that the reader, trained on real pairs and frozen here, reads off the made frame."""
    leakage: float = 0.0
    """What the reader reads for AUs that were not asked for."""
    rank: float = 0.0
    """More intensity must read as more; costs a second pass of the generator."""
    residual: float = 0.02
    """Mean |R|."""
    mask: float = 0.001
    """Mean |1 - M|."""
    inverse: float = 0.0
    """Inverse consistency of the flow: grows where it folds."""
    fold: float = 20.0
    """How far the flow's Jacobian determinant lies below .1: skin that folds over itself."""
    teacher: float = 0.0
    """End-point error against the motion prior's flow on pairs without exact flow."""
    diversity: float = 0.0
    """Mode seeking: two noises, two motions; costs a second pass of the generator."""

    def __post_init__(self) -> None:
        check_weights("loss", self)
        if not any(getattr(self, name) for name in ("epe", "l1", "perceptual", "adversarial", "teacher", "au")):
            raise ConfigError("every loss that could teach motion is 0; set loss.epe, for example")

    @property
    def discriminates(self) -> bool:
        """Whether a discriminator is trained."""
        return bool(self.adversarial or self.au_head)

    @property
    def reads(self) -> bool:
        """Whether an AU reader is trained."""
        return bool(self.au or self.leakage or self.rank)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam for every network."""

    generator: float = 1e-4
    """Learning rate."""
    canonical: float = 1.0
    """Learning rate of the canonical fields over the generator's."""
    discriminator: float = 2e-4
    reader: float = 5e-4
    beta1: float = 0.0
    beta2: float = 0.99

    def __post_init__(self) -> None:
        for name in ("generator", "canonical", "discriminator", "reader"):
            if not 0 < getattr(self, name) < 100:
                raise ConfigError(f"optim.{name}={getattr(self, name):g} must be positive")
        check_adam(self)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sections of a recipe with ``task: motion_gan``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if self.loss.diversity and not self.model.z:
            raise ConfigError(f"loss.diversity={self.loss.diversity:g} has no effect with model.z=0; set model.z")
        if self.model.z and not (self.loss.diversity or self.loss.adversarial):
            raise ConfigError(f"model.z={self.model.z} has no effect without loss.diversity or loss.adversarial")

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        out: dict[str, str] = {}
        if not self.loss.discriminates:
            why = "loss.adversarial=0 and loss.au_head=0 train no discriminator"
            out |= dict.fromkeys(("model.discriminator", "optim.discriminator", "loss.r1"), why)
        if not self.loss.reads:
            out |= dict.fromkeys(("model.reader", "optim.reader"), "loss.au, loss.leakage and loss.rank are 0")
        if not self.model.residual:
            out |= dict.fromkeys(("loss.residual", "loss.mask"), "model.residual=false paints nothing")
        if not self.model.template:
            out["optim.canonical"] = "model.template=0 has no canonical fields"
        return out
