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

    Classes count equally, as UF1 and UAR count them. One that has no training clip is never predicted (bias -inf).
    """

    index = np.flatnonzero(weights > 0)
    inner = gram.block(index, index, affine)
    lengths = np.diag(inner)
    distances = squared_distances(inner, lengths, lengths)
    rate = config.gamma / max(float(distances.mean()), 1e-12)
    dual, bias = one_against_rest(
        np.exp(-rate * distances), y[index], weights[index].astype(np.float64), n_classes, config.c
    )
    coefficients = np.zeros((n_classes, len(y)))
    coefficients[:, index] = dual
    return SvmModel(coefficients=coefficients, bias=bias, rate=rate)


def one_against_rest(
    kernel: np.ndarray, labels: np.ndarray, w: np.ndarray, n_classes: int, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """A machine per class against the rest: kernel [n,n], labels [n], clip weights [n] > 0 -> dual coefficients
    [C,n] (0 but for support vectors) and bias [C].

    Classes count equally; one that has no clip gets bias -inf.
    """
    dual, bias = np.zeros((n_classes, len(labels))), np.full(n_classes, -np.inf)
    mass = np.bincount(labels, weights=w, minlength=n_classes)
    balanced = w / mass[labels] * w.sum() / np.count_nonzero(mass)
    for k in np.flatnonzero(mass):
        if mass[k] == w.sum():  # all there is: nothing to tell it from
            bias[k] = 0.0
            continue
        machine = SVC(C=c, kernel="precomputed").fit(kernel, labels == k, sample_weight=balanced)
        dual[k, machine.support_] = machine.dual_coef_[0]
        bias[k] = machine.intercept_[0]
    return dual, bias
