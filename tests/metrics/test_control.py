"""AU control: the statistics on known answers, and what counts as visible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.facs import AU_CODES, AU_INDEX
from mesynth.metrics.control import agreement, control, icc31, intensity_sweep, spearman
from mesynth.metrics.networks.judge import visible_aus

K = len(AU_CODES)


def requests(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.zeros((n, K, 2), np.float32)
    for i in range(n):
        out[i, AU_INDEX[(4, 12, 1)[i % 3]]] = rng.uniform(0.1, 1)
    return out


def test_icc_is_the_published_example_and_forgives_an_offset() -> None:
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert icc31(ratings) == pytest.approx(0.7148, abs=1e-4)  # Shrout and Fleiss (1979), table 4
    x = np.arange(10.0)
    assert icc31(np.stack([x, x + 3], 1)) == pytest.approx(1)
    assert icc31(np.stack([x, 0.5 * x], 1)) < 0.85
    with pytest.raises(ValueError, match="N, R >= 2"):
        icc31(np.zeros((5, 1)))


@given(st.integers(0, 1000), st.floats(0.2, 2), st.floats(-0.3, 0.3))
def test_slope_and_pearson_of_a_line(seed: int, slope: float, offset: float) -> None:
    x = np.random.default_rng(seed).uniform(0.01, 1, 30)
    found = agreement(x, slope * x + offset)
    assert found.slope == pytest.approx(slope)
    assert found.pearson == pytest.approx(1)
    assert found.mae == pytest.approx(5 * np.abs((slope - 1) * x + offset).mean())


def test_perfect_and_mean_predictions() -> None:
    asked = requests(60)
    perfect = control(asked, asked, (1, 4, 12))
    assert perfect.pooled.mae == 0
    assert perfect.pooled.icc == pytest.approx(1)
    assert perfect.leakage == 0
    mean = np.repeat(asked.mean(0, keepdims=True), 60, 0)
    lazy = control(asked, mean, (1, 4, 12))
    assert lazy.pooled.mae == pytest.approx(lazy.mean_mae, rel=1e-4)
    assert set(perfect.per_au) == {1, 4, 12}


def test_leakage_counts_what_was_not_asked_and_untrusted_aus_stay_out() -> None:
    asked = requests(30)
    judged = asked.copy()
    judged[:, AU_INDEX[9]] = 0.2
    assert control(asked, judged, (1, 4, 12)).leakage == 0
    wide = control(asked, judged, (1, 4, 9, 12))
    # AU 9 is silent in all 30 clips, each other AU in 20 of 30
    assert wide.leakage == pytest.approx(5 * 0.2 * 30 / (30 + 3 * 20), rel=1e-5)
    with pytest.raises(ValueError, match="must both be"):
        control(asked, judged[:5], (1,))


def test_too_few_requests_give_no_icc() -> None:
    assert control(requests(6), requests(6), (4,)).per_au[4].icc is None


def test_visible_aus_merge_what_looks_the_same() -> None:
    aus = np.zeros((K, 2), np.float32)
    aus[AU_INDEX[45]] = 0.5, 0.1
    aus[AU_INDEX[26]] = 0.8
    aus[AU_INDEX[17]] = 0.4, 0.0
    aus[AU_INDEX[7]] = 1.0
    seen = visible_aus(aus)
    assert seen[AU_INDEX[43]] == pytest.approx([0.5, 0.1])
    assert seen[AU_INDEX[27]] == pytest.approx([0.36, 0.36])
    assert seen[AU_INDEX[26]] == pytest.approx([0.8, 0.8])
    assert seen[AU_INDEX[17]] == pytest.approx([0.2, 0.2])
    assert seen[AU_INDEX[7]] == pytest.approx([0.5, 0.9])
    assert visible_aus(seen)[AU_INDEX[27]] == pytest.approx(seen[AU_INDEX[27]])


def test_sweep_ranks_a_generator_and_unmasks_a_dead_one() -> None:
    def frames(aus: np.ndarray) -> np.ndarray:
        return aus

    found = intensity_sweep(frames, lambda x: x**2, (12, 4))
    assert found[12][0] == pytest.approx(1)
    assert len(found[4][1]) == 9
    assert intensity_sweep(frames, lambda x: 0 * x, (12,))[12][0] == 0
    with pytest.raises(ValueError, match="not in the vocabulary"):
        intensity_sweep(frames, lambda x: x, (99,))
    assert spearman(np.arange(5), -(np.arange(5) ** 3)) == pytest.approx(-1)
