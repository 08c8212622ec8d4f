"""What action units look like: displacement fields, the opinions of several rigs, their mean, and rigs drawn anew.

Each AU of the motion prior's table (``au_table.json``) is a handful of Gaussian bumps: centre (cu, cv), widths (su, sv)
and a displacement (outward, down, towards the viewer) in IOD units at FACS E. Bumps are stated for u > 0 and mirrored;
a bump on the midline is its own mirror and counts once. The table was fitted to face meshes and carries their
disagreement (two meshes agree at cosine .51 to .90 per AU); it is a model of FACS, not a measurement of people. AU 14,
22 and 24, which meshes agree on least, are half that fit and half what anatomy says (docs/decisions/024).
:func:`drawn_bumps` draws the table anew, as far as it may be wrong.

For AUs that the hand-calibrated table lacks, ``python -m mesynth.motion.fields 22 28`` fits a few bumps to the 3D head
and prints rows for ``au_table.json`` with the cosine they reach.

A rig is one artist's or one table's answer to the question how skin moves under an AU. Rigs disagree (cosines of .3 to
.95 per AU between any two of them and a head that none of them knew), and what a real person's face does is one more
answer. The mean of independent answers is nearer to a new one than each of them is (docs/decisions/020). Three are
known, all on the head's mesh: its face units, MakeHuman's own expression units (21 of the AUs), and the table of bumps.
Training draws rigs anew.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np

from mesynth.core import facs
from mesynth.head.model import EXPRESSION_UNITS, SIDE_SOFTNESS, SKIN, HeadModel
from mesynth.head.raster import barycentric, rasterize


@lru_cache(maxsize=1)
def bumps() -> dict[int, np.ndarray]:
    """Per AU code, [n,7] float64: cu, cv, su, sv, outward, down, towards the viewer."""
    text = resources.files("mesynth.motion").joinpath("au_table.json").read_text()
    table = {int(code): np.asarray(rows, np.float64) for code, rows in json.loads(text)["bumps"].items()}
    missing = set(facs.AU_CODES) - set(table)
    assert not missing, f"au_table.json lacks {missing}"
    return table


def au_field(code: int, side: int, uv: np.ndarray, table: dict[int, np.ndarray] | None = None) -> np.ndarray:
    """Displacement of one AU side at weight 1: ``uv`` [...,2] IOD -> [...,3] float32 IOD (right, down, to the viewer).

    ``table``: as :func:`bumps` (None: that). ``side`` is 0 for the subject's left (u > 0), 1 for the right. The sides
    share the AU's whole field by a sigmoid across the midline, as the head's do, and add up to it exactly.
    """
    u, v = uv[..., 0], uv[..., 1]
    whole = np.zeros((*uv.shape[:-1], 3), np.float32)
    for cu, cv, su, sv, outward, down, forth in (bumps() if table is None else table)[code]:
        half = 0.5 if cu == 0 else 1.0
        for sign in (1.0, -1.0):
            bump = half * np.exp(-0.5 * (((u - sign * cu) / su) ** 2 + ((v - cv) / sv) ** 2))
            whole[..., 0] += sign * outward * bump
            whole[..., 1] += down * bump
            whole[..., 2] += forth * bump
    left = 1 / (1 + np.exp(np.clip(-u / SIDE_SOFTNESS, -60, 60)))
    return np.asarray(whole * (left if side == 0 else 1 - left)[..., None], np.float32)


def face_gate(uv: np.ndarray) -> np.ndarray:
    """[...] float32 in [0,1]: 1 on the face, falling smoothly to 0 towards hair, ears and neck."""

    def smoothstep(x: np.ndarray) -> np.ndarray:
        x = np.clip(x, 0, 1)
        return x * x * (3 - 2 * x)

    u, v = uv[..., 0], uv[..., 1]
    gate = smoothstep((1.35 - np.abs(u)) / 0.3) * smoothstep((v + 1.35) / 0.4) * smoothstep((1.95 - v) / 0.3)
    return gate.astype(np.float32)


def basis(uv: np.ndarray, cells: list[tuple[int, int]], table: dict[int, np.ndarray] | None = None) -> np.ndarray:
    """[A,H,W,3] float32, IOD units: the gated field (right, down, to the viewer) of each (AU row, side) in ``cells`` on
    map ``uv`` [H,W,2]; ``table``: as :func:`bumps` (None: that)."""
    gate = face_gate(uv)[..., None]
    fields = [au_field(facs.AU_CODES[k], side, uv, table) * gate for k, side in cells]
    return np.stack(fields) if fields else np.zeros((0, *uv.shape[:-1], 3), np.float32)


_DOUBT_TURN, _DOUBT_GAIN, _DOUBT_EXTENT, _DOUBT_PLACE = 0.6, 0.5, 0.35, 0.12
"""Standard deviations of what a person's bumps may differ by: direction of pull (radians), log strength, log width and
place (IOD); once for all bumps of an AU and again for each. Chosen so that the range of 19 draws holds nine tenths of
the truth (docs/figures.md)."""
_DOUBT_SIDE = 0.1
"""Standard deviation of the log strength of either side."""
MAX_SPREAD = 2.0
_MOST_BUMPS = 8
_ALIKE = {43: 45, 27: 26}


def drawn_bumps(spread: float, rng: np.random.Generator) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """One person's variant of the table, as :func:`bumps`, and how strong each side is by it, [K,2] float32.

    ``spread``: 1 as far as the table may be wrong, 0 the table itself. Sides of an AU that crosses the midline are
    alike; AU 43 and 45 are one motion, 27 the same as 26 but larger, so they are drawn together.

    >>> same, sides = drawn_bumps(0.0, np.random.default_rng(0))
    >>> bool(np.allclose(same[12], bumps()[12])), float(sides.min())
    (True, 1.0)
    """
    out: dict[int, np.ndarray] = {}
    sides = np.exp(spread * _DOUBT_SIDE * rng.standard_normal((len(facs.AU_CODES), 2)))
    # As many numbers for every AU: a table with one bump more must not draw the other AUs anew.
    numbers = spread * rng.standard_normal((len(facs.AU_CODES), 1 + _MOST_BUMPS, 6))
    for code, like in _ALIKE.items():
        sides[facs.AU_INDEX[code]], numbers[facs.AU_INDEX[code]] = (x[facs.AU_INDEX[like]] for x in (sides, numbers))
    for code, (common, *own) in zip(facs.AU_CODES, numbers, strict=True):
        rows = bumps()[code].copy()
        off = common + own[: len(rows)]
        middle = rows[:, 0] == 0
        # A bump on the midline becomes the half of a pair: its sides may draw apart.
        rows[middle, 4:] /= 2
        angle, gain = _DOUBT_TURN * off[:, 0], np.exp(_DOUBT_GAIN * off[:, 1])
        cos, sin = gain * np.cos(angle), gain * np.sin(angle)
        outward, down = rows[:, 4].copy(), rows[:, 5].copy()
        rows[:, 4], rows[:, 5] = cos * outward - sin * down, sin * outward + cos * down
        rows[:, 6] *= gain
        rows[:, 2:4] *= np.exp(_DOUBT_EXTENT * off[:, 2:4])
        rows[:, :2] += _DOUBT_PLACE * off[:, 4:]
        rows[:, 0] = np.where(rows[:, 0] == 0, 1e-9, np.abs(rows[:, 0]))
        out[code] = rows
    midline = [facs.AU_INDEX[code] for code in facs.MIDLINE]
    sides[midline] = sides[midline].mean(1, keepdims=True)
    return out, sides.astype(np.float32)


# ---------------------------------------------------------------- fit


_CENTRE, _WIDTH = ((0.0, 1.3), (-0.9, 1.8)), (0.08, 0.5)
_STRENGTH = 0.16  # larger opposing bumps cancel each other on the mean face and on no other


def frontal_skin(model: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """(vertex numbers, weights): skin that faces the camera, weighted by the area a pixel sees of it."""
    corners = model.vertices[model.faces[model.part == SKIN]].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    weight = np.zeros(len(model.vertices))
    for i in range(3):
        np.add.at(weight, model.faces[model.part == SKIN][:, i], np.clip(normals[:, 2], 0, None))
    inside = (np.abs(model.uv[:, 0]) < 1.3) & (model.uv[:, 1] > -1.2) & (model.uv[:, 1] < 1.9)
    chosen = np.flatnonzero((weight > 0) & inside)
    return chosen, weight[chosen]


def field(rows: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Both sides of bumps [n,6] at ``uv`` [N,2] -> [N,2]."""
    out = np.zeros_like(uv)
    for cu, cv, su, sv, outward, down in rows[:, :6]:
        for sign in (1, -1):
            bump = np.exp(-0.5 * (((uv[:, 0] - sign * cu) / su) ** 2 + ((uv[:, 1] - cv) / sv) ** 2))
            out += bump[:, None] * [sign * outward, down] * (0.5 if cu == 0 else 1)
    return out


