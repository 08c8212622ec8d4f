"""STSTNet's streams as one compiled pass: 3x3 convolution, ReLU, norm of each stream, 3x3 pooling, averaging.

Plain operations write maps of 16 x 900 numbers a clip to memory some twenty times a step, and wait for memory. Here a
clip's maps stay in the cache, forward and backward; backward makes them again, which costs less than reading them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit

EPS = 1e-5
LANES = 16


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
def _maps(x, weight, spare, patches, maps):  # type: ignore[no-untyped-def]
    """One clip: ``maps`` [s*w,16] after ReLU, the filters beside each other as one vector register holds them.

    Rows are w = s+2 wide, so that a patch's number is one run of the padded clip; the two columns too many are 0.
    ``patches`` [28,s*w]: the last row is 1, which makes the bias a weight.
    """
    width = x.shape[2] + 4
    side, places = width - 2, len(maps)
    spare[:] = 0
    for c in range(3):
        for row in range(x.shape[1]):
            for i in range(x.shape[2]):
                spare[c, (row + 2) * width + 2 + i] = x[c, row, i]
    for t in range(27):
        at = t // 3 % 3 * width + t % 3
        for p in range(places):
            patches[t, p] = spare[t // 9, at + p]
    np.dot(patches.T, weight, maps)
    flat = maps.reshape(-1)
    for p in range(len(flat)):
        flat[p] = max(flat[p], np.float32(0))
    for row in range(side):
        for p in range((row * width + side) * LANES, (row + 1) * width * LANES):
            flat[p] = 0


@njit(cache=True, nogil=True, fastmath=True)
def _moments(maps, group, sizes, count, mean, rate, sums):  # type: ignore[no-untyped-def]
    """Mean and 1/sd of each lane's stream: [16] each; ``sums`` [2,16] is room to work in."""
    lanes = maps.shape[1]
    sums[:] = 0
    for p in range(len(maps)):
        for f in range(lanes):
            sums[0, f] += maps[p, f]
            sums[1, f] += maps[p, f] * maps[p, f]
    mean[:] = 0
    rate[:] = 1
    for f in range(len(group)):
        total, square = np.float32(0), np.float32(0)
        for other in range(len(group)):
            if group[other] == group[f]:
                total += sums[0, other]
                square += sums[1, other]
        n = np.float32(sizes[group[f]] * count)
        mean[f] = total / n
        rate[f] = np.float32(1) / np.sqrt(max(square / n - mean[f] * mean[f], np.float32(0)) + np.float32(EPS))


@njit(cache=True, nogil=True, fastmath=True)
def _pool(maps, side, sign, best, places):  # type: ignore[no-untyped-def]
    """Largest of ``sign`` [16] times the maps in every 3x3 window, and where: [P,P,16] float32 and int32."""
    width, pools, lanes = side + 2, len(best), maps.shape[1]
    for i in range(pools):
        for j in range(pools):
            for f in range(lanes):
                best[i, j, f] = np.float32(-np.inf)
            for row in range(max(3 * i - 1, 0), min(3 * i + 2, side)):
                for column in range(max(3 * j - 1, 0), min(3 * j + 2, side)):
                    here = np.int32(row * width + column)
                    for f in range(lanes):
                        value = sign[f] * maps[here, f]
                        larger = value > best[i, j, f]
                        best[i, j, f] = value if larger else best[i, j, f]
                        places[i, j, f] = here if larger else places[i, j, f]


_OPEN = {"nsz", "arcp", "contract", "reassoc"}  # all of fastmath but the promise that nothing is infinite


