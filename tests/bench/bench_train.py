"""What training costs: the loop beside the training itself, every recipe, one process and two, and their exchange.

``python -m tests.bench.bench_train loop`` times an update of a toy task in the loop and in a bare loop.
``python -m tests.bench.bench_train recipes [--device cuda] [--recipes gan/motion_64,...]`` is a table of images a
second and memory, in fp32, bf16, in four parts (run.accumulate) and, of image diffusion, with model.checkpointing; on
the CPU memory is the process' peak, with libraries. ``python -m tests.bench.bench_train scaling`` times one process
and two (gloo, one thread each, the same batch cut in two) turn about, and the share of an update that the exchange of
gradients takes: what overlapping it with backward could save at most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesynth.config import find_recipe
from mesynth.training.config import load_recipe
from mesynth.training.data.batches import Batch
from mesynth.training.forecast import measure, random_batch
from mesynth.training.loop import build_task
from mesynth.training.processes import Processes
from mesynth.training.record import read_metrics
from mesynth.training.task import StepUpdater
from mesynth.training.train import Machine, train
from tests.training import toy

UPDATES, WINDOW, BATCH = 3000, 50, 16
RECIPES = (
    "gan/motion_64", "gan/flow_gan_64", "gan/au_icgan_64", "gan/ice_gan_64", "diffusion/motion_64",
    "diffusion/volume_64", "diffusion/image_64",
)  # fmt: skip
VARIANTS: dict[str, list[str]] = {
    "fp32": [], "bf16": ["run.precision=bf16"], "in 4 parts": ["run.accumulate=4"],
    "checkpointing": ["model.checkpointing=true"],
}  # fmt: skip
_made: dict[int, Batch] = {}


# ---------------------------------------------------------------- the loop


class Stored(toy.ToyPairs):
    """Pairs made once: what is timed is not the making of data."""

    def batch(self, draws: np.ndarray) -> Batch:
        place = int(draws[0]) % (64 * BATCH)
        if place not in _made:
            _made[place] = super().batch(draws)
        return _made[place]


class Bare:
    """Backward and step, nothing else."""

    def __init__(self, optimisers: dict[str, torch.optim.Optimizer]) -> None:
        self._optimisers = optimisers

    def update(self, name: str, loss: torch.Tensor) -> None:
        self._optimisers[name].zero_grad()
        loss.backward()
        self._optimisers[name].step()


def loop() -> None:
    """Print milliseconds an update, over windows of updates: the best is what other programs disturb least."""
    torch.set_num_threads(1)
    toy.register(dict.__setitem__, setattr)
    toy.ToyPairs = Stored  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "toy.yaml"
        never = 10**9
        lengths = {"images": UPDATES * BATCH, "log_images": WINDOW * BATCH}
        file.write_text(toy.recipe_text(**lengths, validate_images=never, checkpoint_images=never))
        recipe = load_recipe(file)
        pairs = Stored(recipe.data, toy.SUBJECTS, 0)
        for start in range(0, 64 * BATCH, BATCH):
            pairs.batch(np.arange(start, start + BATCH))
        task = build_task(recipe)
        bare, batches = Bare(task.optimisers()), itertools.cycle(_made.values())
        task.step(next(batches), 0, bare)
        alone = []
        for _ in range(UPDATES // WINDOW):
            began = time.perf_counter()
            for step in range(WINDOW):
                task.step(next(batches), step * BATCH, bare)
            alone.append((time.perf_counter() - began) / WINDOW)
        train(recipe, Path(folder) / "run", machine=Machine(device="cpu"))
        lines = [line for line in read_metrics(Path(folder) / "run") if line["kind"] == "train"]
        looped = [BATCH / line["images_per_s"] for line in lines]
        for name, times in (("bare loop", alone), ("training loop", looped)):
            best, middle = 1000 * min(times), 1000 * statistics.median(times)
            print(f"{name}: {best:.3f} ms an update at best, {middle:.3f} in the middle")
        print(f"the loop adds {1000 * (min(looped) - min(alone)):.3f} ms an update at best")


# ---------------------------------------------------------------- recipes


def one_recipe(name: str, variant: str, device: str, updates: int, settings: list[str]) -> dict[str, Any]:
    """Measured in this process, whose peak of memory is then its own."""
    recipe = load_recipe(find_recipe(name), [*settings, *VARIANTS[variant]])
    measured = measure(recipe, device, updates=updates, warmup=max(updates // 5, 1))
    peak = measured.memory or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = sum(p.numel() for net in build_task(recipe).networks.values() for p in net.parameters())
    return measured.to_dict() | {"recipe": name, "variant": variant, "peak": peak, "parameters": parameters}


def recipes(names: list[str], variants: list[str], device: str, updates: int, settings: list[str]) -> None:
    """A row a recipe and variant, each measured in a process of its own."""
    print("| recipe | parameters | batch | variant | images/s | peak memory, MiB |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in names:
        for variant in variants:
            if variant == "checkpointing" and "/image" not in name:
                continue
            words = ["one", "--recipes", name, "--variants", variant, "--device", device, "--updates", str(updates)]
            out = _self(*words, *(["--set", " ".join(settings)] if settings else []))
            row = json.loads(out.splitlines()[-1])
            rate = row["error"] or f"{row['images_per_s']:.1f}"
            peak = f"{row['peak'] / 2**20:,.0f}"
            print(f"| {name} | {row['parameters']:,} | {row['batch']} | {variant} | {rate} | {peak} |", flush=True)


# ---------------------------------------------------------------- processes


class Clocked(Processes):
    """Which counts the seconds of the exchange, with waiting for the other."""

    exchanged = 0.0
    bytes = 0

    def average_gradients(self, parameters: Any) -> None:
        """See the base class."""
        began = time.perf_counter()
        super().average_gradients(parameters)
        self.exchanged += time.perf_counter() - began
        self.bytes += sum(4 * p.numel() for p in parameters if p.grad is not None)


def one_process(name: str, updates: int, settings: list[str]) -> None:
    """Time updates of this process' share of the batch; the first process prints."""
    torch.set_num_threads(1)
    recipe = load_recipe(find_recipe(name), settings)
    processes = Clocked("cpu")
    task = build_task(recipe)
    for network in task.frozen.values():
        network.eval().requires_grad_(False)
    updater = StepUpdater(task.optimisers(), processes, clip=recipe.run.clip, seed=0, fp16=False)
    size = recipe.run.batch // processes.count
    batch = random_batch(size, recipe.data.size)
    began = 0.0
    for i in range(-2, updates):
        if i == 0:
            processes.barrier()
            processes.exchanged, processes.bytes, began = 0.0, 0, time.perf_counter()
        seeds = i * recipe.run.batch + processes.rank + processes.count * np.arange(size, dtype=np.int64)
        updater.run(task, [(i + 2, replace(batch, seeds=np.abs(seeds)))], max(i, 0) * recipe.run.batch)
    seconds = time.perf_counter() - began
    if processes.main:
        rate, share = updates * recipe.run.batch / seconds, processes.exchanged / seconds
        print(json.dumps({"images_per_s": rate, "exchange": share, "bytes": processes.bytes / updates}))


