"""UF1 and UAR over batches: what :func:`recognizer.results.evaluate` says of all of them together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from recognizer.results import Scores, evaluate

pytest.importorskip("torchmetrics")
from mesynth.metrics.torchmetrics import Measure

CLASSES = ("negative", "positive", "surprise")


@given(seed=st.integers(0, 99), cut=st.integers(1, 40), at=st.integers(1, 39))
def test_batches_and_merging_change_nothing(seed: int, cut: int, at: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([[0, 1, 2], rng.integers(-1, 3, 37)])
    scores = rng.normal(size=(40, 3))
    one, two, whole = Scores(CLASSES), Scores(CLASSES), Measure(lambda: Scores(CLASSES))
    for first in range(0, 40, cut):
        rows = slice(first, first + cut)
        whole.update(torch.from_numpy(scores[rows]), torch.from_numpy(truth[rows]))
    one.update(scores[:at], truth[:at])
    two.update(scores[at:].argmax(1), truth[at:])
    one.merge(two)
    known = truth >= 0
    wanted = evaluate(truth[known], scores.argmax(1)[known], CLASSES)
    assert one.compute() == wanted
    found = whole.compute()
    assert float(found["uf1"]) == pytest.approx(wanted.uf1)
    assert float(found["uar"]) == pytest.approx(wanted.uar)


@pytest.mark.parametrize(
    ("preds", "label", "message"),
    [
        (np.zeros((2, 4)), np.zeros(2), r"expected \[B\] or \[B,3\]"),
        (np.zeros(3), np.zeros(2), "expected"),
        (np.zeros(2), np.array([0, 3]), "labels span"),
        (np.array([0, 7]), np.array([0, 1]), "predictions span"),
    ],
)
def test_unfit_input(preds: Any, label: Any, message: str) -> None:
    with pytest.raises(MesynthError, match=message):
        Scores(CLASSES).update(preds, label)


def test_nothing_and_others() -> None:
    with pytest.raises(MesynthError, match="update first"):
        Scores(CLASSES).compute()
    with pytest.raises(MesynthError, match="cannot be merged"):
        Scores(CLASSES).merge(Scores(CLASSES[:2]))
    with pytest.raises(MesynthError, match="two different classes"):
        Scores("negative")
