"""Measure synthetic corpora against a real one: every measure that can be made here, and why not for the rest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mesynth.errors import ConfigError, ManifestError, MesynthError, WeightsUnavailable
from mesynth.manifest import Manifest
from mesynth.quality.clips import subset
from mesynth.quality.collect_motion import FlowFidelity, Sequence
from mesynth.quality.collectors import Collector
from mesynth.quality.comparison import Comparison
from mesynth.quality.extractors import FeatureExtractor, best_extractor
from mesynth.quality.feeding import Counter, LeftOut, Progress, clock, feed, merge
from mesynth.quality.identity import FaceEmbedder
from mesynth.quality.judge import AUJudge
from mesynth.quality.known import Known
from mesynth.quality.per_clip import AUControlByClip, ClipFigures, IdentityByClip, PicturesByClip
from mesynth.quality.perceptual import best_distance
from mesynth.quality.report import MeasureReport, MeasureRow, not_measured


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
    progress: Progress | None = None,
) -> Comparison:
    """Compare each corpus of ``synthetic`` (by name) with ``real``; all prepared (frames, landmarks).

    A corpus' figures depend on the seed, on itself and on ``real``, not on what else is measured beside it. The
    real clips are read once. ``training`` is what the generators learned from; with it, memorisation is measured.
    A measure whose weights or inputs are missing is reported as not measured, with the reason; the others go on.
    Memory does not grow with the corpora: ``config.clips`` clips of each are read, one at a time.

    Raises:
        ManifestError: a manifest is empty, unreadable, or on the wrong side (real clips as synthetic).
        WeightsUnavailable: a weight file given by name cannot be used.
    """
    if not synthetic:
        raise ConfigError("no synthetic corpus to measure; give at least one")
    for manifest in synthetic.values():
        _check_sides(real, manifest)
    rows: list[MeasureRow] = []
    notes: list[str] = []
    seconds: dict[str, float] = {}
    with clock(seconds, "load weights"):
        kit = _load(config, rows, notes, inception_weights, lpips_weights, judge_weights, allow_download)
    collectors, fed = _feed_all(real, synthetic, config, kit, seconds, progress)
    known = Known(real, training, kit.features, config.clips, config.seed)
    reports, clips = {}, {}
    for name, manifest in synthetic.items():
        left_out, own_seconds = fed[name]
        spent = dict(seconds)
        for group, value in own_seconds.items():
            spent[group] = spent.get(group, 0.0) + value
        found, plots = _conclude(collectors[name], left_out, spent)
        pictures = next((c for c in collectors[name] if isinstance(c, PicturesByClip)), None)
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
        clips[name] = _by_clip(collectors[name], pictures, known)
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


def _load(
    config: MeasureConfig,
    rows: list[MeasureRow],
    notes: list[str],
    inception_weights: Path | str | None,
    lpips_weights: Path | str | None,
    judge_weights: Path | str | None,
    allow_download: bool,
) -> _Kit:
    """Every collector whose weights are here; the others become rows that say what is missing."""
    out: list[Collector] = []
    networks: list[object] = []
    features: FeatureExtractor | None = None
    try:
        features, feature_note = best_extractor(inception_weights, allow_download=allow_download)
        perceptual, perceptual_note = best_distance(lpips_weights, allow_download=allow_download)
        notes += [feature_note, perceptual_note]
        networks += [features, perceptual]
        out.append(PicturesByClip(features, perceptual, by=config.bootstrap, seed=config.seed))
    except WeightsUnavailable as error:
        if inception_weights is not None or lpips_weights is not None:
            raise
        rows.append(not_measured(PicturesByClip.group, str(error)))
    try:
        networks.append(embedder := FaceEmbedder())
        clips, step = config.identity_clips, config.identity_step
        out.append(IdentityByClip(embedder, clips=clips, step=step, by=config.bootstrap, seed=config.seed))
    except WeightsUnavailable as error:
        rows.append(not_measured(IdentityByClip.group, str(error)))
    try:
        networks.append(judge := AUJudge.load(judge_weights))
        out.append(AUControlByClip(judge, by=config.bootstrap, seed=config.seed))
    except WeightsUnavailable as error:
        if judge_weights is not None:
            raise
        rows.append(not_measured(AUControlByClip.group, str(error)))
    return _Kit([*out, FlowFidelity(), Sequence()], features, networks)


def _feed_all(
    real: Manifest,
    synthetic: Mapping[str, Manifest],
    config: MeasureConfig,
    kit: _Kit,
    seconds: dict[str, float],
    progress: Progress | None,
) -> tuple[dict[str, list[Collector]], dict[str, tuple[LeftOut, dict[str, float]]]]:
    """Show every chosen clip to the collectors of its corpus: those, and what was left out and spent, by corpus.

    Two threads: collectors keep the sides apart, so the order of clips within each, and with it every figure, is
    the same as with a single thread. One corpus is read beside the real clips; of several, each goes on from a copy
    of the collectors that saw them.
    """
    chosen = {name: subset(m, config.clips, config.seed, "synthetic") for name, m in synthetic.items()}
    real_rows = subset(real, config.clips, config.seed, "real")
    counter = Counter(len(real_rows) + sum(map(len, chosen.values())), progress)
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(2) as pool:
            base = kit.collectors
            first = pool.submit(feed, "real", real, real_rows, base, counter)
            if len(synthetic) > 1:
                first.result()
            collectors = {name: base if len(synthetic) == 1 else kit.copy(base) for name in synthetic}
            futures = {
                name: pool.submit(feed, "synthetic", m, chosen[name], collectors[name], counter)
                for name, m in synthetic.items()
            }
            left_real, spent_real = first.result()
            fed = {name: future.result() for name, future in futures.items()}
    finally:
        torch.set_num_threads(threads)
    counter.finish()
    for group, value in spent_real.items():
        seconds[group] = seconds.get(group, 0.0) + value
    return collectors, {name: (merge(left_real, left), spent) for name, (left, spent) in fed.items()}


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
