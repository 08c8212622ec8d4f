"""The packaged head: its file, landmarks and action unit basis."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_CODES
from mesynth.head.model import AU_UNITS, EYE, SKIN, HeadModel, eye_frame, head_model


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return HeadModel.load()


def row(code: int) -> int:
    return AU_CODES.index(code)


def test_every_au_of_the_project_has_units():
    assert set(AU_UNITS) == set(AU_CODES)


def test_the_frame_is_canonical(model: HeadModel):
    origin, iod = eye_frame(model.vertices[model.landmarks])
    assert np.allclose(origin, 0, atol=1e-5)
    assert iod == pytest.approx(1, abs=1e-5)


def test_landmarks_lie_on_the_skin_and_mirror_each_other(model: HeadModel):
    assert len(np.unique(model.landmarks)) == 68
    assert np.isin(model.landmarks, np.unique(model.faces[model.part == SKIN])).all()
    points = model.vertices[model.landmarks]
    pairs = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)]
    pairs += [(36, 45), (39, 42), (37, 44), (41, 46), (31, 35), (48, 54), (50, 52), (60, 64)]
    for a, b in pairs:
        assert np.allclose(points[a] * [-1, 1, 1], points[b], atol=0.01), (a, b)
    assert points[36, 0] < 0 < points[45, 0], "36-41 is the image-left eye"
    assert points[8, 1] < points[57, 1] < points[51, 1] < points[33, 1] < points[27, 1] + 0.1


def test_landmarks_face_the_camera(model: HeadModel):
    """A landmark behind the surface would be somewhere else in the picture: the contour must not fold back."""
    points = model.vertices[model.landmarks]
    assert points[:, 2].min() > -1.0
    assert points[60:68, 2].min() > 0.0


def test_basis_moves_the_named_side(model: HeadModel):
    assert model.au_basis.shape == (len(AU_CODES), 2, len(model.vertices), 3)
    assert model.au_basis.dtype == np.float32
    for code in (1, 2, 4, 6, 12, 15, 45):
        left = np.abs(model.au_basis[row(code), 0]).max(1)
        right = np.abs(model.au_basis[row(code), 1]).max(1)
        assert model.vertices[left.argmax(), 0] > 0.05, code
        assert model.vertices[right.argmax(), 0] < -0.05, code


def test_basis_matches_the_measured_magnitudes(model: HeadModel):
    """Peaks of the prototype's table (IOD): 12 .274, 4 .116, 1 .088, 45 .214, 26 .261."""
    whole = model.au_basis.sum(1)
    skin = np.unique(model.faces[model.part == SKIN])
    for code, peak in ((1, 0.088), (4, 0.116), (12, 0.274), (26, 0.261), (45, 0.214)):
        assert np.linalg.norm(whole[row(code)][skin, :2], axis=1).max() == pytest.approx(peak, rel=0.12), code
    lips = model.landmarks[[48, 54]]
    assert (whole[row(12)][lips, 1] > 0.1).all()
    assert (whole[row(15)][lips, 1] < -0.04).all()


def test_eyeballs_do_not_move_with_the_face(model: HeadModel):
    eyes = np.unique(model.faces[model.part == EYE])
    assert np.abs(model.au_basis[:, :, eyes]).max() < 0.01


def test_bad_arrays_are_refused(model: HeadModel):
    arrays = {"neutral": np.zeros((10, 3), np.float32), "landmarks": np.full(68, 99, np.uint16)}
    with pytest.raises(MesynthError, match="landmarks"):
        head_model(arrays)


def test_import_does_not_load_the_compiler():
    code = "import sys, mesynth.head; print('numba' in sys.modules, 'cv2' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