def _fit_bumps(code: int, n_bumps: int = 4) -> tuple[np.ndarray, float]:
    """([n,6] bumps, area-weighted cosine with the head's displacement) of an AU, both sides."""
    from scipy.optimize import least_squares

    model = HeadModel.load()
    vertices, weight = frontal_skin(model)
    uv = model.uv[vertices].astype(np.float64)
    target = model.au_basis[facs.AU_INDEX[code]].sum(0)[vertices][:, :2].astype(np.float64) * [1, -1]
    root = np.sqrt(weight / weight.sum())[:, None]
    lower = np.tile([_CENTRE[0][0], _CENTRE[1][0], _WIDTH[0], _WIDTH[0], -_STRENGTH, -_STRENGTH], n_bumps)
    upper = np.tile([_CENTRE[0][1], _CENTRE[1][1], _WIDTH[1], _WIDTH[1], _STRENGTH, _STRENGTH], n_bumps)
    start: list[np.ndarray] = []
    residual = target.copy()
    for _ in range(n_bumps):  # greedy start: a bump where most displacement is still unexplained
        peak = np.argmax((root * residual**2).sum(1) * (uv[:, 0] >= 0))
        start.append(np.array([max(uv[peak, 0], 0.02), uv[peak, 1], 0.2, 0.2, *residual[peak]]))
        residual = target - field(np.array(start), uv)
    x0 = np.clip(np.concatenate(start), lower + 1e-6, upper - 1e-6)
    scale = np.abs(target).max()

    def error(x: np.ndarray) -> np.ndarray:
        return np.asarray((root * (field(x.reshape(-1, 6), uv) - target)).ravel() / scale)

    rows = least_squares(error, x0, bounds=(lower, upper), max_nfev=400).x.reshape(-1, 6)
    model_field = field(rows, uv)
    w = weight[:, None]
    cosine = (w * model_field * target).sum() / np.sqrt((w * model_field**2).sum() * (w * target**2).sum())
    return rows, float(cosine)


