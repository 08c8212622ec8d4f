"""Glasses are found on those who wear them, stand still over skin that moves, and go with the head."""

import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.profiles import Profile
from mesynth.head import Subject
from mesynth.motion.glasses import without_glasses
from mesynth.motion.layers import Step
from mesynth.motion.prior import Face, MotionPrior

SIZE = 192
STILL = np.zeros((1, len(facs.AU_CODES), 2), np.float32)
WEARERS = (0, 4, 8, 11)
"""People of dark to pale skin, with thin to thick rims."""


def face(seed: int, glasses: bool) -> tuple[Subject, Face]:
    subject = Subject(seed, SIZE, frontal=True, glasses=glasses)
    return subject, Face(subject.render(STILL)[0], subject.landmarks())


@pytest.fixture(scope="module")
def wearers() -> dict[int, tuple[Subject, Face]]:
    return {seed: face(seed, True) for seed in WEARERS}


@pytest.mark.parametrize("seed", WEARERS)
def test_frames_are_found_where_they_are(wearers: dict[int, tuple[Subject, Face]], seed: int) -> None:
    """The truth: what stands still in the head's exact flow, where without glasses skin would move."""
    subject, shown = wearers[seed]
    bare, plain = face(seed, False)
    assert without_glasses(plain.image, plain.landmarks) == (plain.image, None)
    front = shown.layers.front
    assert front is not None
    aus = facs.parse_request("4=1,6=1,9=1,12=1").intensity
    with_frame, without = (np.hypot(*s.flow(STILL[0], aus).uv) for s in (subject, bare))
    differs = np.abs(shown.image.astype(int) - plain.image).max(-1) > 12
    frame = (with_frame < 1e-3) & (without > 0.15) & differs
    assert frame.sum() > 300
    assert (front.share[frame] > 0.5).mean() > 0.85
    wrong = (front.share > 0.5) & (without > 0.15) & ~frame
    assert wrong.sum() < 0.04 * (without > 0.15).sum()  # a rim of 1.4 pixels on either side


@pytest.mark.parametrize("seed", WEARERS)
@pytest.mark.parametrize("request_text", ["4=1", "6=1", "12=1", "45=1,1=1"])
def test_frames_stand_still_and_what_is_behind_moves(
    wearers: dict[int, tuple[Subject, Face]], seed: int, request_text: str
) -> None:
    shown = wearers[seed][1]
    front, still = shown.layers.front, shown.layers.still
    assert front is not None
    whole = front.share >= 1
    assert whole.sum() > 300
    assert still[whole].all()
    sample, _ = MotionPrior(shown).generate(facs.parse_request(request_text), Profile(), n_frames=3, fps=50)
    assert np.array_equal(sample.clip.frames[0], shown.image)
    assert np.array_equal(sample.clip.frames[1][whole], shown.image[whole])
    assert not sample.flow.uv[:, front.share > 0.5].any()
    assert sample.flow.valid is not None
    assert sample.flow.valid[whole].all()
    y0, y1, x0, x1 = front.box
    lenses = np.hypot(*sample.flow.uv)[y0:y1, x0:x1][front.share[y0:y1, x0:x1] == 0]
    assert np.percentile(lenses, 95) > 0.2


def test_nothing_asked_for_changes_nothing(wearers: dict[int, tuple[Subject, Face]]) -> None:
    none = np.zeros((SIZE, SIZE, 2), np.float32)
    for _, shown in wearers.values():
        for head in (None, none):
            step = Step(none, STILL[0], head)
            assert np.array_equal(shown.layers.frame(step), shown.image)
            truth = shown.layers.truth(step)
            assert not truth.flow.any()
            assert not truth.hidden.any()
            assert not truth.new.any()


def test_glasses_go_with_the_head_and_not_with_the_light(wearers: dict[int, tuple[Subject, Face]]) -> None:
    """A whole pixel to the right: the same frame, a pixel to the right; what is drawn on the skin is drawn beneath."""
    layers, aus = wearers[8][1].layers, facs.parse_request("4=1,43=0.5").intensity
    assert layers.front is not None
    none, head = np.zeros((SIZE, SIZE, 2), np.float32), np.zeros((SIZE, SIZE, 2), np.float32)
    head[..., 0] = 1
    plain = layers.frame(Step(none, aus))
    moved = layers.frame(Step(none, aus, head))
    np.testing.assert_allclose(moved[20:170, 20:170], plain[20:170, 19:169], atol=0.6)
    for inset in (1, 40):
        part = layers.frame(Step(none, aus, head), inset=inset)
        np.testing.assert_allclose(part, moved[inset:-inset, inset:-inset], atol=0.05)
    lit = layers.frame(Step(none, aus, None, np.full((SIZE, SIZE, 3), 5, np.float32)))
    whole = layers.front.share >= 1
    assert np.array_equal(lit[whole], plain[whole])
    np.testing.assert_allclose((lit - plain)[layers.front.share == 0], 5, atol=1e-3)


@pytest.mark.parametrize("kind", ["noise", "one colour", "black", "stripes", "small"])
def test_strange_pictures_wear_none(kind: str) -> None:
    """No error, and nothing that is not there; stripes have ridges of every kind but no skin beside them."""
    plain = face(5, False)[1]
    image = {
        "noise": np.random.default_rng(0).integers(0, 256, plain.image.shape, dtype=np.uint8),
        "one colour": np.full_like(plain.image, 120),
        "black": np.zeros_like(plain.image),
        "stripes": np.repeat((np.arange(SIZE) % 16 < 8).astype(np.uint8)[:, None, None] * 200, SIZE, 1).repeat(3, 2),
        "small": plain.image[::12, ::12].copy(),
    }[kind]
    points = plain.landmarks / 12 if kind == "small" else plain.landmarks
    bare, front = without_glasses(image, points)
    if kind != "stripes":
        assert front is None
    assert bare.shape == image.shape
