"""Where shards are made elsewhere, by schedulers that exist: tasks on Ray (:class:`RayEngine`), an array for SLURM
(:class:`Submission`). What writes one folder together without them is :mod:`mesynth.store.cluster`."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesynth.core.errors import ConfigError, MesynthError, RunFolderError, first_line

# ------------------------------------------------------------------- on Ray


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
                reason = first_line(error)
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
            reason = first_line(error)
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
