"""What a run under a protocol comes to, from the predictions alone.

UF1, UAR and their kin come from confusion counts summed over folds, always over the full class list. The table that
every run leaves behind has one row per (condition, seed, fold, test clip); figures with intervals, per seed and
database, are computed from it.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.statistics import Interval, bootstrap_counts, subject_counts
from mesynth.store.run_folder import write_bytes
from recognizer.data import FlowSet
from recognizer.protocol import Fold


class MissingClassError(MesynthError):
    """A class of the list has no test clip, so its recall does not exist."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The figures of one run; ``f1`` and ``recall`` follow ``classes``; ``confusion`` rows are the truth."""

    n: int
    uf1: float
    uar: float
    accuracy: float
    classes: tuple[str, ...]
    f1: tuple[float, ...]
    recall: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def confusion(y: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts [C,C] int64, rows the truth, columns the prediction.

    >>> confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3).tolist()
    [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    """
    y, predicted = np.asarray(y), np.asarray(predicted)
    if y.shape != predicted.shape or y.ndim != 1:
        raise ValueError(f"labels {y.shape} and predictions {predicted.shape} must be two lists of one length")
    for name, values in (("label", y), ("prediction", predicted)):
        if len(values) and (values.min() < 0 or values.max() >= n_classes):
            raise ValueError(f"{name}s span [{values.min()}, {values.max()}]; expected class indices below {n_classes}")
    return np.asarray(np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes))


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """F1 per class [...,C] of confusion counts [...,C,C]: 2TP / (2TP + FP + FN), and 0 where that is 0/0.

    >>> f1_scores(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]])).round(3).tolist()
    [0.5, 0.667, 0.0]
    """
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    both = counts.sum(-1) + counts.sum(-2)  # (TP + FN) + (TP + FP)
    return np.asarray(np.divide(2 * hit, both, out=np.zeros_like(hit), where=both > 0))


def uf1(counts: np.ndarray) -> np.ndarray:
    """Unweighted F1 [...]: the mean of :func:`f1_scores` over ALL classes (See et al., MEGC 2019).

    >>> round(float(uf1(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]]))), 4)
    0.3889
    """
    return np.asarray(f1_scores(counts).mean(-1))


def recalls(counts: np.ndarray) -> np.ndarray:
    """Recall per class [...,C]; NaN where a class has no clip."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    n = counts.sum(-1)
    return np.asarray(np.divide(hit, n, out=np.full_like(hit, np.nan), where=n > 0))


def uar(counts: np.ndarray) -> np.ndarray:
    """Unweighted average recall [...]: the mean of TP / n over the classes that have clips.

    Only resampling may call this on counts that lack a class; :func:`evaluate` refuses them.

    >>> round(float(uar(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]]))), 4)
    0.5
    """
    values = recalls(counts)
    present = ~np.isnan(values)
    return np.asarray(np.where(present, values, 0).sum(-1) / np.maximum(present.sum(-1), 1))


