"""Clips out of several folders become one corpus: the shards that a stage would have written of these clips alone."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mesynth.manifest import Manifest, Row, Span
from mesynth.shards import ShardWriter, read_span
from mesynth.stage import shard_size


def gather(out: Path, rounds: Sequence[Manifest], chosen: np.ndarray) -> Manifest:
    """Copy clips into ``out``, in the order of their plan rows; the manifest is written last.

    ``chosen`` [N] int: the round that has the clip of each plan row, -1 where there is none. In each round's manifest
    plan rows ascend. What was loose under ``clips/`` is copied too. Memory is that of one shard and the table; the same
    call again writes the same bytes.

    Raises:
        ManifestError: a round's shard is missing or damaged.
    """
    total = int((chosen >= 0).sum())
    size = shard_size(total)
    parts = [_of(made, chosen, number) for number, made in enumerate(rounds)]
    clips = heapq.merge(*parts, key=lambda clip: clip[0].provenance.plan_row)
    tables = [
        _write_shard(out, index, first, list(islice(clips, size))) for index, first in enumerate(range(0, total, size))
    ]
    table = pa.concat_tables(tables).combine_chunks() if tables else Manifest.from_rows([], out).table
    assert table.num_rows == total
    Manifest(table, out).write(out)
    return Manifest.read(out)


def _of(made: Manifest, chosen: np.ndarray, number: int) -> Iterator[tuple[Row, Path]]:
    return ((row, made.root) for row in made if chosen[row.provenance.plan_row] == number)


def _write_shard(out: Path, index: int, first: int, clips: list[tuple[Row, Path]]) -> pa.Table:
    rows = []
    with ExitStack() as stack:
        tars = {
            name: stack.enter_context(ShardWriter(out / f"{name}-{index:06d}.tar"))
            for name in ("frames", "flow")
            if any(getattr(row, name) for row, _ in clips)
        }
        for place, (row, root) in enumerate(clips, first):
            spans: dict[str, Any] = {
                name: _copied(tar, f"{place:08d}", root, getattr(row, name)) for name, tar in tars.items()
            }
            rows.append(replace(row, **spans))
            if (loose := root / "clips" / row.clip).is_dir():
                shutil.copytree(loose, out / "clips" / row.clip, dirs_exist_ok=True)
    return Manifest.from_rows(rows, out).table


def _copied(tar: ShardWriter, key: str, root: Path, span: Span | None) -> Span | None:
    return span and tar.add(key, read_span(root, span, verify=True))
