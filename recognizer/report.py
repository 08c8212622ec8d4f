"""Results as tables for a terminal and as markdown for a paper's draft.

A run as a log in the manner of the micro-expression grand challenges: every fold's answers, then the figures.

The challenge of 2019 (See et al., FG 2019) asked for the predictions of all 68 folds with UF1 and UAR, Full and per
database. Its page no longer says how a line should look; this is subject, clip, truth, answer, separated by tabs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from recognizer.aus import AUS
from recognizer.results import Labels, Metrics, column

if TYPE_CHECKING:
    from recognizer.ablation_result import AblationResult, Summary
    from recognizer.config import RunConfig
    from recognizer.results import LosoResult


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
    console = Console()
    # Numbers are never cut: a table that does not fit is wrapped by the terminal, or scrolls in a pager.
    Console(width=max(console.width, Console(width=1000).measure(table).maximum)).print(table)


def loso_tables(result: LosoResult) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of a run: figures, classes, databases if there are several."""
    if result.multi:
        return _au_tables(result)
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


def _au_tables(result: LosoResult) -> list[tuple[str, list[str], list[list[str]]]]:
    """:func:`loso_tables` of AUs: figures beside the constants, AUs with what there is of them, databases."""
    m, seeds = result.metrics, len(result.per_seed)
    present = result.constants["always present"]
    summary = [
        ["macro F1", f"{m.uf1:.3f}", f"[{result.uf1.low:.3f}, {result.uf1.high:.3f}]"],
        ["balanced accuracy", f"{m.uar:.3f}", f"[{result.uar.low:.3f}, {result.uar.high:.3f}]"],
        ["sd of macro F1 over seeds", f"{result.seed_sd:.3f}" if seeds > 1 else "one seed", ""],
        *([f"macro F1, {name}", f"{row['uf1']:.3f}", ""] for name, row in result.constants.items()),
    ]
    title = f"{result.model}, {result.protocol}: {len(result.folds)} folds, {m.n // seeds} known AUs of test clips"
    tables = [(title, ["", "value", "95 % over subjects"], summary)]
    rows = []
    for a, (name, (absent, wrong, missed, hit)) in enumerate(zip(m.classes, m.confusion, strict=True)):
        shown, known = (missed + hit) // seeds, (absent + wrong + missed + hit) // seeds
        shares = (shown / max(known, 1), m.f1[a], present["f1"][a], m.recall[a], hit / max(hit + wrong, 1))
        rows.append([name, str(shown), str(known), *(f"{value:.3f}" for value in shares)])
    header = ["AU", "support", "known", "prevalence", "F1", "always present", "recall", "precision"]
    tables.append(("AUs (support: clips that show it)", header, rows))
    if len(result.per_database) > 1:
        rows = [
            [name, str(d.n // seeds), f"{d.uf1:.3f}", f"{d.uar:.3f}", str(len(d.classes))]
            for name, d in result.per_database.items()
        ]
        header = ["database", "known AUs", "macro F1", "balanced accuracy", "AUs known there"]
        tables.append(("Databases (an AU that none of their clips shows counts 0)", header, rows))
    return tables


def constants_note(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What answers come to that look at no clip (:func:`recognizer.results.constant_rows`), in a line."""
    both = ", ".join(f"{name} {row['uf1']:.3f}" for name, row in rows.items())
    return f"macro F1 of answers that look at no clip: {both}"


_AU_WORDS = (
    ("UF1", "macro F1"), ("UAR", "balanced accuracy"), (" a class", ""), ("clips of a class worth", "clips worth"),
    ("Which classes are confused", "Which AUs are told"), ("of each class", "in all"),
)  # fmt: skip


def worded(text: str, config: RunConfig) -> str:
    """A text of the recognizer as the run's task has it: figures of AUs have other names than figures of classes."""
    if config.task == AUS:
        for of_classes, of_aus in _AU_WORDS:
            text = text.replace(of_classes, of_aus)
    return text


def loso_notes(result: LosoResult) -> list[str]:
    """What a reader must know beside the tables."""
    notes = []
    if result.left_out and result.multi:
        n = sum(result.left_out.values())
        notes.append(f"{many(n, 'clip')} of which none of these AUs is known {form(n, 'was', 'were')} left out")
    elif result.left_out:
        listed = ", ".join(f"{name} {n}" for name, n in result.left_out.items())
        left = many(sum(result.left_out.values()), "clip has", "clips have")
        notes.append(
            f"{left} no class of this run and {form(sum(result.left_out.values()), 'was', 'were')} left out: {listed}"
        )
    blocked = sum(fold["blocked"] > 0 for fold in result.folds)
    if blocked:
        notes.append(f"{many(blocked, 'fold')} gave weight 0 to synthetic clips that had seen their held-out subjects")
    notes += lacking_notes({fold["name"]: fold.get("lacking", []) for fold in result.folds}, multi=result.multi)
    notes += result.notes
    synthetic = [fold["synthetic"] for fold in result.folds]
    if max(synthetic) > 0:
        notes.append(f"synthetic training clips per fold: {min(synthetic)} to {max(synthetic)}")
    if result.tried:
        others = many(result.tried, "other configuration was", "other configurations were")
        notes.append(f"{others} tried on these clips before: the best of many flatters")
    if result.oracle:
        leaked = f"UF1 {result.oracle['uf1']:.3f}, UAR {result.oracle['uar']:.3f}"
        notes.append(f"LEAKED, point of training picked on the test clips: {leaked}; not a result")
    return notes


def chosen_span(counts: Sequence[tuple[float, int]]) -> str:
    """The median of what members chose (values and how many chose them), and from where to where it goes.

    >>> chosen_span([(0.0, 2), (3.0, 20), (30.0, 1)]), chosen_span([(10.0, 5)]), chosen_span([])
    ('3 (0-30)', '10', '-')
    """
    values = [value for value, n in counts for _ in range(n)]
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{sorted(values)[len(values) // 2]:g}" + ("" if low == high else f" ({low:g}-{high:g})")


def form(n: int, one: str, more: str) -> str:
    """A word in its form for one thing, or for any other number."""
    return one if n == 1 else more


def many(n: int, one: str, more: str = "") -> str:
    """A number of things; ``more``: their name if there is not one of them (an s more than ``one``).

    >>> many(1, "comparison was", "comparisons were"), many(0, "clip"), many(1200, "clip")
    ('1 comparison was', '0 clips', '1,200 clips')
    """
    return f"{n:,} {form(n, one, more or one + 's')}"


def p_text(p: float) -> str:
    """A p-value as it is written, three decimals without the zero before them.

    >>> p_text(0.0004), p_text(0.0426), p_text(1.0)
    ('< .001', '.043', '1.000')
    """
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def lacking_notes(folds: Mapping[str, Sequence[str]], *, multi: bool = False) -> list[str]:
    """A line per class that folds (by name) learn from no clip of, and so cannot predict.

    >>> lacking_notes({"s01": [], "s02": ["surprise"]})
    ['1 of 2 folds learns from no clip of surprise and cannot predict it: s02']
    """
    lines = []
    for name in dict.fromkeys(name for lacking in folds.values() for name in lacking):
        where = [fold for fold, lacking in folds.items() if name in lacking]
        shown = ", ".join(where[:3]) + (", ..." if len(where) > 3 else "")
        learn = form(len(where), "learns", "learn")
        lines.append(
            f"{len(where)} of {len(folds)} folds {learn} from no clip {'that shows' if multi else 'of'} {name} and "
            f"cannot predict it: {shown}"
        )
    return lines


def ablation_columns(summary: Sequence[Summary]) -> list[str]:
    """What tells conditions apart, beside model, arm and amount: of mode, source and subjects, those that vary."""
    names = ("mode", "source", "train_subjects")
    return [name for name in names if len({getattr(s, name) for s in summary} - {""}) > 1]


def added(s: Summary) -> str:
    """Arm and amount in words."""
    return f"{s.arm} {s.amount_text}" if s.amount else "none"


def ablation_table(result: AblationResult) -> tuple[str, list[str], list[list[str]]]:
    """(title, header, rows): one row per condition, narrow enough for a terminal of 80 columns where little varies."""
    more = ablation_columns(result.summary)
    worth = any(s.prior_weights for s in result.summary)
    rows = []
    for s in result.summary:
        row = [s.model, added(s), *(_cell(s, name) for name in more)]
        rows.append(
            [*row, f"{s.uf1.value:.3f}", f"[{s.uf1.low:.3f}, {s.uf1.high:.3f}]", f"{s.seed_sd:.3f}", f"{s.uar:.3f}"]
            + ([chosen_span(s.prior_weights)] if worth else [])
        )
    shown = ["subjects" if name == "train_subjects" else name for name in more]
    header = ["model", "added", *shown, "UF1", "95 % interval", "seed sd", "UAR", *(["weight"] if worth else [])]
    return f"{many(result.n_subjects, 'subject')}; intervals: bootstrap over subjects", header, rows


def _cell(s: Summary, name: str) -> str:
    return str(s.train_subjects or "all") if name == "train_subjects" else str(getattr(s, name)) or "-"


def condition_words(s: Summary, more: Sequence[str]) -> str:
    """A condition without its amount, for a sentence."""
    words = [s.model]
    words += [s.mode] if "mode" in more else []
    words += [s.source] if "source" in more and s.source else []
    words += [f"{s.train_subjects or 'all'} subjects"] if "train_subjects" in more else []
    return ", ".join(words)


def ablation_verdicts(result: AblationResult) -> list[str]:
    """One sentence per comparison, and how many there were."""
    more = ablation_columns(result.summary)
    lines = []
    for s in result.summary:
        if s.difference is not None and s.p_holm is not None:
            p = f"p {p_text(s.difference.p)}, Holm {p_text(s.p_holm)}"
            lines.append(f"{condition_words(s, more)}, {added(s)}: {s.verdict} ({p})")
    return [*lines, f"UF1 against nothing added, paired by subject; {_comparisons(result)} made"]


def _comparisons(result: AblationResult) -> str:
    return many(result.comparisons, "comparison was", "comparisons were")


def tally(result: AblationResult) -> str:
    """All comparisons of synthetic clips with none in one sentence."""
    compared = [s for s in result.summary if s.arm == "synthetic"]
    gains, losses = (sum(s.verdict.startswith(word) for s in compared) for word in ("gain", "loss"))
    if not compared:
        return "Nothing was compared: no clips were added."
    if not gains and not losses:
        none = form(len(compared), "The comparison does not show", f"None of the {len(compared)} comparisons shows")
        return f"{none} that synthetic clips change UF1."
    if len(compared) == 1:
        return f"The comparison shows a {'gain' if gains else 'loss'} from synthetic clips."
    parts = [f"{gains} of {len(compared)} comparisons {form(gains, 'shows', 'show')} a gain from synthetic clips"]
    parts += [f"{losses} a loss"] if losses else []
    rest = len(compared) - gains - losses
    parts += [f"{rest} neither"] if rest else []
    return f"{', '.join(parts)}."


def loso_markdown(result: LosoResult) -> str:
    """The whole report of a run."""
    parts = [f"## {title}\n\n{markdown(header, rows)}" for title, header, rows in loso_tables(result)]
    return "\n\n".join([*parts, *loso_notes(result)]) + "\n"


def resolution_note(result: AblationResult) -> str:
    """A warning where no difference, however large, could have passed the corrected test; else empty."""
    least = 2.0 ** (1 - result.n_subjects) * result.comparisons
    if least < 0.05:
        return ""
    asked = f"{many(result.n_subjects, 'subject')} and {many(result.comparisons, 'comparison')}"
    return (
        f"With {asked} the corrected p cannot fall below {min(least, 1):.2f}: nothing could have been shown here. Name "
        "fewer conditions, or take more subjects."
    )


def ablation_markdown(result: AblationResult) -> str:
    """The whole report of an ablation."""
    title, header, rows = ablation_table(result)
    verdicts = "\n".join(f"- {line}" for line in ablation_verdicts(result))
    parts = [
        " ".join([tally(result), resolution_note(result)]).strip(),
        f"## {title}",
        markdown(header, rows),
        verdicts,
        *result.notes,
    ]
    if result.by_fold:
        parts += ["## Fold by fold", markdown(*fold_table(result))]
    return "\n\n".join([*parts, "![UF1 against clips added](curve.png)"]) + "\n"


def fold_table(result: AblationResult) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of a cross-database protocol's folds, each without and with synthetic clips."""
    more = ablation_columns(result.summary)
    rows = []
    for f in result.by_fold:
        d = f.difference
        words = [f.model, *(str(getattr(f, n) or "all") for n in more)]
        change = f"{d.value:+z.3f} [{d.low:+z.3f}, {d.high:+z.3f}]"
        rows.append([f.fold, *words, f.amount_text, f"{f.without:.3f}", f"{f.uf1:.3f}", change])
    shown = ["subjects" if name == "train_subjects" else name for name in more]
    return ["fold", "model", *shown, "added", "without", "with", "difference"], rows


# ------------------------------------------------------------------- megc

_PARTS = "# part\tclips\tUF1\tUAR\taccuracy"


def log_text(
    table: pa.Table, labels: Labels | Sequence[str], full: Metrics, per_database: Mapping[str, Metrics]
) -> str:
    """``table`` as of :mod:`recognizer.results`; seeds follow one another."""
    labels = Labels.of(labels)
    classes = labels.coded
    out = ["# fold\tseed\tdatabase/subject\tclip\ttruth\tpredicted"]
    names = ("fold", "seed", "subject", "clip_id", "y", "predicted")
    for fold, seed, subject, clip, y, predicted in zip(*(column(table, name) for name in names), strict=True):
        out.append(f"{fold}\t{seed}\t{subject}\t{clip}\t{classes[y]}\t{classes[predicted]}")
    out.append("# part\tAUs\tmacro F1\tbalanced accuracy\taccuracy" if labels.multi else _PARTS)
    for name, m in [("Full", full), *sorted(per_database.items())]:
        out.append(f"{name}\t{m.n}\t{m.uf1:.4f}\t{m.uar:.4f}\t{m.accuracy:.4f}")
    out.append(
        f"# rightly absent, wrongly present, wrongly absent, rightly present: {', '.join(labels.names)}"
        if labels.multi
        else f"# confusion, rows are truth: {', '.join(classes)}"
    )
    out += ["\t".join(map(str, row)) for row in full.confusion]
    return "\n".join(out) + "\n"
