"""Face registration of a clip: a similarity transform, or a piecewise affine warp to a mean face.

Either is made from the onset's landmarks alone and serves all frames: a transform per frame would follow the expression
itself (raised cheeks move eye landmarks) and so remove part of the motion that is to be measured. The piecewise warp,
as in active appearance models (Cootes, Edwards and Taylor, TPAMI 2001), takes face shape out of the pictures, which a
similarity transform keeps.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.framing import OWN, Framing
from mesynth.core.types import LANDMARK_MIRROR
from mesynth.preprocess.config import CROP_SIZE

if TYPE_CHECKING:
    from scipy.spatial import Delaunay

IOD_SHARE = OWN.eyes
"""Distance of the eye centres as a share of the crop's width."""
EYE_LINE = OWN.row
"""Height of the eye centres as a share of the crop's height."""
RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)
"""iBUG-68 landmarks of the subject's right (image left) and left eye."""


def eye_centres(landmarks: np.ndarray) -> np.ndarray:
    """[68,2] -> [2,2]: centres of the eye at image left, then at image right."""
    return np.stack([landmarks[RIGHT_EYE].mean(0), landmarks[LEFT_EYE].mean(0)])


def checked_eyes(landmarks: np.ndarray, use: str) -> np.ndarray:
    """Centres of both eyes as :func:`eye_centres`, float64. Raises MesynthError unless there are 68 finite points.

    ``use``: what they cannot be, in the message.
    """
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise MesynthError(f"landmarks of shape {landmarks.shape} cannot be {use}; need 68 finite points (x, y)")
    return eye_centres(landmarks.astype(np.float64))


def eye_line(right: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, float]:
    """The vector [2] between the eye centres, and its length. Raises MesynthError when it is below a pixel."""
    across = left - right
    iod = float(np.hypot(*across))
    if iod < 1:
        raise MesynthError(f"the eye centres are {iod:.2g} pixels apart; the landmarks do not show a face")
    return across, iod


