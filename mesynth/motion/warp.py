"""Invert a forward flow and warp an image by it, in float32 without a quantised lookup table.

OpenCV's remap rounds positions to 1/32 pixel; micro-expressions move skin by tenths of a pixel per
frame, so positions here are exact and the interpolation is Keys' bicubic
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SETTLED = 1e-3  # pixels: far below what a grey level can show


@njit(cache=True, nogil=True)
def _clamp(value: int, last: int) -> int:
    return 0 if value < 0 else (last if value > last else value)


@njit(cache=True, nogil=True)
def backward_flow(forward: np.ndarray, iterations: int = 6) -> np.ndarray:
    """Solve ``b(x) = -f(x + b(x))`` by fixed point: [H,W,2] float32 pixels -> [H,W,2] float32.

    Converges where the flow's Jacobian stays below 1 in norm, i.e. where it does not fold.
    """
    height, width = forward.shape[:2]
    out = np.empty_like(forward)
    for y in range(height):
        for x in range(width):
            bx, by = -forward[y, x, 0], -forward[y, x, 1]
            if bx == 0 and by == 0:
                # A pixel at rest can still be reached by motion from elsewhere only if its neighbour moves,
                # and then its own forward flow is not zero either: the fields are smooth.
                out[y, x, 0] = 0
                out[y, x, 1] = 0
                continue
            for _ in range(iterations):
                px, py = x + bx, y + by
                ix, iy = int(np.floor(px)), int(np.floor(py))
                ax, ay = px - ix, py - iy
                x0, x1 = _clamp(ix, width - 1), _clamp(ix + 1, width - 1)
                y0, y1 = _clamp(iy, height - 1), _clamp(iy + 1, height - 1)
                w00, w01, w10, w11 = (1 - ax) * (1 - ay), ax * (1 - ay), (1 - ax) * ay, ax * ay
                nx = -(
                    w00 * forward[y0, x0, 0]
                    + w01 * forward[y0, x1, 0]
                    + w10 * forward[y1, x0, 0]
                    + w11 * forward[y1, x1, 0]
                )
                ny = -(
                    w00 * forward[y0, x0, 1]
                    + w01 * forward[y0, x1, 1]
                    + w10 * forward[y1, x0, 1]
                    + w11 * forward[y1, x1, 1]
                )
                settled = abs(nx - bx) + abs(ny - by) < _SETTLED
                bx, by = nx, ny
                if settled:
                    break
            out[y, x, 0] = bx
            out[y, x, 1] = by
    return out


@njit(cache=True, nogil=True)
def _mirror(value: int, last: int) -> int:
    if value < 0:
        value = -value
    if value > last:
        value = 2 * last - value
    return _clamp(value, last)


@njit(cache=True, nogil=True)
def _keys(t: float, w: np.ndarray) -> None:
    """Bicubic weights of the four neighbours at fraction ``t``."""
    a = -0.5
    w[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
    w[1] = ((a + 2) * t - (a + 3)) * t * t + 1
    s = 1 - t
    w[2] = ((a + 2) * s - (a + 3)) * s * s + 1
    w[3] = 1 - w[0] - w[1] - w[2]


@njit(cache=True, nogil=True)
def warp_backward(image: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """``out(x) = image(x + b(x))``: image [H,W,3] uint8, b [H,W,2] float32 pixels -> [H,W,3] float32 (0..255).

    The picture is mirrored beyond its border. Where b is 0 the input value is returned exactly.
    """
    height, width = image.shape[:2]
    out = np.empty((height, width, 3), np.float32)
    wx = np.empty(4, np.float32)
    wy = np.empty(4, np.float32)
    for y in range(height):
        for x in range(width):
            bx, by = backward[y, x, 0], backward[y, x, 1]
            if bx == 0 and by == 0:
                for c in range(3):
                    out[y, x, c] = image[y, x, c]
                continue
            px, py = x + bx, y + by
            ix, iy = int(np.floor(px)), int(np.floor(py))
            _keys(px - ix, wx)
            _keys(py - iy, wy)
            for c in range(3):
                total = np.float32(0)
                for j in range(4):
                    yy = _mirror(iy - 1 + j, height - 1)
                    line = np.float32(0)
                    for i in range(4):
                        line += wx[i] * image[yy, _mirror(ix - 1 + i, width - 1), c]
                    total += wy[j] * line
                out[y, x, c] = min(max(total, np.float32(0)), np.float32(255))
    return out


def stays_inside(uv: np.ndarray) -> np.ndarray:
    """[H,W] bool: the pixel is still in the picture after flow ``uv`` [2,H,W]."""
    _, height, width = uv.shape
    y, x = np.mgrid[:height, :width]
    tx, ty = x + uv[0], y + uv[1]
    return np.asarray((tx >= 0) & (tx <= width - 1) & (ty >= 0) & (ty <= height - 1))


def folding(forward: np.ndarray) -> float:
    """Smallest Jacobian determinant of ``x + f(x)``, f [H,W,2] pixels; at or below 0 the face folds."""
    uy, ux = np.gradient(forward[..., 0])
    vy, vx = np.gradient(forward[..., 1])
    return float(((1 + ux) * (1 + vy) - uy * vx).min())
