"""The annotation grammar of every database, the request grammar, conflicts, objective classes."""

from pathlib import Path

import numpy as np
import pandas as pd
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
    assert parse_annotation("4(k)?").undecided == (AUItem(4),)
    assert not parse_annotation("4(k)?").complete


def test_two_intensities_of_one_action_unit_are_none() -> None:
    vector = parse_annotation("12B+12D+L4C+4+R7A+L7E").vector()
    assert vector.mask[AU_INDEX[12]].tolist() == [False, False]
    assert vector.mask[AU_INDEX[4]].tolist() == [True, False]
    assert vector.intensity[AU_INDEX[7]].tolist() == [1.0, np.float32(0.1)]


def test_only_what_was_not_read_is_called_not_understood() -> None:
    doubt = parse_annotation("soft focus+1?+(6 or 12)+ref(4)+10A/B+9?+15?+4.5").doubt
    assert "'4.5' not understood" in doubt


@pytest.mark.parametrize(
    ("cell", "other"),
    [
        ("AUL1", "AUR1"), ("AUs L1", "AUs R1"), ("ML57", "MR57"), ("1Lor2", "1Ror2"), ("2orL1", "2orR1"),
        ("1LorR2", "1RorL2"), ("7 rightorAUL2", "7 leftorAUR2"), ("12CLor4", "12CRor4"), ("1orADL2", "1orADR2"),
        ("1orML57", "1orMR57"), ("1orAUsL2", "1orAUsR2"),
    ],
)  # fmt: skip
def test_sides_without_blanks_are_mirrored(cell: str, other: str) -> None:
    assert (facs.mirrored(cell), facs.mirrored(other)) == (other, cell)


