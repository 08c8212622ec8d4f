"""Flow-image GAN: class- or AU-conditional noise -> flow image, no face (after Liong et al., 2019 and 2020).

An auxiliary-classifier GAN with self-attention (Zhang et al., SAGAN, 2019), written from the papers' abstracts; the
layout of the layers is ours. u and v are drawn; strain is computed from them and never drawn on its own, so that the
three channels cannot contradict each other. Ours: AU intensities in place of the class, drawn as a change of the
motion prior's flow for them.

The generator makes flow images without a face and without frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core import seeds
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import MesynthError
from mesynth.core.types import AUVector, Flow
from mesynth.generators.base import Pretrained
from mesynth.generators.blocks import (
    CELLS,
    FiLM,
    Network,
    PatchTower,
    SelfAttention,
    group_norm,
    halvings,
    register_to_config,
    sn,
)
from mesynth.generators.painting import PriorFlow
from mesynth.preprocess.warping import differentiable_strain
from mesynth.store.generator_folder import GeneratorFacts, load_network

N_CLASSES = len(CLASSES_3)
_ATTENDED = 16
"""Largest side of a map that attention looks at: beyond, it costs more than all convolutions together."""
_OPEN = 0.99
"""Of the drawn scale: the prior alone never saturates it."""


class _Rise(nn.Module):
    """Twice the size: nearest neighbour and two 3x3 convolutions, scaled by the condition, with a short cut."""

    def __init__(self, a: int, b: int, condition: int) -> None:
        super().__init__()
        self.norm1, self.film1, self.conv1 = group_norm(a), FiLM(condition, a), sn(nn.Conv2d(a, b, 3, padding=1))
        self.norm2, self.film2, self.conv2 = group_norm(b), FiLM(condition, b), sn(nn.Conv2d(b, b, 3, padding=1))
        self.short = sn(nn.Conv2d(a, b, 1))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        y = F.interpolate(F.silu(self.film1(self.norm1(x), condition)), scale_factor=2.0)
        y = F.silu(self.film2(self.norm2(self.conv1(y)), condition))
        out: torch.Tensor = self.conv2(y) + F.interpolate(self.short(x), scale_factor=2.0)
        return out


class FlowGenerator(Network):
    """Noise [B,z], class [B,3] one-hot and AUs [B,K,2] in [0,1] -> flow [B,2,S,S] in pixels, x right and y down.

    The network draws ``y = asinh(uv / unit) / asinh(limit / unit)`` in (-1,1), with ``unit`` and ``limit`` as shares of
    the side: tenths of a pixel stay visible beside the largest motion. ``condition``: class, aus or both.
    ``prior``: the drawing is a change of the motion prior's flow for the AUs on the mean face (ours: where an AU moves
    skin need not be learned from noise); 0 for a class alone. Without it all is drawn, as published.
    """

    @register_to_config
    def __init__(
        self, size: int = 64, width: int = 32, z: int = 64, condition: str = "both", unit: float = 0.0025,
        limit: float = 0.06, prior: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        rises = halvings(size, 4, 5)
        widths = [width * min(2 ** (rises - i), 8) for i in range(rises + 1)]
        inner = 4 * width
        self.start = size >> rises
        self.mix = nn.Sequential(nn.Linear(z + N_CLASSES + CELLS, inner), nn.SiLU(), nn.Linear(inner, inner), nn.SiLU())
        self.seed = sn(nn.Linear(z + N_CLASSES + CELLS, widths[0] * self.start**2))
        self.rise = nn.ModuleList([_Rise(a, b, inner) for a, b in pairwise(widths)])
        self.attend_after = max(i for i in range(rises) if self.start << (i + 1) <= _ATTENDED or i == 0)
        self.attention = SelfAttention(widths[self.attend_after + 1])
        self.norm, self.film = group_norm(widths[-1]), FiLM(inner, widths[-1])
        self.last = nn.Conv2d(widths[-1] + 2 * prior, 2, 3, padding=1)
        self.moved = PriorFlow(size) if prior else None

    def forward(self, z: torch.Tensor, classes: torch.Tensor, aus: torch.Tensor) -> torch.Tensor:
        """See the class."""
        asked = torch.cat([z, classes, aus.flatten(1)], 1).to(z.dtype)
        condition = self.mix(asked)
        x = self.seed(asked).reshape(len(z), -1, self.start, self.start)
        for i, rise in enumerate(self.rise):
            x = rise(x, condition)
            if i == self.attend_after:
                x = self.attention(x)
        x = F.silu(self.film(self.norm(x), condition))
        if self.moved is None:
            return self.expand(torch.tanh(self.last(x).float()))
        expected = self.compress(self.moved(aus)).clamp(-_OPEN, _OPEN)
        change = self.last(torch.cat([x, expected.to(x.dtype)], 1)).float()
        return self.expand(torch.tanh(expected.atanh() + change))

    def expand(self, y: torch.Tensor) -> torch.Tensor:
        """(-1,1) -> pixels."""
        unit = self.config["unit"] * self.config["size"]
        return unit * torch.sinh(y * math.asinh(self.config["limit"] / self.config["unit"]))

    def compress(self, uv: torch.Tensor) -> torch.Tensor:
        """Pixels of the network's size -> about (-1,1); what a discriminator should look at."""
        unit = self.config["unit"] * self.config["size"]
        return torch.asinh(uv / unit) / math.asinh(self.config["limit"] / self.config["unit"])


