"""Where the parts of an aligned face lie, and which of them move together according to FACS."""

from __future__ import annotations

import numpy as np

from mesynth.emotions import PUBLISHED

# Centre (x, y) and width (x, y) as shares of the crop that mesynth's alignment makes: eye centres .39 of
# the width apart, .35 below the top. The subject's left is at the image's right.
REGIONS: dict[str, tuple[float, float, float, float]] = {
    "brow_L": (0.70, 0.22, 0.13, 0.08), "brow_R": (0.30, 0.22, 0.13, 0.08),
    "eye_L": (0.695, 0.36, 0.12, 0.07), "eye_R": (0.305, 0.36, 0.12, 0.07),
    "nose": (0.50, 0.55, 0.11, 0.12),
    "cheek_L": (0.75, 0.58, 0.12, 0.12), "cheek_R": (0.25, 0.58, 0.12, 0.12),
    "mouth_L": (0.62, 0.76, 0.10, 0.09), "mouth_R": (0.38, 0.76, 0.10, 0.09),
    "chin": (0.50, 0.93, 0.16, 0.08),
}  # fmt: skip
REGION_NAMES: tuple[str, ...] = tuple(REGIONS)
N_REGIONS = len(REGION_NAMES)
MOMENTS = 3

# The parts an AU moves, after the descriptions of Ekman, Friesen and Hager (2002); both sides where paired.
_PARTS: dict[int, str] = {
    1: "brow", 2: "brow", 4: "brow eye", 5: "eye", 6: "eye cheek", 7: "eye", 9: "nose brow mouth",
    10: "nose mouth", 12: "mouth cheek", 14: "mouth cheek", 15: "mouth chin", 17: "chin mouth",
    20: "mouth", 25: "mouth",
}  # fmt: skip


def masks(side: int) -> np.ndarray:
    """Soft masks with first moments on a side x side grid: [R*3, side*side] float32.

    Rows come in threes per region: the mean, and the moments along x and y in units of the region's
    width, so that what happens left and right (above and below) inside a region stays apart.
    """
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    out = []
    for cx, cy, wx, wy in REGIONS.values():
        # A region narrower than a cell would fall between cells.
        zx, zy = (x - cx) / max(wx, 0.6 / side), (y - cy) / max(wy, 0.6 / side)
        mask = np.exp(-0.5 * (zx**2 + zy**2))
        mask /= mask.sum()
        out += [mask, mask * zx, mask * zy]
    return np.stack(out).reshape(N_REGIONS * MOMENTS, -1).astype(np.float32)


def facs_adjacency() -> np.ndarray:
    """[R,R] float32 in [0,1], symmetric, diagonal 1: how surely two regions move in the same emotions.

    Cosine between the regions' activation profiles over the emotions of the published AU tables.
    """
    profile = np.zeros((N_REGIONS, len(PUBLISHED)))
    for column, table in enumerate(PUBLISHED.values()):
        for code, probability in table.items():
            for row, name in enumerate(REGION_NAMES):
                if name.split("_")[0] in _PARTS[code].split():
                    # Independent AUs: the region stays still only if none of its AUs shows.
                    profile[row, column] = 1 - (1 - profile[row, column]) * (1 - probability)
    unit = profile / np.linalg.norm(profile, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T, np.float32)
