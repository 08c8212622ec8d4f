"""What the networks share: the contract with the trainer, dropout without a generator, the patch stem, losses.

Parts that several of the published networks share; each gives the same under vmap as one by one.

BatchNorm keeps running statistics and mixes the clips of a batch, so wherever a paper has it, :func:`norm` (GroupNorm,
same number of parameters) stands in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.faces import masks


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the views a network may need."""

    size: int = 28
    """S of "flow" [B,3,S,S]."""
    frame_size: int = 64
    """F of "apex" [B,2,F,F] and "frames" [B,T,F,F]."""
    frames: int = 10
    """T of "frames"."""


class Outputs(NamedTuple):
    """What a network says of a batch."""

    scores: torch.Tensor
    """[B,C]: larger is more likely"""
    au: torch.Tensor | None
    """[B,K*2] logits, or None without an AU head"""
    features: torch.Tensor | None = None
    """[B,D] what the classifier sees, for losses on distances; None: nothing of the kind"""


_MASK = 0xFFFFFFFF


class Dropout(nn.Module):
    """Dropout whose mask is a hash of ``key`` and the place of the number: no generator, so copies under vmap and one
    copy alone draw the same. ``key`` 0 (as saved, and at test) is the identity; the trainer hands in another each step.
    """

    key: torch.Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"dropout={p:g} is outside [0, 1)")
        self.p = p
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,...] of any shape."""
        if self.p == 0:
            return x
        place = torch.arange(x.numel(), device=x.device).reshape(x.shape)
        h = (place * 0x9E3779B1 + self.key * 0x85EBCA6B) & _MASK  # Murmur3's finalizer on 32 bits
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK
        kept = ((h ^ (h >> 16)) >= int(self.p * 2**32)) | (self.key == 0)
        grown = torch.where(self.key == 0, 1.0, 1 / (1 - self.p))
        return x * (kept * grown).to(x.dtype)


class FlowNetwork(nn.Module):
    """Base of the networks. No running statistics and no generator: a vmap over copies is exact.

    ``scale`` [3] is the rms of each channel of the flow over the member's own training clips; the trainer sets it.
    """

    scale: torch.Tensor
    needs: tuple[str, ...] = ("flow",)
    """The views that ``forward`` takes, in this order; see :class:`recognizer.data.FlowSet`."""
    probability_gain = 1.0
    """softmax(probability_gain * scores) are the class probabilities."""
    stack = 16
    """How many members train fastest together on a CPU; see tests/bench/bench_folds.py."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3))

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] with unit rms per channel."""
        return x / self.scale[:, None, None]

    forward: Callable[..., Outputs]
    """(views in the order of ``needs``, each [B,...]) -> :class:`Outputs`."""

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch: y [B] int64, au [B,K*2] with -1 unknown. Default: cross-entropy."""
        return F.cross_entropy(outputs.scores, y)


