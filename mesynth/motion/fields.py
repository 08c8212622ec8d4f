"""Displacement fields of the action units, and how new ones are fitted to the 3D head.

Each AU is a handful of Gaussian bumps (``au_table.json``): centre (cu, cv), widths (su, sv) and a displacement
(outward, down) in IOD units at FACS E. Bumps are stated for u > 0 and mirrored; a bump on the midline is its own mirror
and counts once. The table was fitted to face meshes and carries their disagreement (two meshes agree at cosine .51 to
.90 per AU); it is a model of FACS, not a measurement of people.

For AUs that the hand-calibrated table lacks, ``python -m mesynth.motion.fields 22 28`` fits a few bumps to the 3D head
and prints rows for ``au_table.json`` with the cosine they reach.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from importlib import resources

import numpy as np
from scipy.optimize import least_squares

from mesynth.core import facs
from mesynth.head.model import SIDE_SOFTNESS, SKIN, HeadModel


@lru_cache(maxsize=1)
def bumps() -> dict[int, np.ndarray]:
    """Per AU code, [n,6] float64: cu, cv, su, sv, outward, down."""
    text = resources.files("mesynth.motion").joinpath("au_table.json").read_text()
    table = {int(code): np.asarray(rows, np.float64)[:, :6] for code, rows in json.loads(text)["bumps"].items()}
    missing = set(facs.AU_CODES) - set(table)
    assert not missing, f"au_table.json lacks {missing}"
    return table


def au_field(code: int, side: int, uv: np.ndarray) -> np.ndarray:
    """Displacement of one AU side at weight 1: ``uv`` [...,2] IOD -> [...,2] float32 IOD (right, down).

    ``side`` is 0 for the subject's left (u > 0), 1 for the right. The sides share the AU's whole field by a
    sigmoid across the midline, as the head's do, and add up to it exactly.
    """
    u, v = uv[..., 0], uv[..., 1]
    whole = np.zeros(uv.shape, np.float32)
    for cu, cv, su, sv, outward, down in bumps()[code]:
        half = 0.5 if cu == 0 else 1.0
        for sign in (1.0, -1.0):
            bump = half * np.exp(-0.5 * (((u - sign * cu) / su) ** 2 + ((v - cv) / sv) ** 2))
            whole[..., 0] += sign * outward * bump
            whole[..., 1] += down * bump
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


def basis(uv: np.ndarray, cells: list[tuple[int, int]]) -> np.ndarray:
    """[A,H,W,2] float32, IOD units: the gated field of each (AU row, side) in ``cells`` on map ``uv`` [H,W,2]."""
    gate = face_gate(uv)[..., None]
    fields = [au_field(facs.AU_CODES[k], side, uv) * gate for k, side in cells]
    return np.stack(fields) if fields else np.zeros((0, *uv.shape), np.float32)


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
    for cu, cv, su, sv, outward, down in rows:
        for sign in (1, -1):
            bump = np.exp(-0.5 * (((uv[:, 0] - sign * cu) / su) ** 2 + ((uv[:, 1] - cv) / sv) ** 2))
            out += bump[:, None] * [sign * outward, down] * (0.5 if cu == 0 else 1)
    return out


def _fit_bumps(code: int, n_bumps: int = 4) -> tuple[np.ndarray, float]:
    """([n,6] bumps, area-weighted cosine with the head's displacement) of an AU, both sides."""
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


if __name__ == "__main__":
    for code in map(int, sys.argv[1:]):
        rows, cosine = _fit_bumps(code)
        print(f"AU{code} cosine {cosine:.3f}", json.dumps([[round(float(v), 3) for v in row] for row in rows]))
