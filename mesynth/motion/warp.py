"""Invert a forward flow and warp a picture by it, in float32, at exact positions.

OpenCV's remap rounds positions to 1/32 pixel, or its kernel does not reproduce a ramp; micro-expressions move skin by
tenths of a pixel per frame, so positions here are exact and the interpolation is Keys' bicubic (a = -1/2).

Pictures are read as *planes*: [3,H+2P,W+2P] float32, mirrored :data:`PAD` = P pixels beyond the border, so that almost
no pixel needs a test for the border. Flow is smooth: along a row the whole-pixel part of the motion is the same for
tens of pixels, and such a run is read like a convolution, many pixels at once. Layers (:mod:`mesynth.motion.layers`)
and folds read and write the same planes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

PAD = 16
"""Pixels of mirrored picture around the planes; motion from further away is mirrored pixel by pixel."""
_SETTLED = 0.01
"""Pixels: a step of Newton's method below it leaves an error far below what a grey level can show."""
_FIXED = 1e-3
"""Pixels: the same of a step by fixed point, which closes in more slowly."""
_ZERO, _ONE, _TOP = np.float32(0), np.float32(1), np.float32(255)
_NEWTON = 4
"""Steps after which Newton's method, which circles where a field folds, gives way to fixed point."""
_NO_START = np.zeros((0, 0, 2), np.float32)
_HALF, _A, _B, _C, _D = np.float32(0.5), np.float32(1.5), np.float32(2.5), np.float32(2), np.float32(0.25)


@njit(cache=True, nogil=True)
def _clamp(value: int, last: int) -> int:
    return 0 if value < 0 else (last if value > last else value)


@njit(cache=True, nogil=True)
def _mirror(value: int, last: int) -> int:
    if value < 0:
        value = -value
    if value > last:
        value = 2 * last - value
    return _clamp(value, last)


# ------------------------------------------------------------------- inverse


@njit(cache=True, nogil=True, error_model="numpy")
def _source(field: np.ndarray, x: float, y: float, rounds: int) -> tuple[Any, Any]:
    """p with p + field(p) = (x, y), field [H,W,2] float32 pixels, bilinear and continued beyond its border.

    Newton's method, in the cell that holds p; where the field nearly folds, fixed point. Where the field is 0, exactly
    (x, y): a pixel at rest can be reached by motion from elsewhere only if its neighbour moves, and then its own flow
    is not zero either, as the fields are smooth.
    """
    height, width = field.shape[0], field.shape[1]
    bx, by = _ZERO, _ZERO
    at, down = np.floor(x), np.floor(y)
    left, top = int(at), int(down)
    sx, sy = np.float32(x - at), np.float32(y - down)
    for n in range(rounds + 1):
        # The first reading is at (x, y) itself, as if nothing moved.
        px, py = sx + bx, sy + by
        fx, fy = np.floor(px), np.floor(py)
        ax, ay = px - fx, py - fy
        x0, y0 = left + int(fx), top + int(fy)
        x1, y1 = x0 + 1, y0 + 1
        if x0 < 0 or y0 < 0 or x1 >= width or y1 >= height:
            x0, x1 = _clamp(x0, width - 1), _clamp(x1, width - 1)
            y0, y1 = _clamp(y0, height - 1), _clamp(y1, height - 1)
        u00, u01, u10, u11 = field[y0, x0, 0], field[y0, x1, 0], field[y1, x0, 0], field[y1, x1, 0]
        v00, v01, v10, v11 = field[y0, x0, 1], field[y0, x1, 1], field[y1, x0, 1], field[y1, x1, 1]
        ua, ub, va, vb = u00 + ax * (u01 - u00), u10 + ax * (u11 - u10), v00 + ax * (v01 - v00), v10 + ax * (v11 - v10)
        u, v = ua + ay * (ub - ua), va + ay * (vb - va)
        if n == 0 and u == 0 and v == 0:
            return x, y
        rx, ry = bx + u, by + v
        ux, vx = (u01 - u00) + ay * ((u11 - u10) - (u01 - u00)), (v01 - v00) + ay * ((v11 - v10) - (v01 - v00))
        uy, vy = ub - ua, vb - va
        det = (_ONE + ux) * (_ONE + vy) - uy * vx
        if det > _D and n < _NEWTON:
            dx, dy = ((_ONE + vy) * rx - uy * ry) / det, ((_ONE + ux) * ry - vx * rx) / det
            settled = abs(dx) + abs(dy) < _SETTLED
        else:
            dx, dy = rx, ry
            settled = abs(dx) + abs(dy) < _FIXED
        bx, by = bx - dx, by - dy
        if settled:
            break
    return x + bx, y + by


