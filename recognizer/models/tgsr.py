"""TGSR, transfer group sparse regression across databases (Jiang, Zong, Zheng, Liu and Wei, ICPR 2022; after its
abstract).

A linear map from a hand-crafted feature to the classes, learned on labelled clips of the source. Published (abstract):
the features of a face's regions are groups, a sparse choice of groups is learned together with a term that brings the
source's and the target's clips, which have no labels, closer. Ours, because the abstract gives no formula: with x
centred and scaled by the source, y one-hot and centred, n and m clips,

    min_W  1/2n sum_i |y_i - W' x_i|^2 + gap/2 |W' (mean_source - mean_target)|^2 + sparsity sum_g |W_g|_F

which is convex. Clips count by their weights; classes count alike. It is solved by ADMM (Boyd et al., 2011), whose
linear systems have one factor, and ends where its steps change nothing more (or after ``tgsr.steps``); tests hold it
against the conditions of optimality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mesynth.core.errors import ConfigError
from recognizer.models.handcrafted import LinearModel

NEEDS = (
    "model tgsr carries a source over to target clips without labels and has none; set transfer.transductive=true (a "
    "fold's own test clips) or transfer.unlabelled=[FOLDER]"
)
_FEATURES = ("lbp_top", "bi_woof", "mdmo", "hoof")


@dataclass(frozen=True, kw_only=True)
class TgsrConfig:
    """See the module."""

    feature: str = "bi_woof"
    """lbp_top, bi_woof, mdmo or hoof, as its own section has it; its blocks (regions) are the groups."""
    gap: float = 1.0
    """Weight of the distance between the mean answers for source and target; 0: no transfer."""
    sparsity: float = 0.1
    """As a share of the least one that leaves no group at all."""
    steps: int = 2000
    """Of the solver, at most."""

    def __post_init__(self) -> None:
        if self.feature not in _FEATURES:
            raise ConfigError(f"tgsr.feature='{self.feature}' is unknown; choose from {', '.join(_FEATURES)}")
        if not 0 <= self.gap < math.inf:
            raise ConfigError(f"tgsr.gap={self.gap:g} must be 0 or a positive number")
        if not 0 < self.sparsity < 1:
            raise ConfigError(f"tgsr.sparsity={self.sparsity:g} is outside (0, 1); .1 is usual")
        if self.steps < 1:
            raise ConfigError(f"tgsr.steps={self.steps} must be at least 1")


def fit(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    free: np.ndarray | None,
    n_classes: int,
    config: TgsrConfig,
    group: np.ndarray,
) -> LinearModel:
    """Features x [N,D], labels y [N] and weights [N] of the source, ``free`` [N] > 0 for clips of the target, ``group``
    [D] of each feature.

    Raises:
        ConfigError: there is no clip of the target.
    """
    if free is None or not (free > 0).any():
        raise ConfigError(NEEDS)
    own = weights > 0
    mass = np.bincount(y[own], weights[own], n_classes)
    w = weights[own] / mass[y[own]]
    w /= w.sum()
    source, answers = x[own].astype(np.float64), np.eye(n_classes)[y[own]]
    mean, centre = w @ source, w @ answers
    source -= mean
    scale = max(math.sqrt(float(w @ (source**2).sum(1))), 1e-12)
    target = (free @ x.astype(np.float64)) / free.sum()
    root = np.sqrt(w)[:, None]
    found = solve(root * source / scale, root * (answers - centre), (mean - target) / scale, group, config)
    weight = found.T / scale
    bias = np.where(mass > 0, centre - weight @ mean, -np.inf)
    return LinearModel(weight=weight, bias=bias)


def most_sparsity(x: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    """The least weight of the groups that leaves none, of :func:`solve`'s problem."""
    return float(np.sqrt(_sums(group, ((x.T @ y) ** 2).sum(1))).max())


def solve(x: np.ndarray, y: np.ndarray, apart: np.ndarray, group: np.ndarray, config: TgsrConfig) -> np.ndarray:
    """W [D,C] least in 1/2 |y - x W|^2 + gap/2 |apart W|^2 + s sum_g |W_g|, s = sparsity * :func:`most_sparsity`.

    x [N,D], y [N,C], apart [D], group [D] integers from 0 on.
    """
    strength = config.sparsity * most_sparsity(x, y, group)
    rows = np.vstack([x, math.sqrt(config.gap) * apart])
    linear = x.T @ y
    if strength <= 0:  # no feature says anything of the classes
        return np.zeros_like(linear)
    # The penalty of the split: near the size of the quadratic form, where steps are neither timid nor wild.
    rho = max(float((rows**2).sum()) / max(min(rows.shape), 1), 1e-12)
    wide = rows.shape[0] < rows.shape[1]
    inner = rows @ rows.T if wide else rows.T @ rows
    factor = cho_factor(inner + rho * np.eye(len(inner)))
    z, u = np.zeros_like(linear), np.zeros_like(linear)
    size = max(float(np.linalg.norm(linear)), 1e-12)
    for _ in range(config.steps):
        right = linear + rho * (z - u)
        w = (right - rows.T @ cho_solve(factor, rows @ right)) / rho if wide else cho_solve(factor, right)
        before, moved = z, w + u
        length = np.sqrt(_sums(group, (moved**2).sum(1)))
        z = moved * np.maximum(1 - strength / (rho * np.maximum(length, 1e-300)), 0)[group][:, None]
        u = moved - z
        primal, dual = np.linalg.norm(w - z), np.linalg.norm(z - before)
        if rho * max(primal, dual) <= 1e-9 * size:
            break
    return z


def _sums(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(group, values)
