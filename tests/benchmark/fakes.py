"""Generators that are wrong on purpose, each in a way the benchmark has to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from mesynth.benchmark.protocol import RenderedTruth
from mesynth.core.errors import MesynthError
from mesynth.core.types import AUVector, Clip, Flow, Sample
from mesynth.generators.base import ClipRequest, Generator
from mesynth.store.generator_folder import GeneratorFacts

FACTS = RenderedTruth().facts


class Twisted(RenderedTruth):
    """The truth about other AUs than were asked for."""

    family = "twisted"

    def __init__(self, twist: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self._twist = twist

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        twisted = AUVector(np.ascontiguousarray(self._twist(request.aus.intensity), np.float32))
        return super().clip_of(replace(request, aus=twisted))[0], ("twisted",)


class Still(Generator):
    """Never moves; refuses what ``refuses`` says. Learned from ``seen``."""

    family, size = "still", 0

    def __init__(self, refuses: Callable[[AUVector], bool] = lambda _: False, seen: tuple[str, ...] = ()) -> None:
        self.facts: GeneratorFacts = replace(FACTS, subjects_seen=seen)
        self._refuses = refuses

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        if self._refuses(request.aus):
            raise MesynthError("not today; ask for something else")
        uv = np.zeros((2, *request.face.image.shape[:2]), np.float32)
        frames = np.repeat(request.face.image[None], request.n_frames, 0)
        apex = request.profile.apex_index(request.n_frames)
        return Sample(Clip(frames, request.fps, apex), Flow(uv), request.aus), ()


class FlowsOnly(Still):
    """No frames; its flow is one pixel to the right, and another for every seed."""

    family = "flow_gan"

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
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
