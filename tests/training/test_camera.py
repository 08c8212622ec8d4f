"""Cameras that training pairs are seen by, and the random numbers that they draw."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError
from mesynth.training.data.camera import OFF, CameraConfig, degrade, draw_seeds, uniforms
from tests.preprocess import textures

# ---------------------------------------------------------------- random numbers


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_draw_knows_neither_batch_nor_order(draws, seed) -> None:
    batch = np.array(draws, np.int64)
    seeds = draw_seeds(seed, "x", batch)
    alone = np.concatenate([draw_seeds(seed, "x", batch[i : i + 1]) for i in range(len(batch))])
    assert (seeds == alone).all()
    assert seeds.dtype == np.int64
    assert (seeds >= 0).all()
    u = uniforms(seeds, "y", 5)
    assert (u == np.concatenate([uniforms(seeds[i : i + 1], "y", 5) for i in range(len(batch))])).all()
    assert (uniforms(seeds, "y", 3) == u[:, :3]).all()


def test_numbers_are_uniform_and_uncorrelated() -> None:
    seeds = draw_seeds(0, "x", np.arange(20_000))
    assert len(np.unique(seeds)) == len(seeds)
    u = uniforms(seeds, "y", 4)
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, 20, (0, 1))[0] / u.size * 20
    assert np.abs(counts - 1).max() < 0.05  # standard error .016
    others = [uniforms(seeds, "z", 1), uniforms(draw_seeds(1, "x", np.arange(20_000)), "y", 1), np.roll(u[:, :1], 1)]
    correlation = np.corrcoef(np.concatenate([u, *others], 1).T) - np.eye(7)
    assert np.abs(correlation).max() < 0.03  # standard error .007


# ---------------------------------------------------------------- cameras


NOTHING = {"exposure": 0, "balance": 0, "gamma": 0, "blur": 0, "shrink": 0, "noise": 0, "jpeg": 0}


def only(**part: float) -> CameraConfig:
    return CameraConfig(**(NOTHING | {"probability": 1.0} | part))


def pairs(n: int, size: int = 48, seed: int = 0) -> np.ndarray:
    """[n,2,S,S,3]: smooth colours, both frames of a pair equal."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (n, 8, 8, 3)).astype(np.uint8)
    frames = np.stack([cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC) for c in coarse])
    return np.repeat(frames[:, None], 2, 1)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=6), st.integers(0, 9))
def test_a_pair_knows_neither_batch_nor_order(seeds, content) -> None:
    frames, keys = pairs(len(seeds), seed=content), np.array(seeds, np.int64)
    before = frames.copy()
    out = degrade(frames, keys, CameraConfig())
    assert (frames == before).all()  # the input is left alone
    back = degrade(frames[::-1], keys[::-1], CameraConfig())[::-1]
    alone = np.concatenate([degrade(frames[i : i + 1], keys[i : i + 1], CameraConfig()) for i in range(len(keys))])
    assert (out == back).all()
    assert (out == alone).all()
    assert out.dtype == np.uint8


def test_off_changes_nothing() -> None:
    frames, seeds = pairs(8), np.arange(8)
    assert (degrade(frames, seeds, OFF) == frames).all()
    assert (degrade(frames, seeds, only()) == frames).all()


def test_share_is_the_share_of_pairs() -> None:
    frames = pairs(1).repeat(400, 0)
    out = degrade(frames, np.arange(400), CameraConfig(**(NOTHING | {"probability": 0.3, "exposure": 0.5})))
    assert (out != frames).any((1, 2, 3, 4)).mean() == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize(
    "part", [{"exposure": 0.5}, {"balance": 0.2}, {"gamma": 0.5}, {"blur": 2.0}, {"shrink": 3.0}, {"jpeg": 1.0}]
)
def test_the_camera_is_shared_by_both_frames(part: dict[str, float]) -> None:
    frames, seeds = pairs(8), np.arange(8)
    out = degrade(frames, seeds, only(**part))
    assert (out[:, 0] == out[:, 1]).all()
    assert (out != frames).any((1, 2, 3, 4)).mean() > 0.8
    assert len({o.tobytes() for o in out}) == 8
    assert (degrade(frames[:1].repeat(8, 0), seeds, only(**part)) != frames[:1]).any()


def test_noise_is_each_frames_own_and_as_strong_as_asked() -> None:
    grey = np.full((200, 2, 48, 48, 3), 128, np.uint8)
    out = degrade(grey, np.arange(200), only(noise=6.0)).astype(np.float64) - 128
    sd = out.std((2, 3, 4))
    assert (sd[:, 0] > 0.2).mean() > 0.9
    np.testing.assert_allclose(sd[:, 0], sd[:, 1], rtol=0.15, atol=0.1)  # one camera
    assert sd.max() < 6.3
    assert sd.mean() == pytest.approx(3.0, abs=0.4)  # uniform in 0..6
    assert abs(out.mean()) < 0.05
    noisy = out[sd[:, 0] > 1]
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in noisy]
    assert np.abs(correlation).max() < 0.08  # standard error .012


def test_tone_follows_its_formula() -> None:
    from mesynth.training.data.camera import tone_curve

    u = np.array([1.0, 0.5, 0.75, 0.0, 0.25])
    curve = tone_curve(u, only(exposure=0.2, balance=0.1, gamma=0.4))
    assert curve is not None
    level, exponent = 100 / 255, np.exp(-0.2)
    for c, shift in enumerate((0.0, 0.05, -0.1)):
        expected = 255 * min(level * np.exp(0.2 + shift), 1) ** exponent
        assert curve[0, 100, c] == pytest.approx(expected, rel=1e-4)


def test_motion_stays_where_it_was() -> None:
    """Frames of a texture that moves by a known flow: after the camera the same flow still explains them."""
    flow = textures.smooth_field(0, 4.0)
    first, second = textures.warped_pair(textures.texture("astronaut"), flow)
    frames = np.stack([first, second])[None].repeat(12, 0)
    config = CameraConfig(probability=1.0, noise=0.0, jpeg=0.0, shrink=1.8)
    size = first.shape[0]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    inner = (slice(8, -8), slice(8, -8))
    for onset, frame in degrade(frames, np.arange(12), config):
        back = cv2.remap(frame, x + flow[0], y + flow[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        still = np.abs(onset.astype(float) - frame)[inner].mean()
        moved = np.abs(onset.astype(float) - back)[inner].mean()
        assert moved < 0.35 * still


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": 1.5}, "probability=1.5"),
        ({"jpeg": -0.1}, "jpeg=-0.1"),
        ({"noise": 99.0}, "noise=99"),
        ({"shrink": -1.0}, "shrink=-1"),
        ({"blur": float("nan")}, "blur=nan"),
        ({"quality": 5}, "quality=5"),
    ],
)
def test_bad_config(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CameraConfig(**change)


def test_grey_pairs_are_grey_and_the_others_what_they_were() -> None:
    frames = pairs(60)
    seeds = draw_seeds(0, "grey", np.arange(60))
    plain, some, every = (degrade(frames, seeds, CameraConfig(probability=1.0, grey=grey)) for grey in (0.0, 0.4, 1.0))
    grey = (some == some[..., :1]).all((1, 2, 3, 4))
    assert 0.2 < grey.mean() < 0.6
    assert (some[~grey] == plain[~grey]).all()
    assert (some[grey] == every[grey]).all()
    assert (every == every[..., :1]).all()
    luma = plain.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(degrade(frames, seeds, only(grey=1.0))[..., 0] - frames @ [0.299, 0.587, 0.114]).max() < 1
    assert np.abs(every[..., 0] - luma).mean() < 4
