"""Stacked against sequential training of the same folds, in one process, one after the other.

    python tests/bench/bench_folds.py [--members 24] [--steps 20] [--stack 16]

Prints one JSON object per network: seconds per member-step both ways, their ratio (above 1: stacking
is faster), and the largest difference between the two results.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from recognizer.models import NETWORKS
from recognizer.models.capsule_graph import CapsuleGraphConfig
from recognizer.models.region_attention import RegionAttentionConfig
from recognizer.models.ststnet import StstnetConfig
from recognizer.training import Stage, Task, TrainConfig, train

CONFIGS: dict[str, Any] = {
    "capsule_graph": CapsuleGraphConfig(), "region_attention": RegionAttentionConfig(), "ststnet": StstnetConfig(),
}  # fmt: skip


def make_task(network: str, members: int, steps: int, clips: int = 200, seed: int = 0) -> Task:
    """Random clips; what is learned does not matter for the time it takes."""
    rng = np.random.default_rng(seed)
    return Task(
        network=network, config=CONFIGS[network], n_classes=3,
        x=rng.normal(size=(clips, 3, 28, 28)).astype(np.float32), au=rng.integers(-1, 2, (clips, 50)).astype(np.int8),
        labels=np.tile(rng.integers(0, 3, clips), (members, 1)), added=np.zeros(clips, np.bool_),
        affine=np.tile(np.array([1.0, 0.0])[:, None], (members, 1, 3)), scale=np.ones((members, 3)),
        names=[f"fold{m}" for m in range(members)], seeds=[0] * members,
        stages=[Stage(name="train", weights=np.ones((members, clips)), steps=steps)],
    )  # fmt: skip


def timed(task: Task, config: TrainConfig) -> tuple[float, dict[str, torch.Tensor]]:
    """Seconds and result."""
    start = time.perf_counter()
    result = train(task, config)
    return time.perf_counter() - start, result


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=24)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--stack", type=int, nargs="+", default=[4, 8, 16, 24])
    asked = parser.parse_args()
    for network in NETWORKS:
        config = TrainConfig(steps=asked.steps, batch=asked.batch)
        train(make_task(network, 2, 2), config)  # first calls set up threads and kernels
        task = make_task(network, asked.members, asked.steps)
        units = asked.members * asked.steps
        alone, expected = timed(task, replace(config, stack=1))
        for stack in asked.stack:
            together, found = timed(task, replace(config, stack=stack))
            difference = max(float((expected[k] - found[k]).abs().max()) for k in expected)
            print(
                json.dumps(
                    {
                        "network": network, "members": asked.members, "steps": asked.steps, "batch": asked.batch,
                        "stack": stack, "threads": torch.get_num_threads(),
                        "sequential_ms_per_member_step": round(1e3 * alone / units, 3),
                        "stacked_ms_per_member_step": round(1e3 * together / units, 3),
                        "ratio": round(alone / together, 2), "largest_difference": difference,
                    }
                ),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
