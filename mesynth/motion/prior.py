"""Generators without training, one onset face in, a micro-expression out: the AU motion prior and the landmark mean.

Formation model: the skin moves by ``F_t = sum_k alpha_k(t) a_k B_k(T(x))``, lids and lips as
:mod:`mesynth.motion.layers` says, then the head. Flow is what the frames are made from, not an estimate; at intensity 0
the input comes back bit for bit; identity is kept because every pixel is the person's own, but for what a photo does
not show: the inside of a closed mouth, the eyeball under the lids.

B_k are the bumps of ``au_table.json`` (``motion-prior``), or the mean of several rigs carried by the landmarks
(``landmark-mean``, :mod:`mesynth.motion.fields`). Their displacements are three-dimensional and turn with the head; a
closing lid travels as far as the eye is open. The bumps may be drawn anew for each seed, as far as they may be wrong.

T maps a picture's pixels to the canonical face frame: origin between the eye centres, u to image right, v down, unit
one inter-ocular distance (IOD, between the means of landmarks 36-41 and 42-47). The subject's left side is u > 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mesynth.core import facs, seeds
from mesynth.core.errors import MesynthError
from mesynth.core.process import part
from mesynth.core.profiles import Profile
from mesynth.core.types import AUVector, Clip, Flow, Sample
from mesynth.head.model import HeadModel, rotation
from mesynth.motion.fields import MAX_SPREAD, FieldTable, basis, drawn_bumps, mean_table
from mesynth.motion.layers import Course, Layers, Steps, drawn_amounts, jaw_cells, skin_aus
from mesynth.motion.nuisance import Nuisance, blink_curve, draw_style, head_basis, head_path, recorded
from mesynth.motion.warp import folding, stays_inside
from mesynth.preprocess.align import eye_centres

_GRID_STEP = 4  # the map is smooth: evaluating it every 4 pixels and interpolating loses nothing visible
# Far points that follow the similarity alone, so that the spline stays tame outside the landmarks.
_ANCHORS = np.array(
    [(u, v) for u in (-2, -1, 0, 1, 2) for v in (-2.2, -1.4)]
    + [(u, v) for u in (-2.2, 2.2) for v in (-0.5, 0.6, 1.6, 2.6)]
    + [(u, 2.8) for u in (-1, 0, 1)],
    np.float64,
)


@dataclass(frozen=True)
class FaceMap:
    """``uv`` [H,W,2] float32: canonical coordinates of each pixel; ``rotation`` [2,2] float32 turns a
    canonical displacement into image directions; ``iod`` is the inter-ocular distance in pixels."""

    uv: np.ndarray
    rotation: np.ndarray
    iod: float


def eye_frame(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(centre [2], rotation [2,2], IOD in pixels) of 68 landmarks [68,2]."""
    left_in_image, right_in_image = eye_centres(landmarks)
    axis = right_in_image - left_in_image
    iod = float(np.hypot(*axis))
    if not iod > 1:
        raise ValueError(f"the eye centres are {iod:.2f} px apart; these are no 68 landmarks of a face")
    c, s = axis / iod
    return (left_in_image + right_in_image) / 2, np.array([[c, -s], [s, c]]), iod


def face_map(landmarks: np.ndarray, height: int, width: int, canonical: np.ndarray, step: int = _GRID_STEP) -> FaceMap:
    """Thin-plate map from image landmarks [68,2] (pixels) to ``canonical`` landmarks [68,2] (IOD units).

    Smoothing is 0.01 IOD: landmark jitter must not fold the face. ``step``: pixels between the points at which the
    spline is evaluated; in between it is interpolated.
    """
    from scipy.interpolate import RBFInterpolator

    centre, rotation, iod = eye_frame(landmarks.astype(np.float64))
    sources = np.vstack([landmarks, _ANCHORS @ (rotation.T * iod) + centre])
    spline = RBFInterpolator(
        sources, np.vstack([canonical, _ANCHORS]), kernel="thin_plate_spline", smoothing=0.01 * iod
    )
    gy = np.arange(0, height + step, step)
    gx = np.arange(0, width + step, step)
    nodes = np.stack(np.meshgrid(gx, gy), -1).reshape(-1, 2).astype(np.float64)
    coarse = spline(nodes).reshape(len(gy), len(gx), 2)
    uv = _interpolate(_interpolate(coarse, height, 0, step), width, 1, step)
    return FaceMap(uv.astype(np.float32), rotation.astype(np.float32), iod)


