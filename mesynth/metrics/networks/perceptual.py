"""Perceptual distance of two pictures: LPIPS where its trunk can be had, ST-LPIPS under its own name elsewhere.

For a micro-expression the distance onset-apex is a check of size: it should be small and of the same order
as in real clips. The distance between apexes of different clips measures diversity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.core.errors import WeightsUnavailable
from mesynth.metrics.networks import weights
from mesynth.metrics.networks.extractors import BATCH, STAlexTrunk, resize, stalex_state, to_unit

SIDE = 128


class PerceptualDistance(Protocol):
    """A named distance of pictures, in two steps, so that a picture compared twice is prepared once."""

    name: str

    def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
        """[N,H,W,3] uint8 RGB -> what :meth:`between` compares; every tensor has N rows."""
        ...

    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> np.ndarray:
        """Distances [N] float32 of two results of :meth:`maps`."""
        ...


class STLPIPS:
    """Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022), AlexNet, read from the file in stlpips-pytorch.

    Raises:
        WeightsUnavailable: the package that ships the weight file is not installed.
    """

    name = "ST-LPIPS"

    def __init__(self) -> None:
        state = stalex_state()
        self._trunk = STAlexTrunk(state)
        self._weights = [state[f"lin{i}.model.1.weight"] for i in range(len(STAlexTrunk.SLICES))]

    @torch.inference_mode()
    def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
        """[N,H,W,3] uint8 RGB -> the trunk's five maps; their means are the STAlexNet features."""
        return list(self._trunk(resize(to_unit(frames), SIDE)))

    @torch.inference_mode()
    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> np.ndarray:
        """Distances [N] float32 (Zhang et al., CVPR 2018, eq. 1)."""
        total = torch.zeros(len(a[0]))
        for x, y, w in zip(a, b, self._weights, strict=True):
            difference = (F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)) ** 2
            total = total + F.conv2d(difference, w).mean((1, 2, 3))
        return np.asarray(total.numpy())


class LPIPS:
    """LPIPS 0.1, AlexNet, of the package lpips; the trunk's weights come from a file.

    Raises:
        WeightsUnavailable: the package or the trunk's file is missing or unreadable.
    """

    name = "LPIPS"

    def __init__(self, file: Path | str | None = None, *, allow_download: bool = False) -> None:
        found = weights.ALEXNET.find(file, allow_download)
        try:
            import lpips
        except ImportError:
            raise WeightsUnavailable("LPIPS: the package lpips is not installed; pip install lpips") from None
        state = weights.ALEXNET.read(found)
        try:
            # pnet_rand: the package's own constructor would fetch the trunk; it is filled in here instead.
            net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
            trunk = {k: state["features." + k.partition(".")[2]] for k in net.net.state_dict()}
            net.net.load_state_dict(trunk)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:  # another model's file
            raise WeightsUnavailable(f"LPIPS trunk: {found or weights.ALEXNET_URL} cannot be used ({error})") from None
        self._net = net.eval().requires_grad_(False)

    def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
        """[N,H,W,3] uint8 RGB -> one tensor [N,3,128,128] in [-1,1], the range lpips expects."""
        return [2 * resize(to_unit(frames), SIDE) - 1]

    @torch.inference_mode()
    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> np.ndarray:
        """Distances [N] float32."""
        return np.asarray(self._net(a[0], b[0]).flatten().numpy())


def distance(measure: PerceptualDistance, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances [N] float32 of paired pictures, two [N,H,W,3] uint8 RGB. Raises ValueError on unfit shapes."""
    if a.shape != b.shape:
        raise ValueError(f"pictures have shapes {a.shape} and {b.shape}; a distance needs pairs of one size")
    steps = range(0, len(a), BATCH)
    return np.concatenate(
        [measure.between(measure.maps(a[i : i + BATCH]), measure.maps(b[i : i + BATCH])) for i in steps]
    )


def best_distance(
    lpips_weights: Path | str | None = None, *, allow_download: bool = False
) -> tuple[PerceptualDistance, str]:
    """LPIPS if its trunk can be had, else ST-LPIPS; and a note that says which and why.

    Raises:
        WeightsUnavailable: neither can be had, or the file given cannot be used.
    """
    return weights.first_available(
        lambda: LPIPS(lpips_weights, allow_download=allow_download),
        STLPIPS,
        demanded=lpips_weights is not None,
        note="LPIPS 0.1, AlexNet",
        replaced="ST-LPIPS was used instead of LPIPS",
    )
