"""From a recording to predictions: spot what comes and goes, prepare it as the training clips were, classify it.

The one module of the recognizer that needs :mod:`mesynth.preprocess`: a video has to be prepared before it can be
classified, by the very code that prepared the clips the model learned from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mesynth.core.errors import NoFaceError, WeightsUnavailable
from mesynth.core.framing import OWN, KnownFraming
from mesynth.preprocess import spot_intervals as spotting
from mesynth.preprocess.align import SimilarityCrop
from mesynth.preprocess.config import PrepareConfig
from mesynth.preprocess.flow import flow_picture
from mesynth.preprocess.landmarks import Landmarker, resolve_landmarker
from mesynth.preprocess.prepare import landmarker_identity, landmarker_of, prepare, thin
from mesynth.preprocess.spot_intervals import IntervalConfig
from mesynth.store.manifest import Manifest, Provenance, Row
from mesynth.store.run_folder import claim_folder, only_writer, write_bytes, write_last
from mesynth.store.shards import read_flow, read_frames
from mesynth.store.stage import read_notes, read_skipped
from mesynth.store.videos import read_pictures
from recognizer import aus
from recognizer.config import needs_of
from recognizer.recording import (
    NOTHING,
    Interval,
    Recording,
    RecordingError,
    Shown,
    VideoPrediction,
    table_of,
    timeline_png,
)
from recognizer.results import write_table
from recognizer.sources import Progress, as_flow_set
from recognizer.trained import Preparation, Recognizer, standing
from recognizer.views import to_prepare

PREDICTIONS, INTERVALS, TIMELINE, CLIPS = "predictions.parquet", "intervals.json", "timeline.png", "clips"
_SPOT_SIZE, _SEGMENT_S = 128, 2.0


# ---------------------------------------------------------------- spotting


@dataclass(frozen=True, kw_only=True, eq=False)
class Spotting:
    """``signal`` [N] pixels at the frames ``at`` [N] (NaN: no face found), and what was read from it."""

    at: np.ndarray
    signal: np.ndarray
    threshold: float
    intervals: tuple[Interval, ...]
    left_out: tuple[dict[str, Any], ...]


def spot(
    recording: Recording,
    landmarker: Landmarker,
    *,
    requested: tuple[Interval, ...] = (),
    config: IntervalConfig = IntervalConfig(),
    progress: Progress | None = None,
) -> Spotting:
    """All movements that may be micro-expressions. The recording is decoded twice; memory does not grow with it.

    Faces are looked for and aligned anew every two seconds, so that a head may move on. ``requested``: the intervals
    are these, and the signal is measured for the picture alone.

    Raises:
        NoFaceError: no face anywhere, and no intervals asked for.
        UnreadableImageError: a frame that cannot be decoded.
    """
    at = np.arange(0, len(recording.names), recording.step)
    fps, n = recording.fps / recording.step, len(at)
    lag = config.lag(fps)
    edges = np.linspace(0, n, max(1, round(n / (_SEGMENT_S * fps))) + 1).round().astype(int).tolist()
    cores = [range(a, b) for a, b in pairwise(edges)]
    wide = [range(max(0, core.start - lag), min(n, core.stop + lag)) for core in cores]
    raw, noise = np.full(n, np.nan), []
    if progress:
        progress("spotting", 0, n)
    for i, frames in _windows(recording, at, wide, landmarker):
        core, first = cores[i], wide[i].start
        if frames is not None:
            found = spotting.movement(frames, None, fps, range(core.start - first, core.stop - first), config)
            raw[core.start : core.stop] = found.raw
            noise.append(found.noise)
        if progress:
            progress("spotting", core.stop, n)
    if not np.isfinite(raw).any() and not requested:
        raise NoFaceError(
            f"no face found in {recording.name} ({recording.width}x{recording.height} pixels, {len(cores)} frames "
            "searched); it needs one frontal face, at least about 60 pixels wide"
        )
    curve = spotting.smooth(raw, fps, config)
    least = spotting.threshold(np.concatenate([np.zeros(0), *noise]), config)
    if requested:
        return Spotting(at=at, signal=curve, threshold=least, intervals=requested, left_out=())
    tops = spotting.peaks(curve, least, fps, config)
    inner = spotting.around(curve, tops, fps, config)
    outer = [
        range(max(0, min(top - 2 * lag, r.start)), min(n, max(top + 2 * lag + 1, r.stop)))
        for top, r in zip(tops, inner, strict=True)
    ]
    kept: list[Interval] = []
    left: list[dict[str, Any]] = []
    for i, frames in _windows(recording, at, outer, landmarker):
        top, part, first = tops[i], inner[i], outer[i].start
        if frames is None:
            left.append({"frame": int(at[top]), "reason": "no face found"})
            continue
        if problem := spotting.character(frames, None, fps, top - first, config).problem(config):
            left.append({"frame": int(at[top]), "reason": problem})
            continue
        read = spotting.boundaries(frames[part.start - first : part.stop - first], None, fps, config)
        onset, apex, offset = (int(at[part.start + k]) for k in (read.onset, read.apex, read.offset))
        if offset - onset < 2:  # coarse steps: one frame to either side
            onset, offset = max(0, apex - 1), min(len(recording.names) - 1, apex + 1)
        kept.append(
            Interval(onset=onset, apex=apex, offset=offset, height=float(curve[top]), confidence=read.confidence)
        )
    # At a few frames a second, two peaks may be read as the same frames.
    once = {(interval.onset, interval.offset): interval for interval in kept}
    ordered = tuple(once[key] for key in sorted(once))
    return Spotting(at=at, signal=curve, threshold=least, intervals=ordered, left_out=tuple(left))


def _windows(
    recording: Recording, at: np.ndarray, ranges: Sequence[range], landmarker: Landmarker
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Aligned crops of ranges of positions in ``at``, each under one transform from its first frame; None: no face.

    Ranges begin in ascending order and may overlap. One picture is held at a time, and the crops of open ranges.
    """
    needed = sorted(set().union(*ranges)) if ranges else []
    crops: dict[int, SimilarityCrop | None] = {}
    frames: dict[int, list[np.ndarray]] = {}
    names = [recording.names[at[k]] for k in needed]
    for k, name, picture in zip(needed, names, read_pictures(recording.root, names), strict=True):
        if picture.shape != (recording.height, recording.width, 3):
            raise RecordingError(
                f"frame {name} has {picture.shape[1]}x{picture.shape[0]} pixels, the first {recording.width}x"
                f"{recording.height}; a recording has frames of one size"
            )
        starting = [i for i, r in enumerate(ranges) if r.start == k]
        if starting:
            crop = _crop(picture, landmarker, (recording.name, name, Path(name).name))
            for i in starting:
                crops[i], frames[i] = crop, []
        for i in [i for i in crops if k in ranges[i]]:
            crop = crops[i]
            if crop is not None:
                frames[i].append(crop.frames(picture[None]))
            if k == ranges[i].stop - 1:
                yield i, np.concatenate(frames[i]) if crop is not None else None
                del crops[i], frames[i]


