"""What a run under a protocol comes to, from the predictions alone.

UF1, UAR and their kin come from confusion counts summed over folds, always over the full class list. The table that
every run leaves behind has one row per (condition, seed, fold, test clip); figures with intervals, per seed and
database, are computed from it. Of AUs it has one per AU that is known of the clip, and each AU is two classes, absent
and present (:class:`Labels`), so that counts, bootstrap and comparisons are those of classes.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.statistics import Interval, bootstrap_counts, subject_counts
from mesynth.store.run_folder import write_bytes
from recognizer.aus import constant_f1
from recognizer.data import FlowSet
from recognizer.protocol import Fold


class MissingClassError(MesynthError):
    """A class of the list has no test clip, so its recall does not exist."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The figures of one run; ``f1`` and ``recall`` follow ``classes``; ``confusion`` rows are the truth.

    Of AUs, ``classes`` names them, ``n`` counts what is known of them, ``uf1`` is the mean of their F1 (of present),
    ``uar`` that of their balanced accuracy, and ``confusion`` has a row an AU: rightly absent, wrongly present, wrongly
    absent, rightly present.
    """

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
    return _present_mean(values)


def evaluate(y: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> Metrics:
    """All figures of the pooled predictions of all folds.

    Raises:
        MissingClassError: a class of the list has no test clip; restrict the list instead.

    >>> m = evaluate(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), ("negative", "positive"))
    >>> round(m.uf1, 3), m.uar, m.accuracy
    (0.733, 0.75, 0.75)
    """
    return Labels.of(classes).evaluate(y, predicted)


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


@dataclass(frozen=True)
class Labels:
    """What a run tells apart, and how its table counts it: a class each, or (``multi``) an absent and a present one of
    each AU, 2 * i and 2 * i + 1.

    >>> aus = Labels(("AU1", "AU4"), multi=True)
    >>> aus.coded
    ('no AU1', 'AU1', 'no AU4', 'AU4')
    >>> m = aus.evaluate(np.array([1, 1, 0, 3]), np.array([1, 0, 1, 3]))
    >>> m.f1, m.uf1, m.confusion
    ((0.5, 1.0), 0.75, ((0, 1, 1, 1), (0, 0, 0, 1)))
    """

    names: tuple[str, ...]
    multi: bool = False

    @staticmethod
    def of(labels: Labels | Sequence[str]) -> Labels:
        """Classes by name are labels."""
        return labels if isinstance(labels, Labels) else Labels(tuple(labels))

    @property
    def coded(self) -> tuple[str, ...]:
        """Names of what the table's y and predicted count."""
        return tuple(text for n in self.names for text in (f"no {n}", n)) if self.multi else self.names

    @property
    def size(self) -> int:
        """How many those are."""
        return len(self.names) * (2 if self.multi else 1)

    def f1(self, counts: np.ndarray) -> np.ndarray:
        """[...,size,size] -> [...,names], of AUs that of present."""
        return f1_scores(counts)[..., 1::2] if self.multi else f1_scores(counts)

    def uf1(self, counts: np.ndarray) -> np.ndarray:
        """Mean of :meth:`f1` [...] over all names."""
        return np.asarray(self.f1(counts).mean(-1))

    def uar(self, counts: np.ndarray) -> np.ndarray:
        """Mean recall [...]; of AUs the mean of their balanced accuracies."""
        return uar(counts) if not self.multi else _present_mean(self._balanced(counts))

    def _balanced(self, counts: np.ndarray) -> np.ndarray:
        """[...,A] mean of the recalls of absent and present; NaN where neither has a clip."""
        each = recalls(counts)
        each = each.reshape(*each.shape[:-1], -1, 2)
        n = (~np.isnan(each)).sum(-1)
        return np.where(n > 0, np.nansum(each, -1) / np.maximum(n, 1), np.nan)

    def known(self, counts: np.ndarray) -> np.ndarray:
        """[names] bool: classes that have clips; AUs that are known of any."""
        n = counts.sum(-1)
        return np.asarray((n.reshape(-1, 2).sum(1) if self.multi else n) > 0)

    def require(self, support: np.ndarray) -> None:
        """Raise MissingClassError where a class has no test clip, or none shows an AU; ``support`` [names]."""
        if not self.multi:
            require_classes(support, self.names)
            return
        empty = [name for name, n in zip(self.names, support, strict=True) if n == 0]
        if empty:
            rest = ",".join(name.removeprefix("AU") for name in self.names if name not in empty)
            raise MissingClassError(
                f"no test clip shows {', '.join(empty)}, so its F1 does not exist; "
                + (f"leave it out: aus.codes=[{rest}]" if rest else "choose other AUs (aus.codes)")
            )

    def evaluate(self, y: np.ndarray, predicted: np.ndarray) -> Metrics:
        """All figures of the pooled predictions of all folds, as the table codes them. Raises MissingClassError."""
        counts = confusion(y, predicted, self.size)
        support = counts.sum(1)
        self.require(support[1::2] if self.multi else support)
        return self.metrics(counts)

    def metrics(self, counts: np.ndarray) -> Metrics:
        """The figures of counts [size,size]; a name without clips is left out of UAR."""
        if not self.multi:
            return from_confusion(counts, self.names)
        a, p = np.arange(0, self.size, 2), np.arange(1, self.size, 2)
        cells = np.stack([counts[a, a], counts[a, p], counts[p, a], counts[p, p]], 1)
        return Metrics(
            n=int(counts.sum()), uf1=float(self.uf1(counts)), uar=float(self.uar(counts)),
            accuracy=float(np.trace(counts) / max(counts.sum(), 1)), classes=self.names,
            f1=tuple(map(float, self.f1(counts))), recall=tuple(map(float, recalls(counts)[1::2])),
            confusion=tuple(tuple(int(v) for v in row) for row in cells),
        )  # fmt: skip


