"""A small manifest of coded clips: six subjects, two of them with macro-expressions, one with a synthetic clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mesynth.core import emotions, facs
from mesynth.corpus.generate import THROUGHPUT_FILE
from mesynth.store.manifest import Manifest, Row
from tests.builders import provenance, row, tree_bytes

CODED = [
    ("01", "disgust", "4+7", "micro"),
    ("01", "happiness", "R12", "micro"),
    ("02", "disgust", "4+9", "micro"),
    ("02", "surprise", "1+2", "micro"),
    ("03", "happiness", "6C+12D", "micro"),
    ("03", "surprise", "L2", "micro"),
    ("04", "happiness", "12", "micro"),
    ("04", "disgust", "4+43", "micro"),
    ("05", "disgust", "?", "micro"),
    ("05", "happiness", "6E+12E", "macro"),
    ("06", "disgust", "4", "macro"),
    ("06", "surprise", "1+2", "macro"),
]


def coded_row(index: int, subject: str, emotion: str, text: str, expression: str = "micro") -> Row:
    annotation = facs.parse_annotation(text)
    return row(
        f"c{index}",
        clip_id=f"db/{subject}/c{index}/0",
        subject=subject,
        emotion=emotion,
        label=emotions.label(emotion),
        expression=expression,
        **Row.au_columns(annotation.vector(), annotation.presence()),
        provenance=provenance(subject=subject, subjects_seen=(f"db/{subject}",)),
    )


def coded_manifest(root: Path) -> Manifest:
    rows = [coded_row(i, *entry) for i, entry in enumerate(CODED)]
    made = coded_row(99, "07", "disgust", "17")
    rows.append(
        row(
            "syn",
            clip_id="db/07/syn/0",
            subject="07",
            emotion="disgust",
            label="negative",
            **Row.au_columns(made.aus, np.array(made.au_present).reshape(-1, 2)),
            provenance=provenance(kind="synthetic", subject="07", subjects_seen=("db/07", "db/01")),
        )
    )
    manifest = Manifest.from_rows(rows, root)
    manifest.write(root)
    return Manifest.read(root)


def made_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a corpus but the one that says how fast it was made."""
    return {name: data for name, data in tree_bytes(folder).items() if name != THROUGHPUT_FILE}