_INNER = slice(17, 68)
"""Landmarks of brows, nose, eyes and mouth: those of the jaw slide along the outline of a turned head."""
_LIDS = (((43, 44), (47, 46)), ((37, 38), (41, 40)))
"""Landmarks of the upper and the lower lid, of the subject's left and right eye."""
_YAW_DOUBT, _PITCH_DOUBT = np.radians(3.0), np.radians(8.0)
"""How large an angle a frontal face of another shape than the mean may seem to have."""


def head_turn(landmarks: np.ndarray) -> np.ndarray:
    """[2,3] float32: what a canonical displacement (right, down, to the viewer) of a face with landmarks [68,2] is in
    its picture, as (right, down) of the levelled picture in units of its eye distance.

    The mean head's landmarks are fitted under scaled orthography (yaw, pitch, what roll is left after levelling the
    eyes). Small angles are taken for the face's own shape: an angle a counts as a^3 / (a^2 + doubt^2).

    >>> model = HeadModel.load()
    >>> np.allclose(head_turn(model.uv[model.landmarks]), [[1, 0, 0], [0, 1, 0]], atol=1e-4)
    True
    """
    from scipy.spatial.transform import Rotation

    centre, level, iod = eye_frame(np.asarray(landmarks, np.float64))
    seen = (landmarks - centre) @ level / iod * [1, -1]
    model = HeadModel.load()
    points = model.vertices[model.landmarks].astype(np.float64)[_INNER]
    shown = seen[_INNER]
    fitted, *_ = np.linalg.lstsq(points - points.mean(0), shown - shown.mean(0), rcond=None)
    u, sizes, vt = np.linalg.svd(fitted.T, full_matrices=False)
    rows = u @ vt
    yaw, pitch, roll = Rotation.from_matrix(np.vstack([rows, np.cross(rows[0], rows[1])])).as_euler("yxz")
    yaw, pitch = (a**3 / (a**2 + doubt**2) for a, doubt in ((yaw, _YAW_DOUBT), (pitch, _PITCH_DOUBT)))
    turned = sizes.mean() * rotation(np.array([yaw, pitch, roll]))[:2]
    return np.asarray(turned * np.array([[1.0], [-1.0]]) * np.array([1.0, -1.0, 1.0]), np.float32)


def lid_travel(landmarks: np.ndarray) -> np.ndarray:
    """[2] (left, right): how far a closing lid travels on a face with landmarks [68,2], over that of the mean head: the
    ratio of the eyes' openings. Lids that are half closed have half the way left.

    >>> model = HeadModel.load()
    >>> np.allclose(lid_travel(model.uv[model.landmarks]), 1, atol=1e-4)
    True
    """

    def openings(points: np.ndarray) -> np.ndarray:
        iod = eye_frame(points)[2]
        return np.array(
            [np.linalg.norm(points[list(up)].mean(0) - points[list(low)].mean(0)) for up, low in _LIDS]
        ) / iod  # fmt: skip

    model = HeadModel.load()
    mean = openings(model.uv[model.landmarks].astype(np.float64))
    return np.asarray(np.clip(openings(np.asarray(landmarks, np.float64)) / mean, 0, 1.5), np.float32)


def _interpolate(coarse: np.ndarray, n: int, axis: int, step: int) -> np.ndarray:
    position = np.arange(n) / step
    low = position.astype(int)
    shape = [1, 1, 1]
    shape[axis] = n
    share = (position - low).reshape(shape)
    return np.take(coarse, low, axis) * (1 - share) + np.take(coarse, low + 1, axis) * share


