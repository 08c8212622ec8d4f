"""Pieces that the image-space and flow-image GANs share: spectral norm, attention, critics without batch statistics.

Capsules and graph reasoning, the two modules that ICE-GAN is named for (Yu et al., 2020).

Capsules, squashing, routing by agreement: Sabour, Frosst and Hinton, 2017. Graph reasoning on feature maps: Chen et
al., "Graph-based global reasoning networks", 2019. Written from the descriptions in the papers.

How a generator is told what to do: action units with their intensities, what is unknown, and noise.

What every network is: :class:`Network`, a module that is saved and read as diffusers saves and reads one, without
importing diffusers, which takes longer than PyTorch."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mesynth.core.errors import ConfigError
from mesynth.core.types import N_AUS
from mesynth.store.generator_folder import WEIGHTS, load_network

CELLS = 2 * N_AUS
"""AU intensities of one face: per AU, the subject's left and right."""
_Layer = TypeVar("_Layer", bound=nn.Module)
_Init = TypeVar("_Init", bound=Callable[..., None])
_SMALL = 2**22
"""Numbers of a weight that may take memory for a moment, where the network is to take none."""


class Settings(dict[str, Any]):
    """The arguments that a network was built with: ``settings["size"]`` or ``settings.size``; they never change."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the network has no setting {name!r}; it has {', '.join(self)}") from None

    def _fixed(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the settings of a built network cannot change; build another one")

    __setattr__ = __setitem__ = __delattr__ = __delitem__ = _fixed
    update = setdefault = pop = popitem = clear = __ior__ = _fixed

    def __reduce__(self) -> tuple[type[Settings], tuple[dict[str, Any]]]:
        return Settings, (dict(self),)


def register_to_config(init: _Init) -> _Init:
    """Decorate ``__init__`` of a :class:`Network`: its arguments, defaults included, are the network's ``config``."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def registered(self: Network, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        _, *named = given.arguments.items()
        # Before nn.Module is set up: the network may look at its settings while it is built.
        self.__dict__["config"] = Settings(named)
        init(self, *args, **kwargs)

    return registered  # type: ignore[return-value]


class Network(nn.Module):
    """A network that knows how it was built (``config``), where it is, and how it lies in a folder.

    A folder holds ``config.json`` and ``diffusion_pytorch_model.safetensors`` as diffusers 0.42 writes them, to the
    byte, and a diffusers ``ModelMixin`` of the same name and tensors reads it with ``from_pretrained``. ``__init__`` of
    a network is decorated by :func:`register_to_config`; its arguments are what JSON holds.

    >>> class Scaled(Network):
    ...     @register_to_config
    ...     def __init__(self, size: int = 4, gain: float = 1.5) -> None:
    ...         super().__init__()
    ...         self.layer = nn.Linear(size, size)
    >>> Scaled(8).config["size"], Scaled().config.gain, Scaled.from_config({"size": 2}).layer.in_features
    (8, 1.5, 2)
    """

    config: Settings

    @property
    def device(self) -> torch.device:
        """Where its first parameter lies."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its last floating parameter, as diffusers has it."""
        return [p.dtype for p in self.parameters() if p.is_floating_point()][-1]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A new network as ``config`` says: arguments by name; names that begin with "_" are notes.

        Raises:
            ValueError: an argument that this network does not take, or one that it needs is missing.
        """
        given = {name: value for name, value in config.items() if not name.startswith("_")}
        try:
            inspect.signature(cls).bind(**given)
        except TypeError as error:
            raise ValueError(f"config.json has {error}") from None
        return cls(**given)

    def save_pretrained(self, folder: Path | str, *, safe_serialization: bool = True) -> None:
        """Write ``config.json`` and the tensors into ``folder``.

        Raises:
            ValueError: ``safe_serialization`` is false; pickled files are neither written nor read.
        """
        if not safe_serialization:
            raise ValueError("networks are saved as safetensors alone; leave safe_serialization as it is")
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        notes = {"_class_name": type(self).__name__} | _DIFFUSERS
        text = json.dumps(dict(self.config) | notes, indent=2, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, subfolder: str = "") -> Self:
        """The network that lies in ``folder`` (in its ``subfolder``), in evaluation mode, as diffusers hands it over.

        Raises:
            PipelineError: what lies there belongs to another class, or is damaged.
        """
        return load_network(cls, Path(folder, subfolder)).requires_grad_(True)


def _diffusers_note() -> dict[str, str]:
    try:
        return {"_diffusers_version": version("diffusers")}
    except PackageNotFoundError:
        return {}


_DIFFUSERS = _diffusers_note()


def sn(layer: _Layer) -> _Layer:
    """``layer`` with its weight divided by its largest singular value (Miyato et al., 2018)."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    if not weight.is_meta or weight.numel() > _SMALL:
        spectral_norm(layer)
        return layer
    # Of a network without memory the shapes are asked for. PyTorch's first iterations take it a second a network there,
    # and a hundredth on zeros; whatever they draw must not change what is drawn next.
    layer.weight = nn.Parameter(torch.zeros(weight.shape, dtype=weight.dtype, device="cpu"))
    with torch.random.fork_rng(devices=[]):
        spectral_norm(layer)
    return layer.to("meta")


