"""Curves of an ablation: UF1 against the clips added and against the number of real subjects, as PNG and as inline SVG.

``ablation.html``: verdicts first, then curves and tables; one file, no network, no script."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import yaml
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mesynth.store.pages import render
from recognizer.ablation_result import NONE, POOLED, AblationResult, Detail, Summary
from recognizer.protocol import OWN_CLIPS
from recognizer.report import (
    ablation_columns,
    added,
    chosen_span,
    condition_words,
    fold_table,
    form,
    many,
    p_text,
    resolution_note,
    tally,
)
from recognizer.results import counts_text

COLOURS = ("#2456a6", "#b5482f", "#1f7a4d", "#7a4fa3", "#9a6b00", "#0f7f8c")
"""Of the sources, the pool of all first."""
GREY = "#7d8490"
_DASHES = {
    "shuffled": "2 3", "synthetic-only": "9 3 2 3", "duplicates": "7 4", "mirror": "5 2", "magnified": "1 4",
    "augmented": "10 3",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points (place on the x axis, value, low, high), how they are named and drawn."""

    label: str
    points: tuple[tuple[int, float, float, float], ...]
    colour: str
    dash: str = ""
    band: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    ticks: tuple[str, ...]
    lines: tuple[Line, ...]
    level: float | None = None
    """Nothing added, where x is what is added."""


def amount_panels(summary: Sequence[Summary]) -> list[Panel]:
    """UF1 against the clips added: a panel per model, mode and number of real subjects; a line per source and control.

    The band is the 95 % interval of the bootstrap over subjects; the thin level is nothing added. Controls are grey.
    """
    amounts = sorted({s.amount for s in summary})
    place = {amount: i for i, amount in enumerate(amounts)}  # evenly spaced: they are chosen by doubling
    x_label = f"added clips {'of each class' if any(s.count for s in summary) else 'per real training clip'}"
    sources = list(dict.fromkeys(s.source for s in summary if s.arm == "synthetic"))
    out, few = [], any(s.train_subjects for s in summary)
    for key in dict.fromkeys((s.model, s.mode, s.train_subjects) for s in summary):
        here = [s for s in summary if (s.model, s.mode, s.train_subjects) == key]
        base = next(s for s in here if s.arm == NONE)
        lines = []
        for arm, source in dict.fromkeys((s.arm, s.source) for s in here if s.arm != NONE):
            own = arm == "synthetic"
            if not own and source not in ("", POOLED):
                continue  # controls of single sources are in the tables
            points = [base, *sorted((s for s in here if (s.arm, s.source) == (arm, source)), key=lambda s: s.amount)]
            if arm == "synthetic-only":
                points = points[1:]  # without real clips it does not begin at nothing added
            lines.append(
                Line(
                    label=("synthetic" if source == POOLED else f"synthetic: {source}") if own else arm,
                    points=tuple((place[s.amount], s.uf1.value, s.uf1.low, s.uf1.high) for s in points),
                    colour=COLOURS[sources.index(source) % len(COLOURS)] if own else GREY,
                    dash="" if own else _DASHES[arm],
                    band=own and source == POOLED,
                )
            )
        model, mode, subjects = key
        out.append(
            Panel(
                title=f"{model}, {mode}" + (f", {subjects} real subjects" if subjects else ", all" if few else ""),
                x_label=x_label, ticks=tuple(f"{n:g}" for n in amounts),
                lines=tuple(lines), level=base.uf1.value,
            )
        )  # fmt: skip
    return out


def shown_amount(summary: Sequence[Summary]) -> float:
    """The amount that the curves over subjects show, not picked by its results: of ratios 1, or else the lowest above
    0; of counts the highest."""
    above = sorted({s.amount for s in summary if s.amount})
    if any(s.count for s in summary):
        return above[-1]
    return 1.0 if 1.0 in above else above[0] if above else 0.0


