"""UF1, UAR and their kin, from confusion counts summed over folds; always over the full class list."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mesynth.core.errors import MesynthError


class MissingClassError(MesynthError):
    """A class of the list has no test clip, so its recall does not exist."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The figures of one run; ``f1`` and ``recall`` follow ``classes``; ``confusion`` rows are the truth."""

    n: int
    uf1: float
    uar: float
    accuracy: float
    classes: tuple[str, ...]
    f1: tuple[float, ...]
    recall: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def confusion(y: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts [C,C] int64, rows the truth, columns the prediction.

    >>> confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3).tolist()
    [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    """
    y, predicted = np.asarray(y), np.asarray(predicted)
    if y.shape != predicted.shape or y.ndim != 1:
        raise ValueError(f"labels {y.shape} and predictions {predicted.shape} must be two lists of one length")
    for name, values in (("label", y), ("prediction", predicted)):
        if len(values) and (values.min() < 0 or values.max() >= n_classes):
            raise ValueError(f"{name}s span [{values.min()}, {values.max()}]; expected class indices below {n_classes}")
    return np.asarray(np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes))


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """F1 per class [...,C] of confusion counts [...,C,C]: 2TP / (2TP + FP + FN), and 0 where that is 0/0.

    >>> f1_scores(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]])).round(3).tolist()
    [0.5, 0.667, 0.0]
    """
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    both = counts.sum(-1) + counts.sum(-2)  # (TP + FN) + (TP + FP)
    return np.asarray(np.divide(2 * hit, both, out=np.zeros_like(hit), where=both > 0))


def uf1(counts: np.ndarray) -> np.ndarray:
    """Unweighted F1 [...]: the mean of :func:`f1_scores` over ALL classes (See et al., MEGC 2019).

    >>> round(float(uf1(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]]))), 4)
    0.3889
    """
    return np.asarray(f1_scores(counts).mean(-1))


def recalls(counts: np.ndarray) -> np.ndarray:
    """Recall per class [...,C]; NaN where a class has no clip."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    n = counts.sum(-1)
    return np.asarray(np.divide(hit, n, out=np.full_like(hit, np.nan), where=n > 0))


def uar(counts: np.ndarray) -> np.ndarray:
    """Unweighted average recall [...]: the mean of TP / n over the classes that have clips.

    Only resampling may call this on counts that lack a class; :func:`evaluate` refuses them.

    >>> round(float(uar(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]]))), 4)
    0.5
    """
    values = recalls(counts)
    present = ~np.isnan(values)
    return np.asarray(np.where(present, values, 0).sum(-1) / np.maximum(present.sum(-1), 1))


def evaluate(y: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> Metrics:
    """All figures of the pooled predictions of all folds.

    Raises:
        MissingClassError: a class of the list has no test clip; restrict the list instead.

    >>> m = evaluate(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("negative", "positive"))
    >>> round(m.uf1, 3), m.uar, m.accuracy
    (0.733, 0.75, 0.75)
    """
    counts = confusion(y, predicted, len(classes))
    require_classes(counts.sum(1), classes)
    return from_confusion(counts, classes)


def require_classes(counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raise MissingClassError where one of the classes has no test clip; ``counts`` [C]."""
    empty = [name for name, n in zip(classes, counts, strict=True) if n == 0]
    if empty:
        raise MissingClassError(
            f"class {', '.join(empty)} has no test clip, so UAR does not exist; "
            f"restrict the classes, for example data.classes=[{','.join(c for c in classes if c not in empty)}]"
        )


def from_confusion(counts: np.ndarray, classes: tuple[str, ...]) -> Metrics:
    """The figures of confusion counts [C,C]; the recall of a class without clips is NaN and left out of UAR."""
    return Metrics(
        n=int(counts.sum()),
        uf1=float(uf1(counts)),
        uar=float(uar(counts)),
        accuracy=float(np.trace(counts) / max(counts.sum(), 1)),
        classes=classes,
        f1=tuple(map(float, f1_scores(counts))),
        recall=tuple(map(float, recalls(counts))),
        confusion=tuple(tuple(int(v) for v in row) for row in counts),
    )
