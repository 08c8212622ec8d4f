"""Face regions in a crop, from its 68 landmarks: polygons, masks, crops and patches.

Regions follow the muscles (Ekman, Friesen and Hager, FACS, 2002). Left and right are the subject's: the subject's
left is at image right. Distances are shares of the inter-ocular distance (IOD), measured along the line of the eyes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.preprocess.align import SimilarityCrop, eye_centres

_UPPER_FACE = {"glabella": (1, 4, 9), "forehead": (1, 4, 9), "nose": (9,), "upper_lip": (9, 10, 12, 18, 22, 23, 24, 28)}
_LOWER_FACE = {
    "mouth": (10, 12, 14, 15, 16, 17, 18, 20, 22, 23, 24, 25, 26, 27, 28),
    "chin": (12, 15, 16, 17, 22, 24, 26, 27, 28),
}
_PAIRED = {
    "brow": (1, 2, 4, 9),
    "eye": (5, 6, 7, 43, 45),
    "temple": (2, 6),
    "cheek": (6, 7, 9, 12, 14, 15, 20, 34),
    "nasolabial": (9, 10, 12, 14, 15, 18, 20, 22, 23, 24),
    "lip_corner": (12, 14, 15, 18, 20, 23, 24, 26, 27),
}
REGION_AUS: dict[str, frozenset[int]] = {
    **{name: frozenset(codes) for name, codes in (_UPPER_FACE | _LOWER_FACE).items()},
    **{f"{side}_{name}": frozenset(codes) for name, codes in _PAIRED.items() for side in ("left", "right")},
}
"""Region -> the action units whose motion it shows."""

RIGID = ("nose_bridge", "right_canthus", "left_canthus", "right_outer", "left_outer")


@dataclass(frozen=True, eq=False)
class _Frame:
    """Landmarks with the directions of the face: ``across`` to image right along the eyes, ``down`` at right angles."""

    points: np.ndarray
    across: np.ndarray
    down: np.ndarray
    origin: np.ndarray

    @staticmethod
    def of(landmarks: np.ndarray) -> _Frame:
        """Raises MesynthError unless ``landmarks`` are 68 finite points that show a face."""
        SimilarityCrop.from_landmarks(np.asarray(landmarks))  # the same conditions, the same messages
        points = np.asarray(landmarks, np.float64)
        right, left = eye_centres(points)
        across = left - right
        return _Frame(points, across, np.array([-across[1], across[0]]), (right + left) / 2)

    def at(self, index: int, u: float = 0.0, v: float = 0.0) -> np.ndarray:
        """Landmark ``index`` moved by (u, v) IOD: to image right, down the face."""
        return np.asarray(self.points[index] + u * self.across + v * self.down)

    def row(self, indices: Iterable[int], u: float = 0.0, v: float = 0.0) -> list[np.ndarray]:
        return [self.at(i, u, v) for i in indices]


def region_polygons(landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """The regions of :data:`REGION_AUS` as polygons: landmarks [68,2] -> name -> [N,2] float32, pixels.

    Polygons may reach beyond the crop, and neighbours may overlap.

    Raises:
        MesynthError: the landmarks are not [68,2], not finite, or show no face.
    """
    f = _Frame.of(landmarks)
    shapes: dict[str, list[np.ndarray]] = {
        "glabella": [f.at(21, v=-0.16), f.at(22, v=-0.16), f.at(22, v=0.05), f.at(27, 0.12), f.at(27, -0.12),
                     f.at(21, v=0.05)],
        "forehead": [*f.row(range(17, 27), v=-0.16), f.at(26, -0.05, -0.52), f.at(17, 0.05, -0.52)],
        "nose": [f.at(27, -0.10), f.at(27, 0.10), f.at(35, 0.10, -0.06), f.at(35, 0.10, 0.04), f.at(33, v=0.04),
                 f.at(31, -0.10, 0.04), f.at(31, -0.10, -0.06)],
        "upper_lip": [*f.row(range(31, 36), v=0.04), f.at(54), f.at(53), f.at(52), f.at(51), f.at(50), f.at(49),
                      f.at(48)],
        "mouth": [f.at(48, -0.06), *f.row(range(49, 54), v=-0.05), f.at(54, 0.06), *f.row(range(55, 60), v=0.05)],
        "chin": [*f.row(range(59, 54, -1), v=0.05), *f.row(range(11, 4, -1))],
    }  # fmt: skip
    # (side, sign of "outward", brow from temple to nose, eye from outer corner over the upper lid, ala, lip, jaw)
    right = ("right", -1, (17, 18, 19, 20, 21), (36, 37, 38, 39, 40, 41), 31, 48, (0, 1, 2, 3, 4))
    left = ("left", 1, (26, 25, 24, 23, 22), (45, 44, 43, 42, 47, 46), 35, 54, (16, 15, 14, 13, 12))
    for side, s, brow, eye, ala, lip, jaw in (right, left):
        outer, over_outer, over_inner, inner, under_inner, under_outer = eye
        shapes[f"{side}_brow"] = [*f.row(brow, v=-0.16), *f.row(brow[::-1], v=0.05)]
        shapes[f"{side}_eye"] = [
            f.at(outer, 0.10 * s), f.at(over_outer, v=-0.10), f.at(over_inner, v=-0.10), f.at(inner, -0.06 * s),
            f.at(under_inner, v=0.12), f.at(under_outer, v=0.12),
        ]  # fmt: skip
        shapes[f"{side}_temple"] = [
            f.at(brow[0], 0.04 * s, -0.20), f.at(brow[0], 0.02 * s, 0.05), f.at(outer, 0.10 * s), f.at(jaw[1]),
            f.at(jaw[0]), f.at(jaw[0], v=-0.35),
        ]  # fmt: skip
        shapes[f"{side}_cheek"] = [
            f.at(outer, 0.12 * s, 0.08), f.at(under_outer, v=0.12), f.at(under_inner, v=0.12),
            f.at(ala, 0.14 * s, -0.04), f.at(lip, 0.16 * s, -0.08), f.at(jaw[4]), f.at(jaw[3]), f.at(jaw[2]),
            f.at(jaw[1]),
        ]  # fmt: skip
        shapes[f"{side}_nasolabial"] = [
            f.at(ala, 0.03 * s, -0.12), f.at(ala, 0.26 * s, 0.02), f.at(lip, 0.22 * s, -0.04),
            f.at(lip, 0.02 * s, -0.03), f.at(ala, 0.02 * s, 0.08),
        ]  # fmt: skip
        turn = np.arange(12) * np.pi / 6
        shapes[f"{side}_lip_corner"] = [f.at(lip, 0.18 * np.cos(t), 0.18 * np.sin(t)) for t in turn]
    return {name: np.asarray(shape, np.float32) for name, shape in shapes.items()}


def polygon_mask(polygon: np.ndarray, size: int) -> np.ndarray:
    """[N,2] pixels -> [size,size] bool: pixels whose centre lies inside (even-odd rule)."""
    grid = np.arange(size, dtype=np.float64)
    x, y = polygon.astype(np.float64).T
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    crosses = (y[:, None] > grid) != (y2[:, None] > grid)  # [N,rows]
    slope = np.divide(x2 - x, y2 - y, out=np.zeros_like(x), where=y2 != y)
    where = x[:, None] + slope[:, None] * (grid - y[:, None])
    inside = (crosses[:, :, None] & (grid < where[:, :, None])).sum(0) % 2
    return np.asarray(inside.astype(np.bool_))


def region_masks(landmarks: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Landmarks [68,2] in a crop of ``size`` pixels -> name -> [size,size] bool. Raises as region_polygons."""
    _check_size(size)
    return {name: polygon_mask(polygon, size) for name, polygon in region_polygons(landmarks).items()}


