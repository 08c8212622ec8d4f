"""How far coders agree: Krippendorff's alpha and Cohen's kappa, with missing answers; F1 of named action units.

K. Krippendorff, *Computing Krippendorff's Alpha-Reliability*, 2011. J. Cohen, *A Coefficient of Agreement for Nominal
Scales*, 1960. Every figure is computed from counts per unit, so that a bootstrap of units is one product of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.seeds import stream
from mesynth.core.statistics import group_weights, percentiles

METRICS = ("nominal", "ordinal", "interval")
"""Levels of measurement of alpha: which difference between two answers counts how much."""


def coincidences(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coincidences [U,V,V] of each unit's answers, and the V values in ascending order.

    Args:
        ratings: [C,U] of C coders and U units, NaN where a coder gave no answer. A unit with a single answer has
            nothing to pair, and counts zero.

    >>> counts, values = coincidences(np.array([[1, 2, 2], [1, 1, np.nan]]))
    >>> values.tolist(), counts.sum((1, 2)).tolist()
    ([1.0, 2.0], [2.0, 2.0, 0.0])
    """
    values = np.unique(ratings[np.isfinite(ratings)])
    counts = (ratings[:, :, None] == values).sum(0).astype(float)  # [U,V]
    answers = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :] - np.eye(len(values)) * counts[:, :, None]
    return np.where((answers > 1)[:, None, None], pairs / np.maximum(answers - 1, 1)[:, None, None], 0.0), values


def alpha_of(counts: np.ndarray, values: np.ndarray, metric: str = "nominal") -> np.ndarray:
    """Krippendorff's alpha [...] of coincidences [...,V,V]; NaN where all answers are alike, or none can be paired.

    Raises ConfigError for another metric than those of :data:`METRICS`.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric '{metric}' is unknown; choose from {', '.join(METRICS)}")
    totals = counts.sum(-1)
    n = totals.sum(-1)
    if metric == "ordinal":
        below = np.cumsum(totals, -1) - totals / 2  # rank of a value's middle
        distance = (below[..., :, None] - below[..., None, :]) ** 2
    elif metric == "interval":
        distance = np.broadcast_to((values[:, None] - values[None, :]) ** 2, counts.shape)
    else:
        distance = np.broadcast_to(1.0 - np.eye(len(values)), counts.shape)
    observed = (counts * distance).sum((-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan))


def alpha(ratings: np.ndarray, metric: str = "nominal") -> float:
    """Krippendorff's alpha of ratings [C,U], NaN where a coder gave no answer: 1 is full agreement, 0 that of chance.

    NaN where it is not defined: all answers alike, or no unit with two of them. Raises ConfigError for an unknown
    metric.

    >>> nothing = np.nan  # Krippendorff's (2011) four coders and twelve units
    >>> ratings = np.array([
    ...     [1, 2, 3, 3, 2, 1, 4, 1, 2, nothing, nothing, nothing],
    ...     [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nothing, 3],
    ...     [nothing, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nothing],
    ...     [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nothing],
    ... ])
    >>> [round(alpha(ratings, metric), 3) for metric in METRICS]
    [0.743, 0.815, 0.849]
    """
    counts, values = coincidences(np.asarray(ratings, float))
    return float(alpha_of(counts.sum(0), values, metric))


def alpha_interval(
    ratings: np.ndarray, metric: str, groups: Sequence[str], *, seed: int = 0, draws: int = 500
) -> tuple[float, float | None, float | None]:
    """:func:`alpha` and its 95 % interval, with whole groups [U] (clips or subjects) of units drawn anew.

    None and None with fewer than two groups that have anything to pair.
    """
    counts, values = coincidences(np.asarray(ratings, float))
    value = float(alpha_of(counts.sum(0), values, metric))
    used = counts.sum((1, 2)) > 0
    kept = [group for group, use in zip(groups, used, strict=True) if use]
    if len(set(kept)) < 2:
        return value, None, None
    weights = group_weights(kept, stream(seed, "panel-alpha"), draws)
    drawn = alpha_of(np.tensordot(weights, counts[used], 1), values, metric)
    return value, *percentiles(drawn)


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two coders' answers [U], NaN where one gave none; NaN where chance alone agrees fully.

    >>> yes, no = [1] * 20 + [1] * 5 + [0] * 10 + [0] * 15, [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    >>> round(kappa(np.array(yes), np.array(no)), 3)
    0.4
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    if not len(first):
        return float("nan")
    values = np.union1d(first, second)
    one, other = ((answers[:, None] == values).mean(0) for answers in (first, second))
    chance = float(one @ other)
    agreed = float((first == second).mean())
    return (agreed - chance) / (1 - chance) if chance < 1 - 1e-12 else float("nan")


def hits(named: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[...,3] of each cell: true positive, false positive, false negative; all 0 where either is not known.

    Args:
        named: [...] 1 named, 0 not named, NaN no answer.
        truth: [...] 1 present, 0 absent, -1 or NaN not known.
    """
    named, truth = np.broadcast_arrays(np.asarray(named, float), np.asarray(truth, float))
    known = np.isfinite(named) & np.isfinite(truth) & (truth >= 0)
    yes, there = named == 1, truth == 1
    return np.stack([known & yes & there, known & yes & ~there, known & ~yes & there], -1).astype(float)


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 [...] of counts [...,3] (:func:`hits`); NaN where nothing was there and nothing named.

    >>> f1(np.array([[2, 1, 1], [0, 0, 0]])).round(3).tolist()
    [0.667, nan]
    """
    positive, wrong, missed = np.moveaxis(np.asarray(counts, float), -1, 0)
    both = 2 * positive + wrong + missed
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(both > 0, 2 * positive / both, np.nan))


def f1_interval(
    counts: np.ndarray, groups: Sequence[str], *, seed: int = 0, draws: int = 500
) -> tuple[float, float | None, float | None]:
    """F1 of the counts [U,3] of units and its 95 % interval, with groups [U] of units drawn anew.

    NaN where F1 is not defined; None and None with fewer than two groups.
    """
    value = float(f1(counts.sum(0)))
    if not np.isfinite(value) or len(set(groups)) < 2:
        return value, None, None
    weights = group_weights(list(groups), stream(seed, "panel-f1"), draws)
    return value, *percentiles(f1(weights @ counts))
