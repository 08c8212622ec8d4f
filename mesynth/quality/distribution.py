"""Distances between two sets of features: KID with a bootstrap over clips, and what real clips are from each other.

ME corpora hold hundreds of clips. At that size the Frechet distance of two samples of ONE distribution is
far from zero, so KID is the headline and every Frechet distance stands beside a real-against-real baseline
at the same N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mesynth import seeds
from mesynth.quality.frechet import check_features as _check
from mesynth.quality.frechet import frechet


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its percentile bootstrap interval."""

    value: float
    low: float
    high: float


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``(x.y / D + 1)^3`` of [N,D] and [M,D] -> [N,M] float64 (Binkowski et al., ICLR 2018)."""
    return np.asarray((x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3)


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel inception distance: the unbiased MMD^2 of features [N,D] and [M,D] (Binkowski et al., 2018, eq. 4).

    Unbiased, so it is zero on average for equal distributions at any N and may be negative.
    Raises ValueError when either set has fewer than two rows or the widths differ.
    """
    _check(x, y)
    return _mmd(polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y))


def _mmd(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
    n, m = len(xx), len(yy)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def kid_interval(
    x: np.ndarray,
    y: np.ndarray,
    groups_x: Sequence[object],
    groups_y: Sequence[object],
    *,
    resamples: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """:func:`kid` with a bootstrap over groups (clips or subjects): frames of one clip are not independent.

    Groups are resampled with replacement as weights on the kernel matrices; pairs within one group never
    count, neither in the value nor in a resample, or a clip drawn twice would look like perfect agreement.
    Raises ValueError when a side has fewer than two groups.
    """
    _check(x, y)
    gx, gy = _group_index(groups_x, len(x)), _group_index(groups_y, len(y))
    xx, yy = _group_sums(polynomial_kernel(x, x), gx, gx), _group_sums(polynomial_kernel(y, y), gy, gy)
    xy = _group_sums(polynomial_kernel(x, y), gx, gy)
    nx, ny = np.bincount(gx).astype(float), np.bincount(gy).astype(float)
    np.fill_diagonal(xx, 0)
    np.fill_diagonal(yy, 0)

    def value(wx: np.ndarray, wy: np.ndarray) -> float:
        total_x, total_y = wx @ nx, wy @ ny
        pairs_x = total_x**2 - ((wx * nx) ** 2).sum()
        pairs_y = total_y**2 - ((wy * ny) ** 2).sum()
        if pairs_x <= 0 or pairs_y <= 0:  # one group drawn only: no pair of different groups
            return np.nan
        return float(wx @ xx @ wx / pairs_x + wy @ yy @ wy / pairs_y - 2 * (wx @ xy @ wy) / (total_x * total_y))

    rng = seeds.stream(seed, "kid-bootstrap")
    n, m = len(nx), len(ny)
    draws = [
        value(rng.multinomial(n, np.full(n, 1 / n)).astype(float), rng.multinomial(m, np.full(m, 1 / m)).astype(float))
        for _ in range(resamples)
    ]
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return Interval(value=value(np.ones(n), np.ones(m)), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The same distance between two halves of the real clips, ``n`` groups each, over several seeded splits.

    ``rows`` is the N of the Frechet distance: feature rows a side (groups may differ in size).
    """

    kid: float
    frechet: float
    n: int
    rows: int
    splits: int


def real_baseline(
    x: np.ndarray, groups: Sequence[object], n_groups: int, *, splits: int = 5, seed: int = 0
) -> Baseline | None:
    """Real against real: disjoint sets of ``n_groups`` clips (at most half of them); None with under 4 clips."""
    index = _group_index(groups, len(x))
    count = int(index.max()) + 1
    n = min(n_groups, count // 2)
    if n < 2:
        return None
    values, rows = [], len(x)
    for i in range(splits):
        order = seeds.stream(seed, "real-baseline", i).permutation(count)
        a, b = x[np.isin(index, order[:n])], x[np.isin(index, order[n : 2 * n])]
        rows = min(rows, len(a), len(b))
        values.append((kid(a, b), frechet(a[:rows], b[:rows])))
    means = np.mean(values, axis=0)
    return Baseline(kid=float(means[0]), frechet=float(means[1]), n=n, rows=rows, splits=splits)


def _group_index(groups: Sequence[object], n: int) -> np.ndarray:
    if len(groups) != n:
        raise ValueError(f"{len(groups)} group labels for {n} rows of features")
    index = np.unique(np.array([str(g) for g in groups]), return_inverse=True)[1].ravel()
    if n == 0 or index.max() < 1:
        raise ValueError("a bootstrap over clips needs at least two clips on each side")
    return np.asarray(index)


def _group_sums(kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sum of the kernel over each pair of groups, [G,H]."""
    a = np.eye(int(rows.max()) + 1)[rows]
    b = np.eye(int(columns.max()) + 1)[columns]
    return np.asarray(a.T @ kernel @ b)
