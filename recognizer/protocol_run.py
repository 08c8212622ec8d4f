"""Leave-one-subject-out (or another protocol) in one call: folds, mixing, training, figures, files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.torch import save as safetensors_bytes

from mesynth.errors import ManifestError, RunFolderError
from mesynth.manifest import Manifest
from mesynth.stage import claim_folder, write_bytes, write_text
from recognizer import predictions
from recognizer.config import RunConfig, config_hash, config_yaml, effective
from recognizer.data import FlowSet, load
from recognizer.fitting import Member, Trained, fit
from recognizer.metrics import Metrics, confusion, evaluate, from_confusion, uar, uf1
from recognizer.predictions import Condition
from recognizer.protocol import Fold, Mixture, make_folds, mix
from recognizer.statistics import Interval, bootstrap, subject_counts

Source = FlowSet | Manifest | Path | str | Sequence[Manifest | Path | str]
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""
RESULT, PREDICTIONS, CONFIG, WEIGHTS = "result.json", "predictions.parquet", "config.yaml", "weights.safetensors"


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
    """Per fold: name, test clips, real and synthetic training clips, clips kept out because of a leak."""
    left_out: dict[str, int]
    """Clips without a class, by their label."""
    n_parameters: int
    seconds: dict[str, float]
    config: dict[str, Any]
    config_hash: str
    predictions: pa.Table

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON (everything but the predictions)."""
        plain = ("protocol", "model", "seed_sd", "folds", "left_out", "n_parameters", "seconds", "config")
        return {name: getattr(self, name) for name in plain} | {
            "config_hash": self.config_hash,
            "metrics": self.metrics.to_dict(),
            "uf1": self.uf1.to_dict(),
            "uar": self.uar.to_dict(),
            "per_seed": [m.to_dict() for m in self.per_seed],
            "per_database": {name: m.to_dict() for name, m in self.per_database.items()},
        }


def sources(given: Source) -> FlowSet | list[Manifest]:
    """Manifests from paths; a FlowSet stays what it is."""
    if isinstance(given, FlowSet):
        return given
    many = [given] if isinstance(given, (Manifest, Path, str)) else list(given)
    return [m if isinstance(m, Manifest) else Manifest.read(m) for m in many]


def as_flow_set(
    given: FlowSet | list[Manifest],
    config: RunConfig,
    progress: Progress | None,
    what: str,
    *,
    unlabelled: bool = False,
) -> FlowSet:
    """Load manifests under the run's DataConfig; a FlowSet must have been loaded under the same."""
    if isinstance(given, FlowSet):
        if given.classes != config.data.classes or given.x.shape[-1] != config.data.size:
            raise ManifestError(
                f"the clips were loaded with classes {list(given.classes)} and size {given.x.shape[-1]}; this run has "
                f"{list(config.data.classes)} and {config.data.size}: load them with the run's DataConfig"
            )
        return given
    report = None if progress is None else partial(progress, what)
    return load(given, config.data, unlabelled=unlabelled, progress=report)


def fingerprint(given: FlowSet | list[Manifest] | None) -> list[str]:
    """What the data are, for the run's identity: manifest hashes, or the clip ids of a loaded set."""
    if given is None:
        return []
    if isinstance(given, FlowSet):
        return ["clips", str(len(given)), *map(str, given.clip_ids)]
    return [m.hash() for m in given]


def run_identity(
    verb: str,
    real: FlowSet | list[Manifest],
    synthetic: FlowSet | list[Manifest] | None,
    config: RunConfig,
) -> dict[str, Any]:
    """What a run's results depend on; two runs with equal identity give equal results."""
    return {
        "verb": verb,
        "config": effective(config, synthetic=synthetic is not None),
        "manifest": fingerprint(real),
        "synthetic": fingerprint(synthetic),
    }


