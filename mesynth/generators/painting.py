"""The motion prior's flow for any AUs on the mean face of an aligned crop: where an AU moves skin, and which way.

Painters see it and the picture's change under it, and draw a change of the picture (docs/decisions/014).

Clips from generators that paint pictures: AU intensity follows the profile, the change is put onto the face.

A network knows only its own crop and size. What it changes is computed there and carried back to the face's picture
by the crop's transform: every pixel keeps the photo's own detail, and no change gives the photo back bit for bit.

Change chosen face regions alone: names of regions, their masks on a picture, and clips confined to them.

The regions are those of :mod:`mesynth.preprocess.regions`. Everything outside them stays what the onset shows, to
the bit; a generator may use the same mask while it draws, so that what it draws fits its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from mesynth.core import facs, seeds
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, MIDLINE
from mesynth.core.process import part
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector, Clip, Sample
from mesynth.generators.base import ClipRequest, Generator
from mesynth.generators.motion_gan.network import canonical_fields, crop_frame, read_canonical
from mesynth.head.model import SIDE_SOFTNESS
from mesynth.motion.nuisance import Nuisance, blink_curve, recorded
from mesynth.preprocess.align import IOD_SHARE, SimilarityCrop
from mesynth.preprocess.flow import estimate_flow
from mesynth.preprocess.regions import REGION_AUS, polygon_mask, region_polygons
from mesynth.preprocess.warping import warp
from mesynth.store.generator_folder import GeneratorFacts

_SIDE = 48
CHANGE_GAIN = 10.0
"""A painter sees the picture's change times this: micro-expressions change little."""
_EDGE = 1 / 510
"""Half a grey level: black and white have no logit."""


