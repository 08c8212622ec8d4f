"""Training of the flow-image GAN: hinge loss, class and AU heads, and the pair's own flow where it is known.

See :mod:`mesynth.generators.flow_gan.pipeline`. Pairs without flow take no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.generators.base import model_card
from mesynth.generators.flow_gan.pipeline import (  # fmt: skip
    FAMILY,
    N_CLASSES,
    FlowDiscriminator,
    FlowGenerator,
    check_condition,
    observe,
)
from mesynth.store.generator_folder import save_pipeline
from mesynth.training import losses as L
from mesynth.training import record
from mesynth.training.data.batches import Batch
from mesynth.training.losses import mean_of
from mesynth.training.task import Facts, Problem, Task, Updater

COLLAPSED = 0.01
"""Two draws for one request that differ by less than this share of their motion are one draw."""


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
        check_condition(self.condition)
        for name in ("width", "z", "critic_width", "critic_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 1")
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
        L.check_weights("loss", self)
        if not (self.adversarial or self.pixel):
            raise ConfigError("loss.adversarial and loss.pixel are both 0: nothing would be learned; set one")

    @property
    def judged(self) -> bool:
        """Whether a discriminator is needed."""
        return bool(self.adversarial or self.classes or self.au)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam; SAGAN's two time-scales and betas."""

    lr: float = 1e-4
    """Of the generator."""
    lr_critic: float = 4e-4
    """Of the discriminator."""
    beta1: float = 0.0
    beta2: float = 0.9

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

    classes: torch.Tensor
    """[B,3], all 0 without a class"""
    aus: torch.Tensor
    """[B,K,2]"""
    told: torch.Tensor
    """[B] bool: the request says all that the pair's motion is known by"""


