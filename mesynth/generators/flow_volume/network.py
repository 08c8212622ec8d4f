"""Whole clips by diffusion: flow at key times from onset to offset is drawn together, frames are made by warping.

The network is the 2D network of ``motion_diffusion`` at every key time, joined across time. Beside that family, which
draws the apex and lets the profile scale it, action units may start and peak at moments of their own. The formation is
that of ``motion_gan``: every pixel is the person's own, and the reported flow is what the frames are made from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core import facs, seeds
from mesynth.core.profiles import Profile
from mesynth.generators.base import ClipRequest, calibrated
from mesynth.generators.blocks import Network, group_norm, register_to_config
from mesynth.generators.diffusion import SampledGenerator, sample_conditioned
from mesynth.generators.diffusion_config import Process, Sampling
from mesynth.generators.formation import FaceMotion, face_motion, limited_length, motion_clip, unfolded
from mesynth.generators.motion_diffusion.network import REACH, MotionDiffuser, length_around
from mesynth.generators.motion_gan.network import Encoded
from mesynth.motion.key_times import KEYS, TOLD, Timing, key_weights, on_frames
from mesynth.motion.layers import skin_aus
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.warping import from_means
from mesynth.store.generator_folder import load_sized_network

if TYPE_CHECKING:
    from mesynth.core.types import Sample
    from mesynth.store.generator_folder import GeneratorFacts


@dataclass(frozen=True, eq=False)
class VolumeConditioning:
    """What rows are conditioned on, T key times each: everything that does not change while they are sampled."""

    picture: torch.Tensor
    """[B,14,h,h]: see mesynth.generators.motion_diffusion.network.Conditioning"""
    apex: torch.Tensor
    """[B,2,h,h] pixels of the h grid: the apex motion to be expected"""
    mean: torch.Tensor
    """[B,T,2,h,h] data: the profile's share of it; noise is taken off around it"""
    spread: torch.Tensor
    """[B,T,1,h,h]: how far data is likely to lie from the mean"""
    shown: torch.Tensor
    """[B,T,2,h,h]: the mean as the UNet is told it, 0 without condition"""
    whole: torch.Tensor
    """[B,2,h,h]: the apex motion, in the same way"""
    told: torch.Tensor
    """[B,T,TOLD]: when the key times are"""
    tokens: torch.Tensor
    """[B,T,2K,dim] of the AUs at the level of each time"""
    pooled: torch.Tensor
    """[B,T,dim]"""


