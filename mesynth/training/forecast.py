"""What a run will need, before anything is written: parameters, memory, disk.

How fast a recipe trains on this machine: the network's own speed, and how fast pairs are prepared for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mesynth.core.errors import MesynthError, first_line
from mesynth.core.facs import AU_CODES
from mesynth.training.checkpoint import Averages, open_initial
from mesynth.training.config import Recipe
from mesynth.training.data.batches import Batch, PairSet, batches
from mesynth.training.loop import build_task
from mesynth.training.processes import Processes
from mesynth.training.task import StepUpdater, Task

_PROBE = (2, 4)  # pairs of the two measured steps; one pair alone has no batch statistics


@dataclass(frozen=True)
class Forecast:
    """Sizes in bytes; memory is that of one process and of what the run itself holds (no allocator, no library)."""

    parameters: dict[str, int]
    """By network; frozen networks as well."""
    images: int
    steps: int
    weights: int
    """Trained and frozen networks and the averages."""
    gradients: int
    optimisers: int
    activations: int
    """Kept for backward by the largest loss, for this process's part of a batch."""
    checkpoints: int
    """On disk, with one more than are kept while it is being written."""

    @property
    def memory(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimisers + self.activations

    def to_dict(self) -> dict[str, Any]:
        """For printing."""
        mib = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimisers": self.optimisers,
            "activations": self.activations,
            "memory": self.memory,
            "checkpoints on disk": self.checkpoints,
        }
        return {
            "parameters": self.parameters,
            "images": self.images,
            "steps": self.steps,
            "MiB": {name: round(size / 2**20, 3) for name, size in mib.items()},
        }