# ---------------------------------------------------------------- prior


# Past these weights the skin between lips that are rolled in or pushed out folds (smallest Jacobian determinant below
# .1 on the mean face). Lids that close and mouths that open have no limit: they are layers.
WARP_LIMIT: dict[int, float] = {22: 0.8, 28: 0.6}
NAME, MEAN = "motion-prior", "landmark-mean"


@dataclass(frozen=True)
class Face:
    """An onset face: ``image`` [H,W,3] uint8 RGB, ``landmarks`` [68,2] float32 pixels.

    ``margin``: outer pixels on each side that frames are made from (a chin that drops or a head that turns shows them)
    and do not show: clips are [H-2M,W-2M]. Raises MesynthError for other shapes.

    >>> Face(np.zeros((128, 128, 3), np.uint8), np.zeros((5, 2), np.float32))
    Traceback (most recent call last):
    mesynth.core.errors.MesynthError: landmarks have shape (5, 2); expected 68 finite points [68,2]
    """

    image: np.ndarray
    landmarks: np.ndarray
    margin: int = 0

    def __post_init__(self) -> None:
        if self.margin < 0 or 2 * self.margin >= min(self.image.shape[:2], default=1):
            raise MesynthError(f"a margin of {self.margin} pixels leaves nothing of a face of {self.image.shape}")
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise MesynthError(f"a face is [H,W,3] uint8, got {self.image.dtype} {self.image.shape}")
        if self.landmarks.shape != (68, 2) or not np.isfinite(self.landmarks).all():
            raise MesynthError(f"landmarks have shape {self.landmarks.shape}; expected 68 finite points [68,2]")

    @cached_property
    def whole(self) -> Face:
        """The face whose clips show all of its picture."""
        return Face(self.image, self.landmarks) if self.margin else self

    @cached_property
    def layers(self) -> Layers:
        """The face cut at lids and lips, found once."""
        with part("model"):
            return Layers(self.image, self.landmarks, self.place.uv)

    @cached_property
    def place(self) -> FaceMap:
        """Where its pixels lie on the canonical face."""
        model = HeadModel.load()
        height, width = self.image.shape[:2]
        return face_map(self.landmarks, height, width, model.uv[model.landmarks].astype(np.float64))


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


def formed_clip(
    face: Face, steps: Steps, n_frames: int, fps: float, apex: int, noise: float, seed: int, device: str | None = None
) -> tuple[Clip, Flow, tuple[str, ...]]:
    """The clip that shows ``face`` moved, within its margin, its flow onset -> apex with masks, and a warning where
    skin folds.

    ``noise``: standard deviation of the sensor's noise on every frame but the onset, grey levels. ``device``: where
    torch makes the frames of a :class:`Course`, all at once (:mod:`mesynth.motion.batched`); None: here, one by one.
    The flow is made here.
    """
    height, width = face.image.shape[:2]
    inset = face.margin
    frames = np.empty((n_frames, height - 2 * inset, width - 2 * inset, 3), np.uint8)
    stream, shown = seeds.stream(seed, "noise"), steps.step(apex)
    if device is not None:
        from mesynth.motion.batched import composed

        assert isinstance(steps, Course)
        frames = composed(face.layers, steps, noise, stream, device, inset)
    for t, step in enumerate(steps if device is None else ()):
        # The onset keeps the photo's own noise: it is the frame the person took.
        recorded(face.layers.frame(step, inset=inset), noise if t else 0.0, stream, frames[t])
    truth = face.layers.truth(shown)
    determinant = folding(shown.skin)
    warnings = (f"flow folds at the apex (det {determinant:.2f})",) if determinant <= 0 else ()
    middle = np.s_[inset : height - inset, inset : width - inset]
    uv = np.ascontiguousarray(truth.flow[middle].transpose(2, 0, 1))
    valid = stays_inside(uv) & ~truth.hidden[middle]
    new, still = (np.ascontiguousarray(mask[middle]) for mask in (truth.new, face.layers.still))
    return Clip(frames, fps, apex), Flow(uv, valid, new, still), warnings


