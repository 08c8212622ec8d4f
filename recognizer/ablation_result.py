"""The cells of an ablation, and what they come to: a figure for every condition, paired comparisons, and files."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.core.errors import ManifestError, RunFolderError
from mesynth.core.statistics import Comparison, Interval, bootstrap_counts, compare_counts, holm, subject_counts
from mesynth.store import digests
from mesynth.store.run_folder import write_bytes, write_last, write_text
from recognizer import results
from recognizer import results as predictions
from recognizer.config import AblationConfig, RunConfig, is_closed, needs_of
from recognizer.data import FlowSet
from recognizer.fitting import chosen_weights, fit
from recognizer.mixing import PRETRAIN, SYNTHETIC_ONLY, members_of
from recognizer.protocol import FLOW_ONLY, OWN_CLIPS, Fold, Mixture, PoolTooSmallError, mix
from recognizer.results import (
    Condition,
    Labels,
    Metrics,
    amount_text,
    chosen_counts,
    chosen_text,
)
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
        self.config.labels.require(self.real.class_counts)
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
        own = len(worth) // len(cells)
        return [
            CellResult(results.join(tables[c * n : (c + 1) * n]), *count, seconds, worth[c * own : (c + 1) * own])
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


# ---------------------------------------------------------------- what they come to


RESULT, LONG, CURVE, CONFIG, PREDICTIONS = (
    "result.json", "ablation", "curve.png", "config.yaml", "predictions.parquet",
)  # fmt: skip
_BY_FOLD = ("lodo", "hde")
"""Protocols whose folds are few and mean something by themselves."""


@dataclass(frozen=True, kw_only=True)
class Summary(Condition):
    """One point of a curve."""

    uf1: Interval
    """Mean over seeds, with a 95 % interval of the bootstrap over subjects."""
    seed_sd: float
    uar: float
    difference: Comparison | None
    """Against nothing added, paired by subject; None for that itself."""
    p_holm: float | None
    """Permutation p-value corrected for all comparisons of this ablation."""
    verdict: str
    prior_weights: tuple[tuple[float, int], ...] = ()
    """What folds chose as mix.prior_weight over all seeds, and how many chose it; empty where nothing was chosen."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FoldDifference:
    """One fold of a cross-database protocol: UF1 over the classes its test clips have, without and with added clips."""

    fold: str
    model: str
    mode: str
    train_subjects: int
    source: str
    arm: str
    ratio: float
    count: int
    without: float
    uf1: float
    difference: Interval
    """Paired bootstrap over the fold's test subjects; described, not tested."""

    @property
    def amount_text(self) -> str:
        """As :attr:`recognizer.results.Condition.amount_text`."""
        return amount_text(self.ratio, self.count)


@dataclass(frozen=True, kw_only=True)
class AblationResult:
    """``rows``: one per condition and seed: uf1, uar, accuracy, n_real and n_synthetic (clips trained on, means over
    folds; n_synthetic counts all that was added), prior_weights (what how many
    folds chose, in words). ``summary``: one entry per condition. ``comparisons``: how many."""

    rows: tuple[dict[str, Any], ...]
    summary: tuple[Summary, ...]
    by_fold: tuple[FoldDifference, ...]
    """For lodo and hde."""
    comparisons: int
    n_subjects: int
    n_clips: int
    sources: dict[str, int]
    """Clips by source."""
    seconds: dict[str, float]
    config: dict[str, Any]
    config_hash: str
    command: str
    """What makes this again; empty where the clips did not come from manifests."""
    notes: tuple[str, ...]
    """What to know of the clips themselves."""
    curve: bytes
    """PNG"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON (everything but the picture)."""
        return {
            "rows": list(self.rows),
            "summary": [s.to_dict() for s in self.summary],
            "by_fold": [asdict(f) for f in self.by_fold],
            "notes": list(self.notes),
        } | {name: getattr(self, name) for name in _PLAIN}


_PLAIN = ("comparisons", "n_subjects", "n_clips", "sources", "seconds", "config", "config_hash", "command")


# ---------------------------------------------------------------- figures


