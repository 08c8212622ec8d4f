"""Training of ``motion_diffusion``: expect a pair's exact flow, given onset and AUs, and take noise off the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.generators.diffusion import dropped, few_levels, sample_conditioned
from mesynth.generators.diffusion_config import Sampling
from mesynth.generators.formation import Motion, form, limited
from mesynth.generators.motion_diffusion.config import ARGUMENTS, Config
from mesynth.generators.motion_diffusion.network import MotionDiffuser
from mesynth.generators.task import DiffusedMotionTask
from mesynth.preprocess.warping import resize_flow
from mesynth.store.generator_folder import GeneratorFacts, load_network, read_facts, saved_folder
from mesynth.training import losses, record
from mesynth.training.data.batches import Batch
from mesynth.training.task import Updater

_WHAT = """An onset face and action-unit intensities, per side, to a micro-expression clip with the flow its frames are
made from. The apex' displacement field is drawn by diffusion, so that seeds differ; every pixel is the person's own,
moved. Intensity 0 gives the picture back bit for bit. `configured(steps=, solver=, guidance=, spread=)` gives
the same generator with another sampler."""
_LIMITS = """It moves what the picture shows and knows the AUs of its training data only. It draws one field a clip,
which the temporal profile scales: the way from onset to apex is not learned. Flow is limited to 8 % of the width: a
jaw cannot drop far. No FACS coder has looked at it; the figures below are all that was measured."""


class MotionDiffusionTask(DiffusedMotionTask):
    """See the module. One network, the generator; pairs without flow teach nothing."""

    name = "motion_diffusion"
    network = MotionDiffuser
    card: ClassVar = {"title": "Motion diffusion", "what": _WHAT, "limits": _LIMITS}
    deaf = "train longer or raise loss.mean"
    _config: Config

    def __init__(self, config: Config, size: int) -> None:
        super().__init__(config, size)
        self._teacher: GeneratorFacts | None = None
        if config.distil.teacher:
            self._teacher, self.frozen["teacher"] = _teacher(config.distil.teacher, self.networks["generator"])

    def begun_by(self, family: str) -> Mapping[str, nn.Module]:
        """Its own family, or a ``motion_gan``, which says what motion is expected."""
        generator: Any = self.networks["generator"]
        return {"generator": generator.regression} if family == "motion_gan" else super().begun_by(family)

    def teachers(self) -> Mapping[str, GeneratorFacts]:
        """Whose samples a student learns."""
        return {} if self._teacher is None else {"distil.teacher": self._teacher}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """One AdamW; canonical fields learn at a rate of their own and do not decay."""
        o = self._config.optim
        named = list(self.networks["generator"].named_parameters())
        if self._teacher is not None or not self._config.loss.mean:  # what is expected is the teacher's, or a start's
            named = [(n, p) for n, p in named if not n.startswith("regression.")]
        own = [p for n, p in named if n == "regression.canonical"]
        groups = [
            {"params": [p for n, p in named if n != "regression.canonical"], "lr": o.lr},
            {"params": own, "lr": o.lr * o.canonical, "weight_decay": 0.0},
        ]
        return self.adam_w(groups)

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """One noise level a pair, drawn by the pair."""
        if self._teacher is not None:
            loss = self.distilled(batch)
            updater.update("generator", loss)
            return {"distilled": loss.detach(), "generator": loss.detach()}
        terms, weights = self.terms(batch), self._config.loss
        total = terms["denoising"] + weights.mean * terms["mean"]
        if "fold" in terms:
            total = total + weights.fold * terms["fold"]
        updater.update("generator", total)
        return {name: value.detach() for name, value in terms.items()} | {"generator": total.detach()}

    def terms(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses, as scalars over the pairs that have flow."""
        weights = self._config.loss
        network: Any = self.networks["generator"]
        process = network.process
        flow = F.avg_pool2d(batch.flow, 2) / 2
        seen = F.avg_pool2d(batch.valid[:, None].to(flow.dtype), 2)
        seen = weights.occluded + (1 - weights.occluded) * seen
        known, null = dropped(batch.known, batch.rand("dropped", 1 + batch.known[0].numel()))
        face = network.regression.encode(batch.onset, landmarks=batch.landmarks)
        asked = network.condition(batch.onset, batch.aus, known, null, face)
        clean = (network.normalised(flow) - asked.mean) / asked.spread
        sigma = process.train_sigma(batch.rand("sigma", 1)[:, 0])
        z = clean + sigma[:, None, None, None] * batch.randn("noise", *clean.shape[1:])
        estimate = network.denoised(z, sigma, asked)
        error = losses.mean_of((estimate - clean).square(), seen)
        # Of AUs that were hidden the regression is to expect nothing, not their mean.
        told = batch.has_flow & (known == batch.known).flatten(1).all(1)
        missed = losses.charbonnier_epe(asked.expected, flow, seen[:, 0])
        out = {
            "denoising": losses.chosen(process.weight(sigma) * error, batch, "flow"),
            "mean": (missed * told).mean(),
        }
        if weights.fold:
            # Under noise the estimate is a mean of many motions and says nothing about folds.
            sure = 1 / (1 + (sigma / process.sigma_data).square())
            made = network.pixels(asked.mean + asked.spread * estimate)
            out["fold"] = losses.chosen(sure * losses.folds(made), batch, "flow")
        return out

    def distilled(self, batch: Batch) -> torch.Tensor:
        """Squared error of each step of the student against what its teacher draws from the same noise; a scalar.

        Over all pairs: only their onsets and AUs are looked at.
        """
        network: Any = self.networks["generator"]
        distil = self._config.distil
        noise = batch.randn("noise", 2, self.size // 2, self.size // 2)
        known, _ = dropped(batch.known, batch.rand("dropped", 1 + batch.known[0].numel()))
        with torch.no_grad():
            teacher: Any = self.frozen["teacher"]
            face = teacher.regression.encode(batch.onset, landmarks=batch.landmarks)
            target = sample_conditioned(
                teacher,
                teacher.condition(batch.onset, batch.aus, known, None, face),
                teacher.condition(batch.onset, batch.aus, known, torch.ones_like(batch.has_flow), face),
                noise,
                Sampling(steps=distil.steps, guidance=distil.guidance),
            )
        own = network.regression.encode(batch.onset, landmarks=batch.landmarks)
        asked = network.condition(batch.onset, batch.aus, known, None, own)
        out, errors = torch.zeros_like(noise), []
        for level in few_levels(network.sampling, network.process):
            sigma = noise.new_full((len(noise),), level)
            # As the "few" solver does; a step learns to mend what the one before it left.
            out = network.denoised(out.detach() + level * noise, sigma, asked)
            errors.append(losses.mean_of((out - target).square()))
        return torch.stack(errors).mean()

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Measures [B] of one sample a pair; NaN where a pair has nothing to measure. See :meth:`check`."""
        flow = self._sampled(averaged, batch)
        network: Any = averaged["generator"]
        expected = network.expected(
            network.regression.encode(batch.onset, landmarks=batch.landmarks), batch.aus, batch.known
        )
        expected = limited(resize_flow(expected, (self.size, self.size)), self._config.model.max_flow)
        out = losses.flow_measures(flow, batch.flow, batch.valid, batch.has_flow, epe_expected=expected)
        length = _length(flow)
        asks = batch.aus.flatten(1).amax(1) > 0
        other = self._sampled(averaged, batch, roll=7)
        changed = _length(flow - other) / (length + _length(other)).clamp(min=1e-9)
        out["au_effect"] = torch.where(asks, changed, torch.nan)
        out["motion"] = torch.where(asks, length, torch.nan)
        again = self._sampled(averaged, batch, "sample-other")
        out["diversity"] = torch.where(asks, _length(flow - again), torch.nan)
        # Energy score (Gneiting and Raftery, 2007) of two samples: lowest where they spread as the truth does.
        both = losses.flow_measures(again, batch.flow, batch.valid, batch.has_flow)["epe"] + out["epe"]
        out["energy_score"] = (both - losses.mean_of((flow - again).square().sum(1).sqrt(), batch.valid)) / 2
        out["fold"] = losses.folds(flow)
        paired = batch.has_flow | batch.known.flatten(1).any(1)
        return out | losses.frame_measures(_made(batch.onset, flow), batch.onset, batch.frame, paired)

    def _sampled(
        self, averaged: Mapping[str, nn.Module], batch: Batch, purpose: str = "sample", roll: int = 0
    ) -> torch.Tensor:
        """Flow [B,2,S,S] pixels without guidance; the AUs may be dealt to other rows of the vocabulary."""
        network: Any = averaged["generator"]
        noise = batch.randn(purpose, 2, self.size // 2, self.size // 2)
        model = self._config.model
        sampling = Sampling(steps=model.steps, solver=model.solver, spread=model.spread)
        face = network.regression.encode(batch.onset, landmarks=batch.landmarks)
        flow: torch.Tensor = network.flow(
            batch.onset, batch.aus.roll(roll, 1), batch.known.roll(roll, 1), noise, sampling, face
        )
        # Nothing is drawn where nothing is asked: the generator gives the onset back.
        return flow * (batch.aus.flatten(1).amax(1) > 0).view(-1, 1, 1, 1)

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """Columns: onset, asked frame, made frame, change of each, exact flow, two drawn flows."""
        with torch.no_grad():
            flow = self._sampled(averaged, batch)
            other = self._sampled(averaged, batch, "sample-other")
        made = _made(batch.onset, flow)
        return record.motion_sheet(batch.onset, batch.frame, made, batch.flow, flow, other)


def _teacher(name: str, student: nn.Module) -> tuple[GeneratorFacts, nn.Module]:
    """The teacher's facts and network; the student gets its weights.

    Raises:
        PipelineError: no saved generator, or a damaged one.
        ConfigError: another family, or another architecture.
    """
    folder = saved_folder(name)
    facts = read_facts(folder)
    if facts.name != MotionDiffusionTask.name:
        raise ConfigError(f"distil.teacher={name} holds a {facts.name}; give a {MotionDiffusionTask.name}")
    network = load_network(MotionDiffuser, folder / "generator")
    own: Any = student
    alike = ("widths", "attention", "layers", "dim", "mean_width", "face", "process", "scale", "sigma_share",
             "sigma_min", "sigma_data")  # fmt: skip
    for key, argument in {"size": "size", **{key: ARGUMENTS.get(key, key) for key in alike}}.items():
        here, there = (list(v) if isinstance(v, tuple) else v for v in (own.config[argument], network.config[argument]))
        if here != there:
            raise ConfigError(f"distil.teacher={name} has model.{key}={there}, the recipe {here}; make them equal")
    student.load_state_dict(network.state_dict())
    return facts, network


def _length(flow: torch.Tensor) -> torch.Tensor:
    """Mean length [B] of [B,2,S,S]."""
    return losses.mean_of(flow.square().sum(1).sqrt())


def _made(onset: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    return form(onset, Motion(flow, torch.ones_like(onset[:, :1]), torch.zeros_like(onset)))
