"""Motion as it meets the clips: emitted against re-estimated flow, and the shape of a clip over time."""

from __future__ import annotations

import numpy as np

from mesynth.errors import ManifestError, MesynthError
from mesynth.quality.clips import ClipData
from mesynth.quality.collectors import SIDES, median_row
from mesynth.quality.motion import (
    FlowError,
    flow_error,
    magnitude_curve,
    requested_timing,
    timing,
    warping_error,
    without_rigid,
)
from mesynth.quality.plots import FlowHistogram, flow_plot
from mesynth.quality.report import MeasureRow
from mesynth.temporal import Profile


class FlowFidelity:
    """Is the flow a clip ships the flow its frames show? Emitted against TV-L1 of onset and apex.

    Real clips take no part: their stored flow is itself an estimate.
    """

    group = "flow"

    def __init__(self) -> None:
        self._errors: dict[str, list[FlowError]] = {side: [] for side in SIDES}
        self._zero: list[FlowError] = []
        self._pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, clip: ClipData) -> None:
        """See :class:`mesynth.quality.collectors.Collector`."""
        if clip.side == "real":
            return
        from mesynth.preprocess.flow import estimate_flow

        emitted, mask = clip.emitted_flow, clip.face
        if emitted.shape[1:] != clip.frames.shape[1:3]:
            raise ManifestError(f"flow {emitted.shape[1:]} and frames {clip.frames.shape[1:3]} differ in size")
        if not mask.any():
            raise ManifestError("no valid pixel on the face")
        seen = estimate_flow(clip.frames[0], clip.frames[clip.row.apex_index]).uv
        self._errors[clip.side].append(flow_error(emitted, seen, mask))
        if clip.side == "synthetic":
            self._zero.append(flow_error(np.zeros_like(seen), seen, mask))
            self._pairs.append((emitted.astype(np.float16), seen.astype(np.float16), mask))

    def _mean_flow(self) -> list[FlowError]:
        """The corpus' mean emitted flow offered for every clip; needs frames of one size."""
        if len({seen.shape for _, seen, _ in self._pairs}) != 1:
            return []
        mean = np.asarray(np.mean([emitted for emitted, _, _ in self._pairs], axis=0, dtype=np.float32))
        return [flow_error(mean, seen.astype(np.float32), mask) for _, seen, mask in self._pairs]

    def rows(self) -> list[MeasureRow]:
        """See :class:`mesynth.quality.collectors.Collector`."""
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
        """See :class:`mesynth.quality.collectors.Collector`."""
        return {}


class Sequence:
    """Apex position, rise, decay, warping error and jerk, from flow re-estimated over the whole clip."""

    group = "sequence"

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}
        self._histograms = {side: FlowHistogram() for side in SIDES}
        self._n = 0

    def _put(self, name: str, side: str, value: float) -> None:
        self._values.setdefault(name, {s: [] for s in SIDES})[side].append(float(value))

    def add(self, clip: ClipData) -> None:
        """See :class:`mesynth.quality.collectors.Collector`."""
        from mesynth.preprocess.align import SimilarityCrop
        from mesynth.quality.motion import face_mask

        row, side = clip.row, clip.side
        crop = SimilarityCrop.from_landmarks(clip.landmarks)
        face = face_mask(crop.points(clip.landmarks), crop.size, crop.size)
        self._histograms[side].add(clip.apex_flow, face)
        expression = without_rigid(clip.apex_flow[None], face)[0]
        self._put("motion at the apex", side, np.hypot(*expression)[face].mean())
        self._n += side == "synthetic"
        if len(clip.frames) < 4:
            raise ManifestError(f"{len(clip.frames)} frames are too few for a motion curve (4)")
        frames, flows, mask = clip.small
        curve = np.concatenate([[0.0], magnitude_curve(flows, mask)])
        found = timing(curve, row.fps)
        self._put("apex index error", side, abs(found.apex - row.apex_index))
        self._put("apex error, share of the clip", side, abs(found.apex - row.apex_index) / (len(frames) - 1))
        self._put("rise time", side, 1000 * found.rise)
        self._put("decay time", side, 1000 * found.decay)
        self._put("jerk", side, found.jerk)
        pulled, plain = warping_error(frames, flows, mask)
        self._put("warping error", side, pulled)
        self._put("_plain", side, plain)
        if side == "synthetic" and row.provenance.profile:
            asked = requested_timing(len(frames), row.apex_index, row.fps, Profile.parse(row.provenance.profile))
            self._put("rise time error", side, 1000 * abs(found.rise - asked.rise))
            self._put("decay time error", side, 1000 * abs(found.decay - asked.decay))

    def rows(self) -> list[MeasureRow]:
        """See :class:`mesynth.quality.collectors.Collector`."""
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
        """See :class:`mesynth.quality.collectors.Collector`."""
        return {"flow": flow_plot(self._histograms["real"].counts, self._histograms["synthetic"].counts)}


def _median(values: list[float]) -> float:
    finite = np.array([v for v in values if np.isfinite(v)])
    return float(np.median(finite)) if len(finite) else float("nan")