L, R, BOTH = "L", "R", "B"
CELLS: list[tuple[object, tuple[str, ...], tuple[int, ...], str]] = [
    # (cell, present as side and code, undecided codes, "" or "open": what is not named is unknown)
    ("A12", ("A12",), (), ""),
    ("A1+A2", ("A1", "A2"), (), ""),
    ("A4+7", ("A4", "7"), (), ""),
    ("4.0", ("4",), (), ""),
    ("4.0+7.0", ("4", "7"), (), ""),
    (4.0, ("4",), (), ""),
    (np.float32(4), ("4",), (), ""),
    (np.int64(7), ("7",), (), ""),
    ("4 and 7", ("4", "7"), (), ""),
    ("4&7", ("4", "7"), (), ""),
    ("4;7", ("4", "7"), (), ""),
    ("4\n7", ("4", "7"), (), ""),
    ("AU4, AU7", ("4", "7"), (), ""),
    ("AU 4 + AU 7", ("4", "7"), (), ""),
    ("AUs: 1, 2", ("1", "2"), (), ""),
    ("４＋７", ("4", "7"), (), ""),
    ("4、7", ("4", "7"), (), ""),
    ("'4+7'", ("4", "7"), (), ""),
    ("04", ("4",), (), ""),
    ("4+", ("4",), (), ""),
    ("4.", ("4",), (), ""),
    ("4++7", ("4", "7"), (), ""),
    ("12(R)", ("R12",), (), ""),
    ("12 (left)", ("L12",), (), ""),
    ("12L", ("L12",), (), ""),
    ("left 12", ("L12",), (), ""),
    ("L4+R7", ("L4", "R7"), (), ""),
    ("R12B", ("R12",), (), ""),
    ("B12", ("12",), (), ""),
    ("T4", ("4",), (), ""),
    ("4E", ("4",), (), ""),
    ("4(D)", ("4",), (), ""),
    ("12 (weak)", ("12",), (), ""),
    ("12(A)", ("12",), (), ""),
    ("10A/B", ("10",), (), ""),
    ("M63", ("63",), (), ""),
    ("14or23", (), (14, 23), ""),
    ("10or11", (), (10, 11), ""),
    ("4 or 7", (), (4, 7), ""),
    ("4/7", (), (4, 7), ""),
    ("4|7", (), (4, 7), ""),
    ("(4 or 7)+12", ("12",), (4, 7), ""),
    ("4+(12(C) or 14)", ("4",), (12, 14), ""),
    ("4+7 or 4+12", (), (4, 7, 12), ""),
    ("12, 14 or 17", (), (12, 14, 17), ""),
    ("13?", (), (13,), ""),
    ("15?", (), (15,), ""),
    ("4+7?", ("4",), (7,), ""),
    ("?7+4", ("4",), (7,), ""),
    ("(4)", (), (4,), ""),
    ("(4+7)", (), (4, 7), ""),
    ("U12", (), (12,), ""),
    ("12L/R", (), (12,), ""),
    ("A/L12", (), (12,), ""),
    ("4+?", ("4",), (), "open"),
    ("4+73", ("4",), (73,), "open"),  # FACS 73: the entire face is out of view
    ("1-2", (), (1, 2), "open"),
    ("4 7", (), (4, 7), "open"),
    ("4.5", (), (4, 5), "open"),
    ("4,0", ("4",), (), "open"),
    ("4B7", (), (4, 7), "open"),
    ("no 4", (), (4,), "open"),
    ("4 (12-30)", (), (4, 12, 30), "open"),
    ("(4", (), (4,), "open"),
    ("4²", (), (4,), "open"),
    ("100", (), (), "open"),
    (100, (), (), "open"),
    ("47", (), (), "open"),  # FACS has no AU 47; a plus may be missing
    ("3", (), (), "open"),
    ("0", (), (), "open"),
    ("smile", (), (), "open"),
    ("soft focus", (), (), "open"),
    (True, (), (), "open"),
    *[
        (nothing, (), (), "open")
        for nothing in (
            "", " ", "?", "-", "--", "/", "NULL", "null", "nan", "NaN", "None", "none", "N/A", "n.a.", "#N/A", "NA",
            None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "unknown", "not coded",
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("cell", "present", "undecided", "left"), CELLS, ids=lambda value: repr(value)[:24])
def test_no_action_unit_is_absent_that_the_coder_did_not_rule_out(
    cell: object, present: tuple[str, ...], undecided: tuple[int, ...], left: str
) -> None:
    annotation = parse_annotation(cell)
    said = {f"{'A' if i.asymmetric else '' if i.side == 'B' else i.side}{i.code}" for i in annotation.items}
    assert said == set(present)
    assert {item.code for item in annotation.undecided} == set(undecided)
    assert annotation.open == (left == "open")
    assert annotation.complete == (not undecided and not left)
    assert (annotation.objective_class is None) == (not annotation.complete)
    presence, vector = annotation.presence(), annotation.vector()
    for code, row in AU_INDEX.items():
        for column, side in enumerate((L, R)):
            there = bool({f"{code}", f"A{code}", f"{side}{code}"} & said)
            unknown = left == "open" or code in undecided
            assert presence[row, column] == (1 if there else -1 if unknown else 0), (code, side)
            assert vector.mask[row, column] or presence[row, column] != 0
            assert not vector.mask[row, column] or presence[row, column] != -1


def test_the_document_has_the_grammar_of_the_docstring() -> None:
    assert parse_annotation.__doc__
    rows = [
        line.strip().replace("``", "`") for line in parse_annotation.__doc__.splitlines() if line.strip()[:1] == "|"
    ]
    document = (Path(__file__).parents[2] / "docs/databases/README.md").read_text(encoding="utf-8")
    assert len(rows) > 10
    assert "\n".join(rows) in document


def test_a_letter_of_an_asymmetric_action_unit_is_the_stronger_sides() -> None:
    vector = parse_annotation("A12C+4C").vector()
    assert not vector.mask[AU_INDEX[12]].any()
    assert vector.intensity[AU_INDEX[4]].tolist() == [0.5, 0.5]


def test_a_doubt_is_one_short_line_whatever_the_cell_holds() -> None:
    for cell in ("4\n\x1b[31mx\ty", "x" * 30_000, "+".join(["x7"] * 9_000), "4" + " " * 30_000 + "x", "(" * 30_000):
        doubt = parse_annotation(cell).doubt
        assert doubt.isprintable()
        assert len(doubt) < 500


def test_nothing_annotated_is_no_doubt() -> None:
    assert parse_annotation("NULL").empty
    assert parse_annotation("NULL").doubt == ""
    assert not parse_annotation("smile").empty
    assert "'smile' not understood" in parse_annotation("smile").doubt
    assert "AU 14, 23 undecided" in parse_annotation("4+(14 or 23)").doubt


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
        ("12=-1.1", "outside"),
        ("4=-0.1", "how much of AU 4 an onset shows cannot be read from one picture, so it cannot be lowered"),
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


# ---------------------------------------------------------------- lowered


@pytest.mark.parametrize("code", facs.AU_CODES)
def test_what_landmarks_can_tell_can_be_lowered_and_nothing_else(code: int) -> None:
    if code not in facs.LOWERABLE:
        with pytest.raises(MesynthError, match=f"AU {code} an onset shows cannot be read"):
            facs.parse_request(f"{code}=-0.2")
        return
    vector = facs.parse_request(f"{code}=-0.2")
    assert vector.intensity[facs.AU_INDEX[code]].tolist() == pytest.approx([-0.2, -0.2])
    assert facs.format_vector(vector) == f"{code}=-0.2"


@pytest.mark.parametrize("request_", ["12=-0.2", "L12=-0.25,R12=0.5", "4=0.5,12=-1", "26=-0.1,12=0.3", "L45=-0.5"])
def test_a_signed_request_is_written_as_it_was_read(request_: str) -> None:
    vector = facs.parse_request(request_)
    again = facs.parse_request(facs.format_vector(vector))
    assert np.array_equal(again.intensity, vector.intensity)


@pytest.mark.parametrize("request_", ["25=-0.2,26=0.3", "26=-0.1,27=0.1", "43=0.5,45=-0.5", "L43=-0.2,45=0.2"])
def test_what_one_opens_the_other_cannot_take_back(request_: str) -> None:
    with pytest.raises(facs.AUConflictError, match="what one opens or closes the other takes back"):
        facs.reject_conflicts(facs.parse_request(request_))


@pytest.mark.parametrize("request_", ["12=-0.3,15=0.5", "L43=-0.2,R43=0.2", "25=-0.2,24=0.5", "43=-0.3,45=-0.2"])
def test_what_goes_together_is_taken(request_: str) -> None:
    facs.reject_conflicts(facs.parse_request(request_))


def test_what_is_lowered_is_unknown_where_only_more_counts() -> None:
    vector = facs.parse_request("L12=-0.2,R12=0.4,4=0.5")
    seen = facs.raised(vector)
    row = facs.AU_INDEX[12]
    assert seen.intensity[row].tolist() == pytest.approx([0, 0.4])
    assert seen.mask[row].tolist() == [False, True]
    assert facs.raised(seen) is seen


def test_minus_nothing_is_nothing() -> None:
    vector = facs.parse_request("12=-0,4=0.5")
    assert not np.signbit(vector.intensity).any()
    assert facs.format_vector(vector) == "4=0.5"