def inner(sample: Sample, margin: int) -> Sample:
    """The sample without its outer ``margin`` pixels, for generators that make all of them."""
    height, width = sample.clip.frames.shape[1:3]
    middle = np.s_[margin : height - margin, margin : width - margin]
    clip = replace(sample.clip, frames=np.ascontiguousarray(sample.clip.frames[:, middle[0], middle[1]]))
    uv = np.ascontiguousarray(sample.flow.uv[:, middle[0], middle[1]])
    valid, new, still = (
        None if mask is None else np.ascontiguousarray(mask[middle])
        for mask in (sample.flow.valid, sample.flow.new, sample.flow.still)
    )
    inside = stays_inside(uv)
    return Sample(clip, Flow(uv, inside if valid is None else valid & inside, new, still), sample.aus)


def shown_aus(
    aus: AUVector, alpha: np.ndarray, fps: float, blink: float, seed: int, amounts: np.ndarray | None = None
) -> np.ndarray:
    """AUs of every frame [T,K,2] float32: ``alpha`` [T,K] times what is asked for, times a person's ``amounts`` [K,2];
    a partial blink is AU 45, beside what a lid is opened by."""
    asked = aus.intensity if amounts is None else aus.intensity * amounts
    out = np.asarray(alpha[:, :, None] * asked, np.float32)
    closure = blink_curve(len(alpha), fps, blink, seeds.stream(seed, "blink"))
    row = facs.AU_INDEX[45]
    out[:, row] = np.where(closure[:, None] > 0, np.maximum(out[:, row], closure[:, None]), out[:, row])
    return np.clip(out, -1, 1)


def check_spread(name: str, spread: object) -> None:
    """Raise MesynthError for a ``spread`` that the generator of that name cannot draw."""
    if name != NAME:
        raise MesynthError(f"{name} has no option 'spread': it is one mean; choose {NAME}@spread={spread}")
    if isinstance(spread, bool) or not isinstance(spread, int | float) or not 0 <= spread <= MAX_SPREAD:
        raise MesynthError(f"spread={spread} is outside 0..{MAX_SPREAD:g}; 1 is as far as the prior may be wrong")


