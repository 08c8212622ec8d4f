"""Parts of optical flow, and the head's motion taken out of it."""

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
from mesynth.preprocess.warping import (  # fmt: skip
    curl,
    divergence,
    global_motion,
    jacobian,
    magnitude,
    orientation,
    parts,
    remove_global_motion,
    strain,
)
from tests.preprocess.textures import smooth_field

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


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
