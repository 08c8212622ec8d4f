"""Training of ``motion_gan``: paired where a clip shows motion, adversarial and taught where there is only a face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.generators.base import save_trained
from mesynth.generators.formation import Motion, amount, form
from mesynth.generators.motion_gan.config import Config
from mesynth.generators.motion_gan.network import ActionReader, MotionDiscriminator, MotionGenerator
from mesynth.store.generator_folder import GeneratorFacts
from mesynth.training import losses, record
from mesynth.training.data.batches import Batch
from mesynth.training.task import Task, Updater

_R1_SHARE = 1 / 16
"""Share of pairs that R1 is taken on, in place of every 16th step: a pair decides for itself."""


class MotionGANTask(Task):
    """See the module. Networks: generator, and discriminator and reader where a loss needs them."""

    name = "motion_gan"
    averaged = ("generator",)

    def __init__(self, config: Config, size: int) -> None:
        if size < 16 or size % 8:
            raise ConfigError(f"data.size={size} must be a multiple of 8, at least 16, for motion_gan")
        model, loss = config.model, config.loss
        self._config, self.size = config, size
        shape = {
            name: getattr(model, name)
            for name in ("width", "z", "blocks", "template", "correction", "residual", "max_flow", "face")
        }
        self.networks: dict[str, nn.Module] = {"generator": MotionGenerator(size=size, **shape)}
        self.frozen: dict[str, nn.Module] = {}
        if loss.discriminates:
            self.networks["discriminator"] = MotionDiscriminator(size, model.discriminator, model.max_flow)
        if loss.reads:
            self.networks["reader"] = ActionReader(model.reader)
        if loss.teacher:
            # Untrained, the generator is the motion prior on the mean face.
            self.frozen["teacher"] = MotionGenerator(size=size, width=4, blocks=0, correction=False, max_flow=0.2)
        if loss.perceptual:
            self.frozen["perceptual"] = losses.lpips_network()

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """One Adam a network; canonical fields may learn at a rate of their own."""
        o = self._config.optim
        betas = (o.beta1, o.beta2)
        named = list(self.networks["generator"].named_parameters())
        groups = [
            {"params": [p for n, p in named if n != "canonical"], "lr": o.generator},
            {"params": [p for n, p in named if n == "canonical"], "lr": o.generator * o.canonical},
        ]
        out: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam([g for g in groups if g["params"]], betas=betas)
        }
        for name, rate in (("discriminator", o.discriminator), ("reader", o.reader)):
            if name in self.networks:
                out[name] = torch.optim.Adam(self.networks[name].parameters(), lr=rate, betas=betas)
        return out

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """Reader on real pairs, discriminator on real and made, generator on everything its losses name."""
        weights, logged = self._config.loss, {}
        (aus, known), paired = batch.targets(), batch.paired
        z = batch.randn("z", self._config.model.z) if self._config.model.z else None
        if weights.reads:
            read = self.networks["reader"](batch.onset, batch.frame)
            loss = losses.chosen(losses.au_mse(read, batch.aus, batch.known), batch, "paired")
            logged["reader"] = loss.detach()
            updater.update("reader", loss)
        motion: Motion = self.networks["generator"](batch.onset, aus, known, z, batch.landmarks)
        made = form(batch.onset, motion)
        if weights.discriminates:
            loss, parts = self._discriminator_loss(batch, motion, made, paired)
            logged |= parts
            updater.update("discriminator", loss)
        terms = self._terms(batch, aus, known, paired, z, motion, made)
        total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
        updater.update("generator", total)
        logged |= {name: value.detach() for name, value in terms.items()}
        return logged | {"generator": total.detach()}

    def _discriminator_loss(
        self, batch: Batch, motion: Motion, made: torch.Tensor, paired: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weights, network = self._config.loss, self.networks["discriminator"]
        real = _observe(network, batch, batch.frame, batch.flow)
        fake = _observe(network, batch, made.detach(), motion.flow.detach())
        scores, read = network(torch.cat([real, fake]))
        # Where there is only a face there is no real motion to tell from a made one.
        hinge = losses.hinge_discriminator(scores[: len(batch)], scores[len(batch) :], batch)
        head = losses.chosen(losses.au_mse(read[: len(batch)], batch.aus, batch.known), batch, "paired")
        parts = {"discriminator": hinge.detach(), "discriminator_aus": head.detach()}
        total = hinge + head
        drawn = (batch.rand("r1", 1)[:, 0] < _R1_SHARE) & paired
        if weights.r1:
            # Where no row is drawn one goes through all the same and counts 0: every pass moves spectral norm's power
            # iteration on, and it has to be as far in every part of a batch and in every process.
            inputs = real[drawn if bool(drawn.any()) else slice(1)].detach().requires_grad_(True)
            with torch.enable_grad():
                # Not network(inputs): a compiled network cannot be differentiated twice.
                penalty = losses.r1(network.forward(inputs)[0].flatten(1).mean(1), inputs)
            total = total + weights.r1 / 2 * penalty * (drawn.sum() / len(drawn)) / _R1_SHARE
        return total, parts

    def _terms(
        self, batch: Batch, aus: torch.Tensor, known: torch.Tensor, paired: torch.Tensor, z: torch.Tensor | None,
        motion: Motion, made: torch.Tensor,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """The generator's losses whose weight is not 0, as scalars."""
        weights, flow, network = self._config.loss, motion.flow, self.networks["generator"]
        out: dict[str, torch.Tensor] = {}
        if weights.epe:
            out["epe"] = losses.chosen(losses.charbonnier_epe(flow, batch.flow, batch.valid), batch, "flow")
        if weights.l1:
            out["l1"] = losses.chosen(losses.multiscale_l1(made, batch.frame), batch, "paired")
        if weights.perceptual:
            distance = self.frozen["perceptual"](2 * made - 1, 2 * batch.frame - 1).flatten(1).mean(1)
            out["perceptual"] = losses.chosen(distance, batch, "paired")
        if weights.tv:
            out["tv"] = losses.edge_aware_tv(flow, batch.onset).mean()
        if weights.smooth:
            out["smooth"] = losses.second_order(flow).mean()
        if weights.residual:
            out["residual"] = motion.residual.abs().mean()
        if weights.mask:
            out["mask"] = (1 - motion.mask).mean()
        if weights.inverse:
            out["inverse"] = losses.inverse_consistency(flow).mean()
        if weights.fold:
            out["fold"] = losses.folds(flow).mean()
        if weights.teacher:
            taught = self.frozen["teacher"](batch.onset, aus, known).flow.detach()
            every = torch.ones_like(batch.valid)
            out["teacher"] = losses.chosen(losses.charbonnier_epe(flow, taught, every), batch, "no flow")
        if weights.discriminates:
            scores, read = self.networks["discriminator"](_observe(self.networks["discriminator"], batch, made, flow))
            if weights.adversarial:
                out["adversarial"] = losses.hinge_generator(scores)
            if weights.au_head:
                out["au_head"] = losses.au_mse(read, aus, known).mean()
        if weights.reads:
            seen = self.networks["reader"](batch.onset, made)
            if weights.au:
                out["au"] = losses.au_mse(seen, aus, known).mean()
            if weights.leakage:
                out["leakage"] = losses.leakage(seen, aus, known).mean()
            if weights.rank:
                share = 0.2 + 0.6 * batch.rand("rank", 1, 1)
                weaker = form(batch.onset, network(batch.onset, aus * share, known, z, batch.landmarks))
                less = self.networks["reader"](batch.onset, weaker)
                out["rank"] = losses.rank(less, seen, aus * share, aus).mean()
        if weights.diversity and z is not None:
            other = batch.randn("z-other", z.shape[1])
            moved = network(batch.onset, aus, known, other, batch.landmarks).flow
            out["diversity"] = losses.diversity(flow, moved, z, other).mean()
        return out

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Measures [B]; NaN where a pair has nothing to measure. See :meth:`check` for what they are held against."""
        network = averaged["generator"]
        (aus, known), paired = batch.targets(), batch.paired
        z = batch.randn("z", self._config.model.z) if self._config.model.z else None
        motion = network(batch.onset, aus, known, z, batch.landmarks)
        made = form(batch.onset, motion)
        out = losses.flow_measures(motion.flow, batch.flow, batch.valid, batch.has_flow)
        length = losses.mean_of(motion.flow.square().sum(1).sqrt())
        other = network(batch.onset, aus.roll(7, 1), known.roll(7, 1), z, batch.landmarks).flow
        asks = aus.flatten(1).amax(1) > 0
        changed = losses.mean_of((motion.flow - other).square().sum(1).sqrt())
        both = length + losses.mean_of(other.square().sum(1).sqrt())
        out["au_effect"] = torch.where(asks, changed / both.clamp(min=1e-9), torch.nan)
        out["motion"] = torch.where(asks, length, torch.nan)
        gate = amount(aus.amax(2)).clamp(min=1e-3)
        out["mask"] = losses.mean_of(motion.mask)
        out["mask_open"] = torch.where(asks, (1 - motion.mask).flatten(1).mean(1) / gate, torch.nan)
        out["residual"] = losses.mean_of(motion.residual.abs())
        out |= losses.frame_measures(made, batch.onset, batch.frame, paired)
        if z is not None:
            moved = network(batch.onset, aus, known, batch.randn("z-other", z.shape[1]), batch.landmarks).flow
            out["z_effect"] = losses.mean_of((moved - motion.flow).square().sum(1).sqrt()) / length.clamp(min=1e-9)
        return out

    def check_faces(self, *, alone: bool) -> None:
        """See the base class: some loss must look at a face alone, and what reads motion needs real motion."""
        weights = self._config.loss
        if not (weights.teacher or weights.discriminates or weights.reads):
            raise ConfigError("data.faces has no effect: no loss looks at a face alone; set for example loss.teacher=5")
        real = [name for name in ("adversarial", "au_head", "au", "leakage", "rank") if getattr(weights, name)]
        if alone and real:
            raise ConfigError(
                f"loss.{real[0]}={getattr(weights, real[0]):g} has nothing real to learn from: data.faces shows no "
                f"motion; add data.manifests (or rendered pairs), or set {' '.join(f'loss.{name}=0' for name in real)}"
            )

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """Known failures: nothing moves, the AUs do not matter, the residual paints everywhere, noise does nothing."""
        failure = losses.motion_failure(
            measured,
            self.size,
            still="raise loss.epe or loss.au",
            deaf="raise loss.epe or loss.au, or lower loss.adversarial",
        )
        if failure:
            return failure
        if measured.get("mask_open", 0.0) > 0.98:
            return f"the mask is saturated: open at {measured['mask_open']:.3f}; raise loss.mask or loss.residual"
        if self._config.loss.diversity and measured.get("z_effect", 1.0) < 0.01:
            return f"collapse: noise changes {measured['z_effect']:.2g} of the motion; raise loss.diversity"
        return ""

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """Columns: onset, asked frame, made frame, change of each, exact flow, made flow."""
        aus, known = batch.targets()
        z = batch.randn("z", self._config.model.z) if self._config.model.z else None
        with torch.no_grad():
            motion = averaged["generator"](batch.onset, aus, known, z, batch.landmarks)
            made = form(batch.onset, motion)
        return record.motion_sheet(batch.onset, batch.frame, made, batch.flow, motion.flow)

    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: GeneratorFacts) -> None:
        """See the base class."""
        save_trained(
            folder, {"generator": averaged["generator"]}, facts, title="Motion GAN", what=_WHAT, limits=_LIMITS
        )


_WHAT = """An onset face and action-unit intensities, per side, to a micro-expression clip with the flow its frames are
made from. The network draws displacement fields per AU, and where it is configured so an occlusion mask and a small
residual; every pixel is the person's own, moved. Intensity 0 gives the picture back bit for bit."""
_LIMITS = """It moves what the picture shows and knows the AUs of its training data only. Flow is limited to a share of
the width (its configuration says which). No FACS coder has looked at it; the figures below are all that was
measured."""


def _observe(network: nn.Module, batch: Batch, frame: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    observer: Any = network
    seen: torch.Tensor = observer.observe(batch.onset, frame, flow, batch.has_flow)
    return seen
