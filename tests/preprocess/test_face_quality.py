"""Measures of a face, on rendered people whose pose, expression and covers are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError, NoFaceError
from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.head import Subject
from mesynth.preprocess.config import PrepareConfig
from mesynth.preprocess.face_quality import (
    PARTS_FILE,
    FaceLimits,
    Measured,
    find_upright,
    measure,
    rendered_parts,
    visible_parts,
)
from mesynth.preprocess.landmarks import DetectedFace, Landmarker, MediapipeLandmarker, pick_faces

SIZE = 256
PEOPLE = (500, 501, 502)


@lru_cache(None)
def person(seed: int) -> Subject:
    return Subject(seed, SIZE)


def shown(seed: int = 500, yaw: float = 0, pitch: float = 0, **aus: float) -> np.ndarray:
    """[H,W,3] of a person turned by degrees, with action units by name: ``au43=1``."""
    au = np.zeros((1, len(AU_CODES), 2), np.float32)
    for name, value in aus.items():
        au[0, AU_INDEX[int(name[2:])]] = value
    pose = np.array([[math.radians(yaw), math.radians(pitch), 0, 0, 0, 0]])
    return np.asarray(person(seed).render(au, pose)[0])


def patched(seed: int, part: slice, half: tuple[float, float], fill: str) -> np.ndarray:
    """The neutral person with a patch over the middle of some landmarks; half its size in distances of the eyes."""
    image, points = shown(seed).copy(), person(seed).landmarks()
    iod = np.hypot(*(points[36:42].mean(0) - points[42:48].mean(0)))
    (x, y), (w, h) = points[part].mean(0), np.array(half) * iod
    window = image[max(int(y - h), 0) : int(y + h), max(int(x - w), 0) : int(x + w)]
    stripes = (np.add.outer(np.arange(window.shape[0]), np.arange(window.shape[1])) // 5 % 2)[..., None] * 140 + 60
    hand = cv2.GaussianBlur(window, (0, 0), 30) + 6.0 * np.sin(np.arange(window.shape[1]) / 9)[:, None]
    window[:] = {"black": 15, "white": 235, "stripes": stripes, "hand": hand}[fill]
    return image


@pytest.fixture(scope="module")
def detector() -> Iterator[Landmarker]:
    made = MediapipeLandmarker()
    yield made
    made.close()


def unfit(detector: Landmarker, image: np.ndarray, limits: FaceLimits = FaceLimits()) -> list[str]:
    """Names of the measures that are beyond their limits."""
    return [u.measure for u in measure(image, find_upright(detector, image)[0]).unfit(limits)]


@pytest.mark.parametrize("seed", PEOPLE)
def test_a_neutral_face_keeps_every_limit(detector: Landmarker, seed: int) -> None:
    for image in (shown(seed), shown(seed, yaw=10), shown(seed, pitch=-8), shown(seed, au25=0.5)):
        assert unfit(detector, image) == []


@pytest.mark.parametrize(
    ("what", "image"),
    [
        ("eyes", lambda: shown(au43=1)),
        ("eyes", lambda: shown(501, au43=0.7)),
        ("mouth", lambda: shown(au27=1)),
        ("mouth", lambda: shown(501, au26=1)),
        ("expression", lambda: shown(au12=1)),
        ("yaw", lambda: shown(yaw=45)),
        ("yaw", lambda: shown(501, yaw=-50)),
        ("pitch", lambda: shown(502, pitch=-50)),
        ("size", lambda: cv2.resize(shown(), (48, 48), interpolation=cv2.INTER_AREA)),
        ("outside", lambda: shown()[:, 90:].copy()),
        ("outside", lambda: shown(501)[:150].copy()),
        ("roll", lambda: np.ascontiguousarray(shown()[::-1, ::-1])),
        ("roll", lambda: np.ascontiguousarray(np.rot90(shown(501)))),
        ("roll", lambda: np.ascontiguousarray(np.rot90(shown(502), 3))),
    ],
)
def test_each_fault_is_found(detector: Landmarker, what: str, image: object) -> None:
    assert what in unfit(detector, image())  # type: ignore[operator]


@pytest.mark.parametrize("fill", ["black", "white", "stripes", "hand"])
@pytest.mark.parametrize(
    ("part", "half", "names"),
    [
        (slice(36, 42), (0.33, 0.22), {"right eye"}),
        (slice(42, 48), (0.33, 0.22), {"left eye"}),
        (slice(36, 48), (0.95, 0.25), {"right eye", "left eye"}),
        (slice(48, 68), (0.5, 0.3), {"mouth"}),
    ],
)
@pytest.mark.parametrize("seed", PEOPLE[:2])
def test_what_covers_a_part_is_found(
    detector: Landmarker, seed: int, part: slice, half: tuple[float, float], names: set[str], fill: str
) -> None:
    image = patched(seed, part, half, fill)
    face = detector.faces(image)[0]
    assert measure(image, face).about["visible"] in names | {"nose"}  # the patch on a mouth reaches the nose
    assert "visible" in [u.measure for u in measure(image, face).unfit(FaceLimits())]


def test_numbers_are_what_was_rendered(detector: Landmarker) -> None:
    """By the true landmarks of the head, whatever a detector adds; yaw and pitch by the fit to the mean head."""
    for yaw, pitch in ((0, 0), (20, 0), (-20, 0), (0, 15), (0, -15)):
        at = np.array([math.radians(yaw), math.radians(pitch), 0, 0, 0, 0])
        rest = measure(shown(), DetectedFace(person(500).landmarks()))
        found = measure(shown(yaw=yaw, pitch=pitch), DetectedFace(person(500).landmarks(None, at)))
        signed = {name: found.values[name] * (-1 if found.about[name] in ("left", "up") else 1) for name in found.about
                  if name != "visible"}  # fmt: skip
        before = {name: rest.values[name] * (-1 if rest.about[name] in ("left", "up") else 1) for name in signed}
        assert signed["yaw"] - before["yaw"] == pytest.approx(yaw, abs=6)
        assert signed["pitch"] - before["pitch"] == pytest.approx(pitch, abs=6)
        assert "expression" not in found.values  # no blendshapes, no such measure
    turned = cv2.warpAffine(
        shown(), cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), 30, 1), (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE
    )
    level, tilted = (measure(image, detector.faces(image)[0]).values for image in (shown(), turned))
    assert tilted["roll"] - level["roll"] == pytest.approx(30, abs=5)
    half = cv2.resize(shown(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert measure(half, detector.faces(half)[0]).values["size"] == pytest.approx(level["size"] / 2, rel=0.03)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_landmarks_of_a_turned_picture_lie_on_the_face(detector: Landmarker, quarters: int) -> None:
    image = np.ascontiguousarray(shown(501)[:240, 10:250])
    turned = np.ascontiguousarray(np.rot90(image, quarters))
    points = find_upright(detector, turned)[0].points
    x, y = find_upright(detector, image)[0].points.T
    for _ in range(quarters):
        x, y = y, image.shape[0] - 1 - x
    assert np.hypot(points[:, 0] - x, points[:, 1] - y).mean() < 2


def test_no_turn_shows_a_face(detector: Landmarker) -> None:
    with pytest.raises(NoFaceError, match="no face found in a 90x80 picture"):
        find_upright(detector, np.full((80, 90, 3), 127, np.uint8))


def test_one_part_alone_is_hidden() -> None:
    image, points = shown(), person(500).landmarks()
    whole = visible_parts(image, points)
    assert min(whole.values()) > 0.5
    covered = visible_parts(patched(500, slice(42, 48), (0.33, 0.22), "white"), points)
    assert covered["left eye"] < 0.1
    assert all(covered[name] > 0.7 * whole[name] for name in ("right eye", "nose", "mouth"))


def test_the_stored_parts_are_those_of_rendered_people() -> None:
    """A few other people's eyes, noses and mouths lie in the stored space."""
    few = rendered_parts(2, 1, first=30)
    with np.load(PARTS_FILE, allow_pickle=False) as stored:
        for name, basis in few.items():
            assert stored[name] @ stored[name].T == pytest.approx(np.eye(10), abs=2e-3)
            assert np.linalg.norm(stored[name].astype(float) @ basis[0]) > 0.95


