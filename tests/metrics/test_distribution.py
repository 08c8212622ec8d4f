"""Distances with known answers, and against the formulas they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from mesynth.metrics import fid as dist
from mesynth.metrics.fid import Moments, frechet, frechet_of_moments


def gaussian(seed: int, n: int, d: int, mean: float = 0.0, sd: float = 1.0) -> np.ndarray:
    return mean + sd * np.random.default_rng(seed).standard_normal((n, d))


def frechet_by_sqrtm(x: np.ndarray, y: np.ndarray) -> float:
    cx, cy = np.cov(x.T), np.cov(y.T)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * linalg.sqrtm(cx @ cy).real))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 60), m=st.integers(20, 60), d=st.integers(2, 8))
def test_frechet_is_the_matrix_square_root_formula(seed: int, n: int, m: int, d: int) -> None:
    mix = np.random.default_rng(seed).standard_normal((d, d))
    x, y = gaussian(seed, n, d) @ mix, gaussian(seed + 1, m, d, 0.5)
    assert frechet(x, y) == pytest.approx(frechet_by_sqrtm(x, y), rel=1e-6, abs=1e-8)


def test_frechet_of_isotropic_gaussians_has_its_closed_form() -> None:
    # N(0, I) and N(mu, s^2 I) in D dimensions: |mu|^2 + D (s - 1)^2
    x, y = gaussian(0, 60_000, 4), gaussian(1, 60_000, 4, mean=2.0, sd=3.0)
    assert frechet(x, y) == pytest.approx(4 * 2.0**2 + 4 * (3.0 - 1) ** 2, rel=0.02)


def test_frechet_with_more_features_than_rows_agrees_with_the_wide_route() -> None:
    x, y = gaussian(0, 12, 40), gaussian(1, 9, 40, 1.0)
    a, b = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))
    ca, cb = a.T @ a, b.T @ b
    eigen = np.linalg.eigvals(ca @ cb).real
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * np.sqrt(np.clip(eigen, 0, None)).sum()
    assert frechet(x, y) == pytest.approx(want, rel=1e-5)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_moments_in_parts_are_those_of_the_whole() -> None:
    x = gaussian(0, 57, 6, mean=1e4)
    parts = Moments.of([x[:1], x[1:30], x[30:]])
    assert parts.mean == pytest.approx(x.mean(0), rel=1e-12)
    assert parts.covariance == pytest.approx(np.cov(x.T), abs=1e-9)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        Moments.of([x[:1]])


@pytest.mark.parametrize("rank", [3, 6])
def test_frechet_of_moments_needs_no_full_rank(rank: int) -> None:
    mix, other = (np.random.default_rng(i).standard_normal((rank, 6)) for i in (1, 2))
    x, y = gaussian(0, 50, rank) @ mix, gaussian(1, 40, rank, 0.5) @ other
    eigen = np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T))
    want -= 2 * np.sqrt(np.clip(eigen, 0, None)).sum()
    assert frechet(x, y) == pytest.approx(want, rel=1e-6)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)


def test_moments_of_two_extractors_do_not_compare() -> None:
    with pytest.raises(ValueError, match="4 and 5 features"):
        frechet_of_moments(Moments.of([gaussian(0, 9, 4)]), Moments.of([gaussian(0, 9, 5)]))


def test_frechet_is_biased_at_small_n_and_kid_is_not() -> None:
    kids = [dist.kid(gaussian(2 * i, 30, 64), gaussian(2 * i + 1, 30, 64)) for i in range(40)]
    frechets = [frechet(gaussian(2 * i, 30, 64), gaussian(2 * i + 1, 30, 64)) for i in range(5)]
    assert abs(np.mean(kids)) < 3 * np.std(kids) / np.sqrt(len(kids))
    assert min(frechets) > 20


def naive_kid(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 12), m=st.integers(2, 12))
def test_kid_is_the_naive_double_loop(seed: int, n: int, m: int) -> None:
    x, y = gaussian(seed, n, 5), gaussian(seed + 1, m, 5, 0.3)
    assert dist.kid(x, y) == pytest.approx(naive_kid(x, y), rel=1e-9, abs=1e-9)


def test_kid_interval_covers_zero_for_one_distribution_and_not_for_two() -> None:
    x, same, other = gaussian(0, 60, 16), gaussian(1, 60, 16), gaussian(2, 60, 16, 0.8)
    groups = list(range(60))
    equal = dist.kid_interval(x, same, groups, groups, resamples=200)
    apart = dist.kid_interval(x, other, groups, groups, resamples=200)
    assert equal.low < 0 < equal.high
    assert 0 < apart.low < apart.value < apart.high
    assert equal.value == pytest.approx(dist.kid(x, same), rel=1e-9, abs=1e-12)
    assert apart == dist.kid_interval(x, other, groups, groups, resamples=200)


def test_kid_interval_never_pairs_frames_of_one_clip() -> None:
    # Frames of a clip are copies: counted as pairs they would look like perfect agreement within a side.
    x, y = gaussian(0, 20, 8), gaussian(1, 20, 8)
    clips = list(range(20))
    once = dist.kid_interval(x, y, clips, clips, resamples=50).value
    x3, y3, clips3 = (np.repeat(v, 3, 0) for v in (x, y, clips))
    twice = dist.kid_interval(x3, y3, clips3, clips3, resamples=50)
    assert twice.value == pytest.approx(once)
    assert dist.kid(x3, y3) > once + 0.1


def test_baseline_compares_disjoint_clips_and_needs_four() -> None:
    x = gaussian(0, 40, 6)
    base = dist.real_baseline(x, range(40), 100)
    assert base is not None
    assert base.n == 20
    assert abs(base.kid) < 0.5
    assert base.frechet > 0
    assert dist.real_baseline(x[:3], range(3), 3) is None


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), "shapes"),
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "NaN"),
    ],
)
def test_unfit_features_are_named(x: np.ndarray, y: np.ndarray, words: str) -> None:
    for distance in (dist.kid, frechet):
        with pytest.raises(ValueError, match=words):
            distance(x, y)
    with pytest.raises(ValueError, match="two clips"):
        dist.kid_interval(np.zeros((5, 3)), np.zeros((5, 3)), [0] * 5, range(5))


def test_baseline_over_subjects_counts_rows_not_subjects() -> None:
    base = dist.real_baseline(gaussian(0, 40, 6), [i // 5 for i in range(40)], 100)
    assert base is not None
    assert (base.n, base.rows) == (4, 20)
