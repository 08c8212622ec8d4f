"""Augmentation that moves frames, flow, landmarks and AUs together, against analytic flow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.core.facs import parse_request
from mesynth.core.types import Clip, Flow, Sample
from mesynth.head import Subject
from mesynth.preprocess.align import MIRROR
from mesynth.preprocess.augment import AugmentConfig, Transform, draw
from mesynth.preprocess.flow import estimate_flow
from tests.preprocess.textures import SIDE, end_point_error, smooth_field, texture, warped_pair

GEOMETRIC = [
    Transform(flip=True),
    Transform(rotation=12.0),
    Transform(scale=1.15),
    Transform(shift=(3.3, -2.6)),
    Transform(flip=True, rotation=-9.0, scale=0.93, shift=(2.0, 1.0), crop=(96, 104), crop_at=(0.4, 0.7)),
]
PHOTOMETRIC = {"brightness": 0.1, "contrast": 1.2, "gamma": 0.9, "noise": 0.01}


def wave(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """An analytic flow [2,...] at continuous places, 1 to 2 px."""
    return np.stack([1.3 * np.sin(x / 23 + 0.4) + 0.5 * np.cos(y / 17), 1.1 * np.cos(x / 19) - 0.6 * np.sin(y / 29)])


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return x, y


@pytest.mark.parametrize("transform", GEOMETRIC)
def test_flow_is_the_analytic_one(transform):
    """F'(q) = A F(A^-1 (q - t)), evaluated from the formula and not from the grid."""
    flow = Flow(wave(*grid(SIDE, SIDE)).astype(np.float32))
    moved = transform.flow(flow)
    matrix = transform.matrix(SIDE, SIDE)
    x, y = grid(*moved.uv.shape[1:])
    source = np.einsum("ij,jhw->ihw", np.linalg.inv(matrix[:, :2]), np.stack([x, y]) - matrix[:, 2, None, None])
    truth = np.einsum("ij,jhw->ihw", matrix[:, :2], wave(*source))
    valid = np.ones(truth.shape[1:], bool) if moved.valid is None else moved.valid
    assert valid.mean() > 0.7
    assert np.hypot(*(moved.uv - truth))[valid].max() < 0.01


@pytest.mark.parametrize("transform", GEOMETRIC)
@pytest.mark.parametrize("photometric", [False, True])
def test_flow_found_in_augmented_frames_is_the_augmented_flow(transform, photometric):
    """a(x) = b(x + F(x)) exactly; the flow estimated from the augmented pair must meet the augmented F."""
    from dataclasses import replace

    changed = replace(transform, **PHOTOMETRIC) if photometric else transform
    field = smooth_field(1, 2.0)
    pair = np.stack(warped_pair(texture("astronaut"), field))
    truth = changed.flow(Flow(field))
    a, b = changed.frames(pair)
    error = end_point_error(estimate_flow(a, b).uv, truth.uv, 14)
    before = end_point_error(estimate_flow(*pair).uv, field, 14)
    assert error < (2.5 if photometric else 1.5) * before + 0.02
    assert error < 0.5 * np.hypot(*truth.uv)[14:-14, 14:-14].mean()


@pytest.mark.parametrize("transform", GEOMETRIC)
def test_landmarks_and_frames_move_alike(transform):
    """A blob at each landmark is found where the landmark goes, under the name the mirrored face gives it."""
    points = np.random.default_rng(0).uniform(40, 88, (68, 2)).astype(np.float32)
    moved = transform.landmarks(points, SIDE, SIDE)
    for i in (0, 30, 36, 48):
        x, y = grid(SIDE, SIDE)
        source = MIRROR[i] if transform.flip else i
        blob = 250 * np.exp(-((x - points[source, 0]) ** 2 + (y - points[source, 1]) ** 2) / 18)
        picture = np.repeat(np.round(blob).astype(np.uint8)[None, :, :, None], 3, -1)
        out = transform.frames(picture)[0, :, :, 0].astype(np.float64)
        ox, oy = grid(*out.shape)
        assert (out * ox).sum() / out.sum() == pytest.approx(moved[i, 0], abs=0.1)
        assert (out * oy).sum() / out.sum() == pytest.approx(moved[i, 1], abs=0.1)


def test_flipping_twice_is_the_identity_bit_for_bit():
    flip = Transform(flip=True)
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 21, 3), np.uint8)
    assert np.array_equal(flip.frames(flip.frames(frames)), frames)
    assert not np.array_equal(flip.frames(frames), frames)
    uv = np.random.default_rng(1).standard_normal((2, 20, 21)).astype(np.float32)
    valid = np.random.default_rng(2).random((20, 21)) > 0.3
    back = flip.flow(flip.flow(Flow(uv, valid)))
    assert back.uv.tobytes() == uv.tobytes()
    assert np.array_equal(back.valid, valid)
    aus = parse_request("L4=0.2,12=0.4,R1=0.1")
    assert np.array_equal(flip.aus(flip.aus(aus)).intensity, aus.intensity)
    points = np.random.default_rng(3).integers(0, 20, (68, 2)).astype(np.float32)
    assert np.array_equal(flip.landmarks(flip.landmarks(points, 20, 21), 20, 21), points)