@njit(cache=True, nogil=True)
def _continued(field: np.ndarray) -> np.ndarray:
    """[H,W,2] -> [2,H+2P,W+2P] float32, its border's values continued.

    Value by value: for a slice that is set numba compiles the text of its errors, for seconds.
    """
    height, width = field.shape[:2]
    out = np.empty((2, height + 2 * PAD, width + 2 * PAD), np.float32)
    for y in range(height):
        for c in range(2):
            row = out[c, y + PAD]
            for x in range(width):
                row[x + PAD] = field[y, x, c]
            for k in range(PAD):
                row[k], row[PAD + width + k] = field[y, 0, c], field[y, width - 1, c]
    for c in range(2):
        for k in range(PAD):
            for x in range(width + 2 * PAD):
                out[c, k, x], out[c, PAD + height + k, x] = out[c, PAD, x], out[c, PAD + height - 1, x]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse(field: np.ndarray, start: np.ndarray, rounds: int, inset: int) -> np.ndarray:
    """[H,W,2]: d with ``d(x) + field(x + d(x)) = start(x)``, as :func:`_source` finds it, a row at a time."""
    height, width = field.shape[:2]
    n = width - 2 * inset
    planes = _continued(field)
    out = np.empty((height, width, 2), np.float32)
    dx, dy = np.empty(n, np.float32), np.empty(n, np.float32)
    hx, hy = np.empty(n, np.float32), np.empty(n, np.float32)
    ax, ay, left = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    ix, iy = np.empty(n, np.int32), np.empty(n, np.int32)
    rest = np.float32(_SETTLED / _FIXED)
    for y in range(inset, height - inset):
        for k in range(n):
            dx[k] = hx[k] = start[y, k + inset, 0] if start.size else _ZERO
            dy[k] = hy[k] = start[y, k + inset, 1] if start.size else _ZERO
        for turn in range(rounds):
            newton = turn < _NEWTON
            for k in range(n):
                fx, fy = np.floor(dx[k]), np.floor(dy[k])
                ax[k], ay[k] = dx[k] - fx, dy[k] - fy
                # The field is continued: from beyond the planes it reads what their border holds.
                ix[k] = min(max(np.int32(fx), -PAD - k - inset), width + PAD - 2 - k - inset)
                iy[k] = min(max(np.int32(fy), -PAD - y), height + PAD - 2 - y)
            k = 0
            while k < n:
                end = k + 1
                while end < n and ix[end] == ix[k] and iy[end] == iy[k]:
                    end += 1
                m, x0, y0 = end - k, k + inset + ix[k] + PAD, y + iy[k] + PAD
                u0, u1 = planes[0, y0, x0 : x0 + m + 1], planes[0, y0 + 1, x0 : x0 + m + 1]
                v0, v1 = planes[1, y0, x0 : x0 + m + 1], planes[1, y0 + 1, x0 : x0 + m + 1]
                px, py, tx, ty = dx[k:end], dy[k:end], hx[k:end], hy[k:end]
                s, t, far = ax[k:end], ay[k:end], left[k:end]
                for i in range(m):
                    ua, va = u0[i + 1] - u0[i], v0[i + 1] - v0[i]
                    ub, vb = u1[i + 1] - u1[i], v1[i + 1] - v1[i]
                    top_u, top_v = u0[i] + s[i] * ua, v0[i] + s[i] * va
                    uy, vy = u1[i] + s[i] * ub - top_u, v1[i] + s[i] * vb - top_v
                    ux, vx = _ONE + ua + t[i] * (ub - ua), va + t[i] * (vb - va)
                    rx, ry = px[i] + (top_u + t[i] * uy) - tx[i], py[i] + (top_v + t[i] * vy) - ty[i]
                    vy = _ONE + vy
                    det = ux * vy - uy * vx
                    sound = newton and det > _D
                    by = _ONE / det if sound else _ONE
                    stepx = by * (vy * rx - uy * ry) if sound else rx
                    stepy = by * (ux * ry - vx * rx) if sound else ry
                    px[i], py[i] = px[i] - stepx, py[i] - stepy
                    far[i] = (abs(stepx) + abs(stepy)) * (_ONE if sound else rest)
                k = end
            most = _ZERO
            for k in range(n):
                most = max(most, left[k])
            if most < _SETTLED:
                break
        for k in range(n):
            out[y, k + inset, 0], out[y, k + inset, 1] = dx[k], dy[k]
    return out


