"""How sure a figure is: against plain loops, known answers, and what clips of one subject must do to an interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.statistics import (
    Comparison,
    bootstrap,
    bootstrap_counts,
    compare_counts,
    group_weights,
    holm,
    interval_of,
    percentiles,
    subject_counts,
    wilson,
)
from recognizer import results

# ---------------------------------------------------------------- values of clips


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_clips_of_a_subject_that_are_alike_count_once(rng: np.random.Generator, statistic: Any) -> None:
    """Ten identical clips of each of eight people say no more than one of each."""
    people = rng.standard_normal(8)
    clips, who = np.repeat(people, 10), np.repeat([f"p{i}" for i in range(8)], 10)

    def width(values: np.ndarray, groups: Any) -> float:
        low, high = interval_of(values, statistic, groups, np.random.default_rng(0), resamples=800)
        assert low is not None
        assert high is not None
        return high - low

    by_clip, by_subject = width(clips, range(80)), width(clips, who)
    assert by_subject > 1.8 * by_clip
    assert by_subject == pytest.approx(width(people, range(8)), rel=0.15)


def test_a_draw_of_groups_is_the_plain_loop(rng: np.random.Generator) -> None:
    values, groups = rng.standard_normal(7), ["b", "a", "b", "c", "c", "c", "d"]
    found = bootstrap(values, np.median, groups, np.random.default_rng(3), resamples=40)
    parts = [values[[0, 2]], values[[1]], values[[3, 4, 5]], values[[6]]]
    drawn = np.random.default_rng(3).integers(4, size=(40, 4))
    assert found.tolist() == [float(np.median(np.concatenate([parts[i] for i in row]))) for row in drawn]


def test_one_group_says_nothing_about_others(rng: np.random.Generator) -> None:
    assert interval_of(rng.standard_normal(9), np.mean, ["one"] * 9, rng) == (None, None)
    assert percentiles(np.full(5, np.nan)) == (None, None)


def test_clips_of_a_subject_are_drawn_together() -> None:
    weights = group_weights(["a", "b", "a", "c"], np.random.default_rng(3), resamples=50)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert set(weights[:, [0, 1, 3]].sum(1)) == {3.0}


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share_and_stays_a_share(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    low, high = wilson(count, n)
    assert 0 <= low <= count / n + 1e-12
    assert count / n - 1e-12 <= high <= 1


# ---------------------------------------------------------------- confusion counts


def compared(a: np.ndarray, b: np.ndarray, draws: int = 2000) -> Comparison:
    return compare_counts(a, b, statistic=results.uf1, draws=draws)


def outcomes(right: float, seed: int, subjects: int = 20, clips: int = 12, seeds: int = 2) -> np.ndarray:
    """Counts [K,S,C,C] of a classifier that is right with the given probability."""
    rng = np.random.default_rng(seed)
    n = subjects * clips
    y = np.tile(np.arange(n) % 3, seeds)
    predicted = np.where(rng.random(len(y)) < right, y, (y + rng.integers(1, 3, len(y))) % 3)
    who = np.tile(np.arange(n) // clips, seeds).astype(str)
    return subject_counts(y, predicted, who, np.repeat(np.arange(seeds), n), 3)


def test_subject_counts_sum_to_the_confusion() -> None:
    counts = outcomes(0.7, 0)
    assert counts.shape == (2, 20, 3, 3)
    assert counts.sum() == 480
    assert (counts.sum((2, 3)) == 12).all()


def test_bootstrap_equals_a_plain_loop() -> None:
    counts = outcomes(0.7, 0, subjects=6, seeds=1)
    found = bootstrap_counts(counts, statistic=results.uf1, draws=4000, seed=1)
    rng = np.random.default_rng(5)
    plain = [results.uf1(counts[0, rng.integers(0, 6, 6)].sum(0)) for _ in range(4000)]
    assert found.value == pytest.approx(float(results.uf1(counts[0].sum(0))))
    assert found.sd == pytest.approx(np.std(plain), rel=0.1)
    np.testing.assert_allclose([found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=0.01)


def test_a_real_difference_is_found_and_none_is_not() -> None:
    a, b = outcomes(0.6, 0), outcomes(0.8, 1)
    gain, loss, same = compared(a, b), compared(b, a), compared(a, a)
    assert 0.05 < gain.low < gain.value < gain.high
    assert gain.p < 0.01
    assert (loss.value, loss.p) == (-gain.value, gain.p)
    assert loss.high < 0
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_few_subjects_are_permuted_exhaustively() -> None:
    a, b = outcomes(0.3, 0, subjects=5), outcomes(0.95, 1, subjects=5)
    assert compared(a, b).p == pytest.approx(2 / 32)  # only the observed assignment and its mirror are as far apart


def test_p_values_are_uniform_without_a_difference() -> None:
    p = [compared(outcomes(0.6, 2 * i), outcomes(0.6, 2 * i + 1), draws=200).p for i in range(60)]
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) < 0.1) < 0.3


def test_only_the_same_clips_are_compared() -> None:
    with pytest.raises(ValueError, match="same clips"):
        compared(outcomes(0.6, 0), outcomes(0.6, 0, clips=9))
    with pytest.raises(ValueError, match="2 and 1 seeds"):
        compared(outcomes(0.6, 0), outcomes(0.6, 0, seeds=1))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_p_and_bonferroni(values: list[float]) -> None:
    p = np.array(values)
    corrected = holm(p)
    assert (corrected >= p - 1e-12).all()
    assert (corrected <= np.minimum(p * len(p), 1) + 1e-12).all()