@given(values=st.dictionaries(st.sampled_from(sorted(vars(FaceLimits()))), st.floats(-999, 999)))
def test_limits_are_read_back(values: dict[str, float]) -> None:
    text = ",".join(f"{name}={value!r}" for name, value in values.items())
    assert FaceLimits.parse(text) == FaceLimits(**values)
    off = FaceLimits.parse(",".join(f"{name}=off" for name in values))
    bad = Measured(dict.fromkeys(vars(FaceLimits()), 0.0) | {"yaw": 90.0, "mouth": 2.0}, {})
    assert not {u.measure for u in bad.unfit(off)} & set(values)
    assert FaceLimits.parse(off.text()) == off


@pytest.mark.parametrize("text", ["yow=3", "yaw", "yaw=far", "yaw=nan", "yaw=3,yaw=4", "=3", "size=1e"])
def test_limits_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="face limit"):
        FaceLimits.parse(text)


def test_which_of_several() -> None:
    middle, left, right = (np.full((68, 2), x, np.float32) for x in (50, 10, 90))
    faces = [middle, left, right]  # the largest first
    assert pick_faces(faces, 0) == ([0], "3 faces: taken was the largest, 2 from the left")
    assert pick_faces(faces, 3) == ([2], "3 faces: taken was 3 from the left")
    assert pick_faces(faces, -1) == ([1, 0, 2], "")
    assert pick_faces(faces[:1], 0) == ([0], "")
    with pytest.raises(NoFaceError, match="shows 3 faces and no face 4"):
        pick_faces(faces, 4)
    for face in ("0", "-1", "first", "all", "²"):
        with pytest.raises(ConfigError, match="choose largest or a number from 1"):
            PrepareConfig(face=face)
