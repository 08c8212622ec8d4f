"""The hand-crafted features of the field's first rows, each with a linear support vector machine.

- ``lbp_top``: local binary patterns on three orthogonal planes (Zhao and Pietikainen, PAMI 2007), the baseline of SMIC
  and CASME II: histograms of the patterns in the planes xy, xt and yt, block by block. Reads ``frames``. 5 x 5 blocks,
  four neighbours in each plane and radii 1, 1 and 4 are the settings CASME II's baseline is cited with (Yan et al.,
  PLoS ONE 2014, whose abstract names the feature, the machine and leave-one-subject-out).
- ``bi_woof``: bi-weighted oriented optical flow (Liong et al., Signal Process. Image Commun. 2018; authors' code):
  histograms of the direction of the flow onset -> apex, 5 x 5 blocks of 8 bins. A pixel counts by its magnitude inside
  its block (local weight), a block by the strain in it (global weight); the whole vector has length 1.
- ``mdmo``: main directional mean optical flow (Liu et al., TAFFC 2016; abstract): in each of 36 regions of the face the
  mean of the vectors of the fullest of 8 direction bins, as magnitude and angle: 72 numbers. Reads ``flow``, or
  ``flows`` as the paper does (every frame, averaged).
- ``hoof``: histogram of oriented optical flow (Chaudhry et al., CVPR 2009): a vector counts by its magnitude in one of
  30 bins of its angle to the horizontal, left and right alike; a histogram adds up to 1.

What deviates. Of all: one machine per class against the rest, classes count alike, and features are centred and divided
by their root mean square distance from the training clips' mean, so that ``c`` means the same for every feature; the
papers take LIBSVM on raw features, one against one. lbp_top: T frames by linear interpolation instead of the temporal
interpolation model; histograms skip the radii's border in all three directions. bi_woof: blocks share no pixels. mdmo:
the abstract names neither regions nor bins: the 36 regions are ours, boxes on the mean aligned face (16 on each side, 4
in the middle); the flow is the prepared one instead of the paper's, and the weight of magnitudes against angles is
ours. hoof: 5 x 5 blocks, as the other two have them; ``hoof.blocks=1`` is the paper's one histogram, whose machine on
time series of them is left out.

``mix.align`` does not touch them: what is aligned elsewhere are channels of flow, and a histogram has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mesynth.core.errors import ConfigError
from mesynth.core.framing import OWN, Framing, parse_framing
from recognizer.models.svm import GAIN, logistic, one_against_rest, present_against_absent
from recognizer.views import FLOW, FLOWS, FRAMES, Shape

APEX_FLOW, SEQUENCE = "apex", "sequence"
_FLOWS = (APEX_FLOW, SEQUENCE)


def _require(section: str, config: Any, least: Mapping[str, float], most: Mapping[str, float]) -> None:
    """Raise ConfigError for a field below ``least`` or above ``most``; ``c`` is positive."""
    for name in least.keys() | most.keys():
        value = getattr(config, name)
        low, high = least.get(name, -math.inf), most.get(name, math.inf)
        for one in value if isinstance(value, tuple) else (value,):
            if not low <= one <= high:
                shown = list(value) if isinstance(value, tuple) else f"{value:g}"
                raise ConfigError(f"{section}.{name}={shown} is outside {low:g}..{high:g}")
    if not 0 < config.c < math.inf:
        raise ConfigError(f"{section}.c={config.c:g} must be positive")


@dataclass(frozen=True, kw_only=True)
class LbpTopConfig:
    """Planes xy, xt, yt have 2^neighbours patterns; with ``uniform`` those of more than two changes share a bin."""

    radius: int = 1
    """Along x and y, pixels of the frames (data.frame_size)."""
    radius_time: int = 4
    """Along t, frames; data.frames must be at least twice that and one more."""
    neighbours: int = 4
    """On the circle (ellipse), in each plane; between pixels they are interpolated."""
    uniform: bool = True
    blocks: int = 5
    """Along x and y."""
    c: float = 1.0
    """Weight of a margin that is violated."""

    def __post_init__(self) -> None:
        _require(
            "lbp_top", self, dict.fromkeys(("radius", "radius_time", "blocks"), 1) | {"neighbours": 2},
            {"neighbours": 16, "radius": 64, "radius_time": 64, "blocks": 64},
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BiWoofConfig:
    """See the module."""

    bins: int = 8
    blocks: int = 5
    local: str = "magnitude"
    """What a pixel counts inside its block: magnitude, strain or none."""
    world: str = "strain"
    """What a block counts: the sum of strain, of magnitude, or none."""
    c: float = 1.0

    def __post_init__(self) -> None:
        _require("bi_woof", self, {"bins": 2, "blocks": 1}, {"bins": 360, "blocks": 64})
        for name in ("local", "world"):
            if getattr(self, name) not in _WEIGHTS:
                raise ConfigError(
                    f"bi_woof.{name}='{getattr(self, name)}' is unknown; choose from {', '.join(_WEIGHTS)}"
                )


_WEIGHTS = ("magnitude", "strain", "none")


@dataclass(frozen=True, kw_only=True)
class MdmoConfig:
    """See the module."""

    bins: int = 8
    magnitude: float = 0.9
    """Weight of magnitudes; that of angles (radians) is the rest of 1."""
    flow: str = APEX_FLOW
    """apex: the flow onset -> apex. sequence: means over data.key_frames flows, as the paper takes every frame's."""
    frame: str = "own"
    """Where faces lie in the crops, as ``mesynth prepare --frame`` has it: the regions lie there."""
    c: float = 1.0

    def __post_init__(self) -> None:
        _require("mdmo", self, {"bins": 2, "magnitude": 0}, {"bins": 360, "magnitude": 1})
        _require_flow("mdmo", self.flow)
        parse_framing(self.frame)


