"""Spotting on rendered clips whose apex, onset and offset are known, and its rules on curves made by hand."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_INDEX, parse_request
from mesynth.core.profiles import Profile
from mesynth.head import Subject, head_motion
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.spot import (
    METHODS,
    SpotConfig,
    Spotted,
    boundaries,
    confidence,
    difference_curve,
    divide_and_conquer,
    face_regions,
    flow_curve,
    frequency_curve,
    smooth,
    spot_apex,
    without_affine,
    without_chord,
)

FPS = 60.0
BEFORE, LENGTH, AFTER = 4, 20, 6
ASYMMETRIC = (0.25, 0.75)


@lru_cache(None)
def person() -> Subject:
    return Subject(3, size=160, supersample=1)


@lru_cache(None)
def clip(apex: float, blink: bool, size: int = 128) -> tuple[np.ndarray, np.ndarray, int]:
    """A brow lowerer with a lip corner puller, head motion and noise: frames, landmarks, the apex's frame."""
    subject = person()
    profile = Profile(apex=apex)
    total = BEFORE + LENGTH + AFTER
    au = np.zeros((total, 25, 2), np.float32)
    au[BEFORE : BEFORE + LENGTH] = profile.alpha(LENGTH)[:, None, None] * parse_request("4=0.4,12=0.35").intensity
    if blink:
        # Away from the apex, and larger than anything else.
        start = BEFORE + (LENGTH - 7 if apex < 0.5 else 1)
        au[start : start + 6, AU_INDEX[45]] = np.array([0.3, 0.9, 1, 0.8, 0.4, 0.1])[:, None]
    pose = head_motion(total, np.random.default_rng(5), fps=FPS)
    frames = subject.render(au, pose, noise_seed=1)
    landmarks = subject.landmarks(au[0], pose[0])
    crop = SimilarityCrop.from_landmarks(landmarks, size)
    return crop.frames(frames), crop.points(landmarks), BEFORE + profile.apex_index(LENGTH)


@lru_cache(None)
def spotted(apex: float, blink: bool, method: str) -> Spotted:
    """In :func:`clip`, which stays as it is."""
    frames, landmarks, _ = clip(apex, blink)
    before = frames.copy()
    found = spot_apex(frames, landmarks, FPS, method)  # type: ignore[arg-type]
    assert np.array_equal(frames, before)
    return found


@pytest.mark.parametrize("blink", [False, True])
@pytest.mark.parametrize("apex", ASYMMETRIC)
@pytest.mark.parametrize("method", METHODS)
def test_the_apex_is_found_and_a_blink_is_none(method, apex, blink):
    frames, _, truth = clip(apex, blink)
    found = spotted(apex, blink, method)
    assert abs(found.apex - truth) <= 2
    assert abs(len(frames) // 2 - truth) > 2  # the middle frame would not do
    assert found.curve.shape == (len(frames),)
    assert 0 <= found.onset < found.apex < found.offset < len(frames)
    assert 0 < found.confidence <= 1


@pytest.mark.parametrize("apex", ASYMMETRIC)
def test_flow_finds_onset_and_offset(apex):
    found = spotted(apex, False, "flow")
    assert abs(found.onset - BEFORE) <= 2
    assert abs(found.offset - (BEFORE + LENGTH - 1)) <= 2


def test_a_canonical_crop_needs_no_landmarks():
    frames, landmarks, truth = clip(0.25, False)
    with_landmarks, without = face_regions(128, 128, landmarks), face_regions(128, 128)
    assert np.array_equal(with_landmarks.face, without.face)
    assert abs(spot_apex(frames, None, FPS, "frequency").apex - truth) <= 2


@pytest.mark.parametrize("flow", ["dis", "farneback"])
def test_other_flows_and_sizes_do(flow):
    frames, landmarks, truth = clip(0.75, False, 96)
    assert abs(spot_apex(frames, landmarks, FPS, config=SpotConfig(flow=flow)).apex - truth) <= 2


def test_light_flicker_does_not_move_the_apex():
    frames, landmarks, truth = clip(0.25, False)
    gain = 1 + 0.05 * np.sin(np.arange(len(frames)))[:, None, None, None]
    flickering = np.clip(np.round(frames * gain), 0, 255).astype(np.uint8)
    for method in METHODS:
        assert abs(spot_apex(flickering, landmarks, FPS, method).apex - truth) <= 2


def test_still_noise_has_less_confidence_than_an_expression():
    frames, landmarks, _ = clip(0.25, False)
    rng = np.random.default_rng(0)
    still = np.clip(np.round(frames[:1] + 2 * rng.standard_normal(frames.shape)), 0, 255).astype(np.uint8)
    for method in METHODS:
        assert spot_apex(still, landmarks, FPS, method).confidence < spotted(0.25, False, method).confidence


def test_a_constant_clip_is_spotted_without_confidence():
    frames = np.full((12, 64, 64, 3), 90, np.uint8)
    for method in METHODS:
        found = spot_apex(frames, None, FPS, method)
        assert found.confidence == 0
        assert 0 <= found.onset < found.apex < found.offset < 12
        assert np.isfinite(found.curve).all()


def test_measures_ignore_the_eyes():
    rng = np.random.default_rng(0)
    regions = face_regions(128, 128)
    frames = np.repeat(rng.integers(0, 255, (1, 128, 128, 3), np.uint8), 15, 0)
    lids = (np.abs(np.abs(regions.u) - 0.5) < 0.2) & (np.abs(regions.v) < 0.1)
    assert regions.eyes[lids].all()
    frames[5:9, lids] = 0
    assert np.abs(difference_curve(frames, regions, FPS)).max() < 1e-12
    assert frequency_curve(frames, regions, FPS).max() < 1e-6


def test_head_motion_is_taken_off():
    regions = face_regions(128, 128)
    u, v = regions.u[regions.face], regions.v[regions.face]
    head = np.stack([0.8 + 0.3 * u - 0.2 * v, -0.5 + 0.1 * u + 0.4 * v])
    feature = np.where((np.abs(u) < 0.3) & (v > 0.9), 0.7, 0.0)
    rest = without_affine(np.stack([head, head + feature]), u, v)
    assert np.abs(rest[0]).max() < 1e-9
    assert np.abs(rest[1][:, feature > 0] - 0.7).max() < 0.03
    assert np.abs(rest[1][:, feature == 0]).mean() < 0.02


def test_chord():
    line = np.linspace(2, 5, 13)[:, None] * np.ones(4)
    bump = np.zeros((13, 4))
    bump[6] = 1
    left = without_chord(line + bump)
    assert np.abs(left[6] - 1).max() < 1e-9
    assert np.abs(left[[0, -1]]).max() < 0.3  # the mean of three end frames lies inside the ends


def test_an_end_apex_needs_no_return():
    frames, landmarks, truth = clip(0.75, False)
    rising = frames[: truth + 1]
    found = spot_apex(rising, landmarks, FPS, config=SpotConfig(returns=False))
    assert found.apex >= truth - 3
    assert found.offset == len(rising) - 1


# ---------------------------------------------------------------- rules on curves


def cosine(n: int, onset: int, apex: int, offset: int) -> np.ndarray:
    t = np.arange(n)
    rise, fall = np.clip((t - onset) / (apex - onset), 0, 1), np.clip((t - apex) / (offset - apex), 0, 1)
    return np.where(t <= apex, 0.5 - 0.5 * np.cos(np.pi * rise), 0.5 + 0.5 * np.cos(np.pi * fall))


@pytest.mark.parametrize(("onset", "apex", "offset"), [(5, 15, 40), (0, 25, 30), (10, 30, 59)])
@pytest.mark.parametrize("level", [0.1, 0.3, 0.4])
def test_boundaries_are_exact_on_a_raised_cosine(onset, apex, offset, level):
    curve = 3 + 2 * cosine(60, onset, apex, offset)
    found = boundaries(curve, apex, level)
    assert abs(found[0] - onset) <= 1
    assert abs(found[1] - offset) <= 1


def test_boundaries_stay_inside_the_clip():
    assert boundaries(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), 0)[0] == 0
    assert boundaries(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 4)[1] == 4
    assert boundaries(np.ones(7), 3) == (0, 6)


