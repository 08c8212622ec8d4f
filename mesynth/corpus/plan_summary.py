"""What a plan will make, before anything runs: classes, faces, AUs, sources, frames, expected size on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mesynth import facs
from mesynth.corpus.plan import PlanRow
from mesynth.corpus.plan_file import PlanFace

_BAR = 30
FLOW_SIZE = 28
_ONCE = 5_500  # landmarks, tar headers, and the rows of the manifest and the plan for a clip, bytes
_FACTORS = ("au_source", "profile_decay", "noise", "head", "blink", "style")


def frame_bytes(size: int, noise: float) -> float:
    """Expected bytes of a PNG frame of ``size`` pixels with sensor noise of ``noise`` grey levels.

    A fit to a photo and rendered heads at 96 to 256 px and noise 0 to 4, within a sixth of each: small crops hold more
    detail a pixel, and noise is what PNG cannot compress.
    """
    still = 1.4 + 46 / size
    return float(size**2 * (still + (2.4 - still) * (1 - np.exp(-noise / 3.5))))


@dataclass
class Summary:
    """Counts of a plan's rows; filled by :meth:`add`, a row at a time."""

    rows: int = 0
    frames: int = 0
    seconds: float = 0.0
    bytes: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)
    emotions: Counter[str] = field(default_factory=Counter)
    faces: Counter[int] = field(default_factory=Counter)
    factors: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _FACTORS})
    aus: Counter[int] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    per_clip: Counter[int] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    intensity: np.ndarray = field(default_factory=lambda: np.zeros(101, np.int64))
    """Histogram over active (AU, side) cells, hundredths."""

    def add(self, row: PlanRow, face: PlanFace, size: int) -> None:
        """Count one row."""
        from mesynth.classes import label

        cells = np.array(row.intensity)
        active = cells > 0
        self.rows += 1
        self.frames += row.n_frames
        self.seconds += row.n_frames / row.fps
        self.bytes += row.n_frames * frame_bytes(size, row.nuisance.noise) + 9 * size**2 + _ONCE
        self.labels[label(row.emotion)] += 1
        self.emotions[row.emotion] += 1
        self.faces[row.face] += 1
        n = row.nuisance
        values = (row.au_source, row.profile.decay, *(f"{v:g}" for v in (n.noise, n.head, n.blink, n.style)))
        for name, value in zip(_FACTORS, values, strict=True):
            self.factors[name][value] += 1
        for code in (facs.AU_CODES[k] for k in np.flatnonzero(active.any(1))):
            self.aus[code] += 1
        one = {(True, False): "left", (False, True): "right"}.get((bool(active[:, 0].any()), bool(active[:, 1].any())))
        self.sides[one or ("uneven" if self._uneven(cells) else "both")] += 1
        self.per_clip[int(active.any(1).sum())] += 1
        self.seen.update({*face.seen, *row.au_seen})
        self.intensity += np.bincount(np.round(100 * cells[active]).astype(int), minlength=101)

    @staticmethod
    def _uneven(cells: np.ndarray) -> bool:
        """One side at less than half of the other."""
        strong, weak = sorted((cells[:, 0].max(), cells[:, 1].max()), reverse=True)
        return bool(weak < 0.5 * strong)

    def quantiles(self) -> tuple[float, float, float]:
        """5, 50 and 95 per cent of active intensities."""
        total = np.cumsum(self.intensity)
        low, middle, high = (float(np.searchsorted(total, share * total[-1])) / 100 for share in (0.05, 0.5, 0.95))
        return low, middle, high

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": self.rows,
            "frames": self.frames,
            "expected_bytes": round(self.bytes),
            "expected_bytes_flow": self.flow_bytes,
            "classes": dict(sorted(self.labels.items())),
            "emotions": dict(self.emotions.most_common()),
            "faces": len(self.faces),
            "aus": {str(code): n for code, n in self.aus.most_common()},
            "aus_per_clip": {str(n): self.per_clip[n] for n in sorted(self.per_clip)},
            "sides": dict(self.sides.most_common()),
            "intensity": list(self.quantiles()),
            "sources": dict(self.factors["au_source"].most_common()),
            "subjects_seen": len(self.seen),
        }

    @property
    def flow_bytes(self) -> int:
        """Expected size of the rows as flow images of 28 px."""
        return round(self.rows * (8 * FLOW_SIZE**2 + _ONCE))

    def text(self) -> str:
        """For people."""
        faces = sorted(self.faces.values())
        spread = f"{faces[0]}" if faces[0] == faces[-1] else f"{faces[0]} to {faces[-1]}"
        low, middle, high = self.quantiles()
        minutes = self.seconds / 60
        subject, n_seen = self.seen.most_common(1)[0]
        lines = [
            f"{self.rows} rows on {len(faces)} faces ({spread} a face), {self.frames} frames: {minutes:.1f} minutes",
            f"classes    {_counts(self.labels)}",
            f"emotions   {_counts(self.emotions)}",
            *(f"{name.replace('_', ' '):<14} {_counts(c)}" for name, c in self.factors.items() if self._said(name, c)),
            f"sides      {_counts(self.sides)}",
            f"AUs a clip {', '.join(f'{n}: {self.per_clip[n]}' for n in sorted(self.per_clip))}",
            f"intensity  {low:.2f} / {middle:.2f} / {high:.2f} (5, 50, 95 %)",
            *self._histogram(),
            f"subjects seen: {len(self.seen)}; a fold without {subject} leaves out {n_seen} rows, the most of all",
            f"expected size: {_size(self.bytes)} with frames, {_size(self.flow_bytes)} as {FLOW_SIZE} px flow images",
        ]
        return "\n".join(lines)

    @staticmethod
    def _said(name: str, counts: Counter[str]) -> bool:
        return name == "au_source" or len(counts) > 1

    def _histogram(self) -> Iterable[str]:
        most = max(self.aus.values(), default=1)
        for code, n in sorted(self.aus.items()):
            bar = "#" * max(1, round(_BAR * n / most))
            yield f"  AU {code:<2} {facs.AU_NAMES[code]:<22} {n:>8} {bar}"


def summarise(rows: Iterable[PlanRow], faces: list[PlanFace], size: int) -> Summary:
    """Count ``rows``, one at a time."""
    summary = Summary()
    for row in rows:
        summary.add(row, faces[row.face], size)
    return summary


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name or '(none)'} {n}" for name, n in counts.most_common())


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError
