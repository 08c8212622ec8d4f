"""Statistics over draws of people, against the same statistics computed the plain way on the drawn data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.benchmark import resampling
from mesynth.metrics.control import agreement
from mesynth.metrics.fid import frechet


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(3, 12))
def test_moments_give_slope_and_icc_of_every_draw(seed: int, people: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.05, 1, (people, n))
    y = 0.7 * x + 0.1 * rng.standard_normal((people, n))
    w = resampling.draws(people, 20, seed)
    np.testing.assert_array_equal(w[0], 1)
    np.testing.assert_array_equal(w.sum(1), people)
    sums = resampling.moments(x, y)
    slopes, iccs, means = resampling.slope(w, sums), resampling.icc(w, sums), resampling.mean(w, y)
    for k, row in enumerate(w):
        index = np.repeat(np.arange(people), row.astype(int))
        found = agreement(x[index].ravel(), y[index].ravel(), 99)
        assert slopes[k] == pytest.approx(found.slope, abs=1e-9)
        assert iccs[k] == pytest.approx(found.icc, abs=1e-9)
        assert means[k] == pytest.approx(y[index].mean())


def test_what_is_missing_is_left_out() -> None:
    w = resampling.draws(2, 20, 0)
    values = np.array([[1.0, np.nan], [3.0, 5.0]])
    assert resampling.mean(w, values)[0] == 3
    assert resampling.ratio(w, values, np.array([[2.0, 7.0], [np.nan, 10.0]]))[0] == 6 / 12
    x = np.array([[0.0, 1.0, np.nan], [0.0, 1.0, 2.0]])
    assert resampling.slope(w, resampling.moments(x, 2 * x))[0] == pytest.approx(2)
    assert resampling.interval(resampling.mean(w, np.full((2, 3), np.nan))) is None
    found = resampling.interval(resampling.mean(w, values))
    assert found is not None
    assert found.low <= found.value <= found.high
    assert np.isnan(resampling.slope(w, resampling.moments(np.ones((2, 3)), x[:, :3]))[0])


def test_kid_between_different_people_is_zero_for_equal_sets_and_on_average_for_equal_distributions() -> None:
    rng = np.random.default_rng(0)
    values, shifted = [], []
    w = resampling.draws(5, 20, 0)
    for _ in range(40):
        # People differ far more than their pictures: only a KID without pairs of one person stays at 0.
        centre = 2 * rng.standard_normal((5, 1, 8))
        x, y = (list(centre + rng.standard_normal((5, 6, 8))) for _ in range(2))
        assert resampling.paired_kid(w, x, x)[0] == 0
        values.append(resampling.paired_kid(w, x, y)[0])
        shifted.append(resampling.paired_kid(w, x, [v + 1.5 for v in y])[0])
    spread = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * spread
    assert np.mean(shifted) > 10 * spread


def test_kid_of_a_draw_is_that_of_the_drawn_people() -> None:
    rng = np.random.default_rng(1)
    x, y = ([rng.standard_normal((n, 4)) for n in (2, 3, 4)] for _ in range(2))
    w = np.array([[1.0, 1, 1], [2, 0, 1]])
    found = resampling.paired_kid(w, x, y)[1]
    # Person 0 drawn twice and person 2 once: pairs of different people are (0, 2) alone.
    assert found == pytest.approx(resampling.paired_kid(np.ones((1, 2)), [x[0], x[2]], [y[0], y[2]])[0])


def test_frechet_of_everyone_is_the_plain_one() -> None:
    rng = np.random.default_rng(2)
    x, y = ([rng.standard_normal((6, 4)) + s for _ in range(4)] for s in (0, 1))
    w = resampling.draws(4, 30, 0)
    found = resampling.paired_frechet(w, x, y)
    assert found[0] == pytest.approx(frechet(np.concatenate(x), np.concatenate(y)))
    assert len(found) == 31
    assert resampling.paired_frechet(w[:1], x, x)[0] == pytest.approx(0, abs=1e-9)


def test_between_people_counts_nobody_against_himself() -> None:
    matrix = np.array([[9.0, 1, 2], [1, 9, 3], [2, 3, 9]])
    w = np.array([[1.0, 1, 1], [2, 1, 0], [3, 0, 0]])
    found = resampling.between(w, matrix)
    assert found[:2].tolist() == [2.0, 1.0]
    assert np.isnan(found[2])