def evaluate(y: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> Metrics:
    """All figures of the pooled predictions of all folds.

    Raises:
        MissingClassError: a class of the list has no test clip; restrict the list instead.

    >>> m = evaluate(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("negative", "positive"))
    >>> round(m.uf1, 3), m.uar, m.accuracy
    (0.733, 0.75, 0.75)
    """
    counts = confusion(y, predicted, len(classes))
    require_classes(counts.sum(1), classes)
    return from_confusion(counts, classes)


def require_classes(counts: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raise MissingClassError where one of the classes has no test clip; ``counts`` [C]."""
    empty = [name for name, n in zip(classes, counts, strict=True) if n == 0]
    if empty:
        raise MissingClassError(
            f"class {', '.join(empty)} has no test clip, so UAR does not exist; "
            f"restrict the classes, for example data.classes=[{','.join(c for c in classes if c not in empty)}]"
        )


def from_confusion(counts: np.ndarray, classes: tuple[str, ...]) -> Metrics:
    """The figures of confusion counts [C,C]; the recall of a class without clips is NaN and left out of UAR."""
    return Metrics(
        n=int(counts.sum()),
        uf1=float(uf1(counts)),
        uar=float(uar(counts)),
        accuracy=float(np.trace(counts) / max(counts.sum(), 1)),
        classes=classes,
        f1=tuple(map(float, f1_scores(counts))),
        recall=tuple(map(float, recalls(counts))),
        confusion=tuple(tuple(int(v) for v in row) for row in counts),
    )


class Scores:
    """UF1, UAR and accuracy over the batches of a training loop: ``update``, ``compute``, ``merge``, ``reset``.

    In ``torchmetrics``: ``mesynth.metrics.torchmetrics.Measure(lambda: Scores(classes))``.

    Args:
        classes: names by index, as :attr:`mesynth.ClipDataset.classes` has them.

    Raises:
        ConfigError: fewer than two classes, or one named twice.

    >>> scores = Scores(["negative", "positive"])
    >>> scores.update(np.array([0, 1]), np.array([0, 0]))
    >>> scores.update(np.array([[0.1, 0.9], [2.0, 1.0]]), np.array([1, -1]))
    >>> scores.compute().n, scores.compute().uar
    (3, 0.75)
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        if isinstance(classes, str) or len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes={classes!r} must name at least two different classes")
        self.reset()

    def reset(self) -> None:
        """Forget everything taken in."""
        self.counts = np.zeros((len(self.classes), len(self.classes)), np.int64)

    def update(self, preds: Any, label: Any) -> None:
        """Take in a batch: ``preds`` [B] class indices or [B,C] scores, ``label`` [B]; clips of label -1 do not count.

        Raises:
            MesynthError: other shapes, or an index that is no class.
        """
        found, truth = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x) for x in (preds, label))
        n = len(self.classes)
        if truth.ndim != 1 or found.shape not in {truth.shape, (*truth.shape, n)}:
            raise MesynthError(f"preds {list(found.shape)} and label {list(truth.shape)}; expected [B] or [B,{n}], [B]")
        known = truth >= 0
        chosen = found.argmax(1) if found.ndim == 2 else found
        try:
            self.counts += confusion(truth[known].astype(np.int64), chosen[known].astype(np.int64), n)
        except ValueError as error:
            raise MesynthError(str(error)) from None

    def merge(self, other: Scores) -> None:
        """Take in what another one has taken in. Raises MesynthError for one of other classes."""
        if not isinstance(other, Scores) or other.classes != self.classes:
            raise MesynthError(f"scores of {getattr(other, 'classes', other)} cannot be merged with {self.classes}")
        self.counts = self.counts + other.counts

    def compute(self) -> Metrics:
        """The figures; a class without clips is left out of UAR. Raises MesynthError while no clip was taken in."""
        if not self.counts.any():
            raise MesynthError("no clip with a class was taken in yet; update first")
        return from_confusion(self.counts, self.classes)


# ---------------------------------------------------------------- predictions and figures


