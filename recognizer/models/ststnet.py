"""STSTNet: three shallow streams over (u, v, strain) (Liong et al., FG 2019).

Layers, sizes and training are those of the authors' code. Free: the order of the channels, which is u, v, strain here
and OpenCV's strain, v, u there (:func:`read_published` turns their weights round); dropout draws from a hash, so that
stacked folds equal single ones.

Convolution, ReLU and 3x3 pooling of all streams are one compiled pass. Plain operations write maps of 16 x 900 numbers
a clip to memory some twenty times a step, and wait for memory. Here one map at a time lies in the nearest cache;
backward makes it again, which costs less than reading it. The norm between ReLU and pooling scales and shifts a map as
a whole, so that it commutes with the pooling, and the pass says what it needs: each map's mean and variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import nn

from mesynth.core.errors import WeightsUnavailable
from recognizer.models.common import BatchNorm, Dropout, FlowNetwork, Outputs, Shape, check


def reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, sign: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same by torch's own operations, on any device; see :func:`conv_pool`."""
    n, side, filters = len(x), x.shape[-1] + 2, len(weight)
    patches = F.pad(x, (2, 2, 2, 2)).unfold(2, 3, 1).unfold(3, 3, 1)  # [B,3,s,s,3,3]
    flat = patches.permute(0, 1, 4, 5, 2, 3).reshape(n, 27, side * side)
    maps = F.relu(torch.baddbmm(bias[:, None], weight.expand(n, -1, -1), flat))
    turned = (sign[:, None] * maps).reshape(n, filters, side, side)
    best = sign[:, None, None] * F.max_pool2d(turned, 3, 3, 1)
    return best, maps.mean(2), maps.var(2, correction=0)


@njit(cache=True, nogil=True, fastmath=True)
def _pad(x, spare):  # type: ignore[no-untyped-def]
    """One clip [3,S,S] amid two zeros on every side, a channel as one run: rows are w = S+4 wide."""
    width = x.shape[2] + 4
    spare[:] = 0
    for c in range(3):
        for row in range(x.shape[1]):
            for i in range(x.shape[2]):
                spare[c, (row + 2) * width + 2 + i] = x[c, row, i]


@njit(cache=True, nogil=True, fastmath=True)
def _map(spare, weight, values, side):  # type: ignore[no-untyped-def]
    """One filter's map ``values`` [s*w] after ReLU, s = S+2.

    A tap is the padded clip, shifted; the two columns too many are 0. The compiler unrolls the three inner loops and
    fills vector registers with places; it does so only if no index can be negative (Python's indices from the end),
    hence the unsigned numbers.
    """
    width = np.uint64(side + 2)
    for p in range(np.uint64(len(values))):
        value = weight[27]
        for c in range(3):
            for dy in range(3):
                for dx in range(3):
                    value += weight[(c * 3 + dy) * 3 + dx] * spare[c, p + np.uint64(dy) * width + np.uint64(dx)]
        values[p] = max(value, np.float32(0))
    for row in range(side):
        values[row * (side + 2) + side] = values[row * (side + 2) + side + 1] = 0


@njit(cache=True, nogil=True, fastmath=True)
def _moments(values, side):  # type: ignore[no-untyped-def]
    """Mean and variance of a map, whose two columns too many hold the mean afterwards.

    Two passes, for a map may lie far from 0 and vary little.
    """
    total, square, count = np.float32(0), np.float32(0), np.float32(side * side)
    for p in range(len(values)):
        total += values[p]
    mean = total / count
    for row in range(side):
        values[row * (side + 2) + side] = values[row * (side + 2) + side + 1] = mean
    for p in range(len(values)):
        square += (values[p] - mean) * (values[p] - mean)
    return mean, square / count


