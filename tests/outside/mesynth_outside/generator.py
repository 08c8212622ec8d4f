"""A generator family of one's own: the mean flow of each action unit, blind to the face.

It is the opponent that a generator which looks at the face has to beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from mesynth.core import facs
from mesynth.core.types import Sample
from mesynth.generators.base import ClipRequest, Generator, save_trained
from mesynth.generators.formation import face_motion, motion_clip
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.flow import flow_picture
from mesynth.store.generator_folder import Family, GeneratorFacts, load_sized_network
from mesynth.training.data.batches import Batch
from mesynth.training.task import Task, Updater

K = len(facs.AU_CODES)


# [network]
@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    lr: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Config:
    optim: OptimConfig = field(default_factory=OptimConfig)


class MeanFlow(ModelMixin, ConfigMixin):
    """AU intensities [B,K,2] -> flow [B,2,S,S] in pixels: a displacement field for each action unit and side."""

    @register_to_config
    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.fields = nn.Parameter(torch.zeros(K, 2, 2, size, size))

    def forward(self, aus: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bks,ksdhw->bdhw", aus, self.fields)


# [end]


# [task]
class MeanFlowTask(Task):
    name: ClassVar[str] = "mean_flow"

    def __init__(self, config: Config, size: int) -> None:
        self.networks = {"generator": MeanFlow(size=size)}
        self.frozen = {}
        self.averaged = ("generator",)
        self._lr = config.optim.lr

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": torch.optim.Adam(self.networks["generator"].parameters(), lr=self._lr)}

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        loss = (self.networks["generator"](batch.aus) - batch.flow).abs().mean()
        updater.update("generator", loss)
        return {"flow": loss.detach()}

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        error = averaged["generator"](batch.aus) - batch.flow
        return {"end-point error (px)": error.norm(dim=1).mean((1, 2))}

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        made = averaged["generator"](batch.aus).detach().cpu().numpy()
        return np.concatenate([flow_picture(flow) for flow in made], 1)

    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: GeneratorFacts) -> None:
        what, limits = "The mean flow of each action unit.", "It is the same for every face."
        save_trained(folder, averaged, facts, title="Mean flow", what=what, limits=limits)


# [end]


# [pipeline]
class MeanFlowGenerator(Generator):
    family = "mean_flow"

    def __init__(self, network: MeanFlow, facts: GeneratorFacts) -> None:
        self.network, self.facts, self.size = network, facts, facts.size

    @torch.inference_mode()
    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        face = request.face
        cells = [(int(k), int(side)) for k, side in np.argwhere(request.aus.intensity > 0)]
        maps = self.network.fields.permute(0, 1, 3, 4, 2).numpy()
        none = np.zeros((self.size, self.size, 2), np.float32)
        fields = np.stack([maps[cell] for cell in cells]) if cells else none[None][:0]
        unchanged = np.zeros((*face.image.shape[:2], 3), np.float32)
        crop = SimilarityCrop.from_landmarks(face.landmarks, self.size)
        motion = face_motion(crop, face.image.shape[:2], cells, fields, none, unchanged)
        return motion_clip(motion, request)


def load(folder: Path, facts: GeneratorFacts) -> MeanFlowGenerator:
    return MeanFlowGenerator(load_sized_network(MeanFlow, folder / "generator", facts), facts)


FAMILY = Family(pipeline=load, task=MeanFlowTask, config=Config)
# [end]
