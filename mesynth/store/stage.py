"""Work cut into shards: by one process or several, resumable after a kill, the same bytes in every case.

The one engine (:func:`run_shards`) under render, prepare, generate and the exports. Jobs are cut into shards of a fixed
number of clips; a shard's bytes depend on its jobs alone, so one process and many write the same corpus. Each shard
ends with a journal, ``parts/000012/manifest.parquet``, and one that has it is never made twice: the same command
resumes after Ctrl-C or a kill. Nothing appears under its final name half-written, and the folder's last file says that
it is finished.

:func:`run_stage` is that engine for whatever makes clips (:class:`Produced`); its processes are those of
:mod:`mesynth.store.processes`."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mesynth.core.errors import ConfigError, MesynthError, RunFolderError
from mesynth.core.process import part
from mesynth.store import cluster, digests
from mesynth.store.manifest import FILE_NAME, Manifest, Row, write_tables
from mesynth.store.processes import Pool, run_pool
from mesynth.store.run_folder import (
    claim_folder,
    claimed,
    config_hash,
    temporary_beside,
    write_bytes,
    write_listed,
    write_text,
)
from mesynth.store.shards import PICTURES, ShardWriter, frames_members, npy_bytes

# ------------------------------------------------------------------- engine


WORTH = 8.0
"""Seconds of work that must be left for processes to be started: each takes some seconds of a core to import what it
needs. 0: they are started at once, and this process makes nothing itself."""
PARTS = "parts"
"""Folder of the journals."""
ROUNDS = "rounds"
"""Folder of the rounds of a corpus that is made until enough clips are accepted, removed when they are gathered."""
ACCOUNT_FILE = "export.json"
"""The last file of an export, as the manifest is a corpus'."""


