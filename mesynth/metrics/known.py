"""The clips that a generator may have learned from: is a synthetic apex one of theirs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mesynth.metrics.clips import subset, walk
from mesynth.metrics.distribution import memorisation, nearest_index
from mesynth.metrics.networks.extractors import FeatureExtractor
from mesynth.metrics.report import MeasureRow, not_measured
from mesynth.store.manifest import Manifest

GROUP = "memorisation"
COPIED_ROW = "copied share"


class Known:
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
            MeasureRow(group=GROUP, name="distance to training", value=found.synthetic, n=found.n,
                       reference={"held-out real": found.held_out}, note=f"median; {note}"),
            MeasureRow(group=GROUP, name=COPIED_ROW, value=found.copied, n=found.n, better="low",
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
