"""Support vector machine with an RBF kernel on flow images: beside the discriminant, in every table.

One machine per class against the rest, on a kernel made from the Gram matrices that all folds share. Clip weights are
sample weights (libsvm through scikit-learn).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import ConfigError
from recognizer.models.lda import Gram

GAIN = 2.0
"""softmax(GAIN * decision values) are the class probabilities: margins of 1 then say about .9 to .1."""


@dataclass(frozen=True, kw_only=True)
class SvmConfig:
    """The two usual knobs."""

    c: float = 1.0
    """Weight of a margin that is violated."""
    gamma: float = 1.0
    """Of exp(-gamma d^2 / m), m the mean squared distance of the training clips."""

    def __post_init__(self) -> None:
        for name in ("c", "gamma"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"svm.{name}={getattr(self, name):g} must be positive")


@dataclass(frozen=True, kw_only=True)
class SvmModel:
    """Decision values are ``coefficients`` [C,N] @ kernel to the pool's clips + ``bias`` [C]; 0 where unused."""

    coefficients: np.ndarray
    bias: np.ndarray
    rate: float
    """gamma / m: of exp(-rate d^2)"""


def squared_distances(inner: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """From inner products [R,C] and squared lengths [R], [C]."""
    return np.asarray(np.maximum(rows[:, None] + columns[None] - 2 * inner, 0))


def fit(
    gram: Gram, y: np.ndarray, weights: np.ndarray, n_classes: int, config: SvmConfig, *, affine: np.ndarray
) -> SvmModel:
    """Fit on the clips with weight > 0; ``affine`` [N,2,3] as in :meth:`Gram.block`.

    ``y`` and ``weights`` [N], or [A,N]: a question each, of which the machines tell class 1 from the rest and share one
    kernel. Classes count equally, as UF1 and UAR count them. One that has no training clip is never predicted
    (bias -inf).
    """
    used = np.flatnonzero((np.atleast_2d(weights) > 0).any(0))
    inner = gram.block(used, used, affine)
    lengths = np.diag(inner)
    distances = squared_distances(inner, lengths, lengths)
    rate = config.gamma / max(float(distances.mean()), 1e-12)
    dual, bias = one_against_rest(
        np.exp(-rate * distances), y[..., used], weights[..., used].astype(np.float64), n_classes, config.c
    )
    coefficients = np.zeros((len(dual), y.shape[-1]))
    coefficients[:, used] = dual
    return SvmModel(coefficients=coefficients, bias=bias, rate=rate)


def one_against_rest(
    kernel: np.ndarray, y: np.ndarray, weights: np.ndarray, n_classes: int, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """Machines of one kernel [n,n]: labels ``y`` and clip weights [n] -> dual coefficients [C,n] (0 but for support
    vectors) and bias [C], a machine per class against the rest; [A,n] -> [A,n] and [A], one a question, of class 1
    against the rest of the clips with weight > 0.

    Classes count equally; one that has no clip gets bias -inf.
    """
    from sklearn.svm import SVC

    several, y, weights = y.ndim == 2, np.atleast_2d(y), np.atleast_2d(weights)
    asked = [(0, k) for k in range(n_classes)] if not several else [(a, 1) for a in range(len(y))]
    dual, bias = np.zeros((len(asked), y.shape[1])), np.full(len(asked), -np.inf)
    for row, (a, k) in enumerate(asked):
        own = weights[a] > 0
        index, labels, w = np.flatnonzero(own), y[a, own], weights[a, own]
        mass = np.bincount(labels, weights=w, minlength=n_classes)
        if not mass[k]:
            continue
        if mass[k] == w.sum():  # all there is: nothing to tell it from
            bias[row] = np.inf if several else 0.0
            continue
        balanced = w / mass[labels] * w.sum() / np.count_nonzero(mass)
        here = kernel if own.all() else kernel[np.ix_(own, own)]
        machine = SVC(C=c, kernel="precomputed").fit(here, labels == k, sample_weight=balanced)
        dual[row, index[machine.support_]] = machine.dual_coef_[0]
        bias[row] = machine.intercept_[0]
    return dual, bias
