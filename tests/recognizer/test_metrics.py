import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from recognizer import results
from recognizer.report import terminal
from recognizer.results import MissingClassError, confusion, evaluate, f1_scores

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


@given(pairs)
def test_uf1_equals_sklearn_over_the_full_label_list(items: list[tuple[int, int]]) -> None:
    y, predicted = np.array(items).T
    expected = f1_score(y, predicted, labels=[0, 1, 2], average="macro", zero_division=0)
    assert results.uf1(confusion(y, predicted, 3)) == pytest.approx(expected)


@given(pairs)
def test_uar_equals_sklearn_over_the_classes_with_clips(items: list[tuple[int, int]]) -> None:
    y, predicted = np.array(items).T
    expected = recall_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0)
    assert results.uar(confusion(y, predicted, 3)) == pytest.approx(expected)


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


@pytest.mark.parametrize("columns", [3, 9, 30])
def test_a_table_is_never_cut(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    header = [f"column{i}" for i in range(columns)]
    terminal("title", header, [[f"0.{i:03d}-value" for i in range(columns)]])
    printed = capsys.readouterr().out
    assert "…" not in printed
    for i, name in enumerate(header):
        assert name in printed
        assert f"0.{i:03d}-value" in printed
