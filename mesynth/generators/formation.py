"""The formation model: what a frame is made of once the motion is known.

``I_t = layers(I_0, F_t, a(t)) + (1 - M_t) R_t`` with ``F_t = sum_ks a_ks(t) B_ks`` of the skin alone: lids and lips,
what is behind them and what stays still are :mod:`mesynth.motion.layers`' for every generator, whatever drew the
motion. Every term is 0 where no AU is asked for, so intensity 0 gives the onset back bit for bit, and the flow is what
the frame is made from.

From one face's motion to a clip: temporal profile, nuisances, frames made from the very flow that is reported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit

from mesynth.core import facs, seeds
from mesynth.core.process import part
from mesynth.core.types import Sample
from mesynth.generators.base import ClipRequest
from mesynth.motion.layers import JAW, LAYERED, Course
from mesynth.motion.nuisance import draw_style, head_basis, head_path
from mesynth.motion.prior import formed_clip, shown_aus
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.warping import backward_of, soft_limit, warp

if TYPE_CHECKING:
    from mesynth.core.types import AUVector
    from mesynth.motion.prior import Face, FaceMap


MAX_RESIDUAL = 0.1
"""Largest |R|, of the range of grey levels: a shadow or a wrinkle, not a face."""
FADE = 0.15
"""Flow fades to 0 within this share of the crop's width outside it: at its steepest by ten times what the border moves,
so that a chin that drops by a twelfth of the width does not fold."""


@dataclass(frozen=True, eq=False)
class Motion:
    """What a network says about a face and its AUs, at the network's resolution."""

    flow: torch.Tensor
    """[B,2,S,S] pixels, onset -> frame on the onset's grid"""
    mask: torch.Tensor
    """[B,1,S,S] in [0,1], 1 where the warped onset is all there is"""
    residual: torch.Tensor
    """[B,3,S,S], within MAX_RESIDUAL"""

    @property
    def change(self) -> torch.Tensor:
        """(1 - M) R, [B,3,S,S]."""
        return (1 - self.mask) * self.residual


@dataclass(frozen=True, eq=False)
class FaceMotion:
    """Motion of one clip's apex on the face's own picture: what :mod:`mesynth.generators.formation` makes frames of."""

    cells: list[tuple[int, int]]
    """(AU row, side) of each field; of lids and lips (:data:`mesynth.motion.layers.LAYERED`) the jaw's alone are looked
    at"""
    fields: np.ndarray
    """[A,H,W,2] float32 pixels at intensity 1"""
    bend: np.ndarray
    """[H,W,2] float32 pixels: what is not linear in the AUs, at the apex"""
    change: np.ndarray
    """[H,W,3] float32, (1 - M) R at the apex, in [-.1,.1]"""
    amounts: np.ndarray | None = None
    """[K,2]: how far lids and lips go (:func:`mesynth.motion.layers.drawn_amounts`); None: as on average"""


@dataclass(frozen=True, eq=False)
class ApexRequest:
    """One clip's apex motion."""

    face: Face
    aus: AUVector
    seed: int = 0
    jaws: tuple[tuple[int, int], ...] = ()
    """(AU row, side) of further fields, of a jaw's skin, for layers to use (mesynth.motion.layers.JAW)."""

    @cached_property
    def cells(self) -> tuple[tuple[int, int], ...]:
        """(AU row, side) of what is asked for."""
        return tuple((int(k), int(s)) for k, s in np.argwhere(self.aus.intensity))


def told(aus: AUVector) -> np.ndarray:
    """[K,2] float32 in [0,1]: what a network is asked for. None has learned what lowering an AU looks like: to first
    order it is the AU's own field backwards, which is added beside what the network says."""
    return np.maximum(aus.intensity, 0)


def amount(intensity: torch.Tensor) -> torch.Tensor:
    """The gate |a|: [B,units] in [0,1] -> [B], 0 at 0, about the largest intensity when several are active."""
    return torch.linalg.vector_norm(intensity, dim=1).clamp(max=1)


