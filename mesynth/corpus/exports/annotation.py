"""Action units as a coder would write them, and frame numbers as a release would count them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mesynth import facs
from mesynth.datasets.rendered import au_text
from mesynth.manifest import Row


def has_aus(row: Row) -> bool:
    """Whether at least one action unit is known to be present."""
    return any(value == 1 for value in row.au_present)


def present_codes(row: Row) -> tuple[int, ...]:
    """Codes that are present on either side, ascending."""
    sides = np.array(row.au_present, np.int8).reshape(-1, 2)
    return tuple(code for code, pair in zip(facs.AU_CODES, sides, strict=True) if (pair == 1).any())


def au_cell(row: Row, *, letters: bool = False) -> str:
    """The AU cell of a workbook: the coder's own words, or what one would write for a generated clip.

    A generated clip's text is a request (``L12=0.48,R12=0.52``), which no loader of the field reads: it becomes
    ``12`` (``12C`` with ``letters``, the FACS letter whose nominal weight is nearest), ``L4`` where the other side is
    much weaker. What it says of intensities is rough; the exact values lie in ``provenance.jsonl``.
    """
    if "=" not in row.au_text and row.au_text:
        return row.au_text
    if not row.au_text and not any(row.au_intensity):
        return "+".join(map(str, present_codes(row)))
    vector = row.aus
    text = au_text(vector)
    if not letters or not text:
        return text
    terms = []
    for term in text.split("+"):
        code = int(term.lstrip("LR"))
        strength = float(vector.intensity[facs.AU_INDEX[code]].max())
        terms.append(term + min(facs.LETTER_INTENSITY, key=lambda name: abs(facs.LETTER_INTENSITY[name] - strength)))
    return "+".join(terms)


@dataclass(frozen=True)
class Numbers:
    """Frame numbers of a clip: ``apex`` is None where none was annotated."""

    onset: int
    apex: int | None
    offset: int
    renumbered: bool = False
    """The clip was thinned or resampled: its stored frames are counted on from its onset."""

    def each(self) -> range:
        """The number of every stored frame."""
        return range(self.onset, self.offset + 1)


def numbers_of(row: Row) -> Numbers:
    """The annotated numbers where the stored frames fit them, else numbers counted on from the onset."""
    apex = None if row.apex is None else row.onset + row.apex_index
    fits = row.offset - row.onset + 1 == row.n_frames and (row.apex is None or apex == row.apex)
    return Numbers(row.onset, apex, row.onset + row.n_frames - 1, renumbered=not fits)