@dataclass(frozen=True, kw_only=True)
class HoofConfig:
    """See the module."""

    bins: int = 30
    symmetric: bool = True
    """Left and right alike, as published; false: bins over the full circle."""
    blocks: int = 5
    """Along x and y; 1: one histogram, as published."""
    flow: str = APEX_FLOW
    """apex: the flow onset -> apex. sequence: the mean of the histograms of data.key_frames flows."""
    c: float = 1.0

    def __post_init__(self) -> None:
        _require("hoof", self, {"bins": 2, "blocks": 1}, {"bins": 360, "blocks": 64})
        _require_flow("hoof", self.flow)


def _require_flow(section: str, flow: str) -> None:
    if flow not in _FLOWS:
        raise ConfigError(f"{section}.flow='{flow}' is unknown; choose from {', '.join(_FLOWS)}")


Config = LbpTopConfig | BiWoofConfig | MdmoConfig | HoofConfig


def needs(config: Config) -> tuple[str, ...]:
    """The views that the feature is computed from."""
    if isinstance(config, LbpTopConfig):
        return (FRAMES,)
    return (FLOWS,) if getattr(config, "flow", APEX_FLOW) == SEQUENCE else (FLOW,)


def check(config: Config, shape: Shape) -> None:
    """Raises ConfigError for sizes of the views that leave nothing to compute the feature from."""
    if isinstance(config, LbpTopConfig):
        if shape.frames < 2 * config.radius_time + 1:
            raise ConfigError(
                f"lbp_top.radius_time={config.radius_time} needs data.frames={2 * config.radius_time + 1} or more, and "
                f"there are {shape.frames}"
            )
        side, what = shape.frame_size - 2 * config.radius, f"data.frame_size={shape.frame_size}"
        what += f" less the border of lbp_top.radius={config.radius}"
    elif isinstance(config, MdmoConfig):
        return
    else:
        side, what = shape.size, f"flow of {shape.size} pixels"
    section = {LbpTopConfig: "lbp_top", BiWoofConfig: "bi_woof", HoofConfig: "hoof"}[type(config)]
    if config.blocks > side:
        raise ConfigError(f"{section}.blocks={config.blocks} has no pixel for each block in {what}; choose fewer")


def groups(config: Config, width: int) -> np.ndarray:
    """[width] int64 of each number of :func:`features`: the block (of mdmo the region) that it is of."""
    if isinstance(config, MdmoConfig):
        return np.arange(width) % len(REGIONS)
    return np.arange(width) // (width // config.blocks**2)


def features(config: Config, views: Mapping[str, np.ndarray]) -> np.ndarray:
    """N clips, given by the views that :func:`needs` names as they are in memory -> [N,D] float32."""
    x = views[needs(config)[0]]
    if isinstance(config, LbpTopConfig):
        return np.stack([lbp_top(clip, config) for clip in x]) if len(x) else np.zeros((0, 0), np.float32)
    each = x.astype(np.float32) if x.ndim == 5 else x.astype(np.float32)[:, None]  # [N,K,3,S,S]
    n, k = each.shape[:2]
    flat = each.reshape(n * k, *each.shape[2:])
    if isinstance(config, BiWoofConfig):
        return bi_woof(flat, config)
    if isinstance(config, HoofConfig):
        return np.asarray(hoof(flat, config).reshape(n, k, -1).mean(1))
    vectors = main_directions(flat, config.bins, parse_framing(config.frame)).reshape(n, k, -1, 2).mean(1)
    return mdmo(vectors, config.magnitude)


