"""STSTNet's streams as one compiled pass: 3x3 convolution, ReLU, norm of each stream, 3x3 pooling, averaging.

Plain operations write maps of 16 x 900 numbers a clip to memory some twenty times a step, and wait for memory. Here one
map at a time lies in the nearest cache; backward makes it again, which costs less than reading it.

STSTNet: three shallow streams over (u, v, strain) (Liong et al., FG 2019).

Deviations, both so that stacked folds equal single ones: GroupNorm with one group per stream replaces BatchNorm (no
running statistics), and dropout draws from a hash. The streams are one compiled pass (conv_pool)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import Dropout, FlowNetwork, Outputs, Shape

EPS = 1e-5


def reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, group: Any
) -> torch.Tensor:
    """The same by torch's own operations, on any device; see :func:`conv_pool`."""
    n, side, filters = len(x), x.shape[-1] + 2, len(weight)
    patches = F.pad(x, (2, 2, 2, 2)).unfold(2, 3, 1).unfold(3, 3, 1)  # [B,3,s,s,3,3]
    flat = patches.permute(0, 1, 4, 5, 2, 3).reshape(n, 27, side * side)
    maps = F.relu(torch.baddbmm(bias[:, None], weight.expand(n, -1, -1), flat))
    same = torch.as_tensor(group, device=x.device)
    share = (same[:, None] == same[None]).to(x.dtype)
    share = share / share.sum(1, keepdim=True)  # row f averages over the filters of f's own stream
    mean, square = (share @ m.mean(2, keepdim=True) for m in (maps, maps * maps))
    gain = gamma[:, None] * (square - mean * mean + EPS).rsqrt()
    normed = (maps * gain + (beta[:, None] - mean * gain)).reshape(n, filters, side, side)
    return F.avg_pool2d(F.max_pool2d(normed, 3, 3, 1), 2).flatten(1)


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
    """One filter's map ``values`` [s*w] after ReLU, s = S+2; returns its sum and its sum of squares.

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
    total, square = np.float32(0), np.float32(0)
    for p in range(len(values)):
        total += values[p]
        square += values[p] * values[p]
    return total, square


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
def _forward(x, weight, gamma, beta, group, sizes, out, best, places, moments):  # type: ignore[no-untyped-def]
    """``best`` and ``places`` [B,F,P,P] as of :func:`_pool`; ``moments`` [B,2,F]: mean and 1/sd of filters' streams."""
    n, side, filters = len(x), x.shape[2] + 2, len(weight)
    cells = best.shape[2] // 2
    spare = np.empty((3, (side + 5) * (side + 2)), np.float32)
    values = np.empty(side * (side + 2), np.float32)
    column, rows = np.empty(side + 2, np.float32), np.empty(side + 2, np.int32)
    sums = np.empty((2, filters), np.float32)
    sign = np.where(gamma < 0, np.float32(-1), np.float32(1))
    for b in range(n):
        _pad(x[b], spare)
        sums[:] = 0
        for f in range(filters):
            total, square = _map(spare, weight[f], values, side)
            sums[0, group[f]] += total
            sums[1, group[f]] += square
            _pool(values, side, sign[f], best[b, f], places[b, f], column, rows)
        for f in range(filters):
            count = np.float32(sizes[group[f]] * side * side)
            mean = sums[0, group[f]] / count
            variance = max(sums[1, group[f]] / count - mean * mean, np.float32(0))
            rate = np.float32(1) / np.sqrt(variance + np.float32(EPS))
            moments[b, 0, f], moments[b, 1, f] = mean, rate
            gain, shift = gamma[f] * rate * sign[f] * np.float32(0.25), beta[f] - mean * gamma[f] * rate
            for i in range(cells):
                for j in range(cells):
                    four = best[b, f, 2 * i, 2 * j] + best[b, f, 2 * i, 2 * j + 1]
                    four += best[b, f, 2 * i + 1, 2 * j] + best[b, f, 2 * i + 1, 2 * j + 1]
                    out[b, (f * cells + i) * cells + j] = gain * four + shift


