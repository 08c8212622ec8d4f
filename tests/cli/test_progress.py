"""Time left on every long verb: bars on a terminal, plain lines at sensible intervals in a log."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth import commandline
from mesynth.cli import main
from mesynth.commandline import Board, Pace, by_step, duration, progress_bars
from recognizer.cli import main as recognizer
from tests.datasets.releases.casme2 import write_release

LINE = re.compile(
    r"(?P<name>[\w ,:.-]+): (?:(?P<done>[\d,]+)(?: of (?P<total>[\d,]+))?, )?(?:(?P<rate>[\d.,]+ an? \w+), )?"
    r"(?:(?P<left>[\d.a-z ]+) left, )?(?P<elapsed>[\d.a-z ]+)(?P<running> so far)?"
)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A board that writes into memory, and the second at which each line came."""

    def __init__(self) -> None:
        self.clock, self.stream = Clock(), io.StringIO()
        self.board = Board(self.stream, live=False, clock=self.clock)
        self.at: list[float] = []

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    def wait(self, seconds: float) -> None:
        """Let time pass, as the watcher does: a tick a second."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(self.clock.now + 1.0, end)
            self.board.tick()
            self.note()

    def note(self) -> None:
        self.at += [self.clock.now] * (len(self.lines) - len(self.at))


def _seconds(text: str) -> float:
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+) (s|min|h|d)\b", text))


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(0, 300),
    before=st.integers(0, 50),
    each=st.floats(0.05, 200),
    said_first=st.booleans(),
)
def test_lines_of_a_log(total: int, before: int, each: float, said_first: bool) -> None:
    """The first line within 5 s (10 if nothing is said), then at most 30 s apart, estimates right to a piece."""
    log = Log()
    report = log.board.bar("clips")
    before = min(before, max(total - 1, 0))
    if said_first:
        report(before, total)
    count = min(total - before, 40) if total else 40
    for done in range(before + 1, before + count + 1):
        log.wait(each)
        report(done, total)
        log.note()
    ended = log.clock.now
    assert not re.search(r"\r|\x1b|\?", log.stream.getvalue())
    found = [LINE.fullmatch(line) for line in log.lines]
    assert all(found), log.lines
    assert all(line.startswith("clips: ") for line in log.lines)
    first = 6 if said_first and total else 11
    if ended >= first:
        assert log.at[0] <= first
        assert all(b - a <= 32 for a, b in zip(log.at, log.at[1:], strict=False))
        assert ended - log.at[-1] <= 32
    unasked = [a for a, line in zip(log.at, log.lines, strict=True) if " left" in line]
    assert all(b - a > 3.9 for a, b in itertools.pairwise(unasked)), log.lines
    for at, match in zip(log.at, found, strict=True):
        assert match is not None
        if match["left"] and total:
            true = each * (total - before) - at
            assert abs(_seconds(match["left"]) - true) <= 0.15 * true + each + 61, (at, match[0])
    if total and before + count == total and count and ended > 5:
        assert sum(f"{total:,} of {total:,}" in line for line in log.lines) == 1


@pytest.mark.parametrize("first", [0, 200])
def test_what_was_done_before_makes_no_speed(first: int) -> None:
    pace = Pace("clips", now=0.0)
    pace.tell(first, 255, now=0.1)
    for second in range(1, 11):
        pace.tell(first + second, 255, now=second + 0.1)
    assert pace.rate() == pytest.approx(1, rel=1e-6)
    assert pace.left(10.1) == pytest.approx(255 - first - 10, abs=1)
    assert pace.words(10.1).startswith(f"{first + 10} of 255, 1 a second, ")


def test_an_unknown_total_is_counted_without_a_question() -> None:
    log = Log()
    report = log.board.bar("frames")
    for done in range(1, 9):
        log.wait(1)
        report(done, 0)
    assert [re.sub(r"[\d.]+ s so far", "N s so far", line) for line in log.lines] == [
        "frames: 4, 1 a second, N s so far"
    ]


def test_a_job_that_says_nothing_is_heard_of_and_its_first_estimate_comes_at_once() -> None:
    log = Log()
    report = log.board.bar("clips")
    log.wait(9)
    assert log.lines == []
    log.wait(1)
    assert log.lines == ["clips: 10 s so far"]
    report(0, 10)
    log.wait(10)
    assert log.lines[1:] == ["clips: 0 of 10, 20 s so far"]
    log.wait(5)
    report(1, 10)
    assert log.lines[2:] == ["clips: 1 of 10, 4 a minute, 2 min 15 s left, 25 s so far"]
    report(2, 10)
    assert len(log.lines) == 3


def test_steps_follow_each_other() -> None:
    """Two bars made at once: the second began when the first ended, and each has its own last line."""
    log = Log()
    faces, clips = log.board.bar("faces"), log.board.bar("clips")
    faces(0, 2)
    log.wait(7)
    faces(2, 2)
    clips(0, 4)
    log.wait(2)
    clips(4, 4)
    clips(4, 4)
    assert log.lines[-2:] == ["faces: 2 of 2, 17 a minute, 7.0 s", "clips: 4 of 4, 2 a second, 2.0 s"]
    log.wait(60)
    assert len(log.lines) == 3


def test_a_short_verb_says_nothing() -> None:
    log = Log()
    report = log.board.bar("clips")
    report(0, 40)
    log.wait(4.9)
    report(40, 40)
    assert log.lines == []


def test_nothing_to_do_says_nothing() -> None:
    log = Log()
    log.board.bar("clips")(0, 0)
    assert log.lines == []


def test_a_log_that_is_gone_stops_no_job() -> None:
    log = Log()
    report = log.board.bar("clips")
    log.stream.close()
    report(0, 2)
    report(2, 2)


@pytest.mark.parametrize("seconds", [0.04, 9.94, 9.96, 59.4, 59.6, 3599.6, 86_399.7, 1e6])
def test_durations_are_read_back(seconds: float) -> None:
    unit = {"s": 0.6, "min": 0.6, "h": 60, "d": 3600}[duration(seconds).split()[1]]
    assert _seconds(duration(seconds)) == pytest.approx(seconds, abs=unit)


def test_bars_on_a_terminal_never_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with open(theirs, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bars() as bars:
            report = by_step(bars)
            report("clips", 0, 8)
            report("clips", 3, 8)
            report("frames", 5, 0)
            report("clips", 8, 8)
        monkeypatch.undo()
        os.set_blocking(ours, False)
        data = b""
        with suppress(OSError):  # a terminal gives a piece at a time, and is empty in the end
            while True:
                data += os.read(ours, 1 << 16)
        shown = data.decode()
    assert "8 of 8" in shown
    assert "0/?" not in shown
    assert "?" not in re.sub(r"\x1b\[\?\d+[hl]", "", shown)
    assert "frames" in shown


@pytest.fixture(scope="module")
def at_once() -> Iterator[None]:
    """A line of every step, however short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commandline, "_FIRST", 0.0)
        yield


