"""Memorisation: is a synthetic apex nearer to the generator's training clips than unseen real ones are?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mesynth.metrics.base import MeasureRow, not_measured, subset, walk
from mesynth.metrics.networks.extractors import FeatureExtractor
from mesynth.store.manifest import Manifest

GROUP = "memorisation"


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Median distance to the nearest training frame, of synthetic frames and of held-out real ones, and the
    share of synthetic frames that lie closer than 99% of the held-out frames do (1% if nothing is copied)."""

    synthetic: float
    held_out: float
    copied: float
    n: int


def nearest(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row of [N,D] to the nearest row of [M,D]: [N] float64. Raises ValueError if M = 0."""
    return nearest_index(x, reference)[1]


def nearest_index(x: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which row of [M,D] is nearest to each row of [N,D], and how far it is: [N] each. Raises ValueError if M = 0."""
    if not len(reference):
        raise ValueError("no training frame to compare with")
    a, b = x.astype(np.float64), reference.astype(np.float64)
    b_square = (b**2).sum(1)
    out, place = np.empty(len(a)), np.empty(len(a), int)
    for i in range(0, len(a), 256):
        block = a[i : i + 256]
        squared = (block**2).sum(1)[:, None] + b_square - 2 * block @ b.T
        place[i : i + 256] = squared.argmin(1)
        out[i : i + 256] = np.sqrt(np.clip(squared.min(1), 0, None))
    return place, out


def memorisation(synthetic: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> Memorisation:
    """Compare features [N,D], [M,D] and [L,D] of one extractor. Held-out people must not be in ``training``.

    >>> training = np.array([[0.0], [10.0]])
    >>> found = memorisation(np.array([[0.0], [5.0]]), training, np.array([[1.0], [12.0]]))
    >>> found.synthetic, found.held_out, found.copied
    (2.5, 1.5, 0.5)
    """
    near, far = nearest(synthetic, training), nearest(held_out, training)
    return Memorisation(
        synthetic=float(np.median(near)),
        held_out=float(np.median(far)),
        copied=float((near < np.percentile(far, 1)).mean()),
        n=len(near),
    )


class KnownClips:
    """The training clips, or without them the real ones, as features of their apexes; read once, when first asked."""

    def __init__(
        self, real: Manifest, training: Manifest | None, features: FeatureExtractor | None, clips: int, seed: int
    ) -> None:
        self._real, self._training, self._features = real, training, features
        self._clips, self._seed = clips, seed
        self._read: dict[str, dict[str, np.ndarray]] = {}
        self.name = "real" if training is None else "training"

    def _apexes(self, purpose: str, manifest: Manifest) -> dict[str, np.ndarray]:
        """Features by clip_id of a seeded subset."""
        assert self._features is not None
        if purpose not in self._read:
            rows = subset(manifest, self._clips, self._seed, purpose)
            self._read[purpose] = {
                clip.row.clip_id: self._features(clip.frames[[clip.row.apex_index]])[0]
                for clip in walk(manifest, rows, "real", {})
            }
        return self._read[purpose]

    def rows(self, own: Sequence[np.ndarray]) -> list[MeasureRow]:
        """Nearest training apex of the synthetic ones, beside that of real people the generator has not seen."""
        assert self._training is not None
        if self._features is None:
            return [not_measured(GROUP, "no feature extractor is available")]
        seen = set(self._training.subject_keys())
        held_out = self._real.filter(np.array([key not in seen for key in self._real.subject_keys()], np.bool_))
        if not len(held_out):
            return [not_measured(GROUP, "every real subject is in the training set; give held-out real clips")]
        training, far = self._apexes("training", self._training), self._apexes("held-out", held_out)
        if not (len(own) and training and far):
            return [not_measured(GROUP, "no readable clip in the training set, among held-out clips, or synthetic")]
        found = memorisation(np.stack(own), np.stack(list(training.values())), np.stack(list(far.values())))
        note = f"distance to the nearest of {len(training)} training apexes, {self._features.name} features"
        return [
            MeasureRow(group=GROUP, name="distance to training", key="distance_to_training", value=found.synthetic,
                       n=found.n,
                       reference={"held-out real": found.held_out}, note=f"median; {note}"),
            MeasureRow(group=GROUP, name="copied share", key="copied_share", value=found.copied, n=found.n,
                       better="low",
                       reference={"expected without copying": 0.01, "training clips compared": float(len(training))},
                       headline=True,
                       note=f"synthetic apexes nearer than 99% of {len(far)} held-out ones; {note}"),
        ]  # fmt: skip

    def nearest(self, own: Mapping[str, np.ndarray], real: Mapping[str, np.ndarray]) -> dict[str, tuple[str, float]]:
        """For each synthetic clip the known one with the nearest apex, and its distance.

        ``real``: the real apexes by clip_id, which count as known when there is no training set.
        """
        if self._features is None or not own:
            return {}
        known = real if self._training is None else self._apexes("training", self._training)
        if not known:
            return {}
        names = list(known)
        place, distance = nearest_index(np.stack(list(own.values())), np.stack(list(known.values())))
        return {clip: (names[i], float(d)) for clip, i, d in zip(own, place, distance, strict=True)}
