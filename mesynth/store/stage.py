"""Shards by several processes: a few shards on their way at a time, progress by the clip.

The one engine under render, prepare and generate: jobs in, shards and a manifest out.

A stage's jobs are cut into shards of a fixed number of clips. A shard's bytes depend on its jobs
alone, so one process and many write the same corpus; a finished shard is never made twice, so the
same command resumes after Ctrl-C or a kill; nothing appears under its final name half-written."""

from __future__ import annotations

import csv
import errno
import io
import json
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.core.process import part
from mesynth.store.manifest import FILE_NAME, Manifest, Row, write_tables
from mesynth.store.run_folder import claim_folder, only_writer, write_bytes, write_text
from mesynth.store.shards import ShardWriter, frames_members, npy_bytes

Task = Callable[..., Iterable[int]]
"""Makes one shard; yields how many of its clips are done. Picklable."""

_task: Task | None = None
_counter: Any = None


def run_pool(
    task: Task,
    jobs: Iterable[tuple[Any, ...]],
    *,
    workers: int,
    report: Callable[[int], object],
    where: object,
    close: Callable[[], object] | None = None,
) -> None:
    """Run ``task(*job)`` over ``jobs``. A job is taken (and held) no earlier than a worker is nearly free for it.

    ``report`` is told the number of clips done; ``where`` names the folder in errors; ``close`` is called in each
    worker in the end (pickled together with ``task``, so both may hold one object).

    Raises:
        MesynthError: whatever a task raised, or a worker process died.
    """
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    # One thread per worker: the processes are the parallelism. Children read this at import time.
    saved = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    os.environ.update(dict.fromkeys(saved, "1"))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=((task, close), counter))
    pending: set[Future[None]] = set()
    try:
        for job in jobs:
            with _no_interrupt():
                pending.add(pool.submit(_run_job, job))
            while len(pending) >= 2 * workers:
                pending = _collect(pending)
                report(counter.value)
        while pending:
            pending = _collect(pending)
            report(counter.value)
    except BrokenProcessPool:
        raise MesynthError(
            f"a worker process died (out of memory, or killed); finished clips stay in {where}, go on with --workers 1"
        ) from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in saved.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _collect(pending: set[Future[None]]) -> set[Future[None]]:
    finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
    for future in finished:
        future.result()
    return pending


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until a process is started and known.

    A process that starts here inherits the mask, and stays silent before it can ask for it itself. The mask alone does
    not keep this thread: a signal goes to any thread without it, and Python then interrupts this one.
    """
    pressed = []
    here = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(True)) if here else None
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if here:
            signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)
    if pressed:
        raise KeyboardInterrupt


# ---------------------------------------------------------------- in a worker


def _start(work: tuple[Task, Callable[[], object] | None], counter: Any) -> None:
    global _task, _counter
    task, close = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)
    _task, _counter = task, counter
    if close is not None:
        multiprocessing.util.Finalize(None, close, exitpriority=10)  # atexit does not run in children


def _end_with_parent() -> None:
    """A worker whose parent was killed must not write on: the folder is the next run's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_job(job: tuple[Any, ...]) -> None:
    assert _task is not None
    told = 0
    for done in _task(*job):
        with _counter.get_lock():
            _counter.value += done - told
        told = done


# ------------------------------------------------------------------- stage


SKIPPED_FILE = "skipped.csv"
NOTES_FILE = "notes.jsonl"
_PARTS = "parts"


@dataclass(frozen=True)
class Produced:
    """What a worker returns for one job: the row (spans still empty) and the arrays to store."""

    row: Row
    frames: np.ndarray | None = None
    """[T,H,W,3] uint8"""
    flow: np.ndarray | None = None
    """[2,H,W] float32"""
    landmarks: np.ndarray | None = None
    """[68,2] float32"""
    valid: np.ndarray | None = None
    """[H,W] bool"""
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    """Further arrays by name, stored beside the flow (see :func:`mesynth.store.shards.read_extra`)."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What was measured while making the clip; one line of ``notes.jsonl``."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Loose files for people to look at (GIFs, pictures), relative to the output folder."""


@dataclass(frozen=True)
class Skipped:
    """What a worker returns for a job it leaves out, or what was left out before; a line of ``skipped.csv``."""

    clip_id: str
    reason: str


Worker = Callable[[Any], Produced | Skipped]


