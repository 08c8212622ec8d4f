"""Pictures: do apex frames look like real ones, how visible is the expression, and do clips differ?"""

from __future__ import annotations

import numpy as np
import torch

from mesynth.core import seeds
from mesynth.core.errors import MesynthError
from mesynth.core.statistics import interval_of
from mesynth.metrics import fid as dist
from mesynth.metrics.base import SIDES, ClipData, ClipMetric, MeasureRow, Observation, Setup
from mesynth.metrics.networks.extractors import RESIZE, STLPIPS, PerceptualDistance, STAlexNet, pooled

DIVERSITY_CLIPS = 12
"""Clips per side whose apexes are compared with each other: all pairs of them."""
LEAST_PICTURES = 50
"""Below, a side's KID says little more than its interval does."""


def _pair_maps(clip: ClipData, perceptual: PerceptualDistance) -> list[torch.Tensor]:
    """What ``perceptual`` compares, of a clip's onset and apex: one pass for all measures that ask for it."""
    made: list[torch.Tensor] = clip.once(perceptual, lambda: perceptual.maps(clip.frames[[0, clip.row.apex_index]]))
    return made


class Pictures(ClipMetric):
    """Distribution of apex frames, and perceptual distance onset-apex. One pass of a network serves both."""

    label = "pictures"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        features, perceptual = setup.networks.pictures
        self._shared = isinstance(features, STAlexNet) and isinstance(perceptual, STLPIPS)

    def observe(self, clip: ClipData) -> Observation:
        """See :class:`ClipMetric`."""
        features, perceptual = self.networks.pictures
        maps = _pair_maps(clip, perceptual)
        moved = float(perceptual.between([m[:1] for m in maps], [m[1:] for m in maps])[0])
        apex = clip.frames[[clip.row.apex_index]]
        feature = pooled([m[1:] for m in maps]).numpy() if self._shared else features(apex)
        return {"moved": moved, "apex": feature[0]}

    def apexes(self, side: str) -> dict[str, np.ndarray]:
        """Features [D] of the apex of each clip of a side."""
        return {o["clip"]: o["apex"] for o in self.observations[side]}

    def compute(self) -> list[MeasureRow]:
        """See :class:`ClipMetric`."""
        dim = self.networks.pictures[0].dim
        x, y = (self.values(s, "apex") if self.observations[s] else np.zeros((0, dim)) for s in SIDES)
        if min(len(x), len(y)) < 2:
            raise MesynthError(f"a distance needs 2 readable clips on each side, got {len(x)} and {len(y)}")
        return [*self._distribution(x, y), self._perception()]

    def _distribution(self, x: np.ndarray, y: np.ndarray) -> list[MeasureRow]:
        features, seed, by = self.networks.pictures[0], self.config.seed, self.config.bootstrap
        gx, gy = map(self.groups, SIDES)
        name, n = features.suffix, min(len(x), len(y))
        base = dist.real_baseline(x, gx, len(set(gy)), seed=seed)
        beside = f"real-real at {base.rows}" if base else ""
        how = f"apex frames, {len(x)} real and {len(y)} synthetic; {features.name}; resize: {RESIZE}"
        # Real against real leaves half the clips a side; the Frechet distance must be read at the same N.
        half = min(base.rows, n) if base else n
        order = seeds.stream(seed, "frechet-at-n")
        a, b = (v[order.permutation(len(v))[:half]] for v in (x, y))
        kid_note = f"{how}; bootstrap over {by}s"
        low: float | None = None
        high: float | None = None
        try:
            kid = dist.kid_interval(x, y, gx, gy, seed=seed)
            low, high, value = kid.low, kid.high, kid.value
        except ValueError:  # a single subject on one side
            value = dist.kid(x, y)
            kid_note = f"{how}; no interval: one {by} on a side"
        if n < LEAST_PICTURES:
            kid_note += f"; {n} pictures are fewer than {LEAST_PICTURES}: read the interval, not the value"
        fid = "FID" if not name else f"FD{name}"
        rows = [
            MeasureRow(group=self.label, name=f"KID{name}", key="kid", value=value, low=low, high=high, better="zero",
                       n=n, reference={beside: base.kid} if base else {}, headline=True, note=kid_note),
            MeasureRow(group=self.label, name=f"{fid} at N={half}", key="fid_at_n", value=dist.frechet(a, b),
                       better="low", n=half, reference={beside: base.frechet} if base else {},
                       note=f"{how}; biased upwards at this N: read it beside the real-real figure only"),
        ]  # fmt: skip
        if half < n:
            rows.append(
                MeasureRow(group=self.label, name=fid, key="fid", value=dist.frechet(x, y), n=n, better="low",
                           note=f"{how}; all clips, no baseline at this N")
            )  # fmt: skip
        return rows

    def _perception(self) -> MeasureRow:
        moved = {s: self.values(s, "moved") for s in SIDES}
        rng = seeds.stream(self.config.seed, "bootstrap-mean")
        low, high = interval_of(moved["synthetic"], np.mean, self.groups("synthetic"), rng)
        return MeasureRow(
            group=self.label, name=f"{self.networks.pictures[1].name} onset-apex", key="lpips_onset_apex",
            value=float(moved["synthetic"].mean()), low=low, high=high, reference={"real": float(moved["real"].mean())},
            n=len(moved["synthetic"]), headline=True,
            note="how visible the expression is; to be of the same size as in real clips" + self.over,
        )  # fmt: skip


class Diversity(ClipMetric):
    """Perceptual distance between the apexes of different clips; stands below :class:`Pictures` in their group."""

    label = "pictures"
    limit = DIVERSITY_CLIPS

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._name = setup.networks.pictures[1].name

    def observe(self, clip: ClipData) -> Observation:
        """See :class:`ClipMetric`."""
        maps = [m[1:] for m in _pair_maps(clip, self.networks.pictures[1])]
        # A file keeps no strides, and the order in memory is that of later sums: channels last stay last.
        last = maps[0].is_contiguous(memory_format=torch.channels_last)
        arrays = [(m.permute(0, 2, 3, 1) if last else m).contiguous().clone().numpy() for m in maps]
        return {"channels last": last} | {f"map {i}": array for i, array in enumerate(arrays)}

    def maps(self, side: str) -> list[list[torch.Tensor]]:
        """What the perceptual distance compares, of each clip, in the order in memory that it had."""
        kept = []
        for o in self.observations[side]:
            maps = [torch.from_numpy(array) for name, array in sorted(o.items()) if name.startswith("map")]
            kept.append([m.permute(0, 3, 1, 2) for m in maps] if o["channels last"] else maps)
        return kept

    def compute(self) -> list[MeasureRow]:
        """See :class:`ClipMetric`."""
        n = min(map(len, self.observations.values()))
        if n < 2:
            return []  # Pictures says why
        spread = {s: self._diversity(self.maps(s)) for s in SIDES}
        return [
            MeasureRow(group=self.label, name=f"{self._name} between clips", key="lpips_between_clips",
                       value=spread["synthetic"], reference={"real": spread["real"]}, n=n, better="high",
                       note=f"diversity: mean over all pairs of the apexes of up to {DIVERSITY_CLIPS} clips a side")
        ]  # fmt: skip

    def _diversity(self, kept: list[list[torch.Tensor]]) -> float:
        i, j = np.triu_indices(len(kept), 1)
        if len({tuple(m.shape[2:]) for maps in kept for m in maps[:1]}) > 1:
            return float("nan")
        between = self.networks.pictures[1].between
        return float(np.mean([between(kept[a], kept[b])[0] for a, b in zip(i, j, strict=True)]))
