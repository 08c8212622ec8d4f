"""A synthetic subject: one seed, one person, rendered at any action units and head pose, and contact sheets of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES, level_midline
from mesynth.head.identity import (
    NOISE_STREAM,
    Camera,
    Identity,
    Worn,
    brow_locks,
    draw_glasses,
    grow_hair,
    hair_field,
    identity_vertices,
    long_hair,
    sample_identity,
    stream,
)
from mesynth.head.model import EYE, SKIN, TEETH, HeadModel, rotation

if TYPE_CHECKING:
    from mesynth.head.raster import Scene

_ROW = {code: i for i, code in enumerate(AU_CODES)}
# The head turns about the top of the neck, not about the eyes (canonical IOD).
_NECK = np.array([0.0, -1.5, -1.3])
_IRIS_RADIUS = 0.097
# Eyes at rest open at most this much further than the mean head's.
_WIDEST_REST = np.float32(1.02)
# The source's teeth touch the closed lips of some identities.
_TEETH_BACK = np.float32(0.05)
MAX_SIZE = 1024
NEAREST, FARTHEST = 5.0, 100.0
"""Of the camera, IOD: some 30 cm, an arm's length with a telephone, to 6 m."""
MAX_TURN = 40.0
"""Largest yaw and pitch, degrees: beyond, half of the 68 landmarks lie behind the face."""


@dataclass(frozen=True, eq=False)
class HeadFlow:
    """Exact motion from an onset image to a target image of the same subject.

    uv [2,H,W] float32: displacement of the surface seen at each onset pixel, output pixels, x right and y down,
    zero off the head; visible [H,W] bool: on the head and still seen in the target (not hidden, not out of the
    image); face [H,W] bool: the pixel shows the face, hair, ears and neck excluded.
    """

    uv: np.ndarray
    visible: np.ndarray
    face: np.ndarray


def check_au(au: np.ndarray, ndim: int) -> np.ndarray:
    """AU intensities as float32 [...,K,2].

    Raises: MesynthError for a wrong shape, NaN, or a value outside [0, 1].
    """
    array = np.asarray(au, np.float32)
    want = "[T,K,2]" if ndim == 3 else "[K,2]"
    if array.ndim != ndim or array.shape[-2:] != (len(AU_CODES), 2) or array.size == 0:
        raise MesynthError(f"au has shape {array.shape}; give {want} with K = {len(AU_CODES)} (see mesynth.core.facs)")
    if not np.isfinite(array).all():
        raise MesynthError("au holds NaN or infinity; give intensities in [0, 1]")
    if array.min() < 0.0 or array.max() > 1.0:
        worst = array.min() if array.min() < 0 else array.max()
        raise MesynthError(f"au intensity {worst:g} is outside [0, 1]; 1 is FACS E, clip before rendering")
    return array


def check_pose(pose: np.ndarray | None, frames: int | None) -> np.ndarray:
    """Pose offsets as float64 [T,6] (or [6] when frames is None); None is no offset.

    Raises: MesynthError for a wrong shape, NaN, or an offset no head camera would see.
    """
    shape = (6,) if frames is None else (frames, 6)
    if pose is None:
        return np.zeros(shape)
    array = np.asarray(pose, np.float64)
    if array.shape != shape:
        raise MesynthError(f"pose has shape {array.shape}; give {shape} = (yaw, pitch, roll, tx, ty, log scale)")
    if not np.isfinite(array).all():
        raise MesynthError("pose holds NaN or infinity; give radians, IOD and a log scale")
    limit = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 1.0])
    if (np.abs(array) > limit).any():
        raise MesynthError(f"pose {np.abs(array).max():g} is too large; keep angles below 1 rad, shifts below 3 IOD")
    return array


