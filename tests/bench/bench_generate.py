"""100 clips of 64 frames at 128 px from one photo: the command's time, and where one process spends it.

``python -m tests.bench.bench_generate``
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import skimage

from mesynth.corpus.plan import Plan, PlanConfig
from mesynth.motion.nuisance import Nuisance, add_noise
from mesynth.motion.prior import Face, MotionPrior
from mesynth.motion.warp import backward_flow, warp_backward
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.landmarks import choose_landmarker
from mesynth.store.shards import png_bytes
from mesynth.store.videos import read_image

PHOTO = Path(skimage.__file__).parent / "data" / "astronaut.png"
CLIPS, FRAMES = 100, 64
OPTIONS = ["--emotion", "surprise", "--count", str(CLIPS), "--fps", "200", "--duration", "0.315", "--size", "128"]
REALISTIC = ["--noise", "1.5", "--head-motion", "1", "--blink", "0.3", "--style", "1"]


def command(extra: list[str], workers: int) -> float:
    """Seconds of the whole command, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["generate", "--faces", str(PHOTO), *OPTIONS, *extra, "--workers", str(workers), "--out", f"{folder}/c"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mesynth", *words], check=True, capture_output=True)
        return time.perf_counter() - start


def parts() -> dict[str, float]:
    """Milliseconds per frame of each part, one process, and the same warp by OpenCV (rounded positions)."""
    image = read_image(PHOTO)
    landmarker = choose_landmarker("auto")
    points = landmarker.detect(image)
    landmarker.close()
    crop = SimilarityCrop.from_landmarks(points, 128)
    face = Face(crop.frames(image[None])[0], crop.points(points))
    prior = MotionPrior(face)
    config = PlanConfig(emotions=("surprise",), count=8, fps=200, duration=(0.315, 0.315))
    seconds = dict.fromkeys(("flow", "invert", "warp", "noise", "png", "invert + warp by cv2.remap"), 0.0)
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(128, dtype=np.float32), np.arange(128, dtype=np.float32)), -1)
    for row in (Plan(config, 1)[0], *Plan(config, 1)):  # the first clip compiles and is not counted
        if row.index == 0:
            seconds = dict.fromkeys(seconds, 0.0)
        steps = prior.steps(row.aus, row.profile, FRAMES, 200, Nuisance(head=1, style=1), row.seed)
        for _ in range(FRAMES):
            t = [time.perf_counter()]
            flow = next(steps).skin
            t.append(time.perf_counter())
            backward = backward_flow(flow)
            t.append(time.perf_counter())
            frame = warp_backward(face.image, backward)
            t.append(time.perf_counter())
            frame = add_noise(frame, 1.5, rng)
            t.append(time.perf_counter())
            png_bytes(np.clip(frame + 0.5, 0, 255).astype(np.uint8))
            t.append(time.perf_counter())
            b = -flow
            for _ in range(6):
                b = -cv2.remap(flow, grid + b, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            cv2.remap(face.image, grid + b, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
            t.append(time.perf_counter())
            for name, (a, z) in zip(seconds, pairwise(t), strict=True):
                seconds[name] += z - a
    return {name: 1000 * s / (config.count * FRAMES) for name, s in seconds.items()}


def main() -> None:
    """Print the figures."""
    for label, extra in (("bare", []), ("with noise, head motion, blinks, style", REALISTIC)):
        for workers in (1, 2):
            print(f"{CLIPS} clips of {FRAMES} frames, {label}, {workers} processes: {command(extra, workers):.1f} s")
    cv2.setNumThreads(1)
    for name, ms in parts().items():
        print(f"{ms:6.2f} ms a frame  {name}")


if __name__ == "__main__":
    main()