class Jobs(Protocol):
    """A list, or anything like one that need not hold all jobs in memory: a manifest, a plan."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, part: slice, /) -> Jobs: ...


class ShardMaker(Protocol):
    """Writes one shard and, last of all, its journal; yields how many of its jobs are done. Picklable."""

    def __call__(self, index: int, n_shards: int, first: int, jobs: Any, /) -> Iterator[int]:
        """``first`` is the number of the first of ``jobs`` among all."""
        ...


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


def journal(out: Path, index: int) -> Path:
    """The file that says that shard ``index`` is done; what else must outlive a kill lies beside it."""
    return out / PARTS / f"{index:06d}" / FILE_NAME


def run_shards(
    out: Path,
    jobs: Jobs,
    make: ShardMaker,
    finish: Callable[[int], object],
    *,
    last: str,
    workers: int = 1,
    shard_clips: int = 0,
    progress: Progress | None = None,
    close: Callable[[], object] | None = None,
    held: bool = False,
    closing: Mapping[str, Any] | None = None,
) -> None:
    """Make every shard of ``jobs`` that the claimed folder ``out`` lacks, then ``finish(n_shards)`` it.

    ``finish`` writes the file ``last`` after everything else: a folder that has it is left as it is. The journals are
    removed then. ``workers=0`` means one process per core; ``shard_clips=0``: see :func:`shard_size`.
    ``progress`` is told what was done before the first clip is made. ``close`` is called in the end in every process
    that made shards (pickled together with ``make``). ``held``: the caller holds ``out``
    (:func:`mesynth.store.cluster.writer`).

    Of several processes inside :func:`mesynth.store.cluster.together` each takes the shards that no other has, all wait
    for the last one, and one of them finishes. ``closing``: what ``finish`` depends on, plain values that lie beside
    the journals for who merges them later (:func:`read_closing`).

    Raises:
        RunFolderError: another process is writing ``out``.
        ShareDone: a fixed share is made and the corpus is not.
        Interrupted: on Ctrl-C.
        ConfigError: fewer than 0 workers.
        MesynthError: whatever ``make`` raised, a worker process died, or a full disk.
    """
    if workers < 0:
        raise ConfigError(f"workers={workers} are no processes; give 1 or more, or 0 for one per core")
    report = progress or (lambda done, total: None)
    total = len(jobs)
    if not (out / last).is_file() or (out / PARTS).exists():
        try:
            with cluster.writer(out, held=held) as member:
                # It may be there now: the writer before ended in this moment, or was killed while it tidied up.
                if unfinished := not (out / last).is_file():
                    size = shard_clips or shard_size(total)
                    if member is None:
                        _run_shards(out, jobs, make, finish, workers, size, report, close)
                    else:
                        kept = None if closing is None else dict(closing) | {"last": last}
                        _run_together(out, jobs, make, finish, workers, size, report, close, last, member, kept)
                shutil.rmtree(out / PARTS, ignore_errors=True)
                if unfinished:
                    return
        except KeyboardInterrupt:  # wherever it comes, also before the first shard and while processes start
            again = "the same command goes on from there"
            raise Interrupted(f"interrupted; finished clips stay in {out}, {again}") from None
    report(total, total)


def _run_shards(
    out: Path,
    jobs: Jobs,
    make: ShardMaker,
    finish: Callable[[int], object],
    workers: int,
    size: int,
    report: Progress,
    close: Callable[[], object] | None,
) -> None:
    (out / PARTS).mkdir(exist_ok=True)
    digests.unseal(out)  # of a run whose last file was removed
    _remove_temporaries(out)  # left by a kill
    total = len(jobs)
    n_shards = -(-total // size)
    todo = [index for index in range(n_shards) if not journal(out, index).is_file()]
    done = total - sum(min(size, total - index * size) for index in todo)
    # Its jobs are cut anew each time, as some keep what they have read.
    shards = ((index, n_shards, index * size, jobs[index * size : (index + 1) * size]) for index in todo)
    workers = min(workers or cluster.default_workers(), max(len(todo), 1))
    report(done, total)
    try:
        with _full_disk(out):
            _make_all(make, shards, workers, done, total, report, out, close)
            finish(n_shards)
    finally:
        _remove_temporaries(out)  # of workers that were stopped
        if close is not None:
            close()


@contextmanager
def _full_disk(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"the disk of {out} is full" if error.errno == errno.ENOSPC else f"the quota of {out} is used up"
            raise MesynthError(f"{what}; make room and run the same command again") from None
        raise


def _make_all(
    make: ShardMaker,
    shards: Iterator[tuple[int, int, int, Jobs]],
    workers: int,
    done: int,
    total: int,
    report: Progress,
    out: Path,
    close: Callable[[], object] | None,
) -> None:
    """Every shard, on Ray, in this process or in several; ``done`` of ``total`` clips were made before."""
    ahead = partial(_beyond, report, done, total)
    if (engine := cluster.engine()) is not None:
        engine.run(partial(_count_shard, make), shards, report=ahead, where=out)
    elif workers > 1 and not WORTH:
        run_pool(make, shards, workers=workers, report=ahead, where=out, close=close)
    else:
        _make_here(make, shards, workers, done, total, report, out, close)


def _count_shard(make: ShardMaker, index: int, n_shards: int, first: int, jobs: Jobs) -> int:
    """Make a shard where a task runs; returns the number of its clips."""
    for _ in make(index, n_shards, first, jobs):
        pass
    return len(jobs)


# ------------------------------------------------------------------- together


def _run_together(
    out: Path,
    jobs: Jobs,
    make: ShardMaker,
    finish: Callable[[int], object],
    workers: int,
    size: int,
    report: Progress,
    close: Callable[[], object] | None,
    last: str,
    member: cluster.Member,
    closing: dict[str, Any] | None,
) -> None:
    """As :func:`_run_shards`, beside others: until the file ``last`` is there, or a fixed share is made."""
    (out / PARTS).mkdir(exist_ok=True)
    total = len(jobs)
    n_shards = -(-total // size)
    if closing is not None and not (out / PARTS / CLOSING).is_file():
        write_text(out / PARTS / CLOSING, json.dumps(closing | {"jobs": total, "shards": n_shards}))
    own = member.share.order(n_shards)
    there: set[int] = set()

    def missing(indices: Iterable[int]) -> list[int]:
        """Those without a journal; one that was there once is not looked for again."""
        for index in indices:
            if index not in there and journal(out, index).is_file():
                there.add(index)
        return [index for index in indices if index not in there]

    def taken() -> Iterator[tuple[int, int, int, Jobs]]:
        for index in own:
            if missing([index]) and member.take(f"{index:06d}"):
                if missing([index]):  # it may have been finished and let go in between
                    yield index, n_shards, index * size, jobs[index * size : (index + 1) * size]
                else:
                    member.drop(f"{index:06d}")

    def clips_of(indices: Iterable[int]) -> int:
        return sum(min(size, total - index * size) for index in indices)

    guarded = partial(_unless_finished, make, out, last)
    whole = range(n_shards)
    try:
        for wait in cluster.waits():
            done = total - clips_of(missing(whole))
            report(done, total)
            most = min(workers or cluster.default_workers(), max(len(missing(own)), 1))
            with _full_disk(out):
                _make_all(guarded, taken(), most, done, total, report, out, close)
            if (out / last).is_file():
                break
            left = missing(whole)
            if not left and member.take("close"):
                _close_together(out, finish, n_shards, last)
                break
            if left and member.share.fixed and not missing(own):
                raise cluster.ShareDone(
                    f"share {member.share.rank}/{member.share.count} of {out} is made; {len(left)} of {n_shards} "
                    f"shards are still missing: the last share closes the folder, or `mesynth merge {out}` does"
                )
            time.sleep(wait)
    finally:
        if close is not None:
            close()


CLOSING = "closing.json"
"""Beside the journals: what is left to do once all are there."""


def read_closing(out: Path) -> dict[str, Any]:
    """What those that write ``out`` together left for who closes it: ``kind``, ``jobs``, ``shards``, ``last``, and
    what the kind's ``finish`` takes.

    Raises:
        RunFolderError: nothing of the kind lies there, or it is damaged.
    """
    file = out / PARTS / CLOSING
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        numbers = record["jobs"], record["shards"]
        if not (isinstance(record["kind"], str) and isinstance(record["last"], str)):
            raise ValueError("its kind is missing")
        if any(type(n) is not int or n < 0 for n in numbers) or numbers[1] > max(numbers[0], 0):
            raise ValueError("its numbers of shards and jobs cannot be")
    except FileNotFoundError:
        raise RunFolderError(
            f"{out} holds no shards that wait to be merged; give a folder that --shard i/N, torchrun or srun has begun"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(f"{file} is damaged ({reason}); run the same command again") from None
    return dict(record)


def merge_shards(out: Path, finish: Callable[[int], object], record: Mapping[str, Any]) -> None:
    """Close a folder whose shards are all there; ``record``: :func:`read_closing` of it.

    Raises:
        RunFolderError: shards are missing, or somebody is writing ``out``.
    """
    n_shards, last = int(record["shards"]), str(record["last"])
    with cluster.writer(out):
        missing = [index for index in range(n_shards) if not journal(out, index).is_file()]
        if missing and not (out / last).is_file():
            few = ", ".join(map(str, missing[:5])) + (" ..." if len(missing) > 5 else "")
            raise RunFolderError(
                f"{len(missing)} of {n_shards} shards of {out} are missing (numbers {few}); run the same command, or "
                f"the share --shard {missing[0]}/{n_shards} of it, again"
            )
        _close_together(out, finish, n_shards, last)
        shutil.rmtree(out / PARTS, ignore_errors=True)


def merge_stage(out: Path, record: Mapping[str, Any]) -> None:
    """:func:`merge_shards` of a folder of :func:`run_stage`; the table of its rows is never in memory as a whole."""
    skipped = [Skipped(str(clip), str(reason)) for clip, reason in record.get("skipped", ())]
    merge_shards(out, partial(_merge, out, claimed(out), skipped, dict(record.get("meta", {}))), record)


def _beyond(report: Progress, done: int, total: int, clips: int) -> None:
    report(min(done + clips, total), total)


def _close_together(out: Path, finish: Callable[[int], object], n_shards: int, last: str) -> None:
    """What one of those that write together does for all, once every shard is there."""
    if (out / last).is_file():
        return
    digests.unseal(out)
    _remove_temporaries(out)  # of those that were killed
    try:
        with _full_disk(out):
            finish(n_shards)
    except (OSError, MesynthError):
        if not (out / last).is_file():  # else this process was taken for dead, and another closed the folder
            raise


def _unless_finished(
    make: ShardMaker, out: Path, last: str, index: int, n_shards: int, first: int, jobs: Jobs
) -> Iterator[int]:
    """``make``, of a process that others may have taken for dead: what they finished meanwhile is left alone."""
    try:
        for done in make(index, n_shards, first, jobs):
            if (out / last).is_file():
                return
            yield done
    except (OSError, MesynthError):
        if not ((out / last).is_file() or journal(out, index).is_file()):
            raise


def _make_here(
    make: ShardMaker,
    shards: Iterator[tuple[Any, ...]],
    workers: int,
    done: int,
    total: int,
    report: Progress,
    out: Path,
    close: Callable[[], object] | None,
) -> None:
    """Make shards in this process; with several ``workers`` it is one of them, and starts the others if that many
    seconds of work are left (:data:`WORTH`) that it pays. Who waits for a shard is given one between two clips."""
    mine, first, since, free = 0, 0, 0.0, workers > 1
    with Pool(make, close, out) if free else nullcontext() as pool, _one_thread() if free else nullcontext():
        for shard in shards:
            before = mine
            for finished in make(*shard):
                mine, now = before + finished, time.monotonic()
                if pool is None:
                    report(done + mine, total)
                    continue
                if not first:
                    first, since = mine, now  # the first clip loads and compiles
                elif pool.is_started:
                    pool.serve(shards, 0)
                elif (total - done - mine) * (now - since) > WORTH * (mine - first):
                    pool.start(workers - 1)
                report(done + mine + pool.done, total)
        if pool is not None and pool.is_started:
            pool.run(shards, lambda clips: report(done + mine + clips, total))


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in the processes beside this one: they are the parallelism."""
    import cv2
    from threadpoolctl import threadpool_limits

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)