def head_pose(yaw: float, pitch: float) -> np.ndarray:
    """The pose [6] of a head turned by yaw and pitch (degrees; to image right, down) with its eyes kept in place.

    Raises: MesynthError for more than MAX_TURN.

    >>> head_pose(0, 0).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    for name, angle in (("yaw", yaw), ("pitch", pitch)):
        if not abs(angle) <= MAX_TURN:
            raise MesynthError(
                f"{name} {angle:g} is outside -{MAX_TURN:g}..{MAX_TURN:g} degrees; half the face is hidden"
            )
    angles = np.radians([yaw, pitch, 0.0])
    moved = _NECK - rotation(angles) @ _NECK
    return np.array([angles[0], angles[1], 0.0, -moved[0], moved[1], 0.0]) + 0.0


class Subject:
    """One synthetic person.

    seed: a non-negative int, the whole identity; size: output side in pixels (16..1024); supersample: samples per
    pixel and axis (1..4); frontal: no resting head pose; basis: how the vertices move, [K,2,V,3] as HeadModel.au_basis
    (None: that); glasses: with a pair of glasses; brow_hair: with locks over forehead and brows; distance: of the
    camera, IOD (5..100; None: the person's own, 10..16), whose focal length keeps the face as large as it was.

    Glasses and locks move with the head and not with its skin. Flow is that of what is seen: of frames and locks their
    own, of skin behind a lens the skin's.

    Raises: MesynthError for values outside these ranges.
    """

    def __init__(
        self,
        seed: int,
        size: int = 128,
        supersample: int = 2,
        frontal: bool = False,
        basis: np.ndarray | None = None,
        *,
        glasses: bool = False,
        brow_hair: bool = False,
        distance: float | None = None,
    ) -> None:
        if distance is not None and not NEAREST <= distance <= FARTHEST:
            raise MesynthError(
                f"distance {distance:g} is outside {NEAREST:g}..{FARTHEST:g} eye distances; 10 to 16 are usual"
            )
        if seed < 0 or int(seed) != seed:
            raise MesynthError(f"seed {seed} is not a non-negative int; identities are numbered from 0")
        if not 16 <= size <= MAX_SIZE:
            raise MesynthError(f"size {size} is outside 16..{MAX_SIZE} pixels")
        if not 1 <= supersample <= 4:
            raise MesynthError(f"supersample {supersample} is outside 1..4; 2 is the default")
        model = HeadModel.load()
        if basis is not None and (basis.shape != model.au_basis.shape or not np.isfinite(basis).all()):
            raise MesynthError(f"basis has shape {basis.shape}; give finite {model.au_basis.shape} in IOD")
        self.seed, self.size, self.supersample = int(seed), int(size), int(supersample)
        self._model = model
        self._wears = tuple(name for name, on in (("glasses", glasses), ("brow_hair", brow_hair)) if on)
        self._identity, scene, self._folds, self._lid_reach = _person(self._model, self.seed, frontal, self._wears)
        if distance is not None:
            camera = replace(self._identity.camera, distance=float(distance))
            self._identity = replace(self._identity, camera=camera)
        self._scene = _with_camera(scene, self._identity.camera, self.size * self.supersample, basis)

    @property
    def identity(self) -> Identity:
        """Everything the seed decided."""
        return self._identity

    @property
    def attributes(self) -> dict[str, float | str]:
        """Plain description for cards: what was sampled, not what a viewer would say."""
        shape, skin, camera = self._identity.shape, self._identity.skin, self._identity.camera
        return {
            "age": round(shape.age, 1),
            "femininity": round(shape.femininity, 3),
            "ancestry_african": round(shape.race[0], 3),
            "ancestry_asian": round(shape.race[1], 3),
            "ancestry_caucasian": round(shape.race[2], 3),
            "skin_tone": round(skin.tone, 3),
            "hair_style": skin.hair_style,
            "beard": round(skin.beard, 3),
            **dict.fromkeys(self._wears, "yes"),
            "yaw_degrees": round(float(np.degrees(camera.yaw)), 2),
            "pitch_degrees": round(float(np.degrees(camera.pitch)), 2),
            "roll_degrees": round(float(np.degrees(camera.roll)), 2),
        }

    def render(self, au: np.ndarray, pose: np.ndarray | None = None, *, noise_seed: int | None = None) -> np.ndarray:
        """Frames [T,size,size,3] uint8 RGB.

        au [T,K,2] in [0,1]; pose [T,6] = (yaw, pitch, roll in radians, tx, ty in IOD to the image right and down,
        log scale), added to the resting pose; None = still. Yaw > 0 turns the face to image right, pitch > 0 down,
        roll > 0 anticlockwise. noise_seed: seed of independent sensor noise per frame; None = none.

        Raises: MesynthError for wrong shapes or values.
        """
        weights = check_au(au, 3)
        placements = self._placements(check_pose(pose, len(weights)))
        from mesynth.head.shade import render_frames

        keys = np.zeros(len(weights), np.uint64)
        if noise_seed is not None:
            if noise_seed < 0:
                raise MesynthError(f"noise_seed {noise_seed} is negative; give a non-negative int or None")
            # One key a frame: a pattern shared by frames would give the onset away.
            seeds = (np.random.SeedSequence([self.seed, NOISE_STREAM, noise_seed, t]) for t in range(len(keys)))
            keys[:] = [sequence.generate_state(1, np.uint64)[0] for sequence in seeds]
        sd = self._identity.light.noise_sd if noise_seed is not None else 0.0
        from mesynth.head.texture import fold_depths

        folds = fold_depths(weights, self._folds)
        frames = render_frames(
            self._scene, self._weights(weights), folds, placements, keys, sd, self.size, self.supersample
        )
        return np.asarray(frames)

    def flow(
        self, au0: np.ndarray, au1: np.ndarray, pose0: np.ndarray | None = None, pose1: np.ndarray | None = None
    ) -> HeadFlow:
        """Exact motion from (au0, pose0) to (au1, pose1): au [K,2], pose [6]. See :class:`HeadFlow`.

        Raises: MesynthError for wrong shapes or values.
        """
        from mesynth.head.raster import exact_flow

        screens = [self._screen(check_au(a, 2), check_pose(p, None)) for a, p in ((au0, pose0), (au1, pose1))]
        uv, visible, face = exact_flow(self._scene, screens[0], screens[1], self.size, self.supersample)
        return HeadFlow(uv, visible, face)

    def landmarks(self, au: np.ndarray | None = None, pose: np.ndarray | None = None) -> np.ndarray:
        """68 iBUG landmarks [68,2] float32 (x right, y down) in output pixels; (0, 0) is the first pixel's centre.

        au [K,2], None = neutral; pose [6], None = resting. Raises: MesynthError for wrong shapes or values.
        """
        intensities = np.zeros((len(AU_CODES), 2), np.float32) if au is None else check_au(au, 2)
        screen = self._screen(intensities, check_pose(pose, None))
        return np.asarray(screen[self._model.landmarks, :2] / self.supersample - 0.5, np.float32)

    def _screen(self, au: np.ndarray, pose: np.ndarray) -> np.ndarray:
        from mesynth.head.raster import deform, project

        points = deform(self._scene, self._weights(au[None])[0])
        return np.asarray(project(points, self._placements(pose[None])[0], self._scene.camera))

    def _weights(self, au: np.ndarray) -> np.ndarray:
        return _combine_aus(au, self._lid_reach)

    def _placements(self, pose: np.ndarray) -> np.ndarray:
        return placements(self._identity.camera, pose)


def _combine_aus(au: np.ndarray, lid_reach: np.ndarray) -> np.ndarray:
    """Basis weights [T,2K] float32 from intensities [T,K,2]: what cannot simply add is resolved here.

    Closing by AU 43 and 45 is one closure, the larger; a closed lid has no tightening (7) or raising (5) left;
    AU 26 and 27 open one jaw. lid_reach [2] (L, R) scales the blink to this person's eye opening.
    """
    w = level_midline(au)
    closure = np.maximum(w[:, _ROW[43]], w[:, _ROW[45]])
    w[:, _ROW[5]] *= 1.0 - closure
    w[:, _ROW[7]] *= 1.0 - closure
    w[:, _ROW[43]] = 0.0
    w[:, _ROW[45]] = closure * lid_reach
    w[:, _ROW[27]] = np.maximum(0.45 * w[:, _ROW[26]], w[:, _ROW[27]])
    w[:, _ROW[26]] = 0.0
    return np.ascontiguousarray(w.reshape(len(w), -1), np.float32)


def placements(camera: Camera, pose: np.ndarray) -> np.ndarray:
    """Rigid placements [T,15] float32 for raster.project, from pose offsets [T,6]."""
    base = rotation(np.array([camera.yaw, camera.pitch, camera.roll]))
    out = np.empty((len(pose), 15), np.float32)
    for t, offset in enumerate(pose):
        turn = rotation(offset[:3])
        out[t, :9] = (base @ turn).ravel()
        out[t, 9:12] = base @ (_NECK - turn @ _NECK)
        out[t, 12:] = offset[3], -offset[4], offset[5]
    return out


@lru_cache(maxsize=4)
def _person(
    model: HeadModel, seed: int, frontal: bool, wears: tuple[str, ...]
) -> tuple[Identity, Scene, np.ndarray, np.ndarray]:
    """Who a seed is, the arrays for the kernels, the fold matrix [K,M] and the lid reach [2].

    Everything that does not depend on the size of pictures is computed here, a third of a second's work, and kept for
    the last few people: what asks for one person often asks again, at another size or turned. Nobody writes into it.
    """
    identity = sample_identity(model, seed, frontal)
    return identity, *_build_scene(model, identity, wears)


def _with_camera(scene: Scene, camera: Camera, side: int, basis: np.ndarray | None) -> Scene:
    """A scene before a camera; side: image side in samples; basis [K,2,V,3]: how its vertices move, None: as is."""
    centre, distance = camera.centre, camera.distance
    f = camera.iod_fraction * side * distance
    scene = scene._replace(camera=np.array([f, distance, centre[0] * side, centre[1] * side], np.float32))
    if basis is None:
        return scene
    return scene._replace(basis=np.ascontiguousarray(basis.reshape(-1, *basis.shape[2:]), np.float32))


def _build_scene(
    model: HeadModel, identity: Identity, wears: Sequence[str] = ()
) -> tuple[Scene, np.ndarray, np.ndarray]:
    """Arrays for the kernels but for the camera, the fold matrix [K,M] and the lid reach [2] of one identity."""
    from mesynth.head import raster as fields
    from mesynth.head import texture as canvas
    from mesynth.head.texture import FOLDS, fold_matrix, paint_skin, paint_wrinkles

    skin, light, camera = identity.skin, identity.light, identity.camera
    face = canvas.seal_lips(model, _rest_lids(model, identity_vertices(model, identity.shape)))
    field = hair_field(model, skin.hair_style, skin.hairline)
    rest = grow_hair(model, face, field, skin.hair_style)
    rest[np.unique(model.faces[model.part == TEETH]), 2] -= _TEETH_BACK
    eyes = canvas.fit_eyes(model, face)

    rng = stream(identity.seed, "texture")
    wrinkles = paint_wrinkles(model.uv[model.landmarks], rng)
    paint = paint_skin(model.uv[model.landmarks], skin, wrinkles, rng)
    strength = rng.uniform(0.5, 1.0, len(FOLDS)) * np.interp(identity.shape.age, [18, 60], [0.65, 1.0])

    key = np.array(light.key_direction)
    turn = rotation(np.array([camera.yaw, camera.pitch, camera.roll]))
    height = canvas.height_field(model, rest)
    occlusion = canvas.mend_outline(canvas.cavity_occlusion(height), height)
    shadow = canvas.mend_outline(canvas.cast_shadow(height, turn.T @ key), height)
    texture = pack_texture(paint.colour, occlusion, paint.strand, paint.gloss, shadow, paint.relief)

    appearance = np.zeros(11, np.float32)
    appearance[fields.EXPOSURE], appearance[fields.KEY], appearance[fields.FILL] = light.exposure, light.key, light.fill
    appearance[fields.AMBIENT], appearance[fields.WARMTH] = light.ambient, light.warmth
    appearance[fields.GRADIENT_X], appearance[fields.GRADIENT_Y] = light.gradient
    appearance[fields.LASH_STRENGTH], appearance[fields.GAIN] = min(1.0, 0.25 + skin.lash), 1.5
    appearance[fields.HAIR_SOFT], appearance[fields.LIP_SHIFT] = 0.10, np.clip(0.55 + 0.45 * skin.lip_colour, 0, 1)
    lip = paint.skin * (np.array([0.96, 0.80, 0.90]) - skin.lip_colour * np.array([0.16, 0.40, 0.36]))
    fill_direction = np.array([-0.75 * np.sign(key[0]), 0.1, 0.65])
    fill_direction /= np.linalg.norm(fill_direction)

    attributes = _vertex_attributes(model, face, eyes, field)
    faces, part, vertex_eye = model.faces, model.part, model.vertex_eye
    if skin.hair_style == "long":
        # The sheets cover the ears, which would poke through them.
        kept = ~model.ear[faces].all(1)
        sheets = long_hair(model, face, rng)
        faces = np.concatenate([faces[kept], sheets.faces + np.int32(len(rest))])
        part = np.concatenate([part[kept], np.full(len(sheets.faces), SKIN, np.uint8)])
        vertex_eye = np.concatenate([vertex_eye, np.full(len(sheets.vertices), -1, np.int8)])
        extra = np.zeros((len(sheets.vertices), attributes.shape[1]), np.float32)
        extra[:, fields.U], extra[:, fields.V] = sheets.uv.T
        extra[:, fields.HAIR], extra[:, fields.FACE], extra[:, fields.LASH] = 1.0, -1.0, sheets.inner
        attributes = np.concatenate([attributes, extra])
        rest = np.concatenate([rest, sheets.vertices])

    lenses, tint = np.zeros((0, 3), np.int32), np.ones(3, np.float32)
    if wears:
        worn = _drawn_worn(model, face, identity, wears)
        faces = np.concatenate([faces, worn.faces + np.int32(len(rest))])
        kinds = np.where(worn.hair[worn.faces[:, 0]], SKIN, fields.WORN).astype(np.uint8)
        part = np.concatenate([part, kinds])
        vertex_eye = np.concatenate([vertex_eye, np.full(len(worn.vertices), -1, np.int8)])
        attributes = np.concatenate([attributes, _worn_attributes(worn, attributes.shape[1])])
        lenses, tint = worn.lenses + np.int32(len(rest)), worn.tint.astype(np.float32)
        rest = np.concatenate([rest, worn.vertices])

    scene = fields.Scene(
        rest=rest,
        basis=np.ascontiguousarray(model.au_basis.reshape(-1, *face.shape), np.float32),
        faces=faces,
        part=part,
        attributes=attributes,
        vertex_eye=vertex_eye,
        eyes=(eyes * np.array([1, 1, 1, 1.012])).astype(np.float32),
        lids=canvas.lid_vertices(model, face, eyes),
        lips=model.landmarks[[62, 66]].astype(np.int32),
        texture=texture,
        wrinkles=wrinkles,
        tex_map=np.array([canvas.U_MIN, canvas.V_MIN, canvas.TEXELS_PER_IOD], np.float32),
        key=key.astype(np.float32),
        fill=fill_direction.astype(np.float32),
        appearance=appearance,
        hair=np.array(skin.hair, np.float32),
        iris=np.array(skin.iris, np.float32),
        lip=lip.astype(np.float32),
        garment=np.array(skin.garment, np.float32),
        background=(np.array(light.background) / light.exposure).astype(np.float32),
        camera=np.zeros(4, np.float32),  # _with_camera
        lenses=lenses,
        tint=tint,
    )
    return scene, fold_matrix(strength), lid_reach(model, face)


def _drawn_worn(model: HeadModel, face: np.ndarray, identity: Identity, wears: Sequence[str]) -> Worn:
    """Each drawn by itself: glasses do not change the hair."""
    seeds = dict(zip(("glasses", "brow_hair"), stream(identity.seed, "worn").integers(1 << 62, size=2), strict=True))
    parts = []
    for name in wears:
        rng = np.random.default_rng(int(seeds[name]))
        if name == "glasses":
            parts.append(draw_glasses(model, face, rng))
        else:
            parts.append(brow_locks(model, face, identity.skin.hairline, rng))
    return Worn.of(*parts)


def _worn_attributes(worn: Worn, columns: int) -> np.ndarray:
    from mesynth.head import raster as fields

    out = np.zeros((len(worn.vertices), columns), np.float32)
    hair = worn.hair
    out[:, [fields.U, fields.V, fields.LIP]] = worn.colour
    out[:, fields.LASH] = worn.gloss
    out[hair, fields.U], out[hair, fields.V] = worn.strand[hair].T
    out[:, fields.HAIR], out[:, fields.FACE] = np.where(hair, 1.0, -1.0), -1.0
    out[:, [fields.EYE_U, fields.EYE_V]] = np.where(hair[:, None], 0.0, worn.beside)
    return out


def pack_texture(
    colour: np.ndarray, occlusion: np.ndarray, strand: np.ndarray, gloss: np.ndarray, shadow: np.ndarray,
    relief: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """The eight uint8 channels of Scene.texture; colour is stored as its square root (8 bits then suffice)."""
    import cv2

    height, width = gloss.shape
    channels = [*np.moveaxis(np.sqrt(colour), -1, 0), cv2.resize(occlusion, (width, height)), strand, gloss,
                cv2.resize(shadow, (width, height)), relief]  # fmt: skip
    return np.ascontiguousarray(np.clip(np.stack(channels, axis=-1) * 255.0 + 0.5, 0, 255).astype(np.uint8))


def _vertex_attributes(model: HeadModel, face: np.ndarray, eyes: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """Scene.attributes [V,8] float32 (columns named in scene)."""
    from mesynth.head import raster as fields

    out = np.zeros((len(face), 8), np.float32)
    out[:, fields.U], out[:, fields.V] = model.uv.T
    # No lashes grow round the tear duct.
    lash = model.lash * np.clip((np.abs(model.uv[:, 0]) - 0.27) / 0.12, 0.0, 1.0)
    out[:, fields.LIP], out[:, fields.LASH], out[:, fields.HAIR] = model.lip, lash, hair
    for side in (0, 1):
        eye = model.vertex_eye == side
        local = (face[eye] - eyes[side, :3]) / _IRIS_RADIUS
        # The source's eyeballs sit nasal of and above the middle of the lids; the gaze makes up for it.
        out[eye, fields.EYE_U] = local[:, 0] - (-0.10 if side == 0 else 0.10)
        out[eye, fields.EYE_V] = local[:, 1] + 0.20
    skin = np.unique(model.faces[model.part == SKIN])
    out[skin, fields.FACE] = face_region(model)[skin]
    x, y = np.abs(model.vertices[:, 0]), model.vertices[:, 1]
    out[skin, fields.CLOTH] = (np.maximum(x - 0.78, 0.0) - y - 2.02)[skin]
    lips_front = float(face[model.landmarks[60:68], 2].mean())
    inside = np.unique(model.faces[(model.part != SKIN) & (model.part != EYE)])
    out[inside, fields.FACE] = np.maximum(lips_front - face[inside, 2], 0.0)
    teeth = np.unique(model.faces[model.part == TEETH])
    # Tooth number along the dental arch: a tooth is about an eighth of the IOD wide.
    out[teeth, fields.TOOTH] = np.arctan2(face[teeth, 0], face[teeth, 2] + 0.55) * 5.2 + 0.5
    return out


def face_region(model: HeadModel) -> np.ndarray:
    """Field [V] float32, above 0 inside the face: jaw line to forehead, without hair, ears and neck."""
    u, v = model.uv.T.astype(np.float64)
    below = v - 0.3
    jaw = 1.0 - (np.abs(u) / 1.08) ** 2.4 - (np.clip(below, 0, None) / 1.50) ** 2.4
    brow = 1.0 - (np.abs(u) / 1.08) ** 2.4 - (np.clip(-below, 0, None) / 1.30) ** 4
    front = (model.vertices[:, 2] + 0.75) * 2.0
    return np.asarray(np.minimum(np.where(below > 0, jaw, brow), front), np.float32)


def _rest_lids(model: HeadModel, face: np.ndarray) -> np.ndarray:
    """The face [V,3] with upper lids lowered where its eyes are open far more than the mean: it would stare."""
    lower = np.maximum(lid_reach(model, face) - _WIDEST_REST, 0.0)
    return np.asarray(face + np.tensordot(lower, model.au_basis[_ROW[45]], axes=1), np.float32)


def lid_reach(model: HeadModel, face: np.ndarray) -> np.ndarray:
    """How far (L, R) a blink must travel relative to the mean head: the ratio of eye openings, [2] float32."""

    def opening(vertices: np.ndarray, upper: tuple[int, int], lower: tuple[int, int]) -> float:
        lm = vertices[model.landmarks]
        return float((lm[list(upper), 1] - lm[list(lower), 1]).mean())

    right = opening(face, (37, 38), (41, 40)) / opening(model.vertices, (37, 38), (41, 40))
    left = opening(face, (43, 44), (47, 46)) / opening(model.vertices, (43, 44), (47, 46))
    return np.asarray(np.clip(np.array([left, right], np.float32), 0.6, 1.5))


# ---------------------------------------------------------------- contact sheets


_GAP = 3


def contact_sheet(images: Sequence[np.ndarray], columns: int, labels: Sequence[str] | None = None) -> np.ndarray:
    """Equal-sized pictures [H,W,3] uint8 RGB in rows of ``columns``, [...,3] uint8, each with its label on it.

    Raises: MesynthError for no pictures, unequal sizes, columns < 1 or as many labels as there are not pictures.
    """
    if not len(images) or columns < 1:
        raise MesynthError(f"{len(images)} images in {columns} columns; give at least one of each")
    shapes = {np.asarray(image).shape for image in images}
    if len(shapes) != 1:
        raise MesynthError(f"images of sizes {sorted(shapes)} do not fit one sheet; give equal sizes")
    if labels is not None and len(labels) != len(images):
        raise MesynthError(f"{len(labels)} labels for {len(images)} images; give one each, or none")
    height, width, _ = shapes.pop()
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = _GAP + (i // columns) * (height + _GAP), _GAP + (i % columns) * (width + _GAP)
        tile = np.ascontiguousarray(image)
        if labels is not None:
            tile = tile.copy()
            size = max(0.32, height / 380)
            at = (4, height - 5)
            cv2.putText(tile, labels[i], at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.putText(tile, labels[i], at, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def identities_sheet(seeds: Sequence[int], size: int = 128, columns: int = 8, frontal: bool = False) -> np.ndarray:
    """Neutral faces of many seeds."""
    neutral = np.zeros((1, len(AU_CODES), 2), np.float32)
    faces = [Subject(seed, size, frontal=frontal).render(neutral, noise_seed=0)[0] for seed in seeds]
    return contact_sheet(faces, columns, [str(seed) for seed in seeds])


def au_sheet(seed: int, size: int = 128, columns: int = 8, intensities: Sequence[float] = (0.5, 1.0)) -> np.ndarray:
    """One person at neutral and at every AU alone, both sides, at each intensity."""
    au = np.zeros((1 + len(AU_CODES) * len(intensities), len(AU_CODES), 2), np.float32)
    labels = ["neutral"]
    for k, code in enumerate(AU_CODES):
        for j, intensity in enumerate(intensities):
            au[1 + k * len(intensities) + j, k] = intensity
            labels.append(f"AU{code} {intensity:g}")
    return contact_sheet(list(Subject(seed, size, frontal=True).render(au)), columns, labels)
