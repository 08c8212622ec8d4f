"""Hair: where it grows, the volume of short hair, and the falling sheets of long hair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mesynth.head.model import SKIN, HeadModel

STYLES = ("crop", "short", "fringe", "tied", "long")
_THICKNESS = {"crop": 0.035, "short": 0.085, "fringe": 0.11, "tied": 0.05, "long": 0.11}
_SIDEBURN = {"crop": -0.10, "short": -0.30, "fringe": -0.25, "tied": 0.05, "long": -0.30}

# Long hair in the canonical frame, one row a height: y; front edge x and z; widest x.
_FALL = np.array(
    [[1.55, 0.72, -0.80, 0.86], [1.25, 0.97, -0.74, 1.10], [0.90, 1.06, -0.70, 1.24], [0.50, 1.12, -0.76, 1.32],
     [0.10, 1.14, -0.82, 1.38], [-0.40, 1.13, -0.78, 1.42], [-0.90, 1.11, -0.66, 1.44], [-1.40, 1.08, -0.55, 1.46],
     [-1.90, 1.06, -0.48, 1.50], [-2.50, 1.08, -0.45, 1.55]])  # fmt: skip
_ROWS, _COLUMNS = 28, 15


@dataclass(frozen=True, eq=False)
class Sheets:
    """Extra geometry of long hair: vertices [n,3] canonical, faces [m,3] int32 (local numbers), uv [n,2] into the
    strand map, inner [n] float32 (1 = the shaded inside)."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    inner: np.ndarray


def hair_field(model: HeadModel, style: str, raise_by: float) -> np.ndarray:
    """Signed distance-like field [V] float32 in IOD: positive on the scalp, negative on the face and ears."""
    x, y, z = (model.vertices[:, i].astype(np.float64) for i in range(3))
    front = 1.00 + raise_by - (0.22 if style == "fringe" else 0.0)
    sideburn = _SIDEBURN[style]
    across = front - 0.10 * np.clip(np.abs(x) / 0.7, 0, 1.2) ** 2
    depth = [-2.60, -2.10, -1.75, -1.00, -0.88, -0.76, -0.62, -0.48, -0.30]
    edge = np.interp(z, depth, [-1.4, -0.9, sideburn, sideburn, 0.18, 0.45, 0.72, 0.90, 1.6])
    field = np.where(model.ear, -1.0, y - np.minimum(across, edge))
    skin = np.zeros(len(field), bool)
    skin[np.unique(model.faces[model.part == SKIN])] = True
    return np.asarray(np.where(skin, np.clip(field, -1.0, 1.0), -1.0), np.float32)


def grow_hair(model: HeadModel, vertices: np.ndarray, field: np.ndarray, style: str) -> np.ndarray:
    """Vertices [V,3] with the scalp pushed out along its normals by the style's thickness."""
    corners = vertices[model.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(total, model.faces[:, k], normal)
    total /= np.linalg.norm(total, axis=1, keepdims=True) + 1e-12
    t = np.clip(field / 0.30, 0, 1)
    amount = _THICKNESS[style] * t * t * (3 - 2 * t)
    return np.asarray(vertices + amount[:, None] * total, np.float32)


def long_hair(model: HeadModel, vertices: np.ndarray, rng: np.random.Generator) -> Sheets:
    """Two falling sheets that run from the front edge beside the face round to the back of the head."""
    beside = ~model.ear & (np.abs(model.vertices[:, 1]) < 0.6) & (model.vertices[:, 2] > -1.3)
    widen = float(np.abs(vertices[beside, 0]).max() / np.abs(model.vertices[beside, 0]).max())
    length = rng.uniform(-2.5, -1.75)
    heights = np.linspace(_FALL[0, 0], length, _ROWS)
    profile = [np.interp(-heights, -_FALL[:, 0], _FALL[:, k]) for k in (1, 2, 3)]
    parts = [_sheet(side, heights, profile, widen, rng) for side in (-1.0, 1.0)]

    grid = np.arange(_ROWS * _COLUMNS).reshape(_ROWS, _COLUMNS)
    a, b, c, d = grid[:-1, :-1].ravel(), grid[:-1, 1:].ravel(), grid[1:, 1:].ravel(), grid[1:, :-1].ravel()
    outward = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    points: list[np.ndarray] = []
    faces, uv, inner = [], [], []
    for side, (sheet, strands) in zip((-1.0, 1.0), parts, strict=True):
        front = outward if side < 0 else outward[:, ::-1]
        for is_inner in (0, 1):
            offset = sum(len(p) for p in points)
            shrink = np.array([0.95, 1.0, 0.97]) if is_inner else 1.0
            points.append(sheet * shrink)
            faces.append((front[:, ::-1] if is_inner else front) + offset)
            uv.append(strands)
            inner.append(np.full(len(sheet), float(is_inner)))
    return Sheets(
        np.concatenate(points).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(uv).astype(np.float32),
        np.concatenate(inner).astype(np.float32),
    )


def _sheet(
    side: float, heights: np.ndarray, profile: list[np.ndarray], widen: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points and strand coordinates [_ROWS*_COLUMNS, 3 and 2] of one side; column 0 is tucked in at the face."""
    edge_x, edge_z, widest = profile
    wave = rng.normal(0.0, 0.035) * np.sin(heights * rng.uniform(1.5, 3.0) + rng.uniform(0, 6)) * (heights < 0.6)
    edge_x, widest = (edge_x + wave) * widen, (widest + 0.5 * wave) * widen
    stations = np.array([0.0, 0.10, 0.24, 0.45, 0.75, 1.0])
    along = np.linspace(0.0, 1.0, _COLUMNS) ** 1.3
    points = np.empty((_ROWS, _COLUMNS, 3))
    uv = np.empty((_ROWS, _COLUMNS, 2))
    for i, y in enumerate(heights):
        x = np.interp(along, stations, [edge_x[i] - 0.10, edge_x[i], 0.62 * widest[i] + 0.38 * edge_x[i], widest[i],
                                        0.75 * widest[i], 0.0])  # fmt: skip
        z = np.interp(along, stations, [edge_z[i] - 0.16, edge_z[i], edge_z[i] - 0.16, -1.45, -2.75, -3.2])
        points[i] = np.stack([side * x, np.full(_COLUMNS, y), z], axis=1)
        # Strands of the texture radiate from (0, 0.9): down the sheet is outwards along one ray.
        theta = side * (0.05 + 0.85 * along)
        radius = 1.0 + 0.28 * (1.55 - y)
        uv[i] = np.stack([radius * np.sin(theta), 0.9 - radius * np.cos(theta)], axis=1)
    return points.reshape(-1, 3), uv.reshape(-1, 2)
