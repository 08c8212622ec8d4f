"""Measure synthetic corpora against a real one: every measure that can be made here, and why not for the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.devices import find_device
from mesynth.core.errors import ConfigError, ManifestError, MesynthError, WeightsUnavailable
from mesynth.metrics.base import METRICS, MeasureConfig, MeasureRow, Metric, Setup, not_measured, subset
from mesynth.metrics.evaluate import Evaluation, Makers, Progress, clock, evaluate
from mesynth.metrics.fid import stored_formats, unlike
from mesynth.metrics.memorisation import KnownClips
from mesynth.metrics.networks import GivenWeightsUnavailable, Networks
from mesynth.metrics.pictures import Pictures
from mesynth.metrics.report import ClipFigures, Comparison, MeasureReport
from mesynth.store.manifest import Manifest


def measure(
    real: Manifest,
    synthetic: Manifest,
    config: MeasureConfig = MeasureConfig(),
    **options: Any,
) -> MeasureReport:
    """Compare ``synthetic`` with ``real``: :func:`measure_all` of one corpus, with its options, without its figures by
    clip."""
    return measure_all(real, {"synthetic": synthetic}, config, **options).reports["synthetic"]


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
    device: str = "cpu",
    progress: Progress | None = None,
) -> Comparison:
    """Compare each corpus of ``synthetic`` (by name) with ``real``; all prepared (frames, landmarks).

    A corpus' figures depend on the seed, on itself and on ``real``, not on what else is measured beside it. The
    real clips are read once. ``training`` is what the generators learned from; with it, memorisation is measured.
    A measure whose weights or inputs are missing is reported as not measured, with the reason; the others go on.
    Memory does not grow with the corpora: ``config.clips`` clips of each are read, one at a time. ``workers``:
    processes that read clips (0: one per core; 1: two threads of this one); no figure depends on it.
    ``device``: where the picture networks and the AU judge run; the face network (dlib's) stays on the CPU.
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
    where = find_device(device)
    for manifest in synthetic.values():
        _check_sides(real, manifest)
    networks = Networks(
        inception=inception_weights,
        lpips=lpips_weights,
        judge=judge_weights,
        allow_download=allow_download,
        device=where,
    )
    seconds: dict[str, float] = {}
    with clock(seconds, "load weights"):
        makers, rows = _available(Setup(config, networks))
    sides = {name: ("synthetic", m, subset(m, config.clips, config.seed, "synthetic")) for name, m in synthetic.items()}
    truth = ("real", real, subset(real, config.clips, config.seed, "real"))
    found, real_seconds = evaluate(
        truth, sides, makers, workers=workers or os.cpu_count() or 1, progress=progress
    )  # fmt: skip
    features = networks.pictures[0] if "pictures" in makers.names else None
    known = KnownClips(real, training, features, config.clips, config.seed)
    reports, clips = {}, {}
    for name, manifest in synthetic.items():
        own = found[name]
        own.seconds = _summed(seconds, real_seconds, own.seconds)
        concluded, plots = _concluded(own)
        pictures = own.metrics.get("pictures")
        pictures = pictures if isinstance(pictures, Pictures) else None
        if training is not None:
            with clock(own.seconds, "memorisation"):
                concluded += known.rows(list(pictures.values("synthetic", "apex")) if pictures else [])
        left_out = [
            f"{label}: {count} clips left out: {why}"
            for label, reasons in own.left_out.items()
            for why, count in reasons.items()
        ]
        settings = asdict(config) | {"features": features.name if features else "none"}
        reports[name] = MeasureReport(
            rows=(*rows, *concluded),
            corpora={"real": _describe(real, config.clips), "synthetic": _describe(manifest, config.clips)},
            settings=settings,
            notes=(*networks.notes, *_unlike(real, manifest), *left_out),
            seconds=own.seconds,
            plots=plots,
        )
        clips[name] = _by_clip(own.metrics, pictures, known)
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


def _available(setup: Setup) -> tuple[Makers, list[MeasureRow]]:
    """Every measure whose networks are here; the others become rows that say what is missing, one a heading."""
    names: list[str] = []
    missing: dict[str, MeasureRow] = {}
    for name in METRICS:
        made = METRICS[name]
        try:
            made(setup)
        except GivenWeightsUnavailable:
            raise
        except WeightsUnavailable as error:
            missing.setdefault(made.label, not_measured(made.label, str(error)))
        else:
            names.append(name)
    return Makers(setup, tuple(names)), list(missing.values())


def _summed(*parts: Mapping[str, float]) -> dict[str, float]:
    out: dict[str, float] = {}
    for part in parts:
        for label, value in part.items():
            out[label] = out.get(label, 0.0) + value
    return out


def _concluded(found: Evaluation) -> tuple[list[MeasureRow], dict[str, bytes]]:
    """Rows and plots of one corpus."""
    rows: list[MeasureRow] = []
    plots: dict[str, bytes] = {}
    for metric in found.metrics.values():
        with clock(found.seconds, metric.label):
            try:
                rows += metric.compute()
                plots |= metric.plots() if hasattr(metric, "plots") else {}
            except MesynthError as error:
                reasons = "; ".join(found.left_out.get(metric.label, {}))
                rows.append(not_measured(metric.label, f"{error}" + (f" ({reasons})" if reasons else "")))
    return rows, plots


def _by_clip(metrics: Mapping[str, Metric], pictures: Pictures | None, known: KnownClips) -> tuple[ClipFigures, ...]:
    """The figures of each measured synthetic clip, in the order in which they were read."""
    identity, errors = (
        metrics[name].by_clip() if name in metrics else {}  # type: ignore[attr-defined]
        for name in ("identity", "au_control")
    )
    near = known.nearest(pictures.apexes("synthetic"), pictures.apexes("real")) if pictures else {}
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


def _unlike(real: Manifest, synthetic: Manifest) -> list[str]:
    """Lines on formats and sizes of the frames, where those of the two sides differ."""

    def sizes(manifest: Manifest) -> Counter[str]:
        return Counter(f"{w}x{h}" for w, h in zip(manifest.column("width"), manifest.column("height"), strict=True))

    return [
        *unlike("format", stored_formats(real), stored_formats(synthetic)),
        *unlike("size", sizes(real), sizes(synthetic)),
    ]


def _describe(manifest: Manifest, clips: int) -> dict[str, str | int]:
    return {
        "clips": len(manifest),
        "measured": min(clips, len(manifest)),
        "subjects": len(np.unique(manifest.subject_keys())),
        "databases": ", ".join(sorted(set(manifest.column("database")))),
        "hash": manifest.hash(),
    }
