"""Warping is exact where nothing moves, precise where it does, and notices folds."""

import numpy as np

from mesynth.motion.warp import backward_flow, folding, warp_backward


def _smooth(height: int = 48, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    bump = np.exp(-(((x - width / 2) / 9) ** 2) - (((y - height / 2) / 8) ** 2))
    return np.stack([2.0 * bump, -1.5 * bump], -1).astype(np.float32), bump


def test_inverse_undoes_the_flow() -> None:
    forward, _ = _smooth()
    backward = backward_flow(forward, iterations=12)
    y, x = np.mgrid[:48, :56]
    from scipy.ndimage import map_coordinates

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
