"""Training of ICE-GAN: margin losses of the capsule discriminator, reconstruction, and the frame of the pair.

See :mod:`mesynth.generators.ice_gan.network` for what is published and what is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.generators.blocks import margin_loss
from mesynth.generators.ice_gan.config import Config
from mesynth.generators.ice_gan.network import (
    N_CLASSES,
    CapsuleDiscriminator,
    ICEGenerator,
    Judgement,
    PublishedDiscriminator,
    PublishedGenerator,
    grey,
)
from mesynth.generators.task import UNMOVED, PaintingTask
from mesynth.training import losses as L
from mesynth.training import record
from mesynth.training.data.batches import Batch
from mesynth.training.losses import mean_of
from mesynth.training.task import Updater


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


_SHOWN = """Clips show the onset plus the difference of two drawings, with and without the expression: no request gives
the picture back bit for bit."""
_WHAT = f"""Our variant of ICE-GAN: draws a face with action-unit intensities, per side, and one of three classes.
Written after Yu et al. (2020); what is ours is listed in mesynth.generators.ice_gan.network. {_SHOWN}"""
_PUBLISHED = f"""ICE-GAN (Yu et al., 2020) as its authors' code defines both networks: draws a grey face with one of
three classes, and knows no action units. How the authors train it is not public; the losses are ours. {_SHOWN}"""


class ICEGANTask(PaintingTask):
    """See the module's first lines."""

    name = "ice_gan"
    card: ClassVar = {"title": "ICE-GAN", "what": _WHAT, "limits": f"It draws {UNMOVED}"}
    taught = "discriminate or to be held against"
    remedy = "raise loss.pixel"
    _config: Config

    def __init__(self, config: Config, size: int) -> None:
        model = config.model
        if size < 8 or size & (size - 1):
            raise ConfigError(f"size {size} does not fit ice_gan; its U-Net needs a power of two, at least 8 pixels")
        if model.rebuilt > size or size % model.rebuilt:
            raise ConfigError(f"model.rebuilt={model.rebuilt} does not divide the size of {size} pixels")
        shape = {"size": size, "width": model.width, "embedding": model.embedding, "noise": model.noise}
        judge = (size, model.critic_width, model.iterations, model.hidden)
        made: tuple[nn.Module, nn.Module | None]
        if model.published:
            self.card = {**self.card, "what": _PUBLISHED}  # type: ignore[misc]
            made = PublishedGenerator(**shape), PublishedDiscriminator(*judge) if config.loss.judged else None
        else:
            ours = ICEGenerator(**shape, graph=model.graph, prior=model.prior, relative=model.relative)
            made = ours, CapsuleDiscriminator(*judge, model.rebuilt) if config.loss.judged else None
        super().__init__(config, size, generator=made[0], discriminator=made[1])

    def _seen(self, picture: torch.Tensor) -> torch.Tensor:
        """What a drawing is held against, [B,3,S,S]: grey where the networks are the published ones."""
        return grey(picture).expand_as(picture) if self._config.model.published else picture

    def _margin(self, length: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        return margin_loss(length, present, power=1 if self._config.model.published else 2)

    def _targets(self, batch: Batch) -> _Request:
        """What to draw: a face alone has no class, and AUs that its seed draws."""
        # A frame whose class alone is known is a pair here.
        paired = batch.paired | (batch.label >= 0)
        aus, known = batch.targets(~paired)
        z = batch.randn("ice-z", self._config.model.noise)
        return _Request(z, L.one_hot(batch.label, N_CLASSES), aus * known, known, paired)

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """See the base class. A face alone has no frame to be held against; it is only ever a drawing's onset."""
        loss, asked = self._config.loss, self._targets(batch)
        z, classes, aus, n, paired = asked.z, asked.classes, asked.aus, len(batch), asked.paired.to(asked.z.dtype)
        onset, frame = self._seen(batch.onset), self._seen(batch.frame)
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
            "pixel": mean_of((made - frame).abs()) * paired,
            "clip": mean_of((onset + made - plain - frame).abs()) * paired,
            "rest": mean_of((plain - onset).abs()),
        }
        if loss.identity:
            generator: Any = self.networks["generator"]
            embedded = generator.embed(torch.cat([made, batch.onset]))
            terms["identity"] = 1 - F.cosine_similarity(embedded[:n], embedded[n:])
        if loss.judged:
            judged = self.networks["discriminator"](batch.onset, made)
            terms["adversarial"] = self._margin(judged.real, torch.ones_like(judged.real))
            terms |= self._read(judged, batch, classes, aus, asked.known)
        total, means = L.weighted(loss, terms)
        updater.update("generator", total)
        return log | means | {"generator": total.detach()}

    def _read(
        self, judged: Judgement, batch: Batch, classes: torch.Tensor, aus: torch.Tensor, known: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What the discriminator reads besides real or not."""
        labelled = (batch.label >= 0).to(judged.classes.dtype)
        read = {"classes": self._margin(judged.classes, classes).sum(1) * labelled}
        return read if judged.aus is None else read | {"au": L.au_error(judged.aus, aus, known)}

    def _discriminate(
        self, batch: Batch, fake: torch.Tensor, asked: _Request, updater: Updater
    ) -> dict[str, torch.Tensor]:
        """Real and generated pictures in one pass; classes, AUs and reconstruction from the real ones alone.

        A face alone shows no change that could pass for real: only what is drawn on it counts.
        """
        loss, n, paired = self._config.loss, len(batch), asked.paired.to(fake.dtype)
        judged = self.networks["discriminator"](batch.onset.repeat(2, 1, 1, 1), torch.cat([batch.frame, fake]))
        real = Judgement(*(x if x is None else x[:n] for x in judged))  # type: ignore[arg-type]
        wanted = torch.cat([torch.ones_like(judged.real[:n]), torch.zeros_like(judged.real[n:])])
        published = self._config.model.published
        target = grey(batch.frame) if published else F.adaptive_avg_pool2d(batch.frame, self._config.model.rebuilt)
        error = (real.rebuilt - target).square().flatten(1)
        terms = self._read(real, batch, asked.classes, batch.aus, batch.known) | {
            "adversarial": self._margin(judged.real, wanted) * torch.cat([paired, torch.ones_like(paired)]),
            "reconstruction": (error.mean(1) if published else error.sum(1)) * paired,
        }
        total, means = L.weighted(loss, terms)
        updater.update("discriminator", total)
        lengths = {"real_capsule": judged.real[:n].mean().detach(), "fake_capsule": judged.real[n:].mean().detach()}
        return {f"d_{name}": value for name, value in means.items()} | lengths

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Grey-level errors, and how far the picture follows AUs and class."""
        generator, asked = averaged["generator"], self._targets(batch)
        z, classes, aus = asked.z, asked.classes, asked.aus
        made = generator(batch.onset, z, classes, aus)
        plain = generator(batch.onset, z, torch.zeros_like(classes), torch.zeros_like(aus))

        def shown(cells: torch.Tensor) -> torch.Tensor:
            return batch.onset + generator(batch.onset, z, classes, cells) - plain

        onset, frame = self._seen(batch.onset), self._seen(batch.frame)
        if self._config.model.published:  # it knows no AUs
            real = L.GREY_LEVELS * mean_of((frame - onset).abs())
            measures = {"change": L.GREY_LEVELS * mean_of((made - plain).abs()), "real_change": real}
        else:
            measures = L.response(shown, batch.onset, batch.frame, aus)
        held = {
            "real_change": measures["real_change"],
            "error": L.GREY_LEVELS * mean_of((made - frame).abs()),
            "clip_error": L.GREY_LEVELS * mean_of((onset + made - plain - frame).abs()),
        }
        every = torch.eye(N_CLASSES, device=z.device, dtype=z.dtype)
        by_class = torch.stack([generator(batch.onset, z, c.expand_as(classes), aus) for c in every])
        return (
            measures
            | L.of_pairs(held, asked.paired)
            | {
                "rest_error": L.GREY_LEVELS * mean_of((plain - onset).abs()),
                "class_change": L.GREY_LEVELS * mean_of(by_class.amax(0) - by_class.amin(0)),
            }
        )

    def unheard(self, generator: nn.Module) -> str:
        """See the base class; the published generator is asked for classes."""
        if not self._config.model.published:
            return super().unheard(generator)
        device = next(generator.parameters()).device
        onset = L.probe_picture(self.size).to(device).expand(N_CLASSES, -1, -1, -1)
        with torch.no_grad():
            z = torch.zeros(N_CLASSES, self._config.model.noise, device=device)
            drawn = generator(onset, z, torch.eye(N_CLASSES, device=device))
        reach = float(L.GREY_LEVELS * (drawn.amax(0) - drawn.amin(0)).max())
        if reach >= 1:
            return ""
        return (
            f"its output does not depend on the class (at most {reach:.2g} grey levels between two); train longer or "
            f"{self.remedy}"
        )

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """Onset, real frame; drawn with and without expression; as a clip shows it, change times 8; the 3 classes."""
        generator, request = averaged["generator"], self._targets(batch)
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

    def drawn(self, generator: Any, pictures: torch.Tensor, aus: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        z = torch.zeros(len(aus), generator.config.noise, device=aus.device)
        out: torch.Tensor = generator(pictures, z, torch.zeros(len(aus), N_CLASSES, device=aus.device), aus)
        return out