@njit(cache=True, nogil=True, fastmath=True)
def _correlate(spare, slope, width, product):  # type: ignore[no-untyped-def]
    """Add to ``product`` [28] the products of ``slope`` [s*w] with the clip under every tap, and its sum."""
    one, two = np.uint64(1), np.uint64(2)
    for c in range(3):
        a = b = d = e = f = g = h = i = j = np.float32(0)
        above, here, below = spare[c], spare[c, width:], spare[c, 2 * width :]
        for p in range(np.uint64(len(slope))):
            a, b, d = a + slope[p] * above[p], b + slope[p] * above[p + one], d + slope[p] * above[p + two]
            e, f, g = e + slope[p] * here[p], f + slope[p] * here[p + one], g + slope[p] * here[p + two]
            h, i, j = h + slope[p] * below[p], i + slope[p] * below[p + one], j + slope[p] * below[p + two]
        for tap, value in enumerate((a, b, d, e, f, g, h, i, j)):
            product[9 * c + tap] += value
    total = np.float32(0)
    for p in range(len(slope)):
        total += slope[p]
    product[27] += total


@njit(cache=True, nogil=True, fastmath=True)
def _pool(values, side, sign, best, places, column, rows):  # type: ignore[no-untyped-def]
    """Largest of ``sign`` times a map in every 3x3 window, and where: [P,P] float32 and int32.

    Down the columns first (``column`` [w] and ``rows`` [w] are room to work in), then along the row.
    """
    width, pools = side + 2, len(best)
    for i in range(pools):
        top = max(3 * i - 1, 0)
        here = values[top * width : (top + 1) * width]
        for x in range(width):
            column[x] = sign * here[x]
            rows[x] = top
        for row in range(top + 1, min(3 * i + 2, side)):
            here = values[row * width : (row + 1) * width]
            for x in range(width):
                value = sign * here[x]
                larger = value > column[x]
                column[x] = value if larger else column[x]
                rows[x] = row if larger else rows[x]
        for j in range(pools):
            first = max(3 * j - 1, 0)
            most, where = column[first], first
            for x in range(first + 1, min(3 * j + 2, side)):
                if column[x] > most:
                    most, where = column[x], x
            best[i, j] = most
            places[i, j] = rows[where] * width + where


@njit(cache=True, nogil=True, fastmath=True)
def _forward(x, weight, sign, best, places, mean, variance):  # type: ignore[no-untyped-def]
    """``best`` and ``places`` [B,F,P,P] as of :func:`_pool`, the sign taken off again; ``mean``, ``variance`` [B,F]."""
    side, filters = x.shape[2] + 2, len(weight)
    spare = np.empty((3, (side + 5) * (side + 2)), np.float32)
    values = np.empty(side * (side + 2), np.float32)
    column, rows = np.empty(side + 2, np.float32), np.empty(side + 2, np.int32)
    for b in range(len(x)):
        _pad(x[b], spare)
        for f in range(filters):
            _map(spare, weight[f], values, side)
            mean[b, f], variance[b, f] = _moments(values, side)
            _pool(values, side, sign[f], best[b, f], places[b, f], column, rows)
            if sign[f] < 0:
                for i in range(best.shape[2]):
                    for j in range(best.shape[3]):
                        best[b, f, i, j] = -best[b, f, i, j]


@njit(cache=True, nogil=True, fastmath=True)
def _backward(x, weight, best, places, mean, d_best, d_mean, d_variance, d_weight):  # type: ignore[no-untyped-def]
    """Add to ``d_weight`` [F,28] what the gradients of the three outputs say."""
    side, filters, pools = x.shape[2] + 2, len(weight), best.shape[2]
    width = side + 2
    spare = np.empty((3, (side + 5) * width), np.float32)
    values, slope = np.empty(side * width, np.float32), np.empty(side * width, np.float32)
    count = np.float32(side * side)
    for b in range(len(x)):
        _pad(x[b], spare)
        for f in range(filters):
            per = np.float32(2) * d_variance[b, f] / count  # what every place of the map gets, by its value
            level = d_mean[b, f] / count - per * mean[b, f]
            _map(spare, weight[f], values, side)
            for p in range(side * width):
                slope[p] = level + per * values[p] if values[p] > 0 else np.float32(0)
            for i in range(pools):
                for j in range(pools):
                    if best[b, f, i, j] > 0:
                        slope[places[b, f, i, j]] += d_best[b, f, i, j]
            _correlate(spare, slope, width, d_weight[f])


