"""Leave-one-subject-out (or another protocol) in one call: folds, mixing, training, figures, files.

A run's members (folds x seeds) are trained block by block: each finished block is a file, so that a run goes on where
it was stopped. Blocks are shared over the processes of ``accelerate launch`` or torchrun. What a member learns does not
depend on the block it stands in, so neither does any figure.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from mesynth.core.errors import ConfigError, MesynthError, RunFolderError
from mesynth.core.process import launched
from mesynth.store import digests
from mesynth.store.manifest import Manifest
from mesynth.store.run_folder import claim_folder, only_writer, write_bytes, write_last, write_text
from mesynth.store.weights import join_tensors
from recognizer import results, training
from recognizer import sources as ledger
from recognizer.aus import AUS
from recognizer.config import RunConfig, config_hash, config_yaml, effective, is_closed, skeleton, transform_of
from recognizer.data import DataConfig, FlowSet
from recognizer.fitting import NetworkMembers, Pretrained, chosen_weights, fit, head_of, shares_of, top_of
from recognizer.mixing import Member, apart, mixed, with_unlabelled
from recognizer.models import MODELS, TGSR
from recognizer.protocol import Fold, Mixture, make_folds
from recognizer.report import log_text
from recognizer.results import (
    Condition,
    LosoResult,
    MissingClassError,
    chosen_text,
    constant_rows,
    figures,
    oracle_figures,
)
from recognizer.sources import Opened, Progress, Source, as_flow_set, sources
from recognizer.trained import Recognizer, load_pretrained, names_recognizer

RESULT, PREDICTIONS, CONFIG, WEIGHTS = "result.json", "predictions.parquet", "config.yaml", "weights.safetensors"
MEGC_LOG = "megc.txt"


@dataclass(frozen=True)
class _Run:
    """What a run depends on, and where it goes."""

    real: Opened
    synthetic: Opened | None
    config: RunConfig
    oracle: bool
    folder: Path | None
    identity: dict[str, Any]
    pretrained: Pretrained
    unlabelled: Opened | None = None
    """Clips whose labels are not read (transfer.unlabelled)."""
    tested: Recognizer | None = None
    """A trained recognizer that every fold is tested on as it is; None: each fold trains its own."""

    @property
    def manifests(self) -> list[Manifest]:
        return [] if isinstance(self.real, FlowSet) else self.real

    @property
    def key(self) -> str:
        """Of the ledger: what was tried, whatever was found."""
        key = config_hash(self.config, synthetic=self.synthetic is not None)
        return key if self.tested is None else hashlib.sha256(f"{key} {self.tested.sha256}".encode()).hexdigest()

    @property
    def name(self) -> str:
        """What is tested, as results call it."""
        return self.config.model if self.tested is None else self.tested.name or "recognizer"


def loso(
    real: Source,
    synthetic: Source | None = None,
    config: RunConfig = RunConfig(),
    *,
    model: Any = None,
    out: Path | str | None = None,
    also_oracle: bool = False,
    progress: Progress | None = None,
) -> LosoResult:
    """Test a model under ``config.protocol`` (leave one subject out); write all results into ``out`` if it is given.

    The same call again goes on where it was stopped, or returns the finished result. Under ``accelerate launch`` (or
    torchrun) the processes share the members; that needs ``out``.

    Args:
        real: clips to learn from and to test on: a manifest or its folder, several of them, or a set in memory.
        synthetic: clips that are only learned from, mixed in as ``config.mix`` says. One that saw a held-out subject
            stops the run, or counts nothing in that fold (mix.leak).
        model: instead of ``config.model``: the name of one, or an object. A ``torch.nn.Module`` (or a class or function
            that makes one) takes flow [B,3,S,S] (u, v, strain; unit rms per channel over the fold's training clips) and
            gives logits [B,C]; every fold trains a copy with fresh weights, seeded, by ``config.train``. A scikit-learn
            classifier takes the same as [N,3*S*S] float64; every fold fits a clone. Where its ``fit`` takes no
            ``sample_weight``, a warning says what of the mixing is left out. See :class:`recognizer.models.Model`.
            A trained recognizer (``"shipped"``, its folder, or what :func:`recognizer.load` gives) is
            tested as it is, zero-shot: nothing is trained, of ``config`` only ``protocol`` and ``data.frame`` count.
        also_oracle: add the figure that picks the best point of training on the test clips themselves: leaked, and
            labelled so.

    Returns:
        UF1, UAR (See et al., FG 2019) and accuracy of the pooled predictions, with 95 % intervals of the bootstrap over
        subjects, and the predictions themselves.

    Raises:
        LeakError: a synthetic clip, or a trained recognizer, has seen who is held out.
        PoolTooSmallError: fewer synthetic clips than are asked for.
        ManifestError: clips without what the model needs, or none.
        ConfigError: settings that exclude each other.
        MissingClassError: a class without a clip.
        RunFolderError: ``out`` holds another run.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> y = np.arange(36) % 3
    >>> x = np.random.default_rng(0).normal(size=(36, 3, 28, 28))
    >>> x[np.arange(36), 1, 8 * y] += 3  # each class moves another row of the face
    >>> clips = FlowSet.of(x, y, [f"s{i // 9}" for i in range(36)])
    >>> result = loso(clips, model=GaussianNB())
    >>> result.model, len(result.folds), result.metrics.n, result.metrics.uf1 > 0.9
    ('GaussianNB', 4, 36, True)
    """
    if isinstance(model, (Path, Recognizer)) or (isinstance(model, str) and names_recognizer(model)):
        recognizer = model if isinstance(model, Recognizer) else Recognizer.load(model)
        return _shared(_zero_shot(sources(real), synthetic, recognizer, config, also_oracle, out), progress)
    with MODELS.lent([config.model if model is None else model]) as names:
        [(name, described)] = names.items()
        run = _prepare(
            sources(real), None if synthetic is None else sources(synthetic),
            config if model is None else replace(config, model=name), also_oracle, None if out is None else Path(out),
            {"model": described} if described else {},
        )  # fmt: skip
        return _shared(run, progress)


def _prepare(
    real: Opened, synthetic: Opened | None, config: RunConfig, oracle: bool, folder: Path | None, more: dict[str, Any]
) -> _Run:
    unlabelled = ledger.unlabelled_of(real, config)
    real, synthetic, _ = ledger.framed(real, synthetic, config.data)
    if oracle and is_closed(config, config.model):
        raise ConfigError(f"an oracle picks a point of training; model {config.model} is not trained in steps")
    if oracle and config.task == AUS:
        raise ConfigError("an oracle picks by clips of the right class, and task=aus has no classes; leave it out")
    pretrained = load_pretrained(config)
    identity = ledger.run_identity("loso", real, synthetic, config) | dict(pretrained.digests)
    identity |= {"oracle": True} if oracle else {}
    return _Run(real, synthetic, config, oracle, folder, identity | more, pretrained, unlabelled)


def zero_shot_config(recognizer: Recognizer, config: RunConfig) -> RunConfig:
    """The settings that a trained recognizer is tested by: its own, under ``config.protocol`` and its ``data.frame``.

    Raises:
        ConfigError: ``config`` has other settings, which would have no effect.
    """
    own = replace(recognizer.config, protocol=config.protocol)
    own = replace(own, data=replace(own.data, frame=config.data.frame))
    if config != own:
        usual = type(config)(protocol=config.protocol, data=DataConfig(frame=config.data.frame))
        set_here = [f.name for f in fields(config) if getattr(config, f.name) != getattr(usual, f.name)]
        if set_here:
            raise ConfigError(
                f"{', '.join(set_here)}: no effect on {recognizer.name or 'a trained recognizer'}, which is tested as "
                "it is; only protocol.* and data.frame count"
            )
    return own


def _zero_shot(
    real: Opened,
    synthetic: Source | None,
    recognizer: Recognizer,
    config: RunConfig,
    oracle: bool,
    out: Path | str | None,
) -> _Run:
    if synthetic is not None or oracle:
        what = "an oracle picks a point of training" if oracle else "synthetic clips are learned from"
        raise ConfigError(f"{what}, and {recognizer.name or 'a trained recognizer'} is tested as it is; leave that out")
    config = zero_shot_config(recognizer, config)
    real = ledger.framed_as(real, recognizer.framing, config.data)
    before = Pretrained(seen={"model": recognizer.subjects_seen}, digests={"recognizer": recognizer.sha256})
    identity = ledger.run_identity("loso", real, None, config) | dict(before.digests)
    return _Run(real, None, config, False, None if out is None else Path(out), identity, before, None, recognizer)


def zero_shot_plan(
    real: Source, synthetic: Source | None, recognizer: Recognizer, config: RunConfig, *, also_oracle: bool = False
) -> dict[str, Any]:
    """What :func:`loso` would test a trained recognizer on. Clips are read and folds made, so that every mistake shows;
    nothing is written."""
    run = _zero_shot(sources(real), synthetic, recognizer, config, also_oracle, None)
    clips = as_flow_set(run.real, run.config, None, "reading clips")
    folds = make_folds(clips, run.config.protocol)
    run.pretrained.check(folds)
    _require_classes(run, clips)
    counts = dict(zip(clips.outputs, clips.class_counts.tolist(), strict=True))
    return {
        "models": [run.name], "folds": len(folds), "clips": len(clips), "classes": counts, "left_out": clips.left_out,
        "notes": _notes(run, None, adds=False),
    }  # fmt: skip


def _require_classes(run: _Run, real: FlowSet) -> None:
    """Raise MissingClassError where a class that a trained recognizer tells apart has no clip: its classes are its own,
    and data.classes is no way out."""
    lacking = [name for name, n in zip(real.outputs, real.class_counts, strict=True) if not n]
    if lacking and real.multi:
        raise MissingClassError(
            f"no test clip shows {', '.join(lacking)}, which {run.name} tells, so its F1 does not exist; add clips of "
            "it, or take `recognizer predict --manifest`, which answers these"
        )
    if lacking:
        raise MissingClassError(
            f"class {', '.join(lacking)} of {run.name} has no test clip, so UAR does not exist; add clips of it, or "
            "take `recognizer predict --manifest`, which answers these"
        )


def _tested(run: _Run, real: FlowSet, folds: Sequence[Fold]) -> tuple[_Outcome, list[Mixture]]:
    """Every fold's test clips as ``run.tested`` answers; mixtures in which nothing is learned from."""
    assert run.tested is not None
    condition = Condition(model=run.name, train_subjects=0, arm="none")
    _require_classes(run, real)
    run.tested.require_unit(real)
    scores = run.tested.probabilities(real.inputs())
    tables = [results.fold_table(condition, 0, fold, real, scores[fold.test_index]) for fold in folds]
    n, nothing = len(folds), np.zeros(len(folds), np.int64)
    mixture = Mixture(
        pool=real, folds=tuple(folds), weights=np.zeros((n, len(real))), added=np.zeros(len(real), np.bool_),
        blocked=nothing, n_real=nothing, n_added=nothing,
    )  # fmt: skip
    return _Outcome(table=results.join(tables), n_parameters=run.tested.members.n_parameters), [mixture]


def _shared(run: _Run, progress: Progress | None) -> LosoResult:
    """The run by this process, or its part of it where there are several."""
    if launched()[1] == 1:
        return _alone(run, progress)
    from mesynth.training.processes import Processes

    folder = run.folder
    if folder is None:
        raise ConfigError("processes share a run through its folder; pass --out")
    processes = Processes(device="cpu")
    with ExitStack() as stack:

        def claim() -> bool:
            """The first claims and holds the folder for all."""
            claim_folder(folder, run.identity)
            if not (folder / RESULT).is_file():
                stack.enter_context(only_writer(folder))
            return not (folder / RESULT).is_file()

        if processes.gather(processes.on_main(claim))[0]:
            _members(run, progress if processes.main else None, share=(processes.rank, processes.count))
            processes.barrier()
            processes.on_main(lambda: _complete(run, None))
    return _finished(folder, run.config)


def _alone(run: _Run, progress: Progress | None) -> LosoResult:
    folder = run.folder
    if folder is None:
        return _complete(run, progress)
    claim_folder(folder, run.identity)
    if not (folder / RESULT).is_file():
        with only_writer(folder):
            if not (folder / RESULT).is_file():  # else the writer before ended in this moment
                return _complete(run, progress)
    return _finished(folder, run.config)


def _complete(run: _Run, progress: Progress | None) -> LosoResult:
    """Train what is missing and write the result; the folder is held."""
    folder, config = run.folder, run.config
    outcome, mixtures, real, seconds = _members(run, progress)
    assert outcome is not None
    result = LosoResult(
        protocol=config.protocol.kind,
        model=run.name,
        folds=tuple(_fold_facts(mixtures[0], f, tested=run.tested is not None) for f in range(len(mixtures[0].folds))),
        left_out=dict(real.left_out),
        notes=tuple(_notes(run, outcome, adds=bool(mixtures[0].n_added.any()))),
        n_parameters=outcome.n_parameters,
        tried=ledger.tried_before(run.manifests, run.key) if run.manifests else None,
        oracle=oracle_figures(outcome.oracle, config.data.classes) if run.oracle else None,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        config=effective(config, synthetic=run.synthetic is not None)
        | ({"recognizer": run.tested.sha256} if run.tested else {}),
        config_hash=run.key,
        predictions=outcome.table,
        constants=constant_rows(real, mixtures[0].folds) if real.multi else {},
        **figures(outcome.table, config.labels),
    )
    if folder is not None:
        results.write_table(outcome.table, folder / PREDICTIONS)
        write_text(folder / CONFIG, config_yaml(config, synthetic=run.synthetic is not None))
        if run.tested is None:
            blocks = sorted((folder / PARTS).glob("*.safetensors"))
            join_tensors(blocks, folder / WEIGHTS, _weights_facts(mixtures, config, run.pretrained.subjects))
        log = log_text(outcome.table, config.labels, result.metrics, result.per_database)
        write_text(folder / MEGC_LOG, log)
        write_last(folder / RESULT, json.dumps(result.to_dict(), indent=1).encode(), without=[PARTS])
        ledger.record(run.manifests, run.key, {"model": run.name, "uf1": round(result.uf1.value, 4)})
        _remove_blocks(folder)
    return result


def _members(
    run: _Run, progress: Progress | None, share: tuple[int, int] = (0, 1)
) -> tuple[_Outcome | None, list[Mixture], FlowSet, dict[str, float]]:
    """Read, mix, train and test; None in place of the outcome where another process has a part of it."""
    config, seconds = run.config, {}
    start = time.perf_counter()
    real = as_flow_set(run.real, config, progress, "reading clips")
    made = None if run.synthetic is None else as_flow_set(run.synthetic, config, progress, "reading synthetic")
    more = None if run.unlabelled is None else ledger.without_labels(run.unlabelled, config, progress)
    real, made = apart(real, made, config.transfer)
    seconds["load"] = time.perf_counter() - start
    start = time.perf_counter()
    folds = make_folds(real, config.protocol)
    run.pretrained.check(folds)
    if run.tested is not None:
        outcome, mixtures = _tested(run, real, folds)
        seconds["test"] = time.perf_counter() - start
        return outcome, mixtures, real, seconds
    config.labels.require(real.class_counts)
    amount = dict(config.mix.amount) if made is not None else {}
    amount.pop("at_most", None)
    mixtures = [
        with_unlabelled(mixed(real, made, folds, config.mix, seed), more, config.mix, config.transfer)
        for seed in config.seeds
    ]
    adds = any(amount.values())
    condition = Condition(
        model=config.model, train_subjects=0, arm="synthetic" if adds else "none", mode=config.mix.mode if adds else "",
        **amount,
    )  # fmt: skip
    found = _run_blocks(
        _places_of(mixtures, config.seeds), real, config, condition, folder=run.folder, pretrained=run.pretrained,
        oracle=run.oracle, share=share,
        progress=progress and (lambda done, total: progress(f"training {config.model}", done, total)),
    )  # fmt: skip
    seconds["train"] = time.perf_counter() - start
    done = [outcome for outcome in found if outcome is not None]
    return (_joined(done) if len(done) == len(found) else None), mixtures, real, seconds


def _notes(run: _Run, outcome: _Outcome | None, *, adds: bool) -> list[str]:
    """Of the clips, and of what was chosen inside folds."""
    if run.tested is not None:
        saw = len(run.tested.subjects_seen)
        whom = f"{saw} subjects, none of them tested" if saw else "nobody: synthetic clips alone"
        zero = f"zero-shot: {run.name} was tested as it is, and nothing was learned here (it had learned from {whom})"
        return [zero, *ledger.framing_notes(run.real, others="the clips that it learned from")]
    notes = ledger.flow_notes(run.real, run.synthetic if adds else None, run.config)
    if outcome is not None and outcome.prior_weights:
        key = "tgsr.gap" if run.config.model == TGSR else "mix.prior_weight"
        notes.append(f"{key}, chosen by the training subjects: {chosen_text(outcome.prior_weights)}")
    return notes


def _fold_facts(mixture: Mixture, f: int, *, tested: bool) -> dict[str, Any]:
    return {
        "name": mixture.folds[f].name,
        "test": len(mixture.folds[f].test_index),
        "real": int(mixture.n_real[f]),
        "synthetic": int(mixture.n_added[f]),
        "blocked": int(mixture.blocked[f]),
        "lacking": [] if tested else mixture.lacking(f),
    } | ({} if mixture.free is None else {"unlabelled": int((mixture.free[f] > 0).sum())})


def _weights_facts(mixtures: Sequence[Mixture], config: RunConfig, before: frozenset[str]) -> dict[str, str]:
    """Metadata of the folds' weights: per member, which subjects it learned from."""
    members = [
        {
            "fold": fold.name,
            "seed": seed,
            "held_out": sorted(fold.held_out),
            "subjects_seen": mixture.subjects_seen(f, before),
        }
        for mixture, seed in zip(mixtures, config.seeds, strict=True)
        for f, fold in enumerate(mixture.folds)
    ]
    return {"model": config.model, "classes": json.dumps(config.labels.names), "members": json.dumps(members)}


def _finished(folder: Path, config: RunConfig) -> LosoResult:
    try:
        found = json.loads((folder / RESULT).read_text())
        digests.check(folder, [RESULT, PREDICTIONS, CONFIG])
        table = results.read_table(folder / PREDICTIONS)
        plain = ("protocol", "model", "left_out", "n_parameters", "tried", "oracle", "seconds", "config")
        return LosoResult(
            predictions=table,
            **{k: found[k] for k in plain},
            config_hash=found["config_hash"],
            folds=tuple(found["folds"]),
            notes=tuple(found.get("notes", ())),
            constants=found.get("constants", {}),
            **figures(table, config.labels),
        )
    except MesynthError:
        raise
    except (OSError, LookupError, TypeError, ValueError, RecursionError):
        raise RunFolderError(f"{folder} holds a damaged result; remove {os.path.join(folder, RESULT)}") from None


# ---------------------------------------------------------------- blocks


PARTS = "parts"
BLOCK = 32
"""Members a block, if they are small."""
_HELD = 4 * 2**30
"""Bytes that the members of a block may take with their gradients and moments."""
_KEPT = 2**30
"""Bytes of weights that a run keeps; what is larger leaves its predictions alone."""
ORACLE_POINTS = 20
"""Points of training that an oracle picks from, besides the end."""
ORACLE_SCHEMA = pa.schema(
    {"seed": pa.int64(), "fold": pa.string(), "clip_id": pa.string(), "y": pa.int32(), "predicted": pa.int32()}
)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A member's place in a run: fold ``f`` of a mixture, and the seed."""

    mixture: Mixture
    seed: int
    f: int

    @property
    def member(self) -> Member:
        """What is trained here."""
        fold, weights = self.mixture.folds[self.f], self.mixture.weights[self.f]
        return Member.of(fold.name, self.seed, weights, self.mixture.pool.y, self.mixture.free_of(self.f))

    @property
    def test(self) -> np.ndarray:
        """Positions of the real clips that are tested."""
        return self.mixture.folds[self.f].test_index


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """Members trained: predictions of their test clips, and the oracle's rows if it was asked. Their tensors are in
    the block's file alone, so that memory does not grow with folds and seeds."""

    table: pa.Table
    n_parameters: int
    oracle: pa.Table = field(default_factory=lambda: pa.table({n: [] for n in ORACLE_SCHEMA.names}, ORACLE_SCHEMA))
    prior_weights: tuple[float, ...] = ()
    """As :func:`recognizer.fitting.chosen_weights`."""


def _places_of(mixtures: Sequence[Mixture], seeds: Sequence[int]) -> list[_Place]:
    """Seeds x folds, in that order."""
    pairs = zip(mixtures, seeds, strict=True)
    return [_Place(mixture=mixture, seed=seed, f=f) for mixture, seed in pairs for f in range(len(mixture.folds))]


def _run_blocks(
    places: Sequence[_Place],
    real: FlowSet,
    config: RunConfig,
    condition: Condition,
    *,
    folder: Path | None,
    pretrained: Pretrained = Pretrained(),
    oracle: bool = False,
    progress: training.Progress | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[_Outcome | None]:
    """Train and test all members; with ``folder``, skip the blocks it holds.

    ``share``: (rank, count) of the processes; blocks of others come back as None, to be read when all are done. Models
    in closed form share products over all folds: they are one block, of the first process.
    """
    size, keep = len(places), True
    if not is_closed(config, config.model):
        bytes_each = 4 * sum(p.numel() for p in skeleton(config).parameters()) * len(shares_of(config))
        size, keep = max(min(BLOCK, _HELD // (5 * bytes_each)), 1), bytes_each * len(places) <= _KEPT
    parts = None if folder is None else folder / PARTS
    out: list[_Outcome | None] = []
    total = len(places)
    for number, first in enumerate(range(0, total, size)):
        block = places[first : first + size]
        found = None if parts is None else _read_block(parts, number)
        if found is None and number % share[1] == share[0]:

            def report(done: float, of: float, first: int = first, n: int = len(block)) -> None:
                if progress:
                    progress(first + n * done / max(of, 1), total)

            found, tensors = _train(block, real, config, condition, pretrained, oracle, report)
            if parts is not None:
                _write(parts, number, found, tensors if keep else {})
        out.append(found)
        if progress:
            progress(first + len(block), total)
    return out


def _train(
    block: Sequence[_Place],
    real: FlowSet,
    config: RunConfig,
    condition: Condition,
    pretrained: Pretrained,
    oracle: bool,
    progress: training.Progress,
) -> tuple[_Outcome, dict[str, torch.Tensor]]:
    mixture = block[0].mixture
    predicted: list[list[np.ndarray]] = [[] for _ in block]  # a member belongs to one thread

    def predict_now(members: range, tensors: dict[str, torch.Tensor]) -> None:
        here = NetworkMembers(skeleton(config), tensors, transform_of(config), top_of(config), head_of(config))
        for i, m in enumerate(members):
            predicted[m].append(here.probabilities(i, real.inputs(block[m].test)).argmax(1))

    trained = fit(
        mixture.pool, mixture.added, [place.member for place in block], config, progress, pretrained=pretrained,
        callback=predict_now if oracle else None, calls=ORACLE_POINTS,
    )  # fmt: skip
    tables, best = [], []
    for i, place in enumerate(block):
        fold = place.mixture.folds[place.f]
        scores = trained.probabilities(i, real.inputs(place.test))
        tables.append(results.fold_table(condition, place.seed, fold, real, scores))
        if oracle:
            best.append(_oracle_rows(place, real, [*predicted[i], scores.argmax(1)]))
    outcome = _Outcome(
        table=results.join(tables), n_parameters=trained.n_parameters, prior_weights=chosen_weights(trained, config)
    )
    return (replace(outcome, oracle=pa.concat_tables(best)) if oracle else outcome), trained.tensors()


def _oracle_rows(place: _Place, real: FlowSet, predicted: Sequence[np.ndarray]) -> pa.Table:
    """The point of training that did best on the very clips it is tested on."""
    y, n = real.y[place.test], len(place.test)
    best = predicted[int(np.argmax([(p == y).sum() for p in predicted]))]
    columns = {
        "seed": [place.seed] * n, "fold": [place.mixture.folds[place.f].name] * n,
        "clip_id": real.clip_ids[place.test].tolist(), "y": y.tolist(), "predicted": best.tolist(),
    }  # fmt: skip
    return pa.table(columns, schema=ORACLE_SCHEMA)


# ---------------------------------------------------------------- files


def _write(parts: Path, number: int, outcome: _Outcome, tensors: dict[str, torch.Tensor]) -> None:
    """The tensors come last: a block without them is not done."""
    parts.mkdir(exist_ok=True)
    results.write_table(outcome.table, parts / f"{number:05d}.parquet")
    results.write_table(outcome.oracle, parts / f"{number:05d}.oracle.parquet")
    meta = {"n_parameters": str(outcome.n_parameters), "prior_weights": json.dumps(outcome.prior_weights)}
    kept = {name: value.contiguous() for name, value in tensors.items()}
    write_bytes(parts / f"{number:05d}.safetensors", safetensors_bytes(kept, metadata=meta))


def _read_block(parts: Path, number: int) -> _Outcome | None:
    """A finished block, or None.

    Raises:
        RunFolderError: its files are damaged.
    """
    file = parts / f"{number:05d}.safetensors"
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="np") as opened:
            meta = opened.metadata() or {}
            n_parameters = int(json.loads(meta["n_parameters"]))
            worth = tuple(map(float, json.loads(meta.get("prior_weights", "[]"))))
        oracle = pa.parquet.read_table(parts / f"{number:05d}.oracle.parquet", schema=ORACLE_SCHEMA)
        table = results.read_table(parts / f"{number:05d}.parquet")
    except (SafetensorError, OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
        raise RunFolderError(f"{file} is damaged ({error}); remove it and run the same command again") from None
    return _Outcome(table=table, n_parameters=n_parameters, oracle=oracle, prior_weights=worth)


def _joined(outcomes: Sequence[_Outcome]) -> _Outcome:
    """All members of a run, in order."""
    table = results.join([o.table for o in outcomes])
    oracle = pa.concat_tables([o.oracle for o in outcomes]).combine_chunks()
    worth = tuple(value for o in outcomes for value in o.prior_weights)
    return _Outcome(table=table, n_parameters=outcomes[0].n_parameters, oracle=oracle, prior_weights=worth)


def _remove_blocks(folder: Path) -> None:
    """Delete the blocks' files; the finished result holds all they did."""
    parts = folder / PARTS
    if parts.is_dir():
        for file in parts.iterdir():
            file.unlink()
        parts.rmdir()