def subject_panels(summary: Sequence[Summary]) -> list[Panel]:
    """UF1 against the number of real subjects learned from, at :func:`shown_amount`; empty if there is one number."""
    numbers = sorted({s.train_subjects for s in summary}, key=lambda n: n or math.inf)
    amount = shown_amount(summary)
    if len(numbers) < 2 or not amount:
        return []
    out = []
    for model, mode in dict.fromkeys((s.model, s.mode) for s in summary):
        here = [s for s in summary if (s.model, s.mode) == (model, mode)]
        lines = []
        wanted = [
            ("real only", NONE, ""),
            (next(added(s) for s in summary if (s.arm, s.amount) == ("synthetic", amount)), "synthetic", POOLED),
            ("shuffled", "shuffled", POOLED),
        ]
        for label, arm, source in wanted:
            found = [s for s in here if (s.arm, s.source) == (arm, source) and s.amount in (0, amount)]
            points = tuple((numbers.index(s.train_subjects), s.uf1.value, s.uf1.low, s.uf1.high) for s in found)
            colour = {"synthetic": COLOURS[0], NONE: COLOURS[1]}.get(arm, GREY)
            if points:
                dash, band = _DASHES.get(arm, ""), arm != "shuffled"
                lines.append(Line(label=label, points=tuple(sorted(points)), colour=colour, dash=dash, band=band))
        ticks = tuple(str(n) if n else "all" for n in numbers)
        out.append(
            Panel(title=f"{model}, {mode}", x_label="real subjects learned from", ticks=ticks, lines=tuple(lines))
        )  # fmt: skip
    return out


def span(panels: Sequence[Panel]) -> tuple[float, float]:
    """A range of UF1 in twentieths that holds all points and bands, so that panels can be compared by eye."""
    values = [panel.level for panel in panels if panel.level is not None]
    for line in (line for panel in panels for line in panel.lines):
        values += [v for _, value, low, high in line.points for v in ((value, low, high) if line.band else (value,))]
    if not values:
        return 0.0, 1.0
    return max(math.floor(min(values) * 20) / 20, 0.0), min(math.ceil(max(values) * 20 + 1e-9) / 20, 1.0)


def curve_png(summary: Sequence[Summary], figure: str = "UF1") -> bytes:
    """:func:`amount_panels` as PNG; ``figure`` names what is drawn."""
    return drawn(amount_panels(summary), summary, "png", name=figure)


_UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None},
}  # fmt: skip
"""Metadata that would make the same figure other bytes."""


def drawn(panels: Sequence[Panel], summary: Sequence[Summary], kind: str, *, name: str = "UF1") -> bytes:
    """Panels as png, pdf or svg: the numbers of real subjects beside each other, or up to three in a row."""
    numbers = len({s.train_subjects for s in summary})
    columns = numbers if numbers > 1 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(1.5 + 4.5 * columns, 4.2 * rows), dpi=120 if rows * columns < 10 else 80, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes[: len(panels)], panels, strict=True):
        if panel.level is not None:
            axis.axhline(panel.level, color="0.3", linewidth=0.6)
        for line in panel.lines:
            x, value, low, high = zip(*line.points, strict=True)
            style = (0, tuple(map(float, line.dash.split()))) if line.dash else "-"
            axis.plot(x, value, linestyle=style, color=line.colour, marker="o", ms=3, lw=1.3, label=line.label)
            if line.band:
                axis.fill_between(x, low, high, color=line.colour, alpha=0.15, linewidth=0)
        axis.set_xticks(range(len(panel.ticks)), panel.ticks)
        axis.set_xlabel(panel.x_label)
        axis.set_title(panel.title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"{name} (band: 95 % bootstrap over subjects)")
    if panels[0].lines:
        axes[0].legend(fontsize=8)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "recognizer", "pdf.fonttype": 42}):  # ids by content; text as text
        figure.savefig(buffer, format=kind, metadata=_UNDATED[kind])
    return buffer.getvalue()