class PriorFlow(nn.Module):
    """AUs [B,K,2], also negative (a change), -> flow [B,2,S,S] in pixels of an S x S crop. Nothing to learn."""

    fields: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        uv = crop_frame(size, torch.zeros(1, device="cpu"))  # numbers, also where a network is only being counted
        left = torch.sigmoid(uv[:, :1] / SIDE_SOFTNESS)
        share = torch.cat([left, 1 - left], 1)
        midline = torch.tensor([code in MIDLINE for code in AU_CODES], device="cpu").view(-1, 1, 1, 1, 1)
        whole = read_canonical(canonical_fields(_SIDE), uv) * (IOD_SHARE * size)
        fields = whole.view(len(AU_CODES), 1, 2, size, size) * torch.where(midline, 0.5, share[0, None, :, None])
        self.register_buffer("fields", fields.contiguous(), persistent=False)

    def forward(self, aus: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.einsum("bks,kschw->bchw", aus.to(self.fields.dtype), self.fields)


def moved_change(prior: PriorFlow, picture: torch.Tensor, aus: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The prior's flow [B,2,S,S] and what it changes, to first order, in pictures [B,3,S,S] in [0,1], times 10."""
    flow = prior(aus)
    return flow, CHANGE_GAIN * (warp(picture, -flow) - picture)


def logit(picture: torch.Tensor) -> torch.Tensor:
    """Of pictures in [0,1]; black and white are moved by half a grey level."""
    return picture.clamp(_EDGE, 1 - _EDGE).logit()


# ------------------------------------------------------------------- image sequence


FLOW_METHOD = "tvl1"
_BLOCK = 16  # frames painted at once: memory does not grow with the clip

Paint = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(onset [1,3,S,S] in [0,1], AU intensities [T,K,2], share of the apex [T]) -> change of the picture [T,3,S,S]."""


def intensities(
    aus: AUVector, profile: Profile, n_frames: int, fps: float, blink: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUs of every frame [T,K,2] float32, onset -> apex -> offset, and the profile without lags [T].

    A partial blink, where one is drawn, is AU 45; the onset has none.
    """
    lags = profile.draw_lags(len(facs.AU_CODES), seeds.stream(seed, "lags"))
    out = profile.alpha(n_frames, lags)[:, :, None] * aus.intensity
    closure = blink_curve(n_frames, fps, blink, seeds.stream(seed, "blink"))
    row = facs.AU_INDEX[45]
    out[:, row] = np.maximum(out[:, row], closure[:, None])
    return np.clip(out, 0, 1).astype(np.float32), profile.alpha(n_frames)


@part("warp")
def painted_clip(
    family: str,
    size: int,
    paint: Paint,
    request: ClipRequest,
    *,
    device: torch.device,
    base: np.ndarray | None = None,
) -> tuple[Sample, tuple[str, ...]]:
    """The clip at its face's size; the request's AUs do not exclude each other.

    Flow is estimated from its frames (TV-L1), and a warning says so. The face is cut out by its landmarks as
    preprocessing does (mesynth.preprocess.align), at ``size`` pixels. Changes are put onto the face's picture, or onto
    the frames ``base`` [T,H,W,3] uint8 of a clip of the same request.

    Raises:
        MesynthError: head motion and style, which a picture generator cannot draw.
    """
    face, nuisance, n_frames, seed = request.face, request.nuisance, request.n_frames, request.seed
    for name, value in (("head-motion", nuisance.head), ("style", nuisance.style)):
        if value:
            raise MesynthError(f"{family} paints pictures and cannot draw {name}={value:g}; set {name} to 0")
    crop = SimilarityCrop.from_landmarks(face.landmarks, size)
    onset = torch.from_numpy(crop.frames(face.image[None])).permute(0, 3, 1, 2).to(device).float() / 255
    asked, alpha = intensities(request.aus, request.profile, n_frames, request.fps, nuisance.blink, seed)
    noise = seeds.stream(seed, "noise")
    frames = np.empty((n_frames, *face.image.shape), np.uint8)
    frames[0] = face.image
    for start in range(1, n_frames, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n_frames))
        with torch.inference_mode(), part("model"):
            now = (torch.from_numpy(x[rows]).to(device) for x in (asked, alpha))
            change = paint(onset, *now).float().permute(0, 2, 3, 1).cpu().numpy()
        for t, moved in enumerate(carried_back(change, crop, face.image.shape[:2]), start):
            under = face.image if base is None else base[t]
            recorded(under + 255 * moved, nuisance.noise, noise, frames[t])
    apex = request.profile.apex_index(n_frames)
    flow = estimate_flow(frames[0], frames[apex], FLOW_METHOD)
    return Sample(Clip(frames, request.fps, apex), flow, request.aus), (f"flow estimated by {FLOW_METHOD}",)


class PaintingGenerator(Generator):
    """A saved network that paints every frame of a clip; see :func:`painted_clip` for sizes and errors."""

    def __init__(self, network: Any, facts: GeneratorFacts) -> None:
        self.network, self.facts = network, facts
        self.size: int = network.config["size"]

    def painted(self, paint: Paint, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """:func:`painted_clip` by this family's network."""
        return painted_clip(self.family, self.size, paint, request, device=self.network.device)


def carried_back(change: np.ndarray, crop: SimilarityCrop, shape: tuple[int, ...]) -> np.ndarray:
    """Changes in the crop [T,S,S,3] float32 -> in the face's picture [T,H,W,3]; 0 outside the crop."""
    out = np.zeros((len(change), *shape, 3), np.float32)
    inverse = cv2.invertAffineTransform(crop.matrix)
    for source, target in zip(change, out, strict=True):
        target[:] = cv2.warpAffine(
            np.ascontiguousarray(source), inverse, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
    return out


# ------------------------------------------------------------------- keep regions


def _both(name: str) -> tuple[str, str]:
    return f"left_{name}", f"right_{name}"


GROUPS: dict[str, tuple[str, ...]] = {
    "brows": (*_both("brow"), "glabella"),
    "eyes": _both("eye"),
    "temples": _both("temple"),
    "cheeks": _both("cheek"),
    "nasolabials": _both("nasolabial"),
    "lip_corners": _both("lip_corner"),
    "upper_face": (*_both("brow"), *_both("eye"), *_both("temple"), "glabella", "forehead"),
    "lower_face": ("mouth", "chin", "upper_lip", "nose", *_both("cheek"), *_both("nasolabial"), *_both("lip_corner")),
}
"""Names that stand for several regions."""


def named_regions(text: str) -> tuple[str, ...]:
    """``"mouth+brows"`` -> names of :data:`mesynth.preprocess.regions.REGION_AUS`, each once.

    Raises:
        MesynthError: nothing, or a name that is unknown.

    >>> named_regions("mouth+brows")
    ('mouth', 'left_brow', 'right_brow', 'glabella')
    """
    out: dict[str, None] = {}
    for name in (word.strip() for word in text.split("+")):
        if name not in GROUPS and name not in REGION_AUS:
            known = ", ".join([*sorted(GROUPS), *sorted(REGION_AUS)])
            raise MesynthError(f"face region '{name}' is unknown; join with '+' what you want of {known}")
        out |= dict.fromkeys(GROUPS.get(name, (name,)))
    return tuple(out)


def region_mask(landmarks: np.ndarray, shape: tuple[int, int], names: Sequence[str]) -> np.ndarray:
    """Where the named regions lie in a picture of ``shape`` (height, width): landmarks [68,2] pixels -> [H,W] bool.

    Raises:
        MesynthError: the landmarks show no face, or no pixel of the regions lies in the picture.
    """
    polygons = region_polygons(landmarks)
    side = max(shape)
    mask = np.any([polygon_mask(polygons[name], side) for name in names], axis=0)[: shape[0], : shape[1]]
    if not mask.any():
        raise MesynthError(f"no pixel of {'+'.join(names)} lies in the picture; choose other regions or a larger face")
    return np.ascontiguousarray(mask)


def cell_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """[S,S] bool -> [side,side] bool: cells of a coarser grid that hold at least one pixel of the mask."""
    cell = len(mask) // side
    return np.asarray(mask.reshape(side, cell, side, cell).any((1, 3)))


def confined(
    sample: Sample, image: np.ndarray, mask: np.ndarray, *, nuisance: Nuisance, seed: int, flow_method: str
) -> Sample:
    """The clip with every pixel outside ``mask`` [H,W] as in ``image`` [H,W,3] uint8, and flow estimated anew.

    ``sample`` must come without sensor noise: that of ``nuisance`` is a camera's, so it is added last and everywhere.
    Without it, pixels outside the mask are those of ``image`` to the bit in every frame.
    """
    frames, noise = np.where(mask[..., None], sample.clip.frames, image), seeds.stream(seed, "noise")
    if nuisance.noise:
        for frame in frames[1:]:
            recorded(frame.astype(np.float32), nuisance.noise, noise, frame)
    flow = estimate_flow(frames[0], frames[sample.clip.apex], flow_method)
    return replace(sample, clip=replace(sample.clip, frames=frames), flow=flow)
