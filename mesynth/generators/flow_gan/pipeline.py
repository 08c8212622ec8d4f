"""A saved flow GAN as a generator of flow images, without a face and without frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.core import seeds
from mesynth.core.emotions import CLASSES_3
from mesynth.core.errors import MesynthError
from mesynth.core.types import AUVector, Flow
from mesynth.generators.blocks import CELLS
from mesynth.generators.flow_gan.network import N_CLASSES, FlowGenerator
from mesynth.store.generator_folder import GeneratorFacts, load_network

FAMILY = "flow_gan"
_BLOCK = 16
"""Rows computed at once. Always this many, padded: a row's bytes then depend on nothing but the row."""


class FlowGAN:
    """A saved flow GAN. It makes flow images for corpora of flow; it has no frames to show."""

    family = FAMILY

    def __init__(self, network: FlowGenerator, facts: GeneratorFacts) -> None:
        self.network, self.facts = network, facts
        self.size: int = network.config["size"]

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
        for start in range(0, n, _BLOCK):
            rows = slice(start, min(start + _BLOCK, n))
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
        for start in range(0, len(seeds), _BLOCK):
            rows = slice(start, start + _BLOCK)
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
        padded = [np.concatenate([x, np.zeros((_BLOCK - n, *x.shape[1:]), np.float32)]) for x in (z, classes, aus)]
        with torch.inference_mode():
            uv = self.network.forward(*(torch.from_numpy(x).to(device) for x in padded))
            if size != self.size:
                uv = F.interpolate(uv, (size, size), mode="bilinear", antialias=True) * (size / self.size)
            return np.asarray(uv[:n].cpu().numpy())


def load(folder: Path, facts: GeneratorFacts) -> FlowGAN:
    """From a checked pipeline folder. Raises PipelineError for weights of another class."""
    return FlowGAN(load_network(FlowGenerator, folder / "generator"), facts)
