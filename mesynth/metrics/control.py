"""AU control: target intensities against what the judge measures in the frames.

Both are visible AUs (:mod:`mesynth.metrics.networks.judge`); a midline AU counts once, a sided AU once per side.
The 0-5 scale is five times the intensity (0 absent, 5 = FACS E).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, MIDLINE
from mesynth.core.statistics import percentiles
from mesynth.metrics.base import SIDES, ClipData, ClipMetric, MeasureRow, Observation, Setup
from mesynth.metrics.networks.judge import cells, luma_change, visible_aus
from mesynth.metrics.report import OTHER, SYNTHETIC, figure, png

_TWICE = (43, 26)
"""AU 43 and 26 repeat what AU 45 and 27 show: they would count twice in the pool."""
SOURCE_NOTE = (
    "The judge was trained on rendered heads whose meshes also give the motion prior its fields, so agreement "
    "shows that frames carry the motion asked for, not that a human FACS coder would agree."
)
SWEEP = tuple(np.round(np.linspace(0, 1, 9), 3).tolist())
MIN_PRESENT = 5
"""An AU that is the target of fewer clips gets no correlation figures."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Measured against target: errors on the 0-5 scale, ICC(3,1), Pearson, slope of measured on target.

    ``mae`` is over all clips, most of which do not show a given AU; ``mae_present`` over those that do. A
    figure is None when the targets do not vary or are too few.
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
    """``per_au`` for every AU of a target; ``pooled`` over the trusted ones; ``mean_mae`` of always answering the
    mean target; ``leakage`` mean measured intensity (0-5) of trusted AUs whose target is 0."""

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


def agreement(target: np.ndarray, measured: np.ndarray, n_present: int | None = None) -> Agreement:
    """Agreement of two [N] intensity vectors in [0,1].

    >>> target = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    >>> found = agreement(target, 0.5 * target)
    >>> round(found.slope, 3), round(found.mae, 3), round(found.icc, 3)
    (0.5, 1.25, 0.8)
    """
    a, b = np.asarray(target, np.float64), np.asarray(measured, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"target {a.shape} and measured {b.shape} must be equally long and not empty")
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


def control(target: np.ndarray, measured: np.ndarray, trusted: tuple[int, ...]) -> Control:
    """Control over ``target`` and ``measured`` [N,K,2] in [0,1]; headline figures over ``trusted`` AU codes.

    ``target`` is the plan's AUs; they are made visible here. Raises ValueError on unfit shapes.
    """
    if target.shape != measured.shape or target.ndim != 3 or target.shape[1:] != (len(AU_CODES), 2):
        raise ValueError(f"target {target.shape} and measured {measured.shape} must both be [N,{len(AU_CODES)},2]")
    want = visible_aus(target)
    per_au = {}
    pools: list[tuple[np.ndarray, np.ndarray]] = []
    quiet: list[np.ndarray] = []
    for code in AU_CODES:
        x, y = (_column(v, code) for v in (want, measured))
        clips = int((target[:, AU_INDEX[code]].max(-1) > 0).sum())
        if clips:
            per_au[code] = agreement(x, y, clips)
        if code in trusted and code not in _TWICE:
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
        n_clips=len(target),
    )


