"""How sure a figure is: bootstrap and permutation over SUBJECTS, the units that were sampled.

Both work on confusion counts per subject [K,S,C,C] (K seeds, S subjects): a resample is a vector of
subject weights, so thousands of them are one matrix product. A statistic is computed per seed, then
averaged over the seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mesynth.core.seeds import stream
from recognizer.metrics import confusion, uf1

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate, its bootstrap standard deviation and its 95 % percentile interval."""

    value: float
    sd: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Comparison(Interval):
    """A paired difference (b minus a) with its permutation p-value (two-sided)."""

    p: float

    @property
    def verdict(self) -> str:
        """The difference in plain words: a gain or loss needs both the interval and p < .05 behind it."""
        figures = f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p {self.p:.3f}"
        if self.low > 0 and self.p < 0.05:
            return f"gain: {figures}"
        if self.high < 0 and self.p < 0.05:
            return f"loss: {figures}"
        return f"gain not shown: {figures}" if self.value > 0 else f"no gain: {figures}"


def subject_counts(
    y: np.ndarray, predicted: np.ndarray, subjects: np.ndarray, seeds: np.ndarray, n_classes: int
) -> np.ndarray:
    """Confusion counts [K,S,C,C] of all test predictions, seeds and subjects in ascending order."""
    names, subject_index = np.unique(subjects, return_inverse=True)
    values, seed_index = np.unique(seeds, return_inverse=True)
    cell = seed_index * len(names) + subject_index
    out = np.zeros((len(values) * len(names), n_classes, n_classes), np.int64)
    for c in np.unique(cell):
        out[c] = confusion(y[cell == c], predicted[cell == c], n_classes)
    return out.reshape(len(values), len(names), n_classes, n_classes)


def _resamples(n: int, draws: int, seed: int) -> np.ndarray:
    """[R,S] how often each subject is drawn."""
    return stream(seed, "bootstrap").multinomial(n, np.full(n, 1 / n), size=draws)


def _over_seeds(counts: np.ndarray, weights: np.ndarray, statistic: Statistic) -> np.ndarray:
    """[K,S,C,C] counts and [R,S] subject weights -> the statistic [R], averaged over seeds."""
    k, s, c, _ = counts.shape
    total = np.einsum("rs,ksx->rkx", weights, counts.reshape(k, s, c * c), optimize=True)
    return np.asarray(statistic(total.reshape(len(weights), k, c, c)).mean(1))


def bootstrap(counts: np.ndarray, *, statistic: Statistic = uf1, draws: int = 2000, seed: int = 0) -> Interval:
    """The statistic of counts [K,S,C,C], with subjects drawn anew (Efron, 1979)."""
    drawn = _over_seeds(counts, _resamples(counts.shape[1], draws, seed), statistic)
    value = float(_over_seeds(counts, np.ones((1, counts.shape[1])), statistic)[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value=value, sd=float(drawn.std()), low=float(low), high=float(high))


def compare(
    a: np.ndarray, b: np.ndarray, *, statistic: Statistic = uf1, draws: int = 2000, seed: int = 0
) -> Comparison:
    """The paired difference statistic(b) - statistic(a) over the same subjects.

    ``a`` and ``b`` [K,S,C,C] may differ in K. The permutation test swaps the two runs' outcomes for
    random subsets of subjects (all 2^S subsets when those are no more than ``draws``); it needs equal K.

    Raises:
        ValueError: the two do not cover the same clips per subject.
    """
    if a.shape[1:] != b.shape[1:] or (a[0].sum(-1) != b[0].sum(-1)).any():
        raise ValueError("the two runs were not tested on the same clips; a paired comparison needs that")
    if len(a) != len(b):
        raise ValueError(f"the two runs have {len(a)} and {len(b)} seeds; a paired comparison needs the same")
    n = a.shape[1]
    weights = _resamples(n, draws, seed)
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
