"""Spotters over a folder of long videos: the movement signal, and SOFTNet, which learns; scored and saved.

SOFTNet (Liong, See and Wong, ICIP 2021): a shallow network of three streams over (u, v, strain) of the flow between
frames that lie k apart scores every frame; scores are averaged over 2k frames, peaks above a threshold become intervals
of 2k frames. Network, labels, training and reading are those of the authors' public definition. Deviations: regions are
fixed places of the crop aligned by the eyes, not boxes around detected landmarks; faces are aligned anew every two
seconds; k is stated in seconds (what theirs is on CAS(ME)^2), not taken from the annotation that is tested on.

Leave-one-subject-out: whoever is tested took no part in training, and a saved spotter refuses people it has seen.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_bytes
from torch import nn

from mesynth import __version__
from mesynth.core.emotions import label
from mesynth.core.errors import ConfigError, LeakError, MesynthError, NoFaceError, WeightsUnavailable, first_line
from mesynth.core.process import one_thread
from mesynth.core.seeds import stream
from mesynth.core.types import optical_strain
from mesynth.preprocess.config import FLOWS
from mesynth.preprocess.flow import estimate_flows, raft_file
from mesynth.preprocess.landmarks import Landmarker, resolve_landmarker
from mesynth.preprocess.prepare import landmarker_identity, landmarker_of
from mesynth.preprocess.spot import face_regions
from mesynth.store import digests
from mesynth.store.digests import file_sha256
from mesynth.store.long_videos import (
    LongVideo,
    LongVideos,
    Marked,
    check_inside,
    intervals_csv,
    read_intervals,
)
from mesynth.store.manifest import EXPRESSIONS
from mesynth.store.run_folder import claim_folder, only_writer, write_bytes, write_last
from recognizer.recording import Interval as RecordingInterval
from recognizer.recording import Recording
from recognizer.spotting import IOU, SpottingScore, iou, per_video, score
from recognizer.trained import Recognizer
from recognizer.video import _SEGMENT_S, _windows, classify
from recognizer.video import spot as moved_in

MOVEMENT, SOFTNET, GIVEN = "movement", "softnet", "given"
METHODS = (MOVEMENT, SOFTNET)
LABELS = ("step", "iou")
PREDICTIONS, SCORES, VIDEO_SCORES = "predictions.csv", "scores.json", "videos.csv"
WEIGHTS, CONFIG = "model.safetensors", "spotter.json"
PARTS = "parts"
"""Folder of what is finished of an unfinished run: flow pictures, and the intervals of each video or person."""
LANDMARKS = "landmarks.npz"
"""Of rendered videos: exact, so that no detector is needed."""
SIDE = 42
_HALF_S = {"micro": 0.2, "macro": 0.6}
"""Seconds of k: 6 and 18 frames of 30 a second, half the mean length in CAS(ME)^2."""
_BROWS, _MOUTH = ((-1.05, 1.05), (-0.75, 0.35)), ((-0.65, 0.65), (0.75, 1.5))
"""u and v of the two regions, inter-ocular distances from between the eyes."""
_NOSE = ((-0.12, 0.12), (0.33, 0.57))

Progress = Callable[[str, float, float], object]


@dataclass(frozen=True, kw_only=True)
class SpotterConfig:
    """How SOFTNet is trained and read; the defaults are published."""

    expression: str = "micro"
    half_s: float = 0.0
    """k, seconds: half the length of the intervals found. 0: as published for the expression."""
    flow: str = "tvl1"
    labels: str = "step"
    """Of a frame whose next k frames overlap an annotated interval: 1 (step, published), or their IoU with it."""
    epochs: int = 10
    batch: int = 12
    learning_rate: float = 5e-4
    peak: float = 0.55
    """A peak must reach the mean plus this share of the way to the maximum (Moilanen, Zhao and Pietikainen, 2014)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.expression not in EXPRESSIONS:
            raise ConfigError(f"expression '{self.expression}' is unknown; choose from {', '.join(EXPRESSIONS)}")
        if self.flow not in FLOWS:
            raise ConfigError(f"flow '{self.flow}' is unknown; choose from {', '.join(FLOWS)}")
        if self.labels not in LABELS:
            raise ConfigError(f"labels '{self.labels}' are unknown; choose from {', '.join(LABELS)}")
        if not 0 <= self.half_s <= 5:
            raise ConfigError(f"half_s={self.half_s:g} is outside 0..5 seconds; 0 is as published")
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ConfigError(f"{name}={value} must be a whole number, at least {least}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate={self.learning_rate:g} is outside (0, 1)")
        if not 0 <= self.peak < 1:
            raise ConfigError(f"peak={self.peak:g} is outside [0, 1)")

    def half(self, fps: float) -> int:
        """k in frames."""
        return max(1, round((self.half_s or _HALF_S[self.expression]) * fps))


