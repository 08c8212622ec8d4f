"""Head rotations, and the small involuntary movements that surround a micro-expression."""

from __future__ import annotations

import numpy as np

from mesynth.errors import MesynthError

# Spread of the slow drift half a second after the first frame: radians (yaw, pitch, roll), IOD (x, y), log scale.
# With 45 px between the eyes this moves the face by some 0.2-0.8 px.
_DRIFT_SD = np.array([0.0060, 0.0060, 0.0040, 0.0060, 0.0070, 0.0020])


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation [3,3] for (yaw, pitch, roll) in radians: roll @ pitch @ yaw on column vectors, y up, z to the viewer.

    Yaw > 0 turns the face to image right, pitch > 0 down, roll > 0 anticlockwise as seen in the image.
    """
    cy, cp, cr = np.cos(angles)
    sy, sp, sr = np.sin(angles)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(roll @ pitch @ yaw)


def _check_clip(n_frames: int, fps: float) -> None:
    if n_frames < 1:
        raise MesynthError(f"n_frames {n_frames} is not positive; a clip has at least one frame")
    if not (np.isfinite(fps) and fps > 0):
        raise MesynthError(f"fps {fps} is not positive; give frames per second")


def head_motion(n_frames: int, rng: np.random.Generator, sd: float = 1.0, fps: float = 200.0) -> np.ndarray:
    """A still person's head movement, [n_frames,6] float64 in the convention of Subject.render; first frame 0.

    Sum of a constant drift and three slow sinusoids (0.4-2.5 Hz) a channel. sd scales it: 1 moves a 128 px face by
    under a pixel to about one over half a second. Magnitudes are judgement, from watching ME recordings.

    Raises: MesynthError for fewer than one frame, fps <= 0 or sd < 0.
    """
    _check_clip(n_frames, fps)
    if not (np.isfinite(sd) and sd >= 0):
        raise MesynthError(f"sd {sd} is negative or not finite; 0 is still, 1 is usual")
    time = np.arange(n_frames)[:, None] / fps
    drift = rng.normal(0.0, 1.0, 6) * time / 0.5
    sway = np.zeros((n_frames, 6))
    for low, high, amount in ((0.4, 0.9, 0.45), (0.9, 1.6, 0.20), (1.6, 2.5, 0.08)):
        frequency = rng.uniform(low, high, 6)
        phase = rng.uniform(0.0, 2 * np.pi, 6)
        sway += amount * rng.normal(0.0, 1.0, 6) * (np.sin(2 * np.pi * frequency * time + phase) - np.sin(phase))
    return np.asarray(sd * _DRIFT_SD * (0.8 * np.tanh(drift / 3.0) * 3.0 + sway))


def blink(n_frames: int, rng: np.random.Generator, fps: float = 200.0) -> np.ndarray:
    """Eyelid closure [n_frames] float32 in 0..1 from spontaneous blinks: mostly 0.

    Blinks come as a Poisson process, 12-20 a minute for most people (a person's rate is drawn once), last 0.12-0.35 s,
    close about twice as fast as they open and need not close fully. May start or end outside the clip.

    Raises: MesynthError for fewer than one frame or fps <= 0.
    """
    _check_clip(n_frames, fps)
    time = np.arange(n_frames) / fps
    closure = np.zeros(n_frames)
    rate = rng.uniform(10.0, 22.0) / 60.0
    start = -0.4 + rng.exponential(1.0 / rate)
    while start < time[-1]:
        duration, depth = rng.uniform(0.12, 0.35), rng.uniform(0.75, 1.0)
        phase = (time - start) / duration
        closing = np.sin(0.5 * np.pi * np.clip(phase / 0.35, 0, 1)) ** 2
        opening = np.cos(0.5 * np.pi * np.clip((phase - 0.40) / 0.60, 0, 1)) ** 2
        closure = np.maximum(closure, depth * np.where((phase > 0) & (phase < 1), np.minimum(closing, opening), 0.0))
        start += duration + rng.exponential(1.0 / rate)
    return closure.astype(np.float32)
