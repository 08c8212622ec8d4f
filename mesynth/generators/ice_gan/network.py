"""ICE-GAN: identity-aware, capsule-enhanced generation of an apex picture (Yu et al., 2020), and our variant of it.

A spectral-norm U-Net down to 1x1 (the identity embedding), graph reasoning on the skips, and a discriminator whose
patches vote through capsules.

:class:`PublishedGenerator` and :class:`PublishedDiscriminator` are the authors' definition, layer by layer: grey
pictures, noise and one of three classes. What it deviates in stands with each; how the two are trained is not public.

:class:`ICEGenerator` and :class:`CapsuleDiscriminator` are ours, after theirs: colour; AU intensities beside the class;
the condition also scales every decoder level, because instance norm would take most of a vector that enters at 1x1 out
again; the generator sees where the motion prior would move skin and draws a change of the onset (docs/decisions/014);
upsampling instead of transposed convolutions; the discriminator sees the change from the onset, and one layer of
capsules says whether a picture is real and of which class it is.

The generator shows the onset plus the difference of two drawings of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core import facs, seeds
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.generators.base import ClipRequest
from mesynth.generators.blocks import (
    CELLS,
    ClassCapsules,
    FiLM,
    GraphReasoning,
    Network,
    PatchTower,
    halvings,
    lengths,
    register_to_config,
    sn,
)
from mesynth.generators.painting import PaintingGenerator, PriorFlow, logit, moved_change, painted_clips
from mesynth.store.generator_folder import load_network

if TYPE_CHECKING:
    from mesynth.core.types import Sample
    from mesynth.store.generator_folder import GeneratorFacts

N_CLASSES = len(CLASSES_3)
MOTION_GAIN = 4.0
"""The discriminator sees the change from the onset times this: micro-expressions change little."""
_PUBLISHED = (1, 2, 4, 8, 8, 8)  # widths of the levels above the embedding, in units of the first


class _Down(nn.Module):
    """Stride-2 convolution with spectral norm and, where there is more than one position, instance norm."""

    def __init__(self, a: int, b: int, norm: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LeakyReLU(0.2), sn(nn.Conv2d(a, b, 4, 2, 1)))
        if norm:
            self.body.append(nn.InstanceNorm2d(b, affine=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out


class _Up(nn.Module):
    """Twice the size and a 3x3 convolution with spectral norm, instance norm, scale and shift from the condition.

    No transposed convolution: its checkerboard outweighs a micro-expression.
    """

    def __init__(self, a: int, b: int, condition: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Upsample(scale_factor=2), sn(nn.Conv2d(a, b, 3, padding=1)), nn.InstanceNorm2d(b, affine=True)
        )
        self.film = FiLM(condition, b)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.film(self.body(x), condition)
        return out


def level_widths(size: int, width: int, embedding: int) -> list[int]:
    """Channels of the levels of a U-Net that goes down to 1x1, the embedding last.

    Raises:
        ConfigError: ``size`` is no power of two, or below 8.
    """
    levels = size.bit_length() - 1
    if 2**levels != size or levels < 3:
        raise ConfigError(f"size {size} does not fit ice_gan; its U-Net needs a power of two, at least 8 pixels")
    return [width * _PUBLISHED[min(i, len(_PUBLISHED) - 1)] for i in range(levels - 1)] + [embedding]


class ICEGenerator(Network):
    """Onset [B,3,S,S] in [0,1], noise, class and AUs -> picture [B,3,S,S] in [0,1]. S is a power of two.

    ``graph``: graph reasoning on every skip but the outermost.
    ``prior``: the encoder also sees the motion prior's flow for the AUs and the picture's change under it (ours).
    ``relative``: a change of the onset is drawn, next to all that the encoder saw (ours); without it the picture is
    drawn from nothing, as published.
    """

    @register_to_config
    def __init__(
        self, size: int = 128, width: int = 64, embedding: int = 320, noise: int = 100, graph: bool = True,
        prior: bool = True, relative: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = level_widths(size, width, embedding)
        levels = len(widths)
        condition = noise + N_CLASSES + CELLS
        seen = 8 if prior else 3
        self.moved = PriorFlow(size) if prior else None
        self.first = sn(nn.Conv2d(seen, widths[0], 4, 2, 1))
        self.down = nn.ModuleList([_Down(a, b, i + 1 < levels - 1) for i, (a, b) in enumerate(pairwise(widths))])
        self.graphs = nn.ModuleList([GraphReasoning(w) for w in widths[1:-1]] if graph else [])
        inputs = [embedding + condition, *[2 * w for w in widths[-2:0:-1]]]
        self.up = nn.ModuleList([_Up(a, b, condition) for a, b in zip(inputs, widths[-2::-1], strict=True)])
        outputs = widths[0] if relative else 3
        self.last = nn.Sequential(
            nn.ReLU(), nn.Upsample(scale_factor=2), sn(nn.Conv2d(2 * widths[0], outputs, 3, padding=1))
        )
        if relative:
            self.merge = nn.Sequential(nn.Conv2d(widths[0] + seen, widths[0], 3, padding=1), nn.ReLU())
            self.paint = nn.Conv2d(widths[0], 3, 3, padding=1)
            for parameter in self.paint.parameters():
                nn.init.zeros_(parameter)

    def see(self, picture: torch.Tensor, aus: torch.Tensor) -> torch.Tensor:
        """What the encoder is shown of pictures [B,3,S,S] in [0,1] and AUs [B,K,2]: [B,3 or 8,S,S]."""
        shown = 2 * picture - 1
        return shown if self.moved is None else torch.cat([shown, *moved_change(self.moved, picture, aus)], 1)

    def encode(self, seen: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of every level, the largest first; the last is [B,embedding,1,1]."""
        out = [self.first(seen)]
        for layer in self.down:
            out.append(layer(out[-1]))
        return out

    def embed(self, picture: torch.Tensor) -> torch.Tensor:
        """The identity embedding [B,embedding] of pictures [B,3,S,S] in [0,1]."""
        nothing = picture.new_zeros(len(picture), CELLS // 2, 2)
        return self.encode(self.see(picture, nothing))[-1].flatten(1)

    def forward(self, onset: torch.Tensor, z: torch.Tensor, classes: torch.Tensor, aus: torch.Tensor) -> torch.Tensor:
        """``z`` [B,noise]; ``classes`` [B,3] one-hot, all 0 for none; ``aus`` [B,K,2] in [0,1]."""
        seen = self.see(onset, aus)
        maps = self.encode(seen)
        condition = torch.cat([z, classes, aus.flatten(1)], 1).to(maps[-1].dtype)
        skips = [maps[0], *[g(m) for g, m in zip(self.graphs, maps[1:-1], strict=True)]] if self.graphs else maps[:-1]
        x = torch.cat([maps[-1], condition[:, :, None, None]], 1)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = torch.cat([up(x, condition), skip], 1)
        last = self.last(x)
        if not self.config["relative"]:
            return 0.5 + 0.5 * torch.tanh(last)
        change = self.paint(self.merge(torch.cat([last, seen.to(last.dtype)], 1)))
        return torch.sigmoid(change + logit(onset))


class Judgement(NamedTuple):
    """What the capsule discriminator says of a picture."""

    real: torch.Tensor
    """[B] length of the adversarial capsule, in [0,1)"""
    classes: torch.Tensor
    """[B,3] lengths of the class capsules, in [0,1)"""
    aus: torch.Tensor | None
    """[B,K,2] (ours); None: the published discriminator does not read them"""
    rebuilt: torch.Tensor
    """[B,3 or 1,r,r] in [0,1]: the picture, from the capsules"""


class CapsuleDiscriminator(nn.Module):
    """Spectral-norm PatchGAN -> primary capsules -> routing -> one adversarial and three class capsules.

    At 128 pixels and width 32: 8x8 patches of 128 channels, 1024 primary capsules of dimension 8. The MLP rebuilds the
    picture at 1/``shrink`` of its size (the paper's own 5120 outputs have no stated shape).
    """

    def __init__(self, size: int, width: int, iterations: int, hidden: int, side: int) -> None:
        super().__init__()
        depth = halvings(size, min(8, size // 2), 4)
        self.tower = PatchTower(6, width, depth, spectral=True, widest=4)
        patch = size >> depth
        self.capsules = ClassCapsules(self.tower.channels, patch, 1 + N_CLASSES, iterations=iterations)
        self.read = nn.Linear(self.tower.channels * patch * patch, CELLS)
        self.side = side
        self.rebuild = nn.Sequential(
            nn.Linear((1 + N_CLASSES) * 16, hidden), nn.ReLU(), nn.Linear(hidden, 2 * hidden), nn.ReLU(),
            nn.Linear(2 * hidden, 3 * side * side), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, onset: torch.Tensor, picture: torch.Tensor) -> Judgement:
        """Both [B,3,S,S] in [0,1]."""
        maps = self.tower(torch.cat([2 * picture - 1, MOTION_GAIN * (picture - onset)], 1))
        capsules = self.capsules(maps)
        length = lengths(capsules)
        rebuilt = self.rebuild(capsules.flatten(1)).reshape(-1, 3, self.side, self.side)
        aus = self.read(maps.flatten(1)).reshape(len(maps), -1, 2)
        return Judgement(length[:, 0], length[:, 1:], aus, rebuilt)


# ---------------------------------------------------------------- the authors' definition


_CLASS_DIM = 32
"""Numbers of an output capsule, where the authors' code builds its discriminator."""
_EMPTY = 1e-12
_LUMA = (0.299, 0.587, 0.114)


def grey(picture: torch.Tensor) -> torch.Tensor:
    """[B,3,S,S] -> [B,1,S,S]."""
    weights = picture.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (picture * weights).sum(1, keepdim=True)


def _drawn(layer: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d, zero: bool = True) -> Any:
    """``layer`` with normal weights of sd .02 and, where ``zero``, no bias to begin with."""
    nn.init.normal_(layer.weight, std=0.02)
    if zero and layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class PublishedGenerator(Network):
    """Onset [B,3,S,S] in [0,1], noise and class -> grey picture [B,3,S,S] in [0,1] (three channels alike).

    Published (authors' code), at 128 pixels: 4x4 convolutions of stride 2 down to 1x1 (64, 128, 256, 512, 512, 512,
    320), noise and class joined there, 4x4 transposed convolutions up, spectral norm on all of them, instance norm
    without weights where there is more than one position, leaky ReLU before every layer but the first, graph reasoning
    on all six skips, tanh. Their leaky ReLU acts in place, so that graphs see what the next layer sees.
    Deviation: grey is made of the colours, and shown on three channels. Other sizes have other numbers of levels.
    """

    @register_to_config
    def __init__(self, size: int = 128, width: int = 64, embedding: int = 320, noise: int = 100) -> None:
        super().__init__()
        widths = level_widths(size, width, embedding)
        self.down = nn.ModuleList([sn(_drawn(nn.Conv2d(a, b, 4, 2, 1))) for a, b in pairwise([1, *widths])])
        self.graphs = nn.ModuleList([GraphReasoning(w, published=True) for w in widths[:-1]])
        for layer in self.graphs.modules():
            if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
                _drawn(layer)
        outputs = [*widths[-2::-1], 1]
        inputs = [embedding + noise + N_CLASSES, *[2 * w for w in outputs[:-1]]]
        pairs = zip(inputs, outputs, strict=True)
        self.up = nn.ModuleList([sn(_drawn(nn.ConvTranspose2d(a, b, 4, 2, 1))) for a, b in pairs])

    def encode(self, picture: torch.Tensor) -> list[torch.Tensor]:
        """Maps of pictures [B,3,S,S] in [0,1], the largest first, as the next layer sees them; the last as it is."""
        out: list[torch.Tensor] = []
        x = 2 * grey(picture) - 1
        for i, layer in enumerate(self.down[:-1]):
            x = F.leaky_relu(F.instance_norm(layer(x)) if i else layer(x), 0.2)
            out.append(x)
        return [*out, self.down[-1](x)]

    def embed(self, picture: torch.Tensor) -> torch.Tensor:
        """The identity embedding [B,embedding] of pictures [B,3,S,S] in [0,1]."""
        return self.encode(picture)[-1].flatten(1)

    def forward(
        self, onset: torch.Tensor, z: torch.Tensor, classes: torch.Tensor, aus: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``z`` [B,noise]; ``classes`` [B,3] one-hot; AUs are not seen."""
        *maps, embedding = self.encode(onset)
        condition = torch.cat([z, classes], 1).to(embedding.dtype)
        x = torch.cat([embedding, condition[:, :, None, None]], 1)
        for up, graph, skip in zip(self.up[:-1], reversed(self.graphs), reversed(maps), strict=True):
            x = torch.cat([F.instance_norm(up(F.leaky_relu(x, 0.2))), graph(skip)], 1)
        return (0.5 + 0.5 * torch.tanh(self.up[-1](F.leaky_relu(x, 0.2)))).expand(-1, 3, -1, -1)


class PublishedDiscriminator(nn.Module):
    """Spectral-norm PatchGAN -> primary capsules -> a layer for the authenticity, one for the classes -> decoder.

    Published (authors' code), at 128 pixels: 4x4 convolutions (64, 128, 256 of stride 2; 512, 512) with BatchNorm but
    after the first, 1x1 convolutions to 8x8x128, 1024 capsules of 8; two layers of capsules of 32 numbers, each with
    matrices and three routings of its own, coupling coefficients that add up to 1 over the primary capsules; the
    longest class capsule alone -> 512 -> 1024 -> 5120 -> the picture, spectral norm on all.
    Deviation: the longest capsule is each picture's own; the code first takes the softmax of lengths over the batch,
    so that what is rebuilt of a picture depends on its company (and is the first class in a batch of one).
    """

    def __init__(self, size: int, width: int, iterations: int, hidden: int) -> None:
        super().__init__()
        if size < 32:
            raise ConfigError(f"size {size} does not fit the published discriminator; it needs at least 32 pixels")
        layers: list[nn.Module] = [sn(_drawn(nn.Conv2d(1, width, 4, 2, 1), zero=False)), nn.LeakyReLU(0.2)]
        plan = ((1, 2, 2, False), (2, 4, 2, False), (4, 8, 1, False), (8, 8, 1, True))
        for a, b, stride, bias in plan:
            layers.append(sn(_drawn(nn.Conv2d(a * width, b * width, 4, stride, 1, bias=bias), zero=False)))
            layers += [nn.BatchNorm2d(b * width), nn.LeakyReLU(0.2)]
            nn.init.normal_(layers[-2].weight, 1.0, 0.02)  # type: ignore[arg-type]
        layers.append(sn(_drawn(nn.Conv2d(8 * width, width, 1, 2, 1), zero=False)))
        layers.append(sn(_drawn(nn.Conv2d(width, 128, 1), zero=False)))
        self.patches = nn.Sequential(*layers)
        side = ((size // 8 - 2) + 1) // 2 + 1
        own: dict[str, Any] = {"dim": _CLASS_DIM, "iterations": iterations, "over": 1, "nothing": _EMPTY, "sd": 0.01}
        self.classes = ClassCapsules(128, side, N_CLASSES, **own)
        self.real = ClassCapsules(128, side, 1, **own)
        sizes = [N_CLASSES * _CLASS_DIM, hidden, 2 * hidden, 10 * hidden, size * size]
        self.rebuild = nn.Sequential()
        for a, b in pairwise(sizes):
            self.rebuild.extend([sn(nn.Linear(a, b)), nn.ReLU()])
        self.rebuild[-1] = nn.Sigmoid()
        self.size = size

    def forward(self, onset: torch.Tensor, picture: torch.Tensor) -> Judgement:
        """``picture`` [B,3,S,S] in [0,1]; the onset is not seen."""
        maps = self.patches(2 * grey(picture) - 1)
        capsules = self.classes(maps)
        length = lengths(capsules, _EMPTY)
        longest = F.one_hot(length.argmax(1), N_CLASSES).to(capsules.dtype)
        rebuilt = self.rebuild((capsules * longest[:, :, None]).flatten(1)).reshape(-1, 1, self.size, self.size)
        return Judgement(lengths(self.real(maps), _EMPTY)[:, 0], length, None, rebuilt)


# ---------------------------------------------------------------- the generator


class ICEGAN(PaintingGenerator):
    """A saved ICE-GAN as a generator; see :class:`mesynth.generators.base.Generator`.

    The network draws the whole picture, with errors that have nothing to do with the expression. A clip therefore
    shows the onset plus the difference of two drawings of it, with and without the expression (ours): no request
    gives the onset bit for bit, although the network itself promises no identity.
    """

    family = "ice_gan"

    def clips_of(self, requests: Sequence[ClipRequest], label: str = "") -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """See :func:`mesynth.generators.painting.painted_clips` for sizes and errors.

        ``label``: one of classes.CLASSES_3 to ask for as well; it rises and falls with the profile.

        Raises:
            MesynthError: as there, an unknown label, or AUs, a blink or no label asked of a network of the published
                definition, which draws classes alone.
        """
        if isinstance(self.network, PublishedGenerator):
            self._require_classes_alone(requests, label)
        classes = torch.zeros(N_CLASSES, device=self.network.device)
        if label:
            classes[class_index(label)] = 1
        n_noise = int(self.network.config["noise"])
        z = [seeds.stream(request.seed, "z").standard_normal(n_noise, np.float32) for request in requests]
        noise = torch.from_numpy(np.stack(z)).to(self.network.device)

        def paint(
            onset: torch.Tensor, asked: torch.Tensor, alpha: torch.Tensor, rows: Sequence[tuple[int, int]]
        ) -> torch.Tensor:
            which = [clip for clip, _ in rows]
            # The plain drawing takes part in each block: convolutions of one batch agree to the last bit.
            clips = list(dict.fromkeys(which))
            k, plain = len(clips), [which.index(clip) for clip in clips]
            pictures = torch.cat([onset[plain], onset])
            amount = torch.cat([alpha.new_zeros(k), alpha])
            cells = torch.cat([torch.zeros_like(asked[:1]).expand(k, -1, -1), asked])
            drawn = self.network.forward(pictures, noise[[*clips, *which]], amount[:, None] * classes, cells)
            change: torch.Tensor = drawn[k:] - drawn[[clips.index(clip) for clip in which]]
            rest = (asked.flatten(1).amax(1) == 0) & (amount[k:] * classes.sum() == 0)
            return change * ~rest.view(-1, 1, 1, 1)

        return painted_clips(self, paint, requests)

    @staticmethod
    def _require_classes_alone(requests: Sequence[ClipRequest], label: str) -> None:
        what = "this ice_gan is of the published definition (model.published), which draws a class and no AUs"
        if not label:
            way = f"give generate() in Python a label of {', '.join(CLASSES_3)}, or train without it"
            raise MesynthError(f"{what}; {way}")
        for request in requests:
            shown = [str(facs.AU_CODES[k]) for k in np.flatnonzero(request.aus.intensity.any(1))]
            if shown or request.nuisance.blink:
                asked = f"AU {', '.join(shown)}" if shown else f"blink={request.nuisance.blink:g}"
                raise MesynthError(f"{what}, but {asked} is asked for; leave it out, or train without it")


def class_index(label: str) -> int:
    """Of one of classes.CLASSES_3. Raises MesynthError."""
    if label not in CLASSES_3:
        raise MesynthError(f"class '{label}' is unknown; choose from {', '.join(CLASSES_3)}")
    return CLASSES_3.index(label)


def load(folder: Path, facts: GeneratorFacts) -> ICEGAN:
    """From a checked pipeline folder. Raises PipelineError for weights of another class."""
    try:
        named = json.loads((folder / "generator" / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        named = None  # whoever loads it says what is wrong
    kind: type[Network] = PublishedGenerator if named == PublishedGenerator.__name__ else ICEGenerator
    return ICEGAN(load_network(kind, folder / "generator"), facts)
