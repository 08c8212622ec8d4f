"""Motion over time: does a clip rise and fall as its target says, as large as in real clips, and smoothly?

And is the flow that a clip ships the one its frames show?
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from mesynth.core.errors import ManifestError, MesynthError
from mesynth.core.profiles import Profile
from mesynth.core.types import optical_strain
from mesynth.metrics.base import LEFT_OUT, SIDES, ClipData, ClipMetric, MeasureRow, Observation, face_mask, median
from mesynth.metrics.report import REAL, SYNTHETIC, figure, png

MAGNITUDE_MAX = 4.0
"""Right end of the magnitude axis, pixels of the 128-pixel crop; motion beyond it is counted in the last bin."""


def without_rigid(flow: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[N,2,H,W] flow minus its least-squares similarity motion over the mask: head movement is no expression."""
    y, x = np.nonzero(mask)
    height, width = mask.shape
    cx, cy = x.mean(), y.mean()

    def columns(px: np.ndarray, py: np.ndarray) -> np.ndarray:  # shift, scale, in-plane turn
        one, zero = np.ones_like(px), np.zeros_like(px)
        return np.stack([np.stack([one, zero, px, -py]), np.stack([zero, one, py, px])], 0)

    inside = columns(x - cx, y - cy).transpose(0, 2, 1).reshape(-1, 4)
    values = flow[:, :, y, x].reshape(len(flow), -1).astype(np.float64)
    coefficients = np.linalg.lstsq(inside, values.T, rcond=None)[0]
    gy, gx = np.mgrid[:height, :width].astype(np.float64)
    everywhere = columns(gx - cx, gy - cy)
    return np.asarray(flow - np.einsum("cphw,pn->nchw", everywhere, coefficients), np.float32)