# ---------------------------------------------------------------- SVG

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 230, 40, 10, 10, 40


def panel_svg(panel: Panel, low: float, high: float) -> str:
    """One panel as an SVG element that scales with its place; text takes the page's colour and font."""
    inner_w, inner_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    steps = max(len(panel.ticks) - 1, 1)
    high = max(high, low + 0.05)

    def at(place: float, value: float) -> str:
        y = _TOP + inner_h * (1 - (value - low) / (high - low))
        return f"{_LEFT + inner_w * (place + 0.15) / (steps + 0.3):.1f},{y:.1f}"

    out = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="UF1, {escape(panel.title)}">',
        "<g class='axis'>",
    ]
    by = next(step for step in (0.05, 0.1, 0.2) if (high - low) / step <= 7 or step == 0.2)
    for i in range(math.ceil(low / by - 1e-9), math.floor(high / by + 1e-9) + 1):
        x, y = at(-0.15, i * by).split(",")
        out.append(f'<path d="M{x},{y}H{_WIDTH - _RIGHT}"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{float(y) + 4:.1f}" class="y">{i * by:.2f}</text>')
    for place, tick in enumerate(panel.ticks):
        x = at(place, low).split(",")[0]
        out.append(f'<text x="{x}" y="{_TOP + inner_h + 16}" class="x">{escape(tick)}</text>')
    out.append(f'<text x="{_LEFT + inner_w / 2:.0f}" y="{_HEIGHT - 6}" class="x">{escape(panel.x_label)}</text></g>')
    if panel.level is not None:
        out.append(f'<path class="level" d="M{at(-0.15, panel.level)}H{_WIDTH - _RIGHT}"/>')
    for line in (line for line in panel.lines if line.band):
        above = [at(place, top) for place, _, _, top in line.points]
        below = [at(place, bottom) for place, _, bottom, _ in reversed(line.points)]
        out.append(f'<polygon points="{" ".join(above + below)}" fill="{line.colour}" opacity=".15"/>')
    for line in sorted(panel.lines, key=lambda line: line.colour != GREY):  # controls lie underneath
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        points = [at(place, value) for place, value, _, _ in line.points]
        width = 1.3 if line.colour == GREY else 2
        out.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{line.colour}" stroke-width="{width}"{dash}/>'
        )
        for point in points if line.colour != GREY else ():
            x, y = point.split(",")
            out.append(f'<circle cx="{x}" cy="{y}" r="2.6" fill="{line.colour}"/>')
    return "".join([*out, "</svg>"])


def legend_svg(line: Line) -> str:
    """A short piece of a line."""
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    width = 1.3 if line.colour == GREY else 2
    return (
        '<svg class="key" viewBox="0 0 28 8" aria-hidden="true">'
        f'<path d="M0,4H28" stroke="{line.colour}" stroke-width="{width}"{dash}/></svg>'
    )


# ------------------------------------------------------------------- ablation page


_KINDS = {"gain": "gain", "loss": "loss"}


def page(result: AblationResult, details: Sequence[Detail] = ()) -> str:
    """The page of a finished ablation; ``details`` fill its confusion matrices and its view person by person."""
    return render("recognizer", "ablation_page.html", **_values(result, details))


def _values(result: AblationResult, details: Sequence[Detail]) -> dict[str, Any]:
    summary = result.summary
    more = ablation_columns(summary)
    amounts, subjects = amount_panels(summary), subject_panels(summary)
    header, folds = fold_table(result)
    protocol = result.config.get("protocol", {}).get("kind", "loso")
    return {
        "tally": tally(result),
        "warning": " ".join([resolution_note(result), *(f"{note}." for note in result.notes)]).strip(),
        "facts": _facts(result),
        "protocol": protocol,
        "shown_amount": next((s.amount_text for s in _headlines(summary)), ""),
        "cards": [_card(s, summary, more) for s in _headlines(summary)],
        "corrected": form(result.comparisons, "the comparison", f"all {result.comparisons} comparisons"),
        "weighs": any(s.prior_weights for s in summary),
        "amount_panels": _panels(amounts, span([*amounts, *subjects])),
        "subject_panels": _panels(subjects, span([*amounts, *subjects])),
        "columns": ["subjects" if name == "train_subjects" else name for name in more],
        "rows": [_row(s, more) for s in summary],
        "fold_header": header,
        "folds": folds,
        "settings": yaml.safe_dump(json.loads(json.dumps(result.config)), sort_keys=False),
        "sources": result.sources,
        "hash": result.config_hash,
        "command": result.command,
        "seconds": result.seconds,
    } | _behind(summary, details)


