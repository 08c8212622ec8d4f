"""What a measure is: the clips it sees, rows, settings, the protocol it follows, and the registry of all measures.

A measure from outside follows :class:`Metric` and is registered under a name by :func:`register`, or declared by an
installed package (entry points of the group ``mesynth.metrics``); it then stands in every report.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import cv2
import numpy as np

from mesynth.core import seeds
from mesynth.core.errors import ConfigError, ManifestError, MesynthError
from mesynth.core.registry import Registry
from mesynth.core.statistics import group_weights, interval_of
from mesynth.metrics.networks import Networks
from mesynth.store.manifest import Manifest, Row
from mesynth.store.shards import npy_array, read_flow, read_frames, read_landmarks, read_span

if TYPE_CHECKING:
    pass

# ------------------------------------------------------------------- clips


CURVE_SIZE = 64
"""Side of the aligned crop in which motion over time is estimated: a quarter of the work of 128."""


def face_mask(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H,W] bool: the convex hull of 68 landmarks [68,2], raised by half a face for the forehead."""
    brow = landmarks[17:27]
    up = 0.25 * (landmarks[8] - landmarks[27])
    points = np.concatenate([landmarks, brow - up]).astype(np.float32)
    hull = cv2.convexHull(np.round(points).astype(np.int32))
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, hull, 1)
    return mask.astype(bool)


class ClipData:
    """A clip of the real or the synthetic side (``side``). Arrays are read when first used.

    Missing landmarks or flow raise ManifestError at use, so that only the measures that need them leave
    the clip out.
    """

    def __init__(self, side: str, row: Row, root: Path) -> None:
        self.side, self.row, self._root = side, row, root
        self._made: dict[int, tuple[object, Any]] = {}
        self.frames = read_frames(root, row)
        if not 0 < row.apex_index < len(self.frames):
            raise ManifestError(f"clip {row.clip_id} has no apex after its onset (apex_index {row.apex_index})")

    def once(self, maker: object, make: Callable[[], Any]) -> Any:
        """What ``make`` makes of this clip for ``maker``: made when it is first asked for, the same from then on."""
        if id(maker) not in self._made:
            self._made[id(maker)] = (maker, make())
        return self._made[id(maker)][1]

    @cached_property
    def landmarks(self) -> np.ndarray:
        """The onset's landmarks [68,2] float32, pixels of the stored frames."""
        return read_landmarks(self._root, self.row)

    @cached_property
    def emitted_flow(self) -> np.ndarray:
        """The flow stored with the clip [2,H,W] float32, pixels of the stored frames."""
        return read_flow(self._root, self.row)

    @cached_property
    def face(self) -> np.ndarray:
        """[H,W] bool: the face in the stored onset, without pixels the clip marks as hidden at the apex."""
        mask = face_mask(self.landmarks, *self.frames.shape[1:3])
        assert self.row.flow is not None  # or there were no landmarks
        valid = read_span(self._root, self.row.flow).get("valid.npy")
        return mask & npy_array(valid) if valid is not None else mask

    @cached_property
    def aligned_pair(self) -> np.ndarray:
        """Onset and apex in the canonical 128-pixel crop, [2,128,128,3] uint8."""
        from mesynth.preprocess.align import SimilarityCrop

        return SimilarityCrop.from_landmarks(self.landmarks).frames(self.frames[[0, self.row.apex_index]])

    @cached_property
    def apex_flow(self) -> np.ndarray:
        """TV-L1 flow of :attr:`aligned_pair`, [2,128,128] float32."""
        from mesynth.preprocess.flow import estimate_flow

        return estimate_flow(*self.aligned_pair).uv

    @cached_property
    def small(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The whole clip at CURVE_SIZE: frames [T,S,S,3], flows onset -> frame [T-1,2,S,S], face mask [S,S]."""
        from mesynth.preprocess.align import SimilarityCrop
        from mesynth.preprocess.flow import estimate_flows

        crop = SimilarityCrop.from_landmarks(self.landmarks, CURVE_SIZE)
        frames = crop.frames(self.frames)
        flows = estimate_flows(np.repeat(frames[:1], len(frames) - 1, 0), frames[1:])
        return frames, np.stack([f.uv for f in flows]), face_mask(crop.points(self.landmarks), CURVE_SIZE, CURVE_SIZE)


def subset(manifest: Manifest, clips: int, seed: int, purpose: str) -> np.ndarray:
    """Up to ``clips`` row numbers, drawn without replacement from the seed alone, in random order."""
    order = seeds.stream(seed, f"measure-{purpose}").permutation(len(manifest))
    return np.asarray(order[:clips])


def walk(manifest: Manifest, rows: np.ndarray, side: str, left_out: dict[str, int]) -> Iterator[ClipData]:
    """The clips of ``rows`` one at a time; unreadable ones are counted in ``left_out`` by reason."""
    for index in rows:
        row = manifest.row(int(index))
        try:
            yield ClipData(side, row, manifest.root)
        except MesynthError as error:
            reason = str(error).replace(row.clip_id, "...")
            left_out[reason] = left_out.get(reason, 0) + 1


# ------------------------------------------------------------------- settings


SIDES = ("real", "synthetic")
LEFT_OUT = "left out"
"""Name in an observation of the reason why the rest of the clip could not be used."""
Observation = dict[str, Any]
"""What a measure keeps of one clip: arrays, numbers and texts by name, as numpy stores them without loss."""


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """What is measured on how many clips. Weight files are arguments of ``measure``, not of the recipe."""

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


# ------------------------------------------------------------------- rows


@dataclass(frozen=True, kw_only=True)
class MeasureRow:
    """One measured number. ``value`` is None when it was not measured: then ``note`` says why.

    ``group`` and ``name`` are for readers; programs find a row by ``key``, which stays the same when a label changes
    (without one it is made of the name). ``reference`` are the numbers to read it against, by name (real, baseline,
    ceiling, floor, zero flow); ``better`` is "low", "high", "one", "zero" or "" (compare with the reference).

    >>> MeasureRow(group="flow", name="Flow error (px)", value=0.5).key
    'flow_error_px'
    """

    group: str
    name: str
    key: str = ""
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    reference: dict[str, float] = field(default_factory=dict)
    better: str = ""
    n: int = 0
    headline: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.note:
            raise ValueError(f"'{self.name}' has no value and no note; say why it was not measured")
        if not self.key:
            object.__setattr__(self, "key", slug(self.name))

    def text(self) -> tuple[str, str, str, str]:
        """Name, value with its interval, references and N as a reader sees them."""
        if self.value is None:
            return self.name, "not measured", "", ""
        value = f"{format_number(self.value)} {self.unit}".strip()
        if self.low is not None and self.high is not None:
            value += f" [{format_number(self.low)}, {format_number(self.high)}]"
        references = ", ".join(f"{name} {format_number(v)}" for name, v in self.reference.items())
        return self.name, value, references, str(self.n) if self.n else ""


def slug(name: str) -> str:
    """A key made of a label.

    >>> slug("  of others' mean, same AUs")
    'of_others_mean_same_aus'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("'", "")).strip("_")


