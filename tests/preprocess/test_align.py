"""The canonical crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.core.framing import OWN, Framing
from mesynth.preprocess.align import EYE_LINE, IOD_SHARE, PiecewiseAffineCrop, SimilarityCrop, eye_centres, mean_face


def landmarks(iod: float = 50.0, angle: float = 0.0, x: float = 100.0, y: float = 80.0) -> np.ndarray:
    """Some 68 points whose eye centres are given; the rest hang below."""
    points = np.random.default_rng(0).normal([0, 40], 20, (68, 2))
    half = np.array([iod / 2, 0])
    ring = 5 * np.array([[np.cos(t), np.sin(t)] for t in np.arange(6) * np.pi / 3])
    points[36:42], points[42:48] = ring - half, ring + half
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(points @ rotation.T + [x, y], np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(10, 400), st.floats(-0.6, 0.6), st.floats(0, 500), st.floats(0, 500), st.sampled_from([32, 128, 224])
)  # fmt: skip
def test_eyes_come_to_the_canonical_place(iod: float, angle: float, x: float, y: float, size: int) -> None:
    points = landmarks(iod, angle, x, y)
    crop = SimilarityCrop.from_landmarks(points, size)
    right, left = eye_centres(crop.points(points))
    assert left[1] == pytest.approx(right[1], abs=0.02)
    assert left[0] - right[0] == pytest.approx(IOD_SHARE * size, rel=1e-3)
    assert (left + right) / 2 == pytest.approx(np.array([0.5, EYE_LINE]) * size - 0.5, abs=0.05)


@pytest.mark.parametrize("angle", [0.0, 0.4])
@pytest.mark.parametrize(
    "framing",
    [OWN, Framing(eyes=0.57, height=0.57, row=0.25, column=0.48), Framing(eyes=0.57, height=0.46, row=0.25),
     Framing(eyes=0.2, height=0.2, row=0.6, column=0.4)],
)  # fmt: skip
def test_eyes_come_to_where_a_framing_has_them(framing: Framing, angle: float) -> None:
    points = landmarks(60, angle, 120, 110)
    crop = SimilarityCrop.from_landmarks(points, 100, framing)
    right, left = eye_centres(crop.points(points))
    assert left[1] == pytest.approx(right[1], abs=0.02)
    assert left[0] - right[0] == pytest.approx(framing.eyes * 100, rel=1e-3)
    assert (left + right) / 2 == pytest.approx(np.array([framing.column, framing.row]) * 100 - 0.5, abs=0.05)
    # A point one eye distance below the eyes: that far down the crop as the framing is high.
    below = (points[36:48].reshape(2, 6, 2).mean(1).mean(0) + 60 * np.array([-np.sin(angle), np.cos(angle)]))[None]
    assert crop.points(below)[0, 1] - (left + right)[1] / 2 == pytest.approx(framing.height * 100, rel=1e-3)


def test_points_and_frames_move_together() -> None:
    """A bright dot in the frame lands where its point lands."""
    points = landmarks(60, 0.3)
    frame = np.zeros((240, 240, 3), np.uint8)
    dot = np.array([[110.0, 120.0]])
    frame[118:123, 108:113] = 255
    crop = SimilarityCrop.from_landmarks(points, 128)
    out = crop.frames(frame[None])[0, ..., 0].astype(np.float64)
    y, x = np.mgrid[:128, :128]
    centre = [(out * x).sum() / out.sum(), (out * y).sum() / out.sum()]
    assert centre == pytest.approx(crop.points(dot)[0], abs=0.1)


def test_size_one_to_one_is_a_shift() -> None:
    """IOD already as wanted and level eyes on whole pixels: every pixel is copied, none interpolated."""
    frame = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    points = landmarks(IOD_SHARE * 40, 0, 50.5, 50.5)  # 40 px crop: target (19.5, 13.5)
    out = SimilarityCrop.from_landmarks(points, 40).frames(frame[None])[0]
    assert np.abs(out.astype(int) - frame[37:77, 31:71]).max() <= 1


def test_minifying_does_not_alias() -> None:
    """A pattern finer than the crop's pixels averages out instead of turning into stripes."""
    checker = (np.indices((600, 600)).sum(0) % 2 * 255).astype(np.uint8)
    frame = np.repeat(checker[..., None], 3, -1)
    crop = SimilarityCrop.from_landmarks(landmarks(200.5, 0.2, 300, 250), 64)
    assert crop.scale < 0.2
    naive = cv2.warpAffine(frame, crop.matrix, (64, 64), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    assert crop.frames(frame[None]).std() < 3 < naive.std()


def test_border_is_replicated() -> None:
    frame = np.full((60, 60, 3), 90, np.uint8)
    assert (SimilarityCrop.from_landmarks(landmarks(30, 0, 5, 5), 64).frames(frame[None]) == 90).all()


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (np.zeros((5, 2), np.float32), r"\(5, 2\)"),
        (np.zeros((68, 2), np.float32), "do not show a face"),
        (np.full((68, 2), np.nan, np.float32), "68 finite points"),
    ],
)
def test_bad_landmarks(points: np.ndarray, words: str) -> None:
    with pytest.raises(MesynthError, match=words):
        SimilarityCrop.from_landmarks(points)


def test_the_rendered_head_sits_where_the_crop_puts_it() -> None:
    """The renderer's own framing and the canonical crop agree to a few pixels, so both train one model."""
    from mesynth.head import Subject

    crop = SimilarityCrop.from_landmarks(Subject(0, size=128).landmarks())
    assert crop.scale == pytest.approx(1.0, abs=0.15)
    assert np.abs(crop.points(np.array([[64.0, 64.0]]))[0] - 64).max() < 10


def _all_of_it(crop: SimilarityCrop | PiecewiseAffineCrop, frame: np.ndarray) -> np.ndarray:
    """The crop of a frame that is low-passed as a whole."""
    sigma = 0.5 * np.sqrt(max(1 / crop.scale**2 - 1, 0))
    soft = cv2.GaussianBlur(frame, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE) if sigma > 0.3 else frame
    side = (crop.size, crop.size)
    if isinstance(crop, SimilarityCrop):
        how = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
        return np.asarray(cv2.warpAffine(soft, crop.matrix, side, **how))
    where = crop._source_grid()
    return np.asarray(cv2.remap(soft, where[..., 0], where[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))


@pytest.mark.parametrize("size", [16, 48, 128, 400])
@pytest.mark.parametrize("place", [(320, 240), (60, 50), (600, 450), (-40, 200), (320, 900)])
@pytest.mark.parametrize("turn", [0.0, 0.5, 2.6])
def test_only_what_is_read_is_low_passed(size: int, place: tuple[int, int], turn: float) -> None:
    """The same bits as of a frame that is low-passed whole: inside, across each border, and beyond the picture."""
    frame = np.random.default_rng(size).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    cos, sin = np.cos(turn), np.sin(turn)
    points = (mean_face() - 0.5) * 300 @ np.array([[cos, sin], [-sin, cos]]) + place
    crops = (SimilarityCrop.from_landmarks(points, size), PiecewiseAffineCrop.from_landmarks(points, size))
    for crop in crops:
        np.testing.assert_array_equal(crop.frames(frame[None])[0], _all_of_it(crop, frame))
