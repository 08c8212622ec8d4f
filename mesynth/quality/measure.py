"""Measure a synthetic corpus against a real one: every measure that can be made here, and why not for the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mesynth.errors import ConfigError, ManifestError, MesynthError, WeightsUnavailable
from mesynth.manifest import Manifest
from mesynth.quality.clips import subset, walk
from mesynth.quality.collect_motion import FlowFidelity, Sequence
from mesynth.quality.collectors import AUControl, Collector, Identity, Pictures
from mesynth.quality.extractors import FeatureExtractor, best_extractor
from mesynth.quality.identity import FaceEmbedder
from mesynth.quality.judge import AUJudge
from mesynth.quality.memorisation import memorisation
from mesynth.quality.perceptual import best_distance
from mesynth.quality.report import MeasureReport, MeasureRow

Progress = Callable[[int, int], None]


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
    """Compare ``synthetic`` with ``real``; both prepared (frames, landmarks). Depends on the seed alone.

    ``training`` is what the generator learned from; with it, memorisation is measured. A measure whose
    weights or inputs are missing is reported as not measured, with the reason; the others go on. Memory
    does not grow with the corpora: ``config.clips`` clips of each are read, one at a time.

    Raises:
        ManifestError: a manifest is empty, unreadable, or on the wrong side (real clips as synthetic).
        WeightsUnavailable: a weight file given by name cannot be used.
    """
    _check_sides(real, synthetic)
    rows: list[MeasureRow] = []
    notes: list[str] = []
    seconds: dict[str, float] = {}
    with _clock(seconds, "load weights"):
        collectors, features = _collectors(
            config, rows, notes, inception_weights, lpips_weights, judge_weights, allow_download
        )
    left_out = _feed(real, synthetic, config, collectors, seconds, progress)
    plots: dict[str, bytes] = {}
    for collector in collectors:
        with _clock(seconds, collector.group):
            try:
                rows += collector.rows()
                plots |= collector.plots()
            except MesynthError as error:
                reasons = "; ".join(left_out.get(collector.group, {}))
                rows.append(_not_measured(collector.group, f"{error}" + (f" ({reasons})" if reasons else "")))
    if training is not None:
        with _clock(seconds, "memorisation"):
            rows += _memorisation(training, real, synthetic, features, collectors, config)
    for group, counts in left_out.items():
        notes += [f"{group}: {count} clips left out: {why}" for why, count in counts.items()]
    settings = asdict(config) | {"features": features.name if features else "none"}
    corpora = {"real": _describe(real, config.clips), "synthetic": _describe(synthetic, config.clips)}
    return MeasureReport(
        rows=tuple(rows), corpora=corpora, settings=settings, notes=tuple(notes), seconds=seconds, plots=plots
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


def _collectors(
    config: MeasureConfig,
    rows: list[MeasureRow],
    notes: list[str],
    inception_weights: Path | str | None,
    lpips_weights: Path | str | None,
    judge_weights: Path | str | None,
    allow_download: bool,
) -> tuple[list[Collector], FeatureExtractor | None]:
    """Every collector whose weights are here; the others become rows that say what is missing."""
    out: list[Collector] = []
    features: FeatureExtractor | None = None
    try:
        features, feature_note = best_extractor(inception_weights, allow_download=allow_download)
        perceptual, perceptual_note = best_distance(lpips_weights, allow_download=allow_download)
        notes += [feature_note, perceptual_note]
        out.append(Pictures(features, perceptual, by=config.bootstrap, seed=config.seed))
    except WeightsUnavailable as error:
        if inception_weights is not None or lpips_weights is not None:
            raise
        rows.append(_not_measured(Pictures.group, str(error)))
    try:
        out.append(Identity(FaceEmbedder(), clips=config.identity_clips, step=config.identity_step))
    except WeightsUnavailable as error:
        rows.append(_not_measured(Identity.group, str(error)))
    try:
        out.append(AUControl(AUJudge.load(judge_weights)))
    except WeightsUnavailable as error:
        if judge_weights is not None:
            raise
        rows.append(_not_measured(AUControl.group, str(error)))
    return [*out, FlowFidelity(), Sequence()], features


def _feed(
    real: Manifest,
    synthetic: Manifest,
    config: MeasureConfig,
    collectors: list[Collector],
    seconds: dict[str, float],
    progress: Progress | None,
) -> dict[str, dict[str, int]]:
    """Show every chosen clip to every collector; returns, per group, how many were left out and why.

    One thread a side: collectors keep the sides apart, so the order of clips within each, and with it every
    figure, is the same as with a single thread.
    """
    chosen = {"real": subset(real, config.clips, config.seed, "real"),
              "synthetic": subset(synthetic, config.clips, config.seed, "synthetic")}  # fmt: skip
    total = sum(map(len, chosen.values()))
    lock, done = threading.Lock(), 0

    def feed(side: str, manifest: Manifest) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
        nonlocal done
        torch.set_num_threads(1)  # the sides are the parallelism; kernels this small only wait for each other
        left_out: dict[str, dict[str, int]] = {}
        spent: dict[str, float] = {}
        unreadable: dict[str, int] = {}
        for clip in walk(manifest, chosen[side], side, unreadable):
            for collector in collectors:
                with _clock(spent, collector.group):
                    try:
                        collector.add(clip)
                    except MesynthError as error:
                        reasons = left_out.setdefault(collector.group, {})
                        why = str(error).replace(clip.row.clip_id, "...")
                        reasons[why] = reasons.get(why, 0) + 1
            with lock:
                done += 1
                if progress:
                    progress(done, total)
        if sum(unreadable.values()) == len(chosen[side]):
            why = next(iter(unreadable))
            raise ManifestError(f"no clip of the {side} manifest in {manifest.root} can be read: {why}")
        return left_out | ({f"{side} clips": unreadable} if unreadable else {}), spent

    threads = torch.get_num_threads()
    merged: dict[str, dict[str, int]] = {}
    try:
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(feed, side, m) for side, m in (("real", real), ("synthetic", synthetic))]
            for left_out, spent in (future.result() for future in futures):
                for group, reasons in left_out.items():
                    mine = merged.setdefault(group, {})
                    mine |= {why: mine.get(why, 0) + count for why, count in reasons.items()}
                for group, value in spent.items():
                    seconds[group] = seconds.get(group, 0.0) + value
    finally:
        torch.set_num_threads(threads)
    if progress:
        progress(total, total)
    return merged


def _memorisation(
    training: Manifest,
    real: Manifest,
    synthetic: Manifest,
    features: FeatureExtractor | None,
    collectors: list[Collector],
    config: MeasureConfig,
) -> list[MeasureRow]:
    """Nearest training frame, for synthetic apexes and for real people the generator has not seen."""
    group = "memorisation"
    if features is None:
        return [_not_measured(group, "no feature extractor is available")]
    known = set(training.subject_keys())
    held_out = real.filter(np.array([key not in known for key in real.subject_keys()], np.bool_))
    if not len(held_out):
        return [_not_measured(group, "every real subject is in the training set; give held-out real clips")]
    apexes = []
    for manifest, purpose in ((training, "training"), (held_out, "held-out")):
        rows = subset(manifest, config.clips, config.seed, purpose)
        clips = walk(manifest, rows, "real", {})
        apexes.append([features(clip.frames[[clip.row.apex_index]])[0] for clip in clips])
    own = next((c.apex["synthetic"] for c in collectors if isinstance(c, Pictures)), [])
    if not (own and all(apexes)):
        return [_not_measured(group, "no readable clip in the training set, among held-out clips, or synthetic")]
    found = memorisation(np.stack(own), np.stack(apexes[0]), np.stack(apexes[1]))
    note = f"distance to the nearest of {len(apexes[0])} training apexes, {features.name} features"
    return [
        MeasureRow(group=group, name="distance to training", value=found.synthetic, n=found.n,
                   reference={"held-out real": found.held_out}, note=f"median; {note}"),
        MeasureRow(group=group, name="copied share", value=found.copied, n=found.n, better="low",
                   reference={"expected without copying": 0.01}, headline=True,
                   note=f"synthetic apexes nearer than 99% of held-out ones; {note}"),
    ]  # fmt: skip


def _not_measured(group: str, why: str) -> MeasureRow:
    return MeasureRow(group=group, name=group, value=None, note=f"not measured: {why}")


def _describe(manifest: Manifest, clips: int) -> dict[str, str | int]:
    return {
        "clips": len(manifest),
        "measured": min(clips, len(manifest)),
        "subjects": len(np.unique(manifest.subject_keys())),
        "databases": ", ".join(sorted(set(manifest.column("database")))),
        "hash": manifest.hash(),
    }


@contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
