"""Several corpora measured against the same real clips: as JSON, CSV and Markdown, each corpus in its own column."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesynth.core.errors import ConfigError
from mesynth.metrics.per_clip import ClipFigures
from mesynth.metrics.report import MeasureReport, MeasureRow
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import write_text

if TYPE_CHECKING:
    from rich.table import Table


FORMAT = "mesynth-comparison-1"
"""``format`` of report.json when several corpora were measured; the report of one corpus has no such key."""
CSV_COLUMNS = (
    "corpus", "group", "measure", "value", "low", "high", "unit", "n", "better", "headline", "beside", "note",
)  # fmt: skip
CLIP_COLUMNS = ("corpus", "clip_id", "identity_distance", "au_error", "nearest_clip", "nearest_distance")


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
             "; ".join(f"{key}={value!r}" for key, value in r.reference.items()), r.note)
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
            files = [file for name, report in self.reports.items() for file in report.write(folder / name)]
            files += [folder / "report.json", folder / "report.md"]
            write_text(files[-2], json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
            write_text(files[-1], self.to_markdown())
        files += [folder / "measures.csv", folder / "clips.csv"]
        write_text(files[-2], self.to_csv())
        write_text(files[-1], self.clips_csv())
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