def backward_flow(forward: np.ndarray, iterations: int = 6, inset: int = 0) -> np.ndarray:
    """Solve ``b(x) = -f(x + b(x))``: [H,W,2] float32 pixels -> [H,W,2] float32, 0 exactly where f is.

    Converges where the flow does not fold. ``inset``: of the outer pixels, so many on each side, nothing is made; what
    stands there means nothing.
    """
    return np.asarray(_inverse(forward, _NO_START, iterations, inset))


def backward_after(field: np.ndarray, head: np.ndarray, iterations: int = 6, inset: int = 0) -> np.ndarray:
    """Backward flow [H,W,2] of skin that moved by ``field`` and then with the head, backward by ``head``."""
    return np.asarray(_inverse(field, head, iterations, inset))


# ------------------------------------------------------------------- planes


@njit(cache=True, nogil=True)
def planes_of(image: np.ndarray) -> np.ndarray:
    """[H,W,C] of any real type -> planes [C,H+2P,W+2P] float32 with their mirrored border."""
    height, width, channels = image.shape
    out = np.empty((channels, height + 2 * PAD, width + 2 * PAD), np.float32)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                out[c, y + PAD, x + PAD] = image[y, x, c]
    mirror_border(out)
    return out


@njit(cache=True, nogil=True)
def mirror_border(planes: np.ndarray) -> None:
    """Fill the border of planes from what lies inside, in place."""
    height, width = planes.shape[1] - 2 * PAD, planes.shape[2] - 2 * PAD
    for c in range(planes.shape[0]):
        for y in range(PAD, PAD + height):
            for k in range(1, PAD + 1):
                planes[c, y, PAD - k] = planes[c, y, PAD + _mirror(-k, width - 1)]
                planes[c, y, PAD + width - 1 + k] = planes[c, y, PAD + _mirror(width - 1 + k, width - 1)]
        for k in range(1, PAD + 1):
            above, below = PAD + _mirror(-k, height - 1), PAD + _mirror(height - 1 + k, height - 1)
            for x in range(planes.shape[2]):
                planes[c, PAD - k, x] = planes[c, above, x]
                planes[c, PAD + height - 1 + k, x] = planes[c, below, x]


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(t: Any) -> tuple[Any, Any, Any, Any]:
    """Keys' weights of the four neighbours at fraction ``t``; exactly 0, 1, 0, 0 at 0."""
    a = ((-_HALF * t + _ONE) * t - _HALF) * t
    b = (_A * t - _B) * t * t + _ONE
    c = ((-_A * t + _C) * t + _HALF) * t
    return a, b, c, _ONE - a - b - c


@njit(cache=True, nogil=True, error_model="numpy")
def _colour(planes: np.ndarray, x: float, y: float) -> tuple[Any, Any, Any]:
    """The first three channels at (x, y), pixels of the picture, within 0..255; exact on pixel centres."""
    fx, fy = np.floor(x), np.floor(y)
    a0, a1, a2, a3 = _weights(np.float32(x - fx))
    b0, b1, b2, b3 = _weights(np.float32(y - fy))
    x0, y0 = int(fx) + PAD - 1, int(fy) + PAD - 1
    x1, x2, x3, y1, y2, y3 = x0 + 1, x0 + 2, x0 + 3, y0 + 1, y0 + 2, y0 + 3
    high, wide = planes.shape[1], planes.shape[2]
    if x0 < 0 or x3 >= wide or y0 < 0 or y3 >= high:
        last, lowest = wide - 2 * PAD - 1, high - 2 * PAD - 1
        x0, x1 = PAD + _mirror(x0 - PAD, last), PAD + _mirror(x1 - PAD, last)
        x2, x3 = PAD + _mirror(x2 - PAD, last), PAD + _mirror(x3 - PAD, last)
        y0, y1 = PAD + _mirror(y0 - PAD, lowest), PAD + _mirror(y1 - PAD, lowest)
        y2, y3 = PAD + _mirror(y2 - PAD, lowest), PAD + _mirror(y3 - PAD, lowest)
    red, green, blue = _ZERO, _ZERO, _ZERO
    for c in range(3):
        p = planes[c]
        v = (
            b0 * (a0 * p[y0, x0] + a1 * p[y0, x1] + a2 * p[y0, x2] + a3 * p[y0, x3])
            + b1 * (a0 * p[y1, x0] + a1 * p[y1, x1] + a2 * p[y1, x2] + a3 * p[y1, x3])
            + b2 * (a0 * p[y2, x0] + a1 * p[y2, x1] + a2 * p[y2, x2] + a3 * p[y2, x3])
            + b3 * (a0 * p[y3, x0] + a1 * p[y3, x1] + a2 * p[y3, x2] + a3 * p[y3, x3])
        )
        v = min(max(v, _ZERO), _TOP)
        if c == 0:
            red = v
        elif c == 1:
            green = v
        else:
            blue = v
    return red, green, blue


