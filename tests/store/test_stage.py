"""The stage engine: same bytes for any number of processes, resume, interruption, other people's folders."""

import errno
import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.store import manifest as manifest_file
from mesynth.store import processes, shards, stage
from mesynth.store.manifest import Manifest
from mesynth.store.processes import run_pool
from mesynth.store.stage import Interrupted, Produced, Skipped, read_notes, read_skipped, run_stage
from tests.builders import NumberWorker, tree_bytes

JOBS = list(range(20))


def _fail(job: int) -> Iterator[int]:
    yield job

    class Local(Exception):
        """Of a class that no other process can find."""

    raise Local(f"job {job} failed here alone")


def _tell_environment(file: Path) -> Iterator[int]:
    file.write_text(os.environ["WHERE_WEIGHTS_LIE"])
    yield 1


def _run(out: Path, worker: NumberWorker | None = None, config: int = 1, workers: int = 1) -> Manifest:
    return run_stage(out, JOBS, worker or NumberWorker(), config={"jobs": config}, workers=workers, shard_clips=4)


def test_what_was_made_is_what_is_read(tmp_path: Path) -> None:
    manifest = _run(tmp_path / "a")
    assert [r.clip for r in manifest] == [f"{i:03d}" for i in JOBS if i != 13]  # job 13 is left out
    for r in manifest:
        made = NumberWorker()(int(r.clip))
        assert isinstance(made, Produced)
        assert (shards.read_frames(manifest.root, r) == made.frames).all()
        assert (shards.read_flow(manifest.root, r) == made.flow).all()
    assert (tmp_path / "a" / "clips" / "1.txt").read_bytes() == b"x"
    assert not list((tmp_path / "a").rglob("*.tmp"))


def test_what_was_left_out_and_noted_is_listed_in_order(tmp_path: Path) -> None:
    before = [Skipped("db/09/x/1", 'no frames, "really"')]
    manifest = run_stage(tmp_path / "a", JOBS, NumberWorker(), config={}, shard_clips=4, skipped=before)
    assert read_skipped(tmp_path / "a") == [*before, Skipped("db/01/013/0", "an unlucky number")]
    notes = read_notes(tmp_path / "a")
    assert [n["clip_id"] for n in notes] == [f"db/01/{i:03d}/0" for i in range(0, 20, 2)]
    assert notes[3]["job"] == 6
    assert (shards.read_extra(manifest.root, manifest.row(2), "mean") == 2).all()
    with pytest.raises(MesynthError, match=r"no input_other\.npy"):
        shards.read_extra(manifest.root, manifest.row(2), "other")
    run_stage(tmp_path / "b", JOBS[:2], NumberWorker(), config={})
    assert not (tmp_path / "b" / "skipped.csv").exists()


def test_parts_become_the_manifest_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_file, "GROUP_ROWS", 6)  # parts have four clips
    found = _run(tmp_path / "a")
    copy = Manifest.from_rows(list(found), found.root).write(tmp_path / "copy")
    assert (tmp_path / "a" / "manifest.parquet").read_bytes() == copy.read_bytes()
    assert found.meta == {"mesynth.hash": found.hash()}


def test_a_clip_made_twice_leaves_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="same clip_id"):
        run_stage(tmp_path / "a", [1, 2, 3, 4, 5, 1], NumberWorker(), config={}, shard_clips=4)
    assert not (tmp_path / "a" / "manifest.parquet").exists()
    assert not list((tmp_path / "a").rglob("*.tmp"))


@pytest.mark.slow
def test_one_process_or_two_same_bytes(tmp_path: Path) -> None:
    _run(tmp_path / "one", workers=1)
    _run(tmp_path / "two", workers=2)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


def test_interrupted_then_resumed_is_as_if_never_interrupted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(Interrupted, match="same command goes on"):
        _run(tmp_path / "a", NumberWorker(interrupt_at=9, log=log))
    assert not (tmp_path / "a" / "manifest.parquet").exists()
    before = log.read_text().split()
    _run(tmp_path / "a", NumberWorker(log=log))
    again = log.read_text().split()[len(before) :]
    assert again == [str(i) for i in JOBS[8:]]  # the two finished shards are not made twice
    _run(tmp_path / "b")
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


def test_a_finished_run_is_not_made_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    _run(tmp_path / "a")
    _run(tmp_path / "a", NumberWorker(log=log))
    assert not log.exists()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_workers_error_reaches_the_user_and_leaves_no_half_shard(tmp_path: Path, workers: int) -> None:
    with pytest.raises(MesynthError, match="job 9 cannot be done"):
        _run(tmp_path / "a", NumberWorker(fail_at=9), workers=workers)
    assert not list((tmp_path / "a").rglob("*.tmp"))
    assert not (tmp_path / "a" / "manifest.parquet").exists()


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    _run(tmp_path / "a", config=1)
    with pytest.raises(RunFolderError, match="holds another run"):
        _run(tmp_path / "a", config=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="is not empty"):
        _run(tmp_path / "b")
    (tmp_path / "c").write_text("a file")
    with pytest.raises(RunFolderError):
        _run(tmp_path / "c")
    assert (tmp_path / "b" / "thesis.tex").read_text() == "years of work"


