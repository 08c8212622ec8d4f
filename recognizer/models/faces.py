"""Where the parts of an aligned face lie, and which of them move together according to FACS.

Where landmarks lie on an aligned face, as shares (x, y) of the crop from edge to edge: fixed, for faces are aligned.

Mean of the 68 iBUG landmarks over frontal rendered heads at rest, made symmetric."""

from __future__ import annotations

import numpy as np

from mesynth.core.emotions import PUBLISHED

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


# ------------------------------------------------------------------- landmarks


_RIGHT_BROW = ((0.137, 0.278), (0.181, 0.223), (0.279, 0.226), (0.334, 0.225), (0.430, 0.268))
_HALF_MOUTH = {
    "outer": ((0.345, 0.797), (0.402, 0.767), (0.465, 0.742), (0.500, 0.762)),
    "lower": ((0.376, 0.854), (0.456, 0.884), (0.500, 0.886)),
    "inner": ((0.461, 0.794), (0.500, 0.803)),
    "inner_lower": ((0.463, 0.802), (0.500, 0.808)),
}


def _mirrored(points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
    return [(1 - x, y) for x, y in reversed(points) if x < 0.5]


BROWS: tuple[tuple[float, float], ...] = (*_RIGHT_BROW, *_mirrored(_RIGHT_BROW))
"""10 points, image left to right (iBUG 17-26)."""
MOUTH: tuple[tuple[float, float], ...] = (
    *_HALF_MOUTH["outer"], *_mirrored(_HALF_MOUTH["outer"]),
    *_mirrored(_HALF_MOUTH["lower"])[::-1], *_HALF_MOUTH["lower"][::-1],
    *_HALF_MOUTH["inner"], *_mirrored(_HALF_MOUTH["inner"]),
    *_mirrored(_HALF_MOUTH["inner_lower"])[::-1], *_HALF_MOUTH["inner_lower"][::-1],
)  # fmt: skip
"""18 points: the outer contour clockwise from image left, then the inner one without its corners (iBUG 48-59, 61-63,
65-67)."""
MOUTH_INNER_CORNERS: tuple[tuple[float, float], ...] = ((0.368, 0.796), (0.632, 0.796))
"""iBUG 60 and 64."""
EYES: tuple[tuple[float, float], ...] = ((0.300, 0.350), (0.700, 0.350))
MOUTH_CORNERS: tuple[tuple[float, float], ...] = ((0.345, 0.797), (0.655, 0.797))
EYE_BOX = (0.088, 0.223, 0.912, 0.454)
"""x0, y0, x1, y1 from landmarks 1, 19 and 15: brows and eyes."""
MOUTH_BOX = (0.099, 0.577, 0.901, 0.987)
"""x0, y0, x1, y1 from landmarks 2, 6 and 14: nose tip and mouth."""


def patch_index(points: tuple[tuple[float, float], ...], side: int, patch: int) -> np.ndarray:
    """[N, patch*patch] int64: places in a flattened side x side map of the square patch about each point.

    A patch that would leave the picture is moved inside. Raises nothing: needs side >= patch.
    """
    assert side >= patch, f"a patch of {patch} does not fit a map of {side}"
    corners = np.array(points) * side - patch / 2
    corner = np.clip(np.round(corners), 0, side - patch).astype(np.int64)
    offset = np.arange(patch)
    rows, columns = corner[:, 1, None] + offset, corner[:, 0, None] + offset
    return (rows[:, :, None] * side + columns[:, None, :]).reshape(len(points), -1)


def box_slices(box: tuple[float, float, float, float], side: int) -> tuple[slice, slice]:
    """Rows and columns of a box on a side x side picture, at least 2 pixels each way."""
    x0, y0, x1, y1 = (round(v * side) for v in box)
    return slice(y0, max(y1, y0 + 2)), slice(x0, max(x1, x0 + 2))
