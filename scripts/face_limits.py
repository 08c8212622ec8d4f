#!/usr/bin/env python3
"""How the limits of faces treat rendered people: neutral ones that they refuse, and faults that they miss.

python scripts/face_limits.py --people 40

Rendered people alone; nobody's photographs have been counted.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np

from mesynth.core.errors import NoFaceError
from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.head import Subject
from mesynth.preprocess.face_quality import FaceLimits, find_upright, measure
from mesynth.preprocess.landmarks import MediapipeLandmarker

SIZE = 320


def shown(subject: Subject, yaw: float = 0, pitch: float = 0, roll: float = 0, **aus: float) -> np.ndarray:
    """[H,W,3] with sensor noise; angles in degrees added to the resting pose, action units by name: ``au43=1``."""
    au = np.zeros((1, len(AU_CODES), 2), np.float32)
    for name, value in aus.items():
        au[0, AU_INDEX[int(name[2:])]] = value
    pose = np.array([[*np.radians([yaw, pitch, roll]), 0, 0, 0]])
    return np.asarray(subject.render(au, pose, noise_seed=0)[0])


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """A smaller picture."""
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def pictures(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """What is wrong ("" for nothing: "neutral", "near"), and the picture."""
    rng = np.random.default_rng(seed)
    subject = Subject(seed, SIZE)
    neutral, points = shown(subject), subject.landmarks()
    width = float(np.ptp(points[:, 0]))
    yield "neutral: frontal, 320 px", neutral
    for _ in range(6):
        image = shown(subject, rng.uniform(-18, 18), rng.uniform(-12, 12), rng.uniform(-11, 11))
        yield "neutral: yaw to 18, pitch to 12, 75 to 245 px wide", scaled(image, rng.uniform(75, 245) / width)
    for name, aus in {
        "lids a third down (AU 43 .3)": {"au43": 0.3}, "eyes half closed (AU 43 .5)": {"au43": 0.5},
        "eyes closed (AU 43 1)": {"au43": 1.0}, "lips parted (AU 25 1)": {"au25": 1.0},
        "jaw dropped (AU 26 .5)": {"au26": 0.5}, "jaw dropped (AU 26 1)": {"au26": 1.0},
        "mouth stretched (AU 27 1)": {"au27": 1.0}, "smile (AU 12 .25)": {"au12": 0.25},
        "smile (AU 12 .5)": {"au12": 0.5}, "smile (AU 12 1)": {"au12": 1.0}, "frown (AU 4 1)": {"au4": 1.0},
        "brows up (AU 1 1)": {"au1": 1.0}, "nose wrinkled (AU 9 1)": {"au9": 1.0},
        "lip corners down (AU 15 1)": {"au15": 1.0},
    }.items():  # fmt: skip
        yield name, shown(subject, **aus)
    for angle in (20, 30, 40, 50):
        for sign in (-1, 1):
            yield f"yaw {angle} more", shown(subject, sign * angle)
    for angle in (-40, -30, -20):
        yield f"pitch {angle} more", shown(subject, pitch=angle)
    for name, quarters in {"on its side": 1, "upside down": 2}.items():
        yield name, np.ascontiguousarray(np.rot90(neutral, quarters))
    for pixels in (40, 50, 65):
        yield f"{pixels} px wide", scaled(neutral, pixels / width)
    low, high = points.min(0), points.max(0)
    for share in (0.1, 0.2, 0.3):
        x, y = (share * (high - low)).round()
        for cut in (
            neutral[:, int(low[0] + x) :], neutral[:, : int(high[0] - x)],
            neutral[int(low[1] + y) :], neutral[: int(high[1] - y)],
        ):  # fmt: skip
            yield f"{share:.0%} of the face cut off", np.ascontiguousarray(cut)
    iod = math.dist(points[36:42].mean(0), points[42:48].mean(0))
    skin = np.median(neutral[points[28:31, 1].astype(int).min() :, SIZE // 2 - 30 : SIZE // 2 + 30].reshape(-1, 3), 0)
    for name, where, w, h in (
        ("one eye", slice(36, 42), 0.33, 0.22), ("both eyes", slice(36, 48), 0.95, 0.25),
        ("mouth", slice(48, 68), 0.5, 0.3), ("nose and mouth", slice(30, 68), 0.8, 0.7),
        ("nose", slice(30, 36), 0.3, 0.3),
    ):  # fmt: skip
        (cx, cy), half_w, half_h = points[where].mean(0) if name != "nose and mouth" else points[33], w * iod, h * iod
        window = slice(max(int(cy - half_h), 0), int(cy + half_h)), slice(max(int(cx - half_w), 0), int(cx + half_w))
        shape = neutral[window].shape
        grid = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) // 6 % 2
        for fill in (
            np.full(shape, 20), np.full(shape, 160), np.repeat(grid[..., None] * 140 + 60, 3, 2),
            skin + 2 * cv2.GaussianBlur(rng.normal(0, 20, shape), (0, 0), 3), rng.integers(0, 256, shape),
        ):  # fmt: skip
            covered = neutral.copy()
            covered[window] = np.clip(fill, 0, 255)
            yield f"{name} covered", covered


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and print a line for every kind of picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--people", type=int, default=40, help="how many rendered people")
    parser.add_argument("--first", type=int, default=100, help="seed of the first; the stored parts are of 1000 and on")
    args = parser.parse_args(argv)
    seen: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    why: dict[str, Counter[str]] = {}
    detector = MediapipeLandmarker()
    for seed in range(args.first, args.first + args.people):
        for kind, image in pictures(seed):
            seen[kind] += 1
            try:
                unfit = measure(image, find_upright(detector, image)[0]).unfit(FaceLimits())
                names = [u.measure for u in unfit]
            except NoFaceError:
                names = ["no face"]
            refused[kind] += bool(names)
            why.setdefault(kind, Counter()).update(names)
    detector.close()
    for kind, n in seen.items():
        reasons = ", ".join(f"{name} {k}" for name, k in why[kind].most_common(4))
        print(f"{kind:52} refused {refused[kind]:4d} of {n:4d}  {reasons}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
