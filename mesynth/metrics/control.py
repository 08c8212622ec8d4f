"""AU control: what was asked against what the judge reads off the frames.

Both are visible AUs (:mod:`mesynth.metrics.networks.judge`); a midline AU counts once, a sided AU once per side.
The 0-5 scale is five times the intensity (0 absent, 5 = FACS E).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from mesynth.core.facs import AU_CODES, AU_INDEX, MIDLINE
from mesynth.metrics.networks.judge import visible_aus

SOURCE_NOTE = (
    "The judge was trained on rendered heads whose meshes also give the motion prior its fields, so agreement "
    "shows that frames carry the motion asked for, not that a human FACS coder would agree."
)
SWEEP = tuple(np.round(np.linspace(0, 1, 9), 3).tolist())
MIN_PRESENT = 5
"""An AU asked for in fewer clips gets no correlation figures."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Judged against requested: errors on the 0-5 scale, ICC(3,1), Pearson, slope of judged on requested.

    ``mae`` is over all clips, most of which do not show a given AU; ``mae_present`` over those that do. A
    figure is None when the requested values do not vary or are too few.
    """

    n: int
    n_present: int
    mae: float
    mae_present: float | None
    icc: float | None
    pearson: float | None
    slope: float | None


@dataclass(frozen=True, kw_only=True)
class Control:
    """``per_au`` for every AU asked for; ``pooled`` over the trusted ones; ``mean_mae`` of always answering the
    mean request; ``leakage`` mean judged intensity (0-5) of trusted AUs that were not requested."""

    per_au: dict[int, Agreement]
    pooled: Agreement
    mean_mae: float
    leakage: float
    trusted: tuple[int, ...]
    n_clips: int


def icc31(ratings: np.ndarray) -> float:
    """ICC(3,1) of [N,R] ratings (Shrout and Fleiss, 1979): consistency of a single fixed rater.

    Raises ValueError for fewer than two subjects or raters; NaN when nothing varies.

    >>> ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    >>> round(icc31(ratings), 2)  # the paper's own example
    0.71
    """
    x = np.asarray(ratings, np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"ratings have shape {x.shape}; ICC needs [N,R] with N, R >= 2")
    n, r = x.shape
    grand = x.mean()
    between = r * ((x.mean(1) - grand) ** 2).sum() / (n - 1)
    residual = x - x.mean(1, keepdims=True) - x.mean(0, keepdims=True) + grand
    error = (residual**2).sum() / ((n - 1) * (r - 1))
    total = between + (r - 1) * error
    return float((between - error) / total) if total > 0 else float("nan")


def agreement(requested: np.ndarray, judged: np.ndarray, n_present: int | None = None) -> Agreement:
    """Agreement of two [N] intensity vectors in [0,1]."""
    a, b = np.asarray(requested, np.float64), np.asarray(judged, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"requested {a.shape} and judged {b.shape} must be equally long and not empty")
    present = int((a > 0).sum()) if n_present is None else n_present
    icc = pearson = slope = None
    if present >= MIN_PRESENT and len(a) > 2 and np.ptp(a) > 0:
        icc, slope = icc31(np.stack([a, b], 1)), float(np.cov(a, b)[0, 1] / a.var(ddof=1))
        pearson = float(np.corrcoef(a, b)[0, 1]) if np.ptp(b) > 0 else 0.0
    error = 5 * np.abs(a - b)
    return Agreement(
        n=len(a),
        n_present=present,
        mae=float(error.mean()),
        mae_present=float(error[a > 0].mean()) if (a > 0).any() else None,
        icc=icc,
        pearson=pearson,
        slope=slope,
    )


def control(requested: np.ndarray, judged: np.ndarray, trusted: tuple[int, ...]) -> Control:
    """Control over ``requested`` and ``judged`` [N,K,2] in [0,1]; headline figures over ``trusted`` AU codes.

    ``requested`` is the plan's AUs; they are made visible here. Raises ValueError on unfit shapes.
    """
    if requested.shape != judged.shape or requested.ndim != 3 or requested.shape[1:] != (len(AU_CODES), 2):
        raise ValueError(f"requested {requested.shape} and judged {judged.shape} must both be [N,{len(AU_CODES)},2]")
    want = visible_aus(requested)
    per_au = {}
    pools: list[tuple[np.ndarray, np.ndarray]] = []
    quiet: list[np.ndarray] = []
    for code in AU_CODES:
        x, y = (_column(v, code) for v in (want, judged))
        clips = int((requested[:, AU_INDEX[code]].max(-1) > 0).sum())
        if clips:
            per_au[code] = agreement(x, y, clips)
        # AU 43 and 26 repeat what AU 45 and 27 show: they would count twice in the pool.
        if code in trusted and code not in (43, 26):
            pools.append((x, y))
            quiet.append(y[x == 0])
    x, y = (np.concatenate([p[i] for p in pools]) if pools else np.zeros(1) for i in (0, 1))
    silent = np.concatenate(quiet) if quiet else np.zeros(0)
    constant = np.concatenate([np.abs(p[0] - p[0].mean()) for p in pools]) if pools else np.zeros(1)
    return Control(
        per_au=per_au,
        pooled=agreement(x, y),
        mean_mae=float(5 * constant.mean()),
        leakage=float(5 * silent.mean()) if len(silent) else 0.0,
        trusted=tuple(c for c in AU_CODES if c in trusted),
        n_clips=len(requested),
    )


def _column(values: np.ndarray, code: int) -> np.ndarray:
    sides = values[:, AU_INDEX[code]]
    return np.asarray(sides.mean(-1) if code in MIDLINE else sides.ravel())


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two [N] vectors, ties averaged; 0 when one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def intensity_sweep(
    generate: Callable[[np.ndarray], np.ndarray],
    judge: Callable[[np.ndarray], np.ndarray],
    codes: tuple[int, ...],
    levels: tuple[float, ...] = SWEEP,
) -> dict[int, tuple[float, np.ndarray]]:
    """Per AU, Spearman of judged on asked over ``levels``, and the judged intensities [len(levels)].

    ``generate`` takes AUs [K,2] and returns frames whose first is the onset and last the apex [T,H,W,3];
    ``judge`` takes those frames and returns the AUs at the apex [K,2]. Raises ValueError on an unknown AU.
    """
    out = {}
    for code in codes:
        if code not in AU_INDEX:
            raise ValueError(f"AU {code} is not in the vocabulary; choose from {', '.join(map(str, AU_CODES))}")
        row, judged = AU_INDEX[code], []
        for level in levels:
            aus = np.zeros((len(AU_CODES), 2), np.float32)
            aus[row] = level
            judged.append(float(judge(generate(aus))[row].mean()))
        out[code] = (spearman(np.array(levels), np.array(judged)), np.array(judged))
    return out
