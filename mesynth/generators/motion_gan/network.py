"""AU-intensity-controllable motion generator: displacement fields per AU and side, an occlusion mask, a residual.

An encoder looks at the onset alone. Fields B_k are linear in intensity: a canonical field per AU, learned further, read
at canonical coordinates on the face, plus a correction drawn by the decoder. With ``face`` the coordinates are those of
the face's own landmarks, the fields start as the mean of several rigs (:mod:`mesynth.motion.fields`) and turn with the
head, and the encoder is told where on the face it looks; without, they start as the motion prior's in the crop's frame,
and the network finds where the face lies. What is not linear, N, and the heads of mask and residual see the AUs through
FiLM, one side of the face at a time, and are gated by how much is asked of that side: the sides cannot disturb each
other.

The discriminator of motion and the reader of AU intensities that guide its training have spectral norm (Miyato et al.,
2018) everywhere and no norm over the batch: a pair's score is its own.

The generator carries fields of the network onto the photo, where frames are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mesynth.core import seeds
from mesynth.core.facs import AU_CODES, MIDLINE
from mesynth.generators.base import ClipRequest, Generator, calibrated
from mesynth.generators.blocks import AUCondition, FiLMBlock, Network, group_norm, register_to_config
from mesynth.generators.formation import (
    MAX_RESIDUAL,
    ApexRequest,
    FaceMotion,
    Motion,
    amount,
    combine,
    face_motion,
    limited,
    limited_length,
    motion_clip,
    onto_face,
    told,
    unfolded,
)
from mesynth.head.model import SIDE_SOFTNESS
from mesynth.motion.layers import jaw_cells, skin_aus, with_layered
from mesynth.preprocess.align import EYE_LINE, IOD_SHARE, SimilarityCrop, eye_centres, eye_line
from mesynth.preprocess.warping import differentiable_strain, resize_flow
from mesynth.store.generator_folder import load_sized_network

if TYPE_CHECKING:
    from mesynth.core.types import AUVector, Sample
    from mesynth.motion.prior import Face
    from mesynth.store.generator_folder import GeneratorFacts

K = len(AU_CODES)
_BOX = (-1.6, 1.6, -1.2, 2.0)
"""u and v range of the canonical fields, IOD."""
_POOLED = 4
"""Side of the map an AU head sees: pooling further would lose the sides of the face."""
_MAX_SHIFT = 0.35
"""How far canonical coordinates may lie from where the crop's frame puts them, IOD."""
_MAX_CORRECTION = 0.1
"""The same, from where the landmarks put them."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the network knows of the onsets before any AU is asked for."""

    fields: torch.Tensor
    """[B,K,2,2,h,w] pixels of the h x w grid at intensity 1, per AU, side and direction"""
    share: torch.Tensor
    """[B,2,h,w]: how much of a pixel belongs to the subject's left and right; they add up to 1"""
    uv: torch.Tensor
    """[B,2,h,w]: where on the canonical face each pixel lies, IOD"""
    coarse: torch.Tensor
    middle: torch.Tensor
    fine: torch.Tensor


