"""Flow taken from one framing to another: places and vectors move with the face."""

from __future__ import annotations

import numpy as np
import pytest

from mesynth.core.errors import ConfigError
from mesynth.core.framing import OWN, Framing, covered, parse_framing, reframed


def _bump(framing: Framing, u: float, v: float, size: int = 96) -> np.ndarray:
    """[2,S,S]: a motion of .02 eye distances right and .01 down about the place (u, v), eye distances from the eyes."""
    at = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid((at - framing.column) / framing.eyes, (at - framing.row) / framing.height)
    bump = np.exp(-((x - u) ** 2 + (y - v) ** 2) / 0.05)
    return np.stack([0.02 * framing.eyes * size * bump, 0.01 * framing.height * size * bump]).astype(np.float32)


@pytest.mark.parametrize(
    "target", [OWN, Framing(eyes=0.57, height=0.46, row=0.25, column=0.48), Framing(eyes=0.3, height=0.35, row=0.4)]
)
def test_the_same_motion_in_another_framing(target: Framing) -> None:
    for size in (96, 48):
        moved = reframed(_bump(OWN, 0.3, 0.5), OWN, target, size)
        np.testing.assert_allclose(moved, _bump(target, 0.3, 0.5, size), atol=0.03 * moved.max())


def test_there_and_back_is_the_same_where_both_crops_show_it() -> None:
    tight = Framing(eyes=0.5, height=0.45, row=0.3)
    flow = np.stack([_bump(OWN, 0.0, 0.4), _bump(OWN, -0.4, 0.1)])
    back = reframed(reframed(flow, OWN, tight), tight, OWN)
    inside = back.shape[-1] // 4
    middle = (..., slice(inside, -inside), slice(inside, -inside))
    np.testing.assert_allclose(back[middle], flow[middle], atol=0.05 * np.abs(flow).max())


def test_how_much_of_a_crop_another_shows() -> None:
    tight = Framing(eyes=0.57, height=0.46, row=0.25, column=0.48)
    assert covered(OWN, tight) > 0.99
    assert 0.5 < covered(tight, OWN) < 0.9
    assert covered(OWN, Framing(row=1.5)) == 0


def test_framings_are_read_as_they_are_written() -> None:
    framing = Framing(eyes=0.571, height=0.464, row=0.25, column=0.482)
    assert parse_framing(framing.text()) == framing
    assert parse_framing("own") == OWN
    assert framing.distance(OWN) == pytest.approx(0.171)


@pytest.mark.parametrize("text", ["size=3", "eyes", "eyes=big", "eyes=0", "height=9", "row=nan", "column=7", "0.4"])
def test_what_is_no_framing_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_framing(text)
    assert "\n" not in str(caught.value)
