"""Is a face fit to be an onset? What is measured on it, and the limits it has to keep.

Measured on the 68 landmarks (any detector), on what a detector adds (MediaPipe: the head's rotation and blendshapes),
and on the pixels (is there an eye where the landmarks say so?). Every measure is a number with a limit that can be set
(:class:`FaceLimits`, ``mesynth generate --face-limits``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np

from mesynth.core.errors import ConfigError, MesynthError, NoFaceError
from mesynth.preprocess.align import MIRROR, SimilarityCrop
from mesynth.preprocess.landmarks import DetectedFace, Landmarker, TableLandmarks

PARTS_FILE = Path(__file__).parent / "data" / "face_parts.npz"


@dataclass(frozen=True, kw_only=True)
class FaceLimits:
    """What a face has to keep; ``inf`` (least values: ``-inf``) switches a limit off."""

    size: float = 60.0
    """Least width of the face, pixels of the picture."""
    roll: float = 45.0
    """Most degrees between the eye line and the horizontal; the crop is levelled by it."""
    yaw: float = 25.0
    """Most degrees that the head is turned to either side."""
    pitch: float = 25.0
    """Most degrees that the head is turned up or down."""
    outside: float = 0.1
    """Most share of the 68 landmarks outside the picture."""
    eyes: float = 0.15
    """Least opening of the narrower eye: height over width."""
    mouth: float = 0.15
    """Most opening of the mouth: gap between the lips over its width."""
    expression: float = 0.5
    """Most activation of a blendshape of an expression (:data:`EXPRESSIONS`); not measured without blendshapes."""
    visible: float = 0.35
    """Least contrast of eyes, nose and mouth that looks like eyes, nose and mouth, over the contrast of the face."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if math.isnan(value):
                raise ConfigError(f"face limit {name} is no number; write for example {name}={_DEFAULTS[name]:g}")

    @staticmethod
    def parse(text: str) -> FaceLimits:
        """Limits from ``"yaw=40,expression=off"``; what is not named keeps its default.

        Raises:
            ConfigError: an unknown name, or a value that is neither a number nor "off".

        >>> FaceLimits.parse("yaw=40, eyes=off").yaw
        40.0
        """
        values: dict[str, float] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, equals, value = (p.strip() for p in part.partition("="))
            if name not in _DEFAULTS or not equals:
                raise ConfigError(f"face limit '{part}' is unknown; write name=value with {', '.join(_DEFAULTS)}")
            if name in values:
                raise ConfigError(f"face limit {name} is given twice in '{text}'; give it once")
            try:
                values[name] = (-math.inf if _LIMITED[name].least else math.inf) if value == "off" else float(value)
            except ValueError:
                raise ConfigError(f"face limit '{part}' is no number; write for example {name}={_DEFAULTS[name]:g}, "
                                  f"or {name}=off") from None  # fmt: skip
        return FaceLimits(**values)

    def text(self) -> str:
        """As :meth:`parse` reads it."""
        return ",".join(f"{k}={'off' if math.isinf(v) else f'{v:g}'}" for k, v in asdict(self).items())


_DEFAULTS: dict[str, float] = {f.name: f.default for f in fields(FaceLimits)}  # type: ignore[misc]


@dataclass(frozen=True)
class _Limited:
    words: str
    """What a face beyond the limit is."""
    unit: str
    least: bool = False


_LIMITED = {
    "size": _Limited("tiny", "pixels wide", least=True),
    "roll": _Limited("tilted", "degrees"),
    "yaw": _Limited("turned to the side", "degrees"),
    "pitch": _Limited("turned up or down", "degrees"),
    "outside": _Limited("cut off", "of the landmarks outside"),
    "eyes": _Limited("eyes closed", "opening", least=True),
    "mouth": _Limited("mouth open", "opening"),
    "expression": _Limited("not neutral", "of a blendshape"),
    "visible": _Limited("covered", "of the contrast", least=True),
}
assert list(_LIMITED) == list(_DEFAULTS)


@dataclass(frozen=True)
class Unfit:
    """One limit that a face does not keep."""

    reason: str
    """``eyes closed``; with more on what it is about in brackets."""
    measure: str
    """The field of :class:`FaceLimits`; "" where nothing was measured (no face, an unreadable file)."""
    value: float = math.nan
    limit: float = math.nan

    def text(self) -> str:
        """For people: ``eyes closed: opening 0.03, limit 0.15``."""
        if not self.measure:
            return self.reason
        unit = _LIMITED[self.measure].unit
        return f"{self.reason}: {number_text(self.value)} {unit}, limit {self.measure}={self.limit:g}"


