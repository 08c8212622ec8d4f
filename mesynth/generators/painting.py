"""The motion prior's flow for any AUs on the mean face of an aligned crop: where an AU moves skin, and which way.

Painters see it and the picture's change under it, and draw a change of the picture (docs/decisions/014).

Clips from generators that paint pictures: AU intensity follows the profile, the change is put onto the face.

A network knows only its own crop and size. What it changes is computed there and carried back to the face's picture
by the crop's transform: every pixel keeps the photo's own detail, and no change gives the photo back bit for bit.

Change chosen face regions alone: names of regions, their masks on a picture, and clips confined to them.

The regions are those of :mod:`mesynth.preprocess.regions`. Everything outside them stays what the onset shows, to
the bit; a generator may use the same mask while it draws, so that what it draws fits its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, repeat
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import nn

from mesynth.core import facs, seeds
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, MIDLINE
from mesynth.core.process import part
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector, Clip, Flow, Sample
from mesynth.generators.base import ClipRequest, Generator
from mesynth.generators.motion_gan.network import canonical_fields, crop_frame, read_canonical
from mesynth.head.model import SIDE_SOFTNESS
from mesynth.motion.nuisance import Nuisance, blink_curve, recorded
from mesynth.preprocess.align import IOD_SHARE, SimilarityCrop
from mesynth.preprocess.flow import estimate_flow
from mesynth.preprocess.regions import REGION_AUS, polygon_mask, region_polygons
from mesynth.preprocess.warping import warp
from mesynth.store.generator_folder import GeneratorFacts

if TYPE_CHECKING:
    from mesynth.motion.prior import Face

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
_BLOCK, _WIDE = 16, 128
"""Frames painted at once on the CPU, all of one clip, and elsewhere, of as many clips as there are: memory does not
grow with clips."""

Paint = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[tuple[int, int]]], torch.Tensor]
"""(onsets [N,3,S,S] in [0,1], AU intensities [N,K,2], share of the apex [N], of each row which request and which of its
frames) -> change of the picture [N,3,S,S]."""


@dataclass(frozen=True, eq=False)
class Base:
    """What a clip is painted on."""

    frames: np.ndarray | None = None
    """[T,H,W,3] uint8 of a clip of the same request; None: the face's picture"""
    warnings: tuple[str, ...] = ()
    flow: Flow | None = None
    """Of those frames, where it stays that of the painted ones: painting then adds what is no motion"""
    share: np.ndarray | None = None
    """[H,W] in [0,1]: how much of what is painted is put there, None: all; nothing changes where it is 0"""


def paintable(face: Face) -> np.ndarray:
    """[H,W] float32 in [0,1]: where a face may be painted on: 0 where it stands still (mesynth.motion.layers), 1 a
    fifteenth of the eye distance further in."""
    return np.minimum(4 * face.layers.gate, np.float32(1))


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


class _Canvas:
    """One clip while it is painted, in the order of its frames."""

    def __init__(self, request: ClipRequest, crop: SimilarityCrop, base: Base, frames_on: str | None) -> None:
        self.request, self._crop, self._frames_on = request, crop, frames_on
        self._base = base
        self.frames = np.empty((request.n_frames, *request.face.image.shape), np.uint8)
        self.frames[0] = request.face.image
        self._filled = 1
        self._noise = seeds.stream(request.seed, "noise")

    @property
    def whole(self) -> bool:
        return self._filled == len(self.frames)

    @part("warp")
    def put(self, change: torch.Tensor) -> None:
        """The next frames: change of the crop [N,3,S,S]."""
        image, sd = self.request.face.image, self.request.nuisance.noise
        now = slice(self._filled, self._filled + len(change))
        self._filled = now.stop
        if self._frames_on is not None:
            from mesynth.motion.batched import carried_back as carried
            from mesynth.motion.batched import quantised

            below = image if self._base.frames is None else self._base.frames[now]
            under = torch.from_numpy(below).to(change.device).float()
            drawn = 255 * carried(change.float(), self._crop.matrix, image.shape[:2])
            if self._base.share is not None:
                drawn = drawn * torch.from_numpy(self._base.share[..., None]).to(drawn.device)
            moved = under + drawn
            self.frames[now] = quantised(moved, sd, self._noise)
            return
        moved_ = change.float().permute(0, 2, 3, 1).cpu().numpy()
        for t, moved_now in enumerate(carried_back(moved_, self._crop, image.shape[:2]), now.start):
            below = image if self._base.frames is None else self._base.frames[t]
            drawn_now = moved_now if self._base.share is None else moved_now * self._base.share[..., None]
            recorded(below + 255 * drawn_now, sd, self._noise, self.frames[t])

    @part("warp")
    def clip(self) -> tuple[Sample, tuple[str, ...]]:
        apex = self.request.profile.apex_index(self.request.n_frames)
        flow, warnings = self._base.flow, self._base.warnings
        if flow is None:
            flow = estimate_flow(self.frames[0], self.frames[apex], FLOW_METHOD, self._frames_on or "cpu")
            warnings = (*warnings, f"flow estimated by {FLOW_METHOD}")
        return Sample(Clip(self.frames, self.request.fps, apex), flow, self.request.aus), warnings


