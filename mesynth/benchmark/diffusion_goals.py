"""Seconds that a generator takes for one clip, on one thread. The only figures that differ between two runs.

Do the goals of diffusion in motion space hold? As AU-true as the motion GAN, more diverse, nearest to true flow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from mesynth.benchmark import resampling
from mesynth.benchmark.answers import FLOW_KID
from mesynth.benchmark.entrants import Entrant
from mesynth.benchmark.figures import REPEATED, SLOPES, Answered, Figure, in_range, slopes
from mesynth.benchmark.goals import Goal, compared
from mesynth.benchmark.people import Person
from mesynth.benchmark.requests import ContestConfig, Request
from mesynth.benchmark.result import Standing
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES
from mesynth.core.profiles import Profile
from mesynth.store.families import has_property

TIMED = "clip of"
"""How the name of the timing figure begins."""
_FPS = 200.0


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch, OpenCV, BLAS and compiled kernels work on one thread within."""
    import cv2
    import numba
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads(), cv2.getNumThreads(), numba.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
        numba.set_num_threads(before[2])


def seconds_of(figures: Sequence[Figure]) -> float | None:
    """The timing among the figures of a generator."""
    return next((f.value for f in figures if f.name.startswith(TIMED)), None)


def seconds_per_clip(
    entrant: Entrant, person: Person, asked: tuple[Request, ...], config: ContestConfig
) -> tuple[Figure, list[float]]:
    """Median of ``config.repeats`` clips of one person after one that is not counted; each asks for another AU, so
    that nothing is answered from memory, and the face is the one met before."""
    threads = f"one thread of {os.cpu_count()}"
    name = f"{TIMED} {config.clip_frames} frames, {config.size} px"
    wanted = [r for r in asked if r.pictured]
    taken: list[float] = []
    with one_thread():
        for i in range(config.repeats + 1):
            request = wanted[i % len(wanted)]
            start = time.perf_counter()
            try:
                if entrant.frameless:
                    entrant.show(person, request.aus, i)
                else:
                    entrant.generator.generate(
                        person.face, request.aus, Profile(apex=0.5), n_frames=config.clip_frames, fps=_FPS, seed=i
                    )  # fmt: skip
            except MesynthError:
                continue  # counted and listed where the requests are measured
            taken.append(time.perf_counter() - start)
    counted = taken[1:]
    if not counted:
        return Figure(name=name, value=None, note="every timed request was refused"), []
    what = f"one flow image, no frames; {threads}" if entrant.frameless else threads
    return (
        Figure(name=name, value=float(np.median(counted)), low=min(counted), high=max(counted), unit="s",
               note=f"median, least and most of {len(counted)}; {what}"),
        counted,
    )  # fmt: skip


# ------------------------------------------------------------------- diffusion goals


BESIDE = "motion_gan"
MOST_SECONDS = 1.0
TIMED_FRAMES, TIMED_SIZE = 64, 128


def with_diffusion_goals(
    standings: Sequence[Standing], answered: Sequence[Answered], config: ContestConfig
) -> list[Standing]:
    """Add the goals to generators that draw motion by diffusion; ``answered`` goes with ``standings``."""
    gans = {s.name: a for s, a in zip(standings, answered, strict=True) if s.family == BESIDE}
    out = []
    for standing, a in zip(standings, answered, strict=True):
        if has_property(standing.family, "diffusion"):
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
    others = [s for s in standings if s.goals and not has_property(s.family, "diffusion")]
    values = {s.name: s.figure(FLOW_KID).value for s in others}
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