def scaling(names: list[str], updates: int, rounds: int, settings: list[str]) -> None:
    """One process and two, turn about; the best of each counts, as other programs only slow them down."""
    print("| recipe | 1 process, images/s | 2 processes | ratio | exchange, share of an update | MB an update |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in names:
        found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        for _ in range(rounds):
            for count in found:
                words = ["process", "--recipes", name, "--updates", str(updates)]
                more = ["--set", " ".join(settings)] if settings else []
                found[count].append(json.loads(_self(*words, *more, processes=count).splitlines()[-1]))
        best = {count: max(runs, key=lambda run: run["images_per_s"]) for count, runs in found.items()}
        one, two = best[1]["images_per_s"], best[2]["images_per_s"]
        least = min(run["exchange"] for run in found[2])
        sent = f"{best[2]['bytes'] / 1e6:.1f}"
        print(f"| {name} | {one:.1f} | {two:.1f} | {two / one:.2f} | {100 * least:.0f} % | {sent} |", flush=True)


def _self(*words: str, processes: int = 0) -> str:
    """This script in a process of its own, or in several that torchrun starts."""
    launch = [sys.executable, "-m"]
    if processes:
        launch += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    env = os.environ | {"OMP_NUM_THREADS": "1"} if processes else dict(os.environ)
    done = subprocess.run(
        [*launch, "tests.bench.bench_train", *words], env=env, check=False, text=True, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def main(arguments: list[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="loop", choices=("loop", "recipes", "scaling", "one", "process"))
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", default="", help="settings of every recipe")
    given = parser.parse_args(arguments)
    names, variants, settings = given.recipes.split(","), given.variants.split(","), given.set.split()
    if given.what == "loop":
        loop()
    elif given.what == "recipes":
        recipes(names, variants, given.device, given.updates, settings)
    elif given.what == "scaling":
        scaling(names, given.updates, given.rounds, settings)
    elif given.what == "one":
        print(json.dumps(one_recipe(names[0], variants[0], given.device, given.updates, settings)))
    else:
        one_process(names[0], given.updates, settings)


if __name__ == "__main__":
    main()
