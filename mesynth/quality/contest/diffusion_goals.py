"""Do the goals of diffusion in motion space hold? As AU-true as the motion GAN, more diverse, nearest to true flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mesynth.facs import AU_CODES
from mesynth.quality.contest import resampling
from mesynth.quality.contest.figures import REPEATED, SLOPES, Answered, in_range, slopes
from mesynth.quality.contest.flow_images import FLOW_KID
from mesynth.quality.contest.goals import Goal, compared
from mesynth.quality.contest.requests import ContestConfig
from mesynth.quality.contest.result import Standing
from mesynth.quality.contest.speed import seconds_of

FAMILIES = ("motion_diffusion", "flow_volume")
BESIDE = "motion_gan"
MOST_SECONDS = 1.0
TIMED_FRAMES, TIMED_SIZE = 64, 128


def with_diffusion_goals(
    standings: Sequence[Standing], answered: Sequence[Answered], config: ContestConfig
) -> list[Standing]:
    """Add the goals to the generators of FAMILIES; ``answered`` goes with ``standings``."""
    gans = {s.name: a for s, a in zip(standings, answered, strict=True) if s.family == BESIDE}
    out = []
    for standing, a in zip(standings, answered, strict=True):
        if standing.family in FAMILIES:
            more = (_controlled(a, gans), _flow(a, gans), _diverse(a, gans), _nearest(standing, standings),
                    _fast(standing, config))  # fmt: skip
            standing = replace(standing, goals=(*standing.goals, *more))
        out.append(standing)
    return out


def _controlled(a: Answered, gans: Mapping[str, Answered]) -> Goal:
    name = f"as many AUs with slope {SLOPES[0]:g}-{SLOPES[1]:g} as {BESIDE}"
    codes = [c for c in AU_CODES if c in {r.code for r in a.asked[1:]} and c in a.trusted and c not in REPEATED]
    if not gans or not codes:
        return Goal(name=name, holds=None, text=_nobody(gans) or "the judge is trusted with none of these AUs")
    own, *others = (int(in_range(slopes(x, codes)[:, :1])[0]) for x in (a, *gans.values()))
    best, most = max(zip(gans, others, strict=True), key=lambda pair: pair[1])
    return Goal(name=name, holds=own >= most, text=f"{own} against {most} of {best}, of {len(codes)} trusted")


def _flow(a: Answered, gans: Mapping[str, Answered]) -> Goal:
    name = f"EPE no worse than {BESIDE}'s"
    if not gans:
        return Goal(name=name, holds=None, text=_nobody(gans))
    rows = a.rows()
    pairs = {key: compared(a.stack("epe")[:, rows], gan.stack("epe")[:, rows]) for key, gan in gans.items()}
    known = {key: pair for key, pair in pairs.items() if pair[2]}
    if not known:
        return Goal(name=name, holds=None, text="no request was answered by both")
    best = min(known, key=lambda key: known[key][1] - known[key][0])
    own, other, n = known[best]
    return Goal(name=name, holds=own <= other, text=f"{own:.3f} against {other:.3f} px of {best} on {n} common answers")


def _diverse(a: Answered, gans: Mapping[str, Answered]) -> Goal:
    """More by more than people differ: the interval of the difference lies above 0."""
    name = f"more diverse than {BESIDE}"
    if not gans:
        return Goal(name=name, holds=None, text=_nobody(gans))
    own = a.stack("spread")
    apart = {key: resampling.mean(a.weights, own - gan.stack("spread")) for key, gan in gans.items()}
    known = {key: found for key, d in apart.items() if (found := resampling.interval(d))}
    if not known:
        return Goal(name=name, holds=None, text="no request was answered by both")
    best = min(known, key=lambda key: known[key].value)
    found = known[best]
    text = f"{np.nanmean(own):.3f} px, {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}] than {best}"
    return Goal(name=name, holds=found.low > 0, text=text)


def _nearest(standing: Standing, standings: Sequence[Standing]) -> Goal:
    """Of all families: the same family with other steps is no rival."""
    name = f"lowest {FLOW_KID} of all families"
    values = {s.name: s.figure(FLOW_KID).value for s in standings if s.goals and s.family not in FAMILIES}
    known = {key: value for key, value in values.items() if value is not None}
    own = standing.figure(FLOW_KID).value
    if own is None or not known:
        return Goal(name=name, holds=None, text="not measured" if own is None else "no other family takes part")
    best = min(known, key=lambda key: known[key])
    return Goal(name=name, holds=own < known[best], text=f"{own:.4g} against {known[best]:.4g} of {best}")


def _fast(standing: Standing, config: ContestConfig) -> Goal:
    name = f"at most {MOST_SECONDS:g} s for {TIMED_FRAMES} frames of {TIMED_SIZE} px"
    if (config.clip_frames, config.size) != (TIMED_FRAMES, TIMED_SIZE):
        return Goal(name=name, holds=None, text=f"timed with {config.clip_frames} frames of {config.size} px")
    seconds = seconds_of(standing.figures)
    if seconds is None:
        return Goal(name=name, holds=None, text="every timed request was refused")
    return Goal(name=name, holds=seconds <= MOST_SECONDS, text=f"{seconds:.2f} s on one thread")


def _nobody(gans: Mapping[str, Answered]) -> str:
    return "" if gans else f"no {BESIDE} is among the models"
