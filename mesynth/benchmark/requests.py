"""The requests that every generator of a benchmark gets: each AU alone, at each intensity, on both sides and on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.facs import AU_CODES, AU_INDEX, LETTER_INTENSITY, MIDLINE, SIDES
from mesynth.core.types import AUVector
from mesynth.head.render import MAX_SIZE, head_pose
from mesynth.training.data.rendered import RENDER_SCALE

BENCHMARK_SEEDS = range(990_000, 1_000_000)
"""Head seeds of the people that generators are compared on; nobody trains or is chosen on them."""
MIDDLE = 0.5
MAX_DIVERSE = 4
MAX_PICTURED = 6
"""AUs whose pictures are compared on another head: there motion is what is asked about."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Whom the generators meet and the requests they get; every figure but the seconds depends on this alone."""

    people: int = 8
    """Rendered people; intervals come from resampling them."""
    first: int = BENCHMARK_SEEDS.start
    """Head seed of the first person; the others follow."""
    size: int = 128
    """Side of the crops, pixels."""
    codes: tuple[int, ...] = AU_CODES
    levels: tuple[float, ...] = tuple(LETTER_INTENSITY.values())
    """Target intensities of each AU; 0 is always requested once."""
    resamples: int = 500
    """Bootstrap draws of people."""
    clip_frames: int = 64
    """Frames of the clip that is timed."""
    repeats: int = 3
    """Timed clips, after one that is not counted."""
    samples: int = 4
    """Seeds of each request whose spread is looked at. The truth lies in the range of N with a probability of
    (N - 1) / (N + 1) where it is one of their kind: 19 have a range of 90 %."""
    seed: int = 0
    head: str = ""
    """Hash of the blendshape head whose people they are (mesynth.head.foreign); empty: the packaged head's."""
    yaw: float = 0.0
    """Degrees that every head is turned to image right."""
    pitch: float = 0.0
    """Degrees that every head is turned down."""

    def __post_init__(self) -> None:
        if self.people < 2:
            raise ConfigError(f"people={self.people} leaves no other people to compare with; choose at least 2")
        inside = self.first in BENCHMARK_SEEDS and self.first + self.people <= BENCHMARK_SEEDS.stop
        if not self.head and not inside:
            raise ConfigError(
                f"people {self.first}..{self.first + self.people - 1} leave the head seeds kept for comparing, "
                f"{BENCHMARK_SEEDS.start}..{BENCHMARK_SEEDS.stop - 1}; choose fewer"
            )
        head_pose(self.yaw, self.pitch)  # checks them
        if not 64 <= self.size <= 256:
            raise ConfigError(f"size={self.size} is outside 64..256 pixels")
        assert RENDER_SCALE * self.size <= MAX_SIZE
        unknown = [code for code in self.codes if code not in AU_INDEX]
        if unknown or not self.codes or len(set(self.codes)) != len(self.codes):
            what = f"AU {unknown[0]} is not in the vocabulary" if unknown else f"AUs {self.codes} must be different"
            raise ConfigError(f"{what}; choose from {', '.join(map(str, AU_CODES))}")
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise ConfigError(f"levels {self.levels} must be ascending intensities")
        if not 0 < self.levels[0] <= self.levels[-1] <= 1:
            raise ConfigError(f"levels {self.levels} are outside (0, 1]; 1 is FACS E")
        for name, least in (("resamples", 20), ("clip_frames", 3), ("repeats", 1), ("samples", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} is too small; choose at least {least}")

    @property
    def seeds(self) -> range:
        """Head seeds, one a person; of another head its people's numbers."""
        first = 0 if self.head else self.first
        return range(first, first + self.people)


@dataclass(frozen=True)
class Request:
    """One AU at one intensity; ``side`` is "B" (both), "L" or "R". Intensity 0 asks for nothing."""

    code: int
    side: str
    level: float
    pictured: bool = False
    """Its apex also takes part in the figures of pictures and identity."""
    diverse: bool = False
    """It is made with several seeds."""
    imaged: bool = False
    """Its flow also takes part in the distance between distributions of flow images."""
    likened: bool = False
    """Its flow is also held against mean motions (mesynth.benchmark.likeness)."""

    @property
    def aus(self) -> AUVector:
        """As a generator takes it."""
        out = np.zeros((len(AU_CODES), 2), np.float32)
        out[AU_INDEX[self.code], [0, 1] if self.side == "B" else [SIDES.index(self.side)]] = self.level
        return AUVector(out)

    @property
    def name(self) -> str:
        """As a user writes it."""
        return f"{'' if self.side == 'B' else self.side}{self.code}={self.level:g}"


def requests(config: BenchmarkConfig) -> tuple[Request, ...]:
    """All requests; the first asks for nothing.

    Sided AUs are also requested on one side, left and right in turns from level to level. Pictures are compared on
    both-sided requests at the level nearest to the middle and at the highest, flow images at these levels on all;
    both-sided requests at the level nearest to the middle are held against mean motions.
    """
    return requests_of(config.codes, config.levels, MAX_PICTURED if config.head else None)


def requests_of(codes: Sequence[int], levels: Sequence[float], pictured: int | None = None) -> tuple[Request, ...]:
    """:func:`requests` of ``codes`` at ``levels``, ascending; pictures of at most ``pictured`` AUs, None for all."""
    middle = min(levels, key=lambda level: abs(level - MIDDLE))
    spread, shown = (
        {codes[i] for i in np.linspace(0, len(codes) - 1, min(count, len(codes))).round().astype(int)}
        for count in (MAX_DIVERSE, len(codes) if pictured is None else pictured)
    )
    out = [Request(codes[0], "B", 0.0)]
    for i, code in enumerate(codes):
        for level in levels:
            chosen = level in (middle, levels[-1])
            out.append(
                Request(
                    code,
                    "B",
                    level,
                    chosen and code in shown,
                    level == middle and code in spread,
                    chosen,
                    level == middle,
                )
            )
        if code not in MIDLINE:
            for j, level in enumerate(levels):
                out.append(Request(code, SIDES[(i + j) % 2], level, imaged=level in (middle, levels[-1])))
    return tuple(out)
