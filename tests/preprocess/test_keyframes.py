"""Choices of frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.errors import MesynthError
from mesynth.preprocess.interpolate import (
    Marks,
    SubsampleConfig,
    draw_subsample,
    draw_warp,
    mean_around,
    snippets,
    window,
)

MARKS = st.tuples(st.integers(0, 9), st.integers(1, 40), st.integers(0, 40), st.integers(1, 9)).map(
    lambda v: Marks(onset=v[0], apex=v[0] + v[1], offset=v[0] + v[1] + v[2], n_frames=v[0] + v[1] + v[2] + v[3])
)


def test_key_frames():
    marks = Marks(onset=2, apex=5, offset=9, n_frames=12)
    assert marks.pair().tolist() == [2, 5]
    assert marks.triple().tolist() == [2, 5, 9]
    video = torch.arange(12.0).view(1, 12, 1, 1, 1)
    assert video[:, marks.triple()].flatten().tolist() == [2, 5, 9]


def test_snippets_of_equal_segments():
    assert snippets(12, 3).tolist() == [2, 6, 10]
    assert snippets(3, 3).tolist() == [0, 1, 2]
    assert snippets(2, 4).tolist() == [0, 0, 1, 1]
    drawn = np.array([snippets(12, 3, np.random.default_rng(i)) for i in range(300)])
    assert [set(column) for column in drawn.T] == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]


def test_windows():
    assert window(10, 4, 2).tolist() == [2, 3, 4, 5, 6]
    assert window(10, 0, 2).tolist() == [0, 0, 0, 1, 2]
    video = torch.arange(10.0).view(1, 10, 1, 1, 1)
    assert mean_around(video, 4, 1).item() == 4
    assert mean_around(video, 9, 2).item() == 8  # 7, 8, 9: none twice


@given(marks=MARKS, seed=st.integers(0, 1000), keep=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_subsampling_keeps_what_must_stay(marks, seed, keep):
    config = SubsampleConfig(keep=keep)
    index, moved = draw_subsample(np.random.default_rng(seed), marks, config)
    assert (np.diff(index) > 0).all()
    assert index[moved.triple()].tolist() == marks.triple().tolist()
    kept = len(set(marks.triple().tolist()))
    assert len(index) == kept + round(keep * (marks.offset - marks.onset + 1 - kept))
    again, _ = draw_subsample(np.random.default_rng(seed), marks, config)
    assert np.array_equal(index, again)


@given(marks=MARKS, seed=st.integers(0, 1000), n=st.integers(3, 50), warp=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_warps_keep_what_must_stay(marks, seed, n, warp):
    positions, moved = draw_warp(np.random.default_rng(seed), marks, n, SubsampleConfig(warp=warp))
    assert len(positions) == n
    assert (np.diff(positions) > 0).all()
    assert positions[moved.triple()].tolist() == marks.triple().tolist()


def test_warps_without_strength_are_uniform():
    positions, marks = draw_warp(
        np.random.default_rng(0), Marks(onset=0, apex=10, offset=20, n_frames=21), 5, SubsampleConfig(warp=0)
    )
    assert np.allclose(positions, [0, 5, 10, 15, 20])
    assert marks.apex == 2
    other, _ = draw_warp(np.random.default_rng(0), Marks(onset=0, apex=10, offset=20, n_frames=21), 5)
    assert np.abs(other - positions).max() > 0.1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Marks(onset=5, apex=5, offset=9, n_frames=12), "do not follow"),
        (lambda: Marks(onset=0, apex=5, offset=12, n_frames=12), "12 frames"),
        (lambda: snippets(0, 3), "at least 1"),
        (lambda: window(5, 5, 1), "frame 5 is outside"),
        (lambda: window(5, 1, -1), "radius=-1"),
        (lambda: mean_around(torch.zeros(5, 3, 4, 4), 1, 1), "B,T,C,H,W"),
        (lambda: SubsampleConfig(keep=1.5), "keep=1.5"),
        (lambda: SubsampleConfig(warp=-0.1), "warp=-0.1"),
        (lambda: draw_warp(np.random.default_rng(0), Marks(onset=0, apex=1, offset=2, n_frames=3), 2), "at least 3"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(MesynthError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
