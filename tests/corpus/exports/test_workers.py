"""Exports by several processes: the same bytes, progress by the clip, and whatever ends a process in the middle."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mesynth.cli import main
from mesynth.core.errors import ConfigError, RunFolderError
from mesynth.corpus.exports.form import Options
from mesynth.corpus.exports.run import FORMS, export
from mesynth.store import stage
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import LOCK_FILE
from mesynth.store.stage import journal, run_stage
from tests import warm
from tests.builders import tree_bytes
from tests.corpus.exports.corpora import clip_row, make

Exported = Callable[[Manifest, str], Path]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twenty clips: five shards."""
    jobs = [(clip_row(f"c{i}", subject=f"p{i % 3}"), ()) for i in range(20)]
    return run_stage(tmp_path_factory.mktemp("many") / "corpus", jobs, make, config={"test": "many"})


@pytest.mark.slow
def test_one_worker_or_two_same_bytes(mixed: Manifest, exported: Exported, tmp_path: Path) -> None:
    """Of the form that keeps more than a journal beside its shards."""
    seen: list[tuple[int, int]] = []
    export(mixed, "meb", tmp_path / "two", workers=2, progress=lambda done, total: seen.append((done, total)))
    assert tree_bytes(tmp_path / "two") == tree_bytes(exported(mixed, "meb"))
    assert seen == sorted(seen)
    assert seen[-1] == (len(mixed), len(mixed))