@pytest.fixture(scope="module")
def corpus(at_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flow") / "made"
    arguments = ["generate", "--kind", "flow", "--emotion", "negative,positive,surprise", "--count", "24"]
    found = CliRunner().invoke(main, [*arguments, "--subjects", "4", "--workers", "1", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert _counted(found.stderr) == {"flow images": 24}
    return out


def _counted(told: str) -> dict[str, int]:
    """Step -> what its last line says was done, all of it."""
    assert "\r" not in told
    ends = [m for m in map(LINE.fullmatch, told.splitlines()) if m and m["done"] == m["total"] is not None]
    return {m["name"]: int(m["done"]) for m in ends}


def test_a_check_of_a_release_tells_how_far_it_is(at_once: None, tmp_path: Path) -> None:
    root = write_release(tmp_path / "CASME2")
    found = CliRunner().invoke(main, ["prepare", "casme2", "--root", str(root), "--check", "--json"])
    told = json.loads(found.stdout)
    assert _counted(found.stderr) == {"clips looked at": told["annotated"]}
    assert told["annotated"] > 3


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("plan corpus/three_classes rows.count=30 --subjects 2 --out {out}", {"rows written": 30}),
        ("plan corpus/three_classes rows.count=30 --subjects 2 --dry-run", {"rows drawn": 30}),
        ("filter {corpus} --keep duplicate --out {out}", {"clips": 24}),
        ("filter {corpus} --keep duplicate --dry-run", {"clips": 24}),
        ("export {corpus} --to flow-npy --out {out}", {"clips": 24}),
        ("card {corpus} --out {out}/README.md", {"files": -1}),
        ("verify {corpus}", {"files": -1, "clips": 24}),
        ("recognizer predict", {}),
    ],
)
def test_verbs_tell_what_they_did(command: str, expected: dict[str, int], corpus: Path, tmp_path: Path) -> None:
    if command.startswith("recognizer"):
        model = tmp_path / "lda"
        arguments = ["train", "model=lda", "--real", str(corpus), "--out", str(model)]
        found = CliRunner().invoke(recognizer, arguments)
        assert found.exit_code == 0, found.output
        assert _counted(found.stderr)["reading clips"] == 24
        found = CliRunner().invoke(
            recognizer, ["predict", "--model", str(model), "--manifest", str(corpus), "--out", str(tmp_path / "p")]
        )
        assert found.exit_code == 0, found.output
        assert _counted(found.stderr) == {"reading clips": 24}
        return
    if command.startswith("card"):
        (tmp_path / "out").mkdir()
    found = CliRunner().invoke(main, command.format(corpus=corpus, out=tmp_path / "out").split())
    assert found.exit_code == 0, found.output
    counted = _counted(found.stderr)
    assert counted.keys() == expected.keys(), found.stderr
    assert all(counted[name] == n or n < 0 for name, n in expected.items())
