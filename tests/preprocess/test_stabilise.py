"""Head-motion compensation, against exactly known motion."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mesynth.core.errors import MesynthError
from mesynth.core.facs import parse_request
from mesynth.head import Subject, head_motion
from mesynth.preprocess.align import mean_face
from mesynth.preprocess.regions import rigid_mask
from mesynth.preprocess.stabilise import StabiliseConfig, _peak, resample, stabilise
from tests.preprocess.textures import texture

FACE = (mean_face() * 128 - 0.5).astype(np.float32)
STILL = np.zeros((25, 2), np.float32)
METHODS = ("ecc", "phase")


@lru_cache(None)
def person(seed: int) -> Subject:
    """Each is built once: that costs more than a picture."""
    return Subject(seed, size=128)


@lru_cache(None)
def expression(seed: int, action: str) -> np.ndarray:
    """[2,128,128,3]: a face at rest and in action, its head still."""
    return person(seed).render(np.stack([STILL, parse_request(action).intensity]), noise_seed=1)


def euclidean(angle: float, tx: float, ty: float) -> np.ndarray:
    """[2,3]: a rotation about the middle of a 128 px crop, then a shift."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([63.5, 63.5])
    return np.column_stack([turn, centre - turn @ centre + [tx, ty]])


def moved(picture: np.ndarray, matrix: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """The picture whose pixel ``M x`` shows what ``x`` shows, by quintic splines: another resampler than ours."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    y, x = np.mgrid[:128, :128].astype(np.float64)
    where = np.einsum("ij,jhw->ihw", inverse, np.stack([x, y, np.ones_like(x)]))
    channels = [
        ndimage.map_coordinates(picture[..., c].astype(float), where[::-1], order=5, mode="nearest") for c in range(3)
    ]
    noisy = np.stack(channels, -1) + noise * np.random.default_rng(seed).standard_normal((128, 128, 3))
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of two transforms over the rigid pixels."""
    y, x = np.nonzero(rigid_mask(FACE, 128))
    return float(np.hypot(*((found - truth) @ np.stack([x, y, np.ones_like(x)]))).mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["astronaut", "camera", "chelsea"])
def test_known_motion_of_a_texture(name: str, method: str) -> None:
    turn = 0.012 if method == "ecc" else 0.0
    truth = [euclidean(0, 0, 0), euclidean(turn, 0.37, -0.22), euclidean(-turn, -1.4, 2.1), euclidean(0, 3.3, 0.05)]
    clip = np.stack([moved(texture(name), m, 1.0, i) for i, m in enumerate(truth)])
    result = stabilise(clip, FACE, StabiliseConfig(method=method))  # type: ignore[arg-type]
    assert np.array_equal(result.frames[0], clip[0])
    assert result.drift.failed == ()
    assert [error(f, t) for f, t in zip(result.transforms, truth, strict=True)] == pytest.approx([0] * 4, abs=0.06)
    assert result.drift.before[1:] == pytest.approx([error(t, truth[0]) for t in truth[1:]], abs=0.06)
    assert result.drift.after.max() < 0.02
    inside = np.abs(result.frames[1:, 8:-8, 8:-8].astype(float) - clip[0, 8:-8, 8:-8]).mean()
    assert inside < 0.5 * np.abs(clip[1:, 8:-8, 8:-8].astype(float) - clip[0, 8:-8, 8:-8]).mean()


@settings(max_examples=12, deadline=None)
@given(st.floats(-0.04, 0.04), st.floats(-4, 4), st.floats(-4, 4))
def test_any_small_rigid_motion(angle: float, tx: float, ty: float) -> None:
    truth = euclidean(angle, tx, ty)
    clip = np.stack([texture("astronaut"), moved(texture("astronaut"), truth, 1.0)])
    result = stabilise(clip, FACE)
    assert error(result.transforms[1], truth) < 0.08
    assert result.drift.rotation_before[1] == pytest.approx(np.degrees(angle), abs=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_sways(method: str) -> None:
    """A 3D head: most of the true motion of the rigid pixels is gone, by the renderer's own account."""
    for seed in (3, 5):
        subject = person(seed)
        pose = head_motion(40, np.random.default_rng(seed), sd=1.5, fps=80)[::13]
        clip = subject.render(np.repeat(STILL[None], 4, 0), pose, noise_seed=1)
        result = stabilise(clip, subject.landmarks(), StabiliseConfig(method=method))  # type: ignore[arg-type]
        mask = rigid_mask(subject.landmarks(), 128)
        y, x = np.nonzero(mask)
        points = np.stack([x, y, np.ones_like(x)])
        before, left = [], []
        for matrix, offset in zip(result.transforms[1:], pose[1:], strict=True):
            uv = subject.flow(STILL, STILL, pose[0], offset).uv[:, mask]
            before.append(np.hypot(*uv).mean())
            left.append(np.hypot(*(matrix @ points - points[:2] - uv)).mean())
        assert max(before) > 0.5
        assert max(left) < 0.2  # the head turns in depth, which no plane motion is
        assert np.mean(left) < 0.25 * np.mean(before)
        assert np.nanmax(result.drift.after) < 0.03


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("action", ["4=0.25", "12=0.25", "1=0.25,2=0.25", "6=0.2,12=0.2", "15=0.25,17=0.25", "26=0.2"])
def test_a_pure_expression_is_hardly_touched(action: str, method: str) -> None:
    touched = []
    for seed in (3, 8):
        config = StabiliseConfig(method=method)  # type: ignore[arg-type]
        touched.append(stabilise(expression(seed, action), person(seed).landmarks(), config).drift.before[1])
    assert np.mean(touched) < 0.1
    assert max(touched) < 0.12


def test_the_expression_survives_while_the_head_is_held() -> None:
    """Residual motion at the mouth corners is that of the smile alone."""
    from mesynth.preprocess.flow import estimate_flow

    subject = person(3)
    smile = parse_request("12=0.3").intensity
    pose = np.array([np.zeros(6), [0, 0, 0.008, 0.02, -0.015, 0]])
    clip = subject.render(np.stack([STILL, smile]), pose, noise_seed=1)
    exact = subject.flow(STILL, smile)
    held = estimate_flow(*stabilise(clip, subject.landmarks()).frames).uv
    loose = estimate_flow(*clip).uv
    errors = [float(np.hypot(*(uv - exact.uv))[exact.face].mean()) for uv in (held, loose)]
    assert errors[0] < 0.3 * errors[1]


def test_frames_do_not_depend_on_one_another() -> None:
    clip = np.stack([moved(texture("astronaut"), euclidean(0.002 * t, 0.3 * t, 0.1), 1.0, t) for t in range(4)])
    together = stabilise(clip, FACE)
    for t in (1, 3):
        alone = stabilise(clip[[0, t]], FACE)
        assert np.array_equal(alone.frames[1], together.frames[t])
        assert np.array_equal(alone.transforms[1], together.transforms[t])


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_registered_is_kept_and_counted(method: str) -> None:
    onset = texture("astronaut")
    noise = np.random.default_rng(0).integers(0, 255, onset.shape, np.uint8)
    far = moved(onset, euclidean(0, 30, 25))
    clip = np.stack([onset, noise, moved(onset, euclidean(0, 0.5, 0)), np.full_like(onset, 7), far])
    result = stabilise(clip, FACE, StabiliseConfig(method=method))  # type: ignore[arg-type]
    assert result.drift.failed == (1, 3, 4)
    for t in result.drift.failed:
        assert np.array_equal(result.frames[t], clip[t])
        assert np.array_equal(result.transforms[t], np.eye(2, 3))
        assert np.isnan(result.drift.before[t])
    report = result.drift.to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["failed"] == [1, 3, 4]
    assert report["before"]["frames"][1] is None
    assert report["before"]["max"] == pytest.approx(0.5, abs=0.05)
    assert report["after"]["max"] < 0.05


def test_after_is_measured_and_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a resampler that does nothing, the report says that nothing was gained."""
    clip = np.stack([texture("astronaut"), moved(texture("astronaut"), euclidean(0, 1.0, 0))])
    monkeypatch.setattr("mesynth.preprocess.stabilise.resample", lambda frames, transforms: frames)
    drift = stabilise(clip, FACE).drift
    assert drift.after[1] == pytest.approx(drift.before[1])
    assert drift.after[1] > 0.9


def test_ecc_falls_back_to_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = np.stack([texture("astronaut"), moved(texture("astronaut"), euclidean(0, 1.2, -0.4))])
    monkeypatch.setattr("mesynth.preprocess.stabilise._Registrar._ecc", lambda self, coefficients, start: None)
    result = stabilise(clip, FACE)
    assert result.drift.fallback == (1,)
    assert error(result.transforms[1], euclidean(0, 1.2, -0.4)) < 0.06


def test_resample_is_exact_on_whole_pixels_and_finer_than_a_32nd() -> None:
    picture = texture("camera")
    shift = np.array([[[1.0, 0, 3], [0, 1, -2]]])
    out = resample(picture[None], shift)[0]
    assert np.array_equal(out[2:, :-3], picture[:-2, 3:])
    ramp = np.repeat(np.repeat(np.arange(128, dtype=np.uint8)[None] * 2, 128, 0)[..., None], 3, -1)
    halves = resample(ramp[None], np.array([[[1.0, 0, 0.26], [0, 1, 0]]]))[0, 10, 10:100]
    assert (halves == ramp[10, 10:100] + 1).all()  # 0.52 of a grey level rounds up; 8/32 px would give 0.5, to even


def test_peak_of_a_gaussian() -> None:
    y, x = np.mgrid[:40, :60]
    for truth in ([0.3, -0.2], [-7.45, 4.1]):
        dx = (x - truth[0] + 30) % 60 - 30
        dy = (y - truth[1] + 20) % 40 - 20
        assert _peak(np.exp(-(dx**2 + dy**2) / 8)) == pytest.approx(truth, abs=1e-6)


def test_bad_input() -> None:
    clip = np.stack([texture("camera")] * 2)
    with pytest.raises(MesynthError, match=r"square uint8 RGB crops \[T,S,S,3\]"):
        stabilise(clip.astype(np.float32), FACE)
    with pytest.raises(MesynthError, match="square"):
        stabilise(clip[:, :100], FACE)
    with pytest.raises(MesynthError, match="no frames"):
        stabilise(clip[:0], FACE)
    with pytest.raises(MesynthError, match="shows 0 pixels"):
        stabilise(clip, FACE + 500)
    with pytest.raises(MesynthError, match="68 finite points"):
        stabilise(clip, FACE[:5])
    assert stabilise(clip[:1], FACE).drift.to_dict()["before"]["mean"] is None


@pytest.mark.parametrize(
    "values",
    [{"method": "orb"}, {"iterations": 0}, {"blur": 0.0}, {"tolerance": float("nan")}, {"min_correlation": 2.0}],
)
def test_bad_config(values: dict[str, object]) -> None:
    with pytest.raises(MesynthError, match=next(iter(values))):
        StabiliseConfig(**values)  # type: ignore[arg-type]
