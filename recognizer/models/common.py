"""What the networks share: the contract with the trainer, dropout without a generator, norms, losses, parts of several.

Each part gives the same under vmap as one by one. Where a paper or its authors' code has BatchNorm, so do the networks
here (:class:`BatchNorm`); :func:`norm` stands where neither says what is normalised. What others bring, any
``torch.nn.Module`` and any scikit-learn classifier, is made fit for the trainer by :func:`untrained`.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.emotions import PUBLISHED
from mesynth.core.errors import ConfigError
from mesynth.core.facs import AU_INDEX
from mesynth.core.types import N_AUS
from recognizer.models.faces import masks
from recognizer.views import Shape as Shape


class Outputs(NamedTuple):
    """What a network says of a batch."""

    scores: torch.Tensor
    """[B,C]: larger is more likely"""
    au: torch.Tensor | None
    """[B,K*2] logits, or None without an AU head"""
    features: torch.Tensor | None = None
    """[B,D] what the classifier sees, for losses on distances; None: nothing of the kind"""
    more: dict[str, torch.Tensor] | None = None
    """What else the network's own loss needs, by name."""


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
        place = torch.arange(x.numel(), device=x.device, dtype=torch.int32).reshape(x.shape)
        h = place * _signed(0x9E3779B1) + ((self.key * 0x85EBCA6B) & 0xFFFFFFFF).to(torch.int32)
        # Murmur3's finalizer on 32 bits, in place: fresh memory costs more than the numbers.
        h ^= (h >> 16) & 0xFFFF
        h *= _signed(0x85EBCA6B)
        h ^= (h >> 13) & 0x7FFFF
        h *= _signed(0xC2B2AE35)
        h ^= (h >> 16) & 0xFFFF
        h ^= -(2**31)  # comparisons know signed numbers alone
        kept = (h >= int(self.p * 2**32) - 2**31) | (self.key == 0)
        return x * kept.to(x.dtype).mul_(torch.where(self.key == 0, 1.0, 1 / (1 - self.p)))


def _signed(word: int) -> int:
    """A word of 32 bits as a signed number; products of such wrap."""
    return word - 2**32 if word >= 2**31 else word


class BatchNorm(nn.Module):
    """BatchNorm (Ioffe and Szegedy, 2015) of [B,C,...] for maps of any number of dimensions, as ``nn.BatchNorm1d`` to
    ``3d`` compute it: in training by the batch's own mean and variance, at test by the running ones.

    Training changes the running statistics in place. The trainer stacks them over members like parameters, so that each
    member keeps its own, and a member of a stack gets what it gets alone.

    >>> layer, x = BatchNorm(2), torch.randn(4, 2, 5)
    >>> torch.allclose(layer(x), nn.BatchNorm1d(2)(x), atol=1e-6)
    True
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    momentum = 0.1
    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,C,...] -> the same shape. Raises ConfigError in training where a channel is one number alone."""
        if self.training and x.numel() == x.shape[1]:
            raise ConfigError(
                "train.batch=1 leaves BatchNorm one number a channel, which has no variance; set train.batch=2 or more"
            )
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def gain_and_shift(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        """The same for maps whose ``mean`` and ``variance`` [C] over ``count`` numbers are known already: gain and
        shift [C] of gain * x + shift."""
        if self.training:
            with torch.no_grad():
                self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
                self.running_var.mul_(1 - self.momentum).add_(self.momentum * count / (count - 1) * variance)
        else:
            mean, variance = self.running_mean, self.running_var
        gain = self.weight * (variance + self.eps).rsqrt()
        return gain, self.bias - mean * gain


class FlowNetwork(nn.Module):
    """Base of the networks. No generator, and no state but buffers that are changed in place: a vmap over copies, with
    their buffers stacked as well, is exact.

    ``scale`` [3] is the rms of each channel of the flow over the member's own training clips; the trainer sets it.
    """

    scale: torch.Tensor
    needs: tuple[str, ...] = ("flow",)
    """The views that ``forward`` takes, in this order: names of :data:`recognizer.views.VIEWS`, in the shapes of
    :class:`Shape`, float32."""
    needs_meta: tuple[str, ...] = ()
    """What its own loss is told of each clip beside the class: names of :data:`recognizer.data.META`."""
    mirrored = False
    """Whether a clip's probabilities are the mean of its own and of those of its mirror image."""
    probability_gain = 1.0
    """softmax(probability_gain * scores) are the class probabilities."""
    centre = 0.0
    """The score at which what it stands for is as likely as not: .5 where scores are lengths of capsules."""
    stack = 16
    """How many members train fastest together on a CPU; see tests/bench/bench_folds.py."""
    alone = False
    """Whether it draws from torch's generator or replaces its buffers, so that members cannot train together."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3))

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """[B,3,S,S] with unit rms per channel."""
        return x / self.scale[:, None, None]

    def odds(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of outputs that do not exclude each other -> their log odds."""
        return self.probability_gain * (scores - self.centre)

    forward: Callable[..., Outputs]
    """(views in the order of ``needs``, each [B,...]) -> :class:`Outputs`."""

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch: y [B] int64, au [B,K*2] with -1 unknown. Default: cross-entropy."""
        return F.cross_entropy(outputs.scores, y)

    def meta_loss(
        self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor, meta: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """:meth:`loss` of a network that ``needs_meta``: each of these [B] int64, -1 unknown, and what is unknown does
        not count."""
        return self.loss(outputs, y, au)


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


def known_mean(each: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean of a loss [B] over the clips it is ``known`` [B] for; 0 when it is for none."""
    return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)


