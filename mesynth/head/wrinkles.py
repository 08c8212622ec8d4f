"""Expression wrinkles: where skin folds when an action unit contracts, as signed maps in the canonical plane."""

from __future__ import annotations

import cv2
import numpy as np

from mesynth.facs import AU_CODES
from mesynth.head import canvas

# Which fold each AU deepens, and how much at intensity 1 (judgement, from FACS appearance changes).
FOLDS: tuple[str, ...] = ("forehead", "glabella", "crow", "underlid", "nasolabial", "nose", "chin", "corner")
AU_FOLDS: dict[int, dict[str, float]] = {
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
    for code, folds in AU_FOLDS.items():
        for name, amount in folds.items():
            matrix[AU_CODES.index(code), FOLDS.index(name)] = amount
    return matrix * strength[None, :].astype(np.float32)


def _furrows(curves: list[tuple[list[tuple[float, float]], float]], width: float) -> np.ndarray:
    """Furrows with a bulging edge above them: positive where the skin goes in, negative where it swells."""
    mask = np.zeros((canvas.HEIGHT, canvas.WIDTH), np.float32)
    for points, depth in curves:
        line = canvas.curve(points)
        # Furrows run out at their ends; a constant depth looks drawn on.
        taper = np.sin(np.linspace(0.0, np.pi, len(line) - 1)) ** 0.6
        for i, amount in enumerate(taper):
            canvas.draw(mask, [line[i : i + 2]], float(depth * amount), width)
    groove = canvas.soften(mask, 0.8 * width)
    swelling = np.roll(canvas.soften(mask, 1.5 * width), -round(2.0 * width * canvas.TEXELS_PER_IOD), axis=0)
    return np.asarray(groove - 0.40 * swelling, np.float32)


def paint_wrinkles(landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fold maps [HEIGHT,WIDTH,M] int8 (127 = deepest furrow) for landmarks [68,2] in (u, v)."""
    lm = landmarks

    def near(scale: float = 0.012) -> float:
        return float(rng.normal(0.0, scale))

    brow = 0.5 * (lm[19, 1] + lm[24, 1])
    forehead: list[tuple[list[tuple[float, float]], float]] = []
    for k in range(int(rng.integers(2, 5))):
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
        "chin": np.clip(canvas.noise(rng, [14.0, 9.0], [0.38, 0.20]), -1, 1) * canvas.blob(0.0, 1.52, 0.20, 0.10),
        "corner": _furrows(
            [([(corner[0] + s * 0.055, corner[1] - 0.09), (corner[0] + s * 0.075, corner[1]),
               (corner[0] + s * 0.055, corner[1] + 0.10)], 0.9)
             for s, corner in zip(sides, (mouth_left, mouth_right), strict=True)], 0.022),
    }  # fmt: skip
    stack = np.stack([maps[name] for name in FOLDS], axis=-1)
    # Folds drift from person to person; one gentle warp moves them all and their crossings together.
    drift = canvas.noise(rng, [120.0], [2.0]), canvas.noise(rng, [120.0], [2.0])
    columns, rows = np.meshgrid(np.arange(canvas.WIDTH, dtype=np.float32), np.arange(canvas.HEIGHT, dtype=np.float32))
    maps_x, maps_y = columns + drift[0], rows + drift[1]
    warped = [cv2.remap(stack[..., m], maps_x, maps_y, cv2.INTER_LINEAR) for m in range(len(FOLDS))]
    return np.asarray(np.clip(np.stack(warped, axis=-1), -1, 1) * 127, np.int8)