def _present_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is no NaN."""
    there = ~np.isnan(values)
    return np.asarray(np.where(there, values, 0).sum(-1) / np.maximum(there.sum(-1), 1))


def constant_rows(real: FlowSet, folds: Sequence[Fold]) -> dict[str, dict[str, Any]]:
    """What answers come to that look at no clip: macro F1 (``uf1``) and ``f1`` [A] of each AU over all folds' tests.

    ``always present`` is the constant row as published for CD6ME (17.8). ``prevalence draw`` calls an AU present as
    often as the fold's training clips show it, whichever clip it is: F1 of the counts to be expected.
    """
    A = len(real.aus)
    present, known, drawn, hits = (np.zeros(A) for _ in range(4))
    for fold in folds:
        test, train = real.targets[fold.test_index], real.targets[fold.train_index]
        share = (train == 1).sum(0) / np.maximum((train >= 0).sum(0), 1)
        shows, there = (test == 1).sum(0), (test >= 0).sum(0)
        present, known = present + shows, known + there
        drawn, hits = drawn + share * there, hits + share * shows
    rows = {"always present": constant_f1(present, known)}
    rows["prevalence draw"] = 2 * hits / np.maximum(drawn + present, 1e-12)
    return {name: {"uf1": float(f1.mean()), "f1": f1.tolist()} for name, f1 in rows.items()}


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
    """The test clips of one fold with their class probabilities ``scores`` [n,C]; of AUs [n,A], a row for each that is
    known of a clip."""
    index = fold.test_index
    y, predicted = real.y[index], scores.argmax(1)
    if real.multi:
        known = real.targets[index]
        clip, au = np.nonzero(known >= 0)
        index, scores = index[clip], scores[clip, au][:, None]
        y, predicted = 2 * au + known[clip, au], 2 * au + (scores[:, 0] > 0.5)
    n = len(index)
    columns = {
        "model": [condition.model] * n, "mode": [condition.mode] * n, "source": [condition.source] * n,
        "arm": [condition.arm] * n, "ratio": [condition.ratio] * n, "count": [condition.count] * n,
        "train_subjects": [condition.train_subjects] * n, "seed": [seed] * n, "fold": [fold.name] * n,
        "clip_id": real.clip_ids[index].tolist(), "database": real.databases[index].tolist(),
        "subject": real.subjects[index].tolist(), "y": y.tolist(),
        "predicted": predicted.tolist(), "scores": scores.tolist(),
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
    """Over the classes that the database has clips of, or the AUs that are known there: one that none of its clips
    shows counts 0, as in CD6ME."""
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
    constants: dict[str, Any] = field(default_factory=dict)
    """Of AUs: :func:`constant_rows`."""

    @property
    def multi(self) -> bool:
        """Whether these are figures of AUs."""
        return bool(self.constants)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON (everything but the predictions)."""
        run = ("protocol", "model", "folds", "left_out", "n_parameters", "seconds", "config")
        return {name: getattr(self, name) for name in (*run, "seed_sd", "tried", "oracle")} | {
            "config_hash": self.config_hash,
            "notes": list(self.notes),
            **({"constants": self.constants} if self.multi else {}),
            "metrics": self.metrics.to_dict(),
            "uf1": self.uf1.to_dict(),
            "uar": self.uar.to_dict(),
            "per_seed": [m.to_dict() for m in self.per_seed],
            "per_database": {name: m.to_dict() for name, m in self.per_database.items()},
        }


