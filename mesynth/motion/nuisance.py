"""What a camera sees besides the expression: head motion, blinks, sensor noise.

Without them a synthetic clip is too easy: still heads make the flow spotless, and noise copied from the
onset into every frame gives the motion away.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numba import njit

from mesynth.core.errors import MesynthError


@dataclass(frozen=True, kw_only=True)
class Nuisance:
    """Strengths; all 0 is the bare expression.

    ``noise``: sensor noise sd in grey levels (of 255), independent per frame; ``head``: multiple of the
    head motion seen in a seated recording (1 = sd .006 IOD per degree of freedom at the apex);
    ``blink``: probability that a clip holds a partial blink; ``style``: how far this clip's muscles pull from
    the mean face's places and directions (1 = smooth shifts of sd .07 IOD and turns of sd 10 degrees).
    """

    noise: float = 0.0
    head: float = 0.0
    blink: float = 0.0
    style: float = 0.0

    def __post_init__(self) -> None:
        for value, most, words in (
            (self.noise, 32, "noise={:g} grey levels is outside [0, 32]"),
            (self.head, 5, "head-motion={:g} is outside [0, 5]"),
            (self.blink, 1, "blink={:g} is no probability; choose a number in [0, 1]"),
            (self.style, 2, "style={:g} is outside [0, 2]"),
        ):
            if not 0 <= value <= most:
                raise MesynthError(words.format(value))


_STYLE_GRID = 5
_STYLE_BOX = ((-1.6, 1.6), (-1.3, 2.0))  # u and v range the random grid covers, IOD


@dataclass(frozen=True)
class Style:
    """Smooth individual differences: ``shift`` [H,W,2] IOD added to where a field is read, ``turn`` [H,W] radians."""

    shift: np.ndarray
    turn: np.ndarray


def draw_style(uv: np.ndarray, strength: float, rng: np.random.Generator) -> Style:
    """People differ in where and which way a muscle pulls: a random 5 x 5 grid over the face, interpolated."""
    from scipy.ndimage import map_coordinates

    grids = rng.standard_normal((3, _STYLE_GRID, _STYLE_GRID)) * np.array([0.07, 0.07, np.radians(10)])[:, None, None]
    position = [(uv[..., axis] - low) / (high - low) * (_STYLE_GRID - 1) for axis, (low, high) in enumerate(_STYLE_BOX)]
    read = [map_coordinates(grid, position[::-1], order=3, mode="nearest") for grid in grids * strength]
    return Style(np.stack(read[:2], -1).astype(np.float32), read[2].astype(np.float32))


_HEAD_MODES = 6  # right, down, roll, scale, yaw, pitch


def head_basis(uv: np.ndarray) -> np.ndarray:
    """[6,H,W,2] float32, IOD units: displacement of unit right, down, roll, scale, yaw and pitch motion.

    Yaw and pitch move a pixel by its depth, taken as a dome over the face; everything fades out well
    outside the head, where the background stands still.
    """
    u, v = uv[..., 0], uv[..., 1] - 0.55  # the head turns about its middle, not about the eyes
    radius = np.sqrt((u / 1.9) ** 2 + (v / 2.4) ** 2)
    t = np.clip((1.15 - radius) / 0.5, 0, 1)
    gate = t * t * (3 - 2 * t)
    dome = np.sqrt(np.clip(1.6 - 0.45 * u**2 - 0.3 * v**2, 0, None))
    zero, one = np.zeros_like(u), np.ones_like(u)
    modes = [(one, zero), (zero, one), (-v, u), (u, v), (dome, zero), (zero, dome)]
    return np.stack([np.stack(m, -1) * gate[..., None] for m in modes]).astype(np.float32)


def head_path(n_frames: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """[T,6] float32, IOD units: a smooth walk from 0 (onset), sd .006 * exp(.8 N) at the clip's end, N <= 1.

    The bound on N keeps the log-normal's tail (a head that leaves the crop) out: such clips are no
    micro-expression recordings.

    Drawn even for strength 0, so that one nuisance never shifts another's random numbers.
    """
    t = np.linspace(0, 1, n_frames)[:, None]
    scale = 0.006 * np.exp(0.8 * min(rng.standard_normal(), 1.0))
    drift = rng.standard_normal(_HEAD_MODES)
    sway, phase = 0.4 * rng.standard_normal(_HEAD_MODES), rng.uniform(0, 2 * np.pi, _HEAD_MODES)
    path = drift * t + sway * (np.sin(2 * np.pi * t + phase) - np.sin(phase))
    return (strength * scale * path).astype(np.float32)


def blink_curve(n_frames: int, fps: float, probability: float, rng: np.random.Generator) -> np.ndarray:
    """[T] float32: closure (weight of AU 45) of a partial blink at a random time; 0 at the onset."""
    happens = rng.random() < probability
    centre, width = rng.uniform(0.2, 1.0) * n_frames, rng.uniform(0.04, 0.10) * fps
    depth = rng.uniform(0.05, 0.5)
    if not happens:
        return np.zeros(n_frames, np.float32)
    t = np.arange(n_frames)
    curve = depth * np.exp(-0.5 * ((t - centre) / max(width, 0.5)) ** 2)
    fade_in = np.clip(t / max(0.15 * n_frames, 1), 0, 1)
    return (curve * fade_in).astype(np.float32)


# ------------------------------------------------------------------- sensor


_LEVELS = 1 << 15


@lru_cache(maxsize=1)
def _normal() -> np.ndarray:
    """[65536] float32: what a draw stands for: half its number says the size of a standard normal, in equally likely
    steps, and an odd one is positive; the mean of squares is 1."""
    inverse = NormalDist().inv_cdf
    sizes = np.array([inverse(0.5 + (i + 0.5) / (2 * _LEVELS)) for i in range(_LEVELS)])
    each = np.asarray(sizes / np.sqrt((sizes**2).mean()), np.float32)
    return np.stack([-each, each], 1).reshape(-1)


@njit(cache=True, nogil=True, error_model="numpy")
def _record(frame: np.ndarray, sd: np.floating, draws: np.ndarray, normal: np.ndarray, out: np.ndarray) -> None:
    """``out`` = ``frame`` plus ``sd`` times the normal number of each of ``draws`` (none: no noise), rounded."""
    zero, top, half = np.float32(0), np.float32(255), np.float32(0.5)
    source, target = frame.reshape(-1), out.reshape(-1)
    if not draws.size:
        for i in range(len(source)):
            target[i] = np.uint8(np.int32(min(max(source[i] + half, zero), top)))
        return
    for i in range(len(source)):
        target[i] = np.uint8(np.int32(min(max(source[i] + half + sd * normal[draws[i]], zero), top)))


def drawn(count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` and up to three more uint16 that say the noise of one frame: see :func:`recorded`."""
    # Raw bits, four draws of each 64: their stream is the one that NumPy promises not to change.
    words = rng.bit_generator.random_raw(-(-count // 4))
    return np.asarray(np.asarray(words).astype("<u8", copy=False).view("<u2").astype(np.uint16, copy=False))


def recorded(frame: np.ndarray, sd: float, rng: np.random.Generator, out: np.ndarray | None = None) -> np.ndarray:
    """What a camera records of a frame: [H,W,3] float32 grey levels plus Gaussian noise of ``sd`` levels, rounded and
    cut to uint8, into ``out`` if it is given.

    Noise is drawn in 65,536 equally likely steps, the largest 4.3 ``sd``; none is drawn for ``sd`` 0.

    >>> recorded(np.full((1, 2, 3), 99.6, np.float32), 0.0, np.random.default_rng(0)).tolist()
    [[[100, 100, 100], [100, 100, 100]]]
    """
    if out is None:
        out = np.empty(frame.shape, np.uint8)
    if out.shape != frame.shape or out.dtype != np.uint8:  # compiled code does not look
        raise MesynthError(f"a frame of shape {frame.shape} cannot be recorded into {out.dtype} {out.shape}")
    target = out if out.flags.c_contiguous else np.empty(out.shape, np.uint8)
    draws = drawn(frame.size, rng) if sd else np.zeros(0, np.uint16)
    _record(np.ascontiguousarray(frame, np.float32), np.float32(sd), draws, _normal(), target)
    if target is not out:
        out[...] = target
    return out
