"""Compiled shading: skin, eyes, mouth and hair under one key light, and whole frames on several threads.

Plain threads round compiled code that releases the interpreter lock, instead of the compiler's own parallel loops:
those abort in a process forked after their first use (data-loader workers) and when two threads call them at once.
Frames are independent of each other, so the number of threads cannot change a byte of the result. The sample loop is
one long function on purpose: handing the scene's arrays to a function for every sample costs more than shading it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from mesynth.core.errors import MesynthError
from mesynth.head.model import EYE, MOUTH, SKIN, TEETH, TONGUE
from mesynth.head.raster import (  # fmt: skip
    AMBIENT,
    BLUE,
    CLOTH,
    EXPOSURE,
    EYE_U,
    EYE_V,
    FACE,
    FILL,
    GAIN,
    GLOSS,
    GRADIENT_X,
    GRADIENT_Y,
    GREEN,
    HAIR,
    HAIR_SOFT,
    KEY,
    LASH,
    LASH_STRENGTH,
    LIP,
    LIP_SHIFT,
    OCCLUSION,
    RED,
    RELIEF,
    SHADOW,
    STRAND,
    TOOTH,
    WARMTH,
    WORN,
    Scalar,
    Scene,
    U,
    V,
    barycentric,
    camera_normals,
    deform,
    project,
    rasterize,
)

_limit: int | None = None


def available() -> int:
    """Processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1


def set_threads(count: int | None) -> int | None:
    """Use at most ``count`` threads from now on, None = one a processor; returns the limit used before.

    The pictures do not depend on it. Raises: MesynthError for a count below 1.
    """
    global _limit
    if count is not None and count < 1:
        raise MesynthError(f"{count} threads cannot render; give at least 1, or None for one a processor")
    before, _limit = _limit, count
    return before


def spread(task: Callable[[int], object], n: int) -> None:
    """Call task(0) .. task(n - 1), each once, in any order; the first exception is raised."""
    workers = min(n, _limit or available())
    if workers <= 1:
        for i in range(n):
            task(i)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(task, range(n)):
            pass


# ---------------------------------------------------------------- shade


# How deep (in normal slope) painted relief and expression folds are.
_RELIEF_SLOPE, _FOLD_SLOPE = 1.1, 2.2


@njit(cache=True, nogil=True)
def _clamp(x: Scalar) -> Scalar:
    return min(max(x, 0.0), 1.0)


@njit(cache=True, nogil=True)
def _smooth(edge0: Scalar, edge1: Scalar, x: Scalar) -> Scalar:
    t = _clamp((x - edge0) / (edge1 - edge0))
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True, nogil=True)
def _power(x: Scalar, doublings: int) -> Scalar:
    for _ in range(doublings):
        x *= x
    return x


@njit(cache=True, nogil=True)
def _eye_colour(
    eu: Scalar, ev: Scalar, iris: tuple[Scalar, Scalar, Scalar], white: Scalar
) -> tuple[Scalar, Scalar, Scalar]:
    """Sclera, limbal ring, iris and pupil at eye-local coordinates (unit = iris radius), under the lid's shade."""
    r = np.sqrt(eu * eu + ev * ev)
    corner = _clamp((abs(eu) - 1.0) / 1.4)
    in_iris, in_pupil = _smooth(1.10, 0.90, r), _smooth(0.46, 0.36, r)
    tone = 0.0
    if in_iris > 0.0:
        angle = np.arctan2(ev, eu)
        streak = 1.0 + 0.18 * np.sin(angle * 17.0 + 1.3) + 0.12 * np.sin(angle * 29.0)
        tone = (0.95 + 0.75 * _smooth(0.95, 0.35, r)) * streak * (1.0 - 0.65 * _smooth(0.66, 0.98, r))
    shade = 0.5 + 0.5 * _smooth(1.35, 0.35, ev)
    open_white, open_iris = (1.0 - in_iris) * (1.0 - in_pupil) * shade, in_iris * (1.0 - in_pupil) * tone * shade
    dark = 0.004 * in_pupil
    return (
        white * (1.0 - 0.12 * corner) * open_white + iris[0] * open_iris + dark,
        white * (0.93 - 0.34 * corner) * open_white + iris[1] * open_iris + dark,
        white * (0.89 - 0.34 * corner) * open_white + iris[2] * open_iris + dark,
    )


