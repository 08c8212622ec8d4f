"""Distances between two sets of features: KID and the exact Frechet distance, and what real clips are from each other.

The Frechet distance is computed from features or from moments (what pytorch-fid caches).

ME corpora hold hundreds of clips. At that size the Frechet distance of two samples of ONE distribution is
far from zero, so KID is the headline and every Frechet distance stands beside a real-against-real baseline
at the same N.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from mesynth.core import seeds
from mesynth.core.statistics import Interval, percentiles, resample, tails


@dataclass(frozen=True, kw_only=True)
class Moments:
    """``mean`` [D] and ``covariance`` [D,D] (over n-1) of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @staticmethod
    def of(parts: Iterable[np.ndarray]) -> Moments:
        """Of features [n,D] that come in parts; memory is that of a part and of the covariance.

        Raises ValueError when there are fewer than two rows.
        """
        count, origin = 0, np.zeros(0)
        total, products = np.zeros(0), np.zeros((0, 0))
        for part in parts:
            if not count:  # sums about a mean near the true one: nothing large is taken from something large
                origin = part.mean(0, dtype=np.float64)
                total, products = np.zeros(part.shape[1]), np.zeros((part.shape[1], part.shape[1]))
            centred = part - origin
            total += centred.sum(0)
            products += centred.T @ centred
            count += len(part)
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, got {count}")
        shift = total / count
        return Moments(mean=origin + shift, covariance=(products - count * np.outer(shift, shift)) / (count - 1))


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of Gaussians fitted to [N,D] and [M,D] (Heusel et al., 2017, eq. 6).

    ``|mx - my|^2 + tr(Cx) + tr(Cy) - 2 tr (Cx Cy)^(1/2)``, without a matrix square root or an epsilon. Few rows: with
    A, B the centred features over sqrt(n-1) the last trace is the nuclear norm of ``A B^T``. Many: see
    :func:`frechet_of_moments`.
    """
    check_features(x, y)
    if max(len(x), len(y)) > x.shape[1]:
        return frechet_of_moments(Moments.of([x]), Moments.of([y]))
    a, b = _centred(x), _centred(y)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    mean = ((x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)) ** 2).sum()
    return float(mean + (a**2).sum() + (b**2).sum() - 2 * cross)


def frechet_of_moments(x: Moments, y: Moments) -> float:
    """The same from moments: with ``Cx = L L^T``, ``Cx Cy`` has the eigenvalues of the symmetric ``L^T Cy L``.

    Eigenvalues are exact to 1e-16 of the largest one, so a direction without variance adds up to 1e-8 of the largest
    standard deviation's square; nothing is added to the diagonals. Raises ValueError when the widths differ.
    """
    if len(x.mean) != len(y.mean):
        raise ValueError(f"moments of {len(x.mean)} and {len(y.mean)} features; the extractors differ")
    mean = ((x.mean - y.mean) ** 2).sum()
    roots = np.sqrt(np.maximum(_eigenvalues(x.covariance, y.covariance), 0)).sum()
    return float(mean + np.trace(x.covariance) + np.trace(y.covariance) - 2 * roots)


def _eigenvalues(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the product of two covariances [D,D]."""
    for one, other in ((a, b), (b, a)):
        factor, failed = lapack.dpotrf(one.T, lower=1, clean=0)
        if not failed:
            product, _ = lapack.dsygst(other.T, factor, itype=2, lower=1)  # its lower triangle; eigvalsh reads no more
            return np.asarray(np.linalg.eigvalsh(product))
    # Neither has full rank (fewer rows than features): factors by eigenvectors, a little slower.
    values, vectors = np.linalg.eigh(a)
    factor = vectors * np.sqrt(np.maximum(values, 0))
    return np.asarray(np.linalg.eigvalsh(factor.T @ b @ factor))


def _centred(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return np.asarray((x - x.mean(0)) / np.sqrt(len(x) - 1))


def check_features(x: np.ndarray, y: np.ndarray) -> None:
    """Raise ValueError unless both are finite [N,D] of one D with at least two rows."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}; give [N,D] and [M,D]")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a distance needs at least 2 rows on each side, got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features hold NaN or infinity")


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``(x.y / D + 1)^3`` of [N,D] and [M,D] -> [N,M] float64 (Binkowski et al., ICLR 2018)."""
    return np.asarray((x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3)


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel inception distance: the unbiased MMD^2 of features [N,D] and [M,D] (Binkowski et al., 2018, eq. 4).

    Unbiased, so it is zero on average for equal distributions at any N and may be negative.
    Raises ValueError when either set has fewer than two rows or the widths differ.

    >>> x = np.array([[0.0], [1.0]])
    >>> kid(x, x + 3), kid(x, x)
    (2102.5, -3.5)
    """
    check_features(x, y)
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
    check_features(x, y)
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
    drawn = [value(resample(rng, n).astype(float), resample(rng, m).astype(float)) for _ in range(resamples)]
    low, high = percentiles(np.array(drawn), tails(level), least=1)
    return Interval(
        value=value(np.ones(n), np.ones(m)), low=np.nan if low is None else low, high=np.nan if high is None else high
    )


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
