"""Whole clips by diffusion: flow at key times from onset to offset is drawn together, frames are made by warping.

Beside ``motion_diffusion``, which draws the apex and lets the profile scale it, action units may start and peak at
moments of their own. The formation is that of ``motion_gan``: every pixel is the person's own, and the reported flow
is what the frames are made from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mesynth.core import facs, seeds
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.generators.base import ClipRequest, calibrated
from mesynth.generators.diffusion.pipeline import SampledGenerator
from mesynth.generators.flow_volume.network import VolumeDiffuser
from mesynth.generators.formation import FaceMotion, face_motion, limited_length, motion_clip, unfolded
from mesynth.generators.motion_diffusion.network import REACH
from mesynth.motion.key_times import KEYS, Timing, key_weights, on_frames
from mesynth.motion.layers import skin_aus
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.warping import from_means
from mesynth.store.generator_folder import load_sized_network

if TYPE_CHECKING:
    from mesynth.core.types import Sample
    from mesynth.motion.prior import Face
    from mesynth.store.generator_folder import GeneratorFacts


_PARTS = KEYS + 1
"""Fields that a clip's flow is made of: what differs at each key time, and the expected apex."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A clip's flow on the face's picture: ``level(t)`` times the expected apex, and what differs at the key times."""

    profile: Profile
    """With the apex where the clip's frames have it."""
    fields: np.ndarray
    """[KEYS+1,H,W,2] float32 pixels: what differs at each key time, then the expected apex"""
    weights: np.ndarray
    """[n_frames,KEYS+1] float32: what each frame takes of them"""

    def flows(self) -> np.ndarray:
        """Flow onset -> every frame without nuisances, [n_frames,H,W,2] float32 pixels."""
        return np.asarray(np.einsum("tk,khwc->thwc", self.weights, self.fields), np.float32)


class FlowVolume(SampledGenerator):
    """A trained :class:`VolumeDiffuser` as a :class:`mesynth.generators.base.Generator`."""

    family = "flow_volume"

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """The profile's lag is left out: timing is drawn."""
        volume = self.volume(replace(request, aus=skin_aus(request.aus)))
        height, width = request.face.image.shape[:2]
        still = np.zeros((height, width, 2), np.float32)
        unlit = np.zeros((height, width, 3), np.float32)
        motion = FaceMotion([(k, 0) for k in range(_PARTS)], volume.fields, still, unlit)
        return motion_clip(motion, replace(request, profile=replace(volume.profile, lag=0)), volume.weights)

    def volume(self, request: ClipRequest) -> Volume:
        """The flow of a clip.

        Raises:
            AUConflictError: AUs that exclude each other.
        """
        face, profile, n_frames = request.face, request.profile, request.n_frames
        facs.reject_conflicts(request.aus)
        level = profile.alpha(n_frames)
        placed, apex = on_frames(profile, n_frames), profile.apex_index(n_frames)
        timing = Timing.of(placed, (n_frames - 1) / request.fps, self.network.config["wander"])
        at = timing.at[0].double().numpy()
        keys, expected = self._drawn(face, request.aus, timing, request.seed)
        limit = REACH * expected.shape[0]
        expected = unfolded(limited_length(expected, limit))
        keys = np.stack([unfolded(limited_length(key, limit)) for key in keys])
        parts = keys - timing.level[0].numpy()[:, None, None, None] * expected
        crop = SimilarityCrop.from_landmarks(face.landmarks, self.size)
        cells = [(k, 0) for k in range(_PARTS)]
        nothing = np.zeros_like(expected)
        made = face_motion(
            crop, face.image.shape[:2], cells, np.concatenate([parts, expected[None]]), nothing,
            np.zeros((*face.image.shape[:2], 3), np.float32),
        )  # fmt: skip
        weights = np.concatenate([key_weights(at, n_frames, apex), level[:, None]], 1)
        return Volume(placed, made.fields, weights)

    @torch.inference_mode()
    def _drawn(self, face: Face, aus: AUVector, timing: Timing, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """In pixels of the network's grid: flow at the key times [KEYS,h,h,2], expected apex [h,h,2]."""
        h, device = self.size // 2, self.network.device
        crop = SimilarityCrop.from_landmarks(face.landmarks, self.size)
        picture = torch.from_numpy(crop.frames(face.image[None])).to(device).permute(0, 3, 1, 2).float() / 255
        asked = torch.from_numpy(calibrated(aus, self.facts).intensity)[None].to(device)
        known = torch.from_numpy(aus.mask)[None].to(device)
        noise = seeds.stream(seed, "flow-volume").standard_normal((1, KEYS, 2, h, h), np.float32)
        seen = self.network.base.regression.encode(picture)
        expected = torch.zeros(1, 2, h, h, device=device)
        keys = torch.zeros(1, KEYS, 2, h, h, device=device)
        # Where nothing is asked nothing moves: no sampler would say so to the bit.
        if aus.intensity.any():
            expected = self.network.base.expected(seen, asked, known)
            drawn = torch.from_numpy(noise).to(device)
            keys = self.network(picture, asked, known, timing.to(device), drawn, self.sampling, seen)
            keys = from_means(keys.flatten(0, 1)).view_as(keys)
        drawn_, expected_ = (x.movedim(-3, -1).float().cpu().numpy() for x in (keys[0], expected[0]))
        return np.ascontiguousarray(drawn_), np.ascontiguousarray(expected_)


def load(folder: Path, facts: GeneratorFacts) -> FlowVolume:
    """From a checked folder. Raises PipelineError for another network's files, or of another size."""
    return FlowVolume(load_sized_network(VolumeDiffuser, folder / "generator", facts), facts)
