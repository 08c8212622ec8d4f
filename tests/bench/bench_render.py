"""Frames per second of the head renderer: one clip in one call, against rebuilding every frame on its own.

    python tests/bench/bench_render.py [--frames 200] [--size 128]

The plain path does for every frame what a clip does once: paints and bakes the resting face, then renders a single
frame. Both run in this process, after one warm-up that loads the compiled kernels.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from mesynth.core.facs import AU_CODES
from mesynth.head import HeadModel, Subject, head_motion


def clip(frames: int) -> np.ndarray:
    """AU intensities [T,K,2] of one micro-expression: AU 4, 6 and 12 rise and fall."""
    au = np.zeros((frames, len(AU_CODES), 2), np.float32)
    rise = np.sin(np.linspace(0.0, np.pi, frames)) ** 2
    for code, peak in ((4, 0.2), (6, 0.2), (12, 0.3)):
        au[:, AU_CODES.index(code)] = (peak * rise)[:, None]
    return au


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--plain-frames", type=int, default=10)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()

    HeadModel.load()
    au, pose = clip(args.frames), head_motion(args.frames, np.random.default_rng(0))
    subject = Subject(0, args.size)
    subject.render(au[:2], pose[:2], noise_seed=0)

    start = time.perf_counter()
    Subject(1, args.size)
    construction = time.perf_counter() - start

    start = time.perf_counter()
    subject.render(au, pose)
    clean = args.frames / (time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    subject.render(au, pose, noise_seed=0)
    cpu = (time.process_time() - cpu) / args.frames
    noisy = args.frames / (time.perf_counter() - start)

    start = time.perf_counter()
    for t in range(args.plain_frames):
        Subject(0, args.size).render(au[t : t + 1], pose[t : t + 1], noise_seed=0)
    plain = args.plain_frames / (time.perf_counter() - start)

    subject.flow(au[0], au[1])
    start = time.perf_counter()
    for t in range(20):
        subject.flow(au[0], au[t], pose[0], pose[t])
    flow = 20 / (time.perf_counter() - start)

    print(f"size {args.size} px, supersampling {subject.supersample}, {args.frames} frames")
    print(f"subject (onset work)   {1e3 * construction:8.1f} ms")
    print(f"clip                   {clean:8.1f} frames/s")
    print(f"clip with sensor noise {noisy:8.1f} frames/s")
    print(f"processor time a frame {1e3 * cpu:7.2f} ms (what a busy machine does not change)")
    print(f"plain, frame by frame  {plain:8.1f} frames/s")
    print(f"ratio                  {noisy / plain:8.1f}")
    print(f"exact flow             {flow:8.1f} fields/s")


if __name__ == "__main__":
    main()
