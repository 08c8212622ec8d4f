"""Diffusion of pictures: any frame of a clip given the onset and the AUs, in pixels or in latents.

A code is what is diffused, [B,channels,side,side]: pixels, or the latents of a frozen autoencoder that the user has.
The network is diffusers' conditional U-Net. The onset's code is concatenated to the noisy one; AU tokens and identity
tokens are attended to; the AUs as one vector are added to the noise level's embedding. What is left out for guidance is
replaced by learned values, for the AUs and for the onset separately. Guidance has a scale for the AUs and one for the
onset, as Brooks et al. ("InstructPix2Pix", CVPR 2023, eq. 3) have it for text and picture, see :func:`two_guided`.

Another generator, the mean model, may say what picture is to be expected of an onset and its AUs; the network
then sees the change that it expects, diffusion draws what is different (docs/decisions/015), and it stays as it is.
``layered``: what is expected is the very frame that generation forms, in layers and with folds, at the frame's own size
(:func:`formed_apex`), and what is drawn is put onto it where the face may move.

By default the change of the picture is diffused and put onto the photo, which keeps the person's own detail; the slow
sibling of the generators that move pixels. Where motion is expected, the photo is moved at its own resolution, and what
is drawn is put on top. The noise of a clip is the same in all its frames, so that a frame is a function of intensity
and nothing flickers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

from mesynth.core import facs, seeds
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector
from mesynth.generators.base import ClipRequest, Generator, calibrated
from mesynth.generators.blocks import Network, group_norm, register_to_config
from mesynth.generators.diffusion import AUTokens, Denoise, sample
from mesynth.generators.diffusion_config import Process
from mesynth.generators.formation import form
from mesynth.generators.image_diffusion.config import (
    Foreign,
    ImageProcess,
    ImageSampling,
    Spread,
    mean_families,
    read_state,
    unfit,
)
from mesynth.generators.motion_gan.network import MotionGAN, MotionGenerator
from mesynth.generators.painting import (
    FLOW_METHOD,
    Base,
    carried_back,
    cell_mask,
    confined,
    named_regions,
    paintable,
    painted_clips,
    region_mask,
)
from mesynth.generators.registry import PriorGenerator
from mesynth.motion.prior import WARP_LIMIT, Face
from mesynth.preprocess.align import SimilarityCrop
from mesynth.store.generator_folder import FAMILIES, UNTRAINED, PipelineError, load_network, load_sized_network

if TYPE_CHECKING:
    from mesynth.core.types import Sample
    from mesynth.store.generator_folder import GeneratorFacts


class Space(Protocol):
    """Pictures [B,3,S,S] in [0,1] to codes and back."""

    channels: int
    side: int

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] -> [B,channels,side,side], about unit variance or in [-1,1]."""
        ...

    def moved(self, code: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """What ``change`` of a code changes in its picture: [B,C,h,w] twice -> [B,3,S,S], exactly 0 for 0."""
        ...


class PixelSpace:
    """Pixels in [-1,1]; ``patch`` x ``patch`` of them become channels (a smaller grid is faster, nothing is lost)."""

    def __init__(self, size: int, patch: int) -> None:
        self.channels, self.side, self._patch = 3 * patch**2, size // patch, patch

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """See :class:`Space`."""
        return F.pixel_unshuffle(2 * picture - 1, self._patch)

    def moved(self, code: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """See :class:`Space`."""
        return F.pixel_shuffle(change, self._patch) / 2


class LatentSpace:
    """Latents of an AutoencoderKL (the mean of its posterior), scaled as its configuration says.

    What the autoencoder itself loses is not put into the picture: a change is the difference of two decoded pictures
    (van den Oord et al., 2017, and Rombach et al., 2022, for latents; the difference is ours).
    """

    def __init__(self, vae: Any, size: int) -> None:
        config = vae.config
        self.vae, self.channels = vae, int(config.latent_channels)
        self.side = size >> (len(config.block_out_channels) - 1)
        self._scale, self._shift = float(config.scaling_factor), float(config.shift_factor or 0.0)

    @torch.no_grad()
    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """See :class:`Space`."""
        latents: torch.Tensor = self.vae.encode(2 * picture - 1).latent_dist.mode()
        return (latents - self._shift) * self._scale

    @torch.no_grad()
    def moved(self, code: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """See :class:`Space`."""
        return (self._decode(code + change) - self._decode(code)) / 2

    def _decode(self, code: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.vae.decode(code / self._scale + self._shift).sample
        return out


_POOLED = 2  # side of the grid that the onset is pooled to: left and right, upper and lower face stay apart


class IdentityTokens(nn.Module):
    """The onset's code [B,C,h,w] -> ``count`` tokens [B,count,dim]: two strided convolutions, pooled, one layer."""

    def __init__(self, channels: int, width: int, count: int, dim: int) -> None:
        super().__init__()
        self.count = count
        self.tower = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1), group_norm(width), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), group_norm(2 * width), nn.SiLU(),
            nn.AdaptiveAvgPool2d(_POOLED), nn.Flatten(), nn.Linear(2 * width * _POOLED**2, count * dim),
        )  # fmt: skip

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.tower(code)
        return out.view(len(code), self.count, -1)


class ImageDenoiser(Network):
    """(noisy code, noise level, onset's code, AUs) -> what :class:`mesynth.generators.diffusion_config.Process` asks.

    ``unet`` is the configuration of a UNet2DConditionModel with ``time_cond_proj_dim`` = ``cross_attention_dim``, see
    :func:`unet_config`. The other values are what a loaded generator needs to know: ``space`` (size, patch or the
    autoencoder), ``target``, ``gain``, ``expect`` (the family that says what is expected, or ""), ``spread``,
    ``layered``, ``process`` and ``sampling`` as their owners' configurations, and ``origin`` (hashes and licences of
    other people's networks).
    """

    @register_to_config
    def __init__(
        self, unet: dict[str, Any], channels: int = 12, identity_tokens: int = 4, identity_width: int = 32,
        size: int = 64, patch: int = 2, target: str = "change", gain: float = 18.0, expect: str = "",
        spread: dict[str, Any] | None = None, process: dict[str, Any] | None = None,
        sampling: dict[str, Any] | None = None, origin: dict[str, str] | None = None, layered: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        body: Any = UNet2DConditionModel(**dict(unet))
        self.body = body
        dim = int(unet["cross_attention_dim"])
        self.tokens = AUTokens(dim)
        self.identity = IdentityTokens(channels, identity_width, identity_tokens, dim)
        self.null_identity = nn.Parameter(0.5 * torch.randn(identity_tokens, dim))
        self.null_onset = nn.Parameter(torch.zeros(channels, 1, 1))
        # At first the network says 0: the best linear denoiser.
        for parameter in self.body.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: torch.Tensor,
        level: torch.Tensor,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor,
        null_aus: torch.Tensor,
        null_onset: torch.Tensor,
        expected: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``x``, ``onset``, ``expected`` [B,C,h,w]; ``level`` [B] in 0..1000; ``aus``, ``known`` [B,K,2]; nulls bool.

        ``expected``: the change that is expected, where the network was made to see one; it tells of onset and AUs and
        is 0 under either null.
        """
        told = self.tokens(aus, known, null_aus)
        identity = torch.where(null_onset[:, None, None], self.null_identity, self.identity(onset))
        shown = torch.where(null_onset[:, None, None, None], self.null_onset, onset)
        seen = [x, shown]
        if expected is not None:
            untold = (null_aus | null_onset)[:, None, None, None]
            seen.append(torch.where(untold, torch.zeros_like(expected), expected))
        out: torch.Tensor = self.body(
            torch.cat(seen, 1),
            level,
            encoder_hidden_states=torch.cat([told.tokens, identity], 1),
            timestep_cond=told.pooled,
            return_dict=False,
        )[0]
        return out


def unet_config(
    *, channels: int, side: int, width: int, multipliers: tuple[int, ...], layers: int, heads: int, dim: int,
    inputs: int = 2,
) -> dict[str, Any]:  # fmt: skip
    """A U-Net from scratch that sees ``inputs`` codes: attention everywhere but at the finest level.

    Raises:
        ConfigError: the code's side cannot be halved that often.
    """
    levels = len(multipliers)
    _check_side(side, levels)
    attends = ["CrossAttnDownBlock2D"] * (levels - 1)
    return {
        "sample_size": side, "in_channels": inputs * channels, "out_channels": channels,
        "block_out_channels": [width * m for m in multipliers], "layers_per_block": layers,
        "down_block_types": ["DownBlock2D", *attends],
        "up_block_types": [*(name.replace("Down", "Up") for name in attends), "UpBlock2D"],
        "attention_head_dim": heads, "norm_num_groups": min(width // 4, 32), "cross_attention_dim": dim,
        "time_cond_proj_dim": dim, "resnet_time_scale_shift": "scale_shift",
    }  # fmt: skip


_UNUSED = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim", "time_cond_proj_dim")
"""Of a base model: each would want an input that we do not have."""


def adopted_config(base: Foreign, *, channels: int, side: int, inputs: int = 2) -> dict[str, Any]:
    """The configuration of a base model's U-Net, widened to ``inputs`` codes and our vector of AUs.

    Raises:
        ConfigError: it works on other channels, or wants inputs that we do not have (SDXL's sizes, class labels).
    """
    config = dict(base.config)
    for name in _UNUSED:
        if config.get(name) is not None:
            raise ConfigError(
                f"model.base={base.folder} has {name}={config[name]}, which is not supported; use SD 1 or 2"
            )
    taken, given, dim = config.get("in_channels"), config.get("out_channels"), config.get("cross_attention_dim")
    if taken not in (channels, inputs * channels) or given != channels:
        raise ConfigError(
            f"model.base={base.folder} maps {taken} channels to {given}, codes here have {channels}; "
            "use the base model that belongs to model.vae"
        )
    if not isinstance(dim, int):
        raise ConfigError(f"model.base={base.folder} has cross_attention_dim={dim}; one number is supported")
    _check_side(side, len(config.get("block_out_channels", ())))
    return config | {"in_channels": inputs * channels, "sample_size": side, "time_cond_proj_dim": dim}


def adopt_weights(network: ImageDenoiser, base: Foreign) -> None:
    """Start from a base model: its weights, with zeros for the further channels, so that at first it sees x alone.

    After Brooks et al. ("InstructPix2Pix", 2023), who widened Stable Diffusion in this way.

    Raises:
        WeightsUnavailable: the file does not fit its own configuration.
    """
    state = read_state(base)
    wide = network.body.state_dict()
    try:
        given = state["conv_in.weight"]
        state["conv_in.weight"] = torch.cat([given, given.new_zeros(wide["conv_in.weight"].shape).narrow(
            1, given.shape[1], wide["conv_in.weight"].shape[1] - given.shape[1])], 1)  # fmt: skip
        own = {name: 0 * wide[name] for name in wide if name.startswith("time_embedding.cond_proj")}
        network.body.load_state_dict(state | own)
    except (KeyError, RuntimeError, IndexError) as error:
        raise unfit(base, error) from None


def _check_side(side: int, levels: int) -> None:
    if levels < 1 or side % (1 << (levels - 1)) or side >> (levels - 1) < 2:
        raise ConfigError(
            f"codes of {side} x {side} cannot be halved {levels - 1} times; use fewer levels or another size"
        )


# ---------------------------------------------------------------- drawing


FLOOR = 0.1
"""Intensity below which what is drawn fades out, down to nothing at 0: no jump where a clip starts."""
_LARGEST = 8.0
"""No change is larger than this many spreads (without mean model: than its hyperbolic sine)."""


def expected_picture(network: Any, onset: torch.Tensor, aus: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The frame [B,3,S,S] of onsets [B,3,S,S] in [0,1] and AUs [B,K,2]; of unknown AUs rest is expected.

    Where no AU is asked for it is the onset to the bit. Without gradients.
    """
    with torch.no_grad():
        made = network(onset, aus * known)
        picture: torch.Tensor = made.picture if hasattr(made, "picture") else form(onset, made)
    return picture


def build_mover(family: str, network: Any, facts: GeneratorFacts) -> Generator:
    """Who forms the frames of a mean model: a family without training (``network`` None), or a motion_gan's network.

    It is asked with gains applied, which are those of ``facts``' generator.
    """
    return PriorGenerator(family) if network is None else MotionGAN(network, replace(facts, gains={}))


def formed_apex(mover: Generator, face: Face, aus: AUVector, seed: int = 0) -> np.ndarray:
    """The frame [H,W,3] uint8 that ``mover`` forms of a face at the apex of ``aus``, without any nuisance."""
    clip, _ = mover.clip_of(ClipRequest(face, aus, Profile(apex=0.5), 3, 100.0, seed=seed))
    return np.asarray(clip.clip.frames[1])


def reachable(family: str, aus: AUVector) -> AUVector:
    """What a mean model is asked for: AUs that a generator without training shows in part alone, as far as it does."""
    over = [facs.AU_INDEX[code] for code, most in WARP_LIMIT.items() if aus.intensity[facs.AU_INDEX[code]].max() > most]
    if family not in UNTRAINED or not over:
        return aus
    intensity = aus.intensity.copy()
    for code, most in WARP_LIMIT.items():
        intensity[facs.AU_INDEX[code]] = intensity[facs.AU_INDEX[code]].clip(max=most)
    return AUVector(intensity, aus.known)


@dataclass(frozen=True, eq=False)
class Former:
    """A :data:`mesynth.training.data.pack.Form`: what generation forms of a face; AUs that exclude each other are
    damped."""

    family: str
    network: Any
    facts: GeneratorFacts | None

    def __call__(self, onset: np.ndarray, landmarks: np.ndarray, aus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :data:`mesynth.training.data.pack.Form`."""
        facts = self.facts or PriorGenerator(self.family).facts
        mover, face = build_mover(self.family, self.network, facts), Face(onset, landmarks)
        wanted = [reachable(mover.family, facs.damp(AUVector(row))) for row in aus]
        made = [formed_apex(mover, face, row) if row.intensity.any() else onset for row in wanted]
        return np.stack(made) if made else onset[None][:0], paintable(face)


def load_mean_model(family: str, folder: Path) -> Any:
    """The network of a family in a folder that holds its ``config.json`` and weights; frozen.

    Raises:
        PipelineError: a family whose pictures are drawn, or weights of another class.
    """
    if family not in mean_families():
        raise PipelineError(f"{folder} is said to be a {family}; a mean model is a {' or '.join(mean_families())}")
    network: Any = load_network(FAMILIES[family].mean_network_class, folder)
    return network.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Around:
    """What pictures are drawn around: all of a request that does not change while they are sampled."""

    onset: torch.Tensor
    """[B,C,h,w]: its code"""
    mean: torch.Tensor
    """[B,C,h,w]: the code of the picture that is expected; the onset's where no other generator says one"""
    spread: torch.Tensor
    """[B,1,h,w] or [B,1,1,1]: how far a code is likely to lie from the mean"""
    shown: torch.Tensor | None
    """[B,C,h,w]: the change that is expected, as the network is told it; None where nothing is expected"""


@dataclass(frozen=True)
class Codec:
    """What is diffused for a pair (onset, frame), and the picture that a diffused code stands for.

    ``target`` "change" with a ``mean_model``: (E(frame) - mean) / spread, around the picture that another generator
    says, spread as :class:`Spread` has it; what lies further off than :data:`_LARGEST` is cut. Without: asinh(gain
    (E(frame) - E(onset)) / amount): a change is drawn per unit of intensity, and asinh tames its few large values.
    "picture": gain E(frame).
    """

    space: Space
    target: str
    gain: float
    mean_model: Any = None
    """Network of another generator, see :func:`load_mean_model`."""
    spread: Spread = Spread()
    layered: bool = False
    """Whether what is expected are frames in layers, which whoever asks has formed."""

    @property
    def expects(self) -> bool:
        """Whether there is a picture that is expected, and what is drawn is scaled by ``spread``."""
        return self.layered or self.mean_model is not None

    def around(
        self, picture: torch.Tensor, aus: torch.Tensor, known: torch.Tensor, formed: torch.Tensor | None = None
    ) -> Around:
        """Of onsets [B,3,S,S] in [0,1] and AUs [B,K,2]; ``formed`` [B,3,S,S]: the frames in layers, if ``layered``."""
        if not self.expects:
            code = self.space.encode(picture)
            return Around(code, code, (strength(aus, known) / self.gain).view(-1, 1, 1, 1), None)
        if self.layered:
            assert formed is not None
            expected = formed
        else:
            expected = expected_picture(self.mean_model, picture, aus, known)
        onset, mean = self.space.encode(torch.cat([picture, expected])).chunk(2)
        change = mean - onset
        return Around(onset, mean, self.spread.of(change, known), change / self.spread.sigma_data)

    def clean(self, frame: torch.Tensor, around: Around) -> torch.Tensor:
        """Code of frames [B,C,h,w] -> data of the process [B,C,h,w]."""
        if self.target == "picture":
            return self.gain * frame
        scaled = (frame - around.mean) / around.spread
        return scaled.clamp(-_LARGEST, _LARGEST) if self.expects else torch.asinh(scaled)

    def change(
        self, x: torch.Tensor, around: Around, fade: torch.Tensor, keep: torch.Tensor | None, *, whole: bool = True
    ) -> torch.Tensor:
        """Data [B,C,h,w] -> change of the picture [B,3,S,S].

        ``fade`` [B]: share of what is drawn; ``keep`` [B,1,h,w]: 0 where the code stays the onset's. Where nothing is
        expected the change is 0 to the bit at ``fade`` 0, and where ``keep`` is. ``whole`` False: how the picture
        differs from the expected one, instead of from the onset.
        """
        if self.target == "picture":
            moved = (x / self.gain - around.onset) * fade.view(-1, 1, 1, 1)
        else:
            bounded = x.clamp(-_LARGEST, _LARGEST)
            # No sinh around a mean model: it made single cells of lips and lids glow (docs/decisions/015).
            drawn = bounded if self.expects else torch.sinh(bounded)
            moved = drawn * around.spread * fade.view(-1, 1, 1, 1)
            if not whole:
                return self.space.moved(around.mean, moved if keep is None else moved * keep)
            moved = (around.mean - around.onset) + moved
        return self.space.moved(around.onset, moved if keep is None else moved * keep)

    def still(self, around: Around) -> torch.Tensor:
        """The data of a frame that is the onset, [B,C,h,w], as far as data can say it: what kept regions are."""
        return self.clean(around.onset, around)


def strength(aus: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """What a change is divided by, [B]: the largest AU [B,K,2], :data:`FLOOR` at least; 1 if any AU is unknown."""
    largest = (aus * known).flatten(1).amax(1).clamp(min=FLOOR)
    return torch.where(known.flatten(1).all(1), largest, torch.ones_like(largest))


def two_guided(
    none: torch.Tensor, onset: torch.Tensor, both: torch.Tensor, identity: float, aus: float
) -> torch.Tensor:
    """``e(0,0) + s_id (e(onset,0) - e(0,0)) + s_au (e(onset,aus) - e(onset,0))`` (InstructPix2Pix, eq. 3).

    ``none``, ``onset``, ``both``: estimates under no condition, the onset alone, onset and AUs.
    """
    return none + identity * (onset - none) + aus * (both - onset)


def guided_denoiser(
    network: Any, process: Process, around: Around, aus: torch.Tensor, known: torch.Tensor, sampling: ImageSampling
) -> Denoise:  # fmt: skip
    """(x [B,C,h,w], sigma [B]) -> guided estimate of the clean data.

    Which of the three estimates are taken depends on the scales alone (a scale of 1 needs fewer), so that the cost and
    the bytes of a row do not depend on its neighbours. They go through the network as one batch.
    """
    identity, scale = sampling.identity_guidance, sampling.guidance
    # (onset left out, AUs left out) -> factor; the factors add up to 1
    factors = {(True, True): 1 - identity, (False, True): identity - scale, (False, False): scale}
    used = [key for key, factor in factors.items() if factor]
    n, k = len(aus), len(used)
    null_onset, null_aus = (
        torch.tensor([key[i] for key in used], device=aus.device).repeat_interleave(n) for i in range(2)
    )
    wide = [t.repeat(k, *[1] * (t.ndim - 1)) for t in (around.onset, aus, known)]
    shown = None if around.shown is None else around.shown.repeat(k, 1, 1, 1)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        def told(x_in: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = network(x_in, level, *wide, null_aus, null_onset, shown)
            return out

        each = process.denoised(told, x.repeat(k, 1, 1, 1), sigma.repeat(k)).chunk(k)
        if k == 1:
            return each[0]
        by_key, untaken = dict(zip(used, each, strict=True)), torch.zeros_like(x)
        none, alone, both = (by_key.get(key, untaken) for key in factors)
        return two_guided(none, alone, both, identity, scale)

    return denoise


def painted(
    network: Any, codec: Codec, process: Process, sampling: ImageSampling, onset: torch.Tensor, aus: torch.Tensor,
    known: torch.Tensor, noise: torch.Tensor, *, mask: torch.Tensor | None = None, whole: bool = True,
    formed: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Draw: onset [B,3,S,S], AUs [B,K,2], noise [B,C,h,w] -> change of the picture [B,3,S,S].

    ``mask`` [B,1,h,w]: 0 where the code stays the onset's; ``whole``: see :meth:`Codec.change`; ``formed``: see
    :meth:`Codec.around`.
    """
    around = codec.around(onset, aus, known, formed)
    keep = None if mask is None else (mask, codec.still(around))
    denoise = guided_denoiser(network, process, around, aus, known, sampling)
    x = sample(denoise, noise, sampling, process, keep=keep)
    return codec.change(x, around, faded(aus), mask, whole=whole)


def faded(aus: torch.Tensor) -> torch.Tensor:
    """Share [B] of what is drawn for AUs [B,K,2]: 0 at 0, 1 from :data:`FLOOR`."""
    return (aus.flatten(1).amax(1) / FLOOR).clamp(max=1)


# ---------------------------------------------------------------- the generator


class _Bases:
    """Clips of a mover for painters, request by request, each made when it is first asked for and kept until the next
    is begun. What moves the photo moves all of it: painting is put onto whole pictures."""

    def __init__(self, mover: Generator, requests: Sequence[ClipRequest], size: int, layered: bool) -> None:
        self._requests = [replace(r, face=r.face.whole, aus=reachable(mover.family, r.aus)) for r in requests]
        self._clips = enumerate(mover.clips_of(self._requests))
        self._size, self._layered = size, layered
        self._made: dict[int, Base] = {}

    def _base(self, i: int) -> Base:
        while i not in self._made:
            place, (moved, warnings) = next(self._clips)
            if self._layered:
                share = paintable(self._requests[place].face)
                made = Base(moved.clip.frames, warnings, moved.flow, share)
            else:
                made = Base(moved.clip.frames, warnings)
            self._made[place] = made
        return self._made[i]

    def __iter__(self) -> Iterator[Base]:
        for i in range(len(self._requests)):
            yield self._base(i)
            self._made.pop(i)

    def crops(self, rows: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Frames (request, frame) in the crops of their faces, [N,3,S,S] in [0,1]."""
        seen = np.empty((len(rows), self._size, self._size, 3), np.uint8)
        for row, (i, t) in enumerate(rows):
            frames = self._base(i).frames
            assert frames is not None
            crop = SimilarityCrop.from_landmarks(self._requests[i].face.landmarks, self._size)
            seen[row] = crop.frames(frames[t : t + 1])[0]
        return torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255


FAMILY = "image_diffusion"

_BLOCK = 64  # pictures drawn together elsewhere than on the CPU


class ImageDiffusion(Generator):
    """A saved image diffusion model as a generator; see :class:`mesynth.generators.base.Generator`.

    On the CPU every row is drawn by itself and has the same bytes in any batch; on CUDA rows are drawn together and
    agree within 1e-3 of the grey range.
    """

    family = FAMILY

    def __init__(self, network: ImageDenoiser, facts: GeneratorFacts, vae: Any = None, mean_model: Any = None) -> None:
        config: Any = network.config
        self.network, self.facts, self.vae = network.eval().requires_grad_(False), facts, vae
        self.mean_model = mean_model
        self.size: int = config["size"]
        self.process = ImageProcess(**(config["process"] or {}))
        self.sampling = ImageSampling(**(config["sampling"] or {}))
        self.regions: tuple[str, ...] = ()
        self._place()

    def _place(self) -> None:
        config: Any = self.network.config
        space: Space = LatentSpace(self.vae, self.size) if self.vae else PixelSpace(self.size, config["patch"])
        spread = Spread.read(config["spread"] or {})
        self.codec = Codec(space, config["target"], config["gain"], self.mean_model, spread, config["layered"])

    def _networks(self) -> list[Any]:
        return [network for network in (self.network, self.vae, self.mean_model) if network is not None]

    def configured(self, **options: object) -> ImageDiffusion:
        """The same networks with other settings: ``steps``, ``solver``, ``guidance`` (AUs), ``identity_guidance``,
        and ``regions``: names joined with ``+`` outside which nothing changes ("" for the whole face).

        Values may be texts, as from a command line.

        Raises:
            MesynthError: an unknown option, or a value that does not fit it.
        """
        kinds = {f.name: type(getattr(self.sampling, f.name)) for f in fields(self.sampling)}
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        for name, value in options.items():
            if name == "regions":
                made.regions = named_regions(str(value)) if value else ()
                continue
            if name not in kinds:
                raise MesynthError(f"{FAMILY} has no option '{name}'; choose from {', '.join([*kinds, 'regions'])}")
            try:
                number: Any = kinds[name](value)
            except (TypeError, ValueError):
                raise MesynthError(f"{name}={value!r} is no {kinds[name].__name__}; give one") from None
            made.sampling = replace(made.sampling, **{name: number})
        return made

    def clip_of(self, request: ClipRequest) -> tuple[Sample, tuple[str, ...]]:
        """See :meth:`clips_of`."""
        return next(self.clips_of([request]))

    def clips_of(self, requests: Sequence[ClipRequest]) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """See :func:`mesynth.generators.painting.painted_clips` for sizes and errors.

        With ``regions`` everything outside them is the face's picture, to the bit where there is no sensor noise.

        Raises:
            MesynthError: also regions that do not lie in the picture.
        """
        photos = [
            region_mask(r.face.landmarks, r.face.image.shape[:2], self.regions) if self.regions else None
            for r in requests
        ]
        cells = [self._cells(r.face) for r in requests]
        known = torch.from_numpy(np.stack([r.aus.mask for r in requests])).to(self.network.device)
        mover = self._mover()
        asked = [replace(r, aus=calibrated(r.aus, self.facts)) for r in requests]
        quiet = [replace(r, nuisance=replace(r.nuisance, noise=0.0)) for r in asked]
        bases: _Bases | None = None
        # Head motion and style are refused by the painter, before a base is asked for.
        if mover is not None and not any(r.nuisance.head or r.nuisance.style for r in quiet):
            bases = _Bases(mover, quiet, self.size, self.codec.layered)

        def paint(
            onset: torch.Tensor, now: torch.Tensor, alpha: torch.Tensor, rows: Sequence[tuple[int, int]]
        ) -> torch.Tensor:
            which, formed = [i for i, _ in rows], None
            if self.codec.layered:
                assert bases is not None
                formed = bases.crops(rows).to(onset.device)
            # A blink that was drawn is known, whatever the request says of AU 45.
            return self.changes(
                onset, now, known[which] | (now > 0), [requests[i].seed for i in which],
                [cells[i] for i in which], whole=mover is None, formed=formed,
            )  # fmt: skip

        painted_ones = painted_clips(self, paint, quiet if self.regions else asked, bases=bases)
        for request, photo, (clip, warnings) in zip(requests, photos, painted_ones, strict=True):
            if photo is not None:
                clip = confined(
                    clip, request.face.image, photo, nuisance=request.nuisance, seed=request.seed,
                    flow_method=FLOW_METHOD,
                )  # fmt: skip
            yield clip, warnings

    def _mover(self) -> Generator | None:
        """Who moves the photo, where it is motion that is expected; it is asked with gains applied."""
        if not isinstance(self.mean_model, MotionGenerator) and not self.codec.layered:
            return None
        mover = build_mover(str(self.network.config["expect"]), self.mean_model, self.facts)
        for name in ("device", "precision", "rows_at_once", "torch_frames"):
            setattr(mover, name, getattr(self, name))
        return mover

    @torch.inference_mode()
    def pictures(self, faces: Sequence[Face], aus: Sequence[AUVector], row_seeds: Sequence[int]) -> list[np.ndarray]:
        """Apex pictures of many faces, each at its own size, uint8 [H,W,3]; ``row_seeds``: one a face.

        Raises:
            MesynthError: AUs that exclude each other, or lists of different lengths.
        """
        if not len(faces) == len(aus) == len(row_seeds):
            raise MesynthError(f"{len(faces)} faces, {len(aus)} AUs and {len(row_seeds)} seeds; give equally many")
        for asked in aus:
            facs.reject_conflicts(asked)
        wanted, mover = [calibrated(asked, self.facts) for asked in aus], self._mover()
        out: list[np.ndarray] = []
        for start in range(0, len(faces), _BLOCK):
            part = slice(start, start + _BLOCK)
            crops = [SimilarityCrop.from_landmarks(face.landmarks, self.size) for face in faces[part]]
            cut = np.concatenate([c.frames(f.image[None]) for c, f in zip(crops, faces[part], strict=True)])
            told = [np.stack(x) for x in zip(*((a.intensity, a.mask) for a in wanted[part]), strict=True)]
            onset, asked_for, known = (torch.from_numpy(x).to(self.network.device) for x in (cut, *told))
            onset = onset.permute(0, 3, 1, 2).float() / 255
            places = [self._cells(face) for face in faces[part]]
            unders = [face.image for face in faces[part]]
            if mover is not None:
                unders = [
                    formed_apex(mover, face.whole, reachable(mover.family, asked), seed)
                    for face, asked, seed in zip(faces[part], wanted[part], row_seeds[part], strict=True)
                ]
            formed = None
            if self.codec.layered:
                seen = np.concatenate([c.frames(under[None]) for c, under in zip(crops, unders, strict=True)])
                formed = torch.from_numpy(seen).to(onset.device).permute(0, 3, 1, 2).float() / 255
            change = self.changes(onset, asked_for, known, row_seeds[part], places, whole=mover is None, formed=formed)
            rows = zip(faces[part], crops, unders, change.permute(0, 2, 3, 1).cpu().numpy(), strict=True)
            for face, crop, under, moved in rows:
                shape = face.image.shape[:2]
                drawn = carried_back(moved[None], crop, shape)[0]
                if self.codec.layered:
                    drawn = drawn * paintable(face.whole)[..., None]
                made = np.clip(under + 255 * drawn + 0.5, 0, 255).astype(np.uint8)
                if self.regions:
                    made = np.where(region_mask(face.landmarks, shape, self.regions)[..., None], made, face.image)
                out.append(made)
        return out

    def _cells(self, face: Face) -> np.ndarray | None:
        """[side,side] bool: cells of the code that may change, or None for all."""
        if not self.regions:
            return None
        crop = SimilarityCrop.from_landmarks(face.landmarks, self.size)
        mask = region_mask(crop.points(face.landmarks), (self.size, self.size), self.regions)
        return cell_mask(mask, self.codec.space.side)

    @torch.inference_mode()
    def changes(
        self,
        onset: torch.Tensor,
        aus: torch.Tensor,
        known: torch.Tensor,
        row_seeds: Sequence[int],
        cells: Sequence[np.ndarray | None] | None = None,
        *,
        whole: bool = True,
        formed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Change of crops [B,3,S,S] in [0,1], each row with the noise of its own seed.

        ``aus``, ``known`` [B,K,2]; ``cells``: of each row what of the code may change, [side,side] bool, None for all;
        ``whole``: from the onset, else from what is expected; ``formed`` [B,3,S,S]: see :meth:`Codec.around`.
        A row without AUs is 0 and costs nothing.
        """
        moving = aus.flatten(1).amax(1) > 0
        out = torch.zeros_like(onset)
        shape = (self.codec.space.channels, self.codec.space.side, self.codec.space.side)
        rows = torch.arange(len(onset), device=onset.device)[moving]
        for part in rows.split(self.rows_at_once or (1 if onset.device.type == "cpu" else _BLOCK)):
            if not len(part):  # an empty tensor is split into one empty part
                break
            drawn = [seeds.stream(int(row_seeds[i]), FAMILY).standard_normal(shape, np.float32) for i in part.tolist()]
            noise = torch.from_numpy(np.stack(drawn)).to(onset.device)
            kept = None
            if cells is not None and cells[0] is not None:
                kept = torch.from_numpy(np.stack([cells[i] for i in part.tolist()])[:, None]).to(noise)
            with self.autocast():
                out[part] = painted(
                    self.network, self.codec, self.process, self.sampling, onset[part], aus[part], known[part], noise,
                    mask=kept, whole=whole, formed=None if formed is None else formed[part],
                ).to(out.dtype)  # fmt: skip
        return out


def load(folder: Path, facts: GeneratorFacts) -> ImageDiffusion:
    """From a checked pipeline folder, with the networks of others that were copied into it.

    Raises:
        PipelineError: weights of another class, or networks that do not belong together.
    """
    network = load_sized_network(ImageDenoiser, folder / "denoiser", facts)
    vae = None
    if "vae" in facts.networks:
        from diffusers import AutoencoderKL

        vae = load_network(AutoencoderKL, folder / "vae")
    family: str = network.config["expect"]
    learned = bool(family) and family not in UNTRAINED
    if learned != ("expected" in facts.networks):
        raise PipelineError(f"{folder} is to hold {family if learned else 'no'} network 'expected'; copy it again")
    mean_model = load_mean_model(family, folder / "expected") if learned else None
    forms = family in UNTRAINED, family == MotionGAN.family
    if network.config["layered"] not in ((True,) if forms[0] else (True, False) if forms[1] else (False,)):
        raise PipelineError(f"{folder} draws around {family or 'nothing'}, which has no such frames; retrain it")
    try:
        return ImageDiffusion(network, facts, vae, mean_model)
    except (KeyError, TypeError, ConfigError) as error:
        raise PipelineError(f"{folder} has settings that do not fit ({error}); retrain it") from None