@dataclass(frozen=True, eq=False)
class SimilarityCrop:
    """A similarity transform into a square crop: ``matrix`` [2,3] float64, source pixels -> crop pixels."""

    matrix: np.ndarray
    size: int

    @property
    def scale(self) -> float:
        """Crop pixels per source pixel."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    @staticmethod
    def from_landmarks(landmarks: np.ndarray, size: int = CROP_SIZE, framing: Framing = OWN) -> SimilarityCrop:
        """Eye centres level, and where ``framing`` has them: in the canonical crop IOD_SHARE of the width apart and
        EYE_LINE below the top. A framing whose ``height`` is not its ``eyes`` stretches the face.

        Raises:
            MesynthError: the landmarks are not [68,2], not finite, or both eyes lie on one point.
        """
        right, left = checked_eyes(landmarks, "aligned")
        across, iod = eye_line(right, left)
        cos, sin = across / iod
        wide, high = framing.eyes * size / iod, framing.height * size / iod
        rotation = np.array([[cos * wide, sin * wide], [-sin * high, cos * high]])
        # Shares are of the pixel grid from edge to edge; pixel centres lie half a pixel inside.
        target = np.array([framing.column, framing.row]) * size - 0.5
        return SimilarityCrop(np.column_stack([rotation, target - rotation @ (right + left) / 2]), size)

    def padded(self, margin: int) -> SimilarityCrop:
        """The same crop with ``margin`` more pixels of the picture on every side."""
        matrix = self.matrix.copy()
        matrix[:, 2] += margin
        return SimilarityCrop(matrix, self.size + 2 * margin)

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """[T,H,W,3] uint8 -> [T,size,size,3] uint8; the border is replicated outside the picture.

        When the crop is smaller than the face, frames are low-passed first so that fine texture does not alias
        (cv2.warpAffine samples a 4x4 neighbourhood whatever the scale).
        """
        return _stacked(self, frames)

    def each(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """:meth:`frames` of pictures [H,W,3] of one size, one after the other as they come."""
        edges = np.array([(x, y) for x in (0, self.size - 1) for y in (0, self.size - 1)], np.float64)
        for source in _low_passed(frames, self.scale, _inverse(self, edges)):
            yield cv2.warpAffine(
                source, self.matrix, (self.size, self.size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )

    def points(self, points: np.ndarray) -> np.ndarray:
        """[N,2] source pixels -> [N,2] float32 crop pixels."""
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2], np.float32)


# ---------------------------------------------------------------- piecewise


MEAN_FACE_FILE = Path(__file__).parent / "data" / "mean_face.json"
MESH = np.arange(60)
"""Landmarks that are vertices: the inner lips (60-67) meet when the mouth is closed and span no triangles."""
MIRROR = np.array(LANDMARK_MIRROR)
"""Landmark -> its mirror image."""
AREA_LIMITS = (0.1, 10.0)
"""Area of a triangle in the face over its area under the similarity transform; outside, it is folded or a sliver."""
_RING = 0.35  # the anchors' distance from the crop, in crop sides: jaws of long faces reach below the crop
_ANCHORS = 6  # per side
_BLENDS = np.linspace(0, 1, 11)


def average_face(landmarks: np.ndarray) -> np.ndarray:
    """Mean of faces [N,68,2] in shares of the canonical crop, edge to edge, made symmetric: [68,2] float64.

    Raises:
        MesynthError: unfit landmarks.
    """
    if landmarks.ndim != 3 or len(landmarks) < 1:
        raise MesynthError(f"landmarks have shape {landmarks.shape}; the mean of faces needs [N,68,2]")
    shares = [
        (SimilarityCrop.from_landmarks(face, 1000).points(face).astype(np.float64) + 0.5) / 1000 for face in landmarks
    ]
    mean = np.mean(shares, axis=0)
    mirrored = mean[MIRROR] * [-1, 1] + [1, 0]
    return np.asarray((mean + mirrored) / 2)


def rendered_mean_face(people: int, size: int = 256) -> np.ndarray:
    """average_face of the first ``people`` of the 3D head, frontal and at rest: [68,2] float64."""
    from mesynth.head import Subject

    return average_face(np.stack([Subject(seed, size=size, frontal=True).landmarks() for seed in range(people)]))


@functools.cache
def mean_face() -> np.ndarray:
    """[68,2] float64: the canonical face in shares of the crop, edge to edge. Read-only."""
    points = np.array(json.loads(MEAN_FACE_FILE.read_text())["points"], np.float64)
    assert points.shape == (68, 2)
    points.flags.writeable = False
    return points


@functools.cache
def _mesh() -> tuple[np.ndarray, Delaunay]:
    """Vertices [V,2] in shares of the crop (landmarks, then anchors) and their Delaunay triangles."""
    from scipy.spatial import Delaunay

    along = np.linspace(-_RING, 1 + _RING, _ANCHORS + 1)[:-1]
    low, high = np.full(_ANCHORS, -_RING), np.full(_ANCHORS, 1 + _RING)
    ring = [(along, low), (high, along), (1 - along, high), (low, 1 - along)]
    vertices = np.concatenate([mean_face()[MESH], *(np.stack(side, 1) for side in ring)])
    return vertices, Delaunay(vertices)


@dataclass(frozen=True, eq=False)
class PiecewiseAffineCrop:
    """A piecewise affine map into a square crop, the interface of :class:`SimilarityCrop`.

    ``source`` and ``target`` [V,2] float64: mesh vertices in source and in crop pixels; ``triangles`` [F,3].
    ``blend``: how far the vertices were drawn back towards the similarity transform so that nothing folds, 0 to 1.
    """

    similarity: SimilarityCrop
    source: np.ndarray
    target: np.ndarray
    triangles: np.ndarray
    blend: float

    @property
    def size(self) -> int:
        return self.similarity.size

    @property
    def scale(self) -> float:
        """Crop pixels per source pixel, of the similarity transform."""
        return self.similarity.scale

    @staticmethod
    def from_landmarks(landmarks: np.ndarray, size: int = CROP_SIZE) -> PiecewiseAffineCrop:
        """Landmarks onto the mean face; a ring of anchors outside the crop follows the similarity transform.

        Where a triangle would fold or shrink to a sliver (a head turned far, shut eyes), all vertices are drawn back
        by the smallest ``blend`` in steps of a tenth that keeps every triangle within AREA_LIMITS; at 1 the map is the
        similarity transform.

        Raises:
            MesynthError: the landmarks are not [68,2], not finite, or both eyes lie on one point.
        """
        similarity = SimilarityCrop.from_landmarks(landmarks, size)
        vertices, mesh = _mesh()
        target = vertices * size - 0.5
        rigid = _inverse(similarity, target)
        shaped = rigid.copy()
        shaped[: len(MESH)] = landmarks[MESH]
        area = _areas(rigid[mesh.simplices])
        for blend in _BLENDS:
            source = (1 - blend) * shaped + blend * rigid
            ratio = _areas(source[mesh.simplices]) / area
            if ratio.min() > AREA_LIMITS[0] and ratio.max() < AREA_LIMITS[1]:
                break
        return PiecewiseAffineCrop(similarity, source, target, mesh.simplices, float(blend))

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """[T,H,W,3] uint8 -> [T,size,size,3] uint8; border and low-pass as SimilarityCrop.frames."""
        return _stacked(self, frames)

    def each(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See SimilarityCrop.each."""
        where = self._source_grid()
        for source in _low_passed(frames, self.scale, where.reshape(-1, 2)):
            yield cv2.remap(source, where[..., 0], where[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def points(self, points: np.ndarray) -> np.ndarray:
        """[N,2] source pixels -> [N,2] float32 crop pixels; beyond the anchors, by the similarity transform."""
        points = np.asarray(points, np.float64)
        weights = _barycentric(points, self.source[self.triangles])  # [N,F,3]
        best = weights.min(-1).argmax(-1)
        rows = np.arange(len(points))
        inside = weights[rows, best].min(-1) > -1e-9
        moved = np.einsum("nk,nkc->nc", weights[rows, best], self.target[self.triangles[best]])
        return np.where(inside[:, None], moved, self.similarity.points(points)).astype(np.float32)

    def _source_grid(self) -> np.ndarray:
        """[size,size,2] float32: where in the source each crop pixel lies."""
        x, y = np.meshgrid(np.arange(self.size), np.arange(self.size))
        pixels = np.stack([x, y], -1).reshape(-1, 2).astype(np.float64)
        triangle = _mesh()[1].find_simplex((pixels + 0.5) / self.size)
        corners = self.target[self.triangles[triangle]]  # [P,3,2]
        weights = _barycentric_pairs(pixels, corners)
        where = np.einsum("pk,pkc->pc", weights, self.source[self.triangles[triangle]])
        return np.ascontiguousarray(where.reshape(self.size, self.size, 2), np.float32)


def _stacked(crop: SimilarityCrop | PiecewiseAffineCrop, frames: np.ndarray) -> np.ndarray:
    out = np.empty((len(frames), crop.size, crop.size, 3), np.uint8)
    for made, target in zip(crop.each(frames), out, strict=True):
        target[:] = made
    return out


def _low_passed(frames: Iterable[np.ndarray], scale: float, read: np.ndarray) -> Iterator[np.ndarray]:
    """Frames [H,W,3] of one size in turn, low-passed for a crop of ``scale`` (crop pixels per source pixel) so that
    fine texture does not alias. Only where they are read is filled: about ``read`` [N,2], source pixels; the rest means
    nothing, and a frame is gone once the next is asked for.
    """
    sigma = 0.5 * np.sqrt(max(1 / scale**2 - 1, 0))
    if sigma <= 0.3:
        yield from map(np.ascontiguousarray, frames)
        return
    reach = int(np.ceil(4 * sigma)) + 1  # more than OpenCV's kernel of 8-bit pictures has, which ends at 3 sigma
    taps = 3
    soft: np.ndarray | None = None
    for frame in frames:
        if soft is None:
            height, width = frame.shape[:2]
            first = np.clip(np.floor(read.min(0)).astype(int) - taps, 0, [width - 1, height - 1])
            last = np.clip(np.ceil(read.max(0)).astype(int) + taps + 1, first + 1, [width, height])
            (x0, y0), (x1, y1) = first, last
            here = np.s_[max(y0 - reach, 0) : y1 + reach, max(x0 - reach, 0) : x1 + reach]
            soft = np.empty(frame.shape, np.uint8)
        cv2.GaussianBlur(frame[here], (0, 0), sigma, dst=soft[here], borderType=cv2.BORDER_REPLICATE)
        yield soft


def _inverse(crop: SimilarityCrop, points: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.solve(crop.matrix[:, :2], (points - crop.matrix[:, 2]).T).T)


def _areas(triangles: np.ndarray) -> np.ndarray:
    """[F,3,2] -> [F] signed areas, twice."""
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def _barycentric(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Points [N,2] in every triangle [F,3,2] -> [N,F,3]."""
    n, f = len(points), len(triangles)
    pairs = np.broadcast_to(triangles, (n, f, 3, 2)).reshape(-1, 3, 2)
    return _barycentric_pairs(np.repeat(points, f, 0), pairs).reshape(n, f, 3)


def _barycentric_pairs(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Points [N,2], each in its triangle [N,3,2] -> [N,3]."""
    a, b, p = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0], points - triangles[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    second = (p[:, 0] * b[:, 1] - p[:, 1] * b[:, 0]) / area
    third = (a[:, 0] * p[:, 1] - a[:, 1] * p[:, 0]) / area
    return np.stack([1 - second - third, second, third], -1)
