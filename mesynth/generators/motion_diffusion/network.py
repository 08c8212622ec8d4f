"""AU-intensity-controllable motion by diffusion: the apex' displacement field is drawn, frames are made by warping.

The network knows what motion is expected of a face, and a UNet draws how it differs. Different seeds give different
motions for the same AUs. The formation is that of ``motion_gan``: every pixel is the person's own, and the reported
flow is what the frames are made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from mesynth.core import facs, seeds
from mesynth.generators.base import ClipRequest, calibrated
from mesynth.generators.blocks import Network, register_to_config
from mesynth.generators.diffusion import AUTokens, SampledGenerator, sample_conditioned
from mesynth.generators.diffusion_config import Process, Sampling
from mesynth.generators.formation import (
    ApexRequest,
    FaceMotion,
    combine,
    face_motion,
    limited,
    limited_length,
    motion_clip,
    told,
    unfolded,
)
from mesynth.generators.motion_gan.network import Encoded, MotionGenerator
from mesynth.motion.layers import drawn_amounts, jaw_cells, skin_aus
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.warping import from_means, resize_flow
from mesynth.store.generator_folder import load_sized_network

if TYPE_CHECKING:
    from mesynth.core.types import Sample
    from mesynth.store.generator_folder import GeneratorFacts

_NOISE_MIN, _NOISE_MAX = 0.005, 80.0
"""Of data of unit variance."""
_LONGEST = 0.5
"""No displacement is longer than this share of the width, whatever a network says."""
REACH = 0.08
"""What is drawn is kept below this share of the width before pixels are moved. It is true flow that is diffused, which
no limit has bent in training; the regression's own ``max_flow`` would cut jaws, lids and cheeks short. Flow of a jaw
that drops is longer still, but there is no open mouth in the picture to show it with: lips would be torn wide."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What rows are conditioned on: everything that does not change while they are sampled."""

    picture: torch.Tensor
    """[B,14,h,h]: the onset, nothing lost, and where each pixel lies, in the crop or on the face"""
    expected: torch.Tensor
    """[B,2,h,h] pixels of the h grid: the motion to be expected, with gradients"""
    mean: torch.Tensor
    """[B,2,h,h]: the same as data, without gradients: noise is taken off around it"""
    spread: torch.Tensor
    """[B,1,h,h]: how far data is likely to lie from the mean"""
    shown: torch.Tensor
    """[B,2,h,h]: the mean as the UNet is told it, 0 without condition"""
    tokens: torch.Tensor
    pooled: torch.Tensor


