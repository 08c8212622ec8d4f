import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from recognizer import metrics
from recognizer.metrics import MissingClassError, confusion, evaluate, f1_scores
from recognizer.statistics import bootstrap, compare, holm, subject_counts

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


@given(pairs)
def test_uf1_equals_sklearn_over_the_full_label_list(items: list[tuple[int, int]]) -> None:
    y, predicted = np.array(items).T
    expected = f1_score(y, predicted, labels=[0, 1, 2], average="macro", zero_division=0)
    assert metrics.uf1(confusion(y, predicted, 3)) == pytest.approx(expected)


@given(pairs)
def test_uar_equals_sklearn_over_the_classes_with_clips(items: list[tuple[int, int]]) -> None:
    y, predicted = np.array(items).T
    expected = recall_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0)
    assert metrics.uar(confusion(y, predicted, 3)) == pytest.approx(expected)


@given(pairs, st.integers(1, 5))
def test_counts_are_summed_over_folds_not_averaged(items: list[tuple[int, int]], folds: int) -> None:
    y, predicted = np.array(items).T
    parts = [
        confusion(a, b, 3) for a, b in zip(np.array_split(y, folds), np.array_split(predicted, folds), strict=True)
    ]
    np.testing.assert_array_equal(np.sum(parts, 0), confusion(y, predicted, 3))


def test_an_absent_class_counts_zero_in_uf1_and_is_refused_by_evaluate() -> None:
    y, predicted = np.array([0, 0, 1]), np.array([0, 0, 1])
    assert f1_scores(confusion(y, predicted, 3)).tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(MissingClassError, match=r"class c has no test clip.*data.classes=\[a,b\]"):
        evaluate(y, predicted, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("y", "p", "match"), [([0, 3], [0, 0], "labels span"), ([0], [0, 1], "one length"), ([0], [-1], "pre")]
)
def test_nonsense_is_refused(y: list[int], p: list[int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        confusion(np.array(y), np.array(p), 3)


# ---------------------------------------------------------------- statistics


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
    found = bootstrap(counts, draws=4000, seed=1)
    rng = np.random.default_rng(5)
    plain = [metrics.uf1(counts[0, rng.integers(0, 6, 6)].sum(0)) for _ in range(4000)]
    assert found.value == pytest.approx(float(metrics.uf1(counts[0].sum(0))))
    assert found.sd == pytest.approx(np.std(plain), rel=0.1)
    np.testing.assert_allclose([found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=0.01)


def test_a_real_difference_is_found_and_none_is_not() -> None:
    a, b = outcomes(0.6, 0), outcomes(0.8, 1)
    gain = compare(a, b)
    assert gain.low > 0.05
    assert gain.p < 0.01
    assert gain.verdict.startswith("gain: +0.")
    assert compare(b, a).verdict.startswith("loss: -0.")
    same = compare(a, a)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    assert same.verdict == "no gain: +0.000 [+0.000, +0.000], p 1.000"


def test_few_subjects_are_permuted_exhaustively() -> None:
    a, b = outcomes(0.3, 0, subjects=5), outcomes(0.95, 1, subjects=5)
    assert compare(a, b).p == pytest.approx(2 / 32)  # only the observed assignment and its mirror are as far apart


def test_p_values_are_uniform_without_a_difference() -> None:
    p = [compare(outcomes(0.6, 2 * i), outcomes(0.6, 2 * i + 1), draws=200).p for i in range(60)]
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) < 0.1) < 0.3


def test_only_the_same_clips_are_compared() -> None:
    with pytest.raises(ValueError, match="same clips"):
        compare(outcomes(0.6, 0), outcomes(0.6, 0, clips=9))
    with pytest.raises(ValueError, match="2 and 1 seeds"):
        compare(outcomes(0.6, 0), outcomes(0.6, 0, seeds=1))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_p_and_bonferroni(values: list[float]) -> None:
    p = np.array(values)
    corrected = holm(p)
    assert (corrected >= p - 1e-12).all()
    assert (corrected <= np.minimum(p * len(p), 1) + 1e-12).all()
