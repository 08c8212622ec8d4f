"""How sure a figure is: the bootstrap by clip or by subject, paired comparison, permutation, Holm, Wilson.

This file owns the drawing and the intervals. What is computed from a draw (KID, slopes, UF1) stays with its measure.
A draw of whole groups (the clips of one subject are not independent) comes in two forms: as weights, of which thousands
are one matrix product, and as the drawn values, for a median. Each caller has a random stream of its own name, so that
a new figure changes no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mesynth.core.seeds import stream

Statistic = Callable[[np.ndarray], np.ndarray]
"""Confusion counts [...,C,C] -> a figure [...]."""
RESAMPLES = 500
TAILS = (2.5, 97.5)
"""Percentiles of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate, its bootstrap standard deviation (None where it was not kept) and its percentile interval."""

    value: float
    sd: float | None = None
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Comparison(Interval):
    """A paired difference (b minus a) with its permutation p-value (two-sided)."""

    p: float


# ------------------------------------------------------------------- drawing and intervals


def tails(level: float) -> tuple[float, float]:
    """Percentiles of an interval of that level.

    >>> [round(tail, 6) for tail in tails(0.9)]
    [5.0, 95.0]
    """
    tail = 50 * (1 - level)
    return tail, 100 - tail


def percentiles(
    drawn: np.ndarray, between: tuple[float, float] = TAILS, least: int = 2
) -> tuple[float | None, float | None]:
    """The ``between`` percentiles of [R] resampled figures; None where fewer than ``least`` of them are finite.

    >>> percentiles(np.arange(101.0))
    (2.5, 97.5)
    >>> percentiles(np.array([1.0, np.nan]))
    (None, None)
    """
    finite = drawn[np.isfinite(drawn)]
    if len(finite) < least:
        return None, None
    low, high = np.percentile(finite, between)
    return float(low), float(high)


def group_index(groups: Sequence[object]) -> np.ndarray:
    """[N] group labels -> [N] numbers of their groups, in the order in which groups first appear.

    >>> group_index(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(str(group), len(numbers)) for group in groups], int)


def resample(rng: np.random.Generator, n: int, size: int | None = None) -> np.ndarray:
    """How often each of ``n`` groups is drawn: [n], or [size,n]; every draw has ``n``."""
    return np.asarray(rng.multinomial(n, np.full(n, 1 / n), size=size))


