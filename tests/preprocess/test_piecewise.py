"""The piecewise affine crop."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.head import Subject
from mesynth.preprocess.align import (  # fmt: skip
    AREA_LIMITS,
    EYE_LINE,
    IOD_SHARE,
    MESH,
    MIRROR,
    PiecewiseAffineCrop,
    SimilarityCrop,
    _areas,
    average_face,
    eye_centres,
    mean_face,
    rendered_mean_face,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_mean_face.py"


def posed(angle: float = 0.0, scale: float = 1.0, x: float = 0.0, y: float = 0.0, noise: float = 0.0) -> np.ndarray:
    """The mean face at 128 px, moved and with every landmark shaken by ``noise`` pixels."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shaken = mean_face() * 128 - 0.5 + noise * np.random.default_rng(0).standard_normal((68, 2))
    return shaken @ turn.T + [x, y]


def test_the_mean_face_is_canonical_and_symmetric() -> None:
    right, left = eye_centres(mean_face())
    assert left - right == pytest.approx([IOD_SHARE, 0], abs=1e-4)
    assert (left + right) / 2 == pytest.approx([0.5, EYE_LINE], abs=1e-4)
    assert mean_face()[MIRROR] * [-1, 1] + [1, 0] == pytest.approx(mean_face(), abs=2e-5)
    assert np.array_equal(MIRROR[MIRROR], np.arange(68))


def test_the_stored_mean_face_is_a_mean_of_rendered_people(tmp_path: Path) -> None:
    """Eight people come within two hundredths of the hundred that were averaged; the script writes what it builds."""
    few = rendered_mean_face(8, 64)
    assert np.abs(few - mean_face()).max() < 0.02
    out = tmp_path / "sub" / "mean.json"
    assert runpy.run_path(str(SCRIPT))["main"](["--people", "2", "--out", str(out)]) == 0
    written = np.array(json.loads(out.read_text())["points"])
    assert written == pytest.approx(rendered_mean_face(2), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-0.5, 0.5), st.floats(0.5, 4), st.floats(-50, 300), st.floats(-50, 300), st.sampled_from([32, 128, 224])
)
def test_landmarks_come_onto_the_mean_face(angle: float, scale: float, x: float, y: float, size: int) -> None:
    points = posed(angle, scale, x, y, noise=0.7)
    crop = PiecewiseAffineCrop.from_landmarks(points, size)
    assert crop.blend == 0
    assert crop.points(points)[MESH] == pytest.approx(mean_face()[MESH] * size - 0.5, abs=1e-3)


def test_the_mean_face_itself_is_moved_by_the_similarity_alone() -> None:
    points = posed(0.2, 2.0, 30, 10)
    frames = np.random.default_rng(0).integers(0, 255, (2, 340, 340, 3), np.uint8)
    crop, plain = PiecewiseAffineCrop.from_landmarks(points, 96), SimilarityCrop.from_landmarks(points, 96)
    difference = np.abs(crop.frames(frames).astype(int) - plain.frames(frames))
    assert difference.mean() < 1.0  # positions of remap are rounded to 1/32 px
    inside = np.random.default_rng(1).uniform(50, 250, (40, 2))
    assert crop.points(inside) == pytest.approx(plain.points(inside), abs=1e-2)


def test_points_and_frames_move_together() -> None:
    points = posed(0.1, 2.0, 20, 20, noise=2.0)
    crop = PiecewiseAffineCrop.from_landmarks(points, 128)
    for i in (3, 21, 30, 36, 54, 62):
        frame = np.zeros((1, 330, 330, 3), np.uint8)
        x, y = np.round(points[i]).astype(int)
        frame[0, y - 2 : y + 3, x - 2 : x + 3] = 255
        out = crop.frames(frame)[0, ..., 0].astype(np.float64)
        gy, gx = np.mgrid[:128, :128]
        if out.sum() == 0:
            assert not (crop.points(points[i : i + 1]) > 0).all()
            continue
        centre = [(out * gx).sum() / out.sum(), (out * gy).sum() / out.sum()]
        assert centre == pytest.approx(crop.points(np.array([[x, y]], float))[0], abs=0.6)


