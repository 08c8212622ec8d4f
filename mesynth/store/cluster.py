"""Several processes, on one machine or many, that write one folder together.

Every process of `torchrun`, `accelerate launch` or `srun`, and every `--shard i/N` of an array, runs the same command.
Shards are taken in plan order, each process its own first, by leases: small files in ``.writing-together`` of the
folder. Nobody waits for a rendezvous. A shard's bytes depend on its jobs alone and appear whole, so a lease only saves
work: should two processes ever make the same shard, they write the same bytes, and no clock can harm a corpus.

A process that takes part keeps one file there fresh (its heartbeat). It counts as gone when that file has not been
touched for :func:`patience` seconds, or at once where its machine is this one and has no such process any more. Ages
are differences of times that the file system gave to two files; no clock of one machine is compared with another's.

:func:`together` says that this process takes part, :func:`writer` holds a folder (alone, or with the others), and
:meth:`Member.take` is the lease. The engine is :func:`mesynth.store.stage.run_shards`; on Ray its shards are tasks
(:class:`mesynth.store.schedulers.RayEngine`). There is no scheduler here.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mesynth.core.errors import ConfigError, MesynthError, RunFolderError
from mesynth.core.process import launched
from mesynth.store.run_folder import LOCK_FILE, file_lock, give_up, only_writer, temporary_beside
from mesynth.store.schedulers import RayEngine

TOGETHER = LOCK_FILE + "-together"
"""Folder of the leases and heartbeats inside the folder that is written; no digest list has it, and it goes in the
end."""
_PATIENCE = "MESYNTH_LEASE_SECONDS"
_POLL = 0.05, 2.0


def patience() -> float:
    """Seconds after which a silent process counts as gone ($MESYNTH_LEASE_SECONDS, 60). Raises ConfigError.

    More than the minute for which a network file system may remember a file's time would be needed only if work done
    twice did harm.
    """
    text = os.environ.get(_PATIENCE, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86400:
        raise ConfigError(f"{_PATIENCE}={text} is no number of seconds from 1 to 86400; unset it for the usual 60")
    return seconds


# ------------------------------------------------------------------- who takes part


@dataclass(frozen=True)
class Share:
    """This process among those that write together: the ``rank``-th of ``count``, counted from 0.

    ``fixed``: it makes its own shards and no others (``--shard``); else it goes on with whatever is free.

    >>> Share(1, 3).order(7)
    [1, 4, 0, 2, 3, 5, 6]
    >>> Share(1, 3, fixed=True).order(7)
    [1, 4]
    """

    rank: int = 0
    count: int = 1
    fixed: bool = False

    @classmethod
    def parse(cls, text: str) -> Share:
        """``i/N``. Raises ConfigError.

        >>> Share.parse("2/8")
        Share(rank=2, count=8, fixed=True)
        """
        first, slash, second = text.partition("/")
        if not (slash and first.strip().isdecimal() and second.strip().isdecimal()):
            raise ConfigError(f"--shard '{text}' is no share; write i/N, for example --shard 0/8")
        rank, count = int(first), int(second)
        if count < 1 or rank >= count:
            shown = f"i counts from 0 to {count - 1} (sbatch --array=0-{count - 1})" if count else "N is at least 1"
            raise ConfigError(f"--shard {text} is out of range; {shown}")
        return cls(rank, count, True)

    def order(self, n: int) -> list[int]:
        """Which of ``n`` shards to take, in this order."""
        own = list(range(self.rank, n, self.count))
        return own if self.fixed else own + [i for i in range(n) if i % self.count != self.rank]


class ShareDone(MesynthError):
    """This share's shards are there, others' are not yet: the corpus is not closed."""


def launcher_share(environment: Mapping[str, str] | None = None) -> Share | None:
    """What torchrun, accelerate launch, MPI or srun say that this process is; None for one process.

    Raises:
        ConfigError: the launcher contradicts itself.

    >>> launcher_share({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"})
    Share(rank=2, count=4, fixed=False)
    >>> launcher_share({"RANK": "0", "WORLD_SIZE": "1"}) is None
    True
    """
    given = os.environ if environment is None else environment
    rank, count = launched(given)
    tasks, number = given.get("SLURM_STEP_NUM_TASKS") or given.get("SLURM_NTASKS", ""), given.get("SLURM_PROCID", "")
    if count == 1 and tasks and number:
        if not (tasks.isdecimal() and number.isdecimal() and int(number) < max(int(tasks), 1)):
            raise ConfigError(f"SLURM says SLURM_PROCID={number} of SLURM_NTASKS={tasks}; start the ranks with srun")
        rank, count = int(number), max(int(tasks), 1)
    return Share(rank, count) if count > 1 else None


_share: ContextVar[Share | None] = ContextVar("share", default=None)
_members: ContextVar[Mapping[str, Member]] = ContextVar("members", default={})  # noqa: B039 - never changed in place
_engine: ContextVar[RayEngine | None] = ContextVar("engine", default=None)


@contextmanager
def together(shard: str = "", engine: RayEngine | None = None) -> Iterator[Share | None]:
    """In this block folders are written together with the processes that a launcher, or ``shard`` (``i/N``), names.

    Yields this process's share; None for a process alone, whose folders are its own. ``engine``: where shards are made.

    Raises:
        ConfigError: no such share, a launcher that contradicts itself, or shares on Ray, which needs one process.

    >>> import mesynth, tempfile
    >>> out = tempfile.mkdtemp() + "/flow"
    >>> for share in ("0/2", "1/2"):  # in two processes, at any time
    ...     with together(share):
    ...         try:
    ...             print(len(mesynth.generate(kind="flow", emotion="surprise", count=8, out=out)))
    ...         except ShareDone:
    ...             print("the other one closes the corpus")
    the other one closes the corpus
    8
    """
    found = Share.parse(shard) if shard else _share.get() or (launcher_share() if engine is None else None)
    if engine is not None:
        _require_no_ranks()
        if found is not None:
            raise ConfigError("--engine ray shares the work itself; start one process, without --shard")
    patience()
    before, engine_before = _share.set(found), _engine.set(engine or _engine.get())
    _has_shared.set(False)
    try:
        yield found
    finally:
        _share.reset(before)
        _engine.reset(engine_before)


_has_shared: ContextVar[bool] = ContextVar("has_shared", default=False)


@contextmanager
def on_engine(chosen: RayEngine | None) -> Iterator[None]:
    """In this block parts of the work are tasks of ``chosen``; None: as before.

    Raises:
        ConfigError: under a launcher, whose processes share the work already.
    """
    if chosen is not None:
        _require_no_ranks()
    token = _engine.set(chosen or _engine.get())
    try:
        yield
    finally:
        _engine.reset(token)


def _require_no_ranks() -> None:
    """Of SLURM there may be: Ray's nodes are started in an allocation of many tasks, and the command by one of them."""
    if launched()[1] > 1:
        raise ConfigError("--engine ray shares the work itself; start one process, without a launcher")


def has_shared() -> bool:
    """Whether this process has taken part in a folder since :func:`together`."""
    return _has_shared.get()


def speaks() -> bool:
    """Whether this process is the one that tells the user: the first, or one with a share and a log of its own."""
    share = _share.get()
    return share is None or share.fixed or share.rank == 0


@contextmanager
def unfixed() -> Iterator[None]:
    """In this block a fixed share takes whatever is free, and waits for the rest: what comes before the shards."""
    share = _share.get()
    token = _share.set(None if share is None else replace(share, fixed=False))
    try:
        yield
    finally:
        _share.reset(token)


def default_workers(environment: Mapping[str, str] | None = None) -> int:
    """Processes of one per core: of the cores that this process may use, those that no other rank here uses."""
    given = os.environ if environment is None else environment
    if (own := given.get("SLURM_CPUS_PER_TASK", "")).isdecimal():
        return max(int(own), 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _share.get()
    if share is None or share.fixed or given.get("SLURM_PROCID"):  # SLURM gives a task its cores
        return cores
    here = given.get("LOCAL_WORLD_SIZE", "")
    return max(cores // (int(here) if here.isdecimal() and int(here) else share.count), 1)


# ------------------------------------------------------------------- leases


def _machine() -> str:
    """Names the machine, and on Linux the container, whose process numbers this process sees."""
    with suppress(OSError):
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def _born(pid: int) -> str:
    """When a process of this machine began, in a unit of its own: a number that is given again is told apart.

    "gone" for one that has ended and was not waited for yet; "" where it is not known.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "gone" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _runs(pid: int, born: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    now = _born(pid)
    return now in ("", born) or (not born and now != "gone")


class Member:
    """A process that writes ``out`` together with others: its heartbeat, and the leases that it holds."""

    def __init__(self, out: Path, share: Share) -> None:
        self.out, self.share = out, share
        self.folder = out / TOGETHER
        self.name = f"{platform.node()[:80]}-{os.getpid()}-{os.urandom(6).hex()}".replace("/", "_")
        self._file = self.folder / "members" / self.name
        self._patience = patience()
        self._held: set[str] = set()
        self._left = threading.Event()
        self._known: dict[str, dict[str, Any]] = {}
        self._beats = threading.Thread(target=self._keep_fresh, name="heartbeat", daemon=True)

    def enter(self) -> None:
        """Say that this process is here, from now on."""
        self._tell()
        self._beats.start()

    def leave(self) -> None:
        """Let go of every lease and be gone; the last one to leave takes the folder of leases with it."""
        self._left.set()
        for name in list(self._held):
            self.drop(name)
        self._file.unlink(missing_ok=True)
        # Asked once this one is gone: of those that leave together the last sees nobody.
        if next(_present(self.out), None) is None:
            shutil.rmtree(self.folder, ignore_errors=True)  # what killed ones left goes, too

    def _tell(self) -> None:
        pid = os.getpid()
        record = {
            "machine": _machine(), "pid": pid, "born": _born(pid), "rank": self.share.rank, "of": self.share.count,
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }  # fmt: skip
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(record))

    def _keep_fresh(self) -> None:
        while not self._left.wait(self._patience / 6):
            self._beat()

    def _beat(self) -> None:
        try:
            os.utime(self._file)  # the file server's time
        except FileNotFoundError:
            if not self._left.is_set():
                with suppress(OSError):
                    self._tell()
        except OSError:  # a disk that is away for a moment
            pass

    def take(self, name: str) -> bool:
        """Take the lease ``name`` if it is free or its holder is gone; True where it is this process's."""
        lease = self.folder / "leases" / name
        for _ in range(20):
            try:
                if _create(lease, self.name):
                    self._held.add(name)
                    return True
                holder = _holder(lease)
            except FileNotFoundError:  # let go in this moment
                continue
            if holder == self.name:
                return True
            if self.alive(holder):
                return False
            grave = temporary_beside(lease)
            try:
                os.rename(lease, grave)
                if _holder(grave) != holder:  # another was faster, and this is its lease
                    with suppress(OSError):
                        os.link(grave, lease)
                    return False
            except FileNotFoundError:
                continue
            finally:
                grave.unlink(missing_ok=True)
        return False

    def drop(self, name: str) -> None:
        """Let go of a lease, if it still is this process's."""
        self._held.discard(name)
        lease = self.folder / "leases" / name
        with suppress(OSError):
            if _holder(lease) == self.name:
                lease.unlink()

    def alive(self, name: str) -> bool:
        """Whether a process that takes part, or took part, is there still."""
        return _alive(self.folder / "members", name, self._patience, self._fresh, self._known)

    def _fresh(self) -> float:
        """The file system's time."""
        self._beat()
        return self._file.stat().st_mtime

    def once(self, name: str, done: Callable[[], bool]) -> bool:
        """Whether this process is to do what is done once: False as soon as another has, True where nobody does."""
        for wait in waits():
            if done():
                return False
            if self.take(name):
                if not done():
                    return True
                self.drop(name)
                return False
            time.sleep(wait)
        raise AssertionError


def waits() -> Iterator[float]:
    """Seconds between two looks, longer and longer, apart from those of others."""
    wait, longest = _POLL
    while True:
        yield wait * random.uniform(0.7, 1.3)
        wait = min(1.5 * wait, longest)


def _create(lease: Path, text: str) -> bool:
    """Make a whole file unless there is one."""
    lease.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(lease)
    try:
        temporary.write_text(text)
        os.link(temporary, lease)
        return True
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system, or the folder went in this moment
        try:
            with open(lease, "x") as file:
                file.write(text)
            return True
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)


def _holder(lease: Path) -> str:
    """Whose a lease is; one that a machine left damaged when it went down is nobody's. Raises FileNotFoundError."""
    return lease.read_text(encoding="utf-8", errors="replace")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.endswith(".tmp"))
    except OSError:
        return []


def _alive(
    folder: Path, name: str, patience: float, now: Callable[[], float], known: dict[str, dict[str, Any]]
) -> bool:
    if "\0" in name or "/" in name:  # no name of ours: zeros that a crash left in a lease
        return False
    file = folder / name
    try:
        if name not in known:
            known[name] = json.loads(file.read_text())
        record, beaten = known[name], file.stat().st_mtime
        if record["machine"] == _machine() and not _runs(int(record["pid"]), str(record["born"])):
            return False
        return now() - beaten <= patience
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, LookupError, TypeError):  # being written in this moment, or damaged: by its age alone
        with suppress(OSError):
            return now() - file.stat().st_mtime <= patience
        return False


def _present(out: Path) -> Iterator[str]:
    """Who writes ``out`` together just now, asked by a process that does not, or does no more."""
    members = out / TOGETHER / "members"

    def now() -> float:
        probe = temporary_beside(members / "now")
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    return (name for name in _names(members) if _alive(members, name, patience(), now, {}))


# ------------------------------------------------------------------- a folder


@contextmanager
def writer(out: Path, *, held: bool = False) -> Iterator[Member | None]:
    """Hold ``out`` for this process (:func:`mesynth.store.run_folder.only_writer`; then None), or for those that write
    it together (then the member that this process is). Whoever is inside already stays it. ``held``: the caller holds
    the folder.

    Raises:
        RunFolderError: another process writes it alone, or others write it together; or it cannot be written.
    """
    key, share = os.path.abspath(out), _share.get()
    if (there := _members.get().get(key)) is not None:
        yield there
        return
    if share is None or held:
        with nullcontext() if held else only_writer(out):
            if not held:
                _refuse_company(out)
            yield None
        return
    member = Member(out, share)
    try:
        member.enter()
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written ({error.strerror}); choose another --out") from None
    token = _members.set({**_members.get(), key: member})
    try:
        _refuse_lone_writer(out)
        _has_shared.set(True)
        yield member
    except ShareDone:
        raise
    except MesynthError:
        member.leave()
        if next(_present(out), None) is None:
            with suppress(OSError):
                give_up(out)
        raise
    finally:
        member.leave()
        _members.reset(token)


def _refuse_company(out: Path) -> None:
    """Raise RunFolderError where others write together; what killed ones left goes."""
    if present := list(_present(out)):
        n = f"{len(present)} processes" if len(present) > 1 else "a process"
        raise RunFolderError(
            f"{out} is being written by {n} together ({present[0]}); wait, join with --shard i/N, or choose another "
            "--out"
        )
    shutil.rmtree(out / TOGETHER, ignore_errors=True)


def _refuse_lone_writer(out: Path) -> None:
    """Raise RunFolderError where one process writes alone. Others ask the same, and hold the lock while they do."""
    for wait in range(40):
        with file_lock(out / LOCK_FILE, wait=False) as free:
            if free:
                return
        time.sleep(random.uniform(0.01, 0.05 + 0.01 * wait))
    raise RunFolderError(f"{out} is being written by another process; wait for it or choose another --out")


def innermost() -> Member | None:
    """The member that this process is in the folder that it holds last; None where it is alone."""
    return next(reversed(list(_members.get().values())), None)


def do_once(out: Path, name: str, done: Callable[[], bool]) -> bool:
    """:meth:`Member.once` of whoever writes ``out`` together; True for a process alone."""
    member = _members.get().get(os.path.abspath(out))
    return member is None or member.once(name, done)


@contextmanager
def unless(done: Callable[[], bool]) -> Iterator[None]:
    """What goes wrong in this block is of no importance where others have ``done`` all meanwhile."""
    try:
        yield
    except (OSError, MesynthError):
        if not done():
            raise


@contextmanager
def alone() -> Iterator[None]:
    """In this block folders are this process's own, and made on this machine."""
    share, engine_before = _share.set(None), _engine.set(None)
    try:
        yield
    finally:
        _share.reset(share)
        _engine.reset(engine_before)


def require_whole_share(what: str) -> None:
    """Raise ConfigError where this process has a fixed share, which ``what`` does not take."""
    share = _share.get()
    if share is not None and share.fixed:
        raise ConfigError(
            f"--shard {share.rank}/{share.count} does not go with {what}; start the processes with torchrun or srun"
        )


def require_no_engine(what: str) -> None:
    """Raise ConfigError where shards are tasks elsewhere, and ``what`` has none."""
    if _engine.get() is not None:
        raise ConfigError(f"--engine ray does not go with {what}; leave it out, or start the processes with torchrun")


def engine() -> RayEngine | None:
    """Where shards are made in this block, if not in processes of this machine."""
    return _engine.get()