@njit(cache=True, nogil=True, error_model="numpy")
def warp_planes(planes: np.ndarray, backward: np.ndarray, inset: int = 0) -> np.ndarray:
    """``out(x) = planes(x + b(x))``: b [H,W,2] float32 pixels -> [H-2I,W-2I,3] float32 within 0..255.

    I = ``inset``: the outer pixels are read from and not made. Where b is 0 the picture's value comes back exactly.
    """
    height, width = backward.shape[:2]
    n = width - 2 * inset
    out = np.empty((height - 2 * inset, n, 3), np.float32)
    across, down = np.empty((4, n), np.float32), np.empty((4, n), np.float32)
    ix, iy = np.empty(n, np.int32), np.empty(n, np.int32)
    made = np.empty((3, n), np.float32)
    for y in range(inset, height - inset):
        line = backward[y, inset : width - inset]
        for k in range(n):
            bx, by = line[k, 0], line[k, 1]
            fx, fy = np.floor(bx), np.floor(by)
            ix[k], iy[k] = np.int32(fx), np.int32(fy)
            across[0, k], across[1, k], across[2, k], across[3, k] = _weights(bx - fx)
            down[0, k], down[1, k], down[2, k], down[3, k] = _weights(by - fy)
        k = 0
        while k < n:
            dx, dy = ix[k], iy[k]
            end = k + 1
            while end < n and ix[end] == dx and iy[end] == dy:
                end += 1
            m = end - k
            left, top = k + inset + dx + PAD - 1, y + dy + PAD - 1
            if left < 0 or left + m + 3 > planes.shape[2] or top < 0 or top + 4 > planes.shape[1]:
                for i in range(k, end):
                    made[0, i], made[1, i], made[2, i] = _colour(
                        planes, i + inset + np.float64(line[i, 0]), y + np.float64(line[i, 1])
                    )
                k = end
                continue
            a0, a1, a2, a3 = across[0, k:end], across[1, k:end], across[2, k:end], across[3, k:end]
            b0, b1, b2, b3 = down[0, k:end], down[1, k:end], down[2, k:end], down[3, k:end]
            right = left + m + 3
            for c in range(3):
                p0, p1 = planes[c, top, left:right], planes[c, top + 1, left:right]
                p2, p3 = planes[c, top + 2, left:right], planes[c, top + 3, left:right]
                target = made[c, k:end]
                for i in range(m):
                    v = b0[i] * (a0[i] * p0[i] + a1[i] * p0[i + 1] + a2[i] * p0[i + 2] + a3[i] * p0[i + 3])
                    v += b1[i] * (a0[i] * p1[i] + a1[i] * p1[i + 1] + a2[i] * p1[i + 2] + a3[i] * p1[i + 3])
                    v += b2[i] * (a0[i] * p2[i] + a1[i] * p2[i + 1] + a2[i] * p2[i + 2] + a3[i] * p2[i + 3])
                    v += b3[i] * (a0[i] * p3[i] + a1[i] * p3[i + 1] + a2[i] * p3[i + 2] + a3[i] * p3[i + 3])
                    target[i] = min(max(v, _ZERO), _TOP)
            k = end
        row = out[y - inset]
        for k in range(n):
            row[k, 0], row[k, 1], row[k, 2] = made[0, k], made[1, k], made[2, k]
    return out


def warp_backward(image: np.ndarray, backward: np.ndarray, inset: int = 0) -> np.ndarray:
    """``out(x) = image(x + b(x))``: image [H,W,3] in 0..255, b [H,W,2] float32 pixels -> [H-2I,W-2I,3] float32.

    The picture is mirrored beyond its border. Where b is 0 the input value is returned exactly. I = ``inset``: the
    outer pixels are read from and not made.

    >>> picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    >>> bool((warp_backward(picture, np.zeros((4, 4, 2), np.float32)) == picture).all())
    True
    """
    return np.asarray(warp_planes(planes_of(image), np.ascontiguousarray(backward, np.float32), inset))


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