def _conv(a: int, b: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, kernel, stride, kernel // 2), group_norm(b), nn.SiLU())


class MotionGenerator(Network):
    """Onset [B,3,S,S] in [0,1], framed as mesynth.preprocess.align frames crops, and AUs -> :class:`Motion`."""

    midline: torch.Tensor

    @register_to_config
    def __init__(
        self, size: int = 64, width: int = 32, z: int = 0, blocks: int = 2, template: int = 48,
        max_flow: float = 0.06, correction: bool = True, residual: bool = True, face: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        w, c = width, 4 * width
        self.stem = _conv(5 if face else 3, w, kernel=7)
        self.down = nn.ModuleList([_conv(w, 2 * w, 2), _conv(2 * w, c, 2), _conv(c, 2 * c, 2)])
        self.deep = nn.Sequential(_conv(2 * c, 2 * c), _conv(2 * c, 2 * c))
        self.up = nn.ModuleList([_conv(3 * c, c), _conv(c + 2 * w, 2 * w)])
        self.style = FiLMBlock(c, z) if z else None
        self.shift = nn.Conv2d(2 * w, 2, 3, padding=1)
        self.correct = nn.Conv2d(2 * w, 2 * K, 3, padding=1) if correction else None
        self.condition = AUCondition(K, c, z)
        self.side = nn.Parameter(0.1 * torch.randn(2, c))
        self.film_blocks = nn.ModuleList([FiLMBlock(c, c) for _ in range(blocks)])
        self.finer = _conv(c + 2 * w, 2 * w)
        self.bend = nn.Conv2d(2 * w, 2, 3, padding=1)
        # No norm here: its statistics would carry one side of the face to the other.
        self.finest = nn.Sequential(nn.Conv2d(3 * w, w, 3, padding=1), nn.SiLU()) if residual else None
        self.paint = nn.Conv2d(w, 4, 3, padding=1) if residual else None
        for layer in (self.shift, self.correct, self.bend, self.paint):
            if layer is not None:
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)
        self.canonical = nn.Parameter(canonical_fields(template, face)) if template else None
        midline = torch.tensor([code in MIDLINE for code in AU_CODES])
        self.register_buffer("midline", midline.view(1, K, 1, 1, 1, 1), persistent=False)

    def encode(
        self, onset: torch.Tensor, z: torch.Tensor | None = None, landmarks: torch.Tensor | None = None
    ) -> Encoded:
        """What there is to know of the onsets [B,3,S,S] before any AU is asked for.

        ``landmarks`` [B,68,2] pixels of the onset, for a network with ``face``; None or NaN: where a mean face has
        them in the crop.
        """
        seen, place = 2 * onset - 1, None
        if self.config["face"]:
            place = face_places(landmarks, onset, onset.shape[-1] // 2)
            off = place.uv - crop_frame(place.uv.shape[-1], onset)
            seen = torch.cat([seen, F.interpolate(2 * off, seen.shape[-2:], mode="bilinear", align_corners=False)], 1)
        fine = self.stem(seen)
        middle = self.down[0](fine)
        quarter = self.down[1](middle)
        deep = self.deep(self.down[2](quarter))
        coarse = self.up[0](torch.cat([_twice(deep), quarter], 1))
        if self.style is not None and z is not None:
            coarse = self.style(coarse, z)
        features = self.up[1](torch.cat([_twice(coarse), middle], 1))
        h = features.shape[-1]
        shift = torch.tanh(self.shift(features))
        uv = crop_frame(h, onset) + _MAX_SHIFT * shift if place is None else place.uv + _MAX_CORRECTION * shift
        left = torch.sigmoid(uv[:, :1] / SIDE_SOFTNESS)
        share = torch.cat([left, 1 - left], 1)
        iod = IOD_SHARE * h
        whole = torch.zeros(len(onset), 2 * K, h, h, device=onset.device, dtype=features.dtype)
        if self.canonical is not None:
            read = read_canonical(self.canonical, uv)
            if place is not None:
                turned = torch.einsum("bij,bkjhw->bkihw", place.axes, read.view(len(onset), K, 3, h, h))
                read = turned.reshape(len(onset), 2 * K, h, h)
            whole = whole + read * iod
        if self.correct is not None:
            whole = whole + self.correct(features) * iod
        whole = whole.view(len(onset), K, 1, 2, h, h)
        fields = whole * torch.where(self.midline, 0.5, share[:, None, :, None])
        return Encoded(fields, share, uv, coarse, middle, fine)

    def bent(
        self, seen: Encoded, aus: torch.Tensor, known: torch.Tensor, z: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is not linear in the AUs: N [B,2,h,w] pixels, mask [B,1,S,S] and residual [B,3,S,S]."""
        n = len(aus)
        sides = aus.transpose(1, 2).reshape(2 * n, K)
        condition = self.condition(sides, known.transpose(1, 2).reshape(2 * n, K), None if z is None else _per_side(z))
        condition = condition + self.side.repeat(n, 1)
        x = _per_side(seen.coarse)
        for block in self.film_blocks:
            x = block(x, condition)
        x = self.finer(torch.cat([_twice(x), _per_side(seen.middle)], 1))
        gate = amount(sides).view(n, 2, 1, 1) * seen.share
        bend = (self.bend(x).view(n, 2, 2, *x.shape[-2:]) * gate[:, :, None]).sum(1) * (IOD_SHARE * x.shape[-1])
        if self.finest is None or self.paint is None:
            still = torch.zeros(n, 3, *seen.fine.shape[-2:], device=x.device, dtype=x.dtype)
            return bend, torch.ones_like(still[:, :1]), still
        merged = (x.view(n, 2, *x.shape[1:]) * gate[:, :, None]).sum(1)
        painted = self.paint(self.finest(torch.cat([_twice(merged), seen.fine], 1)))
        fine_gate = F.interpolate(gate.sum(1, keepdim=True), painted.shape[-2:], mode="bilinear", align_corners=False)
        # The mask starts at .73 rather than at 1: a saturated sigmoid would pass nothing to the residual.
        mask = 1 - torch.sigmoid(painted[:, :1] - 1) * fine_gate
        return bend, mask, MAX_RESIDUAL * torch.tanh(painted[:, 1:]) * fine_gate

    def forward(
        self,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
        landmarks: torch.Tensor | None = None,
    ) -> Motion:
        """``aus`` [B,K,2] in [0,1]; ``known`` [B,K,2] bool (None: all); ``landmarks``: see :meth:`encode`."""
        known = torch.ones_like(aus, dtype=torch.bool) if known is None else known
        asked = aus * known
        seen = self.encode(onset, z, landmarks)
        bend, mask, residual = self.bent(seen, asked, known, z)
        flow = resize_flow(combine(seen.fields, asked) + bend, (onset.shape[-2], onset.shape[-1]))
        return Motion(limited(flow, self.config["max_flow"]), mask, residual)


def canonical_fields(side: int, rigs: bool = False) -> torch.Tensor:
    """The motion prior's field of each whole AU over the canonical box: [2K,side,side] IOD, K pairs (right, down).

    ``rigs``: the mean of several rigs in its place, [3K,side,side], K times (right, down, to the viewer).
    """
    from mesynth.motion.fields import basis, mean_table

    u, v = np.linspace(_BOX[0], _BOX[1], side), np.linspace(_BOX[2], _BOX[3], side)
    uv = np.stack(np.meshgrid(u, v), -1)
    cells = [(k, s) for k in range(K) for s in (0, 1)]
    fields = mean_table().read(uv, cells) if rigs else basis(uv, cells)[..., :2]
    both = fields.reshape(K, 2, side, side, -1).sum(1).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(both, np.float32).reshape(-1, side, side))


@dataclass(frozen=True, eq=False)
class FacePlaces:
    """Where faces lie in their crops."""

    uv: torch.Tensor
    """[B,2,h,h]: canonical coordinates of each pixel"""
    axes: torch.Tensor
    """[B,2,3]: a canonical displacement (right, down, to the viewer) in the crop, in units of the crop's own eye
    distance"""


def face_places(landmarks: torch.Tensor | None, onset: torch.Tensor, h: int) -> FacePlaces:
    """On a grid of h x h, from landmarks [B,68,2] in pixels of the onsets [B,3,S,S]; rows of NaN: a mean face's.

    Raises:
        MesynthError: landmarks that are no face's.
    """
    from mesynth.head.model import HeadModel
    from mesynth.motion.prior import face_map, head_turn

    size, n = onset.shape[-1], len(onset)
    uv = crop_frame(h, onset).repeat(n, 1, 1, 1)
    axes = torch.eye(2, 3, dtype=onset.dtype, device=onset.device).repeat(n, 1, 1)
    if landmarks is None:
        return FacePlaces(uv, axes)
    model = HeadModel.load()
    canonical = model.uv[model.landmarks].astype(np.float64)
    points = landmarks.detach().double().cpu().numpy()
    for i in np.flatnonzero(np.isfinite(points).all((1, 2))):
        eye_line(*eye_centres(points[i]))
        # The grid is coarse already: a face is some thirteen of its pixels between the eyes.
        found = face_map((points[i] + 0.5) * (h / size) - 0.5, h, h, canonical, step=1)
        level = found.rotation @ head_turn(points[i]) * (found.iod / (IOD_SHARE * h))
        uv[i] = torch.from_numpy(found.uv.transpose(2, 0, 1)).to(uv)
        axes[i] = torch.from_numpy(level).to(axes)
    return FacePlaces(uv, axes)


def crop_frame(h: int, like: torch.Tensor) -> torch.Tensor:
    """Canonical coordinates [1,2,h,h] of an aligned crop's pixel centres."""
    at = (torch.arange(h, device=like.device, dtype=like.dtype) + 0.5) / h
    u = ((at - 0.5) / IOD_SHARE).view(1, h).expand(h, h)
    v = ((at - EYE_LINE) / IOD_SHARE).view(h, 1).expand(h, h)
    return torch.stack([u, v])[None]


def read_canonical(canonical: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Canonical maps [C,g,g] at coordinates [B,2,h,w] -> [B,C,h,w]; nothing moves outside the box."""
    x = (uv[:, 0] - _BOX[0]) / (_BOX[1] - _BOX[0]) * 2 - 1
    y = (uv[:, 1] - _BOX[2]) / (_BOX[3] - _BOX[2]) * 2 - 1
    maps = canonical[None].expand(len(uv), -1, -1, -1)
    return F.grid_sample(maps, torch.stack([x, y], -1), padding_mode="zeros", align_corners=True)


def _twice(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _per_side(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 0)


class MotionDiscriminator(Network):
    """Does this motion belong to this face? PatchGAN on (onset, frame, flow, strain), with an AU-intensity head."""

    @register_to_config
    def __init__(self, size: int = 64, width: int = 32, max_flow: float = 0.06) -> None:
        super().__init__()
        w = width
        steps = [(9, w, 2), (w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 4 * w, 1)]
        layers: list[nn.Module] = []
        for a, b, stride in steps:
            layers += [spectral_norm(nn.Conv2d(a, b, 4 if stride == 2 else 3, stride, 1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.score = spectral_norm(nn.Conv2d(4 * w, 1, 3, padding=1))
        self.read = nn.Sequential(nn.AdaptiveAvgPool2d(_POOLED), nn.Flatten(), nn.Linear(4 * w * _POOLED**2, 2 * K))

    def observe(
        self, onset: torch.Tensor, frame: torch.Tensor, flow: torch.Tensor, has_flow: torch.Tensor
    ) -> torch.Tensor:
        """What it looks at, [B,9,S,S]: pictures in [-1,1], change, flow and strain in units of the flow's limit.

        Pairs without a known flow (``has_flow`` [B] bool) show none, so that its absence is no sign of a real pair.
        """
        unit = self.config["max_flow"] * flow.shape[-1]
        seen = has_flow.view(-1, 1, 1, 1).to(flow.dtype)
        shown = torch.cat([flow / unit, differentiable_strain(flow) / unit * 4], 1) * seen
        return torch.cat([2 * onset - 1, (frame - onset) / MAX_RESIDUAL, shown], 1)

    def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B,9,S,S] of :meth:`observe` -> patch scores [B,1,h,w] and AU intensities [B,K,2]."""
        features = self.body(seen)
        return self.score(features), self.read(features).view(-1, K, 2)


class ActionReader(nn.Module):
    """AU intensities of the difference between two pictures: trained on real pairs, frozen for the generator.

    It sees pictures only, never the flow: a generator cannot please it with a flow that its frame does not show.
    No motion reads as 0 (biases are absent past the first product with the difference).
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.look = nn.Sequential(nn.Conv2d(3, w, 5, 2, 2), nn.SiLU())
        self.change = nn.Conv2d(3, w, 5, 2, 2, bias=False)
        self.body = nn.Sequential(
            nn.Conv2d(2 * w, 2 * w, 3, 2, 1, bias=False), nn.ReLU(),
            nn.Conv2d(2 * w, 4 * w, 3, 2, 1, bias=False), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2 * _POOLED), nn.Flatten(), nn.Linear(4 * w * (2 * _POOLED) ** 2, 2 * K, bias=False),
        )  # fmt: skip

    def forward(self, onset: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] twice in [0,1] -> [B,K,2], unbounded."""
        change = self.change((frame - onset) / MAX_RESIDUAL)
        out: torch.Tensor = self.body(torch.cat([change, change * self.look(2 * onset - 1)], 1))
        return out.view(-1, K, 2)


# ---------------------------------------------------------------- the generator


class MotionGAN(Generator):
    """A trained :class:`MotionGenerator` as a :class:`mesynth.generators.base.Generator`.

    The network sees the face as training did: the canonical crop of its landmarks, at its own size, whatever the
    picture's. Fields, mask and residual are carried back onto the picture, and frames are made there.
    """

    family = "motion_gan"

    def __init__(self, network: MotionGenerator, facts: GeneratorFacts) -> None:
        self.network, self.facts, self.size = network.eval().requires_grad_(False), facts, facts.size

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """One network pass a clip."""
        return next(self.clips_of([request]))

    def clips_of(self, requests: Sequence[ClipRequest]) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """One network pass for all."""
        skins = [calibrated(skin_aus(request.aus), self.facts) for request in requests]
        asked = [
            ApexRequest(request.face, skin, request.seed, tuple(jaw_cells(request.aus)))
            for request, skin in zip(requests, skins, strict=True)
        ]
        for request, skin, motion in zip(requests, skins, self.motions(asked), strict=True):
            wanted = replace(request, aus=with_layered(skin, request.aus))
            yield motion_clip(motion, wanted, device=self.frames_on)

    def motion(self, face: Face, aus: AUVector, *, seed: int = 0, jaws: Sequence[tuple[int, int]] = ()) -> FaceMotion:
        """Fields of the asked AUs, the bent part, and the change of light, on the face's picture.

        ``jaws``: further cells whose fields are wanted, of which the bent part knows nothing.
        """
        return next(self.motions([ApexRequest(face, aus, seed, tuple(jaws))]))

    def motions(self, requests: Sequence[ApexRequest]) -> Iterator[FaceMotion]:
        """:meth:`motion` of each, in one network pass for as many as go together (:meth:`blocks`)."""
        for block in self.blocks(len(requests)):
            rows = requests[block]
            crops = [SimilarityCrop.from_landmarks(row.face.landmarks, self.size) for row in rows]
            for row, crop, said in zip(rows, crops, self._said(rows, crops), strict=True):
                yield self._on_face(row, crop, *said)

    @torch.inference_mode()
    def _said(
        self, rows: Sequence[ApexRequest], crops: Sequence[SimilarityCrop]
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each row, on the network's grid: fields of its cells and of its jaws [A,h,h,2], bend [h,h,2] and change of
        light [3,S,S]."""
        device = self.network.device
        pictures = [crop.frames(row.face.image[None])[0] for row, crop in zip(rows, crops, strict=True)]
        onset = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
        asked = torch.from_numpy(np.stack([told(row.aus) for row in rows])).to(device)
        known = torch.from_numpy(np.stack([row.aus.mask for row in rows])).to(device)
        n_z = self.network.config["z"]
        noise = None
        if n_z:
            z = [seeds.stream(row.seed, "motion-z").standard_normal(n_z, np.float32) for row in rows]
            noise = torch.from_numpy(np.stack(z)).to(device)
        points = np.stack([crop.points(row.face.landmarks) for row, crop in zip(rows, crops, strict=True)])
        with self.autocast():
            seen = self.network.encode(onset, noise, torch.from_numpy(points).to(device))
            bend, mask, residual = self.network.bent(seen, asked, known, noise)
        change = ((1 - mask) * residual).float().cpu().numpy()
        # Of the fields those that somebody asks for alone: all are ten times as many.
        cells = [(i, *cell) for i, row in enumerate(rows) for cell in (*row.cells, *row.jaws)]
        which = torch.tensor(cells, dtype=torch.long, device=device).view(-1, 3)
        fields = _maps(seen.fields[which[:, 0], which[:, 1], which[:, 2]])
        ends = np.cumsum([len(row.cells) + len(row.jaws) for row in rows])[:-1]
        return list(zip(np.split(fields, ends), _maps(bend), change, strict=True))

    def _on_face(
        self, row: ApexRequest, crop: SimilarityCrop, fields: np.ndarray, bent: np.ndarray, change: np.ndarray
    ) -> FaceMotion:
        height, width = row.face.image.shape[:2]
        weights = np.array([row.aus.intensity[cell] for cell in row.cells], np.float32)
        # What keeps the apex short and free of folds follows the AUs as the rest of the bent part does.
        apex = np.einsum("a,ahwc->hwc", weights, fields[: len(row.cells)]) + bent
        limit = self.network.config["max_flow"] * bent.shape[0]
        straight = unfolded(limited_length(apex, limit)) - apex + bent
        lit = onto_face(change, crop, height, width)
        return face_motion(crop, (height, width), [*row.cells, *row.jaws], fields, straight, lit)


def _maps(flow: torch.Tensor) -> np.ndarray:
    """[N,2,h,w] -> [N,h,w,2]."""
    return np.ascontiguousarray(flow.permute(0, 2, 3, 1).float().cpu().numpy())


def load(folder: Path, facts: GeneratorFacts) -> MotionGAN:
    """From a checked folder. Raises PipelineError for another network's files, or of another size."""
    return MotionGAN(load_sized_network(MotionGenerator, folder / "generator", facts), facts)
