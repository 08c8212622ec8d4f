"""TV-L1 against known warps and against scikit-image's implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.registration import optical_flow_tvl1

from mesynth.core.errors import MesynthError
from mesynth.preprocess import tvl1 as module
from mesynth.preprocess.flow import estimate_flow, estimate_flows, flow_picture, grayscale
from mesynth.preprocess.tvl1 import TVL1Config, _gradient, _median3, _threads_for, tvl1
from tests.preprocess.textures import end_point_error, smooth_field, texture, warped_pair

NAMES = ("astronaut", "camera", "chelsea")


def pairs(peak: float, noise: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    made = []
    for i, name in enumerate(NAMES):
        field = smooth_field(i, peak)
        made.append((*warped_pair(texture(name), field, noise, i), field))
    return made


@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.parametrize("peak", [0.3, 1.0, 2.0, 4.0])
def test_not_worse_than_skimage(peak: float, noise: float) -> None:
    ours, theirs, apart = [], [], []
    for pair in pairs(peak, noise):
        a, b = (picture[16:112, 16:112] for picture in pair[:2])  # scikit-image takes its time
        truth = pair[2][:, 16:112, 16:112]
        uv = estimate_flow(a, b).uv
        v, u = optical_flow_tvl1(grayscale(a), grayscale(b))
        other = np.stack([u, v])
        ours.append(end_point_error(uv, truth))
        theirs.append(end_point_error(other, truth))
        apart.append(end_point_error(uv, other))
    assert np.mean(ours) <= 1.1 * np.mean(theirs)
    assert np.mean(apart) < 0.06 + 0.1 * peak


def test_sub_pixel_accuracy_on_a_face() -> None:
    field = smooth_field(3, 1.0)
    a, b = warped_pair(texture("astronaut"), field)
    assert end_point_error(estimate_flow(a, b).uv, field) < 0.3 * np.hypot(*field).mean()


def test_direction_and_unit() -> None:
    """The whole picture moves 2 px right and 1 px up: u = +2, v = -1."""
    big = np.pad(texture("camera"), ((8, 8), (8, 8), (0, 0)), mode="reflect")
    a, b = big[8:-8, 8:-8], big[9:-7, 6:-10]
    uv = estimate_flow(a, b).uv
    assert np.allclose(np.median(uv, axis=(1, 2)), [2, -1], atol=0.1)


def test_same_picture_has_no_flow() -> None:
    a = texture("chelsea")
    assert np.abs(estimate_flow(a, a).uv).max() < 5e-3


def test_a_flat_picture_has_no_flow() -> None:
    grey = torch.full((1, 32, 32), 0.5)
    assert torch.equal(tvl1(grey, grey), torch.zeros(1, 2, 32, 32))


def test_result_does_not_depend_on_the_batch_or_the_run() -> None:
    made = pairs(2.0, 2.0)
    a, b = (np.stack([p[k] for p in made]) for k in (0, 1))
    together = estimate_flows(a, b)
    for i in range(len(made)):
        assert np.array_equal(together[i].uv, estimate_flow(a[i], b[i]).uv)


def test_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesynth.preprocess.tvl1._SMALL", 0)
    a, b, _ = pairs(2.0, 0.0)[0]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = estimate_flow(a, b).uv
        torch.set_num_threads(2)
        assert np.array_equal(one, estimate_flow(a, b).uv)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_small_work_runs_on_one_thread_and_the_setting_comes_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with _threads_for(torch.zeros(1, 128, 128)):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with _threads_for(torch.zeros(1, 1024, 1024)):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("h", "w"), [(40, 64), (65, 33), (16, 16)])
def test_any_size(h: int, w: int) -> None:
    a = torch.from_numpy(grayscale(texture("camera")))[None, :h, :w]
    assert tvl1(a, a.roll(1, 2)).shape == (1, 2, h, w)


def test_output_is_an_ordinary_tensor() -> None:
    a = torch.rand(1, 32, 32)
    uv = tvl1(a, a).requires_grad_()
    uv.sum().backward()
    assert uv.grad is not None


def test_more_regularisation_gives_smoother_flow() -> None:
    a, b, _ = pairs(2.0, 4.0)[0]
    grey = [torch.from_numpy(grayscale(x))[None] for x in (a, b)]

    def roughness(attachment: float) -> float:
        uv = tvl1(grey[0], grey[1], TVL1Config(attachment=attachment))
        return float(uv.diff(dim=-1).abs().mean())

    assert roughness(5) < roughness(30) < roughness(200)


@pytest.mark.parametrize("shape", [(1, 128, 128), (3, 97, 64), (9, 64, 33), (2, 16, 17)])
@pytest.mark.parametrize("median", [True, False])
def test_the_compiled_loop_does_what_torch_does(
    shape: tuple[int, int, int], median: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a CPU beside what runs on a GPU, here on the CPU too."""
    made = pairs(2.0, 1.0)
    a, b = (
        torch.from_numpy(grayscale(np.stack([made[i % 3][k] for i in range(shape[0])]))[:, : shape[1], : shape[2]])
        for k in (0, 1)
    )
    config = TVL1Config(median=median)
    compiled = tvl1(a, b, config)
    monkeypatch.setattr(module._Dual, "compiled", None)
    in_torch = tvl1(a, b, config)
    moved = in_torch.square().sum(1).sqrt().mean()
    assert moved > 0.05
    assert (compiled - in_torch).abs().mean() < 1e-4
    assert (compiled - in_torch).abs().max() < 2e-2


