"""A run's folder: what it is, what was measured, what it looked like.

Sample sheets: pictures for people, one row a pair."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.preprocess.flow import flow_picture
from mesynth.store import digests
from mesynth.store.run_folder import claim_folder, only_writer, write_bytes, write_text
from mesynth.store.shards import png_bytes
from mesynth.training.config import Recipe

METRICS = "metrics.jsonl"
RECIPE = "recipe.yaml"
RECORD = "record.json"
CHECKPOINTS = "checkpoints"
SHEETS = "sheets"
GENERATOR = "generator"


class RunFolder:
    """``run.yaml`` (what the result depends on, with its hash), ``recipe.yaml`` (everything, loads again),
    ``record.json`` (data, subjects, code), ``metrics.jsonl``, ``checkpoints/``, ``sheets/``, ``generator/``.
    Only the first process calls the methods that write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self.generator = path / GENERATOR

    def claim(self, recipe: Recipe, excluded: tuple[str, ...], start: str = "") -> None:
        """Make the folder this run's; ``start`` is the hash of the weights it begins with.

        Raises:
            RunFolderError: it holds another run, or cannot be written.
        """
        claim_folder(self.path, recipe.identity(start) | {"exclude_subjects": list(excluded)})

    @contextmanager
    def hold(self, recipe: Recipe) -> Iterator[None]:
        """Hold the claimed folder for as long as it is written. Raises RunFolderError: another process does."""
        with only_writer(self.path):
            if not self.generator.is_dir():  # a finished run is left as it is
                digests.unseal(self.path)
                write_text(self.path / RECIPE, recipe.yaml())
            try:
                yield
            except MesynthError:
                if not (self.path / RECORD).is_file():  # nothing has begun: the folder is given up as it was found
                    (self.path / RECIPE).unlink(missing_ok=True)
                raise

    def keep_record(self, record: dict[str, Any]) -> None:
        """Note what the run learns from, or check that it is what it was.

        Raises:
            RunFolderError: the data changed since the run began.
        """
        file = self.path / RECORD
        before: dict[str, Any] = {}
        if file.is_file():
            try:
                before = json.loads(file.read_text())
            except (ValueError, RecursionError):
                before = {}
        for key in ("data_hash", "subjects_seen"):
            if key in before and before[key] != record[key]:
                raise RunFolderError(
                    f"{self.path} was begun with other data ({key} differs); restore it or choose another --out"
                )
        write_text(file, json.dumps(record, indent=1) + "\n")

    def metric(self, kind: str, images: int, values: dict[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        line = json.dumps({"kind": kind, "images": images} | _finite(values), allow_nan=False)
        with (self.path / METRICS).open("a") as file:
            file.write(line + "\n")

    def cut_metrics(self, images: int) -> None:
        """Drop the lines of what a resumed run does again, and a line that a kill cut off."""
        file = self.path / METRICS
        if file.is_file():
            write_text(
                file, "".join(json.dumps(line) + "\n" for line in read_metrics(self.path) if line["images"] <= images)
            )

    def sheet(self, images: int, picture: np.ndarray) -> None:
        """``sheets/NNNNNNNNNNNN.png``; picture [H,W,3] uint8."""
        write_bytes(self.path / SHEETS / f"{images:012d}.png", png_bytes(picture))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; a line that was cut off is left out."""
    lines = []
    file = folder / METRICS
    for text in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "images" in line:
            lines.append(line)
    return lines


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


# ------------------------------------------------------------------- sheets


GAP = 2
"""White pixels between pictures."""


def pictures(batch: torch.Tensor) -> list[np.ndarray]:
    """[B,3,H,W] or [B,1,H,W] in [0,1] -> B pictures [H,W,3] uint8."""
    values = batch.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().expand(-1, 3, -1, -1)
    return list(values.permute(0, 2, 3, 1).numpy())


def flows(batch: torch.Tensor, share: float = 0.03) -> list[np.ndarray]:
    """[B,2,H,W] pixels -> B pictures; full colour at ``share`` of the width, so that sizes and runs compare."""
    return [flow_picture(uv, share * batch.shape[-1]) for uv in batch.detach().float().cpu().numpy()]


def changes(after: torch.Tensor, before: torch.Tensor, gain: float = 4.0) -> list[np.ndarray]:
    """The difference of [B,3,H,W] pictures times ``gain`` about mid-grey -> B pictures."""
    return pictures(0.5 + gain * (after - before))


def sheet(columns: Sequence[Sequence[np.ndarray]], scale: int = 1) -> np.ndarray:
    """Columns of equally many pictures [H,W,3] uint8 -> one picture [*,*,3] uint8, one row a pair, enlarged."""
    rows = [
        _joined([np.repeat(np.repeat(p, scale, 0), scale, 1) for p in row], 1) for row in zip(*columns, strict=True)
    ]
    return _joined(rows, 0)


def motion_sheet(
    onset: torch.Tensor, frame: torch.Tensor, made: torch.Tensor, exact: torch.Tensor, *drawn: torch.Tensor
) -> np.ndarray:
    """Columns: onset, asked frame, made frame (all [B,3,S,S] in [0,1]), change of each, then flows [B,2,S,S] pixels."""
    columns = [pictures(x) for x in (onset, frame, made)] + [changes(x, onset) for x in (frame, made)]
    return sheet([*columns, *map(flows, (exact, *drawn))], scale=max(1, 128 // onset.shape[-1]))


def _joined(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    gap_shape = list(parts[0].shape)
    gap_shape[axis] = GAP
    gap = np.full(gap_shape, 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis)
