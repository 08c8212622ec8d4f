"""Two writers to one folder: the second is refused, whoever it is; a writer that was killed leaves the folder free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

import mesynth
from mesynth.core.errors import LeakError, RunFolderError
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import LOCK_FILE, claim_folder, only_maker, only_writer, temporary_beside, write_text
from mesynth.store.stage import Produced, run_stage
from tests import warm
from tests.builders import row

HOLD = "import sys, time; from pathlib import Path; from mesynth.store.run_folder import only_writer\n"


def _make(job: int) -> Produced:
    return Produced(row(f"clip{job}"))


class _Meanwhile:
    """Starts another run of the same folder while the first makes its first clip."""

    def __init__(self, out: Path, config: dict[str, int]) -> None:
        self.out, self.config, self.error = out, config, ""

    def __call__(self, job: int) -> Produced:
        if job == 0:
            try:
                run_stage(self.out, [0, 1], _make, config=self.config)
            except RunFolderError as error:
                self.error = str(error)
        return _make(job)


@pytest.mark.parametrize(("other", "words"), [({"a": 1}, "being written"), ({"a": 2}, "holds another run")])
def test_a_second_run_beside_the_first_is_refused(tmp_path: Path, other: dict[str, int], words: str) -> None:
    worker = _Meanwhile(tmp_path / "out", other)
    manifest = run_stage(tmp_path / "out", [0, 1], worker, config={"a": 1})
    assert words in worker.error
    assert len(manifest) == len(Manifest.read(tmp_path / "out")) == 2
    assert not (tmp_path / "out" / LOCK_FILE).exists()
    assert len(run_stage(tmp_path / "out", [0, 1], _make, config={"a": 1})) == 2  # afterwards: nothing to do


@pytest.mark.parametrize("attempt", range(20))
def test_many_at_once_leave_one_whole_corpus(tmp_path: Path, attempt: int) -> None:
    """Threads change places every ten microseconds, so that they meet within the claim and within the lock."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        _many_at_once(tmp_path)
    finally:
        sys.setswitchinterval(interval)