def painted_clips(
    generator: Generator,
    paint: Paint,
    requests: Sequence[ClipRequest],
    *,
    bases: Iterable[Base] | None = None,
) -> Iterator[tuple[Sample, tuple[str, ...]]]:
    """The clips at their faces' sizes; the AUs of a request do not exclude each other.

    Flow is estimated from the frames (TV-L1), and a warning says so, unless their base has one. The face is cut
    out by its landmarks as preprocessing does (mesynth.preprocess.align), at the size of the ``generator``'s network.
    Changes are put onto the face's picture, or onto the frames of ``bases``, one a request. Frames go through the
    network :data:`_BLOCK` at a time and clip by clip on the CPU; elsewhere, or where the generator has
    ``rows_at_once``, frames of many clips go together.

    Raises:
        MesynthError: head motion and style, which a picture generator cannot draw.
    """
    for request in requests:
        for name, value in (("head-motion", request.nuisance.head), ("style", request.nuisance.style)):
            if value:
                raise MesynthError(
                    f"{generator.family} paints pictures and cannot draw {name}={value:g}; set {name} to 0"
                )
    device = generator.network.device  # type: ignore[attr-defined]
    crops = [SimilarityCrop.from_landmarks(r.face.landmarks, generator.size) for r in requests]
    pictures = [crop.frames(r.face.image[None])[0] for r, crop in zip(requests, crops, strict=True)]
    onsets = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(device).float() / 255
    told = [intensities(r.aus, r.profile, r.n_frames, r.fps, r.nuisance.blink, r.seed) for r in requests]
    frames = [[(i, t) for t in range(1, r.n_frames)] for i, r in enumerate(requests)]
    at_once = generator.rows_at_once or (None if device.type == "cpu" else _WIDE)
    if at_once is None:
        chunks = [own[start : start + _BLOCK] for own in frames for start in range(0, len(own), _BLOCK)]
    else:
        every = [pair for own in frames for pair in own]
        chunks = [every[start : start + at_once] for start in range(0, len(every), at_once)]
    under = iter(bases) if bases is not None else repeat(Base())
    canvas = _Canvas(requests[0], crops[0], next(under), generator.frames_on)
    place = 0
    for chunk in chunks:
        which = [i for i, _ in chunk]
        with torch.inference_mode(), part("model"):
            asked, share = (torch.from_numpy(np.stack([told[i][k][t] for i, t in chunk])).to(device) for k in (0, 1))
            # Of one clip, which is all on the CPU, the picture is not copied.
            shown = onsets[which] if len(set(which)) > 1 else onsets[which[0]][None].expand(len(which), -1, -1, -1)
            with generator.autocast():
                change = paint(shown, asked, share, chunk)
        for i, rows in groupby(enumerate(which), lambda row: row[1]):
            if i != place:
                place, canvas = i, _Canvas(requests[i], crops[i], next(under), generator.frames_on)
            canvas.put(change[[row for row, _ in rows]])
            if canvas.whole:
                yield canvas.clip()


class PaintingGenerator(Generator):
    """A saved network that paints every frame of a clip; see :func:`painted_clips` for sizes and errors."""

    def __init__(self, network: Any, facts: GeneratorFacts) -> None:
        self.network, self.facts = network, facts
        self.size: int = network.config["size"]

    def clip_of(self, request: ClipRequest, **own: Any) -> tuple[Sample, tuple[str, ...]]:
        """See :func:`painted_clips`."""
        return next(self.clips_of([request], **own))


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