def margin_loss(
    length: torch.Tensor, y: torch.Tensor, *, high: float = 0.9, low: float = 0.1, absent: float = 0.5, power: int = 2
) -> torch.Tensor:
    """Mean over clips of Sabour et al., eq. 4: lengths [B,C], classes y [B]."""
    target = F.one_hot(y, length.shape[-1]).to(length.dtype)
    hit, miss = F.relu(high - length) ** power, F.relu(length - low) ** power
    return (target * hit + absent * (1 - target) * miss).sum(-1).mean()


# ---------------------------------------------------------------- parts of published networks


APEX_INPUTS: dict[str, int] = {"apex": 1, "change": 1, "both": 2}


@dataclass(frozen=True, kw_only=True)
class ApexCapsules:
    """What networks have in common that read an apex and answer in capsules."""

    input: str = "apex"
    """apex (published), change (apex minus onset) or both."""
    class_dim: int = 16
    routings: int = 3

    def check(self, section: str, least: Mapping[str, int], **choices: Sequence[str]) -> None:
        """As :func:`check`, with what is common."""
        inputs = {"input": tuple(APEX_INPUTS)}
        check(section, self, least={**least, "class_dim": 1, "routings": 1}, choices={**choices, **inputs})


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
    """GroupNorm where no publication says what is normalised: up to 8 groups, 2 * ``channels`` parameters."""
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


def glorot(module: nn.Module) -> None:
    """Weights of convolutions and dense layers by Glorot's rule, biases 0, as Keras has it; for ``module.apply``."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
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


# ---------------------------------------------------------------- AUs as the nodes of a graph (mer_gcn, au_gacn)


_GRID = 4


def cooccurrence() -> np.ndarray:
    """[K,K] float32: row i, column j = P(AU j | AU i) over the emotions of the published tables; diagonal 1.

    Emotions count alike, and AUs are independent given the emotion. The papers count in the labels of their training
    set; published tables are the same for every fold and know nothing of the held-out subject. An AU that no table
    names is connected to itself alone.
    """
    share = np.zeros((len(PUBLISHED), N_AUS))
    for row, table in enumerate(PUBLISHED.values()):
        for code, probability in table.items():
            share[row, AU_INDEX[code]] = probability
    alone = share.mean(0)
    both = share.T @ share / len(share)
    out = np.divide(both, alone[:, None], out=np.zeros_like(both), where=alone[:, None] > 0)
    np.fill_diagonal(out, 1)
    return out.astype(np.float32)


class ClipTrunk(nn.Module):
    """Clips [B,T,F,F] in [0,1] -> maps [B,widths[-1],T',4,4] by 3D convolutions with residual blocks.

    The first layer halves the picture, every further stage halves picture and time.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(1, widths[0], (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False), norm(widths[0]), nn.ReLU()
        )
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 3, 2, 1, bias=False), norm(b), nn.ReLU()) for a, b in pairwise(widths)
        )
        self.stay = nn.ModuleList(
            nn.Sequential(nn.Conv3d(b, b, 3, 1, 1, bias=False), norm(b), nn.ReLU()) for b in widths[1:]
        )
        self.pool = nn.AdaptiveAvgPool3d((None, _GRID, _GRID))
        self.apply(he)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.stem(2 * x[:, None] - 1)
        for down, stay in zip(self.down, self.stay, strict=True):
            x = down(x)
            x = x + stay(x)
        out: torch.Tensor = self.pool(x)
        return out


