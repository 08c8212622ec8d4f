"""Leave-one-subject-out (or another protocol) in one call: folds, mixing, training, figures, files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.errors import ConfigError, RunFolderError
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import claim_folder, write_text
from recognizer import results
from recognizer import sources as ledger
from recognizer.beginnings import Beginning, begin
from recognizer.blocks import Outcome, joined, places_of, remove, run_blocks, write_weights
from recognizer.config import RunConfig, config_hash, config_yaml, effective
from recognizer.data import FlowSet
from recognizer.fitting import Member
from recognizer.models import CLOSED
from recognizer.protocol import Mixture, make_folds, mix
from recognizer.report import log_text
from recognizer.results import Condition, LosoResult, figures, oracle_figures
from recognizer.sources import Progress, Source, as_flow_set, run_identity, sources

RESULT, PREDICTIONS, CONFIG, WEIGHTS = "result.json", "predictions.parquet", "config.yaml", "weights.safetensors"
MEGC_LOG = "megc.txt"


@dataclass(frozen=True)
class _Run:
    """A run as it was asked for."""

    real: FlowSet | list[Manifest]
    synthetic: FlowSet | list[Manifest] | None
    config: RunConfig
    oracle: bool
    folder: Path | None
    identity: dict[str, Any]
    beginning: Beginning

    @property
    def manifests(self) -> list[Manifest]:
        return [] if isinstance(self.real, FlowSet) else self.real

    @property
    def key(self) -> str:
        """Of the ledger: what was tried, whatever was found."""
        return config_hash(self.config, synthetic=self.synthetic is not None)


def loso(
    real: Source,
    synthetic: Source | None = None,
    config: RunConfig = RunConfig(),
    *,
    out: Path | str | None = None,
    also_oracle: bool = False,
    progress: Progress | None = None,
) -> LosoResult:
    """Run ``config.protocol`` with ``config.model``; write all results into ``out`` if it is given.

    The same call again goes on where it was stopped, or returns the finished result. Under ``accelerate launch`` (or
    torchrun) the processes share the members; that needs ``out``. ``also_oracle`` adds the figure that picks the best
    point of training on the test clips themselves: leaked, and labelled so.

    Raises:
        LeakError, PoolTooSmallError, ManifestError, ConfigError, MissingClassError, RunFolderError.
    """
    real_source = sources(real)
    synthetic_source = None if synthetic is None else sources(synthetic)
    folder = None if out is None else Path(out)
    if also_oracle and config.model in CLOSED:
        raise ConfigError(f"an oracle picks a point of training; model {config.model} is not trained in steps")
    beginning = begin(config)
    identity = run_identity("loso", real_source, synthetic_source, config) | beginning.digests
    identity |= {"oracle": True} if also_oracle else {}
    run = _Run(real_source, synthetic_source, config, also_oracle, folder, identity, beginning)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _alone(run, progress)
    from mesynth.training.processes import Processes

    if folder is None:
        raise ConfigError("processes share a run through its folder; pass --out")
    processes = Processes(device="cpu")
    # The first claims the folder; the others find it claimed by the same run.
    processes.on_main(lambda: claim_folder(folder, identity))
    if not (folder / RESULT).is_file():
        _members(run, progress if processes.main else None, share=(processes.rank, processes.count))
    processes.barrier()
    processes.on_main(lambda: _alone(run, None))
    return _finished(folder, config)


def _alone(run: _Run, progress: Progress | None) -> LosoResult:
    folder, config = run.folder, run.config
    if folder is not None:
        claim_folder(folder, run.identity)
        if (folder / RESULT).is_file():
            return _finished(folder, config)
    outcome, mixtures, real, seconds = _members(run, progress)
    assert outcome is not None
    result = LosoResult(
        protocol=config.protocol.kind,
        model=config.model,
        folds=tuple(_fold_facts(mixtures[0], f) for f in range(len(mixtures[0].folds))),
        left_out=dict(real.left_out),
        n_parameters=outcome.n_parameters,
        tried=ledger.tried_before(run.manifests, run.key) if run.manifests else None,
        oracle=oracle_figures(outcome.oracle, config.data.classes) if run.oracle else None,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        config=effective(config, synthetic=run.synthetic is not None),
        config_hash=config_hash(config, synthetic=run.synthetic is not None),
        predictions=outcome.table,
        **figures(outcome.table, config.data.classes),
    )
    if folder is not None:
        results.write_table(outcome.table, folder / PREDICTIONS)
        write_text(folder / CONFIG, config_yaml(config, synthetic=run.synthetic is not None))
        write_weights(folder, folder / WEIGHTS, _weights_facts(mixtures, config, run.beginning.subjects))
        log = log_text(outcome.table, config.data.classes, result.metrics, result.per_database)
        write_text(folder / MEGC_LOG, log)
        write_text(folder / RESULT, json.dumps(result.to_dict(), indent=1))
        ledger.record(run.manifests, run.key, {"model": config.model, "uf1": round(result.uf1.value, 4)})
        remove(folder)
    return result


def _members(
    run: _Run, progress: Progress | None, share: tuple[int, int] = (0, 1)
) -> tuple[Outcome | None, list[Mixture], FlowSet, dict[str, float]]:
    """Read, mix, train and test; None in place of the outcome where another process has a part of it."""
    config, seconds = run.config, {}
    start = time.perf_counter()
    real = as_flow_set(run.real, config, progress, "reading clips")
    made = None if run.synthetic is None else as_flow_set(run.synthetic, config, progress, "reading synthetic")
    seconds["load"] = time.perf_counter() - start
    start = time.perf_counter()
    folds = make_folds(real, config.protocol)
    run.beginning.check(folds)
    ratio = config.mix.ratio if made is not None else 0.0
    mixtures = [
        mix(
            real,
            made,
            folds,
            ratio=ratio,
            seed=s,
            policy=config.mix.leak,
            balance=config.mix.balance,
            only_added=config.mix.only_added,
        )
        for s in config.seeds
    ]
    arm = "synthetic" if ratio else "none"
    condition = Condition(
        model=config.model, train_subjects=0, arm=arm, ratio=ratio, mode=config.mix.mode if ratio else ""
    )
    found = run_blocks(
        places_of(mixtures, config.seeds), real, config, condition, folder=run.folder, given=run.beginning.given,
        oracle=run.oracle, share=share,
        progress=progress and (lambda done, total: progress(f"training {config.model}", done, total)),
    )  # fmt: skip
    seconds["train"] = time.perf_counter() - start
    done = [outcome for outcome in found if outcome is not None]
    return (joined(done) if len(done) == len(found) else None), mixtures, real, seconds


def members_of(mixtures: Sequence[Mixture], seeds: Sequence[int]) -> list[Member]:
    """Seeds x folds, in that order."""
    return [place.member for place in places_of(mixtures, seeds)]


def _fold_facts(mixture: Mixture, f: int) -> dict[str, Any]:
    return {
        "name": mixture.folds[f].name,
        "test": len(mixture.folds[f].test_index),
        "real": int(mixture.n_real[f]),
        "synthetic": int(mixture.n_added[f]),
        "blocked": int(mixture.blocked[f]),
    }


def _weights_facts(mixtures: Sequence[Mixture], config: RunConfig, before: frozenset[str]) -> dict[str, str]:
    """Metadata of the folds' weights: per member, which subjects it learned from."""
    members = [
        {
            "fold": fold.name,
            "seed": seed,
            "held_out": sorted(fold.held_out),
            "subjects_seen": seen_by(mixture, f, before),
        }
        for mixture, seed in zip(mixtures, config.seeds, strict=True)
        for f, fold in enumerate(mixture.folds)
    ]
    return {"model": config.model, "classes": json.dumps(config.data.classes), "members": json.dumps(members)}


def seen_by(mixture: Mixture, f: int, before: frozenset[str] = frozenset()) -> list[str]:
    """Every subject whose clips, or whose clips' makers, fold ``f`` learned from, and those seen ``before``."""
    pool, out = mixture.pool, set(before)
    for i in np.flatnonzero(mixture.weights[f] > 0):
        out |= {str(pool.subjects[i]), *pool.subjects_seen[i]}
    return sorted(out)


def _finished(folder: Path, config: RunConfig) -> LosoResult:
    try:
        found = json.loads((folder / RESULT).read_text())
        table = results.read_table(folder / PREDICTIONS)
        plain = ("protocol", "model", "left_out", "n_parameters", "tried", "oracle", "seconds", "config")
        return LosoResult(
            predictions=table,
            **{k: found[k] for k in plain},
            config_hash=found["config_hash"],
            folds=tuple(found["folds"]),
            **figures(table, config.data.classes),
        )
    except (OSError, KeyError, json.JSONDecodeError):
        raise RunFolderError(f"{folder} holds a damaged result; remove {os.path.join(folder, RESULT)}") from None
