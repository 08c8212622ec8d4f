"""How fast a recipe trains on this machine: the network's own speed, and how fast pairs are prepared for it."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mesynth.errors import MesynthError
from mesynth.training.averaging import Averages
from mesynth.training.config import Recipe
from mesynth.training.loop import build_task
from mesynth.training.memory import random_batch
from mesynth.training.processes import Processes
from mesynth.training.sampler import PairSet, batches
from mesynth.training.updater import StepUpdater


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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
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
