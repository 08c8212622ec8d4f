"""The AU motion prior as a generator: one onset face in, a micro-expression out. Nothing is trained.

Formation model: ``F_t = sum_k alpha_k(t) a_k B_k(T(x)) + head motion``, ``I_t(x) = I_0(x + b_t(x))`` with
``b_t = -F_t(x + b_t)``. Flow is what the frames are made from, not an estimate; at intensity 0 the
input comes back bit for bit; identity is kept because every pixel is the person's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mesynth import facs, seeds
from mesynth.errors import MesynthError
from mesynth.head.model import HeadModel
from mesynth.motion.face_map import face_map
from mesynth.motion.fields import basis
from mesynth.motion.nuisance import Nuisance, add_noise, blink_curve, draw_style, head_basis, head_path
from mesynth.motion.warp import backward_flow, folding, stays_inside, warp_backward
from mesynth.stopwatch import part
from mesynth.temporal import Profile
from mesynth.types import AUVector, Clip, Flow, Sample

# A warp moves what is in the picture. It cannot show the eyeball's lid or the inside of the mouth, and
# past these weights it folds the picture (smallest Jacobian determinant below .1 on the mean face).
WARP_LIMIT: dict[int, float] = {22: 0.8, 27: 0.9, 28: 0.6, 43: 0.35, 45: 0.35}
NAME = "motion-prior"


@dataclass(frozen=True)
class Face:
    """An onset face: ``image`` [H,W,3] uint8 RGB, ``landmarks`` [68,2] float32 pixels."""

    image: np.ndarray
    landmarks: np.ndarray

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise MesynthError(f"a face is [H,W,3] uint8, got {self.image.dtype} {self.image.shape}")
        if self.landmarks.shape != (68, 2) or not np.isfinite(self.landmarks).all():
            raise MesynthError(f"landmarks have shape {self.landmarks.shape}; expected 68 finite points [68,2]")


def check_reach(aus: AUVector) -> None:
    """Raise MesynthError for an intensity a warp cannot show, and for conflicting AUs."""
    facs.reject_conflicts(aus)
    for code, limit in WARP_LIMIT.items():
        asked = float(aus.intensity[facs.AU_INDEX[code]].max())
        if asked > limit + 1e-6:
            raise MesynthError(
                f"AU {code} ({facs.AU_NAMES[code]}) at {asked:.2g} would fold the picture; "
                f"the motion prior shows it up to {limit:g}"
            )


class MotionPrior:
    """Fields of one face, evaluated once and reused for all its clips."""

    def __init__(self, face: Face) -> None:
        height, width = face.image.shape[:2]
        model = HeadModel.load()
        canonical = model.uv[model.landmarks].astype(np.float64)
        self.face = face
        self._map = face_map(face.landmarks, height, width, canonical)
        self._fields: dict[tuple[int, int], np.ndarray] = {}
        self._head: np.ndarray | None = None

    def _in_pixels(self, fields: np.ndarray) -> np.ndarray:
        """Canonical displacements [...,2] -> pixels along the picture's axes."""
        return np.asarray((fields @ self._map.rotation.T) * np.float32(self._map.iod), np.float32)

    @part("model")
    def fields(self, cells: list[tuple[int, int]]) -> np.ndarray:
        """[A,H,W,2] float32 pixels at weight 1 of each (AU row, side)."""
        missing = [cell for cell in cells if cell not in self._fields]
        for cell, field in zip(missing, self._in_pixels(basis(self._map.uv, missing)), strict=True):
            self._fields[cell] = field
        height, width = self.face.image.shape[:2]
        return np.stack([self._fields[c] for c in cells]) if cells else np.zeros((0, height, width, 2), np.float32)

    @part("model")
    def _styled_fields(self, cells: list[tuple[int, int]], strength: float, seed: int) -> np.ndarray:
        """:meth:`fields` with one clip's own places and directions of pull."""
        style = draw_style(self._map.uv, strength, seeds.stream(seed, "style"))
        fields = basis(self._map.uv + style.shift, cells)
        cos, sin = np.cos(style.turn), np.sin(style.turn)
        turned = np.stack(
            [cos * fields[..., 0] - sin * fields[..., 1], sin * fields[..., 0] + cos * fields[..., 1]], -1
        )
        return self._in_pixels(turned)

    def flows(
        self, aus: AUVector, profile: Profile, n_frames: int, fps: float, nuisance: Nuisance, seed: int
    ) -> Iterator[np.ndarray]:
        """Forward flow onset -> frame t, [H,W,2] float32 pixels, for each of ``n_frames`` frames."""
        cells = [(int(k), int(s)) for k, s in np.argwhere(aus.intensity > 0)]
        lags = profile.draw_lags(len(facs.AU_CODES), seeds.stream(seed, "lags"))
        alpha = profile.alpha(n_frames, lags)
        weights = np.zeros((len(cells), n_frames), np.float32)
        for i, (k, s) in enumerate(cells):
            weights[i] = alpha[:, k] * aus.intensity[k, s]
        blink = blink_curve(n_frames, fps, nuisance.blink, seeds.stream(seed, "blink"))
        if blink.any():
            row = facs.AU_INDEX[45]
            cells = [*cells, (row, 0), (row, 1)]
            weights = np.concatenate([weights, np.minimum(np.stack([blink, blink]), WARP_LIMIT[45])])
        fields = self.fields(cells) if not nuisance.style else self._styled_fields(cells, nuisance.style, seed)
        path = head_path(n_frames, nuisance.head, seeds.stream(seed, "head"))
        if nuisance.head and self._head is None:
            self._head = self._in_pixels(head_basis(self._map.uv))
        for t in range(n_frames):
            flow = np.einsum("a,ahwc->hwc", weights[:, t], fields)
            if nuisance.head and self._head is not None:
                flow = flow + np.einsum("a,ahwc->hwc", path[t], self._head)
            yield np.ascontiguousarray(flow, np.float32)

    @part("warp")
    def generate(
        self,
        aus: AUVector,
        profile: Profile,
        *,
        n_frames: int,
        fps: float,
        nuisance: Nuisance = Nuisance(),
        seed: int = 0,
    ) -> tuple[Sample, tuple[str, ...]]:
        """The clip with its exact onset -> apex flow, and warnings (a folded region, out-of-frame motion).

        Frame 0 is the input face; frame ``profile.apex_index(n_frames)`` is the apex.
        """
        check_reach(aus)
        height, width = self.face.image.shape[:2]
        frames = np.empty((n_frames, height, width, 3), np.uint8)
        apex = profile.apex_index(n_frames)
        noise = seeds.stream(seed, "noise")
        apex_flow = np.zeros((height, width, 2), np.float32)
        for t, flow in enumerate(self.flows(aus, profile, n_frames, fps, nuisance, seed)):
            if t == apex:
                apex_flow = flow
            frame = warp_backward(self.face.image, backward_flow(flow))
            # The onset keeps the photo's own noise: it is the frame the person took.
            frame = frame if t == 0 else add_noise(frame, nuisance.noise, noise)
            frames[t] = np.clip(frame + 0.5, 0, 255)
        determinant = folding(apex_flow)
        warnings = (f"flow folds at the apex (det {determinant:.2f})",) if determinant <= 0 else ()
        uv = np.ascontiguousarray(apex_flow.transpose(2, 0, 1))
        return Sample(Clip(frames, fps, apex), Flow(uv, stays_inside(uv)), aus), warnings
