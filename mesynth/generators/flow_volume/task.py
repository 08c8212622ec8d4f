"""Training of ``flow_volume``: take noise off what a clip's flow is beside the profile's share of the expected apex."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.profiles import Profile
from mesynth.generators.diffusion import dropped
from mesynth.generators.diffusion_config import Sampling
from mesynth.generators.flow_volume.config import Config
from mesynth.generators.flow_volume.network import VolumeDiffuser
from mesynth.generators.formation import limited
from mesynth.generators.motion_diffusion.network import REACH
from mesynth.generators.task import DiffusedMotionTask
from mesynth.motion.key_times import RISING, Timing
from mesynth.preprocess.warping import from_means, resize_flow
from mesynth.training import losses, record
from mesynth.training.data.batches import Batch
from mesynth.training.data.sequences import SequenceBatch
from mesynth.training.task import Updater

_WHAT = """An onset face, action-unit intensities, per side, and a temporal profile to a micro-expression clip with the
flow its frames are made from. Flow at eight key times, the apex among them, is drawn together by diffusion around the
profile's share of the apex motion that a regression expects, so that action units may start and peak at moments of
their own; frames between take a spline. Every pixel is the person's own, moved. Intensity 0 gives the picture back bit
for bit, and so do onset and offset."""
_LIMITS = """It moves what the picture shows and knows the AUs, and the way they follow each other in time, of its
training data only; the order of AUs in rendered clips is a rule of that corpus, not of faces. No FACS coder has looked
at it; the figures below are all that was measured."""


class FlowVolumeTask(DiffusedMotionTask):
    """See the module. One network, the generator. Plain pairs teach the apex alone."""

    name = "flow_volume"
    network = VolumeDiffuser
    card: ClassVar = {"title": "Flow volume", "what": _WHAT, "limits": _LIMITS}
    deaf = "begin with a trained motion_diffusion (run.start) or raise loss.mean"
    _config: Config

    def begun_by(self, family: str) -> Mapping[str, nn.Module]:
        """Its own family, or a ``motion_diffusion``, which every key time starts as."""
        generator: Any = self.networks["generator"]
        return {"generator": generator.base} if family == "motion_diffusion" else super().begun_by(family)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """One AdamW with a rate each for what is added, the 2D network, and canonical fields."""
        o = self._config.optim
        named = list(self.networks["generator"].named_parameters())
        regression = [(n, p) for n, p in named if n.startswith("base.regression.") and self._config.loss.mean]
        flat = [p for n, p in named if n.startswith("base.") and not n.startswith("base.regression.")]
        groups: list[dict[str, Any]] = [
            {"params": [p for n, p in named if not n.startswith("base.")], "lr": o.lr},
            {"params": flat if o.flat else [], "lr": o.lr * o.flat},
            {"params": [p for n, p in regression if not n.endswith(".canonical")], "lr": o.lr},
            {"params": [p for n, p in regression if n.endswith(".canonical")], "lr": o.lr * o.canonical,
             "weight_decay": 0.0},
        ]  # fmt: skip
        return self.adam_w(groups)

    def timing(self, batch: SequenceBatch) -> Timing:
        """When the clips' key times are."""
        each = [Timing.of(_profile(row), float(row[3]), self._config.model.lag_std) for row in batch.clock]
        names = Timing.__dataclass_fields__
        return Timing(*(torch.cat([getattr(t, name) for t in each]) for name in names)).to(batch.onset.device)

    # ------------------------------------------------------------ training

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """One noise level a clip, noise of each key time its own."""
        terms = self.terms(SequenceBatch.of_pairs(batch))
        total = terms["denoising"] + self._config.loss.mean * terms["mean"]
        updater.update("generator", total)
        return {name: value.detach() for name, value in terms.items()} | {"generator": total.detach()}

    def terms(self, batch: SequenceBatch) -> dict[str, torch.Tensor]:
        """The losses, as scalars over the clips that have flow."""
        network: Any = self.networks["generator"]
        process, weights = network.process, self._config.loss
        flows = F.avg_pool2d(batch.flows.flatten(0, 1), 2).view(*batch.flows.shape[:3], self.size // 2, -1) / 2
        seen = F.avg_pool2d(batch.seen.to(flows.dtype), 2)
        seen = (weights.occluded + (1 - weights.occluded) * seen) * batch.has_keys[:, :, None, None]
        known, null = dropped(batch.known, batch.rand("dropped", 1 + batch.known[0].numel()))
        asked = network.condition(batch.onset, batch.aus, known, self.timing(batch), null)
        clean = (network.base.normalised(flows) - asked.mean) / asked.spread
        sigma = process.train_sigma(batch.rand("sigma", 1)[:, 0])
        noise = batch.randn("noise", *clean.shape[1:])
        estimate = network.denoised(clean + sigma.view(-1, 1, 1, 1, 1) * noise, sigma, asked)
        error = losses.mean_of((estimate - clean).square(), seen[:, :, None])
        told = batch.has_flow & (known == batch.known).flatten(1).all(1)
        missed = losses.charbonnier_epe(asked.apex, flows[:, RISING - 1], seen[:, RISING - 1])
        return {
            "denoising": losses.chosen(process.weight(sigma) * error, batch, "keys"),
            "mean": (missed * told).mean(),
        }

    # ------------------------------------------------------------ validation

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Measures [B] of one drawn clip each; end-point errors in pixels over all key times.

        ``epe_profile`` is the profile times the expected apex, ``epe_exact_apex`` the profile times the exact flow of
        the apex' time: what no drawing of the apex alone can do better than.
        """
        clips = SequenceBatch.of_pairs(batch)
        network: Any = averaged["generator"]
        timing = self.timing(clips)
        levels = timing.level[:, :, None, None, None]
        flows = self._sampled(averaged, clips)
        expected = network.base.expected(network.base.regression.encode(clips.onset), clips.aus, clips.known)
        apex = resize_flow(expected, (self.size, self.size))[:, None]
        shown = {
            "epe": flows, "epe_zero": 0 * flows, "epe_profile": levels * apex,
            "epe_exact_apex": levels * clips.flow[:, None],
        }  # fmt: skip
        nan = torch.full_like(clips.onset[:, 0, 0, 0], torch.nan)
        known = clips.has_keys[:, :, None, None] & clips.seen
        some = clips.has_keys.any(1)
        out = {name: torch.where(some, _epe(value, clips.flows, known), nan) for name, value in shown.items()}
        asks = clips.aus.flatten(1).amax(1) > 0
        length = _length(flows)
        other = self._sampled(averaged, clips, roll=7)
        out["au_effect"] = torch.where(asks, _length(flows - other) / (length + _length(other)).clamp(min=1e-9), nan)
        out["motion"] = torch.where(asks, length, nan)
        again = self._sampled(averaged, clips, "sample-other")
        out["diversity"] = torch.where(asks, _length(flows - again), nan)
        out["fold"] = losses.folds(flows.flatten(0, 1)).view(flows.shape[:2]).mean(1)
        return out

    def _sampled(
        self, averaged: Mapping[str, nn.Module], batch: SequenceBatch, purpose: str = "sample", roll: int = 0
    ) -> torch.Tensor:
        """Flows [B,T,2,S,S] pixels without guidance; the AUs may be dealt to other rows of the vocabulary."""
        network: Any = averaged["generator"]
        timing, h, model = self.timing(batch), self.size // 2, self._config.model
        noise = batch.randn(purpose, timing.at.shape[1], 2, h, h)
        sampling = Sampling(steps=model.steps, solver=model.solver, spread=model.spread)
        drawn = network(batch.onset, batch.aus.roll(roll, 1), batch.known.roll(roll, 1), timing, noise, sampling)
        whole = limited(resize_flow(from_means(drawn.flatten(0, 1)), (self.size, self.size)), REACH)
        asks = (batch.aus.flatten(1).amax(1) > 0).view(-1, 1, 1, 1, 1)
        return whole.view(*drawn.shape[:3], self.size, self.size) * asks

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """Two rows a clip, exact flow and drawn flow: onset, then every key time."""
        clips = SequenceBatch.of_pairs(batch)
        with torch.no_grad():
            flows = self._sampled(averaged, clips)
        paired = torch.stack([clips.flows, flows], 1).flatten(0, 1)
        columns = [record.pictures(clips.onset.repeat_interleave(2, 0))]
        columns += [record.flows(paired[:, t]) for t in range(paired.shape[1])]
        return record.sheet(columns, scale=max(1, 128 // self.size))


def _profile(row: np.ndarray) -> Profile:
    return Profile(apex=float(row[0]), hold=float(row[1]), decay="exponential" if row[2] else "cosine")


def _length(flows: torch.Tensor) -> torch.Tensor:
    """Mean length [B] of [B,T,2,S,S]."""
    return losses.mean_of(flows.square().sum(2).sqrt())


def _epe(flows: torch.Tensor, exact: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Mean end-point error [B] of [B,T,2,S,S] over ``seen`` [B,T,S,S]."""
    return losses.mean_of((flows - exact).square().sum(2).sqrt(), seen)