def keep_mask(landmarks: np.ndarray, size: int, names: Sequence[str]) -> np.ndarray:
    """[size,size] bool: the union of the named regions, for example both cheeks.

    Raises:
        MesynthError: a name is unknown, or the landmarks are unfit.
    """
    masks = region_masks(landmarks, size)
    for name in names:
        if name not in masks:
            raise MesynthError(f"face region '{name}' is unknown; choose from {', '.join(sorted(masks))}")
    return np.asarray(np.any([masks[name] for name in names], axis=0)) if names else np.zeros((size, size), np.bool_)


def hide_eyes_mask(landmarks: np.ndarray, size: int) -> np.ndarray:
    """[size,size] bool, False on both eyes and what a blink moves, so that it is not taken for an expression.

    Nine tenths of a blink's motion on rendered people. Raises as region_polygons.
    """
    return ~_eyes(landmarks, size, 1.4)


def _eyes(landmarks: np.ndarray, size: int, scale: float) -> np.ndarray:
    """[size,size] bool: both eye regions, enlarged about their centres."""
    _check_size(size)
    polygons = region_polygons(landmarks)
    both = [polygons["left_eye"], polygons["right_eye"]]
    return np.asarray(np.any([polygon_mask(p.mean(0) + scale * (p - p.mean(0)), size) for p in both], axis=0))


