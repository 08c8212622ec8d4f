"""Warping and inversion against analytic fields and pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.preprocess.warping import bilinear, fold_limit, invert, warp
from tests.preprocess.magnify.clips import DEVICES, NAMES
from tests.preprocess.textures import smooth_field, texture


def linear(a: float, b: float, c: float, d: float, side: int = 48) -> torch.Tensor:
    """[1,2,side,side]: F(x) = ((a, b), (c, d)) (x - centre)."""
    axis = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([a * x + b * y, c * x + d * y])[None]


@pytest.mark.parametrize("device", DEVICES)
def test_warp_is_exact_on_ramps_and_whole_pixels(device: str) -> None:
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    ramp = (0.3 * x - 0.2 * y)[None, None].to(device)
    shift = torch.tensor([0.3, -0.7], device=device).view(1, 2, 1, 1).expand(1, 2, 20, 30)
    inside = (..., slice(3, -3), slice(3, -3))
    assert torch.allclose(
        (warp(ramp, shift) - ramp)[inside], torch.tensor(0.3 * 0.3 + 0.2 * 0.7, device=device), atol=1e-4
    )
    noise = torch.rand(2, 3, 20, 30, device=device)
    whole = torch.tensor([2.0, -1.0], device=device).view(1, 2, 1, 1).expand(2, 2, 20, 30)
    assert torch.equal(warp(noise, whole)[inside], noise.roll((1, -2), (2, 3))[inside])
    assert torch.equal(warp(noise, torch.zeros_like(whole)), noise)


def test_the_picture_is_mirrored_beyond_the_border() -> None:
    row = torch.rand(1, 1, 4, 8)
    left = torch.zeros(1, 2, 4, 8)
    left[:, 0] = -2
    assert torch.equal(warp(row, left)[..., :3], row[..., [2, 1, 0]])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.0, 0.85))
def test_inverting_undoes_the_flow_up_to_near_the_fold(seed: int, share: float) -> None:
    field = torch.from_numpy(smooth_field(seed, 1.0, 10.0, 64))[None]
    flow = field * (share * float(fold_limit(field, 0.0)))
    backward = invert(flow, 60)
    residual = (backward + bilinear(flow, backward))[..., 16:-16, 16:-16]
    assert residual.abs().max() < 0.02


@pytest.mark.parametrize("matrix", [(-0.1, 0.0, 0.0, 0.0), (-0.1, 0.0, 0.0, -0.2), (0.05, 0.2, 0.2, 0.05)])
def test_the_fold_limit_is_the_analytic_one(matrix: tuple[float, float, float, float]) -> None:
    worst = float(np.linalg.eigvals(np.array(matrix).reshape(2, 2)).real.min())
    assert float(fold_limit(linear(*matrix), 0.0)) == pytest.approx(-1 / worst, rel=1e-3)


def test_what_only_grows_or_turns_never_folds() -> None:
    flows = torch.cat([linear(0.2, 0.0, 0.0, 0.1), linear(0.0, 0.3, -0.3, 0.0), linear(0, 0, 0, 0)])
    assert torch.isinf(fold_limit(flows, 0.1)).all()


def test_the_floor_is_the_area_that_is_left() -> None:
    assert float(fold_limit(linear(-0.1, 0, 0, 0), 0.25)) == pytest.approx(7.5, rel=1e-3)  # 1 - .1 m = .25


def test_warp_agrees_with_opencv_free_numpy_on_photographs() -> None:
    """Keys' kernel by its textbook formula, one pixel at a time."""
    picture = torch.from_numpy(texture(NAMES[0]).copy())[40:60, 40:60].permute(2, 0, 1)[None].float() / 255
    shift = torch.from_numpy(smooth_field(1, 1.5, 5.0, 20))[None]
    ours = warp(picture, shift)

    def kernel(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

    for row, column in ((5, 5), (10, 12), (14, 7)):
        x, y = column + float(shift[0, 0, row, column]), row + float(shift[0, 1, row, column])
        value = sum(kernel(x - i) * kernel(y - j) * float(picture[0, 1, j, i]) for j in range(20) for i in range(20))
        assert float(ours[0, 1, row, column]) == pytest.approx(value, abs=1e-4)
