"""Two writers to one folder: the second is refused, whoever it is; a writer that was killed leaves the folder free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mesynth.core.errors import RunFolderError
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import LOCK_FILE, only_writer
from mesynth.store.stage import Produced, run_stage
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
