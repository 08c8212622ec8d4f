"""Spotting in longer recordings: on rendered faces whose movements are known, and its rules on curves made by hand."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_INDEX, parse_request
from mesynth.core.profiles import Profile
from mesynth.head import Subject
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.spot_intervals import (
    IntervalConfig,
    Movement,
    around,
    boundaries,
    character,
    movement,
    peaks,
    smooth,
    threshold,
)

FPS = 40.0
T = 48


@lru_cache(None)
def person() -> Subject:
    return Subject(3, size=128, supersample=1)


@lru_cache(None)
def clip(what: str) -> np.ndarray:
    """[T,64,64,3] crops of a still person, 40 fps: frames 14..33 hold an expression of half a second, and so on."""
    subject = person()
    au = np.zeros((T, 25, 2), np.float32)
    request = parse_request("4=0.4,12=0.4").intensity
    pose = np.zeros((T, 6))
    if what == "micro":
        au[14:34] = Profile(apex=0.5).alpha(20)[:, None, None] * request
    elif what == "long":  # 1.2 s
        au[:] = Profile(apex=0.5).alpha(T)[:, None, None] * request
    elif what == "stays":
        au[:] = (0.5 - 0.5 * np.cos(np.pi * np.clip((np.arange(T) - 16) / 8, 0, 1)))[:, None, None] * request
    elif what == "blink":
        au[20:28, AU_INDEX[45]] = np.array([0.3, 0.8, 1, 1, 0.8, 0.5, 0.3, 0.1])[:, None]
    elif what == "drift":
        pose[:, 0] = np.linspace(0, 0.05, T)
    else:
        assert what == "still"
    frames = subject.render(au, pose, noise_seed=1)
    return SimilarityCrop.from_landmarks(subject.landmarks(au[0], pose[0]), 64).frames(frames)


@lru_cache(None)
def moved(what: str) -> Movement:
    return movement(clip(what), None, FPS)


@lru_cache(None)
def found(what: str) -> list[tuple[int, str]]:
    """(frame, problem) of each peak."""
    frames = clip(what)
    made = moved(what)
    tops = peaks(smooth(made.raw, FPS), threshold(made.noise), FPS)
    return [(top, character(frames, None, FPS, top).problem()) for top in tops]


def test_an_expression_is_one_peak_at_its_apex_with_its_boundaries() -> None:
    ((top, problem),) = found("micro")
    assert abs(top - 23.5) <= 2
    assert problem == ""
    frames = clip("micro")
    curve = smooth(moved("micro").raw, FPS)
    (inside,) = around(curve, [top], FPS)
    read = boundaries(frames[inside.start : inside.stop], None, FPS)
    assert inside.start + read.onset == pytest.approx(14, abs=2)
    assert inside.start + read.apex == pytest.approx(23.5, abs=1.5)
    assert inside.start + read.offset == pytest.approx(33, abs=2)


def test_other_movements_are_none() -> None:
    """An expression that stays, a head that drifts and a still face give no peak; others say what they are."""
    for what in ("stays", "drift", "still"):
        assert [top for top, problem in found(what) if not problem] == []
    assert [problem for _, problem in found("long")] == ["longer than a micro-expression"]
    assert {problem for _, problem in found("blink")} <= {"a blink"}


def test_a_part_of_the_frames_gives_the_same_values() -> None:
    frames = clip("micro")
    whole, part = moved("micro"), movement(frames, None, FPS, range(20, 30))
    assert part.raw == pytest.approx(whole.raw[20:30], abs=1e-6)


def test_a_blink_moves_the_eyes_more_than_the_face() -> None:
    assert character(clip("blink"), None, FPS, 22).eyes > 5 > character(clip("micro"), None, FPS, 23).eyes


# ---------------------------------------------------------------- rules on curves


def bump(*centres: tuple[int, float], n: int = 300, width: float = 8.0) -> np.ndarray:
    t = np.arange(n)
    return np.asarray(sum(height * np.exp(-(((t - c) / width) ** 2)) for c, height in centres))


def test_peaks_need_height_distance_and_a_share_of_their_neighbour() -> None:
    assert peaks(bump((60, 1.0), (200, 0.5)), 0.1, 100.0) == [60, 200]
    assert peaks(bump((60, 1.0), (200, 0.05)), 0.1, 100.0) == [60]
    assert peaks(bump((60, 1.0), (100, 0.2)), 0.1, 100.0) == [60]  # a side lobe
    assert peaks(bump((60, 1.0), (130, 0.2)), 0.1, 100.0) == [60, 130]
    assert peaks(bump((60, 1.0), (75, 0.9), width=3), 0.1, 100.0) == [60]
    assert peaks(bump((0, 1.0), (299, 1.0)), 0.1, 100.0) == [0, 299]
    assert peaks(np.zeros(50), 0.1, 100.0) == []


def test_peaks_and_smoothing_pass_over_frames_without_a_face() -> None:
    curve = bump((60, 1.0), (200, 1.0))
    curve[190:] = np.nan
    out = smooth(curve, 100.0)
    assert np.isnan(out[190:]).all()
    assert np.isfinite(out[:190]).all()
    assert peaks(out, 0.4, 100.0)[0] == 60


def test_single_frames_are_smoothed_away_but_not_at_low_rates() -> None:
    spike = np.zeros(60)
    spike[30] = 1
    assert smooth(spike, 100.0).max() < 0.01
    assert smooth(spike, 25.0).max() > 0.5


def test_windows_end_between_peaks_and_inside_the_recording() -> None:
    curve = bump((10, 1.0), (60, 1.0), (280, 1.0))
    first, second, third = around(curve, [10, 60, 280], 100.0)
    assert first.start == 0
    assert first.stop - 1 == second.start == 35
    assert second.stop == 60 + 40 + 1
    assert third.stop == 300
    tight = around(bump((10, 1.0), (12, 1.0), n=20), [10, 12], 5.0)
    assert all(len(window) >= 5 for window in tight)


def test_the_threshold_is_the_noise_or_the_floor() -> None:
    config = IntervalConfig(factor=3, floor=0.05)
    assert threshold(np.array([0.1, 0.1, 5.0]), config) == pytest.approx(0.3)
    assert threshold(np.array([0.001]), config) == 0.05
    assert threshold(np.zeros(0), config) == 0.05


def test_boundaries_lie_no_further_apart_than_allowed() -> None:
    read = boundaries(clip("long"), None, FPS, IntervalConfig(longest_s=0.4))
    assert 0 < read.offset - read.onset <= 0.4 * FPS
    assert read.onset < read.apex < read.offset


def test_a_constant_clip_has_no_movement() -> None:
    frames = np.full((20, 64, 64, 3), 90, np.uint8)
    made = movement(frames, None, FPS)
    assert not made.raw.any()
    assert character(frames, None, FPS, 10).growth == float("inf")


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        (np.zeros((4, 64, 64, 3), np.uint8), FPS, "at least 5"),
        (np.zeros((9, 64, 64), np.uint8), FPS, "expected uint8 RGB"),
        (np.zeros((9, 64, 64, 3), np.float32), FPS, "expected uint8 RGB"),
        (np.zeros((9, 64, 64, 3), np.uint8), 0.0, "fps=0"),
        (np.zeros((9, 64, 64, 3), np.uint8), float("nan"), "fps=nan"),
    ],
)
def test_bad_frames(frames: np.ndarray, fps: float, words: str) -> None:
    with pytest.raises(MesynthError, match=words):
        movement(frames, None, fps)


@pytest.mark.parametrize(
    "changes",
    [
        {"lag_s": 0}, {"factor": -1}, {"growth": 0}, {"blink": 0}, {"longest_s": 0}, {"smooth_s": -1}, {"floor": -1},
        {"share": 1},
    ],
)  # fmt: skip
def test_bad_settings(changes: dict[str, float]) -> None:
    with pytest.raises(MesynthError, match=next(iter(changes))):
        IntervalConfig(**changes)