# ---------------------------------------------------------------- rigs


_SHARE = 0.85
"""Of the mean that is expected of a rig which is not in it. Each known rig regressed on the mean of the others: face
units .87, bumps .72, expression units .30; the mean of three says more than that of two. On a head of another make
.8, .9 and 1 have the same error."""
K = len(facs.AU_CODES)
RIGS: dict[str, float] = {"face units": 1.0, "expression units": 0.5, "bumps": 1.0}
"""Weight of each rig in the mean. The expression units are the coarsest: their cosine with the others is lowest."""
_BY_THE_MANUAL = ((14, 22, 24), 4.0)
"""AUs, and times what their bumps count: both artists' 14 and 24 raise the corner as 12 does, which the FACS manual
says they do not, and half of these bumps is written from it (docs/decisions/024)."""
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
    """The table of bumps on the mesh: on the skin that faces the viewer."""
    model = HeadModel.load()
    corners = model.vertices[model.faces].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    towards = np.zeros(len(model.vertices))
    for i in range(3):
        np.add.at(towards, model.faces[:, i], across[:, 2])
    skin = np.zeros(len(towards), np.bool_)
    skin[np.unique(model.faces[model.part == SKIN])] = True
    gate = (face_gate(model.uv) * (skin & (towards > 0)))[:, None]
    out = np.zeros((K, 2, *model.vertices.shape), np.float32)
    for k, code in enumerate(facs.AU_CODES):
        for side in (0, 1):
            out[k, side] = au_field(code, side, model.uv) * gate * np.array([1, -1, 1], np.float32)
    return out


def has_rigs() -> np.ndarray:
    """[R,K] bool: whether a rig of :data:`RIGS` knows an AU."""
    units = np.array([code in EXPRESSION_UNITS for code in facs.AU_CODES])
    return np.stack([units if name == "expression units" else np.ones(K, np.bool_) for name in RIGS])


def _by_the_manual(shares: np.ndarray) -> np.ndarray:
    """[R,K] shares of the rigs, of sum 1 by AU, with more of what the manual says."""
    codes, times = _BY_THE_MANUAL
    out = shares.copy()
    out[list(RIGS).index("bumps"), [facs.AU_INDEX[code] for code in codes]] *= times
    return np.asarray(out / out.sum(0))


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
    drawn = _by_the_manual(drawn / drawn.sum(0))
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
    from scipy.ndimage import map_coordinates

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
    from scipy.ndimage import distance_transform_edt

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
    from scipy.ndimage import gaussian_filter

    has = has_rigs() * np.array(list(RIGS.values()))[:, None]
    share = _by_the_manual(has / has.sum(0)).astype(np.float32)
    mean = sum(share[i][:, None, None, None] * rig_basis(name) for i, name in enumerate(RIGS))
    sharp = table_of(np.asarray(mean, np.float32)).fields
    return FieldTable(np.float32(_SHARE) * gaussian_filter(sharp, (0, 0, _SOFT, _SOFT, 0)))


if __name__ == "__main__":
    for code in map(int, sys.argv[1:]):
        rows, cosine = _fit_bumps(code)
        print(f"AU{code} cosine {cosine:.3f}", json.dumps([[round(float(v), 3) for v in row] for row in rows]))
