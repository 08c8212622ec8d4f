"""Random numbers of many draws at once, each a function of its own seed: no draw knows its batch.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) in vectorised form: a Generator a pair would cost more than the pair.

What cameras do to a pair: tone, blur, sampling and compression shared by both frames, noise of each its own.

The scene moved before the camera saw it, so exact flow stays exact. Order: tone, blur, coarser sampling, noise, grey,
JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from mesynth.config import check_share
from mesynth.core.errors import ConfigError
from mesynth.core.seeds import derived, stream
from mesynth.store.videos import encoded, swapped_channels

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, uint64 -> uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw_seeds(seed: int, purpose: str, draws: np.ndarray) -> np.ndarray:
    """[B] int64, not negative: one seed a draw [B] int64, a function of (seed, purpose, draw)."""
    # Two 31-bit halves: neighbouring draws of neighbouring seeds must not meet.
    base = np.uint64(derived(seed, purpose, 0)) << np.uint64(32) | np.uint64(derived(seed, purpose, 1))
    mixed = _mix(_mix(base + np.asarray(draws, np.int64).astype(np.uint64) * _GAMMA) + _GAMMA)
    return (mixed >> np.uint64(1)).astype(np.int64)


def uniforms(seeds: np.ndarray, purpose: str, n: int) -> np.ndarray:
    """[B,n] float64 in [0,1): row b depends on ``seeds[b]`` and ``purpose`` alone."""
    start = _mix(np.asarray(seeds, np.int64).astype(np.uint64) ^ np.uint64(derived(0, purpose)))
    steps = np.arange(1, n + 1, dtype=np.uint64) * _GAMMA
    return (_mix(start[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


# ------------------------------------------------------------------- degrade


_LIMITS = {"exposure": 1.0, "balance": 0.5, "gamma": 1.0, "blur": 4.0, "shrink": 4.0, "noise": 40.0}
_LEVELS = np.arange(256, dtype=np.float32) / 255


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Ranges that each pair's camera is drawn from; 0 switches a part off, probability=0 all of it."""

    probability: float = 0.8
    """Of a pair being seen by such a camera; the others are left as they are."""
    exposure: float = 0.2
    """Largest change of log brightness, either way."""
    balance: float = 0.06
    """Largest change of the log gain of each colour, either way."""
    gamma: float = 0.2
    """Largest log exponent of the tone curve, either way."""
    blur: float = 0.5
    """Largest standard deviation of a Gaussian blur, pixels."""
    shrink: float = 1.4
    """Largest factor by which the picture is sampled coarser and brought back; 0 or 1 is off."""
    noise: float = 2.5
    """Largest standard deviation of sensor noise, grey levels of 255."""
    jpeg: float = 0.3
    """Share of these pairs that are compressed, each frame by itself."""
    quality: int = 60
    """Lowest JPEG quality; the highest is 95."""
    grey: float = 0.0
    """Share of these pairs that are grey (luma of ITU-R BT.601 in all three channels), as high-speed cameras are."""

    def __post_init__(self) -> None:
        check_share("camera ", self, "probability", "jpeg", "grey", noun="probability")
        for name, most in _LIMITS.items():
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"camera {name}={getattr(self, name):g} is outside 0..{most:g}; 0 is off")
        if not 10 <= self.quality <= 95:
            raise ConfigError(f"camera quality={self.quality} is outside 10..95")


OFF = CameraConfig(probability=0.0)


def degrade(frames: np.ndarray, seeds: np.ndarray, config: CameraConfig) -> np.ndarray:
    """Pairs [B,2,H,W,3] uint8 RGB as their cameras saw them, the same kind; ``seeds`` [B] int64.

    A pair's result depends on its frames, its seed and ``config`` alone. Pictures of at most 512 x 512 pixels.
    """
    out = frames.copy()
    # Every number is drawn whatever is switched on: one switch leaves the other parts of a camera alone.
    for pair, u in zip(out, uniforms(seeds, "camera", 13), strict=True):
        if u[0] < config.probability:
            _camera(pair, u, config)
    return out


def _camera(pair: np.ndarray, u: np.ndarray, config: CameraConfig) -> None:
    """Degrade one pair [2,H,W,3] in place."""
    curve = tone_curve(u[1:6], config)
    sigma, shrink = config.blur * u[6], 1 + max(config.shrink - 1, 0) * u[7]
    noise = config.noise * u[8]
    quality = round(95 - (95 - config.quality) * u[9] / config.jpeg) if u[9] < config.jpeg else 0
    height, width = pair.shape[1:3]
    grey = u[12] < config.grey
    for frame, place in zip(pair, u[10:12], strict=True):
        picture = frame
        if curve is not None:
            picture = cv2.LUT(picture, curve)
        if sigma > 0.15:  # below, the kernel is a point
            picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        if shrink > 1:
            size = (max(round(width / shrink), 1), max(round(height / shrink), 1))
            coarse = cv2.resize(picture.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        if noise > 0:
            picture = picture + np.float32(noise) * _noise(frame.shape, place)
        if picture is not frame:
            frame[:] = np.clip(picture + 0.5, 0, 255)
        if grey:
            frame[:] = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None]
        if quality:
            frame[:] = _jpeg(frame, quality)


@lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    """[2^22] float32 standard normal numbers: reading at a random place costs a twentieth of drawing anew."""
    return stream(0, "sensor-noise").standard_normal(1 << 22, np.float32)


def _noise(shape: tuple[int, ...], place: float) -> np.ndarray:
    """Standard normal float32 of ``shape``, from the bank's part that begins at ``place`` in [0,1)."""
    bank, n = _noise_bank(), int(np.prod(shape))
    start = int(place * (len(bank) - n))
    return bank[start : start + n].reshape(shape)


def tone_curve(u: np.ndarray, config: CameraConfig) -> np.ndarray | None:
    """[1,256,3] float32 grey levels -> grey levels from five uniform numbers, None where nothing changes."""
    if config.exposure == config.balance == config.gamma == 0:
        return None
    v = 2 * u - 1
    gain = np.exp(config.exposure * v[0] + config.balance * v[1:4]).astype(np.float32)
    exponent = np.float32(np.exp(config.gamma * v[4]))
    return np.ascontiguousarray(255 * np.clip(_LEVELS[None, :, None] * gain, 0, 1) ** exponent)


def _jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    data = encoded(frame, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return swapped_channels(picture)
