"""For all tests: nothing is read from or left in the user's own folders, and Ctrl-C means what it says."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from mesynth.head import render
from mesynth.preprocess.flow import METHODS
from mesynth.preprocess.landmarks import ENVIRONMENT
from mesynth.store import processes, stage
from tests import warm

# A shell that starts the tests in the background has its children ignore Ctrl-C, and theirs after them.
signal.signal(signal.SIGINT, signal.default_int_handler)

Estimate = Callable[[np.ndarray, np.ndarray, str], np.ndarray]
collect_ignore = ["outside"]  # a package of others: tests/test_outside.py installs it


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported to collect tests stays: no collection of garbage looks at it, then or ever after. Nor has a
    forked process, which would have to copy it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Landmarks found by one test may serve another, never another run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_core() -> Iterator[None]:
    """Where nobody says how many processes are to work, one does, on any machine: each more would import everything
    anew, and pytest-xdist has a process a core already. Tests of several ask for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _processes_at_once() -> Iterator[None]:
    """Tests of several processes have less work than it pays to start one for; they are started all the same. They are
    forked from one server, which is started for the first of them and has then loaded what any of them needs."""
    asked = processes._context

    def context(work: object) -> Any:
        made = asked(work)
        if made.get_start_method() == "forkserver":
            made.set_forkserver_preload([*warm.LOADED])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "WORTH", 0.0)
        patch.setattr(processes, "_context", context)
        yield


@pytest.fixture(autouse=True, scope="session")
def _people_once() -> Iterator[None]:
    """Tests show the same few people again and again, at several sizes: more of them are kept than users need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_person", lru_cache(maxsize=24)(render._person.__wrapped__))
        yield


_FLOWS: dict[bytes, np.ndarray] = {}
"""Optical flow by method and pictures, for :func:`flow_once`."""


@contextmanager
def flow_once() -> Iterator[None]:
    """Optical flow of a batch of pairs is estimated once a process. What is kept (a quarter of a gigabyte at most) is
    handed out as copies."""

    def once(name: str, estimate: Estimate) -> Estimate:
        def flow(a: np.ndarray, b: np.ndarray, device: str) -> np.ndarray:
            key = hashlib.sha256(repr((name, a.shape, device)).encode())
            for pictures in (a, b):
                key.update(np.ascontiguousarray(pictures))
            found = _FLOWS.get(key.digest())
            if found is None:
                found = _FLOWS[key.digest()] = estimate(a, b, device)
                while sum(one.nbytes for one in list(_FLOWS.values())) > 2**28:
                    _FLOWS.pop(next(iter(_FLOWS)), None)
            return found.copy()

        return flow

    with pytest.MonkeyPatch.context() as patch:
        for name in ("dis", "tvl1"):
            patch.setitem(METHODS, name, once(name, METHODS[name]))
        yield


@pytest.fixture(scope="module")
def flows_once() -> Iterator[None]:
    """:func:`flow_once`, for modules whose commands look at the same pictures again and again."""
    with flow_once():
        yield


@pytest.fixture(scope="module")
def few_steps() -> Iterator[None]:
    """For modules that use the shipped denoisers and do not look at what they draw: two steps, not eight."""
    from mesynth.generators import diffusion

    asked = diffusion.sample

    def sample(denoise: Any, noise: Any, sampling: Any, process: Any, **more: Any) -> Any:
        return asked(denoise, noise, replace(sampling, steps=min(sampling.steps, 2)), process, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "sample", sample)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many commands of the documents ran, and why the others were only parsed (tests/docs)."""
    reports = terminalreporter.stats.get("passed", [])
    pages = [json.loads(str(value)) for one in reports for name, value in one.user_properties if name == "documents"]
    if not pages:
        return
    ran = [seconds for page in pages for _, seconds in page["ran"]]
    parsed = [reason for page in pages for _, reason in page["parsed"]]
    terminalreporter.section("documented commands")
    took = f"{sum(ran):.0f} s of processor time"
    terminalreporter.line(f"{len(pages)} pages: {len(ran)} commands ran ({took}), {len(parsed)} were parsed alone")
    for reason, n in Counter(parsed).most_common():
        terminalreporter.line(f"  {n:3d}  {reason}")