SCHEMA = pa.schema(
    [
        ("model", pa.string()), ("mode", pa.string()), ("source", pa.string()), ("arm", pa.string()),
        ("ratio", pa.float64()), ("count", pa.int32()), ("train_subjects", pa.int32()), ("seed", pa.int64()),
        ("fold", pa.string()), ("clip_id", pa.string()), ("database", pa.string()), ("subject", pa.string()),
        ("y", pa.int32()), ("predicted", pa.int32()), ("scores", pa.list_(pa.float64())),
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
    ratio: float = 0.0
    """Added clips per real training clip, or"""
    count: int = 0
    """added clips of each class; both 0: none."""

    @property
    def amount(self) -> float:
        """Which of the two it is; conditions of one run share the kind."""
        return self.count or self.ratio

    @property
    def amount_text(self) -> str:
        """For people."""
        return amount_text(self.ratio, self.count)


def amount_text(ratio: float, count: int) -> str:
    """How many clips are added, for people.

    >>> amount_text(0.5, 0), amount_text(0, 1000)
    ('x0.5', '1,000 a class')
    """
    return f"{count:,} a class" if count else f"x{ratio:g}"


def chosen_counts(values: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """What members chose, ascending, and how many of them; those that chose nothing (nan) are left out."""
    return tuple(sorted(Counter(float(value) for value in values if not math.isnan(value)).items()))


def chosen_text(values: Sequence[float]) -> str:
    """:func:`chosen_counts` in words.

    >>> chosen_text([3.0, 10.0, 3.0]), chosen_text([])
    ('3 in 2, 10 in 1', '')
    """
    return counts_text(chosen_counts(values))


def counts_text(counts: Sequence[tuple[float, int]]) -> str:
    """Values and how many chose them, in words."""
    return ", ".join(f"{value:g} in {n}" for value, n in counts)


def fold_table(condition: Condition, seed: int, fold: Fold, real: FlowSet, scores: np.ndarray) -> pa.Table:
    """The test clips of one fold with their class probabilities ``scores`` [n,C]."""
    index, n = fold.test_index, len(fold.test_index)
    columns = {
        "model": [condition.model] * n, "mode": [condition.mode] * n, "source": [condition.source] * n,
        "arm": [condition.arm] * n, "ratio": [condition.ratio] * n, "count": [condition.count] * n,
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


# ------------------------------------------------------------------- result


@dataclass(frozen=True, kw_only=True)
class LosoResult:
    """A finished run. UF1 and UAR are computed per seed from counts summed over folds, then averaged."""

    protocol: str
    model: str
    metrics: Metrics
    """uf1, uar, accuracy, f1 and recall averaged over seeds; n and confusion summed over them."""
    uf1: Interval
    uar: Interval
    """95 % interval of a bootstrap over subjects."""
    seed_sd: float
    """Standard deviation of UF1 over seeds (0 with one seed)."""
    per_seed: tuple[Metrics, ...]
    per_database: dict[str, Metrics]
    """Over the classes that the database has clips of."""
    folds: tuple[dict[str, Any], ...]
    """Per fold: name, test clips, real and synthetic training clips, clips kept out because of a leak, and classes
    that no training clip has (lacking)."""
    left_out: dict[str, int]
    """Clips without a class, by their label."""
    notes: tuple[str, ...]
    """What to know of the clips themselves."""
    n_parameters: int
    tried: int | None
    """Other configurations that were finished on these manifests before; None where nothing is known of that."""
    oracle: dict[str, float] | None
    """UF1 and UAR with the best point of training picked per fold ON ITS TEST CLIPS: leaked, for comparison with papers
    that do so."""
    seconds: dict[str, float]
    config: dict[str, Any]
    config_hash: str
    predictions: pa.Table

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON (everything but the predictions)."""
        run = ("protocol", "model", "folds", "left_out", "n_parameters", "seconds", "config")
        return {name: getattr(self, name) for name in (*run, "seed_sd", "tried", "oracle")} | {
            "config_hash": self.config_hash,
            "notes": list(self.notes),
            "metrics": self.metrics.to_dict(),
            "uf1": self.uf1.to_dict(),
            "uar": self.uar.to_dict(),
            "per_seed": [m.to_dict() for m in self.per_seed],
            "per_database": {name: m.to_dict() for name, m in self.per_database.items()},
        }


def figures(table: pa.Table, classes: tuple[str, ...]) -> dict[str, Any]:
    """The figures of a predictions table of one condition, as the fields of :class:`LosoResult`."""
    y, predicted, seeds, subjects, databases = (
        column(table, name) for name in ("y", "predicted", "seed", "subject", "database")
    )
    per_seed = tuple(evaluate(y[seeds == s], predicted[seeds == s], classes) for s in np.unique(seeds))
    counts = subject_counts(y, predicted, subjects, seeds, len(classes))
    averaged: dict[str, Any] = {
        n: float(np.mean([getattr(m, n) for m in per_seed])) for n in ("uf1", "uar", "accuracy")
    }
    averaged |= {n: tuple(np.mean([getattr(m, n) for m in per_seed], 0).tolist()) for n in ("f1", "recall")}
    mean = replace(from_confusion(confusion(y, predicted, len(classes)), classes), **averaged)
    per_database = {}
    for name in np.unique(databases):
        here = databases == name
        present = np.unique(y[here])
        inside = confusion(y[here], predicted[here], len(classes))
        whole = from_confusion(inside, classes)
        # Classes the database has no clips of would count as 0 in UF1; they are left out and the list says so.
        f1 = [whole.f1[c] for c in present]
        per_database[str(name)] = replace(
            whole, classes=tuple(classes[c] for c in present), f1=tuple(f1), uf1=float(np.mean(f1)),
            recall=tuple(whole.recall[c] for c in present),
        )  # fmt: skip
    return {
        "metrics": mean,
        "uf1": bootstrap_counts(counts, statistic=uf1),
        "uar": bootstrap_counts(counts, statistic=uar),
        "seed_sd": float(np.std([m.uf1 for m in per_seed], ddof=1)) if len(per_seed) > 1 else 0.0,
        "per_seed": per_seed,
        "per_database": per_database,
    }


def oracle_figures(table: pa.Table, classes: tuple[str, ...]) -> dict[str, float]:
    """UF1 and UAR, averaged over seeds, of an oracle's rows (seed, y, predicted)."""
    y, predicted, seeds = (column(table, name) for name in ("y", "predicted", "seed"))
    each = [evaluate(y[seeds == s], predicted[seeds == s], classes) for s in np.unique(seeds)]
    return {name: float(np.mean([getattr(m, name) for m in each])) for name in ("uf1", "uar")}