def figures(table: pa.Table, classes: Labels | Sequence[str]) -> dict[str, Any]:
    """The figures of a predictions table of one condition, as the fields of :class:`LosoResult`."""
    labels = Labels.of(classes)
    y, predicted, seeds, subjects, databases = (
        column(table, name) for name in ("y", "predicted", "seed", "subject", "database")
    )
    per_seed = tuple(labels.evaluate(y[seeds == s], predicted[seeds == s]) for s in np.unique(seeds))
    counts = subject_counts(y, predicted, subjects, seeds, labels.size)
    averaged: dict[str, Any] = {
        n: float(np.mean([getattr(m, n) for m in per_seed])) for n in ("uf1", "uar", "accuracy")
    }
    averaged |= {n: tuple(np.mean([getattr(m, n) for m in per_seed], 0).tolist()) for n in ("f1", "recall")}
    mean = replace(labels.metrics(confusion(y, predicted, labels.size)), **averaged)
    per_database = {}
    for name in np.unique(databases):
        here = databases == name
        inside = confusion(y[here], predicted[here], labels.size)
        whole, present = labels.metrics(inside), np.flatnonzero(labels.known(inside))
        # Classes the database has no clips of would count as 0 in UF1; they are left out and the list says so.
        f1 = [whole.f1[c] for c in present]
        per_database[str(name)] = replace(
            whole, classes=tuple(labels.names[c] for c in present), f1=tuple(f1), uf1=float(np.mean(f1)),
            recall=tuple(whole.recall[c] for c in present),
        )  # fmt: skip
    return {
        "metrics": mean,
        "uf1": bootstrap_counts(counts, statistic=labels.uf1),
        "uar": bootstrap_counts(counts, statistic=labels.uar),
        "seed_sd": float(np.std([m.uf1 for m in per_seed], ddof=1)) if len(per_seed) > 1 else 0.0,
        "per_seed": per_seed,
        "per_database": per_database,
    }


def oracle_figures(table: pa.Table, classes: tuple[str, ...]) -> dict[str, float]:
    """UF1 and UAR, averaged over seeds, of an oracle's rows (seed, y, predicted)."""
    y, predicted, seeds = (column(table, name) for name in ("y", "predicted", "seed"))
    each = [evaluate(y[seeds == s], predicted[seeds == s], classes) for s in np.unique(seeds)]
    return {name: float(np.mean([getattr(m, name) for m in each])) for name in ("uf1", "uar")}
