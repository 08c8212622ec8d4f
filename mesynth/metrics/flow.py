"""Flow fidelity: is the flow that a clip ships the one its frames show?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.core.types import optical_strain
from mesynth.metrics.base import ClipMetric, MeasureRow, Observation, median
from mesynth.metrics.clips import ClipData

MOVING = 0.3
"""Angular error counts where the reference moves more than this many pixels."""


@dataclass(frozen=True, kw_only=True)
class FlowError:
    """Errors of one flow against a reference, means over the mask.

    ``epe`` pixels; ``relative`` = sum |F-G| / sum |G|; ``angle`` degrees between the vectors where
    |G| > MOVING (NaN if nowhere); ``strain`` mean |strain(F) - strain(G)| per pixel.
    """

    epe: float
    relative: float
    angle: float
    strain: float


def flow_error(flow: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> FlowError:
    """Compare ``flow`` [2,H,W] with ``reference`` [2,H,W], pixels. Raises ValueError on unfit shapes.

    >>> still, moved = np.zeros((2, 4, 4)), np.ones((2, 4, 4))
    >>> found = flow_error(still, moved)
    >>> round(found.epe, 3), found.relative, found.strain
    (1.414, 1.0, 0.0)
    """
    if flow.shape != reference.shape or flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"flows have shapes {flow.shape} and {reference.shape}; give two [2,H,W]")
    inside = np.ones(flow.shape[1:], bool) if mask is None else mask
    if not inside.any():
        raise ValueError("the mask of a flow error is empty")
    f, g = (v.astype(np.float64)[:, inside] for v in (flow, reference))
    difference, size = np.hypot(*(f - g)), np.hypot(*g)
    moving = size > MOVING
    turn = np.arctan2(f[0] * g[1] - f[1] * g[0], (f * g).sum(0))
    angle = np.degrees(np.abs(turn[moving])).mean() if moving.any() else np.nan
    strain = np.abs(optical_strain(flow) - optical_strain(reference))[inside].mean()
    total = size.sum()
    return FlowError(
        epe=float(difference.mean()),
        relative=float(difference.sum() / total) if total > 0 else float("nan"),
        angle=float(angle),
        strain=float(strain),
    )


_FIELDS = ("epe", "relative", "angle", "strain")


class FlowFidelity(ClipMetric):
    """The flow a clip ships against TV-L1 of its onset and apex, on the face.

    Real clips take no part: their stored flow is itself an estimate.
    """

    label = "flow"

    def observe(self, clip: ClipData) -> Observation:
        """See :class:`ClipMetric`."""
        if clip.side == "real":
            return {}
        from mesynth.preprocess.flow import estimate_flow

        emitted, mask = clip.emitted_flow, clip.face
        if emitted.shape[1:] != clip.frames.shape[1:3]:
            raise ManifestError(f"flow {emitted.shape[1:]} and frames {clip.frames.shape[1:3]} differ in size")
        if not mask.any():
            raise ManifestError("no valid pixel on the face")
        shown = estimate_flow(clip.frames[0], clip.frames[clip.row.apex_index]).uv
        own, zero = flow_error(emitted, shown, mask), flow_error(np.zeros_like(shown), shown, mask)
        errors = {name: getattr(own, name) for name in _FIELDS}
        still = {f"zero {name}": getattr(zero, name) for name in _FIELDS}
        flows = {"emitted": emitted.astype(np.float16), "shown": shown.astype(np.float16), "face": mask}
        return {**errors, **still, **flows}

    def _mean_flow(self) -> list[FlowError]:
        """The corpus' mean emitted flow offered for every clip; needs frames of one size."""
        clips = self.observations["synthetic"]
        if len({o["shown"].shape for o in clips}) != 1:
            return []
        mean = np.asarray(np.mean([o["emitted"] for o in clips], axis=0, dtype=np.float32))
        return [flow_error(mean, o["shown"].astype(np.float32), o["face"]) for o in clips]

    def compute(self) -> list[MeasureRow]:
        """See :class:`ClipMetric`."""
        if not self.observations["synthetic"]:
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
            reference = {}
            if field != "angle":  # zero flow has no direction
                reference["zero flow"] = median(self.values("synthetic", f"zero {field}"))
            if mean:
                reference["mean flow"] = median([getattr(e, field) for e in mean])
            extra = " where the face moves more than 0.3 px" if field == "angle" else ""
            rows.append(
                self.median_row(name, field, key=f"flow_{field}", unit=unit, better="low", reference=reference,
                                note=f"median over clips{extra}; {note}", headline=headline)
            )  # fmt: skip
        return rows
