"""What a clip is checked for (identity, AU control, artefacts, duplicates), and which clips of a corpus fail.

Each check has a limit, and a measure behind it. The usual limits leave out one or two in a hundred rendered pairs of
people nobody learned from: what they leave out of a corpus beyond that is the generator's. The figures are in
docs/figures.md, made by ``scripts/filter_limits.py``.

:func:`filter_corpus` is a verb on a finished corpus: it takes corpora of any origin, and whether a clip is a duplicate
depends on all others. Nothing is lost silently. :mod:`mesynth.corpus.rejection` makes others in their place."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mesynth.core.errors import ConfigError, ManifestError
from mesynth.core.facs import AU_INDEX
from mesynth.core.process import counted
from mesynth.metrics.base import ClipData
from mesynth.metrics.identity import different_people, distances
from mesynth.metrics.networks import Networks
from mesynth.motion.warp import backward_flow, warp_backward
from mesynth.store.manifest import FILE_NAME, Manifest, Row, write_tables
from mesynth.store.run_folder import claim_folder, only_writer, write_text
from mesynth.store.shards import read_flows
from mesynth.store.stage import Progress

GHOST = 24
"""Grey levels: an apex that differs by more from its onset, moved by the clip's own flow, shows what did not move."""
_GRID = 8  # a flow is compared with others at 8 x 8: 512 bytes a clip
_STILL = 1e-3  # mean pixels of a grid cell: below, two flows are equal because neither is anything


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a clip may reach. None: not checked. Usual limits from 300 rendered pairs (docs/figures.md)."""

    identity: float | None = 0.32
    """Distance of the apex's face embedding to the onset's: 99 % of true pairs are below .30, 5 % of different rendered
    people below .31. (The .6 of dlib's author is for photographs: 88 % of different rendered people are below it.)"""
    control: float | None = 2.5
    """Largest error of a measured AU whose target is above 0, on the 0-5 scale: 98 % of true pairs are below it."""
    artefact: float | None = 0.04
    """Share of the face where the apex is not the onset moved by the clip's flow (:data:`GHOST`): 99 % of true pairs
    are below .003; what a lid or a lip uncovers is nobody's artefact."""
    duplicate: float | None = 0.01
    """Relative difference of the flow to that of any clip kept; must be reached. A clip made again has 0, even with
    other noise; the most alike of 300 true pairs have .07."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and 0 <= value <= 5):
                raise ConfigError(f"limit {name}={value:g} is outside [0, 5]")
        if all(value is None for value in asdict(self).values()):
            raise ConfigError(f"no check is left; choose from {', '.join(CHECKS)}")

    @property
    def of_frames(self) -> tuple[str, ...]:
        """The checks that look at frames, of those that are made."""
        return tuple(name for name in CHECKS if name != "duplicate" and getattr(self, name) is not None)

    def text(self) -> str:
        """As :func:`parse_keep` reads it."""
        return ",".join(f"{name}={value:g}" for name, value in asdict(self).items() if value is not None)


CHECKS = tuple(f.name for f in fields(Limits))


def parse_keep(text: str) -> Limits:
    """``identity=0.5,duplicate``: these checks alone, at this limit or the usual one; "" for all of them.

    Raises:
        ConfigError: an unknown check, one named twice, or a limit that is no number or out of range.
    """
    usual: dict[str, Any] = asdict(Limits())
    if not text.strip():
        return Limits()
    limits: dict[str, float | None] = dict.fromkeys(usual)
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, equals, number = (p.strip() for p in part.partition("="))
        if name not in usual:
            raise ConfigError(f"check '{name}' is unknown; choose from {', '.join(usual)}")
        if limits[name] is not None:
            raise ConfigError(f"check '{name}' is given twice; give it once")
        try:
            limits[name] = float(number) if equals else usual[name]
        except ValueError:
            raise ConfigError(f"limit '{part}' is no number; write for example {name}={usual[name]:g}") from None
    return Limits(**limits)


Failure = tuple[str, float, float, str]
"""Check, value, limit, and of a duplicate the clip that it repeats."""


class Checks:
    """Measures clips one at a time; networks are loaded when a check first needs them. Picklable without them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._networks = Networks()
        self._kept: list[str] = []
        self._flows = np.zeros((0, 2 * _GRID**2), np.float32)
        self._sizes = np.zeros(0, np.float32)

    def load(self) -> None:
        """Load the networks now. Raises WeightsUnavailable for a check whose network is not on this machine."""
        if self.limits.identity is not None:
            self._networks.faces  # noqa: B018
        if self.limits.control is not None:
            self._networks.judge  # noqa: B018

    def measure(self, clip: ClipData) -> dict[str, float]:
        """The value of every check of frames that is made."""
        measures: dict[str, Callable[[ClipData], float]] = {
            "identity": self.identity, "control": self.control, "artefact": artefact,
        }  # fmt: skip
        return {name: measures[name](clip) for name in self.limits.of_frames}

    def failed(self, values: Mapping[str, float], of: str = "") -> list[Failure]:
        """The checks whose value is beyond its limit (or is no number); ``of``: the clip that a duplicate repeats."""
        out: list[Failure] = []
        for name, value in values.items():
            limit = getattr(self.limits, name)
            if name == "duplicate" and value < limit:
                out.append((name, value, limit, of))
            elif name != "duplicate" and not value <= limit:
                out.append((name, value, limit, ""))
        return out

    def embedding(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """See :class:`mesynth.metrics.networks.FaceEmbedder`."""
        return self._networks.faces(frames, landmarks)

    def identity(self, clip: ClipData) -> float:
        """Distance of the apex's embedding to the onset's."""
        return float(distances(self.embedding(clip.frames[[0, clip.row.apex_index]], clip.landmarks))[0])

    def control(self, clip: ClipData) -> float:
        """Largest |measured - target| over trusted AUs whose target is above 0, 0-5; 0 if there is none."""
        from mesynth.metrics.networks.judge import visible_aus  # with torch

        measured = self._networks.judge.intensity(clip.frames[[0, clip.row.apex_index]], clip.landmarks)
        targets = visible_aus(clip.row.aus.intensity[None])
        errors = [0.0]
        for code in self._networks.judge.trusted:
            target = targets[0, AU_INDEX[code]]
            errors += (5 * np.abs(measured[0, AU_INDEX[code]] - target))[target > 0].tolist()
        return max(errors)

    def nearest(self, flow: np.ndarray, *, other_than: str = "") -> tuple[float, str]:
        """Difference of ``flow`` [2,H,W] to the nearest kept one, of the larger of both, and which clip that is.

        Of the larger: so that it does not matter which of two clips came first. Infinite for a flow that is nothing.
        ``other_than``: a kept clip that is not meant.
        """
        small = _small(flow)
        size = _rms(small)
        if size <= _STILL or not self._kept:
            return math.inf, ""
        n = len(self._kept)
        apart = np.sqrt(((self._flows[:n] - small) ** 2).mean(1)) / np.maximum(self._sizes[:n], size)
        if other_than in self._kept:
            apart[self._kept.index(other_than)] = np.inf
        if np.isinf(apart).all():
            return math.inf, ""
        return float(apart.min()), self._kept[int(apart.argmin())]

    def keep(self, clip_id: str, flow: np.ndarray) -> None:
        """Later clips are compared with this one."""
        small = _small(flow)
        if (size := _rms(small)) <= _STILL:
            return
        if len(self._kept) == len(self._flows):
            more = max(256, len(self._flows))
            self._flows = np.concatenate([self._flows, np.zeros((more, small.size), np.float32)])
            self._sizes = np.concatenate([self._sizes, np.zeros(more, np.float32)])
        self._flows[len(self._kept)], self._sizes[len(self._kept)] = small, size
        self._kept.append(clip_id)


def _small(flow: np.ndarray) -> np.ndarray:
    _, height, width = flow.shape
    cells = cv2.resize(np.ascontiguousarray(flow.transpose(1, 2, 0)), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(cells * np.array([128 / width, 128 / height], np.float32), np.float32).ravel()


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def artefact(clip: ClipData) -> float:
    """Share of the face whose apex is further than GHOST grey levels from the onset moved by the clip's flow.

    Moved there, or read back from there: at a lid or a lip, where flow jumps, only the second is right. What is
    uncovered (an eyeball, a mouth) is nobody's artefact, as no pixel of the onset goes there; pixels beside hidden
    ones, and at the face's edge, show two things at once and are left out.
    """
    forward = np.ascontiguousarray(clip.emitted_flow.transpose(1, 2, 0))
    onset, apex = (np.ascontiguousarray(clip.frames[t]) for t in (0, clip.row.apex_index))
    there = np.abs(warp_backward(onset, backward_flow(forward)) - apex).mean(-1)
    back = np.abs(warp_backward(apex, forward) - onset).mean(-1)
    face = cv2.erode(clip.face.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return float((np.minimum(there, back) > GHOST)[face].mean()) if face.any() else 0.0


# ------------------------------------------------------------------- filters


REJECTED_FILE = "rejected.csv"
QUANTILES = (1, 5, 50, 95, 99)
"""Per cent that :class:`Spread` states."""
_FLOOR_PEOPLE = 200


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """One reason to leave a clip out; a line of ``rejected.csv``."""

    clip_id: str
    plan_row: int
    check: str
    value: float
    limit: float
    of: str = ""
    """The clip that it repeats."""
    attempt: int = 1
    """Which attempt at the plan's row it was; later ones are made by :mod:`mesynth.corpus.rejection` alone."""


def rejections(row: Row, failed: Iterable[Failure], attempt: int = 1) -> list[Rejection]:
    """A line for each failed check of a clip."""
    plan_row = row.provenance.plan_row
    return [
        Rejection(clip_id=row.clip_id, plan_row=plan_row, check=check, value=value, limit=limit, of=of, attempt=attempt)
        for check, value, limit, of in failed
    ]


def rejected_csv(rejected: Iterable[Rejection]) -> str:
    """``rejected.csv``."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [f.name for f in fields(Rejection)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(r) | {"value": f"{r.value:.6g}", "limit": f"{r.limit:g}"} for r in rejected)
    return buffer.getvalue()


def filter_corpus(
    folder: Path, out: Path, limits: Limits = Limits(), *, progress: Progress | None = None
) -> tuple[Manifest, list[Rejection]]:
    """The clips of ``folder`` within ``limits`` as a manifest in ``out``, and every reason why others are not in it.

    Shards stay where they are: the new manifest points into them. ``rejected.csv`` lists clip, plan row, check, value
    and limit. The kept and the rejected are together exactly the corpus.

    Raises:
        ManifestError: no corpus, or clips without what a check needs (frames, landmarks, flow).
        WeightsUnavailable: a check's network is not on this machine.
        RunFolderError: ``out`` holds something else.
    """
    source = _readable(folder, limits)
    checks = Checks(limits)
    checks.load()
    claim_folder(out, {"filter": source.hash(), "limits": asdict(limits)})
    rejected: list[Rejection] = []
    keep = np.ones(len(source), np.bool_)
    with only_writer(out):
        for index, (row, _, failed) in enumerate(counted(_walk(source, checks), len(source), progress)):
            keep[index] = not failed
            rejected += rejections(row, failed)
        assert set(source.column("clip_id")[~keep]) == {r.clip_id for r in rejected}
        write_text(out / REJECTED_FILE, rejected_csv(rejected))
        kept = Manifest.join([source.filter(keep)], out)
        write_tables(out, lambda: [kept.table], kept.meta, finishes=())
    return Manifest.read(out / FILE_NAME), rejected


def _readable(folder: Path, limits: Limits) -> Manifest:
    source = Manifest.read(folder)
    if limits.of_frames and len(source) and source.row(0).frames is None and not source.row(0).frame_files:
        raise ManifestError(f"the clips of {folder} have no frames to check; use --keep duplicate")
    return source


def _walk(source: Manifest, checks: Checks) -> Iterator[tuple[Row, dict[str, float], list[Failure]]]:
    """Each clip with its values and the checks that it fails, in order; those that fail none are kept in mind."""
    flows = repeat(None) if checks.limits.duplicate is None else read_flows(source)
    for row, flow in zip(source, flows, strict=False):
        values = checks.measure(ClipData("synthetic", row, source.root)) if checks.limits.of_frames else {}
        of = ""
        if flow is not None:
            values["duplicate"], of = checks.nearest(flow)
        failed = checks.failed(values, of)
        if flow is not None and not failed:
            checks.keep(row.clip_id, flow)
        yield row, values, failed


# ---------------------------------------------------------------- how a corpus lies to the limits


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How the values of a check lie in a corpus."""

    check: str
    limit: float | None
    n: int
    quantiles: tuple[float, ...]
    """At QUANTILES; empty for all checks together."""
    rejected: float | None
    """Share of the clips beyond the limit, by this check alone; None where there is no limit."""

    def cells(self) -> list[str]:
        """For a table, with the columns of :data:`COLUMNS`."""
        limit = "" if self.limit is None else f"{self.limit:g}"
        share = "" if self.rejected is None else f"{100 * self.rejected:.1f} %"
        values = [f"{q:.3f}" for q in self.quantiles] or [""] * len(QUANTILES)
        return [self.check, limit, str(self.n), *values, share]


COLUMNS = ("check", "limit", "n", *(f"{q} %" for q in QUANTILES), "rejected")


def spread(check: str, limit: float | None, values: np.ndarray) -> Spread:
    """Of [N] values; of the duplicate check those below the limit are rejected, of the others those above."""
    quantiles = tuple(float(q) for q in np.percentile(values, QUANTILES, method="inverted_cdf"))
    share = None
    if limit is not None:
        share = float((values < limit if check == "duplicate" else ~(values <= limit)).mean())
    return Spread(check=check, limit=limit, n=len(values), quantiles=quantiles, rejected=share)


def measure_corpus(folder: Path, limits: Limits = Limits(), *, progress: Progress | None = None) -> list[Spread]:
    """How the clips of ``folder`` lie to ``limits``, check by check and in all; nothing is written.

    With the identity check, the distance between onsets of different people is there too: what another person would be.

    Raises:
        ManifestError: as :func:`filter_corpus`, or a corpus without clips. WeightsUnavailable: likewise.
    """
    source = _readable(folder, limits)
    if not len(source):
        raise ManifestError(f"{folder} holds no clips to measure")
    checks = Checks(limits)
    checks.load()
    found: dict[str, list[float]] = {name: [] for name in CHECKS if getattr(limits, name) is not None}
    onsets: dict[str, np.ndarray] = {}
    left_out = 0
    for row, values, failed in counted(_walk(source, checks), len(source), progress):
        for name, value in values.items():
            found[name].append(value)
        left_out += bool(failed)
        if limits.identity is not None and row.subject_key not in onsets and len(onsets) < _FLOOR_PEOPLE:
            clip = ClipData("synthetic", row, source.root)
            onsets[row.subject_key] = checks.embedding(clip.frames[:1], clip.landmarks)[0]
    out = [spread(name, getattr(limits, name), np.array(values)) for name, values in found.items()]
    if len(onsets) > 1:
        apart = different_people(np.stack(list(onsets.values())), list(onsets))
        out.insert(1, spread("different people", None, apart))
    return [*out, Spread(check="any", limit=None, n=len(source), quantiles=(), rejected=left_out / len(source))]
