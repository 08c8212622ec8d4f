"""Generators that are wrong on purpose, each in a way the benchmark has to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from mesynth.benchmark.people import RenderedTruth
from mesynth.core.errors import MesynthError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector, Clip, Flow, Sample
from mesynth.motion.nuisance import Nuisance
from mesynth.motion.prior import Face
from mesynth.store.generator_folder import GeneratorFacts

FACTS = RenderedTruth().facts


class Twisted(RenderedTruth):
    """The truth about other AUs than were asked for."""

    family = "twisted"

    def __init__(self, twist: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self._twist = twist

    def generate(
        self,
        face: Face,
        aus: AUVector,
        profile: Profile,
        *,
        n_frames: int,
        fps: float,
        nuisance: Nuisance = Nuisance(),
        seed: int = 0,
    ) -> tuple[Sample, tuple[str, ...]]:
        twisted = AUVector(np.ascontiguousarray(self._twist(aus.intensity), np.float32))
        sample, _ = super().generate(face, twisted, profile, n_frames=n_frames, fps=fps, nuisance=nuisance, seed=seed)
        return replace(sample, aus=aus), ("twisted",)


class Still:
    """Never moves; refuses what ``refuses`` says. Learned from ``seen``."""

    family, size = "still", 0

    def __init__(self, refuses: Callable[[AUVector], bool] = lambda _: False, seen: tuple[str, ...] = ()) -> None:
        self.facts: GeneratorFacts = replace(FACTS, subjects_seen=seen)
        self._refuses = refuses

    def generate(
        self,
        face: Face,
        aus: AUVector,
        profile: Profile,
        *,
        n_frames: int,
        fps: float,
        nuisance: Nuisance = Nuisance(),
        seed: int = 0,
    ) -> tuple[Sample, tuple[str, ...]]:
        if self._refuses(aus):
            raise MesynthError("not today; ask for something else")
        uv = np.zeros((2, *face.image.shape[:2]), np.float32)
        frames = np.repeat(face.image[None], n_frames, 0)
        return Sample(Clip(frames, fps, profile.apex_index(n_frames)), Flow(uv), aus), ()


class FlowsOnly(Still):
    """No frames; its flow is one pixel to the right, and another for every seed."""

    family = "flow_gan"

    def generate(self, *_: object, **__: object) -> tuple[Sample, tuple[str, ...]]:
        raise MesynthError("flow images only")

    def flows(self, *, seeds: Sequence[int], aus: Sequence[AUVector], size: int) -> Iterator[Flow]:
        for seed in seeds:
            uv = np.zeros((2, size, size), np.float32)
            uv[0], uv[1] = 1, seed % 7
            yield Flow(uv)


class CoarseFeatures:
    """Means of a coarse grid of cells."""

    name, suffix, dim, side = "coarse", "-coarse", 48, 4

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        n, h, w, _ = frames.shape
        cells = frames.reshape(n, 4, h // 4, 4, w // 4, 3).mean((2, 4)) / 64
        return np.asarray(cells.reshape(n, -1), np.float32)


class MeanDifference:
    """Mean absolute difference of grey levels."""

    name = "difference"

    def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
        return [torch.from_numpy(frames.astype(np.float32))]

    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> np.ndarray:
        return np.asarray((a[0] - b[0]).abs().mean((1, 2, 3)).numpy())


class PixelEmbedder:
    """A face is its picture, coarsely."""

    name = "pixels"

    def __call__(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        return CoarseFeatures()(frames).astype(np.float64)