@pytest.mark.parametrize("form", list(FORMS))
def test_shards_made_elsewhere_and_in_another_order(
    form: str, mixed: Manifest, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As several processes do it, without starting them: each shard by a form that has travelled, the last first."""

    def elsewhere(task: Any, jobs: Iterable[tuple[Any, ...]], *, report: Callable[[int], object], **_: object) -> None:
        done = 0
        for job in reversed(list(jobs)):
            made, its_job = pickle.loads(pickle.dumps((task, job)))
            *_, clips = made(*its_job)
            report(done := done + clips)

    monkeypatch.setattr(stage, "run_pool", elsewhere)
    monkeypatch.setattr(stage, "WORTH", 0.0)
    export(mixed, form, tmp_path / "out", workers=2)
    assert tree_bytes(tmp_path / "out") == tree_bytes(exported(mixed, form))


@pytest.mark.parametrize("form", list(FORMS))
def test_a_form_travels_without_the_corpus(form: str, mixed: Manifest) -> None:
    """What a worker is sent does not grow with the rows' annotation, and still knows every name."""
    chosen = FORMS[form](mixed, Options())
    there = pickle.loads(pickle.dumps(chosen))
    assert len(there.source) == 0
    assert len(chosen.source) == len(mixed)
    names = [name for name in ("people", "clips") if hasattr(chosen, name)]
    assert all(getattr(there, name) == getattr(chosen, name) for name in names)


def test_numbers_of_workers(samples: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers=-1; give 0"):
        export(samples, "flow-npy", tmp_path / "x", workers=-1)
    args = ["export", str(samples.root), "--to", "flow-npy", "--out", str(tmp_path / "x"), "--workers"]
    assert CliRunner().invoke(main, [*args, "-1"]).exit_code == 2
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- processes that end in the middle


@contextmanager
def _running(source: Manifest, form: str, out: Path, *more: str) -> Iterator[warm.Process]:
    """The verb with two workers in a process group of its own."""
    words = ("tests.corpus.exports.slow_export", str(source.root), form, str(out), "2", *more)
    process = warm.start(*words, cwd=out.parent, PYTHONPATH=str(warm.ROOT))
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def _begun(out: Path) -> Callable[[], object]:
    """Whether a shard is done; four are not."""
    return lambda: list(out.glob("parts/*/manifest.parquet"))


@pytest.mark.slow
def test_a_killed_group_is_taken_up_by_the_same_command(many: Manifest, exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with _running(many, "meb", out) as process:
        _wait_for(_begun(out))
        os.killpg(process.pid, signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in out.glob("parts/*/manifest.parquet")}
    assert 0 < len(done) < 5
    assert not (out / "export.json").exists()
    export(many, "meb", out)
    assert tree_bytes(out) == tree_bytes(exported(many, "meb"))


@pytest.mark.parametrize("form", ["webdataset", "huggingface", "meb"])
@pytest.mark.parametrize("moment", [6, 20])
def test_what_a_kill_leaves_is_taken_up(
    form: str, moment: int, many: Manifest, exported: Exported, tmp_path: Path
) -> None:
    """The folder as it lies on the disk in the second shard, and before the shards become one export."""
    left = tmp_path / "left"

    def copy(done: int, total: int) -> None:
        if done >= moment and not left.exists():
            shutil.copytree(tmp_path / "out", left)

    export(many, form, tmp_path / "out", progress=copy)
    assert not (left / "export.json").exists()
    assert len(list(left.glob("parts/*/manifest.parquet"))) == moment // 4
    export(many, form, left)
    assert tree_bytes(left) == tree_bytes(tmp_path / "out") == tree_bytes(exported(many, form))


def test_a_kill_while_the_journals_are_removed(many: Manifest, exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(many, "frames", out)
    journal(out, 3).parent.mkdir(parents=True)
    journal(out, 3).write_bytes(b"one that was left")
    assert export(many, "frames", out).clips == 20
    assert tree_bytes(out) == tree_bytes(exported(many, "frames"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks /proc for child processes")
def test_workers_end_with_a_parent_that_was_killed(many: Manifest, exported: Exported, tmp_path: Path) -> None:
    """Else they would write on into the folder of the next run."""
    out = tmp_path / "out"
    with _running(many, "frames", out) as process:
        _wait_for(_begun(out))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        process.kill()
        _wait_for(lambda: not any(_alive(pid) for pid in children), 10)
    export(many, "frames", out)
    assert tree_bytes(out) == tree_bytes(exported(many, "frames"))


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True])
def test_an_interrupt_is_one_line(early: bool, many: Manifest, exported: Exported, tmp_path: Path) -> None:
    """As a terminal sends it: to the whole group, also while workers still start."""
    out = tmp_path / "out"
    with _running(many, "webdataset", out) as process:
        _wait_for((out / LOCK_FILE).exists if early else _begun(out))
        os.killpg(process.pid, signal.SIGINT)
        told = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 130
    *before, last = told
    assert all(re.fullmatch(rf"clips: (\d+ of {len(many)}, )?.* so far", line) for line in before), told  # if slow
    assert "interrupted; finished clips stay in" in last
    assert not list(out.rglob("*.tmp"))
    assert not (out / LOCK_FILE).exists()
    export(many, "webdataset", out)
    assert tree_bytes(out) == tree_bytes(exported(many, "webdataset"))


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line(many: Manifest, exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with _running(many, "huggingface", out, "die") as process:
        told = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 2
    *before, last = told
    assert all(re.fullmatch(rf"clips: (\d+ of {len(many)}, )?.* so far", line) for line in before), told  # if slow
    assert "a worker process died" in last
    assert not list(out.rglob("*.tmp"))
    export(many, "huggingface", out)
    assert tree_bytes(out) == tree_bytes(exported(many, "huggingface"))


@pytest.mark.slow
def test_a_second_export_to_the_same_folder_is_refused(many: Manifest, exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with _running(many, "flow-npy", out) as process:
        _wait_for(_begun(out))
        with pytest.raises(RunFolderError, match="is being written by another process"):
            export(many, "flow-npy", out)
        assert process.wait(timeout=60) == 0
    assert tree_bytes(out) == tree_bytes(exported(many, "flow-npy"))
    assert export(many, "flow-npy", out).clips == 20  # finished: nothing to write, nobody to wait for


def test_a_second_export_within_the_first_is_refused(samples: Manifest, tmp_path: Path) -> None:
    refused: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        if not refused:
            with pytest.raises(RunFolderError) as error:
                export(samples, "webdataset", tmp_path / "out")
            refused.append(str(error.value))

    assert export(samples, "webdataset", tmp_path / "out", progress=meanwhile).clips == 8
    assert "is being written" in refused[0]
