"""The inner loop of :mod:`mesynth.preprocess.tvl1` on a CPU, compiled: pair by pair, so that it stays in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

_HALF, _ONE = np.float32(0.5), np.float32(1)
_FLAT = np.float32(1e-9)


@intrinsic
def _fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once, as torch's kernels do."""
    signature = types.float32(types.float32, types.float32, types.float32)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return signature, build


_fma: Any = _fused  # for type checkers, which count the typing context among its arguments


@njit(cache=True, nogil=True, error_model="numpy")
def iterate(
    warped: np.ndarray,
    grad: np.ndarray,
    a: np.ndarray,
    u: np.ndarray,
    px: np.ndarray,
    py: np.ndarray,
    step: np.float32,
    theta: np.float32,
    rate: np.float32,
    iterations: int,
    median: bool,
) -> None:
    """Linearisation, all iterations and the median of one warp, in place. float32: ``warped`` [B,3,H,W], the second
    picture and its gradient where ``u`` points; ``grad`` [B,2,H,W] and ``a`` [B,H,W] of the first; the flow ``u``
    [B,2,H,W]; its dual ``px`` [B,2,H,W+1], ``py`` [B,2,H+1,W]."""
    n, height, width = a.shape
    residual = np.empty(width, np.float32)
    # Of one pair: small enough to stay in the cache through all iterations.
    g, constant, inverse = (
        np.empty((2, height, width), np.float32), np.empty((height, width), np.float32),
        np.empty((height, width), np.float32),
    )  # fmt: skip
    for b in range(n):
        for y in range(height):
            _linear_row(warped, grad, a, u, b, y, g, constant, inverse)
        for _ in range(iterations):
            # The dual's row above is due once the row below it has read it.
            for y in range(height + 1):
                if y < height:
                    _residual_row(constant, g, inverse, u, b, y, step, residual)
                    for c in range(2):
                        _primal_row(u, g, residual, px, py, b, c, y, theta)
                if y > 0:
                    for c in range(2):
                        _dual_row(u, px, py, b, c, y - 1, min(y, height - 1), rate)
        if median:
            for c in range(2):
                _median(u[b, c])


# Few arrays a loop, and no views of them: LLVM vectorises a loop that writes if it need not ask of many whether they
# overlap, and a view of a row is counted as it comes and goes, which takes longer than the row.
@njit(cache=True, nogil=True, error_model="numpy")
def _linear_row(
    warped: np.ndarray, grad: np.ndarray, a: np.ndarray, u: np.ndarray, b: int, y: int, g: np.ndarray,
    constant: np.ndarray, inverse: np.ndarray,
) -> None:  # fmt: skip
    for c in range(2):
        for x in range(g.shape[2]):
            g[c, y, x] = _HALF * (warped[b, 1 + c, y, x] + grad[b, c, y, x])
    for x in range(g.shape[2]):
        along = g[0, y, x] * u[b, 0, y, x] + g[1, y, x] * u[b, 1, y, x]
        constant[y, x] = (warped[b, 0, y, x] - a[b, y, x]) - along
    for x in range(g.shape[2]):
        square = g[0, y, x] * g[0, y, x] + g[1, y, x] * g[1, y, x]
        inverse[y, x] = -_ONE / (square + _FLAT)


@njit(cache=True, nogil=True, error_model="numpy")
def _residual_row(
    constant: np.ndarray, g: np.ndarray, inverse: np.ndarray, u: np.ndarray, b: int, y: int, step: np.float32,
    out: np.ndarray,
) -> None:  # fmt: skip
    for x in range(len(out)):
        residual = _fma(g[1, y, x], u[b, 1, y, x], _fma(g[0, y, x], u[b, 0, y, x], constant[y, x]))
        out[x] = min(max(residual * inverse[y, x], -step), step)


@njit(cache=True, nogil=True, error_model="numpy")
def _primal_row(
    u: np.ndarray, g: np.ndarray, residual: np.ndarray, px: np.ndarray, py: np.ndarray, b: int, c: int, y: int,
    theta: np.float32,
) -> None:  # fmt: skip
    for x in range(len(residual)):
        divergence = ((px[b, c, y, x + 1] - px[b, c, y, x]) + py[b, c, y + 1, x]) - py[b, c, y, x]
        u[b, c, y, x] = _fma(theta, divergence, _fma(g[c, y, x], residual[x], u[b, c, y, x]))


@njit(cache=True, nogil=True, error_model="numpy")
def _dual_row(
    u: np.ndarray, px: np.ndarray, py: np.ndarray, b: int, c: int, y: int, below: int, rate: np.float32
) -> None:  # fmt: skip
    last = u.shape[3] - 1
    for x in range(last):
        ux, uy = u[b, c, y, x + 1] - u[b, c, y, x], u[b, c, below, x] - u[b, c, y, x]
        norm = np.sqrt(_fma(uy, uy, ux * ux)) * rate + _ONE
        px[b, c, y, x + 1] = _fma(rate, ux, px[b, c, y, x + 1]) / norm
        py[b, c, y + 1, x] = _fma(rate, uy, py[b, c, y + 1, x]) / norm
    uy = u[b, c, below, last] - u[b, c, y, last]
    norm = np.sqrt(uy * uy) * rate + _ONE
    py[b, c, y + 1, last] = _fma(rate, uy, py[b, c, y + 1, last]) / norm


@njit(cache=True, nogil=True)
def _median(u: np.ndarray) -> None:
    """3x3 median [H,W], borders replicated, in place."""
    height, width = u.shape
    rows = np.empty((3, width + 2), np.float32)
    _padded(u[0], rows[0])
    rows[1] = rows[0]
    for y in range(height):
        if y < height - 1:
            _padded(u[y + 1], rows[(y + 2) % 3])
        else:
            rows[(y + 2) % 3] = rows[(y + 1) % 3]
        _median_row(rows[0], rows[1], rows[2], u[y])


@njit(cache=True, nogil=True)
def _padded(row: np.ndarray, out: np.ndarray) -> None:
    out[1:-1] = row
    out[0], out[-1] = row[0], row[-1]


@njit(cache=True, nogil=True)
def _median_row(a: np.ndarray, b: np.ndarray, c: np.ndarray, out: np.ndarray) -> None:
    """Of three lines in any order. Columns sorted, the median of nine is that of the largest least, the median of the
    middle ones and the least largest."""
    for x in range(len(out)):
        l0, m0, h0 = _sorted(a[x], b[x], c[x])
        l1, m1, h1 = _sorted(a[x + 1], b[x + 1], c[x + 1])
        l2, m2, h2 = _sorted(a[x + 2], b[x + 2], c[x + 2])
        least, most = max(max(l0, l1), l2), min(min(h0, h1), h2)
        middle = _sorted(m0, m1, m2)[1]
        out[x] = _sorted(least, middle, most)[1]


@njit(cache=True, nogil=True, inline="always")
def _sorted(a: float, b: float, c: float) -> tuple[float, float, float]:
    a, b = min(a, b), max(a, b)
    b, c = min(b, c), max(b, c)
    a, b = min(a, b), max(a, b)
    return a, b, c