def test_divide_and_conquer():
    assert divide_and_conquer(cosine(64, 10, 20, 40)) in range(18, 23)
    assert divide_and_conquer(np.ones(1)) == 0
    spike = np.zeros(64)
    spike[60] = 1.5
    spike[5:20] = 0.5
    assert spike.argmax() == 60
    assert divide_and_conquer(spike) < 20  # the rule follows sums


def test_smoothing_drops_a_spike():
    curve = cosine(40, 5, 20, 35)
    spiked = curve.copy()
    spiked[8] = 3
    assert abs(int(smooth(spiked, 1.0).argmax()) - 20) <= 1
    assert np.array_equal(smooth(np.arange(5.0), 0), np.arange(5.0))


def test_confidence_falls_with_noise_and_second_peaks():
    clean = cosine(50, 10, 25, 40)
    two = clean + 0.8 * cosine(50, 0, 4, 8)
    noisy = clean + 0.2 * np.random.default_rng(0).standard_normal(50)
    values = [confidence(raw, smooth(raw, 1.5), 25) for raw in (clean, two, noisy)]
    assert values[0] > 0.9
    assert values[1] < values[0]
    assert values[2] < values[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f, p: spot_apex(f, p, FPS, "magic"), "choose from flow, frequency, difference"),
        (lambda f, p: spot_apex(f[0], p, FPS), r"\[T,H,W,3\]"),
        (lambda f, p: spot_apex(f.astype(np.float32), p, FPS), "uint8"),
        (lambda f, p: spot_apex(f[:4], p, FPS), "4 frames is too short"),
        (lambda f, p: spot_apex(f, p, 0), "fps=0"),
        (lambda f, p: spot_apex(f, p[:5], FPS), "68 finite points"),
        (lambda f, p: spot_apex(f, p * 0, FPS), "do not show a face"),
        (lambda f, p: spot_apex(f, p + 900, FPS), "outside the 128x128 picture"),
        (lambda f, p: spot_apex(f, p, FPS, config=SpotConfig(flow="x")), "flow method 'x'"),
        (lambda f, p: spot_apex(f[:, :8, :8], None, FPS, "frequency"), "too small"),
        (lambda f, p: SpotConfig(peak="mode"), "choose from maximum, divide"),
        (lambda f, p: SpotConfig(level=0.5), "level=0.5"),
        (lambda f, p: SpotConfig(smooth_s=-1), "smooth_s=-1"),
        (lambda f, p: SpotConfig(difference_window_s=0), "difference_window_s=0"),
    ],
)
def test_mistakes_are_named(call, words):
    frames, landmarks, _ = clip(0.25, False)
    with pytest.raises(MesynthError, match=words) as error:
        call(frames, landmarks)
    assert "\n" not in str(error.value)


def test_curves_depend_on_motion_alone():
    """The frames' order is time: the reversed clip has the reversed frequency and difference curve."""
    frames, landmarks, _ = clip(0.25, False)
    regions = face_regions(128, 128, landmarks)
    for curve in (frequency_curve, difference_curve):
        forward, backward = curve(frames, regions, FPS), curve(frames[::-1], regions, FPS)
        assert np.allclose(forward, backward[::-1], rtol=1e-3)
    assert flow_curve(frames, regions, "dis").min() >= 0