@njit(cache=True, nogil=True, fastmath=_OPEN)
def _forward(x, weight, gamma, beta, group, sizes, out):  # type: ignore[no-untyped-def]
    n, side = len(x), x.shape[2] + 2
    cells, filters = ((side - 1) // 3 + 1) // 2, len(group)
    spare = np.empty((3, (side + 5) * (side + 2)), np.float32)
    patches = np.ones((28, side * (side + 2)), np.float32)
    maps = np.empty((side * (side + 2), LANES), np.float32)
    best = np.empty((2 * cells, 2 * cells, LANES), np.float32)
    places = np.empty((2 * cells, 2 * cells, LANES), np.int32)
    mean, rate, sums = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty((2, LANES), np.float32)
    gain, shift, sign = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.ones(LANES, np.float32)
    for f in range(filters):
        sign[f] = np.float32(-1) if gamma[f] < 0 else np.float32(1)
    for b in range(n):
        _maps(x[b], weight, spare, patches, maps)
        _moments(maps, group, sizes, side * side, mean, rate, sums)
        _pool(maps, side, sign, best, places)
        for f in range(filters):
            gain[f] = gamma[f] * rate[f] * sign[f] * np.float32(0.25)
            shift[f] = beta[f] - mean[f] * gamma[f] * rate[f]
        for i in range(cells):
            for j in range(cells):
                for f in range(filters):
                    four = best[2 * i, 2 * j, f] + best[2 * i, 2 * j + 1, f]
                    four += best[2 * i + 1, 2 * j, f] + best[2 * i + 1, 2 * j + 1, f]
                    out[b, (f * cells + i) * cells + j] = gain[f] * four + shift[f]


@njit(cache=True, nogil=True, fastmath=_OPEN)
def _backward(x, weight, gamma, group, sizes, gradient, d_weight, d_gamma, d_beta):  # type: ignore[no-untyped-def]
    n, side = len(x), x.shape[2] + 2
    cells, filters, width = ((side - 1) // 3 + 1) // 2, len(group), side + 2
    spare = np.empty((3, (side + 5) * width), np.float32)
    patches = np.ones((28, side * width), np.float32)
    maps = np.empty((side * width, LANES), np.float32)
    best = np.empty((2 * cells, 2 * cells, LANES), np.float32)
    places = np.empty((2 * cells, 2 * cells, LANES), np.int32)
    mean, rate, sums = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty((2, LANES), np.float32)
    above = np.zeros((cells, cells, LANES), np.float32)
    first, second, sign = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.ones(LANES, np.float32)
    per, level = np.zeros(width * LANES, np.float32), np.zeros(width * LANES, np.float32)
    slope, product = np.empty((side * width, LANES), np.float32), np.empty((28, LANES), np.float32)
    seen, flat = maps.reshape(-1), slope.reshape(-1)
    lanes = maps.shape[1]
    for f in range(filters):
        sign[f] = np.float32(-1) if gamma[f] < 0 else np.float32(1)
    for b in range(n):
        _maps(x[b], weight, spare, patches, maps)
        _moments(maps, group, sizes, side * side, mean, rate, sums)
        _pool(maps, side, sign, best, places)
        for f in range(filters):
            for i in range(cells):
                for j in range(cells):
                    above[i, j, f] = np.float32(0.25) * gradient[b, (f * cells + i) * cells + j]
        first[:] = 0
        second[:] = 0
        for i in range(2 * cells):
            for j in range(2 * cells):
                for f in range(lanes):
                    d = above[i // 2, j // 2, f]
                    first[f] += d
                    second[f] += d * (sign[f] * best[i, j, f] - mean[f]) * rate[f]
        for f in range(filters):
            d_beta[f] += first[f]
            d_gamma[f] += second[f]
            one, two = np.float32(0), np.float32(0)
            for other in range(filters):
                if group[other] == group[f]:
                    one += first[other] * gamma[other]
                    two += second[other] * gamma[other]
            count = np.float32(sizes[group[f]] * side * side)
            slant = -rate[f] * rate[f] * two / count  # what every place of the stream gets, by its value
            for i in range(width):
                per[i * LANES + f] = slant
                level[i * LANES + f] = -rate[f] * one / count - slant * mean[f]
        for row in range(side):
            start = row * width * LANES
            for i in range(width * LANES):
                value = level[i] + per[i] * seen[start + i]
                flat[start + i] = value if seen[start + i] > 0 else np.float32(0)
        for i in range(2 * cells):
            for j in range(2 * cells):
                for f in range(filters):
                    if best[i, j, f] * sign[f] > 0:
                        slope[places[i, j, f], f] += rate[f] * gamma[f] * above[i // 2, j // 2, f]
        np.dot(patches, slope, product)
        d_weight += product


def _laid(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Weights and biases as [28,16], filled up with zeros."""
    out = np.zeros((28, LANES), np.float32)
    out[:27, : len(weight)], out[27, : len(weight)] = weight.T, bias
    return out


class _ConvPool(torch.autograd.Function):
    """Of CPU tensors; nothing flows back to ``x``, which is data."""

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any, gamma: Any, beta: Any, group: np.ndarray) -> torch.Tensor:
        cells = ((x.shape[-1] + 1) // 3 + 1) // 2
        out = np.zeros((len(x), len(weight) * cells * cells), np.float32)
        clips, w, b, g, shift = (t.detach().contiguous().numpy() for t in (x, weight, bias, gamma, beta))
        _forward(clips, _laid(w, b), g, shift, group, np.bincount(group), out)
        return torch.from_numpy(out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.group = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        clips, w, b, g, _ = (t.detach().contiguous().numpy() for t in ctx.saved_tensors)
        laid, above = _laid(w, b), gradient.contiguous().numpy()
        d_laid, d_gamma, d_beta = (np.zeros_like(a) for a in (laid, g, g))
        _backward(clips, laid, g, ctx.group, np.bincount(ctx.group), above, d_laid, d_gamma, d_beta)
        found = (d_laid[:27, : len(w)].T, d_laid[27, : len(w)], d_gamma, d_beta)
        return (None, *(torch.from_numpy(np.ascontiguousarray(a)) for a in found), None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[torch.Tensor, int]:
        """Members one after the other: each is a pass over its own clips."""
        moved = [
            t if d is None or k == 5 else t.movedim(d, 0) for k, (t, d) in enumerate(zip(inputs, in_dims, strict=True))
        ]
        each = [
            _ConvPool.apply(*(t if in_dims[k] is None else t[m] for k, t in enumerate(moved)))
            for m in range(info.batch_size)
        ]
        return torch.stack(each), 0


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
    if x.device.type != "cpu" or x.dtype != torch.float32 or len(weight) > LANES:
        return reference(x, weight, bias, gamma, beta, group)
    out: torch.Tensor = _ConvPool.apply(x, weight, bias, gamma, beta, group)
    return out