def combine(fields: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``sum_ks a_ks B_ks``: fields [B,K,2,2,h,w] and weights [B,K,2] -> [B,2,h,w]."""
    return torch.einsum("bks,bkschw->bchw", weights, fields)


def limited(flow: torch.Tensor, share: float) -> torch.Tensor:
    """[B,2,H,W] pixels kept below ``share`` of the width."""
    return soft_limit(flow, share * flow.shape[-1])


def form(onset: torch.Tensor, motion: Motion) -> torch.Tensor:
    """The frame [B,3,S,S] of onset [B,3,S,S] in [0,1] and its motion; clipped to [0,1].

    Raises nothing: where flow and change are 0, the onset's value comes back unchanged.
    """
    return (warp(onset, backward_of(motion.flow)) + motion.change).clamp(0, 1)


def determinants(flow: np.ndarray) -> np.ndarray:
    """Smallest Jacobian determinant of x + F(x) at the corners of each cell of the grid: [h,w,2] -> [h-1,w-1]."""
    right, down = np.diff(flow, axis=1), np.diff(flow, axis=0)
    corners = [
        (1 + x[..., 0]) * (1 + y[..., 1]) - y[..., 0] * x[..., 1]
        for x in (right[:-1], right[1:])
        for y in (down[:, :-1], down[:, 1:])
    ]
    return np.asarray(np.min(corners, axis=0))


def unfolded(flow: np.ndarray, least: float = 0.3, rounds: int = 400) -> np.ndarray:
    """[h,w,2] grid pixels with no determinant below ``least``: smoothed where it folds, untouched elsewhere.

    Skin that folds over itself has no inverse to make a frame with. Each round averages the nodes of the cells that
    fold, and those beside them, with their neighbours, until none folds (lids and lips take some tens of rounds).
    """
    if determinants(flow).min() >= least:
        return flow
    out = flow.astype(np.float64)
    for _ in range(rounds):
        folds = determinants(out) < least
        if not folds.any():
            break
        nodes = np.zeros(out.shape[:2], bool)
        y, x = np.nonzero(folds)
        for dy in (-1, 0, 1, 2):
            for dx in (-1, 0, 1, 2):
                nodes[np.clip(y + dy, 0, len(out) - 1), np.clip(x + dx, 0, out.shape[1] - 1)] = True
        wide = np.pad(out, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]) / 4
        out = np.where(nodes[..., None], 0.5 * (out + mean), out)
    return np.asarray(out, flow.dtype)


def face_matrix(crop: SimilarityCrop, side: int) -> np.ndarray:
    """[2,3]: pixels of the picture a crop was taken from -> pixels of a ``side`` x ``side`` map of the whole crop."""
    scale = side / crop.size
    matrix = crop.matrix * scale
    matrix[:, 2] += 0.5 * scale - 0.5  # pixel centres lie half a pixel inside
    return matrix


@njit(cache=True, nogil=True)
def _read(maps: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Keys' bicubic (a = -1/2) of [C,s,s] at ``matrix`` times each pixel; cv2's (a = -3/4) is not exact on ramps."""
    channels, side = maps.shape[0], maps.shape[1]
    out = np.zeros((height, width, channels), np.float32)
    w = np.empty((2, 4))
    at = np.empty((2, 4), np.int64)
    for y in range(height):
        for x in range(width):
            for axis in range(2):
                p = matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2]
                p = min(max(p, -1.0), float(side))  # continued beyond the border
                i = int(np.floor(p))
                t = p - i
                w[axis, 0] = ((-0.5 * t + 1.0) * t - 0.5) * t
                w[axis, 1] = (1.5 * t - 2.5) * t * t + 1.0
                w[axis, 2] = ((-1.5 * t + 2.0) * t + 0.5) * t
                w[axis, 3] = 1.0 - w[axis, 0] - w[axis, 1] - w[axis, 2]
                for j in range(4):
                    at[axis, j] = min(max(i - 1 + j, 0), side - 1)
            for c in range(channels):
                total = 0.0
                for j in range(4):
                    line = 0.0
                    for k in range(4):
                        line += w[0, k] * maps[c, at[1, j], at[0, k]]
                    total += w[1, j] * line
                out[y, x, c] = total
    return out


def onto_face(maps: np.ndarray, crop: SimilarityCrop, height: int, width: int) -> np.ndarray:
    """Maps [C,s,s] of a whole crop -> [H,W,C] float32 on the picture, bicubic, faded to 0 just outside the crop.

    What moves at the crop's border (a chin that drops) goes on moving beyond it, less and less.
    """
    side = maps.shape[-1]
    matrix = face_matrix(crop, side)
    read = _read(np.ascontiguousarray(maps, np.float32), matrix, height, width)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    inside = matrix @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    beyond = np.maximum(-inside - 0.5, inside - (side - 0.5)).max(0) / (FADE * side)
    t = np.clip(1 - beyond, 0, 1).reshape(height, width, 1)
    return np.asarray(read * (t * t * (3 - 2 * t)), np.float32)


def turned(flow: np.ndarray, crop: SimilarityCrop, side: int) -> np.ndarray:
    """Flow [...,2] in pixels of a ``side`` map of the crop -> pixels along the picture's axes."""
    inverse = np.linalg.inv(face_matrix(crop, side)[:, :2])
    return np.asarray(flow @ inverse.T, np.float32)


