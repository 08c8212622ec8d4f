"""Real pictures from scikit-image, moved by known smooth fields."""

from __future__ import annotations

import cv2
import numpy as np
from skimage import data

SIDE = 128


def texture(name: str) -> np.ndarray:
    """[128,128,3] uint8 RGB: a face, a man with a camera, a cat."""
    boxes = {"astronaut": (10, 190, 140, 320), "camera": (60, 316, 120, 376), "chelsea": (20, 276, 90, 346)}
    top, bottom, left, right = boxes[name]
    picture = getattr(data, name)()[top:bottom, left:right]
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, -1)
    return np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def smooth_field(seed: int, peak: float, sigma: float = 14.0, side: int = SIDE) -> np.ndarray:
    """[2,side,side] float32: a smooth random field whose largest vector has length ``peak`` pixels."""
    rng = np.random.default_rng(seed)
    field = np.stack([cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), sigma) for _ in range(2)])
    return np.asarray(field / np.hypot(*field).max() * peak, np.float32)


def warped_pair(rgb: np.ndarray, field: np.ndarray, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) uint8 with ``a(x) = b(x + field(x))``: the field is the exact flow from a to b, on a's grid."""
    h, w = field.shape[1:]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    b = rgb.astype(np.float32)
    a = cv2.remap(b, x + field[0], y + field[1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT101)
    rng = np.random.default_rng(seed)
    pair = [np.clip(np.round(p + noise * rng.standard_normal(p.shape)), 0, 255).astype(np.uint8) for p in (a, b)]
    return pair[0], pair[1]


def end_point_error(uv: np.ndarray, truth: np.ndarray, border: int = 6) -> float:
    """Mean length of the difference, pixels, away from the border."""
    inside = slice(border, -border)
    return float(np.hypot(*(uv - truth))[inside, inside].mean())