def test_far_from_the_face_it_is_the_similarity_and_the_map_is_continuous() -> None:
    points = posed(0.0, 2.0, 100, 100, noise=2.0)
    crop = PiecewiseAffineCrop.from_landmarks(points, 128)
    far = np.array([[-200.0, -150.0], [800.0, 20.0]])
    assert crop.points(far) == pytest.approx(crop.similarity.points(far), abs=1e-3)
    step = np.hypot(*np.diff(crop._source_grid(), axis=1).reshape(-1, 2).T)
    assert step.max() < 5 / crop.scale  # neighbours stay neighbours
    # A walk from the face across the ring of anchors: no jump anywhere.
    line = np.linspace([220.0, 200.0], [700.0, 200.0], 2000)
    moved = np.hypot(*np.diff(crop.points(line).astype(np.float64), axis=0).T)
    assert moved.max() < 0.6


def test_one_transform_keeps_the_expression() -> None:
    """A smile stays a smile: the flow between two crops is that of the source, scaled."""
    subject = Subject(0, size=128)
    au = np.zeros((25, 2), np.float32)
    au[8] = 1  # AU 12
    crop = PiecewiseAffineCrop.from_landmarks(subject.landmarks())
    moved = crop.points(subject.landmarks(au)) - crop.points(subject.landmarks())
    assert np.hypot(*moved[54]) > 5


@pytest.mark.parametrize("yaw", [0.3, 0.6, 0.95])
def test_turned_heads_do_not_fold(yaw: float) -> None:
    points = Subject(9, size=128).landmarks(pose=np.array([yaw, 0, 0, 0, 0, 0]))
    crop = PiecewiseAffineCrop.from_landmarks(points)
    plain = np.linalg.inv(crop.similarity.matrix[:, :2])
    area = _areas(crop.target[crop.triangles]) * np.linalg.det(plain)
    ratio = _areas(crop.source[crop.triangles]) / area
    assert ratio.min() > AREA_LIMITS[0]
    assert ratio.max() < AREA_LIMITS[1]
    assert (crop.blend > 0) == (yaw > 0.5)


def test_swapped_landmarks_fall_back_by_the_smallest_blend() -> None:
    points = posed(0, 2.0)
    points[[17, 26, 3, 13]] = points[[26, 17, 13, 3]]  # brows and jaw crossed over: nothing but a fold
    crop = PiecewiseAffineCrop.from_landmarks(points)
    assert 0 < crop.blend <= 1  # and one step less would break a limit:
    rigid = np.linalg.solve(crop.similarity.matrix[:, :2], (crop.target - crop.similarity.matrix[:, 2]).T).T
    shaped = rigid.copy()
    shaped[: len(MESH)] = points[MESH]
    less = (1.1 - crop.blend) * shaped + (crop.blend - 0.1) * rigid
    ratio = _areas(less[crop.triangles]) / _areas(rigid[crop.triangles])
    assert ratio.min() <= AREA_LIMITS[0] or ratio.max() >= AREA_LIMITS[1]


def test_minifying_does_not_alias() -> None:
    checker = (np.indices((900, 900)).sum(0) % 2 * 255).astype(np.uint8)
    frame = np.repeat(checker[..., None], 3, -1)
    crop = PiecewiseAffineCrop.from_landmarks(posed(0, 5, 100, 100, 0.5), 64)
    assert crop.scale < 0.2
    assert crop.frames(frame[None]).std() < 3


def test_bad_landmarks() -> None:
    with pytest.raises(MesynthError, match="68 finite points"):
        PiecewiseAffineCrop.from_landmarks(np.zeros((5, 2)))
    with pytest.raises(MesynthError, match="do not show a face"):
        PiecewiseAffineCrop.from_landmarks(np.zeros((68, 2)))
    with pytest.raises(MesynthError, match=r"\[N,68,2\]"):
        average_face(np.zeros((68, 2)))
