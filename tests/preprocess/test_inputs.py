"""Pictures of clips against their definitions, and landmarks over time against those of rendered heads."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError, NoFaceError
from mesynth.core.facs import parse_request
from mesynth.head import Subject
from mesynth.preprocess.inputs import (
    RIGID,
    active_image,
    detect,
    difference_image,
    displacements,
    dynamic_image,
    follow,
    in_face_frame,
    mean_image,
    rank_pooling_coefficients,
    smooth,
    to_picture,
    without_head_motion,
)
from tests.devices import DEVICES

# ---------------------------------------------------------------- pictures


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


# ---------------------------------------------------------------- landmarks over time


SHARES = (0.0, 0.4, 1.0, 0.5)
POSE = np.array(
    [[0, 0, 0, 0, 0, 0], [0, 0, 0.02, 0.02, -0.01, 0.01], [0, 0, 0.04, 0.04, 0.02, 0.02], [0, 0, 0, 0, 0, 0]]
)
INNER = [*range(17, 36), *range(36, 60)]  # the jaw lies on the outline, the inner lips on an edge of depth


@lru_cache(maxsize=1)
def head() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Landmarks [1,T,68,2] of a still head and of a moving one, and exact flows [1,T-1,2,H,W] of the latter."""
    subject = Subject(4, size=160, supersample=2, frontal=True)
    au = parse_request("1=0.6,2=0.5,12=0.5").intensity
    still = np.stack([subject.landmarks(s * au) for s in SHARES])
    moving = np.stack([subject.landmarks(s * au, p) for s, p in zip(SHARES, POSE, strict=True)])
    flows = np.stack(
        [subject.flow(0 * au, s * au, POSE[0], p).uv for s, p in zip(SHARES[1:], POSE[1:], strict=True)]
    )  # fmt: skip
    return torch.from_numpy(still)[None], torch.from_numpy(moving)[None], torch.from_numpy(flows)[None]


@pytest.mark.parametrize("device", DEVICES)
def test_landmarks_follow_exact_flow(device):
    _, moving, flows = head()
    found = follow(moving[:, 0].to(device), flows.to(device)).cpu()
    assert found.shape == moving.shape
    assert torch.equal(found[:, 0], moving[:, 0])
    moved = (moving - moving[:, :1]).norm(dim=-1)[0, :, INNER].max()
    error = (found - moving).norm(dim=-1)[0, :, INNER]
    assert moved > 4
    assert error.median() < 0.05
    assert error.max() < 0.5


def test_flow_is_sampled_between_pixels():
    x, y = torch.meshgrid(torch.arange(20.0), torch.arange(16.0), indexing="xy")
    flows = torch.stack([0.5 * x - 0.2 * y, 0.1 * x + 1])[None, None]
    points = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(0)) * 14
    found = follow(points, flows)[:, 1] - points
    truth = torch.stack([0.5 * points[..., 0] - 0.2 * points[..., 1], 0.1 * points[..., 0] + 1], -1)
    assert torch.allclose(found, truth, atol=1e-4)


def test_head_motion_goes_and_the_expression_stays():
    still, moving, _ = head()
    truth, found = displacements(still), displacements(moving)
    naive = in_face_frame(moving) - in_face_frame(moving)[:, :1]
    inner = (found - truth)[0, :, INNER].norm(dim=-1)
    assert truth[0, 2, INNER].norm(dim=-1).max() > 0.05
    assert inner.max() < 0.012  # IOD: what perspective leaves of a nearer head
    assert inner.mean() < 0.1 * (naive - truth)[0, 1:3, INNER].norm(dim=-1).mean()
    assert found[:, 0].abs().max() == 0


@given(
    angle=st.floats(-0.4, 0.4), scale=st.floats(0.8, 1.25), dx=st.floats(-9, 9), dy=st.floats(-9, 9)
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_any_similarity_is_undone(angle, scale, dx, dy):
    onset = head()[0][:, :1].double()
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turned = onset @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64) + torch.tensor([dx, dy])
    found = without_head_motion(torch.cat([onset, turned], 1))
    assert torch.allclose(found[:, 1], onset[:, 0], atol=1e-6)


def test_the_face_frame():
    points = in_face_frame(head()[0])
    eyes = points[0, 0, 36:48].view(2, 6, 2).mean(1)
    assert torch.allclose(eyes, torch.tensor([[-0.5, 0.0], [0.5, 0.0]]), atol=1e-5)
    assert points[0, 0, 8, 1] > 1  # the chin is below


def test_smoothing_takes_jitter_and_leaves_motion():
    still = head()[0]
    slow = still[:, :1] + torch.linspace(0, 1, 40).view(1, 40, 1, 1) * (still[:, 2:3] - still[:, :1])
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(slow.shape)).float()
    error = (smooth(slow + noise, 2.0) - slow)[:, 6:-6]
    assert error.std() < 0.5
    assert torch.allclose(smooth(slow, 2.0)[:, 8:-8], slow[:, 8:-8], atol=1e-3)
    assert torch.equal(smooth(slow, 0), slow)


def test_a_clip_does_not_depend_on_its_batch():
    still, moving, flows = head()
    both = torch.cat([still, moving])
    assert torch.equal(displacements(both, 1.0)[1:], displacements(moving, 1.0))
    twice = follow(torch.cat([still[:, 0], moving[:, 0]]), torch.cat([flows, flows]))
    assert torch.equal(twice[1:], follow(moving[:, 0], flows))


class Pointing:
    """A landmarker that reads the answer out of the picture's first pixel."""

    name = "pointing"

    def detect(self, image: np.ndarray, names: tuple[str, ...] = ()) -> np.ndarray:
        if image[0, 0, 0] == 9:
            raise NoFaceError("no face found")
        return np.full((68, 2), image[0, 0, 0], np.float32)

    def close(self) -> None:
        pass


def test_detection_frame_by_frame():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[:, 0, 0, 0] = [5, 6, 7]
    assert detect(frames, Pointing())[:, 0, 0].tolist() == [5, 6, 7]
    frames[1, 0, 0, 0] = 9
    with pytest.raises(NoFaceError, match="frame 1 of 3: no face"):
        detect(frames, Pointing())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: follow(p, torch.zeros(1, 3, 2, 8, 8)), r"B,68,2"),
        (lambda p: follow(p[:, 0], torch.zeros(2, 3, 2, 8, 8)), r"\[1,T-1,2,H,W\]"),
        (lambda p: detect(np.zeros((4, 4, 3), np.uint8), Pointing()), "T,H,W,3"),
        (lambda p: smooth(p[0], 1), "B,T,68,2"),
        (lambda p: smooth(p, -1), "sigma=-1"),
        (lambda p: without_head_motion(p, (27,)), "at least 2"),
        (lambda p: without_head_motion(p * 0, RIGID), "one spot"),
        (lambda p: in_face_frame(p * 0), "one point"),
    ],
)
def test_mistakes_with_landmarks_are_named(call, words):
    with pytest.raises(MesynthError, match=words) as error:
        call(head()[0])
    assert "\n" not in str(error.value)