class _Predictions:
    """All predictions under one condition."""

    def __init__(self, tables: Sequence[pa.Table], labels: Labels) -> None:
        table = predictions.join(tables)
        names = ("y", "predicted", "subject", "seed", "fold")
        self.y, self.predicted, self.subject, self.seed, self.fold = (predictions.column(table, n) for n in names)
        self.labels = labels
        self.counts = self.counted(np.ones(len(self.y), np.bool_))

    def counted(self, mask: np.ndarray) -> np.ndarray:
        """[K,S,C,C]"""
        rows = (self.y[mask], self.predicted[mask], self.subject[mask], self.seed[mask])
        return subject_counts(*rows, self.labels.size)


def verdict(difference: Interval, p: float) -> str:
    """The difference in plain words: a gain or loss needs both the interval and a corrected p < .05 behind it.

    >>> verdict(Interval(value=0.004, sd=0.007, low=-0.01, high=0.018), 0.6)
    'no gain shown: +0.004 [-0.010, +0.018]'
    """
    figures = f"{difference.value:+z.3f} [{difference.low:+z.3f}, {difference.high:+z.3f}]"
    if difference.low > 0 and p < 0.05:
        return f"gain shown: {figures}"
    if difference.high < 0 and p < 0.05:
        return f"loss shown: {figures}"
    return f"no gain shown: {figures}"


def draws_for(resamples: int, comparisons: int) -> int:
    """Permutations a comparison gets: with m of them, 1 / draws times m must stay well below .05.

    >>> draws_for(2000, 10), draws_for(2000, 210)
    (2000, 10500)
    """
    return max(resamples, 50 * comparisons)


def figures(
    cells: Sequence[Cell], results: Sequence[CellResult], config: AblationConfig
) -> tuple[list[dict[str, Any]], list[Summary], list[FoldDifference]]:
    """Rows per seed, a summary per condition, and differences per fold where those mean something."""
    labels = config.labels
    tables: dict[Condition, list[pa.Table]] = {}
    rows: list[dict[str, Any]] = []
    per_seed: dict[Condition, list[Metrics]] = {}
    chosen: dict[Condition, list[float]] = {}
    for cell, result in zip(cells, results, strict=True):
        y, predicted = (predictions.column(result.table, name) for name in ("y", "predicted"))
        m = labels.evaluate(y, predicted)
        per_seed.setdefault(cell.condition, []).append(m)
        tables.setdefault(cell.condition, []).append(result.table)
        chosen.setdefault(cell.condition, []).extend(result.prior_weights)
        row = asdict(cell.condition) | {"seed": cell.seed, "uf1": m.uf1, "uar": m.uar, "accuracy": m.accuracy}
        row |= {"n_real": result.n_real, "n_synthetic": result.n_added}
        rows.append(row | {"prior_weights": chosen_text(result.prior_weights)})
    pooled = {condition: _Predictions(found, labels) for condition, found in tables.items()}
    compared = {c: a for c, a in pooled.items() if c.arm != NONE}
    draws = draws_for(config.resamples, len(compared))
    differences = {
        c: compare_counts(pooled[baseline_of(c)].counts, a.counts, statistic=labels.uf1, draws=draws)
        for c, a in compared.items()
    }
    corrected = dict(zip(differences, holm(np.array([d.p for d in differences.values()])), strict=True))
    summary = []
    for c, a in pooled.items():
        values = [m.uf1 for m in per_seed[c]]
        difference, p = differences.get(c), corrected.get(c)
        summary.append(
            Summary(
                **asdict(c),
                uf1=bootstrap_counts(a.counts, statistic=labels.uf1, draws=config.resamples),
                seed_sd=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
                uar=float(np.mean([m.uar for m in per_seed[c]])),
                difference=difference,
                p_holm=None if p is None else float(p),
                verdict="" if difference is None or p is None else verdict(difference, float(p)),
                prior_weights=chosen_counts(chosen[c]),
            )
        )
    return rows, summary, _by_fold(pooled, config) if config.protocol.kind in _BY_FOLD else []


