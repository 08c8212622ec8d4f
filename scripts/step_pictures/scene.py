"""The clip that the pictures show: a rendered person whose motion, flow and landmarks are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch

from mesynth.core.errors import ConfigError
from mesynth.core.facs import parse_request
from mesynth.core.profiles import Profile
from mesynth.core.seeds import derived, stream
from mesynth.head import HeadFlow, Subject, head_motion
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.config import CROP_SIZE, MIN_SIZE
from mesynth.preprocess.flow import sequence_flows
from mesynth.preprocess.spot import MIN_FRAMES
from mesynth.preprocess.stabilise import Stabilised, stabilise
from mesynth.preprocess.warping import to_video

_PERSON = 108
_SOURCE = 1.75  # side of the rendered picture over that of the crop: all of the face and some background


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What is rendered."""

    size: int = CROP_SIZE
    """Side of the crops, pixels."""
    fps: float = 100.0
    rise: int = 18
    """Frames from onset to apex."""
    fall: int = 22
    """Frames from apex to offset."""
    margin: int = 12
    """Neutral frames before the onset and after the offset; only spotting looks at them."""
    aus: str = "L12=0.2,R12=0.08,1=0.06,2=0.06"
    head_motion: float = 2.0
    """Strength of the head's motion, see :func:`mesynth.head.head_motion`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < MIN_SIZE:
            raise ConfigError(f"size={self.size} is too small for a face crop; choose at least {MIN_SIZE}")
        if min(self.rise, self.fall) < 2 or self.rise + self.fall + 1 < MIN_FRAMES or self.margin < 0:
            raise ConfigError(
                f"rise={self.rise}, fall={self.fall}, margin={self.margin} are no clip; "
                "give at least 2 frames of rise and of fall, and no negative margin"
            )
        if not self.fps > 0:
            raise ConfigError(f"fps={self.fps:g} must be positive")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be negative")


class Scene:
    """One person, one micro-expression. Everything is made when first asked for and kept.

    A clip's frame 0 is the onset and ``apex`` its apex; ``long`` holds the neutral frames about the clip as well.
    """

    def __init__(self, config: SceneConfig = SceneConfig()) -> None:
        self.config = config
        self.size, self.fps, self.apex = config.size, config.fps, config.rise
        self.n_frames = config.rise + config.fall + 1
        self.peak = parse_request(config.aus).intensity

    @cached_property
    def subject(self) -> Subject:
        return Subject(_PERSON, size=round(_SOURCE * self.size))

    @cached_property
    def share(self) -> np.ndarray:
        """[T] share of the apex intensity."""
        return Profile(apex=self.apex / (self.n_frames - 1)).alpha(self.n_frames)

    @cached_property
    def _long_share(self) -> np.ndarray:
        return np.pad(self.share, self.config.margin)

    @cached_property
    def _long_pose(self) -> np.ndarray:
        c = self.config
        return head_motion(len(self._long_share), stream(c.seed, "gallery head"), sd=c.head_motion, fps=c.fps)

    @cached_property
    def pose(self) -> np.ndarray:
        """[T,6] the head's pose."""
        return self._long_pose[self.config.margin :][: self.n_frames]

    def rendered(self, aus: np.ndarray, pose: np.ndarray, *, noise: bool) -> np.ndarray:
        """Frames as a camera gives them: AUs [T,K,2], pose [T,6] -> [T,H,W,3] uint8."""
        key = derived(self.config.seed, "gallery noise") if noise else None
        return self.subject.render(aus, pose, noise_seed=key)

    @cached_property
    def source(self) -> np.ndarray:
        """[T + 2 margin,H,W,3] the frames of the camera."""
        return self.rendered(self._long_share[:, None, None] * self.peak, self._long_pose, noise=True)

    @cached_property
    def source_landmarks(self) -> np.ndarray:
        """[68,2] exact landmarks of the onset, pixels of ``source``."""
        return self.subject.landmarks(pose=self.pose[0])

    @cached_property
    def long_landmarks(self) -> np.ndarray:
        """[68,2] exact landmarks of the first frame of ``long``, pixels of the crop."""
        return self.crop.points(self.subject.landmarks(pose=self._long_pose[0]))

    @cached_property
    def crop(self) -> SimilarityCrop:
        return SimilarityCrop.from_landmarks(self.source_landmarks, self.size)

    @cached_property
    def long(self) -> np.ndarray:
        """[T + 2 margin,S,S,3] the crops of ``source``."""
        return self.crop.frames(self.source)

    @property
    def clip(self) -> np.ndarray:
        """[T,S,S,3] the crops from onset to offset, the head moving."""
        return self.long[self.config.margin :][: self.n_frames]

    @cached_property
    def landmarks(self) -> np.ndarray:
        """[68,2] exact landmarks of the onset, pixels of the crop."""
        return self.crop.points(self.source_landmarks)

    @cached_property
    def stabilised(self) -> Stabilised:
        return stabilise(self.clip, self.landmarks)

    @property
    def still(self) -> np.ndarray:
        """[T,S,S,3] the crops with the head motion taken out."""
        return self.stabilised.frames

    @cached_property
    def long_still(self) -> np.ndarray:
        """[T + 2 margin,S,S,3] ``long`` with the head motion taken out."""
        return stabilise(self.long, self.long_landmarks).frames

    @cached_property
    def flows(self) -> np.ndarray:
        """[T-1,2,S,S] TV-L1 flow from the onset to every later frame of ``clip``."""
        return sequence_flows(self.clip)

    def exact(self, t: int, *, expression: bool = True, head: bool = True) -> HeadFlow:
        """Exact motion from the onset to frame ``t`` of the clip, on the grid and in the pixels of the crop."""
        aus = (self.share[t] if expression else 0) * self.peak
        flow = self.subject.flow(0 * self.peak, aus, self.pose[0], self.pose[t if head else 0])
        m, sides = self.crop.matrix, (self.size, self.size)
        uv = np.einsum("ij,jhw->ihw", m[:, :2], flow.uv)
        moved = [cv2.warpAffine(np.ascontiguousarray(c), m, sides, flags=cv2.INTER_LINEAR) for c in uv]
        masks = [
            cv2.warpAffine(mask.astype(np.float32), m, sides, flags=cv2.INTER_LINEAR) > 0.99
            for mask in (flow.visible, flow.face)
        ]
        return HeadFlow(np.stack(moved).astype(np.float32), *masks)

    def tracks(self, *, head: bool = True) -> np.ndarray:
        """[T,68,2] exact landmarks of every frame, pixels of the crop; without ``head``, of a head that stays."""
        poses = self.pose if head else np.repeat(self.pose[:1], self.n_frames, 0)
        found = [self.subject.landmarks(a * self.peak, p) for a, p in zip(self.share, poses, strict=True)]
        return np.stack([self.crop.points(points) for points in found])

    def posed(self, factor: float = 1.0, *, noise: bool = False) -> np.ndarray:
        """[T,S,S,3] the same expression ``factor`` times as strong while the head does not move at all."""
        aus = np.clip(factor * self.share[:, None, None] * self.peak, 0, 1)
        return self.crop.frames(self.rendered(aus, np.repeat(self.pose[:1], self.n_frames, 0), noise=noise))


def video(frames: np.ndarray) -> torch.Tensor:
    """[T,H,W,3] uint8 -> [1,T,3,H,W] float32 in [0,1]."""
    return to_video(frames)[None]