class SOFTNet(nn.Module):
    """[B,3,42,42] of (|u|, |v|, strain), each from 0 to 1, -> [B] score. 314,817 parameters.

    >>> sum(p.numel() for p in SOFTNet().parameters())
    314817
    """

    def __init__(self) -> None:
        super().__init__()
        self.streams = nn.ModuleList(nn.Conv2d(1, filters, 5, padding=2) for filters in (3, 5, 8))
        self.dense, self.out = nn.Linear(16 * 7 * 7, 400), nn.Linear(400, 1)
        for layer in (*self.streams, self.dense, self.out):  # Keras' initial values
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        maps = [nn.functional.max_pool2d(torch.relu(layer(x[:, i : i + 1])), 3) for i, layer in enumerate(self.streams)]
        flat = nn.functional.max_pool2d(torch.cat(maps, 1), 2).flatten(1)
        return torch.as_tensor(self.out(torch.relu(self.dense(flat)))[:, 0])


# ---------------------------------------------------------------- what the network sees


def flow_picture(uv: np.ndarray) -> np.ndarray:
    """Flow [2,S,S] of a crop aligned by the eyes -> [3,42,42] float32: brows above, mouth below.

    |u| and |v| without the nose's, which stands for the head's, strain without the nose's; 0 at the eyes.
    """
    eyes, nose, brows, mouth = _places(*uv.shape[1:])
    layers = np.stack([uv[0], uv[1], optical_strain(uv)]).astype(np.float32)
    rest = layers - layers[(slice(None), *nose)].mean((1, 2), keepdims=True)
    rest[:2] = np.abs(rest[:2])
    rest[:, eyes] = 0
    half = SIDE // 2
    out = np.empty((3, SIDE, SIDE), np.float32)
    for layer, shown in zip(rest, out, strict=True):
        for rows, place in ((slice(0, half), brows), (slice(half, SIDE), mouth)):
            shown[rows] = cv2.resize(np.ascontiguousarray(layer[place]), (SIDE, half))
    return out


_Box = tuple[slice, slice]


@lru_cache(maxsize=4)
def _places(height: int, width: int) -> tuple[np.ndarray, _Box, _Box, _Box]:
    """Of a crop the eyes [H,W] bool, and the boxes of nose, brows and mouth."""
    regions = face_regions(height, width)

    def box(place: tuple[tuple[float, float], tuple[float, float]]) -> _Box:
        (left, right), (top, bottom) = place
        inside = (regions.u >= left) & (regions.u <= right) & (regions.v >= top) & (regions.v <= bottom)
        rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

    return regions.eyes, box(_NOSE), box(_BROWS), box(_MOUTH)


def unit_range(pictures: np.ndarray) -> np.ndarray:
    """[N,3,S,S], each channel of each from 0 to 1 (0 where it is flat)."""
    low, high = (f(pictures, axis=(2, 3), keepdims=True) for f in (np.min, np.max))
    return np.asarray((pictures - low) / np.where(high > low, high - low, 1), np.float32)


@dataclass(frozen=True, eq=False)
class Observation:
    """A video as the network sees it: ``pictures`` [N,3,42,42] float16 of the flow from frame ``at[i]`` to the one k
    later, and ``known`` [N] bool, whether there was a face."""

    pictures: np.ndarray
    known: np.ndarray
    step: int
    fps: float
    """After the step."""


def observe(
    recording: Recording, landmarker: Landmarker, config: SpotterConfig, report: Callable[[int], object] | None = None
) -> Observation:
    """Flow pictures of a recording; ``report`` is told how many of its frames are done. Raises NoFaceError where there
    is no face at all."""
    at = np.arange(0, len(recording.names), recording.step)
    fps = recording.fps / recording.step
    k = config.half(fps)
    n = max(0, len(at) - k)
    edges = np.linspace(0, n, max(1, round(n / (_SEGMENT_S * fps))) + 1).round().astype(int).tolist()
    cores = [range(a, b) for a, b in pairwise(edges) if b > a]
    pictures, known = np.zeros((n, 3, SIDE, SIDE), np.float16), np.zeros(n, bool)
    ranges = [range(core.start, core.stop + k) for core in cores]
    for i, frames in _windows(recording, at, ranges, landmarker):
        if frames is None:
            continue
        core = cores[i]
        for start in range(0, len(core), 16):
            few = range(start, min(start + 16, len(core)))
            flows = estimate_flows(frames[few.start : few.stop], frames[few.start + k : few.stop + k], config.flow)
            for t, flow in zip(few, flows, strict=True):
                pictures[core.start + t] = flow_picture(np.asarray(flow.uv))
        known[core.start : core.stop] = True
        if report:
            report(core.stop * recording.step)
    if n and not known.any():
        raise NoFaceError(f"no face found in {recording.name}; it needs one frontal face, at least 60 pixels wide")
    return Observation(pictures, known, recording.step, fps)


