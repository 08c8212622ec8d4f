"""Statistics of people drawn with replacement: each is computed for all draws at once, from sums per person.

A draw is a weight per person, [B+1,P]; its first row is everyone once, so the first value of a statistic is the
figure and the others give its interval.
"""

from __future__ import annotations

import numpy as np

from mesynth.core.seeds import stream
from mesynth.core.statistics import Interval, percentiles, resample, tails
from mesynth.metrics.fid import frechet, polynomial_kernel

FRECHET_DRAWS = 100


def draws(people: int, resamples: int, seed: int) -> np.ndarray:
    """[B+1,P] float64 weights."""
    drawn = resample(stream(seed, "contest-bootstrap"), people, resamples)
    return np.concatenate([np.ones((1, people)), drawn.astype(np.float64)])


def interval(statistic: np.ndarray, level: float = 0.95) -> Interval | None:
    """A statistic [B+1] -> its value and percentile interval; None when the value is not defined."""
    if not np.isfinite(statistic[0]):
        return None
    low, high = percentiles(statistic, tails(level), least=1)
    assert low is not None
    assert high is not None
    return Interval(value=float(statistic[0]), low=low, high=high)


def mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean [B+1] of [P,...] values; NaN is left out."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return ratio(weights, flat, np.where(np.isnan(flat), np.nan, 1.0))


def ratio(weights: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Sum of ``top`` over sum of ``bottom`` [B+1], both [P,N]; where one is NaN neither counts."""
    known = ~np.isnan(top) & ~np.isnan(bottom)
    a, b = (weights @ np.where(known, v, 0.0).sum(1) for v in (top, bottom))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(b != 0, a / b, np.nan))


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Per person [P,N] -> [P,6]: n and the sums of x, y, x^2, y^2, xy; NaN is left out."""
    known = ~np.isnan(x) & ~np.isnan(y)
    x, y = (np.where(known, v, 0.0).astype(np.float64) for v in (x, y))
    return np.stack([known.sum(1), x.sum(1), y.sum(1), (x**2).sum(1), (y**2).sum(1), (x * y).sum(1)], 1)


def slope(weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Least-squares slope of y on x [B+1], from moments [P,6]; NaN where x does not vary."""
    n, _, _, xx, _, xy = _centred(weights, sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((n > 1) & (xx > 1e-9), xy / xx, np.nan))


def icc(weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """ICC(3,1) of x and y [B+1] (Shrout and Fleiss, 1979), from moments [P,6].

    For two raters it is 2 cov(x, y) / (var(x) + var(y)): see :func:`mesynth.metrics.control.icc31`.
    """
    n, _, _, xx, yy, xy = _centred(weights, sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((n > 1) & (xx > 1e-9), 2 * xy / (xx + yy), np.nan))


def _centred(weights: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, ...]:
    n, x, y, xx, yy, xy = (weights @ sums).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return n, x / n, y / n, xx - x * x / n, yy - y * y / n, xy - x * y / n


def between(weights: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Mean [B+1] of a [P,P] matrix over pairs of different people."""
    off = matrix.astype(np.float64).copy()
    np.fill_diagonal(off, 0.0)
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(pairs > 0, np.einsum("bp,pq,bq->b", weights, off, weights) / pairs, np.nan))


def paired_kid(weights: np.ndarray, x: list[np.ndarray], y: list[np.ndarray]) -> np.ndarray:
    """KID [B+1] of two feature sets of the same people, each a list over people of [N,D].

    The unbiased MMD^2 of Binkowski et al. (2018), with pairs of different people in all three terms: frames of one
    person are not independent, and its two pictures of one request would otherwise make any copy look better than
    the truth. Equal sets give exactly 0.
    """
    people = len(x)
    sums = np.zeros((3, people, people))
    for k, (a, b) in enumerate(((x, x), (y, y), (x, y))):
        for i in range(people):
            for j in range(people):
                sums[k, i, j] = polynomial_kernel(a[i], b[j]).sum() if i != j and len(a[i]) and len(b[j]) else 0.0
    n = np.array([len(v) for v in x], np.float64)
    total = weights @ n
    pairs = total**2 - (weights**2) @ (n**2)
    whole = sums[0] + sums[1] - sums[2] - sums[2].T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(pairs > 0, np.einsum("bp,pq,bq->b", weights, whole, weights) / pairs, np.nan))


def paired_frechet(weights: np.ndarray, x: list[np.ndarray], y: list[np.ndarray]) -> np.ndarray:
    """Frechet distance of two feature sets of the same people, [FRECHET_DRAWS+1]: the same people drawn on both
    sides. Biased upwards at few pictures, as every Frechet distance."""
    out = []
    for row in weights[: FRECHET_DRAWS + 1]:
        index = np.repeat(np.arange(len(x)), row.astype(int))
        a, b = (np.concatenate([v[i] for i in index]) for v in (x, y))
        # Equal sets leave rounding errors of either sign.
        out.append(max(round(frechet(a, b), 9), 0.0) if len(a) > 1 else np.nan)
    return np.array(out)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman of two [N]; NaN for fewer than 3 known pairs."""
    from mesynth.metrics.control import spearman

    known = ~np.isnan(x) & ~np.isnan(y)
    return spearman(x[known], y[known]) if known.sum() > 2 else float("nan")
