"""The table every run leaves behind: one row per (condition, seed, fold, test clip)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.errors import ManifestError
from mesynth.run_folder import write_bytes
from recognizer.data import FlowSet
from recognizer.protocol import Fold

SCHEMA = pa.schema(
    [
        ("model", pa.string()), ("mode", pa.string()), ("source", pa.string()), ("arm", pa.string()),
        ("ratio", pa.float64()), ("train_subjects", pa.int32()), ("seed", pa.int64()), ("fold", pa.string()),
        ("clip_id", pa.string()), ("database", pa.string()), ("subject", pa.string()), ("y", pa.int32()),
        ("predicted", pa.int32()), ("scores", pa.list_(pa.float64())),
    ]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, order=True)
class Condition:
    """What is compared with what."""

    model: str
    mode: str = ""
    """How added clips are mixed in."""
    train_subjects: int
    """Real subjects it learned from; 0 = all."""
    source: str = ""
    """Which synthetic corpus; empty where none takes part."""
    arm: str
    """synthetic, a control, or none."""
    ratio: float


def fold_table(condition: Condition, seed: int, fold: Fold, real: FlowSet, scores: np.ndarray) -> pa.Table:
    """The test clips of one fold with their class probabilities ``scores`` [n,C]."""
    index, n = fold.test_index, len(fold.test_index)
    columns = {
        "model": [condition.model] * n, "mode": [condition.mode] * n, "source": [condition.source] * n,
        "arm": [condition.arm] * n, "ratio": [condition.ratio] * n,
        "train_subjects": [condition.train_subjects] * n, "seed": [seed] * n, "fold": [fold.name] * n,
        "clip_id": real.clip_ids[index].tolist(), "database": real.databases[index].tolist(),
        "subject": real.subjects[index].tolist(), "y": real.y[index].tolist(),
        "predicted": scores.argmax(1).tolist(), "scores": scores.tolist(),
    }  # fmt: skip
    return pa.table(columns, schema=SCHEMA)


def write_table(table: pa.Table, path: Path) -> None:
    """Parquet, complete or absent."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def read_table(path: Path) -> pa.Table:
    """Raises ManifestError when the file is no such table."""
    try:
        return pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path} cannot be read ({error}); remove it and run the same command again") from None


def column(table: pa.Table, name: str) -> np.ndarray:
    """One column as numpy."""
    return np.asarray(table[name].to_numpy(zero_copy_only=False))


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows, in order."""
    return pa.concat_tables(tables).combine_chunks()
