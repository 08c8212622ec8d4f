"""``ablation.html``: verdicts first, then curves and tables; one file, no network, no script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import yaml

from recognizer import curve
from recognizer.ablation_result import AblationResult, Summary
from recognizer.cells import POOLED
from recognizer.protocol import OWN_CLIPS
from recognizer.report import ablation_columns, added, condition_words, fold_table, resolution_note, tally

_KINDS = {"gain": "gain", "loss": "loss"}


def page(result: AblationResult) -> str:
    """The page of a finished ablation."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("recognizer").joinpath("ablation_page.html").read_text()
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    return template.render(**_values(result))


def _values(result: AblationResult) -> dict[str, Any]:
    summary = result.summary
    more = ablation_columns(summary)
    ratios, subjects = curve.ratio_panels(summary), curve.subject_panels(summary)
    header, folds = fold_table(result)
    protocol = result.config.get("protocol", {}).get("kind", "loso")
    return {
        "tally": tally(result),
        "warning": resolution_note(result),
        "facts": _facts(result),
        "protocol": protocol,
        "shown_ratio": f"{curve.shown_ratio(summary):g}",
        "cards": [_card(s, summary, more) for s in _headlines(summary)],
        "comparisons": result.comparisons,
        "ratio_panels": _panels(ratios, curve.span([*ratios, *subjects])),
        "subject_panels": _panels(subjects, curve.span([*ratios, *subjects])),
        "columns": ["subjects" if name == "train_subjects" else name for name in more],
        "rows": [_row(s, more) for s in summary],
        "fold_header": header,
        "folds": folds,
        "settings": yaml.safe_dump(json.loads(json.dumps(result.config)), sort_keys=False),
        "sources": result.sources,
        "hash": result.config_hash,
        "command": result.command,
        "seconds": result.seconds,
    }


def _facts(result: AblationResult) -> list[tuple[str, str]]:
    return [
        (str(result.n_subjects), f"people in {result.n_clips} real clips"),
        (f"{result.sources[POOLED]:,}", "synthetic clips to draw from"),
        (str(len(result.rows)), "cells: a condition under a seed"),
        (str(result.comparisons), "comparisons, corrected together"),
    ]


def _headlines(summary: Sequence[Summary]) -> list[Summary]:
    """Synthetic clips at the ratio that is fixed beforehand, once per curve."""
    ratio = curve.shown_ratio(summary)
    return [s for s in summary if s.arm == "synthetic" and s.ratio == ratio]


def _card(s: Summary, summary: Sequence[Summary], more: Sequence[str]) -> dict[str, Any]:
    place = (s.model, s.mode, s.train_subjects, s.ratio)
    controls = [
        c
        for c in summary
        if (c.model, c.mode, c.train_subjects, c.ratio) == place
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
        "p": f"{s.p_holm:.3f}" if s.p_holm is not None else "",
        "controls": [(c.arm, f"{c.difference.value:+.3f}") for c in controls if c.difference],
    }


def _panels(panels: Sequence[curve.Panel], limits: tuple[float, float]) -> list[dict[str, Any]]:
    from markupsafe import Markup  # what is marked is made of numbers and escaped names, in curve.py

    return [
        {
            "title": panel.title,
            "svg": Markup(curve.panel_svg(panel, *limits)),
            "legend": [(Markup(curve.legend_svg(line)), line.label) for line in panel.lines],
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
        "p": f"{d.p:.3f}" if d else "",
        "p_holm": f"{s.p_holm:.3f}" if s.p_holm is not None else "",
        "base": d is None,
    }