# ---------------------------------------------------------------- local binary patterns


_PLANES = ((1, 2), (0, 2), (0, 1))
"""Axes of a clip [T,H,W] that span xy, xt and yt."""
_TIE = 1e-6
"""Grey levels: interpolated among pixels of one brightness, a neighbour is as bright as they are but for rounding."""


def lbp_top(clip: np.ndarray, config: LbpTopConfig = LbpTopConfig()) -> np.ndarray:
    """A clip [T,H,W] -> [blocks^2*3*patterns] float32: a histogram that adds up to 1 for every block (rows of blocks
    first) and plane.

    >>> flat = np.full((9, 12, 12), 7, np.uint8)
    >>> lbp_top(flat, LbpTopConfig(blocks=1, uniform=False)).nonzero()[0].tolist()  # all neighbours as bright: 2^4 - 1
    [15, 31, 47]
    """
    bins = _pattern_bins(config.neighbours, config.uniform)
    count, border = int(bins.max()) + 1, (config.radius_time, config.radius, config.radius)
    height, width = (n - 2 * config.radius for n in clip.shape[1:])
    block = _block_index(height, width, config.blocks)
    out = []
    for plane in _PLANES:
        found = bins[patterns(clip, plane, border, config.neighbours)]
        one = np.bincount((block * count + found).ravel(), minlength=config.blocks**2 * count)
        out.append(one.reshape(-1, count) / len(found) / np.bincount(block.ravel())[:, None])
    return np.asarray(np.stack(out, 1).ravel(), np.float32)


def patterns(clip: np.ndarray, plane: tuple[int, int], border: tuple[int, int, int], neighbours: int) -> np.ndarray:
    """Local binary patterns of a clip [T,H,W] in the plane of two of its axes, in all but its ``border`` (radii along
    t, y, x) -> [T',H',W'] integers; bit p is set where the p-th neighbour is at least as bright.

    Neighbour p lies at the angle 2 pi p / neighbours, from the second axis against the first.
    """
    values = clip.astype(np.float64)
    inner = [slice(r, n - r) for r, n in zip(border, clip.shape, strict=True)]
    centre, codes = values[tuple(inner)], np.zeros([s.stop - s.start for s in inner], np.int64)
    for p in range(neighbours):
        angle = 2 * np.pi * p / neighbours
        # Rounded, so that neighbours on pixels are pixels, whatever pi is to a computer.
        places = (round(-border[plane[0]] * math.sin(angle), 5), round(border[plane[1]] * math.cos(angle), 5))
        shown = np.zeros_like(centre)
        lows = [math.floor(place) for place in places]
        shares = [place - low for place, low in zip(places, lows, strict=True)]
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = math.prod(s if c else 1 - s for s, c in zip(shares, corner, strict=True))
            if weight == 0:
                continue
            moved = list(inner)
            for axis, low, c in zip(plane, lows, corner, strict=True):
                moved[axis] = slice(inner[axis].start + low + c, inner[axis].stop + low + c)
            shown += weight * values[tuple(moved)]
        codes |= (shown >= centre - _TIE).astype(np.int64) << p
    return codes


@lru_cache(maxsize=8)
def _pattern_bins(neighbours: int, uniform: bool) -> np.ndarray:
    """Pattern -> bin: patterns of at most two changes around the circle in their order, then all others."""
    codes = np.arange(2**neighbours)
    if not uniform:
        return codes
    bits = (codes[:, None] >> np.arange(neighbours)) & 1
    few = (bits != np.roll(bits, 1, 1)).sum(1) <= 2
    return np.where(few, np.cumsum(few) - 1, few.sum())


