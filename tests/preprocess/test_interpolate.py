"""Temporal interpolation: TIM against the published construction, exactness at frames, known motion between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.preprocess.interpolate import (
    METHODS,
    frames_at,
    linear_weights,
    nearest_weights,
    positions_for,
    resample,
    resampled_fps,
    tim_weights,
)
from tests.devices import DEVICES


def clips(batch: int = 2, frames: int = 6, size: int = 20, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = np.random.default_rng(0).random((batch, frames, 3, size, size))
    return torch.from_numpy(values).to(dtype)


def moving_stripes(frames: int, speed: float, size: int = 48) -> torch.Tensor:
    """[1,T,3,S,S] float32: a smooth pattern that moves right by ``speed`` pixels a frame, without sampling error."""
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    t = np.arange(frames)[:, None, None]
    values = 0.5 + 0.22 * np.sin(0.45 * (x - speed * t)) + 0.18 * np.cos(0.31 * (x - speed * t) + 0.37 * y)
    return torch.from_numpy(np.repeat(values[None, :, None], 3, 2)).float()


def published_tim(frames: np.ndarray, t: np.ndarray) -> np.ndarray:
    """TIM as the papers construct it: [T,D] frames, t in [1/T,1] -> [N,D], through the SVD and a linear map W."""
    n = len(frames)
    mean = frames.mean(0)
    u, s, vt = np.linalg.svd((frames - mean).T, full_matrices=False)
    u, q = u[:, : n - 1], np.diag(s[: n - 1]) @ vt[: n - 1]  # X = U Q
    # Eigenvectors of the path graph's Laplacian, computed, not taken from the formula.
    laplacian = np.diag([1.0, *[2.0] * (n - 2), 1.0]) - np.eye(n, k=1) - np.eye(n, k=-1)
    _, vectors = np.linalg.eigh(laplacian)
    y = vectors[:, 1:].T  # [T-1,T]
    w = np.linalg.solve(q @ q.T, q @ y.T)  # W^T Q = Y
    k = np.arange(1, n)
    curve = np.sin(np.pi * k[:, None] * t + np.pi * (n - k[:, None]) / (2 * n))
    first = np.sin(np.pi * k / n + np.pi * (n - k) / (2 * n))
    scale = y[:, 0] / first  # eigh returns unit vectors of either sign
    return (u @ np.linalg.inv(w).T @ (curve * scale[:, None])).T + mean


def test_tim_is_the_published_model():
    frames = np.random.default_rng(1).random((9, 400))
    p = np.array([0, 0.3, 1.5, 4, 6.9, 8])
    assert np.allclose(tim_weights(9, p) @ frames, published_tim(frames, (p + 1) / 9), atol=1e-9)


@given(n=st.integers(2, 40), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_one_and_are_exact_on_frames(n, share):
    for weights in (tim_weights, linear_weights, nearest_weights):
        assert np.isclose(weights(n, [share * (n - 1)]).sum(), 1)
        assert np.array_equal(weights(n, np.arange(n)), np.eye(n))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
def test_frames_come_back_bit_for_bit(method, device):
    video = clips().to(device)
    out = frames_at(video, [0, 2, 5, 3], method)
    assert out.device == video.device
    assert torch.equal(out, video[:, [0, 2, 5, 3]])


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_does_not_depend_on_its_batch(method):
    video = clips(3)
    together = frames_at(video, [0.5, 2.2, 4.9], method)
    assert torch.equal(together[1:2], frames_at(video[1:2], [0.5, 2.2, 4.9], method))


def test_tim_recovers_a_smooth_motion_better_than_linear():
    full = moving_stripes(31, 0.5)
    positions = np.linspace(0, 10, 31)
    error = {
        method: (frames_at(full[:, ::3], positions, method) - full)[..., 6:-6].abs().mean().item() for method in METHODS
    }
    assert error["tim"] < 0.6 * error["linear"] < 0.6 * error["nearest"]


def test_flow_recovers_a_fast_motion():
    """Three pixels between frames: blending doubles the pattern, flow moves it."""
    full = moving_stripes(9, 1.5)
    between = torch.arange(1, 8, 2)
    positions = (between / 2).tolist()
    error = {
        method: (frames_at(full[:, ::2], positions, method) - full[:, between])[..., 8:-8, 8:-8].abs().mean().item()
        for method in ("flow", "linear")
    }
    assert error["flow"] < 0.35 * error["linear"]


@given(n_frames=st.integers(3, 60), n=st.integers(3, 60), data=st.data())
@settings(max_examples=80, deadline=None)
def test_positions_keep_ends_and_apex(n_frames, n, data):
    apex = data.draw(st.integers(0, n_frames - 1))
    positions, index = positions_for(n_frames, n, apex)
    assert len(positions) == n
    assert positions[0] == 0
    assert positions[-1] == n_frames - 1
    assert positions[index] == apex
    assert (np.diff(positions) > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_resample_keeps_the_apex_frame(method):
    video = clips(frames=7)
    out, index = resample(video, 10, method, apex=2)
    assert out.shape == (2, 10, 3, 20, 20)
    assert index == 3
    assert torch.equal(out[:, index], video[:, 2])
    assert torch.equal(out[:, [0, -1]], video[:, [0, -1]])


def test_resample_tracks_an_apex_it_does_not_keep():
    out, index = resample(clips(frames=7), 4, "linear", apex=3, keep_apex=False)
    assert out.shape[1] == 4
    assert index in (1, 2)
    assert resample(clips(), 4)[1] is None


def test_same_length_is_the_identity():
    video = clips()
    assert torch.equal(resample(video, 6, "tim", apex=4)[0], video)


def test_fps_keeps_the_duration():
    assert resampled_fps(100, 31, 11) == pytest.approx(100 / 3)
    with pytest.raises(MesynthError, match="positive"):
        resampled_fps(0, 31, 11)
    with pytest.raises(MesynthError, match="at least 2"):
        resampled_fps(100, 1, 11)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frames_at(clips(), [1], "cubic"), "choose from tim, linear, nearest, flow"),
        (lambda: frames_at(clips(), [5.5]), "5.5 is outside"),
        (lambda: frames_at(clips(), [-1.0]), "-1 is outside"),
        (lambda: frames_at(clips(), [float("nan")]), "finite"),
        (lambda: frames_at(clips()[0], [1]), "B,T,C,H,W"),
        (lambda: frames_at(clips(frames=1), [0]), "at least 2"),
        (lambda: resample(clips(), 1), "at least 2"),
        (lambda: resample(clips(), 2, apex=2), "at least 3"),
        (lambda: resample(clips(), 5, apex=6), "apex 6 is outside"),
        (lambda: resample(clips(), 5, apex=6, keep_apex=False), "apex 6 is outside"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(MesynthError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
