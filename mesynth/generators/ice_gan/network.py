"""ICE-GAN: identity-aware, capsule-enhanced generation of an apex picture (after Yu et al., 2020).

A spectral-norm U-Net down to 1x1 (the identity embedding), graph reasoning on the inner skips, and a discriminator
whose patches vote through capsules. Written from the paper; colour instead of grey pictures.

Ours: AU intensities beside the one-hot class; the condition also scales every decoder level, because instance norm
would take most of a vector that enters at 1x1 out again; the generator sees where the motion prior would move skin
and draws a change of the onset (docs/decisions/014); the discriminator sees the change from the onset; as many levels
as the picture has (7 at 128 pixels, 6 at 64).

The generator shows the onset plus the difference of two drawings of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from mesynth.core import seeds
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
        levels = size.bit_length() - 1
        if 2**levels != size or levels < 3:
            raise ConfigError(f"size {size} does not fit ice_gan; its U-Net needs a power of two, at least 8 pixels")
        widths = [width * _PUBLISHED[min(i, len(_PUBLISHED) - 1)] for i in range(levels - 1)] + [embedding]
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
    aus: torch.Tensor
    """[B,K,2] (ours)"""
    rebuilt: torch.Tensor
    """[B,3,r,r] in [0,1]: the picture, from the capsules"""


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
            MesynthError: as there, or an unknown label.
        """
        classes = torch.zeros(N_CLASSES, device=self.network.device)
        if label:
            classes[class_index(label)] = 1
        n_noise = int(self.network.config["noise"])
        z = [seeds.stream(request.seed, "z").standard_normal(n_noise, np.float32) for request in requests]
        noise = torch.from_numpy(np.stack(z)).to(self.network.device)

        def paint(onset: torch.Tensor, asked: torch.Tensor, alpha: torch.Tensor, which: Sequence[int]) -> torch.Tensor:
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


def class_index(label: str) -> int:
    """Of one of classes.CLASSES_3. Raises MesynthError."""
    if label not in CLASSES_3:
        raise MesynthError(f"class '{label}' is unknown; choose from {', '.join(CLASSES_3)}")
    return CLASSES_3.index(label)


def load(folder: Path, facts: GeneratorFacts) -> ICEGAN:
    """From a checked pipeline folder. Raises PipelineError for weights of another class."""
    return ICEGAN(load_network(ICEGenerator, folder / "generator"), facts)