def _column(values: np.ndarray, code: int) -> np.ndarray:
    sides = values[:, AU_INDEX[code]]
    return np.asarray(sides.mean(-1) if code in MIDLINE else sides.ravel())


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation of two [N] vectors, ties averaged; 0 when one of them is constant."""
    from scipy.stats import rankdata

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def intensity_sweep(
    generate: Callable[[np.ndarray], np.ndarray],
    judge: Callable[[np.ndarray], np.ndarray],
    codes: tuple[int, ...],
    levels: tuple[float, ...] = SWEEP,
) -> dict[int, tuple[float, np.ndarray]]:
    """Per AU, Spearman of measured on target over ``levels``, and the measured intensities [len(levels)].

    ``generate`` takes AUs [K,2] and returns frames whose first is the onset and last the apex [T,H,W,3];
    ``judge`` takes those frames and returns the AUs at the apex [K,2]. Raises ValueError on an unknown AU.
    """
    out = {}
    for code in codes:
        if code not in AU_INDEX:
            raise ValueError(f"AU {code} is not in the vocabulary; choose from {', '.join(map(str, AU_CODES))}")
        row, measured = AU_INDEX[code], []
        for level in levels:
            aus = np.zeros((len(AU_CODES), 2), np.float32)
            aus[row] = level
            measured.append(float(judge(generate(aus))[row].mean()))
        out[code] = (spearman(np.array(levels), np.array(measured)), np.array(measured))
    return out


def slopes(target: np.ndarray, measured: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Least-squares slopes [R] of ``measured`` on ``target`` [N,E] under [R,N] weights of clips; NaN where none is."""
    n = weights.sum(1) * target.shape[1]
    sx, sy, sxx, sxy = (weights @ v.sum(1) for v in (target, measured, target**2, target * measured))
    variance = sxx / n - (sx / n) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(variance > 1e-12, (sxy / n - sx * sy / n**2) / variance, np.nan))


def pooled_columns(values: np.ndarray, trusted: Sequence[int]) -> np.ndarray:
    """[N,K,2] -> [N,E]: the entries of trusted AUs that the pooled figures count; a midline AU counts once."""
    parts = []
    for code in AU_CODES:
        if code in trusted and code not in _TWICE:
            sides = values[:, AU_INDEX[code]]
            parts.append(sides.mean(-1, keepdims=True) if code in MIDLINE else sides)
    return np.concatenate(parts, 1).astype(float) if parts else np.zeros((len(values), 0))


# ------------------------------------------------------------------- the measure


