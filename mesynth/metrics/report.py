"""The result of a measurement: rows that carry their own context, as JSON, Markdown and a terminal table."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesynth.store.run_folder import write_bytes, write_text

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class MeasureRow:
    """One measured number. ``value`` is None when it was not measured: then ``note`` says why.

    ``reference`` are the numbers to read it against, by name (real, baseline, ceiling, floor, zero flow);
    ``better`` is "low", "high", "one", "zero" or "" (compare with the reference).
    """

    group: str
    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    reference: dict[str, float] = field(default_factory=dict)
    better: str = ""
    n: int = 0
    headline: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.note:
            raise ValueError(f"'{self.name}' has no value and no note; say why it was not measured")

    def text(self) -> tuple[str, str, str, str]:
        """Name, value with its interval, references and N as a reader sees them."""
        if self.value is None:
            return self.name, "not measured", "", ""
        value = f"{format_number(self.value)} {self.unit}".strip()
        if self.low is not None and self.high is not None:
            value += f" [{format_number(self.low)}, {format_number(self.high)}]"
        references = ", ".join(f"{name} {format_number(v)}" for name, v in self.reference.items())
        return self.name, value, references, str(self.n) if self.n else ""


def not_measured(group: str, why: str) -> MeasureRow:
    """The row of a group that could not be measured."""
    return MeasureRow(group=group, name=group, value=None, note=f"not measured: {why}")


def format_number(value: float) -> str:
    """Three significant digits, without exponents where a person would not use them.

    >>> [format_number(v) for v in (0.01234, 0.98765, 104.4, 0.0, -0.00001234)]
    ['0.0123', '0.988', '104', '0', '-1.23e-05']
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True)
class MeasureReport:
    """All rows, the two corpora (hash, clips, people), settings, notes, and plots as PNG bytes by name."""

    rows: tuple[MeasureRow, ...]
    corpora: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    plots: dict[str, bytes] = field(default_factory=dict)

    def row(self, name: str) -> MeasureRow:
        """The row of that name. Raises KeyError."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"the report has no row '{name}'; it has {', '.join(r.name for r in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN and infinity become null, plots their names."""
        plain: dict[str, Any] = _finite(asdict(self) | {"plots": sorted(self.plots)})
        return plain

    def to_json(self) -> str:
        """:meth:`to_dict` as strict JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> MeasureReport:
        """A report without its plots."""
        record = json.loads(text)
        rows = tuple(MeasureRow(**r) for r in record.pop("rows"))
        record |= {"plots": {}, "notes": tuple(record["notes"])}
        return MeasureReport(rows=rows, **record)

    def to_markdown(self) -> str:
        """A document with one table per group."""
        lines = ["# Quality report", ""]
        for name, corpus in self.corpora.items():
            facts = ", ".join(f"{key} {value}" for key, value in corpus.items())
            lines.append(f"- **{name}**: {facts}")
        for group in dict.fromkeys(row.group for row in self.rows):
            lines += ["", f"## {group}", "", "| measure | value [95% interval] | beside it | N | note |"]
            lines.append("|---|---|---|---|---|")
            for row in self.rows:
                if row.group == group:
                    name, value, references, n = row.text()
                    name = f"**{name}**" if row.headline else name
                    lines.append(f"| {name} | {value} | {references} | {n} | {row.note.replace('|', '/')} |")
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        lines += ["", "## Settings", "", *(f"- {key}: {value}" for key, value in self.settings.items())]
        return "\n".join(lines) + "\n"

    def table(self) -> Table:
        """A rich table of headline rows and of what was not measured."""
        from rich.table import Table

        table = Table(title="quality", caption="all rows and notes: report.md")
        for column in ("measure", "value [95% interval]", "beside it", "N"):
            table.add_column(column, justify="right" if column == "N" else "left")
        group = ""
        for row in self.rows:
            if not (row.headline or row.note.startswith("not measured")):
                continue
            if row.group != group:
                table.add_section()
                group = row.group
            name, value, references, n = row.text()
            table.add_row(name, value, references or (row.note if row.value is None else ""), n)
        return table

    def write(self, folder: Path | str) -> list[Path]:
        """Write report.json, report.md and the plots into ``folder``; return the files."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "report.json", folder / "report.md", *(folder / f"{name}.png" for name in self.plots)]
        write_text(files[0], self.to_json() + "\n")
        write_text(files[1], self.to_markdown())
        for file, data in zip(files[2:], self.plots.values(), strict=True):
            write_bytes(file, data)
        return files


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
