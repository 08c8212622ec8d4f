"""Flow errors and timing on fields and curves whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from mesynth.core.profiles import PROFILES, Profile
from mesynth.metrics import motion
from mesynth.metrics.motion import flow_error


def constant(u: float, v: float, side: int = 16) -> np.ndarray:
    return np.stack([np.full((side, side), u), np.full((side, side), v)]).astype(np.float32)


def test_flow_errors_of_constant_fields() -> None:
    found = flow_error(constant(0, 2), constant(2, 0))
    assert found.epe == pytest.approx(np.sqrt(8))
    assert found.relative == pytest.approx(np.sqrt(2))
    assert found.angle == pytest.approx(90)
    assert found.strain == 0
    assert flow_error(constant(0, 0), constant(2, 0)).relative == pytest.approx(1)


def test_angle_counts_only_where_something_moves() -> None:
    reference = constant(1, 0)
    reference[:, :8] = 0.1
    flow = constant(1, 0)
    flow[0, :8] = -1  # opposite, but on pixels that do not move
    assert flow_error(flow, reference).angle == pytest.approx(0)
    assert np.isnan(flow_error(flow, constant(0.1, 0)).angle)


def test_mask_limits_the_error() -> None:
    flow = constant(0, 0)
    flow[0, :, :8] = 3
    right = np.zeros((16, 16), bool)
    right[:, 8:] = True
    assert flow_error(flow, constant(0, 0), right).epe == 0
    assert flow_error(flow, constant(0, 0)).epe == pytest.approx(1.5)
    with pytest.raises(ValueError, match="empty"):
        flow_error(flow, flow, np.zeros((16, 16), bool))
    with pytest.raises(ValueError, match="shapes"):
        flow_error(flow, flow[:, :8])


def test_strain_error_is_that_of_a_stretch() -> None:
    x = np.arange(16, dtype=np.float32) * 0.1
    stretch = np.stack([np.tile(x, (16, 1)), np.zeros((16, 16), np.float32)])
    assert flow_error(constant(0, 0), stretch).strain == pytest.approx(0.1, rel=1e-5)


def test_similarity_motion_is_removed_and_nothing_else() -> None:
    y, x = np.mgrid[:24, :24].astype(np.float32)
    rigid = np.stack([0.7 + 0.02 * x - 0.03 * y, -0.2 + 0.03 * x + 0.02 * y])
    bump = np.zeros((2, 24, 24), np.float32)
    bump[1, 10:13, 10:13] = -1
    mask = np.ones((24, 24), bool)
    assert np.abs(motion.without_rigid(rigid[None], mask)).max() < 1e-5
    left = motion.without_rigid((rigid + bump)[None], mask)[0]
    assert left[1, 11, 11] == pytest.approx(-1, abs=0.05)


@pytest.mark.parametrize("apex", [0.3, 0.5, 0.7])
def test_timing_of_a_raised_cosine(apex: float) -> None:
    n, fps = 201, 200.0
    curve = 3 * Profile(apex=apex).alpha(n)
    found = motion.timing(curve, fps)
    share = (np.arccos(-0.8) - np.arccos(0.8)) / np.pi  # of the rise, between 10% and 90%
    assert found.apex == round(apex * (n - 1))
    assert found.rise == pytest.approx(share * found.apex / fps, rel=0.01)
    assert found.decay == pytest.approx(share * (n - 1 - found.apex) / fps, rel=0.01)


def test_jerk_rises_with_a_stutter_and_flat_curves_do_not_fail() -> None:
    smooth = Profile().alpha(41).astype(float)
    stutter = smooth + 0.05 * (np.arange(41) % 2)
    assert motion.timing(stutter, 100).jerk > 5 * motion.timing(smooth, 100).jerk
    flat = motion.timing(np.zeros(10), 100)
    assert np.isnan(flat.rise)
    with pytest.raises(ValueError, match="too short"):
        motion.timing(np.zeros(3), 100)


def test_target_timing_follows_the_named_profile() -> None:
    cosine = motion.target_timing(41, 20, 100, PROFILES["symmetric"])
    exponential = motion.target_timing(41, 20, 100, PROFILES["fast-rise"])
    assert cosine.apex == exponential.apex == 20
    assert exponential.decay != pytest.approx(cosine.decay, rel=0.1)


def test_warping_error_is_small_for_the_true_flow() -> None:
    rng = np.random.default_rng(0)
    import cv2

    onset = cv2.GaussianBlur(rng.integers(0, 255, (40, 40, 3)).astype(np.uint8), (0, 0), 3)
    frames = np.stack([onset, np.roll(onset, 2, 1)])
    inside = np.zeros((40, 40), bool)
    inside[5:-5, 5:-5] = True
    pulled, plain = motion.warping_error(frames, constant(2, 0, 40)[None], inside)
    assert pulled < 0.01
    assert plain > 1