class MotionDiffuser(Network):
    """Onset [B,3,S,S] in [0,1], framed as mesynth.preprocess.align frames crops, and AUs -> flow at h = S/2.

    A regression says what motion is expected (the network of ``motion_gan``, which starts from the motion prior), a
    diffusion draws what is different in this clip, as in Mardani et al., "Residual corrective diffusion modeling",
    2023. What is diffused is ``z = (asinh(flow / width / scale) - mean) / spread`` of unit variance: of rendered
    people, what is different grows with what is expected around a pixel (``share`` of it, from ``floor`` up), so that
    skin which is not asked to move does not. Unknown AUs are expected to rest; the spread is then that of flow as a
    whole.
    """

    @register_to_config
    def __init__(
        self, size: int = 64, widths: Sequence[int] = (24, 48, 96), attention: int = 1, layers: int = 1,
        dim: int = 64, expect: int = 12, expect_blocks: int = 1, prior: bool = True, face: bool = False,
        kind: str = "edm", scale: float = 0.024, share: float = 0.2, floor: float = 0.002, whole: float = 0.15,
        max_flow: float = 0.06, steps: int = 8, solver: str = "dpm++", guidance: float = 1.0,
        spread: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        n = len(widths)
        attends = [i >= n - attention for i in range(n)]
        self.regression = MotionGenerator(
            size=size,
            width=expect,
            blocks=expect_blocks,
            template=48 if prior else 0,
            max_flow=max_flow,
            residual=False,
            face=face,
        )
        self.tokens = AUTokens(dim)
        self.unet = UNet2DConditionModel(
            sample_size=size // 2,
            in_channels=2 + 14 + 2,
            out_channels=2,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            cross_attention_dim=dim,
            attention_head_dim=4,
            norm_num_groups=8,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=dim,
        )
        # The first estimate is the process' own: as much of the noise as is likely to be data.
        unet: Any = self.unet
        for parameter in unet.conv_out.parameters():
            torch.nn.init.zeros_(parameter)

    @property
    def process(self) -> Process:
        """How noise is added and taken away, in the unit of ``z``."""
        return Process(kind=self.config["kind"], sigma_data=1.0, sigma_min=_NOISE_MIN, sigma_max=_NOISE_MAX)

    @property
    def sampling(self) -> Sampling:
        """How the network samples unless it is told otherwise."""
        return Sampling(**{name: self.config[name] for name in ("steps", "solver", "guidance", "spread")})

    # ------------------------------------------------------------ data

    def normalised(self, flow: torch.Tensor) -> torch.Tensor:
        """[B,2,h,w] pixels of an h x w grid -> data."""
        return torch.asinh(flow / (flow.shape[-1] * self.config["scale"]))

    def pixels(self, data: torch.Tensor) -> torch.Tensor:
        """Data -> pixels of its own grid."""
        most = float(np.arcsinh(_LONGEST / self.config["scale"]))
        scaled: torch.Tensor = torch.sinh(data.clamp(-most, most)) * (data.shape[-1] * self.config["scale"])
        return scaled

    def expected(self, seen: Encoded, aus: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """[B,2,h,h] pixels of the h grid: the regression's motion of onsets it has looked at (``encode``)."""
        asked = aus * known
        return combine(seen.fields, asked) + self.regression.bent(seen, asked, known, None)[0]

    # ------------------------------------------------------------ network

    def condition(
        self,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor,
        null: torch.Tensor | None = None,
        seen: Encoded | None = None,
    ) -> Conditioning:
        """``null`` [B] bool: rows without condition; ``seen``: what the regression saw of the onsets, if it is known
        (with ``face``, of their landmarks).

        Noise is taken off around the same mean with and without condition: without, the UNet is not told it.
        """
        told = self.tokens(aus, known, null)
        seen = self.regression.encode(onset) if seen is None else seen
        expected = self.expected(seen, aus, known)
        mean = self.normalised(expected.detach())
        shown = mean / self.config["whole"]
        if null is not None:
            shown = shown * ~null[:, None, None, None]
        spread = self._spread(mean, known)
        if self.config["face"]:
            at = seen.uv.detach()
        else:
            across = torch.linspace(-1, 1, mean.shape[-1], device=onset.device, dtype=onset.dtype).expand_as(mean[:, 0])
            at = torch.stack([across, across.transpose(1, 2)], 1)
        picture = torch.cat([F.pixel_unshuffle(2 * onset - 1, 2), at], 1)
        return Conditioning(picture, expected, mean, spread, shown, told.tokens, told.pooled)

    def _spread(self, mean: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        near = self.config["share"] * length_around(mean)
        unknown = 1 - known.flatten(1).to(mean.dtype).mean(1).view(-1, 1, 1, 1)
        return (self.config["floor"] ** 2 + near.square() + self.config["whole"] ** 2 * unknown).sqrt()

    def denoised(self, z: torch.Tensor, sigma: torch.Tensor, asked: Conditioning) -> torch.Tensor:
        """Estimate of the clean ``z`` [B,2,h,h] from one with noise ``sigma`` [B]."""

        unet: Any = self.unet

        def network(inside: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = unet(
                torch.cat([inside, asked.picture, asked.shown], 1),
                level,
                encoder_hidden_states=asked.tokens,
                class_labels=asked.pooled,
            ).sample
            return out

        return self.process.denoised(network, z, sigma)

    def forward(
        self,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor,
        noise: torch.Tensor,
        sampling: Sampling | None = None,
        seen: Encoded | None = None,
    ) -> torch.Tensor:
        """Drawn flow [B,2,h,h] from ``noise`` [B,2,h,h]: means over cells, pixels of the h grid, unlimited. Rows are
        independent."""
        sampling = self.sampling if sampling is None else sampling
        seen = self.regression.encode(onset) if seen is None else seen
        asked = self.condition(onset, aus, known, seen=seen)
        nothing = asked
        if sampling.guidance != 1:
            null = torch.ones(len(onset), dtype=torch.bool, device=onset.device)
            nothing = self.condition(onset, aus, known, null, seen)
        return self.pixels(asked.mean + asked.spread * sample_conditioned(self, asked, nothing, noise, sampling))

    def flow(self, *args: Any, **options: Any) -> torch.Tensor:
        """:meth:`forward`, in pixels of the picture [B,2,S,S] and within :data:`REACH`."""
        size = self.config["size"]
        return limited(resize_flow(from_means(self.forward(*args, **options)), (size, size)), REACH)


def length_around(flow: torch.Tensor) -> torch.Tensor:
    """Mean length of [B,2,h,h] in the 5 x 5 pixels around each -> [B,1,h,h]."""
    length = F.pad(flow.square().sum(1, keepdim=True).sqrt(), (2, 2, 2, 2), mode="replicate")
    return F.avg_pool2d(length, 5, 1)


# ---------------------------------------------------------------- the generator


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
        return next(self.clips_of([request]))

    def clips_of(self, requests: Sequence[ClipRequest]) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """One sampling for all."""
        asked = [ApexRequest(r.face, skin_aus(r.aus), r.seed, tuple(jaw_cells(r.aus))) for r in requests]
        for request, motion in zip(requests, self._motions(asked), strict=True):
            yield motion_clip(motion, request, device=self.frames_on)

    def motions(self, requests: Sequence[ApexRequest]) -> list[FaceMotion]:
        """Apex motions on the faces' own pictures. What a request gives does not depend on the others.

        On the CPU to the bit, as rows go through the network one by one; on CUDA, where they go together, up to the
        rounding of its kernels (within 1e-3 px).

        Raises:
            AUConflictError: AUs that exclude each other.
        """
        return list(self._motions(requests))

    def _motions(self, requests: Sequence[ApexRequest]) -> Iterator[FaceMotion]:
        for request in requests:
            facs.reject_conflicts(request.aus)
        for block in self.blocks(len(requests)):
            rows = requests[block]
            crops = [SimilarityCrop.from_landmarks(r.face.landmarks, self.size) for r in rows]
            for row, crop, drawn in zip(rows, crops, self._drawn(rows, crops), strict=True):
                yield self._on_face(row, crop, drawn)

    @torch.inference_mode()
    def _drawn(self, requests: Sequence[ApexRequest], crops: Sequence[SimilarityCrop]) -> list[_Drawn]:
        h, device = self.size // 2, self.network.device
        pictures = [crop.frames(r.face.image[None])[0] for r, crop in zip(requests, crops, strict=True)]
        onset = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
        aus = torch.from_numpy(np.stack([told(calibrated(r.aus, self.facts)) for r in requests])).to(device)
        known = torch.from_numpy(np.stack([r.aus.mask for r in requests])).to(device)
        noise = [seeds.stream(r.seed, "motion-diffusion").standard_normal((2, h, h), np.float32) for r in requests]
        points = torch.from_numpy(np.stack([c.points(r.face.landmarks) for r, c in zip(requests, crops, strict=True)]))
        flow = torch.zeros(len(requests), 2, h, h, device=device)
        with self.autocast():
            seen = self.network.regression.encode(onset, landmarks=points.to(device))
            # Where nothing is asked nothing moves: no sampler would say so to the bit.
            moving = aus.flatten(1).amax(1) > 0
            if bool(moving.any()):
                drawn = self.network(
                    onset, aus, known, torch.from_numpy(np.stack(noise)).to(device), self.sampling, seen
                ).float()
                flow = torch.where(moving.view(-1, 1, 1, 1), drawn, flow)
        limit, flow = REACH * h, from_means(flow)
        fields = seen.fields.permute(0, 1, 2, 4, 5, 3).float().cpu().numpy()
        apexes = np.ascontiguousarray(flow.permute(0, 2, 3, 1).float().cpu().numpy())
        return [_Drawn(limited_length(apex, limit), of_face) for apex, of_face in zip(apexes, fields, strict=True)]

    def _on_face(self, request: ApexRequest, crop: SimilarityCrop, drawn: _Drawn) -> FaceMotion:
        """The apex as the face's fields, each of which follows its own AU in time, and what is left."""
        height, width = request.face.image.shape[:2]
        cells, h = list(request.cells), self.size // 2
        fields = np.stack([drawn.fields[k, s] for k, s in cells]) if cells else drawn.apex[None][:0]
        left = np.zeros((h, h, 2), np.float32)
        if cells:
            weights = np.array([told(request.aus)[cell] for cell in cells], np.float32)
            left = unfolded(drawn.apex) - np.einsum("a,ahwc->hwc", weights, fields)
        fields = np.stack([*fields, *(drawn.fields[k, s] for k, s in request.jaws)]) if request.jaws else fields
        still = np.zeros((height, width, 3), np.float32)
        motion = face_motion(crop, (height, width), [*cells, *request.jaws], fields, left, still)
        return replace(motion, amounts=drawn_amounts(self.sampling.spread, seeds.stream(request.seed, "layers")))


def load(folder: Path, facts: GeneratorFacts) -> MotionDiffusion:
    """From a checked folder. Raises PipelineError for another network's files, or of another size."""
    return MotionDiffusion(load_sized_network(MotionDiffuser, folder / "generator", facts), facts)
