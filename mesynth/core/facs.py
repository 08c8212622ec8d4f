"""The FACS vocabulary: action units, sides, intensities, and the grammars databases annotate them in.

Everything numeric about action units (AUs) in this project is indexed by :data:`AU_CODES` (K rows)
and :data:`SIDES` (2 columns: the subject's left and right). Reference: Ekman, Friesen and Hager,
*Facial Action Coding System*, 2002.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import MesynthError
from mesynth.core.types import LOWERABLE_ROWS, N_AUS, AUVector

AU_CODES: tuple[int, ...] = (
    1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 18, 20, 22, 23, 24, 25, 26, 27, 28, 34, 43, 45,
)  # fmt: skip
SIDES: tuple[str, str] = ("L", "R")
assert len(AU_CODES) == N_AUS
AU_INDEX: dict[int, int] = {code: i for i, code in enumerate(AU_CODES)}

# AUs whose muscle crosses the midline: a side cannot be asked for.
MIDLINE: frozenset[int] = frozenset({17, 18, 22, 25, 26, 27, 28})
_MIDLINE_ROWS = [i for i, code in enumerate(AU_CODES) if code in MIDLINE]

LOWERABLE: tuple[int, ...] = (12, 25, 26, 27, 43, 45)
"""AUs that may be asked for with a minus: how much of them an onset shows already can be read from landmarks."""
assert tuple(AU_INDEX[code] for code in LOWERABLE) == LOWERABLE_ROWS

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
    56: "head tilt right", 57: "head forward", 58: "head back", 59: "head nod", 60: "head shake",
    61: "eyes turn left", 62: "eyes turn right", 63: "eyes up", 64: "eyes down", 65: "walleye", 66: "cross-eye",
    68: "upward rolling of eyes", 69: "eyes positioned to look at another", 70: "brows not visible",
    71: "eyes not visible", 72: "lower face not visible", 73: "entire face not visible", 74: "unscorable",
    80: "swallow", 81: "chew", 82: "shoulder shrug", 83: "head up and to the side", 84: "head shake back and forth",
    85: "head nod up and down", 91: "flash", 92: "partial flash", 97: "shiver", 98: "fast up-down look",
}  # fmt: skip
"""Every code of FACS 2002; other numbers (3, 47, 99) name nothing."""

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
_ONE_MOTION: tuple[tuple[int, ...], ...] = ((25, 26, 27), (43, 45))
"""AUs that move the same lips or lid the same way: none can be lowered while another one is raised."""
# Pairs that do occur together (fear brow) but whose displacements add up to less than their sum.
_BLENDS: dict[tuple[int, int], float] = {(1, 4): 0.8, (2, 4): 0.8}


@dataclass(frozen=True)
class AUItem:
    """One coded action: ``code``, ``side`` ("L", "R" or "B" for both), and the letter if one was given.

    ``asymmetric``: both sides act, one of them more strongly; which one is not said.
    """

    code: int
    side: str = "B"
    letter: str | None = None
    asymmetric: bool = False


@dataclass(frozen=True)
class AUAnnotation:
    """What an annotation cell says, split into what is decided and what is not.

    ``items`` are certain; ``undecided`` are AUs named with a question mark, in an alternative or a reference, with an
    undecidable side, or in text that could not be read; ``static`` AUs are present throughout (4DME ``4(k)``);
    ``unknown_text`` are the terms that are not decided in full. ``open``: nothing is known about the AUs that the cell
    does not name, because nothing was annotated, the coder left it open (``?``), or part of it could not be read.
    """

    text: str
    items: tuple[AUItem, ...] = ()
    undecided: tuple[AUItem, ...] = ()
    static: tuple[AUItem, ...] = ()
    unknown_text: tuple[str, ...] = ()
    open: bool = False

    @property
    def complete(self) -> bool:
        """Which AUs are there is decided for every AU; intensities and sides may still be unknown."""
        return not self.open and not self.undecided

    @property
    def empty(self) -> bool:
        """Nothing was annotated: a blank cell, ``?``, ``NULL`` and the like."""
        return self.open and not (self.items or self.undecided or self.static or self.unknown_text)

    @property
    def codes(self) -> tuple[int, ...]:
        """The certain AU codes, ascending, without sides."""
        return tuple(sorted({item.code for item in self.items}))

    @property
    def objective_class(self) -> str | None:
        """Objective class I-VII, None where the set of AUs is not decided."""
        return objective_class(self.codes) if self.complete else None

    @property
    def doubt(self) -> str:
        """One line on what is not decided, for people; empty where all is, or where nothing was annotated.

        >>> parse_annotation("4+(14 or 23)").doubt
        "action units not decided; '4+(14 or 23)': AU 14, 23 undecided"
        """
        if self.complete or self.empty:
            return ""
        said = []
        if codes := sorted({item.code for item in self.undecided} - set(self.codes)):
            said.append(f"AU {', '.join(map(str, codes))} undecided")
        if self.open:
            open_terms = list(dict.fromkeys(term for term in self.unknown_text if not _is_read(term)))
            terms = [f"'{_line(term)}'" for term in open_terms[:_TERMS]]
            unread = ", ".join(terms) + (", ..." if len(open_terms) > _TERMS else "")
            said.append(
                (f"{unread} not understood; " if unread else "") + "what it does not name is unknown, not absent"
            )
        if not said:  # one side of an AU of which the other is certain
            said.append("a side is undecided")
        return f"action units not decided; '{_line(self.text)}': {'; '.join(said)}"

    def presence(self) -> np.ndarray:
        """[K,2] int8: 1 present, 0 absent, -1 undecided (an AU of the vocabulary, per side)."""
        out = np.full((len(AU_CODES), 2), -1 if self.open else 0, np.int8)
        for item in self.undecided:
            if item.code in AU_INDEX:
                out[AU_INDEX[item.code], _columns(item.side)] = -1
        for item in self.items:
            if item.code in AU_INDEX:
                out[AU_INDEX[item.code], _columns(item.side)] = 1
        return out

    def vector(self) -> AUVector:
        """Intensities where a letter fixes them; a present AU without a letter is marked unknown.

        So is one with a letter that is asymmetric (the letter is the stronger side's) or with two different letters.
        """
        presence = self.presence()
        intensity = np.zeros(presence.shape, np.float32)
        known = presence == 0
        said: dict[tuple[int, int], set[str]] = {}
        for item in self.items:
            if item.code in AU_INDEX and item.letter in LETTER_INTENSITY and not item.asymmetric:
                for column in _columns(item.side):
                    said.setdefault((AU_INDEX[item.code], column), set()).add(item.letter)
        for cell, letters in said.items():
            if len(letters) == 1:
                intensity[cell] = LETTER_INTENSITY[letters.pop()]
                known[cell] = True
        return AUVector(intensity, known)


_SHOWN, _TERMS = 60, 5
"""Letters of a cell, and terms of it, that a message shows."""
_NOTHING = frozenset(
    {
        "none", "null", "nil", "nan", "na", "nat", "n/a", "n.a.", "n.a", "<na>", "#n/a", "unknown", "unclear",
        "missing", "empty", "blank", "not coded", "not annotated", "no annotation",
    }
)  # fmt: skip
"""Words of a cell in which nothing was annotated (as is one without any letter or digit)."""
_REMARKS = frozenset({"soft focus"})
"""Remarks of the releases' coders about the picture, which say nothing of action units."""
_NOT_VISIBLE = frozenset(range(70, 75))
"""FACS codes for parts of the face that could not be seen: no AU there is known to be absent."""
_SIDE_WORDS = {
    "left": "L", "right": "R", "both": "B", "bilateral": "B", "top": "T", "bottom": "B", "unilateral": "U",
    "asymmetric": "A", "asymmetrical": "A",
}  # fmt: skip
_GRADES = "trace|slight|weak|mild|moderate|marked|pronounced|strong|severe|extreme|maximum"
"""Intensity in words, which no key translates into letters: present, intensity unknown."""
_SEPARATORS = "+,、;&\n\r\t"
_WORDS = "|".join(_SIDE_WORDS)
_NAMED = re.compile(
    rf"""(?: (?P<word>{_WORDS}) \s+ | (?:{_GRADES}) \s+ | (?P<ask>\?) \s* )?
         (?: (?:AUs?|AD|M|F) (?![a-z]{{2}}) [\s:._\#-]* )?
         (?: (?P<sides>[LRABTU]\s*/\s*[LRABTU]) | (?P<side>[LRABTU]) )? \s*
         (?P<code>[0-9]{{1,2}}) (?: \.0+ (?![0-9]) )? (?P<marks> (?![0-9]) .* )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
"""An action unit as it is named; what follows the number is read mark by mark."""
_MARK = re.compile(
    rf"""\s* (?: (?P<two_letters>[A-E]\s*[/-]\s*[A-E]) (?![a-z]) | (?P<two_sides>[LR]\s*/\s*[LR]) (?![a-z])
         | (?P<letter>[A-E]) (?![a-z]{{2}}) | (?P<side>[LRTU]) (?![a-z]{{2}}) | (?P<word>{_WORDS})\b
         | (?:{_GRADES})\b | (?P<ask>\?+) | \(\s*(?P<inner>[^()]*?)\s*\) )""",
    re.IGNORECASE | re.VERBOSE,
)
_BRACKETED = re.compile(
    rf"""(?P<static>k) | (?P<either>[AB]) | (?P<letter>[C-E]) | (?P<side>[LRTU]) | (?P<word>{_WORDS})
         | (?:{_GRADES}) | (?P<ask>\?+)""",
    re.IGNORECASE | re.VERBOSE,
)
"""What stands in brackets after an action unit; ``12(A)`` and ``12(B)`` may be the intensity or both sides."""
_REFERENCE = re.compile(r"ref\s*(?P<inner>.+)", re.IGNORECASE | re.DOTALL)
_OR = re.compile(r"\s*(?:or|/|\|)\s*", re.IGNORECASE)
_WORD_OR = re.compile("or", re.IGNORECASE)
_AND = re.compile(r"(?<![a-z])and(?![a-z])", re.IGNORECASE)


def parse_annotation(cell: object) -> AUAnnotation:
    """Read one AU cell of any database's workbook: FACS codes with the signs that coders add to them.

    | written | read |
    |---|---|
    | ``4+7``, ``4,7``, ``4;7``, ``4&7``, ``4 and 7``, ``4，7``, ``4、7``, a line each | both AUs |
    | ``4``, ``4.0``, ``04``, ``AU4``, ``AU 4``, ``４`` | AU 4, on both sides |
    | ``L4``, ``R4``, ``4R``, ``4(R)``, ``left 4`` | AU 4 on that side, not on the other |
    | ``B12``, ``T23``, ``12(both)`` | both sides (``T``, ``B`` of a lip: top, bottom) |
    | ``A12`` | both sides, asymmetric: which is the stronger is not said |
    | ``U12``, ``A/L12``, ``12L/R`` | a side that is not said: undecided on both |
    | ``4D``, ``4(D)``, ``R12B`` | FACS intensity A to E |
    | ``10A/B``, ``12(A)``, ``12 weak`` | present, intensity unknown |
    | ``R12 or R14``, ``14or23``, ``4/7``, ``(R6 or R12) + R15`` | undecided; a bare ``or`` spans the cell |
    | ``13?``, ``(4)``, ``ref(6)`` | undecided |
    | ``4(k)`` | static: there throughout, no part of the expression |
    | ``AD38``, ``M57`` | action descriptors and movements; 70 to 74: not visible, so nothing else is known |
    | blank, ``?``, ``-``, ``NULL``, ``nan``, ``N/A``, ``none`` | nothing annotated: every AU unknown |
    | ``4+?`` | AU 4; every other one unknown |
    | ``12B+12D`` | AU 12, intensity unknown |
    | anything else (``4.5``, ``1-2``, ``100``, ``3``, ``smile``) | not understood: AUs not named are unknown |

    Never raises and never guesses: what it cannot decide is kept as text, and no AU counts as absent because of it.

    >>> parse_annotation("4D+ref(6)+7C+43E").codes
    (4, 7, 43)
    >>> parse_annotation("R12 or R14").undecided
    (AUItem(code=12, side='R', letter=None, asymmetric=False), AUItem(code=14, side='R', letter=None, asymmetric=False))
    """
    text = _cell_text(cell)
    plain = _AND.sub("+", _ascii(text))
    if plain.lower() in _NOTHING or not any(map(str.isalnum, plain)):
        return AUAnnotation(text=text, open=True)
    said: list[tuple[str, AUItem]] = []
    unknown: list[str] = []
    left_open = spanning = False
    terms = _split_terms(plain)
    for term in terms:
        if not any(map(str.isalnum, term)):  # ?, -
            left_open = True
        elif one := _item(term):
            said.append((one.kind, one.item))
            if one.half:
                unknown.append(term)
        elif alternatives := _alternatives(term):
            said += [("undecided", item) for item in alternatives]
            unknown.append(term)
            spanning |= bool(_WORD_OR.search(_outside_brackets(term)))
        else:
            unknown.append(term)
            if term.lower() not in _REMARKS:
                left_open = True
                named = [int(digits) for digits in re.findall("[0-9]+", term) if len(digits) < 3]
                said += [("undecided", AUItem(code)) for code in named if code in AU_NAMES]
    if spanning and len(terms) > 1:  # 12, 14 or 17; 4+7 or 4+12: what belongs together is not said
        said = [("undecided" if kind == "certain" else kind, item) for kind, item in said]
    if not said:  # a remark alone names no AU, and says of none that it is absent
        left_open = True
    of_kind = {kind: tuple(item for k, item in said if k == kind) for kind in ("certain", "undecided", "static")}
    return AUAnnotation(text, of_kind["certain"], of_kind["undecided"], of_kind["static"], tuple(unknown), left_open)


_SIDE = re.compile(
    r"""(?: (?<![a-z]) | (?<=\bAU) | (?<=\bAUs) | (?<=orAU) | (?<=orAUs) | (?<=\bAD) | (?<=orAD) | (?<=\b[MF])
          | (?<=or[MF]) | (?<=[0-9A-ELRT?)\s]or) )
        (?: [LR] (?! (?! or(?:[^a-z]|AU|AD|[LRABTUMF]) ) [a-z]) | (?:left|right)(?=\b|or) )
        | (?<=[0-9][A-E]) [LR] (?! (?! or(?:[^a-z]|AU|AD|[LRABTUMF]) ) [a-z])""",
    re.IGNORECASE | re.VERBOSE,
)
"""A letter or word for a side: no part of another word, though ``AUL1`` and ``1Lor2`` do without blanks."""
_OTHER_SIDE = {"L": "R", "R": "L", "l": "r", "r": "l", "left": "right", "right": "left"}


def mirrored(text: str) -> str:
    """The cell, or request, of a mirrored face: sides swapped; "" where it cannot be told what its letters mean.

    >>> mirrored("L12B+R4+17"), mirrored("L12=0.2,4=0.5"), mirrored("12(R)"), mirrored("AUL1")
    ('R12B+L4+17', 'R12=0.2,4=0.5', '12(L)', 'AUR1')
    """
    swapped = _SIDE.sub(lambda match: _OTHER_SIDE.get(match[0], _OTHER_SIDE.get(match[0].lower(), match[0])), text)
    before, after = parse_annotation(text), parse_annotation(swapped)
    same = before.open == after.open and np.array_equal(before.presence(), after.presence()[:, ::-1])
    return swapped if same else ""


def _line(text: str) -> str:
    """For a message: one line, of letters that a terminal shows."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[:_SHOWN]).split())


def _cell_text(cell: object) -> str:
    if isinstance(cell, (float, np.floating)):  # a number column with a gap
        number = float(cell)
        return "" if np.isnan(number) else str(int(number)) if number.is_integer() else str(number)
    return "" if cell is None else str(cell).strip()


def _ascii(text: str) -> str:
    """Digits, signs and brackets of other widths and scripts as ASCII; format characters and quotes around it gone."""
    out = ""
    for char in text:
        if unicodedata.decimal(char, None) is not None:
            char = str(unicodedata.decimal(char))
        elif unicodedata.decomposition(char).startswith(("<wide>", "<narrow>", "<small>")):
            char = unicodedata.normalize("NFKC", char)
        elif unicodedata.category(char) in {"Cf", "Zs"}:
            char = " "
        elif unicodedata.category(char) == "Pd":
            char = "-"
        out += {"[": "(", "]": ")", "{": "(", "}": ")"}.get(char, char)
    return re.sub(" {2,}", " ", out).strip(" \t\r\n'\"`\u2018\u2019\u201c\u201d").rstrip(".")


def _split_terms(text: str) -> list[str]:
    """Split on separators outside parentheses: ``(R6 or R12) + R15`` has two terms."""
    terms, depth, current = [], 0, ""
    for char in text:
        depth = max(0, depth + {"(": 1, ")": -1}.get(char, 0))
        if depth == 0 and char in _SEPARATORS:
            terms.append(current.strip())
            current = ""
        else:
            current += char
    terms.append(current.strip())
    return [term for term in terms if term]


@dataclass(frozen=True)
class _Term:
    """One action unit as written; ``kind`` is certain, undecided or static, ``half``: what it says stays half open."""

    kind: str
    item: AUItem
    half: bool = False


def _item(term: str) -> _Term | None:
    """An action unit with its signs; None where any of it is not understood."""
    match = _NAMED.fullmatch(term)
    code = int(match["code"]) if match else 0
    if match is None or code not in AU_NAMES or code in _NOT_VISIBLE:
        return None
    sides = [_SIDE_WORDS.get(word.lower(), word.upper()) for word in (match["word"], match["side"]) if word]
    letters: list[str] = []
    asked, two_sides, two_letters, static = bool(match["ask"]), bool(match["sides"]), False, False
    rest = match["marks"]
    while rest:
        mark = _MARK.match(rest)
        if mark is None:
            return None
        rest = rest[mark.end() :].lstrip()
        given = {name: value for name, value in mark.groupdict().items() if value}
        if "inner" in given or mark[0].endswith(")"):
            inside = _BRACKETED.fullmatch(given.get("inner", ""))
            if inside is None:
                return None
            given = {name: value for name, value in inside.groupdict().items() if value}
        asked, static = asked or "ask" in given, static or "static" in given
        two_sides, two_letters = two_sides or "two_sides" in given, two_letters or "two_letters" in given
        sides += [_SIDE_WORDS.get(v.lower(), v.upper()) for name, v in given.items() if name in {"side", "word"}]
        letters += [v.upper() for name, v in given.items() if name == "letter"]
        if "either" in given and sides:  # L12(B): the side is said, so this is the intensity
            letters.append(given["either"].upper())
    if len(sides) > 1 or len(letters) + two_letters > 1 or (two_sides and sides):
        return None
    side = sides[0] if sides else "B"
    item = AUItem(code, side if side in SIDES else "B", letters[0] if letters else None, asymmetric=side == "A")
    kind = "undecided" if asked or two_sides or side == "U" else "static" if static else "certain"
    return _Term(kind, item, half=asked or two_sides or two_letters)


def _is_read(term: str) -> bool:
    """Whether a term is understood, though it may leave open which action units there are."""
    return term.lower() in _REMARKS or _item(term) is not None or bool(_alternatives(term))


def _alternatives(term: str) -> list[AUItem]:
    """``(R6 or R12)``, ``ref(6)``, ``4/7``, ``(4+7)`` -> the AUs; empty if any part is not an AU."""
    if match := _REFERENCE.fullmatch(term):
        term = match["inner"]
    found = []
    for group in _OR.split(_without_brackets(term)):
        for part in _split_terms(_without_brackets(group)) or [""]:
            one = _item(part)
            if one is None:
                return []
            found.append(one.item)
    return found


def _outside_brackets(term: str) -> str:
    out, depth = "", 0
    for char in term:
        depth += {"(": 1, ")": -1}.get(char, 0)
        out += char if depth == 0 else " "
    return out


def _without_brackets(term: str) -> str:
    """``(R6 or R12)?`` -> ``R6 or R12``; as it is where the brackets do not enclose all of it."""
    term = term.strip()
    inner, depth = term.rstrip("? "), 0
    for index, char in enumerate(inner):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth < 1:  # closed: by the last character, or before
            return inner[1:-1].strip() if index and index == len(inner) - 1 else term
    return term


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

    A number below 0, down to -1, takes off what the onset shows of the AU (:data:`LOWERABLE`): ``12=-0.2`` lowers a
    smile.

    Raises:
        UnknownAUError: the AU is not one this project can move.
        MesynthError: a side on a midline AU, an intensity that is no letter or out of [0,1], below 0 of an AU that
            cannot be lowered, an AU given twice, or a term that is not an AU.

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
            intensity[AU_INDEX[code], column] = _intensity(code, match["value"], term)
    if not seen:
        raise MesynthError(f"'{text}' names no AU; write for example 12=B,L4=0.2")
    return AUVector(intensity)


def _intensity(code: int, value: str | None, term: str) -> float:
    if value is None:
        raise MesynthError(f"'{term}' has no intensity; write {term}=B or {term}=0.25")
    letter = value.strip().upper()
    if letter in LETTER_INTENSITY:
        return LETTER_INTENSITY[letter]
    try:
        number = float(letter)
    except ValueError:
        raise MesynthError(f"intensity '{value}' in '{term}' is neither a letter A-E nor a number") from None
    if not -1.0 <= number <= 1.0:
        raise MesynthError(f"intensity {number:g} in '{term}' is outside [0, 1]; 1 is FACS E")
    if number < 0 and code not in LOWERABLE:
        able = ", ".join(map(str, LOWERABLE))
        raise MesynthError(
            f"'{term}': how much of AU {code} an onset shows cannot be read from one picture, so it cannot be lowered; "
            f"of {able} it can, the others are within [0, 1]"
        )
    return number + 0.0


def format_vector(vector: AUVector) -> str:
    """The shortest request that gives this vector back, sides merged where they are equal.

    >>> format_vector(parse_request("4=0.5,L12=0.25"))
    '4=0.5,L12=0.25'
    """
    return format_pairs(vector.intensity.tolist())


def format_pairs(pairs: Iterable[Sequence[float]]) -> str:
    """:func:`format_vector` of [K][L, R], float32 values of a vector.

    >>> format_pairs(parse_request("4=0.5,L12=0.25").intensity.tolist())
    '4=0.5,L12=0.25'
    """
    terms = []
    for code, (left, right) in zip(AU_CODES, pairs, strict=True):
        if not (left or right):  # as most are
            continue
        if left == right:
            terms.append(f"{code}={left:.4g}")
        else:
            terms += [f"{s}{code}={v:.4g}" for s, v in zip(SIDES, (left, right), strict=True) if v]
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
    if (vector.intensity < 0).any():
        for alike in _ONE_MOTION:
            rows = vector.intensity[[AU_INDEX[code] for code in alike]]
            if ((rows > 0).any(0) & (rows < 0).any(0)).any():
                more, less = (alike[int(np.flatnonzero(part.any(1))[0])] for part in (rows > 0, rows < 0))
                raise AUConflictError(
                    f"AU {more} and AU {less} exclude each other: what one opens or closes the other takes back; drop "
                    "one of them"
                )


def raised(vector: AUVector) -> AUVector:
    """What a face shows more of at the apex than at the onset: AUs that are lowered become unknown, which is how
    labels, letters, readings of judges and training take them.

    >>> vector = raised(parse_request("12=-0.2,4=0.5"))
    >>> format_vector(vector), vector.mask[AU_INDEX[12]]
    ('4=0.5', array([False, False]))
    """
    if not (vector.intensity < 0).any():
        return vector
    return AUVector(np.maximum(vector.intensity, 0), vector.mask & (vector.intensity >= 0))


def damp(vector: AUVector) -> AUVector:
    """Resolve conflicts by silencing the weaker AU of a pair, and shrink blends (:data:`_BLENDS`)."""
    out = vector.intensity.copy()
    shown = frozenset(np.flatnonzero(out.any(1)).tolist())  # most pairs are not
    for a, b in _CONFLICTS:
        ia, ib = AU_INDEX[a], AU_INDEX[b]
        if ia not in shown or ib not in shown:
            continue
        both = (out[ia] > 0) & (out[ib] > 0)
        weaker_a = both & (out[ia] <= out[ib])
        out[ia, weaker_a] = 0
        out[ib, both & ~weaker_a] = 0
    for (a, b), factor in _BLENDS.items():
        ia, ib = AU_INDEX[a], AU_INDEX[b]
        if ia not in shown or ib not in shown:
            continue
        both = (out[ia] > 0) & (out[ib] > 0)
        out[ia, both] *= factor
        out[ib, both] *= factor
    return AUVector(out, vector.known)


# --------------------------------------------------------------------------- objective classes

OBJECTIVE_CLASSES: tuple[str, ...] = ("I", "II", "III", "IV", "V", "VI", "VII")
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


def level_midline(intensity: np.ndarray) -> np.ndarray:
    """Intensities [...,K,2] whose midline AUs (:data:`MIDLINE`) have the mean of their sides on both: a copy."""
    out = intensity.copy()
    sides = intensity[..., _MIDLINE_ROWS, :]
    out[..., _MIDLINE_ROWS, :] = ((sides[..., 0] + sides[..., 1]) / 2)[..., None]
    return out


def objective_class(codes: Iterable[int]) -> str:
    """Objective class I-VII of an AU set (Davison, Merghani and Yap, *Objective Classes*, 2018)."""
    return _OBJECTIVE_OF.get(frozenset(codes), "VII")
