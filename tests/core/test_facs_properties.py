"""The annotation grammar on strings built from it, and on any text: never raises, never guesses, loses nothing."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mesynth.core.facs import (
    AU_CODES,
    AU_INDEX,
    AU_NAMES,
    LETTER_INTENSITY,
    AUItem,
    mirrored,
    objective_class,
    parse_annotation,
)

CODES = st.sampled_from([*AU_CODES, 8, 11, 13, 21, 31, 38, 39, 53, 57, 61])  # also those without a row
SEPARATORS = st.sampled_from(["+", " + ", ",", ", ", "，", "、", ";", "+ ", "＋", "&", " and ", "\n"])


@dataclass(frozen=True)
class Term:
    """A term as a coder writes it, and what it says."""

    text: str
    items: tuple[AUItem, ...] = ()
    undecided: tuple[AUItem, ...] = ()
    static: tuple[AUItem, ...] = ()
    unknown: bool = False
    open: bool = False
    """It could not be read: what the cell does not name is unknown."""
    spans: bool = False
    """A bare ``or``: what it stands between is not said."""


@st.composite
def plain(draw: st.DrawFn) -> Term:
    """``4``, ``AU12``, ``L14C``, ``AD38``, ``M57``, ``T23``, ``A12`` (asymmetric), ``12R``, ``12(L)``, ``4.0``."""
    kind = draw(st.sampled_from(["", "", "", "AU", "AU ", "AD", "M", "au"]))
    side = draw(st.sampled_from(["", "L", "R", "B", "T", "A"]))
    letter = draw(st.sampled_from([None, *"ABCDE"]))
    code = draw(CODES)
    item = AUItem(code, side if side in ("L", "R") else "B", letter, asymmetric=side == "A")
    before, after = (side, "") if draw(st.booleans()) or side not in ("L", "R") else ("", side)
    after = draw(st.sampled_from([after, f"({after})", f" ({after})"])) if after else ""
    decimal = draw(st.sampled_from(["", "", ".0"]))
    return Term(f"{kind}{before}{code}{decimal}{letter or ''}{after}", items=(item,))


@st.composite
def open_side(draw: st.DrawFn) -> Term:
    """``U12`` (unilateral): which side is not said. ``12?``: whether at all."""
    code, letter = draw(CODES), draw(st.sampled_from([None, *"ABCDE"]))
    if draw(st.booleans()):
        return Term(f"{code}{letter or ''}?", undecided=(AUItem(code, "B", letter),), unknown=True)
    return Term(f"U{code}{letter or ''}", undecided=(AUItem(code, "B", letter),))


@st.composite
def alternative(draw: st.DrawFn) -> Term:
    """``R12 or R14``, ``14or23``, ``4/7``, ``(R6 or R12)``, ``ref(6)``, ``ref(7B)``."""
    parts = draw(st.lists(plain(), min_size=2, max_size=3))
    items = tuple(item for part in parts for item in part.items)
    if draw(st.booleans()):
        return Term(f"ref({parts[0].text})", undecided=parts[0].items, unknown=True)
    if draw(st.booleans()):
        items = tuple(AUItem(item.code) for item in items)
        return Term("/".join(str(item.code) for item in items), undecided=items, unknown=True)
    text = draw(st.sampled_from([" or ", "or", " OR "])).join(part.text for part in parts)
    if draw(st.booleans()):
        return Term(f"({text})", undecided=items, unknown=True)
    return Term(text, undecided=items, unknown=True, spans=True)


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


WORDS = st.one_of(
    st.just(Term("soft focus", unknown=True)),
    st.sampled_from(["blink", "eye movement", "look left", "smile"]).map(lambda w: Term(w, unknown=True, open=True)),
    st.just(Term("?", open=True)),
)
UNREAD = st.sampled_from(["4.5", "1-2", "100", "3", "12 14", "4B7", "99", "(4", "12x", "4(12-30)"]).map(
    lambda w: Term(w, unknown=True, open=True)
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


def meant(terms: list[Term]) -> Term:
    """What a cell of these terms says; the text is that of its first term."""
    spanning = len(terms) > 1 and any(term.spans for term in terms)
    items = tuple(item for term in terms for item in term.items)
    both = tuple(item for term in terms for item in (*term.items, *term.undecided))
    undecided = both if spanning else tuple(item for term in terms for item in term.undecided)
    static_ = tuple(item for term in terms for item in term.static)
    nothing = not (both or static_)
    return Term(
        terms[0].text, () if spanning else items, undecided, static_, open=nothing or any(term.open for term in terms)
    )


@given(cells())
def test_every_term_is_read_for_what_it_says(cell: tuple[str, list[Term]]) -> None:
    text, terms = cell
    annotation, said = parse_annotation(text), meant(terms)
    assert (annotation.items, annotation.undecided, annotation.static) == (said.items, said.undecided, said.static)
    assert annotation.unknown_text == tuple(term.text for term in terms if term.unknown)
    assert annotation.open == said.open
    assert annotation.complete == (not said.open and not said.undecided)
    assert annotation.objective_class == (objective_class(annotation.codes) if annotation.complete else None)
    assert bool(annotation.doubt) == (not annotation.complete and not annotation.empty)


@given(cells(), UNREAD, st.booleans())
def test_what_cannot_be_read_opens_the_cell(cell: tuple[str, list[Term]], unread: Term, first: bool) -> None:
    text, terms = cell
    annotation = parse_annotation(
        f"{unread.text};{text}" if first and "(" not in unread.text else f"{text};{unread.text}"
    )
    assert annotation.open
    assert not annotation.complete
    assert unread.text in annotation.unknown_text
    assert unread.text in annotation.doubt
    assert annotation.codes == tuple(sorted({item.code for item in meant(terms).items}))
    assert set(np.unique(annotation.presence())) <= {-1, 1}
    assert not (annotation.vector().mask & (annotation.presence() != 1)).any()


def written(item: AUItem) -> str:
    side = "A" if item.asymmetric else "" if item.side == "B" else item.side
    return f"{side}{item.code}{item.letter or ''}"


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
            assert presence[row, column] == (1 if said else -1 if open_ or meant(cell[1]).open else 0)
            letters = {LETTER_INTENSITY[item.letter] for item in said if item.letter and not item.asymmetric}
            if presence[row, column] == 1:
                assert vector.mask[row, column] == (len(letters) == 1)  # 12B+12D: which of them is not said
                assert vector.intensity[row, column] == (np.float32(*letters) if len(letters) == 1 else 0)
            else:
                assert vector.intensity[row, column] == 0
                assert vector.mask[row, column] == (presence[row, column] == 0)


@given(cells())
def test_an_open_cell_makes_no_claim_of_absence(cell: tuple[str, list[Term]]) -> None:
    presence = parse_annotation(cell[0] + "+?").presence()
    assert not parse_annotation(cell[0] + "+?").complete
    assert set(np.unique(presence)) <= {-1, 1}


@given(cells())
def test_a_mirrored_cell_says_the_same_of_the_other_side(cell: tuple[str, list[Term]]) -> None:
    text = mirrored(cell[0])
    if text:
        assert np.array_equal(parse_annotation(text).presence(), parse_annotation(cell[0]).presence()[:, ::-1])
        assert mirrored(text) == cell[0]
    else:
        assert cell[0].strip() == "" or any(term.open for term in cell[1])


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


def digit_groups(text: str) -> list[str]:
    """Runs of decimal digits of any script as ASCII, without the ``.0`` that a number column adds."""
    plain = "".join(str(unicodedata.decimal(c)) if unicodedata.decimal(c, None) is not None else c for c in text)
    return re.findall(r"\d+", re.sub(r"(?<=\d)[.\uff0e]0+(?!\d)", "", plain))


@settings(max_examples=400)
@given(
    st.one_of(
        ANY,
        st.lists(st.sampled_from([*"0123456789ABCDELRTUkM", "+", ",", "/", " ", "(", ")", "?", "or", "and", ".0"])).map(
            "".join
        ),
        st.lists(st.sampled_from("0123456789０１２４７９＋，（）．٤۷४②¼²ⅣABLRabc+,.-/ ")).map("".join),
    )
)
def test_every_digit_is_an_action_unit_or_leaves_the_cell_undecided(cell: object) -> None:
    annotation = parse_annotation(cell)
    if annotation.complete:
        read = sorted(item.code for item in (*annotation.items, *annotation.static))
        assert sorted(int(group) for group in digit_groups(annotation.text)) == read
        assert not any(char.isnumeric() and unicodedata.decimal(char, None) is None for char in annotation.text)
        assert set(read) <= set(AU_NAMES)
    else:  # no absence is claimed that the text does not carry
        undecided = {AU_INDEX[item.code] for item in annotation.undecided if item.code in AU_INDEX}
        absent = annotation.presence() == 0
        assert not absent.any() if annotation.open else not absent[sorted(undecided)].all(1).any()


@given(st.text(alphabet="0123456789ABLRTU+,/()?or ref k.-", max_size=30))
def test_reading_twice_gives_the_same(text: str) -> None:
    assert parse_annotation(text) == parse_annotation(f" {text} ")
