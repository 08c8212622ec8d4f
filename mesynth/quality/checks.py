"""What a clip is checked for: identity, AU control, artefacts, duplicates. A limit each, and the measure behind it.

The usual limits leave out one or two in a hundred rendered pairs of people nobody learned from: what they leave out of
a corpus beyond that is the generator's. The figures are in docs/corpora.md, made by ``scripts/filter_limits.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np

from mesynth.errors import ConfigError
from mesynth.facs import AU_INDEX
from mesynth.motion.warp import backward_flow, warp_backward
from mesynth.quality.clips import ClipData
from mesynth.quality.identity import FaceEmbedder, distances
from mesynth.quality.judge import AUJudge
from mesynth.quality.visible import visible_aus

GHOST = 24
"""Grey levels: an apex that differs by more from its onset, moved by the clip's own flow, shows what did not move."""
_GRID = 8  # a flow is compared with others at 8 x 8: 512 bytes a clip
_STILL = 1e-3  # mean pixels of a grid cell: below, two flows are equal because neither is anything


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a clip may reach. None: not checked. Usual limits from 300 rendered pairs (docs/corpora.md)."""

    identity: float | None = 0.32
    """Distance of the apex's face embedding to the onset's: 99 % of true pairs are below .30, 5 % of different rendered
    people below .31. (The .6 of dlib's author is for photographs: 88 % of different rendered people are below it.)"""
    control: float | None = 2.5
    """Largest error of a judged AU that was asked for, on the 0-5 scale: 99 % of true pairs are below 2.46."""
    artefact: float | None = 0.04
    """Share of the face where the apex is not the onset moved by the clip's flow (:data:`GHOST`): 99 % of true pairs
    are below .034, whose mouths and lids open; what only moves the picture stays below .002."""
    duplicate: float | None = 0.01
    """Relative difference of the flow to that of any clip kept; must be reached. A clip made again has 0, even with
    other noise; the most alike of 300 true pairs have .07."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and 0 <= value <= 5):
                raise ConfigError(f"limit {name}={value:g} is outside [0, 5]")
        if all(value is None for value in asdict(self).values()):
            raise ConfigError(f"no check is left; choose from {', '.join(CHECKS)}")

    @property
    def of_frames(self) -> tuple[str, ...]:
        """The checks that look at frames, of those that are made."""
        return tuple(name for name in CHECKS if name != "duplicate" and getattr(self, name) is not None)

    def text(self) -> str:
        """As :func:`parse_keep` reads it."""
        return ",".join(f"{name}={value:g}" for name, value in asdict(self).items() if value is not None)


CHECKS = tuple(f.name for f in fields(Limits))


def parse_keep(text: str) -> Limits:
    """``identity=0.5,duplicate``: these checks alone, at this limit or the usual one; "" for all of them.

    Raises:
        ConfigError: an unknown check, one named twice, or a limit that is no number or out of range.
    """
    usual: dict[str, Any] = asdict(Limits())
    if not text.strip():
        return Limits()
    asked: dict[str, float | None] = dict.fromkeys(usual)
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, equals, number = (p.strip() for p in part.partition("="))
        if name not in usual:
            raise ConfigError(f"check '{name}' is unknown; choose from {', '.join(usual)}")
        if asked[name] is not None:
            raise ConfigError(f"check '{name}' is given twice; give it once")
        try:
            asked[name] = float(number) if equals else usual[name]
        except ValueError:
            raise ConfigError(f"limit '{part}' is no number; write for example {name}={usual[name]:g}") from None
    return Limits(**asked)


Failure = tuple[str, float, float, str]
"""Check, value, limit, and of a duplicate the clip that it repeats."""


class Checks:
    """Measures clips one at a time; networks are loaded when a check first needs them. Picklable without them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._embedder: FaceEmbedder | None = None
        self._judge: AUJudge | None = None
        self._kept: list[str] = []
        self._flows = np.zeros((0, 2 * _GRID**2), np.float32)
        self._sizes = np.zeros(0, np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_embedder": None, "_judge": None}

    def load(self) -> None:
        """Load the networks now. Raises WeightsUnavailable for a check whose network is not on this machine."""
        if self.limits.identity is not None:
            self._embedder = self._embedder or FaceEmbedder()
        if self.limits.control is not None:
            self._judge = self._judge or AUJudge.load()

    def measure(self, clip: ClipData) -> dict[str, float]:
        """The value of every check of frames that is made."""
        measures: dict[str, Callable[[ClipData], float]] = {
            "identity": self.identity, "control": self.control, "artefact": artefact,
        }  # fmt: skip
        return {name: measures[name](clip) for name in self.limits.of_frames}

    def failed(self, values: Mapping[str, float], of: str = "") -> list[Failure]:
        """The checks whose value is beyond its limit (or is no number); ``of``: the clip that a duplicate repeats."""
        out: list[Failure] = []
        for name, value in values.items():
            limit = getattr(self.limits, name)
            if name == "duplicate" and value < limit:
                out.append((name, value, limit, of))
            elif name != "duplicate" and not value <= limit:
                out.append((name, value, limit, ""))
        return out

    def embedding(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """See :class:`mesynth.quality.identity.FaceEmbedder`."""
        self._embedder = self._embedder or FaceEmbedder()
        return self._embedder(frames, landmarks)

    def identity(self, clip: ClipData) -> float:
        """Distance of the apex's embedding to the onset's."""
        return float(distances(self.embedding(clip.frames[[0, clip.row.apex_index]], clip.landmarks))[0])

    def control(self, clip: ClipData) -> float:
        """Largest |judged - asked| over trusted AUs that were asked for, 0-5; 0 if there is none."""
        self._judge = self._judge or AUJudge.load()
        judged = self._judge.intensity(clip.frames[[0, clip.row.apex_index]], clip.landmarks)
        wanted = visible_aus(clip.row.aus.intensity[None])
        errors = [0.0]
        for code in self._judge.trusted:
            asked = wanted[0, AU_INDEX[code]]
            errors += (5 * np.abs(judged[0, AU_INDEX[code]] - asked))[asked > 0].tolist()
        return max(errors)

    def nearest(self, flow: np.ndarray) -> tuple[float, str]:
        """Difference of ``flow`` [2,H,W] to the nearest kept one, of the larger of both, and which clip that is.

        Of the larger: so that it does not matter which of two clips came first. Infinite for a flow that is nothing.
        """
        small = _small(flow)
        size = _rms(small)
        if size <= _STILL or not self._kept:
            return math.inf, ""
        n = len(self._kept)
        apart = np.sqrt(((self._flows[:n] - small) ** 2).mean(1)) / np.maximum(self._sizes[:n], size)
        return float(apart.min()), self._kept[int(apart.argmin())]

    def keep(self, clip_id: str, flow: np.ndarray) -> None:
        """Later clips are compared with this one."""
        small = _small(flow)
        if (size := _rms(small)) <= _STILL:
            return
        if len(self._kept) == len(self._flows):
            more = max(256, len(self._flows))
            self._flows = np.concatenate([self._flows, np.zeros((more, small.size), np.float32)])
            self._sizes = np.concatenate([self._sizes, np.zeros(more, np.float32)])
        self._flows[len(self._kept)], self._sizes[len(self._kept)] = small, size
        self._kept.append(clip_id)


def _small(flow: np.ndarray) -> np.ndarray:
    _, height, width = flow.shape
    cells = cv2.resize(np.ascontiguousarray(flow.transpose(1, 2, 0)), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(cells * np.array([128 / width, 128 / height], np.float32), np.float32).ravel()


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def artefact(clip: ClipData) -> float:
    """Share of the face whose apex is further than GHOST grey levels from the onset moved by the clip's flow."""
    forward = np.ascontiguousarray(clip.emitted_flow.transpose(1, 2, 0))
    moved = warp_backward(clip.frames[0], backward_flow(forward))
    wrong = np.abs(moved - clip.frames[clip.row.apex_index]).mean(-1) > GHOST
    return float(wrong[clip.face].mean()) if clip.face.any() else 0.0
