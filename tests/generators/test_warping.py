import numpy as np
import pytest
import torch

from mesynth.core.types import optical_strain
from mesynth.preprocess.warping import backward_of, bilinear, differentiable_strain, from_means, resize_flow, soft_limit


def swirl(size: int, amount: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A smooth flow with exact derivatives, [1,2,size,size] pixels."""
    y, x = torch.meshgrid(torch.arange(size, dtype=dtype), torch.arange(size, dtype=dtype), indexing="ij")
    phase = 2 * torch.pi / size
    return amount * torch.stack([torch.sin(phase * y), torch.sin(phase * x)])[None]


def test_backward_field_undoes_the_forward_flow() -> None:
    flow = swirl(40, 1.5)
    there_and_back = (flow + bilinear(backward_of(flow, 30), flow))[..., 4:-4, 4:-4]
    assert there_and_back.abs().max() < 0.02  # what bilinear reading of a curved field costs


def test_gradient_of_the_backward_field() -> None:
    """Against central differences of the fully solved inverse, along a random direction."""
    torch.manual_seed(0)
    flow, direction = swirl(24, 0.5), swirl(24, 1.0).flip(1)
    target = torch.randn(1, 2, 24, 24, dtype=torch.float64)
    leaf = flow.clone().requires_grad_(True)
    (backward_of(leaf, 30) * target).sum().backward()
    assert leaf.grad is not None
    slope = float((leaf.grad * direction).sum())
    with torch.no_grad():
        step = 1e-3
        exact = float(
            ((backward_of(flow + step * direction, 60) - backward_of(flow - step * direction, 60)) * target).sum()
        )
    # First order in the flow's Jacobian (here up to .13), as the docstring says.
    assert slope == pytest.approx(exact / (2 * step), rel=0.15)


def test_values_are_found_from_the_means_of_cells() -> None:
    """Exact for parabolas away from the border; nearer than the means themselves for waves of six cells."""
    fine = (torch.arange(160, dtype=torch.float64) + 0.5) / 10 - 8
    centre = torch.arange(16, dtype=torch.float64) + 0.5 - 8
    for curve in (lambda t: t**2, lambda t: torch.cos(2 * torch.pi * t / 6)):
        field = (curve(fine)[:, None] + 0.3 * curve(fine)[None, :])[None, None]
        exact = (curve(centre)[:, None] + 0.3 * curve(centre)[None, :])[None, None]
        means = torch.nn.functional.avg_pool2d(field, 10)
        inner = (..., slice(1, -1), slice(1, -1))
        before, after = ((made - exact)[inner].abs().max() for made in (means, from_means(means)))
        assert after < (2e-3 if exact.max() > 2 else 0.15 * before)
        assert before > 0.02
    flat = torch.rand(2, 2, 1, 1).expand(2, 2, 5, 5)
    torch.testing.assert_close(from_means(flat), flat)


def test_resized_flow_is_in_new_pixels() -> None:
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    small = torch.stack([0.1 * x, 0.2 * y])[None]
    large = resize_flow(small, (16, 32))
    assert large.shape == (1, 2, 16, 32)
    # Pixel centre 13 of 32 lies at (13 + .5) / 4 - .5 of 8.
    assert large[0, 0, 5, 13] == pytest.approx(0.1 * ((13 + 0.5) / 4 - 0.5) * 4, abs=1e-5)
    assert large[0, 1, 5, 13] == pytest.approx(0.2 * ((5 + 0.5) / 2 - 0.5) * 2, abs=1e-5)


@pytest.mark.parametrize("length", [0.0, 0.5, 1.0, 2.0, 4.0, 100.0])
def test_soft_limit(length: float) -> None:
    flow = torch.tensor([0.6, -0.8], dtype=torch.float64).view(1, 2, 1, 1) * length
    got = soft_limit(flow, 2.0)
    size = float(got.norm())
    assert size < 2.0
    assert length == 0 or torch.allclose(got / size, flow / length)
    if length <= 1:
        assert size == pytest.approx(length, rel=0.016)


def test_strain_is_the_projects() -> None:
    uv = torch.randn(2, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    assert np.allclose(differentiable_strain(uv)[:, 0].numpy(), optical_strain(uv.numpy()), atol=1e-5)


def test_strain_of_no_motion_has_a_finite_gradient() -> None:
    flow = torch.zeros(1, 2, 8, 8, requires_grad=True)
    differentiable_strain(flow).sum().backward()
    assert flow.grad is not None
    assert bool(flow.grad.isfinite().all())
