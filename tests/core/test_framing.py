"""Flow taken from one framing to another: places and vectors move with the face."""

from __future__ import annotations

import numpy as np
import pytest

from mesynth.core.errors import ConfigError
from mesynth.core.framing import (
    ESTIMATED,
    GIVEN,
    LANDMARKS,
    MADE,
    OWN,
    Framing,
    KnownFraming,
    covered,
    framing_of_eyes,
    parse_framing,
    reframed,
    reframed_flow,
    reframed_picture,
    reframed_points,
)


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


def test_a_picture_moves_as_its_flow_does() -> None:
    target = Framing(eyes=0.57, height=0.46, row=0.25, column=0.48)
    picture = np.random.default_rng(0).normal(size=(48, 48, 3)).astype(np.float32)
    moved = reframed_picture(picture, OWN, target)
    flow = reframed(np.stack([picture[..., 0], picture[..., 1]]), OWN, target)
    np.testing.assert_allclose(moved[..., 0] * (0.57 / 0.4), flow[0], rtol=1e-5)
    np.testing.assert_allclose(moved[..., 1] * (0.46 / 0.4), flow[1], rtol=1e-5)


def test_points_move_as_flow_does() -> None:
    """The brightest pixel of a picture and its coordinates go to one place."""
    target = Framing(eyes=0.57, height=0.46, row=0.25, column=0.48)
    y, x = np.mgrid[:96, :96]
    dot = np.exp(-((x - 40) ** 2 + (y - 44) ** 2) / 60).astype(np.float32)
    moved = reframed_picture(dot, OWN, target)
    centre = np.array([(moved * x).sum(), (moved * y).sum()]) / moved.sum()
    assert reframed_points(np.array([[40.0, 44.0]]), OWN, target, 96, 96)[0] == pytest.approx(centre, abs=0.1)
    points = np.random.default_rng(0).uniform(0, 96, (20, 2))
    back = reframed_points(reframed_points(points, OWN, target, 96, 80), target, OWN, 96, 80)
    assert back == pytest.approx(points, abs=1e-3)


def test_flow_in_units_of_its_own_rms_stays_in_them() -> None:
    flow = _bump(OWN, 0.1, 0.4)
    target = Framing(eyes=0.57, height=0.46, row=0.25)
    np.testing.assert_array_equal(reframed_flow(flow, OWN, target), reframed(flow, OWN, target))
    unit = flow / np.sqrt((flow**2).mean())
    moved = reframed_flow(unit, OWN, target)
    assert np.sqrt((moved**2).mean()) == pytest.approx(1, abs=1e-5)
    plain = reframed(unit, OWN, target)
    np.testing.assert_allclose(moved, plain / np.sqrt((plain**2).mean()), rtol=1e-5)
    assert np.isfinite(reframed_flow(np.zeros((2, 8, 8), np.float32), OWN, target)).all()


# ---------------------------------------------------------------- what is known of a database


@pytest.mark.parametrize("origin", [MADE, GIVEN, LANDMARKS, ESTIMATED])
def test_what_is_known_comes_back(origin: str) -> None:
    known = KnownFraming(framing=Framing(eyes=1 / 3, row=0.275), origin=origin, explained=0.6774, images=222)
    assert KnownFraming.of_json(known.to_json()) == known
    assert known.text().startswith("eyes=0.333,height=0.4,row=0.275,column=0.5")
    assert ("222" in known.text()) == (origin in (LANDMARKS, ESTIMATED))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '{"framing": 3}', '{"framing": {"eyes": "x"}}', '{"framing": {"eyes": 9}}', "{}",
     '{"framing": {"eyes": NaN}}', '{"framing": {}, "origin": "guess"}', '{"framing": {}, "origin": []}',
     '{"framing": {}, "images": "many"}', '{"framing": {}, "more": 1}', '{"framing": {"size": 1}}', "[" * 100000],
)  # fmt: skip
def test_a_damaged_record_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KnownFraming.of_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("one", "other", "apart", "differ"),
    [
        (MADE, MADE, 0.01, True), (MADE, MADE, 0.004, False), (GIVEN, MADE, 0.01, True), (GIVEN, GIVEN, 0.0, False),
        (LANDMARKS, MADE, 0.015, False), (LANDMARKS, MADE, 0.03, True), (ESTIMATED, MADE, 0.045, False),
        (ESTIMATED, MADE, 0.055, True), (ESTIMATED, LANDMARKS, 0.045, False), (ESTIMATED, ESTIMATED, 0.1, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", ["eyes", "height", "row", "column"])
def test_two_framings_differ_beyond_what_the_less_sure_one_may_err(
    one: str, other: str, apart: float, differ: bool, number: str
) -> None:
    moved = Framing(**{number: getattr(OWN, number) + apart})
    a, b = KnownFraming(framing=OWN, origin=one), KnownFraming(framing=moved, origin=other)
    assert a.differs(b) == b.differs(a) == differ


def test_which_flow_may_be_taken_where() -> None:
    own = KnownFraming(framing=OWN)
    tight = KnownFraming(framing=Framing(eyes=0.57, height=0.46, row=0.25, column=0.48))
    assert own.can_become(tight)
    assert not tight.can_become(own)


def test_the_framing_of_eyes_is_their_median() -> None:
    rng = np.random.default_rng(0)
    middle = np.array([0.48 * 100 - 0.5, 0.25 * 200 - 0.5]) + rng.normal(size=(41, 2)) * 0.3
    half = np.array([0.5 * 100 / 2, 0.0])
    eyes = np.stack([middle - half, middle + half], axis=1)
    eyes[:5] += 40  # faces that were found wrongly
    found = framing_of_eyes(eyes, 200, 100)
    assert found.eyes == pytest.approx(0.5, abs=0.01)
    assert found.height == pytest.approx(0.25, abs=0.01)
    assert (found.row, found.column) == pytest.approx((0.25, 0.48), abs=0.01)