def rigid_polygons(landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """The parts that move least with any action unit, :data:`RIGID` -> [N,2] float32 pixels.

    The nose from its root to the tip, the inner corners of the eyes (held to the bone by the medial palpebral
    ligament) and the skin beside the outer corners. The forehead is left out: AU 1, 2, 4 and 9 move all of it that a
    crop shows.
    """
    f = _Frame.of(landmarks)
    shapes = {
        "nose_bridge": [f.at(27, -0.10, 0.03), f.at(27, 0.10, 0.03), f.at(29, 0.17), f.at(30, 0.17, 0.08),
                        f.at(30, -0.17, 0.08), f.at(29, -0.17)],
    }  # fmt: skip
    for side, s, inner, outer, jaw in (("right", -1, 39, 36, (0, 1)), ("left", 1, 42, 45, (16, 15))):
        shapes[f"{side}_canthus"] = [
            f.at(inner, 0.04 * s, -0.05), f.at(27, 0.10 * s, 0.03), f.at(28, 0.10 * s), f.at(inner, 0.04 * s, 0.13),
            f.at(inner, 0.0),
        ]  # fmt: skip
        shapes[f"{side}_outer"] = [
            f.at(outer, 0.09 * s, -0.12), f.at(outer, 0.09 * s, 0.06), f.at(jaw[1], -0.06 * s, -0.30),
            f.at(jaw[0], -0.06 * s, 0.05), f.at(jaw[0], -0.06 * s, -0.16),
        ]  # fmt: skip
    return {name: np.asarray(shapes[name], np.float32) for name in RIGID}


def rigid_mask(landmarks: np.ndarray, size: int) -> np.ndarray:
    """[size,size] bool: where motion is the head's, not the expression's; lids cut out. Raises as region_polygons."""
    _check_size(size)
    still = np.any([polygon_mask(p, size) for p in rigid_polygons(landmarks).values()], axis=0)
    # Lashes move with the lids; cut wider, the mask would lose the outer corners that hold a rotation.
    return np.asarray(still & ~_eyes(landmarks, size, 1.2))


def grid_boxes(size: int, rows: int, columns: int) -> np.ndarray:
    """A crop cut into blocks: [rows*columns,4] int64 (left, top, right, bottom), ends excluded, row by row.

    The blocks cover every pixel once; sides differ by at most a pixel.

    Raises:
        MesynthError: a count is below 1 or above ``size``.
    """
    _check_size(size)
    for name, count in (("rows", rows), ("columns", columns)):
        if not 1 <= count <= size:
            raise MesynthError(f"a {size} px crop cannot be cut into {name}={count}; give 1 to {size}")
    y, x = np.arange(rows + 1) * size // rows, np.arange(columns + 1) * size // columns
    top, left = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    boxes = np.stack([x[left], y[top], x[left + 1], y[top + 1]], -1)
    return np.asarray(boxes.reshape(-1, 4).astype(np.int64))


def eye_crop(frames: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """Both eyes with their brows: frames [T,H,W,3] uint8 -> [2,T,size,size,3], the subject's left first.

    0.9 IOD wide, level, one transform for the clip. Raises MesynthError on unfit frames, landmarks or size.
    """
    f = _Frame.of(landmarks)
    right, left = eye_centres(f.points)
    return np.stack([_square(frames, f, centre - 0.12 * f.down, 0.9, size) for centre in (left, right)])


def mouth_crop(frames: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """The mouth with its corners: frames [T,H,W,3] uint8 -> [T,size,size,3], 1.4 IOD wide. Raises as eye_crop."""
    f = _Frame.of(landmarks)
    return _square(frames, f, f.points[48:60].mean(0), 1.4, size)


def landmark_patches(
    frames: np.ndarray, landmarks: np.ndarray, side: int, indices: Sequence[int] = tuple(range(17, 68))
) -> np.ndarray:
    """Squares about landmarks: frames [T,H,W,3] uint8 -> [N,T,side,side,3], N = len(indices).

    Pixels are copied, not interpolated: the centre is the nearest pixel (for an even side, the one after the middle);
    the border is replicated. The default leaves the jaw line out.

    Raises:
        MesynthError: unfit frames, landmarks, side or index.
    """
    _check_frames(frames)
    _check_size(side)
    points = _Frame.of(landmarks).points
    chosen = np.asarray(indices, np.int64)
    if chosen.ndim != 1 or len(chosen) == 0 or chosen.min() < 0 or chosen.max() > 67:
        raise MesynthError(f"landmark indices {list(indices)} are unfit; give at least one of 0 to 67")
    centre = np.floor(points[chosen] + 0.5).astype(np.int64)
    reach = np.arange(side) - side // 2
    x = np.clip(centre[:, 0, None] + reach, 0, frames.shape[2] - 1)
    y = np.clip(centre[:, 1, None] + reach, 0, frames.shape[1] - 1)
    return np.ascontiguousarray(np.moveaxis(frames[:, y[:, :, None], x[:, None, :]], 1, 0))


def _square(frames: np.ndarray, face: _Frame, centre: np.ndarray, width: float, size: int) -> np.ndarray:
    """A level square about ``centre``, ``width`` IOD wide, scaled to ``size`` pixels."""
    _check_frames(frames)
    _check_size(size)
    rotation = np.stack([face.across, face.down]) * (size / width / (face.across @ face.across))
    return SimilarityCrop(np.column_stack([rotation, (size - 1) / 2 - rotation @ centre]), size).frames(frames)


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise MesynthError(f"frames are {frames.dtype} {frames.shape}; expected uint8 RGB of shape [T,H,W,3]")


def _check_size(size: int) -> None:
    if size < 1:
        raise MesynthError(f"a side of {size} pixels is too small; give at least 1")
