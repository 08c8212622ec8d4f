"""The grid of an ablation: one cell is one condition under one seed, all its folds trained together, and one file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.core.errors import ManifestError
from recognizer import results
from recognizer.config import AblationConfig, RunConfig, is_closed, needs_of
from recognizer.controls import FLOW_ONLY
from recognizer.data import FlowSet
from recognizer.fitting import chosen_weights, fit
from recognizer.metrics import require_classes
from recognizer.mixing import PRETRAIN, SYNTHETIC_ONLY, members_of
from recognizer.protocol import OWN_CLIPS, Fold, Mixture, PoolTooSmallError, mix
from recognizer.results import Condition
from recognizer.training import Progress

NONE = "none"
"""The arm that nothing is added to, with which all others are compared."""
POOLED = "all"
"""The source that pools all synthetic corpora."""
PARTS = "parts"
_FACTS = b"recognizer.cell"
_TOGETHER = 8
"""Cells of a group at most: some hundred members, as many as a GPU takes at once, and minutes on a CPU."""


@dataclass(frozen=True)
class Cell:
    """``index``: its place in the grid, which names its file and shares it out to a process."""

    index: int
    condition: Condition
    seed: int

    @property
    def label(self) -> str:
        """For people."""
        c = self.condition
        what = NONE if c.arm == NONE else f"{c.arm} {c.amount_text}"
        few = f", {c.train_subjects} subjects" if c.train_subjects else ""
        source = f" of {c.source}" if c.source not in ("", POOLED) else ""
        return f"{c.model}, {c.mode}, {what}{source}{few}, seed {self.seed}"

    def path(self, parts: Path) -> Path:
        """Its file."""
        c = self.condition
        many = f"{c.count}" if c.count else f"x{c.ratio:g}"
        return parts / f"{self.index:05d}-{c.model}-{c.mode}-{c.arm}-{many}-{c.train_subjects}-{self.seed}.parquet"


@dataclass(frozen=True)
class CellResult:
    """``table``: the cell's predictions. ``n_real``, ``n_added``: clips trained on, means over folds."""

    table: pa.Table
    n_real: float
    n_added: float
    seconds: float
    prior_weights: tuple[float, ...] = ()
    """What each fold chose that synthetic clips of a class are worth; empty where nothing was chosen."""


def conditions(config: AblationConfig, sources: Sequence[str]) -> list[Condition]:
    """All that is run, each baseline before what is compared with it.

    The baseline and the controls that add the fold's own clips do not depend on the source and are run once.
    """
    out = []
    for model in config.models:
        for mode in config.modes:
            if mode == PRETRAIN and is_closed(config, model):
                continue
            for subjects in config.train_subjects:
                base = Condition(model=model, mode=mode, train_subjects=subjects, arm=NONE)
                out.append(base)
                for arm in ("synthetic", *config.controls):
                    if mode == SYNTHETIC_ONLY and arm in (SYNTHETIC_ONLY, "duplicates"):
                        continue  # the same as the arm synthetic, and as the baseline
                    for source in [""] if arm in OWN_CLIPS else sources:
                        out += [replace(base, arm=arm, source=source, **amount) for amount in config.amounts]
    return out


def baseline_of(condition: Condition) -> Condition:
    """What a condition is compared with."""
    return replace(condition, arm=NONE, ratio=0.0, count=0, source="")