def not_measured(group: str, why: str) -> MeasureRow:
    """The row of a group that could not be measured; its key is that of the group, ``..._not_measured``."""
    return MeasureRow(
        group=group, name=group, key=f"{slug(group)}_not_measured", value=None, note=f"not measured: {why}"
    )


def format_number(value: float) -> str:
    """Three significant digits, without exponents where a person would not use them.

    >>> [format_number(v) for v in (0.01234, 0.98765, 104.4, 0.0, -0.00001234)]
    ['0.0123', '0.988', '104', '0', '-1.23e-05']
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


# ------------------------------------------------------------------- measures


@dataclass(frozen=True)
class Setup:
    """What every measure is constructed with: the settings of the run, and networks that all measures share."""

    config: MeasureConfig = MeasureConfig()
    networks: Networks = field(default_factory=Networks)


class Metric(Protocol):
    """A measure, made as ``cls(setup)``: it takes in clips one at a time and ends with rows of the report.

    Several are made in one run: each takes in some clips of one side, and they are merged in the order of the clips, so
    that any number of processes gives the same bits. Its constructor should be cheap: networks belong into
    ``setup.networks`` (``setup.networks.get("mine", load)``), and raise WeightsUnavailable where they are missing.

    Optional: ``limit``, how many clips a side are taken in, the first that can be used; ``plots() -> dict[str, bytes]``
    (PNG by name); ``state()`` and ``restore()`` as in :class:`ClipMetric`, without which clips are read by one process.
    """

    label: str
    """The heading under which its rows stand."""

    def update(self, clip: ClipData) -> None:
        """Take in a clip. Raises MesynthError when it lacks what is needed; the report counts it as left out."""
        ...

    def merge(self, other: Any) -> None:
        """Take in what another object of this class has taken in, after one's own."""
        ...

    def compute(self) -> Sequence[MeasureRow]:
        """The figures. Raises MesynthError when there are none: the group is reported as not measured."""
        ...


class PartlyUsed(MesynthError):
    """Raised by ``update`` of a clip that was taken in but for what the message says."""


