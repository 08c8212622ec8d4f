"""Geometry on screen: the scene as arrays, posing, projection, z-buffer, and exact flow.

Screen space: x right, y down, in supersampled pixels, pixel (0, 0) covering [0, 1) x [0, 1). Depth is canonical z in
camera space (larger is nearer). Exact optical flow is the surface point under each onset pixel, followed into the
target frame.

Numba caches compiled kernels a file at a time and does not see that a kernel in another file changed: after an edit
here, delete mesynth/head/__pycache__/*.nb* before trusting texture, shade or flow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from mesynth.head.model import SKIN

# A real number in a kernel: float32 when called from another kernel, a Python float when called from Python.
Scalar = Any

# Columns of Scene.attributes.
# Columns 5 and 6 are eye-local coordinates on the eyeballs, a tooth number on the teeth, cloth on the skin.
U, V, LIP, LASH, HAIR, EYE_U, EYE_V, FACE = range(8)
TOOTH, CLOTH = EYE_U, EYE_V
WORN = 16
"""Part of glasses' frames, beside the head's own parts: colour in columns U, V and LIP, gloss in LASH."""
# Channels of Scene.texture (uint8).
RED, GREEN, BLUE, OCCLUSION, STRAND, GLOSS, SHADOW, RELIEF = range(8)
# Scene.appearance: scalars of the shader.
EXPOSURE, KEY, FILL, AMBIENT, WARMTH, GRADIENT_X, GRADIENT_Y, LASH_STRENGTH, GAIN, HAIR_SOFT, LIP_SHIFT = range(11)


class Scene(NamedTuple):
    """One subject as arrays (float32 unless stated); built by render.Subject, read by the kernels.

    rest [V,3] canonical; basis [2K,V,3]; faces [F,3] int32; part [F] uint8; attributes [V,8]; vertex_eye [V]
    int8; eyes [2,4] = centre and radius; lids [n] int32 vertices kept outside the eyeballs; lips [2] int32 inner
    mid-lip vertices, upper and lower; texture [h,w,8] uint8; wrinkles [h,w,M] int8; tex_map [3] = u0, v0, texels
    per IOD; key, fill [3] unit directions; appearance [11]; hair, iris, lip, garment, background [3] linear RGB;
    camera [4] = focal length, distance, centre x, centre y; lenses [l,3] int32 triangles that light goes through, tint
    [3] what they let through (of each colour).
    """

    rest: np.ndarray
    basis: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    attributes: np.ndarray
    vertex_eye: np.ndarray
    eyes: np.ndarray
    lids: np.ndarray
    lips: np.ndarray
    texture: np.ndarray
    wrinkles: np.ndarray
    tex_map: np.ndarray
    key: np.ndarray
    fill: np.ndarray
    appearance: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lip: np.ndarray
    garment: np.ndarray
    background: np.ndarray
    camera: np.ndarray
    lenses: np.ndarray
    tint: np.ndarray


# ---------------------------------------------------------------- raster


@njit(cache=True, nogil=True)
def deform(scene: Scene, weights: np.ndarray) -> np.ndarray:
    """Mesh [V,3] at AU weights [2K]; lid vertices that a closing lid pushes into the eyeball are put on it."""
    points = scene.rest.copy()
    n = scene.basis.shape[1]  # grown hair has vertices beyond the basis and does not move with the face
    for k in range(weights.shape[0]):
        w = weights[k]
        if w != 0.0:
            for i in range(n):
                points[i, 0] += w * scene.basis[k, i, 0]
                points[i, 1] += w * scene.basis[k, i, 1]
                points[i, 2] += w * scene.basis[k, i, 2]
    for j in range(scene.lids.shape[0]):
        i = scene.lids[j]
        side = 1 if points[i, 0] > 0 else 0
        radius = scene.eyes[side, 3]
        dx = points[i, 0] - scene.eyes[side, 0]
        dy = points[i, 1] - scene.eyes[side, 1]
        inside = radius * radius - dx * dx - dy * dy
        if inside > 0.0:
            # Along the view axis, not radially: a radial push would open the closed lid again.
            front = scene.eyes[side, 2] + np.sqrt(inside)
            if points[i, 2] < front:
                points[i, 2] = front
    return points


@njit(cache=True, nogil=True)
def project(points: np.ndarray, placement: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Camera-space points to [V,3] = screen x, screen y, depth.

    placement [15] = rotation (9, row-major), offset before scaling (3), shift in IOD (2), log scale.
    """
    n = points.shape[0]
    out = np.empty((n, 3), np.float32)
    r = placement
    scale = np.exp(r[14])
    for i in range(n):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        cx = r[0] * x + r[1] * y + r[2] * z + r[9]
        cy = r[3] * x + r[4] * y + r[5] * z + r[10]
        cz = r[6] * x + r[7] * y + r[8] * z + r[11]
        zoom = scale * camera[0] / (camera[1] - cz)
        out[i, 0] = camera[2] + (cx + r[12]) * zoom
        out[i, 1] = camera[3] - (cy + r[13]) * zoom
        out[i, 2] = cz
    return out