_SHOWN = 4
"""Headline comparisons whose confusions and people are shown; all are in predictions.parquet."""


def _behind(summary: Sequence[Summary], details: Sequence[Detail]) -> dict[str, Any]:
    """Confusions without and with added clips, and people, of the first headline comparisons."""
    amount, more = shown_amount(summary), ablation_columns(summary)
    matrices, people = [], []
    for s in [s for s in _headlines(summary) if s.source == POOLED][:_SHOWN]:
        place = (s.model, s.mode, s.train_subjects)
        here = [d for d in details if (d.condition.model, d.condition.mode, d.condition.train_subjects) == place]
        base = next((d for d in here if d.condition.arm == NONE), None)
        own = next((d for d in here if d.condition.arm != NONE and d.condition.amount == amount), None)
        if base is None or own is None:
            continue
        title = condition_words(s, more)
        matrices += [_matrix(base, f"{title}: nothing added"), _matrix(own, f"{title}: {s.amount_text} added")]
        people.append(_people(base, own, title))
    return {"details": matrices, "people": people}


def _matrix(detail: Detail, title: str) -> dict[str, Any]:
    rows = []
    for index, (name, counts) in enumerate(zip(detail.classes, detail.confusion, strict=True)):
        total = max(sum(counts), 1)
        hits = [0, 3] if detail.multi else [index]
        rows.append({
            "name": name, "hits": hits, "cells": [{"n": n, "percent": round(100 * n / total)} for n in counts],
        })  # fmt: skip
    columns = ("rightly absent", "wrongly present", "wrongly absent", "rightly present")
    return {
        "title": title,
        "classes": columns if detail.multi else detail.classes,
        "seeds": detail.seeds,
        "matrix": rows,
    }


def _people(base: Detail, own: Detail, title: str) -> dict[str, Any]:
    from markupsafe import Markup  # made of numbers alone

    changes = sorted(
        (own.people[name][1] - right, name) for name, (_, right) in base.people.items() if name in own.people
    )
    rows = [
        {
            "name": name, "n": base.people[name][0], "without": f"{base.people[name][1]:.2f}",
            "right": f"{own.people[name][1]:.2f}", "change": f"{change:+z.2f}",
            "kind": "gain" if change > _SAME else "loss" if change < -_SAME else "",
        }
        for change, name in changes
    ]  # fmt: skip
    better, worse = (sum(row["kind"] == kind for row in rows) for kind in ("gain", "loss"))
    same = len(rows) - better - worse
    words = f"{better} better, {worse} worse, {same} the same, of {many(len(rows), 'person', 'people')}"
    return {"title": title, "svg": Markup(people_svg([change for change, _ in changes])), "rows": rows, "words": words}


_SAME = 1e-9