class FlowJudgement(NamedTuple):
    """What the discriminator says of a flow image."""

    real: torch.Tensor
    """[B,h,w] scores of patches"""
    classes: torch.Tensor
    """[B,3] logits"""
    aus: torch.Tensor
    """[B,K,2]"""


class FlowDiscriminator(nn.Module):
    """Flow images [B,2,S,S] (pixels and compressed) -> :class:`FlowJudgement`; sees u, v and their strain."""

    def __init__(self, size: int, width: int, layers: int) -> None:
        super().__init__()
        depth = halvings(size, 3, layers)
        self.near = PatchTower(3, width, 1, spectral=True)
        self.attention = SelfAttention(width)
        self.tower = PatchTower(width, 2 * width, depth - 1, spectral=True, widest=4)
        channels = self.tower.channels if depth > 1 else width
        patch = size >> depth
        self.score = sn(nn.Conv2d(channels, 1, 3, padding=1))
        self.classes = sn(nn.Linear(channels * patch**2, N_CLASSES))
        self.aus = nn.Linear(channels * patch**2, CELLS)

    def forward(self, seen: torch.Tensor) -> FlowJudgement:
        """``seen`` [B,3,S,S] of :func:`observe`."""
        near = self.near(seen)
        if near.shape[-1] <= _ATTENDED:
            near = self.attention(near)
        maps = self.tower(near)
        flat = maps.flatten(1)
        return FlowJudgement(self.score(maps)[:, 0], self.classes(flat), self.aus(flat).reshape(len(flat), -1, 2))


def observe(generator: FlowGenerator, uv: torch.Tensor) -> torch.Tensor:
    """Flow [B,2,S,S] pixels -> u, v and strain [B,3,S,S], all compressed as the generator draws."""
    return generator.compress(torch.cat([uv, 4 * differentiable_strain(uv)], 1))


# ---------------------------------------------------------------- the generator


FAMILY = "flow_gan"
_BLOCK, _WIDE = 16, 256
"""Rows computed at once, on the CPU and elsewhere. Always this many, padded: a row's bytes then depend on nothing but
the row."""


