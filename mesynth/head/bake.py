"""Work done once a subject on its resting face: cavity occlusion, cast shadow, eyes."""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit

from mesynth.head import texture
from mesynth.head.model import EYE, MOUTH, SKIN, HeadModel
from mesynth.head.raster import Scalar, rasterize

# The relief is baked at half the texture's resolution: cavities are smooth.
_SCALE = texture.TEXELS_PER_IOD // 2
# Blur radius (IOD), strength and floor of the three cavity scales: creases, sockets, the whole face.
_CAVITIES = ((0.030, 2.0, 0.55), (0.10, 1.0, 0.40), (0.24, 0.5, 0.30))


def height_field(model: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """Depth z of a resting face over the canonical plane, [HEIGHT/2,WIDTH/2] float32 IOD; holes far behind."""
    origin = np.array([texture.U_MIN, texture.V_MIN], np.float32)
    screen = np.empty((len(vertices), 3), np.float32)
    screen[:, :2] = (model.uv - origin) * _SCALE
    screen[:, 2] = vertices[:, 2]
    faces = model.faces[(model.part == SKIN) | (model.part == EYE)]
    triangle, depth = rasterize(screen, faces, texture.WIDTH // 2, texture.HEIGHT // 2)
    hit = triangle >= 0
    return np.where(hit, depth, np.float32(depth[hit].min())).astype(np.float32)


def cavity_occlusion(height: np.ndarray) -> np.ndarray:
    """Ambient light 0..1 that reaches each texel: what lies below its blurred surroundings gets less."""
    light = np.ones_like(height)
    for sigma, strength, floor in _CAVITIES:
        surround = cv2.GaussianBlur(height, (0, 0), sigma * _SCALE)
        cavity = (surround - height) * np.float32(0.55 / sigma)
        light *= 1.0 - np.clip(strength * cavity, -0.05, floor)
    return np.asarray(np.clip(light, 0.0, 1.0), np.float32)


@njit(cache=True, nogil=True)
def _march(height: np.ndarray, dx: Scalar, dy: Scalar, rise: Scalar, softness: Scalar, steps: int) -> np.ndarray:
    rows, columns = height.shape
    out = np.ones((rows, columns), np.float32)
    for y in range(rows):
        for x in range(columns):
            lit = np.float32(1.0)
            for k in range(1, steps):
                travel = np.float32(2.0) + k * np.float32(1.6)
                sx, sy = int(x + dx * travel + 0.5), int(y + dy * travel + 0.5)
                if sx < 0 or sy < 0 or sx >= columns or sy >= rows:
                    break
                clearance = height[y, x] + np.float32(0.012) + rise * travel - height[sy, sx]
                lit = min(lit, np.float32(1.0) + clearance / (softness * travel))
                if lit <= 0.0:
                    lit = np.float32(0.0)
                    break
            out[y, x] = lit
    return out


def cast_shadow(height: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Share 0..1 of the key light each texel of a height field sees; light [3] is a unit vector in head space."""
    across = float(np.hypot(light[0], light[1]))
    if across < 1e-3:
        return np.ones_like(height)
    rise = np.float32(light[2] / across / _SCALE)
    shadow = _march(
        height, np.float32(light[0] / across), np.float32(-light[1] / across), rise, np.float32(0.30 / _SCALE), 60
    )
    return np.asarray(cv2.GaussianBlur(shadow, (0, 0), 0.022 * _SCALE), np.float32)


def mend_outline(values: np.ndarray, height: np.ndarray) -> np.ndarray:
    """A baked map with the steep outline of the head filled in from the surface beside it.

    Where the head's side is seen edge-on, neighbouring texels lie far apart in depth and the map means nothing;
    unmended, a turned head shows a dark line along the jaw.
    """
    slope = np.hypot(cv2.Sobel(height, cv2.CV_32F, 1, 0), cv2.Sobel(height, cv2.CV_32F, 0, 1)) * (_SCALE / 8.0)
    u = (np.arange(height.shape[1]) + 0.5) / _SCALE + texture.U_MIN
    broken = ((slope > 3.0) & (np.abs(u) > 0.7)).astype(np.uint8)
    weight = 1.0 - cv2.dilate(broken, np.ones((5, 5), np.uint8)).astype(np.float32)
    sigma = 0.06 * _SCALE
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    beside = (cv2.GaussianBlur(values * weight, (0, 0), sigma) + 0.02) / (total + 0.02)
    keep = cv2.GaussianBlur(weight, (0, 0), 0.02 * _SCALE) * weight
    return np.asarray(keep * values + (1.0 - keep) * beside, np.float32)


def seal_lips(model: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """Vertices [V,3] with the lips closed wherever the resting face shows the inside of the mouth between them.

    The identity targets move the lips one at a time, so some faces come out with a gap. It is measured where it
    is seen, in a frontal view, and shared by both lips.
    """
    scale, half_width, top, bottom = 250, 0.5, -0.75, -1.45
    shape = (round((top - bottom) * scale), round(2 * half_width * scale))
    centre = 0.5 * (top + bottom)
    sealed = vertices.copy()
    movable = np.zeros(len(vertices), bool)
    movable[np.unique(model.faces[(model.part == SKIN) | (model.part == MOUTH)])] = True
    movable &= (model.vertices[:, 2] > -0.25) & (np.abs(model.vertices[:, 1] - centre) < 0.5)
    for _ in range(3):
        screen = np.empty((len(sealed), 3), np.float32)
        screen[:, 0], screen[:, 1] = (sealed[:, 0] + half_width) * scale, (top - sealed[:, 1]) * scale
        screen[:, 2] = sealed[:, 2]
        triangle, _ = rasterize(screen, model.faces, shape[1], shape[0])
        inside = (triangle >= 0) & (model.part[np.maximum(triangle, 0)] >= MOUTH)
        if not inside.any():
            break
        rows = np.arange(shape[0])[:, None] + 0.5
        count = inside.sum(0)
        columns = np.flatnonzero(count)
        x = (np.arange(shape[1]) + 0.5) / scale - half_width
        line = top - ((rows * inside).sum(0)[columns] / count[columns]) / scale
        gap = cv2.GaussianBlur((count / scale).astype(np.float32)[None], (0, 0), 4.0)[0]
        seam = np.interp(sealed[:, 0], x[columns], line)
        width = np.interp(sealed[:, 0], x, gap)
        away = sealed[:, 1] - seam
        sealed[movable, 1] -= (0.55 * np.sign(away) * width * np.exp(-((away / 0.14) ** 2)))[movable].astype(np.float32)
    return sealed


def fit_eyes(model: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """Centre and radius of the two eyeballs, [2,4] float32; image-left eye first."""
    eyes = np.empty((2, 4), np.float32)
    for side in (0, 1):
        points = vertices[model.vertex_eye == side].astype(np.float64)
        # |p|^2 = 2 p.c + (r^2 - |c|^2) is linear in centre c and the bracket.
        system = np.c_[2 * points, np.ones(len(points))]
        solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
        eyes[side, :3] = solution[:3]
        eyes[side, 3] = np.sqrt(solution[3] + (solution[:3] ** 2).sum())
    return eyes


def lid_vertices(model: HeadModel, vertices: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """Numbers of the skin vertices that slide over the eyeballs, int32: outside and in front of them at rest."""
    skin = np.zeros(len(vertices), bool)
    skin[np.unique(model.faces[model.part == SKIN])] = True
    near = np.zeros(len(vertices), bool)
    for side in (0, 1):
        offset = vertices - eyes[side, :3]
        reach = np.linalg.norm(offset, axis=1) / eyes[side, 3]
        near |= (reach > 0.96) & (reach < 1.6) & (offset[:, 2] > 0.15 * eyes[side, 3])
    return np.flatnonzero(skin & near).astype(np.int32)
