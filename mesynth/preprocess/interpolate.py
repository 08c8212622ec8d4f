"""Which moments of a clip are kept: interpolation to N frames, and key frames, snippets, windows, random sub-samplings.

Temporal normalisation brings clips of any length to N frames, by TIM, linear, flow-based or nearest interpolation.
Positions are in frames from 0 (first) to T-1 (last). Videos are float [B,T,C,H,W]; a clip's result does not depend on
the batch it is in, and memory grows with one clip at a time.

Selections, all but :func:`mean_around`, return frame indices (or positions), which fit ``frames[index]`` of a [T,H,W,3]
array and ``video[:, index]`` of a [B,T,C,H,W] tensor alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mesynth.core.errors import MesynthError

if TYPE_CHECKING:  # who chooses frames by their number alone does not load torch
    import torch

_PAIRS = 16  # neighbouring frames whose flow is estimated at once
_ON_FRAME = 1e-6  # frames: a position this near to a frame is the frame


def tim_weights(n_frames: int, positions: Sequence[float] | np.ndarray) -> np.ndarray:
    """Weights [N,T] float64 of the temporal interpolation model (TIM): frame(position) = weights @ frames.

    The model (Zhou, Zhao and Pietikainen, CVPR 2011; Pfister et al., ICCV 2011) embeds the frames x_1..x_T as a path
    graph, whose Laplacian's eigenvectors lie on the curve y_k(t) = sin(pi k t + pi (T - k) / (2 T)), k = 1..T-1,
    t in [1/T, 1]; a linear map, found through the SVD of the mean-removed frames, carries the curve to the pictures
    and passes through every frame. Since y_k(i/T) = cos(pi k (i - 1/2) / T) is the DCT-II basis, which is orthogonal
    and spans all mean-free vectors, that map is ``(2 / T) X Y^T`` whatever the frames are, and the SVD cancels out:
    new frame = mean + (2 / T) X Y^T y(t).

    Raises:
        MesynthError: fewer than two frames, or a position outside [0, T-1].
    """
    p = _checked(n_frames, positions)
    k = np.arange(1, n_frames)[:, None]

    def curve(t: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(np.pi * k * t + np.pi * (n_frames - k) / (2 * n_frames)))

    nodes = curve(np.arange(1, n_frames + 1) / n_frames)
    weights = 1 / n_frames + 2 / n_frames * curve((p + 1) / n_frames).T @ nodes
    return _exact_on_frames(weights, p)


def linear_weights(n_frames: int, positions: Sequence[float] | np.ndarray) -> np.ndarray:
    """Weights [N,T] float64 of linear interpolation between neighbouring frames. Raises as :func:`tim_weights`."""
    p = _checked(n_frames, positions)
    return np.asarray(np.clip(1 - np.abs(p[:, None] - np.arange(n_frames)), 0, 1))


def nearest_weights(n_frames: int, positions: Sequence[float] | np.ndarray) -> np.ndarray:
    """Weights [N,T] float64 that pick the nearest frame, the later one half-way. Raises as :func:`tim_weights`."""
    p = _checked(n_frames, positions)
    return np.asarray(np.eye(n_frames)[np.floor(p + 0.5).astype(int)])


WEIGHTS: dict[str, Callable[[int, Sequence[float] | np.ndarray], np.ndarray]] = {
    "tim": tim_weights,
    "linear": linear_weights,
    "nearest": nearest_weights,
}
METHODS = (*WEIGHTS, "flow")


def frames_at(video: torch.Tensor, positions: Sequence[float] | np.ndarray, method: str = "tim") -> torch.Tensor:
    """The frames of ``video`` [B,T,C,H,W] float at ``positions`` [N] -> [B,N,C,H,W], same type and device.

    At a whole position every method returns that frame, bit for bit. "tim" may overshoot the range of the input by a
    few per cent between frames, as any band-limited interpolation; nothing is clipped here. "flow" is for values in
    [0,1] and the sizes of :func:`mesynth.preprocess.tvl1.tvl1`.

    Raises:
        MesynthError: unknown method, unfit video, fewer than two frames, or a position outside [0, T-1].
    """
    import torch

    from mesynth.preprocess.warping import require_video

    require_video(video)
    if method not in METHODS:
        raise MesynthError(f"interpolation method '{method}' is unknown; choose from {', '.join(METHODS)}")
    p = _checked(video.shape[1], positions)
    if method == "flow":
        return torch.stack([_by_flow(clip, p) for clip in video])
    weights = torch.as_tensor(WEIGHTS[method](video.shape[1], p), dtype=video.dtype, device=video.device)
    whole = np.abs(p - np.round(p)) < _ON_FRAME
    out = torch.stack([(weights @ clip.flatten(1)).unflatten(1, clip.shape[1:]) for clip in video])
    # A product with weights 0 and 1 is the frame only where no other value is infinite and no BLAS reorders it.
    out[:, torch.from_numpy(whole).to(video.device)] = video[:, np.round(p[whole]).astype(int).tolist()]
    return out


def positions_for(n_frames: int, n: int, apex: int | None = None) -> tuple[np.ndarray, int | None]:
    """``n`` positions from the first to the last of ``n_frames`` frames, and the apex's index among them.

    With ``apex`` the positions are uniform on either side of it, and the apex is one of them: the clip's timing is
    bent by at most half an output frame. An apex at either end stays there. Without it they are uniform, apex None.

    Raises:
        MesynthError: fewer than two frames in or out, three out for an inner apex, or an apex outside the clip.
    """
    if n_frames < 2 or n < 2:
        raise MesynthError(f"cannot resample {n_frames} frames to {n}; both need at least 2")
    if apex is None:
        return np.linspace(0, n_frames - 1, n), None
    _check_apex(n_frames, apex)
    if apex in (0, n_frames - 1):
        return np.linspace(0, n_frames - 1, n), 0 if apex == 0 else n - 1
    if n < 3:
        raise MesynthError(f"cannot keep onset, apex and offset in {n} frames; resample to at least 3")
    index = int(np.clip(math.floor(apex / (n_frames - 1) * (n - 1) + 0.5), 1, n - 2))
    rise, fall = np.linspace(0, apex, index + 1), np.linspace(apex, n_frames - 1, n - index)
    return np.concatenate([rise, fall[1:]]), index


def resample(
    video: torch.Tensor, n: int, method: str = "tim", apex: int | None = None, keep_apex: bool = True
) -> tuple[torch.Tensor, int | None]:
    """``video`` [B,T,C,H,W] float to ``n`` frames -> ([B,n,C,H,W], the apex's new index or None without ``apex``).

    The first and last frame are kept bit for bit; so is the apex with ``keep_apex`` (see :func:`positions_for`).
    Otherwise positions are uniform and the apex index is that of the nearest of them. All clips share ``apex``.

    Raises:
        MesynthError: as :func:`frames_at` and :func:`positions_for`.
    """
    from mesynth.preprocess.warping import require_video

    require_video(video)
    positions, index = positions_for(video.shape[1], n, apex if keep_apex else None)
    if apex is not None and index is None:
        _check_apex(video.shape[1], apex)
        index = int(np.abs(positions - apex).argmin())
    return frames_at(video, positions, method), index


def resampled_fps(fps: float, n_frames: int, n: int) -> float:
    """Frames per second after :func:`resample`: the clip's duration, first to last frame, stays the same.

    Raises:
        MesynthError: fps not positive, or fewer than two frames in or out.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise MesynthError(f"fps={fps:g} must be positive")
    if n_frames < 2 or n < 2:
        raise MesynthError(f"cannot resample {n_frames} frames to {n}; both need at least 2")
    return fps * (n - 1) / (n_frames - 1)


# ---------------------------------------------------------------- pieces


def _checked(n_frames: int, positions: Sequence[float] | np.ndarray) -> np.ndarray:
    if n_frames < 2:
        raise MesynthError(f"cannot interpolate a clip of {n_frames} frame; need at least 2")
    p = np.asarray(positions, np.float64)
    if p.ndim != 1 or not len(p) or not np.isfinite(p).all():
        raise MesynthError(f"positions of shape {p.shape} are no frame positions; give a list of finite numbers")
    if p.min() < -_ON_FRAME or p.max() > n_frames - 1 + _ON_FRAME:
        worst = p.min() if p.min() < 0 else p.max()
        raise MesynthError(f"position {worst:g} is outside the clip's frames 0..{n_frames - 1}")
    return np.asarray(np.clip(p, 0, n_frames - 1))


def _check_apex(n_frames: int, apex: int) -> None:
    if not 0 <= apex < n_frames:
        raise MesynthError(f"apex {apex} is outside the clip's frames 0..{n_frames - 1}")


def _exact_on_frames(weights: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Rounding left aside, the row of a whole position is a unit vector already."""
    whole = np.abs(p - np.round(p)) < _ON_FRAME
    weights[whole] = np.eye(weights.shape[1])[np.round(p[whole]).astype(int)]
    return weights


def _by_flow(clip: torch.Tensor, p: np.ndarray) -> torch.Tensor:
    """[T,C,H,W] at positions [N] -> [N,C,H,W]; neighbours are warped to the position and blended.

    The flows at the position are combined from those between the neighbours (Jiang et al., "Super SloMo", CVPR 2018,
    eq. 4), which are TV-L1.
    """
    from mesynth.preprocess.tvl1 import tvl1

    before = np.minimum(np.floor(p + _ON_FRAME).astype(int), len(clip) - 1)
    share = np.where(np.abs(p - np.round(p)) < _ON_FRAME, 0, p - before)
    out = clip[before.tolist()].clone()
    between = np.flatnonzero(share > 0)
    pairs, which = np.unique(before[between], return_inverse=True)
    for start in range(0, len(pairs), _PAIRS):
        chunk = pairs[start : start + _PAIRS]
        a, b = clip[chunk.tolist()], clip[(chunk + 1).tolist()]
        grey = [_grey(x).float() for x in (a, b)]
        forward, backward = tvl1(grey[0], grey[1]).to(clip.dtype), tvl1(grey[1], grey[0]).to(clip.dtype)
        for j in np.flatnonzero((which >= start) & (which < start + len(chunk))):
            i, s = int(which[j]) - start, float(share[between[j]])
            f, g = forward[i : i + 1], backward[i : i + 1]
            to_a, to_b = -(1 - s) * s * f + s * s * g, (1 - s) ** 2 * f - s * (1 - s) * g
            out[between[j]] = ((1 - s) * _warp(a[i : i + 1], to_a) + s * _warp(b[i : i + 1], to_b))[0]
    return out


def _grey(frames: torch.Tensor) -> torch.Tensor:
    """[N,C,H,W] -> [N,H,W]: BT.601 luma of three channels, the mean of any other number."""
    if frames.shape[1] != 3:
        return frames.mean(1)
    return 0.299 * frames[:, 0] + 0.587 * frames[:, 1] + 0.114 * frames[:, 2]


def _warp(picture: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """[1,C,H,W] sampled at x + flow(x), bicubic, the border replicated."""
    import torch
    import torch.nn.functional as F

    h, w = picture.shape[-2:]
    x = torch.linspace(-1, 1, w, device=picture.device, dtype=picture.dtype)
    y = torch.linspace(-1, 1, h, device=picture.device, dtype=picture.dtype)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    scale = torch.tensor([2 / (w - 1), 2 / (h - 1)], device=picture.device, dtype=picture.dtype)
    where = grid + flow.permute(0, 2, 3, 1) * scale
    return F.grid_sample(picture, where, mode="bicubic", padding_mode="border", align_corners=True)


# ---------------------------------------------------------------- keyframes


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
    from mesynth.preprocess.warping import require_video

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