def test_gradient_of_a_ramp_is_its_slope() -> None:
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    inside = _gradient((0.3 * x - 0.2 * y)[None])[0, :, 2:-2, 2:-2]
    assert torch.allclose(inside[0], torch.tensor(0.3), atol=1e-5)
    assert torch.allclose(inside[1], torch.tensor(-0.2), atol=1e-5)


def test_median_network_is_the_median() -> None:
    u = torch.randn(2, 2, 9, 11)
    windows = torch.nn.functional.pad(u, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    assert torch.equal(_median3(u), windows.reshape(*u.shape, 9).median(-1).values)


# ---------------------------------------------------------------- the other methods, bad input, the picture


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_opencv_methods_find_the_same_motion(method: str) -> None:
    field = smooth_field(3, 2.0)
    a, b = warped_pair(texture("chelsea"), field)
    assert end_point_error(estimate_flow(a, b, method).uv, field) < 0.5 * np.hypot(*field).mean()


def test_bad_input() -> None:
    a = texture("camera")
    with pytest.raises(MesynthError, match="'raft9' is unknown; choose from tvl1, dis, farneback"):
        estimate_flow(a, a, "raft9")
    with pytest.raises(MesynthError, match="one size"):
        estimate_flow(a, a[:64])
    with pytest.raises(MesynthError, match="uint8"):
        estimate_flow(a.astype(np.float32), a.astype(np.float32))
    with pytest.raises(MesynthError, match="12x128"):
        estimate_flow(a[:, :12], a[:, :12])
    with pytest.raises(MesynthError, match=r"two \[B,H,W\]"):
        tvl1(torch.zeros(32, 32), torch.zeros(32, 32))


@pytest.mark.parametrize(
    "values", [{"attachment": 0.0}, {"warps": 0}, {"presmooth": -1.0}, {"tightness": float("nan")}]
)
def test_bad_config(values: dict[str, float]) -> None:
    with pytest.raises(MesynthError, match=next(iter(values))):
        TVL1Config(**values)  # type: ignore[arg-type]


def test_method_missing_from_this_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("cv2.DISOpticalFlow_create")
    a = texture("camera")
    with pytest.raises(MesynthError, match="has no DIS flow; use method tvl1"):
        estimate_flow(a, a, "dis")


def test_grayscale_keeps_fractions() -> None:
    assert grayscale(np.full((2, 2, 3), 255, np.uint8)) == pytest.approx(1.0)
    steps = grayscale(np.array([[[100, 100, 100], [100, 100, 101]]], np.uint8))
    assert 0 < steps[0, 1] - steps[0, 0] < 1 / 255


def test_flow_picture_has_a_fixed_scale() -> None:
    still, right, faster = (np.zeros((2, 4, 4), np.float32) for _ in range(3))
    right[0], faster[0] = 1, 2
    assert (flow_picture(still) == 255).all()
    assert flow_picture(right)[0, 0].tolist() == [255, 191, 191]  # red is to the right
    assert flow_picture(faster)[0, 0].tolist() == [255, 128, 128]
    assert np.array_equal(flow_picture(faster, 2.0), flow_picture(2 * faster, 2.0))  # saturates
    with pytest.raises(MesynthError, match="positive"):
        flow_picture(still, 0)


@pytest.mark.parametrize(("pairs_given", "parts"), [(1, 1), (7, 1), (15, 1), (16, 2), (63, 7), (64, 8)])
def test_large_batches_are_worked_on_in_parts(pairs_given: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, pairs_given, 20, 24)
    whole = tvl1(a, b)
    sizes, real = [], module._pyramid

    def counted(pair: torch.Tensor, config: TVL1Config) -> torch.Tensor:
        sizes.append(pair.shape[1])
        return real(pair, config)

    monkeypatch.setattr(module, "_pyramid", counted)
    monkeypatch.setattr(module, "_AT_ONCE", 20 * 24)
    found = tvl1(a, b)
    assert len(sizes) == parts
    assert sum(sizes) == pairs_given
    assert min(sizes) >= min(8, pairs_given)
    assert found.shape == (pairs_given, 2, 20, 24)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
