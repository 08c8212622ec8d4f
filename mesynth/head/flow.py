"""Exact optical flow of the head: the surface point under each onset pixel, followed into the target frame."""

from __future__ import annotations

import numpy as np
from numba import njit

from mesynth.head.model import SKIN
from mesynth.head.raster import barycentric, rasterize
from mesynth.head.scene import FACE, HAIR, Scalar, Scene

# How far (IOD) a point may lie behind the target's surface and still count as that surface.
_DEPTH_TOLERANCE = 0.010


@njit(cache=True, nogil=True)
def _seen(depth: np.ndarray, x: Scalar, y: Scalar, z: Scalar, tolerance: Scalar) -> Scalar:
    """Whether a surface point is at the front of a z-buffer, allowing for slopes within one sample."""
    side = depth.shape[0]
    ix, iy = int(np.floor(x)), int(np.floor(y))
    if ix < 0 or iy < 0 or ix >= side or iy >= side:
        return False
    farthest = np.float32(1e9)
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            jx, jy = min(max(ix + dx, 0), side - 1), min(max(iy + dy, 0), side - 1)
            farthest = min(farthest, depth[jy, jx])
    return z > farthest - tolerance


@njit(cache=True, nogil=True)
def _flow(
    scene: Scene, onset: np.ndarray, target: np.ndarray, size: int, ss: int, tolerance: Scalar
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    side = size * ss
    triangle, _ = rasterize(onset, scene.faces, side, side)
    _, depth = rasterize(target, scene.faces, side, side)
    uv = np.zeros((2, size, size), np.float32)
    visible = np.zeros((size, size), np.bool_)
    face = np.zeros((size, size), np.bool_)
    faces, attributes = scene.faces, scene.attributes
    for py in range(size):
        for px in range(size):
            hits, seen, facial = 0, 0, 0
            sum_x, sum_y = np.float32(0.0), np.float32(0.0)
            for q in range(ss * ss):
                x, y = px * ss + q % ss, py * ss + q // ss
                t = triangle[y, x]
                if t < 0:
                    continue
                w0, w1, w2 = barycentric(onset, faces, t, x, y)
                a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
                tx = w0 * target[a, 0] + w1 * target[b, 0] + w2 * target[c, 0]
                ty = w0 * target[a, 1] + w1 * target[b, 1] + w2 * target[c, 1]
                tz = w0 * target[a, 2] + w1 * target[b, 2] + w2 * target[c, 2]
                hits += 1
                sum_x += tx - (x + np.float32(0.5))
                sum_y += ty - (y + np.float32(0.5))
                turned = (target[b, 0] - target[a, 0]) * (target[c, 1] - target[a, 1]) - (
                    target[b, 1] - target[a, 1]) * (target[c, 0] - target[a, 0])  # fmt: skip
                if turned < 0 and _seen(depth, tx, ty, tz, tolerance):
                    seen += 1
                region = w0 * attributes[a, FACE] + w1 * attributes[b, FACE] + w2 * attributes[c, FACE]
                hair = w0 * attributes[a, HAIR] + w1 * attributes[b, HAIR] + w2 * attributes[c, HAIR]
                if scene.part[t] != SKIN or (region > 0.0 and hair < 0.0):
                    facial += 1
            if hits > 0:
                # The mean over the samples on the head: background samples have no motion to mix in.
                uv[0, py, px] = sum_x / (hits * ss)
                uv[1, py, px] = sum_y / (hits * ss)
                visible[py, px] = 2 * hits >= ss * ss and 2 * seen > hits
                face[py, px] = 2 * facial >= ss * ss
    return uv, visible, face


def exact_flow(
    scene: Scene, onset: np.ndarray, target: np.ndarray, size: int, ss: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(uv [2,size,size] float32, visible, face [size,size] bool) between two projected meshes [V,3]."""
    uv, visible, face = _flow(scene, onset, target, size, ss, np.float32(_DEPTH_TOLERANCE))
    return uv, visible, face
