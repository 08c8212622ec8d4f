"""Do the goals of a generator hold? Computed from the same answers as the figures, each with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mesynth.benchmark import resampling
from mesynth.benchmark.figures import REPEATED, SLOPES, Answered, in_range, slopes
from mesynth.core.facs import AU_CODES

LEAST_AUS = 12
SHARE_OF_MEAN_FLOW = 0.5
TIMES_FASTER = 30


@dataclass(frozen=True, kw_only=True)
class Goal:
    """``holds`` is None where it cannot be told; ``text`` says why, else the numbers."""

    name: str
    holds: bool | None
    text: str


def goals(a: Answered, prior: Answered | None) -> list[Goal]:
    """The goals of one generator; ``prior`` are the motion prior's answers to the same people, if it takes part."""
    return [_half_of_mean(a), _below_prior(a, prior), _controlled(a), _identity(a)]


def faster(seconds: float, slow: Mapping[str, float]) -> Goal:
    """Clips a second against the fastest image-space GAN; ``slow`` are their seconds a clip by name."""
    name = f"at least {TIMES_FASTER} times the clips/s of a GAN that runs per frame"
    if not slow:
        return Goal(name=name, holds=None, text="no such GAN is among the models")
    other = min(slow, key=lambda key: slow[key])
    times = slow[other] / seconds
    return Goal(name=name, holds=times >= TIMES_FASTER, text=f"{times:.1f} times {other}")


def compared(first: np.ndarray, second: np.ndarray) -> tuple[float, float, int]:
    """Means of two [P,R] over the requests that both have, and how many those are."""
    both = ~np.isnan(first) & ~np.isnan(second)
    if not both.any():
        return float("nan"), float("nan"), 0
    return float(first[both].mean()), float(second[both].mean()), int(both.sum())


def _half_of_mean(a: Answered) -> Goal:
    rows = a.rows()
    own, mean, n = compared(a.stack("epe")[:, rows], a.referred("mean")[:, rows])
    name = f"EPE at most {SHARE_OF_MEAN_FLOW:g} of mean flow's"
    if not n:
        return Goal(name=name, holds=None, text="every request was refused")
    return Goal(name=name, holds=own <= SHARE_OF_MEAN_FLOW * mean, text=f"{own:.3f} of {mean:.3f} px")


def _below_prior(a: Answered, prior: Answered | None) -> Goal:
    name = "EPE below the motion prior's"
    if prior is None:
        return Goal(name=name, holds=None, text="motion-prior is not among the models")
    if prior is a:
        return Goal(name=name, holds=None, text="it is the motion prior")
    rows = a.rows()
    own, other, n = compared(a.stack("epe")[:, rows], prior.stack("epe")[:, rows])
    if not n:
        return Goal(name=name, holds=None, text="no request was answered by both")
    return Goal(name=name, holds=own < other, text=f"{own:.3f} against {other:.3f} px on {n} common answers")


def _controlled(a: Answered) -> Goal:
    codes = [c for c in AU_CODES if c in {r.code for r in a.asked[1:]} and c in a.trusted and c not in REPEATED]
    name = f"at least {LEAST_AUS} AUs with slope {SLOPES[0]:g}-{SLOPES[1]:g}"
    if a.absent:
        return Goal(name=name, holds=None, text=a.absent)
    if len(codes) < LEAST_AUS:
        return Goal(name=name, holds=None, text=f"only {len(codes)} AUs the judge is trusted with were asked for")
    found = int(in_range(slopes(a, codes)[:, :1])[0])
    return Goal(name=name, holds=found >= LEAST_AUS, text=f"{found} of {len(codes)} AUs")


def _identity(a: Answered) -> Goal:
    name = "identity no worse than the truth"
    true = np.stack([t.identity for t in a.truth])
    own, other, n = compared(a.stack("identity"), true)
    if not n:
        return Goal(name=name, holds=None, text=a.absent or "not measured")
    apart = resampling.interval(resampling.mean(a.weights, a.stack("identity") - true))
    assert apart is not None
    more = f"difference {apart.value:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]"
    return Goal(name=name, holds=own <= other, text=f"{own:.4f} against {other:.4f}, {more}")