class Jobs(Protocol):
    """A list, or anything like one that need not hold all jobs in memory: a manifest, a plan."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, part: slice, /) -> Jobs: ...


Progress = Callable[[int, int], None]


class Interrupted(MesynthError):
    """Ctrl-C: what is finished stays, the same command goes on."""


def shard_size(n_jobs: int) -> int:
    """Clips per shard: enough shards to share among processes, few enough files in a large corpus.

    Depends on the number of jobs alone, never on the number of processes.

    >>> [shard_size(n) for n in (10, 100, 1000, 100_000)]
    [4, 6, 62, 256]
    """
    return int(np.clip(n_jobs // 16, 4, 256))


def run_stage(
    out: Path,
    jobs: Jobs,
    worker: Worker,
    *,
    config: dict[str, Any],
    workers: int = 1,
    shard_clips: int = 0,
    skipped: Sequence[Skipped] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Run ``worker`` over ``jobs`` and return the manifest written into ``out``.

    ``worker`` is a picklable callable; its ``close()``, if it has one, is called in the end. ``config`` is what
    the result depends on (never paths of the machine or the number of processes). ``workers=0`` means one per
    core. ``shard_clips=0``: see :func:`shard_size`. ``skipped``: what was left out before, listed first in
    ``skipped.csv``.

    Raises:
        RunFolderError: see :func:`mesynth.store.run_folder.claim_folder`; or another process is writing ``out``.
        Interrupted: on Ctrl-C.
        MesynthError: whatever a worker raised, or a full disk.
    """
    claim_folder(out, config)
    if (out / FILE_NAME).is_file():
        if progress:
            progress(len(jobs), len(jobs))
        return Manifest.read(out)
    with only_writer(out):
        return _run(out, jobs, worker, workers, shard_clips, skipped, progress)