def magnitude_curve(flow: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean motion [N] of flows onset -> frame [N,2,H,W], head movement removed, pixels; smoothed by (1,2,1)/4."""
    moved = without_rigid(flow, mask)
    curve = np.hypot(moved[:, 0], moved[:, 1])[:, mask].mean(1)
    padded = np.concatenate([[0.0], curve, curve[-1:]])
    return np.asarray((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """``apex`` frame of the largest motion; ``rise`` and ``decay`` seconds between 10% and 90% of the peak
    (NaN when the curve does not cross them); ``jerk`` mean |third difference| over the peak, per frame^3."""

    apex: int
    rise: float
    decay: float
    jerk: float


def timing(curve: np.ndarray, fps: float) -> Timing:
    """Timing of a motion curve [T] whose first frame is the onset. Raises ValueError with fewer than 4 frames.

    >>> found = timing(np.array([0.0, 1.0, 2.0, 1.0, 0.0]), fps=10)
    >>> found.apex, round(found.rise, 3), round(found.decay, 3)
    (2, 0.16, 0.16)
    """
    if curve.ndim != 1 or len(curve) < 4:
        raise ValueError(f"a motion curve of shape {curve.shape} is too short; need at least 4 frames")
    apex = int(np.argmax(curve))
    low, peak = float(curve.min()), float(curve[apex])
    if peak <= low:
        return Timing(apex=apex, rise=float("nan"), decay=float("nan"), jerk=0.0)
    share = (curve - low) / (peak - low)
    rise = _crossing(share[: apex + 1], 0.9) - _crossing(share[: apex + 1], 0.1)
    fall = share[apex:][::-1]
    decay = _crossing(fall, 0.9) - _crossing(fall, 0.1)
    jerk = float(np.abs(np.diff(curve, 3)).mean() / peak)
    return Timing(apex=apex, rise=rise / fps, decay=decay / fps, jerk=jerk)


def _crossing(rising: np.ndarray, level: float) -> float:
    """Position (in frames, linear between them) where a curve that ends at 1 last rises through ``level``."""
    below = np.nonzero(rising < level)[0]
    if not len(below):
        return float("nan")
    i = int(below[-1])
    if i + 1 >= len(rising):
        return float("nan")
    return i + float((level - rising[i]) / (rising[i + 1] - rising[i]))


def target_timing(n_frames: int, apex_index: int, fps: float, profile: Profile) -> Timing:
    """Timing of the profile that is a clip's target, with its apex where the row says it is."""
    share = float(np.clip(apex_index / max(n_frames - 1, 1), 0.1, 0.9))
    return timing(replace(profile, apex=share).alpha(n_frames).astype(np.float64), fps)


def warping_error(frames: np.ndarray, flow: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Mean |frame t pulled back to the onset - onset| and the same without pulling back, grey levels 0-255.

    frames [T,H,W,3] uint8, flow onset -> frame [T-1,2,H,W] pixels, over the mask (Lai et al., ECCV 2018, eq. 5,
    against the onset and without occlusion weights).
    """
    height, width = mask.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    onset = frames[0].astype(np.float32)
    pulled, plain = [], []
    for frame, uv in zip(frames[1:], flow, strict=True):
        back = cv2.remap(frame, x + uv[0], y + uv[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        pulled.append(np.abs(back.astype(np.float32) - onset)[mask].mean())
        plain.append(np.abs(frame.astype(np.float32) - onset)[mask].mean())
    return float(np.mean(pulled)), float(np.mean(plain))


# ------------------------------------------------------------------- histograms


MAGNITUDE_EDGES = np.linspace(0, MAGNITUDE_MAX, 41)
DIRECTION_EDGES = np.linspace(-180, 180, 37)


class FlowHistogram:
    """Running histograms of flow magnitude and direction; memory does not grow with the clips."""

    def __init__(self) -> None:
        self.magnitude = np.zeros(len(MAGNITUDE_EDGES) - 1)
        self.direction = np.zeros(len(DIRECTION_EDGES) - 1)

    def add(self, uv: np.ndarray, mask: np.ndarray, moving: float = 0.3) -> None:
        """Count the pixels of ``uv`` [2,H,W] inside ``mask`` [H,W]."""
        u, v = uv[:, mask]
        size = np.hypot(u, v)
        self.magnitude += np.histogram(np.minimum(size, MAGNITUDE_MAX - 1e-6), MAGNITUDE_EDGES)[0]
        self.direction += np.histogram(np.degrees(np.arctan2(v, u))[size > moving], DIRECTION_EDGES)[0]

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Magnitude and direction counts."""
        return self.magnitude, self.direction


def flow_plot(real: tuple[np.ndarray, np.ndarray], synthetic: tuple[np.ndarray, np.ndarray]) -> bytes:
    """Histograms (magnitude [B], direction [D]) of face flow onset -> apex: see :class:`FlowHistogram`."""
    made, axes = figure(1, 2, 8, 3.2)
    for histogram, name, colour in ((real, "real", REAL), (synthetic, "synthetic", SYNTHETIC)):
        for axis, counts, edges in zip(axes[0], histogram, (MAGNITUDE_EDGES, DIRECTION_EDGES), strict=True):
            if counts.sum() > 0:
                share = counts / counts.sum()
                axis.stairs(share, edges, color=colour, fill=True, alpha=0.35)
                axis.stairs(share, edges, color=colour, label=name)
    axes[0, 0].set(xlabel="flow magnitude (px of the 128 px crop)", xlim=(0, MAGNITUDE_MAX))
    axes[0, 0].set_ylabel("share of face pixels")
    axes[0, 0].set_yscale("log")
    axes[0, 1].set(xlabel="direction in degrees where > 0.3 px\n(0 right, 90 down)", xticks=range(-180, 181, 90))
    axes[0, 0].legend(frameon=False, fontsize=8)
    return png(made)


# ------------------------------------------------------------------- the measure

_COUNTS = ("magnitude", "direction")


class Sequence(ClipMetric):
    """Apex position, rise, decay, warping error and jerk, from flow re-estimated over the whole clip."""

    label = "sequence"

    def observe(self, clip: ClipData) -> Observation:
        """See :class:`ClipMetric`."""
        from mesynth.preprocess.align import SimilarityCrop

        row = clip.row
        crop = SimilarityCrop.from_landmarks(clip.landmarks)
        face = face_mask(crop.points(clip.landmarks), crop.size, crop.size)
        histogram = FlowHistogram()
        histogram.add(clip.apex_flow, face)
        expression = without_rigid(clip.apex_flow[None], face)[0]
        found: Observation = dict(zip(_COUNTS, histogram.counts, strict=True))
        found["motion at the apex"] = float(np.hypot(*expression)[face].mean())
        if len(clip.frames) < 4:
            return found | {LEFT_OUT: f"{len(clip.frames)} frames are too few for a motion curve (4)"}
        frames, flows, mask = clip.small
        curve = np.concatenate([[0.0], magnitude_curve(flows, mask)])
        shape = timing(curve, row.fps)
        pulled, plain = warping_error(frames, flows, mask)
        found |= {
            "apex index error": abs(shape.apex - row.apex_index),
            "apex error, share of the clip": abs(shape.apex - row.apex_index) / (len(frames) - 1),
            "rise time": 1000 * shape.rise,
            "decay time": 1000 * shape.decay,
            "jerk": shape.jerk,
            "warping error": pulled,
            "_plain": plain,
        }
        if clip.side == "synthetic" and row.provenance.profile:
            target = target_timing(len(frames), row.apex_index, row.fps, Profile.parse(row.provenance.profile))
            found["rise time error"] = 1000 * abs(shape.rise - target.rise)
            found["decay time error"] = 1000 * abs(shape.decay - target.decay)
        return found

    def _counts(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        total = FlowHistogram()
        for observation in self.observations[side]:
            for sums, name in zip(total.counts, _COUNTS, strict=True):
                np.add(sums, observation[name], out=sums)
        return total.counts

    def compute(self) -> list[MeasureRow]:
        """See :class:`ClipMetric`."""
        if not self.observations["synthetic"]:
            raise MesynthError("no synthetic clip has the landmarks that motion over time needs; run `mesynth prepare`")
        found = "from TV-L1 at 64 px, head movement removed; median over clips"
        crossing = "10% to 90% of the largest motion"
        profile = "against the profile in the clip's provenance"
        spec = (
            ("motion", "motion at the apex", "px", "", "mean over the face, 128 px crop, head movement removed", True),
            ("apex_error", "apex index error", "frames", "low", f"|largest motion - apex_index|; {found}", True),
            ("apex_error_share", "apex error, share of the clip", "", "low", found, False),
            ("rise", "rise time", "ms", "", f"{crossing}; {found}", False),
            ("rise_error", "rise time error", "ms", "low", f"{profile}; {found}", False),
            ("decay", "decay time", "ms", "", f"{crossing}; {found}", False),
            ("decay_error", "decay time error", "ms", "low", f"{profile}; {found}", False),
            (
                "warping_error",
                "warping error",
                "grey levels",
                "low",
                f"frame pulled back to the onset by its flow; {found}",
                False,
            ),
            (
                "jerk",
                "jerk",
                "per frame^3",
                "low",
                f"mean |third difference| of the motion over its peak; {found}",
                False,
            ),
        )
        rows = []
        for key, name, unit, better, note, headline in spec:
            reference = {}
            if name == "warping error":
                plain = [o["_plain"] for o in self.observations["synthetic"] if "_plain" in o]
                reference = {"not pulled back": median(plain)} if plain else {}
            rows.append(
                self.median_row(name, name, key=key, unit=unit, better=better, note=note, headline=headline,
                                reference=reference)
            )  # fmt: skip
        return rows

    def plots(self) -> dict[str, bytes]:
        """See :class:`ClipMetric`."""
        return {"flow": flow_plot(*map(self._counts, SIDES))}


# ---------------------------------------------------------------- flow that clips ship


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