def frame_labels(n: int, k: int, truth: Sequence[tuple[int, int]], kind: str = "step") -> np.ndarray:
    """[n] float32 label of each frame, from annotated intervals (first, last); see :attr:`SpotterConfig.labels`.

    >>> frame_labels(8, 2, [(3, 4)]).tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    >>> frame_labels(8, 2, [(3, 4)], "iou").astype(float).round(2).tolist()
    [0.0, 0.0, 0.33, 1.0, 0.33, 0.0, 0.0, 0.0]
    """
    best = np.array([max((iou((i, i + k - 1), one) for one in truth), default=0.0) for i in range(n)], np.float32)
    return (best > 0).astype(np.float32) if kind == "step" else best


def read_scores(scores: np.ndarray, k: int, peak: float = 0.55) -> list[tuple[int, int, float]]:
    """Scores [N] -> (first, last, height) of the intervals found, in frames of the scores.

    Each is a peak of the mean over 2k frames, k to either side of it; fewer than 2k + 1 scores hold none.
    """
    from scipy.signal import find_peaks

    if len(scores) <= 2 * k or not np.ptp(scores) > 0:
        return []
    total = np.concatenate([[0.0], np.cumsum(scores, dtype=np.float64)])
    mean = (total[2 * k :] - total[: -2 * k])[: len(scores) - 2 * k] / (2 * k)  # of frame k on: from it k back, k on
    least = mean.mean() + peak * (mean.max() - mean.mean())
    tops, facts = find_peaks(mean, height=least, distance=k)
    # The mean begins k frames into the scores: the interval about its frame i is i to i + 2k of theirs.
    return [(int(top), int(top) + 2 * k, float(high)) for top, high in zip(tops, facts["peak_heights"], strict=True)]


# ---------------------------------------------------------------- training