@njit(cache=True, nogil=True, fastmath=True)
def _backward(  # type: ignore[no-untyped-def]
    x, weight, gamma, group, sizes, gradient, best, places, moments, d_weight, d_gamma, d_beta
):
    n, side, filters = len(x), x.shape[2] + 2, len(weight)
    cells, width = best.shape[2] // 2, side + 2
    spare = np.empty((3, (side + 5) * width), np.float32)
    values, slope = np.empty(side * width, np.float32), np.empty(side * width, np.float32)
    first, second = np.empty(filters, np.float32), np.empty(filters, np.float32)
    sign = np.where(gamma < 0, np.float32(-1), np.float32(1))
    for b in range(n):
        _pad(x[b], spare)
        mean, rate = moments[b, 0], moments[b, 1]
        for f in range(filters):
            first[f] = second[f] = 0
            for i in range(2 * cells):
                for j in range(2 * cells):
                    d = np.float32(0.25) * gradient[b, (f * cells + i // 2) * cells + j // 2]
                    first[f] += d
                    second[f] += d * (sign[f] * best[b, f, i, j] - mean[f]) * rate[f]
            d_beta[f] += first[f]
            d_gamma[f] += second[f]
        for f in range(filters):
            one, two = np.float32(0), np.float32(0)
            for other in range(filters):
                if group[other] == group[f]:
                    one += first[other] * gamma[other]
                    two += second[other] * gamma[other]
            count = np.float32(sizes[group[f]] * side * side)
            per = -rate[f] * rate[f] * two / count  # what every place of the stream gets, by its value
            level = -rate[f] * one / count - per * mean[f]
            _map(spare, weight[f], values, side)
            for p in range(side * width):
                slope[p] = level + per * values[p] if values[p] > 0 else np.float32(0)
            for i in range(2 * cells):
                for j in range(2 * cells):
                    if best[b, f, i, j] * sign[f] > 0:
                        d = np.float32(0.25) * gradient[b, (f * cells + i // 2) * cells + j // 2]
                        slope[places[b, f, i, j]] += rate[f] * gamma[f] * d
            _correlate(spare, slope, width, d_weight[f])


def _laid(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Weights and biases as [F,28]."""
    return np.ascontiguousarray(np.hstack([weight, bias[:, None]]))


class _ConvPool(torch.autograd.Function):
    """Of CPU tensors; nothing flows back to ``x``, which is data. The outputs after the first are kept for backward."""

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any, gamma: Any, beta: Any, group: np.ndarray) -> tuple[torch.Tensor, ...]:
        n, filters, pools = len(x), len(weight), (x.shape[-1] + 1) // 3 + 1
        out = np.empty((n, filters * (pools // 2) ** 2), np.float32)
        best, moments = np.empty((n, filters, pools, pools), np.float32), np.empty((n, 2, filters), np.float32)
        places = np.empty(best.shape, np.int32)
        clips, w, b, g, shift = (t.detach().contiguous().numpy() for t in (x, weight, bias, gamma, beta))
        _forward(clips, _laid(w, b), g, shift, group, np.bincount(group), out, best, places, moments)
        return tuple(map(torch.from_numpy, (out, best, places, moments)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        *tensors, ctx.group = inputs
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        clips, w, b, g, _, best, places, moments = (t.detach().contiguous().numpy() for t in ctx.saved_tensors)
        laid, above, sizes = _laid(w, b), gradients[0].contiguous().numpy(), np.bincount(ctx.group)
        d_laid, d_gamma, d_beta = (np.zeros_like(a) for a in (laid, g, g))
        _backward(clips, laid, g, ctx.group, sizes, above, best, places, moments, d_laid, d_gamma, d_beta)
        found = (d_laid[:, :27], d_laid[:, 27], d_gamma, d_beta)
        return (None, *(torch.from_numpy(np.ascontiguousarray(a)) for a in found), None)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        """Members one after the other: each is a pass over its own clips, and keeps its own."""
        moved = [
            t if d is None or k == 5 else t.movedim(d, 0) for k, (t, d) in enumerate(zip(inputs, in_dims, strict=True))
        ]
        each = [
            _ConvPool.apply(*(t if in_dims[k] is None else t[m] for k, t in enumerate(moved)))[0]
            for m in range(info.batch_size)
        ]
        nothing = (torch.empty(info.batch_size, 0) for _ in range(3))
        return (torch.stack(each), *nothing), (0, 0, 0, 0)


def conv_pool(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    group: np.ndarray,
) -> torch.Tensor:
    """Clips [B,3,S,S] through filters [F,27] (channel, row, column), ``bias``, ``gamma``, ``beta`` [F] -> [B,F*c*c].

    ``group`` [F] int64: the stream of each filter, from 0. Padding 2; ReLU; the mean and variance of a stream's maps
    taken out; largest of 3x3, then means of 2x2 (c = 5 for S = 28). Gradients reach the four parameters, not ``x``.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return reference(x, weight, bias, gamma, beta, group)
    out: torch.Tensor = _ConvPool.apply(x, weight, bias, gamma, beta, group)[0]
    return out


# ------------------------------------------------------------------- ststnet


@dataclass(frozen=True, kw_only=True)
class StstnetConfig:
    """Filters of the three streams."""

    filters: tuple[int, ...] = (3, 5, 8)
    dropout: float = 0.5
    """Before the classifier."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        if not self.filters or min(self.filters) < 1:
            raise ConfigError(f"ststnet.filters={list(self.filters)} must be positive numbers")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"ststnet.dropout={self.dropout:g} is outside [0, 1)")


class Ststnet(FlowNetwork):
    """Conv 3x3 pad 2 -> ReLU -> norm -> MaxPool 3 s3 p1, three times in parallel -> AvgPool 2 -> dropout -> FC."""

    stack = 2

    def __init__(self, config: StstnetConfig, n_classes: int, size: int) -> None:
        super().__init__()
        total = sum(config.filters)
        bound = 1 / math.sqrt(27)
        self.weight = nn.Parameter(torch.empty(total, 27).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(total).uniform_(-bound, bound))
        self.gamma, self.beta = nn.Parameter(torch.ones(total)), nn.Parameter(torch.zeros(total))
        self.group = np.repeat(np.arange(len(config.filters)), config.filters)
        side = ((size + 2 + 2 - 3) // 3 + 1) // 2
        self.drop = Dropout(config.dropout)
        self.classify = nn.Linear(total * side**2, n_classes)

    def forward(self, x: torch.Tensor) -> Outputs:
        pooled = conv_pool(self.scaled(x), self.weight, self.bias, self.gamma, self.beta, self.group)
        features = self.drop(pooled)
        return Outputs(self.classify(features), None, features)


def build(config: StstnetConfig, n_classes: int, shape: Shape) -> FlowNetwork:
    """A fresh network for ``n_classes`` classes and these sizes; weights from torch's current seed."""
    return Ststnet(config, n_classes, shape.size)
