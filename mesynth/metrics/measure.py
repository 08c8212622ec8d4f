"""Measure synthetic corpora against a real one: every measure that can be made here, and why not for the rest."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mesynth.core.errors import ConfigError, ManifestError, MesynthError, WeightsUnavailable
from mesynth.metrics.clips import subset
from mesynth.metrics.collect_motion import FlowFidelity, Sequence
from mesynth.metrics.collectors import Collector, Diversity
from mesynth.metrics.comparison import Comparison
from mesynth.metrics.evaluate import LeftOut, Progress, add, clock, feed_ahead, feed_all
from mesynth.metrics.identity import FaceEmbedder
from mesynth.metrics.known import Known
from mesynth.metrics.networks.extractors import FeatureExtractor, best_extractor
from mesynth.metrics.networks.judge import AUJudge
from mesynth.metrics.per_clip import AUControlByClip, ClipFigures, IdentityByClip, PicturesByClip
from mesynth.metrics.perceptual import best_distance
from mesynth.metrics.report import MeasureReport, MeasureRow, not_measured
from mesynth.store.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is measured on how many clips. Weight files are options of :func:`measure`, not of the recipe."""

    clips: int = 200
    """Clips drawn from each side; the rest of a large corpus is not read."""
    identity_clips: int = 24
    """Clips a side whose faces are embedded (the slowest step on a CPU)."""
    identity_step: int = 8
    """Each of these frames is compared with the onset, besides the apex."""
    bootstrap: str = "clip"
    """What the intervals resample: clip or subject."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 4:
            raise ConfigError(f"clips={self.clips} is too few; a distance between distributions needs at least 4")
        if min(self.identity_clips, self.identity_step) < 1:
            raise ConfigError("identity_clips and identity_step must be at least 1")
        if self.bootstrap not in ("clip", "subject"):
            raise ConfigError(f"bootstrap '{self.bootstrap}' is unknown; choose clip or subject")


def measure(
    real: Manifest,
    synthetic: Manifest,
    config: MeasureConfig = MeasureConfig(),
    *,
    training: Manifest | None = None,
    inception_weights: Path | str | None = None,
    lpips_weights: Path | str | None = None,
    judge_weights: Path | str | None = None,
    allow_download: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> MeasureReport:
    """Compare ``synthetic`` with ``real``: :func:`measure_all` of one corpus, without its figures by clip."""
    found = measure_all(
        real,
        {"synthetic": synthetic},
        config,
        training=training,
        inception_weights=inception_weights,
        lpips_weights=lpips_weights,
        judge_weights=judge_weights,
        allow_download=allow_download,
        workers=workers,
        progress=progress,
    )
    return found.reports["synthetic"]


def measure_all(
    real: Manifest,
    synthetic: Mapping[str, Manifest],
    config: MeasureConfig = MeasureConfig(),
    *,
    training: Manifest | None = None,
    inception_weights: Path | str | None = None,
    lpips_weights: Path | str | None = None,
    judge_weights: Path | str | None = None,
    allow_download: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Compare each corpus of ``synthetic`` (by name) with ``real``; all prepared (frames, landmarks).

    A corpus' figures depend on the seed, on itself and on ``real``, not on what else is measured beside it. The
    real clips are read once. ``training`` is what the generators learned from; with it, memorisation is measured.
    A measure whose weights or inputs are missing is reported as not measured, with the reason; the others go on.
    Memory does not grow with the corpora: ``config.clips`` clips of each are read, one at a time. ``workers``:
    processes that look at clips (0: one per core; 1: two threads of this one); no figure depends on it.
    ``allow_download``: weights that are missing are fetched; where that fails, the report says so.

    Raises:
        ManifestError: a manifest is empty, unreadable, or on the wrong side (real clips as synthetic).
        WeightsUnavailable: a weight file given by name cannot be used.
        MesynthError: a worker process died.
    """
    if workers < 0:
        raise ConfigError(f"workers={workers}; give 0 (one per core) or more")
    if not synthetic:
        raise ConfigError("no synthetic corpus to measure; give at least one")
    for manifest in synthetic.values():
        _check_sides(real, manifest)
    rows: list[MeasureRow] = []
    notes: list[str] = []
    seconds: dict[str, float] = {}
    weights = _Weights(inception_weights, lpips_weights, judge_weights, allow_download)
    with clock(seconds, "load weights"):
        kit = _load(config, weights, rows, notes)
    sides = {name: ("synthetic", m, subset(m, config.clips, config.seed, "synthetic")) for name, m in synthetic.items()}
    truth = ("real", real, subset(real, config.clips, config.seed, "real"))
    every = (truth, sides, kit.collectors, kit.copy, progress)
    if (workers := workers or os.cpu_count() or 1) > 1:
        again = partial(_collectors, config, replace(weights, allow_download=False))  # what was missing is here now
        fed = feed_ahead(*every, load=again, workers=workers)
    else:
        fed = feed_all(*every)
    add(seconds, fed.real_seconds)
    known = Known(real, training, kit.features, config.clips, config.seed)
    reports, clips = {}, {}
    for name, manifest in synthetic.items():
        left_out, collectors = fed.left_out[name], fed.collectors[name]
        spent = dict(seconds)
        add(spent, fed.seconds[name])
        found, plots = _conclude(collectors, left_out, spent)
        pictures = next((c for c in collectors if isinstance(c, PicturesByClip)), None)
        if training is not None:
            with clock(spent, "memorisation"):
                found += known.rows(pictures.apex["synthetic"] if pictures else [])
        more = [
            f"{g}: {count} clips left out: {why}" for g, counts in left_out.items() for why, count in counts.items()
        ]
        settings = asdict(config) | {"features": kit.features.name if kit.features else "none"}
        reports[name] = MeasureReport(
            rows=(*rows, *found),
            corpora={"real": _describe(real, config.clips), "synthetic": _describe(manifest, config.clips)},
            settings=settings,
            notes=(*notes, *more),
            seconds=spent,
            plots=plots,
        )
        clips[name] = _by_clip(collectors, pictures, known)
    return Comparison(
        real=real, synthetic=dict(synthetic), reports=reports, clips=clips, training=training, known=known.name
    )


