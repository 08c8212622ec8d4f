"""Trackers by name (TensorBoard and the like); ``metrics.jsonl`` is written with or without them.

One process or many: what Accelerate gives (device, precision, trackers) and the few words processes exchange."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mesynth.core.devices import find_device
from mesynth.core.errors import ConfigError, MesynthError
from mesynth.core.process import launched


def check_trackers(trackers: Sequence[Any]) -> None:
    """Refuse a tracker whose package is not here (Accelerate would leave it out in silence).

    ``trackers`` holds names or objects of ``accelerate.tracking.GeneralTracker``.

    Raises:
        ConfigError: unknown, or not installed.
    """
    if not trackers:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

    available = {str(kind.value) for kind in get_available_trackers()}
    known = {str(kind) for kind in LOGGER_TYPE_TO_CLASS}
    for tracker in trackers:
        if isinstance(tracker, GeneralTracker):
            continue
        if tracker not in known:
            raise ConfigError(f"tracker '{tracker}' is unknown; there are: {', '.join(sorted(known))}")
        if tracker not in available:
            raise ConfigError(f"tracker {tracker} is not installed here; pip install {tracker}, or leave it out")


# ------------------------------------------------------------------- processes


class ProcessLost(MesynthError):
    """Another process of the run ended; each that is left may say so, as the first may be the one that is gone."""


T = TypeVar("T")
_PATIENCE = timedelta(hours=2)  # the first process may render a whole data set while the others wait


class Processes:
    """The processes of a run (one, or as many as torchrun or ``accelerate launch`` started).

    Networks are not wrapped: gradients are averaged by :meth:`average` after backward. A discriminator is then free
    to be called any number of times, differentiated twice (R1) and left out of an update, none of which a
    DistributedDataParallel wrapper allows.
    """

    def __init__(self, device: str = "auto", precision: str = "fp32", trackers: Sequence[Any] = ()) -> None:
        """``device``: auto, cpu, cuda or mps. Processes without a GPU meet on the CPU.

        Raises:
            ConfigError: the device is not here, cannot do ``precision``, the launcher asks for sharding, or the
                processes that it says it started do not find each other.
        """
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import DistributedType, InitProcessGroupKwargs

        launched_rank, launched_count = launched()
        if launched_count > 1:
            # Its functions keep the process group of the moment of import as a default: see _leave_group_at_exit.
            importlib.import_module("torch.distributed.nn.functional")
        cuda = torch.cuda.is_available()
        if ":" in find_device(device):
            raise ConfigError(f"--device {device} names one GPU; write cuda, CUDA_VISIBLE_DEVICES picks which")
        if precision == "fp16" and (device == "cpu" or not cuda):
            raise ConfigError("run.precision=fp16 needs CUDA; on the CPU use bf16 or fp32")
        if precision == "bf16" and device != "cpu" and cuda and not torch.cuda.is_bf16_supported():
            raise ConfigError("run.precision=bf16 is not known to this GPU; use fp16 or fp32")
        here = _number("LOCAL_WORLD_SIZE", launched_count)
        if device != "cpu" and cuda and here > max(torch.cuda.device_count(), 1):
            raise ConfigError(
                f"{here} processes on a machine with {torch.cuda.device_count()} GPUs; start one a GPU, "
                "or add --device cpu"
            )
        # An earlier run in this process may have had another device or precision.
        AcceleratorState._reset_state(
            reset_partial_state=not dist.is_initialized() and bool(PartialState._shared_state)
        )
        before = dict(os.environ)
        try:
            self.accelerator = Accelerator(
                # Accelerate joins processes that have no GPU only where it is told that the CPU is meant.
                cpu=device == "cpu" or (launched_count > 1 and not cuda),
                mixed_precision="no" if precision == "fp32" else precision,
                log_with=list(trackers) or None,
                kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
            )
        except (RuntimeError, ValueError, OSError) as error:
            # Accelerate has written its own guess of these down, which a later run here would believe.
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
                os.environ.pop(name, None)
                if name in before:
                    os.environ[name] = before[name]
            if launched_count == 1:
                raise
            raise ConfigError(
                f"the {launched_count} processes of the launcher do not find each other ({_first_line(error)}); start "
                "them with torchrun"
            ) from None
        found = (self.accelerator.process_index, self.accelerator.num_processes)
        if found != (launched_rank, launched_count):
            raise ConfigError(
                f"the launcher says process {launched_rank} of {launched_count}, but this is process {found[0]} of "
                f"{found[1]}: they would train apart; start them with torchrun"
            )
        kind = self.accelerator.distributed_type
        if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise ConfigError(f"the launcher asks for {kind.value}; train with plain processes (torchrun, no sharding)")
        self.device: torch.device = self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes
        # Words go over gloo: reading a flag must not make the CPU wait for the GPU.
        self._words: dist.ProcessGroup | None = None
        if self.count > 1 and self.device.type != "cpu":
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)
            self._words = group
        if self.count > 1:
            _leave_group_at_exit()

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return self.accelerator.autocast()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Around whatever waits for the others. Raises ProcessLost when one of them is gone."""
        try:
            yield
        except RuntimeError as error:  # what torch.distributed raises, whatever the backend
            raise ProcessLost(
                f"another process of this run has ended ({_first_line(error)}); the same command goes on from the "
                "newest checkpoint"
            ) from None

    def barrier(self) -> None:
        """Wait for all."""
        if self.count > 1:
            with self._together():
                dist.barrier(self._words)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag, true when any process says so."""
        if self.count == 1:
            return flags
        words = torch.tensor(flags, dtype=torch.int32)
        with self._together():
            dist.all_reduce(words, dist.ReduceOp.MAX, group=self._words)
        return tuple(map(bool, words.tolist()))

    def gather(self, value: T) -> list[T]:
        """``value`` of every process, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self._together():
            dist.all_gather_object(values, value, group=self._words)
        return values

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Run ``work`` in the first process while the others wait; its user-facing errors reach all of them."""
        result, error = None, None
        if self.main:
            try:
                result = work()
            except MesynthError as raised:
                error = raised
        told = self.gather("" if error is None else str(error))[0]
        if error is not None:
            raise error
        if told:
            raise MesynthError(told)
        return result

    def share(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the first one's ``tensors``, in place."""
        if self.count > 1:
            with self._together():
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), 0)

    @torch.no_grad()
    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace float ``tensors`` by their means over processes, in place, in one exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        with self._together():
            dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Average ``.grad`` over processes. A parameter without gradient here but with one elsewhere counts as 0."""
        if self.count == 1:
            return
        here = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
        with self._together():
            dist.all_reduce(here, dist.ReduceOp.MAX, group=self._words)
        used = [p for p, some in zip(parameters, here.tolist(), strict=True) if some]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average([p.grad for p in used if p.grad is not None])

    def start_trackers(self, folder: Path, config: dict[str, Any]) -> None:
        """Begin the trackers asked for; those that write files do it under ``folder``."""
        if self.accelerator.log_with:
            self.accelerator.project_configuration.set_directories(str(folder))
            if self.main:
                folder.mkdir(parents=True, exist_ok=True)
            self.accelerator.init_trackers("mesynth", _flat(config))

    def track(self, values: dict[str, float], images: int) -> None:
        """Send figures to the trackers, if there are any."""
        if self.accelerator.log_with:
            self.accelerator.log(values, step=images)

    def end_trackers(self) -> None:
        """Flush and close the trackers, if there are any."""
        for tracker in self.accelerator.trackers if self.accelerator.log_with else ():
            tracker.finish()


@functools.cache
def _leave_group_at_exit() -> None:
    """Let Gloo's threads end before Python does.

    One of them may let go of a tensor last and then needs Python: once the interpreter is being torn down, that
    aborts a process whose work is done ("terminate called without an active exception"). NCCL is left alone: after
    an error its group would wait for processes that are gone.
    """

    def leave() -> None:
        if dist.is_initialized() and dist.get_backend() == dist.Backend.GLOO:
            dist.destroy_process_group()

    atexit.register(leave)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def _first_line(error: BaseException) -> str:
    """What a library says, without the line of its source that it begins with, up to the first full stop."""
    line = (str(error).splitlines() or [""])[0]
    return re.sub(r"^\[\S*/\S*:\d+\]\s*", "", line).split(". ")[0].rstrip(" .")[:160] or type(error).__name__


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        plain = value if isinstance(value, (bool, int, float, str)) else str(value)
        return {prefix: plain}
    out: dict[str, Any] = {}
    for key, item in value.items():
        out |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return out
