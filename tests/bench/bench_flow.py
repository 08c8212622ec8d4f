"""Flow estimators against exact flow of rendered clips, onset to apex: ``python -m tests.bench.bench_flow``.

One JSON line a result: end-point error (pixels), its ratio to the error of predicting no motion, the angular error
where the face moves by more than 0.3 px, and milliseconds a pair on one core; then TV-L1 in batches beside
scikit-image's, with two threads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from skimage.registration import optical_flow_tvl1

from mesynth.core.errors import WeightsUnavailable
from mesynth.core.facs import parse_request
from mesynth.core.seeds import stream
from mesynth.head import Subject, head_motion
from mesynth.preprocess.flow import METHODS, estimate_flows, grayscale
from mesynth.preprocess.tvl1 import tvl1
from tests.bench.timing import milliseconds

ACTIONS = ("1={0},2={0}", "4={0}", "4={0},7={0}", "6={0},12={0}", "L12={0}", "9={0}", "10={0}", "14={0}",
           "15={0},17={0}", "1={0},4={0},20={0}", "25={0},26={0}", "R14={0},24={0}")  # fmt: skip
INTENSITIES = (0.10, 0.25)
MOVING = 0.3
"""Pixels above which a direction means something."""
FPS, APEX = 200.0, 30


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pairs: ``onset`` and ``apex`` [N,H,W,3] uint8, ``uv`` [N,2,H,W] exact pixels, ``face`` [N,H,W] bool."""

    onset: np.ndarray
    apex: np.ndarray
    uv: np.ndarray
    face: np.ndarray


def rendered_pairs(actions: tuple[str, ...] = ACTIONS, intensities: tuple[float, ...] = INTENSITIES) -> Pairs:
    """A person for each action, with sensor noise, at each intensity; every other person's head moves as well."""
    made = []
    for i, action in enumerate(actions):
        subject = Subject(100 + i, size=128)
        pose = head_motion(APEX + 1, stream(0, "bench flow", i), fps=FPS)[[0, -1]] if i % 2 else np.zeros((2, 6))
        for j, intensity in enumerate(intensities):
            apex = parse_request(action.format(intensity)).intensity
            frames = subject.render(np.stack([0 * apex, apex]), pose, noise_seed=2 * i + j)
            flow = subject.flow(0 * apex, apex, pose[0], pose[1])
            made.append((*frames, flow.uv, flow.face & flow.visible))
    return Pairs(*(np.stack(column) for column in zip(*made, strict=True)))


def errors(uv: np.ndarray, pairs: Pairs) -> dict[str, float]:
    """Pixels of all faces together: end-point error, its ratio to no motion's, angle where the face moves."""
    epe = np.hypot(*np.moveaxis(uv - pairs.uv, 1, 0))
    length = np.hypot(*np.moveaxis(pairs.uv, 1, 0))
    moving = pairs.face & (length > MOVING)
    dot = (uv * pairs.uv).sum(1)[moving]
    cross = (uv[:, 0] * pairs.uv[:, 1] - uv[:, 1] * pairs.uv[:, 0])[moving]
    still = np.hypot(*np.moveaxis(uv, 1, 0))[moving] == 0
    angle = np.where(still, 90.0, np.degrees(np.abs(np.arctan2(cross, dot))))  # no motion has no direction: chance
    return {
        "epe_px": float(epe[pairs.face].mean()),
        "epe_moving_px": float(epe[moving].mean()),
        "relative_epe": float(epe[pairs.face].sum() / length[pairs.face].sum()),
        "angle_degrees": float(angle.mean()),
    }


def accuracy(pairs: Pairs) -> list[dict[str, object]]:
    """A row an estimator, and the two that any estimator must beat: no motion, and the mean of the exact flows."""
    rows: list[dict[str, object]] = []
    for method in METHODS:
        try:
            uv = np.stack([f.uv for f in estimate_flows(pairs.onset, pairs.apex, method)])
        except WeightsUnavailable as missing:
            rows.append({"flow": method, "not measured": str(missing)})
            continue
        call = partial(estimate_flows, pairs.onset[:1], pairs.apex[:1], method)
        rows.append({"flow": method, **errors(uv, pairs), "ms_per_pair": milliseconds(call)})
    mean = np.broadcast_to((pairs.uv * pairs.face[:, None]).mean(0), pairs.uv.shape)
    return [*rows, {"flow": "zero", **errors(0 * pairs.uv, pairs)}, {"flow": "mean flow", **errors(mean, pairs)}]


def speed(pairs: Pairs, threads: int = 2, count: int = 16) -> dict[str, float]:
    """Batched TV-L1 beside skimage's, pair by pair, in a process of ``threads`` threads (skimage's uses one)."""
    torch.set_num_threads(threads)
    pick = np.arange(count) % len(pairs.onset)
    a, b = (grayscale(x[pick]) for x in (pairs.onset, pairs.apex))
    first, second = torch.from_numpy(a), torch.from_numpy(b)
    ours = milliseconds(lambda: tvl1(first, second), 3) / count
    theirs = milliseconds(lambda: [optical_flow_tvl1(x, y) for x, y in zip(a[:8], b[:8], strict=True)], 2) / 8
    torch.set_num_threads(1)
    return {
        "threads": threads,
        "batch": count,
        "ms_tvl1": ours,
        "ms_skimage": theirs,
        "skimage_over_tvl1": theirs / ours,
    }


def rounded(row: dict[str, object]) -> str:
    return json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(1)
    pairs = rendered_pairs()
    lengths = np.hypot(*np.moveaxis(pairs.uv, 1, 0))[pairs.face]
    print(rounded({"clips": len(pairs.uv), "mean_motion_px": float(lengths.mean()),
                   "99th percentile_px": float(np.percentile(lengths, 99)),
                   "moving_share": float((lengths > MOVING).mean())}))  # fmt: skip
    for row in accuracy(pairs):
        print(rounded(row))
    print(rounded(dict(speed(pairs))))


if __name__ == "__main__":
    main()
