"""AU-intensity-controllable motion by diffusion: the apex' displacement field is drawn, frames are made by warping.

Different seeds give different motions for the same AUs. The formation is that of ``motion_gan``: every pixel is the
person's own, and the reported flow is what the frames are made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mesynth.core import facs, seeds
from mesynth.generators.base import ClipRequest, calibrated
from mesynth.generators.diffusion.pipeline import SampledGenerator
from mesynth.generators.formation import FaceMotion, face_motion, limited_length, motion_clip, unfolded
from mesynth.generators.motion_diffusion.network import REACH, MotionDiffuser
from mesynth.motion.layers import skin_aus
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.warping import from_means
from mesynth.store.generator_folder import load_sized_network

if TYPE_CHECKING:
    from mesynth.core.types import AUVector, Sample
    from mesynth.motion.prior import Face
    from mesynth.store.generator_folder import GeneratorFacts


@dataclass(frozen=True, eq=False)
class Request:
    """One clip's apex motion."""

    face: Face
    aus: AUVector
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Of one face, in pixels of the network's grid."""

    apex: np.ndarray
    """[h,h,2], within the network's limit"""
    fields: np.ndarray
    """[K,2,h,h,2]: what the regression knows of each AU and side"""


class MotionDiffusion(SampledGenerator):
    """A trained :class:`MotionDiffuser` as a :class:`mesynth.generators.base.Generator`."""

    family = "motion_diffusion"

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """See the base class."""
        apex = Request(request.face, skin_aus(request.aus), request.seed)
        return motion_clip(self.motions([apex])[0], request)

    @torch.inference_mode()
    def motions(self, requests: Sequence[Request]) -> list[FaceMotion]:
        """Apex motions on the faces' own pictures. What a request gives does not depend on the others.

        On the CPU to the bit, as rows go through the network one by one; on CUDA, where they go together, up to the
        rounding of its kernels (within 1e-3 px).

        Raises:
            AUConflictError: AUs that exclude each other.
        """
        for request in requests:
            facs.reject_conflicts(request.aus)
        crops = [SimilarityCrop.from_landmarks(r.face.landmarks, self.size) for r in requests]
        drawn: dict[int, _Drawn] = {}
        step = 1 if self.network.device.type == "cpu" else max(len(requests), 1)
        for start in range(0, len(requests), step):
            rows = range(start, min(start + step, len(requests)))
            drawn |= dict(zip(rows, self._drawn([requests[i] for i in rows], [crops[i] for i in rows]), strict=True))
        return [self._on_face(request, crops[i], drawn[i]) for i, request in enumerate(requests)]

    def _drawn(self, requests: Sequence[Request], crops: Sequence[SimilarityCrop]) -> list[_Drawn]:
        h, device = self.size // 2, self.network.device
        pictures = [crop.frames(r.face.image[None])[0] for r, crop in zip(requests, crops, strict=True)]
        onset = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
        aus = torch.from_numpy(np.stack([calibrated(r.aus, self.facts).intensity for r in requests])).to(device)
        known = torch.from_numpy(np.stack([r.aus.mask for r in requests])).to(device)
        noise = [seeds.stream(r.seed, "motion-diffusion").standard_normal((2, h, h), np.float32) for r in requests]
        points = torch.from_numpy(np.stack([c.points(r.face.landmarks) for r, c in zip(requests, crops, strict=True)]))
        seen = self.network.regression.encode(onset, landmarks=points.to(device))
        flow = torch.zeros(len(requests), 2, h, h, device=device)
        # Where nothing is asked nothing moves: no sampler would say so to the bit.
        if any(r.aus.intensity.any() for r in requests):
            flow = self.network(onset, aus, known, torch.from_numpy(np.stack(noise)).to(device), self.sampling, seen)
        limit, flow = REACH * h, from_means(flow)
        fields = seen.fields.permute(0, 1, 2, 4, 5, 3).float().cpu().numpy()
        apexes = np.ascontiguousarray(flow.permute(0, 2, 3, 1).float().cpu().numpy())
        return [_Drawn(limited_length(apex, limit), of_face) for apex, of_face in zip(apexes, fields, strict=True)]

    def _on_face(self, request: Request, crop: SimilarityCrop, drawn: _Drawn) -> FaceMotion:
        """The apex as the face's fields, each of which follows its own AU in time, and what is left."""
        height, width = request.face.image.shape[:2]
        cells = [(int(k), int(s)) for k, s in np.argwhere(request.aus.intensity > 0)]
        h = self.size // 2
        fields = np.stack([drawn.fields[k, s] for k, s in cells]) if cells else drawn.apex[None][:0]
        left = np.zeros((h, h, 2), np.float32)
        if cells:
            weights = np.array([request.aus.intensity[cell] for cell in cells], np.float32)
            left = unfolded(drawn.apex) - np.einsum("a,ahwc->hwc", weights, fields)
        return face_motion(crop, (height, width), cells, fields, left, np.zeros((height, width, 3), np.float32))


def load(folder: Path, facts: GeneratorFacts) -> MotionDiffusion:
    """From a checked folder. Raises PipelineError for another network's files, or of another size."""
    return MotionDiffusion(load_sized_network(MotionDiffuser, folder / "generator", facts), facts)