class MotionPrior:
    """Fields of one face, evaluated once and reused for all its clips; ``name``: NAME or MEAN, whose fields.

    ``spread``: how far each seed's muscles pull from the bumps' directions, strengths, extents and places, 1 as far as
    the table may be wrong (:func:`mesynth.motion.fields.drawn_bumps`); 0: everybody alike.

    Raises: MesynthError for a spread out of range, and for one of the mean, which has none.
    """

    def __init__(self, face: Face, name: str = NAME, spread: float = 0.0) -> None:
        if spread or name == NAME:
            check_spread(name, spread)
        self.face, self._spread = face, spread
        self._map = face.place
        self._fields: dict[tuple[int, int], np.ndarray] = {}
        self._head: np.ndarray | None = None
        self._table: FieldTable | None = mean_table() if name == MEAN else None
        self._turn, self._lids = head_turn(face.landmarks), lid_travel(face.landmarks)

    def _canonical(self, uv: np.ndarray, cells: list[tuple[int, int]], seed: int = 0) -> np.ndarray:
        """[A,H,W,2] IOD units: the fields as the levelled picture shows them; ``seed`` draws the spread."""
        reach = np.array([self._lids[side] if facs.AU_CODES[k] in (43, 45) else 1.0 for k, side in cells], np.float32)
        bumps = None
        if self._spread:
            bumps, sides = drawn_bumps(self._spread, seeds.stream(seed, "spread"))
            reach *= np.array([sides[cell] for cell in cells], np.float32)
        fields = basis(uv, cells, bumps) if self._table is None else self._table.read(uv, cells)
        return np.asarray(fields @ self._turn.T * reach[:, None, None, None])

    def _in_pixels(self, fields: np.ndarray) -> np.ndarray:
        """Canonical displacements [...,2] -> pixels along the picture's axes."""
        return np.asarray((fields @ self._map.rotation.T) * np.float32(self._map.iod), np.float32)

    @part("model")
    def fields(self, cells: list[tuple[int, int]]) -> np.ndarray:
        """[A,H,W,2] float32 pixels at weight 1 of each (AU row, side)."""
        missing = [cell for cell in cells if cell not in self._fields]
        for cell, field in zip(missing, self._in_pixels(self._canonical(self._map.uv, missing)), strict=True):
            self._fields[cell] = field
        height, width = self.face.image.shape[:2]
        return np.stack([self._fields[c] for c in cells]) if cells else np.zeros((0, height, width, 2), np.float32)

    @part("model")
    def _own_fields(self, cells: list[tuple[int, int]], strength: float, seed: int) -> np.ndarray:
        """:meth:`fields` with one clip's own places and directions of pull: its style, and its draw of the spread."""
        if not strength:
            return self._in_pixels(self._canonical(self._map.uv, cells, seed))
        style = draw_style(self._map.uv, strength, seeds.stream(seed, "style"))
        fields = self._canonical(self._map.uv + style.shift, cells, seed)
        cos, sin = np.cos(style.turn), np.sin(style.turn)
        turned = np.stack(
            [cos * fields[..., 0] - sin * fields[..., 1], sin * fields[..., 0] + cos * fields[..., 1]], -1
        )
        return self._in_pixels(turned)

    def steps(
        self, aus: AUVector, profile: Profile, n_frames: int, fps: float, nuisance: Nuisance, seed: int
    ) -> Course:
        """Motion onset -> each of ``n_frames`` frames; a blink is AU 45."""
        cells = [(int(k), int(s)) for k, s in np.argwhere(skin_aus(aus).intensity)]
        lags = profile.draw_lags(len(facs.AU_CODES), seeds.stream(seed, "lags"))
        alpha = profile.alpha(n_frames, lags)
        amounts = drawn_amounts(self._spread, seeds.stream(seed, "layers")) if self._spread else None
        shown = shown_aus(aus, alpha, fps, nuisance.blink, seed, amounts)
        drops = jaw_cells(aus)
        every = [*cells, *drops]
        alike = not nuisance.style and not self._spread
        own = cells if self._spread else every  # how far a jaw goes is drawn with its lips, once
        if alike:
            drawn = self.fields(every)
        else:
            drawn = np.concatenate([self._own_fields(own, nuisance.style, seed), self.fields(every[len(own) :])])
        path = head_path(n_frames, nuisance.head, seeds.stream(seed, "head"))
        if nuisance.head and self._head is None:
            self._head = self._in_pixels(head_basis(self._map.uv))
        weights, dropped = (
            np.array([[now[cell] for cell in of] for now in frames], np.float32).reshape(n_frames, len(of))
            for of, frames in ((cells, alpha[:, :, None] * aus.intensity), (drops, shown))
        )
        return Course(
            shown, weights, drawn[: len(cells)], path, self._head if nuisance.head else None,
            dropped if drops else None, drawn[len(cells) :],
        )  # fmt: skip

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
        device: str | None = None,
    ) -> tuple[Sample, tuple[str, ...]]:
        """The clip with its exact onset -> apex flow, and warnings (a folded region, out-of-frame motion).

        Frame 0 is the input face; frame ``profile.apex_index(n_frames)`` is the apex. ``device``: see
        :func:`formed_clip`.
        """
        check_reach(aus)
        steps = self.steps(aus, profile, n_frames, fps, nuisance, seed)
        apex = profile.apex_index(n_frames)
        clip, flow, warnings = formed_clip(self.face, steps, n_frames, fps, apex, nuisance.noise, seed, device)
        return Sample(clip, flow, aus), warnings
