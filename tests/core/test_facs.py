"""The annotation grammar of every database, the request grammar, conflicts, objective classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_INDEX, AUItem, parse_annotation, parse_request
from mesynth.core.types import AUVector


@pytest.mark.parametrize(
    ("cell", "codes"),
    [
        ("4D+ref(6)+7C+43E", (4, 7, 43)),
        ("L1+L2", (1, 2)),
        ("4+R10", (4, 10)),
        (12, (12,)),
        (4.0, (4,)),
        ("4，7", (4, 7)),
        ("4+7+AD38", (4, 7, 38)),
        ("(R6 or R12) + R15", (15,)),
        ("10A/B", (10,)),
        ("R12 or R14", ()),
        ("?", ()),
        (float("nan"), ()),
        ("4(k)+12", (12,)),
        ("R14+17+soft focus", (14, 17)),
    ],
)
def test_certain_codes(cell: object, codes: tuple[int, ...]) -> None:
    assert parse_annotation(cell).codes == codes


def test_what_cannot_be_decided_is_kept_and_marked() -> None:
    either = parse_annotation("R12 or R14")
    assert either.undecided == (AUItem(12, "R"), AUItem(14, "R"))
    assert either.unknown_text == ("R12 or R14",)
    presence = either.presence()
    assert presence[AU_INDEX[12]].tolist() == [0, -1]
    assert presence[AU_INDEX[4]].tolist() == [0, 0]
    assert parse_annotation("ref(6)").undecided == (AUItem(6),)
    assert parse_annotation("A/L12").undecided == (AUItem(12),)
    assert parse_annotation("R14+17+soft focus").unknown_text == ("soft focus",)
    assert parse_annotation("4(k)").static == (AUItem(4),)


def test_open_cell_knows_nothing() -> None:
    annotation = parse_annotation("?")
    assert not annotation.complete
    assert (annotation.presence() == -1).all()
    assert not annotation.vector().mask.any()


def test_letters_fix_intensity_and_their_absence_does_not() -> None:
    vector = parse_annotation("4D+7").vector()
    assert vector.intensity[AU_INDEX[4]].tolist() == [0.75, 0.75]
    assert vector.mask[AU_INDEX[4]].all()
    assert not vector.mask[AU_INDEX[7]].any()
    assert vector.mask[AU_INDEX[12]].all()  # not mentioned: known to be absent


def test_undecided_letter_leaves_presence_certain() -> None:
    annotation = parse_annotation("10A/B")
    assert annotation.presence()[AU_INDEX[10]].tolist() == [1, 1]
    assert not annotation.vector().mask[AU_INDEX[10]].any()


@given(st.text(max_size=40))
def test_any_text_is_read_without_raising_and_nothing_is_lost(text: str) -> None:
    annotation = parse_annotation(text)
    assert annotation.text == text.strip()
    assert annotation.presence().shape == (25, 2)


@given(st.dictionaries(st.sampled_from(facs.AU_CODES), st.floats(0.01, 1).map(lambda v: round(v, 3)), min_size=1))
def test_request_survives_formatting(aus: dict[int, float]) -> None:
    vector = parse_request(",".join(f"{code}={value}" for code, value in aus.items()))
    again = parse_request(facs.format_vector(vector))
    np.testing.assert_allclose(again.intensity, vector.intensity, rtol=1e-3)
    assert {facs.AU_CODES[k] for k in np.flatnonzero(vector.intensity.max(1))} == set(aus)


@pytest.mark.parametrize(
    ("request_text", "says"),
    [
        ("99=B", "99 is not in the vocabulary"),
        ("12=1.5", "1.5 in '12=1.5' is outside"),
        ("12=-0.1", "outside"),
        ("12=F", "'F' in '12=F' is neither"),
        ("12", "12=B"),
        ("L25=0.5", "AU 25 .* has no sides"),
        ("12=B,L12=A", "given twice"),
        ("smile", "not an AU request"),
        ("", "names no AU"),
    ],
)
def test_a_bad_request_is_one_clear_line(request_text: str, says: str) -> None:
    with pytest.raises(MesynthError, match=says) as error:
        parse_request(request_text)
    assert "\n" not in str(error.value)


def test_sides_are_the_subjects() -> None:
    intensity = parse_request("L4=0.2").intensity[AU_INDEX[4]]
    np.testing.assert_allclose(intensity, [0.2, 0.0])


def test_conflicts_are_named_and_damped() -> None:
    vector = parse_request("12=C,15=B")
    with pytest.raises(facs.AUConflictError, match="AU 12 and AU 15"):
        facs.reject_conflicts(vector)
    damped = facs.damp(vector)
    assert damped.intensity[AU_INDEX[15]].tolist() == [0, 0]
    assert damped.intensity[AU_INDEX[12]].tolist() == [0.5, 0.5]
    facs.reject_conflicts(parse_request("L12=C,R15=C"))  # different sides do not exclude each other


def test_blends_shrink() -> None:
    damped = facs.damp(parse_request("1=0.5,4=0.5"))
    np.testing.assert_allclose(damped.intensity[AU_INDEX[1]], 0.4)


@pytest.mark.parametrize(
    ("codes", "name"), [((12,), "I"), ((6, 12), "I"), ((1, 2), "II"), ((4, 7), "III"), ((9, 12), "VII"), ((), "VII")]
)
def test_objective_classes(codes: tuple[int, ...], name: str) -> None:
    assert facs.objective_class(codes) == name


def test_vector_rejects_what_no_au_can_be() -> None:
    with pytest.raises(ValueError, match=r"expected \[25,2\]"):
        AUVector(np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="expected \\[0,1\\]"):
        AUVector(np.full((25, 2), 1.5, np.float32))
    with pytest.raises(ValueError, match="unknown AU must have intensity 0"):
        AUVector(np.ones((25, 2), np.float32), np.zeros((25, 2), np.bool_))
