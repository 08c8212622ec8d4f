"""Motion as it meets the clips: emitted against re-estimated flow, and the shape of a clip over time."""

from __future__ import annotations

import numpy as np

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.metrics.clips import ClipData
from mesynth.metrics.collectors import LEFT_OUT, SIDES, Seen, median_row
from mesynth.metrics.figures import FlowHistogram, flow_plot
from mesynth.metrics.motion import (
    FlowError,
    flow_error,
    magnitude_curve,
    requested_timing,
    timing,
    warping_error,
    without_rigid,
)
from mesynth.metrics.report import MeasureRow
from mesynth.store.manifest import Row


class FlowFidelity:
    """Is the flow a clip ships the flow its frames show? Emitted against TV-L1 of onset and apex.

    Real clips take no part: their stored flow is itself an estimate.
    """

    group = "flow"
    limit: int | None = None

    def __init__(self) -> None:
        self._errors: dict[str, list[FlowError]] = {side: [] for side in SIDES}
        self._zero: list[FlowError] = []
        self._pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def see(self, clip: ClipData) -> Seen:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        if clip.side == "real":
            return {}
        from mesynth.preprocess.flow import estimate_flow

        emitted, mask = clip.emitted_flow, clip.face
        if emitted.shape[1:] != clip.frames.shape[1:3]:
            raise ManifestError(f"flow {emitted.shape[1:]} and frames {clip.frames.shape[1:3]} differ in size")
        if not mask.any():
            raise ManifestError("no valid pixel on the face")
        shown = estimate_flow(clip.frames[0], clip.frames[clip.row.apex_index]).uv
        return {
            "error": _numbers(flow_error(emitted, shown, mask)),
            "zero": _numbers(flow_error(np.zeros_like(shown), shown, mask)),
            "emitted": emitted.astype(np.float16),
            "shown": shown.astype(np.float16),
            "face": mask,
        }

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        self._errors[side].append(_error(seen["error"]))
        self._zero.append(_error(seen["zero"]))
        self._pairs.append((seen["emitted"], seen["shown"], seen["face"]))

    def _mean_flow(self) -> list[FlowError]:
        """The corpus' mean emitted flow offered for every clip; needs frames of one size."""
        if len({seen.shape for _, seen, _ in self._pairs}) != 1:
            return []
        mean = np.asarray(np.mean([emitted for emitted, _, _ in self._pairs], axis=0, dtype=np.float32))
        return [flow_error(mean, seen.astype(np.float32), mask) for _, seen, mask in self._pairs]

    def rows(self) -> list[MeasureRow]:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        if not self._zero:
            raise MesynthError("no synthetic clip has a flow and landmarks")
        mean = self._mean_flow()
        note = "emitted against TV-L1 of onset and apex, face only"
        rows = []
        for name, field, unit, headline in (
            ("flow end-point error", "epe", "px", True),
            ("flow relative end-point error", "relative", "", True),
            ("flow angular error", "angle", "deg", False),
            ("flow strain error", "strain", "", False),
        ):
            values = {side: [getattr(e, field) for e in errors] for side, errors in self._errors.items()}
            reference = {}
            if field != "angle":  # zero flow has no direction
                reference["zero flow"] = _median([getattr(e, field) for e in self._zero])
            if mean:
                reference["mean flow"] = _median([getattr(e, field) for e in mean])
            extra = " where the face moves more than 0.3 px" if field == "angle" else ""
            rows.append(
                median_row(self.group, name, values, unit=unit, better="low", reference=reference,
                           note=f"median over clips{extra}; {note}", headline=headline)
            )  # fmt: skip
        return rows

    def plots(self) -> dict[str, bytes]:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        return {}


def _numbers(error: FlowError) -> np.ndarray:
    return np.array([error.epe, error.relative, error.angle, error.strain])


def _error(numbers: np.ndarray) -> FlowError:
    epe, relative, angle, strain = numbers.tolist()
    return FlowError(epe=epe, relative=relative, angle=angle, strain=strain)


_COUNTS = ("magnitude", "direction")


