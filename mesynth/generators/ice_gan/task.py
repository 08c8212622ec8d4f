"""Training of ICE-GAN: margin losses of the capsule discriminator, reconstruction, and the frame of the pair.

See :mod:`mesynth.generators.ice_gan.pipeline` for what is published and what is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.generators.base import model_card
from mesynth.generators.blocks import margin_loss
from mesynth.generators.ice_gan.pipeline import FAMILY, N_CLASSES, CapsuleDiscriminator, ICEGenerator, Judgement
from mesynth.store.generator_folder import save_pipeline
from mesynth.training import losses as L
from mesynth.training import record
from mesynth.training.data.batches import Batch
from mesynth.training.losses import mean_of
from mesynth.training.task import Facts, Problem, Task, Updater


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes; the defaults are the published ones at 128 pixels, where they are known."""

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
    """Channels of the discriminator's first layer; 32 gives 1024 primary capsules at 128 pixels."""
    iterations: int = 3
    """Of routing."""
    hidden: int = 512
    """Of the reconstruction MLP: hidden, then twice as many."""
    rebuilt: int = 16
    """Side of the picture that the MLP rebuilds, pixels."""

    def __post_init__(self) -> None:
        for name in ("width", "embedding", "noise", "critic_width", "iterations", "hidden", "rebuilt"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 1")
        if self.critic_width % 8:
            raise ConfigError(f"model.critic_width={self.critic_width} must be a multiple of 8, a capsule's dimension")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights; 0 switches a loss off."""

    adversarial: float = 1.0
    """Margin loss of the adversarial capsule."""
    classes: float = 1.0
    """Margin loss of the class capsules, where a pair has a class."""
    reconstruction: float = 0.0005
    """The capsules rebuild the picture; summed over pixels, as published."""
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
        L.check_weights("loss", self)
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
class OptimConfig:
    """Adam. Published: 1e-3 with cosine decay (run.decay), batch 16, 100 epochs."""

    lr: float = 1e-3
    """Of the generator."""
    lr_critic: float = 1e-3
    """Of the discriminator."""
    beta1: float = 0.5
    beta2: float = 0.999

    def __post_init__(self) -> None:
        L.check_optim(self)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The task's sections of a recipe."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)


class _Request(NamedTuple):
    """What is asked of the generator, a row a pair."""

    z: torch.Tensor
    """[B,noise]"""
    classes: torch.Tensor
    """[B,3], all 0 without a class"""
    aus: torch.Tensor
    """[B,K,2], 0 where unknown"""
    known: torch.Tensor
    """[B,K,2] bool"""
    paired: torch.Tensor
    """[B] bool: there is a frame to be held against"""


class ICEGANTask(Task):
    """See the module's first lines."""

    name = FAMILY
    averaged = ("generator",)

    def __init__(self, config: Config, size: int) -> None:
        model = config.model
        if size < 8 or size & (size - 1):
            raise ConfigError(f"size {size} does not fit {FAMILY}; its U-Net needs a power of two, at least 8 pixels")
        if model.rebuilt > size or size % model.rebuilt:
            raise ConfigError(f"model.rebuilt={model.rebuilt} does not divide the size of {size} pixels")
        self._config, self.size = config, size
        self.networks: dict[str, nn.Module] = {
            "generator": ICEGenerator(
                size=size,
                width=model.width,
                embedding=model.embedding,
                noise=model.noise,
                graph=model.graph,
                prior=model.prior,
                relative=model.relative,
            )
        }
        if config.loss.judged:
            self.networks["discriminator"] = CapsuleDiscriminator(
                size, model.critic_width, model.iterations, model.hidden, model.rebuilt
            )
        self.frozen: dict[str, nn.Module] = {}

    def config(self) -> dict[str, Any]:
        """See the base class."""
        return asdict(self._config)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """See the base class."""
        return L.adam(self.networks, self._config.optim)

    def _asked(self, batch: Batch) -> _Request:
        """What to draw: a face alone has no class, and AUs that its seed draws."""
        # A frame whose class alone is known is a pair here.
        paired = batch.paired | (batch.label >= 0)
        aus, known = batch.asked(~paired)
        z = batch.randn("ice-z", self._config.model.noise)
        return _Request(z, L.one_hot(batch.label, N_CLASSES), aus * known, known, paired)

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """See the base class. A face alone has no frame to be held against; it is only ever a drawing's onset."""
        loss, asked = self._config.loss, self._asked(batch)
        z, classes, aus, n, paired = asked.z, asked.classes, asked.aus, len(batch), asked.paired.to(asked.z.dtype)
        # One pass draws the expression and, for the same noise, its absence.
        drawn = self.networks["generator"](
            batch.onset.repeat(2, 1, 1, 1),
            z.repeat(2, 1),
            torch.cat([classes, torch.zeros_like(classes)]),
            torch.cat([aus, torch.zeros_like(aus)]),
        )
        made, plain = drawn[:n], drawn[n:]
        log = self._discriminate(batch, made.detach(), asked, updater) if loss.judged else {}
        terms = {
            "pixel": mean_of((made - batch.frame).abs()) * paired,
            "clip": mean_of((batch.onset + made - plain - batch.frame).abs()) * paired,
            "rest": mean_of((plain - batch.onset).abs()),
        }
        if loss.identity:
            generator: Any = self.networks["generator"]
            embedded = generator.embed(torch.cat([made, batch.onset]))
            terms["identity"] = 1 - F.cosine_similarity(embedded[:n], embedded[n:])
        if loss.judged:
            judged = self.networks["discriminator"](batch.onset, made)
            terms["adversarial"] = margin_loss(judged.real, torch.ones_like(judged.real))
            terms |= self._read(judged, batch, classes, aus, asked.known)
        total, means = L.weighted(loss, terms)
        updater.update("generator", total)
        return log | means | {"generator": total.detach()}

    def _read(
        self, judged: Judgement, batch: Batch, classes: torch.Tensor, aus: torch.Tensor, known: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What the discriminator reads besides real or not."""
        labelled = (batch.label >= 0).to(judged.classes.dtype)
        return {
            "classes": margin_loss(judged.classes, classes).sum(1) * labelled,
            "au": L.au_error(judged.aus, aus, known),
        }

    def _discriminate(
        self, batch: Batch, fake: torch.Tensor, asked: _Request, updater: Updater
    ) -> dict[str, torch.Tensor]:
        """Real and generated pictures in one pass; classes, AUs and reconstruction from the real ones alone.

        A face alone shows no change that could pass for real: only what is drawn on it counts.
        """
        loss, n, paired = self._config.loss, len(batch), asked.paired.to(fake.dtype)
        judged = self.networks["discriminator"](batch.onset.repeat(2, 1, 1, 1), torch.cat([batch.frame, fake]))
        real = Judgement(*(x[:n] for x in judged))
        wanted = torch.cat([torch.ones_like(judged.real[:n]), torch.zeros_like(judged.real[n:])])
        target = F.adaptive_avg_pool2d(batch.frame, self._config.model.rebuilt)
        terms = self._read(real, batch, asked.classes, batch.aus, batch.known) | {
            "adversarial": margin_loss(judged.real, wanted) * torch.cat([paired, torch.ones_like(paired)]),
            "reconstruction": (real.rebuilt - target).square().flatten(1).sum(1) * paired,
        }
        total, means = L.weighted(loss, terms)
        updater.update("discriminator", total)
        lengths = {"real_capsule": judged.real[:n].mean().detach(), "fake_capsule": judged.real[n:].mean().detach()}
        return {f"d_{name}": value for name, value in means.items()} | lengths

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Grey-level errors, and how far the picture follows AUs and class."""
        generator, asked = averaged["generator"], self._asked(batch)
        z, classes, aus = asked.z, asked.classes, asked.aus
        made = generator(batch.onset, z, classes, aus)
        plain = generator(batch.onset, z, torch.zeros_like(classes), torch.zeros_like(aus))

        def shown(cells: torch.Tensor) -> torch.Tensor:
            return batch.onset + generator(batch.onset, z, classes, cells) - plain

        measures = L.response(shown, batch.onset, batch.frame, aus)
        held = {
            "real_change": measures["real_change"],
            "error": L.GREY_LEVELS * mean_of((made - batch.frame).abs()),
            "clip_error": L.GREY_LEVELS * mean_of((batch.onset + made - plain - batch.frame).abs()),
        }
        every = torch.eye(N_CLASSES, device=z.device, dtype=z.dtype)
        by_class = torch.stack([generator(batch.onset, z, c.expand_as(classes), aus) for c in every])
        return (
            measures
            | L.of_pairs(held, asked.paired)
            | {
                "rest_error": L.GREY_LEVELS * mean_of((plain - batch.onset).abs()),
                "class_change": L.GREY_LEVELS * mean_of(by_class.amax(0) - by_class.amin(0)),
            }
        )

    def check_faces(self, *, alone: bool) -> None:
        """See the base class: what an expression looks like is learned from pairs."""
        if alone:
            raise ConfigError(
                f"{FAMILY} has nothing real to discriminate or to be held against: data.faces shows no expression; "
                "add data.manifests (or rendered pairs)"
            )

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """NaN, an output that ignores the AUs, or that shows no expression."""
        return L.known_failure(logged, measured)

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """Onset, real frame; drawn with and without expression; as a clip shows it, change times 8; the 3 classes."""
        generator, request = averaged["generator"], self._asked(batch)
        z, classes, aus = request.z, request.classes, request.aus
        rest = torch.zeros_like(aus)
        made, plain = (
            generator(batch.onset, z, classes, aus),
            generator(batch.onset, z, torch.zeros_like(classes), rest),
        )
        asked = torch.eye(N_CLASSES, device=z.device, dtype=z.dtype)
        by_class = [batch.onset + generator(batch.onset, z, c.expand_as(classes), rest) - plain for c in asked]
        given = [record.pictures(x) for x in (batch.onset, batch.frame, made, plain, batch.onset + made - plain)]
        return record.sheet([*given, record.changes(made, plain, 8), *map(record.pictures, by_class)])

    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: Facts) -> None:
        """See the base class.

        Raises:
            Problem: no AU changes a grey level.
        """
        generator = averaged["generator"]
        reach = au_reach(generator, self.size)
        if reach < 1:
            raise Problem(
                f"{FAMILY} is not saved: its output does not depend on the AUs "
                f"(at most {reach:.2g} grey levels between two AUs at full intensity); train longer or raise loss.pixel"
            )
        plain, counted = asdict(facts), {"generator": sum(p.numel() for p in generator.parameters())}
        card = model_card(plain, title="ICE-GAN", what=_WHAT, limits=_LIMITS, parameters=counted)
        save_pipeline(folder, {"generator": generator}, plain, card, size=self.size)


_WHAT = """Draws a face with action-unit intensities, per side, and one of three classes. Written after Yu et al.
(2020), without their code; what is ours is listed in mesynth.generators.ice_gan.pipeline. Clips show the onset plus the
difference of two drawings, with and without the expression: no request gives the picture back bit for bit."""
_LIMITS = """It draws and does not move: the flow of its clips is estimated from their frames (TV-L1). It draws neither
head motion nor style. No FACS coder has looked at it; the figures below are all that was measured."""


@torch.no_grad()
def au_reach(generator: Any, size: int) -> float:
    """Largest grey-level difference at any pixel between the pictures of two AUs at full intensity, without noise."""
    like = next(generator.parameters())
    one = torch.eye(N_AUS, device=like.device)[:, :, None].expand(-1, -1, 2).contiguous()
    pictures = L.probe_picture(size).to(like.device).expand(N_AUS, -1, -1, -1)
    z = torch.zeros(N_AUS, generator.config.noise, device=like.device)
    drawn = generator(pictures, z, torch.zeros(N_AUS, N_CLASSES, device=like.device), one)
    return float(L.GREY_LEVELS * (drawn.amax(0) - drawn.amin(0)).max())


TASK = ICEGANTask
