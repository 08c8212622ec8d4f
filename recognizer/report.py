"""Results as tables for a terminal and as markdown for a paper's draft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recognizer.ablation import AblationResult
    from recognizer.protocol_run import LosoResult

Rows = Sequence[Sequence[str]]


def markdown(header: Sequence[str], rows: Rows) -> str:
    """A pipe table.

    >>> print(markdown(["class", "F1"], [["positive", "0.7"]]))
    | class | F1 |
    |---|---|
    | positive | 0.7 |
    """
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def terminal(title: str, header: Sequence[str], rows: Rows) -> None:
    """Print a table to stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def loso_tables(result: LosoResult) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of a run: figures, classes, databases if there are several."""
    m = result.metrics
    summary = [
        ["UF1", f"{m.uf1:.3f}", f"[{result.uf1.low:.3f}, {result.uf1.high:.3f}]"],
        ["UAR", f"{m.uar:.3f}", f"[{result.uar.low:.3f}, {result.uar.high:.3f}]"],
        ["accuracy", f"{m.accuracy:.3f}", ""],
        ["sd of UF1 over seeds", f"{result.seed_sd:.3f}" if len(result.per_seed) > 1 else "one seed", ""],
    ]
    title = f"{result.model}, {result.protocol}: {len(result.folds)} folds, {m.n // len(result.per_seed)} test clips"
    tables = [(title, ["", "value", "95 % over subjects"], summary)]
    classes = [
        [name, f"{m.f1[c]:.3f}", f"{m.recall[c]:.3f}", *(str(n) for n in m.confusion[c])]
        for c, name in enumerate(m.classes)
    ]
    tables.append(("Classes (rows: truth)", ["class", "F1", "recall", *(f"as {n}" for n in m.classes)], classes))
    if len(result.per_database) > 1:
        rows = [
            [name, str(d.n // len(result.per_seed)), f"{d.uf1:.3f}", f"{d.uar:.3f}", ", ".join(d.classes)]
            for name, d in result.per_database.items()
        ]
        tables.append(("Databases", ["database", "clips", "UF1", "UAR", "classes with clips"], rows))
    return tables


def loso_notes(result: LosoResult) -> list[str]:
    """What a reader must know beside the tables."""
    notes = []
    if result.left_out:
        listed = ", ".join(f"{name} {n}" for name, n in result.left_out.items())
        notes.append(f"{sum(result.left_out.values())} clips have no class of this run and were left out: {listed}")
    blocked = sum(fold["blocked"] > 0 for fold in result.folds)
    if blocked:
        notes.append(f"{blocked} folds gave weight 0 to synthetic clips that had seen their held-out subjects")
    synthetic = [fold["synthetic"] for fold in result.folds]
    if max(synthetic) > 0:
        notes.append(f"synthetic training clips per fold: {min(synthetic)} to {max(synthetic)}")
    return notes


def ablation_table(result: AblationResult) -> tuple[str, list[str], list[list[str]]]:
    """(title, header, rows): one row per condition, narrow enough for a terminal of 80 columns."""
    several = len({s.train_subjects for s in result.summary}) > 1
    rows = []
    for s in result.summary:
        row = [s.model, "none" if s.ratio == 0 else f"{s.arm} x{s.ratio:g}"]
        row += [str(s.train_subjects or "all")] if several else []
        rows.append(
            [*row, f"{s.uf1.value:.3f}", f"[{s.uf1.low:.3f}, {s.uf1.high:.3f}]", f"{s.seed_sd:.3f}", f"{s.uar:.3f}"]
        )
    header = ["model", "added", *(["subjects"] if several else []), "UF1", "95 % interval", "seed sd", "UAR"]
    return f"{result.n_subjects} subjects; intervals: bootstrap over subjects", header, rows


def ablation_verdicts(result: AblationResult) -> list[str]:
    """One sentence per comparison, and how many there were."""
    lines = []
    for s in result.summary:
        if s.difference is not None:
            subjects = f", {s.train_subjects} subjects" if s.train_subjects else ""
            lines.append(f"{s.model}, {s.arm} x{s.ratio:g}{subjects}: {s.verdict} (Holm {s.p_holm:.3f})")
    return [*lines, f"UF1 against ratio 0, paired by subject; {result.comparisons} comparisons were made"]


def loso_markdown(result: LosoResult) -> str:
    """The whole report of a run."""
    parts = [f"## {title}\n\n{markdown(header, rows)}" for title, header, rows in loso_tables(result)]
    return "\n\n".join([*parts, *loso_notes(result)]) + "\n"


def ablation_markdown(result: AblationResult) -> str:
    """The whole report of an ablation."""
    title, header, rows = ablation_table(result)
    verdicts = "\n".join(f"- {line}" for line in ablation_verdicts(result))
    return f"## {title}\n\n{markdown(header, rows)}\n\n{verdicts}\n\n![UF1 against ratio](curve.png)\n"
