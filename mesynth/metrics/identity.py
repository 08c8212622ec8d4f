"""Identity: is the person at the apex still the person at the onset? Face embeddings beside ceiling and floor.

The ceiling is the same distance in real clips (an expression alone moves the embedding a little), the floor
the distance between different people. On rendered heads absolute distances mean little; compare with both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.statistics import percentiles
from mesynth.metrics.base import ClipData, ClipMetric, MeasureRow, Observation, Setup
from mesynth.metrics.report import OTHER, REAL, SYNTHETIC, figure, png

THRESHOLD = 0.6
"""Distance below which the network's author calls two faces the same person (dlib's documentation)."""


@dataclass(frozen=True, kw_only=True)
class IdentityScore:
    """Distances of same-person pairs: mean, 1st and 99th percentile, share below THRESHOLD, and how many."""

    mean: float
    p1: float
    p99: float
    verified: float
    n: int


def distances(embeddings: np.ndarray) -> np.ndarray:
    """[N,D] of one clip, onset first -> [N-1]: Euclidean distance of each frame to the onset."""
    return np.asarray(np.linalg.norm(embeddings[1:] - embeddings[:1], axis=1))


def score(values: np.ndarray) -> IdentityScore:
    """Summary of [N] distances. Raises ValueError when there is none.

    >>> found = score(np.array([0.1, 0.3, 0.8]))
    >>> round(found.mean, 2), round(found.verified, 2)
    (0.4, 0.67)
    """
    if not len(values):
        raise ValueError("no face pair to score")
    p1, p99 = np.percentile(values, [1, 99])
    share = float((values < THRESHOLD).mean())
    return IdentityScore(mean=float(values.mean()), p1=float(p1), p99=float(p99), verified=share, n=len(values))


def different_people(onsets: np.ndarray, subjects: list[str]) -> np.ndarray:
    """Distances [P] between onset embeddings [N,D] of different subjects: the floor; empty with one subject."""
    names = np.array(subjects)
    i, j = np.triu_indices(len(onsets), 1)
    keep = names[i] != names[j]
    return np.asarray(np.linalg.norm(onsets[i[keep]] - onsets[j[keep]], axis=1))


def sampled_frames(n_frames: int, apex: int, step: int) -> list[int]:
    """Onset, apex and each ``step``-th frame, ascending, onset first."""
    return sorted({0, apex, *range(step, n_frames, step)})


def identity_plot(synthetic: np.ndarray, ceiling: np.ndarray, floor: np.ndarray) -> bytes:
    """Histograms of embedding distances: synthetic onset-frame, real onset-apex, different people."""
    made, axes = figure(1, 1, 6, 3.2)
    axis = axes[0, 0]
    top = max(1.0, *(float(v.max()) for v in (synthetic, ceiling, floor) if len(v)))
    bins = np.linspace(0, top, 61)
    for values, name, colour in (
        (floor, "different people", OTHER),
        (ceiling, "real onset-apex", REAL),
        (synthetic, "synthetic onset-frame", SYNTHETIC),
    ):
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            axis.hist(values, bins, weights=weights, alpha=0.6, color=colour, label=f"{name} ({len(values)})")
    axis.axvline(THRESHOLD, color="k", lw=1, ls="--")
    axis.text(THRESHOLD + 0.01, 0.95 * axis.get_ylim()[1], f"threshold {THRESHOLD:g}", va="top", fontsize=8)
    axis.set(xlabel="distance of face embeddings", ylabel="share", xlim=(0, top))
    axis.legend(fontsize=8, frameon=False)
    return png(made)


class Identity(ClipMetric):
    """Face embeddings of onset and later frames, for a few clips a side; needs landmarks."""

    label = "identity"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.limit = setup.config.identity_clips
        self._name = setup.networks.faces.name

    def observe(self, clip: ClipData) -> Observation:
        """See :class:`ClipMetric`."""
        step = self.config.identity_step if clip.side == "synthetic" else len(clip.frames)
        chosen = sampled_frames(len(clip.frames), clip.row.apex_index, step)
        embeddings = self.networks.faces(clip.frames[chosen], clip.landmarks)
        near = distances(embeddings)
        return {"near": near, "apex": near[chosen.index(clip.row.apex_index) - 1], "onset": embeddings[0]}

    def _distances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of synthetic frames to their onsets, of real ones (the ceiling), and between people (the floor)."""
        near, ceiling = (np.concatenate([np.zeros(0), *(o["near"] for o in self.observations[side])])
                         for side in ("synthetic", "real"))  # fmt: skip
        people = {side: [o["subject"] for o in found] for side, found in self.observations.items()}
        side = "real" if len(set(people["real"])) > 1 else "synthetic"
        onsets = self.values(side, "onset")
        floor = different_people(onsets, people[side]) if len(onsets) > 1 else np.zeros(0)
        return near, ceiling, floor

    def compute(self) -> list[MeasureRow]:
        """See :class:`ClipMetric`."""
        near, ceiling, floor = self._distances()
        if not len(near):
            raise MesynthError("no synthetic clip has the landmarks that identity needs; run `mesynth prepare` first")
        own = score(near)
        others = {"ceiling (real onset-apex)": ceiling, "floor (different people)": floor}
        scores = {name: score(values) for name, values in others.items() if len(values)}
        note = f"{self._name}; synthetic onset against apex and each {self.config.identity_step}th frame"
        return [
            MeasureRow(group=self.label, name="identity distance", key="identity", value=own.mean, n=own.n,
                       better="low", headline=True, reference={name: s.mean for name, s in scores.items()},
                       note=f"{note}; on rendered heads compare with ceiling and floor, not with 0.6"),
            MeasureRow(group=self.label, name="identity distance, 1st percentile", key="identity_p1", value=own.p1,
                       n=own.n, reference={name: s.p1 for name, s in scores.items()}, note=note),
            MeasureRow(group=self.label, name="identity distance, 99th percentile", key="identity_p99", value=own.p99,
                       n=own.n, better="low", reference={name: s.p99 for name, s in scores.items()}, note=note),
            MeasureRow(group=self.label, name="verification rate", key="verification", value=own.verified, n=own.n,
                       better="high", reference={name: s.verified for name, s in scores.items()},
                       note=f"share of distances below 0.6; {note}"),
            *self._apex_rows(),
        ]  # fmt: skip

    def _apex_rows(self) -> list[MeasureRow]:
        """Onset-apex pairs alone, held against real ones, with intervals."""
        own, real = (self.values(side, "apex") for side in ("synthetic", "real"))
        seed = self.config.seed
        drawn, other = (
            None if weights is None else np.asarray(weights @ values / weights.sum(1))
            for values, weights in ((own, self.weights("synthetic", seed)), (real, self.weights("real", seed + 1)))
        )
        low, high = (None, None) if drawn is None else percentiles(drawn)
        beside = {"real": float(real.mean())} if len(real) else {}
        note = f"{self._name}; onset against apex alone; bootstrap over {self.config.bootstrap}s"
        rows = [
            MeasureRow(group=self.label, name="identity distance at the apex", key="identity_apex",
                       value=float(own.mean()), low=low, high=high, better="low", n=len(own), reference=beside,
                       note=note)
        ]  # fmt: skip
        if min(len(own), len(real)) > 1:
            low, high = (None, None) if drawn is None or other is None else percentiles(drawn - other)
            rows.append(
                MeasureRow(group=self.label, name="identity distance beyond real", key="identity_beyond_real",
                           value=float(own.mean() - real.mean()), low=low, high=high, better="low",
                           n=min(len(own), len(real)), note=f"synthetic minus real; {note}, each side")
            )  # fmt: skip
        return rows

    def plots(self) -> dict[str, bytes]:
        """See :class:`ClipMetric`."""
        return {"identity": identity_plot(*self._distances())} if self.observations["synthetic"] else {}

    def by_clip(self) -> dict[str, float]:
        """The largest distance of a frame to the onset, by synthetic clip."""
        return {o["clip"]: float(o["near"].max()) for o in self.observations["synthetic"]}