class FlowGANTask(Task):
    """See the module's first lines."""

    name = FAMILY
    averaged = ("generator",)

    def __init__(self, config: Config, size: int) -> None:
        if not 16 <= size <= 128 or size % 4:
            raise ConfigError(f"size {size} does not fit {FAMILY}; choose a multiple of 4 from 16 to 128 pixels")
        self._config, self.size = config, size
        m = config.model
        self.networks: dict[str, nn.Module] = {
            "generator": FlowGenerator(
                size=size, width=m.width, z=m.z, condition=m.condition, unit=m.unit, limit=m.limit, prior=m.prior
            )
        }
        if config.loss.judged:
            self.networks["discriminator"] = FlowDiscriminator(size, m.critic_width, m.critic_layers)
        self.frozen: dict[str, nn.Module] = {}

    def config(self) -> dict[str, Any]:
        """See the base class."""
        return asdict(self._config)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """See the base class."""
        return L.adam(self.networks, self._config.optim)

    def _asked(self, batch: Batch, drop: bool) -> _Request:
        """What to draw; with ``drop`` a third of the rows each lack class or AUs."""
        kind = self._config.model.condition
        classes, aus = L.one_hot(batch.label, N_CLASSES), batch.aus * batch.known
        if kind == "both" and drop:
            part = batch.rand("flow-drop")
            alone = (part < 2 / 3) | (batch.label < 0)  # a row without a class keeps its AUs
            return _Request(classes * (part >= 1 / 3)[:, None], aus * alone[:, None, None], alone)
        return _Request(classes * (kind != "aus"), aus * (kind != "class"), torch.ones_like(batch.has_flow))

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """See the base class."""
        loss, (classes, aus, told) = self._config.loss, self._asked(batch, drop=True)
        z = batch.randn("flow-z", self._config.model.z)
        used = batch.has_flow.to(z.dtype)
        generator: Any = self.networks["generator"]
        made = generator(z, classes, aus)
        log = self._discriminate(batch, made.detach(), used, updater) if loss.judged else {}
        real, seen = self._observed(batch, batch.flow), self._observed(batch, made)
        terms = {"pixel": mean_of((seen - real)[:, :2].abs()) * used * told}
        if loss.diversity:
            other_z = batch.randn("flow-z2", self._config.model.z)
            other = generator(other_z, classes, aus)
            moved = mean_of((generator.compress(other) - generator.compress(made)).abs())
            terms["diversity"] = -(moved / mean_of((z - other_z).abs()).clamp(min=1e-3)).clamp(max=0.1) * used
        if loss.judged:
            judged = self.networks["discriminator"](seen)
            terms["adversarial"] = -mean_of(judged.real) * used
            terms["classes"] = L.class_error(judged.classes, batch.label) * used
            terms["au"] = L.au_error(judged.aus, batch.aus, batch.known) * used
        total, means = L.weighted(loss, terms)
        updater.update("generator", total)
        return log | means | {"generator": total.detach()}

    def _observed(self, batch: Batch, uv: torch.Tensor) -> torch.Tensor:
        """What the discriminator sees: nothing where the pair's flow is unknown; holes are no sign of reality."""
        shown = uv * batch.valid[:, None].to(uv.dtype)
        return observe(self.networks["generator"], shown)  # type: ignore[arg-type]

    def _discriminate(
        self, batch: Batch, fake: torch.Tensor, used: torch.Tensor, updater: Updater
    ) -> dict[str, torch.Tensor]:
        """Real and drawn flow in one pass; class and AUs from the real alone."""
        n = len(batch)
        seen = torch.cat([self._observed(batch, batch.flow), self._observed(batch, fake)])
        judged = self.networks["discriminator"](seen)
        real, made = judged.real[:n], judged.real[n:]
        terms = {
            "adversarial": (mean_of(torch.relu(1 - real)) + mean_of(torch.relu(1 + made))) * used,
            "classes": L.class_error(judged.classes[:n], batch.label) * used,
            "au": L.au_error(judged.aus[:n], batch.aus, batch.known) * used,
        }
        total, means = L.weighted(self._config.loss, terms)
        updater.update("discriminator", total)
        return {f"d_{name}": value for name, value in means.items()}

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Motion drawn and real in pixels, end-point error to the pair's flow (another face's motion: it cannot be 0),
        and how far it follows AUs, class and noise; NaN where it cannot be told."""
        generator, (classes, aus, _) = averaged["generator"], self._asked(batch, drop=False)
        z, other_z = (batch.randn(f"flow-z{i}", self._config.model.z) for i in range(2))
        made, other = generator(z, classes, aus), generator(other_z, classes, aus)
        motion, hidden = _magnitude(made), torch.full((len(z),), float("nan"), device=z.device)
        inside = batch.valid.to(made.dtype)
        seen = inside.flatten(1).sum(1).clamp(min=1)
        real, error = (
            (uv.square().sum(1).sqrt() * inside).flatten(1).sum(1) / seen for uv in (batch.flow, made - batch.flow)
        )
        measures = {
            "motion": motion,
            "real_motion": torch.where(batch.has_flow, real, hidden),
            "error": torch.where(batch.has_flow, error, hidden),
            "diversity": _magnitude(made - other) / motion.clamp(min=1e-6),
        }
        if self._config.model.condition != "class":
            own, elsewhere = (generator(z, classes, a) for a in L.other_aus(aus))
            measures["au_dependence"] = _magnitude(own - elsewhere) / _magnitude(own).clamp(min=1e-6)
        if self._config.model.condition != "aus":
            every = torch.eye(N_CLASSES, device=z.device, dtype=z.dtype)
            first, *rest = (generator(z, c.expand_as(classes), aus * 0) for c in every)
            apart = torch.stack([_magnitude(first - x) for x in rest]).amax(0)
            measures["class_dependence"] = apart / _magnitude(first).clamp(min=1e-6)
        return measures

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """NaN, collapse to one draw, motion that is lost, or that depends on nothing asked for."""
        if measured.get("diversity", 1.0) < COLLAPSED:
            return f"mode collapse: draws differ by {measured['diversity']:.3g} of their motion, below {COLLAPSED:g}"
        if measured.get("motion", 1.0) < L.UNCHANGED * measured.get("real_motion", 0.0):
            return f"no motion is drawn ({measured['motion']:.3g} pixels, {measured['real_motion']:.3g} in the data)"
        depends = [measured[name] for name in ("au_dependence", "class_dependence") if name in measured]
        if depends and max(depends) < L.INDEPENDENT:
            return f"the flow depends neither on AUs nor on the class asked for ({max(depends):.3g} of its motion)"
        return L.known_failure(logged, {k: v for k, v in measured.items() if k != "au_dependence"})

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """Real flow; drawn for its AUs and class, another draw, with half the AUs; each class. Colours of one scale."""
        generator, (classes, aus, _) = averaged["generator"], self._asked(batch, drop=False)
        z, other_z = (batch.randn(f"flow-z{i}", self._config.model.z) for i in range(2))
        every = torch.eye(N_CLASSES, device=z.device, dtype=z.dtype)
        drawn = [generator(z, classes, aus), generator(other_z, classes, aus), generator(z, classes, aus / 2)]
        by_class = [generator(z, c.expand_as(classes), aus * 0) for c in every]
        return record.sheet([record.flows(uv) for uv in (batch.flow, *drawn, *by_class)], scale=2)

    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: Facts) -> None:
        """See the base class.

        Raises:
            Problem: what is asked for changes the flow nowhere by a hundredth of a pixel.
        """
        generator = averaged["generator"]
        reach = request_reach(generator)
        if reach < 0.01:
            raise Problem(
                f"{FAMILY} is not saved: its flow does not depend on AUs or class "
                f"(at most {reach:.2g} pixels between two requests); train longer or raise loss.pixel"
            )
        plain, counted = asdict(facts), {"generator": sum(p.numel() for p in generator.parameters())}
        card = model_card(
            plain, title="Flow-image GAN", what=_WHAT, limits=_LIMITS, parameters=counted, use=_USE
        )  # fmt: skip
        save_pipeline(folder, {"generator": generator}, plain, card, size=self.size)


_WHAT = """Onset-to-apex flow images (u, v in pixels; strain is computed from them) for a class or action-unit
intensities, without faces. After the idea of Liong et al. (2019, 2020); the layout of the layers is ours."""
_LIMITS = """It has no frames: generate() is an error. Motion beyond a share of the side (its configuration says which)
cannot be drawn. No FACS coder has looked at it; the figures below are all that was measured."""
_USE = 'uv = load_pipeline("this folder").sample(seeds=[0, 1], labels=["positive", "surprise"])  # [2,2,S,S] pixels'


def _magnitude(uv: torch.Tensor) -> torch.Tensor:
    """Mean length of the vectors, [B,2,H,W] -> [B]."""
    return mean_of(uv.square().sum(1).sqrt())


@torch.no_grad()
def request_reach(generator: Any) -> float:
    """Largest difference at any pixel between the flows of two requests it was trained for, without noise; pixels."""
    like, kind = next(generator.parameters()), generator.config.condition
    aus = torch.eye(N_AUS, device=like.device)[:, :, None].expand(-1, -1, 2) * (kind != "class")
    classes = torch.eye(N_CLASSES, device=like.device) * (kind != "aus")
    cells = torch.cat([aus, aus.new_zeros(N_CLASSES, N_AUS, 2)])
    flow = generator(
        torch.zeros(len(cells), generator.config.z, device=like.device),
        torch.cat([classes.new_zeros(N_AUS, N_CLASSES), classes]),
        cells,
    )
    return float((flow.amax(0) - flow.amin(0)).max())


TASK = FlowGANTask
