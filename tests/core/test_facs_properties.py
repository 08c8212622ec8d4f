"""The annotation grammar on strings built from it, and on any text: never raises, never guesses, loses nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mesynth.core.facs import AU_CODES, AU_INDEX, LETTER_INTENSITY, AUItem, objective_class, parse_annotation

CODES = st.sampled_from([*AU_CODES, 8, 11, 13, 21, 31, 38, 39, 53, 57, 61])  # also those without a row
SEPARATORS = st.sampled_from(["+", " + ", ",", ", ", "，", "、", ";", "+ "])


@dataclass(frozen=True)
class Term:
    """A term as a coder writes it, and what it says."""

    text: str
    items: tuple[AUItem, ...] = ()
    undecided: tuple[AUItem, ...] = ()
    static: tuple[AUItem, ...] = ()
    unknown: bool = False


@st.composite
def plain(draw: st.DrawFn) -> Term:
    """``4``, ``AU12``, ``L14C``, ``AD38``, ``M57``, ``T23``."""
    kind = draw(st.sampled_from(["", "", "", "AU", "AU ", "AD", "M", "au"]))
    side = draw(st.sampled_from(["", "L", "R", "B", "T"]))
    letter = draw(st.sampled_from([None, *"ABCDE"]))
    code = draw(CODES)
    item = AUItem(code, side if side in ("L", "R") else "B", letter)
    return Term(f"{kind}{side}{code}{letter or ''}", items=(item,))


@st.composite
def open_side(draw: st.DrawFn) -> Term:
    """``A14`` (asymmetric) and ``U12`` (unilateral): which side is not said."""
    side, code, letter = draw(st.sampled_from("AU")), draw(CODES), draw(st.sampled_from([None, *"ABCDE"]))
    return Term(f"{side}{code}{letter or ''}", undecided=(AUItem(code, "B", letter),))


@st.composite
def alternative(draw: st.DrawFn) -> Term:
    """``R12 or R14``, ``(R6 or R12)``, ``ref(6)``, ``ref(7B)``."""
    parts = draw(st.lists(plain(), min_size=2, max_size=3))
    items = tuple(item for part in parts for item in part.items)
    text = " or ".join(part.text for part in parts)
    form = draw(st.sampled_from(["{}", "({})"]))
    if draw(st.booleans()):
        return Term(f"ref({parts[0].text})", undecided=parts[0].items, unknown=True)
    return Term(form.format(text), undecided=items, unknown=True)


@st.composite
def half_decided(draw: st.DrawFn) -> Term:
    """``10A/B``: present, intensity open. ``A/L12``: side open."""
    code = draw(CODES)
    first, second = draw(st.permutations("ABCDE"))[:2]
    if draw(st.booleans()):
        return Term(f"{code}{first}/{second}", items=(AUItem(code),), unknown=True)
    return Term(f"{draw(st.sampled_from(['A/L', 'L/R', 'R/B']))}{code}", undecided=(AUItem(code),), unknown=True)


@st.composite
def static(draw: st.DrawFn) -> Term:
    """``4(k)``: there throughout the clip."""
    code = draw(CODES)
    return Term(f"{code}(k)", static=(AUItem(code),))


WORDS = st.sampled_from(["soft focus", "blink", "eye movement", "look left", "head"]).map(
    lambda w: Term(w, unknown=True)
)
TERMS = st.lists(st.one_of(plain(), plain(), open_side(), alternative(), half_decided(), static(), WORDS), max_size=6)


@st.composite
def cells(draw: st.DrawFn) -> tuple[str, list[Term]]:
    """A cell as workbooks have them, and its terms."""
    terms = draw(TERMS.filter(bool))
    text = terms[0].text
    for term in terms[1:]:
        text += draw(SEPARATORS) + term.text
    return draw(st.sampled_from(["{}", " {}", "{} ", "{}+"])).format(text), terms


@given(cells())
def test_every_term_is_read_for_what_it_says(cell: tuple[str, list[Term]]) -> None:
    text, terms = cell
    annotation = parse_annotation(text)
    assert annotation.items == tuple(item for term in terms for item in term.items)
    assert annotation.undecided == tuple(item for term in terms for item in term.undecided)
    assert annotation.static == tuple(item for term in terms for item in term.static)
    assert annotation.unknown_text == tuple(term.text for term in terms if term.unknown)
    assert annotation.complete


def written(item: AUItem) -> str:
    return f"{'' if item.side == 'B' else item.side}{item.code}{item.letter or ''}"


@given(cells())
def test_what_was_read_can_be_written_and_read_again(cell: tuple[str, list[Term]]) -> None:
    items = parse_annotation(cell[0]).items
    again = parse_annotation("+".join(map(written, items)))
    assert again.items == items
    if items:
        assert objective_class(again.codes) == objective_class(parse_annotation(cell[0]).codes)


@given(cells())
def test_presence_and_intensity_claim_no_more_than_the_terms(cell: tuple[str, list[Term]]) -> None:
    annotation = parse_annotation(cell[0])
    presence, vector = annotation.presence(), annotation.vector()
    for code, row in AU_INDEX.items():
        for column, side in enumerate("LR"):
            said = [item for item in annotation.items if item.code == code and item.side in (side, "B")]
            open_ = [item for item in annotation.undecided if item.code == code and item.side in (side, "B")]
            assert presence[row, column] == (1 if said else -1 if open_ else 0)
            letters = {LETTER_INTENSITY[item.letter] for item in said if item.letter}
            if presence[row, column] == 1:
                assert vector.mask[row, column] == bool(letters)
                assert not letters or float(np.float32(vector.intensity[row, column])) in map(np.float32, letters)
            else:
                assert vector.intensity[row, column] == 0
                assert vector.mask[row, column] == (presence[row, column] == 0)


@given(cells())
def test_an_open_cell_makes_no_claim_of_absence(cell: tuple[str, list[Term]]) -> None:
    presence = parse_annotation(cell[0] + "+?").presence()
    assert not parse_annotation(cell[0] + "+?").complete
    assert set(np.unique(presence)) <= {-1, 1}


@given(cells(), st.sampled_from([str.upper, str.lower]))
def test_case_does_not_matter(cell: tuple[str, list[Term]], change) -> None:
    before, after = parse_annotation(cell[0]), parse_annotation(change(cell[0]))
    assert (before.items, before.undecided, before.static) == (after.items, after.undecided, after.static)


# ---------------------------------------------------------------- any text


ANY = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="0123456789ABLRTU+,/()?or ref k.-", max_size=30),
    st.integers(-5, 200),
    st.floats(),
    st.none(),
)


@given(ANY)
def test_any_cell_is_read_without_raising(cell: object) -> None:
    annotation = parse_annotation(cell)
    presence, vector = annotation.presence(), annotation.vector()
    assert presence.shape == vector.intensity.shape == (len(AU_CODES), 2)
    assert set(np.unique(presence)) <= {-1, 0, 1}
    assert (vector.intensity[presence != 1] == 0).all()


@given(ANY)
def test_no_action_unit_comes_from_nowhere(cell: object) -> None:
    """Every code read stands in the text as a number of its own, never as a part of a longer one."""
    annotation = parse_annotation(cell)
    numbers = {int(digits) for digits in re.findall(r"\d+", annotation.text)}
    for item in (*annotation.items, *annotation.undecided, *annotation.static):
        assert item.code in numbers
        assert item.side in {"L", "R", "B"}


@given(st.text(alphabet="0123456789ABLRTU+,/()?or ref k.-", max_size=30))
def test_reading_twice_gives_the_same(text: str) -> None:
    assert parse_annotation(text) == parse_annotation(f" {text} ")
