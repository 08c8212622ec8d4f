"""The measures as they meet the clips: each takes one clip at a time and ends with rows and plots.

What a collector sees in a clip depends on the clip alone, so any process may look; what was seen is taken in, in the
order of the clips, by one. A collector raises MesynthError from ``see`` for a clip it cannot use, and from ``rows``
when it has nothing to say; :mod:`mesynth.metrics.measure` turns both into "not measured: why". None keeps frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from mesynth.core import seeds
from mesynth.core.errors import ManifestError, MesynthError
from mesynth.metrics import distribution as dist
from mesynth.metrics.clips import ClipData
from mesynth.metrics.control import SOURCE_NOTE, Agreement, control
from mesynth.metrics.figures import control_plot, identity_plot
from mesynth.metrics.identity import FaceEmbedder, different_people, distances, sampled_frames, score
from mesynth.metrics.networks.extractors import RESIZE, FeatureExtractor, STAlexNet, pooled
from mesynth.metrics.networks.judge import AUJudge, cells
from mesynth.metrics.perceptual import STLPIPS, PerceptualDistance
from mesynth.metrics.report import MeasureRow
from mesynth.store.manifest import Row

SIDES = ("real", "synthetic")
DIVERSITY_CLIPS = 12
"""Clips per side whose apexes are compared with each other: all pairs of them."""

Seen = dict[str, Any]
"""What one clip told a collector: arrays, numbers and texts by name, as numpy stores them without loss."""
LEFT_OUT = "left out"
"""Name of the reason why a clip, or the rest of it, could not be used."""


class Collector(Protocol):
    """One group of measures."""

    group: str
    limit: int | None
    """Clips a side that are taken in, the first that can be used; None: all."""

    def see(self, clip: ClipData) -> Seen:
        """What is needed of one clip; empty if it is of no use here. Depends on the clip alone.

        Raises MesynthError when the clip lacks what is needed; with LEFT_OUT the rest of what was seen counts.
        """
        ...

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """Take in what :meth:`see` saw of a clip."""
        ...

    def rows(self) -> list[MeasureRow]:
        """The figures. Raises MesynthError when there are none."""
        ...

    def plots(self) -> dict[str, bytes]:
        """PNG bytes by name."""
        ...


class Pictures:
    """Distribution of apex frames, and perceptual distance onset-apex. One pass of a network serves both."""

    group = "pictures"
    limit: int | None = None

    def __init__(self, features: FeatureExtractor, perceptual: PerceptualDistance, *, by: str, seed: int) -> None:
        self._features, self._perceptual, self._by, self._seed = features, perceptual, by, seed
        self._shared = isinstance(features, STAlexNet) and isinstance(perceptual, STLPIPS)
        self.apex: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
        self._groups: dict[str, list[str]] = {side: [] for side in SIDES}
        self._moved: dict[str, list[float]] = {side: [] for side in SIDES}

    def see(self, clip: ClipData) -> Seen:
        """See :class:`Collector`."""
        pair = clip.frames[[0, clip.row.apex_index]]
        maps = self._perceptual.maps(pair)
        moved = float(self._perceptual.between([m[:1] for m in maps], [m[1:] for m in maps])[0])
        feature = pooled([m[1:] for m in maps]).numpy() if self._shared else self._features(pair[1:])
        return {"moved": moved, "apex": feature[0]}

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`Collector`."""
        self._moved[side].append(float(seen["moved"]))
        self.apex[side].append(seen["apex"])
        self._groups[side].append(row.subject_key if self._by == "subject" else row.clip_id)

    def rows(self) -> list[MeasureRow]:
        """See :class:`Collector`."""
        x, y = (np.stack(self.apex[s]) if self.apex[s] else np.zeros((0, self._features.dim)) for s in SIDES)
        if min(len(x), len(y)) < 2:
            raise MesynthError(f"a distance needs 2 readable clips on each side, got {len(x)} and {len(y)}")
        return [*self._distribution(x, y), self._perception()]

    def _distribution(self, x: np.ndarray, y: np.ndarray) -> list[MeasureRow]:
        gx, gy = (self._groups[s] for s in SIDES)
        name, n = self._features.suffix, min(len(x), len(y))
        base = dist.real_baseline(x, gx, len(set(gy)), seed=self._seed)
        beside = f"real-real at {base.rows}" if base else ""
        how = f"apex frames, {len(x)} real and {len(y)} synthetic; {self._features.name}; resize: {RESIZE}"
        # Real against real leaves half the clips a side; the Frechet distance must be read at the same N.
        half = min(base.rows, n) if base else n
        order = seeds.stream(self._seed, "frechet-at-n")
        a, b = (v[order.permutation(len(v))[:half]] for v in (x, y))
        kid_note = f"{how}; bootstrap over {self._by}s"
        low: float | None = None
        high: float | None = None
        try:
            kid = dist.kid_interval(x, y, gx, gy, seed=self._seed)
            low, high, value = kid.low, kid.high, kid.value
        except ValueError:  # a single subject on one side
            value = dist.kid(x, y)
            kid_note = f"{how}; no interval: one {self._by} on a side"
        fid = "FID" if not name else f"FD{name}"
        rows = [
            MeasureRow(group=self.group, name=f"KID{name}", value=value, low=low, high=high, better="zero", n=n,
                       reference={beside: base.kid} if base else {}, headline=True, note=kid_note),
            MeasureRow(group=self.group, name=f"{fid} at N={half}", value=dist.frechet(a, b), better="low", n=half,
                       reference={beside: base.frechet} if base else {},
                       note=f"{how}; biased upwards at this N: read it beside the real-real figure only"),
        ]  # fmt: skip
        if half < n:
            rows.append(
                MeasureRow(group=self.group, name=fid, value=dist.frechet(x, y), n=n, better="low",
                           note=f"{how}; all clips, no baseline at this N")
            )  # fmt: skip
        return rows

    def _perception(self) -> MeasureRow:
        moved = {s: np.array(self._moved[s]) for s in SIDES}
        low, high = _interval(moved["synthetic"], self._seed)
        return MeasureRow(
            group=self.group, name=f"{self._perceptual.name} onset-apex", value=float(moved["synthetic"].mean()),
            low=low, high=high, reference={"real": float(moved["real"].mean())}, n=len(moved["synthetic"]),
            headline=True, note="how visible the expression is; to be of the same size as in real clips",
        )  # fmt: skip

    def plots(self) -> dict[str, bytes]:
        """See :class:`Collector`."""
        return {}