@njit(cache=True, nogil=True)
def _mouth_colour(part: int, depth: Scalar, tooth: Scalar, opening: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Inside of the mouth: little light comes in, less the further behind the lips and the less they open (IOD)."""
    entering = 0.10 + 0.90 * _smooth(0.02, 0.16, opening)
    if part == TEETH:
        light = np.exp(-4.0 * depth) * entering * (0.72 + 0.28 * _smooth(0.0, 0.18, abs(tooth - np.round(tooth))))
        return 0.46 * light, 0.42 * light, 0.35 * light
    if part == TONGUE:
        light = np.exp(-5.5 * depth) * entering
        return 0.26 * light, 0.085 * light, 0.08 * light
    light = np.exp(-11.0 * depth)
    return 0.13 * light + 0.004, 0.036 * light + 0.002, 0.032 * light + 0.002


@njit(cache=True, nogil=True)
def _shade_frame(
    scene: Scene, folds: np.ndarray, screen: np.ndarray, normals: np.ndarray, opening: Scalar, size: int, ss: int
) -> np.ndarray:
    """Gamma-encoded picture [size,size,3] float32 of a projected mesh; not clipped, no noise."""
    side = size * ss
    triangle, depth = rasterize(screen, scene.faces, side, side)
    glazed = scene.lenses.shape[0] > 0
    lens, before = rasterize(screen, scene.lenses, side if glazed else 1, side if glazed else 1)
    faces, parts, attributes, appearance = scene.faces, scene.part, scene.attributes, scene.appearance
    texture, wrinkles = scene.texture, scene.wrinkles
    u0, v0, texels = scene.tex_map[0], scene.tex_map[1], scene.tex_map[2]
    last_x, last_y = texture.shape[1] - 1.01, texture.shape[0] - 1.01
    lx, ly, lz = scene.key[0], scene.key[1], scene.key[2]
    gx, gy, gz = scene.fill[0], scene.fill[1], scene.fill[2]
    hair_r, hair_g, hair_b = scene.hair[0], scene.hair[1], scene.hair[2]
    lip_r, lip_g, lip_b = scene.lip[0], scene.lip[1], scene.lip[2]
    cloth_r, cloth_g, cloth_b = scene.garment[0], scene.garment[1], scene.garment[2]
    back_r, back_g, back_b = scene.background[0], scene.background[1], scene.background[2]
    tint = scene.tint
    iris = (scene.iris[0], scene.iris[1], scene.iris[2])
    ambient_light, fill_light, key_light, warmth = (
        appearance[AMBIENT],
        appearance[FILL],
        appearance[KEY],
        appearance[WARMTH],
    )
    exposure, gain = appearance[EXPOSURE], appearance[GAIN]

    image = np.empty((size, size, 3), np.float32)
    # Lengths that the compiler does not know: it would write loops of eight out, a number at a time, and so in no more
    # than one lane of the processor.
    columns, channels = attributes.shape[1], texture.shape[2]
    s, tex = np.empty(columns, np.float32), np.empty(channels, np.float32)
    # What samples share is computed once: divisions and square roots cost most of one.
    across, down = np.empty(side), np.empty(side)
    for i in range(side):
        across[i] = appearance[GRADIENT_X] * (2.0 * i / side - 1.0)
        down[i] = appearance[GRADIENT_Y] * (2.0 * i / side - 1.0)
    hz = lz + 1.0
    wide, narrow = float(lx), 0.75 * lx
    high, low = float(ly), 0.6 * ly
    long_half, short_half = np.sqrt(wide * wide + high * high + hz * hz), np.sqrt(narrow * narrow + low * low + hz * hz)
    shown = np.empty(folds.shape[0], np.int64)
    n_shown = 0
    for m in range(folds.shape[0]):
        if folds[m, 0] > 0.0 or folds[m, 1] > 0.0:
            shown[n_shown] = m
            n_shown += 1
    for py in range(size):
        for px in range(size):
            total_r, total_g, total_b = 0.0, 0.0, 0.0
            for y in range(py * ss, py * ss + ss):
                for x in range(px * ss, px * ss + ss):
                    t = triangle[y, x]
                    if t < 0:
                        fade = 1.0 - 0.25 * y / side
                        r, g, b_ = back_r * fade, back_g * fade, back_b * fade
                    else:
                        w0, w1, w2 = barycentric(screen, faces, t, x, y)
                        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
                        part = parts[t]
                        for k in range(columns):
                            s[k] = w0 * attributes[a, k] + w1 * attributes[b, k] + w2 * attributes[c, k]
                        nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0]
                        ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1]
                        nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2]
                        inv = 1.0 / (np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
                        nx, ny, nz = nx * inv, ny * inv, nz * inv

                        # Texture, bilinear.
                        fx = min(max((s[U] - u0) * texels - 0.5, 0.0), last_x)
                        fy = min(max((s[V] - v0) * texels - 0.5, 0.0), last_y)
                        ix, iy = int(fx), int(fy)
                        dx, dy = np.float32(fx - ix), np.float32(fy - iy)
                        k11 = dx * dy
                        k01, k10 = dx - k11, dy - k11
                        k00 = np.float32(1.0) - dx - k10
                        for k in range(channels):
                            tex[k] = (
                                k00 * texture[iy, ix, k]
                                + k01 * texture[iy, ix + 1, k]
                                + k10 * texture[iy + 1, ix, k]
                                + k11 * texture[iy + 1, ix + 1, k]
                            ) * np.float32(1 / 255)
                        occlusion, shadow, gloss = float(tex[OCCLUSION]), float(tex[SHADOW]), 0.0
                        hx, hy, half_length = wide, high, long_half

                        if part == SKIN:
                            # Expression folds: darker, redder, and tilting the surface.
                            fold, slope_x, slope_y = 0.0, 0.0, 0.0
                            left = 0.5 + 0.5 * min(max(s[U] * 12.0, -1.0), 1.0)
                            for j in range(n_shown):
                                m = shown[j]
                                i00, i01 = wrinkles[iy, ix, m], wrinkles[iy, ix + 1, m]
                                i10, i11 = wrinkles[iy + 1, ix, m], wrinkles[iy + 1, ix + 1, m]
                                if i00 | i01 | i10 | i11 == 0:
                                    continue  # most skin is far from any one fold
                                weight = (folds[m, 0] * left + folds[m, 1] * (1.0 - left)) / 127.0
                                if weight > 1e-6:
                                    f00, f01, f10, f11 = float(i00), float(i01), float(i10), float(i11)
                                    fold += weight * (k00 * f00 + k01 * f01 + k10 * f10 + k11 * f11)
                                    slope_x += weight * 0.5 * (f01 - f00 + f11 - f10)
                                    slope_y += weight * 0.5 * (f10 - f00 + f11 - f01)
                            here = float(texture[iy, ix, RELIEF])
                            tilt = _clamp(nz)
                            bump = _RELIEF_SLOPE / 255.0
                            nx -= tilt * (bump * (texture[iy, ix + 1, RELIEF] - here) - _FOLD_SLOPE * slope_x)
                            ny += tilt * (bump * (texture[iy + 1, ix, RELIEF] - here) - _FOLD_SLOPE * slope_y)
                            inv = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz)
                            nx, ny, nz = nx * inv, ny * inv, nz * inv
                            gloss = float(tex[GLOSS])
                            # Furrows are red before they are dark: light leaks through the flesh.
                            dark = min(max(1.0 - 0.42 * fold, 0.25), 1.25)
                            r = tex[RED] * tex[RED] * (0.3 + 0.7 * dark)
                            g = tex[GREEN] * tex[GREEN] * dark
                            b_ = tex[BLUE] * tex[BLUE] * dark
                            strand = float(tex[STRAND])
                            if s[LIP] > 0.01:
                                amount = _smooth(0.15, 0.85, s[LIP]) * appearance[LIP_SHIFT]
                                line = 0.65 + 0.7 * strand
                                r += amount * (lip_r * line - r)
                                g += amount * (lip_g * line - g)
                                b_ += amount * (lip_b * line - b_)
                                gloss += amount * (0.75 - gloss)
                            amount = s[HAIR] + (strand - 0.5) * 0.16
                            if amount > 0.0:
                                amount = min(amount / appearance[HAIR_SOFT], 1.0)
                                line = 0.35 + 1.3 * strand
                                r += amount * (hair_r * line - r)
                                g += amount * (hair_g * line - g)
                                b_ += amount * (hair_b * line - b_)
                                gloss += amount * (0.30 * strand - gloss)
                                occlusion += amount * (0.95 - occlusion)
                                shadow += amount * 0.7 * (1.0 - shadow)
                            if s[CLOTH] > 0.0:
                                amount = _smooth(0.0, 0.03, s[CLOTH])
                                r += amount * (cloth_r - r)
                                g += amount * (cloth_g - g)
                                b_ += amount * (cloth_b - b_)
                                gloss -= amount * gloss
                            if s[LASH] > 0.25:
                                amount = _smooth(0.25, 0.85, s[LASH]) * appearance[LASH_STRENGTH]
                                r += amount * (min(hair_r * 0.35, 0.02) - r)
                                g += amount * (min(hair_g * 0.35, 0.02) - g)
                                b_ += amount * (min(hair_b * 0.35, 0.02) - b_)
                        elif part == EYE:
                            r, g, b_ = _eye_colour(s[EYE_U], s[EYE_V], iris, 0.62 / exposure)
                            occlusion = 0.45 + 0.55 * occlusion
                            shadow = 0.3 + 0.7 * shadow
                            # The cornea bulges, so its highlight stays on the iris; rooms have lamps nearer the camera.
                            bulge = 0.20 * _smooth(1.3, 0.8, np.sqrt(s[EYE_U] * s[EYE_U] + s[EYE_V] * s[EYE_V]))
                            nx += bulge * s[EYE_U]
                            ny += bulge * s[EYE_V]
                            inv = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz)
                            nx, ny, nz = nx * inv, ny * inv, nz * inv
                            hx, hy, half_length = narrow, low, short_half
                        elif part == WORN:
                            r, g, b_ = float(s[U]), float(s[V]), float(s[LIP])
                            gloss, occlusion, shadow = float(s[LASH]), 1.0, 1.0
                        else:
                            r, g, b_ = _mouth_colour(part, s[FACE], s[TOOTH], opening)
                            occlusion, shadow = 0.8, 0.8

                        # Key light wrapped round the terminator (red furthest, it travels under the skin), fill, sky.
                        half_open = 0.5 + 0.5 * occlusion
                        fill = _clamp((nx * gx + ny * gy + nz * gz + 0.4) / 1.4)
                        soft = ambient_light * (0.72 + 0.28 * ny) * occlusion + fill_light * fill * half_open
                        direct = key_light * (0.12 + 0.88 * shadow) * half_open
                        key = nx * lx + ny * ly + nz * lz
                        wrap_r, wrap_g, wrap_b = (0.34, 0.24, 0.14) if part == SKIN else (0.2, 0.2, 0.2)
                        r *= soft + direct * _clamp((key + wrap_r) / (1.0 + wrap_r)) * (1.0 + warmth)
                        g *= soft + direct * _clamp((key + wrap_g) / (1.0 + wrap_g))
                        b_ *= soft + direct * _clamp((key + wrap_b) / (1.0 + wrap_b)) * (1.0 - warmth)

                        half = _clamp((nx * hx + ny * hy + nz * hz) / half_length)
                        lit = key_light * shadow
                        shine = 0.0
                        if part == SKIN:
                            rim = _power(1.0 - _clamp(nz), 2)
                            shine = gloss * lit * (0.10 * _power(half, 5) + 0.05 * _power(half, 3))
                            shine += gloss * 0.035 * rim * (ambient_light + fill_light) * occlusion
                        elif part == EYE:
                            shine = lit * 0.80 * _power(half, 7) + 0.02 * ambient_light
                        elif part == WORN:
                            shine = gloss * lit * 0.25 * _power(half, 5)
                        elif part != MOUTH:
                            shine = lit * 0.06 * _power(half, 5)
                        grade = 1.0 + across[x] + down[y]
                        r, g, b_ = (r + shine) * grade, (g + shine) * grade, (b_ + shine) * grade
                    # What is behind a lens is seen through it, and a window's reflection over it.
                    if glazed and lens[y, x] >= 0 and before[y, x] > depth[y, x]:
                        w0, w1, w2 = barycentric(screen, scene.lenses, lens[y, x], x, y)
                        a, b, c = scene.lenses[lens[y, x], 0], scene.lenses[lens[y, x], 1], scene.lenses[lens[y, x], 2]
                        lu = w0 * attributes[a, EYE_U] + w1 * attributes[b, EYE_U] + w2 * attributes[c, EYE_U]
                        lv = w0 * attributes[a, EYE_V] + w1 * attributes[b, EYE_V] + w2 * attributes[c, EYE_V]
                        pane = _smooth(0.42, 0.30, abs(lu - 0.9 * lx + 0.35 * lv)) * _smooth(0.75, 0.5, abs(lv - 0.35))
                        mirrored = key_light * (0.004 + 0.05 * pane)
                        r, g, b_ = r * tint[0] + mirrored, g * tint[1] + mirrored, b_ * tint[2] + mirrored
                    total_r += r
                    total_g += g
                    total_b += b_
            scale = exposure / (ss * ss)
            image[py, px, 0] = _develop(total_r * scale, gain)
            image[py, px, 1] = _develop(total_g * scale, gain)
            image[py, px, 2] = _develop(total_b * scale, gain)
    return image


@njit(cache=True, nogil=True)
def _develop(value: Scalar, gain: Scalar) -> Scalar:
    """Linear light to display: a soft shoulder, as cameras have, then gamma."""
    value = max(value, 0.0)
    rolled = gain * value * (1.0 + 0.16 * value) / (1.0 + value)
    return np.float32(rolled) ** np.float32(1 / 2.2)


@njit(cache=True, nogil=True)
def _grain(key: np.uint64, index: Scalar) -> Scalar:
    """Roughly normal number (mean 0, variance 1) from a counter: splitmix64, four 16-bit uniforms added up."""
    z = key + np.uint64(index + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    low = np.uint64(0xFFFF)
    total = (z & low) + ((z >> np.uint64(16)) & low) + ((z >> np.uint64(32)) & low) + (z >> np.uint64(48))
    return (np.float64(total) / 65535.0 - 2.0) * 1.7320508


@njit(cache=True, nogil=True)
def _render_frame(
    scene: Scene, weights: np.ndarray, folds: np.ndarray, placement: np.ndarray, key: np.uint64,
    noise_sd: Scalar, size: int, ss: int, out: np.ndarray,
) -> None:  # fmt: skip
    """One frame into out [size,size,3] uint8, for weights [2K], folds [M,2] and a placement [15].

    key seeds the frame's noise, of standard deviation noise_sd (share of white) at mid-grey; it grows towards the
    darks of the gamma-encoded picture, as shot noise does.
    """
    points = deform(scene, weights)
    screen = project(points, placement, scene.camera)
    normals = camera_normals(points, placement, scene)
    opening = max(points[scene.lips[0], 1] - points[scene.lips[1], 1], 0.0)
    image = _shade_frame(scene, folds, screen, normals, opening, size, ss).ravel()
    flat = out.reshape(-1)
    for i in range(flat.shape[0]):
        value = float(image[i])
        if noise_sd > 0.0:
            value += noise_sd * (1.35 - 0.7 * _clamp(value)) * _grain(key, i)
        flat[i] = np.uint8(_clamp(value) * 255.0 + 0.5)


def render_frames(
    scene: Scene, weights: np.ndarray, folds: np.ndarray, placements: np.ndarray, keys: np.ndarray,
    noise_sd: float, size: int, ss: int,
) -> np.ndarray:  # fmt: skip
    """Frames [T,size,size,3] uint8 for weights [T,2K], folds [T,M,2], placements [T,15] and noise keys [T] uint64."""
    out = np.empty((len(weights), size, size, 3), np.uint8)

    def task(t: int) -> None:
        _render_frame(scene, weights[t], folds[t], placements[t], keys[t], noise_sd, size, ss, out[t])

    spread(task, len(weights))
    return out
