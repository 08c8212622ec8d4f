"""Displacement fields of the action units in the canonical face frame.

Each AU is a handful of Gaussian bumps (``au_table.json``): centre (cu, cv), widths (su, sv) and a
displacement (outward, down) in IOD units at FACS E. Bumps are stated for u > 0 and mirrored; a bump on
the midline is its own mirror and counts once. The table was fitted to face
meshes and carries their disagreement (two meshes agree at cosine .51 to .90 per AU); it is a model of
FACS, not a measurement of people.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

import numpy as np

from mesynth import facs
from mesynth.head.model import SIDE_SOFTNESS


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