def _remove_temporaries(out: Path) -> None:
    for temporary in out.rglob("*.tmp"):
        if cluster.TOGETHER in temporary.parts:  # a lease that is being taken
            continue
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Cost:
    """What making clips takes, measured on a few: seconds and bytes a clip, and seconds until a process makes them."""

    measured: int
    seconds: float
    bytes: float
    start: float

    def text(self, clips: int, what: str = "clips") -> str:
        """Bytes and time of so many, with one process, with this machine's, and with more of the same speed.

        >>> print(Cost(3, 0.36, 2.05e6, 4).text(100_000))
        measured on 3 with one process: 0.36 s and 2.0 MB a clip, 4 s to start; 100,000 clips: 205.0 GB, 10.0 h...
        """
        shards = -(-clips // shard_size(clips))
        each = []
        for n in dict.fromkeys((1, os.cpu_count() or 1, 8, 64, 512)):
            hours = (self.start + self.seconds * clips / min(n, shards)) / 3600
            each.append(f"{_time(hours)} with {n}" if n > 1 else f"{_time(hours)} with one process")
            if n >= shards:
                break
        return (
            f"measured on {self.measured} with one process: {self.seconds:.2g} s and {_size(self.bytes)} a clip, "
            f"{self.start:.0f} s to start; {clips:,} {what}: {_size(self.bytes * clips)}, "
            f"{', '.join(each)} of its speed"
        )


def _size(n: float) -> str:
    unit = next((u for u in ("B", "kB", "MB", "GB", "TB") if n < 1000 ** (1 + _UNITS.index(u))), "PB")
    return f"{n / 1000 ** _UNITS.index(unit):.1f} {unit}"


_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def _time(hours: float) -> str:
    return (
        f"{hours:.1f} h"
        if hours >= 0.95
        else f"{60 * hours:.1f} min"
        if hours * 60 >= 0.95
        else f"{3600 * hours:.0f} s"
    )


# ------------------------------------------------------------------- stage


SKIPPED_FILE = "skipped.csv"
NOTES_FILE = "notes.jsonl"


@dataclass(frozen=True)
class Produced:
    """What a worker returns for one job: the row (spans still empty) and the arrays to store."""

    row: Row
    frames: np.ndarray | None = None
    """[T,H,W,3] uint8"""
    pictures: str = PICTURES[0]
    """How the frames are stored, of :data:`mesynth.store.shards.PICTURES`."""
    members: Callable[[], dict[str, bytes]] | None = None
    """The frames' files, where they are being made already (:func:`mesynth.store.videos.begun`)."""
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
    held: bool = False,
    meta: dict[str, str] | None = None,
) -> Manifest:
    """Run ``worker`` over ``jobs`` and return the manifest written into ``out``.

    ``worker`` is a picklable callable; its ``close()``, if it has one, is called in the end. ``config`` is what
    the result depends on (never paths of the machine or the number of processes). ``workers=0`` means one per
    core. ``shard_clips=0``: see :func:`shard_size`. ``skipped``: what was left out before, listed first in
    ``skipped.csv``. ``held``: as in :func:`run_shards`. ``meta``: metadata of the manifest, which ``config`` decides.

    Raises:
        RunFolderError: see :func:`mesynth.store.run_folder.claim_folder`; or another process is writing ``out``.
        Interrupted: on Ctrl-C.
        MesynthError: whatever a worker raised, or a full disk.
    """
    claim_folder(out, config)
    run = config_hash(config)
    run_shards(
        out, jobs, partial(_make_shard, worker, out, run), partial(_merge, out, run, skipped, meta or {}),
        last=FILE_NAME, workers=workers, shard_clips=shard_clips, progress=progress, close=partial(_close, worker),
        held=held,
        closing={
            "kind": "stage", "stage": str(config.get("stage", "")), "meta": meta or {},
            "skipped": [[entry.clip_id, entry.reason] for entry in skipped],
        },
    )  # fmt: skip
    return Manifest.read(out)