def forecast(recipe: Recipe, processes: int = 1) -> Forecast:
    """Measure two small steps on random pairs, on the CPU, and scale them to the recipe's batch.

    Activations are what autograd keeps (each storage once, weights left out), a straight line through both steps.
    """
    run = recipe.run
    task = build_task(recipe, open_initial(recipe))
    trained = [p for network in task.networks.values() for p in network.parameters()]
    frozen = [t for network in task.frozen.values() for t in (*network.parameters(), *network.buffers())]
    held = [*trained, *(b for network in task.networks.values() for b in network.buffers())]
    averaged = [t for name in task.averaged for t in task.networks[name].state_dict().values()]
    probe = _Probe(task)
    with torch.random.fork_rng(devices=[]):
        small, large = (probe.step(random_batch(n, recipe.data.size), run.precision) for n in _PROBE)
    slope = max(large - small, 0) / (_PROBE[1] - _PROBE[0])
    part = -(-run.batch // (processes * run.accumulate))
    moments = sum(
        _bytes(v for v in state.values() if isinstance(v, torch.Tensor))
        for optimiser in probe.optimisers.values()
        for state in optimiser.state.values()
    )
    weights = _bytes(held) + _bytes(averaged)
    frozen_counts = {f"{name} (frozen)": sum(p.numel() for p in net.parameters()) for name, net in task.frozen.items()}
    return Forecast(
        parameters=task.parameters() | frozen_counts,
        images=run.steps * run.batch,
        steps=run.steps,
        weights=weights + _bytes(frozen),
        gradients=_bytes(p for p in trained if p.requires_grad),
        optimisers=moments,
        activations=round(max(small + slope * (part - _PROBE[0]), slope * part)),
        checkpoints=(weights + moments) * (run.keep + 1),
    )


def random_batch(n: int, size: int) -> Batch:
    """``n`` pairs of noise with every field as a real batch has it."""
    rng = np.random.default_rng(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.random((n, *shape), np.float32))

    return Batch(
        onset=uniform(3, size, size),
        frame=uniform(3, size, size),
        flow=uniform(2, size, size),
        valid=torch.ones(n, size, size, dtype=torch.bool),
        has_flow=torch.ones(n, dtype=torch.bool),
        aus=uniform(len(AU_CODES), 2),
        known=torch.ones(n, len(AU_CODES), 2, dtype=torch.bool),
        landmarks=torch.full((n, 68, 2), torch.nan),
        label=torch.arange(n) % 3,
        seeds=np.arange(n, dtype=np.int64),
        formed=uniform(3, size, size),
        share=torch.ones(n, 1, size, size),
    )


class _Probe:
    """An updater that counts what autograd keeps between one update and the next."""

    def __init__(self, task: Task) -> None:
        self.task, self.optimisers = task, task.optimisers()
        everything = (*task.networks.values(), *task.frozen.values())
        self._weights = {t.untyped_storage().data_ptr() for n in everything for t in (*n.parameters(), *n.buffers())}
        self._kept: dict[int, int] = {}
        self._most = 0

    def step(self, batch: Batch, precision: str) -> int:
        """Bytes kept by the largest loss of one step."""
        self._kept, self._most = {}, 0
        half = precision != "fp32"  # fp16 has no CPU kernels for much of this; bf16 is as large
        with self._counting(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            self.task.step(batch, 0, self)
        return self._most

    def update(self, name: str, loss: torch.Tensor) -> None:
        self._most = max(self._most, sum(self._kept.values()))
        optimiser = self.optimisers[name]
        parameters = [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
        optimiser.zero_grad()
        loss.float().backward(inputs=parameters)
        optimiser.step()
        self._kept = {}

    @contextmanager
    def _counting(self) -> Iterator[None]:
        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._weights:
                self._kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


# ------------------------------------------------------------------- throughput


@dataclass(frozen=True)
class Throughput:
    """Measured on random pairs that lie on the device already."""

    precision: str
    compile: bool
    batch: int
    images_per_s: float
    """0 where it did not run."""
    memory: int | None
    """Largest number of bytes allocated on the GPU; None on the CPU."""
    error: str = ""
    """Why it did not run, one line."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.__dict__)


def measure(recipe: Recipe, device: str = "auto", *, updates: int = 50, warmup: int = 10) -> Throughput:
    """Updates of ``recipe`` a second, times its batch; its precision and compilation count.

    ``warmup`` updates go before and are not counted: compilation, choice of kernels.

    Raises:
        ConfigError: the device is not here.
    """
    run = recipe.run
    on_gpu = Processes(device).device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = _timed(recipe, device, updates, warmup)
    except (RuntimeError, MesynthError) as error:  # out of memory, a precision or a compiler that is not there
        reason = first_line(error)
        return Throughput(run.precision, run.compile, run.batch, 0.0, None, reason[:200])
    memory = torch.cuda.max_memory_allocated() if on_gpu else None
    return Throughput(run.precision, run.compile, run.batch, updates * run.batch / seconds, memory)


def _timed(recipe: Recipe, device: str, updates: int, warmup: int) -> float:
    """Seconds that ``updates`` updates take."""
    run = recipe.run
    processes = Processes(device, run.precision)
    task = build_task(recipe)
    for network in (*task.networks.values(), *task.frozen.values()):
        network.to(processes.device)
    for network in task.frozen.values():
        network.eval().requires_grad_(False)
    averages = Averages(task.networks, task.averaged, run.half_life, run.half_life_ramp)
    updater = StepUpdater(
        task.optimisers(), processes, clip=run.clip, seed=run.seed, fp16=run.precision == "fp16"
    )  # fmt: skip
    if run.compile:
        for network in task.networks.values():
            network.compile()
    size = run.batch // run.accumulate
    batch = random_batch(size, recipe.data.size).to(processes.device)
    began = 0.0
    for i in range(-warmup, updates):
        if i == 0:
            _wait(processes.device)
            began = time.perf_counter()
        first = (i + warmup) * run.batch
        parts = [
            (first + k, replace(batch, seeds=first + k + run.accumulate * np.arange(size, dtype=np.int64)))
            for k in range(run.accumulate)
        ]
        updater.run(task, parts, first)
        averages.update(task.networks, first + run.batch, run.batch)
    _wait(processes.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def preparation(pairs: PairSet, batch: int, prefetch: int, *, seconds: float = 3.0) -> float:
    """Pairs a second that are prepared when nothing else is done, with ``run.prefetch`` threads as in training."""
    began, done = time.perf_counter(), 0
    ahead = batches(pairs, 0, 2**40, batch, rank=0, processes=1, accumulate=1, prefetch=prefetch)
    with closing(ahead):
        for _ in ahead:
            done += batch
            if (passed := time.perf_counter() - began) >= seconds:
                break
    return done / passed
