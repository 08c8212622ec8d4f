"""What a measurement found, of one corpus and of several side by side: as JSON, CSV, Markdown and a terminal table.

Verdicts say it in words: one per question, with the interval that it rests on, from a report's rows alone. A verdict is
"good" or "bad" only when the interval leaves no other reading; otherwise it is "open", and says so. Limits are stated
in the text of the verdict.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.statistics import wilson
from mesynth.metrics.base import MeasureRow, format_number
from mesynth.store import digests
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

FORMAT = "mesynth-comparison-1"
"""``format`` of report.json when several corpora were measured; the report of one corpus has no such key."""
CSV_COLUMNS = (
    "corpus", "group", "measure", "value", "low", "high", "unit", "n", "better", "headline", "beside", "note", "key",
)  # fmt: skip
CLIP_COLUMNS = ("corpus", "clip_id", "identity_distance", "au_error", "nearest_clip", "nearest_distance")


_LISTED = {digests.KEY: digests.LIST}


@dataclass(frozen=True, kw_only=True)
class MeasureReport:
    """All rows, the two corpora (hash, clips, people), settings, notes, and plots as PNG bytes by name."""

    rows: tuple[MeasureRow, ...]
    corpora: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    plots: dict[str, bytes] = field(default_factory=dict)

    def row(self, key: str) -> MeasureRow:
        """The row of that key. Raises KeyError."""
        found = self.find(key)
        if found is None:
            raise KeyError(f"the report has no row '{key}'; it has {', '.join(r.key for r in self.rows)}")
        return found

    def find(self, key: str) -> MeasureRow | None:
        """The row of that key, None where there is none."""
        return next((row for row in self.rows if row.key == key), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN and infinity become null, plots their names."""
        plain: dict[str, Any] = _finite(asdict(self) | {"plots": sorted(self.plots)})
        return plain

    def to_json(self) -> str:
        """:meth:`to_dict` as strict JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> MeasureReport:
        """A report without its plots; where rows have no keys (before 0.2), these are made of the names."""
        record = json.loads(text)
        record.pop(digests.KEY, None)
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
        write_text(files[0], json.dumps(self.to_dict() | _LISTED, indent=1, allow_nan=False) + "\n")
        write_text(files[1], self.to_markdown())
        for file, data in zip(files[2:], self.plots.values(), strict=True):
            write_bytes(file, data)
        digests.enter_files(folder, files)
        return files


@dataclass(frozen=True, kw_only=True)
class ClipFigures:
    """One synthetic clip: ``identity`` is the largest distance of a frame to the onset, ``au_error`` the mean
    |measured - target| over the target AUs whose judge is trusted (0-5), ``nearest`` the known clip with the nearest
    apex and ``distance`` how far it is. None or empty where it was not measured."""

    clip_id: str
    identity: float | None = None
    au_error: float | None = None
    nearest: str = ""
    distance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The measured corpora by name: manifests, reports, and figures by clip.

    ``known`` says what the nearest clips are drawn from: "training", or "real" where no training set was given.
    """

    real: Manifest
    synthetic: dict[str, Manifest]
    reports: dict[str, MeasureReport]
    clips: dict[str, tuple[ClipFigures, ...]]
    training: Manifest | None = None
    known: str = "real"

    def measures(self) -> list[tuple[str, str]]:
        """(group, measure) of all rows of all corpora, in the order of the reports; groups stay together."""
        found = list(dict.fromkeys((r.group, r.name) for report in self.reports.values() for r in report.rows))
        groups = list(dict.fromkeys(group for group, _ in found))
        return sorted(found, key=lambda key: groups.index(key[0]))

    def row(self, corpus: str, group: str, name: str) -> MeasureRow | None:
        """A corpus' row, None where it has no such row."""
        return next((r for r in self.reports[corpus].rows if (r.group, r.name) == (group, name)), None)

    def to_dict(self) -> dict[str, Any]:
        """One corpus: its report as it always was. Several: FORMAT and the reports by name."""
        if len(self.reports) == 1:
            return next(iter(self.reports.values())).to_dict()
        return {"format": FORMAT, "corpora": {name: report.to_dict() for name, report in self.reports.items()}}

    def to_csv(self) -> str:
        """A line per corpus and measure, with the columns CSV_COLUMNS; empty where there is no value."""
        lines = (
            (name, r.group, r.name, r.value, r.low, r.high, r.unit, r.n, r.better, int(r.headline),
             "; ".join(f"{key}={value!r}" for key, value in r.reference.items()), r.note, r.key)
            for name, report in self.reports.items() for r in report.rows
        )  # fmt: skip
        return _csv(CSV_COLUMNS, lines)

    def clips_csv(self) -> str:
        """A line per measured clip, with the columns CLIP_COLUMNS."""
        return _csv(
            CLIP_COLUMNS,
            ((name, c.clip_id, c.identity, c.au_error, c.nearest, c.distance) for name, c in self._all_clips()),
        )

    def _all_clips(self) -> Iterator[tuple[str, ClipFigures]]:
        for name, clips in self.clips.items():
            for clip in clips:
                yield name, clip

    def to_markdown(self) -> str:
        """One corpus: its report. Several: a table per group with a column each."""
        if len(self.reports) == 1:
            return next(iter(self.reports.values())).to_markdown()
        names = list(self.reports)
        lines = ["# Quality reports side by side", "", "Each corpus' own folder has its notes and settings.", ""]
        group = ""
        for key in self.measures():
            if key[0] != group:
                group = key[0]
                lines += ["", f"## {group}", "", f"| measure | {' | '.join(_escaped(n) for n in names)} |"]
                lines.append("|---" * (len(names) + 1) + "|")
            cells = [_escaped(cell_text(self.row(name, *key))) for name in names]
            lines.append(f"| {_escaped(key[1])} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def table(self) -> Table:
        """Headline rows for a terminal: with a column per corpus, or as ever for a single one."""
        if len(self.reports) == 1:
            return next(iter(self.reports.values())).table()
        from rich.table import Table

        table = Table(title="quality", caption="all rows and notes: report.html")
        for column in ("measure", *self.reports):
            table.add_column(column)
        group = ""
        for key in self.measures():
            rows = [self.row(name, *key) for name in self.reports]
            if not any(r and (r.headline or r.note.startswith("not measured")) for r in rows):
                continue
            if key[0] != group:
                table.add_section()
                group = key[0]
            table.add_row(key[1], *(cell_text(r) for r in rows))
        return table

    def write(self, folder: Path | str) -> list[Path]:
        """report.json, report.md, measures.csv and clips.csv into ``folder``; of several corpora, the report and
        plots of each into a folder of its name. Returns the files."""
        folder = Path(folder)
        if len(self.reports) == 1:
            files = next(iter(self.reports.values())).write(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            inner = [file for name, report in self.reports.items() for file in report.write(folder / name)]
            digests.enter_files(folder, [folder / name / digests.LIST for name in self.reports])
            files = [*inner, folder / "report.json", folder / "report.md"]
            write_text(files[-2], json.dumps(self.to_dict() | _LISTED, indent=1, allow_nan=False) + "\n")
            write_text(files[-1], self.to_markdown())
        files += [folder / "measures.csv", folder / "clips.csv"]
        write_text(files[-2], self.to_csv())
        write_text(files[-1], self.clips_csv())
        digests.enter_files(folder, [file for file in files if file.parent == folder])
        return files


def cell_text(row: MeasureRow | None) -> str:
    """A row's value with its interval and what stands beside it, in one line.

    >>> cell_text(MeasureRow(group="g", name="n", value=0.5, low=0.4, high=0.6, reference={"real": 0.2}))
    '0.5 [0.4, 0.6]; real 0.2'
    >>> cell_text(None)
    '–'
    """
    if row is None:
        return "–"
    _, value, beside, _ = row.text()
    return f"{value}; {beside}" if beside else value


def corpus_names(folders: Sequence[Path]) -> list[str]:
    """A short name for each folder: its last part, or as many of its last parts as tell it from the others.

    Raises:
        ConfigError: a folder is given twice.

    >>> corpus_names([Path("a/corpus"), Path("b/corpus"), Path("c/gan")])
    ['a-corpus', 'b-corpus', 'gan']
    """
    whole = [folder.resolve() for folder in folders]
    if len(set(whole)) != len(whole):
        twice = next(folder for folder in whole if whole.count(folder) > 1)
        raise ConfigError(f"the corpus {twice} is given twice; give each once")
    names = []
    for folder in whole:
        parts = [part for part in folder.parts if part != folder.anchor]
        others = [[p for p in f.parts if p != f.anchor] for f in whole if f != folder]
        length = next((n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)), len(parts))
        names.append("-".join(parts[-length:]) or "corpus")
    if len(set(names)) != len(names):  # a/b-c beside a-b/c
        names = [f"{name}-{i + 1}" for i, name in enumerate(names)]
    return names


def _escaped(text: str) -> str:
    return text.replace("|", "/")


def _csv(header: Sequence[str], lines: Iterable[tuple[Any, ...]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(tuple("" if cell is None else cell for cell in line) for line in lines)
    return buffer.getvalue()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# ---------------------------------------------------------------- verdicts


SLOPE_LIMITS = (0.8, 1.2)
"""Slope of measured on target intensity: within these an AU counts as shown at its target."""
FLOW_SHARE = 0.5
"""End-point error over that of no motion: below it, the stored flow counts as what the frames show."""
APEX_FRAMES = 1.0
IDENTITY_MARGIN = 0.1
"""Share of the way from real onset-apex pairs to different people that still counts as the same distance."""


@dataclass(frozen=True)
class Verdict:
    """``kind``: good, bad, open (the interval allows both readings), or none (not measured)."""

    question: str
    verdict: str
    kind: str
    basis: str


def verdicts(report: MeasureReport) -> list[Verdict]:
    """One verdict per question, in the same order for every report."""
    return [found(report) for found in _QUESTIONS]


_Said = tuple[str, str, str]
"""Verdict, kind and basis."""


def _answers(
    question: str, name: str, group: str, *, instead: str = "the report has no such figure"
) -> Callable[[Callable[[MeasureReport, MeasureRow], _Said]], Callable[[MeasureReport], Verdict]]:
    """The ``question`` that a function answers by the row ``name``, which has a value then.

    Without a value the verdict says why: what the row says, or that of its ``group``, or ``instead``.
    """

    def of(say: Callable[[MeasureReport, MeasureRow], _Said]) -> Callable[[MeasureReport], Verdict]:
        def verdict(report: MeasureReport) -> Verdict:
            row = report.find(name)
            if row is not None and row.value is not None:
                return Verdict(question, *say(report, row))
            row = row or report.find(f"{group}_not_measured")
            return Verdict(
                question, "not measured", "none", row.note.removeprefix("not measured: ") if row else instead
            )

        return verdict

    return of


def _number(row: MeasureRow) -> str:
    return f"N\u00a0=\u00a0{row.n}"


def _span(row: MeasureRow) -> str:
    unit = f" {row.unit}" if row.unit else ""
    if row.low is None or row.high is None or row.value is None:
        return f"{format_number(row.value or 0.0)}{unit} (no interval)"
    return f"{format_number(row.value)} [{format_number(row.low)}, {format_number(row.high)}]{unit}"


@_answers("Do apex pictures differ from real ones?", "kid", "pictures")
def _pictures(report: MeasureReport, row: MeasureRow) -> _Said:
    beside = "; ".join(f"{name}: {format_number(value)}" for name, value in row.reference.items())
    basis = (
        f"{row.name} {_span(row)}; 0 is no difference, and other people or cameras make one, too"
        + (f"; {beside}" if beside else "")
        + f"; {_number(row)}"
    )
    if row.low is None:
        return "cannot be said", "open", basis
    if row.low > 0:
        return "they differ", "bad", basis
    text = "no difference shown; more clips may show one"
    return text, "open", basis


@_answers("Does the person stay the same?", "identity_apex", "identity")
def _identity(report: MeasureReport, apex: MeasureRow) -> _Said:
    beyond = report.find("identity_beyond_real")
    real = apex.reference.get("real")
    if beyond is None or beyond.low is None or beyond.high is None or real is None:
        basis = f"distance onset to apex {_span(apex)}; too few real clips to hold it against"
        return "cannot be said", "open", basis
    whole = report.find("identity")
    floor = whole.reference.get("floor (different people)") if whole else None
    margin = 0.0 if floor is None else max(0.0, IDENTITY_MARGIN * (floor - real))
    basis = f"distance onset to apex {_span(apex)}, real clips {format_number(real)}"
    basis += "" if floor is None else f", different people {format_number(floor)}"
    basis += f"; synthetic minus real {_span(beyond)}"
    basis += (
        f", up to {format_number(margin)} (a tenth of the way to different people) counts as none" if margin else ""
    )
    basis += f"; {_number(beyond)}"
    if beyond.high <= margin:
        return "no further from the onset than real clips are", "good", basis
    if beyond.low > 0:
        return "further from the onset than real clips are", "bad", basis
    return "not shown to be further from the onset than real clips are", "open", basis


@_answers(
    "Are action units as strong as their targets?",
    "au_slope",
    "au_control",
    instead="too few clips have AUs of one strength and another as targets",
)
def _control(report: MeasureReport, row: MeasureRow) -> _Said:
    leak = report.find("au_leakage")
    low, high = SLOPE_LIMITS
    real = row.reference.get("real")
    basis = f"slope of measured on target {_span(row)} of 1" + (f", real clips {format_number(real)}" if real else "")
    basis += f"; {low:g} to {high:g} counts as on target; {_number(row)}"
    if leak is not None and leak.value is not None:
        beside = leak.reference.get("real")
        basis += f"; AUs whose target is 0: {format_number(leak.value)} of 5"
        basis += f" (real {format_number(beside)})" if beside is not None else ""
    if row.low is None or row.high is None:
        return "cannot be said", "open", basis
    if row.high < low or row.low > high:
        text = "weaker than the target" if row.high < low else "stronger than the target"
        return text, "bad", basis
    if row.low >= low and row.high <= high:
        return "on target", "good", basis
    assert row.value is not None
    if low <= row.value <= high:
        return "about on target; the interval is too wide to say", "open", basis
    text = "weaker" if row.value < low else "stronger"
    return f"{text} than the target, by an interval too wide to be sure", "open", basis


@_answers("Is the motion as large as in real clips?", "motion", "sequence")
def _size(report: MeasureReport, row: MeasureRow) -> _Said:
    assert row.value is not None
    real = row.reference.get("real")
    if real is None or row.low is None or row.high is None or real <= 0:
        return "cannot be said", "open", f"{_span(row)}; no real median"
    basis = f"median over the face {_span(row)}; real clips {format_number(real)} px; {_number(row)}"
    if row.low <= real <= row.high:
        return "no difference shown", "open", basis
    text = f"{'smaller' if row.value < real else 'larger'}: {row.value / real:.2f} times the real median"
    return text, "bad", basis


@_answers("Is the stored flow what the frames show?", "flow_epe", "flow")
def _flow(report: MeasureReport, row: MeasureRow) -> _Said:
    still = row.reference.get("zero flow", math.nan)
    basis = (
        f"median end-point error {_span(row)}, of no motion {format_number(still)} px; "
        f"below {FLOW_SHARE:g} of that counts as yes; {_number(row)}"
    )
    if row.high is None or row.low is None or not still > 0:
        return "cannot be said", "open", basis
    if row.high < FLOW_SHARE * still:
        return "yes", "good", basis
    if row.low >= still:
        return "no: no motion at all would fit as well", "bad", basis
    assert row.value is not None
    if row.value < FLOW_SHARE * still:
        return "about; the interval is too wide to say", "open", basis
    return "in part", "open", basis


@_answers("Is the apex where the clip says?", "apex_error", "sequence")
def _timing(report: MeasureReport, row: MeasureRow) -> _Said:
    assert row.value is not None
    real = row.reference.get("real")
    beside = f"; real clips {format_number(real)}" if real is not None else ""
    basis = f"median distance to the largest motion {_span(row)}{beside}"
    basis += f"; {APEX_FRAMES:g} frame counts as yes; {_number(row)}"
    if row.high is None or row.low is None:
        return "cannot be said", "open", basis
    if row.high <= APEX_FRAMES:
        return "yes", "good", basis
    if row.low > APEX_FRAMES:
        return f"off by {row.value:g} frames", "bad", basis
    if row.value <= APEX_FRAMES:
        return "about there; the interval is too wide to say", "open", basis
    return f"off by {row.value:g} frames, by an interval too wide to be sure", "open", basis


@_answers(
    "May it repeat training clips?", "copied_share", "memorisation", instead="no training set was given (--training)"
)
def _memory(report: MeasureReport, row: MeasureRow) -> _Said:
    assert row.value is not None
    count, expected = round(row.value * row.n), row.reference["expected without copying"]
    low, high = wilson(count, row.n)
    basis = (
        f"{count} of {row.n} nearer to a training apex than 99 % of held-out real apexes are: share "
        f"{format_number(row.value)} [{format_number(low)}, {format_number(high)}], {expected:g} expected by chance"
        f"; {row.reference['training clips compared']:g} training clips were compared"
    )
    if low > expected:
        return "yes: more are near than chance explains", "bad", basis
    if high <= 5 * expected:
        return "no", "good", basis
    return "no sign of it, but too few clips to rule it out", "open", basis


_QUESTIONS: tuple[Callable[[MeasureReport], Verdict], ...] = (
    _control, _identity, _size, _flow, _timing, _pictures, _memory,
)  # fmt: skip


# ---------------------------------------------------------------- figures


REAL, SYNTHETIC, OTHER = "#4c72b0", "#dd8452", "#8c8c8c"


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure that belongs to no GUI backend and to no pyplot state, and its axes [rows,columns]; inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False)


def png(made: Figure) -> bytes:
    """The figure as PNG, 100 pixels an inch."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
