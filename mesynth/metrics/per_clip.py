"""The measures clip by clip: which clips are best and worst, and intervals from resampling clips.

The collectors here add to those of :mod:`mesynth.metrics.collectors` what a page needs: figures by clip_id, and for
the figures that a verdict rests on a bootstrap over clips or subjects (frames of one clip are not independent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mesynth.core import seeds
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, AU_INDEX, MIDLINE
from mesynth.metrics.collectors import SIDES, AUControl, Identity, Pictures, Seen
from mesynth.metrics.identity import FaceEmbedder
from mesynth.metrics.networks.extractors import FeatureExtractor
from mesynth.metrics.networks.judge import AUJudge, visible_aus
from mesynth.metrics.perceptual import PerceptualDistance
from mesynth.metrics.report import MeasureRow
from mesynth.store.manifest import Row

APEX_ROW, BEYOND_ROW, SLOPE_ROW = "identity distance at the apex", "identity distance beyond real", "AU slope"
_TWICE = (43, 26)
"""AU 43 and 26 repeat what AU 45 and 27 show (:func:`mesynth.metrics.control.control` pools without them, too)."""


@dataclass(frozen=True, kw_only=True)
class ClipFigures:
    """One synthetic clip: ``identity`` is the largest distance of a frame to the onset, ``au_error`` the mean
    |judged - asked| over the asked AUs whose judge is trusted (0-5), ``nearest`` the known clip with the nearest
    apex and ``distance`` how far it is. None or empty where it was not measured."""

    clip_id: str
    identity: float | None = None
    au_error: float | None = None
    nearest: str = ""
    distance: float | None = None


def draws(groups: Sequence[str], seed: int, resamples: int = 500) -> np.ndarray:
    """Bootstrap weights [R,N] of N clips: how often each is drawn when its group (clip or subject) is resampled."""
    index = np.unique(np.array(groups, str), return_inverse=True)[1].ravel()
    n = int(index.max()) + 1
    counts = seeds.stream(seed, "bootstrap-clips").multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.asarray(counts[:, index], float)


def interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """2.5th and 97.5th percentile of [R] resampled figures; None where they cannot be had."""
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return None, None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means [R] of [N] values under [R,N] weights."""
    return np.asarray(weights @ values / weights.sum(1))


def slopes(asked: np.ndarray, judged: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Least-squares slopes [R] of ``judged`` on ``asked`` [N,E] under [R,N] weights of clips; NaN where none is."""
    n = weights.sum(1) * asked.shape[1]
    sx, sy, sxx, sxy = (weights @ v.sum(1) for v in (asked, judged, asked**2, asked * judged))
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


class PicturesByClip(Pictures):
    """:class:`Pictures` that knows whose apex each feature is."""

    def __init__(self, features: FeatureExtractor, perceptual: PerceptualDistance, *, by: str, seed: int) -> None:
        super().__init__(features, perceptual, by=by, seed=seed)
        self.ids: dict[str, list[str]] = {side: [] for side in SIDES}

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        super().take(side, row, seen)
        self.ids[side].append(row.clip_id)


class IdentityByClip(Identity):
    """:class:`Identity` with the largest distance of each clip, and onset-apex pairs held against real ones."""

    def __init__(self, embedder: FaceEmbedder, *, clips: int, step: int, by: str, seed: int) -> None:
        super().__init__(embedder, clips=clips, step=step)
        self._by, self._seed = by, seed
        self.largest: dict[str, float] = {}
        self._apex: dict[str, list[float]] = {side: [] for side in SIDES}
        self._groups: dict[str, list[str]] = {side: [] for side in SIDES}

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        super().take(side, row, seen)
        self._apex[side].append(float(seen["apex"]))
        self._groups[side].append(row.subject_key if self._by == "subject" else row.clip_id)
        if side == "synthetic":
            self.largest[row.clip_id] = float(seen["near"].max())

    def rows(self) -> list[MeasureRow]:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        rows = super().rows()
        own, real = (np.array(self._apex[s]) for s in ("synthetic", "real"))
        drawn = means(own, draws(self._groups["synthetic"], self._seed))
        low, high = interval(drawn) if len(own) > 1 else (None, None)
        beside = {"real": float(real.mean())} if len(real) else {}
        note = f"{FaceEmbedder.name}; onset against apex alone; bootstrap over {self._by}s"
        rows.append(
            MeasureRow(group=self.group, name=APEX_ROW, value=float(own.mean()), low=low, high=high, better="low",
                       n=len(own), reference=beside, note=note)
        )  # fmt: skip
        if min(len(own), len(real)) > 1:
            other = means(real, draws(self._groups["real"], self._seed + 1))
            low, high = interval(drawn - other)
            rows.append(
                MeasureRow(group=self.group, name=BEYOND_ROW, value=float(own.mean() - real.mean()), low=low, high=high,
                           better="low", n=min(len(own), len(real)), note=f"synthetic minus real; {note}, each side")
            )  # fmt: skip
        return rows


class AUControlByClip(AUControl):
    """:class:`AUControl` with the error of each clip, and an interval of the slope."""

    def __init__(self, judge: AUJudge, *, by: str, seed: int) -> None:
        super().__init__(judge)
        self._by, self._seed = by, seed
        self._ids: list[str] = []
        self._groups: list[str] = []

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        super().take(side, row, seen)
        if side == "synthetic":
            self._ids.append(row.clip_id)
            self._groups.append(row.subject_key if self._by == "subject" else row.clip_id)

    def rows(self) -> list[MeasureRow]:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        rows = super().rows()
        asked, judged = self._pooled()
        if len(asked) < 2 or not asked.shape[1]:
            return rows
        low, high = interval(slopes(asked, judged, draws(self._groups, self._seed)))
        why = f"; bootstrap over {self._by}s"
        return [
            replace(r, low=low, high=high, note=r.note + why) if r.name == SLOPE_ROW and r.value is not None else r
            for r in rows
        ]

    def _pooled(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._ids:
            raise MesynthError("no synthetic clip has landmarks and requested AUs")
        asked, judged = (np.stack(v["synthetic"]) for v in (self._asked, self._judged))
        return tuple(pooled_columns(v, self._judge.trusted) for v in (visible_aus(asked), judged))  # type: ignore[return-value]

    def errors(self) -> dict[str, float]:
        """Mean |judged - asked| (0-5) over the asked, trusted AUs, by clip; clips that ask for none are left out."""
        if not self._ids:
            return {}
        asked, judged = self._pooled()
        wanted = asked > 0
        return {
            clip: float(5 * np.abs(a - b)[w].mean())
            for clip, a, b, w in zip(self._ids, asked, judged, wanted, strict=True)
            if w.any()
        }