def _close(worker: Worker) -> None:
    """Let go of what a worker holds (a face detector's native threads hang if left to the garbage collector)."""
    close = getattr(worker, "close", None)
    if close is not None:
        close()


_PART = "mesynth.part"
"""In a journal's metadata: of which run it is, and which shard."""


def _make_shard(
    worker: Worker, out: Path, run: str, index: int, n_shards: int, first: int, jobs: Jobs
) -> Iterator[int]:
    """A :class:`ShardMaker`: the journal is the manifest of the shard's clips. ``run``: the hash of ``out``'s claim."""
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
        folder = journal(out, index).parent
        written = {SKIPPED_FILE: skipped_csv(skipped), NOTES_FILE: "".join(json.dumps(note) + "\n" for note in notes)}
        write_listed(folder, {name: text.encode() for name, text in written.items()})
        replace(Manifest.from_rows(rows, out), meta={_PART: f"{run} {index}"}).write(folder)


def _store(out: Path, key: str, made: Produced, frames: ShardWriter, flow: ShardWriter) -> Row:
    row = made.row
    arrays = {"flow.npy": made.flow, "landmarks.npy": made.landmarks, "valid.npy": made.valid}
    arrays |= {f"{name}.npy": array for name, array in made.extra.items()}
    with part("encode"):
        pictures = None
        if made.frames is not None:
            members = made.members or partial(frames_members, made.frames, made.pictures, row.apex_index)
            pictures = members()
        present = {name: npy_bytes(array) for name, array in arrays.items() if array is not None}
    with part("write"):
        if pictures is not None:
            row = replace(row, frames=frames.add(key, pictures))
        if present:
            row = replace(row, flow=flow.add(key, present))
        for name, data in made.files.items():
            write_bytes(out / name, data)
    return row