def test_progress_counts_every_job(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    run_stage(tmp_path / "a", JOBS, NumberWorker(), config={}, shard_clips=4, progress=lambda d, t: seen.append((d, t)))
    assert seen[-1] == (20, 20)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is used up")])
@pytest.mark.parametrize("where", ["mesynth.store.shards.ShardWriter.add", "mesynth.store.stage.write_tables"])
def test_a_full_disk_is_one_line(
    number: int, said: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While clips are made, and while the folder is closed; what is finished stays."""

    def full(*_: object, **__: object) -> None:
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(MesynthError, match=f"{said}; make room and run the same command again"):
        _run(tmp_path / "a")
    assert not (tmp_path / "a" / "manifest.parquet").exists()
    assert not list((tmp_path / "a").rglob("*.tmp"))
    monkeypatch.undo()
    _run(tmp_path / "a")
    _run(tmp_path / "b")
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


@pytest.mark.slow
def test_a_worker_that_dies_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    with pytest.raises(MesynthError, match=r"a worker process died .* go on with --workers 1"):
        _run(tmp_path / "a", NumberWorker(die_at=18), workers=2)
    assert not list((tmp_path / "a").rglob("*.tmp"))
    _run(tmp_path / "a")
    _run(tmp_path / "b")
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


@pytest.mark.slow
def test_processes_have_the_environment_of_who_asks_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the first who asked: they are forked from one server."""
    for word in ("before", "after"):
        monkeypatch.setenv("WHERE_WEIGHTS_LIE", word)
        run_pool(_tell_environment, [(tmp_path / word,)], workers=1, report=lambda clips: None, where=tmp_path)
        assert (tmp_path / word).read_text() == word


def test_an_error_that_cannot_travel_is_told(tmp_path: Path) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[tuple[int]]:
        for job in range(1, 100):
            taken.append(job)
            yield (job,)

    with pytest.raises(RuntimeError, match="job 1 failed here alone"):
        run_pool(_fail, jobs(), workers=1, report=taken.count, where=tmp_path)
    assert taken == [1]  # none is taken before a worker is free for it


# ------------------------------------------------------------------- as many processes as there is work


class _Slow(NumberWorker):
    """Takes its time, and writes down which process made what."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__()
        self.folder, self.seconds = folder, seconds

    def __call__(self, job: int) -> Produced | Skipped:
        time.sleep(self.seconds)
        with open(self.folder / f"{os.getpid()}", "a") as file:
            file.write(f"{job}\n")
        return super().__call__(job)


@pytest.mark.parametrize(("seconds", "worth", "several"), [(0.0, 8.0, False), (0.05, 0.5, True)])
def test_processes_are_started_where_work_is_left_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, worth: float, several: bool
) -> None:
    """This process begins at once; others come if it pays, and it is one of them. The bytes are the same."""
    monkeypatch.setattr(stage, "WORTH", worth)
    who = tmp_path / "who"
    who.mkdir()
    jobs = list(range(100 if several else 20))
    seen: list[tuple[int, int]] = []
    run_stage(
        tmp_path / "a", jobs, _Slow(who, seconds), config={}, workers=2, shard_clips=4,
        progress=lambda d, t: seen.append((d, t)),
    )  # fmt: skip
    run_stage(tmp_path / "b", jobs, NumberWorker(), config={}, workers=1, shard_clips=4)
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")
    made = {int(file.name): [int(line) for line in file.read_text().split()] for file in who.iterdir()}
    assert sorted(job for mine in made.values() for job in mine) == sorted(jobs)
    assert len(made) == (2 if several else 1)
    assert made[os.getpid()][0] == jobs[0]
    if several:  # until the end: the other started late, and still did not leave it less than a third
        assert len(made[os.getpid()]) > len(jobs) / 3
        assert max(made[os.getpid()]) > 0.8 * len(jobs)
    assert seen[-1] == (len(jobs), len(jobs))
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_a_process_that_has_ended_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever it was forked by has waited for it; its number may be another process's by now."""
    process = multiprocessing.get_context("forkserver").Process(target=abs, args=(1,))
    process.start()
    assert multiprocessing.connection.wait([process.sentinel], 60)
    killed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, number: killed.append(pid))
        processes._terminate([process])
    assert not killed
    process.join()
    process.close()


@pytest.mark.slow
def test_a_process_that_dies_beside_this_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "WORTH", 0.2)
    with pytest.raises(MesynthError, match="a worker process died"):
        run_stage(tmp_path / "a", list(range(400)), _Dies(0.03), config={}, workers=2, shard_clips=4)
    assert not list((tmp_path / "a").rglob("*.tmp"))


class _Dies(NumberWorker):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def __call__(self, job: int) -> Produced | Skipped:
        time.sleep(self.seconds)
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().__call__(job)