def _many_at_once(tmp_path: Path) -> None:
    start, outcomes = threading.Barrier(6), []

    def run(config: int) -> None:
        start.wait()
        try:
            outcomes.append((config, len(run_stage(tmp_path / "out", list(range(9)), _make, config={"a": config}))))
        except RunFolderError:
            outcomes.append((config, -1))

    threads = [threading.Thread(target=run, args=(i % 2,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n for _, n in outcomes} <= {9, -1}
    assert len({config for config, n in outcomes if n == 9}) == 1
    assert len(Manifest.read(tmp_path / "out")) == 9


def test_a_killed_writer_leaves_the_folder_free(tmp_path: Path) -> None:
    code = HOLD + "with only_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="being written by another process"), only_writer(tmp_path):
            pass
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    with only_writer(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path):
        raise ZeroDivisionError
    with only_writer(tmp_path), pytest.raises(RunFolderError), only_writer(tmp_path):
        pass


@pytest.mark.parametrize("kept", [(), ("parts/manifest.parquet",), ("frames-000000.tar",)])
def test_a_mistake_before_the_first_file_gives_the_claim_up(tmp_path: Path, kept: tuple[str, ...]) -> None:
    """The command put right may have the folder; what was finished keeps it."""
    claim_folder(tmp_path, {"leak": "refuse"})
    (tmp_path / "parts").mkdir()

    def run() -> None:
        with only_writer(tmp_path):
            for name in kept:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_bytes(b"x")
            raise LeakError("the clip saw who is held out")

    with pytest.raises(LeakError):
        run()
    if kept:
        with pytest.raises(RunFolderError, match="holds another run"):
            claim_folder(tmp_path, {"leak": "zero-weight"})
    else:
        assert list(tmp_path.iterdir()) == []
        claim_folder(tmp_path, {"leak": "zero-weight"})


@pytest.mark.parametrize("before", ["", "a", "a/b", "a/b/out"])
@pytest.mark.parametrize("how", ["claimed", "held alone", "made whole"])
@pytest.mark.parametrize("error", [LeakError("x"), ZeroDivisionError()])
def test_a_run_that_wrote_nothing_removes_the_folders_it_made(
    tmp_path: Path, before: str, how: str, error: Exception
) -> None:
    """And no other: what was there, empty or not, stays."""
    out = tmp_path / "a" / "b" / "out"
    (tmp_path / before).mkdir(parents=True, exist_ok=True)
    there = sorted(tmp_path.rglob("*"))
    if how == "claimed":
        claim_folder(out, {"n": 1})
    with pytest.raises(type(error)), (only_maker if how == "made whole" else only_writer)(out):
        raise error
    left = sorted(tmp_path.rglob("*"))
    if how == "claimed" and isinstance(error, ZeroDivisionError):  # a fault, no mistake: the same command goes on
        assert out / "run.yaml" in left
    else:
        assert left == there


@pytest.mark.parametrize("how", ["claimed", "held alone", "made whole"])
def test_a_run_that_ends_well_keeps_its_folder(tmp_path: Path, how: str) -> None:
    out = tmp_path / "a" / "out"
    if how == "claimed":
        claim_folder(out, {"n": 1})
    with (only_maker if how == "made whole" else only_writer)(out):
        pass
    assert out.parent.is_dir()
    assert out.is_dir() == (how != "made whole")
    with suppress(LeakError), only_writer(out):  # a later mistake in it takes nothing away
        raise LeakError("x")
    assert out.is_dir() == (how != "made whole")


def test_of_a_hundred_that_start_together_one_goes_on(tmp_path: Path) -> None:
    """Claim and hold as every verb does; the winner lets go when all have tried."""
    start, outcomes, all_tried = threading.Barrier(100), [], threading.Event()

    def run() -> None:
        start.wait()
        try:
            claim_folder(tmp_path / "out", {"a": 1})
            with only_writer(tmp_path / "out"):
                outcomes.append("")
                all_tried.wait(60)
        except RunFolderError as error:
            outcomes.append(str(error))
        if len(outcomes) == 100:
            all_tried.set()

    threads = [threading.Thread(target=run) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = f"{tmp_path / 'out'} is being written by another process; wait for it or choose another --out"
    assert set(outcomes) == {"", refused}
    assert outcomes.count("") == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["run.yaml"]


CORPUS = ("generate", "--kind", "flow", "--emotion", "surprise", "--count", "4", "--workers", "1", "--out")


def test_of_eight_processes_that_generate_together_one_goes_on(tmp_path: Path) -> None:
    """They wait for each other once everything is imported; who comes when all is done finds the corpus finished."""
    out = tmp_path / "out"
    started = [warm.start("mesynth", *CORPUS, str(out), gate=tmp_path / "gate") for _ in range(8)]
    (tmp_path / "gate").touch()
    codes = []
    for process in started:
        _, errors = process.communicate()
        codes.append(process.returncode)
        if process.returncode:
            assert process.returncode == 2, errors
            assert errors == f"Error: {out} is being written by another process; wait for it or choose another --out\n"
    assert 0 in codes
    alone = mesynth.generate(kind="flow", emotion="surprise", count=4, out=tmp_path / "alone")
    assert Manifest.read(out).hash() == alone.hash()
    made, whole = ({p.name for p in (tmp_path / name).iterdir()} for name in ("out", "alone"))
    assert made - {"throughput.json"} == whole


def test_temporary_names_are_as_long_as_a_file_system_takes(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u00fc" * 127, "\u7b11" * 85):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_killed_writer_began_goes_with_the_next(tmp_path: Path) -> None:
    begun, own = temporary_beside(tmp_path / "plan.jsonl"), tmp_path / ".notes.tmp"
    begun.touch()
    own.touch()
    with only_writer(tmp_path):
        assert not begun.exists()
    assert own.exists(), "not a name that this project gives"
