"""Where landmarks lie on an aligned face, as shares (x, y) of the crop from edge to edge: fixed, for faces are aligned.

Mean of the 68 iBUG landmarks over frontal rendered heads at rest, made symmetric.
"""

from __future__ import annotations

import numpy as np

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
