"""AU-ICGAN: paints a face with AU intensities of choice (after Xie et al., ACM Multimedia 2020).

A reconstruction from the paper's description: its public repository holds a README and no code. The generator is of
GANimation's family (Pumarola et al., 2018): a colour picture and an attention mask that says where to use it.

Described: a generator controlled by AU intensities, separate judgements of realism and of intensities, and sequences by
intensities that go from onset over apex to offset. No public source defines the layers and sizes of the three
networks, how intensities enter, the weights of the losses, or the schedule of the training: those here are
GANimation's where it has them (64 channels, six residual blocks, tiled intensities, WGAN-GP 10, cycle 10, mask .1),
and ours otherwise.

Ours: intensities are relative (target minus the input picture's), each AU has two sides, the mask is gated by how
much is asked for, so that asking for nothing gives the input bit for bit, and the first layer has no normalisation:
instance norm would subtract the tiled AU channels, which are constant over the picture.

The generator paints every frame of a clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from mesynth.generators.base import ClipRequest
from mesynth.generators.blocks import CELLS, FiLM, Network, PatchTower, halvings, register_to_config
from mesynth.generators.painting import PaintingGenerator, PriorFlow, logit, moved_change, painted_clips
from mesynth.store.generator_folder import load_network

if TYPE_CHECKING:
    from mesynth.core.types import Sample
    from mesynth.store.generator_folder import GeneratorFacts

MOTION_GAIN = 4.0
"""The intensity discriminator sees the change of the picture times this: micro-expressions change little."""


class Painted(NamedTuple):
    """A generated picture and what it is made of, ``picture = A * input + (1 - A) * colour``."""

    picture: torch.Tensor
    """[B,3,S,S]"""
    attention: torch.Tensor
    """A, [B,1,S,S] in [0,1]: 1 keeps the input; before the gate"""
    colour: torch.Tensor
    """[B,3,S,S] in [0,1]"""


class _Residual(nn.Module):
    """Two 3x3 convolutions with instance norm; scale and shift of the second from the AUs."""

    def __init__(self, channels: int, film: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.InstanceNorm2d(channels, affine=True),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        self.norm = nn.InstanceNorm2d(channels, affine=True)
        self.film = FiLM(CELLS, channels) if film else None

    def forward(self, x: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        normed = self.norm(self.first(x))
        return x + (normed if self.film is None else self.film(normed, cells))


class AUICGenerator(Network):
    """Picture [B,3,S,S] in [0,1] and change of intensities [B,K,2] in [-1,1] -> :class:`Painted`.

    conv7, two stride-2 convolutions, residual blocks, two up-convolutions, and a 7x7 head each for mask and colour,
    which also see the first layer (ours: paint without it is blurred at a quarter of the size).
    ``film``: AUs also scale the residual blocks (ours); without it they enter as tiled channels alone, as published.
    ``relative``: colour is drawn as a change of the input's (ours: a micro-expression changes a few grey levels, and
    redrawing the face costs more than that), and one more convolution lets what the AUs ask for meet the picture's
    edges; without it colour is drawn from nothing, as published.
    ``prior``: the first layer also sees the motion prior's flow for the change that is asked for, and the picture's
    change under it to first order (ours: where an AU acts need not be learned from pixels; published networks learn it
    from hundreds of thousands of faces).
    """

    @register_to_config
    def __init__(
        self, size: int = 128, width: int = 64, blocks: int = 6, film: bool = True, relative: bool = True,
        prior: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        w = width

        def conv(a: int, b: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.InstanceNorm2d(b, affine=True), nn.ReLU()]

        def up(a: int, b: int) -> list[nn.Module]:
            # Transposed convolutions leave a checkerboard that outweighs a micro-expression.
            twice, conv = nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1, bias=False)
            return [twice, conv, nn.InstanceNorm2d(b, affine=True), nn.ReLU()]

        # A tiled channel is constant: under a convolution it is one number a feature (but for the zero padding at the
        # border). Added as such, it costs 1/49 of what its 7x7 kernel would, more than half of the network.
        self.stem, self.tiled = nn.Conv2d(8 if prior else 3, w, 7, padding=3), nn.Linear(CELLS, w, bias=False)
        self.moved = PriorFlow(size) if prior else None
        self.down = nn.Sequential(*conv(w, 2 * w), *conv(2 * w, 4 * w))
        self.residual = nn.ModuleList([_Residual(4 * w, film) for _ in range(blocks)])
        self.up = nn.Sequential(*up(4 * w, 2 * w), *up(2 * w, w))
        self.merge = nn.Sequential(nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.ReLU()) if relative else nn.Identity()
        self.mask = nn.Conv2d(2 * w, 1, 7, padding=3)
        self.paint = nn.Conv2d(2 * w, 3, 7, padding=3)
        # Away from saturation: neither all input nor all paint at the start.
        assert self.mask.bias is not None
        nn.init.constant_(self.mask.bias, 1.0)
        if relative:
            for parameter in self.paint.parameters():
                nn.init.zeros_(parameter)

    def forward(self, picture: torch.Tensor, change: torch.Tensor) -> Painted:
        """See the class. Where ``change`` is all 0 the picture comes back bit for bit."""
        cells = change.flatten(1).to(picture.dtype)
        seen = 2 * picture - 1
        if self.moved is not None:
            seen = torch.cat([seen, *moved_change(self.moved, picture, change)], 1)
        fine = torch.relu(self.stem(seen) + self.tiled(cells)[:, :, None, None])
        x = self.down(fine)
        for block in self.residual:
            x = block(x, cells)
        x = self.merge(torch.cat([self.up(x), fine], 1))
        drawn = self.paint(x)
        if self.config["relative"]:
            drawn = drawn + logit(picture)
        attention, colour = torch.sigmoid(self.mask(x)), torch.sigmoid(drawn)
        gate = cells.abs().amax(1).view(-1, 1, 1, 1)
        return Painted(picture + gate * (1 - attention) * (colour - picture), attention, colour)


class RealismCritic(nn.Module):
    """Pictures [B,3,S,S] in [0,1] -> [B,1,h,w] scores of patches, unbounded (Wasserstein critic)."""

    def __init__(self, size: int, width: int, layers: int) -> None:
        super().__init__()
        self.tower = PatchTower(3, width, halvings(size, 2, layers), spectral=False, slope=0.01, widest=32)
        self.head = nn.Conv2d(self.tower.channels, 1, 3, padding=1, bias=False)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """See the class."""
        out: torch.Tensor = self.head(self.tower(2 * picture - 1))
        return out


class IntensityDiscriminator(nn.Module):
    """Onset and picture, each [B,3,S,S] in [0,1] -> AU intensities [B,K,2] of the picture relative to the onset."""

    def __init__(self, size: int, width: int, layers: int) -> None:
        super().__init__()
        depth = halvings(size, 2, layers)
        self.tower = PatchTower(6, width, depth, spectral=False, slope=0.01, widest=8)
        self.head = nn.Conv2d(self.tower.channels, CELLS, size >> depth)

    def forward(self, onset: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """See the class."""
        seen = torch.cat([2 * onset - 1, MOTION_GAIN * (picture - onset)], 1)
        out: torch.Tensor = self.head(self.tower(seen)).reshape(len(onset), -1, 2)
        return out


# ---------------------------------------------------------------- the generator


class AUICGAN(PaintingGenerator):
    """A saved AU-ICGAN as a generator; see :class:`mesynth.generators.base.Generator`."""

    family = "au_icgan"

    def clips_of(self, requests: Sequence[ClipRequest]) -> Iterator[tuple[Sample, tuple[str, ...]]]:
        """See :func:`mesynth.generators.painting.painted_clips` for sizes and errors."""
        return painted_clips(self, self._paint, requests)

    def _paint(
        self, onset: torch.Tensor, aus: torch.Tensor, alpha: torch.Tensor, rows: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        out: torch.Tensor = self.network.forward(onset, aus).picture - onset
        return out


def load(folder: Path, facts: GeneratorFacts) -> AUICGAN:
    """From a checked pipeline folder. Raises PipelineError for weights of another class."""
    return AUICGAN(load_network(AUICGenerator, folder / "generator"), facts)