def control_plot(target: np.ndarray, measured: np.ndarray, control: Control) -> bytes:
    """Target against measured intensity (0-5), one small panel per AU of a target; [N,K,2] in [0,1]."""
    codes = [c for c in AU_CODES if c in control.per_au] or [AU_CODES[0]]
    columns = min(5, len(codes))
    rows = -(-len(codes) // columns)
    made, axes = figure(rows, columns, 2.1 * columns, 2.2 * rows + 0.3)
    want = visible_aus(target)
    for axis in axes.flat[len(codes) :]:
        axis.set_visible(False)
    for axis, code in zip(axes.flat, codes, strict=False):
        row = AU_INDEX[code]
        trusted = code in control.trusted
        axis.plot([0, 5], [0, 5], color="0.8", lw=1, zorder=0)
        colour = SYNTHETIC if trusted else OTHER
        axis.plot(5 * want[:, row].ravel(), 5 * measured[:, row].ravel(), ".", ms=4, alpha=0.5, color=colour)
        found = control.per_au.get(code)
        label = f"AU {code}" + ("" if trusted else " (weak judge)")
        if found and found.icc is not None:
            label += f"\nICC {found.icc:.2f}, slope {found.slope:.2f}"
        axis.set(xlim=(-0.2, 5.2), ylim=(-0.2, 5.2), xticks=range(6), yticks=range(6), aspect="equal")
        axis.set_title(label, fontsize=8)
        axis.tick_params(labelsize=7)
    made.supxlabel("target (0-5)", fontsize=9)
    made.supylabel("measured (0-5)", fontsize=9)
    return png(made)


class AUControl(ClipMetric):
    """Target against measured AUs at the apex; real clips whose AUs are fully known stand beside."""

    label = "AU control"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._trusted = setup.networks.judge.trusted

    def observe(self, clip: ClipData) -> Observation:
        """See :class:`ClipMetric`."""
        if not clip.row.aus.mask.all():
            if clip.side == "real":
                return {}  # annotated AUs carry no intensities; nothing is amiss
            raise ManifestError("the row does not say which AUs were asked for (au_known is not all true)")
        if (clip.row.aus.intensity < 0).any():
            return {}  # the judge has learned what there is more of alone
        change = luma_change(clip.aligned_pair)
        motion = cells(np.concatenate([clip.apex_flow[None], change[:, None]], 1))
        return {"target": clip.row.aus.intensity, "measured": self.networks.judge.read(motion)[0]}

    def compute(self) -> list[MeasureRow]:
        """See :class:`ClipMetric`."""
        if not self.observations["synthetic"]:
            raise MesynthError("no synthetic clip has landmarks and target AUs")
        found = {s: control(self.values(s, "target"), self.values(s, "measured"), self._trusted)
                 for s in SIDES if self.observations[s]}  # fmt: skip
        own, real = found["synthetic"], found.get("real")

        def row(name: str, field: str, better: str, note: str, **more: Any) -> MeasureRow:
            value = getattr(own.pooled, field)
            reference = dict(more.pop("reference", {}))
            if real and getattr(real.pooled, field) is not None:
                reference["real"] = getattr(real.pooled, field)
            note = note if value is not None else f"too few targets; {note}"
            return MeasureRow(group=self.label, name=name, key=f"au_{field}", value=value, better=better,
                              n=own.n_clips, headline=True, reference=reference, note=note, **more)  # fmt: skip

        scope = f"over the {len(own.trusted)} AUs whose judge is trusted (held-out ICC >= 0.6)"
        low, high = self._slope_interval() if own.pooled.slope is not None else (None, None)
        over = "" if low is None else f"; bootstrap over {self.config.bootstrap}s"
        rows = [
            row("AU MAE (0-5)", "mae", "low", scope, reference={"mean target": own.mean_mae}),
            row("AU MAE where targeted (0-5)", "mae_present", "low", scope),
            row("AU ICC(3,1)", "icc", "high", f"{scope}. {SOURCE_NOTE}"),
            row("AU Pearson", "pearson", "high", scope),
            row("AU slope", "slope", "one", f"measured on target; {scope}{over}", low=low, high=high),
            MeasureRow(group=self.label, name="AU leakage (0-5)", key="au_leakage", value=own.leakage, better="low",
                       n=own.n_clips, headline=True, reference={"real": real.leakage} if real else {},
                       note=f"mean measured intensity of AUs whose target is 0; {scope}"),
        ]  # fmt: skip
        return rows + [self._au_row(code, found_au) for code, found_au in own.per_au.items()]

    def _slope_interval(self) -> tuple[float | None, float | None]:
        target, measured = self._pooled()
        weights = self.weights("synthetic", self.config.seed)
        if weights is None or not target.shape[1]:
            return None, None
        return percentiles(slopes(target, measured, weights))

    def _au_row(self, code: int, a: Agreement) -> MeasureRow:
        held_out = self.networks.judge.meta.figures[code]
        figures = {"MAE": a.mae, "MAE where targeted": a.mae_present, "Pearson": a.pearson, "slope": a.slope,
                   "judge's own held-out ICC": held_out.icc}  # fmt: skip
        note = "" if code in self._trusted else "the judge is weak on this AU: not in the headline"
        if a.icc is None:
            note = "; ".join(filter(None, [f"target of {a.n_present} clips, too few for an ICC", note]))
        reference = {k: v for k, v in figures.items() if v is not None}
        return MeasureRow(group=self.label, name=f"AU {code} ICC(3,1)", key=f"au_{code}_icc", value=a.icc,
                          n=a.n_present, better="high", reference=reference, note=note)  # fmt: skip

    def _pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """[N,E] targets and measurements that the pooled figures count."""
        target, measured = (self.values("synthetic", what) for what in ("target", "measured"))
        return pooled_columns(visible_aus(target), self._trusted), pooled_columns(measured, self._trusted)

    def by_clip(self) -> dict[str, float]:
        """Mean |measured - target| (0-5) over the trusted AUs with a target, by synthetic clip that has one."""
        clips = self.observations["synthetic"]
        if not clips:
            return {}
        return {
            o["clip"]: float(5 * np.abs(a - b)[a > 0].mean())
            for o, a, b in zip(clips, *self._pooled(), strict=True)
            if (a > 0).any()
        }

    def plots(self) -> dict[str, bytes]:
        """See :class:`ClipMetric`."""
        if not self.observations["synthetic"]:
            return {}
        target, measured = (self.values("synthetic", what) for what in ("target", "measured"))
        return {"au_control": control_plot(target, measured, control(target, measured, self._trusted))}
