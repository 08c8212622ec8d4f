"""Pictures of clips, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mesynth.core.errors import MesynthError
from mesynth.preprocess.inputs import (
    active_image,
    difference_image,
    dynamic_image,
    mean_image,
    rank_pooling_coefficients,
    to_picture,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def clips(batch: int = 2, frames: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((batch, frames, 3, 8, 9)))


def test_coefficients_by_hand():
    assert rank_pooling_coefficients(4).tolist() == [-3, -1, 1, 3]
    # alpha_1 = 2 * 2 - 3 * (1 + 1/2), alpha_2 = 2 * 1 - 3 / 2
    assert np.allclose(rank_pooling_coefficients(2, "averages"), [-0.5, 0.5])


@pytest.mark.parametrize("kind", ["frames", "averages"])
@pytest.mark.parametrize("n", [2, 5, 30])
def test_coefficients_are_the_sum_over_ordered_pairs(kind, n):
    """The definition: the sum over all pairs q > t of V_q - V_t, V the frames or their running averages."""
    frames = np.eye(n)
    v = frames if kind == "frames" else np.cumsum(frames, 0) / np.arange(1, n + 1)[:, None]
    total = sum(v[q] - v[t] for q in range(n) for t in range(q))
    assert np.allclose(rank_pooling_coefficients(n, kind), total)
    assert abs(total.sum()) < 1e-9


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["frames", "averages"])
def test_dynamic_image_of_a_ramp(kind, device):
    """Pixels that brighten evenly show up, still ones do not; the scale does not grow with the frames."""
    for n in (10, 40):
        video = torch.full((1, n, 3, 4, 4), 0.5, device=device)
        video[..., 0, 0] += torch.linspace(0, 0.2, n, device=device)[None, :, None]
        image = dynamic_image(video, kind)
        assert image.device == video.device
        assert image[0, :, 1:, 1:].abs().max() < 1e-6
        assert 0.08 < image[0, 0, 0, 0] < 0.16


def test_active_image_shows_the_height_of_a_raised_cosine():
    phase = torch.arange(64) / 64
    video = torch.full((1, 64, 1, 2, 2), 0.3, dtype=torch.float64)
    video[0, :, 0, 0, 0] += 0.1 * (0.5 - 0.5 * torch.cos(2 * math.pi * phase))
    image = active_image(video)
    assert image[0, 0, 1, 1] == pytest.approx(0.3)
    assert image[0, 0, 0, 0].item() == pytest.approx(0.3 + 0.05 + 0.1, abs=1e-3)  # mean rise and apex


def test_active_image_does_not_gather_noise_with_frames():
    rng = np.random.default_rng(0)
    level = [active_image(torch.from_numpy(0.01 * rng.standard_normal((1, n, 1, 32, 32)))).mean() for n in (20, 200)]
    assert level[1] < 1.1 * level[0]


def test_difference_and_mean():
    video = clips()
    assert torch.equal(difference_image(video, 4), video[:, 4] - video[:, 0])
    assert torch.equal(difference_image(video, 2, onset=4), -difference_image(video, 4, onset=2))
    assert torch.allclose(mean_image(video), video.mean(1))


def test_an_image_does_not_depend_on_its_batch():
    video = clips(3)
    for make in (dynamic_image, active_image, mean_image):
        assert torch.equal(make(video)[1:2], make(video[1:2]))


def test_fixed_scale_is_the_documented_one():
    image = torch.tensor([-1.0, -0.25, 0.0, 0.125, 0.25, 1.0]).view(1, 1, 1, 6)
    assert to_picture(image).flatten().tolist() == [0, 0, 128, 191, 255, 255]
    assert to_picture(torch.tensor([[[[0.0, 0.5, 1.0]]]]), 0.5, 0.5).flatten().tolist() == [0, 128, 255]


def test_stretching_uses_each_picture_alone():
    image = torch.stack([torch.linspace(0, 1, 12).view(3, 2, 2), torch.linspace(-5, 5, 12).view(3, 2, 2)])
    picture = to_picture(image, None)
    assert picture.dtype == torch.uint8
    assert torch.equal(picture[0], picture[1])
    assert (picture.amin().item(), picture.amax().item()) == (0, 255)
    assert (to_picture(torch.zeros(1, 3, 2, 2), None) == 128).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dynamic_image(clips(frames=1)), "at least 2 frames, got 1"),
        (lambda: dynamic_image(clips(), "svm"), "choose from frames, averages"),
        (lambda: dynamic_image(clips()[0]), "B,T,C,H,W"),
        (lambda: active_image(clips(frames=1)), "at least 2"),
        (lambda: active_image(clips(), -1), "gain=-1"),
        (lambda: mean_image(clips()[:, :0]), "at least 1"),
        (lambda: difference_image(clips(), 7), "apex 7 is outside"),
        (lambda: difference_image(clips(), 3, -1), "onset -1 is outside"),
        (lambda: to_picture(clips()), "B,C,H,W"),
        (lambda: to_picture(clips()[:, 0], 0), "half_range=0"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(MesynthError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
