"""How ``image_diffusion`` draws: what is diffused for a pair of pictures, guidance with two scales, one drawing.

Another saved generator, the mean model, may say what picture is to be expected of an onset and its AUs; diffusion then
draws what is different (docs/decisions/015). It stays as it is. Guidance has a scale for the AUs and one for the onset,
as Brooks et al. ("InstructPix2Pix", CVPR 2023, eq. 3) have it for text and picture, see :func:`two_guided`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mesynth.generators.diffusion.config import Process
from mesynth.generators.diffusion.sampling import Denoise, sample
from mesynth.generators.formation import form
from mesynth.generators.image_diffusion.config import ImageSampling, Spread, mean_families
from mesynth.generators.image_diffusion.network import Space
from mesynth.store.generator_folder import FAMILIES, PipelineError, load_network

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

    def around(self, picture: torch.Tensor, aus: torch.Tensor, known: torch.Tensor) -> Around:
        """Of onsets [B,3,S,S] in [0,1] and AUs [B,K,2]."""
        if self.mean_model is None:
            code = self.space.encode(picture)
            return Around(code, code, (strength(aus, known) / self.gain).view(-1, 1, 1, 1), None)
        expected = expected_picture(self.mean_model, picture, aus, known)
        onset, mean = self.space.encode(torch.cat([picture, expected])).chunk(2)
        change = mean - onset
        return Around(onset, mean, self.spread.of(change, known), change / self.spread.sigma_data)

    def clean(self, frame: torch.Tensor, around: Around) -> torch.Tensor:
        """Code of frames [B,C,h,w] -> data of the process [B,C,h,w]."""
        if self.target == "picture":
            return self.gain * frame
        scaled = (frame - around.mean) / around.spread
        return torch.asinh(scaled) if self.mean_model is None else scaled.clamp(-_LARGEST, _LARGEST)

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
            drawn = torch.sinh(bounded) if self.mean_model is None else bounded
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
) -> torch.Tensor:  # fmt: skip
    """Draw: onset [B,3,S,S], AUs [B,K,2], noise [B,C,h,w] -> change of the picture [B,3,S,S].

    ``mask`` [B,1,h,w]: 0 where the code stays the onset's; ``whole``: see :meth:`Codec.change`.
    """
    around = codec.around(onset, aus, known)
    keep = None if mask is None else (mask, codec.still(around))
    denoise = guided_denoiser(network, process, around, aus, known, sampling)
    x = sample(denoise, noise, sampling, process, keep=keep)
    fade = (aus.flatten(1).amax(1) / FLOOR).clamp(max=1)
    return codec.change(x, around, fade, mask, whole=whole)
