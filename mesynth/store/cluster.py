"""Several processes, on one machine or many, that write one folder together; and where else shards are made.

Every process of `torchrun`, `accelerate launch` or `srun`, and every `--shard i/N` of an array, runs the same command.
Shards are taken in plan order, each process its own first, by leases: small files in ``.writing-together`` of the
folder. Nobody waits for a rendezvous. A shard's bytes depend on its jobs alone and appear whole, so a lease only saves
work: should two processes ever make the same shard, they write the same bytes, and no clock can harm a corpus.

A process that takes part keeps one file there fresh (its heartbeat). It counts as gone when that file has not been
touched for :func:`patience` seconds, or at once where its machine is this one and has no such process any more. Ages
are differences of times that the file system gave to two files; no clock of one machine is compared with another's.

:func:`together` says that this process takes part, :func:`writer` holds a folder (alone, or with the others), and
:meth:`Member.take` is the lease. The engine is :func:`mesynth.store.stage.run_shards`; on Ray its shards are tasks
(:class:`RayEngine`), and :func:`submit` writes the array for SLURM. There is no scheduler here.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mesynth.core.errors import ConfigError, MesynthError, RunFolderError
from mesynth.core.process import launched
from mesynth.store.run_folder import LOCK_FILE, file_lock, give_up, only_writer, temporary_beside

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
                holder = lease.read_text()
            except FileNotFoundError:  # let go in this moment
                continue
            if holder == self.name:
                return True
            if self.alive(holder):
                return False
            grave = temporary_beside(lease)
            try:
                os.rename(lease, grave)
                if grave.read_text() != holder:  # another was faster, and this is its lease
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
            if lease.read_text() == self.name:
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


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.endswith(".tmp"))
    except OSError:
        return []


def _alive(
    folder: Path, name: str, patience: float, now: Callable[[], float], known: dict[str, dict[str, Any]]
) -> bool:
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


# ------------------------------------------------------------------- on Ray


def engine() -> RayEngine | None:
    """Where shards are made in this block, if not in processes of this machine."""
    return _engine.get()


@dataclass(frozen=True)
class RayEngine:
    """Tasks on a Ray cluster, one a shard; what a lost node had begun is made again on another.

    ``address``: as ``ray.init`` takes it; "" for the cluster that $RAY_ADDRESS or this machine has, else a new one on
    this machine. ``gpus``: GPUs a task (a part of one is allowed). ``retries``: how often a task whose node or process
    was lost is made again. The folder has to be one that every node sees under the same path.
    """

    address: str = ""
    gpus: float = 0.0
    retries: int = 5

    @classmethod
    def of(cls, engine: str, address: str = "", gpus: float = 0.0) -> RayEngine | None:
        """None for the engine "local". Raises ConfigError for what has no effect there."""
        if engine == "ray":
            return cls(address, gpus)
        if address or gpus:
            raise ConfigError(
                f"{'--address' if address else '--gpus'} has no effect without --engine ray; leave it out"
            )
        return None

    def __post_init__(self) -> None:
        if not 0 <= self.gpus <= 64:
            raise ConfigError(f"--gpus {self.gpus:g} is outside 0..64 GPUs a task")

    def run(
        self,
        task: Callable[..., Any],
        jobs: Iterable[tuple[Any, ...]],
        *,
        report: Callable[[int], object],
        where: object,
        take: Callable[[Any], int] | None = None,
    ) -> None:
        """``task(*job)`` for each job; ``report`` is told the clips done, which a task returns, or ``take`` counts in
        what it returns. No more jobs are taken at once than twice the cluster's places.

        Raises:
            ConfigError: no Ray, no cluster at the address, or none that has the GPUs.
            MesynthError: what a task raised, or a node was lost more often than ``retries``.
        """
        with self._connected() as ray:
            places = self._places(ray)
            remote = ray.remote(_on_ray).options(num_gpus=self.gpus, num_cpus=1, max_retries=self.retries)
            held, key = [ray.put(task)], os.urandom(8)  # in a list: looked up by a process that has it not yet
            waiting: list[Any] = []
            left, done = iter(jobs), 0
            try:
                while True:
                    for job in left:
                        waiting.append(remote.remote(key, held, os.getcwd(), job))
                        if len(waiting) >= places:
                            break
                    if not waiting:
                        return
                    ready, waiting = ray.wait(waiting, num_returns=1, timeout=0.5)
                    for one in ready:
                        made = ray.get(one)
                        done += int(made) if take is None else take(made)
                    report(done)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else error
                raise cause from None
            except (ray.exceptions.RayError, ConnectionError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise MesynthError(
                    f"the Ray cluster lost a task for good ({reason}); finished clips stay in {where}, the same "
                    "command goes on from there"
                ) from None
            finally:
                for one in waiting:
                    with suppress(Exception):
                        ray.cancel(one, force=True)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        ray = require("ray", "--engine ray")
        if ray.is_initialized():  # by the caller, whose cluster it is
            yield ray
            return
        try:
            ray.init(address=self.address or None, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"no Ray cluster answers at '{self.address or 'auto'}' ({reason}); start one with `ray start --head`, "
                "or leave out --address for one on this machine"
            ) from None
        try:
            yield ray
        finally:
            ray.shutdown()

    def _places(self, ray: Any) -> int:
        there = ray.cluster_resources()
        places = int(there.get("CPU", 0))
        if self.gpus:
            places = min(places, int(there.get("GPU", 0) / self.gpus))
        if places < 1:
            raise ConfigError(
                f"the Ray cluster has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs, and a task takes "
                f"1 and {self.gpus:g}; ask for less with --gpus, or add nodes"
            )
        return 2 * places


_task: tuple[bytes, Callable[..., Any]] | None = None
"""In a process of Ray: the last task and its key, so that a generator is loaded once a process."""


def _on_ray(key: bytes, held: list[Any], folder: str, job: tuple[Any, ...]) -> Any:
    """``folder``: where the command was started; names that are relative to it mean the same here."""
    import cv2
    import ray

    global _task
    if _task is None or _task[0] != key:
        _task = None
        with suppress(OSError):  # a node that has not the folder may do with absolute names
            os.chdir(folder)
        cv2.setNumThreads(1)  # the tasks are the parallelism; Ray says so to OpenMP itself
        _task = key, ray.get(held[0])
    return _task[1](*job)


# ------------------------------------------------------------------- on SLURM


@dataclass(frozen=True, kw_only=True)
class Submission:
    """An array of tasks, each a share of one command line of this program."""

    words: tuple[str, ...]
    out: Path
    logs: Path
    tasks: int
    executor: str
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, words: Sequence[str], out: Path, *, tasks: int, slurm: str = "", executor: str = "slurm",
        logs: Path | None = None,
    ) -> Submission:  # fmt: skip
        """``slurm``: ``partition=cpu,time=60``. Raises ConfigError for what is no setting, or given twice.

        >>> Submission.of(["generate"], Path("corpus"), tasks=2, slurm="partition=cpu,time=1:30:00").settings
        {'slurm_partition': 'cpu', 'timeout_min': 90}
        """
        settings: dict[str, Any] = {}
        for part in (text.strip() for text in slurm.split(",") if text.strip()):
            name, equals, value = (text.strip() for text in part.partition("="))
            name = name.replace("-", "_")
            if not (equals and value and name.isidentifier()):
                raise ConfigError(
                    f"--slurm '{part}' is no setting; write NAME=VALUE, for example partition=cpu,time=60"
                )
            key = {"time": "timeout_min", "cpus_per_task": "cpus_per_task", "mem_gb": "mem_gb"}.get(
                name, f"slurm_{name}"
            )
            if key in settings:
                raise ConfigError(f"--slurm names {name} twice; give it once")
            settings[key] = _minutes(value) if name == "time" else int(value) if value.isdecimal() else value
        return cls(
            words=tuple(words), out=out, tasks=tasks, executor=executor, settings=settings,
            logs=logs or out.parent / f"{out.name}-logs",
        )  # fmt: skip

    def command(self, task: int) -> list[str]:
        """What a task runs."""
        return [sys.executable, "-m", "mesynth", *self.words, "--shard", f"{task}/{self.tasks}"]

    def text(self) -> str:
        """For people."""
        chosen = "".join(f", {name.removeprefix('slurm_')} {value}" for name, value in self.settings.items())
        return (
            f"would submit {self.tasks} tasks by {self.executor}{chosen}, logs in {self.logs}; the first: "
            f"{shlex.join(['mesynth', *self.command(0)[3:]])}"
        )

    def submit(self, *, wait: bool = False) -> dict[str, Any]:
        """Write and submit the array; what was submitted. ``wait``: until every task has ended.

        Raises:
            ConfigError: no submitit, no sbatch, or a setting that it does not know.
            RunFolderError: the logs cannot be written.
            MesynthError: SLURM refused the array; with ``wait`` a task failed.
        """
        submitit = require("submitit", "mesynth submit")
        if self.executor == "slurm" and shutil.which("sbatch") is None:
            raise ConfigError(
                "there is no sbatch on this machine; submit from a login node of the cluster, or try --executor local"
            )
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            executor = submitit.AutoExecutor(folder=self.logs, cluster=self.executor)
            executor.update_parameters(name="mesynth", **self.settings)
        except OSError as error:
            raise RunFolderError(f"{self.logs} cannot be written ({error.strerror}); choose another --logs") from None
        except (TypeError, ValueError, NameError, AssertionError) as error:
            raise ConfigError(f"--slurm is not understood ({' '.join(str(error).split())})") from None
        try:
            jobs = executor.map_array(run_share, [self.command(i) for i in range(self.tasks)])
        except (OSError, RuntimeError, submitit.core.utils.FailedJobError) as error:
            raise MesynthError(f"the array was refused ({' '.join(str(error).split())})") from None
        shown = {"out": str(self.out), "tasks": self.tasks, "jobs": [str(job.job_id) for job in jobs]}
        if wait:
            failed = [(i, text) for i, job in enumerate(jobs) if (text := _failure(job))]
            if failed:
                first, text = failed[0]
                raise MesynthError(
                    f"{len(failed)} of {self.tasks} tasks failed; task {first}: {text}; {self.logs} holds their logs, "
                    "and the same submission goes on"
                )
        return shown | {"logs": str(self.logs)}


def _failure(job: Any) -> str:
    """What a task that has ended said last if it failed, else nothing."""
    try:
        job.wait()
        job.result()
        return ""
    except Exception as error:  # whatever stopped it: killed, out of time, or its own error
        said = [line for line in (job.stderr() or "").splitlines() if line.startswith("Error: ")]
        return (said or str(error).splitlines() or [type(error).__name__])[-1].removeprefix("Error: ")


def run_share(command: Sequence[str]) -> None:
    """A task of the array. Raises RuntimeError where its command fails, whose words are in the task's log."""
    # Of the task's own launcher: it is one process of the array, and no rank.
    hidden = ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    code = subprocess.run(list(command), env=environment, check=False).returncode
    if code:
        raise RuntimeError(f"exit code {code} of {shlex.join(command)}")


def _minutes(text: str) -> int:
    """``90``, ``1:30:00`` or ``2-12:00:00`` as sbatch takes them, in minutes, rounded up."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in ([days] if dash else []) + parts) or len(parts) > 3:
        raise ConfigError(f"--slurm time={text} is no time; write minutes, h:mm:ss or days-h:mm:ss")
    numbers = [int(part) for part in parts]
    if dash:  # days-hours, days-hours:minutes, days-hours:minutes:seconds
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    else:  # minutes, minutes:seconds, hours:minutes:seconds
        hours, minutes, seconds = numbers if len(numbers) == 3 else (0, *[*numbers, 0][:2])
    whole = int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)
    if not whole:
        raise ConfigError(f"--slurm time={text} is no time for a task; give at least a minute")
    return whole


def require(name: str, what: str, extra: str = "cluster") -> Any:
    """The module ``name``. Raises ConfigError that says how to install it."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"{what} needs {name}; install it with: pip install 'mesynth[{extra}]'") from None
