"""Warnings in groups."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesynth.benchmark.answers import SEPARATOR, Warned, grouped


def test_the_same_sentence_with_other_numbers_is_one_warning() -> None:
    texts = ["flow folds at the apex (det -0.32)", "", "flow folds at the apex (det -1.07)" + SEPARATOR + "by tvl1",
             "flow folds at the apex (det 0.00)", "by tvl1", "by tvl2"]  # fmt: skip
    assert grouped(texts) == {
        "flow folds at the apex (det #)": Warned(count=3, worst="flow folds at the apex (det -1.07)"),
        "by tvl1": Warned(count=2, worst="by tvl1"),
        "by tvl2": Warned(count=1, worst="by tvl2"),
    }
    assert next(iter(grouped(texts))) == "flow folds at the apex (det #)"
    assert grouped([]) == grouped([""]) == {}


def test_numbers_of_any_form() -> None:
    assert list(grouped(["AU 12 at 1e-3 of +2.5, -3"])) == ["AU # at # of #, #"]
    assert list(grouped(["v1.2.3, 4x, x4"])) == ["v1.2.3, 4x, x4"]


@given(st.lists(st.floats(-100, 100, allow_nan=False), min_size=1))
def test_every_answer_is_counted_once_and_the_worst_is_among_them(values: list[float]) -> None:
    texts = [f"det {value:.3f} here" for value in values]
    ((kind, found),) = grouped(texts).items()
    assert (kind, found.count) == ("det # here", len(values))
    assert abs(float(found.worst.split()[1])) == max(abs(float(t.split()[1])) for t in texts)