class FlowGAN(Pretrained):
    """A saved flow GAN. It makes flow images for corpora of flow; it has no frames to show."""

    family = FAMILY

    def __init__(self, network: FlowGenerator, facts: GeneratorFacts) -> None:
        self.network, self.facts = network, facts
        self.size: int = network.config["size"]

    @property
    def _at_once(self) -> int:
        return self.rows_at_once or (_BLOCK if self.device == "cpu" else _WIDE)

    def generate(self, *request: Any, **options: Any) -> NoReturn:
        """Raises MesynthError always: flow images come without a face."""
        raise MesynthError(f"{FAMILY} makes flow images only, no frames; use --kind flow, or motion_gan for clips")

    def sample(
        self,
        *,
        seeds: Sequence[int],
        labels: Sequence[str] | None = None,
        aus: np.ndarray | None = None,
        size: int | None = None,
    ) -> np.ndarray:
        """Flow images [N,2,size,size] float32, pixels of that size; a row depends on its own arguments alone.

        ``seeds`` N integers; ``labels`` N of classes.CLASSES_3 or "" for none; ``aus`` [N,K,2] in [0,1]. Another size
        than the network's is resampled bilinearly, vectors scaled alike.

        Raises:
            MesynthError: arguments that do not fit each other or the condition it was trained with.
        """
        n = len(seeds)
        size = self.size if size is None else size
        classes, cells = self._conditions(n, labels, aus)
        if not 8 <= size <= 1024:
            raise MesynthError(f"flow images of {size} pixels are outside 8..1024")
        out = np.empty((n, 2, size, size), np.float32)
        for start in range(0, n, self._at_once):
            rows = slice(start, min(start + self._at_once, n))
            out[rows] = self._block(seeds[rows], classes[rows], cells[rows], size)
        return out

    def flows(
        self,
        *,
        seeds: Sequence[int],
        labels: Sequence[str] | None = None,
        aus: Sequence[AUVector] | None = None,
        size: int | None = None,
    ) -> Iterator[Flow]:
        """:meth:`sample` one :class:`~mesynth.core.types.Flow` at a time, at flat memory, as a corpus of flow needs."""
        cells = None if aus is None else np.stack([a.intensity for a in aus])
        self._conditions(len(seeds), labels, cells)
        for start in range(0, len(seeds), self._at_once):
            rows = slice(start, start + self._at_once)
            drawn = self.sample(
                seeds=seeds[rows],
                labels=None if labels is None else labels[rows],
                aus=None if cells is None else cells[rows],
                size=size,
            )
            for uv in drawn:
                yield Flow(np.ascontiguousarray(uv))

    def _conditions(
        self, n: int, labels: Sequence[str] | None, aus: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One-hot classes [N,3] and AUs [N,K,2], 0 where not asked for."""
        trained = self.network.config["condition"]
        if labels is None and aus is None:
            raise MesynthError("a flow image needs a class or AUs; give labels=[...] or aus=[N,K,2]")
        for name, value, other in (("labels", labels, "aus"), ("aus", aus, "class")):
            if value is not None and trained == other:
                raise MesynthError(f"this {FAMILY} was trained on {trained} alone and cannot take {name}")
            if value is not None and len(value) != n:
                raise MesynthError(f"{len(value)} {name} for {n} seeds; give one a flow image")
        classes = np.zeros((n, N_CLASSES), np.float32)
        for i, label in enumerate(labels or ()):
            if label and label not in CLASSES_3:
                raise MesynthError(f"class '{label}' is unknown; choose from {', '.join(CLASSES_3)}, or '' for none")
            if label:
                classes[i, CLASSES_3.index(label)] = 1
        cells = np.zeros((n, CELLS // 2, 2), np.float32) if aus is None else np.asarray(aus, np.float32)
        if cells.shape != (n, CELLS // 2, 2) or not ((cells >= 0) & (cells <= 1)).all():
            raise MesynthError(f"aus of shape {cells.shape} do not fit; give [{n},{CELLS // 2},2] in [0,1]")
        return classes, cells

    def _block(self, rows: Sequence[int], classes: np.ndarray, aus: np.ndarray, size: int) -> np.ndarray:
        n, device = len(rows), self.network.device
        noise = int(self.network.config["z"])
        z = np.stack([seeds.stream(int(s), "flow-gan-z").standard_normal(noise, np.float32) for s in rows])
        padded = [
            np.concatenate([x, np.zeros((self._at_once - n, *x.shape[1:]), np.float32)]) for x in (z, classes, aus)
        ]
        with torch.inference_mode():
            with self.autocast():
                uv = self.network.forward(*(torch.from_numpy(x).to(device) for x in padded)).float()
            if size != self.size:
                uv = F.interpolate(uv, (size, size), mode="bilinear", antialias=True) * (size / self.size)
            return np.asarray(uv[:n].cpu().numpy())


def load(folder: Path, facts: GeneratorFacts) -> FlowGAN:
    """From a checked pipeline folder. Raises PipelineError for weights of another class."""
    return FlowGAN(load_network(FlowGenerator, folder / "generator"), facts)