def _laid(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Weights and biases as [F,28]."""
    return np.ascontiguousarray(np.hstack([weight, bias[:, None]]))


def _members(info: Any, in_dims: tuple[int | None, ...], inputs: tuple[Any, ...]) -> list[list[Any]]:
    """The arguments of each member of a stack, one after the other."""
    moved = [t if d is None else t.movedim(d, 0) for t, d in zip(inputs, in_dims, strict=True)]
    return [[t if d is None else t[m] for t, d in zip(moved, in_dims, strict=True)] for m in range(info.batch_size)]


class _ConvPool(torch.autograd.Function):
    """Of CPU tensors; nothing flows back to ``x``, which is data. The last output is kept for backward."""

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any, sign: Any) -> tuple[torch.Tensor, ...]:
        n, filters, pools = len(x), len(weight), (x.shape[-1] + 1) // 3 + 1
        best, places = (np.empty((n, filters, pools, pools), kind) for kind in (np.float32, np.int32))
        mean, variance = np.empty((n, filters), np.float32), np.empty((n, filters), np.float32)
        clips, w, b, way = (t.detach().contiguous().numpy() for t in (x, weight, bias, sign))
        _forward(clips, _laid(w, b), way, best, places, mean, variance)
        return tuple(map(torch.from_numpy, (best, mean, variance, places)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        best, mean, _, places = output
        ctx.save_for_backward(*inputs[:3], best, mean, places)
        ctx.mark_non_differentiable(places)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        clips, w, b, best, mean, places = (t.detach().contiguous().numpy() for t in ctx.saved_tensors)
        laid, above = _laid(w, b), [g.contiguous().numpy() for g in gradients[:3]]
        d_laid = np.zeros_like(laid)
        _backward(clips, laid, best, places, mean, above[0], above[1], above[2], d_laid)
        found = (np.ascontiguousarray(d_laid[:, :27]), np.ascontiguousarray(d_laid[:, 27]))
        return (None, *map(torch.from_numpy, found), None)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        """Members one after the other: each is a pass over its own clips, and keeps its own."""
        each = [_ConvPool.apply(*arguments)[:3] for arguments in _members(info, in_dims, inputs)]
        stacked = (torch.stack(parts) for parts in zip(*each, strict=True))
        return (*stacked, torch.empty(info.batch_size, 0)), (0, 0, 0, 0)


def conv_pool(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, sign: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clips [B,3,S,S] through filters [F,27] (channel, row, column) and ``bias`` [F], padding 2, then ReLU.

    Returns the largest value (where ``sign`` [F] is 1; the smallest where -1) of every 3x3 window at stride 3
    [B,F,P,P], and each map's mean and variance before pooling [B,F]. Gradients reach ``weight`` and ``bias`` alone.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return reference(x, weight, bias, sign)
    best, mean, variance, _ = _ConvPool.apply(x, weight, bias, sign)
    return best, mean, variance


# ------------------------------------------------------------------- norm, dropout, average


@njit(cache=True, nogil=True)
def _kept(place, mixed):  # type: ignore[no-untyped-def]
    """The hash of :class:`recognizer.models.common.Dropout` at ``place``; ``mixed`` is its key's share."""
    # Words of 32 bits, which numba widens at every product.
    h = np.uint32(np.uint32(place) * np.uint32(0x9E3779B1) + mixed)
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@njit(cache=True, nogil=True, fastmath=True)
def _average(maps, gain, shift, mixed, least, scale, out, mask):  # type: ignore[no-untyped-def]
    """``out`` [B,F,q,q]: mean of 2x2 of what dropout leaves of gain * map + shift; ``mask`` [B,F,P,P] of 0 and 1."""
    pools, half = maps.shape[2], out.shape[2]
    quarter = np.float32(0.25) * scale
    for b in range(len(maps)):
        for f in range(maps.shape[1]):
            start = (b * maps.shape[1] + f) * pools * pools
            kept, one = mask[b, f].ravel(), maps[b, f]
            for p in range(np.uint64(pools * pools)):
                kept[p] = _kept(np.uint32(start) + np.uint32(p), mixed) >= least
            for i in range(half):
                for j in range(half):
                    total = np.float32(0)
                    for dy in range(2):
                        for dx in range(2):
                            y, x = 2 * i + dy, 2 * j + dx
                            total += np.float32(kept[y * pools + x]) * (gain[f] * one[y, x] + shift[f])
                    out[b, f, i, j] = quarter * total


@njit(cache=True, nogil=True, fastmath=True)
def _average_back(maps, gain, mask, scale, above, d_maps, d_gain, d_shift):  # type: ignore[no-untyped-def]
    """Gradients of :func:`_average`; ``d_gain`` and ``d_shift`` [F] are added to."""
    quarter, half = np.float32(0.25) * scale, above.shape[2]
    d_maps[:] = 0
    for b in range(len(maps)):
        for f in range(maps.shape[1]):
            first = second = np.float32(0)
            for i in range(half):
                for j in range(half):
                    slope = quarter * above[b, f, i, j]
                    for dy in range(2):
                        for dx in range(2):
                            y, x = 2 * i + dy, 2 * j + dx
                            here = slope * np.float32(mask[b, f, y, x])
                            first += here * maps[b, f, y, x]
                            second += here
                            d_maps[b, f, y, x] = here * gain[f]
            d_gain[f] += first
            d_shift[f] += second


class _Average(torch.autograd.Function):
    """Of CPU tensors, as :class:`_ConvPool`: a pass forward and one back instead of some twenty over memory."""

    @staticmethod
    def forward(maps: Any, gain: Any, shift: Any, key: Any, share: float) -> tuple[torch.Tensor, ...]:
        values, g, s = (t.detach().contiguous().numpy() for t in (maps, gain, shift))
        n, filters, pools = values.shape[:3]
        out = np.empty((n, filters, pools // 2, pools // 2), np.float32)
        mask = np.empty(values.shape, np.uint8)
        number = int(key)
        mixed, least = np.uint32((number * 0x85EBCA6B) & 0xFFFFFFFF), np.uint32(int(share * 2**32))
        used = (least, np.float32(1 / (1 - share))) if number else (np.uint32(0), np.float32(1))
        _average(values, g, s, mixed, *used, out, mask)
        return torch.from_numpy(out), torch.from_numpy(mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        maps, gain, _, key, share = inputs
        ctx.save_for_backward(maps, gain, output[1])
        ctx.scale = np.float32(1 / (1 - share)) if int(key) else np.float32(1)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        maps, gain, mask = (t.detach().contiguous().numpy() for t in ctx.saved_tensors)
        d_maps, d_gain, d_shift = np.empty_like(maps), np.zeros_like(gain), np.zeros_like(gain)
        _average_back(maps, gain, mask, ctx.scale, gradients[0].contiguous().numpy(), d_maps, d_gain, d_shift)
        return (*map(torch.from_numpy, (d_maps, d_gain, d_shift)), None, None)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        """Members one after the other."""
        each = [_Average.apply(*arguments)[0] for arguments in _members(info, in_dims, inputs)]
        return (torch.stack(each), torch.empty(info.batch_size, 0)), (0, 0)


def dropped_average(maps: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor, drop: Dropout) -> torch.Tensor:
    """Maps [B,F,P,P] times ``gain`` [F] plus ``shift`` [F], through ``drop``, averaged over 2x2: [B,F,P//2,P//2]."""
    if maps.device.type != "cpu" or maps.dtype != torch.float32:
        return F.avg_pool2d(drop(maps * gain[:, None, None] + shift[:, None, None]), 2)
    averaged: torch.Tensor = _Average.apply(maps, gain, shift, drop.key, drop.p)[0]
    return averaged


# ------------------------------------------------------------------- ststnet


NORMS = ("batch", "group")


@dataclass(frozen=True, kw_only=True)
class StstnetConfig:
    """Published sizes."""

    filters: tuple[int, ...] = (3, 5, 8)
    """Of the three streams."""
    dropout: float = 0.5
    """Of the pooled maps, before they are averaged."""
    norm: str = "batch"
    """batch (published), or group: one group a stream and no running statistics, as before version 0.2."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        check("ststnet", self, least={"filters": 1}, shares=("dropout",), choices={"norm": NORMS})


class Ststnet(FlowNetwork):
    """Conv 3x3 pad 2 -> ReLU -> BatchNorm -> MaxPool 3 s3 p1 -> dropout, three times in parallel -> AvgPool 2 -> FC."""

    share: torch.Tensor
    stack = 2

    def __init__(self, config: StstnetConfig, n_classes: int, size: int) -> None:
        super().__init__()
        total = sum(config.filters)
        bound = 1 / math.sqrt(27)
        self.weight = nn.Parameter(torch.empty(total, 27).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(total).uniform_(-bound, bound))
        self.norm = BatchNorm(total) if config.norm == "batch" else None
        if self.norm is None:
            self.gamma, self.beta = nn.Parameter(torch.ones(total)), nn.Parameter(torch.zeros(total))
            group = np.repeat(np.arange(len(config.filters)), config.filters)
            share = torch.from_numpy((group[:, None] == group).astype(np.float32))
            self.register_buffer("share", share / share.sum(1, keepdim=True), persistent=False)
        self.side = (size + 2 + 2 - 3) // 3 + 1
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(total * (self.side // 2) ** 2, n_classes)

    def forward(self, x: torch.Tensor) -> Outputs:
        """[B,3,S,S] flow -> scores."""
        sign = torch.where((self.gamma if self.norm is None else self.norm.weight) < 0, -1.0, 1.0)
        maps, mean, variance = conv_pool(self.scaled(x), self.weight, self.bias, sign)
        if self.norm is None:  # statistics of a stream of a clip
            level = mean @ self.share.T
            spread = (variance + (mean - level).square()) @ self.share.T
            gain = self.gamma * (spread + 1e-5).rsqrt()
            normed = maps * gain[..., None, None] + (self.beta - level * gain)[..., None, None]
        else:
            level = mean.mean(0)
            spread = (variance + (mean - level).square()).mean(0)
            gain, shift = self.norm.gain_and_shift(level, spread, len(x) * (x.shape[-1] + 2) ** 2)
            features = dropped_average(maps, gain, shift, self.drop).flatten(1)
            return Outputs(self.classify(features), None, features)
        features = F.avg_pool2d(self.drop(normed), 2).flatten(1)
        return Outputs(self.classify(features), None, features)


_BGR = [2, 1, 0]
"""u, v, strain of published flow images as OpenCV reads them: strain, v, u."""


def read_published(file: Path | str) -> dict[str, torch.Tensor]:
    """One of the authors' weight files (``STSTNet_Weights/SUBJECT.pth``) as the parameters and statistics of an
    :class:`Ststnet` with the default settings; that network answers flow images as bytes (``data.input=bytes``).

    Nothing in the file is executed: it is read as a plain dictionary of tensors.

    Raises:
        WeightsUnavailable: no such file, or not the state of a published STSTNet.
    """
    file = Path(file)
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsUnavailable(f"{file} cannot be read ({error.strerror or error}); check the path") from None
    except Exception:  # whatever a damaged or foreign file raises inside torch
        found = None
    filters = StstnetConfig().filters
    wanted: dict[str, tuple[int, ...]] = {}
    for i, n in enumerate(filters, 1):
        wanted |= {f"conv{i}.weight": (n, 3, 3, 3), f"conv{i}.bias": (n,)}
        wanted |= {f"bn{i}.{name}": (n,) for name in ("weight", "bias", "running_mean", "running_var")}
    wanted |= {"fc.weight": (3, 400), "fc.bias": (3,)}
    tensors = found.items() if isinstance(found, Mapping) else ()
    shapes = {name: tuple(t.shape) for name, t in tensors if isinstance(t, torch.Tensor)}
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            held = f"{name} is {list(shapes[name])}" if name in shapes else f"it holds no {name}"
            raise WeightsUnavailable(
                f"{file} is no state of the published STSTNet ({held}, expected {list(shape)}); give one of the "
                "authors' STSTNet_Weights/SUBJECT.pth"
            )

    if not all(found[name].isfinite().all() for name in wanted):
        raise WeightsUnavailable(f"{file} holds numbers that are not finite; copy it again")

    def joined(name: str) -> torch.Tensor:
        """Of the three streams, one after the other."""
        return torch.cat([found[name.format(i)].float() for i in range(1, len(filters) + 1)])

    state = {"weight": joined("conv{}.weight")[:, _BGR].flatten(1), "bias": joined("conv{}.bias")}
    state |= {f"norm.{n}": joined(f"bn{{}}.{n}") for n in ("weight", "bias", "running_mean", "running_var")}
    return state | {"classify.weight": found["fc.weight"].float(), "classify.bias": found["fc.bias"].float()}


def build(config: StstnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Ststnet(config, n_classes, shape.size)
