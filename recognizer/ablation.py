"""Does synthetic data help? Ratios x seeds x models with controls, paired against no synthetic data."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mesynth.errors import RunFolderError
from mesynth.stage import claim_folder, write_bytes, write_text
from recognizer import predictions
from recognizer.config import AblationConfig, config_hash, config_yaml, effective
from recognizer.curve import curve_png
from recognizer.data import FlowSet
from recognizer.fitting import fit
from recognizer.metrics import evaluate, uf1
from recognizer.predictions import Condition
from recognizer.protocol import Fold, Mixture, make_folds, mix
from recognizer.protocol_run import Progress, Source, as_flow_set, members_of, predict_folds, run_identity, sources
from recognizer.statistics import Comparison, Interval, bootstrap, compare, holm, subject_counts

RESULT, LONG, CURVE, PARTS = "result.json", "ablation", "curve.png", "parts"
NONE = "none"
"""The arm without synthetic clips, that all others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One point of a curve."""

    model: str
    train_subjects: int
    arm: str
    ratio: float
    uf1: Interval
    """Mean over seeds, with a 95 % interval of the bootstrap over subjects."""
    seed_sd: float
    uar: float
    difference: Comparison | None
    """Against ratio 0, paired by subject; None for ratio 0 itself."""
    p_holm: float | None
    """Permutation p-value corrected for all comparisons of this ablation."""
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AblationResult:
    """``rows``: model, arm, ratio, train_subjects, seed, uf1, uar, accuracy, n_real and n_synthetic (means
    over folds). ``summary``: one entry per condition. ``comparisons``: how many were made."""

    rows: tuple[dict[str, Any], ...]
    summary: tuple[Summary, ...]
    comparisons: int
    n_subjects: int
    seconds: dict[str, float]
    config: dict[str, Any]
    config_hash: str
    curve: bytes
    """PNG"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON (everything but the picture)."""
        return {
            "rows": list(self.rows),
            "summary": [s.to_dict() for s in self.summary],
            "comparisons": self.comparisons,
            "n_subjects": self.n_subjects,
            "seconds": self.seconds,
            "config": self.config,
            "config_hash": self.config_hash,
        }


