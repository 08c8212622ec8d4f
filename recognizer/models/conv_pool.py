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
def _maps(x, weight, bias, padded, maps):  # type: ignore[no-untyped-def]
    """One clip: ``maps`` [K,s,s,16] after ReLU, the filters of a block beside each other: one vector register."""
    blocks, side, lanes = maps.shape[0], maps.shape[1], maps.shape[3]
    padded[:] = 0
    padded[:, 2:-2, 2:-2] = x
    for k in range(blocks):
        for row in range(side):
            for i in range(side):
                for f in range(lanes):
                    maps[k, row, i, f] = bias[k, f]
            for c in range(3):
                for dy in range(3):
                    t = 3 * c + dy
                    for i in range(side):
                        a0, a1, a2 = padded[c, row + dy, i], padded[c, row + dy, i + 1], padded[c, row + dy, i + 2]
                        for f in range(lanes):
                            maps[k, row, i, f] += (
                                a0 * weight[k, t, 0, f] + a1 * weight[k, t, 1, f] + a2 * weight[k, t, 2, f]
                            )
            for i in range(side):
                for f in range(lanes):
                    maps[k, row, i, f] = max(maps[k, row, i, f], np.float32(0))


@njit(cache=True, nogil=True, fastmath=True)
def _moments(maps, group, sizes, mean, rate, total, square):  # type: ignore[no-untyped-def]
    """Mean and 1/sd of each stream's maps."""
    blocks, side, lanes = maps.shape[0], maps.shape[1], maps.shape[3]
    mean[:] = 0
    rate[:] = 0
    for k in range(blocks):
        total[:] = 0
        square[:] = 0
        for row in range(side):
            for i in range(side):
                for f in range(lanes):
                    value = maps[k, row, i, f]
                    total[f] += value
                    square[f] += value * value
        for f in range(lanes):
            if k * LANES + f < len(group):
                mean[group[k * LANES + f]] += total[f]
                rate[group[k * LANES + f]] += square[f]
    for g in range(len(mean)):
        count = np.float32(sizes[g] * side * side)
        mean[g] /= count
        rate[g] = np.float32(1) / np.sqrt(max(rate[g] / count - mean[g] * mean[g], np.float32(0)) + np.float32(EPS))


@njit(cache=True, nogil=True, fastmath=True)
def _pool(maps, sign, best, places):  # type: ignore[no-untyped-def]
    """Largest of ``sign`` [K,16] times the maps in every 3x3 window, and where: [K,P,P,16] float32 and int32."""
    blocks, side, pools, lanes = maps.shape[0], maps.shape[1], best.shape[1], maps.shape[3]
    for k in range(blocks):
        for i in range(pools):
            for j in range(pools):
                for f in range(lanes):
                    best[k, i, j, f] = np.float32(-np.inf)
                for row in range(max(3 * i - 1, 0), min(3 * i + 2, side)):
                    for column in range(max(3 * j - 1, 0), min(3 * j + 2, side)):
                        here = np.int32(row * side + column)
                        for f in range(lanes):
                            value = sign[k, f] * maps[k, row, column, f]
                            larger = value > best[k, i, j, f]
                            best[k, i, j, f] = value if larger else best[k, i, j, f]
                            places[k, i, j, f] = here if larger else places[k, i, j, f]


