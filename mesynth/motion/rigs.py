"""What action units look like: the opinions of several rigs, their mean, and rigs drawn anew for training.

A rig is one artist's or one table's answer to the question how skin moves under an AU. Rigs disagree (cosines of .3 to
.95 per AU between any two of them and a head that none of them knew), and what a real person's face does is one more
answer. The mean of independent answers is nearer to a new one than each of them is (docs/decisions/020).

Three are known, all on the head's mesh: its face units, MakeHuman's own expression units (21 of the AUs), and the
motion prior's table of bumps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

from mesynth.core import facs
from mesynth.head.model import EXPRESSION_UNITS, SKIN, HeadModel
from mesynth.head.raster import barycentric, rasterize
from mesynth.motion.fields import au_field, face_gate

_SHARE = 0.85
"""Of the mean that is expected of a rig which is not in it. Each known rig regressed on the mean of the others: face
units .87, bumps .72, expression units .30; the mean of three says more than that of two. On a head of another make
.8, .9 and 1 have the same error."""
K = len(facs.AU_CODES)
RIGS: dict[str, float] = {"face units": 1.0, "expression units": 0.5, "bumps": 1.0}
"""Weight of each rig in the mean. The expression units are the coarsest: their cosine with the others is lowest."""
BOX = ((-1.7, 1.7), (-1.3, 2.1))
"""u and v range of the table, IOD."""
SIDE = 129
"""Points of the table along either axis."""
_SOFT = 1.5
"""Standard deviation of the mean's blur, points: lips and lids of a mesh meet in a line, at which a picture folds. A
blur of .04 IOD leaves 1 of 126 fields folded at .5 on a head of another make in place of 12, at the same error."""


def rig_basis(name: str) -> np.ndarray:
    """[K,2,V,3] float32: displacement of the head's vertices (canonical, IOD; y up, z to the viewer) at FACS E, by AU
    and side (subject's left, right), as one of :data:`RIGS` has it; 0 for AUs that it lacks.

    >>> rig_basis("face units").shape == (K, 2, len(HeadModel.load().vertices), 3)
    True
    """
    model = HeadModel.load()
    return {"face units": model.au_basis, "expression units": model.expression_basis, "bumps": _bump_basis()}[name]


@lru_cache(maxsize=1)
def _bump_basis() -> np.ndarray:
    """The table of bumps on the mesh: along the skin, which they say nothing of (displacements are in the picture)."""
    model = HeadModel.load()
    corners = model.vertices[model.faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal = np.zeros(model.vertices.shape)
    for i in range(3):
        np.add.at(normal, model.faces[:, i], across)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    skin = np.zeros(len(normal), np.bool_)
    skin[np.unique(model.faces[model.part == SKIN])] = True
    gate = face_gate(model.uv) * (skin & (normal[:, 2] > 0))
    out = np.zeros((K, 2, *model.vertices.shape), np.float32)
    for k, code in enumerate(facs.AU_CODES):
        for side in (0, 1):
            right, down = (au_field(code, side, model.uv) * gate[:, None]).T
            length = np.hypot(right, down)
            forth = -(normal[:, 0] * right - normal[:, 1] * down) / np.maximum(normal[:, 2], 0.2)
            out[k, side] = np.stack([right, -down, np.clip(forth, -length, length)], -1)
    return out


def has_rigs() -> np.ndarray:
    """[R,K] bool: whether a rig of :data:`RIGS` knows an AU."""
    units = np.array([code in EXPRESSION_UNITS for code in facs.AU_CODES])
    return np.stack([units if name == "expression units" else np.ones(K, np.bool_) for name in RIGS])


# ---------------------------------------------------------------- rigs of single people


_CONCENTRATION = 1.5
"""Of the Dirichlet distribution that a person's mixture of the rigs is drawn from: mostly one or two of them count."""
_GAIN, _SIDE_GAIN = 0.25, 0.1
"""Standard deviation of the log of how strong an AU is, and of the difference between its sides."""
_TURN, _EXTENT = np.radians(12.0), 0.25
"""Standard deviations of smooth maps over the face: direction of pull, and log of its strength from place to place."""
_TOGETHER = 0.25
"""Share of AUs that bring another one along, by a tenth to a third."""
_KNOTS = 4
_NO_BUMPS = (25, 26, 27, 28, 43, 45)
"""AUs that part what touches: bumps are smooth across lips and lids."""


def draw_rig(rng: np.random.Generator) -> np.ndarray:
    """[K,2,V,3] float32: how one person's muscles pull the head's vertices, drawn around the known rigs.

    Per AU: a mixture of the rigs that know it, how strong it is, on either side, its direction and strength from place
    to place, and now and then another AU that comes along. Spreads are judgement.
    """
    model = HeadModel.load()
    has = has_rigs()
    has[list(RIGS).index("bumps"), [facs.AU_INDEX[code] for code in _NO_BUMPS]] = False
    weights = np.array(list(RIGS.values()))[:, None] * has
    drawn = rng.gamma(np.maximum(_CONCENTRATION * weights, 1e-9)) * has
    drawn /= drawn.sum(0)
    out = np.zeros((K, 2, *model.vertices.shape), np.float32)
    for i, name in enumerate(RIGS):
        out += drawn[i].astype(np.float32)[:, None, None, None] * rig_basis(name)
    gains = np.exp(_GAIN * rng.standard_normal((K, 1)) + _SIDE_GAIN * rng.standard_normal((K, 2)))
    midline = [facs.AU_INDEX[code] for code in facs.MIDLINE]
    gains[midline] = gains[midline].mean(1, keepdims=True)
    out *= gains.astype(np.float32)[:, :, None, None]
    bends = _smooth(model.uv, rng, 2 * K).reshape(K, 2, -1)
    angle = _TURN * bends[:, 0]
    strength = np.exp(_EXTENT * bends[:, 1])
    cos, sin = (strength * f(angle) for f in (np.cos, np.sin))
    x, y = out[..., 0].copy(), out[..., 1].copy()
    out[..., 0], out[..., 1] = cos[:, None] * x - sin[:, None] * y, sin[:, None] * x + cos[:, None] * y
    out[..., 2] *= strength[:, None]
    along, other, share = rng.random(K) < _TOGETHER, rng.integers(1, K, K), rng.uniform(0.1, 1 / 3, K)
    alone = out.copy()
    for k in np.flatnonzero(along):
        out[k] += np.float32(share[k]) * alone[(k + other[k]) % K]
    return out


def _smooth(uv: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """[n,V] float32 smooth random maps over the face, alike on both sides, of unit variance at the knots."""
    u, v = (np.clip((uv[:, i] - low) / (high - low), 0, 1) for i, (low, high) in enumerate(BOX))
    at = np.stack([v, np.abs(2 * u - 1)]) * (_KNOTS - 1)
    grids = rng.standard_normal((n, _KNOTS, _KNOTS))
    return np.stack([map_coordinates(grid, at, order=1, mode="nearest") for grid in grids]).astype(np.float32)


# ---------------------------------------------------------------- tables over the face


@dataclass(frozen=True, eq=False)
class FieldTable:
    """Displacement fields over the canonical face: ``fields`` [K,2,g,g,3] float32 IOD (right, down, to the viewer)."""

    fields: np.ndarray

    def read(self, uv: np.ndarray, cells: list[tuple[int, int]]) -> np.ndarray:
        """[A,H,W,3] float32 of each (AU row, side) at canonical coordinates ``uv`` [H,W,2]; bilinear."""
        g = self.fields.shape[2]
        at = [(uv[..., i] - low) / (high - low) * (g - 1) for i, (low, high) in enumerate(BOX)]
        (x, i), (y, j) = ((np.clip(a, 0, g - 1), np.clip(np.floor(a), 0, g - 2).astype(np.int64)) for a in at)
        s, t = (x - i)[..., None].astype(np.float32), (y - j)[..., None].astype(np.float32)
        out = np.zeros((len(cells), *uv.shape[:-1], 3), np.float32)
        for row, (k, side) in enumerate(cells):
            f = self.fields[k, side]
            above, below = ((1 - s) * f[a, i] + s * f[a, i + 1] for a in (j, j + 1))
            out[row] = (1 - t) * above + t * below
        return out


@lru_cache(maxsize=1)
def _points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every point of the table the corners [g,g,3] of the skin's triangle seen there and their weights [g,g,3], and
    the points' canonical coordinates [g,g,2]. Beyond the skin: those of the nearest point on it."""
    model = HeadModel.load()
    faces = np.ascontiguousarray(model.faces[model.part == SKIN])
    scale = np.array([(SIDE - 1) / (high - low) for low, high in BOX], np.float32)
    screen = np.empty((len(model.vertices), 3), np.float32)
    # Pixels of the rasteriser are centred half a pixel inside.
    screen[:, :2] = (model.uv - np.array([low for low, _ in BOX], np.float32)) * scale + np.float32(0.5)
    screen[:, 2] = model.vertices[:, 2]
    triangle, _ = rasterize(screen, faces, SIDE, SIDE)
    near = distance_transform_edt(triangle < 0, return_distances=False, return_indices=True)
    corners = np.empty((SIDE, SIDE, 3), np.int64)
    weights = np.empty((SIDE, SIDE, 3), np.float32)
    for y in range(SIDE):
        for x in range(SIDE):
            sy, sx = near[0, y, x], near[1, y, x]
            corners[y, x] = faces[triangle[sy, sx]]
            weights[y, x] = barycentric(screen, faces, triangle[sy, sx], sx, sy)
    u, v = (np.linspace(low, high, SIDE) for low, high in BOX)
    return corners, weights, np.stack(np.meshgrid(u, v), -1)


def table_of(basis: np.ndarray) -> FieldTable:
    """A rig's fields [K,2,V,3] over the face, as seen from the front; they fade towards hair, ears and neck."""
    corners, weights, uv = _points()
    gate = face_gate(uv)
    out = np.empty((K, 2, SIDE, SIDE, 3), np.float32)
    for k in range(K):
        for side in (0, 1):
            out[k, side] = (basis[k, side][corners] * weights[..., None]).sum(2) * gate[..., None]
    out[..., 1] *= -1
    return FieldTable(out)


@lru_cache(maxsize=1)
def mean_table() -> FieldTable:
    """The rigs' mean, weighted as :data:`RIGS` says, over those that know an AU, as far as it says something of a rig
    that it does not know."""
    has = has_rigs() * np.array(list(RIGS.values()))[:, None]
    share = (has / has.sum(0)).astype(np.float32)
    mean = sum(share[i][:, None, None, None] * rig_basis(name) for i, name in enumerate(RIGS))
    sharp = table_of(np.asarray(mean, np.float32)).fields
    return FieldTable(np.float32(_SHARE) * gaussian_filter(sharp, (0, 0, _SOFT, _SOFT, 0)))
