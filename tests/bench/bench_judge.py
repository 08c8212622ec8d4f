"""The AU judge on a head of another make: agreement per AU, and which AU it names.

``python -m tests.bench.bench_judge --head FILE [--people 24] [--pairs 24] [JUDGE ...]``: ``FILE`` as ``mesynth
compare --head`` reads it; each ``JUDGE`` a ``judge.safetensors`` or ``packaged``. Half of the pairs show one AU of .2
to .8, the others what :func:`mesynth.metrics.judge_train.draw_aus` draws, of the AUs that the head has shapes for; with
head motion, without noise and blinks. Nothing learns from these people.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import torch

from mesynth.core import facs, seeds
from mesynth.core.errors import ConfigError
from mesynth.head import head_motion
from mesynth.head.foreign import ForeignHead, ForeignSubject
from mesynth.metrics.control import agreement
from mesynth.metrics.judge_train import PairConfig, draw_aus
from mesynth.metrics.networks.judge import AUJudge, observe, visible_aus
from mesynth.preprocess.align import SimilarityCrop


def pairs(head: ForeignHead, people: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the judge sees [N,3,G,G], true visible AUs [N,K,2], and whether one AU alone is shown [N]."""
    config, observed, true, single = PairConfig(blink=0.0), [], [], []
    lacking = [facs.AU_INDEX[code] for code in head.missing]
    for person in range(people):
        draw = seeds.stream(1, "judge-second", person)
        subject = ForeignSubject(head, person, 128)
        aus, pose = np.zeros((count + 1, len(facs.AU_CODES), 2), np.float32), np.zeros((count + 1, 6))
        for i in range(1, count + 1):
            if i % 2:
                aus[i, facs.AU_INDEX[int(draw.choice(list(head.available)))]] = draw.uniform(0.2, 0.8)
            else:
                aus[i] = draw_aus(draw, config)
                aus[i, lacking] = 0
            pose[i] = head_motion(int(draw.integers(5, 80)), draw, sd=draw.uniform(0, 2.0), fps=200.0)[-1]
        frames = SimilarityCrop.from_landmarks(subject.landmarks()).frames(subject.render(aus, pose))
        observed += [observe(frames[[0, i]]) for i in range(1, count + 1)]
        true.append(visible_aus(aus[1:]))
        single += [i % 2 == 1 for i in range(1, count + 1)]
    return np.concatenate(observed), np.concatenate(true), np.array(single)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", required=True)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("judges", nargs="*", default=["packaged"])
    options = parser.parse_args()
    if options.pairs < 2:
        raise ConfigError(f"--pairs {options.pairs}: give two or more a person")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    observed, true, single = pairs(ForeignHead.read(options.head), options.people, options.pairs)
    for name in options.judges:
        read = AUJudge.load(None if name == "packaged" else name).read(observed)
        icc = {
            code: agreement(true[:, k].ravel(), read[:, k].ravel()).icc
            for k, code in enumerate(facs.AU_CODES)
            if true[:, k].any()
        }
        alone, named = true[single].mean(-1), read[single].mean(-1)
        right = float((alone.argmax(1) == named.argmax(1)).mean())
        wrong = float(np.abs(true - read)[true > 0].mean())
        known = [v for v in icc.values() if v is not None]
        print(f"{name}: ICC {np.mean(known):.3f}, one AU named right {right:.3f}, error where shown {wrong:.3f}")
        print("  " + ", ".join(f"{code} {v:.2f}" for code, v in icc.items() if v is not None))


if __name__ == "__main__":
    main()