def _merge(out: Path, run: str, skipped: Sequence[Skipped], meta: dict[str, str], n_shards: int) -> None:
    """The journals become one manifest, one in memory at a time; it is written last.

    Raises:
        RunFolderError: a journal is of another run or another shard: somebody has copied it here.
    """
    folders = [journal(out, index).parent for index in range(n_shards)]
    left = [*skipped, *(entry for folder in folders for entry in read_skipped(folder))]
    if left:
        write_text(out / SKIPPED_FILE, skipped_csv(left))
    _merge_notes(out / NOTES_FILE, folders)
    for tar in out.glob("*.tar"):  # a stage that stores no frames (or no flow) leaves no empty tars
        if tar.stat().st_size <= 1024:
            tar.unlink()
    reading = iter([True])  # the first of the two times that they are read: what holds of the files holds of both
    write_tables(out, lambda: _part_tables(folders, run, next(reading, False)), meta, finishes=[PARTS])


def _part_tables(folders: Sequence[Path], run: str, checked: bool = True) -> Iterator[Any]:
    """The tables of the parts; with ``checked`` each is what was written, and in the end every clip_id has occurred
    once."""
    ids = array("Q")  # 8 bytes a clip, so that ten million take less than their names
    for index, folder in enumerate(folders):
        part = Manifest.read(folder, checked=checked)
        if part.meta.get(_PART, f"{run} {index}") != f"{run} {index}":
            raise RunFolderError(
                f"{folder} is a shard of another run, or another shard of this one; remove it and run the same "
                "command again"
            )
        table = part.table
        if checked:
            ids.extend(_short(clip) for clip in table["clip_id"].to_pylist())
        yield table
    made = np.sort(np.frombuffer(ids, np.uint64))
    assert not (made[1:] == made[:-1]).any(), "two jobs of a stage made the same clip_id"