def test_flip_negates_u_and_swaps_sides():
    uv = np.zeros((2, 4, 6), np.float32)
    uv[:, 1, 0] = 2, 3
    flipped = Transform(flip=True).flow(Flow(uv)).uv
    assert flipped[:, 1, 5].tolist() == [-2, 3]
    assert np.array_equal(
        Transform(flip=True).aus(parse_request("L4=0.2,17=0.3")).intensity, parse_request("R4=0.2,17=0.3").intensity
    )


def test_mirrored_landmarks_are_those_of_a_mirrored_face():
    """On a symmetric head a mirrored set of landmarks is nearly the set itself; in the wrong order it is not."""
    subject = Subject(2, size=128, supersample=1, frontal=True)
    points = subject.landmarks()
    mirrored = Transform(flip=True).landmarks(points, 128, 128)
    offset = mirrored.mean(0) - points.mean(0)
    assert np.abs(mirrored - offset - points).max() < 2.0
    assert sorted(MIRROR) == list(range(68))
    assert np.array_equal(MIRROR[MIRROR], np.arange(68))


def test_photometric_changes_leave_the_flow_alone():
    transform = Transform(**PHOTOMETRIC)
    flow = Flow(smooth_field(0, 1.0))
    assert np.array_equal(transform.flow(flow).uv, flow.uv)
    assert transform.flow(flow).valid is None
    frames = np.full((2, 8, 8, 3), 128, np.uint8)
    assert np.abs(Transform(brightness=0.1).frames(frames).astype(int) - 128).mean() == pytest.approx(26, abs=1)
    assert (Transform(gamma=2.0).frames(frames) == 64).all()
    noisy = Transform(noise=0.05, noise_seed=4).frames(frames)
    assert np.array_equal(noisy, Transform(noise=0.05, noise_seed=4).frames(frames))
    assert not np.array_equal(noisy[0], noisy[1])


def test_nothing_is_changed_by_default():
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    assert np.array_equal(Transform().frames(frames), frames)
    points = np.random.default_rng(0).random((68, 2)).astype(np.float32)
    assert np.array_equal(Transform().landmarks(points, 9, 9), points)


def test_what_comes_from_outside_is_not_valid():
    flow = Flow(smooth_field(0, 1.0), np.ones((SIDE, SIDE), bool))
    valid = Transform(shift=(5.0, 0.0)).flow(flow).valid
    assert not valid[:, :5].any()
    assert valid[:, 5:].all()


@given(seed=st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_drawn_samples_stay_samples(seed):
    config = AugmentConfig(crop=(24, 24))
    transform = draw(np.random.default_rng(seed), config)
    assert transform == draw(np.random.default_rng(seed), config)
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    sample = Sample(Clip(frames, 60.0, 1), Flow(smooth_field(0, 1.0, 4.0, 32)), parse_request("L4=0.2"))
    out = transform.sample(sample)
    assert out.clip.frames.shape == (3, 24, 24, 3)
    assert out.flow.uv.shape == (2, 24, 24)
    assert bool(out.aus.intensity[:, 1].any()) == transform.flip
    assert abs(transform.rotation) <= 8
    assert 1 / 1.08 - 1e-9 <= transform.scale <= 1.08 + 1e-9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Transform(scale=0), "scale=0"),
        (lambda: Transform(noise=-1), "noise=-1"),
        (lambda: Transform(rotation=float("nan")), "finite"),
        (lambda: Transform(crop=(0, 5)), "crop"),
        (lambda: Transform(crop_at=(0, 2)), "crop_at"),
        (lambda: Transform(crop=(10, 10)).frames(np.zeros((1, 8, 8, 3), np.uint8)), "larger than the picture"),
        (lambda: Transform().frames(np.zeros((8, 8, 3), np.uint8)), "T,H,W,3"),
        (lambda: Transform().landmarks(np.zeros((5, 2)), 8, 8), "68"),
        (lambda: AugmentConfig(flip=2), "flip=2"),
        (lambda: AugmentConfig(scale=0.9), "scale=0.9"),
        (lambda: AugmentConfig(shift=-1), "shift=-1"),
        (lambda: AugmentConfig(crop=(0, 1)), "crop"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(MesynthError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_crop_without_resampling_is_a_slice():
    crop = Transform(flip=True, crop=(10, 12), crop_at=(0.0, 1.0))
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 21, 3), np.uint8)
    assert np.array_equal(crop.frames(frames), frames[:, :, ::-1][:, :10, 9:])
    uv = np.random.default_rng(1).standard_normal((2, 20, 21)).astype(np.float32)
    assert np.array_equal(crop.flow(Flow(uv)).uv[0], -uv[0, :10, ::-1][:, 9:])
    points = np.zeros((68, 2), np.float32)
    assert crop.landmarks(points, 20, 21)[0].tolist() == [11, 0]  # 20 after mirroring, 9 less after the crop
