"""Time is noted where it is spent, in every process, and never changes a corpus."""

import json
import time
from pathlib import Path

import pytest

from mesynth.corpus.throughput import FILE_NAME, Throughput, timed
from mesynth.stage import Produced, Skipped, run_stage
from tests.builders import NumberWorker, tree_bytes


class Slow(NumberWorker):
    """Two hundredths of a second a job."""

    def __call__(self, job: int) -> Produced | Skipped:
        time.sleep(0.02)
        return super().__call__(job)


def _run(out: Path, workers: int) -> list[Throughput]:
    told: list[Throughput] = []
    with timed(Slow(), told.append) as work:
        run_stage(out, list(range(20)), work, config={}, workers=workers, shard_clips=5)
    return told


def test_the_model_is_told_from_the_rest(tmp_path: Path) -> None:
    (told,) = _run(tmp_path / "a", 1)
    (process,) = told.processes
    assert process.clips == 20  # job 13 is left out, but took its time
    assert process.frames == 19 * 3
    assert 20 * 0.02 <= process.model <= told.wall
    assert 0 < process.store < told.wall - process.model + 0.01
    assert "all: 20 clips, 57 frames" in told.text()
    assert _run(tmp_path / "a", 1) == []  # finished: nothing was made
    told.write(tmp_path / "a")
    assert json.loads((tmp_path / "a" / FILE_NAME).read_text())["processes"][0]["clips"] == 20


@pytest.mark.slow
def test_every_process_is_heard(tmp_path: Path) -> None:
    (told,) = _run(tmp_path / "b", 2)
    assert sum(p.clips for p in told.processes) == 20
    assert 1 <= len(told.processes) <= 2
    _run(tmp_path / "a", 1)
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


def test_without_a_listener_the_worker_is_the_worker() -> None:
    worker = NumberWorker()
    with timed(worker, None) as work:
        assert work is worker
