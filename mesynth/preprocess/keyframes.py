"""Which frames of a clip a recognizer sees: key frames, snippets, windows, random sub-samplings.

Everything but :func:`mean_around` returns frame indices (or positions), which fit ``frames[index]`` of a [T,H,W,3]
array and ``video[:, index]`` of a [B,T,C,H,W] tensor alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mesynth.errors import MesynthError
from mesynth.preprocess.arrays import require_video


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The frames that must survive: ``0 <= onset < apex <= offset < n_frames``."""

    onset: int
    apex: int
    offset: int
    n_frames: int

    def __post_init__(self) -> None:
        if not 0 <= self.onset < self.apex <= self.offset < self.n_frames:
            raise MesynthError(
                f"onset {self.onset}, apex {self.apex}, offset {self.offset} do not follow each other "
                f"within the clip's {self.n_frames} frames; check the annotation"
            )

    def pair(self) -> np.ndarray:
        """[2] int64: onset and apex, what most networks on optical flow look at."""
        return np.array([self.onset, self.apex])

    def triple(self) -> np.ndarray:
        """[3] int64: onset, apex and offset."""
        return np.array([self.onset, self.apex, self.offset])


def snippets(n_frames: int, k: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """[k] int64 indices, one from each of ``k`` equal segments (TSN; Wang et al., ECCV 2016), ascending.

    Without ``rng`` the middle of each segment, with it a uniform draw from the segment. Fewer frames than segments:
    some frames come more than once.

    Raises:
        MesynthError: no frame or no segment.
    """
    if n_frames < 1 or k < 1:
        raise MesynthError(f"cannot take {k} snippets of {n_frames} frames; both need at least 1")
    share = np.full(k, 0.5) if rng is None else rng.random(k)
    return np.minimum(((np.arange(k) + share) * n_frames / k).astype(np.int64), n_frames - 1)


def window(n_frames: int, centre: int, radius: int) -> np.ndarray:
    """[2 radius + 1] int64 indices around ``centre``; beyond the clip its first or last frame is repeated.

    Raises:
        MesynthError: a centre outside the clip or a negative radius.
    """
    if not 0 <= centre < n_frames:
        raise MesynthError(f"frame {centre} is outside the clip's frames 0..{n_frames - 1}")
    if radius < 0:
        raise MesynthError(f"radius={radius} of a window must not be negative")
    return np.clip(np.arange(centre - radius, centre + radius + 1), 0, n_frames - 1)


def mean_around(video: torch.Tensor, centre: int, radius: int) -> torch.Tensor:
    """Mean of the frames within ``radius`` of ``centre`` and inside the clip: [B,T,C,H,W] float -> [B,C,H,W].

    Less noise than the apex alone, at the price of the intensity its neighbours lack.

    Raises:
        MesynthError: unfit video, or as :func:`window`.
    """
    require_video(video)
    index = np.unique(window(video.shape[1], centre, radius))
    return video[:, index[0] : index[-1] + 1].mean(1)


@dataclass(frozen=True, kw_only=True)
class SubsampleConfig:
    """Random sub-sampling and time warping."""

    keep: float = 0.7
    """Share of the frames between onset, apex and offset that stay; frames outside onset..offset go."""
    warp: float = 0.3
    """Strength of a time warp: a step between frames is exp(warp N(0,1)) times as long before normalisation."""

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise MesynthError(f"keep={self.keep:g} is no share; choose a number in [0, 1]")
        if not 0 <= self.warp <= 1:
            raise MesynthError(f"warp={self.warp:g} is outside [0, 1]")


def draw_subsample(
    rng: np.random.Generator, marks: Marks, config: SubsampleConfig = SubsampleConfig()
) -> tuple[np.ndarray, Marks]:
    """Random frames between onset and offset: ascending indices [N] int64, and the marks among them.

    Onset, apex and offset always stay; of the others a share ``keep``, rounded, drawn without replacement.
    """
    kept = set(marks.triple().tolist())
    others = np.array([i for i in range(marks.onset, marks.offset + 1) if i not in kept], np.int64)
    chosen = rng.choice(others, round(config.keep * len(others)), replace=False) if len(others) else others
    index = np.sort(np.concatenate([np.array(sorted(kept), np.int64), chosen]))
    onset, apex, offset = (int(np.searchsorted(index, m)) for m in marks.triple())
    return index, Marks(onset=onset, apex=apex, offset=offset, n_frames=len(index))


def draw_warp(
    rng: np.random.Generator, marks: Marks, n: int, config: SubsampleConfig = SubsampleConfig()
) -> tuple[np.ndarray, Marks]:
    """A random time warp of onset..offset to ``n`` frames: positions [n] float64, and the marks among them.

    Positions ascend, begin at the onset, end at the offset and meet the apex exactly; between, steps are log-normal.
    Feed them to :func:`mesynth.preprocess.interpolate.frames_at`, or round them to indices.

    Raises:
        MesynthError: fewer than 3 frames out (2 where the apex is the offset).
    """
    least = 2 if marks.apex == marks.offset else 3
    if n < least:
        raise MesynthError(f"cannot keep onset, apex and offset in {n} frames; warp to at least {least}")
    share = (marks.apex - marks.onset) / (marks.offset - marks.onset)
    apex = n - 1 if least == 2 else int(np.clip(round(share * (n - 1)), 1, n - 2))
    steps = np.exp(config.warp * rng.standard_normal(n - 1))
    rise = _run(marks.onset, marks.apex, steps[:apex])
    fall = _run(marks.apex, marks.offset, steps[apex:])
    positions = np.concatenate([rise, fall[1:]])
    return positions, Marks(onset=0, apex=apex, offset=n - 1, n_frames=n)


def _run(start: int, stop: int, steps: np.ndarray) -> np.ndarray:
    """From start to stop, both met exactly, in relative steps."""
    if not len(steps):
        return np.array([float(start)])
    inner = start + (stop - start) * np.cumsum(steps) / steps.sum()
    return np.concatenate([[start], inner[:-1], [stop]])