@njit(cache=True, nogil=True)
def rasterize(screen: np.ndarray, faces: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest front-facing triangle of every pixel [h,w] int32 (-1 = none) and its depth [h,w] float32."""
    triangle = np.full((height, width), -1, np.int32)
    depth = np.full((height, width), np.float32(-1e9), np.float32)
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ax, ay = screen[a, 0], screen[a, 1]
        bx, by = screen[b, 0], screen[b, 1]
        cx, cy = screen[c, 0], screen[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area > -1e-7:  # y points down, so front faces have negative area
            continue
        x0 = max(int(np.ceil(min(ax, bx, cx) - 0.5)), 0)
        x1 = min(int(np.floor(max(ax, bx, cx) - 0.5)), width - 1)
        y0 = max(int(np.ceil(min(ay, by, cy) - 0.5)), 0)
        y1 = min(int(np.floor(max(ay, by, cy) - 0.5)), height - 1)
        if x1 < x0 or y1 < y0:
            continue
        inv = np.float32(1.0) / area
        az, bz, cz = screen[a, 2], screen[b, 2], screen[c, 2]
        step0 = -(cy - by) * inv
        step1 = -(ay - cy) * inv
        for y in range(y0, y1 + 1):
            fy = y + np.float32(0.5)
            fx = x0 + np.float32(0.5)
            w0 = ((bx - fx) * (cy - fy) - (by - fy) * (cx - fx)) * inv
            w1 = ((cx - fx) * (ay - fy) - (cy - fy) * (ax - fx)) * inv
            for x in range(x0, x1 + 1):
                w2 = np.float32(1.0) - w0 - w1
                if w0 >= -1e-5 and w1 >= -1e-5 and w2 >= -1e-5:
                    z = w0 * az + w1 * bz + w2 * cz
                    if z > depth[y, x]:
                        depth[y, x] = z
                        triangle[y, x] = t
                w0 += step0
                w1 += step1
    return triangle, depth


@njit(cache=True, nogil=True)
def barycentric(screen: np.ndarray, faces: np.ndarray, t: int, x: int, y: int) -> tuple[Scalar, Scalar, Scalar]:
    """Weights of triangle t's corners at the centre of pixel (x, y)."""
    a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
    fx, fy = x + np.float32(0.5), y + np.float32(0.5)
    ax, ay = screen[a, 0], screen[a, 1]
    bx, by = screen[b, 0], screen[b, 1]
    cx, cy = screen[c, 0], screen[c, 1]
    inv = np.float32(1.0) / ((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))
    w0 = ((bx - fx) * (cy - fy) - (by - fy) * (cx - fx)) * inv
    w1 = ((cx - fx) * (ay - fy) - (cy - fy) * (ax - fx)) * inv
    return w0, w1, np.float32(1.0) - w0 - w1


@njit(cache=True, nogil=True)
def camera_normals(points: np.ndarray, placement: np.ndarray, scene: Scene) -> np.ndarray:
    """Unit vertex normals [V,3] in camera space; eyeballs get the normals of a sphere, not of their few faces."""
    normals = np.zeros(points.shape, np.float32)
    faces = scene.faces
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        e0, e1, e2 = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        g0, g1, g2 = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        n0, n1, n2 = e1 * g2 - e2 * g1, e2 * g0 - e0 * g2, e0 * g1 - e1 * g0
        for i in (a, b, c):
            normals[i, 0] += n0
            normals[i, 1] += n1
            normals[i, 2] += n2
    r = placement
    for i in range(points.shape[0]):
        x, y, z = normals[i, 0], normals[i, 1], normals[i, 2]
        side = scene.vertex_eye[i]
        if side >= 0:
            x = points[i, 0] - scene.eyes[side, 0]
            y = points[i, 1] - scene.eyes[side, 1]
            z = points[i, 2] - scene.eyes[side, 2]
        inv = np.float32(1.0) / (np.sqrt(x * x + y * y + z * z) + np.float32(1e-12))
        normals[i, 0] = (r[0] * x + r[1] * y + r[2] * z) * inv
        normals[i, 1] = (r[3] * x + r[4] * y + r[5] * z) * inv
        normals[i, 2] = (r[6] * x + r[7] * y + r[8] * z) * inv
    return normals


# ---------------------------------------------------------------- flow


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
                if scene.part[t] != WORN and (scene.part[t] != SKIN or (region > 0.0 and hair < 0.0)):
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
