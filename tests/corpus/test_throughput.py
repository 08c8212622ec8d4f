"""Time is noted where it is spent, in every process, and never changes a corpus."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mesynth.core.process import part
from mesynth.corpus.generate import PARTS, THROUGHPUT_FILE, Preview, ProcessTimes, Throughput, generate, timed
from mesynth.corpus.plan import PlanConfig
from mesynth.generators.motion_gan.network import MotionGenerator
from mesynth.motion import layers, prior
from mesynth.store.shards import ShardWriter
from mesynth.store.stage import Produced, Skipped, run_stage
from tests.builders import NumberWorker, tree_bytes
from tests.generators.saved import saved

# ---------------------------------------------------------------- noted where it is spent


STEP = 0.01


class Slow(NumberWorker):
    """A job waits 1 step by itself, 3 in its model and 2 in its warp."""

    def __call__(self, job: int) -> Produced | Skipped:
        time.sleep(STEP)
        with part("model"):
            time.sleep(3 * STEP)
            with part("warp"):
                time.sleep(2 * STEP)
        return super().__call__(job)


def _run(out: Path, workers: int) -> list[Throughput]:
    told: list[Throughput] = []
    with timed(Slow(), told.append) as work:
        run_stage(out, list(range(20)), work, config={}, workers=workers, shard_clips=5)
    return told


def test_parts_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = ShardWriter.add

    def slow_disk(self: ShardWriter, key: str, members: dict[str, bytes]) -> object:
        time.sleep(2 * STEP)  # two a clip: frames and flow
        return add(self, key, members)

    monkeypatch.setattr(ShardWriter, "add", slow_disk)
    (told,) = _run(tmp_path / "a", 1)
    (process,) = told.processes
    assert process.clips == 20  # job 13 is left out, but took its time
    assert process.frames == 19 * 3
    for name, least in (("other", 1), ("model", 3), ("warp", 2), ("write", 4 * 19 / 20)):
        assert getattr(process, name) >= 20 * least * STEP, name
    assert process.encode > 0
    assert process.load == 0
    assert process.busy <= told.wall  # no second counts twice
    assert told.wall < 1.5 * process.busy + 0.5
    assert sum(process.shares().values()) == pytest.approx(1)
    assert "all: 20 clips, 57 frames" in told.text()
    assert _run(tmp_path / "a", 1) == []  # finished: nothing was made
    told.write(tmp_path / "a")
    read = json.loads((tmp_path / "a" / THROUGHPUT_FILE).read_text())
    assert read["processes"][0]["clips"] == 20
    assert list(read["shares"]) == list(PARTS)


def test_processes_are_added_up() -> None:
    one = ProcessTimes(clips=3, frames=30, load=2, model=6, warp=1, encode=2, write=1, other=0)
    two = ProcessTimes(clips=1, frames=10, load=3, model=0, warp=4, encode=3, write=2, other=1)
    told = Throughput(wall=8, processes=(one, two))
    assert told.all == ProcessTimes(clips=4, frames=40, load=5, model=6, warp=5, encode=5, write=3, other=1)
    assert told.rate == 0.5
    assert one.shares() == {"model": 0.6, "warp": 0.1, "encode": 0.2, "write": 0.1, "other": 0}
    first, second, both = told.text().splitlines()
    assert first == (
        "process 0: 3 clips, 3333.33 ms a clip (model 60 %, warp 10 %, encode 20 %, write 10 %, other 0 %), "
        "loading 2.0 s"
    )
    assert second.startswith("process 1: 1 clips, 10000.00 ms a clip (model 0 %, warp 40 %")
    assert both == (
        "all: 4 clips, 40 frames in 8.0 s, 0.5 clips a second, "
        "5000.00 ms a clip (model 30 %, warp 25 %, encode 25 %, write 15 %, other 5 %), loading 5.0 s"
    )
    nothing = ProcessTimes(clips=1, frames=0, load=0, model=0, warp=0, encode=0, write=0, other=0)
    assert set(nothing.shares().values()) == {0}


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


# ---------------------------------------------------------------- told apart


FACES = Path(__file__).parents[2] / "samples" / "corpus"


@pytest.mark.parametrize("model", ["motion-prior", "gan"])
def test_a_generators_network_is_told_from_its_warp(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is slowed down by a known time, which must come back under its own name and no other."""
    saved(tmp_path / "gan")
    config = PlanConfig(au=("12=0.3",), count=3, fps=50, duration=(0.2, 0.2), size=32)

    def made(out: str) -> ProcessTimes:
        told: list[Throughput] = []
        name = model if model == prior.NAME else str(tmp_path / model)
        generate(FACES, config, tmp_path / out, model=name, preview=Preview(count=0), report=told.append)
        return told[0].all

    def slow(owner: Any, name: str, seconds: float) -> None:
        call = getattr(owner, name)

        def slowed(*arguments: Any, **options: Any) -> Any:
            time.sleep(seconds)
            return call(*arguments, **options)

        monkeypatch.setattr(owner, name, slowed)

    assert made("plain").frames == 33  # and compiles
    slow(*((prior.MotionPrior, "_in_pixels") if model == prior.NAME else (MotionGenerator, "bent")), 0.8)
    times = made("slow-network")
    assert times.model >= 0.8
    assert times.warp < 0.4
    monkeypatch.undo()
    slow(layers, "warp_planes", 0.8 / 33)  # the one frame loop
    times = made("slow-warp")
    assert times.warp >= 0.8
    assert times.model < 0.4
    assert tree_bytes(tmp_path / "plain") == tree_bytes(tmp_path / "slow-warp")
