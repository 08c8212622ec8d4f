"""Flow images whose channels were stretched to 0..255: what the strain channel still tells about the flow.

The public images of the MEGC 2019 composite hold u, v and optical strain, each stretched between its own minimum
and maximum. Zero flow, magnitude and the ratio of u to v are lost; the strain was computed before the stretch, so
it gives the ratio back, and it agrees with one order of the channels only.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

ORDERS: tuple[str, ...] = tuple("".join(p) for p in permutations("uvs"))
"""What R, G and B hold: u, v and strain (s). The first is the published one."""
_LOG_RATIOS = np.linspace(-3.0, 3.0, 61)
_STEP = float(_LOG_RATIOS[1] - _LOG_RATIOS[0])


def unstretch(images: np.ndarray) -> np.ndarray:
    """Flow [...,2,H,W] float32 from stretched images [...,3,H,W] uint8 (u, v, strain), in units of its own rms.

    u and v are centred on their medians (most skin is still), their ratio is the one whose strain correlates best
    with the strain channel, and the pair is divided by its root mean square. Directions and relative sizes are
    those of the flow; pixels cannot be had. A channel without contrast stays 0.

    The ratio is found by correlation, not by least squares on the squared strain: published strain was computed at
    a finer resolution, and least squares then gives one of the channels the weight 0 in about one clip in five.
    """
    planes = images.astype(np.float64)
    uv = planes[..., :2, :, :]
    uv = uv - np.median(uv, axis=(-2, -1), keepdims=True)
    log_ratio, _ = strain_agreement(uv[..., 0, :, :], uv[..., 1, :, :], planes[..., 2, :, :])
    half = np.exp(log_ratio / 2)[..., None, None]
    flow = np.stack([uv[..., 0, :, :] / half, uv[..., 1, :, :] * half], axis=-3)
    rms = np.sqrt((flow**2).mean(axis=(-3, -2, -1), keepdims=True))
    return np.asarray(flow / np.where(rms > 0, rms, 1.0), np.float32)


def strain_agreement(u: np.ndarray, v: np.ndarray, strain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log ratio, correlation) [...] of the flow (u, ratio * v) whose strain fits best; planes are [...,H,W].

    The correlation does not know the stretch of the strain channel. Ratios from exp(-3) to exp(3) are tried; where
    nothing correlates (a flat plane) both values are 0.
    """
    uy, ux = np.gradient(np.asarray(u, np.float64), axis=(-2, -1))
    vy, vx = np.gradient(np.asarray(v, np.float64), axis=(-2, -1))
    # squared strain, see mesynth.types.optical_strain, as a polynomial of the ratio
    constant, linear, square = ux**2 + uy**2 / 2, uy * vx, vy**2 + vx**2 / 2
    target = _standard(strain)
    scores = np.stack(
        [
            (_standard(np.sqrt(np.maximum(constant + r * (linear + r * square), 0))) * target).mean(axis=(-2, -1))
            for r in np.exp(_LOG_RATIOS)
        ],
        axis=-1,
    )
    best = scores.argmax(axis=-1)
    inner = np.clip(best, 1, len(_LOG_RATIOS) - 2)
    left, middle, right = (np.take_along_axis(scores, (inner + i)[..., None], -1)[..., 0] for i in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)  # vertex of a parabola
    log_ratio = _LOG_RATIOS[best] + np.where(best == inner, np.clip(shift, -0.5, 0.5) * _STEP, 0.0)
    correlation = np.take_along_axis(scores, best[..., None], -1)[..., 0]
    flat = np.abs(scores).max(axis=-1) < 1e-9
    return np.where(flat, 0.0, log_ratio), np.where(flat, 0.0, correlation)


def _standard(planes: np.ndarray) -> np.ndarray:
    """Mean 0, variance 1 over the last two axes; a flat plane is 0."""
    centred = np.asarray(planes, np.float64)
    centred = centred - centred.mean(axis=(-2, -1), keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=(-2, -1), keepdims=True))
    return np.asarray(centred / np.where(scale > 1e-9, scale, 1.0))


def order_agreement(images: np.ndarray) -> dict[str, np.ndarray]:
    """Order of the channels -> per image [N] of [N,3,H,W], how well strain of its u and v fits its s (correlation)."""
    found = {}
    for order in ORDERS:
        u, v, s = (images[:, order.index(letter)] for letter in "uvs")
        found[order] = strain_agreement(u, v, s)[1]
    return found