def _by_fold(pooled: Mapping[Condition, _Predictions], config: AblationConfig) -> list[FoldDifference]:
    out = []
    for c, with_added in pooled.items():
        if c.arm != "synthetic":
            continue
        base = pooled[baseline_of(c)]
        for fold in np.unique(base.fold):
            a, b = (one.counted(one.fold == fold) for one in (base, with_added))
            # A database may lack a class; its F1 would count as 0.
            present = np.flatnonzero(config.labels.known(a.sum((0, 1))))

            def over_present(counts: np.ndarray, present: np.ndarray = present) -> np.ndarray:
                return np.asarray(config.labels.f1(counts)[..., present].mean(-1))

            pair = [bootstrap_counts(x, statistic=over_present, draws=100).value for x in (a, b)]
            found = compare_counts(a, b, statistic=over_present, draws=config.resamples)
            interval = Interval(value=found.value, sd=found.sd, low=found.low, high=found.high)
            out.append(
                FoldDifference(fold=str(fold), **asdict(c), without=pair[0], uf1=pair[1], difference=interval)
            )  # fmt: skip
    return out


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What lies behind one condition's figure: all test predictions, counted over seeds.

    ``confusion`` as of :class:`recognizer.results.Metrics`; ``people``: of each test subject (database/subject) the
    clips (known AUs, where ``multi``) and the share of them told rightly, mean over seeds.
    """

    condition: Condition
    classes: tuple[str, ...]
    seeds: int
    confusion: tuple[tuple[int, ...], ...]
    people: dict[str, tuple[int, float]]
    multi: bool = False


def details(cells: Sequence[Cell], results: Sequence[CellResult], config: AblationConfig) -> list[Detail]:
    """Of nothing added, and of synthetic clips of all sources at every amount, in the order of the cells."""
    tables: dict[Condition, list[pa.Table]] = {}
    for cell, result in zip(cells, results, strict=True):
        if cell.condition.arm == NONE or (cell.condition.arm, cell.condition.source) == ("synthetic", POOLED):
            tables.setdefault(cell.condition, []).append(result.table)
    out = []
    for condition, found in tables.items():
        all_of = _Predictions(found, config.labels)
        counts = all_of.counts.sum(0)  # [S,C,C], over seeds
        seeds = len(all_of.counts)
        clips, right = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)
        names = [str(name) for name in np.unique(all_of.subject)]
        people = {name: (int(n) // seeds, float(r / n)) for name, n, r in zip(names, clips, right, strict=True)}
        confusion, classes = config.labels.metrics(counts.sum(0)).confusion, config.labels.names
        out.append(
            Detail(
                condition=condition, classes=classes, seeds=seeds, confusion=confusion, people=people,
                multi=config.labels.multi,
            )
        )  # fmt: skip
    return out


# ---------------------------------------------------------------- files


def write_result(
    folder: Path,
    result: AblationResult,
    table: pa.Table,
    config_text: str,
    texts: Mapping[str, str],
    *,
    without: Collection[str] = (),
) -> None:
    """All files; ``result.json`` last: with it the ablation is finished. ``without``: what is not part of it."""
    predictions.write_table(table, folder / PREDICTIONS)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(result.rows)), buffer)
    write_bytes(folder / f"{LONG}.parquet", buffer.getvalue())
    write_text(folder / f"{LONG}.jsonl", "".join(json.dumps(row) + "\n" for row in result.rows))
    write_bytes(folder / CURVE, result.curve)
    write_text(folder / CONFIG, config_text)
    for name, text in texts.items():
        write_text(folder / name, text)
    write_last(folder / RESULT, json.dumps(result.to_dict(), indent=1).encode(), without=without)


def read_result(folder: Path) -> AblationResult:
    """Raises RunFolderError when the files are damaged."""
    try:
        found = json.loads((folder / RESULT).read_text())
        digests.check(folder, [RESULT, CURVE, CONFIG, PREDICTIONS, f"{LONG}.parquet", f"{LONG}.jsonl"])
        return AblationResult(
            rows=tuple(found["rows"]),
            summary=tuple(_summary(s) for s in found["summary"]),
            by_fold=tuple(
                FoldDifference(**({"count": 0} | f | {"difference": Interval(**f["difference"])}))
                for f in found["by_fold"]
            ),
            curve=(folder / CURVE).read_bytes(),
            notes=tuple(found.get("notes", ())),
            **{name: found[name] for name in _PLAIN},
        )
    except digests.DigestError:
        raise
    except (OSError, LookupError, TypeError, ValueError, RecursionError):
        raise RunFolderError(f"{folder} holds a damaged result; remove {folder / RESULT}") from None


def _summary(plain: dict[str, Any]) -> Summary:
    difference = plain["difference"] and Comparison(**plain["difference"])
    worth = tuple((float(value), int(n)) for value, n in plain.get("prior_weights", ()))
    more = {"uf1": Interval(**plain["uf1"]), "difference": difference, "prior_weights": worth}
    return Summary(**(plain | more))