@lru_cache(maxsize=8)
def _block_index(height: int, width: int, blocks: int) -> np.ndarray:
    """[height,width] int64: which of blocks x blocks a pixel lies in, rows first; sizes differ by a pixel at most."""
    y, x = (np.arange(n) * blocks // n for n in (height, width))
    return np.asarray(y[:, None] * blocks + x)


# ---------------------------------------------------------------- directions of flow


def _sums(index: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Weights [N,...] added up by their ``index`` [N,...] below ``count`` -> [N,count]."""
    n = len(index)
    place = index.reshape(n, -1) + np.arange(n)[:, None] * count
    return np.bincount(place.ravel(), weight.reshape(n, -1).ravel(), n * count).reshape(n, count)


def _direction(x: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each vector's direction, [N,3,S,S] -> [N,S,S]: from -180 degrees on, x right and y down."""
    angle = np.arctan2(x[:, 1].astype(np.float64), x[:, 0])  # in float32 pi / 2 is not half of pi
    return np.floor((angle + np.pi) / (2 * np.pi) * bins).astype(np.int64) % bins


def _normalised(histograms: np.ndarray) -> np.ndarray:
    total = histograms.sum(-1, keepdims=True)
    return np.divide(histograms, total, out=np.zeros_like(histograms), where=total > 0)


def bi_woof(x: np.ndarray, config: BiWoofConfig = BiWoofConfig()) -> np.ndarray:
    """Flow images [N,3,S,S] -> [N,blocks^2*bins] float32 of length 1 (of a still face 0)."""
    block = np.broadcast_to(_block_index(*x.shape[-2:], config.blocks), x[:, 0].shape)
    weights = {"magnitude": np.hypot(x[:, 0], x[:, 1]), "strain": np.abs(x[:, 2]), "none": np.ones_like(x[:, 0])}
    index = block * config.bins + _direction(x, config.bins)
    local = _sums(index, weights[config.local], config.blocks**2 * config.bins)
    world = _sums(block, weights[config.world], config.blocks**2)
    whole = _normalised(local.reshape(len(x), -1, config.bins)) * world[..., None]
    whole = whole.reshape(len(x), -1)
    length = np.linalg.norm(whole, axis=1, keepdims=True)
    return np.asarray(whole / np.where(length > 0, length, 1), np.float32)


def hoof(x: np.ndarray, config: HoofConfig = HoofConfig()) -> np.ndarray:
    """Flow images [N,3,S,S] -> [N,blocks^2*bins] float32; each block's histogram adds up to 1 (of a still one 0)."""
    if config.symmetric:
        angle = np.arctan2(x[:, 1].astype(np.float64), np.abs(x[:, 0]))  # -90 to 90 degrees
        bins = np.minimum(np.floor((angle / np.pi + 0.5) * config.bins).astype(np.int64), config.bins - 1)
    else:
        bins = _direction(x, config.bins)
    index = _block_index(*x.shape[-2:], config.blocks) * config.bins + bins
    sums = _sums(index, np.hypot(x[:, 0], x[:, 1]), config.blocks**2 * config.bins)
    return np.asarray(_normalised(sums.reshape(len(x), -1, config.bins)).reshape(len(x), -1), np.float32)


_SIDE = (
    (0.12, 0.08, 0.24, 0.19), (0.24, 0.08, 0.36, 0.19), (0.36, 0.08, 0.46, 0.19),  # forehead
    (0.12, 0.19, 0.24, 0.29), (0.24, 0.19, 0.36, 0.29), (0.36, 0.19, 0.46, 0.29),  # brow
    (0.08, 0.29, 0.20, 0.42), (0.18, 0.42, 0.30, 0.50), (0.30, 0.42, 0.42, 0.50),  # temple, lower lid
    (0.10, 0.50, 0.24, 0.64), (0.24, 0.50, 0.38, 0.64), (0.38, 0.52, 0.50, 0.66),  # cheek, wing of the nose
    (0.26, 0.66, 0.38, 0.76), (0.28, 0.76, 0.38, 0.88),  # nasolabial fold, lip corner
    (0.38, 0.68, 0.50, 0.80), (0.38, 0.80, 0.50, 0.92),  # upper lip, lower lip
)  # fmt: skip
_MIDDLE = (
    (0.46, 0.14, 0.54, 0.29), (0.44, 0.29, 0.56, 0.42), (0.43, 0.42, 0.57, 0.52), (0.40, 0.92, 0.60, 1.00),
)  # fmt: skip
REGIONS: tuple[tuple[float, float, float, float], ...] = (
    *_SIDE, *((round(1 - x1, 3), y0, round(1 - x0, 3), y1) for x0, y0, x1, y1 in _SIDE), *_MIDDLE,
)  # fmt: skip
"""The 36 regions as shares (x0, y0, x1, y1) of our crop: image left, image right, glabella, bridge, nose, chin."""


@lru_cache(maxsize=8)
def regions(size: int, frame: Framing = OWN) -> np.ndarray:
    """[36,size,size] bool: pixels whose centre lies in a region, for faces framed so; at least the pixel at the
    region's centre, and none where that lies outside the crop."""
    centres = (np.arange(size) + 0.5) / size
    out = np.zeros((len(REGIONS), size, size), np.bool_)
    for region, box in zip(out, REGIONS, strict=True):
        x0, x1 = ((x - OWN.column) / OWN.eyes * frame.eyes + frame.column for x in box[::2])
        y0, y1 = ((y - OWN.row) / OWN.height * frame.height + frame.row for y in box[1::2])
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        if not (0 <= x < 1 and 0 <= y < 1):
            continue
        region |= ((centres >= y0) & (centres < y1))[:, None] & ((centres >= x0) & (centres < x1))
        region[int(y * size), int(x * size)] = True
    return out


def main_directions(x: np.ndarray, bins: int = 8, frame: Framing = OWN) -> np.ndarray:
    """Flow images [N,3,S,S] -> [N,36,2]: the mean vector (pixels) of the direction bin that most pixels of a region
    fall into; the first of several that are as full."""
    index = _direction(x, bins)
    out = np.zeros((len(x), len(REGIONS), 2))
    for r, region in enumerate(regions(x.shape[-1], frame)):
        if not region.any():
            continue
        own, u, v = index[:, region], x[:, 0, region], x[:, 1, region]
        ones = np.ones(own.shape)
        main = _sums(own, ones, bins).argmax(1)
        chosen = own == main[:, None]
        out[:, r] = np.stack([(u * chosen).sum(1), (v * chosen).sum(1)], 1) / chosen.sum(1, keepdims=True)
    return out


def mdmo(vectors: np.ndarray, magnitude: float = 0.9) -> np.ndarray:
    """Main vectors [N,36,2] -> [N,72] float32: magnitudes as shares of the largest, then angles in radians, weighted
    ``magnitude`` to the rest of 1.

    >>> two = np.array([[[3.0, 4.0], [0.0, -10.0]]])
    >>> [round(float(number), 2) for number in mdmo(two, 0.5)[0]]
    [0.25, 0.5, 0.46, -0.79]
    """
    size = np.hypot(vectors[..., 0], vectors[..., 1])
    most = size.max(1, keepdims=True)
    shares = size / np.where(most > 0, most, 1)
    angles = np.arctan2(vectors[..., 1], vectors[..., 0])
    return np.asarray(np.concatenate([magnitude * shares, (1 - magnitude) * angles], 1), np.float32)


# ---------------------------------------------------------------- the linear machine


@dataclass(frozen=True, kw_only=True)
class LinearModel:
    """Decision values are x @ ``weight`` [C,D].T + ``bias`` [C]; of a class without a training clip -inf."""

    weight: np.ndarray
    bias: np.ndarray

    def probabilities(self, x: np.ndarray, *, multi: bool = False) -> np.ndarray:
        """Features [N,D] -> [N,C] float64; ``multi``: machines that do not exclude each other."""
        scores = GAIN * (x.astype(np.float64) @ self.weight.T + self.bias)
        if multi:
            return logistic(scores)
        powers = np.exp(scores - scores.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))


def fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray, n_classes: int, c: float) -> LinearModel:
    """A linear machine per class against the rest, on clips of features x [N,D] with weight > 0; see the module."""
    index, w, own, mean, scale = _scaled(x, weights)
    dual, bias = one_against_rest(own @ own.T, y[index], w, n_classes, c)
    weight = dual @ own / scale
    return LinearModel(weight=weight, bias=bias - weight @ mean)


