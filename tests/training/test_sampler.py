"""Which pairs an update sees: the same whatever the number of processes, of parts, and of batches made ahead."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.errors import ConfigError
from mesynth.training.data.batches import batches, check_split, shares
from tests.training.toy import PairConfig, ToyPairs


@pytest.fixture(autouse=True, scope="module")
def _two_cores() -> Iterator[None]:
    """Batches ahead are made by two threads, on any machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 2)
        yield


@given(start=st.integers(0, 10**12), share=st.integers(1, 7), processes=st.integers(1, 5), accumulate=st.integers(1, 5))
def test_processes_and_parts_deal_out_exactly_the_batch(
    start: int, share: int, processes: int, accumulate: int
) -> None:
    batch = share * processes * accumulate
    check_split(batch, processes, accumulate)
    dealt = [part for rank in range(processes) for part in shares(start, batch, rank, processes, accumulate)]
    assert {len(part) for part in dealt} == {share}
    assert sorted(np.concatenate(dealt).tolist()) == list(range(start, start + batch))


def test_a_batch_that_does_not_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.batch=10 does not split into 2 processes x run\.accumulate=2.*of 4"):
        check_split(10, 2, 2)


@pytest.mark.parametrize("prefetch", [0, 1, 3, 100])
def test_batches_made_ahead_are_the_same_in_the_same_order(prefetch: int) -> None:
    pairs = ToyPairs(PairConfig(), ("left/00",), seed=3)
    made = list(batches(pairs, 32, 96, 16, rank=1, processes=2, accumulate=2, prefetch=prefetch))
    assert [[draw for draw, _ in parts] for parts in made] == [[33, 35], [49, 51], [65, 67], [81, 83]]
    for parts in made:
        for draw, batch in parts:
            np.testing.assert_array_equal(batch.seeds, pairs.batch(np.arange(draw, draw + 16, 4)).seeds)


def test_leaving_early_stops_the_thread_and_a_fault_in_the_data_arrives() -> None:
    before = threading.active_count()
    made = batches(ToyPairs(PairConfig(), ("left/00",), 0), 0, 10**6, 8, rank=0, processes=1, accumulate=1, prefetch=2)
    next(made)
    made.close()
    assert threading.active_count() == before

    class Broken(ToyPairs):
        def batch(self, draws: np.ndarray) -> None:  # type: ignore[override]
            raise OSError("unreadable")

    broken = batches(Broken(PairConfig(), ("left/00",), 0), 0, 64, 8, rank=0, processes=1, accumulate=1, prefetch=2)
    with pytest.raises(OSError, match="unreadable"):
        next(broken)
