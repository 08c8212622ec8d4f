"""Training of the flow-image GAN: hinge loss, class and AU heads, and the pair's own flow where it is known.

See :mod:`mesynth.generators.flow_gan.network`. Pairs without flow take no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.generators.flow_gan.config import Config
from mesynth.generators.flow_gan.network import N_CLASSES, FlowDiscriminator, FlowGenerator, observe
from mesynth.generators.task import GANTask
from mesynth.training import losses as L
from mesynth.training import record
from mesynth.training.data.batches import Batch
from mesynth.training.losses import mean_of
from mesynth.training.task import Updater

COLLAPSED = 0.01
"""Two draws for one request that differ by less than this share of their motion are one draw."""


class _Request(NamedTuple):
    """What is asked of the generator, a row a pair."""

    classes: torch.Tensor
    """[B,3], all 0 without a class"""
    aus: torch.Tensor
    """[B,K,2]"""
    told: torch.Tensor
    """[B] bool: the request says all that the pair's motion is known by"""


_WHAT = """Onset-to-apex flow images (u, v in pixels; strain is computed from them) for a class or action-unit
intensities, without faces. After the idea of Liong et al. (2019, 2020); the layout of the layers is ours."""
_LIMITS = """It has no frames: generate() is an error. Motion beyond a share of the side (its configuration says which)
cannot be drawn. No FACS coder has looked at it; the figures below are all that was measured."""
_USE = 'uv = load_pipeline("this folder").sample(seeds=[0, 1], labels=["positive", "surprise"])  # [2,2,S,S] pixels'


class FlowGANTask(GANTask):
    """See the module's first lines."""

    name = "flow_gan"
    card: ClassVar = {"title": "Flow-image GAN", "what": _WHAT, "limits": _LIMITS, "use": _USE}
    _config: Config

    def __init__(self, config: Config, size: int) -> None:
        if not 16 <= size <= 128 or size % 4:
            raise ConfigError(f"size {size} does not fit {self.name}; choose a multiple of 4 from 16 to 128 pixels")
        model = config.model
        shape = {name: getattr(model, name) for name in ("width", "z", "condition", "unit", "limit", "prior")}
        judge = (size, model.critic_width, model.critic_layers)
        super().__init__(
            config,
            size,
            generator=FlowGenerator(size=size, **shape),
            discriminator=FlowDiscriminator(*judge) if config.loss.judged else None,
        )

    def _targets(self, batch: Batch, drop: bool) -> _Request:
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
        loss, (classes, aus, told) = self._config.loss, self._targets(batch, drop=True)
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
        generator, (classes, aus, _) = averaged["generator"], self._targets(batch, drop=False)
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
        generator, (classes, aus, _) = averaged["generator"], self._targets(batch, drop=False)
        z, other_z = (batch.randn(f"flow-z{i}", self._config.model.z) for i in range(2))
        every = torch.eye(N_CLASSES, device=z.device, dtype=z.dtype)
        drawn = [generator(z, classes, aus), generator(other_z, classes, aus), generator(z, classes, aus / 2)]
        by_class = [generator(z, c.expand_as(classes), aus * 0) for c in every]
        return record.sheet([record.flows(uv) for uv in (batch.flow, *drawn, *by_class)], scale=2)

    def unheard(self, generator: nn.Module) -> str:
        """What is asked for changes the flow nowhere by a hundredth of a pixel."""
        reach = request_reach(generator)
        if reach >= 0.01:
            return ""
        return (
            f"its flow does not depend on AUs or class (at most {reach:.2g} pixels between two requests); "
            "train longer or raise loss.pixel"
        )


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
