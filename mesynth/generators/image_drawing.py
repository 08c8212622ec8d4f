"""How ``image_diffusion`` draws: what is diffused for a pair of pictures, guidance with two scales, one drawing.

Guidance has a scale for the AUs and one for the onset, as Brooks et al. ("InstructPix2Pix", CVPR 2023, eq. 3) have it
for text and picture, see :func:`two_guided`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mesynth.errors import ConfigError
from mesynth.generators.diffusion.process import Process
from mesynth.generators.diffusion.sampling import Denoise, Sampling, sample
from mesynth.generators.latent import Space
from mesynth.generators.warping import warp

TARGETS = ("change", "picture")
FLOOR = 0.1
"""Intensity below which what is drawn fades out, down to nothing at 0: no jump where a clip starts."""


@dataclass(frozen=True, kw_only=True)
class ImageSampling(Sampling):
    """How pictures are drawn; ``guidance`` is that on the AUs."""

    identity_guidance: float = 1.0
    """Guidance on the onset: 1 is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.identity_guidance <= 20:
            raise ConfigError(f"identity_guidance={self.identity_guidance:g} is outside 0..20")


@dataclass(frozen=True)
class Codec:
    """What is diffused for a pair (onset, frame), and the picture that a diffused code stands for.

    ``target`` "change": asinh(gain (E(frame) - E(onset)) / amount): a change is drawn per unit of intensity, and asinh
    tames its few large values. "picture": gain E(frame).
    """

    space: Space
    target: str
    gain: float

    def clean(self, onset: torch.Tensor, frame: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
        """Codes of onset and frame [B,C,h,w], ``amount`` [B] (:func:`strength`) -> data of the process [B,C,h,w]."""
        if self.target == "picture":
            return self.gain * frame
        return torch.asinh(self.gain * (frame - onset) / amount.view(-1, 1, 1, 1))

    def change(self, x: torch.Tensor, onset: torch.Tensor, amount: torch.Tensor, fade: torch.Tensor) -> torch.Tensor:
        """Data [B,C,h,w] and the onset's code -> change of the picture [B,3,S,S]; 0 to the bit where ``fade`` is 0."""
        if self.target == "picture":
            moved = x / self.gain - onset
        else:
            moved = torch.sinh(x) * (amount.view(-1, 1, 1, 1) / self.gain)
        return self.space.moved(onset, moved * fade.view(-1, 1, 1, 1))

    def still(self, onset: torch.Tensor) -> torch.Tensor:
        """The data of a frame that is the onset, [B,C,h,w]: what kept regions are."""
        return self.gain * onset if self.target == "picture" else torch.zeros_like(onset)


def hinted(network: Any, codec: Codec, picture: torch.Tensor, aus: torch.Tensor, known: torch.Tensor) -> Any:
    """What the motion prior says the data are, [B,C,h,w]: the onset [B,3,S,S] moved by its flow; None if not asked."""
    prior = getattr(network, "prior", None)
    if prior is None:
        return None
    moved = warp(picture, -prior(aus * known)).clamp(0, 1)
    onset, frame = codec.space.encode(torch.cat([picture, moved])).chunk(2)
    return codec.clean(onset, frame, strength(aus, known))


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
    network: Any, process: Process, onset: torch.Tensor, aus: torch.Tensor, known: torch.Tensor,
    sampling: ImageSampling, hint: torch.Tensor | None = None,
) -> Denoise:  # fmt: skip
    """(x [B,C,h,w], sigma [B]) -> guided estimate of the clean data.

    Which of the three estimates are taken depends on the scales alone (a scale of 1 needs fewer), so that the cost and
    the bytes of a row do not depend on its neighbours. They go through the network as one batch.
    """
    identity, scale = sampling.identity_guidance, sampling.guidance
    # (onset left out, AUs left out) -> factor; the factors add up to 1
    factors = {(True, True): 1 - identity, (False, True): identity - scale, (False, False): scale}
    used = [key for key, factor in factors.items() if factor]
    n, k = len(onset), len(used)
    null_onset, null_aus = (
        torch.tensor([key[i] for key in used], device=onset.device).repeat_interleave(n) for i in range(2)
    )
    wide = [t.repeat(k, *[1] * (t.ndim - 1)) for t in (onset, aus, known)]
    hints = () if hint is None else (hint.repeat(k, 1, 1, 1),)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        def told(x_in: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = network(x_in, level, *wide, null_aus, null_onset, *hints)
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
    known: torch.Tensor, noise: torch.Tensor, *, mask: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Draw: onset [B,3,S,S], AUs [B,K,2], noise [B,C,h,w] -> change of the picture [B,3,S,S].

    ``mask`` [B,1,h,w]: 0 where the code stays the onset's.
    """
    code = codec.space.encode(onset)
    keep = None if mask is None else (mask, codec.still(code))
    hint = hinted(network, codec, onset, aus, known)
    denoise = guided_denoiser(network, process, code, aus, known, sampling, hint)
    x = sample(denoise, noise, sampling, process, keep=keep)
    fade = (aus.flatten(1).amax(1) / FLOOR).clamp(max=1)
    return codec.change(x, code, strength(aus, known), fade)