def loso(
    real: Source,
    synthetic: Source | None = None,
    config: RunConfig = RunConfig(),
    *,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> LosoResult:
    """Run ``config.protocol`` with ``config.model``; write all results into ``out`` if it is given.

    The same call again returns the finished result.

    Raises:
        LeakError, PoolTooSmallError, ManifestError, ConfigError, MissingClassError, RunFolderError.
    """
    real_source = sources(real)
    synthetic_source = None if synthetic is None else sources(synthetic)
    folder = None if out is None else Path(out)
    if folder is not None:
        claim_folder(folder, run_identity("loso", real_source, synthetic_source, config))
        if (folder / RESULT).is_file():
            return _finished(folder, config)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    real_set = as_flow_set(real_source, config, progress, "reading clips")
    made = None if synthetic_source is None else as_flow_set(synthetic_source, config, progress, "reading synthetic")
    seconds["load"] = time.perf_counter() - start

    start = time.perf_counter()
    folds = make_folds(real_set, config.protocol)
    ratio = config.mix.ratio if made is not None else 0.0
    mixtures = [mix(real_set, made, folds, ratio=ratio, seed=s, policy=config.mix.leak) for s in config.seeds]
    trained = fit(
        mixtures[0].pool, mixtures[0].added, members_of(mixtures, config.seeds), config,
        progress and (lambda done, total: progress(f"training {config.model}", done, total)),
    )  # fmt: skip
    seconds["train"] = time.perf_counter() - start

    start = time.perf_counter()
    condition = Condition(model=config.model, train_subjects=0, arm="synthetic" if ratio else "none", ratio=ratio)
    table = predict_folds(trained, mixtures, config.seeds, condition, real_set)
    seconds["test"] = time.perf_counter() - start
    result = _result(table, config, mixtures[0], trained.n_parameters, seconds, real_set, synthetic is not None)
    if folder is not None:
        predictions.write_table(table, folder / PREDICTIONS)
        write_text(folder / CONFIG, config_yaml(config, synthetic=synthetic is not None))
        write_bytes(folder / WEIGHTS, fold_weights(trained, mixtures, config))
        write_text(folder / RESULT, json.dumps(result.to_dict(), indent=1))
    return result


def members_of(mixtures: Sequence[Mixture], seeds: Sequence[int]) -> list[Member]:
    """Seeds x folds, in that order."""
    return [
        Member.of(fold.name, seed, weights, mixture.pool.y)
        for mixture, seed in zip(mixtures, seeds, strict=True)
        for fold, weights in zip(mixture.folds, mixture.weights, strict=True)
    ]


def predict_folds(
    trained: Trained,
    mixtures: Sequence[Mixture],
    seeds: Sequence[int],
    condition: Condition,
    real: FlowSet,
    first: int = 0,
) -> pa.Table:
    """Predict every fold's test clips with its own member (members from ``first`` on, seeds x folds)."""
    tables, member = [], first
    for mixture, seed in zip(mixtures, seeds, strict=True):
        for fold in mixture.folds:
            scores = trained.probabilities(member, real.x[fold.test_index])
            tables.append(predictions.fold_table(condition, seed, fold, real, scores))
            member += 1
    return predictions.join(tables)


def _result(
    table: pa.Table,
    config: RunConfig,
    mixture: Mixture,
    n_parameters: int,
    seconds: dict[str, float],
    real: FlowSet,
    synthetic: bool,
) -> LosoResult:
    return LosoResult(
        protocol=config.protocol.kind,
        model=config.model,
        folds=tuple(_fold_facts(fold, mixture, f) for f, fold in enumerate(mixture.folds)),
        left_out=dict(real.left_out),
        n_parameters=n_parameters,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        config=effective(config, synthetic=synthetic),
        config_hash=config_hash(config, synthetic=synthetic),
        predictions=table,
        **figures(table, config.data.classes),
    )


def _fold_facts(fold: Fold, mixture: Mixture, f: int) -> dict[str, Any]:
    return {
        "name": fold.name,
        "test": len(fold.test_index),
        "real": int(mixture.n_real[f]),
        "synthetic": int(mixture.n_added[f]),
        "blocked": int(mixture.blocked[f]),
    }


def figures(table: pa.Table, classes: tuple[str, ...]) -> dict[str, Any]:
    """The figures of a predictions table of one condition, as the fields of :class:`LosoResult`."""
    y, predicted, seeds, subjects, databases = (
        predictions.column(table, name) for name in ("y", "predicted", "seed", "subject", "database")
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
        "uf1": bootstrap(counts, statistic=uf1),
        "uar": bootstrap(counts, statistic=uar),
        "seed_sd": float(np.std([m.uf1 for m in per_seed], ddof=1)) if len(per_seed) > 1 else 0.0,
        "per_seed": per_seed,
        "per_database": per_database,
    }


def fold_weights(trained: Trained, mixtures: Sequence[Mixture], config: RunConfig) -> bytes:
    """All members as safetensors; the metadata say per member which subjects it learned from."""
    members = [
        {"fold": fold.name, "seed": seed, "held_out": sorted(fold.held_out), "subjects_seen": seen_by(mixture, f)}
        for mixture, seed in zip(mixtures, config.seeds, strict=True)
        for f, fold in enumerate(mixture.folds)
    ]
    meta = {"model": config.model, "classes": json.dumps(config.data.classes), "members": json.dumps(members)}
    return bytes(safetensors_bytes({k: v.contiguous() for k, v in trained.tensors().items()}, metadata=meta))


def seen_by(mixture: Mixture, f: int) -> list[str]:
    """Every subject whose clips, or whose clips' makers, fold ``f`` learned from."""
    pool, out = mixture.pool, set()
    for i in np.flatnonzero(mixture.weights[f] > 0):
        out |= {str(pool.subjects[i]), *pool.subjects_seen[i]}
    return sorted(out)


def _finished(folder: Path, config: RunConfig) -> LosoResult:
    try:
        found = json.loads((folder / RESULT).read_text())
        table = predictions.read_table(folder / PREDICTIONS)
        return LosoResult(
            predictions=table,
            **{k: found[k] for k in ("protocol", "model", "left_out", "n_parameters", "seconds", "config")},
            config_hash=found["config_hash"],
            folds=tuple(found["folds"]),
            **figures(table, config.data.classes),
        )
    except (OSError, KeyError, json.JSONDecodeError):
        raise RunFolderError(f"{folder} holds a damaged result; remove {os.path.join(folder, RESULT)}") from None
