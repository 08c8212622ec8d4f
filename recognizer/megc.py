"""A run as a log in the manner of the micro-expression grand challenges: every fold's answers, then the figures.

The challenge of 2019 (See et al., FG 2019) asked for the predictions of all 68 folds with UF1 and UAR, Full and per
database. Its page no longer says how a line should look; this is subject, clip, truth, answer, separated by tabs.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from recognizer.metrics import Metrics
from recognizer.predictions import column


def log_text(table: pa.Table, classes: tuple[str, ...], full: Metrics, per_database: Mapping[str, Metrics]) -> str:
    """``table`` as of :mod:`recognizer.predictions`; seeds follow one another."""
    out = ["# fold\tseed\tdatabase/subject\tclip\ttruth\tpredicted"]
    names = ("fold", "seed", "subject", "clip_id", "y", "predicted")
    for fold, seed, subject, clip, y, predicted in zip(*(column(table, name) for name in names), strict=True):
        out.append(f"{fold}\t{seed}\t{subject}\t{clip}\t{classes[y]}\t{classes[predicted]}")
    out.append("# part\tclips\tUF1\tUAR\taccuracy")
    for name, m in [("Full", full), *sorted(per_database.items())]:
        out.append(f"{name}\t{m.n}\t{m.uf1:.4f}\t{m.uar:.4f}\t{m.accuracy:.4f}")
    out.append(f"# confusion, rows are truth: {', '.join(classes)}")
    out += ["\t".join(map(str, row)) for row in full.confusion]
    return "\n".join(out) + "\n"
