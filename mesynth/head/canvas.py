"""The canonical texture plane: its grid and a few brushes. Coordinates are (u, v) in IOD, v downwards."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

TEXELS_PER_IOD = 200
U_MIN, U_MAX = -1.5, 1.5
V_MIN, V_MAX = -1.35, 2.05
WIDTH = round((U_MAX - U_MIN) * TEXELS_PER_IOD)
HEIGHT = round((V_MAX - V_MIN) * TEXELS_PER_IOD)
_SHIFT = 4  # cv2 draws with sub-texel precision in units of 2**-_SHIFT


@lru_cache(maxsize=1)
def grid() -> tuple[np.ndarray, np.ndarray]:
    """(u, v) at texel centres, both [HEIGHT,WIDTH] float32."""
    u = (np.arange(WIDTH, dtype=np.float32) + 0.5) / TEXELS_PER_IOD + U_MIN
    v = (np.arange(HEIGHT, dtype=np.float32) + 0.5) / TEXELS_PER_IOD + V_MIN
    uu, vv = np.meshgrid(u, v)
    return uu, vv


def blob(u: float, v: float, width: float, height: float) -> np.ndarray:
    """Gaussian spot of standard deviations (width, height), peak 1, [HEIGHT,WIDTH] float32."""
    uu = (np.arange(WIDTH, dtype=np.float32) + 0.5) / TEXELS_PER_IOD + U_MIN
    vv = (np.arange(HEIGHT, dtype=np.float32) + 0.5) / TEXELS_PER_IOD + V_MIN
    across = np.exp(-0.5 * ((uu - u) / width) ** 2)
    down = np.exp(-0.5 * ((vv - v) / height) ** 2)
    return np.asarray(down[:, None] * across[None, :], np.float32)


def stamp(target: np.ndarray, u: float, v: float, radius: float, amount: float) -> None:
    """Add a small Gaussian spot to ``target`` in place, touching only the texels near it."""
    x, y = (u - U_MIN) * TEXELS_PER_IOD, (v - V_MIN) * TEXELS_PER_IOD
    r = radius * TEXELS_PER_IOD
    x0, x1 = max(int(x - 4 * r), 0), min(int(x + 4 * r) + 2, WIDTH)
    y0, y1 = max(int(y - 4 * r), 0), min(int(y + 4 * r) + 2, HEIGHT)
    if x1 <= x0 or y1 <= y0:
        return
    dx, dy = np.arange(x0, x1) + 0.5 - x, np.arange(y0, y1) + 0.5 - y
    spot = np.exp(-0.5 * (dy[:, None] ** 2 + dx[None, :] ** 2) / r**2)
    target[y0:y1, x0:x1] += (amount * spot).astype(np.float32)


def noise(rng: np.random.Generator, scales: list[float], amounts: list[float]) -> np.ndarray:
    """Sum of smooth noises [HEIGHT,WIDTH] float32; a scale is the size of one wave in texels."""
    out = np.zeros((HEIGHT, WIDTH), np.float32)
    for scale, amount in zip(scales, amounts, strict=True):
        shape = (max(int(HEIGHT / scale), 1) + 3, max(int(WIDTH / scale), 1) + 3)
        coarse = rng.standard_normal(shape, dtype=np.float32)
        out += np.float32(amount) * cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return out


def to_texels(points: np.ndarray) -> np.ndarray:
    """(u, v) points [...,2] to cv2's fixed-point coordinates, int32."""
    origin = np.array([U_MIN, V_MIN])
    texel = (np.asarray(points, np.float64) - origin) * TEXELS_PER_IOD - 0.5
    return np.asarray(np.round(texel * 2**_SHIFT), np.int32)


def draw(target: np.ndarray, lines: list[np.ndarray], value: float, thickness: float) -> None:
    """Draw open polylines (each [n,2] in IOD) into ``target`` float32 in place; thickness in IOD."""
    texels = max(1, round(thickness * TEXELS_PER_IOD))
    cv2.polylines(target, [to_texels(line) for line in lines], False, value, texels, cv2.LINE_AA, _SHIFT)


def fill(points: np.ndarray) -> np.ndarray:
    """Mask of a closed polygon [n,2], [HEIGHT,WIDTH] float32 0..1."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [to_texels(points)], 255, cv2.LINE_AA, _SHIFT)
    return mask.astype(np.float32) / 255.0


def soften(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with sigma in IOD."""
    blurred = cv2.GaussianBlur(image, (0, 0), sigma * TEXELS_PER_IOD)
    return np.asarray(blurred, np.float32)


def curve(points: np.ndarray | list[tuple[float, float]], n: int = 40) -> np.ndarray:
    """Smooth curve [n,2] through control points (centripetal enough at our spacing: a cubic spline by length)."""
    from scipy.interpolate import CubicSpline

    control = np.asarray(points, np.float64)
    length = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(control, axis=0), axis=1))]
    return np.asarray(CubicSpline(length, control, bc_type="natural")(np.linspace(0.0, length[-1], n)))
