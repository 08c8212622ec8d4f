"""Training pairs of the AU judge: rendered people, exact action units, and everything that is not an AU.

Each pair is an onset and an apex of one rendered head with its own head movement, sensor noise and, at
times, a blink; what is stored is what the judge sees of it (:func:`mesynth.quality.judge.observe`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mesynth import emotions, facs, seeds
from mesynth.errors import ConfigError
from mesynth.quality.judge import GRID, observe
from mesynth.quality.visible import visible_aus
from mesynth.types import AUVector

JUDGE_SEEDS = range(900_000, 910_000)
"""Head seeds that belong to the judge alone; nothing that is measured may show these people."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How many pairs are rendered and what is in them."""

    train: int = 180
    """People to learn from."""
    validation: int = 24
    """People who decide between models and calibrate the slope."""
    test: int = 40
    """People who are looked at once, for the card's figures."""
    pairs: int = 40
    """Onset-apex pairs of each person."""
    size: int = 128
    """Side of the rendered frames, pixels."""
    neutral: float = 0.15
    """Share of pairs without any AU: what is left is head movement and noise."""
    emotional: float = 0.25
    """Share of pairs with the AUs of an emotion; the others mix AUs freely."""
    blink: float = 0.12
    """Share of pairs with the lids part closed at the apex."""
    head: float = 2.0
    """Largest scale of the head movement (mesynth.head.head_motion), drawn from 0 to this."""
    jitter: float = 0.02
    """Standard deviation of the crop's landmark error, in inter-ocular distances (and of its log scale)."""
    seed: int = 0

    def __post_init__(self) -> None:
        people = self.train + self.validation + self.test
        if min(self.train, self.validation, self.test, self.pairs) < 1:
            raise ConfigError("train, validation, test and pairs must each be at least 1")
        if people > len(JUDGE_SEEDS):
            raise ConfigError(f"{people} people are more than the {len(JUDGE_SEEDS)} head seeds kept for the judge")
        if not 48 <= self.size <= 256:
            raise ConfigError(f"size={self.size} is outside 48..256 pixels")
        for name in ("neutral", "emotional", "blink"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name):g} is no probability; choose a number in [0, 1]")
        if self.neutral + self.emotional > 1:
            raise ConfigError(f"neutral + emotional = {self.neutral + self.emotional:g} exceeds 1")
        if self.head < 0 or self.jitter < 0:
            raise ConfigError("head and jitter must not be negative")

    def people(self, split: str) -> list[int]:
        """Head seeds of a split; the splits share nobody."""
        counts = {"train": self.train, "validation": self.validation, "test": self.test}
        start = sum(counts[s] for s in SPLITS[: SPLITS.index(split)])
        return list(JUDGE_SEEDS[start : start + counts[split]])


@dataclass(frozen=True, eq=False)
class Pairs:
    """``seen`` [N,3,GRID,GRID] float32 (see observe), ``aus`` [N,K,2] float32 visible AUs, ``person`` [N]."""

    seen: np.ndarray
    aus: np.ndarray
    person: np.ndarray


def draw_aus(rng: np.random.Generator, config: PairConfig) -> np.ndarray:
    """AUs of one apex [K,2] in [0,1]: none, an emotion's, or one to four at random; conflicts are damped."""
    kind = rng.random()
    if kind < config.neutral:
        return np.zeros((len(facs.AU_CODES), 2), np.float32)
    if kind < config.neutral + config.emotional:
        emotion = str(rng.choice(list(emotions.PUBLISHED)))
        sampling = emotions.AUSampling(intensity_min=0.08, intensity_max=0.9)
        return emotions.sample_aus(emotion, rng, sampling).intensity
    out = np.zeros((len(facs.AU_CODES), 2), np.float32)
    # Half of the draws stay in the range of micro-expressions, half use the whole scale.
    top = 0.5 if rng.random() < 0.5 else 1.0
    for row in rng.choice(len(facs.AU_CODES), size=int(rng.integers(1, 5)), replace=False):
        sides = rng.uniform(0.05, top) * np.exp(0.15 * rng.standard_normal(2))
        if facs.AU_CODES[row] in facs.MIDLINE:
            sides[:] = sides.mean()
        elif rng.random() < 0.35:
            sides[rng.integers(2)] *= rng.uniform(0, 0.35)
        out[row] = np.clip(sides, 0, 1)
    return facs.damp(AUVector(out)).intensity


def render_pairs(person: int, config: PairConfig) -> Pairs:
    """All pairs of one head seed; depends on (person, config) alone."""
    from mesynth.head import Subject, head_motion
    from mesynth.preprocess.align import SimilarityCrop, eye_centres

    rng = seeds.stream(config.seed, "judge-pairs", person)
    subject = Subject(person, size=config.size)
    n = config.pairs
    aus = np.zeros((n + 1, len(facs.AU_CODES), 2), np.float32)
    pose = np.zeros((n + 1, 6))
    for i in range(1, n + 1):
        aus[i] = draw_aus(rng, config)
        if rng.random() < config.blink:
            aus[i, facs.AU_INDEX[45]] = np.maximum(aus[i, facs.AU_INDEX[45]], rng.uniform(0.1, 1.0))
        length = int(rng.integers(5, 80))
        pose[i] = head_motion(length, rng, sd=rng.uniform(0, config.head), fps=200.0)[-1]
    frames = subject.render(aus, pose, noise_seed=int(rng.integers(2**31)))
    landmarks = subject.landmarks()
    eyes = eye_centres(landmarks)
    iod = float(np.hypot(*(eyes[1] - eyes[0])))
    seen = []
    for i in range(1, n + 1):  # each pair sees another small error of the landmark detector
        error = rng.normal(0, config.jitter, 3)
        centre = landmarks.mean(0)
        moved = (landmarks - centre) * np.exp(error[0]) + centre + error[1:] * iod
        crop = SimilarityCrop.from_landmarks(moved.astype(np.float32))
        seen.append(observe(crop.frames(frames[[0, i]])))
    return Pairs(np.concatenate(seen), visible_aus(aus[1:]), np.full(n, person))


def load_pairs(
    folder: Path, split: str, config: PairConfig, progress: Callable[[int, int], None] | None = None
) -> Pairs:
    """The pairs of a split; people already rendered into ``folder`` are read, the others rendered."""
    folder.mkdir(parents=True, exist_ok=True)
    people = config.people(split)
    parts = []
    for i, part in enumerate(_parts(folder, people, config)):
        parts.append(part)
        if progress:
            progress(i + 1, len(people))
    return Pairs(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("seen", "aus", "person")))


def _parts(folder: Path, people: list[int], config: PairConfig) -> Iterator[Pairs]:
    for person in people:
        file = folder / f"{person}.npz"
        if not file.is_file():
            made = render_pairs(person, config)
            temporary = file.with_suffix(".tmp.npz")
            np.savez(temporary, seen=made.seen.astype(np.float16), aus=made.aus)
            os.replace(temporary, file)
        with np.load(file, allow_pickle=False) as stored:
            seen, aus = stored["seen"].astype(np.float32), stored["aus"]
        assert seen.shape[1:] == (3, GRID, GRID)
        yield Pairs(seen, aus, np.full(len(seen), person))