def people_svg(changes: Sequence[float]) -> str:
    """Bars of -1 to 1 around a line, one a person, in the order given; the axis is in shares."""
    width, height, left, middle = 360, 130, 40, 60
    inner = width - left - 10
    step = inner / max(len(changes), 1)
    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="change of each person"><g class="axis">']
    for value, text in ((-1, "-1"), (0, "0"), (1, "+1")):
        y = middle - 50 * value
        out.append(f'<path d="M{left},{y}H{width - 10}"/><text x="{left - 6}" y="{y + 4}" class="y">{text}</text>')
    out.append("</g>")
    for i, change in enumerate(changes):
        size = max(50 * abs(change), 0.8)
        top = middle - size if change > 0 else middle
        kind = "up" if change > _SAME else "down" if change < -_SAME else "same"
        wide = max(step * 0.8, 0.6)
        out.append(
            f'<rect class="{kind}" x="{left + i * step + 0.1 * step:.2f}" y="{top:.2f}" width="{wide:.2f}" '
            f'height="{size:.2f}"/>'
        )
    out.append(f'<path class="level" d="M{left},{middle}H{width - 10}"/></svg>')
    return "".join(out)


def _facts(result: AblationResult) -> list[tuple[str, str]]:
    return [
        (
            str(result.n_subjects),
            f"{form(result.n_subjects, 'person', 'people')} in {many(result.n_clips, 'real clip')}",
        ),
        (f"{result.sources[POOLED]:,}", "synthetic clips to draw from"),
        (str(len(result.rows)), form(len(result.rows), "cell", "cells") + ": a condition under a seed"),
        (str(result.comparisons), form(result.comparisons, "comparison", "comparisons, corrected together")),
    ]


def _headlines(summary: Sequence[Summary]) -> list[Summary]:
    """Synthetic clips at the amount that is fixed beforehand, once per curve."""
    amount = shown_amount(summary)
    return [s for s in summary if s.arm == "synthetic" and s.amount == amount]


def _card(s: Summary, summary: Sequence[Summary], more: Sequence[str]) -> dict[str, Any]:
    place = (s.model, s.mode, s.train_subjects, s.amount)
    controls = [
        c
        for c in summary
        if (c.model, c.mode, c.train_subjects, c.amount) == place
        and c.arm not in ("synthetic", "none")
        and c.source in ("", s.source)
    ]
    assert s.difference is not None
    gain = s.difference.value
    rivals = [c.arm for c in controls if c.arm in OWN_CLIPS and c.difference and c.difference.value >= gain > 0]
    return {
        "title": condition_words(s, more),
        "note": f"The real clips' own copies bring as much: {', '.join(rivals)}." if rivals else "",
        "verdict": s.verdict,
        "kind": _KINDS.get(s.verdict.split(" ")[0], "none"),
        "uf1": f"{s.uf1.value:.3f}",
        "without": f"{s.uf1.value - gain:.3f}",
        "p": p_text(s.p_holm) if s.p_holm is not None else "",
        "worth": counts_text(s.prior_weights),
        "controls": [(c.arm, f"{c.difference.value:+z.3f}") for c in controls if c.difference],
    }


def _panels(panels: Sequence[Panel], limits: tuple[float, float]) -> list[dict[str, Any]]:
    from markupsafe import Markup  # what is marked is made of numbers and escaped names, in curve.py

    return [
        {
            "title": panel.title,
            "svg": Markup(panel_svg(panel, *limits)),
            "legend": [(Markup(legend_svg(line)), line.label) for line in panel.lines],
        }
        for panel in panels
    ]


def _row(s: Summary, more: Sequence[str]) -> dict[str, Any]:
    d = s.difference
    return {
        "model": s.model,
        "added": added(s),
        "more": [str(getattr(s, name) or ("all" if name == "train_subjects" else "–")) for name in more],
        "uf1": f"{s.uf1.value:.3f}",
        "interval": f"[{s.uf1.low:.3f}, {s.uf1.high:.3f}]",
        "sd": f"{s.seed_sd:.3f}",
        "uar": f"{s.uar:.3f}",
        "verdict": s.verdict,
        "kind": _KINDS.get(s.verdict.split(" ")[0], "none"),
        "p": p_text(d.p) if d else "",
        "p_holm": p_text(s.p_holm) if s.p_holm is not None else "",
        "worth": chosen_span(s.prior_weights) if s.prior_weights else "",
        "chosen": counts_text(s.prior_weights),
        "base": d is None,
    }