@njit(cache=True, nogil=True, fastmath={"nsz", "arcp", "contract", "reassoc"})
def _forward(x, weight, bias, gamma, beta, sign, group, sizes, out):  # type: ignore[no-untyped-def]
    n, blocks, side = len(x), len(weight), x.shape[2] + 2
    cells = ((side - 1) // 3 + 1) // 2
    padded = np.empty((3, side + 2, side + 2), np.float32)
    maps = np.empty((blocks, side, side, LANES), np.float32)
    best = np.empty((blocks, 2 * cells, 2 * cells, LANES), np.float32)
    places = np.empty((blocks, 2 * cells, 2 * cells, LANES), np.int32)
    mean, rate = np.empty(len(sizes), np.float32), np.empty(len(sizes), np.float32)
    total, square = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for b in range(n):
        _maps(x[b], weight, bias, padded, maps)
        _moments(maps, group, sizes, mean, rate, total, square)
        _pool(maps, sign, best, places)
        for m in range(len(group)):
            k, f = m // LANES, m % LANES
            gain = gamma[m] * rate[group[m]]
            shift = beta[m] - mean[group[m]] * gain
            for i in range(2 * cells):
                for j in range(2 * cells):
                    value = sign[k, f] * best[k, i, j, f]
                    out[b, (m * cells + i // 2) * cells + j // 2] += np.float32(0.25) * (gain * value + shift)


@njit(cache=True, nogil=True, fastmath={"nsz", "arcp", "contract", "reassoc"})
def _backward(x, weight, bias, gamma, sign, group, sizes, gradient, d_weight, d_bias, d_gamma, d_beta):  # type: ignore[no-untyped-def]
    n, blocks, side = len(x), len(weight), x.shape[2] + 2
    cells = ((side - 1) // 3 + 1) // 2
    padded = np.empty((3, side + 2, side + 2), np.float32)
    maps = np.empty((blocks, side, side, LANES), np.float32)
    best = np.empty((blocks, 2 * cells, 2 * cells, LANES), np.float32)
    places = np.empty((blocks, 2 * cells, 2 * cells, LANES), np.int32)
    mean, rate = np.empty(len(sizes), np.float32), np.empty(len(sizes), np.float32)
    total, square = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    first, second = np.empty(len(sizes), np.float32), np.empty(len(sizes), np.float32)
    per, flat = np.zeros((blocks, LANES), np.float32), np.zeros((blocks, LANES), np.float32)
    slope = np.empty((side * side, LANES), np.float32)
    patches = np.empty((27, side * side), np.float32)
    lanes = slope.shape[1]
    for b in range(n):
        _maps(x[b], weight, bias, padded, maps)
        _moments(maps, group, sizes, mean, rate, total, square)
        _pool(maps, sign, best, places)
        for t in range(27):
            c, dy, dx = t // 9, t // 3 % 3, t % 3
            for row in range(side):
                for i in range(side):
                    patches[t, row * side + i] = padded[c, row + dy, i + dx]
        first[:] = 0
        second[:] = 0
        for m in range(len(group)):
            k, f, g = m // LANES, m % LANES, group[m]
            for i in range(2 * cells):
                for j in range(2 * cells):
                    d = np.float32(0.25) * gradient[b, (m * cells + i // 2) * cells + j // 2]
                    normed = (sign[k, f] * best[k, i, j, f] - mean[g]) * rate[g]
                    d_gamma[m] += d * normed
                    d_beta[m] += d
                    first[g] += d * gamma[m]
                    second[g] += d * gamma[m] * normed
        for m in range(len(group)):  # what every place of a stream gets, by its value
            g = group[m]
            count = np.float32(sizes[g] * side * side)
            per[m // LANES, m % LANES] = -rate[g] * rate[g] * second[g] / count
            flat[m // LANES, m % LANES] = -rate[g] * first[g] / count + rate[g] * rate[g] * second[g] / count * mean[g]
        for k in range(blocks):
            seen = maps[k].reshape(side * side, LANES)
            for place in range(side * side):
                for f in range(lanes):
                    slope[place, f] = flat[k, f] + per[k, f] * seen[place, f]
            for m in range(k * LANES, min((k + 1) * LANES, len(group))):
                f, g = m % LANES, group[m]
                for i in range(2 * cells):
                    for j in range(2 * cells):
                        d = np.float32(0.25) * gradient[b, (m * cells + i // 2) * cells + j // 2]
                        slope[places[k, i, j, f], f] += rate[g] * d * gamma[m]
            for place in range(side * side):
                for f in range(lanes):
                    slope[place, f] = slope[place, f] if seen[place, f] > 0 else np.float32(0)
                    d_bias[k, f] += slope[place, f]
            # Patches [27,s*s] times slopes [s*s,16]: a product this small is fastest in BLAS.
            d_weight[k] += np.dot(patches, slope)


def _blocked(weight: np.ndarray, bias: np.ndarray, gamma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [K,9,3,16], biases and signs of gamma [K,16]: filters in blocks of 16, the last filled up with zeros."""
    blocks = -(-len(weight) // LANES)
    filled = np.zeros((blocks * LANES, 29), np.float32)
    filled[: len(weight)] = np.concatenate([weight, bias[:, None], np.where(gamma < 0, -1, 1)[:, None]], 1)
    cut = filled.reshape(blocks, LANES, 29).transpose(0, 2, 1)
    return np.ascontiguousarray(cut[:, :27].reshape(blocks, 9, 3, LANES)), cut[:, 27].copy(), cut[:, 28].copy()


class _ConvPool(torch.autograd.Function):
    """Of CPU tensors; nothing flows back to ``x``, which is data."""

    @staticmethod
    def forward(x: Any, weight: Any, bias: Any, gamma: Any, beta: Any, group: np.ndarray) -> torch.Tensor:
        cells = ((x.shape[-1] + 1) // 3 + 1) // 2
        out = np.zeros((len(x), len(weight) * cells * cells), np.float32)
        clips, w, b, g, shift = (t.detach().contiguous().numpy() for t in (x, weight, bias, gamma, beta))
        blocked, biases, signs = _blocked(w, b, g)
        _forward(clips, blocked, biases, g, shift, signs, group, np.bincount(group), out)
        return torch.from_numpy(out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        *tensors, ctx.group = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        clips, w, b, g, _ = (t.detach().contiguous().numpy() for t in ctx.saved_tensors)
        blocked, biases, signs = _blocked(w, b, g)
        d_blocked = np.zeros((len(blocked), 27, LANES), np.float32)
        d_biases, d_gamma, d_beta = (np.zeros_like(a) for a in (biases, g, g))
        above = gradient.contiguous().numpy()
        sizes = np.bincount(ctx.group)
        _backward(
            clips, blocked, biases, g, signs, ctx.group, sizes, above, d_blocked, d_biases, d_gamma, d_beta
        )  # fmt: skip
        filters = d_blocked.transpose(0, 2, 1).reshape(-1, 27)[: len(w)]
        found = (filters, d_biases.reshape(-1)[: len(w)], d_gamma, d_beta)
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
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return reference(x, weight, bias, gamma, beta, group)
    out: torch.Tensor = _ConvPool.apply(x, weight, bias, gamma, beta, group)
    return out