def _check_sides(real: Manifest, synthetic: Manifest) -> None:
    for name, manifest in (("real", real), ("synthetic", synthetic)):
        if not len(manifest):
            raise ManifestError(f"the {name} manifest in {manifest.root} holds no clips")
    kinds = {name: set(m.column("provenance.kind")) for name, m in (("real", real), ("synthetic", synthetic))}
    if "synthetic" in kinds["real"]:
        raise ManifestError(f"the real manifest in {real.root} holds synthetic clips; were the two swapped?")
    if "real" in kinds["synthetic"]:
        raise ManifestError(f"the synthetic manifest in {synthetic.root} holds real clips; were the two swapped?")


# ---------------------------------------------------------------- collectors


@dataclass(frozen=True)
class _Kit:
    """The collectors, still empty, and the networks that all their copies share."""

    collectors: list[Collector]
    features: FeatureExtractor | None
    networks: list[object]

    def copy(self, collectors: list[Collector]) -> list[Collector]:
        """Collectors that go on from what ``collectors`` have seen; the networks are not copied."""
        return copy.deepcopy(collectors, {id(network): network for network in self.networks})


@dataclass(frozen=True)
class _Weights:
    """Where weights are looked for; see :func:`measure_all`."""

    inception: Path | str | None
    lpips: Path | str | None
    judge: Path | str | None
    allow_download: bool


def _load(config: MeasureConfig, weights: _Weights, rows: list[MeasureRow], notes: list[str]) -> _Kit:
    """Every collector whose weights are here; the others become rows that say what is missing."""
    out: list[Collector] = []
    networks: list[object] = []
    features: FeatureExtractor | None = None
    try:
        features, feature_note = best_extractor(weights.inception, allow_download=weights.allow_download)
        perceptual, perceptual_note = best_distance(weights.lpips, allow_download=weights.allow_download)
        notes += [feature_note, perceptual_note]
        networks += [features, perceptual]
        out += [PicturesByClip(features, perceptual, by=config.bootstrap, seed=config.seed), Diversity(perceptual)]
    except WeightsUnavailable as error:
        if weights.inception is not None or weights.lpips is not None:
            raise
        rows.append(not_measured(PicturesByClip.group, str(error)))
    try:
        networks.append(embedder := FaceEmbedder())
        clips, step = config.identity_clips, config.identity_step
        out.append(IdentityByClip(embedder, clips=clips, step=step, by=config.bootstrap, seed=config.seed))
    except WeightsUnavailable as error:
        rows.append(not_measured(IdentityByClip.group, str(error)))
    try:
        networks.append(judge := AUJudge.load(weights.judge))
        out.append(AUControlByClip(judge, by=config.bootstrap, seed=config.seed))
    except WeightsUnavailable as error:
        if weights.judge is not None:
            raise
        rows.append(not_measured(AUControlByClip.group, str(error)))
    return _Kit([*out, FlowFidelity(), Sequence()], features, networks)


def _collectors(config: MeasureConfig, weights: _Weights) -> list[Collector]:
    """Empty collectors, for a process of its own."""
    return _load(config, weights, [], []).collectors


def _conclude(
    collectors: list[Collector], left_out: LeftOut, seconds: dict[str, float]
) -> tuple[list[MeasureRow], dict[str, bytes]]:
    """Rows and plots of one corpus."""
    rows: list[MeasureRow] = []
    plots: dict[str, bytes] = {}
    for collector in collectors:
        with clock(seconds, collector.group):
            try:
                rows += collector.rows()
                plots |= collector.plots()
            except MesynthError as error:
                reasons = "; ".join(left_out.get(collector.group, {}))
                rows.append(not_measured(collector.group, f"{error}" + (f" ({reasons})" if reasons else "")))
    return rows, plots


def _by_clip(collectors: list[Collector], pictures: PicturesByClip | None, known: Known) -> tuple[ClipFigures, ...]:
    """The figures of each measured synthetic clip, in the order in which they were read."""
    identity: dict[str, float] = {}
    errors: dict[str, float] = {}
    for collector in collectors:
        if isinstance(collector, IdentityByClip):
            identity = collector.largest
        elif isinstance(collector, AUControlByClip):
            errors = collector.errors()
    near: dict[str, tuple[str, float]] = {}
    if pictures is not None:
        real = dict(zip(pictures.ids["real"], pictures.apex["real"], strict=True))
        near = known.nearest(dict(zip(pictures.ids["synthetic"], pictures.apex["synthetic"], strict=True)), real)
    return tuple(
        ClipFigures(
            clip_id=clip,
            identity=identity.get(clip),
            au_error=errors.get(clip),
            nearest=near.get(clip, ("", 0.0))[0],
            distance=near[clip][1] if clip in near else None,
        )
        for clip in dict.fromkeys([*near, *identity, *errors])
    )


def _describe(manifest: Manifest, clips: int) -> dict[str, str | int]:
    return {
        "clips": len(manifest),
        "measured": min(clips, len(manifest)),
        "subjects": len(np.unique(manifest.subject_keys())),
        "databases": ", ".join(sorted(set(manifest.column("database")))),
        "hash": manifest.hash(),
    }