class Sequence:
    """Apex position, rise, decay, warping error and jerk, from flow re-estimated over the whole clip."""

    group = "sequence"
    limit: int | None = None

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}
        self._histograms = {side: FlowHistogram() for side in SIDES}
        self._n = 0

    def see(self, clip: ClipData) -> Seen:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        from mesynth.metrics.motion import face_mask
        from mesynth.preprocess.align import SimilarityCrop

        row = clip.row
        crop = SimilarityCrop.from_landmarks(clip.landmarks)
        face = face_mask(crop.points(clip.landmarks), crop.size, crop.size)
        histogram = FlowHistogram()
        histogram.add(clip.apex_flow, face)
        expression = without_rigid(clip.apex_flow[None], face)[0]
        seen: Seen = dict(zip(_COUNTS, histogram.counts, strict=True))
        seen["motion at the apex"] = float(np.hypot(*expression)[face].mean())
        if len(clip.frames) < 4:
            return seen | {LEFT_OUT: f"{len(clip.frames)} frames are too few for a motion curve (4)"}
        frames, flows, mask = clip.small
        curve = np.concatenate([[0.0], magnitude_curve(flows, mask)])
        found = timing(curve, row.fps)
        pulled, plain = warping_error(frames, flows, mask)
        seen |= {
            "apex index error": abs(found.apex - row.apex_index),
            "apex error, share of the clip": abs(found.apex - row.apex_index) / (len(frames) - 1),
            "rise time": 1000 * found.rise,
            "decay time": 1000 * found.decay,
            "jerk": found.jerk,
            "warping error": pulled,
            "_plain": plain,
        }
        if clip.side == "synthetic" and row.provenance.profile:
            asked = requested_timing(len(frames), row.apex_index, row.fps, Profile.parse(row.provenance.profile))
            seen["rise time error"] = 1000 * abs(found.rise - asked.rise)
            seen["decay time error"] = 1000 * abs(found.decay - asked.decay)
        return seen

    def take(self, side: str, row: Row, seen: Seen) -> None:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        for total, name in zip(self._histograms[side].counts, _COUNTS, strict=True):
            np.add(total, seen[name], out=total)
        for name, value in seen.items():
            if name not in _COUNTS:
                self._values.setdefault(name, {s: [] for s in SIDES})[side].append(float(value))
        self._n += side == "synthetic"

    def rows(self) -> list[MeasureRow]:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        if not self._n:
            raise MesynthError("no synthetic clip has the landmarks that motion over time needs; run `mesynth prepare`")
        found = "from TV-L1 at 64 px, head movement removed; median over clips"
        crossing = "10% to 90% of the largest motion"
        profile = "against the profile in the clip's provenance"
        spec = (
            ("motion at the apex", "px", "", "mean over the face, 128 px crop, head movement removed", True),
            ("apex index error", "frames", "low", f"|largest motion - apex_index|; {found}", True),
            ("apex error, share of the clip", "", "low", found, False),
            ("rise time", "ms", "", f"{crossing}; {found}", False),
            ("rise time error", "ms", "low", f"{profile}; {found}", False),
            ("decay time", "ms", "", f"{crossing}; {found}", False),
            ("decay time error", "ms", "low", f"{profile}; {found}", False),
            ("warping error", "grey levels", "low", f"frame pulled back to the onset by its flow; {found}", False),
            ("jerk", "per frame^3", "low", f"mean |third difference| of the motion over its peak; {found}", False),
        )
        rows = []
        for name, unit, better, note, headline in spec:
            reference = {}
            if name == "warping error" and "_plain" in self._values:
                reference = {"not pulled back": _median(self._values["_plain"]["synthetic"])}
            rows.append(
                median_row(self.group, name, self._values.get(name, {}), unit=unit, better=better, note=note,
                           headline=headline, reference=reference)
            )  # fmt: skip
        return rows

    def plots(self) -> dict[str, bytes]:
        """See :class:`mesynth.metrics.collectors.Collector`."""
        return {"flow": flow_plot(self._histograms["real"].counts, self._histograms["synthetic"].counts)}


def _median(values: list[float]) -> float:
    finite = np.array([v for v in values if np.isfinite(v)])
    return float(np.median(finite)) if len(finite) else float("nan")
