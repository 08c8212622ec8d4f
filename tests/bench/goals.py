"""Do the goals that this project set itself for its generators hold? From the answers of a finished comparison.

    python -m tests.bench.goals COMPARISON

prints each goal with its numbers; COMPARISON is the folder that ``mesynth compare`` wrote. A goal that cannot be told
from these models, people or AUs says why.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from mesynth.benchmark import resampling
from mesynth.benchmark.answers import FLOW_KID
from mesynth.benchmark.figures import REPEATED, SLOPES, Answered, in_range, slopes
from mesynth.benchmark.protocol import TRUTH, BenchmarkConfig
from mesynth.benchmark.result import Result, Standing
from mesynth.benchmark.run import read_answers
from mesynth.core.facs import AU_CODES
from mesynth.metrics.networks import Networks
from mesynth.motion.prior import NAME
from mesynth.store.generator_folder import has_property, makes_frames

FLOW_KID_KEY = "flow_kid"
LEAST_AUS = 12
SHARE_OF_MEAN_FLOW = 0.5
TIMES_FASTER = 30
FAMILIES = ("motion_diffusion", "flow_volume")
BESIDE = "motion_gan"
MOST_SECONDS = 1.0
TIMED_FRAMES, TIMED_SIZE = 64, 128


@dataclass(frozen=True, kw_only=True)
class Goal:
    """``holds`` is None where it cannot be told; ``text`` says why, else the numbers."""

    name: str
    holds: bool | None
    text: str


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
    codes = [c for c in AU_CODES if c in {r.code for r in a.targets[1:]} and c in a.trusted and c not in REPEATED]
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


def seconds_of(standing: Standing) -> float | None:
    """The seconds a clip takes."""
    return next((f.value for f in standing.figures if f.key == "seconds"), None)


# ------------------------------------------------------------------- of diffusion and volumes, beside the motion GAN


def _as_controlled(a: Answered, gans: Mapping[str, Answered]) -> Goal:
    name = f"as many AUs with slope {SLOPES[0]:g}-{SLOPES[1]:g} as {BESIDE}"
    codes = [c for c in AU_CODES if c in {r.code for r in a.targets[1:]} and c in a.trusted and c not in REPEATED]
    if not gans or not codes:
        return Goal(name=name, holds=None, text=_nobody(gans) or "the judge is trusted with none of these AUs")
    own, *others = (int(in_range(slopes(x, codes)[:, :1])[0]) for x in (a, *gans.values()))
    best, most = max(zip(gans, others, strict=True), key=lambda pair: pair[1])
    return Goal(name=name, holds=own >= most, text=f"{own} against {most} of {best}, of {len(codes)} trusted")


def _as_near(a: Answered, gans: Mapping[str, Answered]) -> Goal:
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
    values = {s.name: s.figure(FLOW_KID_KEY).value for s in standings if s.name != TRUTH and s.family not in FAMILIES}
    known = {key: value for key, value in values.items() if value is not None}
    own = standing.figure(FLOW_KID_KEY).value
    if own is None or not known:
        return Goal(name=name, holds=None, text="not measured" if own is None else "no other family takes part")
    best = min(known, key=lambda key: known[key])
    return Goal(name=name, holds=own < known[best], text=f"{own:.4g} against {known[best]:.4g} of {best}")


def _fast(standing: Standing, config: BenchmarkConfig) -> Goal:
    name = f"at most {MOST_SECONDS:g} s for {TIMED_FRAMES} frames of {TIMED_SIZE} px"
    if (config.clip_frames, config.size) != (TIMED_FRAMES, TIMED_SIZE):
        return Goal(name=name, holds=None, text=f"timed with {config.clip_frames} frames of {config.size} px")
    seconds = seconds_of(standing)
    if seconds is None:
        return Goal(name=name, holds=None, text="every timed request was refused")
    return Goal(name=name, holds=seconds <= MOST_SECONDS, text=f"{seconds:.2f} s on one thread")


def _nobody(gans: Mapping[str, Answered]) -> str:
    return "" if gans else f"no {BESIDE} is among the models"


# ------------------------------------------------------------------- all of them


def goals_of(
    standings: Sequence[Standing], answered: Sequence[Answered], config: BenchmarkConfig
) -> dict[str, tuple[Goal, ...]]:
    """Goals by generator; ``answered`` goes with ``standings``, the rendered truth has none."""
    prior = next((a for s, a in zip(standings, answered, strict=True) if s.family == NAME), None)
    gans = {s.name: a for s, a in zip(standings, answered, strict=True) if s.family == BESIDE}
    slow = {s.name: own for s in standings if has_property(s.family, "paints_frames") and (own := seconds_of(s))}
    out: dict[str, tuple[Goal, ...]] = {}
    for s, a in zip(standings, answered, strict=True):
        if s.name == TRUTH:
            out[s.name] = ()
            continue
        found = [_half_of_mean(a), _below_prior(a, prior), _controlled(a), _identity(a), *speed_goals(s, slow)]
        if s.family in FAMILIES:
            found += [_as_controlled(a, gans), _as_near(a, gans), _diverse(a, gans), _nearest(s, standings),
                      _fast(s, config)]  # fmt: skip
        out[s.name] = tuple(found)
    return out


def speed_goals(standing: Standing, slow: Mapping[str, float]) -> list[Goal]:
    """How much faster a generator is than the fastest image-space GAN that took part, if one did."""
    own = seconds_of(standing)
    fits = own and not has_property(standing.family, "paints_frames") and makes_frames(standing.family)
    return [faster(own, slow)] if fits and own else []


def read_goals(folder: Path) -> dict[str, tuple[Goal, ...]]:
    """Goals by generator, of the folder of a finished comparison."""
    result = Result.from_json((folder / "compare.json").read_text())
    known = {f.name for f in fields(BenchmarkConfig)}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in result.settings.items() if name in known}
    config = BenchmarkConfig(**given)  # type: ignore[arg-type]
    answered = read_answers(folder, config, [s.family for s in result.standings], Networks().judge.trusted)
    return goals_of(result.standings, answered, config)


def main() -> int:
    """Print them."""
    for name, found in read_goals(Path(sys.argv[1])).items():
        for goal in found:
            verdict = {True: "holds", False: "does not hold", None: "cannot be told"}[goal.holds]
            print(f"{name}: {goal.name}: {verdict} ({goal.text})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
