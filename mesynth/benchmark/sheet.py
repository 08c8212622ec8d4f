"""The contest as a picture: each generator a row, each request a column of onset, apex, difference and flow."""

from __future__ import annotations

import re
from collections.abc import Sequence

import cv2
import numpy as np

from mesynth.benchmark.entrants import Entrant
from mesynth.benchmark.people import Person
from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_INDEX
from mesynth.preprocess.flow import flow_picture

SHOWN = ("12=0.8", "L12=0.8", "1=0.8,2=0.8", "4=0.8", "9=0.8", "27=0.8")
DIFFERENCE_GAIN = 5
FLOW_SHARE = 0.045
"""Motion shown at full colour, as a share of the crop's side."""
_GAP, _HEAD, _SIDE = 6, 22, 110


def sheet(entrants: Sequence[Entrant], person: Person, codes: Sequence[int], seed: int) -> np.ndarray:
    """[H,W,3] uint8 RGB. A block holds onset and apex above, difference around grey and flow below; requests use
    AUs of ``codes`` alone, the first of them when none of SHOWN does."""
    asked = [r for r in SHOWN if set(_codes(r)) <= set(codes)] or [f"{codes[0]}=0.8"]
    size = person.size
    block = 2 * size + 2
    width, height = _SIDE + len(asked) * (block + _GAP), _HEAD + len(entrants) * (block + _GAP)
    out = np.full((height, width, 3), 255, np.uint8)
    for j, request in enumerate(asked):
        _write(out, request, _SIDE + j * (block + _GAP), _HEAD - 7)
    for i, entrant in enumerate(entrants):
        y = _HEAD + i * (block + _GAP)
        for k, part in enumerate(_wrapped(entrant.name)):
            _write(out, part, 4, y + 16 + 16 * k)
        for k, part in enumerate(("onset, apex", f"change x{DIFFERENCE_GAIN}, flow")):
            _write(out, part, 4, y + size // 2 + k * size, 0.32)
        for j, request in enumerate(asked):
            x = _SIDE + j * (block + _GAP)
            out[y : y + block, x : x + block] = _block(entrant, person, request, seed)
    return out


def _codes(request: str) -> list[int]:
    return [c for c in AU_INDEX if facs.parse_request(request).intensity[AU_INDEX[c]].any()]


def _block(entrant: Entrant, person: Person, request: str, seed: int) -> np.ndarray:
    size = person.size
    out = np.full((2 * size + 2, 2 * size + 2, 3), 255, np.uint8)
    empty = np.full((size, size, 3), 235, np.uint8)
    tiles = [person.onset, empty.copy(), empty.copy(), empty.copy()]
    try:
        shown = entrant.show(person, facs.parse_request(request), seed)
    except MesynthError:
        _write(tiles[1], "refused", 8, size // 2)
    else:
        tiles[3] = flow_picture(shown.uv, FLOW_SHARE * size)
        if shown.onset is not None and shown.apex is not None:
            change = DIFFERENCE_GAIN * (shown.apex.astype(int) - shown.onset)
            tiles[:3] = [shown.onset, shown.apex, np.clip(128 + change, 0, 255).astype(np.uint8)]
        else:
            _write(tiles[1], "no frames", 8, size // 2)
    for k, tile in enumerate(tiles):
        y, x = (k // 2) * (size + 2), (k % 2) * (size + 2)
        out[y : y + size, x : x + size] = tile
    return out


def _wrapped(name: str, width: int = 14) -> list[str]:
    """A name in lines of at most ``width`` letters, broken at spaces and signs where there are any."""
    lines = [""]
    for word in re.sub(r"([-_/,@])", r"\1 ", name).split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        joint = "" if not lines[-1] or lines[-1][-1] in "-_/,@" else " "
        lines[-1] += joint + word
    return [line[i : i + width] for line in lines for i in range(0, len(line), width)]


def _write(picture: np.ndarray, text: str, x: int, y: int, scale: float = 0.42) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
