"""The outcome of a contest: a table for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mesynth.benchmark.answers import Warned
from mesynth.benchmark.figures import Figure
from mesynth.benchmark.goals import Goal
from mesynth.core.facs import AU_NAMES
from mesynth.metrics.base import format_number

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
    asked: int
    goals: tuple[Goal, ...] = ()

    def figure(self, name: str) -> Figure:
        """The figure of that name. Raises KeyError."""
        for found in self.figures:
            if found.name == name:
                return found
        raise KeyError(f"{self.name} has no figure '{name}'; it has {', '.join(f.name for f in self.figures)}")


@dataclass(frozen=True, kw_only=True)
class Result:
    """All standings, the rendered truth first, with how they were found."""

    standings: tuple[Standing, ...]
    settings: dict[str, Any]
    notes: tuple[str, ...]

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

    def to_csv(self) -> str:
        """One line a figure: model, measure, au (empty: all), value, low, high, unit, note."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["model", "measure", "au", "value", "low", "high", "unit", "note"])
        for s in self.standings:
            lines = [("", f) for f in s.figures] + [(str(code), f) for code, found in s.by_au.items() for f in found]
            for au, f in lines:
                numbers = ["" if v is None else f"{v:.6g}" for v in (f.value, f.low, f.high)]
                writer.writerow([s.name, _full_name(f.name), au, *numbers, f.unit, f.note])
        return text.getvalue()

    def table(self) -> Table:
        """Measures down, generators across; refusals and goals are printed by :meth:`lines`."""
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
        table.add_row("requests answered", *(f"{s.answered}/{s.asked}" for s in self.standings))
        return table

    def lines(self) -> list[str]:
        """What a table has no room for: goals, refusals and warnings by generator, reasons of dashes, notes."""
        out = []
        for s in self.standings:
            for goal in s.goals:
                verdict = {True: "holds", False: "does not hold", None: "cannot be told"}[goal.holds]
                out.append(f"{s.name}: {goal.name}: {verdict} ({goal.text})")
            if s.refused:
                out.append(f"{s.name}: {s.asked - s.answered} of {s.asked} requests were refused")
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

        table = Table(title="by AU: slope of judged on asked, flow EPE in pixels")
        table.add_column("AU", no_wrap=True)
        for s in self.standings:
            table.add_column(s.name, justify="right")
        for code in self.standings[0].by_au:
            row = []
            for s in self.standings:
                values = {f.name: f.value for f in s.by_au[code]}
                pair = [values["AU slope"], values["flow EPE"]]
                row.append("  ".join(DASH if v is None else f"{v:.2f}" for v in pair))
            table.add_row(f"{code} {AU_NAMES[code]}", *row)
        return table


def _full_name(name: str) -> str:
    return name.strip()


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