def halvings(size: int, smallest: int, most: int) -> int:
    """How often ``size`` pixels can be halved evenly without falling below ``smallest``, at most ``most`` times.

    Raises:
        ConfigError: not once.
    """
    count = 0
    while count < most and size % 2 == 0 and size // 2 >= smallest:
        size, count = size // 2, count + 1
    if count == 0:
        raise ConfigError(f"size {size} cannot be halved down to {smallest}; choose an even size of more pixels")
    return count


class SelfAttention(nn.Module):
    """Every position looks at all others (Zhang et al., SAGAN, 2019); ``x + gamma * attended``, gamma from 0.

    Keys and values are pooled over 2x2 positions, as in the authors' code.
    """

    def __init__(self, channels: int, spectral: bool = True) -> None:
        super().__init__()
        wrap = sn if spectral else (lambda layer: layer)
        inner = max(channels // 8, 4)
        self.query = wrap(nn.Conv2d(channels, inner, 1, bias=False))
        self.key = wrap(nn.Conv2d(channels, inner, 1, bias=False))
        self.value = wrap(nn.Conv2d(channels, max(channels // 2, 4), 1, bias=False))
        self.out = wrap(nn.Conv2d(max(channels // 2, 4), channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,C,H,W] -> [B,C,H,W]. Unscaled dot products, as published."""
        near = (self.query(x), F.max_pool2d(self.key(x), 2), F.max_pool2d(self.value(x), 2))
        q, k, v = (maps.flatten(2).transpose(1, 2) for maps in near)
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        maps = attended.transpose(1, 2).reshape(len(x), -1, *x.shape[-2:])
        out: torch.Tensor = x + self.gamma * self.out(maps)
        return out


class PatchTower(nn.Module):
    """Stride-2 4x4 convolutions with leaky ReLU: [B,in,S,S] -> [B,channels,S/2^layers,S/2^layers]. No normalisation."""

    def __init__(
        self, inputs: int, width: int, layers: int, *, spectral: bool, slope: float = 0.2, widest: int = 8
    ) -> None:
        super().__init__()
        wrap = sn if spectral else (lambda layer: layer)
        self.body = nn.Sequential()
        for i in range(layers):
            self.channels = width * min(2**i, widest)
            self.body.append(wrap(nn.Conv2d(inputs, self.channels, 4, 2, 1)))
            self.body.append(nn.LeakyReLU(slope))
            inputs = self.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.body(x)
        return out


# ------------------------------------------------------------------- capsules


NOTHING = 1e-8
"""Added to squared lengths, so that the gradient of an empty capsule is finite."""


def squash(s: torch.Tensor, nothing: float = NOTHING) -> torch.Tensor:
    """Capsules [...,D] to a length in [0,1) with their direction kept (Sabour et al., eq. 1)."""
    square = s.square().sum(-1, keepdim=True)
    return s * (square / (1 + square)) / (square + nothing).sqrt()


def route(votes: torch.Tensor, iterations: int, *, over: int = 2, nothing: float = NOTHING) -> torch.Tensor:
    """Votes [B,P,C,D] of P primary capsules -> C capsules [B,C,D] by agreement (Sabour et al., procedure 1).

    Coupling coefficients carry no gradient: they are the result of routing, not parameters. ``over``: they add up to 1
    over the outputs (2, as published there), or over the primary capsules (1, as ICE-GAN's code has it).
    """
    constant = votes.detach()
    logits = torch.zeros_like(constant[..., 0])
    for _ in range(iterations - 1):
        means = squash((logits.softmax(over)[..., None] * constant).sum(1, keepdim=True), nothing)
        logits = logits + (constant * means).sum(-1)
    return squash((logits.softmax(over)[..., None] * votes).sum(1), nothing)


def lengths(capsules: torch.Tensor, nothing: float = NOTHING) -> torch.Tensor:
    """[...,D] -> [...]: how sure each capsule is; safe to differentiate at 0."""
    return (capsules.square().sum(-1) + nothing).sqrt()


def margin_loss(
    length: torch.Tensor, present: torch.Tensor, absent_weight: float = 0.5, *, power: int = 2
) -> torch.Tensor:
    """Sabour et al., eq. 4, with margins .9 and .1: lengths and targets in [0,1], both [...] -> [...].

    ``power``: of what is missing to a margin, 2 there, 1 in ICE-GAN's code.
    """
    short = (0.9 - length).clamp(min=0) ** power
    long = (length - 0.1).clamp(min=0) ** power
    return present * short + absent_weight * (1 - present) * long


class ClassCapsules(nn.Module):
    """Feature maps [B,C,h,w] -> output capsules [B,outputs,dim].

    The maps are cut into primary capsules of ``primary_dim`` channels, each with its own matrices to the outputs.
    ``over`` and ``nothing``: see :func:`route`.
    """

    def __init__(
        self, channels: int, side: int, outputs: int, *, primary_dim: int = 8, dim: int = 16, iterations: int = 3,
        over: int = 2, nothing: float = NOTHING, sd: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        assert channels % primary_dim == 0, "the feature maps are cut into whole capsules"
        self.primary_dim, self.iterations = primary_dim, iterations
        self.primaries = channels // primary_dim * side * side
        self.over, self.nothing = over, nothing
        # Votes of one primary capsule add up over P of them: the default keeps the sum's length near 1/2.
        self.matrices = nn.Parameter(torch.randn(self.primaries, outputs, dim, primary_dim) * sd)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """See the class."""
        n, c, h, w = maps.shape
        primary = maps.reshape(n, c // self.primary_dim, self.primary_dim, h * w).transpose(2, 3)
        primary = squash(primary.reshape(n, self.primaries, self.primary_dim), self.nothing)
        votes = torch.einsum("pcde,bpe->bpcd", self.matrices, primary)
        return route(votes, self.iterations, over=self.over, nothing=self.nothing)


class GraphReasoning(nn.Module):
    """Feature maps -> a small graph -> feature maps, added to the input: [B,C,H,W] -> [B,C,H,W].

    ``M = phi theta^T`` [B,nodes,states] gathers positions into C/4 nodes with C/4 states each; one convolution mixes
    nodes (residual, ReLU), one mixes states; phi carries the result back to the positions. M is divided by the number
    of positions, so that it means the same at every picture size. ``published``: by C/4 instead, and the last
    convolution has no bias and the norm no weights, as in ICE-GAN's code.
    """

    def __init__(self, channels: int, published: bool = False) -> None:
        super().__init__()
        inner = max(channels // 4, 1)
        self.published = published
        self.phi = nn.Conv2d(channels, inner, 1)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.between_nodes = nn.Conv1d(inner, inner, 1)
        self.between_states = nn.Conv1d(inner, inner, 1)
        self.back = nn.Conv2d(inner, channels, 1, bias=not published)
        self.norm = nn.InstanceNorm2d(channels, affine=not published)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        phi = self.phi(x).flatten(2)
        graph = phi @ self.theta(x).flatten(2).transpose(1, 2) / phi.shape[1 if self.published else 2]
        graph = torch.relu(graph + self.between_nodes(graph))
        graph = self.between_states(graph.transpose(1, 2))
        maps = (graph @ phi).reshape(len(x), -1, *x.shape[-2:])
        out: torch.Tensor = x + self.norm(self.back(maps))
        return out


# ------------------------------------------------------------------- conditioning


FREQUENCIES = 4
"""Octaves of the Fourier features: intensities half a FACS letter apart are still told apart."""


def fourier_intensity(intensity: torch.Tensor, frequencies: int = FREQUENCIES) -> torch.Tensor:
    """[...] in [0,1] -> [...,1+2*frequencies]: the value, sin(2^i pi a / 2), 1 - cos(2^i pi a / 2).

    All features are 0 at intensity 0, so that an AU that is not asked for adds nothing to a sum over AUs.
    """
    scales = 2.0 ** torch.arange(frequencies, device=intensity.device, dtype=intensity.dtype) * (math.pi / 2)
    angle = intensity[..., None] * scales
    return torch.cat([intensity[..., None], angle.sin(), 1 - angle.cos()], -1)


class AUCondition(nn.Module):
    """AU embedding times Fourier intensity, summed over AUs, with the unknown ones and noise -> [B,width].

    ``units`` entries are conditioned on (K for one side of a face, 2K for both). An unknown AU adds an embedding of
    its own: unknown is not absent. ``noise`` numbers may be 0.
    """

    def __init__(self, units: int, width: int, noise: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(units, width))
        self.unknown = nn.Parameter(0.1 * torch.randn(units, width))
        self.intensity = nn.Linear(1 + 2 * FREQUENCIES, width, bias=False)
        self.mix = nn.Sequential(nn.Linear(width + noise, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, intensity: torch.Tensor, known: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """``intensity`` [B,units] in [0,1], ``known`` [B,units] bool, ``z`` [B,noise]."""
        asked = intensity * known
        summed = (self.intensity(fourier_intensity(asked)) * self.embedding).sum(1)
        summed = summed + (~known).to(summed.dtype) @ self.unknown
        out: torch.Tensor = self.mix(summed if z is None else torch.cat([summed, z], 1))
        return out


class FiLM(nn.Module):
    """Scale and shift of feature maps by a condition (Perez et al., "FiLM", 2018); starts as the identity."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(condition, 2 * channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[B,C,H,W] and [B,condition] -> [B,C,H,W]."""
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, 1)
        return x * (1 + scale) + shift


class FiLMBlock(nn.Module):
    """Residual block: two 3x3 convolutions with GroupNorm and SiLU, modulated after the second norm."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))
        self.norm, self.film = group_norm(channels), FiLM(condition, channels)
        self.second = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """[B,C,H,W] and [B,condition] -> [B,C,H,W]."""
        out: torch.Tensor = x + self.second(self.film(self.norm(self.first(x)), condition))
        return out


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of at least 4 channels, 8 groups at most: no statistics over the batch."""
    groups = next(g for g in (8, 4, 2, 1) if (channels % g == 0 and channels // g >= 4) or g == 1)
    return nn.GroupNorm(groups, channels)
