"""Support vector machine with an RBF kernel on flow images: beside the discriminant, in every table.

One machine per class against the rest, on a kernel made from the Gram matrices that all folds share. Clip weights are
sample weights (libsvm through scikit-learn).
"""

from __future__ import annotations

from collections.abc import Sequence
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


def logistic(scores: np.ndarray) -> np.ndarray:
    """Decision values of any shape -> probabilities of machines that do not exclude each other, 1 / (1 + exp(-s)).

    >>> logistic(np.array([-np.inf, 0.0, np.inf])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.asarray((1 + np.tanh(scores / 2)) / 2)


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
    several, y, weights = y.ndim == 2, np.atleast_2d(y), np.atleast_2d(weights)
    used = np.flatnonzero((weights > 0).any(0))
    inner = gram.block(used, used, affine)
    lengths = np.diag(inner)
    distances = squared_distances(inner, lengths, lengths)
    rate = config.gamma / max(float(distances.mean()), 1e-12)
    kernel = np.exp(-rate * distances)
    rows = n_classes if not several else len(y)
    coefficients, bias = np.zeros((rows, y.shape[1])), np.full(rows, -np.inf)
    if not several:
        coefficients[:, used], bias = one_against_rest(kernel, y[0, used], weights[0, used], n_classes, config.c)
        return SvmModel(coefficients=coefficients, bias=bias, rate=rate)
    for a in range(rows):
        own = weights[a, used] > 0
        here = kernel if own.all() else kernel[np.ix_(own, own)]
        coefficients[a, used[own]], bias[a] = present_against_absent(
            here, y[a, used][own], weights[a, used][own], config.c
        )
    return SvmModel(coefficients=coefficients, bias=bias, rate=rate)


def present_against_absent(kernel: np.ndarray, labels: np.ndarray, w: np.ndarray, c: float) -> tuple[np.ndarray, float]:
    """One machine of an AU, as :func:`one_against_rest`: labels [n] 0 and 1 -> dual coefficients [n] and a bias. What
    was never present is absent (bias -inf), what was never absent present (inf)."""
    if not labels.any() or labels.all():
        return np.zeros(len(labels)), np.inf if len(labels) and labels.all() else -np.inf
    dual, bias = one_against_rest(kernel, labels, w, 2, c, only=(1,))
    return dual[1], float(bias[1])


def one_against_rest(
    kernel: np.ndarray,
    labels: np.ndarray,
    w: np.ndarray,
    n_classes: int,
    c: float,
    only: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A machine per class (of ``only``) against the rest: kernel [n,n], labels [n], clip weights [n] > 0 -> dual
    coefficients [C,n] (0 but for support vectors) and bias [C].

    Classes count equally; one that has no clip gets bias -inf.
    """
    from sklearn.svm import SVC

    w = w.astype(np.float64)
    dual, bias = np.zeros((n_classes, len(labels))), np.full(n_classes, -np.inf)
    mass = np.bincount(labels, weights=w, minlength=n_classes)
    balanced = w / mass[labels] * w.sum() / np.count_nonzero(mass)
    for k in np.flatnonzero(mass) if only is None else only:
        if mass[k] == w.sum():  # all there is: nothing to tell it from
            bias[k] = 0.0
            continue
        machine = SVC(C=c, kernel="precomputed").fit(kernel, labels == k, sample_weight=balanced)
        dual[k, machine.support_] = machine.dual_coef_[0]
        bias[k] = machine.intercept_[0]
    return dual, bias