def number_text(value: float) -> str:
    """A measure for people.

    >>> number_text(0.02164), number_text(206.4), number_text(3e-11)
    ('0.022', '206.4', '0')
    """
    return f"{value:.3f}".rstrip("0").rstrip(".")


_UPSIDE_DOWN = 135.0
EXPRESSIONS = (
    "browDownLeft", "browDownRight", "browInnerUp", "cheekPuff", "eyeWideLeft", "eyeWideRight", "jawOpen",
    "mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
"""Blendshapes that say that a face is not neutral. Those that neutral faces trip (squint, pucker, outer brow) and those
of gaze are left out."""


@dataclass(frozen=True)
class Measured:
    """Every measure of a face by name, and what some of them are about."""

    values: Mapping[str, float]
    about: Mapping[str, str]

    def unfit(self, limits: FaceLimits) -> list[Unfit]:
        """The limits that are not kept, in their order."""
        found = []
        for name, limit in asdict(limits).items():
            value, kind = self.values.get(name), _LIMITED[name]
            if value is not None and (value < limit if kind.least else value > limit):
                about = f" ({self.about[name]})" if name in self.about else ""
                words = "upside down" if name == "roll" and value > _UPSIDE_DOWN else kind.words
                found.append(Unfit(words + about, name, value, limit))
        return found


def measure(image: np.ndarray, face: DetectedFace) -> Measured:
    """Measures of one face in its picture [H,W,3] uint8 RGB.

    Raises:
        MesynthError: the landmarks are not 68 finite points with two eyes.
    """
    points = face.points.astype(np.float64)
    crop = SimilarityCrop.from_landmarks(points, _CROP)
    level = crop.points(points)
    height, width = image.shape[:2]
    gone = ((points < -0.5) | (points > [width - 0.5, height - 0.5])).any(1)
    yaw, pitch = _yaw_and_pitch(face.rotation if face.rotation is not None else _fitted_rotation(level))
    parts = visible_parts(image, points)
    hidden = min(parts, key=lambda name: parts[name])
    values = {
        "size": float(np.ptp(level[:, 0])) / crop.scale,
        "roll": _roll(crop),
        "yaw": abs(yaw),
        "pitch": abs(pitch),
        "outside": float(gone.mean()),
        "eyes": min(_opening(level[36:42]), _opening(level[42:48])),
        "mouth": _lip_gap(level),
        "visible": parts[hidden],
    }
    about = {"visible": hidden, "yaw": "left" if yaw < 0 else "right", "pitch": "up" if pitch < 0 else "down"}
    if face.blendshapes:
        shape = max(EXPRESSIONS, key=lambda name: face.blendshapes.get(name, 0.0))
        values["expression"], about["expression"] = face.blendshapes.get(shape, 0.0), shape
    return Measured(values, about)


def _roll(crop: SimilarityCrop) -> float:
    """Degrees by which the eye line is tilted, 0 to 180."""
    return abs(math.degrees(math.atan2(crop.matrix[1, 0], crop.matrix[0, 0])))


def _opening(eye: np.ndarray) -> float:
    """Eye aspect ratio (Soukupova and Cech, 2016) of six points [6,2]."""
    gap = np.hypot(*(eye[1] - eye[5])) + np.hypot(*(eye[2] - eye[4]))
    return float(gap / max(2 * np.hypot(*(eye[0] - eye[3])), 1e-6))


def _lip_gap(points: np.ndarray) -> float:
    gaps = [np.hypot(*(points[a] - points[b])) for a, b in ((61, 67), (62, 66), (63, 65))]
    return float(np.mean(gaps) / max(np.hypot(*(points[60] - points[64])), 1e-6))


def _yaw_and_pitch(rotation: np.ndarray) -> tuple[float, float]:
    """(yaw, pitch) in degrees of a head's rotation [3,3]: image right and down are positive."""
    ahead = rotation[:, 2]
    return math.degrees(math.atan2(ahead[0], ahead[2])), math.degrees(math.asin(float(np.clip(-ahead[1], -1, 1))))


@functools.cache
def _head_landmarks() -> np.ndarray:
    """[68,3] of the mean head, x to image right, y up, z towards the camera."""
    from mesynth.head.model import HeadModel

    model = HeadModel.load()
    return np.asarray(model.vertices[model.landmarks], np.float64)


def _fitted_rotation(points: np.ndarray) -> np.ndarray:
    """[3,3] of the mean head whose landmarks, seen from far away, come nearest to points [68,2]; jaw and mouth move."""
    rigid = slice(17, 48)
    model, seen = _head_landmarks()[rigid], points[rigid] * [1, -1]
    axes = np.linalg.lstsq(model - model.mean(0), seen - seen.mean(0), rcond=None)[0].T  # [2,3]
    left, _, right = np.linalg.svd(axes, full_matrices=False)
    x, y = left @ right
    return np.stack([x, y, np.cross(x, y)])


# ---------------------------------------------------------------- which way up?

_SURE = 0.7
"""A level face whose parts are visible by this much, on average, is the right way up."""
_CLEARLY = 0.12
"""By so much more of a face has to be visible the other way up: covered faces are upright for all that. Of 8 rendered
people on their heads it was .29 more at least, of one photograph .15; with covered eyes or mouth .11 at most."""
_LEVEL = 45.0


def find_upright(detector: Landmarker, image: np.ndarray, names: Sequence[str] = ()) -> list[DetectedFace]:
    """All faces of a picture, the largest first, also of one that stands on its head or lies on its side.

    Detectors find faces that are not there in pictures that stand on their heads. Where little of a level face is
    visible, the picture is looked at the other way up, and that wins if it clearly shows more; a face on its side is
    looked for again in the picture that is turned by a quarter, where it is found more exactly.

    Raises:
        NoFaceError: no turn shows a face.
    """
    problem: NoFaceError | None = None
    try:
        faces = detector.faces(image, names)
    except NoFaceError as error:
        faces, problem = [], error
    if isinstance(detector, TableLandmarks):
        if problem is not None:
            raise problem
        return faces
    visible, level = _visibility(image, faces)
    if level and visible >= _SURE:
        return faces
    best, bar = faces, visible + _CLEARLY if level else -math.inf
    for quarters in (2,) if level else (1, 3) if faces else (2, 1, 3):
        turned = np.ascontiguousarray(np.rot90(image, quarters))
        try:
            found = detector.faces(turned, names)
        except NoFaceError:
            continue
        visible, level = _visibility(turned, found)
        if visible > bar and (level or not best):
            best, bar = [_rotated_back(face, quarters, image.shape) for face in found], visible
    if not best:
        assert problem is not None
        raise problem
    return best


def looks_upside_down(detector: Landmarker, image: np.ndarray, points: np.ndarray) -> bool:
    """Whether clearly more of a face is seen the other way up than of the level one with landmarks [68,2]."""
    visible, level = _visibility(image, [DetectedFace(points)])
    if visible >= _SURE or not level:
        return False
    turned = np.ascontiguousarray(np.rot90(image, 2))
    try:
        other, level = _visibility(turned, detector.faces(turned, ()))
    except NoFaceError:
        return False
    return level and other > visible + _CLEARLY


def _visibility(image: np.ndarray, faces: Sequence[DetectedFace]) -> tuple[float, bool]:
    """How much of the largest face is visible, the mean of its parts; and whether it is level."""
    if not faces:
        return 0.0, False
    points = faces[0].points
    try:
        roll = _roll(SimilarityCrop.from_landmarks(points))
        return float(np.mean(list(visible_parts(image, points).values()))), roll <= _LEVEL
    except MesynthError:  # landmarks on one point
        return 0.0, False


def _rotated_back(face: DetectedFace, quarters: int, shape: tuple[int, ...]) -> DetectedFace:
    """A face found in ``np.rot90(image, quarters)`` in the pixels of the image of that shape."""
    points = face.points
    height, width = shape[:2]
    for done in range(quarters, 0, -1):  # the last quarter first
        before = width if done % 2 else height  # width of the picture before that quarter
        points = np.stack([before - 1 - points[:, 1], points[:, 0]], 1)
    return replace(face, points=points.astype(np.float32))


# ---------------------------------------------------------------- is it there?

_CROP = 128
_PARTS = {
    "right eye": (slice(36, 42), 28, 18), "left eye": (slice(42, 48), 28, 18), "nose": (slice(30, 36), 30, 22),
    "mouth": (slice(48, 60), 40, 24),
}  # fmt: skip
"""Landmarks in the middle of a part, and the width and height of its window in a crop of 128 pixels."""
_FACE = (slice(20, 110), slice(20, 108))
_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


def _windows(image: np.ndarray, points: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """Each part as a vector without its mean, the left eye mirrored; and the contrast of the face."""
    crop = SimilarityCrop.from_landmarks(points, _CROP)
    grey = np.asarray(crop.frames(image[None])[0].astype(np.float32) @ _WEIGHTS)
    places = crop.points(points)
    found = {}
    for name, (where, width, height) in _PARTS.items():
        x, y = places[where].mean(0)
        shift = np.array([[1, 0, width / 2 - 0.5 - x], [0, 1, height / 2 - 0.5 - y]])
        window = cv2.warpAffine(grey, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
        found[name] = _vector(window[:, ::-1] if name == "left eye" else window)
    return found, float(grey[_FACE].std())


def _vector(window: np.ndarray) -> np.ndarray:
    small = cv2.GaussianBlur(np.ascontiguousarray(window), (0, 0), 1.2)[::2, ::2]
    return np.asarray(small - small.mean(), np.float64).ravel()


def _part(name: str) -> str:
    return "eye" if name.endswith("eye") else name


@functools.cache
def _bases() -> dict[str, np.ndarray]:
    with np.load(PARTS_FILE, allow_pickle=False) as archive:
        return {name: archive[name].astype(np.float64) for name in archive.files}


def visible_parts(image: np.ndarray, points: np.ndarray) -> dict[str, float]:
    """How much of each part (eyes, nose, mouth) is to be seen where the landmarks [68,2] are: 0 for what hides it.

    The part of a window's contrast that lies in the space of rendered people's eyes, noses or mouths (principal
    components, as in eigenfaces: Turk and Pentland, 1991), over the contrast of the face.
    """
    windows, contrast = _windows(image, points)
    bases = _bases()
    return {
        name: float(np.linalg.norm(bases[_part(name)] @ vector) / math.sqrt(vector.size) / max(contrast, 1.0))
        for name, vector in windows.items()
    }


def rendered_parts(people: int, components: int = 10, first: int = 1000) -> dict[str, np.ndarray]:
    """Principal components [components,P] of eye, nose and mouth of rendered people in many poses and expressions.

    Landmarks are shaken by 2 % of the distance of the eyes: detectors differ. Made by ``scripts/build_face_parts.py``.
    """
    from mesynth.core.facs import AU_CODES, AU_INDEX
    from mesynth.head import Subject

    turns = [(0, 0), *((y, 0) for y in (-35, -25, -15, 15, 25, 35)), *((0, p) for p in (-25, -15, 15, 25))]
    shown = [(), *((code,) for code in (4, 6, 7, 9, 12, 15, 25, 26, 43, 5)), (12, 25)]
    vectors: dict[str, list[np.ndarray]] = {"eye": [], "nose": [], "mouth": []}
    for seed in range(first, first + people):
        rng = np.random.default_rng(seed)
        subject = Subject(seed, 160)
        poses = [*turns, *[(0, 0)] * (len(shown) - 1)]
        au = np.zeros((len(poses), len(AU_CODES), 2), np.float32)
        for row, codes in enumerate(shown[1:], len(turns)):
            for code in codes:
                au[row, AU_INDEX[code]] = rng.uniform(0.4, 1)
        pose = np.zeros((len(poses), 6))
        pose[:, :2] = np.radians(poses)
        for k, picture in enumerate(subject.render(au, pose=pose, noise_seed=seed)):
            points = subject.landmarks(au[k], pose[k])
            iod = np.hypot(*(points[36:42].mean(0) - points[42:48].mean(0)))
            shaken = points + 0.02 * iod * rng.standard_normal((68, 2))
            mirrored = shaken[MIRROR] * [-1, 1] + [picture.shape[1] - 1, 0]
            for image, where in ((picture, shaken), (np.ascontiguousarray(picture[:, ::-1]), mirrored)):
                for name, vector in _windows(image, where)[0].items():
                    if name != "left eye":  # in the mirror it is a right eye
                        vectors[_part(name)].append(vector / max(float(np.linalg.norm(vector)), 1e-6))
    return {
        name: np.linalg.svd(np.stack(found), full_matrices=False)[2][:components].astype(np.float32)
        for name, found in vectors.items()
    }