class RegionStem(nn.Module):
    """Overlapping 6x6 patches at stride 4 -> ``width`` features each -> soft regions with moments.

    The convolution is written as unfold + linear: the input needs no gradient, so the unfolding costs
    no backward pass, and a stack of networks becomes one batched matrix product.
    """

    pool: torch.Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(3 * 6 * 6, width)
        self.register_buffer("pool", torch.from_numpy(masks(size // 4)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] -> [B,R,3*width]."""
        # Views and one copy: four times as fast as F.unfold on a CPU.
        patches = F.pad(x, (1, 1, 1, 1)).unfold(2, 6, 4).unfold(3, 6, 4)
        features = F.gelu(self.patch(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)))
        pooled: torch.Tensor = self.pool @ features
        return pooled.reshape(len(x), -1, 3 * features.shape[-1])


def au_loss(logits: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over the AUs that are known; 0 when none is."""
    known = (au >= 0).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, au.clamp(min=0).to(logits.dtype), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def margin_loss(
    length: torch.Tensor, y: torch.Tensor, *, high: float = 0.9, low: float = 0.1, absent: float = 0.5, power: int = 2
) -> torch.Tensor:
    """Mean over clips of Sabour et al., eq. 4: lengths [B,C], classes y [B]."""
    target = F.one_hot(y, length.shape[-1]).to(length.dtype)
    hit, miss = F.relu(high - length) ** power, F.relu(length - low) ** power
    return (target * hit + absent * (1 - target) * miss).sum(-1).mean()


# ------------------------------------------------------------------- blocks


APEX_INPUTS: dict[str, int] = {"apex": 1, "change": 1, "both": 2}
"""What a network is shown of the view "apex", and how many channels that is."""


def check(
    section: str,
    config: Any,
    *,
    least: Mapping[str, int],
    shares: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raise ConfigError unless fields hold numbers (or tuples of such) >= ``least``, shares in [0,1), known names."""
    for name, low in least.items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(v < low for v in values):
            shown = list(value) if isinstance(value, tuple) else value
            raise ConfigError(f"{section}.{name}={shown} must be at least {low}")
    for name in shares:
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{section}.{name}={getattr(config, name):g} is outside [0, 1)")
    for name, known in (choices or {}).items():
        if getattr(config, name) not in known:
            raise ConfigError(f"{section}.{name}='{getattr(config, name)}' is unknown; choose from {', '.join(known)}")


def norm(channels: int) -> nn.GroupNorm:
    """Stand-in for BatchNorm: groups of up to 8 channels' worth, 2 * ``channels`` parameters."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def after(side: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Side of a map after a convolution or a pooling."""
    return (side + 2 * padding - kernel) // stride + 1


def resized(maps: torch.Tensor, side: int) -> torch.Tensor:
    """[B,C,H,W] -> [B,C,side,side], bilinear; ``side`` 0 leaves the maps as they are."""
    if side in (0, maps.shape[-1]):
        return maps
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False, antialias=False)


def apex_maps(view: torch.Tensor, kind: str) -> torch.Tensor:
    """Onset and apex [B,2,F,F] in [0,1] -> [B,APEX_INPUTS[kind],F,F] in [-1,1]: apex, apex minus onset, or both."""
    apex, change = 2 * view[:, 1:] - 1, view[:, 1:] - view[:, :1]
    return {"apex": apex, "change": change, "both": torch.cat([apex, change], 1)}[kind]


def he(module: nn.Module) -> None:
    """Weights of convolutions by He's rule, biases 0; for ``module.apply``."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Lstm(nn.Module):
    """Long short-term memory, written out: nn.LSTM has no rule for vmap. [B,T,D] -> all states [B,T,H]."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.seen = nn.Linear(inputs, 4 * hidden)
        self.held = nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        gates = self.seen(x)
        state = cell = torch.zeros_like(gates[:, 0, : gates.shape[-1] // 4])
        states = []
        for t in range(x.shape[1]):
            keep, write, show, content = (gates[:, t] + self.held(state)).chunk(4, -1)
            # A forget gate that begins open (Jozefowicz et al., 2015).
            cell = torch.sigmoid(keep + 1) * cell + torch.sigmoid(write) * torch.tanh(content)
            state = torch.sigmoid(show) * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, 1)


def squash(s: torch.Tensor) -> torch.Tensor:
    """Shrink capsules [...,D] to a length in [0,1) and keep their direction (Sabour et al., eq. 1)."""
    square = (s**2).sum(-1, keepdim=True)
    return s * (square / (1 + square) / (square + 1e-8).sqrt())


def route(votes: torch.Tensor, routings: int) -> torch.Tensor:
    """Dynamic routing of votes [B,P,C,D] -> class capsules [B,C,D] (Sabour et al., procedure 1).

    As there, only the last round passes gradients: the coupling coefficients are no parameters.
    """
    fixed = votes.detach()
    logits = torch.zeros_like(fixed[..., 0])
    for _ in range(routings - 1):
        capsules = squash((logits.softmax(-1)[..., None] * fixed).sum(1))
        logits = logits + (fixed * capsules[:, None]).sum(-1)
    return squash((logits.softmax(-1)[..., None] * votes).sum(1))


class ClassCapsules(nn.Module):
    """Primary capsules [B,P,D] -> class capsules [B,C,dim] by dynamic routing (Sabour et al., 2017)."""

    def __init__(self, primaries: int, primary_dim: int, classes: int, dim: int, routings: int) -> None:
        super().__init__()
        self.dim, self.routings = dim, routings
        # sd .01 is published for 1152 primary capsules; fewer of them add up to as much.
        sd = 0.01 * math.sqrt(1152 / primaries)
        self.votes = nn.Parameter(torch.randn(primaries, primary_dim, classes * dim) * sd)

    def forward(self, primary: torch.Tensor) -> torch.Tensor:
        """See the class."""
        votes = torch.einsum("bpi,pio->bpo", squash(primary), self.votes)
        return route(votes.unflatten(2, (-1, self.dim)), self.routings)


def lengths(capsules: torch.Tensor) -> torch.Tensor:
    """[...,D] -> [...], safe to differentiate at 0."""
    return (capsules.square().sum(-1) + 1e-8).sqrt()
