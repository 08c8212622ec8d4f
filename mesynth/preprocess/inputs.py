"""Further inputs of recognizers, stored beside a clip's flow: pictures of motion, tracks, parts of the face.

| name | array | what |
|---|---|---|
| difference | int16 [H,W,3] | apex minus onset |
| dynamic | float16 [H,W,3] | dynamic image of the frames from onset to apex, in grey levels of [0,1] |
| active | float16 [H,W,3] | active image of the whole clip, in grey levels of [0,1] |
| flows | float16 [T-1,2,H,W] | flow from the onset to every later frame, pixels |
| landmarks | float32 [T,68,2] | the onset's landmarks carried along by those flows, pixels |
| eyes | uint8 [2,T,S,S,3] | the subject's left and right eye with its brow, S half the crop |
| mouth | uint8 [T,S,S,3] | the mouth |
| patches | uint8 [51,T,16,16,3] | squares about the landmarks 17..67 at the onset |

Strain, magnitude and orientation are functions of the flow (:mod:`mesynth.preprocess.flow_parts`), regions and masks
functions of the landmarks (:mod:`mesynth.preprocess.regions`): they are computed where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mesynth.preprocess.arrays import to_video
from mesynth.preprocess.config import INPUTS, PrepareConfig
from mesynth.preprocess.flow import sequence_flows
from mesynth.preprocess.landmark_sequence import follow
from mesynth.preprocess.regions import eye_crop, landmark_patches, mouth_crop
from mesynth.preprocess.summary_images import active_image, dynamic_image

PATCH = 16


@dataclass(eq=False)
class _Clip:
    """What the inputs are made from; what two of them need is computed once."""

    frames: np.ndarray
    landmarks: np.ndarray
    apex: int
    method: str
    device: str

    @property
    def part(self) -> int:
        """Side of an eye or mouth crop."""
        return self.frames.shape[1] // 2

    @cached_property
    def video(self) -> torch.Tensor:
        return to_video(self.frames, self.device)[None]

    @cached_property
    def flows(self) -> np.ndarray:
        return sequence_flows(self.frames, self.method, self.device)

    def difference(self) -> np.ndarray:
        return self.frames[self.apex].astype(np.int16) - self.frames[0]

    def dynamic(self) -> np.ndarray:
        return _picture(dynamic_image(self.video[:, : max(self.apex, 1) + 1]))

    def tracks(self) -> np.ndarray:
        points, flows = torch.from_numpy(self.landmarks)[None], torch.from_numpy(self.flows)[None]
        return np.asarray(follow(points, flows)[0].numpy())

    def active(self) -> np.ndarray:
        return _picture(active_image(self.video))


def _picture(image: torch.Tensor) -> np.ndarray:
    return np.asarray(image[0].permute(1, 2, 0).cpu().numpy().astype(np.float16))


_MAKERS: dict[str, Callable[[_Clip], np.ndarray]] = {
    "difference": _Clip.difference,
    "dynamic": _Clip.dynamic,
    "active": _Clip.active,
    "flows": lambda clip: clip.flows.astype(np.float16),
    "landmarks": _Clip.tracks,
    "eyes": lambda clip: eye_crop(clip.frames, clip.landmarks, clip.part),
    "mouth": lambda clip: mouth_crop(clip.frames, clip.landmarks, clip.part),
    "patches": lambda clip: landmark_patches(clip.frames, clip.landmarks, PATCH),
}
assert set(_MAKERS) == set(INPUTS)


def make_inputs(
    config: PrepareConfig, frames: np.ndarray, landmarks: np.ndarray, apex: int, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """The arrays that ``config.inputs`` names, from crops [T,H,W,3] uint8 and the onset's landmarks [68,2]."""
    clip = _Clip(frames, landmarks, apex, config.method, device)
    return {f"input_{name}": np.ascontiguousarray(_MAKERS[name](clip)) for name in config.inputs}
