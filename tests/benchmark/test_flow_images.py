"""Flow images as features: what they hold, and that their distance orders what it should."""

from __future__ import annotations

import numpy as np
import pytest

from mesynth.benchmark.answers import DIM, SIDE, flow_image
from mesynth.benchmark.protocol import BENCHMARK_SEEDS, Person, Request, requests_of
from mesynth.benchmark.resampling import draws, paired_kid

EVERYWHERE = np.ones((128, 128), np.bool_)


def test_a_shift_is_a_shift_and_has_no_strain() -> None:
    uv = np.zeros((2, 128, 128), np.float32)
    uv[0], uv[1] = 0.5, -2
    got = flow_image(uv, EVERYWHERE).astype(float).reshape(3, SIDE, SIDE)
    np.testing.assert_allclose(got[0], np.arcsinh(0.5), atol=1e-3)
    np.testing.assert_allclose(got[1], np.arcsinh(-2), atol=2e-3)
    np.testing.assert_allclose(got[2], 0, atol=1e-3)


def test_strain_is_that_of_the_field() -> None:
    """u = g x at 128 px has strain g a pixel: g 128 / 28 a cell."""
    uv = np.zeros((2, 128, 128), np.float32)
    uv[0] = 0.02 * np.arange(128)
    got = flow_image(uv, EVERYWHERE).astype(float).reshape(3, SIDE, SIDE)
    np.testing.assert_allclose(np.sinh(got[2]), 0.02 * 128 / SIDE, rtol=0.02)


def test_the_size_of_the_crop_does_not_matter() -> None:
    """The same motion at twice the size is twice as many pixels."""
    x, y = np.meshgrid(np.linspace(-1, 1, 128), np.linspace(-1, 1, 128))
    small = np.stack([np.exp(-4 * (x**2 + y**2)), x * np.exp(-4 * y**2)]).astype(np.float32)
    large = 2 * small.repeat(2, 1).repeat(2, 2)
    got = flow_image(large, np.ones((256, 256), np.bool_)).astype(float)
    np.testing.assert_allclose(got, flow_image(small, EVERYWHERE).astype(float), atol=5e-3)


def test_what_does_not_count_is_not_seen() -> None:
    uv = np.random.default_rng(0).standard_normal((2, 128, 128)).astype(np.float32)
    assert not flow_image(uv, ~EVERYWHERE).any()
    inside = EVERYWHERE.copy()
    inside[:, 64:] = False
    other = np.where(inside, uv, 7).astype(np.float32)
    np.testing.assert_array_equal(flow_image(uv, inside), flow_image(other, inside))
    assert flow_image(uv, inside).shape == (DIM,)


@pytest.fixture(scope="module")
def flows() -> list[tuple[np.ndarray, np.ndarray]]:
    """Per person, exact flows [R,2,S,S] and where they are known."""
    asked = [r for r in requests_of((1, 4, 12), (0.5, 1.0)) if r.imaged]
    people = [Person(seed, 64) for seed in BENCHMARK_SEEDS[:3]]
    pairs = [[person.flow(request) for request in asked] for person in people]
    return [(np.stack([uv for uv, _ in p]), np.stack([ok for _, ok in p])) for p in pairs]


def distance(flows: list[tuple[np.ndarray, np.ndarray]], change: object) -> float:
    def images(f: object) -> list[np.ndarray]:
        return [np.stack([flow_image(f(uv), ok) for uv, ok in zip(*both, strict=True)]) for both in flows]  # type: ignore[operator]

    return float(paired_kid(draws(3, 20, 0), images(change), images(lambda uv: uv))[0])


def test_the_distance_orders_what_is_wrong_by_how_wrong_it_is(flows: list[tuple[np.ndarray, np.ndarray]]) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 64, 64)).astype(np.float32)
    found = {
        "exact": distance(flows, lambda uv: uv),
        "a little weak": distance(flows, lambda uv: np.float32(0.8) * uv),
        "weak": distance(flows, lambda uv: np.float32(0.5) * uv),
        "still": distance(flows, lambda uv: 0 * uv),
        "against": distance(flows, lambda uv: -uv),
    }
    assert found["exact"] == 0
    assert list(found.values()) == sorted(found.values()), found
    noisy = [distance(flows, lambda uv, s=s: uv + np.float32(s) * noise) for s in (0.2, 0.6, 2.0)]
    assert 0 < noisy[0] < noisy[1] < noisy[2]
    assert distance(flows, lambda uv: uv[:, :, ::-1]) > found["a little weak"]  # in the wrong place


def test_flow_images_are_asked_for_at_two_levels_on_both_sides_and_on_one() -> None:
    asked = requests_of((4, 12, 17), (0.1, 0.25, 0.5, 1.0))
    names = {r.name for r in asked if r.imaged}
    assert names == {"4=0.5", "4=1", "12=0.5", "12=1", "17=0.5", "17=1", "L4=0.5", "R4=1", "R12=0.5", "L12=1"}
    assert {r.name for r in asked if r.pictured} == {n for n in names if n[0] not in "LR"}
    assert not Request(4, "B", 0.5).imaged
