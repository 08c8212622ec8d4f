"""Skin in the canonical texture plane: brushes, the painter, expression wrinkles, and light baked into it.

Coordinates of the plane are (u, v) in IOD, v downwards. Last comes what is done once a subject on its resting face:
closed lips, fitted eyes, cavity occlusion and the cast shadow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numba import njit

from mesynth.core.facs import AU_CODES, level_midline
from mesynth.head.identity import Skin
from mesynth.head.model import EYE, MOUTH, SKIN, HeadModel
from mesynth.head.raster import Scalar, rasterize

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


def _soften(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with sigma in IOD."""
    blurred = cv2.GaussianBlur(image, (0, 0), sigma * TEXELS_PER_IOD)
    return np.asarray(blurred, np.float32)


def curve(points: np.ndarray | list[tuple[float, float]], n: int = 40) -> np.ndarray:
    """Smooth curve [n,2] through control points (centripetal enough at our spacing: a cubic spline by length)."""
    from scipy.interpolate import CubicSpline

    control = np.asarray(points, np.float64)
    length = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(control, axis=0), axis=1))]
    return np.asarray(CubicSpline(length, control, bc_type="natural")(np.linspace(0.0, length[-1], n)))


# ---------------------------------------------------------------- texture


# Skin tones from light to dark, sRGB 0..255; mixed in linear light.
_TONES = np.array(
    [[240, 206, 186], [230, 187, 160], [214, 163, 130], [187, 131, 99], [150, 98, 71], [112, 71, 51], [78, 49, 37]],
    np.float32,
)


@dataclass(frozen=True, eq=False)
class Paint:
    """Painted maps, all [HEIGHT,WIDTH]: colour [...,3] linear RGB float32; gloss, relief, strand 0..1 float32."""

    colour: np.ndarray
    gloss: np.ndarray
    relief: np.ndarray
    strand: np.ndarray
    skin: np.ndarray


def skin_tone(tone: float) -> np.ndarray:
    """Linear RGB [3] of a tone 0 (lightest) .. 1 (darkest)."""
    linear = (_TONES / 255.0) ** 2.2
    place = float(np.clip(tone, 0, 1)) * (len(linear) - 1)
    low = min(int(place), len(linear) - 2)
    mixed = linear[low] + (place - low) * (linear[low + 1] - linear[low])
    return np.asarray(mixed, np.float32)


def _redness(landmarks: np.ndarray, skin: Skin) -> np.ndarray:
    lm = landmarks
    red = 0.55 * blob(0.0, lm[30, 1] + 0.03, 0.17, 0.14) + 0.30 * blob(0.0, 1.55, 0.28, 0.16)
    for s in (-1.0, 1.0):
        red += 0.75 * blob(s * 0.62, 0.60, 0.27, 0.22)
        red += 0.35 * blob(s * 0.22, lm[33, 1] - 0.02, 0.09, 0.1)
    red += 0.25 * blob(0.0, -0.55, 0.5, 0.2)
    return np.asarray(red * skin.redness, np.float32)


def _spots(skin: Skin, rng: np.random.Generator) -> np.ndarray:
    """Moles and freckles as extra melanin."""
    melanin = np.zeros((HEIGHT, WIDTH), np.float32)
    for _ in range(skin.moles):
        u, v = rng.uniform(-1.0, 1.0), rng.uniform(-0.8, 1.7)
        stamp(melanin, u, v, rng.uniform(0.006, 0.014), rng.uniform(0.25, 0.9))
    if skin.freckles > 0:
        where = sum(blob(s * 0.42, 0.45, 0.42, 0.26) for s in (-1.0, 1.0)) + 0.25
        dots = np.clip(noise(rng, [5.0, 3.5], [0.7, 0.6]) - 0.85, 0, 0.6)
        melanin += 0.60 * skin.freckles * dots * where
    return melanin


