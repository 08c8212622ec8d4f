"""What a model says of a recording: lines for people, a table and plain facts for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

NOTHING = "no micro-expression found"


@dataclass(frozen=True, kw_only=True)
class VideoPrediction:
    """What a model says of a recording; also written as ``intervals.json`` (``facts``) and ``predictions.parquet``."""

    facts: dict[str, Any]
    table: pa.Table

    def lines(self) -> list[str]:
        """One line an interval, or that there is none."""
        return [line_of(found) for found in self.facts["intervals"]] or [NOTHING]


def table_of(judged: Sequence[dict[str, Any]], classes: Sequence[str]) -> pa.Table:
    """One row an interval: clip_id, frames, seconds, predicted, p_<class>, au_<side and AU>."""
    whole = [(name, pa.int32()) for name in ("onset", "apex", "offset")]
    real = ["onset_s", "apex_s", "offset_s", "movement_px", "confidence"]
    aus = list(judged[0]["aus"]) if judged else []
    numbers = [*real, *(f"p_{name}" for name in classes), *(f"au_{name}" for name in aus)]
    schema = pa.schema(
        [("clip_id", pa.string()), *whole, ("predicted", pa.string()), *((name, pa.float64()) for name in numbers)]
    )
    rows = [
        {name: found[name] for name in ("clip_id", "onset", "apex", "offset", "predicted", "movement_px", "confidence")}
        | {f"{name}_s": second for name, second in found["seconds"].items()}
        | {f"p_{name}": value for name, value in found["probabilities"].items()}
        | {f"au_{name}": value for name, value in found["aus"].items()}
        for found in judged
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def line_of(found: dict[str, Any]) -> str:
    """One interval for people."""
    seconds = found["seconds"]
    ranked = sorted(found["probabilities"].items(), key=lambda item: -item[1])
    classes = ", ".join(f"{name} {value:.2f}" for name, value in ranked)
    shown = sorted((item for item in found["aus"].items() if item[1] >= 0.5), key=lambda item: -item[1])
    aus = "; AUs " + ", ".join(f"{name} {value:.2f}" for name, value in shown) if shown else ""
    frames = f"frames {found['onset']}, {found['apex']}, {found['offset']}"
    return f"{seconds['onset']:.2f}-{seconds['offset']:.2f} s, apex {seconds['apex']:.2f} ({frames}): {classes}{aus}"
