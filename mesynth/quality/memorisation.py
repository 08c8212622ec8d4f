"""Memorisation: is a synthetic frame closer to a training frame than unseen real frames are?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Median distance to the nearest training frame, of synthetic frames and of held-out real ones, and the
    share of synthetic frames that lie closer than 99% of the held-out frames do (1% if nothing is copied)."""

    synthetic: float
    held_out: float
    copied: float
    n: int


def nearest(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row of [N,D] to the nearest row of [M,D]: [N] float64. Raises ValueError if M = 0."""
    return nearest_index(x, reference)[1]


def nearest_index(x: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which row of [M,D] is nearest to each row of [N,D], and how far it is: [N] each. Raises ValueError if M = 0."""
    if not len(reference):
        raise ValueError("no training frame to compare with")
    a, b = x.astype(np.float64), reference.astype(np.float64)
    b_square = (b**2).sum(1)
    out, place = np.empty(len(a)), np.empty(len(a), int)
    for i in range(0, len(a), 256):
        block = a[i : i + 256]
        squared = (block**2).sum(1)[:, None] + b_square - 2 * block @ b.T
        place[i : i + 256] = squared.argmin(1)
        out[i : i + 256] = np.sqrt(np.clip(squared.min(1), 0, None))
    return place, out


def memorisation(synthetic: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> Memorisation:
    """Compare features [N,D], [M,D] and [L,D] of one extractor. Held-out people must not be in ``training``."""
    near, far = nearest(synthetic, training), nearest(held_out, training)
    return Memorisation(
        synthetic=float(np.median(near)),
        held_out=float(np.median(far)),
        copied=float((near < np.percentile(far, 1)).mean()),
        n=len(near),
    )
