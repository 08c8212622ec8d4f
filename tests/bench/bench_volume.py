"""What a volume is worth: end-point error over all frames of held-out rendered clips, beside profile times apex.

``python -m tests.bench.bench_volume RUN``: clips of people who validate, 32 frames with exact flow each, with AUs that
all follow the profile (lag 0), with lags as in training, and with lags that are all drawn or all habit. Prints JSON:
pixels of the network's size, means over clips, and the standard error of the difference to profile times apex.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mesynth.benchmark.run import one_thread
from mesynth.core import facs, seeds
from mesynth.core.facs import AUConflictError
from mesynth.core.types import AUVector
from mesynth.generators.base import ClipRequest
from mesynth.generators.diffusion_config import Sampling
from mesynth.generators.formation import face_motion, limited_length
from mesynth.generators.motion_diffusion.network import REACH
from mesynth.generators.registry import find_model
from mesynth.motion.prior import Face
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.warping import from_means
from mesynth.training.data.rendered import VALIDATION_SEEDS
from mesynth.training.data.sequences import Moves, SequenceConfig, Stand, draw_moves

FRAMES, FPS, DRAWS = 32, 100, 4
KINDS = {
    "no lag": (0.0, 0.0),
    "lag, half habit": (0.15, 0.5),
    "lag, all drawn": (0.15, 0.0),
    "lag, all habit": (0.15, 1.0),
}


def clips(size: int, lag: float, ordered: float, people: int, each: int) -> Any:
    """Moves and stands of held-out clips; those with AUs that exclude each other are left out."""
    config = SequenceConfig(size=size, lag=lag, ordered=ordered, per_identity=12).clips(validation=True)
    for person in range(VALIDATION_SEEDS.start + 100, VALIDATION_SEEDS.start + 100 + people):
        for index in range(each):
            rng = seeds.stream(1, f"bench-volume-{person}", index)
            moves = draw_moves(config, person, 3 + index, rng)
            try:
                facs.reject_conflicts(AUVector(moves.aus))
            except AUConflictError:
                continue
            apex = round(moves.profile.apex * (FRAMES - 1)) / (FRAMES - 1)
            yield replace(moves, profile=replace(moves.profile, apex=apex)), Stand.drawn(config.people, person, rng)


def errors(generator: Any, base: Any, moves: Moves, stand: Stand) -> dict[str, float]:
    """End-point errors of one clip, pixels, over pixels seen and all frames; ``base``: the 2D network."""
    aus = AUVector(moves.aus)
    at = np.arange(FRAMES) / (FRAMES - 1)
    exact, seen = stand.flows(moves.shown(at))
    landmarks = stand.crop.points(stand.subject.landmarks(pose=stand.pose))
    face = Face(stand.frames(np.zeros((1, *moves.aus.shape), np.float32))[0], landmarks)
    level = moves.profile.alpha(FRAMES)[:, None, None, None]

    def epe(flow: np.ndarray) -> float:
        length = np.sqrt(((flow.transpose(0, 3, 1, 2) - exact) ** 2).sum(1))
        return float((length * seen).sum() / seen.sum())

    draws = [generator.volume(ClipRequest(face, aus, moves.profile, FRAMES, FPS, seed=s)) for s in range(DRAWS)]
    flows = [draw.flows() for draw in draws]
    apex = exact[moves.profile.apex_index(FRAMES)].transpose(1, 2, 0)
    flat = [level * _drawn_apex(base, generator.steps, face, aus, s) for s in range(DRAWS)]
    return {
        "no motion": epe(0 * flows[0]),
        "profile x exact apex": epe(level * apex),
        "profile x expected apex": epe(level * draws[0].fields[-1]),
        "profile x drawn apex": float(np.mean([epe(f) for f in flat])),
        "profile x mean of 4 drawn apexes": epe(np.mean(flat, 0)),
        "volume, drawn": float(np.mean([epe(f) for f in flows])),
        "volume, mean of 4 drawn": epe(np.mean(flows, 0)),
    }


@torch.inference_mode()
def _drawn_apex(base: Any, steps: int, face: Face, aus: AUVector, seed: int) -> np.ndarray:
    """[S,S,2]: an apex that the 2D network draws, on the face's picture."""
    size = base.config["size"]
    crop = SimilarityCrop.from_landmarks(face.landmarks, size)
    picture = torch.from_numpy(crop.frames(face.image[None])).permute(0, 3, 1, 2).float() / 255
    noise = torch.from_numpy(seeds.stream(seed, "motion-diffusion").standard_normal((1, 2, size // 2, size // 2), "f4"))
    asked, known = torch.from_numpy(aus.intensity)[None], torch.from_numpy(aus.mask)[None]
    drawn = from_means(base(picture, asked, known, noise, Sampling(steps=steps)))[0].permute(1, 2, 0).numpy()
    drawn = limited_length(np.ascontiguousarray(drawn), REACH * len(drawn))
    nothing = np.zeros((*face.image.shape[:2], 3), np.float32)
    return face_motion(crop, face.image.shape[:2], [(0, 0)], drawn[None], 0 * drawn, nothing).fields[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="End-point error over all frames: volumes and profile times apex.")
    parser.add_argument("run", help="a trained flow_volume")
    parser.add_argument("--flat", default="motion_diffusion", help="the motion_diffusion that it started from")
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--each", type=int, default=3)
    options = parser.parse_args()
    generator: Any = find_model(options.run).load()
    flat: Any = find_model(options.flat).load()
    table: dict[str, Any] = {}
    with one_thread():
        for kind, (lag, ordered) in KINDS.items():
            start = time.perf_counter()
            found = [
                errors(generator, flat.network, *clip)
                for clip in clips(generator.size, lag, ordered, options.people, options.each)
            ]
            columns = {name: np.array([f[name] for f in found]) for name in found[0]}
            row: dict[str, Any] = {name: round(float(v.mean()), 4) for name, v in columns.items()}
            for ours, theirs in (("volume, drawn", "profile x drawn apex"),
                                 ("volume, mean of 4 drawn", "profile x expected apex")):  # fmt: skip
                apart = columns[ours] - columns[theirs]
                row[f"{ours} - {theirs}"] = [
                    round(float(apart.mean()), 4), round(float(apart.std() / np.sqrt(len(apart))), 4)
                ]  # fmt: skip
            table[kind] = row | {"clips": len(found)}
            print(f"{kind}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
