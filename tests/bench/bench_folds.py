"""Stacked folds against plain PyTorch, in one process, one after the other.

    python -m tests.bench.bench_folds [--members 16] [--steps 20] [--stack 2 4 8 16]

Plain is what one writes first: a fold after the other, a network and an optimizer each, torch's default threads. For
STSTNet it is the published form (three convolutions, nn.Dropout); for the others the same network, unstacked. Prints a
JSON object per network and stack: milliseconds per member-step both ways and their ratio (above 1: stacking is faster),
and, where both draw the same numbers, the largest difference between stacked and unstacked training.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.types import N_AUS
from recognizer.models import build
from recognizer.models.capsule_graph import CapsuleGraphConfig
from recognizer.models.common import Shape
from recognizer.models.region_attention import RegionAttentionConfig
from recognizer.models.ststnet import StstnetConfig
from recognizer.training import Stage, Task, TrainConfig, train

CONFIGS: dict[str, Any] = {
    "capsule_graph": CapsuleGraphConfig(), "region_attention": RegionAttentionConfig(), "ststnet": StstnetConfig(),
}  # fmt: skip
BATCH = {"capsule_graph": 32, "region_attention": 32, "ststnet": 256}
"""Of the recipes."""


class PublishedStstnet(nn.Module):
    """As the authors' code has it: what the field runs."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, f, 3, padding=2), nn.ReLU(), nn.BatchNorm2d(f), nn.MaxPool2d(3, 3, 1), nn.Dropout(0.5)
            )
            for f in (3, 5, 8)
        )
        self.classify = nn.Linear(400, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,3,28,28] -> [B,3]."""
        maps = torch.cat([stream(x) for stream in self.streams], 1)
        out: torch.Tensor = self.classify(F.avg_pool2d(maps, 2).flatten(1))
        return out


def make_task(network: str, members: int, steps: int, clips: int = 434, seed: int = 0) -> Task:
    """Random clips, as many as a fold of the composite learns from; what is learned does not change the time."""
    rng = np.random.default_rng(seed)
    return Task(
        network=network, config=CONFIGS[network], n_classes=3, shape=Shape(),
        inputs={"flow": rng.normal(size=(clips, 3, 28, 28)).astype(np.float32)},
        au=rng.integers(-1, 2, (clips, 2 * N_AUS)).astype(np.int8),
        labels=np.tile(rng.integers(0, 3, clips), (members, 1)), added=np.zeros(clips, np.bool_),
        affine=np.tile(np.array([1.0, 0.0])[:, None], (members, 1, 3)), scale=np.ones((members, 3)),
        names=[f"fold{m}" for m in range(members)], seeds=[0] * members,
        stages=[Stage(name="train", weights=np.ones((members, clips)), steps=steps)],
    )  # fmt: skip


def plain_seconds(network: str, task: Task, members: int, steps: int, batch: int) -> float:
    """Train folds one by one the plain way."""
    x, au = torch.from_numpy(task.inputs["flow"]), torch.from_numpy(task.au).long()
    y = torch.from_numpy(task.labels[0])
    start = time.perf_counter()
    for _ in range(members):
        model: nn.Module
        if network == "ststnet":
            model = PublishedStstnet()
        else:
            model = build(network, task.config, 3, task.shape)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(steps):
            i = torch.randint(len(x), (batch,))
            given = x[i]
            mirrored = torch.rand(batch) < 0.5
            flipped = given.flip(-1) * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
            given = torch.where(mirrored[:, None, None, None], flipped, given)
            optimizer.zero_grad()
            out = model(given)
            loss = F.cross_entropy(out, y[i]) if network == "ststnet" else model.loss(out, y[i], au[i])  # type: ignore[operator]
            loss.backward()
            optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--stack", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--network", nargs="+", default=list(CONFIGS))
    asked = parser.parse_args()
    for network in asked.network:
        batch = BATCH[network]
        config = TrainConfig(steps=asked.steps, batch=batch)
        task = make_task(network, asked.members, asked.steps)
        units = asked.members * asked.steps
        train(make_task(network, 2, 2), config)  # first calls set up threads and kernels
        plain_seconds(network, task, 1, 2, batch)
        plain = plain_seconds(network, task, min(asked.members, 4), asked.steps, batch) / min(asked.members, 4)
        reference: dict[str, torch.Tensor] | None = None
        for stack in asked.stack:
            start = time.perf_counter()
            found = train(task, replace(config, stack=stack))
            seconds = time.perf_counter() - start
            reference = found if reference is None else reference
            facts = {
                "network": network, "members": asked.members, "steps": asked.steps, "batch": batch, "stack": stack,
                "threads": torch.get_num_threads(),
                "plain_ms_per_member_step": round(1e3 * plain / asked.steps, 3),
                "stacked_ms_per_member_step": round(1e3 * seconds / units, 3),
                "ratio": round(plain * asked.members / seconds, 2),
                "largest_difference": max(float((reference[k] - found[k]).abs().max()) for k in found),
            }  # fmt: skip
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
