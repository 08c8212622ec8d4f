"""The FACS vocabulary: action units, sides, intensities, and the grammars databases annotate them in.

Everything numeric about action units (AUs) in this project is indexed by :data:`AU_CODES` (K rows)
and :data:`SIDES` (2 columns: the subject's left and right). Reference: Ekman, Friesen and Hager,
*Facial Action Coding System*, 2002.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.types import N_AUS, AUVector

AU_CODES: tuple[int, ...] = (
    1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 22, 23, 24, 25, 26, 27, 28, 34, 43, 45,
)  # fmt: skip
SIDES: tuple[str, str] = ("L", "R")
assert len(AU_CODES) == N_AUS
AU_INDEX: dict[int, int] = {code: i for i, code in enumerate(AU_CODES)}

# AUs whose muscle crosses the midline: a side cannot be asked for.
MIDLINE: frozenset[int] = frozenset({17, 18, 22, 25, 26, 27, 28})

AU_NAMES: dict[int, str] = {
    1: "inner brow raiser", 2: "outer brow raiser", 4: "brow lowerer", 5: "upper lid raiser",
    6: "cheek raiser", 7: "lid tightener", 8: "lips toward each other", 9: "nose wrinkler",
    10: "upper lip raiser", 11: "nasolabial deepener", 12: "lip corner puller", 13: "sharp lip puller",
    14: "dimpler", 15: "lip corner depressor", 16: "lower lip depressor", 17: "chin raiser",
    18: "lip pucker", 19: "tongue show", 20: "lip stretcher", 21: "neck tightener", 22: "lip funneler",
    23: "lip tightener", 24: "lip pressor", 25: "lips part", 26: "jaw drop", 27: "mouth stretch",
    28: "lip suck", 29: "jaw thrust", 30: "jaw sideways", 31: "jaw clencher", 32: "lip bite",
    33: "cheek blow", 34: "cheek puff", 35: "cheek suck", 36: "tongue bulge", 37: "lip wipe",
    38: "nostril dilator", 39: "nostril compressor", 40: "sniff", 41: "lid droop", 42: "slit",
    43: "eyes closed", 44: "squint", 45: "blink", 46: "wink", 50: "speech",
    51: "head turn left", 52: "head turn right", 53: "head up", 54: "head down", 55: "head tilt left",
    56: "head tilt right", 57: "head forward", 58: "head back", 61: "eyes turn left",
    62: "eyes turn right", 63: "eyes up", 64: "eyes down", 65: "walleye", 66: "cross-eye",
    80: "swallow",
}  # fmt: skip

# Nominal weight of each FACS letter. A proposal, not a measurement: FACS letters are ordinal.
LETTER_INTENSITY: dict[str, float] = {"A": 0.10, "B": 0.25, "C": 0.50, "D": 0.75, "E": 1.00}

# Pairs that pull the same tissue in opposite directions and cannot both be at their full value.
_CONFLICTS: dict[tuple[int, int], str] = {
    (12, 15): "the lip corners cannot go up and down",
    (23, 25): "lips cannot be tightened shut and parted",
    (24, 25): "lips cannot be pressed and parted",
    (24, 26): "lips cannot be pressed over a dropped jaw",
    (24, 27): "lips cannot be pressed over a stretched mouth",
    (25, 28): "lips cannot be sucked in and parted",
    (5, 43): "the lid cannot be raised and closed",
}
# Pairs that do occur together (fear brow) but whose displacements add up to less than their sum.
_BLENDS: dict[tuple[int, int], float] = {(1, 4): 0.8, (2, 4): 0.8}


@dataclass(frozen=True)
class AUItem:
    """One coded action: ``code``, ``side`` ("L", "R" or "B" for both), and the letter if one was given."""

    code: int
    side: str = "B"
    letter: str | None = None


@dataclass(frozen=True)
class AUAnnotation:
    """What an annotation cell says, split into what is decided and what is not.

    ``items`` are certain; ``undecided`` are AUs named in an alternative, a reference or with an
    undecidable side; ``static`` AUs are present throughout (4DME ``4(k)``); ``unknown_text`` is
    whatever could not be read. ``complete`` is False when the coder left the cell open (``?``).
    """

    text: str
    items: tuple[AUItem, ...] = ()
    undecided: tuple[AUItem, ...] = ()
    static: tuple[AUItem, ...] = ()
    unknown_text: tuple[str, ...] = ()
    complete: bool = True

    @property
    def codes(self) -> tuple[int, ...]:
        """The certain AU codes, ascending, without sides."""
        return tuple(sorted({item.code for item in self.items}))

    def presence(self) -> np.ndarray:
        """[K,2] int8: 1 present, 0 absent, -1 undecided (an AU of the vocabulary, per side)."""
        out = np.full((len(AU_CODES), 2), 0 if self.complete else -1, np.int8)
        for item in self.undecided:
            if item.code in AU_INDEX:
                out[AU_INDEX[item.code], _columns(item.side)] = -1
        for item in self.items:
            if item.code in AU_INDEX:
                out[AU_INDEX[item.code], _columns(item.side)] = 1
        return out

    def vector(self) -> AUVector:
        """Intensities where a letter fixes them; a present AU without a letter is marked unknown."""
        presence = self.presence()
        intensity = np.zeros(presence.shape, np.float32)
        known = presence == 0
        for item in self.items:
            if item.code in AU_INDEX and item.letter in LETTER_INTENSITY:
                cell = (AU_INDEX[item.code], _columns(item.side))
                intensity[cell] = LETTER_INTENSITY[item.letter]
                known[cell] = True
        return AUVector(intensity, known)


_PREFIX = r"(?P<kind>AU|AD|M|F)?\s*(?P<side>[LRABTU])?\s*(?P<code>\d{1,2})"
_ITEM = re.compile(rf"^{_PREFIX}\s*(?P<letter>[A-E])?$", re.IGNORECASE)
_TWO_LETTERS = re.compile(rf"^{_PREFIX}\s*(?P<letter>[A-E]\s*/\s*[A-E])$", re.IGNORECASE)
_TWO_SIDES = re.compile(r"^(?P<sides>[LRABTU]\s*/\s*[LRABTU])\s*(?P<code>\d{1,2})\s*(?P<letter>[A-E])?$", re.I)
_REFERENCE = re.compile(r"^ref\s*\(?(?P<inner>.*?)\)?$", re.IGNORECASE)
_STATIC = re.compile(rf"^{_PREFIX}\s*\(k\)$", re.IGNORECASE)
_OPEN = {"?", "unknown", "nan", "none", ""}


def parse_annotation(cell: object) -> AUAnnotation:
    """Read one AU cell of any database's workbook.

    Understands plus, comma and full-width comma lists, side prefixes (``L``, ``R``; ``B`` bilateral),
    letters (``4D``), ``ref(6)``, alternatives (``R12 or R14``, ``(R6 or R12) + R15``), undecided
    letters (``10A/B``) and sides (``A/L12``), static AUs (``4(k)``), descriptors (``AD38``, ``M57``).
    Never raises and never guesses: what it cannot decide is kept as text and marked.

    >>> parse_annotation("4D+ref(6)+7C+43E").codes
    (4, 7, 43)
    >>> parse_annotation("R12 or R14").undecided
    (AUItem(code=12, side='R', letter=None), AUItem(code=14, side='R', letter=None))
    """
    text = _cell_text(cell)
    if text.lower() in _OPEN:
        return AUAnnotation(text=text, complete=False)
    items: list[AUItem] = []
    undecided: list[AUItem] = []
    static: list[AUItem] = []
    unknown: list[str] = []
    complete = True
    for term in _split_terms(text):
        if term == "?":
            complete = False
        elif match := _ITEM.match(term):
            item, certain = _item(match["code"], match["side"], match["letter"])
            (items if certain else undecided).append(item)
        elif match := _TWO_LETTERS.match(term):  # present for certain, intensity undecided
            item, certain = _item(match["code"], match["side"], None)
            (items if certain else undecided).append(item)
            unknown.append(term)
        elif match := _TWO_SIDES.match(term):
            undecided.append(AUItem(int(match["code"]), "B"))
            unknown.append(term)
        elif match := _STATIC.match(term):
            static.append(_item(match["code"], match["side"], None)[0])
        elif match := _REFERENCE.match(term):
            undecided += _alternatives(match["inner"])
            unknown.append(term)
        elif alternatives := _alternatives(term):
            undecided += alternatives
            unknown.append(term)
        else:
            unknown.append(term)
    return AUAnnotation(text, tuple(items), tuple(undecided), tuple(static), tuple(unknown), complete)


def _cell_text(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _split_terms(text: str) -> list[str]:
    """Split on separators outside parentheses: ``(R6 or R12) + R15`` has two terms."""
    terms, depth, current = [], 0, ""
    for char in text:
        depth += {"(": 1, "（": 1, ")": -1, "）": -1}.get(char, 0)
        if depth <= 0 and char in "+,，、;&":
            terms.append(current.strip())
            current = ""
        else:
            current += char
    terms.append(current.strip())
    return [term for term in terms if term]


def _item(code: str, side: str | None, letter: str | None) -> tuple[AUItem, bool]:
    """The item, and whether its side is certain (``A``symmetric and ``U``nilateral leave it open)."""
    prefix = (side or "B").upper()
    certain = prefix not in {"A", "U"}
    return AUItem(int(code), prefix if prefix in SIDES else "B", letter.upper() if letter else None), certain


def _alternatives(term: str) -> list[AUItem]:
    """``(R6 or R12)`` -> both items; empty if any part is not an AU."""
    parts = re.split(r"\s+or\s+|/", term.strip().strip("()"), flags=re.IGNORECASE)
    found = [_ITEM.match(part.strip()) for part in parts]
    return [_item(m["code"], m["side"], m["letter"])[0] for m in found if m] if all(found) else []


def _columns(side: str) -> list[int]:
    return [0, 1] if side == "B" else [SIDES.index(side)]


# --------------------------------------------------------------------------- what a user asks for


class UnknownAUError(MesynthError):
    """A requested AU is not in the vocabulary."""


class AUConflictError(MesynthError):
    """Two requested AUs exclude each other."""


_REQUEST = re.compile(r"^(?:AU)?\s*(?P<side>[LRB])?\s*(?P<code>\d+)\s*(?:=\s*(?P<value>.+))?$", re.IGNORECASE)


def parse_request(text: str) -> AUVector:
    """Read a request such as ``"12=B,L4=0.2"``: AU, optional side, and a letter A-E or a number in [0,1].

    Raises:
        UnknownAUError: the AU is not one this project can move.
        MesynthError: a side on a midline AU, an intensity that is no letter or out of [0,1],
            an AU given twice, or a term that is not an AU.

    >>> vector = parse_request("12=B,L4=0.2")
    >>> tuple(round(float(v), 2) for v in vector.intensity[AU_INDEX[4]])
    (0.2, 0.0)
    """
    intensity = np.zeros((len(AU_CODES), 2), np.float32)
    seen: set[tuple[int, int]] = set()
    for term in (t.strip() for t in text.split(",") if t.strip()):
        match = _REQUEST.match(term)
        if not match:
            raise MesynthError(f"'{term}' is not an AU request; write for example 12=B or L4=0.2")
        code, side = int(match["code"]), (match["side"] or "B").upper()
        if code not in AU_INDEX:
            known = ", ".join(map(str, AU_CODES))
            raise UnknownAUError(f"AU {code} is not in the vocabulary; choose from {known}")
        if side != "B" and code in MIDLINE:
            raise MesynthError(f"AU {code} ({AU_NAMES[code]}) has no sides; write {code} instead of {side}{code}")
        for column in _columns(side):
            if (code, column) in seen:
                raise MesynthError(f"AU {code} is given twice for side {SIDES[column]} in '{text}'")
            seen.add((code, column))
            intensity[AU_INDEX[code], column] = _intensity(match["value"], term)
    if not seen:
        raise MesynthError(f"'{text}' names no AU; write for example 12=B,L4=0.2")
    return AUVector(intensity)


def _intensity(value: str | None, term: str) -> float:
    if value is None:
        raise MesynthError(f"'{term}' has no intensity; write {term}=B or {term}=0.25")
    letter = value.strip().upper()
    if letter in LETTER_INTENSITY:
        return LETTER_INTENSITY[letter]
    try:
        number = float(letter)
    except ValueError:
        raise MesynthError(f"intensity '{value}' in '{term}' is neither a letter A-E nor a number") from None
    if not 0.0 <= number <= 1.0:
        raise MesynthError(f"intensity {number:g} in '{term}' is outside [0, 1]; 1 is FACS E")
    return number


def format_vector(vector: AUVector) -> str:
    """The shortest request that gives this vector back, sides merged where they are equal.

    >>> format_vector(parse_request("4=0.5,L12=0.25"))
    '4=0.5,L12=0.25'
    """
    terms = []
    for code, (left, right) in zip(AU_CODES, vector.intensity, strict=True):
        if left == right and left > 0:
            terms.append(f"{code}={left:.4g}")
        else:
            terms += [f"{s}{code}={v:.4g}" for s, v in zip(SIDES, (left, right), strict=True) if v > 0]
    return ",".join(terms)


def conflicts(vector: AUVector) -> list[tuple[int, int, str]]:
    """The conflicting pairs that are both active on one side, with the reason."""
    active = vector.intensity > 0
    return [
        (a, b, why) for (a, b), why in _CONFLICTS.items() if bool((active[AU_INDEX[a]] & active[AU_INDEX[b]]).any())
    ]


def reject_conflicts(vector: AUVector) -> None:
    """Raise :class:`AUConflictError` for the first conflicting pair."""
    for a, b, why in conflicts(vector):
        raise AUConflictError(f"AU {a} and AU {b} exclude each other: {why}; drop one of them")


def damp(vector: AUVector) -> AUVector:
    """Resolve conflicts by silencing the weaker AU of a pair, and shrink blends (:data:`_BLENDS`)."""
    out = vector.intensity.copy()
    for a, b in _CONFLICTS:
        ia, ib = AU_INDEX[a], AU_INDEX[b]
        both = (out[ia] > 0) & (out[ib] > 0)
        weaker_a = both & (out[ia] <= out[ib])
        out[ia, weaker_a] = 0
        out[ib, both & ~weaker_a] = 0
    for (a, b), factor in _BLENDS.items():
        ia, ib = AU_INDEX[a], AU_INDEX[b]
        both = (out[ia] > 0) & (out[ib] > 0)
        out[ia, both] *= factor
        out[ib, both] *= factor
    return AUVector(out, vector.known)


# --------------------------------------------------------------------------- objective classes

_OBJECTIVE: dict[str, str] = {
    "I": "6 12 6+12 6+7+12 7+12",
    "II": "1+2 5 25 1+2+25 25+26 5+24",
    "III": "23 4 4+7 4+5 4+5+7 17+24 4+6+7 4+38",
    "IV": "9 10 4+9 4+40 4+5+40 4+7+9 4+9+17 4+7+10 4+5+7+9 7+10",
    "V": "1 15 1+4 6+15 15+17",
    "VI": "1+2+4 20",
}
_OBJECTIVE_OF: dict[frozenset[int], str] = {
    frozenset(map(int, group.split("+"))): name for name, groups in _OBJECTIVE.items() for group in groups.split()
}


def objective_class(codes: Iterable[int]) -> str:
    """Objective class I-VII of an AU set (Davison, Merghani and Yap, *Objective Classes*, 2018)."""
    return _OBJECTIVE_OF.get(frozenset(codes), "VII")
