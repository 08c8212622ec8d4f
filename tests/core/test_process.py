"""A second counts once, for the innermost part, who does not listen pays nothing; what launchers say of processes."""

import threading
import time

import pytest

from mesynth.core import process
from mesynth.core.errors import ConfigError
from mesynth.core.process import Stopwatch, launched, part


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test turns: its last value is now."""
    now = [100.0]
    monkeypatch.setattr(process.time, "perf_counter", lambda: now[-1])
    return now


@part("inner")
def inner(clock: list[float], seconds: float) -> float:
    clock.append(clock[-1] + seconds)
    return seconds


def test_a_second_counts_once_for_the_innermost(clock: list[float]) -> None:
    watch = Stopwatch()
    watch.start()
    clock.append(clock[-1] + 50)  # in no part: nobody's
    with part("outer"):
        clock.append(clock[-1] + 1)
        assert inner(clock, 4) == 4
        clock.append(clock[-1] + 2)
        with part("outer"):
            clock.append(clock[-1] + 16)
    inner(clock, 8)
    watch.stop()
    inner(clock, 1000)
    assert watch.seconds == {"outer": 19, "inner": 12}


def test_an_error_leaves_its_part(clock: list[float]) -> None:
    watch = Stopwatch()
    watch.start()

    @part("inner")
    def fails() -> None:
        clock.append(clock[-1] + 3)
        raise ValueError("x")

    with part("outer"):
        with pytest.raises(ValueError, match="x"):
            fails()
        clock.append(clock[-1] + 5)
    watch.stop()
    assert watch.seconds == {"outer": 5, "inner": 3}


def test_started_or_stopped_inside_a_part(clock: list[float]) -> None:
    watch = Stopwatch()
    with part("early"):
        watch.start()
        inner(clock, 2)
    with part("late"):
        inner(clock, 4)
        watch.stop()
    assert watch.seconds == {"inner": 6, "late": 0}


def test_another_thread_is_not_heard(clock: list[float]) -> None:
    watch = Stopwatch()
    watch.start()
    thread = threading.Thread(target=inner, args=(clock, 7))
    with part("outer"):
        thread.start()
        thread.join()
    watch.stop()
    assert watch.seconds == {"outer": 7}


def test_the_last_to_start_listens(clock: list[float]) -> None:
    first, second = Stopwatch(), Stopwatch()
    first.start()
    second.start()
    first.stop()  # it was replaced: the second goes on
    inner(clock, 3)
    second.stop()
    assert (first.seconds, second.seconds) == ({}, {"inner": 3})


@pytest.mark.parametrize("listening", [False, True])
def test_a_part_costs_microseconds(listening: bool) -> None:
    """A clip has about ten parts and takes some ten milliseconds: 100 us of them would be its 1 %."""
    watch, each = Stopwatch(), []
    if listening:
        watch.start()
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(100):
            with part("x"):
                pass
        each.append((time.perf_counter() - begun) / 100)
    watch.stop()
    assert min(each) < 10e-6  # the best of twenty: the machine may be shared


# ---------------------------------------------------------------- launchers

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "False"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (0, 1)),
        (TORCHRUN, (2, 4)),
        (TORCHRUN | ACCELERATE, (2, 4)),
        (ACCELERATE, (0, 1)),
        ({"MASTER_ADDR": "node1"}, (0, 1)),
        ({"WORLD_SIZE": "1"}, (0, 1)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, (0, 1)),
        ({"WORLD_SIZE": "", "RANK": "3"}, (0, 1)),
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"}, (1, 3)),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"} | ACCELERATE | {"MASTER_ADDR": "127.0.0.1"}, (0, 2)),
        ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"}, (1, 2)),
    ],
)
def test_what_launchers_say(environment: dict[str, str], found: tuple[int, int]) -> None:
    assert launched(environment) == found


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            ACCELERATE | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
            "asked for several processes .*--multi_gpu",
        ),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE=two is no number"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK=x is no number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 and no RANK"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE=2 and RANK=2"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "WORLD_SIZE=2 and RANK=-1"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE=0 and RANK=0"),
    ],
)
def test_a_launcher_that_contradicts_itself_is_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        launched(environment)
