"""Exact flow against what it must agree with: landmarks, pictures and occlusion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mesynth.core.facs import AU_CODES
from mesynth.head import Subject
from tests.head.people import frontal

K = len(AU_CODES)


def aus(**values: float) -> np.ndarray:
    out = np.zeros((K, 2), np.float32)
    for name, value in values.items():
        out[AU_CODES.index(int(name[2:]))] = value
    return out


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(5)


def warp_to_onset(target: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The target sampled where each onset pixel went."""
    y, x = np.mgrid[: uv.shape[1], : uv.shape[2]].astype(np.float32)
    return cv2.remap(target.astype(np.float32), x + uv[0], y + uv[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


MOVES = {
    "smile": (aus(au6=0.25, au12=0.35), np.zeros(6)),
    "brow": (aus(au4=0.5), np.zeros(6)),
    "head": (aus(), np.array([0.01, 0.005, 0.01, 0.02, -0.015, 0.004])),
    "both": (aus(au1=0.3, au2=0.3), np.array([-0.01, 0.01, 0.0, 0.01, 0.02, 0.0])),
}


@pytest.mark.parametrize("name", MOVES)
def test_flow_agrees_with_landmarks(subject: Subject, name: str):
    au, pose = MOVES[name]
    flow = subject.flow(aus(), au, None, pose)
    start, end = subject.landmarks(), subject.landmarks(au, pose)
    # Points inside smooth visible skin: brows, nose bridge, outer lips; not the contour, lids or nostrils.
    for i in (*range(18, 26), 27, 28, 29, 30, 49, 50, 52, 53, 55, 56, 58, 59):
        x, y = start[i : i + 1].T
        here = cv2.remap(np.moveaxis(flow.uv, 0, -1), x[None], y[None], cv2.INTER_LINEAR)
        assert np.abs(here.ravel()[:2] - (end[i] - start[i])).max() < 0.1, (name, i)


@pytest.mark.parametrize("name", MOVES)
def test_flow_explains_most_of_the_difference(subject: Subject, name: str):
    au, pose = MOVES[name]
    frames = subject.render(np.stack([aus(), au]), np.stack([np.zeros(6), pose])).astype(np.float32)
    flow = subject.flow(aus(), au, None, pose)
    # Pixels that mix head and background have no single motion.
    kernel = np.ones((3, 3), np.uint8)
    inside = cv2.erode(flow.visible.astype(np.uint8), kernel) > 0
    raw = np.abs(frames[1] - frames[0])[inside].sum()
    left = np.abs(warp_to_onset(frames[1], flow.uv) - frames[0])[inside].sum()
    assert raw > 0
    assert left < 0.6 * raw, f"{name}: {1 - left / raw:.2f} explained"


def test_equal_states_do_not_flow(subject: Subject):
    flow = subject.flow(aus(au12=0.4), aus(au12=0.4))
    assert np.abs(flow.uv).max() < 1e-4
    assert flow.uv.dtype == np.float32
    assert flow.uv.shape == (2, 128, 128)
    assert flow.visible.dtype == np.bool_
    assert flow.face.dtype == np.bool_
    assert flow.visible[flow.face].mean() > 0.99, "what is seen at the onset is seen in the same picture"


def test_flow_back_is_minus_flow(subject: Subject):
    au, pose = MOVES["both"]
    there = subject.flow(aus(), au, None, pose)
    back = subject.flow(au, aus(), pose, None)
    inner = cv2.erode((there.face & there.visible & back.face & back.visible).astype(np.uint8), np.ones((5, 5))) > 0
    returned = warp_to_onset(np.moveaxis(back.uv, 0, -1), there.uv)
    gap = np.abs(np.moveaxis(there.uv, 0, -1) + returned)[inner]
    assert np.quantile(gap, 0.95) < 0.05


def test_zero_off_the_head(subject: Subject):
    flow = subject.flow(aus(), aus(), None, np.array([0, 0, 0, 0.1, 0, 0]))
    covered = np.hypot(*flow.uv) > 0
    assert 0.3 < covered.mean() < 0.97
    assert not flow.visible[~covered].any()
    assert not flow.face[~covered].any()
    # Silhouette pixels carry the head's motion, undiluted by the background.
    assert np.hypot(*flow.uv)[covered].min() > 2.5


def test_a_blink_hides_the_eyes(subject: Subject):
    flow = subject.flow(aus(), aus(au45=1.0))
    points = subject.landmarks()
    for eye in (points[36:42], points[42:48]):
        x, y = eye.mean(0).round().astype(int)
        assert flow.face[y, x]
        assert not flow.visible[y, x], "the eyeball is behind the closed lid"
    x, y = points[30].round().astype(int)
    assert flow.visible[y, x]
    hidden = flow.face & ~flow.visible
    assert 20 < hidden.sum() < 700


def test_an_opening_eye_uncovers_and_hides_little(subject: Subject):
    flow = subject.flow(aus(au45=1.0), aus())
    assert (flow.face & ~flow.visible).sum() < 500


def test_turning_hides_the_far_side_and_shifting_leaves_the_picture(subject: Subject):
    turned = subject.flow(aus(), aus(), None, np.array([0.35, 0, 0, 0, 0, 0]))
    hidden = turned.face & ~turned.visible
    assert hidden[:, 80:].sum() > 3 * hidden[:, :48].sum(), "the image-right cheek turns away"
    shifted = subject.flow(aus(), aus(), None, np.array([0, 0, 0, 1.0, 0, 0]))
    assert not shifted.visible[:, -40:].any()
    assert shifted.visible[60, 40:70].all()


def test_the_face_mask_holds_the_features_and_not_the_background():
    for seed in range(6):
        person = frontal(seed)
        face = person.flow(aus(), aus()).face
        points = person.landmarks().round().astype(int)
        inner = points[[*range(18, 26), *range(27, 68)]]
        assert face[inner[:, 1], inner[:, 0]].mean() > 0.95
        assert 0.2 < face.mean() < 0.75
        assert not face[:, :4].any()
        assert not face[:, -4:].any()