def grid(config: AblationConfig, sources: Sequence[str]) -> list[Cell]:
    """All cells, in an order that depends on the configuration alone."""
    pairs = [(condition, seed) for condition in conditions(config, sources) for seed in config.seeds]
    return [Cell(index, condition, seed) for index, (condition, seed) in enumerate(pairs)]


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that train as one stack: amounts and seeds of one model, mode, source and number of real subjects.

    They draw from one pool of clips, whatever they draw. Controls have pools of their own (other labels, copies) and
    run one by one. What a cell gives does not depend on its group; a kill loses one group at most.
    """
    out: list[list[Cell]] = []
    open_group: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        c = cell.condition
        key = (c.model, c.mode, c.train_subjects, c.source if c.source != POOLED else "")
        if c.arm not in (NONE, "synthetic"):
            out.append([cell])
        elif len(open_group.get(key, ())) in (0, _TOGETHER):
            open_group[key] = [cell]
            out.append(open_group[key])
        else:
            open_group[key].append(cell)
    return out


@dataclass(frozen=True)
class CellRunner:
    """Trains and tests cells on these clips and folds."""

    config: AblationConfig
    real: FlowSet
    made: Mapping[str, FlowSet]
    """Synthetic clips by source."""
    folds: Sequence[Fold]

    @cached_property
    def _views(self) -> dict[str, tuple[str, ...]]:
        return {model: needs_of(self.config.for_model(model)) for model in self.config.models}

    def _views_for(self, model: str, clips: FlowSet) -> FlowSet:
        """The clips with the views the model sees: flow-only copies serve flow models beside others."""
        return replace(clips, views={name: view for name, view in clips.views.items() if name in self._views[model]})

    def mixture(self, cell: Cell) -> Mixture:
        """What the cell's folds learn from. Raises what :func:`recognizer.protocol.mix` does."""
        condition, config = cell.condition, self.config
        made = next(iter(self.made.values())) if not condition.source else self.made[condition.source]
        try:
            return mix(
                self._views_for(condition.model, self.real), self._views_for(condition.model, made), self.folds,
                ratio=condition.ratio, count=condition.count, seed=cell.seed, policy=config.mix.leak,
                arm="synthetic" if condition.arm == NONE else condition.arm, train_subjects=condition.train_subjects,
                balance=config.mix.balance, only_added=condition.mode == SYNTHETIC_ONLY,
            )  # fmt: skip
        except PoolTooSmallError as error:
            raise PoolTooSmallError(f"source {condition.source}, {condition.amount_text}: {error}") from None

    def check(self, cells: Sequence[Cell]) -> None:
        """Find mistakes before the first hour of training: mix what asks most, with one model of each kind.

        Raises what :func:`recognizer.protocol.mix` does, and MissingClassError.
        """
        require_classes(self.real.class_counts, self.real.classes)
        above = [amount for one in self.config.amounts for amount in one.values()]
        done = set()
        for cell in cells:
            c = cell.condition
            # Copies cost time to make, and whether they can be made shows at the lowest amount.
            wanted = above[:1] if c.arm in FLOW_ONLY else above[-1:]
            key = (self._views[c.model] if c.arm in FLOW_ONLY else (), c.train_subjects, c.source, c.arm, cell.seed)
            if key not in done and c.amount in (0, *wanted):
                done.add(key)
                self.mixture(cell)

    def run(self, cells: Sequence[Cell], progress: Progress | None = None) -> list[CellResult]:
        """Train and test all folds of cells that :func:`groups` put together: one stack of cells x folds members."""
        start = time.perf_counter()
        run, members, counts = self._config(cells[0]), [], []
        pool, added = None, None
        for cell in cells:
            mixture = self.mixture(cell)
            if pool is None:
                pool, added = mixture.pool, mixture.added
            assert np.array_equal(pool.clip_ids, mixture.pool.clip_ids)
            members += members_of([mixture], [cell.seed])
            counts.append((float(mixture.n_real.mean()), float(mixture.n_added.mean())))
        assert pool is not None
        assert added is not None
        trained = fit(pool, added, members, run, progress)
        tables = [
            results.fold_table(
                cell.condition, cell.seed, fold, self.real,
                trained.probabilities(c * len(self.folds) + f, self.real.inputs(fold.test_index)),
            )
            for c, cell in enumerate(cells)
            for f, fold in enumerate(self.folds)
        ]  # fmt: skip
        seconds, n = (time.perf_counter() - start) / len(cells), len(self.folds)
        worth = chosen_weights(trained, run)
        return [
            CellResult(results.join(tables[c * n : (c + 1) * n]), *count, seconds, worth[c * n : (c + 1) * n])
            for c, count in enumerate(counts)
        ]

    def _config(self, cell: Cell) -> RunConfig:
        return self.config.for_model(cell.condition.model, cell.condition.mode)


# ---------------------------------------------------------------- files


def write_cell(result: CellResult, path: Path) -> None:
    """Complete or absent."""
    facts = json.dumps(
        {"n_real": result.n_real, "n_added": result.n_added, "seconds": result.seconds, "worth": result.prior_weights}
    )
    results.write_table(result.table.replace_schema_metadata({_FACTS: facts.encode()}), path)


def read_cell(path: Path) -> CellResult:
    """Raises ManifestError when the file is damaged."""
    table = results.read_table(path)
    try:
        facts = json.loads((pq.read_schema(path).metadata or {})[_FACTS])
        worth = tuple(map(float, facts.get("worth", ())))
        return CellResult(table, facts["n_real"], facts["n_added"], facts["seconds"], worth)
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ManifestError(f"{path} is no cell of an ablation; remove it and run the same command again") from None
