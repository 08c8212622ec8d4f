import numpy as np
import pytest
import torch

from mesynth.generators.formation import (
    FADE,
    Motion,
    amount,
    combine,
    determinants,
    face_matrix,
    form,
    limited_length,
    onto_face,
    turned,
    unfolded,
)
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.warping import bilinear, soft_limit
from tests.preprocess.test_warping import swirl


def smooth_picture(size: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    return torch.stack([0.5 + 0.4 * torch.sin(9 * x + 4 * y), 0.5 + 0.4 * torch.cos(7 * y), 0.3 + 0.5 * x * y])[None]


def test_no_motion_and_no_change_give_the_onset_bit_for_bit() -> None:
    onset = torch.rand(2, 3, 16, 16)
    still = Motion(torch.zeros(2, 2, 16, 16), torch.ones(2, 1, 16, 16), torch.rand(2, 3, 16, 16))
    assert torch.equal(form(onset, still), onset)


def test_the_frame_shows_the_flow_it_is_made_from() -> None:
    """onset(x) = frame(x + F(x)): the reported flow leads from the onset to the frame, not back."""
    onset, flow = smooth_picture(48).double(), swirl(48, 1.2)
    frame = form(onset, Motion(flow, torch.ones(1, 1, 48, 48), torch.zeros(1, 3, 48, 48)))
    inner = (..., slice(4, -4), slice(4, -4))
    right = (bilinear(frame, flow) - onset)[inner].abs().mean()
    wrong = (bilinear(frame, -flow) - onset)[inner].abs().mean()
    still = (frame - onset)[inner].abs().mean()
    assert right < 0.05 * still
    assert wrong > still


def test_change_appears_where_the_mask_is_open() -> None:
    onset = torch.full((1, 3, 8, 8), 0.5)
    mask = torch.ones(1, 1, 8, 8)
    mask[..., 2, 3] = 0.25
    frame = form(onset, Motion(torch.zeros(1, 2, 8, 8), mask, torch.full((1, 3, 8, 8), 0.1)))
    assert torch.allclose(frame[..., 2, 3], torch.tensor(0.5 + 0.75 * 0.1))
    assert int((frame != onset).any(1).sum()) == 1


def test_amount_is_exactly_zero_at_zero_with_a_finite_gradient() -> None:
    aus = torch.zeros(2, 5, requires_grad=True)
    got = amount(aus)
    got.sum().backward()
    assert not got.any()
    assert aus.grad is not None
    assert bool(aus.grad.isfinite().all())
    assert torch.equal(amount(torch.tensor([[0.3, 0.0], [1.0, 1.0]])), torch.tensor([0.3, 1.0]))


def test_combine_is_the_sum_over_aus_and_sides() -> None:
    fields, weights = torch.randn(2, 3, 2, 2, 4, 5), torch.rand(2, 3, 2)
    want = sum(weights[:, k, s, None, None, None] * fields[:, k, s] for k in range(3) for s in range(2))
    assert torch.allclose(combine(fields, weights), torch.as_tensor(want), atol=1e-6)


def test_numpy_and_torch_limits_agree() -> None:
    flow = np.random.default_rng(0).normal(0, 3, (6, 7, 2)).astype(np.float32)
    other = soft_limit(torch.from_numpy(flow).permute(2, 0, 1)[None], 2.5)[0].permute(1, 2, 0).numpy()
    assert np.allclose(limited_length(flow, 2.5), other, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_unfolded_flow_has_an_inverse_and_stays_where_it_was_sound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    flow = np.zeros((32, 32, 2), np.float32)
    bump = np.exp(-((x - 16) ** 2 + (y - rng.uniform(12, 20)) ** 2) / rng.uniform(3, 12))
    flow[..., 1] = rng.uniform(4, 8) * bump
    assert determinants(flow).min() < 0
    out = unfolded(flow)
    assert determinants(out).min() >= 0.2
    assert np.array_equal(out[:, :4], flow[:, :4])
    assert out[..., 1].max() > 0.4 * flow[..., 1].max()
    assert unfolded(out) is out


def test_determinants_of_a_linear_map() -> None:
    y, x = np.mgrid[:5, :6].astype(float)
    flow = np.stack([0.1 * x + 0.2 * y, -0.3 * x + 0.4 * y], -1)
    assert np.allclose(determinants(flow), 1.1 * 1.4 - 0.2 * -0.3)


def crop(angle: float, scale: float) -> SimilarityCrop:
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[c, s], [-s, c]])
    return SimilarityCrop(np.column_stack([linear, np.array([31.5, 31.5]) - linear @ np.array([60.0, 50.0])]), 64)


@pytest.mark.parametrize("side", [32, 64])
def test_maps_of_a_crop_lie_where_the_crop_was_taken(side: int) -> None:
    """A map that holds its own coordinates, in crop pixels, comes back as the crop's coordinates of each pixel."""
    c = crop(0.3, 0.8)
    at = (np.arange(side) + 0.5) * 64 / side - 0.5
    x, y = np.meshgrid(at, at)
    read = onto_face(np.stack([x, y]).astype(np.float32), c, 100, 120)
    for px, py in ((60, 50), (70, 40), (45, 65)):
        assert np.allclose(read[py, px], c.points(np.array([[px, py]], np.float64))[0], atol=0.05)


def test_maps_fade_outside_the_crop() -> None:
    c = SimilarityCrop(np.array([[1.0, 0, -20], [0, 1, -20]]), 64)  # covers pixels 20..83
    read = onto_face(np.ones((1, 64, 64), np.float32), c, 104, 104)[..., 0]
    assert np.allclose(read[20:84, 20:84], 1)
    reach = int(np.ceil(FADE * 64)) + 1
    assert not read[: 20 - reach].any()
    assert not read[:, 84 + reach :].any()
    assert np.all(np.diff(read[50, 83:]) <= 1e-6)


def test_flow_turns_and_scales_with_the_crop() -> None:
    c = crop(0.3, 0.8)
    step = np.array([3.0, -2.0])
    in_map = face_matrix(c, 32)[:, :2] @ step
    assert np.allclose(turned(in_map.astype(np.float32), c, 32), step, atol=1e-5)
