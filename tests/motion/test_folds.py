"""Folds on a photo: where they lie, how they are lit, that they are linear and leave everything else alone."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pytest

from mesynth.core import facs
from mesynth.head import Subject
from mesynth.motion.layers import Step
from mesynth.motion.prior import Face, MotionPrior
from mesynth.motion.warp import PAD, planes_of

STILL = np.zeros((1, len(facs.AU_CODES), 2), np.float32)


@lru_cache(maxsize=2)
def face(seed: int = 8, size: int = 160) -> Face:
    subject = Subject(seed, size, frontal=True)
    return Face(subject.render(STILL)[0], subject.landmarks())


def lit(shown: Face, photo: np.ndarray, aus: np.ndarray) -> np.ndarray:
    """The picture [H,W,3] with its folds."""
    return shown.layers.folds.lit(planes_of(photo), aus)[:, PAD:-PAD, PAD:-PAD].transpose(1, 2, 0)


def ratio(shown: Face, request: str) -> np.ndarray:
    """Log of what folds do to each pixel at rest [H,W,3]."""
    photo = shown.image.astype(np.float32) + 1
    return np.asarray(np.log(lit(shown, photo, facs.parse_request(request).intensity) / photo))


@pytest.mark.parametrize(
    ("request_", "u", "v", "reach"),
    [("4=1", 0.0, -0.2, 0.35), ("6=1", 0.0, 0.05, 1.1), ("9=1", 0.0, 0.35, 0.95), ("12=1", 0.0, 0.8, 0.95),
     ("17=1", 0.0, 1.5, 0.7)],
)  # fmt: skip
def test_a_fold_lies_where_the_face_folds(request_: str, u: float, v: float, reach: float) -> None:
    shown = face()
    changed = np.abs(ratio(shown, request_)).max(-1)
    far = np.hypot(shown.place.uv[..., 0] - u, shown.place.uv[..., 1] - v)
    assert changed.max() > 0.03
    assert changed[far > reach].max() < 0.25 * changed.max()


@pytest.mark.parametrize("request_", ["4=1", "6=1,12=1", "9=1"])
def test_small_folds_are_linear_and_none_are_none(request_: str) -> None:
    shown = face()
    tenth, fifth = (ratio(shown, request_.replace("=1", f"={a}")) for a in (0.1, 0.2))
    np.testing.assert_allclose(fifth, 2 * tenth, atol=2e-5)
    photo = planes_of(shown.image)
    assert shown.layers.folds.lit(photo, STILL[0]) is photo


def test_only_the_side_that_moves_folds() -> None:
    shown = face()
    one = ratio(shown, "L6=1")
    left = shown.place.uv[..., 0]
    assert np.abs(one[left > 0.1]).max() > 0.05
    assert np.abs(one[left < -0.1]).max() == 0


def test_eyes_lips_hair_and_background_do_not_fold() -> None:
    shown = face()
    every = np.ones_like(STILL[0])
    photo = np.full(shown.image.shape, 100, np.float32)
    changed = np.abs(lit(shown, photo, every) - photo).max(-1)
    mask = np.zeros(changed.shape, np.uint8)
    for part in (shown.landmarks[36:42], shown.landmarks[42:48], shown.landmarks[60:68]):
        cv2.fillPoly(mask, [cv2.convexHull(part.round().astype(np.int32))], (1,))
    assert changed[shown.layers.still].max() == 0
    assert changed[mask > 0].max() < 3
    assert changed.max() > 10


def test_flanks_are_lit_from_where_the_photo_is() -> None:
    """The same face under a light from the other side: what was the bright flank of a fold is the dark one."""
    shown = face()
    v = np.linspace(0.5, 1.5, shown.image.shape[1])[None, :, None]
    sides = [Face(np.clip(shown.image * w, 0, 255).astype(np.uint8), shown.landmarks) for w in (v, v[:, ::-1])]
    a, b = (ratio(s, "4=1")[..., 1] for s in sides)
    lit_a, lit_b = a - (a + b) / 2, b - (a + b) / 2  # a furrow's own darkness is the same in both
    assert np.abs(lit_a).max() > 0.01
    strong = np.abs(a - b) > 0.5 * np.abs(a - b).max()
    assert (np.sign(lit_a[strong]) == -np.sign(lit_b[strong])).all()


def test_light_is_no_more_than_a_limit() -> None:
    """Folds under a light that leaves half of the face black do not paint a white line."""
    shown = face()
    half = np.where(np.arange(shown.image.shape[1])[None, :, None] < shown.image.shape[1] / 2, 1.0, 0.02)
    dark = Face((shown.image * half).astype(np.uint8), shown.landmarks)
    assert ratio(dark, "4=1,6=1,9=1,12=1").max() < 0.16


def test_a_moved_frame_shows_them_and_flow_does_not_know() -> None:
    shown = face()
    aus = facs.parse_request("4=1").intensity
    fields = MotionPrior(shown).fields([(facs.AU_INDEX[4], 0), (facs.AU_INDEX[4], 1)])
    step = Step(np.ascontiguousarray(fields.sum(0)), aus)
    frame, flow = shown.layers.frame(step), shown.layers.truth(step).flow
    kept = shown.layers.folds.lit
    try:
        shown.layers.folds.lit = lambda photo, aus: photo  # type: ignore[method-assign]
        plain, same = shown.layers.frame(step), shown.layers.truth(step).flow
    finally:
        shown.layers.folds.lit = kept  # type: ignore[method-assign]
    np.testing.assert_array_equal(flow, same)
    assert 5 < np.abs(frame - plain).max() < 60


def test_a_picture_without_skin_is_no_error() -> None:
    """Landmarks on a picture of one colour, as small as a face gets."""
    landmarks = face().landmarks / 160 * 24
    for value in (0, 127, 255):
        small = Face(np.full((24, 24, 3), value, np.uint8), landmarks)
        folded = lit(small, small.image.astype(np.float32), np.ones_like(STILL[0]))
        assert np.isfinite(folded).all()
        assert folded.min() >= 0
