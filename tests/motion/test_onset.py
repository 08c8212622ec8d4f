"""What an onset shows is read from its landmarks, and what it cannot show is refused or cut, in words."""

from functools import cache

import numpy as np
import pytest

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_INDEX, parse_request
from mesynth.head import Subject
from mesynth.motion.onset import EYE, PARTED, REST, SHUT, SMILE_DOUBT, Onset, OnsetError, jaw_left

PEOPLE = range(930_000, 930_016)
REST_STATE = ((0.0, 0.0), (0.0, 0.0), 0.02)


@cache
def person(seed: int) -> Subject:
    return Subject(seed, size=64, frontal=seed % 2 == 0)


def state(seed: int, request: str = "") -> Onset:
    return Onset.of(person(seed).landmarks(parse_request(request).intensity if request else None))


def onset(smile: float = 0.0, closure: float = 0.0, gap: float = 0.02) -> Onset:
    return Onset((smile, smile), (closure, closure), gap)


# ---------------------------------------------------------------- how far down


STATES = [
    Onset((left, right), (one, other), gap)
    for left, right in ((0.0, 0.0), (0.249, 0.25), (0.333, 0.8), (1.0, 0.507))
    for one, other in ((0.0, 0.2), (0.3, 0.849), (0.25, 0.851), (1.0, 0.6))
    for gap in (0.02, 0.034, 0.036, 0.1234, 0.4, 0.9)
]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_the_lowest_that_may_be_asked_is_drawn_whole_and_no_hundredth_less(state: Onset) -> None:
    found = state.lowest()
    assert set(found) == set(facs.LOWERABLE)
    for code, ends in found.items():
        sides = ("",) if code in facs.MIDLINE else facs.SIDES
        assert code not in facs.MIDLINE or ends[0] == ends[1]
        for side, lowest in zip(sides, ends, strict=False):
            assert -1 <= lowest <= 0
            if lowest:
                answer = state.answer(parse_request(f"{side}{code}={lowest}"))
                assert (answer.refused, answer.notes) == ((), ())
                assert answer.aus.intensity[AU_INDEX[code]].min() == np.float32(lowest)
            if lowest > -1:
                answer = state.answer(parse_request(f"{side}{code}={lowest - 0.011:.3f}"))
                assert answer.refused or any("instead of" in note for note in answer.notes)
                assert bool(answer.refused) == (lowest == 0)


def test_a_smile_an_open_mouth_and_lids_half_closed_can_be_lowered() -> None:
    nothing = dict.fromkeys(facs.LOWERABLE, (0.0, 0.0))
    assert onset().lowest() == nothing
    assert onset(smile=0.5).lowest() == nothing | {12: (-0.5, -0.5)}
    assert onset(closure=0.4).lowest() == nothing | {43: (-0.4, -0.4), 45: (-0.4, -0.4)}
    # the mouth's gap less that of closed lips, over what each AU opens
    opened = {code: (-min(1.0, int(100 * (0.138 - REST) / PARTED[code]) / 100),) * 2 for code in PARTED}
    assert onset(gap=0.138).lowest() == nothing | opened
    assert opened[25] == (-1.0, -1.0)
    assert opened[27] == (-0.23, -0.23)


# ---------------------------------------------------------------- measured


def test_smiles_of_people_nobody_fitted_are_read() -> None:
    levels = (0.0, 0.2, 0.4, 0.6, 0.8)
    read = np.array([[np.mean(state(p, f"12={a}").smile) for a in levels] for p in PEOPLE])
    truth = np.broadcast_to(levels, read.shape)
    assert np.corrcoef(read.ravel(), truth.ravel())[0, 1] > 0.93
    assert np.abs(read - truth).mean() < 0.09
    assert (np.diff(read[:, 1:], axis=1) > 0.1).all()  # at rest readings end at 0
    assert np.mean(read[:, 0] < SMILE_DOUBT) > 0.9
    assert np.mean(read[:, 2:] > SMILE_DOUBT) > 0.97


def test_each_corner_and_each_eye_is_the_subjects_own() -> None:
    for p in list(PEOPLE)[:4]:
        one = state(p, "L12=0.7,R45=0.4")
        assert one.smile[0] > one.smile[1] + 0.4
        assert one.closure[1] > one.closure[0] + 0.3


def test_lids_and_lips_are_read() -> None:
    for p in PEOPLE:
        own = 1 - np.mean(state(p).closure)
        closures = [np.mean(state(p, f"45={a}").closure) for a in (0.01, 0.2, 0.4, 0.6, 1)]
        gaps = [state(p, f"26={a}").gap for a in (0.01, 0.25, 0.5, 0.75, 1)]
        assert np.all(np.diff(closures) > 0) or closures[-2] == 1
        assert np.diff(gaps).min() > 0.01
        assert own > 0.75
        assert gaps[0] < SHUT < gaps[2]


def test_nothing_depends_on_where_how_large_or_how_tilted_the_face_is() -> None:
    points = person(930_000).landmarks(parse_request("12=0.5,26=0.5,R45=0.3").intensity).astype(np.float64)
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    here, there = Onset.of(points), Onset.of(3.5 * points @ turn.T + [40, -12])
    assert np.allclose(here.smile, there.smile)
    assert np.allclose(here.closure, there.closure)
    assert here.gap == pytest.approx(there.gap)


