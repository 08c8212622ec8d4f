"""What the training loop costs beside the training itself: an update of a toy task in the loop and in a bare loop.

``python -m tests.bench.bench_train``
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mesynth.training.config import load_recipe
from mesynth.training.data.batches import Batch
from mesynth.training.loop import build_task
from mesynth.training.record import read_metrics
from mesynth.training.train import Machine, train
from tests.training import toy

UPDATES, WINDOW, BATCH = 3000, 50, 16
_made: dict[int, Batch] = {}


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


def main() -> None:
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


if __name__ == "__main__":
    main()