def _scaled(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Of clips with weight > 0: their places and weights, features centred and divided by their root mean square
    distance from the mean, that mean and that distance."""
    index = np.flatnonzero(weights > 0)
    w, own = weights[index].astype(np.float64), x[index].astype(np.float64)
    mean = w @ own / w.sum()
    own -= mean
    scale = max(math.sqrt(float(w @ (own**2).sum(1)) / w.sum()), 1e-12)
    own /= scale
    return index, w, own, mean, scale


def fit_aus(x: np.ndarray, asked: Sequence[tuple[np.ndarray, np.ndarray]], c: float) -> LinearModel:
    """A machine for each AU, of which ``asked`` has labels [N] (0 absent, 1 present) and weights [N], 0 where it is not
    known; features x [N,D] are centred and scaled by the clips it is known of."""
    weight, bias = np.zeros((len(asked), x.shape[1])), np.full(len(asked), -np.inf)
    for a, (labels, weights) in enumerate(asked):
        if not (weights > 0).any():
            continue
        index, w, own, mean, scale = _scaled(x, weights)
        dual, bias[a] = present_against_absent(own @ own.T, labels[index], w, c)
        weight[a] = dual @ own / scale
        bias[a] -= weight[a] @ mean
    return LinearModel(weight=weight, bias=bias)
