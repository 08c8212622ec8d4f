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

No public source gives the weight of the gap, so nobody's value is published and none of ours is fixed: each fold
chooses among :data:`GAPS` (:func:`chosen_gap`) by carrying parts of its source over to others as if those had no
labels, and takes none (0) unless one is clearly better.

AUs are maps of their own, each of two classes, absent and present.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mesynth.core.errors import ConfigError
from recognizer.models.handcrafted import LinearModel
from recognizer.models.lda import spread

NEEDS = (
    "model tgsr carries a source over to target clips without labels and has none; set transfer.transductive=true (a "
    "fold's own test clips) or transfer.unlabelled=[FOLDER]"
)
_FEATURES = ("lbp_top", "bi_woof", "mdmo", "hoof")
GAPS = (0.0, 0.01, 0.1, 1.0, 10.0)
"""What a fold chooses its gap among."""
SURE = 2.0
"""Standard errors that a gap has to gain inside the source (docs/figures.md says why)."""
_GROUPS = 5


@dataclass(frozen=True, kw_only=True)
class TgsrConfig:
    """See the module."""

    feature: str = "bi_woof"
    """lbp_top, bi_woof, mdmo or hoof, as its own section has it; its blocks (regions) are the groups."""
    gap: float | None = None
    """Weight of the distance between the mean answers for source and target; 0: no transfer. null: of :data:`GAPS`, in
    each fold, what carries clearly better than none between parts of the source; reports say which."""
    sparsity: float = 0.1
    """As a share of the least one that leaves no group at all."""
    steps: int = 2000
    """Of the solver, at most."""

    def __post_init__(self) -> None:
        if self.feature not in _FEATURES:
            raise ConfigError(f"tgsr.feature='{self.feature}' is unknown; choose from {', '.join(_FEATURES)}")
        if self.gap is not None and not 0 <= self.gap < math.inf:
            raise ConfigError(
                f"tgsr.gap={self.gap:g} must be 0 or a positive number, or null: each fold chooses its own"
            )
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
    [D] of each feature; ``config.gap`` is a number.

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


def fit_aus(
    x: np.ndarray,
    asked: Sequence[tuple[np.ndarray, np.ndarray]],
    free: np.ndarray | None,
    config: TgsrConfig,
    group: np.ndarray,
) -> LinearModel:
    """:func:`fit` for each AU, of which ``asked`` has labels [N] (0 absent, 1 present) and weights [N], 0 where it is
    not known: how much more the answer says present than absent, 1 to -1."""
    weight, bias = np.zeros((len(asked), x.shape[1])), np.full(len(asked), -np.inf)
    for a, (labels, weights) in enumerate(asked):
        if (weights > 0).any():
            two = fit(x, labels, weights, free, 2, config, group)
            weight[a], bias[a] = two.weight[1] - two.weight[0], two.bias[1] - two.bias[0]
    return LinearModel(weight=weight, bias=bias)


def chosen_gap(
    x: np.ndarray,
    asked: Sequence[tuple[np.ndarray, np.ndarray]],
    added: np.ndarray,
    databases: np.ndarray,
    subjects: np.ndarray,
    n_classes: int,
    config: TgsrConfig,
    group: np.ndarray,
) -> float:
    """The one of :data:`GAPS` that carries best inside the source; x [N,D], ``added``, ``databases``, ``subjects`` [N].

    ``asked``: labels [N] and weights [N] of the classes, or of each AU (then ``n_classes`` is 2). Each database of the
    source is answered for by what learned from the others, and from its clips without their labels; of a source that
    is one database, groups of its subjects are, up to five. What counts is the recall averaged over classes. A gap is
    taken only if it gains :data:`SURE` standard errors over none, subject by subject; of such, the best. No clip of the
    fold's test takes part.
    """
    own = np.any([weights > 0 for _, weights in asked], axis=0) & ~added
    names, who, counts = np.unique(subjects[own], return_inverse=True, return_counts=True)
    parts = np.full(len(x), -1)
    parts[own] = np.unique(databases[own], return_inverse=True)[1]
    if parts.max(initial=-1) < 1 and len(names) > 1:
        parts[own] = spread(counts, _GROUPS)[who]
    if parts.max(initial=-1) < 1:
        return GAPS[0]
    gains = np.zeros((len(GAPS), len(x)))  # what each clip adds to the recall's gain over no gap
    for labels, weights in asked:
        right, judged = np.zeros((len(GAPS), len(x))), np.zeros(len(x), np.bool_)
        for part in range(int(parts.max()) + 1):
            tested = (parts == part) & (weights > 0)
            rest = np.where(parts == part, 0.0, weights)
            if not (tested.any() and (rest > 0).any()):
                continue
            judged |= tested
            for k, gap in enumerate(GAPS):
                model = fit(x, labels, rest, tested.astype(float), n_classes, replace(config, gap=gap), group)
                right[k, tested] = (x[tested] @ model.weight.T + model.bias).argmax(1) == labels[tested]
        there = np.unique(labels[judged])
        for c in there:
            mine = judged & (labels == c)
            gains[:, mine] += (right - right[0])[:, mine] / (mine.sum() * len(there))
    each = np.stack([gains[:, own][:, who == s].sum(1) for s in range(len(names))], 1)
    error = np.sqrt(len(names)) * each.std(1, ddof=1) if len(names) > 1 else np.full(len(GAPS), np.inf)
    total = each.sum(1)
    return GAPS[int(np.where(total > SURE * error, total, 0.0).argmax())]


def most_sparsity(x: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    """The least weight of the groups that leaves none, of :func:`solve`'s problem."""
    return float(np.sqrt(_sums(group, ((x.T @ y) ** 2).sum(1))).max())


def solve(x: np.ndarray, y: np.ndarray, apart: np.ndarray, group: np.ndarray, config: TgsrConfig) -> np.ndarray:
    """W [D,C] least in 1/2 |y - x W|^2 + gap/2 |apart W|^2 + s sum_g |W_g|, s = sparsity * :func:`most_sparsity`.

    x [N,D], y [N,C], apart [D], group [D] integers from 0 on.
    """
    assert config.gap is not None
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