class Diversity:
    """Perceptual distance between the apexes of different clips; stands below :class:`Pictures` in their group."""

    group = "pictures"
    limit: int | None = DIVERSITY_CLIPS

    def __init__(self, perceptual: PerceptualDistance) -> None:
        self._perceptual = perceptual
        self._kept: dict[str, list[list[torch.Tensor]]] = {side: [] for side in SIDES}

    def see(self, clip: ClipData) -> Seen:
        """See :class:`Collector`."""
        # Both frames, though the apex alone is kept: a batch of one may differ from that of Pictures in the last bit.
        maps = [m[1:] for m in self._perceptual.maps(clip.frames[[0, clip.row.apex_index]])]
        # A file keeps no strides, and the order in memory is that of later sums: channels last stay last.
        last = maps[0].is_contiguous(memory_format=torch.channels_last)
        arrays = [(m.permute(0, 2, 3, 1) if last else m).contiguous().clone().numpy() for m in maps]
        return {"channels last": last} | {f"map {i}": array for i, array in enumerate(arrays)}

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`Collector`."""
        maps = [torch.from_numpy(array) for name, array in sorted(seen.items()) if name.startswith("map")]
        self._kept[side].append([m.permute(0, 3, 1, 2) for m in maps] if seen["channels last"] else maps)

    def rows(self) -> list[MeasureRow]:
        """See :class:`Collector`."""
        if min(len(kept) for kept in self._kept.values()) < 2:
            return []  # Pictures says why
        spread = {s: self._diversity(self._kept[s]) for s in SIDES}
        return [
            MeasureRow(group=self.group, name=f"{self._perceptual.name} between clips", value=spread["synthetic"],
                       reference={"real": spread["real"]}, n=min(len(k) for k in self._kept.values()), better="high",
                       note=f"diversity: mean over all pairs of the apexes of up to {DIVERSITY_CLIPS} clips a side")
        ]  # fmt: skip

    def _diversity(self, kept: list[list[torch.Tensor]]) -> float:
        i, j = np.triu_indices(len(kept), 1)
        if len({tuple(m.shape[2:]) for maps in kept for m in maps[:1]}) > 1:
            return float("nan")
        return float(np.mean([self._perceptual.between(kept[a], kept[b])[0] for a, b in zip(i, j, strict=True)]))

    def plots(self) -> dict[str, bytes]:
        """See :class:`Collector`."""
        return {}


class Identity:
    """Face embeddings of onset and later frames, for up to ``clips`` clips a side."""

    group = "identity"

    def __init__(self, embedder: FaceEmbedder, *, clips: int, step: int) -> None:
        self.limit: int | None = clips
        self._embed, self._step = embedder, step
        self._near: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
        self._onsets: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
        self._people: dict[str, list[str]] = {side: [] for side in SIDES}

    def see(self, clip: ClipData) -> Seen:
        """See :class:`Collector`."""
        step = self._step if clip.side == "synthetic" else len(clip.frames)
        chosen = sampled_frames(len(clip.frames), clip.row.apex_index, step)
        embeddings = self._embed(clip.frames[chosen], clip.landmarks)
        near = distances(embeddings)
        return {"near": near, "apex": near[chosen.index(clip.row.apex_index) - 1], "onset": embeddings[0]}

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`Collector`."""
        self._near[side].append(seen["near"])
        self._onsets[side].append(seen["onset"])
        self._people[side].append(row.subject_key)

    def _values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        near, ceiling = (np.concatenate(self._near[s]) if self._near[s] else np.zeros(0) for s in ("synthetic", "real"))
        side = "real" if len(set(self._people["real"])) > 1 else "synthetic"
        onsets = np.array(self._onsets[side])
        floor = different_people(onsets, self._people[side]) if len(onsets) > 1 else np.zeros(0)
        return near, ceiling, floor

    def rows(self) -> list[MeasureRow]:
        """See :class:`Collector`."""
        near, ceiling, floor = self._values()
        if not len(near):
            raise MesynthError("no synthetic clip has the landmarks that identity needs; run `mesynth prepare` first")
        own = score(near)
        others = {"ceiling (real onset-apex)": ceiling, "floor (different people)": floor}
        scores = {name: score(values) for name, values in others.items() if len(values)}
        note = f"{FaceEmbedder.name}; synthetic onset against apex and each {self._step}th frame"
        return [
            MeasureRow(group=self.group, name="identity distance", value=own.mean, n=own.n, better="low", headline=True,
                       reference={name: s.mean for name, s in scores.items()},
                       note=f"{note}; on rendered heads compare with ceiling and floor, not with 0.6"),
            MeasureRow(group=self.group, name="identity distance, 1st percentile", value=own.p1, n=own.n,
                       reference={name: s.p1 for name, s in scores.items()}, note=note),
            MeasureRow(group=self.group, name="identity distance, 99th percentile", value=own.p99, n=own.n,
                       better="low", reference={name: s.p99 for name, s in scores.items()}, note=note),
            MeasureRow(group=self.group, name="verification rate", value=own.verified, n=own.n, better="high",
                       reference={name: s.verified for name, s in scores.items()},
                       note=f"share of distances below 0.6; {note}"),
        ]  # fmt: skip

    def plots(self) -> dict[str, bytes]:
        """See :class:`Collector`."""
        return {"identity": identity_plot(*self._values())} if self._near["synthetic"] else {}