def _run(
    out: Path,
    jobs: Jobs,
    worker: Worker,
    workers: int,
    shard_clips: int,
    skipped: Sequence[Skipped],
    progress: Progress | None,
) -> Manifest:
    (out / _PARTS).mkdir(exist_ok=True)
    _remove_temporaries(out)  # left by a kill
    shard_clips = shard_clips or shard_size(len(jobs))
    n_shards = -(-len(jobs) // shard_clips)
    todo = [i for i in range(n_shards) if not _part(out, i).is_file()]
    done = len(jobs) - sum(min(shard_clips, len(jobs) - i * shard_clips) for i in todo)

    def chunk(index: int) -> tuple[int, Jobs]:
        """Its first job's number, and its jobs: cut anew each time, as some keep what they have read."""
        first = index * shard_clips
        return first, jobs[first : first + shard_clips]

    workers = min(workers or os.cpu_count() or 1, max(len(todo), 1))
    try:
        if workers == 1:
            for i in todo:
                first, part_jobs = chunk(i)
                for finished in _make_shard(out, i, first, part_jobs, worker):
                    if progress:
                        progress(done + finished, len(jobs))
                done += len(part_jobs)
        else:
            report = progress or (lambda done, total: None)
            run_pool(
                partial(_shard_task, worker, out), ((i, *chunk(i)) for i in todo), workers=workers,
                report=lambda clips: report(done + clips, len(jobs)), where=out, close=partial(_close, worker),
            )  # fmt: skip
        return _merge(out, n_shards, skipped)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; finished clips stay in {out}, the same command goes on from there") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise MesynthError(f"the disk of {out} is full; make room and run the same command again") from None
        raise
    finally:
        _remove_temporaries(out)  # of workers that were stopped
        _close(worker)


def _close(worker: Worker) -> None:
    """Let go of what a worker holds (a face detector's native threads hang if left to the garbage collector)."""
    close = getattr(worker, "close", None)
    if close is not None:
        close()


def _remove_temporaries(out: Path) -> None:
    for temporary in out.rglob("*.tmp"):
        temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------- one shard


def _part(out: Path, index: int) -> Path:
    return out / _PARTS / f"{index:06d}" / FILE_NAME


def _make_shard(out: Path, index: int, first: int, jobs: Jobs, worker: Worker) -> Iterator[int]:
    """Write shard ``index``; yields how many of its jobs are done. The part's manifest is written last."""
    rows: list[Row] = []
    skipped: list[Skipped] = []
    notes: list[dict[str, Any]] = []
    with ShardWriter(out / f"frames-{index:06d}.tar") as frames, ShardWriter(out / f"flow-{index:06d}.tar") as flow:
        for n, job in enumerate(jobs):
            made = worker(job)
            if isinstance(made, Skipped):
                skipped.append(made)
            else:
                rows.append(_store(out, f"{first + n:08d}", made, frames, flow))
                if made.notes:
                    notes.append({"clip_id": made.row.clip_id} | made.notes)
            yield n + 1
    with part("write"):
        folder = _part(out, index).parent
        write_text(folder / SKIPPED_FILE, _csv(skipped))
        write_text(folder / NOTES_FILE, "".join(json.dumps(note) + "\n" for note in notes))
        Manifest.from_rows(rows, out).write(folder)


def _shard_task(worker: Worker, out: Path, index: int, first: int, jobs: Jobs) -> Iterator[int]:
    """:func:`_make_shard` as :func:`mesynth.store.stage.run_pool` takes it."""
    yield from _make_shard(out, index, first, jobs, worker)


def _store(out: Path, key: str, made: Produced, frames: ShardWriter, flow: ShardWriter) -> Row:
    row = made.row
    arrays = {"flow.npy": made.flow, "landmarks.npy": made.landmarks, "valid.npy": made.valid}
    arrays |= {f"{name}.npy": array for name, array in made.extra.items()}
    with part("encode"):
        pictures = None if made.frames is None else frames_members(made.frames)
        present = {name: npy_bytes(array) for name, array in arrays.items() if array is not None}
    with part("write"):
        if pictures is not None:
            row = replace(row, frames=frames.add(key, pictures))
        if present:
            row = replace(row, flow=flow.add(key, present))
        for name, data in made.files.items():
            write_bytes(out / name, data)
    return row


def _merge(out: Path, n_chunks: int, skipped: Sequence[Skipped]) -> Manifest:
    """The parts become one, a part in memory at a time; the manifest is written last."""
    folders = [_part(out, i).parent for i in range(n_chunks)]
    left = [*skipped, *(entry for folder in folders for entry in _read_csv(folder / SKIPPED_FILE))]
    if left:
        write_text(out / SKIPPED_FILE, _csv(left))
    _merge_notes(out / NOTES_FILE, folders)
    write_tables(out, partial(_part_tables, folders), {})
    shutil.rmtree(out / _PARTS)
    for tar in out.glob("*.tar"):  # a stage that stores no frames (or no flow) leaves no empty tars
        if tar.stat().st_size <= 1024:
            tar.unlink()
    return Manifest.read(out)


def _part_tables(folders: Sequence[Path]) -> Iterator[Any]:
    """The tables of the parts; in the end every clip_id has occurred once."""
    import pyarrow as pa

    ids = []
    for folder in folders:
        table = Manifest.read(folder).table
        ids += table["clip_id"].chunks
        yield table
    made = pa.chunked_array(ids, pa.string())
    assert len(made.unique()) == len(made), "two jobs of a stage made the same clip_id"


def _merge_notes(file: Path, folders: Sequence[Path]) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as notes:
        for folder in folders:
            notes.write((folder / NOTES_FILE).read_bytes())
    if temporary.stat().st_size:
        os.replace(temporary, file)
    else:
        temporary.unlink()


def read_skipped(out: Path | str) -> list[Skipped]:
    """The clips a finished stage left out, in the order of its jobs."""
    return _read_csv(Path(out) / SKIPPED_FILE)


def read_notes(out: Path | str) -> list[dict[str, Any]]:
    """What a finished stage noted, a mapping per clip that has notes."""
    file = Path(out) / NOTES_FILE
    if not file.is_file():
        return []
    try:
        notes = [json.loads(line) for line in file.read_text().splitlines()]
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{file} is damaged ({error}); make the corpus anew") from None
    if any(not isinstance(note, dict) for note in notes):
        raise RunFolderError(f"{file} is damaged; make the corpus anew")
    return notes


def _csv(skipped: Sequence[Skipped]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["clip_id", "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in skipped)
    return buffer.getvalue()


def _read_csv(file: Path) -> list[Skipped]:
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            lines = list(csv.reader(handle, strict=True))
    except (ValueError, csv.Error) as error:
        raise RunFolderError(f"{file} is damaged ({error}); make the corpus anew") from None
    if lines[:1] != [["clip_id", "reason"]] or any(len(line) != 2 for line in lines):
        raise RunFolderError(f"{file} is damaged: a line has not its two columns; make the corpus anew")
    return [Skipped(clip, reason) for clip, reason in lines[1:]]