class TimeMixer(nn.Module):
    """[B,T,C,h,w] -> the same plus what neighbouring times, or with attention all times, say about each pixel.

    The last layer starts at zero: an untrained mixer changes nothing (as the added layers of Ho et al., "Video
    diffusion models", 2022, and Blattmann et al., "Align your latents", 2023, do).
    """

    def __init__(self, channels: int, attention: bool) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.near = nn.Conv2d(3 * channels, channels, 1)
        self.wide = nn.MultiheadAttention(channels, 4, batch_first=True) if attention else None
        self.out = nn.Conv2d(3 * channels, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c, h, w = x.shape
        y = self.near(_beside(self.norm(x.flatten(0, 1)).view_as(x)))
        if self.wide is not None:
            pixels = y.view(n, t, c, h * w).permute(0, 3, 1, 2).reshape(n * h * w, t, c)
            pixels = pixels + self.wide(pixels, pixels, pixels, need_weights=False)[0]
            y = pixels.view(n, h * w, t, c).permute(0, 2, 3, 1).reshape(n * t, c, h, w)
        out: torch.Tensor = x + self.out(_beside(F.silu(y).view_as(x))).view_as(x)
        return out


def _beside(x: torch.Tensor) -> torch.Tensor:
    """[B,T,C,h,w] -> [B*T,3C,h,w]: the time before, the time itself, the time after; nothing beyond the ends."""
    still = torch.zeros_like(x[:, :1])
    return torch.cat([torch.cat([still, x[:, :-1]], 1), x, torch.cat([x[:, 1:], still], 1)], 2).flatten(0, 1)


def _beside_flat(init: Callable[..., None]) -> Callable[..., None]:
    """``init`` with the signature of the 2D network's before its own: diffusers reads configurations off signatures."""
    own = inspect.signature(init).parameters.values()
    flat = inspect.signature(MotionDiffuser.__init__).parameters.values()
    signature = inspect.Signature([*flat, *(p for p in own if p.kind is p.KEYWORD_ONLY)])
    init.__signature__ = signature  # type: ignore[attr-defined]
    return init


class VolumeDiffuser(Network):
    """Onset [B,3,S,S] in [0,1], AUs and timing -> flow at T key times and h = S/2.

    The motion to be expected at a key time is the profile's level there times the apex motion that the 2D network
    expects; what is diffused, for all times together, is ``(asinh(flow / width / scale) - mean) / spread``. Beside the
    2D network's spread stands one for AUs that do not keep to the profile: the uncertainty of the level times the apex
    motion around a pixel. Added layers start at zero, so that a volume begun with 2D weights draws at every time what
    the 2D network draws for the AUs at that level.

    ``flat``: arguments of :class:`MotionDiffuser`; ``wander``: standard deviation of how far AUs keep from the profile.
    """

    @register_to_config
    @_beside_flat
    def __init__(self, *, wander: float = 0.08, **flat: Any) -> None:
        super().__init__()
        self.base = MotionDiffuser(**flat)
        widths = self.base.config["widths"]
        n = len(widths)
        attends = [i >= n - 1 for i in range(n)]
        self.down = nn.ModuleList([TimeMixer(c, a) for c, a in zip(widths, attends, strict=True)])
        self.middle = TimeMixer(widths[-1], True)
        self.up = nn.ModuleList([TimeMixer(c, a) for c, a in zip(reversed(widths), reversed(attends), strict=True)])
        self.apex_in = nn.Conv2d(2, widths[0], 3, padding=1)
        unet: Any = self.base.unet
        length = unet.time_embedding.linear_2.out_features
        self.when = nn.Sequential(nn.Linear(TOLD, length), nn.SiLU(), nn.Linear(length, length))
        for layer in (self.apex_in, self.when[2]):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    @property
    def process(self) -> Process:
        """How noise is added and taken away."""
        return self.base.process

    @property
    def sampling(self) -> Sampling:
        """How the network samples unless it is told otherwise."""
        return self.base.sampling

    # ------------------------------------------------------------ condition

    def condition(
        self,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor,
        timing: Timing,
        null: torch.Tensor | None = None,
        seen: Encoded | None = None,
    ) -> VolumeConditioning:
        """As :meth:`MotionDiffuser.condition`; rows without condition are still told when they are."""
        n, t = timing.level.shape
        flat = self.base.condition(onset, aus, known, null, seen)
        levels = timing.level[:, :, None, None]
        frames = (levels * aus[:, None]).flatten(0, 1)
        rested = None if null is None else null.repeat_interleave(t)
        told = self.base.tokens(frames, known.repeat_interleave(t, 0), rested)
        mean = self.base.normalised(levels[..., None] * flat.expected.detach()[:, None])
        shown = mean / self.config["whole"]
        if null is not None:
            shown = shown * ~null.view(-1, 1, 1, 1, 1)
        return VolumeConditioning(
            picture=flat.picture,
            apex=flat.expected,
            mean=mean,
            spread=self._spread(mean, flat.mean, timing.slack, known),
            shown=shown,
            whole=flat.shown,
            told=timing.told(),
            tokens=told.tokens.view(n, t, *told.tokens.shape[1:]),
            pooled=told.pooled.view(n, t, -1),
        )

    def _spread(self, mean: torch.Tensor, apex: torch.Tensor, slack: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        near = self.config["share"] * length_around(mean.flatten(0, 1)).view(*mean.shape[:2], 1, *mean.shape[-2:])
        late = slack[:, :, None, None, None] * length_around(apex)[:, None]
        unknown = 1 - known.flatten(1).to(mean.dtype).mean(1).view(-1, 1, 1, 1, 1)
        floor, whole = self.config["floor"] ** 2, self.config["whole"] ** 2
        return (floor + near.square() + late.square() + whole * unknown).sqrt()

    # ------------------------------------------------------------ network

    def denoised(self, z: torch.Tensor, sigma: torch.Tensor, asked: VolumeConditioning) -> torch.Tensor:
        """Estimate of the clean ``z`` [B,T,2,h,h] from one with noise ``sigma`` [B], the same at all times."""
        return self.process.denoised(lambda x, at: self._unet(x, at, asked), z, sigma)

    def _unet(self, x: torch.Tensor, at: torch.Tensor, asked: VolumeConditioning) -> torch.Tensor:
        """The 2D UNet on B*T pictures, block by block, with a mixer behind each."""
        unet: Any = self.base.unet
        n, t = x.shape[:2]

        def mixed(mixer: nn.Module, value: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = mixer(value.view(n, t, *value.shape[1:])).flatten(0, 1)
            return out

        picture = asked.picture[:, None].expand(-1, t, -1, -1, -1)
        frames = torch.cat([x, picture, asked.shown], 2).flatten(0, 1)
        tokens, pooled = asked.tokens.flatten(0, 1), asked.pooled.flatten(0, 1)
        emb = unet.time_embedding(unet.get_time_embed(frames, at.repeat_interleave(t)))
        emb = emb + unet.get_class_embed(frames, pooled) + self.when(asked.told).flatten(0, 1)
        y = unet.conv_in(frames) + self.apex_in(asked.whole).repeat_interleave(t, 0)
        kept = (y,)
        for block, mixer in zip(unet.down_blocks, self.down, strict=True):
            given = {"encoder_hidden_states": tokens} if getattr(block, "has_cross_attention", False) else {}
            y, parts = block(hidden_states=y, temb=emb, **given)
            y = mixed(mixer, y)
            kept += (*parts[:-1], y)
        y = mixed(self.middle, unet.mid_block(y, emb, encoder_hidden_states=tokens))
        for block, mixer in zip(unet.up_blocks, self.up, strict=True):
            given = {"encoder_hidden_states": tokens} if getattr(block, "has_cross_attention", False) else {}
            used = len(block.resnets)
            y = mixed(mixer, block(hidden_states=y, temb=emb, res_hidden_states_tuple=kept[-used:], **given))
            kept = kept[:-used]
        out: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(y)))
        return out.view(n, t, *out.shape[1:])

    def forward(
        self,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor,
        timing: Timing,
        noise: torch.Tensor,
        sampling: Sampling | None = None,
        seen: Encoded | None = None,
    ) -> torch.Tensor:
        """Drawn flow onset -> key times [B,T,2,h,h], pixels of the h grid, unlimited, from ``noise`` of that shape."""
        sampling = self.sampling if sampling is None else sampling
        seen = self.base.regression.encode(onset) if seen is None else seen
        asked = self.condition(onset, aus, known, timing, seen=seen)
        nothing = asked
        if sampling.guidance != 1:
            null = torch.ones(len(onset), dtype=torch.bool, device=onset.device)
            nothing = self.condition(onset, aus, known, timing, null, seen)
        return self.base.pixels(asked.mean + asked.spread * sample_conditioned(self, asked, nothing, noise, sampling))


# ---------------------------------------------------------------- the generator


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
        return next(self.clips_of([request]))

    def clips_of(self, requests: Sequence[ClipRequest]) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """One sampling for all."""
        skins = [replace(request, aus=skin_aus(request.aus)) for request in requests]
        for request, volume in zip(requests, self.volumes(skins), strict=True):
            height, width = request.face.image.shape[:2]
            still = np.zeros((height, width, 2), np.float32)
            unlit = np.zeros((height, width, 3), np.float32)
            motion = FaceMotion([(k, 0) for k in range(_PARTS)], volume.fields, still, unlit)
            wanted = replace(request, profile=replace(volume.profile, lag=0))
            yield motion_clip(motion, wanted, volume.weights, device=self.frames_on)

    def volume(self, request: ClipRequest) -> Volume:
        """The flow of a clip.

        Raises:
            AUConflictError: AUs that exclude each other.
        """
        return next(self.volumes([request]))

    def volumes(self, requests: Sequence[ClipRequest]) -> Iterator[Volume]:
        """:meth:`volume` of each, in one sampling for as many as go together (:meth:`blocks`)."""
        for request in requests:
            facs.reject_conflicts(request.aus)
        for block in self.blocks(len(requests)):
            rows = requests[block]
            placed = [on_frames(row.profile, row.n_frames) for row in rows]
            timings = [
                Timing.of(profile, (row.n_frames - 1) / row.fps, self.network.config["wander"])
                for row, profile in zip(rows, placed, strict=True)
            ]
            for row, profile, timing, drawn in zip(rows, placed, timings, self._drawn(rows, timings), strict=True):
                yield self._on_face(row, profile, timing, *drawn)

    def _on_face(
        self, request: ClipRequest, placed: Profile, timing: Timing, keys: np.ndarray, expected: np.ndarray
    ) -> Volume:
        face, n_frames = request.face, request.n_frames
        level, apex = request.profile.alpha(n_frames), request.profile.apex_index(n_frames)
        at = timing.at[0].double().numpy()
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
    def _drawn(self, rows: Sequence[ClipRequest], timings: Sequence[Timing]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each row, in pixels of the network's grid: flow at the key times [KEYS,h,h,2], expected apex [h,h,2]."""
        n, h, device = len(rows), self.size // 2, self.network.device
        crops = [SimilarityCrop.from_landmarks(row.face.landmarks, self.size) for row in rows]
        pictures = [crop.frames(row.face.image[None])[0] for row, crop in zip(rows, crops, strict=True)]
        onset = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
        asked = np.stack([calibrated(row.aus, self.facts).intensity for row in rows])
        aus, known = (torch.from_numpy(x).to(device) for x in (asked, np.stack([row.aus.mask for row in rows])))
        noise = [seeds.stream(row.seed, "flow-volume").standard_normal((KEYS, 2, h, h), np.float32) for row in rows]
        timing = Timing(*(torch.cat([getattr(t, f.name) for t in timings]) for f in fields(Timing))).to(device)
        expected = torch.zeros(n, 2, h, h, device=device)
        keys = torch.zeros(n, KEYS, 2, h, h, device=device)
        with self.autocast():
            seen = self.network.base.regression.encode(onset)
            # Where nothing is asked nothing moves: no sampler would say so to the bit.
            moving = aus.flatten(1).amax(1) > 0
            if bool(moving.any()):
                mean = self.network.base.expected(seen, aus, known).float()
                drawn = torch.from_numpy(np.stack(noise)).to(device)
                flow = self.network(onset, aus, known, timing, drawn, self.sampling, seen).float()
                flow = from_means(flow.flatten(0, 1)).view_as(flow)
                expected = torch.where(moving.view(-1, 1, 1, 1), mean, expected)
                keys = torch.where(moving.view(-1, 1, 1, 1, 1), flow, keys)
        drawn_, expected_ = (np.ascontiguousarray(x.movedim(-3, -1).cpu().numpy()) for x in (keys, expected))
        return list(zip(drawn_, expected_, strict=True))


def load(folder: Path, facts: GeneratorFacts) -> FlowVolume:
    """From a checked folder. Raises PipelineError for another network's files, or of another size."""
    return FlowVolume(load_sized_network(VolumeDiffuser, folder / "generator", facts), facts)
