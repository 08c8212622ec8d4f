"""A run's members, trained block by block: each finished block is a file, so that a run goes on where it was stopped.

Blocks are shared over the processes of ``accelerate launch`` or torchrun. What a member learns does not depend on the
block it stands in, so neither does any figure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from mesynth.core.errors import RunFolderError
from mesynth.store.run_folder import write_bytes
from recognizer import results
from recognizer.config import RunConfig
from recognizer.data import FlowSet
from recognizer.fitting import Given, Member, NetworkMembers, fit, skeleton
from recognizer.models import CLOSED
from recognizer.protocol import Mixture
from recognizer.results import Condition

PARTS = "parts"
BLOCK = 32
"""Members a block, if they are small."""
_HELD = 4 * 2**30
"""Bytes that the members of a block may take with their gradients and moments."""
_KEPT = 2**30
"""Bytes of weights that a run keeps; what is larger leaves its predictions alone."""
WATCHED = 20
"""Points of training at which an oracle looks."""
Progress = Callable[[int, int], None]
ORACLE_SCHEMA = pa.schema(
    {"seed": pa.int64(), "fold": pa.string(), "clip_id": pa.string(), "y": pa.int32(), "predicted": pa.int32()}
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A member's place in a run: fold ``f`` of a mixture, and the seed."""

    mixture: Mixture
    seed: int
    f: int

    @property
    def member(self) -> Member:
        """What is trained here."""
        fold, weights = self.mixture.folds[self.f], self.mixture.weights[self.f]
        return Member.of(fold.name, self.seed, weights, self.mixture.pool.y)

    @property
    def test(self) -> np.ndarray:
        """Positions of the real clips that are tested."""
        return self.mixture.folds[self.f].test_index


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Members trained: predictions of their test clips, and the oracle's rows if it was asked. Their tensors are in
    the block's file alone, so that memory does not grow with folds and seeds."""

    table: pa.Table
    n_parameters: int
    oracle: pa.Table = field(default_factory=lambda: pa.table({n: [] for n in ORACLE_SCHEMA.names}, ORACLE_SCHEMA))


def places_of(mixtures: Sequence[Mixture], seeds: Sequence[int]) -> list[Place]:
    """Seeds x folds, in that order."""
    pairs = zip(mixtures, seeds, strict=True)
    return [Place(mixture=mixture, seed=seed, f=f) for mixture, seed in pairs for f in range(len(mixture.folds))]