class AUControl:
    """Requested against judged AUs at the apex; real clips whose AUs are fully known stand beside."""

    group = "AU control"
    limit: int | None = None

    def __init__(self, judge: AUJudge) -> None:
        self._judge = judge
        self._asked: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
        self._judged: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}

    def see(self, clip: ClipData) -> Seen:
        """See :class:`Collector`."""
        if not clip.row.aus.mask.all():
            if clip.side == "real":
                return {}  # annotated AUs carry no intensities; nothing is amiss
            raise ManifestError("the row does not say which AUs were asked for (au_known is not all true)")
        return {"judged": self._judge.read(self._motion(clip))[0]}

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`Collector`."""
        self._asked[side].append(row.aus.intensity)
        self._judged[side].append(seen["judged"])

    def _motion(self, clip: ClipData) -> np.ndarray:
        from mesynth.metrics.networks.judge import luma_change

        change = luma_change(clip.aligned_pair)
        return cells(np.concatenate([clip.apex_flow[None], change[:, None]], 1))

    def rows(self) -> list[MeasureRow]:
        """See :class:`Collector`."""
        if not self._asked["synthetic"]:
            raise MesynthError("no synthetic clip has landmarks and requested AUs")
        found = {s: control(np.stack(self._asked[s]), np.stack(self._judged[s]), self._judge.trusted)
                 for s in SIDES if self._asked[s]}  # fmt: skip
        own, real = found["synthetic"], found.get("real")
        n = own.n_clips

        def row(name: str, field: str, better: str, scope: str, **extra: float) -> MeasureRow:
            value = getattr(own.pooled, field)
            reference = dict(extra)
            if real and getattr(real.pooled, field) is not None:
                reference["real"] = getattr(real.pooled, field)
            note = scope if value is not None else f"too few requests; {scope}"
            return MeasureRow(group=self.group, name=name, value=value, better=better, n=n, headline=True,
                              reference=reference, note=note)  # fmt: skip

        scope = f"over the {len(own.trusted)} AUs whose judge is trusted (held-out ICC >= 0.6)"
        rows = [
            row("AU MAE (0-5)", "mae", "low", scope, **{"mean request": own.mean_mae}),
            row("AU MAE where requested (0-5)", "mae_present", "low", scope),
            row("AU ICC(3,1)", "icc", "high", f"{scope}. {SOURCE_NOTE}"),
            row("AU Pearson", "pearson", "high", scope),
            row("AU slope", "slope", "one", f"judged on requested; {scope}"),
            MeasureRow(group=self.group, name="AU leakage (0-5)", value=own.leakage, better="low", n=n, headline=True,
                       reference={"real": real.leakage} if real else {},
                       note=f"mean judged intensity of AUs that were not requested; {scope}"),
        ]  # fmt: skip
        return rows + [self._au_row(code, found_au, code in own.trusted) for code, found_au in own.per_au.items()]

    def _au_row(self, code: int, a: Agreement, trusted: bool) -> MeasureRow:
        held_out = self._judge.meta.figures[code]
        figures = {"MAE": a.mae, "MAE where requested": a.mae_present, "Pearson": a.pearson, "slope": a.slope,
                   "judge's own held-out ICC": held_out.icc}  # fmt: skip
        note = "" if trusted else "the judge is weak on this AU: not in the headline"
        if a.icc is None:
            note = "; ".join(filter(None, [f"requested in {a.n_present} clips, too few for an ICC", note]))
        reference = {k: v for k, v in figures.items() if v is not None}
        return MeasureRow(group=self.group, name=f"AU {code} ICC(3,1)", value=a.icc, n=a.n_present, better="high",
                          reference=reference, note=note)  # fmt: skip

    def plots(self) -> dict[str, bytes]:
        """See :class:`Collector`."""
        if not self._asked["synthetic"]:
            return {}
        asked, judged = np.stack(self._asked["synthetic"]), np.stack(self._judged["synthetic"])
        return {"au_control": control_plot(asked, judged, control(asked, judged, self._judge.trusted))}


def _interval(values: np.ndarray, seed: int, resamples: int = 500) -> tuple[float | None, float | None]:
    """95% bootstrap interval of the mean of [N] values, one per clip."""
    if len(values) < 2:
        return None, None
    draws = seeds.stream(seed, "bootstrap-mean").integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def median_row(
    group: str, name: str, values: Mapping[str, Sequence[float]], *, unit: str = "", better: str = "", note: str = "",
    headline: bool = False, reference: dict[str, float] | None = None,
) -> MeasureRow:  # fmt: skip
    """Median over synthetic clips, with its 95% bootstrap interval, beside the real clips' median."""
    own, real = (np.array([v for v in values.get(s, ()) if np.isfinite(v)]) for s in ("synthetic", "real"))
    if not len(own):
        return MeasureRow(group=group, name=name, value=None, note=f"no clip had a finite value; {note}".rstrip("; "))
    draws = seeds.stream(0, "bootstrap-median").integers(len(own), size=(500, len(own)))
    low, high = np.percentile(np.median(own[draws], axis=1), [2.5, 97.5])
    beside = dict(reference or {}) | ({"real": float(np.median(real))} if len(real) else {})
    return MeasureRow(group=group, name=name, value=float(np.median(own)), low=float(low), high=float(high), unit=unit,
                      reference=beside, better=better, n=len(own), note=note, headline=headline)  # fmt: skip
