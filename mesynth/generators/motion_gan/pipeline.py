"""A saved motion GAN as a generator: fields of the network are carried onto the photo, and frames are made there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mesynth.core import seeds
from mesynth.generators.base import ClipRequest, Generator, calibrated
from mesynth.generators.formation import FaceMotion, face_motion, limited_length, motion_clip, onto_face, unfolded
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.motion.layers import skin_aus, with_layered
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.generator_folder import load_sized_network

if TYPE_CHECKING:
    from mesynth.core.types import AUVector, Sample
    from mesynth.motion.prior import Face
    from mesynth.store.generator_folder import GeneratorFacts


class MotionGAN(Generator):
    """A trained :class:`MotionGenerator` as a :class:`mesynth.generators.base.Generator`.

    The network sees the face as training did: the canonical crop of its landmarks, at its own size, whatever the
    picture's. Fields, mask and residual are carried back onto the picture, and frames are made there.
    """

    family = "motion_gan"

    def __init__(self, network: MotionGenerator, facts: GeneratorFacts) -> None:
        self.network, self.facts, self.size = network.eval().requires_grad_(False), facts, facts.size

    def to(self, device: torch.device | str) -> MotionGAN:
        """Run the network there; frames are made on the CPU."""
        self.network.to(device)
        return self

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """One network pass a clip."""
        skin = calibrated(skin_aus(request.aus), self.facts)
        motion = self.motion(request.face, skin, seed=request.seed)
        return motion_clip(motion, replace(request, aus=with_layered(skin, request.aus)))

    @torch.inference_mode()
    def motion(self, face: Face, aus: AUVector, *, seed: int = 0) -> FaceMotion:
        """Fields of the asked AUs, the bent part, and the change of light, on the face's picture."""
        height, width = face.image.shape[:2]
        crop = SimilarityCrop.from_landmarks(face.landmarks, self.size)
        device = self.network.device
        picture = torch.from_numpy(crop.frames(face.image[None])).to(device).permute(0, 3, 1, 2).float() / 255
        asked = torch.from_numpy(aus.intensity)[None].to(device)
        known = torch.from_numpy(aus.mask)[None].to(device)
        n_z = self.network.config["z"]
        z = seeds.stream(seed, "motion-z").standard_normal((1, n_z), np.float32)
        noise = torch.from_numpy(z).to(device) if n_z else None
        points = torch.from_numpy(crop.points(face.landmarks))[None].to(device)
        seen = self.network.encode(picture, noise, points)
        bend, mask, residual = self.network.bent(seen, asked, known, noise)
        cells = [(int(k), int(s)) for k, s in np.argwhere(aus.intensity > 0)]
        weights = np.array([aus.intensity[cell] for cell in cells], np.float32)
        bent = _map(bend[0])
        fields = np.stack([_map(seen.fields[0, k, s]) for k, s in cells]) if cells else bent[None][:0]
        # What keeps the apex short and free of folds follows the AUs as the rest of the bent part does.
        apex = np.einsum("a,ahwc->hwc", weights, fields) + bent
        limit = self.network.config["max_flow"] * bent.shape[0]
        straight = unfolded(limited_length(apex, limit)) - apex + bent
        change = onto_face(((1 - mask) * residual)[0].cpu().numpy(), crop, height, width)
        return face_motion(crop, (height, width), cells, fields, straight, change)


def _map(flow: torch.Tensor) -> np.ndarray:
    """[2,h,w] -> [h,w,2]."""
    return np.ascontiguousarray(flow.permute(1, 2, 0).cpu().numpy())


def load(folder: Path, facts: GeneratorFacts) -> MotionGAN:
    """From a checked folder. Raises PipelineError for another network's files, or of another size."""
    return MotionGAN(load_sized_network(MotionGenerator, folder / "generator", facts), facts)