def _sockets(landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thin, darker skin round the eyes; heavier under them."""
    depth = rng.uniform(0.10, 0.30)
    out = np.zeros((HEIGHT, WIDTH), np.float32)
    for eye in (landmarks[36:42], landmarks[42:48]):
        u, v = eye.mean(0)
        out += depth * blob(float(u), float(v) + 0.10, 0.24, 0.08)
        out += 0.7 * depth * blob(float(u), float(v) - 0.10, 0.26, 0.08)
        out += 0.6 * depth * blob(float(u) * 0.55, float(v) + 0.02, 0.07, 0.10)
    return out


def _brows(landmarks: np.ndarray, skin: Skin, rng: np.random.Generator) -> np.ndarray:
    """Coverage 0..1 of the brows: a soft underlayer and some hundred hairs that lie along the brow."""
    hairs = np.zeros((HEIGHT, WIDTH), np.float32)
    under = np.zeros_like(hairs)
    lift, arch = rng.uniform(-0.01, 0.02), rng.uniform(-0.015, 0.02)
    for side in (-1.0, 1.0):
        points = landmarks[17:22][::-1] if side < 0 else landmarks[22:27]
        shift = np.array([[0.02 * side, -0.04], [0, -0.01], [0, -arch], [0, -arch], [-0.05 * side, -0.035]])
        line = curve(points + shift + np.array([0.0, 0.035 - lift]), 200)
        n = int(420 * skin.brow_density)
        t = rng.random(n)
        along = np.gradient(line, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        index = (t * 199).astype(int)
        half = skin.brow_width * np.interp(t, [0, 0.12, 0.45, 0.7, 1.0], [0.75, 1.0, 0.9, 0.65, 0.12])
        offset = np.clip(rng.normal(0.0, 0.5, n), -1, 1) * half
        root = line[index] + np.stack([np.zeros(n), offset], 1)
        # Inner hairs stand up, outer hairs lie along the brow; the upper ones lean down towards the lower.
        upright = np.interp(t, [0, 0.15, 0.5, 1.0], [1.2, 0.7, 0.35, 0.1]) - 0.5 * (offset < -0.3 * half)
        direction = along[index] + np.stack([np.zeros(n), -upright], 1)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = rng.uniform(0.05, 0.10, n) * np.interp(t, [0, 0.2, 1], [0.8, 1.0, 0.7])
        tip = root + direction * length[:, None]
        draw(hairs, list(np.stack([root, tip], axis=1)), 1.0, 0.005)
        width = skin.brow_width * np.interp(np.linspace(0, 1, 200), [0, 0.15, 0.6, 1.0], [0.6, 0.85, 0.65, 0.08])
        outline = np.vstack([line - np.stack([0 * width, width], 1), (line + np.stack([0 * width, width], 1))[::-1]])
        under = np.maximum(under, fill(outline))
    under = _soften(under, 0.022)
    cover = 0.75 * _soften(hairs, 0.004) + 0.50 * skin.brow_density * under
    return np.asarray(np.clip(cover, 0, 1), np.float32)


def _beard_area(landmarks: np.ndarray) -> np.ndarray:
    """Where men shave: moustache, chin, jaw up to the sideburns; not the lips."""
    u, v = grid()
    upper_lip, mouth = landmarks[51, 1], landmarks[48:60, 1].mean()
    jaw_line = 1.02 - 0.75 * np.clip((np.abs(u) - 0.62) / 0.35, 0, 1) ** 1.3
    area = np.clip((v - jaw_line) / 0.22, 0, 1)
    moustache = np.clip((v - (landmarks[33, 1] + 0.05)) / 0.06, 0, 1) * np.clip((0.52 - np.abs(u)) / 0.14, 0, 1)
    area = np.maximum(area, moustache * (v < mouth + 0.3))
    soul = 1.0 - np.clip((np.abs(u) - 0.10) / 0.1, 0, 1)
    below_lip = np.exp(-0.5 * ((v - (landmarks[57, 1] + 0.05)) / 0.05) ** 2) * (1.0 - soul) * (np.abs(u) < 0.42)
    throat = np.clip((v - 1.78) / 0.15, 0, 1)
    return np.asarray(np.clip(area - 0.8 * below_lip - throat - (v < upper_lip - 0.3), 0, 1), np.float32)


def _strands(rng: np.random.Generator) -> np.ndarray:
    """Hair strands 0..1 that radiate from the face centre: on the scalp they then run back from the hairline."""
    u, v = grid()
    angle = np.arctan2(u, -(v - 0.9))
    radius = np.hypot(u, v - 0.9)
    columns = angle * 640.0 / np.pi
    rows = radius * 12.0
    field = rng.standard_normal((64, 1024), dtype=np.float32)
    field = field + 0.8 * cv2.resize(rng.standard_normal((32, 160), dtype=np.float32), (1024, 64))
    strand = cv2.remap(
        field, (columns % 1023).astype(np.float32), (rows % 62).astype(np.float32), cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT)  # fmt: skip
    return np.asarray(np.clip(0.5 + 0.24 * strand, 0, 1), np.float32)


def paint_skin(landmarks: np.ndarray, skin: Skin, wrinkles: np.ndarray, rng: np.random.Generator) -> Paint:
    """Paint a face.

    landmarks [68,2] in (u, v); wrinkles [HEIGHT,WIDTH,M] int8 from wrinkles.paint_wrinkles, whose resting share
    (age lines) is painted in; rng is consumed in a fixed order, so a seed always gives the same skin.
    """
    base = skin_tone(skin.tone)
    depth = 1.0 - 0.55 * skin.tone  # blood shows less through dark skin
    blood = _redness(landmarks, skin) + skin.blotch * noise(rng, [150, 60, 26], [0.12, 0.11, 0.08])
    blood += noise(rng, [9, 4], [0.05, 0.05])
    melanin = _spots(skin, rng) + skin.blotch * noise(rng, [190, 80, 18], [0.07, 0.05, 0.035])
    melanin += noise(rng, [7, 3], [0.03, 0.035]) + _sockets(landmarks, rng)

    lines = wrinkles.astype(np.float32) / 127.0
    resting = skin.age_lines * (
        0.30 * lines[..., 0] + 0.22 * lines[..., 1] + 0.30 * lines[..., 2] + 0.32 * lines[..., 3] + 0.30 * lines[..., 4]
    )
    colour = base * np.exp(-depth * np.clip(blood, -0.5, 2)[..., None] * np.array([0.04, 0.30, 0.26], np.float32))
    colour = colour * np.exp(-np.clip(melanin, -0.4, 2)[..., None] * np.array([0.45, 0.72, 0.90], np.float32))
    colour = colour * np.clip(1.0 - 0.30 * resting, 0.3, 1.15)[..., None]

    hair = np.asarray(skin.hair, np.float32)
    grain = np.clip(0.80 + noise(rng, [2.0, 16.0], [0.13, 0.08]), 0.2, 1.3)
    area = _beard_area(landmarks)
    shadow = 0.34 * skin.stubble * _soften(area, 0.03) * (0.7 + 0.3 * grain)
    colour = colour + shadow[..., None] * (np.minimum(hair * 1.5 + 0.35 * base, base) - colour)
    beard = np.clip(skin.beard * _soften(area, 0.05) * (0.15 + grain), 0, 0.90)
    colour = colour + beard[..., None] * (hair * 0.9 - colour)

    brows = 0.86 * _brows(landmarks, skin, rng)
    brow_hair = hair * min(0.85, 0.40 * float(base.sum()) / float(hair.sum()))
    colour = colour + brows[..., None] * (brow_hair - colour)

    pores = noise(rng, [5, 2.5], [0.10, 0.10])
    relief = 0.5 + 0.35 * pores - 0.28 * resting + noise(rng, [30, 14], [0.08, 0.06])
    relief += 0.10 * beard * (grain - 0.7)
    oily = 0.45 + 0.4 * blob(0, -0.5, 0.45, 0.3) + 0.45 * blob(0, 0.35, 0.15, 0.35)
    oily += sum(0.2 * blob(s * 0.6, 0.4, 0.3, 0.25) for s in (-1.0, 1.0))
    gloss = skin.gloss * oily * (1.0 + 1.2 * pores) * (1.0 - 0.7 * np.clip(brows + beard, 0, 1))
    return Paint(
        colour=np.clip(colour, 0.002, 1).astype(np.float32),
        gloss=np.clip(gloss, 0, 1).astype(np.float32),
        relief=np.clip(relief, 0, 1).astype(np.float32),
        strand=_strands(rng),
        skin=base,
    )


# ---------------------------------------------------------------- wrinkles


# Which fold each AU deepens, and how much at intensity 1 (judgement, from FACS appearance changes).
FOLDS: tuple[str, ...] = ("forehead", "glabella", "crow", "underlid", "nasolabial", "nose", "chin", "corner")
_AU_FOLDS: dict[int, dict[str, float]] = {
    1: {"forehead": 0.50},
    2: {"forehead": 0.60},
    4: {"glabella": 0.90},
    6: {"crow": 0.70, "underlid": 0.45, "nasolabial": 0.15},
    7: {"underlid": 0.55, "crow": 0.20},
    9: {"nose": 0.85, "nasolabial": 0.40, "glabella": 0.25},
    10: {"nasolabial": 0.55},
    12: {"nasolabial": 0.50, "corner": 0.12},
    14: {"corner": 0.90, "nasolabial": 0.15},
    15: {"corner": 0.55},
    17: {"chin": 0.95},
    20: {"corner": 0.40},
    23: {"corner": 0.15},
    24: {"corner": 0.30, "chin": 0.20},
}


def fold_matrix(strength: np.ndarray) -> np.ndarray:
    """Linear map [K,M] float32 from AU intensity to fold depth, scaled by a subject's strengths [M]."""
    matrix = np.zeros((len(AU_CODES), len(FOLDS)), np.float32)
    for code, folds in _AU_FOLDS.items():
        for name, amount in folds.items():
            matrix[AU_CODES.index(code), FOLDS.index(name)] = amount
    return matrix * strength[None, :].astype(np.float32)


_FULL = fold_matrix(np.ones(len(FOLDS)))


def fold_depths(aus: np.ndarray, matrix: np.ndarray = _FULL) -> np.ndarray:
    """Depth [...,M,2] float32 in 0 to 1.2 of every fold and side at AU intensities [...,K,2], by :func:`fold_matrix`.

    >>> aus = np.zeros((len(AU_CODES), 2), np.float32)
    >>> aus[AU_CODES.index(4)] = 0.5
    >>> fold_depths(aus)[FOLDS.index("glabella")]
    array([0.45, 0.45], dtype=float32)
    """
    depths = np.einsum("...ks,km->...ms", level_midline(aus), matrix, optimize=False)
    return np.ascontiguousarray(np.clip(depths, 0.0, 1.2), np.float32)


def _furrows(curves: list[tuple[list[tuple[float, float]], float]], width: float) -> np.ndarray:
    """Furrows with a bulging edge above them: positive where the skin goes in, negative where it swells."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    for points, depth in curves:
        line = curve(points)
        # Furrows run out at their ends; a constant depth looks drawn on.
        taper = np.sin(np.linspace(0.0, np.pi, len(line) - 1)) ** 0.6
        for i, amount in enumerate(taper):
            draw(mask, [line[i : i + 2]], float(depth * amount), width)
    groove = _soften(mask, 0.8 * width)
    swelling = np.roll(_soften(mask, 1.5 * width), -round(2.0 * width * TEXELS_PER_IOD), axis=0)
    return np.asarray(groove - 0.40 * swelling, np.float32)


def paint_wrinkles(landmarks: np.ndarray, rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """Fold maps [HEIGHT,WIDTH,M] int8 (127 = deepest furrow) for landmarks [68,2] in (u, v).

    ``spread``: how far folds lie from where they lie on the mean, in units of what people have.
    """
    lm = landmarks

    def near(scale: float = 0.012) -> float:
        return float(rng.normal(0.0, scale)) * spread

    brow = 0.5 * (lm[19, 1] + lm[24, 1])
    forehead: list[tuple[list[tuple[float, float]], float]] = []
    for k in range(int(rng.integers(2, 5)) if spread else 3):
        level = brow - 0.17 - 0.135 * k
        rise = {-0.62: 0.0, -0.3: -0.04, 0.0: -0.015, 0.3: -0.04, 0.62: 0.0}
        forehead.append(([(u, level + dv + near()) for u, dv in rise.items()], 1.0 - 0.18 * k))
    sides = (-1.0, 1.0)
    mouth_left, mouth_right = lm[48], lm[54]
    maps = {
        "forehead": _furrows(forehead, 0.020),
        "glabella": _furrows(
            [([(s * (0.085 + near()), brow + 0.20), (s * 0.10, brow + 0.06 + near()), (s * 0.115, brow - 0.10)], 1.0)
             for s in sides], 0.022),
        "crow": _furrows(
            [([(s * 0.80, -0.01 + 0.06 * k), (s * 0.88, -0.015 + 0.09 * k + near(0.006)), (s * 0.97, 0.14 * k)], 0.9)
             for s in sides for k in (-0.6, 0.5, 1.5)], 0.014),
        "underlid": _furrows(
            [([(s * 0.27, 0.10), (s * 0.40, 0.175), (s * 0.55, 0.185), (s * 0.72, 0.11)], 0.9) for s in sides], 0.022),
        "nasolabial": _furrows(
            [([(s * 0.27, lm[33, 1] - 0.17), (s * 0.36, lm[33, 1] - 0.03), (s * 0.47, lm[33, 1] + 0.16),
               (corner[0] + s * 0.15, corner[1] + 0.02)], 1.0)
             for s, corner in zip(sides, (mouth_left, mouth_right), strict=True)], 0.030),
        "nose": _furrows(
            [([(s * 0.03, 0.10 + 0.075 * k), (s * 0.10, 0.06 + 0.075 * k), (s * 0.17, 0.11 + 0.09 * k)], 0.8)
             for s in sides for k in range(3)], 0.014),
        # Pebbles, which lie nowhere in the mean.
        "chin": np.clip(noise(rng, [14.0, 9.0], [0.38, 0.20]), -1, 1)
        * blob(0.0, 1.52, 0.20, 0.10) * (0.3 + 0.7 * spread),
        "corner": _furrows(
            [([(corner[0] + s * 0.055, corner[1] - 0.09), (corner[0] + s * 0.075, corner[1]),
               (corner[0] + s * 0.055, corner[1] + 0.10)], 0.9)
             for s, corner in zip(sides, (mouth_left, mouth_right), strict=True)], 0.022),
    }  # fmt: skip
    stack = np.stack([maps[name] for name in FOLDS], axis=-1)
    # Folds drift from person to person; one gentle warp moves them all and their crossings together.
    drift = noise(rng, [120.0], [2.0]), noise(rng, [120.0], [2.0])
    columns, rows = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    maps_x, maps_y = (at + np.float32(spread) * off for at, off in zip((columns, rows), drift, strict=True))
    warped = [cv2.remap(stack[..., m], maps_x, maps_y, cv2.INTER_LINEAR) for m in range(len(FOLDS))]
    return np.asarray(np.clip(np.stack(warped, axis=-1), -1, 1) * 127, np.int8)


# ---------------------------------------------------------------- the resting face


# The relief is baked at half the texture's resolution: cavities are smooth.
_BAKED = TEXELS_PER_IOD // 2
# Blur radius (IOD), strength and floor of the three cavity scales: creases, sockets, the whole face.
_CAVITIES = ((0.030, 2.0, 0.55), (0.10, 1.0, 0.40), (0.24, 0.5, 0.30))


def height_field(model: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """Depth z of a resting face over the canonical plane, [HEIGHT/2,WIDTH/2] float32 IOD; holes far behind."""
    origin = np.array([U_MIN, V_MIN], np.float32)
    screen = np.empty((len(vertices), 3), np.float32)
    screen[:, :2] = (model.uv - origin) * _BAKED
    screen[:, 2] = vertices[:, 2]
    faces = model.faces[(model.part == SKIN) | (model.part == EYE)]
    triangle, depth = rasterize(screen, faces, WIDTH // 2, HEIGHT // 2)
    hit = triangle >= 0
    return np.where(hit, depth, np.float32(depth[hit].min())).astype(np.float32)


def cavity_occlusion(height: np.ndarray) -> np.ndarray:
    """Ambient light 0..1 that reaches each texel: what lies below its blurred surroundings gets less."""
    light = np.ones_like(height)
    for sigma, strength, floor in _CAVITIES:
        surround = cv2.GaussianBlur(height, (0, 0), sigma * _BAKED)
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
    rise = np.float32(light[2] / across / _BAKED)
    shadow = _march(
        height, np.float32(light[0] / across), np.float32(-light[1] / across), rise, np.float32(0.30 / _BAKED), 60
    )
    return np.asarray(cv2.GaussianBlur(shadow, (0, 0), 0.022 * _BAKED), np.float32)


def mend_outline(values: np.ndarray, height: np.ndarray) -> np.ndarray:
    """A baked map with the steep outline of the head filled in from the surface beside it.

    Where the head's side is seen edge-on, neighbouring texels lie far apart in depth and the map means nothing;
    unmended, a turned head shows a dark line along the jaw.
    """
    slope = np.hypot(cv2.Sobel(height, cv2.CV_32F, 1, 0), cv2.Sobel(height, cv2.CV_32F, 0, 1)) * (_BAKED / 8.0)
    u = (np.arange(height.shape[1]) + 0.5) / _BAKED + U_MIN
    broken = ((slope > 3.0) & (np.abs(u) > 0.7)).astype(np.uint8)
    weight = 1.0 - cv2.dilate(broken, np.ones((5, 5), np.uint8)).astype(np.float32)
    sigma = 0.06 * _BAKED
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    beside = (cv2.GaussianBlur(values * weight, (0, 0), sigma) + 0.02) / (total + 0.02)
    keep = cv2.GaussianBlur(weight, (0, 0), 0.02 * _BAKED) * weight
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