@pytest.mark.parametrize("points", [np.zeros((68, 2)), np.zeros((5, 2)), np.full((68, 2), np.nan)])
def test_what_are_no_landmarks_is_refused(points: np.ndarray) -> None:
    with pytest.raises(MesynthError, match="landmarks"):
        Onset.of(points)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("request_", "where", "message"),
    [
        ("12=-0.2", onset(), "AU 12 cannot be lowered: the left corner of this mouth shows no smile"),
        ("R12=-0.2", Onset((0.6, 0.1), (0, 0), 0.02), "the right corner of this mouth shows no smile"),
        ("26=-0.1", onset(), "AU 26 cannot be lowered: the lips of this onset are closed"),
        ("25=-0.1", onset(), "AU 25 cannot be lowered"),
        ("27=-1", onset(), "AU 27 cannot be lowered"),
        ("45=-0.2", onset(), "AU 45 cannot be lowered: the left eye is open"),
        ("43=-0.2", onset(), "AU 43 cannot be lowered"),
        ("45=1", onset(closure=1), r"AU 45 \(blink\) cannot be shown: the left eye is closed already"),
        ("43=0.3", onset(closure=0.9), r"AU 43 \(eyes closed\) cannot be shown"),
        ("45=-0.5", onset(closure=1), "AU 45 cannot open the left eye: it is closed"),
        ("5=0.5", onset(closure=1), "AU 5 cannot open the left eye"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(request_: str, where: Onset, message: str) -> None:
    answer = where.answer(parse_request(request_))
    with pytest.raises(OnsetError, match=message) as error:
        answer.or_raise()
    assert "\n" not in str(error.value)
    assert "leave it out" in str(error.value)
    # What is left of the request has none of it, so that a drawn row can go on without.
    assert not answer.aus.intensity.any() or request_.startswith("R")


# ---------------------------------------------------------------- cut


@pytest.mark.parametrize(
    ("request_", "where", "drawn", "note"),
    [
        ("12=-0.2", onset(smile=0.5), "12=-0.2", ""),
        ("12=-0.9", onset(smile=0.5), "12=-0.5", "AU 12 is lowered by 0.5 instead of 0.9"),
        ("12=1", onset(), "12=1", ""),
        ("12=1", onset(smile=0.2), "12=1", ""),
        ("12=1", onset(smile=0.75), "12=1", ""),
        ("12=0.3", onset(smile=0.75), "12=0.3", ""),
        ("45=-0.2", onset(closure=0.5), "45=-0.2", ""),
        ("45=-1", onset(closure=0.5), "45=-0.5", "AU 45 is lowered by 0.5 instead of 1"),
        ("45=1", onset(closure=0.5), "45=1", "AU 45 closes what is left: the left eye is closed by 0.50 already"),
        ("25=-1", onset(gap=0.3), "25=-1", ""),
        ("26=-1", onset(gap=REST + 0.5 * PARTED[26]), "26=-0.5", "AU 26 is lowered by 0.5 instead of 1"),
        ("25=-1,26=-1", onset(gap=REST + 0.5 * (PARTED[25] + PARTED[26])), "25=-0.5,26=-0.5", "AU 25 is lowered"),
        ("4=1,17=0.5", onset(0.9, 1, 0.4), "4=1,17=0.5", ""),
    ],
)
def test_what_an_onset_has_no_more_of_is_cut_and_said(request_: str, where: Onset, drawn: str, note: str) -> None:
    answer = where.answer(parse_request(request_)).or_raise()
    assert facs.format_vector(answer.aus) == drawn
    assert [note] == [text[: len(note)] for text in answer.notes[:1]] if note else not answer.notes
    assert np.array_equal(where.answer(answer.aus).aus.intensity, answer.aus.intensity)  # once is enough


@pytest.mark.parametrize("gap", [0.05, 0.1, 0.3, 0.64, 0.9])
def test_a_jaw_on_an_open_mouth_drops_less_and_the_label_says_so(gap: float) -> None:
    answer = onset(gap=gap).answer(parse_request("26=1"))
    assert answer.aus.intensity[AU_INDEX[26]].tolist() == [1, 1]  # layers know the mouth
    assert answer.shown.intensity[AU_INDEX[26]] == pytest.approx(np.full(2, jaw_left(gap)))
    assert bool(answer.notes) == (gap > 0.1)
    assert 0.35 <= jaw_left(gap) <= 1


def test_ordinary_faces_are_asked_as_ever() -> None:
    """No one of these people is denied or cut what the package could always show."""
    for p in PEOPLE:
        for code in facs.AU_CODES:
            asked = parse_request(f"{code}=1")
            answer = state(p).answer(asked).or_raise()
            assert answer.aus is asked
            assert answer.shown is asked
            assert not answer.notes


def test_the_unit_of_an_eye_is_that_of_people() -> None:
    opened = [1 - np.mean(state(p).closure) for p in PEOPLE]
    assert np.median(opened) == pytest.approx(1, abs=0.1)
    assert 0.12 < EYE < 0.15