def limited_length(flow: np.ndarray, limit: float) -> np.ndarray:
    """[H,W,2] kept below ``limit`` pixels, as :func:`mesynth.preprocess.warping.soft_limit`."""
    fourth = ((flow**2).sum(-1, keepdims=True) / limit**2) ** 2
    return np.asarray(flow * (1 + fourth) ** -0.25, np.float32)


@part("warp")
def face_motion(
    crop: SimilarityCrop,
    shape: tuple[int, ...],
    cells: list[tuple[int, int]],
    fields: np.ndarray,
    bend: np.ndarray,
    change: np.ndarray,
) -> FaceMotion:
    """What a network says on its grid, on the picture [H,W] = ``shape`` that ``crop`` was taken from.

    ``fields`` [A,h,h,2] of ``cells`` and ``bend`` [h,h,2] in pixels of the grid; ``change`` as it shall be.
    """
    height, width = shape
    placed = [
        turned(onto_face(m.transpose(2, 0, 1), crop, height, width), crop, bend.shape[0]) for m in (*fields, bend)
    ]
    return FaceMotion(cells, np.stack(placed)[: len(cells)], placed[-1], change)


# ------------------------------------------------------------------- sequence


@part("warp")
def motion_clip(
    motion: FaceMotion, request: ClipRequest, weights: np.ndarray | None = None, *, device: str | None = None
) -> tuple[Sample, tuple[str, ...]]:
    """The clip with its onset -> apex flow, and warnings. Random streams are the motion prior's, by name.

    ``motion`` of ``request.face``; its fields follow ``request.aus`` and ``request.profile``, or ``weights``
    [n_frames,A] where they are not those of AUs. Lids and lips always follow the request. ``device``: see
    :func:`mesynth.motion.prior.formed_clip`.
    """
    apex = request.profile.apex_index(request.n_frames)
    clip, flow, warnings = formed_clip(
        request.face, _steps(motion, request, weights), request.n_frames, request.fps, apex, request.nuisance.noise,
        request.seed, device,
    )  # fmt: skip
    return Sample(clip, flow, request.aus), warnings


def _steps(motion: FaceMotion, request: ClipRequest, weights: np.ndarray | None) -> Course:
    """Motion onset -> every frame, and the change of light."""
    nuisance, n_frames, seed = request.nuisance, request.n_frames, request.seed
    lags = request.profile.draw_lags(len(facs.AU_CODES), seeds.stream(seed, "lags"))
    alpha = request.profile.alpha(n_frames, lags)
    shown = shown_aus(request.aus, alpha, request.fps, nuisance.blink, seed, motion.amounts)
    layered = [facs.AU_INDEX[code] for code in LAYERED]
    kept = [i for i, (k, _) in enumerate(motion.cells) if weights is not None or k not in layered]
    rows = [motion.cells[i][0] for i in kept]
    asked = np.array([request.aus.intensity[motion.cells[i]] for i in kept], np.float32)
    every = alpha[:, rows] * asked if weights is None else weights
    drops = [i for i, (k, _) in enumerate(motion.cells) if weights is None and facs.AU_CODES[k] in JAW]
    dropped = np.stack([shown[:, k, side] for k, side in (motion.cells[i] for i in drops)], 1) if drops else None
    jaws = motion.fields[drops]
    path = head_path(n_frames, nuisance.head, seeds.stream(seed, "head"))
    place = request.face.place if nuisance.head or nuisance.style else None
    fields, bend = motion.fields[kept], motion.bend
    if nuisance.style and place is not None:
        both, bend = _styled([*fields, *jaws, bend], place, nuisance.style, seed)
        fields, jaws = both[: len(fields)], both[len(fields) :]
    basis = (head_basis(place.uv) @ place.rotation.T * np.float32(place.iod)) if nuisance.head and place else None
    # What is not linear follows the AUs on average.
    follows = weights is None and len(asked) > 0
    whole = np.abs(asked).sum()
    share = np.array([float(np.abs(now).sum() / whole) if follows else 0.0 for now in every])
    return Course(
        shown, every, fields, path, basis, dropped, jaws, share, bend, np.float32(255) * motion.change,
    )  # fmt: skip


def _styled(fields: list[np.ndarray], place: FaceMap, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The fields [H,W,2] with one clip's own places and directions of pull; the last is returned on its own."""
    import cv2

    style = draw_style(place.uv, strength, seeds.stream(seed, "style"))
    shift = style.shift @ place.rotation.T * np.float32(place.iod)
    height, width = style.turn.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    cos, sin = np.cos(style.turn), np.sin(style.turn)
    out = []
    for field in fields:
        read = cv2.remap(field, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out.append(np.stack([cos * read[..., 0] - sin * read[..., 1], sin * read[..., 0] + cos * read[..., 1]], -1))
    stacked = np.stack(out).astype(np.float32)
    return stacked[:-1], stacked[-1]
