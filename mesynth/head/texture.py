"""The skin painter: colour, gloss, relief and hair strands in the canonical plane, from landmarks and a seed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mesynth.head import canvas
from mesynth.head.identity import Skin

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
    red = 0.55 * canvas.blob(0.0, lm[30, 1] + 0.03, 0.17, 0.14) + 0.30 * canvas.blob(0.0, 1.55, 0.28, 0.16)
    for s in (-1.0, 1.0):
        red += 0.75 * canvas.blob(s * 0.62, 0.60, 0.27, 0.22)
        red += 0.35 * canvas.blob(s * 0.22, lm[33, 1] - 0.02, 0.09, 0.1)
    red += 0.25 * canvas.blob(0.0, -0.55, 0.5, 0.2)
    return np.asarray(red * skin.redness, np.float32)


def _spots(skin: Skin, rng: np.random.Generator) -> np.ndarray:
    """Moles and freckles as extra melanin."""
    melanin = np.zeros((canvas.HEIGHT, canvas.WIDTH), np.float32)
    for _ in range(skin.moles):
        u, v = rng.uniform(-1.0, 1.0), rng.uniform(-0.8, 1.7)
        canvas.stamp(melanin, u, v, rng.uniform(0.006, 0.014), rng.uniform(0.25, 0.9))
    if skin.freckles > 0:
        where = sum(canvas.blob(s * 0.42, 0.45, 0.42, 0.26) for s in (-1.0, 1.0)) + 0.25
        dots = np.clip(canvas.noise(rng, [5.0, 3.5], [0.7, 0.6]) - 0.85, 0, 0.6)
        melanin += 0.60 * skin.freckles * dots * where
    return melanin


def _sockets(landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thin, darker skin round the eyes; heavier under them."""
    depth = rng.uniform(0.10, 0.30)
    out = np.zeros((canvas.HEIGHT, canvas.WIDTH), np.float32)
    for eye in (landmarks[36:42], landmarks[42:48]):
        u, v = eye.mean(0)
        out += depth * canvas.blob(float(u), float(v) + 0.10, 0.24, 0.08)
        out += 0.7 * depth * canvas.blob(float(u), float(v) - 0.10, 0.26, 0.08)
        out += 0.6 * depth * canvas.blob(float(u) * 0.55, float(v) + 0.02, 0.07, 0.10)
    return out


def _brows(landmarks: np.ndarray, skin: Skin, rng: np.random.Generator) -> np.ndarray:
    """Coverage 0..1 of the brows: a soft underlayer and some hundred hairs that lie along the brow."""
    hairs = np.zeros((canvas.HEIGHT, canvas.WIDTH), np.float32)
    under = np.zeros_like(hairs)
    lift, arch = rng.uniform(-0.01, 0.02), rng.uniform(-0.015, 0.02)
    for side in (-1.0, 1.0):
        points = landmarks[17:22][::-1] if side < 0 else landmarks[22:27]
        shift = np.array([[0.02 * side, -0.04], [0, -0.01], [0, -arch], [0, -arch], [-0.05 * side, -0.035]])
        line = canvas.curve(points + shift + np.array([0.0, 0.035 - lift]), 200)
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
        canvas.draw(hairs, list(np.stack([root, tip], axis=1)), 1.0, 0.005)
        width = skin.brow_width * np.interp(np.linspace(0, 1, 200), [0, 0.15, 0.6, 1.0], [0.6, 0.85, 0.65, 0.08])
        outline = np.vstack([line - np.stack([0 * width, width], 1), (line + np.stack([0 * width, width], 1))[::-1]])
        under = np.maximum(under, canvas.fill(outline))
    under = canvas.soften(under, 0.022)
    cover = 0.75 * canvas.soften(hairs, 0.004) + 0.50 * skin.brow_density * under
    return np.asarray(np.clip(cover, 0, 1), np.float32)


def _beard_area(landmarks: np.ndarray) -> np.ndarray:
    """Where men shave: moustache, chin, jaw up to the sideburns; not the lips."""
    u, v = canvas.grid()
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
    u, v = canvas.grid()
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
    blood = _redness(landmarks, skin) + skin.blotch * canvas.noise(rng, [150, 60, 26], [0.12, 0.11, 0.08])
    blood += canvas.noise(rng, [9, 4], [0.05, 0.05])
    melanin = _spots(skin, rng) + skin.blotch * canvas.noise(rng, [190, 80, 18], [0.07, 0.05, 0.035])
    melanin += canvas.noise(rng, [7, 3], [0.03, 0.035]) + _sockets(landmarks, rng)

    lines = wrinkles.astype(np.float32) / 127.0
    resting = skin.age_lines * (
        0.30 * lines[..., 0] + 0.22 * lines[..., 1] + 0.30 * lines[..., 2] + 0.32 * lines[..., 3] + 0.30 * lines[..., 4]
    )
    colour = base * np.exp(-depth * np.clip(blood, -0.5, 2)[..., None] * np.array([0.04, 0.30, 0.26], np.float32))
    colour = colour * np.exp(-np.clip(melanin, -0.4, 2)[..., None] * np.array([0.45, 0.72, 0.90], np.float32))
    colour = colour * np.clip(1.0 - 0.30 * resting, 0.3, 1.15)[..., None]

    hair = np.asarray(skin.hair, np.float32)
    grain = np.clip(0.80 + canvas.noise(rng, [2.0, 16.0], [0.13, 0.08]), 0.2, 1.3)
    area = _beard_area(landmarks)
    shadow = 0.34 * skin.stubble * canvas.soften(area, 0.03) * (0.7 + 0.3 * grain)
    colour = colour + shadow[..., None] * (np.minimum(hair * 1.5 + 0.35 * base, base) - colour)
    beard = np.clip(skin.beard * canvas.soften(area, 0.05) * (0.15 + grain), 0, 0.90)
    colour = colour + beard[..., None] * (hair * 0.9 - colour)

    brows = 0.86 * _brows(landmarks, skin, rng)
    brow_hair = hair * min(0.85, 0.40 * float(base.sum()) / float(hair.sum()))
    colour = colour + brows[..., None] * (brow_hair - colour)

    pores = canvas.noise(rng, [5, 2.5], [0.10, 0.10])
    relief = 0.5 + 0.35 * pores - 0.28 * resting + canvas.noise(rng, [30, 14], [0.08, 0.06])
    relief += 0.10 * beard * (grain - 0.7)
    oily = 0.45 + 0.4 * canvas.blob(0, -0.5, 0.45, 0.3) + 0.45 * canvas.blob(0, 0.35, 0.15, 0.35)
    oily += sum(0.2 * canvas.blob(s * 0.6, 0.4, 0.3, 0.25) for s in (-1.0, 1.0))
    gloss = skin.gloss * oily * (1.0 + 1.2 * pores) * (1.0 - 0.7 * np.clip(brows + beard, 0, 1))
    return Paint(
        colour=np.clip(colour, 0.002, 1).astype(np.float32),
        gloss=np.clip(gloss, 0, 1).astype(np.float32),
        relief=np.clip(relief, 0, 1).astype(np.float32),
        strand=_strands(rng),
        skin=base,
    )
