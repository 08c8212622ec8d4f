"""The outcome of a benchmark: a table and a picture for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mesynth.benchmark.answers import Warned
from mesynth.benchmark.figures import CARRIED, HOME, Figure
from mesynth.benchmark.protocol import MIDDLE, Candidate, Person
from mesynth.core import facs
from mesynth.core.errors import MesynthError
from mesynth.core.facs import AU_INDEX, AU_NAMES
from mesynth.metrics.base import format_number
from mesynth.preprocess.flow import flow_picture

if TYPE_CHECKING:
    from rich.table import Table


DASH = "–"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Everything found about one generator."""

    name: str
    family: str
    facts: dict[str, Any]
    """size, images, parameters, weight_bytes, weights_sha256"""
    figures: tuple[Figure, ...]
    by_au: dict[int, tuple[Figure, ...]]
    refused: dict[str, tuple[str, ...]]
    """Reason -> the requests that were refused for it, with how many people when not all."""
    warnings: dict[str, Warned]
    """Warning with ``#`` for numbers -> answers that carried it, and the worst of them."""
    answered: int
    requests: int
    likeness: tuple[Figure, ...] = ()
    """Whether it reads the face: see :mod:`mesynth.benchmark.figures`."""
    people: dict[str, tuple[Figure, ...]] = field(default_factory=dict)
    """The same of each person."""

    def figure(self, key: str) -> Figure:
        """The figure of that key. Raises KeyError."""
        figures = (*self.figures, *self.likeness)
        for found in figures:
            if found.key == key:
                return found
        raise KeyError(f"{self.name} has no figure '{key}'; it has {', '.join(f.key for f in figures)}")


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """A mean motion that generators are held against (:data:`mesynth.benchmark.figures.OPPONENTS`)."""

    name: str
    likeness: tuple[Figure, ...]
    people: dict[str, tuple[Figure, ...]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """All standings, the rendered truth first, with how they were found."""

    standings: tuple[Standing, ...]
    settings: dict[str, Any]
    notes: tuple[str, ...]
    opponents: tuple[Opponent, ...] = ()

    def standing(self, name: str) -> Standing:
        """The standing of that name. Raises KeyError."""
        return {s.name: s for s in self.standings}[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is not finite becomes null."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def to_json(self) -> str:
        """:meth:`to_dict` as strict JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Result:
        """What :meth:`to_json` wrote."""
        record = json.loads(text)
        return Result(
            standings=tuple(_standing(s) for s in record["standings"]),
            settings=record["settings"],
            notes=tuple(record["notes"]),
            opponents=tuple(Opponent(**(o | _likeness(o))) for o in record.get("opponents", ())),
        )

    def to_csv(self) -> str:
        """One line a figure: model, measure, au (empty: all), value, low, high, unit, note, key and person (empty:
        all)."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["model", "measure", "au", "value", "low", "high", "unit", "note", "key", "person"])
        everyone: tuple[Standing | Opponent, ...] = (*self.standings, *self.opponents)
        for s in everyone:
            lines = [("", "", f) for f in s.likeness]
            if isinstance(s, Standing):
                lines = [("", "", f) for f in s.figures] + lines
                lines += [(str(code), "", f) for code, found in s.by_au.items() for f in found]
            lines += [("", person, f) for person, found in s.people.items() for f in found]
            for au, person, f in lines:
                numbers = ["" if v is None else f"{v:.6g}" for v in (f.value, f.low, f.high)]
                writer.writerow([s.name, f.name.strip(), au, *numbers, f.unit, f.note, f.key, person])
        return text.getvalue()

    def table(self) -> Table:
        """Measures down, generators across; refusals are printed by :meth:`lines`."""
        from rich.table import Table

        table = Table(title="generators compared on rendered people", caption="95% intervals: people resampled")
        table.add_column("measure", no_wrap=True)
        for s in self.standings:
            table.add_column(s.name, justify="right")
        for name in dict.fromkeys(f.name for s in self.standings for f in s.figures):
            found = [next((f for f in s.figures if f.name == name), None) for s in self.standings]
            unit = next((f.unit for f in found if f and f.unit), "")
            table.add_row(f"{name} ({unit})" if unit else name, *map(_cell, found))
        for key in ("parameters", "weight_bytes"):
            table.add_row(key.replace("_", " "), *(f"{s.facts[key]:,}" if key in s.facts else DASH
                                                  for s in self.standings))  # fmt: skip
        table.add_row("requests answered", *(f"{s.answered}/{s.requests}" for s in self.standings))
        return table

    def likeness_table(self) -> Table:
        """Who reads the face: mean motions and generators down, measures across."""
        from rich.table import Table

        level = self.settings.get("likened_level", MIDDLE)
        table = Table(
            title=f"who reads the face: each AU at {level:g} on both sides, pixels of the face",
            caption="EPE in px, gained: after the best gain per AU for the other people; blind: EPE of the model's "
            "mean over the other faces, own: how much nearer, gained, its answer to this face is; wins: people nearer "
            f"than {HOME} / than {CARRIED}",
            box=None,
            padding=(0, 1, 0, 0),
        )
        table.add_column("", no_wrap=True)
        for name, _ in _LIKENESS:
            table.add_column(name, justify="right", no_wrap=True)
        everyone: tuple[Standing | Opponent, ...] = (*self.opponents, *self.standings)
        for s in everyone:
            found = {f.key: f for f in s.likeness}
            table.add_row(s.name, *("/".join(_short(found.get(key)) for key in keys) for _, keys in _LIKENESS))
        return table

    def lines(self) -> list[str]:
        """What a table has no room for: refusals and warnings by generator, reasons of dashes, notes."""
        out = []
        for s in self.standings:
            if s.refused:
                out.append(f"{s.name}: {s.requests - s.answered} of {s.requests} requests were refused")
            for why, which in s.refused.items():
                out.append(f"{s.name}: refused {', '.join(which)}: {why}")
            for why, warned in s.warnings.items():
                worst = f"; the worst: {warned.worst}" if why != warned.worst else ""
                out.append(f"{s.name}: {warned.count} answers with the warning: {why}{worst}")
            out += [f"{s.name}: {f.name.strip()}: {f.note}" for f in s.figures if f.value == 0 and f.note]
            absent = {f.note: [g.name.strip() for g in s.figures if g.value is None and g.note == f.note]
                      for f in s.figures if f.value is None}  # fmt: skip
            out += [f"{s.name}: no {', '.join(names)}: {why}" for why, names in absent.items()]
        return [*out, *self.notes]

    def au_table(self) -> Table:
        """Slope and flow error of each AU, generators across."""
        from rich.table import Table

        table = Table(title="by AU: slope of measured on target, flow EPE in pixels")
        table.add_column("AU", no_wrap=True)
        for s in self.standings:
            table.add_column(s.name, justify="right")
        for code in self.standings[0].by_au:
            row = []
            for s in self.standings:
                values = {f.key: f.value for f in s.by_au[code]}
                pair = [values["au_slope"], values["flow_epe"]]
                row.append("  ".join(DASH if v is None else f"{v:.2f}" for v in pair))
            table.add_row(f"{code} {AU_NAMES[code]}", *row)
        return table


def likeness_card(results: Sequence[Result], weights_sha256: str) -> str:
    """The section of a generator's card that says whether it reads the face; empty where nothing was measured.

    Raises:
        MesynthError: a comparison without these weights.
    """
    rows = []
    for result in results:
        own = next((s for s in result.standings if s.facts.get("weights_sha256") == weights_sha256), None)
        if own is None:
            raise MesynthError("a comparison holds no figures of these weights; run mesynth compare on them")
        if own.likeness:
            found = {f.key: f for f in own.likeness}
            where = result.settings.get("head_name") or "packaged"
            turn = [f"{n} {a:g}" for n in ("yaw", "pitch") if (a := result.settings.get(n))]
            who = ", ".join([f"{where}, {result.settings['people']} people", *turn])
            rows.append(f"| {who} | {' | '.join(_short(found.get(key)) for key, _ in CARD_COLUMNS)} |")
    if not rows:
        return ""
    head = " | ".join(["head", *(name for _, name in CARD_COLUMNS)])
    about = "Each AU on both sides, pixels of the face; docs/compare.md says what the columns are."
    rule = "|---" * (1 + len(CARD_COLUMNS)) + "|"
    lines = ["", "## Does it read the face?", "", about, "", f"| {head} |", rule, *rows, ""]
    return "\n".join(lines)


CARD_COLUMNS = (
    ("epe", "EPE"), ("face_blind", "its mean over other faces"), ("epe_home", "packaged head's mean"),
    ("epe_carried", "landmark-mean"), ("epe_none", "no motion"), ("own_face", "own"), ("personal", "personal"),
    ("named", "named"),
)  # fmt: skip
_LIKENESS = (
    ("EPE", ("epe",)), ("gained", ("epe_gain",)), ("blind", ("face_blind",)), ("own", ("own_face",)),
    ("cosine", ("cosine",)), ("personal", ("personal",)), ("named", ("named",)),
    ("wins", ("nearer_than_home", "nearer_than_carried")),
)  # fmt: skip
"""Columns of the table, with the figures' keys."""


def _short(found: Figure | None) -> str:
    if found is None or found.value is None:
        return DASH
    if found.unit.startswith("of "):
        return f"{found.value:.0f}"
    return f"{found.value:.0f}%" if found.unit == "%" else f"{found.value:.3f}"


def _likeness(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "likeness": tuple(Figure(**f) for f in record.get("likeness", ())),
        "people": {who: tuple(Figure(**f) for f in found) for who, found in record.get("people", {}).items()},
    }


def _standing(record: dict[str, Any]) -> Standing:
    former = {"asked": "requests"}  # before 0.2, when goals of this project stood here, too
    plain = {former.get(key, key): value for key, value in record.items() if key != "goals"}
    read = {
        "figures": tuple(Figure(**f) for f in plain["figures"]),
        "by_au": {int(code): tuple(Figure(**f) for f in found) for code, found in plain["by_au"].items()},
        "refused": {why: tuple(which) for why, which in plain["refused"].items()},
        "warnings": {kind: Warned(**warned) for kind, warned in plain["warnings"].items()},
    }
    return Standing(**(plain | read | _likeness(plain)))


def _cell(found: Figure | None) -> str:
    if found is None or found.value is None:
        return DASH
    text = format_number(found.value)
    if found.low is not None and found.high is not None and not found.low == found.high == found.value:
        text += f" [{format_number(found.low)}, {format_number(found.high)}]"
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


# ------------------------------------------------------------------- sheet

SHOWN = ("12=0.8", "L12=0.8", "1=0.8,2=0.8", "4=0.8", "9=0.8", "27=0.8")
DIFFERENCE_GAIN = 5
FLOW_SHARE = 0.045
"""Motion shown at full colour, as a share of the crop's side."""
_GAP, _HEAD, _SIDE = 6, 22, 110


def sheet(candidates: Sequence[Candidate], person: Person, codes: Sequence[int], seed: int) -> np.ndarray:
    """[H,W,3] uint8 RGB. A block holds onset and apex above, difference around grey and flow below; requests use
    AUs of ``codes`` alone, the first of them when none of SHOWN does."""
    targets = [r for r in SHOWN if set(_codes(r)) <= set(codes)] or [f"{codes[0]}=0.8"]
    size = person.size
    block = 2 * size + 2
    width, height = _SIDE + len(targets) * (block + _GAP), _HEAD + len(candidates) * (block + _GAP)
    out = np.full((height, width, 3), 255, np.uint8)
    for j, request in enumerate(targets):
        _write(out, request, _SIDE + j * (block + _GAP), _HEAD - 7)
    for i, candidate in enumerate(candidates):
        y = _HEAD + i * (block + _GAP)
        for k, part in enumerate(_wrapped(candidate.name)):
            _write(out, part, 4, y + 16 + 16 * k)
        for k, part in enumerate(("onset, apex", f"change x{DIFFERENCE_GAIN}, flow")):
            _write(out, part, 4, y + size // 2 + k * size, 0.32)
        for j, request in enumerate(targets):
            x = _SIDE + j * (block + _GAP)
            out[y : y + block, x : x + block] = _block(candidate, person, request, seed)
    return out


def _codes(request: str) -> list[int]:
    return [c for c in AU_INDEX if facs.parse_request(request).intensity[AU_INDEX[c]].any()]


def _block(candidate: Candidate, person: Person, request: str, seed: int) -> np.ndarray:
    size = person.size
    out = np.full((2 * size + 2, 2 * size + 2, 3), 255, np.uint8)
    empty = np.full((size, size, 3), 235, np.uint8)
    tiles = [person.onset, empty.copy(), empty.copy(), empty.copy()]
    try:
        shown = candidate.show(person, facs.parse_request(request), seed)
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