def group_weights(groups: Sequence[str], rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """Weights [R,N] of N values: how often each is drawn when whole groups are. Groups count in sorted order.

    >>> weights = group_weights(["a", "b", "a"], np.random.default_rng(0), 4)
    >>> (weights[:, 0] == weights[:, 2]).all(), (weights[:, :2].sum(1) == 2).all()
    (np.True_, np.True_)
    """
    index = np.unique(np.array(groups, str), return_inverse=True)[1].ravel()
    return np.asarray(resample(rng, int(index.max()) + 1, resamples)[:, index], float)


def bootstrap(
    values: np.ndarray,
    statistic: Callable[..., Any],
    groups: Sequence[object],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """``statistic`` (np.mean, np.median; called with ``axis=-1``) [R] of the values of groups drawn with replacement.

    Args:
        values: [N] finite.
        groups: [N] clip or subject of each value; clips of one subject are drawn together.

    >>> values = np.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0])
    >>> def width(groups):
    ...     low, high = percentiles(bootstrap(values, np.mean, groups, np.random.default_rng(0)))
    ...     return round(high - low, 1)
    >>> width(range(6)), width([0, 0, 0, 1, 1, 1])
    (2.7, 4.0)
    """
    index = group_index(groups)
    members = [np.nonzero(index == number)[0] for number in range(int(index.max()) + 1)]
    drawn = rng.integers(len(members), size=(resamples, len(members)))
    if len(members) == len(values):
        return np.asarray(statistic(values[drawn], axis=-1))
    return np.array([statistic(values[np.concatenate([members[i] for i in row])], axis=-1) for row in drawn])


def interval_of(
    values: np.ndarray,
    statistic: Callable[..., Any],
    groups: Sequence[object],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[float | None, float | None]:
    """95 % interval of :func:`bootstrap`; None and None with a single group, which says nothing about others."""
    if len({str(group) for group in groups}) < 2:
        return None, None
    return percentiles(bootstrap(values, statistic, groups, rng, resamples))


def wilson(count: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927). Raises ValueError for n < 1.

    >>> [round(v, 4) for v in wilson(0, 600)]
    [0.0, 0.0064]
    """
    if n < 1:
        raise ValueError(f"a share of {n} clips has no interval")
    p = count / n
    middle, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float((middle - spread) / (1 + z * z / n))), min(1.0, float((middle + spread) / (1 + z * z / n)))


# ------------------------------------------------------------------- confusion counts of subjects


def subject_counts(
    y: np.ndarray, predicted: np.ndarray, subjects: np.ndarray, seeds: np.ndarray, n_classes: int
) -> np.ndarray:
    """Confusion counts [K,S,C,C] of all test predictions, seeds and subjects in ascending order.

    Rows of a table are the truth. Raises ValueError when a class index is outside [0, n_classes).

    >>> y, predicted = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    >>> subject_counts(y, predicted, np.array(["a", "a", "b", "b"]), np.zeros(4), 2).tolist()
    [[[[1, 0], [0, 1]], [[1, 0], [1, 0]]]]
    """
    for name, found in (("label", y), ("prediction", predicted)):
        if len(found) and (found.min() < 0 or found.max() >= n_classes):
            raise ValueError(f"{name}s span [{found.min()}, {found.max()}]; expected class indices below {n_classes}")
    names, subject = np.unique(subjects, return_inverse=True)
    values, seed = np.unique(seeds, return_inverse=True)
    shape = len(values), len(names), n_classes, n_classes
    out = np.zeros(shape, np.int64)
    np.add.at(out, (seed.ravel(), subject.ravel(), np.asarray(y), np.asarray(predicted)), 1)
    return out


def _over_seeds(counts: np.ndarray, weights: np.ndarray, statistic: Statistic) -> np.ndarray:
    """[K,S,C,C] counts and [R,S] subject weights -> the statistic [R], averaged over seeds."""
    k, s, c, _ = counts.shape
    total = np.einsum("rs,ksx->rkx", weights, counts.reshape(k, s, c * c), optimize=True)
    return np.asarray(statistic(total.reshape(len(weights), k, c, c)).mean(1))


def bootstrap_counts(counts: np.ndarray, *, statistic: Statistic, draws: int = 2000, seed: int = 0) -> Interval:
    """The statistic of counts [K,S,C,C], a mean over K seeds, with subjects drawn anew (Efron, 1979)."""
    n = counts.shape[1]
    drawn = _over_seeds(counts, resample(stream(seed, "bootstrap"), n, draws), statistic)
    value = float(_over_seeds(counts, np.ones((1, n)), statistic)[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value=value, sd=float(drawn.std()), low=float(low), high=float(high))


def compare_counts(
    a: np.ndarray, b: np.ndarray, *, statistic: Statistic, draws: int = 2000, seed: int = 0
) -> Comparison:
    """The paired difference statistic(b) - statistic(a) over the same subjects.

    The permutation test swaps the two runs' outcomes for random subsets of subjects (all 2^S subsets when those are no
    more than ``draws``); ``a`` and ``b`` [K,S,C,C] must have the same seeds and the same clips per subject.

    Raises:
        ValueError: they do not.
    """
    if a.shape[1:] != b.shape[1:] or (a[0].sum(-1) != b[0].sum(-1)).any():
        raise ValueError("the two runs were not tested on the same clips; a paired comparison needs that")
    if len(a) != len(b):
        raise ValueError(f"the two runs have {len(a)} and {len(b)} seeds; a paired comparison needs the same")
    n = a.shape[1]
    weights = resample(stream(seed, "bootstrap"), n, draws)
    drawn = _over_seeds(b, weights, statistic) - _over_seeds(a, weights, statistic)
    one = np.ones((1, n))
    value = float((_over_seeds(b, one, statistic) - _over_seeds(a, one, statistic))[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = _permutation_p(a, b, value, statistic, draws, seed)
    return Comparison(value=value, sd=float(drawn.std()), low=float(low), high=float(high), p=p)


def _permutation_p(a: np.ndarray, b: np.ndarray, value: float, statistic: Statistic, draws: int, seed: int) -> float:
    n = a.shape[1]
    exhaustive = n < 31 and 2**n <= draws
    if exhaustive:
        swap = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        swap = stream(seed, "permutation").integers(0, 2, (draws, n))
    keep = 1 - swap
    both = np.concatenate([a, b], axis=1)  # subjects of a, then of b
    swapped_a = _over_seeds(both, np.concatenate([keep, swap], 1), statistic)
    swapped_b = _over_seeds(both, np.concatenate([swap, keep], 1), statistic)
    extreme = np.abs(swapped_b - swapped_a) >= abs(value) - 1e-12
    # The observed assignment is one of the draws of a random test (Phipson and Smyth, 2010).
    return float(extreme.mean() if exhaustive else (1 + extreme.sum()) / (1 + draws))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values [n] for the number of comparisons made.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1.0)
    return out