def _short(clip: str) -> int:
    """Two of ten million different names have the same with a chance of 3 in a million."""
    return int.from_bytes(hashlib.blake2b(clip.encode(), digest_size=8).digest(), "little")


def _merge_notes(file: Path, folders: Sequence[Path]) -> None:
    temporary = temporary_beside(file)
    with temporary.open("wb") as notes:
        for folder in folders:
            digests.check(folder, [NOTES_FILE])
            notes.write((folder / NOTES_FILE).read_bytes())
    if temporary.stat().st_size:
        os.replace(temporary, file)
    else:
        temporary.unlink()


def read_skipped(out: Path | str) -> list[Skipped]:
    """The clips a finished stage left out, in the order of its jobs."""
    digests.check(Path(out), [SKIPPED_FILE])
    return _read_csv(Path(out) / SKIPPED_FILE)


def read_notes(out: Path | str) -> list[dict[str, Any]]:
    """What a finished stage noted, a mapping per clip that has notes."""
    file = Path(out) / NOTES_FILE
    if not file.is_file():
        return []
    digests.check(Path(out), [NOTES_FILE])
    try:
        notes = [json.loads(line) for line in file.read_text().splitlines()]
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{file} is damaged ({error}); make the corpus anew") from None
    if any(not isinstance(note, dict) for note in notes):
        raise RunFolderError(f"{file} is damaged; make the corpus anew")
    return notes


def skipped_csv(skipped: Iterable[Skipped]) -> str:
    """``skipped.csv``: a header, and a line each."""
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