class AuNodes(nn.Module):
    """Clips [B,T,F,F] -> a feature vector per AU [B,K,node] and AU logits [B,K*2] (left, right) read off it."""

    def __init__(self, widths: tuple[int, ...], node: int) -> None:
        super().__init__()
        self.trunk = ClipTrunk(widths)
        self.split = nn.Linear(widths[-1] * _GRID**2, N_AUS * node)
        self.norm = nn.LayerNorm(node)
        self.present = nn.Linear(node, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        nodes = self.norm(self.split(self.trunk(x).mean(2).flatten(1)).unflatten(1, (N_AUS, -1)))
        return nodes, self.present(nodes).flatten(1)


@dataclass(frozen=True, kw_only=True)
class AuGraphConfig:
    """What graphs of AUs share. Sizes are ours: the papers' are not public."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Of the 3D convolutions."""
    node: int = 32
    """Features of an AU."""
    threshold: float = 0.1
    """AUs are connected where one makes the other at least this likely."""
    au_weight: float = 0.3
    """Weight of the AU loss; 0 leaves the AU head untrained."""
    dropout: float = 0.5

    def check(self, section: str, **least: int) -> None:
        """As :func:`check`, of the fields shared and of those in ``least``."""
        object.__setattr__(self, "widths", tuple(self.widths))
        shared = {"widths": 1, "node": 1, "threshold": 0, "au_weight": 0}
        check(section, self, least=shared | least, shares=("dropout",))


class AuGraph(FlowNetwork):
    """3D convolutions -> a node per AU -> what a model makes of the graph."""

    needs = ("frames",)
    stack = 1

    def __init__(self, config: AuGraphConfig) -> None:
        super().__init__()
        self.config = config
        self.nodes = AuNodes(config.widths, config.node)

    def loss(self, outputs: Outputs, y: torch.Tensor, au: torch.Tensor) -> torch.Tensor:
        """Cross-entropy plus the AU loss over known AUs."""
        assert outputs.au is not None
        return F.cross_entropy(outputs.scores, y) + self.config.au_weight * au_loss(outputs.au, au)


# ---------------------------------------------------------------- ResNet-10 (atnet, micro_attention)


class MicroAttention(nn.Module):
    """x -> x * (1 + mask): one mask [B,1,h,w] from all maps of a residual block, concatenated.

    1x1 convolution to as many maps as the block has, their mean, a sigmoid (Wang et al., 2020).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gather = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps [B,C,h,w] of the block, and the parts they were made of."""
        mask = torch.sigmoid(self.gather(torch.cat(list(parts), 1)).mean(1, keepdim=True))
        return x + x * mask


class _Block(nn.Module):
    """BatchNorm, ReLU, conv 3x3 with the stride, BatchNorm, ReLU, conv 3x3; the skip leaves after the first ReLU."""

    def __init__(self, a: int, b: int, *, first: bool, attention: bool) -> None:
        super().__init__()
        stride = 1 if first else 2
        self.before = nn.Identity() if first else nn.Sequential(BatchNorm(a), nn.ReLU())
        self.one = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.between = nn.Sequential(BatchNorm(b), nn.ReLU())
        self.two = nn.Conv2d(b, b, 3, 1, 1, bias=False)
        self.skip = nn.Identity() if first else nn.Conv2d(a, b, 1, stride, bias=False)
        self.attend = MicroAttention(3 * b, b) if attention else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        one = self.between(self.one(x))
        two, skip = self.two(one), self.skip(x)
        out = two + skip
        return out if self.attend is None else self.attend(out, (skip, one, two))


class ResNet10(nn.Module):
    """ResNet-10 with pre-activation (He et al., 2016): pictures [B,C,F,F] -> embedding [B,widths[-1]] of length 1.

    Layer by layer after the definitions that ATNet's authors published for both networks that have it as their trunk,
    the norm of the pictures themselves among them. Their framework's running statistics have momentum .001, here .1.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], *, attention: bool) -> None:
        super().__init__()
        self.picture = BatchNorm(channels)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 7, 2, 3), BatchNorm(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)
        )
        pairs = list(pairwise((widths[0], *widths)))
        self.blocks = nn.ModuleList(_Block(a, b, first=i == 0, attention=attention) for i, (a, b) in enumerate(pairs))
        self.last = BatchNorm(widths[-1])
        self.apply(he)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        maps = self.stem(self.picture(x))
        for block in self.blocks:
            maps = block(maps)
        return F.normalize(F.relu(self.last(maps)).mean((2, 3)), dim=1)


# ---------------------------------------------------------------- networks and estimators of others


class Outside(FlowNetwork):
    """Any module from flow [B,3,S,S], each channel with unit rms, to logits [B,C].

    It may keep running statistics and draw from torch's generator, so members train one after the other.
    """

    alone = True
    stack = 1

    def __init__(self, name: str, module: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.name, self.n_classes, self.module = name, n_classes, module

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] -> logits [B,C]. Raises ConfigError where the module gives something else."""
        logits = self.module(self.scaled(views[0]))
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if shape != (len(views[0]), self.n_classes):
            raise ConfigError(
                f"model {self.name} gives {shape} for {len(views[0])} clips; expected logits "
                f"[{len(views[0])}, {self.n_classes}], one for each class"
            )
        return Outputs(logits, None)


def is_estimator(made: Any) -> bool:
    """Whether this is a scikit-learn classifier (by its methods, as scikit-learn itself does)."""
    return hasattr(made, "get_params") and hasattr(made, "fit") and not isinstance(made, type)


def untrained(name: str, factory: Any, config: Any, n_classes: int, shape: Shape) -> Any:
    """A :class:`~recognizer.models.common.FlowNetwork` or a scikit-learn classifier that has learned nothing.

    Raises:
        ConfigError: the factory makes neither, asks for parameters unknown here, or is a network that cannot be reset.
    """
    if isinstance(factory, nn.Module):
        made: Any = _forgotten(name, factory)
    elif is_estimator(factory):
        made = factory
    elif callable(factory):
        made = factory(**_arguments(name, factory, config, n_classes, shape))
    else:
        made = factory
    if is_estimator(made):
        from sklearn.base import clone

        return clone(made)
    if isinstance(made, FlowNetwork):
        return made
    if isinstance(made, nn.Module):
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in made.parameters()):
            with torch.no_grad():
                made(torch.zeros(2, 3, shape.size, shape.size))  # lazy layers learn their sizes, nothing else
            made = _forgotten(name, made)
        if next(made.parameters(), None) is None:
            raise ConfigError(f"model {name} has no parameters, so there is nothing to train")
        return Outside(name, made, n_classes)
    what = type(made).__name__
    raise ConfigError(f"model {name} is a {what}; expected a torch.nn.Module or a scikit-learn classifier")


def _arguments(name: str, factory: Any, config: Any, n_classes: int, shape: Shape) -> dict[str, Any]:
    """Those of what is on offer that the factory names."""
    offered = {"n_classes": n_classes, "size": shape.size, "shape": shape} | (
        {} if config is None else {"config": config}
    )
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return {}
    asked = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in asked if p.default is p.empty and p.name not in offered]
    if missing:
        raise ConfigError(
            f"model {name} asks for {', '.join(missing)}; on offer are {', '.join(offered)}: give the others defaults, "
            "or pass a function that makes it"
        )
    return {p.name: offered[p.name] for p in asked if p.name in offered}


def _forgotten(name: str, module: nn.Module) -> nn.Module:
    """A copy with fresh weights: whom the module was trained on, nobody here can know."""
    fresh = copy.deepcopy(module)
    for layer in fresh.modules():
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise ConfigError(
                f"model {name}: its layer {type(layer).__name__} has parameters and no reset_parameters(), so it "
                "cannot begin anew in each fold; pass a function that makes the network instead"
            )
    return fresh
