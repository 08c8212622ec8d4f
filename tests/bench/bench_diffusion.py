"""Seconds per clip of diffusion in motion space beside the motion GAN and beside diffusion frame by frame, in one run.

``python -m tests.bench.bench_diffusion [--volume RUN]``: 64 frames of 128 px, one thread; prints JSON. Clips of the
generators are timed whole. The plain baseline is diffusers' UNet2DModel, which is given the onset and draws every
frame anew by 25 DPM++ steps, with untrained weights (time does not depend on them): ``--frames`` of its frames are
timed and multiplied by 64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from mesynth.benchmark.protocol import BENCHMARK_SEEDS, Person
from mesynth.benchmark.run import one_thread
from mesynth.generators.registry import find_model
from mesynth.store.generator_folder import shipped_models
from tests.bench.bench_generators import FRAMES, REPEATS, SIZE, seconds

STEPS = 25
WIDTHS = {"usual size": (128, 128, 256, 256, 512), "small": (32, 32, 64, 64, 128)}
"""Channels from 128 px down; the first are those of Ho et al., "Denoising diffusion probabilistic models", 2020, at a
level less than for their 256 px."""
MODELS = ("landmark-mean", "motion_gan", "motion_diffusion@steps=8", "motion_diffusion@steps=4")


def baseline(widths: tuple[int, ...]) -> Any:
    """A UNet of noisy frame and onset, 6 channels in, 3 out; attention at 16 px as in DDPM."""
    from diffusers import UNet2DModel

    attends = [SIZE >> i == 16 for i in range(len(widths))]
    network: Any = UNet2DModel(
        sample_size=SIZE,
        in_channels=6,
        out_channels=3,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
    )
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def frame_seconds(network: Any, frames: int) -> list[float]:
    """Each of some frames, drawn by itself after one look that is not counted."""
    from diffusers import DPMSolverMultistepScheduler

    onset, taken = torch.zeros(1, 3, SIZE, SIZE), []
    network(torch.zeros(1, 6, SIZE, SIZE), 0)
    for seed in range(frames):
        start = time.perf_counter()
        solver: Any = DPMSolverMultistepScheduler()
        solver.set_timesteps(STEPS)
        x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        for t in solver.timesteps:
            x = solver.step(network(torch.cat([x, onset], 1), t).sample, t, x).prev_sample
        taken.append(time.perf_counter() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--volume", help="a trained flow_volume, if none is shipped")
    parser.add_argument("--frames", type=int, default=2, help="frames of the baseline that are timed")
    options = parser.parse_args()
    volume = options.volume or ("flow_volume" if "flow_volume" in shipped_models() else None)
    names = [*MODELS, *([volume, f"{volume}@steps=4"] if volume else [])]
    person = Person(BENCHMARK_SEEDS.stop - 1, SIZE)
    table: dict[str, dict[str, Any]] = {}
    with one_thread():
        for name in names:
            model = find_model(name)
            taken = seconds(model.load(), person, REPEATS)
            shown = model.described if model.name == "flow_volume" else name
            table[shown] = {"seconds": statistics.median(taken), "clips timed": len(taken)}
        for name, widths in WIDTHS.items():
            network = baseline(widths)
            taken = frame_seconds(network, options.frames)
            table[f"frame by frame, {name}"] = {
                "seconds": FRAMES * statistics.median(taken),
                "frames timed": len(taken),
                "seconds a frame": statistics.median(taken),
                "million parameters": sum(p.numel() for p in network.parameters()) / 1e6,
                "channels": widths,
            }
    slow = table["frame by frame, usual size"]["seconds"]
    small = table["frame by frame, small"]["seconds"]
    for row in table.values():
        row |= {"times faster than usual size": slow / row["seconds"], "than small": small / row["seconds"]}
    print(json.dumps({"frames": FRAMES, "size": SIZE, "steps a frame": STEPS, "threads": 1, "models": table}, indent=1))


if __name__ == "__main__":
    main()