def fit(
    seen: Sequence[Observation],
    labels: Sequence[np.ndarray],
    config: SpotterConfig,
    report: Callable[[int], object] | None = None,
) -> SOFTNet:
    """A network trained on videos; the same arguments give the same weights on one machine, whatever its threads are
    told to do. ``report`` is told how many epochs are done.

    As published: of the frames without an expression half as many are kept as the larger class has, frames of
    micro-expressions come thrice more (mirrored, blurred, with noise), squared error, plain descent.

    Raises:
        MesynthError: no frame of an expression among them, or none without.
    """
    pictures = np.concatenate([s.pictures[s.known] for s in seen]).astype(np.float32)
    y = np.concatenate([given[s.known] for given, s in zip(labels, seen, strict=True)])
    rng = stream(config.seed, "softnet")
    there, none = np.flatnonzero(y > 0), np.flatnonzero(y == 0)
    if not len(there) or not len(none):
        what = f"no {config.expression}-expression" if not len(there) else "nothing else"
        raise MesynthError(f"the training videos show {what}; a spotter needs frames with and without")
    kept = rng.permutation(none)[: max(1, max(len(there), len(none)) // 2)]
    chosen = np.sort(np.concatenate([there, kept]))
    x, y = pictures[chosen], y[chosen]
    if config.expression == "micro":
        shown = x[y > 0]
        blurred = np.stack([np.stack([cv2.GaussianBlur(c, (7, 7), 0) for c in one]) for one in shown])
        noisy = shown + 0.1 * shown.std((2, 3), keepdims=True) * rng.standard_normal(shown.shape)
        x = np.concatenate([x, shown[..., ::-1], blurred, noisy])
        y = np.concatenate([y, *[y[y > 0]] * 3])
    data, target = torch.from_numpy(unit_range(x)), torch.from_numpy(y.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SOFTNet()
    weights = list(network.parameters())
    with one_thread():
        for epoch in range(config.epochs):
            order = rng.permutation(len(data))
            for start in range(0, len(order), config.batch):
                part = torch.from_numpy(order[start : start + config.batch])
                loss = nn.functional.mse_loss(network(data[part]), target[part])
                # Plain descent; torch.optim takes longer to import than a tiny spotter to train.
                slopes = torch.autograd.grad(loss, weights)
                with torch.no_grad():
                    for weight, slope in zip(weights, slopes, strict=True):
                        weight.sub_(slope, alpha=config.learning_rate)
            if report:
                report(epoch + 1)
    return network.eval()


@dataclass(frozen=True, eq=False)
class Spotter:
    """A trained network with what it learned from. ``subjects_seen``: ``database/subject`` of everybody."""

    network: SOFTNet
    config: SpotterConfig
    subjects_seen: tuple[str, ...]
    licences: tuple[str, ...] = ()

    def scores(self, seen: Observation) -> np.ndarray:
        """[N] float64; where no face was found the lowest."""
        with torch.inference_mode(), one_thread():
            parts = [
                self.network(torch.from_numpy(unit_range(part.astype(np.float32)))).numpy()
                for part in np.array_split(seen.pictures, max(1, len(seen.pictures) // 256))
                if len(part)
            ]
        scores = np.concatenate([np.zeros(0), *parts])
        if seen.known.any():
            scores[~seen.known] = scores[seen.known].min()
        return scores

    def found(self, video: LongVideo, seen: Observation) -> list[Marked]:
        """Intervals of a video; frame numbers are the video's."""
        k = self.config.half(seen.fps)
        return [
            Marked(
                database=video.database, subject=video.subject, video=video.video, onset=first * seen.step,
                offset=min(last * seen.step, video.frames - 1), apex=(first + last) // 2 * seen.step,
                expression=self.config.expression, score=height,
            )
            for first, last, height in read_scores(self.scores(seen), k, self.config.peak)
        ]  # fmt: skip

    def check_unseen(self, people: Iterable[str]) -> None:
        """Raise LeakError for people it learned from.

        >>> Spotter(SOFTNet(), SpotterConfig(), ("d/1",)).check_unseen(["d/2", "d/1"])
        Traceback (most recent call last):
        mesynth.core.errors.LeakError: the spotter learned from d/1; spot others, or train one without them
        """
        if known := sorted(set(people) & set(self.subjects_seen)):
            more = f" and {len(known) - 1} more" if len(known) > 1 else ""
            raise LeakError(f"the spotter learned from {known[0]}{more}; spot others, or train one without them")

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``spotter.json`` into ``folder``, which is finished then."""
        facts = {
            "kind": SOFTNET, "config": asdict(self.config), "subjects_seen": list(self.subjects_seen),
            "licences": list(self.licences), "version": __version__,
        }  # fmt: skip
        write_bytes(folder / WEIGHTS, tensors_bytes(self.network.state_dict()))
        write_last(folder / CONFIG, (json.dumps(facts, indent=1) + "\n").encode(), without=[PARTS])

    @staticmethod
    def load(folder: Path | str) -> Spotter:
        """A saved spotter. Raises WeightsUnavailable for what is none, or damaged."""
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise WeightsUnavailable(
                f"no spotter in {folder}; make one with `recognizer spot VIDEOS --train --out ...`"
            )
        digests.check(folder, [CONFIG, WEIGHTS])
        try:
            facts = json.loads((folder / CONFIG).read_text())
            named = {f.name for f in fields(SpotterConfig)}
            config = SpotterConfig(**{k: v for k, v in facts["config"].items() if k in named})
            network = SOFTNet()
            network.load_state_dict(load_tensors((folder / WEIGHTS).read_bytes()))
            seen = tuple(map(str, facts["subjects_seen"]))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = first_line(error)
            raise WeightsUnavailable(f"the spotter in {folder} is damaged ({reason}); train it again") from None
        if not seen:
            raise WeightsUnavailable(f"the spotter in {folder} does not say whom it learned from; train it again")
        return Spotter(network.eval(), config, seen, tuple(facts.get("licences", ())))


def fit_spotter(
    videos: Sequence[LongVideo],
    seen: Sequence[Observation],
    truth: Sequence[Sequence[Marked]],
    config: SpotterConfig,
    report: Callable[[int], object] | None = None,
) -> Spotter:
    """A spotter of everybody in ``videos``, whose pictures and annotated intervals stand in the same order."""
    labels = []
    for video, one, marks in zip(videos, seen, truth, strict=True):
        own = [m for m in marks if m.kind(video.fps) == config.expression]
        spans = [(m.onset // one.step, m.offset // one.step) for m in own]
        labels.append(frame_labels(len(one.pictures), config.half(one.fps), spans, config.labels))
    return Spotter(
        fit(seen, labels, config, report), config, tuple(sorted({v.person for v in videos})),
        tuple(sorted({v.licence for v in videos})),
    )  # fmt: skip


# ---------------------------------------------------------------- over a folder of videos


@dataclass(frozen=True, kw_only=True)
class SpotRun:
    """What `recognizer spot` is asked for."""

    method: str = MOVEMENT
    expressions: tuple[str, ...] = EXPRESSIONS
    spotter: Path | None = None
    """A saved spotter instead of leave-one-subject-out."""
    predictions: Path | None = None
    """Intervals that are there already: they are scored."""
    recognizer: Path | str | None = None
    """A trained recognizer that says which class each interval is of: for the spot-then-recognize score."""
    landmarker: str = "auto"
    iou: float = IOU
    config: SpotterConfig = field(default_factory=SpotterConfig)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"method '{self.method}' is unknown; choose from {', '.join(METHODS)}")
        if unknown := [kind for kind in self.expressions if kind not in EXPRESSIONS]:
            raise ConfigError(f"expression '{unknown[0]}' is unknown; choose from {', '.join(EXPRESSIONS)}, all")
        if not 0 < self.iou <= 1:
            raise ConfigError(f"iou={self.iou:g} is outside (0, 1]; the challenges take .5")
        if self.spotter is not None and self.predictions is not None:
            raise ConfigError("a spotter and predictions given; predictions are scored as they are, leave one out")


def _opened(videos: LongVideos, progress: Progress | None) -> list[Recording]:
    """The recordings in the order of their rows: one that cannot be read is found out before the work.

    Raises:
        ConfigError: a row that states another number of frames. RecordingError, ManifestError, UnreadableImageError.
    """
    out = []
    report = progress or (lambda step, done, total: None)
    for i, video in enumerate(videos.videos):
        report("look at videos", i, len(videos.videos))
        recording = Recording.open(videos.place(video), video.fps)
        if len(recording.names) != video.frames:
            raise ConfigError(
                f"{videos.place(video)} has {len(recording.names)} frames, its row says {video.frames}; correct the "
                "row, or intervals would be of other frames"
            )
        out.append(replace(recording, name=video.video))
    report("look at videos", len(out), len(out))
    return out


def _require_marks(videos: LongVideos, kinds: Sequence[str], apart: bool) -> None:
    """Raise ConfigError where a spotter of one of ``kinds`` would have nothing to learn from; ``apart``: it is trained
    once a subject on all others."""
    for kind in kinds:
        people = {v.person for v in videos.videos if any(m.kind(v.fps) == kind for m in videos.of(v))}
        if people and not (apart and len(people) == 1):
            continue
        of = f"{kind}-expressions of {min(people)} alone" if people else f"no {kind}-expression"
        raise ConfigError(
            f"{videos.root} marks {of}: nothing to learn from{' for who is tested' if people else ''}; choose another "
            "--expression, or mark more"
        )


def _detector(videos: LongVideos, name: str) -> tuple[str, Landmarker]:
    own = videos.root / LANDMARKS
    chosen = resolve_landmarker(str(own) if name == "auto" and own.is_file() else name)
    return chosen, landmarker_of(chosen, landmarker_identity(chosen), "cpu")


def _observed(
    videos: LongVideos,
    recordings: Sequence[Recording],
    landmarker: Landmarker,
    config: SpotterConfig,
    cache: Path,
    progress: Progress | None,
) -> list[Observation]:
    """Flow pictures of all videos, kept in ``cache``."""
    out = []
    files = [cache / f"{i:05d}-{config.expression}.npz" for i in range(len(recordings))]
    frames = _Frames(f"flow, {config.expression}", videos.videos, files, progress)
    for recording, file in zip(recordings, files, strict=True):
        if not file.is_file():
            made = observe(recording, landmarker, config, frames.report)
            buffer = io.BytesIO()
            np.savez(buffer, pictures=made.pictures, known=made.known)
            write_bytes(file, buffer.getvalue())
            frames.finished(len(recording.names))
        with np.load(file, allow_pickle=False) as kept:
            step = recording.step
            out.append(Observation(kept["pictures"], kept["known"], step, recording.fps / step))
    return out


class _Frames:
    """Tells how many frames of all videos are done; those of videos whose file is there were done before."""

    def __init__(
        self, step: str, videos: Sequence[LongVideo], files: Sequence[Path], progress: Progress | None
    ) -> None:
        self._step, self._progress = step, progress
        self._done = sum(video.frames for video, file in zip(videos, files, strict=True) if file.is_file())
        self._total = sum(video.frames for video in videos)
        self.report(0)

    def report(self, frames: int) -> None:
        """So many frames of the present video are done."""
        if self._progress:
            self._progress(self._step, min(self._done + frames, self._total), self._total)

    def finished(self, frames: int) -> None:
        """The present video is done."""
        self._done += frames
        self.report(0)


def spot(
    videos: Path | str,
    *,
    out: Path | str,
    method: str = MOVEMENT,
    expression: str = "all",
    spotter: Path | str | None = None,
    predictions: Path | str | None = None,
    recognizer: Path | str | None = None,
    landmarker: str = "auto",
    iou: float = IOU,
    flow: str = "tvl1",
    labels: str = "step",
    epochs: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> SpottingScore:
    """Find expressions in long videos, score what is found as the challenges do, and write it all into ``out``:
    predictions.csv, videos.csv (a row a video and kind), scores.json. The same call goes on where it was stopped.

    Args:
        videos: a folder with videos.csv and intervals.csv (:class:`mesynth.store.long_videos.LongVideos`), as
            ``mesynth.render(layout="long")`` and ``mesynth prepare DATABASE --long-videos`` write it.
        method: "movement": what comes and goes within half a second, learns nothing, finds micro-expressions alone;
            "softnet": a network, trained once a subject on all others.
        expression: kinds to find and to score: "micro", "macro" or "all".
        spotter: spot by this saved one (:func:`train_spotter`), which finds its own kind.
        predictions: score the intervals of this CSV: subject, video, onset, offset (frames from 0, both inside).
        recognizer: a trained recognizer, or "shipped", that gives intervals a class; then the spot-then-recognize score
            is taken, too.
        landmarker: "face-alignment", "mediapipe", a file of points, or "auto" (landmarks.npz beside the videos, if
            any).
        iou: least overlap of a true positive, in frames.
        flow: softnet's optical flow: "tvl1", "dis" or "raft"; likewise labels ("step", "iou"), epochs and seed.
        progress: told (what, done, total).

    Returns:
        Counts of every video; ``.counts(kind).figures()`` are precision, recall and F1 over summed counts,
        ``.f1_interval(kind)`` the 95 % interval over subjects, ``.to_dict()`` all of it.

    Raises:
        LeakError: a saved spotter, or a recognizer, that learned from somebody in these videos.
        ManifestError: no tables there, or tables that cannot be. ConfigError: settings that cannot be.
        NoFaceError, RecordingError, UnreadableImageError: a video that cannot be read.
        WeightsUnavailable: no such model, or no landmarker on this machine. RunFolderError: ``out`` holds another run.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> video = LongVideo(database="own", subject="anna", video="a", path="a.avi", fps=30.0, frames=300)
    >>> there = Marked(database="own", subject="anna", video="a", onset=10, offset=19)
    >>> for name, table in LongVideos(root=folder, videos=(video,), intervals=(there,)).tables().items():
    ...     _ = (folder / name).write_bytes(table)
    >>> _ = (folder / "found.csv").write_text("subject,video,onset,offset\\nanna,a,12,20\\nanna,a,100,108\\n")
    >>> result = spot(folder, out=folder / "run", predictions=folder / "found.csv", expression="micro")
    >>> {name: round(value, 3) for name, value in result.counts("micro").figures().items()}
    {'precision': 0.5, 'recall': 1.0, 'f1': 0.667}
    """
    run = SpotRun(
        method=method, expressions=tuple(EXPRESSIONS) if expression == "all" else (expression,),
        spotter=None if spotter is None else Path(spotter),
        predictions=None if predictions is None else Path(predictions), recognizer=recognizer, landmarker=landmarker,
        iou=iou, config=SpotterConfig(flow=flow, labels=labels, epochs=epochs, seed=seed),
    )  # fmt: skip
    return run_spotting(videos, out, run, progress)


def train_spotter(
    videos: Path | str,
    *,
    out: Path | str,
    expression: str = "micro",
    landmarker: str = "auto",
    flow: str = "tvl1",
    labels: str = "step",
    epochs: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> Spotter:
    """Train a spotter of one ``expression`` ("micro" or "macro") on everybody in a folder of long videos, and save it
    in ``out`` for ``spot(spotter=out)``. Arguments, and what is raised, as for :func:`spot`.

    >>> train_spotter("nowhere", out="models/spotter", expression="all")
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: a saved spotter finds one kind; choose --expression micro or macro
    """
    run = SpotRun(
        method=SOFTNET, expressions=tuple(EXPRESSIONS) if expression == "all" else (expression,),
        landmarker=landmarker, config=SpotterConfig(flow=flow, labels=labels, epochs=epochs, seed=seed),
    )  # fmt: skip
    return train_on(videos, out, run, progress)


def train_on(folder: Path | str, out: Path | str, run: SpotRun, progress: Progress | None = None) -> Spotter:
    """Train a spotter of one expression on everybody in a folder of long videos and save it in ``out``; one that is
    there already is returned."""
    if len(run.expressions) != 1:
        raise ConfigError("a saved spotter finds one kind; choose --expression micro or macro")
    videos, out = LongVideos.read(folder), Path(out)
    _require_marks(videos, run.expressions, apart=False)
    name, detector = _detector(videos, run.landmarker)
    _require_flow(run.config)
    recordings = _opened(videos, progress)
    config = replace(run.config, expression=run.expressions[0])
    claim_folder(out, _identity(videos, recordings, run, name) | {"train": True})
    with only_writer(out):
        if not (out / CONFIG).is_file():
            seen = _observed(videos, recordings, detector, config, out / PARTS, progress)
            truth = [videos.of(video) for video in videos.videos]
            fit_spotter(videos.videos, seen, truth, config, _share(progress, "training", 0, 1, config)).save(out)
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return Spotter.load(out)


def run_spotting(
    folder: Path | str, out: Path | str, run: SpotRun = SpotRun(), progress: Progress | None = None
) -> SpottingScore:
    """Spot in every video of ``folder`` (:class:`mesynth.store.long_videos.LongVideos`), score, write into ``out``:
    predictions.csv, videos.csv (a row a video and kind), scores.json. The same call resumes.

    The movement signal learns nothing. SOFTNet is trained once a subject on all others, or is a saved spotter.

    Raises:
        LeakError: a saved spotter that learned from somebody in these videos.
        ConfigError: one person alone, whom nobody is left to learn for; settings that cannot be.
        ManifestError, RunFolderError, NoFaceError, WeightsUnavailable: see there.
    """
    videos, out = LongVideos.read(folder), Path(out)
    saved = None
    if run.spotter is not None:
        saved = Spotter.load(run.spotter)
        saved.check_unseen(video.person for video in videos.videos)
        run = replace(run, method=SOFTNET, expressions=(saved.config.expression,), config=saved.config)
    elif run.method == SOFTNET and run.predictions is None:
        if len({v.person for v in videos.videos}) < 2:
            raise ConfigError(
                f"{folder} shows one person; a learned spotter is tested on people it has not seen: add a second one, "
                "or give a saved spotter"
            )
        _require_marks(videos, run.expressions, apart=True)
    model = _recognizer(videos, run.recognizer)
    found: list[Marked] = []
    name = GIVEN
    more: dict[str, Any] = {}
    if run.predictions is not None:
        found = read_intervals(run.predictions)
        check_inside(found, {v.key: v.frames for v in videos.videos}, str(run.predictions))
        more = {"predictions": intervals_csv(found).decode()}
    elif run.method == SOFTNET:
        _require_flow(run.config)
    looked = model is not None or run.predictions is None
    if looked:
        name, detector = _detector(videos, run.landmarker)
    recordings = _opened(videos, progress) if looked else []
    claim_folder(out, _identity(videos, recordings, run, name, model) | more)
    with only_writer(out):
        parts = out / PARTS
        if (out / SCORES).is_file():
            digests.check(out, [PREDICTIONS])
            result = _scored(videos, read_intervals(out / PREDICTIONS), run, model)
        else:
            if run.predictions is None:
                found = _spotted(videos, recordings, detector, run, saved, parts, progress)
            if model is not None:
                found = _named(videos, recordings, found, model, name, parts, progress)
            result = _written(videos, found, out, run, name, model)
        shutil.rmtree(parts, ignore_errors=True)
        return result


def _spotted(
    videos: LongVideos,
    recordings: Sequence[Recording],
    landmarker: Landmarker,
    run: SpotRun,
    saved: Spotter | None,
    parts: Path,
    progress: Progress | None,
) -> list[Marked]:
    if run.method == MOVEMENT:
        return _moved(videos, recordings, landmarker, parts, progress)
    found = []
    for kind in run.expressions:
        config = replace(run.config, expression=kind)
        seen = _observed(videos, recordings, landmarker, config, parts, progress)
        found += _learned(videos, seen, config, saved, parts, progress)
    return found


def _require_flow(config: SpotterConfig) -> None:
    if config.flow == "raft":
        raft_file()


def _recognizer(videos: LongVideos, name: Path | str | None) -> Recognizer | None:
    """Of the classes of emotions, that has seen nobody in these videos. Raises LeakError, ConfigError."""
    if name is None:
        return None
    model = Recognizer.load(name)
    if known := sorted(set(model.subjects_seen) & {video.person for video in videos.videos}):
        raise LeakError(f"the recognizer {model.name} learned from {known[0]}; take one that has not seen these people")
    if model.config.labels.multi or model.config.data.label not in ("label", "emotion"):
        raise ConfigError(f"the recognizer {model.name} does not tell emotions; take one of a scheme of emotions")
    return model


def _in_words_of(model: Recognizer, emotion: str) -> str:
    """The recognizer's class of an annotated emotion; "" where it has none."""
    word = label(emotion) if model.config.data.label == "label" else emotion
    return word if word in model.config.data.classes else ""


def _named(
    videos: LongVideos,
    recordings: Sequence[Recording],
    found: Sequence[Marked],
    model: Recognizer,
    landmarker: str,
    parts: Path,
    progress: Progress | None,
) -> list[Marked]:
    """The intervals with the class that the recognizer gives them; "" where they are too short or show no face."""
    out: list[Marked] = []
    files = [parts / f"{i:05d}-named.csv" for i in range(len(recordings))]
    frames = _Frames("recognizing", videos.videos, files, progress)
    for i, (video, recording, file) in enumerate(zip(videos.videos, recordings, files, strict=True)):
        if not file.is_file():
            mine = [one for one in found if one.key == video.key]
            fit = {
                (m.onset, m.offset): RecordingInterval(
                    onset=m.onset, apex=m.apex if m.apex and m.onset < m.apex <= m.offset else None, offset=m.offset
                )
                for m in mine if m.offset >= m.onset + 2
            }  # fmt: skip
            clips = parts / f"{i:05d}-clips"
            answers = classify(model, recording, list(fit.values()), landmarker=landmarker, out=clips)
            told = {(answer["onset"], answer["offset"]): str(answer["predicted"]) for answer in answers}
            named = [replace(m, emotion=told.get((m.onset, m.offset), "")) for m in mine]
            write_bytes(file, intervals_csv(named))
            frames.finished(video.frames)
        out += read_intervals(file)
    return out


def _identity(
    videos: LongVideos, recordings: Sequence[Recording], run: SpotRun, landmarker: str, model: Recognizer | None = None
) -> dict[str, Any]:
    """What the result depends on, without the machine's paths. ``recordings``: none where nobody looks at them."""
    return {
        "verb": "spot", "method": run.method, "expressions": list(run.expressions), "iou": run.iou,
        "config": asdict(run.config), "landmarker": landmarker_identity(landmarker),
        "recognizer": model.sha256 if model else "",
        "videos": [[*v.key, v.fps, v.frames] for v in videos.videos],
        "contents": [recording.digest() for recording in recordings],
        "intervals": hashlib.sha256(intervals_csv(videos.intervals)).hexdigest(),
        "spotter": file_sha256(run.spotter / WEIGHTS) if run.spotter else "",
    }  # fmt: skip


def _moved(
    videos: LongVideos,
    recordings: Sequence[Recording],
    landmarker: Landmarker,
    parts: Path,
    progress: Progress | None,
) -> list[Marked]:
    found: list[Marked] = []
    files = [parts / f"{i:05d}-movement.csv" for i in range(len(recordings))]
    frames = _Frames("spotting", videos.videos, files, progress)
    for video, recording, file in zip(videos.videos, recordings, files, strict=True):
        if not file.is_file():

            def told(_: str, done: float, total: float, step: int = recording.step) -> None:
                frames.report(int(done) * step)

            read = moved_in(recording, landmarker, progress=told)
            made = [
                Marked(
                    database=video.database, subject=video.subject, video=video.video, onset=one.onset, apex=one.apex,
                    offset=one.offset, expression="micro", score=one.height,
                )
                for one in read.intervals
            ]  # fmt: skip
            write_bytes(file, intervals_csv(made))
            frames.finished(video.frames)
        found += read_intervals(file)
    return found


def _learned(
    videos: LongVideos,
    seen: Sequence[Observation],
    config: SpotterConfig,
    saved: Spotter | None,
    parts: Path,
    progress: Progress | None,
) -> list[Marked]:
    """Each person's intervals by a spotter that has not seen the person."""
    found: list[Marked] = []
    everybody = list(dict.fromkeys(video.person for video in videos.videos))
    files = [parts / f"{i:05d}-{config.expression}-softnet.csv" for i in range(len(everybody))]
    step, done = f"people, {config.expression}", sum(file.is_file() for file in files)
    if progress:
        progress(step, done, len(everybody))
    for person, file in zip(everybody, files, strict=True):
        if not file.is_file():
            others = [n for n, video in enumerate(videos.videos) if video.person != person]
            spotter = saved or fit_spotter(
                [videos.videos[n] for n in others], [seen[n] for n in others],
                [videos.of(videos.videos[n]) for n in others], config,
                _share(progress, step, done, len(everybody), config),
            )  # fmt: skip
            spotter.check_unseen([person])
            own = [n for n, video in enumerate(videos.videos) if video.person == person]
            made = [one for n in own for one in spotter.found(videos.videos[n], seen[n])]
            write_bytes(file, intervals_csv(made))
            done += 1
            if progress:
                progress(step, done, len(everybody))
        found += read_intervals(file)
    return found


def _share(
    progress: Progress | None, step: str, done: int, total: int, config: SpotterConfig
) -> Callable[[int], object] | None:
    """Reports of epochs as parts of the one training after ``done`` of ``total``."""
    if progress is None:
        return None
    if total == 1:
        progress(step, 0, config.epochs)
        return lambda epoch: progress(step, epoch, config.epochs)
    return lambda epoch: progress(step, done + epoch / (config.epochs + 1), total)


def _scored(videos: LongVideos, found: Sequence[Marked], run: SpotRun, model: Recognizer | None) -> SpottingScore:
    truth: Sequence[Marked] = videos.intervals
    if model is not None:
        truth = [replace(one, emotion=_in_words_of(model, one.emotion)) for one in truth]
    return score(videos.videos, truth, found, kinds=run.expressions, least=run.iou)


def _written(
    videos: LongVideos, found: Sequence[Marked], out: Path, run: SpotRun, landmarker: str, model: Recognizer | None
) -> SpottingScore:
    result = _scored(videos, found, run, model)
    rows = per_video(result)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else ["subject"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    method = GIVEN if run.predictions is not None else run.method
    facts = {"method": method, "landmarker": Path(landmarker).name} | result.to_dict()
    write_bytes(out / PREDICTIONS, intervals_csv(found))
    write_bytes(out / VIDEO_SCORES, buffer.getvalue().encode())
    write_last(out / SCORES, (json.dumps(facts, indent=1) + "\n").encode(), without=[PARTS])
    return result
