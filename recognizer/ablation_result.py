"""What an ablation comes to: a figure for every condition, paired comparisons, and files."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.core.errors import RunFolderError
from mesynth.core.statistics import Comparison, Interval, bootstrap_counts, compare_counts, holm, subject_counts
from mesynth.store import digests
from mesynth.store.run_folder import write_bytes, write_last, write_text
from recognizer import results as predictions
from recognizer.cells import NONE, POOLED, Cell, CellResult, baseline_of
from recognizer.config import AblationConfig
from recognizer.metrics import Metrics, evaluate, f1_scores, uf1
from recognizer.results import Condition, amount_text, chosen_counts, chosen_text

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

    def __init__(self, tables: Sequence[pa.Table], n_classes: int) -> None:
        table = predictions.join(tables)
        names = ("y", "predicted", "subject", "seed", "fold")
        self.y, self.predicted, self.subject, self.seed, self.fold = (predictions.column(table, n) for n in names)
        self.n_classes = n_classes
        self.counts = self.counted(np.ones(len(self.y), np.bool_))

    def counted(self, mask: np.ndarray) -> np.ndarray:
        """[K,S,C,C]"""
        rows = (self.y[mask], self.predicted[mask], self.subject[mask], self.seed[mask])
        return subject_counts(*rows, self.n_classes)


def verdict(difference: Interval, p: float) -> str:
    """The difference in plain words: a gain or loss needs both the interval and a corrected p < .05 behind it.

    >>> verdict(Interval(value=0.004, sd=0.007, low=-0.01, high=0.018), 0.6)
    'no gain shown: +0.004 [-0.010, +0.018]'
    """
    figures = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
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
    classes = config.data.classes
    tables: dict[Condition, list[pa.Table]] = {}
    rows: list[dict[str, Any]] = []
    per_seed: dict[Condition, list[Metrics]] = {}
    chosen: dict[Condition, list[float]] = {}
    for cell, result in zip(cells, results, strict=True):
        y, predicted = (predictions.column(result.table, name) for name in ("y", "predicted"))
        m = evaluate(y, predicted, classes)
        per_seed.setdefault(cell.condition, []).append(m)
        tables.setdefault(cell.condition, []).append(result.table)
        chosen.setdefault(cell.condition, []).extend(result.prior_weights)
        row = asdict(cell.condition) | {"seed": cell.seed, "uf1": m.uf1, "uar": m.uar, "accuracy": m.accuracy}
        row |= {"n_real": result.n_real, "n_synthetic": result.n_added}
        rows.append(row | {"prior_weights": chosen_text(result.prior_weights)})
    pooled = {condition: _Predictions(found, len(classes)) for condition, found in tables.items()}
    compared = {c: a for c, a in pooled.items() if c.arm != NONE}
    draws = draws_for(config.resamples, len(compared))
    differences = {
        c: compare_counts(pooled[baseline_of(c)].counts, a.counts, statistic=uf1, draws=draws)
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
                uf1=bootstrap_counts(a.counts, statistic=uf1, draws=config.resamples),
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
            present = np.flatnonzero(a.sum((0, 1, 3)))  # a database may lack a class; its F1 would count as 0

            def over_present(counts: np.ndarray, present: np.ndarray = present) -> np.ndarray:
                return np.asarray(f1_scores(counts)[..., present].mean(-1))

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

    ``confusion`` [C,C], rows are the truth; ``people``: of each test subject (database/subject) the clips and the share
    of them told rightly, mean over seeds.
    """

    condition: Condition
    classes: tuple[str, ...]
    seeds: int
    confusion: tuple[tuple[int, ...], ...]
    people: dict[str, tuple[int, float]]


def details(cells: Sequence[Cell], results: Sequence[CellResult], config: AblationConfig) -> list[Detail]:
    """Of nothing added, and of synthetic clips of all sources at every amount, in the order of the cells."""
    tables: dict[Condition, list[pa.Table]] = {}
    for cell, result in zip(cells, results, strict=True):
        if cell.condition.arm == NONE or (cell.condition.arm, cell.condition.source) == ("synthetic", POOLED):
            tables.setdefault(cell.condition, []).append(result.table)
    out = []
    for condition, found in tables.items():
        all_of = _Predictions(found, len(config.data.classes))
        counts = all_of.counts.sum(0)  # [S,C,C], over seeds
        seeds = len(all_of.counts)
        clips, right = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)
        names = [str(name) for name in np.unique(all_of.subject)]
        people = {name: (int(n) // seeds, float(r / n)) for name, n, r in zip(names, clips, right, strict=True)}
        confusion = tuple(tuple(int(n) for n in row) for row in counts.sum(0))
        classes = tuple(config.data.classes)
        out.append(Detail(condition=condition, classes=classes, seeds=seeds, confusion=confusion, people=people))
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
