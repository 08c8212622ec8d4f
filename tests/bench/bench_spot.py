"""Errors of apex, onset and offset spotting on rendered clips with known truth: ``python -m tests.bench.bench_spot``.

Subjects, AUs, intensities, temporal profiles, head motion, sensor noise and blinks vary; frames are cropped by
:mod:`mesynth.preprocess.align` from the onset's exact landmarks. Half of the clips begin at the onset and end at
the offset (the layout of SMIC), half have neutral margins; onsets and offsets are scored on the latter alone.
Parameters were chosen on seeds 1 and 2; the figures to report are those of other seeds (default 100).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mesynth.core import facs
from mesynth.core.emotions import PUBLISHED, AUSampling, sample_aus
from mesynth.core.profiles import PROFILES, draw_profile, frame_count
from mesynth.core.seeds import derived, stream
from mesynth.head import Subject, blink, head_motion
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.spot import METHODS, SpotConfig, Spotted, spot_apex

SIZE, FPS = 192, 100.0
CLIPS_PER_SUBJECT = 4
_SAMPLING = AUSampling(intensity_min=0.1, intensity_max=0.6)
_BLINKS = 0.25
VARIANTS = {
    **{method: (method, SpotConfig()) for method in METHODS},
    "flow, dis": ("flow", SpotConfig(flow="dis")),
    "flow, divide and conquer": ("flow", SpotConfig(peak="divide")),
    "flow, no return assumed": ("flow", SpotConfig(returns=False)),
}


@dataclass(frozen=True, eq=False)
class Known:
    """A rendered clip whose frames of onset, apex and offset are known."""

    frames: np.ndarray
    landmarks: np.ndarray
    onset: int
    apex: int
    offset: int
    profile: str
    aus: str
    margins: bool
    blinks: bool

    @property
    def asymmetric(self) -> bool:
        """The apex lies more than a tenth of the clip away from its middle frame."""
        return abs(self.apex / (len(self.frames) - 1) - 0.5) > 0.1


def make_clips(n: int, seed: int) -> list[Known]:
    """``n`` clips of ``n / CLIPS_PER_SUBJECT`` subjects; clip ``i`` depends on (seed, i) alone."""
    clips = []
    for first in range(0, n, CLIPS_PER_SUBJECT):
        subject = Subject(derived(seed, "spot-subject", first), size=SIZE, supersample=2)
        clips += [_clip(subject, seed, i) for i in range(first, min(first + CLIPS_PER_SUBJECT, n))]
    return clips


def _clip(subject: Subject, seed: int, index: int) -> Known:
    rng = stream(seed, "spot-clip", index)
    name = list(PROFILES)[index % len(PROFILES)]
    profile = draw_profile(name, rng)
    aus = sample_aus(str(rng.choice(list(PUBLISHED))), rng, _SAMPLING)
    n = frame_count(float(np.clip(rng.normal(0.335, 0.09), 0.15, 0.5)), FPS)
    margins = bool(index // 2 % 2)
    before, after = (int(v) for v in rng.integers(4, 16, 2)) if margins else (0, 0)
    total = before + n + after
    au = np.zeros((total, len(facs.AU_CODES), 2), np.float32)
    curve = profile.alpha(n, profile.draw_lags(len(facs.AU_CODES), rng))
    au[before : before + n] = curve[:, :, None] * aus.intensity
    closure = np.zeros(total, np.float32)
    if rng.random() < _BLINKS:
        while closure.max() < 0.5:
            closure = blink(total, rng, FPS)
    au[:, facs.AU_INDEX[45]] = closure[:, None]
    pose = head_motion(total, rng, fps=FPS)
    frames = subject.render(au, pose, noise_seed=derived(seed, "spot-noise", index))
    landmarks = subject.landmarks(au[0], pose[0])
    crop = SimilarityCrop.from_landmarks(landmarks)
    return Known(
        frames=crop.frames(frames), landmarks=crop.points(landmarks), onset=before,
        apex=before + profile.apex_index(n), offset=before + n - 1, profile=name,
        aus=facs.format_vector(aus), margins=margins, blinks=bool(closure.max() > 0),
    )  # fmt: skip


def scores(predicted: Sequence[int], truth: Sequence[int], lengths: Sequence[int]) -> dict[str, float]:
    """Absolute errors: mean and median in frames, mean in % of the clip, share within a tenth of the clip."""
    error = np.abs(np.asarray(predicted, float) - np.asarray(truth, float))
    share = error / np.asarray(lengths, float)
    return {
        "frames": round(float(error.mean()), 2), "median": round(float(np.median(error)), 1),
        "% of clip": round(float(100 * share.mean()), 1), "within 10 %": round(float((share <= 0.1).mean()), 2),
    }  # fmt: skip


def apex_scores(clips: Sequence[Known], apexes: Sequence[int]) -> dict[str, dict[str, float]]:
    """Apex scores on all clips, those with an asymmetric profile, and those with a blink."""
    groups = {
        "all": [True] * len(clips),
        "asymmetric": [c.asymmetric for c in clips],
        "blink": [c.blinks for c in clips],
    }
    table = {}
    for name, chosen in groups.items():
        part = [(c, a) for c, a, take in zip(clips, apexes, chosen, strict=True) if take]
        if part:
            table[f"{name} ({len(part)})"] = scores(
                [a for _, a in part], [c.apex for c, _ in part], [len(c.frames) for c, _ in part]
            )
    return table


def boundary_scores(clips: Sequence[Known], found: Sequence[Spotted]) -> dict[str, dict[str, float]]:
    """Scores of onset and offset on the clips with neutral margins."""
    part = [(c, f) for c, f in zip(clips, found, strict=True) if c.margins]
    lengths = [len(c.frames) for c, _ in part]
    return {
        "onset": scores([f.onset for _, f in part], [c.onset for c, _ in part], lengths),
        "offset": scores([f.offset for _, f in part], [c.offset for c, _ in part], lengths),
    }


def confidence_auc(clips: Sequence[Known], found: Sequence[Spotted]) -> float:
    """Chance that a clip spotted within a tenth of its length has the higher confidence than one that is not."""
    right = np.array(
        [abs(f.apex - c.apex) <= 0.1 * len(c.frames) for c, f in zip(clips, found, strict=True)], dtype=bool
    )
    confidence = np.array([f.confidence for f in found])
    if right.all() or not right.any():
        return float("nan")
    pairs = confidence[right][:, None] - confidence[~right][None]
    return round(float(((pairs > 0) + 0.5 * (pairs == 0)).mean()), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = make_clips(arguments.clips, arguments.seed)
    lengths = [len(c.frames) for c in clips]
    rng = stream(arguments.seed, "spot-random")
    baselines = {
        "middle frame": [n // 2 for n in lengths],
        "uniform random": [int(rng.integers(n)) for n in lengths],
    }
    print(json.dumps({"clips": len(clips), "mean frames": float(np.mean(lengths)), "fps": FPS}))
    for name, apexes in baselines.items():
        print(json.dumps({"baseline": name, "apex": apex_scores(clips, apexes)}))
    part = [(c, n) for c, n in zip(clips, lengths, strict=True) if c.margins]
    ends = {
        "onset": scores([0] * len(part), [c.onset for c, _ in part], [n for _, n in part]),
        "offset": scores([n - 1 for _, n in part], [c.offset for c, _ in part], [n for _, n in part]),
    }
    print(json.dumps({"baseline": "first and last frame", "boundaries": ends}))
    for label, (method, config) in VARIANTS.items():
        start = time.perf_counter()
        found = [spot_apex(c.frames, c.landmarks, FPS, method, config) for c in clips]
        milliseconds = 1e3 * (time.perf_counter() - start) / len(clips)
        row = {
            "method": label, "apex": apex_scores(clips, [f.apex for f in found]),
            "boundaries": boundary_scores(clips, found), "confidence AUC": confidence_auc(clips, found),
            "ms per clip": round(milliseconds),
        }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
