"""Training of AU-ICGAN: realism (WGAN-GP), AU intensity, cycle, a sparse and smooth mask, and real frames where there
are pairs. See :mod:`mesynth.generators.au_icgan.network` for what is a reconstruction and what is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.generators.au_icgan.config import Config
from mesynth.generators.au_icgan.network import AUICGenerator, IntensityDiscriminator, RealismCritic
from mesynth.generators.blocks import halvings
from mesynth.generators.task import UNMOVED, PaintingTask
from mesynth.training import losses as L
from mesynth.training import record
from mesynth.training.data.batches import Batch
from mesynth.training.losses import mean_of
from mesynth.training.task import Updater

SATURATED = 0.998
"""The mask is saturated when on average it keeps more than this of the input, or less than one minus this."""


_WHAT = """Paints a face at action-unit intensities of choice, per side, relative to the picture given. A reconstruction
after Xie et al. (ACM Multimedia 2020), whose code is not public; what is ours: mesynth.generators.au_icgan.network.
Intensity 0 gives the picture back bit for bit."""


class AUICGANTask(PaintingTask):
    """See the module's first lines."""

    name = "au_icgan"
    card: ClassVar = {"title": "AU-ICGAN", "what": _WHAT, "limits": f"It paints {UNMOVED}"}
    taught = "learn AUs from"
    remedy = "lower loss.mask"
    _config: Config

    def __init__(self, config: Config, size: int) -> None:
        if size % 4 or size < 16:
            raise ConfigError(f"size {size} does not fit {self.name}; choose a multiple of 4, at least 16 pixels")
        halvings(size, 2, 1)
        model, loss = config.model, config.loss
        shape = {name: getattr(model, name) for name in ("width", "blocks", "film", "relative", "prior")}
        judge = (size, model.critic_width, model.critic_layers)
        super().__init__(
            config,
            size,
            generator=AUICGenerator(size=size, **shape),
            realism=RealismCritic(*judge) if loss.adversarial else None,
            intensity=IntensityDiscriminator(*judge) if loss.au else None,
        )

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """See the base class. A face alone has no frame to be held against and no AUs to be read off it."""
        loss, (aus, known) = self._config.loss, batch.targets()
        asked, paired = aus * known, batch.paired.to(aus.dtype)
        log: dict[str, torch.Tensor] = {}
        if len(self.networks) > 1:
            with torch.no_grad():
                fake = self.networks["generator"](batch.onset, asked).picture
        if loss.adversarial:
            for i in range(self._config.optim.critic_steps):
                log |= self._realism_step(batch, fake, i, updater)
        if loss.au:
            log |= self._intensity_step(batch, updater)
        painted = self.networks["generator"](batch.onset, asked)
        terms = {"pixel": mean_of((painted.picture - batch.frame).abs()) * paired}
        masks = [1 - painted.attention]
        if loss.cycle:
            back = self.networks["generator"](painted.picture, -asked)
            terms["cycle"] = mean_of((back.picture - batch.onset).abs())
            masks.append(1 - back.attention)
        terms["mask"] = torch.stack([mean_of(m) for m in masks]).mean(0)
        terms["smooth"] = torch.stack([L.total_variation(m) for m in masks]).mean(0)
        if loss.adversarial:
            terms["adversarial"] = -mean_of(self.networks["realism"](painted.picture))
        if loss.au:
            terms["au"] = L.au_error(self.networks["intensity"](batch.onset, painted.picture), aus, known)
        total, means = L.weighted(loss, terms)
        updater.update("generator", total)
        return log | means | {"generator": total.detach(), "mask_mean": terms["mask"].mean().detach()}

    def _realism_step(self, batch: Batch, fake: torch.Tensor, i: int, updater: Updater) -> dict[str, torch.Tensor]:
        """Wasserstein critic with gradient penalty, in float32: half precision would lose its second derivative."""
        with torch.autocast(fake.device.type, enabled=False):
            share = batch.rand(f"realism-mix-{i}", 1, 1, 1)
            fake = fake.float()
            mixed = (share * batch.frame + (1 - share) * fake).requires_grad_()
            # Not called as a module: a compiled network cannot be differentiated twice.
            scores = self.networks["realism"].forward(torch.cat([batch.frame, fake, mixed]))
            real, generated, between = scores.chunk(3)
            distance = (mean_of(real) - mean_of(generated)).mean()
            penalty = L.gradient_penalty(between, mixed).mean() if self._config.loss.penalty else distance.new_zeros(())
            updater.update("realism", self._config.loss.penalty * penalty - distance)
        return {"critic_distance": distance.detach(), "critic_penalty": penalty.detach()}

    def _intensity_step(self, batch: Batch, updater: Updater) -> dict[str, torch.Tensor]:
        """Real pairs show their AUs (where none is known, nothing is learned); a face and itself show none."""
        n = len(batch)
        seen = self.networks["intensity"](batch.onset.repeat(2, 1, 1, 1), torch.cat([batch.frame, batch.onset]))
        moved = L.au_error(seen[:n], batch.aus, batch.known).mean()
        still = seen[n:].square().flatten(1).sum(1).mean()
        updater.update("intensity", moved + still)
        return {"intensity_real": moved.detach(), "intensity_still": still.detach()}

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Grey-level errors, mask, and how far the picture follows the AUs."""
        generator, (aus, known) = averaged["generator"], batch.targets()
        painted = generator(batch.onset, aus * known)
        measures = L.response(lambda aus: generator(batch.onset, aus).picture, batch.onset, batch.frame, aus * known)
        error = L.GREY_LEVELS * mean_of((painted.picture - batch.frame).abs())
        held = L.of_pairs({"real_change": measures["real_change"], "error": error}, batch.paired)
        return measures | held | {"mask": mean_of(painted.attention)}

    def check_faces(self, *, alone: bool) -> None:
        """See the base class; beside it some loss must look at a face alone."""
        super().check_faces(alone=alone)
        if not (self._config.loss.adversarial or self._config.loss.au or self._config.loss.cycle):
            raise ConfigError("data.faces has no effect: no loss looks at a face alone; set for example loss.au=1")

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """NaN, a saturated mask, an output that ignores the AUs or equals the input."""
        mask = measured.get("mask", 0.5)
        if not 1 - SATURATED <= mask <= SATURATED:
            return f"the attention mask is saturated (mean {mask:.3g}; 1 keeps the input, 0 repaints everything)"
        return super().check(logged, measured)

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """Onset, real frame, generated; mask (white changes), change times 8; the AUs at a half and in full."""
        generator, (aus, known) = averaged["generator"], batch.targets()
        asked = aus * known
        painted = generator(batch.onset, asked)
        top = asked.flatten(1).amax(1).clamp(min=1e-6).view(-1, 1, 1)
        steps = [record.pictures(generator(batch.onset, share * asked / top).picture) for share in (0.5, 1.0)]
        given = [record.pictures(x) for x in (batch.onset, batch.frame, painted.picture, 1 - painted.attention)]
        return record.sheet([*given, record.changes(painted.picture, batch.onset, 8), *steps])

    def drawn(self, generator: nn.Module, pictures: torch.Tensor, aus: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        out: torch.Tensor = generator(pictures, aus).picture
        return out