class ClipMetric(ABC):
    """A measure that keeps an observation of each clip, which depends on that clip alone. Subclasses say what they
    ``observe`` and what they ``compute`` from ``observations``.

    >>> class Length(ClipMetric):
    ...     label = "length"
    ...     def observe(self, clip):
    ...         return {"frames": len(clip.frames)}
    ...     def compute(self):
    ...         own = self.values("synthetic", "frames")
    ...         return [MeasureRow(group=self.label, name="frames", value=float(own.mean()), n=len(own))]
    >>> from types import SimpleNamespace as Clip
    >>> one, two = Length(Setup()), Length(Setup())
    >>> row = Clip(clip_id="a", subject_key="s")
    >>> one.update(Clip(side="synthetic", row=row, frames=[0, 1]))
    >>> two.update(Clip(side="synthetic", row=row, frames=[0, 1, 2, 3]))
    >>> one.merge(two)
    >>> one.compute()[0].text()
    ('frames', '3', '', '2')
    """

    label: ClassVar[str]
    limit: int | None = None

    def __init__(self, setup: Setup) -> None:
        self.config, self.networks = setup.config, setup.networks
        self.observations: dict[str, list[Observation]] = {side: [] for side in SIDES}

    @abstractmethod
    def observe(self, clip: ClipData) -> Observation:
        """What is needed of one clip; empty if it is of no use here.

        Raises MesynthError when the clip lacks what is needed; with LEFT_OUT the rest of the observation counts.
        """

    @abstractmethod
    def compute(self) -> Sequence[MeasureRow]:
        """See :class:`Metric`."""

    def update(self, clip: ClipData) -> None:
        """See :class:`Metric`."""
        found = self.observe(clip)
        why = found.pop(LEFT_OUT, "")
        if found:
            who = {"clip": clip.row.clip_id, "subject": clip.row.subject_key}
            self.observations[clip.side].append(who | found)
        if why:
            raise PartlyUsed(why)

    def merge(self, other: ClipMetric) -> None:
        """See :class:`Metric`."""
        for side, found in other.observations.items():
            self.observations[side] += found

    def plots(self) -> dict[str, bytes]:
        """PNG bytes by name."""
        return {}

    def state(self) -> dict[str, Any]:
        """What was taken in, as arrays by name: for another process."""
        return {
            f"{side}/{i}/{what}": value
            for side, found in self.observations.items()
            for i, observation in enumerate(found)
            for what, value in observation.items()
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take in the :meth:`state` of another, bit for bit."""
        for key, value in state.items():
            side, number, what = key.split("/", 2)
            found = self.observations[side]
            if int(number) == len(found):
                found.append({})
            found[int(number)][what] = value if value.ndim else value.item()

    def values(self, side: str, what: str) -> np.ndarray:
        """[N] or [N,...] of one side's observations, in their order."""
        return np.array([observation[what] for observation in self.observations[side]])

    def groups(self, side: str) -> list[str]:
        """What the bootstrap draws, of each observation: its clip, or with ``bootstrap: subject`` its subject."""
        return [observation[self.config.bootstrap] for observation in self.observations[side]]

    def weights(self, side: str, seed: int) -> np.ndarray | None:
        """Bootstrap weights [R,N] of one side's observations; None with fewer than two groups."""
        groups = self.groups(side)
        return None if len(set(groups)) < 2 else group_weights(groups, seeds.stream(seed, "bootstrap-clips"))

    @property
    def over(self) -> str:
        """For notes of rows whose interval is over clips unless they say otherwise."""
        return "" if self.config.bootstrap == "clip" else f"; bootstrap over {self.config.bootstrap}s"

    def median_row(
        self, name: str, what: str, *, key: str, unit: str = "", better: str = "", note: str = "",
        headline: bool = False, reference: dict[str, float] | None = None,
    ) -> MeasureRow:  # fmt: skip
        """Median of ``what`` over synthetic clips, with its 95 % interval, beside the real clips' median."""
        found = {side: [(o[what], o[self.config.bootstrap]) for o in self.observations[side]
                        if what in o and np.isfinite(o[what])] for side in SIDES}  # fmt: skip
        own, real = (np.array([value for value, _ in found[side]]) for side in ("synthetic", "real"))
        if not len(own):
            why = f"no clip had a finite value; {note}".rstrip("; ")
            return MeasureRow(group=self.label, name=name, key=key, value=None, note=why)
        groups = [group for _, group in found["synthetic"]]
        low, high = interval_of(own, np.median, groups, seeds.stream(0, "bootstrap-median"))
        beside = dict(reference or {}) | ({"real": float(np.median(real))} if len(real) else {})
        return MeasureRow(group=self.label, name=name, key=key, value=float(np.median(own)), low=low, high=high,
                          unit=unit, reference=beside, better=better, n=len(own), note=note + self.over,
                          headline=headline)  # fmt: skip


def median(values: Sequence[float] | np.ndarray) -> float:
    """Of the finite ones; NaN of none."""
    finite = np.array([v for v in values if np.isfinite(v)])
    return float(np.median(finite)) if len(finite) else float("nan")


METRICS: Registry[Any] = Registry(
    "measure",
    "mesynth.metrics",
    {
        "pictures": "mesynth.metrics.pictures:Pictures",
        "diversity": "mesynth.metrics.pictures:Diversity",
        "identity": "mesynth.metrics.identity:Identity",
        "au_control": "mesynth.metrics.control:AUControl",
        "flow": "mesynth.metrics.motion:FlowFidelity",
        "sequence": "mesynth.metrics.motion:Sequence",
    },
)
"""Measures by name, in the order of the report; those from outside come last."""


def register(name: str) -> Any:
    """Decorator: every report has the rows of this measure from now on. See :class:`Metric`; raises ConfigError for
    the name of a measure that ships.

    >>> @register("frames")
    ... class Length(ClipMetric):
    ...     label = "length"
    >>> METRICS["frames"].label
    'length'
    >>> METRICS.remove("frames")
    """
    return METRICS.register(name)
