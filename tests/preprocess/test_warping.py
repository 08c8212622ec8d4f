"""Warps, inversion and parts of flow against analytic fields and pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.core.facs import parse_request
from mesynth.core.types import optical_strain
from mesynth.head import Subject
from mesynth.preprocess.regions import rigid_mask
from mesynth.preprocess.warping import (
    backward_of,
    bilinear,
    curl,
    differentiable_strain,
    divergence,
    fold_limit,
    from_means,
    global_motion,
    invert,
    jacobian,
    magnitude,
    orientation,
    parts,
    remove_global_motion,
    resize_flow,
    soft_limit,
    strain,
    warp,
)
from tests.devices import DEVICES
from tests.preprocess.magnify.clips import NAMES
from tests.preprocess.textures import smooth_field, texture

# ---------------------------------------------------------------- warps


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


# ---------------------------------------------------------------- flow


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


# ---------------------------------------------------------------- what flow is made of


def similarity(angle: float, log_scale: float, tx: float, ty: float) -> torch.Tensor:
    """[2,3] float64 of the motion (rotate and scale about the centre, then shift) minus the identity."""
    scale = math.exp(log_scale)
    a, b = scale * math.cos(angle) - 1, scale * math.sin(angle)
    return torch.tensor([[a, -b, tx], [b, a, ty]], dtype=torch.float64)


@pytest.mark.parametrize("device", DEVICES)
def test_strain_agrees_with_the_one_on_the_wire(device: str) -> None:
    uv = np.stack([smooth_field(k, 3.0) for k in range(3)])
    assert strain(torch.from_numpy(uv).to(device)).cpu().numpy() == pytest.approx(optical_strain(uv), abs=1e-6)


def test_direction_is_clockwise_from_the_right() -> None:
    uv = torch.zeros(2, 2, 2)
    uv[0, 0, 0], uv[1, 0, 1], uv[0, 1, 0], uv[1, 1, 1] = 2.0, 2.0, -2.0, -2.0  # right, down, left, up
    assert torch.allclose(orientation(uv), torch.tensor([[0.0, math.pi / 2], [math.pi, -math.pi / 2]]))
    assert torch.equal(magnitude(uv), torch.full((2, 2), 2.0))


def test_gradients_of_a_linear_field_are_its_matrix() -> None:
    m = torch.tensor([[0.1, -0.3, 1.0], [0.2, 0.05, -2.0]], dtype=torch.float64)
    uv = global_motion(m, 9, 12)
    assert torch.allclose(jacobian(uv), m[:, :2, None, None].expand(2, 2, 9, 12))
    assert torch.allclose(divergence(uv), torch.tensor(0.15, dtype=torch.float64))
    assert torch.allclose(curl(uv), torch.tensor(0.5, dtype=torch.float64))
    assert parts(uv[None]).shape == (1, 3, 9, 12)
    # A rotation strains nothing but by its second-order part.
    assert float(strain(global_motion(similarity(0.01, 0, 0, 0), 9, 12)).max()) < 1e-4


def test_curl_is_positive_clockwise() -> None:
    turn = global_motion(similarity(0.1, 0, 0, 0), 5, 5)
    assert float(turn[1, 2, 4]) > 0  # right of the centre moves down: clockwise as seen
    assert float(curl(turn).min()) > 0


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(3, size=128, frontal=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("code", ["4=0.25", "12=0.35", "9=0.25", "1=0.35,2=0.35", "26=0.25", "6=0.5", "43=1"])
def test_expression_plus_known_head_motion(subject: Subject, code: str, device: str) -> None:
    """The exact field of a rendered expression, a similarity on top: both come apart again."""
    au = parse_request(code).intensity
    exact = subject.flow(np.zeros_like(au), au)
    expression = torch.from_numpy(exact.uv).double().to(device)
    mask = torch.from_numpy(rigid_mask(subject.landmarks(), 128)).to(device)
    head = similarity(0.008, 0.004, 0.9, -0.6).to(device)
    moved = expression + global_motion(head, 128, 128)
    rest, parameters = remove_global_motion(moved[None], mask.double())
    face = torch.from_numpy(exact.face).to(device)
    # AU 4 is the hard one: it draws the inner corners of the eyes together, which looks like a change of size.
    limit = 0.2 if code.startswith("4=") else 0.1
    assert float((rest[0] - expression)[:, face].norm(dim=0).mean()) < limit
    still, none = remove_global_motion(expression[None], mask.double())
    assert float((still[0] - expression)[:, face].norm(dim=0).mean()) < limit
    # The fit commutes with adding a motion of its own family: what it finds is what was added.
    assert torch.allclose(parameters[0] - none[0], head, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-0.02, 0.02),
    st.floats(-0.02, 0.02),
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.sampled_from([(40, 40), (32, 50)]),
)
def test_exact_where_a_quarter_of_the_region_moves_on_its_own(
    angle: float, log_scale: float, tx: float, ty: float, shape: tuple[int, int]
) -> None:
    h, w = shape
    truth = similarity(angle, log_scale, tx, ty)
    uv = global_motion(truth, h, w)
    own = torch.zeros(2, h, w, dtype=torch.float64)
    own[1, : h // 2, : w // 2] = -1.5
    rest, parameters = remove_global_motion((uv + own)[None], torch.ones(h, w))
    assert torch.allclose(parameters[0], truth, atol=1e-4)
    assert torch.allclose(rest[0], own, atol=5e-3)


@pytest.mark.parametrize("model", ["translation", "similarity", "affine"])
def test_each_model_removes_its_own_family_and_no_more(model: str) -> None:
    shift = torch.tensor([[0.0, 0.0, 0.7], [0.0, 0.0, -0.4]], dtype=torch.float64)
    turn = similarity(0.02, 0.01, 0.7, -0.4)
    shear = turn + torch.tensor([[0.0, 0.03, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    left = [
        float(remove_global_motion(global_motion(m, 33, 41)[None], torch.ones(33, 41), model)[0].abs().max())  # type: ignore[arg-type]
        for m in (shift, turn, shear)
    ]
    removed = {"translation": 1, "similarity": 2, "affine": 3}[model]
    assert max(left[:removed]) < 1e-6
    assert all(value > 0.05 for value in left[removed:])


def test_a_batch_is_its_items() -> None:
    uv = torch.stack([torch.from_numpy(smooth_field(k, 2.0, side=48)) for k in range(5)])
    weights = torch.rand(5, 48, 48, generator=torch.Generator().manual_seed(0))
    together = remove_global_motion(uv, weights, "affine")
    for i in range(5):
        alone = remove_global_motion(uv[i : i + 1], weights[i], "affine")
        assert torch.equal(alone[0][0], together[0][i])
        assert torch.equal(alone[1][0], together[1][i])


def test_pixels_of_weight_zero_have_no_say() -> None:
    uv = global_motion(similarity(0.01, 0, 1, 0), 30, 30)
    mask = torch.zeros(30, 30)
    mask[10:20, 10:20] = 1
    spoiled = torch.where(mask > 0, uv, 50 + 0 * uv)
    assert torch.allclose(remove_global_motion(spoiled[None], mask)[1][0], similarity(0.01, 0, 1, 0), atol=1e-6)


def test_bad_input() -> None:
    uv, ones = torch.zeros(1, 2, 8, 8), torch.ones(8, 8)
    with pytest.raises(MesynthError, match="'homography' is unknown; choose from translation"):
        remove_global_motion(uv, ones, "homography")  # type: ignore[arg-type]
    with pytest.raises(MesynthError, match=r"\(2, 8, 8\); expected \[B,2,H,W\]"):
        remove_global_motion(uv[0], ones)
    with pytest.raises(MesynthError, match="do not fit"):
        remove_global_motion(uv, torch.ones(7, 8))
    with pytest.raises(MesynthError, match="at least 12 pixels"):
        remove_global_motion(uv, torch.zeros(8, 8))
    with pytest.raises(MesynthError, match=">= 0"):
        remove_global_motion(uv, -ones)
    with pytest.raises(MesynthError, match="iterations=1"):
        remove_global_motion(uv, ones, iterations=1)
    with pytest.raises(MesynthError, match="expected float"):
        magnitude(torch.zeros(3, 8, 8))
    with pytest.raises(MesynthError, match="no gradient"):
        strain(torch.zeros(2, 1, 8))
    with pytest.raises(MesynthError, match=r"\[...,2,3\]"):
        global_motion(torch.zeros(3, 3), 4, 4)