def run_ablation(
    real: Source,
    synthetic: Source,
    config: AblationConfig = AblationConfig(),
    *,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> AblationResult:
    """Run all conditions; write tables, picture and figures into ``out`` if it is given.

    With ``out``, finished parts (model x arm) are kept: the same call again goes on, or returns the result.

    Raises:
        LeakError, PoolTooSmallError, ManifestError, ConfigError, MissingClassError, RunFolderError.
    """
    real_source, synthetic_source = sources(real), sources(synthetic)
    folder = None if out is None else Path(out)
    if folder is not None:
        claim_folder(folder, run_identity("ablate", real_source, synthetic_source, config))
        if (folder / RESULT).is_file():
            return _finished(folder)
    start = time.perf_counter()
    real_set = as_flow_set(real_source, config, progress, "reading clips")
    made = as_flow_set(synthetic_source, config, progress, "reading synthetic")
    seconds = {"load": time.perf_counter() - start}
    folds = make_folds(real_set, config.protocol)
    tables, counts = [], []
    for part in _parts(config):
        start = time.perf_counter()
        table, facts = _run_part(part, real_set, made, folds, config, folder, progress)
        tables.append(table)
        counts += facts
        seconds[part[0].model] = seconds.get(part[0].model, 0.0) + time.perf_counter() - start
    start = time.perf_counter()
    table = predictions.join(tables)
    rows, summary = _rows(table, counts, config), _summaries(table, config)
    seconds["statistics"] = time.perf_counter() - start
    result = AblationResult(
        rows=tuple(rows),
        summary=tuple(summary),
        comparisons=sum(s.difference is not None for s in summary),
        n_subjects=len(np.unique(real_set.subjects)),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        config=effective(config, synthetic=True),
        config_hash=config_hash(config, synthetic=True),
        curve=curve_png(summary),
    )
    if folder is not None:
        _write(folder, result, table, config)
    return result


# ---------------------------------------------------------------- running


def _parts(config: AblationConfig) -> list[list[Condition]]:
    """Conditions that are trained in one stack: a model with one arm at all ratios."""
    out = []
    for model in config.models:
        for subjects in config.train_subjects:
            for arm in ("synthetic", *config.controls):
                conditions = [
                    Condition(model=model, train_subjects=subjects, arm=arm if ratio else NONE, ratio=ratio)
                    for ratio in config.ratios
                    if ratio or arm == "synthetic"
                ]
                if conditions:
                    out.append(conditions)
    return out


Facts = list[dict[str, Any]]


def _run_part(
    part: list[Condition],
    real: FlowSet,
    made: FlowSet,
    folds: Sequence[Fold],
    config: AblationConfig,
    folder: Path | None,
    progress: Progress | None,
) -> tuple[pa.Table, Facts]:
    last = part[-1]
    name = f"{last.model}-{last.arm}-{last.train_subjects}"
    stored = folder and folder / PARTS / f"{name}.parquet"
    mixtures: list[Mixture] = []
    conditions: list[tuple[Condition, int]] = []
    for condition in part:
        for seed in config.seeds:
            arm = "synthetic" if condition.arm == NONE else condition.arm
            mixtures.append(
                mix(
                    real, made, folds, ratio=condition.ratio, seed=seed, policy=config.mix.leak, arm=arm,
                    train_subjects=condition.train_subjects,
                )
            )  # fmt: skip
            conditions.append((condition, seed))
    facts = [
        {"condition": c, "seed": s, "n_real": float(m.n_real.mean()), "n_synthetic": float(m.n_added.mean())}
        for (c, s), m in zip(conditions, mixtures, strict=True)
    ]
    if stored and stored.is_file():
        return predictions.read_table(stored), facts
    members = members_of(mixtures, [seed for _, seed in conditions])
    trained = fit(
        mixtures[0].pool, mixtures[0].added, members, config.for_model(last.model),
        progress and (lambda done, total: progress(f"training {name}", done, total)),
    )  # fmt: skip
    tables = [
        predict_folds(trained, [mixture], [seed], condition, real, first=i * len(folds))
        for i, ((condition, seed), mixture) in enumerate(zip(conditions, mixtures, strict=True))
    ]
    table = predictions.join(tables)
    if stored:
        predictions.write_table(table, stored)
    return table, facts


# ---------------------------------------------------------------- figures


def _select(table: pa.Table, condition: Condition) -> dict[str, np.ndarray]:
    mask = np.ones(table.num_rows, np.bool_)
    for name in ("model", "train_subjects", "arm", "ratio"):
        mask &= predictions.column(table, name) == getattr(condition, name)
    return {n: predictions.column(table, n)[mask] for n in ("y", "predicted", "subject", "seed")}


def _rows(table: pa.Table, facts: Facts, config: AblationConfig) -> list[dict[str, Any]]:
    out = []
    for fact in facts:
        values = _select(table, fact["condition"])
        of_seed = values["seed"] == fact["seed"]
        figures = evaluate(values["y"][of_seed], values["predicted"][of_seed], config.data.classes)
        out.append(
            asdict(fact["condition"])
            | {"seed": fact["seed"], "uf1": figures.uf1, "uar": figures.uar, "accuracy": figures.accuracy}
            | {"n_real": fact["n_real"], "n_synthetic": fact["n_synthetic"]}
        )
    return out


def _summaries(table: pa.Table, config: AblationConfig) -> list[Summary]:
    n = len(config.data.classes)
    conditions = [condition for part in _parts(config) for condition in part]
    counts = {}
    for condition in conditions:
        v = _select(table, condition)
        counts[condition] = subject_counts(v["y"], v["predicted"], v["subject"], v["seed"], n)
    differences: dict[Condition, Comparison] = {}
    for condition in conditions:
        if condition.arm != NONE:
            base = Condition(model=condition.model, train_subjects=condition.train_subjects, arm=NONE, ratio=0.0)
            differences[condition] = compare(counts[base], counts[condition], draws=config.resamples)
    corrected = dict(zip(differences, holm(np.array([d.p for d in differences.values()])), strict=True))
    out = []
    for condition in conditions:
        v, c = _select(table, condition), counts[condition]
        seeds = np.unique(v["seed"])
        per_seed = [
            evaluate(v["y"][v["seed"] == s], v["predicted"][v["seed"] == s], config.data.classes) for s in seeds
        ]
        difference = differences.get(condition)
        out.append(
            Summary(
                **asdict(condition),
                uf1=bootstrap(c, statistic=uf1, draws=config.resamples),
                seed_sd=float(np.std([m.uf1 for m in per_seed], ddof=1)) if len(seeds) > 1 else 0.0,
                uar=float(np.mean([m.uar for m in per_seed])),
                difference=difference,
                p_holm=None if difference is None else float(corrected[condition]),
                verdict="" if difference is None else difference.verdict,
            )
        )
    return out


# ---------------------------------------------------------------- files


def _write(folder: Path, result: AblationResult, table: pa.Table, config: AblationConfig) -> None:
    predictions.write_table(table, folder / "predictions.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(result.rows)), buffer)
    write_bytes(folder / f"{LONG}.parquet", buffer.getvalue())
    write_text(folder / f"{LONG}.jsonl", "".join(json.dumps(row) + "\n" for row in result.rows))
    write_bytes(folder / CURVE, result.curve)
    write_text(folder / "config.yaml", config_yaml(config, synthetic=True))
    write_text(folder / RESULT, json.dumps(result.to_dict(), indent=1))
    for part in (folder / PARTS).glob("*.parquet"):
        part.unlink()
    (folder / PARTS).rmdir()


def _finished(folder: Path) -> AblationResult:
    try:
        found = json.loads((folder / RESULT).read_text())
        summary = tuple(
            Summary(
                **(s | {"uf1": Interval(**s["uf1"]), "difference": s["difference"] and Comparison(**s["difference"])})
            )
            for s in found["summary"]
        )
        plain = ("comparisons", "n_subjects", "seconds", "config", "config_hash")
        curve = (folder / CURVE).read_bytes()
        return AblationResult(
            rows=tuple(found["rows"]), summary=summary, curve=curve, **{k: found[k] for k in plain}
        )  # fmt: skip
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        raise RunFolderError(f"{folder} holds a damaged result; remove {folder / RESULT}") from None
