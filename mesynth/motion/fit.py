"""Fit a few Gaussian bumps to an AU of the 3D head, for AUs the hand-calibrated table lacks.

``python -m mesynth.motion.fit 22 28`` prints rows for ``au_table.json`` with the cosine they reach.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from scipy.optimize import least_squares

from mesynth import facs
from mesynth.head.model import SKIN, HeadModel

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


def fit_bumps(code: int, n_bumps: int = 4) -> tuple[np.ndarray, float]:
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
        rows, cosine = fit_bumps(code)
        print(f"AU{code} cosine {cosine:.3f}", json.dumps([[round(float(v), 3) for v in row] for row in rows]))
