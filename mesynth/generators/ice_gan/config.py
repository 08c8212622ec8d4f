"""Configuration of ``ice_gan``: the sections model, loss and optim of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesynth.config import check_at_least_one, check_weights
from mesynth.core.errors import ConfigError
from mesynth.training.config import AdamConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes; the defaults are the published ones at 128 pixels, but for the discriminator's."""

    published: bool = False
    """Both networks as their authors define them: grey pictures, a class and no AUs, six graphs, transposed
    convolutions, two layers of capsules, a decoder of 512, 1024 and 5120. False: our variant, which AUs control."""
    width: int = 64
    """Channels of the U-Net's first level; the others are 2, 4, 8, 8, 8 times as wide."""
    embedding: int = 320
    """Numbers of the identity embedding."""
    noise: int = 100
    graph: bool = True
    """Graph reasoning on the skips."""
    prior: bool = True
    """The generator sees where the motion prior would move skin (ours; docs/decisions/014)."""
    relative: bool = True
    """A change of the onset is drawn (ours; false: the picture from nothing, as published)."""
    critic_width: int = 32
    """Channels of the discriminator's first layer; 32 gives 1024 primary capsules at 128 pixels. Published: 64."""
    iterations: int = 3
    """Of routing."""
    hidden: int = 512
    """Of the reconstruction MLP: hidden, then twice as many; as published, then ten times as many."""
    rebuilt: int = 16
    """Side of the picture that the MLP rebuilds, pixels."""

    def __post_init__(self) -> None:
        check_at_least_one(
            "model", self, "width", "embedding", "noise", "critic_width", "iterations", "hidden", "rebuilt"
        )
        if self.critic_width % 8:
            raise ConfigError(f"model.critic_width={self.critic_width} must be a multiple of 8, a capsule's dimension")

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        ours = ("graph", "prior", "relative", "rebuilt") if self.published else ()
        return dict.fromkeys(ours, "model.published=true has it as its authors do")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights; 0 switches a loss off."""

    adversarial: float = 1.0
    """Margin loss of the adversarial capsule."""
    classes: float = 1.0
    """Margin loss of the class capsules, where a pair has a class."""
    reconstruction: float = 0.0005
    """The capsules rebuild the picture; summed over pixels. With model.published their mean, as its code has it."""
    au: float = 0.1
    """AU intensities read by the discriminator (ours)."""
    pixel: float = 30.0
    """L1 to the frame of the pair; the published weight is not stated."""
    clip: float = 30.0
    """L1 of the difference of the drawings with and without expression, put on the onset, to the frame (ours)."""
    rest: float = 30.0
    """L1 of the onset drawn without expression (ours: clips show differences from that drawing)."""
    identity: float = 1.0
    """1 - cosine between the identity embeddings of onset and output."""

    def __post_init__(self) -> None:
        check_weights("loss", self)
        if not (self.adversarial or self.pixel or self.clip):
            raise ConfigError("loss.adversarial, loss.pixel and loss.clip are all 0: nothing would be learned; set one")

    @property
    def judged(self) -> bool:
        """Whether a discriminator is needed."""
        return bool(self.adversarial or self.classes or self.au)

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        return {} if self.judged else {"reconstruction": "no other loss trains the discriminator"}


@dataclass(frozen=True, kw_only=True)
class OptimConfig(AdamConfig):
    """Published: 1e-3 with cosine decay (run.decay), batch 16, 100 epochs."""

    lr: float = 1e-3
    lr_critic: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Config:
    """The task's sections of a recipe."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        return {"loss.au": "model.published=true reads no AUs"} if self.model.published else {}
