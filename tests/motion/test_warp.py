"""Warping is exact where nothing moves, precise where it does, and notices folds."""

from __future__ import annotations

from statistics import NormalDist

import cv2
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from mesynth.core import seeds
from mesynth.core.errors import MesynthError
from mesynth.motion.nuisance import recorded
from mesynth.motion.warp import PAD, _source, backward_after, backward_flow, folding, planes_of, warp_backward


def _smooth(height: int = 48, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bump = np.exp(-(((x - width / 2) / 9) ** 2) - (((y - height / 2) / 8) ** 2))
    return np.stack([2.0 * bump, -1.5 * bump], -1).astype(np.float32), bump


def test_inverse_undoes_the_flow() -> None:
    forward, _ = _smooth()
    backward = backward_flow(forward, iterations=12)
    y, x = np.mgrid[:48, :56]
    there = [map_coordinates(forward[..., c], [y + backward[..., 1], x + backward[..., 0]], order=1) for c in (0, 1)]
    np.testing.assert_allclose(backward, -np.stack(there, -1), atol=2e-3)


def test_zero_flow_returns_the_picture_bit_for_bit() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    out = warp_backward(image, np.zeros((20, 24, 2), np.float32))
    np.testing.assert_array_equal(out.astype(np.uint8), image)


def test_whole_pixel_shifts_are_exact() -> None:
    image = np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    shift = np.broadcast_to(np.float32([3, -2]), (20, 24, 2)).copy()
    out = warp_backward(image, shift)
    np.testing.assert_allclose(out[2:, :-3], image[:-2, 3:], atol=1e-3)


def test_a_tenth_of_a_pixel_is_seen() -> None:
    """Positions are not rounded to 1/32 pixel: a ramp moves by exactly what was asked."""
    x = np.tile(np.arange(64, dtype=np.uint8) * 4, (16, 1))
    image = np.repeat(x[..., None], 3, -1)
    for shift in (0.1, 0.013, 0.3):
        out = warp_backward(image, np.broadcast_to(np.float32([shift, 0]), (16, 64, 2)).copy())
        np.testing.assert_allclose(out[:, 4:-4, 0] - image[:, 4:-4, 0], 4 * shift, atol=1e-3)


def test_folding_is_measured() -> None:
    forward, _ = _smooth()
    assert 0.5 < folding(forward) < 1
    assert folding(20 * forward) < 0
    assert folding(np.zeros_like(forward)) == 1


def _keys(t: float) -> np.ndarray:
    """Keys' kernel, a = -1/2, at the four neighbours (IEEE Trans. ASSP 29, 1981, eq. 15)."""
    s = np.abs(np.array([t + 1, t, 1 - t, 2 - t]))
    return np.where(s <= 1, 1.5 * s**3 - 2.5 * s**2 + 1, -0.5 * s**3 + 2.5 * s**2 - 4 * s + 2)


def _exact(image: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """The definition, one pixel at a time in float64, of an endless picture mirrored once."""
    height, width = image.shape[:2]
    out = np.empty(image.shape)
    for y in range(height):
        for x in range(width):
            px, py = x + float(backward[y, x, 0]), y + float(backward[y, x, 1])
            fx, fy = int(np.floor(px)), int(np.floor(py))
            columns = [_once(fx + k, width - 1) for k in (-1, 0, 1, 2)]
            rows = [_once(fy + k, height - 1) for k in (-1, 0, 1, 2)]
            taps = image[np.ix_(rows, columns)].astype(float)
            out[y, x] = np.einsum("j,i,jic->c", _keys(py - fy), _keys(px - fx), taps)
    return np.clip(out, 0, 255)


def _once(value: int, last: int) -> int:
    value = abs(value)
    return min(max(2 * last - value if value > last else value, 0), last)


@pytest.mark.parametrize("most", [0.3, 2.0, 9.0, 40.0])
@pytest.mark.parametrize("shape", [(20, 24), (7, 5), (33, 70)])
def test_the_kernel_is_the_definition(most: float, shape: tuple[int, int]) -> None:
    """Runs of equal whole-pixel motion, their ends, borders, and motion from beyond the mirrored border."""
    rng = np.random.default_rng(int(10 * most) + shape[0])
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    rough = rng.uniform(-most, most, (*shape, 2)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 3) * 3
    for backward in (rough, np.ascontiguousarray(smooth)):
        np.testing.assert_allclose(warp_backward(image, backward), _exact(image, backward), atol=2e-3)


@pytest.mark.parametrize("inset", [1, 5, 9])
def test_the_inner_part_alone_is_the_inner_part(inset: int) -> None:
    rng = np.random.default_rng(inset)
    image = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    forward, _ = _smooth(40, 52)
    head = np.broadcast_to(np.float32([1.3, -0.4]), forward.shape).copy()
    middle = np.s_[inset:-inset, inset:-inset]
    whole = backward_flow(forward)
    np.testing.assert_allclose(backward_flow(forward, inset=inset)[middle], whole[middle], atol=1e-3)
    np.testing.assert_array_equal(warp_backward(image, whole, inset), warp_backward(image, whole)[middle])
    both = backward_after(forward, head, inset=inset)[middle]
    np.testing.assert_allclose(both, backward_after(forward, head)[middle], atol=1e-3)


def _read(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([map_coordinates(field[..., c], [y, x], order=1, mode="nearest") for c in (0, 1)], -1)


@pytest.mark.parametrize("strength", [0.02, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("moved", [(0.0, 0.0), (0.4, -1.7), (9.0, 30.0)])
def test_backward_flow_undoes_skin_and_head(strength: float, moved: tuple[float, float]) -> None:
    forward = _smooth()[0] * np.float32(strength)
    head = np.broadcast_to(np.float32(moved), forward.shape).copy()
    y, x = np.mgrid[:48, :56]
    back = backward_after(forward, head, 9).astype(float)
    there = _read(forward, x + back[..., 0], y + back[..., 1])
    np.testing.assert_allclose(back + there, head, atol=2e-3)
    assert not backward_flow(forward)[forward.any(-1) == 0].any()


def test_a_point_at_a_time_is_the_row_at_a_time() -> None:
    """Slits ask for single points, the skin for whole rows: one equation."""
    forward = _smooth()[0]
    rows = backward_flow(forward, 9)
    for y, x in ((3, 4), (24, 28), (20, 30), (47, 55), (0, 0), (25, 21)):
        px, py = _source(forward, float(x), float(y), 9)
        np.testing.assert_allclose([px - x, py - y], rows[y, x], atol=2e-3)


def test_planes_hold_the_picture_and_its_mirror() -> None:
    image = np.random.default_rng(3).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    expected = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), mode="reflect").transpose(2, 0, 1)
    np.testing.assert_array_equal(planes_of(image), expected)


# ------------------------------------------------------------------- sensor


@pytest.mark.parametrize("sd", [0.3, 1.5, 8.0])
def test_noise_is_normal_and_of_its_strength(sd: float) -> None:
    frame = np.full((200, 200, 3), 128.0, np.float32)
    levels = recorded(frame, sd, seeds.stream(0, "noise")).astype(float) - 128
    n = levels.size
    assert abs(levels.mean()) < 4 * np.hypot(sd, 0.3) / np.sqrt(n)
    normal, whole = NormalDist(0, sd), np.arange(-40, 41)
    shares = [normal.cdf(k + 0.5) - normal.cdf(k - 0.5) for k in whole]
    assert abs((levels**2).mean() / float((whole**2) @ shares) - 1) < 0.02
    for k in (-1, 0, 1):  # shares between whole levels, of a normal number that was rounded
        edge = k * np.ceil(sd) + 0.5
        share = normal.cdf(edge)
        assert abs((levels <= edge).mean() - share) < 5 * np.sqrt(share * (1 - share) / n) + 1e-4
    neighbours = np.corrcoef(levels[:, 1:].ravel(), levels[:, :-1].ravel())[0, 1]
    channels = np.corrcoef(levels[..., 0].ravel(), levels[..., 1].ravel())[0, 1]
    assert max(abs(neighbours), abs(channels)) < 5 / np.sqrt(n / 3)


def test_no_noise_rounds_and_draws_nothing() -> None:
    frame = np.array([[[-3, 0.49, 0.5], [254.6, 300, 17]]], np.float32)
    stream = seeds.stream(0, "noise")
    assert recorded(frame, 0.0, stream).tolist() == [[[0, 0, 1], [255, 255, 17]]]
    assert stream.random() == seeds.stream(0, "noise").random()


def test_noise_goes_where_it_is_told_and_depends_on_its_stream_alone() -> None:
    frame = np.random.default_rng(0).uniform(0, 255, (9, 7, 3)).astype(np.float32)  # not a multiple of four draws
    wide = np.zeros((11, 9, 3), np.uint8)
    recorded(frame, 2.0, seeds.stream(4, "noise"), wide[1:-1, 1:-1])
    np.testing.assert_array_equal(wide[1:-1, 1:-1], recorded(frame, 2.0, seeds.stream(4, "noise")))
    assert not wide[0].any()
    assert not wide[:, 0].any()
    assert (wide[1:-1, 1:-1] != recorded(frame, 2.0, seeds.stream(5, "noise"))).any()


@pytest.mark.parametrize(
    "out",
    [np.zeros((8, 7, 3), np.uint8), np.zeros((9, 7), np.uint8), np.zeros((9, 7, 3), np.float32)],
    ids=("short", "grey", "float"),
)
def test_nothing_is_recorded_beside_what_was_given_for_it(out: np.ndarray) -> None:
    """Compiled code would write on, into whatever lies behind."""
    frame = np.full((9, 7, 3), 100, np.float32)
    with pytest.raises(MesynthError, match=r"a frame of shape \(9, 7, 3\) cannot be recorded into"):
        recorded(frame, 0.0, seeds.stream(0, "noise"), out)
    assert not out.any()
