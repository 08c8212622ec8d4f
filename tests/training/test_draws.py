from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mesynth.training.data.camera import draw_seeds, uniforms


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_draw_knows_neither_batch_nor_order(draws, seed) -> None:
    batch = np.array(draws, np.int64)
    seeds = draw_seeds(seed, "x", batch)
    alone = np.concatenate([draw_seeds(seed, "x", batch[i : i + 1]) for i in range(len(batch))])
    assert (seeds == alone).all()
    assert seeds.dtype == np.int64
    assert (seeds >= 0).all()
    u = uniforms(seeds, "y", 5)
    assert (u == np.concatenate([uniforms(seeds[i : i + 1], "y", 5) for i in range(len(batch))])).all()
    assert (uniforms(seeds, "y", 3) == u[:, :3]).all()


def test_numbers_are_uniform_and_uncorrelated() -> None:
    seeds = draw_seeds(0, "x", np.arange(20_000))
    assert len(np.unique(seeds)) == len(seeds)
    u = uniforms(seeds, "y", 4)
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, 20, (0, 1))[0] / u.size * 20
    assert np.abs(counts - 1).max() < 0.05  # standard error .016
    others = [uniforms(seeds, "z", 1), uniforms(draw_seeds(1, "x", np.arange(20_000)), "y", 1), np.roll(u[:, :1], 1)]
    correlation = np.corrcoef(np.concatenate([u, *others], 1).T) - np.eye(7)
    assert np.abs(correlation).max() < 0.03  # standard error .007
