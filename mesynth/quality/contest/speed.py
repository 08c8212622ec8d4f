"""Seconds that a generator takes for one clip, on one thread. The only figures that differ between two runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from mesynth.errors import MesynthError
from mesynth.quality.contest.entrants import Entrant
from mesynth.quality.contest.figures import Figure
from mesynth.quality.contest.people import Person
from mesynth.quality.contest.requests import ContestConfig, Request
from mesynth.temporal import Profile

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