def run_blocks(
    places: Sequence[Place],
    real: FlowSet,
    config: RunConfig,
    condition: Condition,
    *,
    folder: Path | None,
    given: Given = Given(),
    oracle: bool = False,
    progress: Progress | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[Outcome | None]:
    """Train and test all members; with ``folder``, skip the blocks it holds.

    ``share``: (rank, count) of the processes; blocks of others come back as None, to be read when all are done. Models
    in closed form share products over all folds: they are one block, of the first process.
    """
    size, keep = len(places), True
    if config.model not in CLOSED:
        bytes_each = 4 * sum(p.numel() for p in skeleton(config).parameters())
        size, keep = max(min(BLOCK, _HELD // (5 * bytes_each)), 1), bytes_each * len(places) <= _KEPT
    parts = None if folder is None else folder / PARTS
    out: list[Outcome | None] = []
    total = len(places)
    for number, first in enumerate(range(0, total, size)):
        block = places[first : first + size]
        found = None if parts is None else read_block(parts, number)
        if found is None and number % share[1] == share[0]:

            def report(done: int, of: int, first: int = first, n: int = len(block)) -> None:
                if progress:
                    progress(round(100 * (first + n * done / max(of, 1))), 100 * total)

            found, tensors = _train(block, real, config, condition, given, oracle, report)
            if parts is not None:
                _write(parts, number, found, tensors if keep else {})
        out.append(found)
        if progress:
            progress(100 * (first + len(block)), 100 * total)
    return out


def _train(
    block: Sequence[Place],
    real: FlowSet,
    config: RunConfig,
    condition: Condition,
    given: Given,
    oracle: bool,
    progress: Progress,
) -> tuple[Outcome, dict[str, torch.Tensor]]:
    mixture = block[0].mixture
    seen: list[list[np.ndarray]] = [[] for _ in block]  # a member belongs to one thread

    def watch(members: range, tensors: dict[str, torch.Tensor]) -> None:
        here = NetworkMembers(skeleton(config), tensors)
        for i, m in enumerate(members):
            seen[m].append(here.probabilities(i, real.inputs(block[m].test)).argmax(1))

    trained = fit(
        mixture.pool, mixture.added, [place.member for place in block], config, progress, given=given,
        watch=watch if oracle else None, watched=WATCHED,
    )  # fmt: skip
    tables, best = [], []
    for i, place in enumerate(block):
        fold = place.mixture.folds[place.f]
        scores = trained.probabilities(i, real.inputs(place.test))
        tables.append(results.fold_table(condition, place.seed, fold, real, scores))
        if oracle:
            best.append(_oracle_rows(place, real, [*seen[i], scores.argmax(1)]))
    outcome = Outcome(table=results.join(tables), n_parameters=trained.n_parameters)
    return (replace(outcome, oracle=pa.concat_tables(best)) if oracle else outcome), trained.tensors()


def _oracle_rows(place: Place, real: FlowSet, predicted: Sequence[np.ndarray]) -> pa.Table:
    """The point of training that did best on the very clips it is tested on."""
    y, n = real.y[place.test], len(place.test)
    best = predicted[int(np.argmax([(p == y).sum() for p in predicted]))]
    columns = {
        "seed": [place.seed] * n, "fold": [place.mixture.folds[place.f].name] * n,
        "clip_id": real.clip_ids[place.test].tolist(), "y": y.tolist(), "predicted": best.tolist(),
    }  # fmt: skip
    return pa.table(columns, schema=ORACLE_SCHEMA)


# ---------------------------------------------------------------- files


def _write(parts: Path, number: int, outcome: Outcome, tensors: dict[str, torch.Tensor]) -> None:
    """The tensors come last: a block without them is not done."""
    parts.mkdir(exist_ok=True)
    results.write_table(outcome.table, parts / f"{number:05d}.parquet")
    results.write_table(outcome.oracle, parts / f"{number:05d}.oracle.parquet")
    meta = {"n_parameters": str(outcome.n_parameters)}
    kept = {name: value.contiguous() for name, value in tensors.items()}
    write_bytes(parts / f"{number:05d}.safetensors", safetensors_bytes(kept, metadata=meta))


def read_block(parts: Path, number: int) -> Outcome | None:
    """A finished block, or None.

    Raises:
        RunFolderError: its files are damaged.
    """
    file = parts / f"{number:05d}.safetensors"
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="np") as opened:
            n_parameters = int(json.loads((opened.metadata() or {})["n_parameters"]))
        oracle = pa.parquet.read_table(parts / f"{number:05d}.oracle.parquet", schema=ORACLE_SCHEMA)
        table = results.read_table(parts / f"{number:05d}.parquet")
    except (SafetensorError, OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
        raise RunFolderError(f"{file} is damaged ({error}); remove it and run the same command again") from None
    return Outcome(table=table, n_parameters=n_parameters, oracle=oracle)


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """All members of a run, in order."""
    table = results.join([o.table for o in outcomes])
    oracle = pa.concat_tables([o.oracle for o in outcomes]).combine_chunks()
    return Outcome(table=table, n_parameters=outcomes[0].n_parameters, oracle=oracle)


def write_weights(folder: Path, file: Path, metadata: dict[str, str]) -> None:
    """The tensors of all blocks, one block after the other along dimension 0, as one safetensors file.

    Written piece by piece, a tensor of one block in memory at a time. Nothing is written where blocks kept no tensors.
    """
    parts = sorted(p for p in (folder / PARTS).glob("*.safetensors"))
    shapes: dict[str, list[int]] = {}
    kinds: dict[str, str] = {}
    for part in parts:
        with safe_open(part, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118
                piece = opened.get_slice(name)
                shape = piece.get_shape()
                kinds[name] = piece.get_dtype()
                shapes[name] = [shapes[name][0] + shape[0], *shape[1:]] if name in shapes else list(shape)
    if not shapes:
        return
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, shape in sorted(shapes.items()):
        size = int(np.prod(shape)) * int(kinds[name].lstrip("BFIU")) // 8
        header[name] = {"dtype": kinds[name], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = file.with_name(file.name + ".tmp")
    with open(temporary, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(shapes):
            for part in parts:
                with safe_open(part, framework="np") as opened:
                    out.write(np.ascontiguousarray(opened.get_tensor(name)).tobytes())
    os.replace(temporary, file)


def remove(folder: Path) -> None:
    """Delete the blocks' files; the finished result holds all they did."""
    parts = folder / PARTS
    if parts.is_dir():
        for file in parts.iterdir():
            file.unlink()
        parts.rmdir()