def _crop(picture: np.ndarray, landmarker: Landmarker, names: Sequence[str]) -> SimilarityCrop | None:
    try:
        return SimilarityCrop.from_landmarks(landmarker.detect(picture, names), _SPOT_SIZE)
    except NoFaceError:
        return None


# ---------------------------------------------------------------- classifying


def predict_video(
    model: Recognizer | Path | str,
    path: Path | str,
    *,
    out: Path | str,
    fps: float | None = None,
    landmarker: str = "auto",
    intervals: Sequence[str] = (),
    identity: str = "",
    progress: Progress | None = None,
) -> VideoPrediction:
    """Spot, prepare and classify a recording; write predictions.parquet, intervals.json, timeline.png and ``clips``
    (the prepared intervals, a manifest) into ``out``.

    ``fps``: instead of what the file states. ``landmarker``: "auto" is the one of the training clips, where it is on
    this machine. ``intervals``: classify these (:meth:`Interval.parse`) instead of what is spotted. ``identity``: of
    the model, so that ``out`` is not taken for another one's.

    Raises:
        RecordingError, UnreadableImageError, NoFaceError: a recording that cannot be classified.
        ManifestError: a model whose training clips were not prepared alike.
        WeightsUnavailable: no model, or no landmarker on this machine.
        RunFolderError: ``out`` holds something else.
        MesynthError: settings that cannot be.

    >>> predict_video("no/such/model", "interview.mp4", out="runs/interview")
    Traceback (most recent call last):
    mesynth.core.errors.WeightsUnavailable: no recognizer in no/such/model; make one with `recognizer train --out ...
    """
    out = Path(out)
    model = model if isinstance(model, Recognizer) else Recognizer.load(model)
    settings, frame = _as_trained(model)
    recording = Recording.open(path, fps)
    requested = tuple(Interval.parse(text, recording) for text in intervals)
    name, detector, notes = _landmarker(landmarker, model.preparation)
    run = {
        "verb": "predict", "weights": identity, "video": recording.digest(), "landmarker": landmarker_identity(name),
        "intervals": list(intervals), "preparation": dict(model.preparation.settings),
    }  # fmt: skip
    if frame:
        run["frame"] = frame
    if settings.inputs:
        run["inputs"] = list(settings.inputs)
    if out.exists():
        claim_folder(out, run)  # an unfit folder is found out before the work
    found = spot(recording, detector, requested=requested, progress=progress)
    if not requested and model.preparation.settings.get("apex", "annotated") != "annotated":
        bare = tuple(replace(interval, apex=None) for interval in found.intervals)  # spotted as for training
        found = replace(found, intervals=bare)
    claim_folder(out, run)
    with only_writer(out):
        notes = [*standing(model), *recording.notes(), *model.preparation.notes(), *notes]
        clips, left = _prepared(recording, found.intervals, settings, name, out / CLIPS, progress)
        if requested and clips is None:
            raise NoFaceError(f"none of the intervals of {recording.name} can be prepared: {left[0]['reason']}")
        classified = _classified(model, found, recording, settings, clips)
        facts = {
            "recording": recording.name, "fps": recording.fps, "frames": len(recording.names),
            "seconds": round(len(recording.names) / recording.fps, 4), "model": model.config.model,
            "recognizer": model.name, "landmarker": name, "spotted": not requested,
            "threshold_px": round(found.threshold, 4),
            "intervals": classified, "left_out": [*found.left_out, *left], "notes": notes,
            "signal": {
                "frame": found.at.tolist(),
                "px": [round(float(v), 4) if np.isfinite(v) else None for v in found.signal],
            },
        }  # fmt: skip
        result = VideoPrediction(facts=facts, table=table_of(classified, model.config.labels.names))
        picture = _picture(model, recording, found, clips, classified)
        write_table(result.table, out / PREDICTIONS)
        write_bytes(out / TIMELINE, picture)
        write_last(out / INTERVALS, (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())
    return result


def classify(
    model: Recognizer, recording: Recording, intervals: Sequence[Interval], *, landmarker: str, out: Path
) -> list[dict[str, Any]]:
    """Known intervals of a recording, prepared into ``out`` as the model's clips were: a mapping each (onset, apex,
    offset, predicted, probabilities, ...). What cannot be prepared, as it shows no face, is left out."""
    settings, _ = _as_trained(model)
    clips, _ = _prepared(recording, intervals, settings, landmarker, out, None)
    at = np.arange(len(recording.names))
    unmeasured = np.full(len(at), np.nan)
    known = Spotting(at=at, signal=unmeasured, threshold=0.0, intervals=tuple(intervals), left_out=())
    return _classified(model, known, recording, settings, clips)


def _as_trained(model: Recognizer) -> tuple[PrepareConfig, str]:
    """The preparation of the model's clips, and where faces lie in them, "" for our crops."""
    settings = _settings(model.preparation, to_prepare(needs_of(model.config)))
    if model.framing is None or not model.framing.differs(KnownFraming(framing=OWN)):
        return settings, ""
    frame = model.framing.framing.text()
    return replace(settings, crop="similarity", frame=frame), frame


def _settings(preparation: Preparation, inputs: tuple[str, ...]) -> PrepareConfig:
    """The training clips' preparation; frames are kept, for the picture and for models that see them, and ``inputs``
    stored."""
    settings = dict(preparation.require_one())
    if settings.get("apex", "annotated") == "annotated":
        settings["apex"] = (
            "flow"  # for intervals given without an apex; all others come with one, as annotated clips do
        )
    try:
        return PrepareConfig(**settings, inputs=inputs, keep_frames=True)
    except TypeError:
        raise RecordingError(
            f"the model's clips were prepared with steps this version does not know ({', '.join(settings)}); prepare "
            "them and train again"
        ) from None


def _landmarker(requested: str, preparation: Preparation) -> tuple[str, Landmarker, list[str]]:
    wanted = preparation.landmarker if requested == "auto" and preparation.landmarker else requested
    try:
        name = resolve_landmarker(wanted)
        return name, landmarker_of(name, landmarker_identity(name), "cpu"), []
    except WeightsUnavailable:
        if wanted == requested:
            raise
        name = resolve_landmarker("auto")
        note = (
            f"landmarks are found by {name}; those of the training clips were by {wanted}, which is not on this machine"
        )
        return name, landmarker_of(name, landmarker_identity(name), "cpu"), [note]


# ---------------------------------------------------------------- prepared as for training


def _row(recording: Recording, interval: Interval) -> Row:
    apex, length = interval.apex, interval.offset - interval.onset + 1
    return Row(
        clip_id=f"{recording.name}/{interval.onset}-{interval.offset}", clip=recording.name,
        database="video", subject="unknown",
        onset=interval.onset, apex=apex, offset=interval.offset, fps=recording.fps, n_frames=length,
        apex_index=(length - 1) // 2 if apex is None else apex - interval.onset,
        height=recording.height, width=recording.width,
        frame_files=recording.names[interval.onset : interval.offset + 1],
        provenance=Provenance(
            kind="real", database="video", subject="unknown", licence="unknown", subjects_seen=("video/unknown",)
        ),
    )  # fmt: skip


def _prepared(
    recording: Recording,
    intervals: Sequence[Interval],
    settings: PrepareConfig,
    landmarker: str,
    out: Path,
    progress: Progress | None,
) -> tuple[Manifest | None, list[dict[str, Any]]]:
    """The intervals as a prepared manifest (None where there are none), and those that could not be prepared."""
    if not intervals:
        return None, []
    rows = [_row(recording, interval) for interval in intervals]
    clips: Manifest | None = None
    with suppress(NoFaceError):  # of every interval; each has its reason below
        clips = prepare(
            Manifest.from_rows(rows, recording.root), out, settings, landmarker=landmarker, skip_bad=True,
            progress=progress and (lambda done, total: progress("preparing", done, total)),
        )  # fmt: skip
    onsets = {row.clip_id: row.onset for row in rows}
    left = [{"frame": onsets[entry.clip_id], "reason": entry.reason} for entry in read_skipped(out)]
    return clips, left


def _apex_of(row: Row, settings: PrepareConfig, spotted: dict[str, int]) -> int:
    """The apex as a frame of the recording, also where preparation spotted it."""
    if row.apex is not None:
        return row.apex
    n = row.offset - row.onset + 1
    kept = thin(n, (n - 1) // 2, settings.max_frames)
    return row.onset + kept[spotted[row.clip_id]] if row.clip_id in spotted else row.onset + (n - 1) // 2


# ---------------------------------------------------------------- results


def _classified(
    model: Recognizer, found: Spotting, recording: Recording, settings: PrepareConfig, clips: Manifest | None
) -> list[dict[str, Any]]:
    """A mapping an interval: where it is, and what the model predicts."""
    if clips is None:
        return []
    loaded = as_flow_set([clips], model.config, None, "reading clips", unlabelled=True)
    model.require_unit(loaded)
    p, au, labels = model.probabilities(loaded.inputs()), model.named_aus(loaded.inputs()), model.config.labels
    spotted = {n["clip_id"]: n["spotted"]["apex"] for n in read_notes(clips.root) if "spotted" in n}
    confidence = {(interval.onset, interval.offset): interval.confidence for interval in found.intervals}
    out = []
    for i, row in enumerate(clips):
        frames = {"onset": row.onset, "apex": _apex_of(row, settings, spotted), "offset": row.offset}
        inside = found.signal[(found.at >= row.onset) & (found.at <= row.offset)]
        sure = confidence[row.onset, row.offset]
        out.append({
            "clip_id": row.clip_id, **frames,
            "seconds": {name: round(frame / recording.fps, 4) for name, frame in frames.items()},
            "movement_px": round(float(np.nanmax(inside)), 4) if np.isfinite(inside).any() else None,
            "confidence": round(sure, 4) if np.isfinite(sure) else None,
            "predicted": aus.shown(p[i], labels.names) if labels.multi else labels.names[int(p[i].argmax())],
            "probabilities": dict(zip(labels.names, p[i].tolist(), strict=True)),
            "aus": au[i],
        })  # fmt: skip
    return out


def _picture(
    model: Recognizer,
    recording: Recording,
    found: Spotting,
    clips: Manifest | None,
    classified: Sequence[dict[str, Any]],
) -> bytes:
    flows = [] if clips is None else [read_flow(clips.root, row) for row in clips]
    # One scale for all intervals: so much that a hundredth of the pixels saturates, in steps of half a pixel.
    most = max((float(np.quantile(np.hypot(uv[0], uv[1]), 0.99)) for uv in flows), default=0.0)
    scale = max(0.5, np.ceil(most * 2) / 2)
    shown = []
    for row, uv, one in zip(clips or (), flows, classified, strict=True):
        assert clips is not None
        frames = read_frames(clips.root, row)
        shown.append(
            Shown(
                seconds=(one["seconds"]["onset"], one["seconds"]["apex"], one["seconds"]["offset"]),
                frames=(one["onset"], one["apex"], one["offset"]),
                label=one["predicted"], probability=max(one["probabilities"].values()),
                colour=int(np.argmax(list(one["probabilities"].values()))),
                pictures=frames[[0, row.apex_index, -1]], flow=flow_picture(uv, scale),
            )
        )  # fmt: skip
    y, x = np.mgrid[-1:1:65j, -1:1:65j]
    disc = np.stack([x, y]) * (np.hypot(x, y) <= 1)
    title = f"{recording.name}, {recording.fps:g} frames a second" + ("" if shown else f": {NOTHING}")
    return timeline_png(
        found.at / recording.fps, found.signal, found.threshold, shown, title=title, flow_scale=scale,
        wheel=flow_picture(disc, 1.0),
    )  # fmt: skip
