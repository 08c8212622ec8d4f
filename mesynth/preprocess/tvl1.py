"""TV-L1 optical flow of batches: in torch on a GPU; on a CPU its inner loop is compiled and goes pair by pair.

Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow", DAGM 2007; numerics as in
Sanchez, Meinhardt-Llopis and Facciolo, "TV-L1 optical flow estimation", IPOL 2013. Two additions that matter
at micro-expression magnitudes: the image gradient is averaged over both frames (Wedel et al., 2009), and the
flow is median-filtered after every warp (Sun, Roth and Black, CVPR 2010).

The compiled loop computes what torch's does and rounds each step once, square roots too, which torch's kernels do not
on every processor: the two differ by rounding alone, which grows to a thousandth of a pixel at most on textured faces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.core.errors import MesynthError

_SMALL = 2**18  # pixels of a batch, up to which one thread does the work
_AT_ONCE = 2**17  # pixels of a batch, beyond which a CPU waits for memory: parts of it are worked on in turn
MIN_SIDE = 16
"""Smallest picture side; the pyramid stops before it."""


@dataclass(frozen=True, kw_only=True)
class TVL1Config:
    """Parameters of TV-L1. The defaults were chosen for 128 px faces moving 0.3 to 4 px with sensor noise.

    More dual updates bring the flow nearer to the energy's minimum but further from the true motion of skin, which
    total variation turns into steps; few updates under a strong data term measured best on warped photographs and
    on rendered heads with exact flow.
    """

    attachment: float = 60.0
    """Weight of the data term for grey values in [0, 1] (IPOL's lambda times 255): higher follows noise."""
    tightness: float = 0.3
    """Coupling of the two sub-problems (theta)."""
    levels: int = 4
    """Most pyramid levels, factor 2 each; fewer where the coarsest side would fall below MIN_SIDE."""
    warps: int = 4
    """Linearisations per level."""
    iterations: int = 8
    """Dual updates per warp."""
    presmooth: float = 0.0
    """Standard deviation of a Gaussian applied to both pictures first, pixels; 0 for none."""
    median: bool = True
    """3x3 median of the flow after every warp."""

    def __post_init__(self) -> None:
        for name in ("attachment", "tightness"):
            if not getattr(self, name) > 0:
                raise MesynthError(f"TV-L1 {name}={getattr(self, name):g} must be positive")
        for name in ("levels", "warps", "iterations"):
            if getattr(self, name) < 1:
                raise MesynthError(f"TV-L1 {name}={getattr(self, name)} must be at least 1")
        if self.presmooth < 0:
            raise MesynthError(f"TV-L1 presmooth={self.presmooth:g} must not be negative")


def tvl1(a: torch.Tensor, b: torch.Tensor, config: TVL1Config = TVL1Config()) -> torch.Tensor:
    """Flow from ``a`` to ``b``: [B,H,W] float32 grey values in [0,1] -> [B,2,H,W] float32, pixels, x right, y down.

    ``a(x) ~ b(x + uv(x))``. A pair's result does not depend on the batch it is in.

    Raises:
        MesynthError: shapes differ, are not [B,H,W], or a side is below MIN_SIDE.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise MesynthError(f"tvl1 got pictures of shape {tuple(a.shape)} and {tuple(b.shape)}; give two [B,H,W]")
    if min(a.shape[1:]) < MIN_SIDE:
        raise MesynthError(f"tvl1 got pictures of {a.shape[2]}x{a.shape[1]} pixels; each side must be >= {MIN_SIDE}")
    with torch.inference_mode(), _threads_for(a):
        # Never fewer than eight pairs: torch adds those of the smallest batches up in another order.
        parts = max(1, min(-(-a.numel() // _AT_ONCE), len(a) // 8)) if a.device.type == "cpu" else 1
        pairs = torch.stack([a, b]).float().tensor_split(parts, 1)
        flow = torch.cat([_pyramid(pair, config) for pair in pairs])
    return flow.clone()  # an ordinary tensor for callers outside inference mode


@contextmanager
def _threads_for(picture: torch.Tensor) -> Iterator[None]:
    """One thread for small work on a CPU: waking others costs more than they do, many times more on a busy machine."""
    before = torch.get_num_threads()
    if picture.device.type != "cpu" or picture.numel() > _SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pyramid(pair: torch.Tensor, config: TVL1Config) -> torch.Tensor:
    """[2,B,H,W] -> [B,2,H,W], from coarse to fine."""
    if config.presmooth > 0:
        pair = _gaussian(pair, config.presmooth)
    pyramid = [pair]
    while len(pyramid) < config.levels and min(pyramid[-1].shape[-2:]) // 2 >= MIN_SIDE:
        pyramid.append(_halve(pyramid[-1]))
    flow = torch.zeros(pair.shape[1], 2, *pyramid[-1].shape[-2:], device=pair.device)
    for level in reversed(pyramid):
        flow = _level(level[0], level[1], _resize_flow(flow, level.shape[-2:]), config)
    return flow


def _level(a: torch.Tensor, b: torch.Tensor, u: torch.Tensor, config: TVL1Config) -> torch.Tensor:
    """Refine ``u`` [B,2,H,W] on one pyramid level."""
    n, h, w = a.shape
    step = config.attachment * config.tightness
    grid = _identity_grid(h, w, a.device)
    scale = torch.tensor([2 / (w - 1), 2 / (h - 1)], device=a.device).view(1, 2, 1, 1)
    grad_a = _gradient(a)
    source = torch.cat([b[:, None], _gradient(b)], 1)  # value and gradient are warped together
    dual = _Dual(n, h, w, a.device)
    compiled = dual.compiled if a.device.type == "cpu" else None
    for _ in range(config.warps):
        where = (grid + u * scale).permute(0, 2, 3, 1)
        warped = F.grid_sample(source, where, mode="bicubic", padding_mode="border", align_corners=True)
        if compiled is not None:
            u = u.contiguous()
            compiled(warped, grad_a, a, u, step, config)
            continue
        g = 0.5 * (warped[:, 1:] + grad_a)
        constant = warped[:, 0] - a - (g * u).sum(1)
        minus_inverse = -1 / (g.square().sum(1) + 1e-9)
        gx, gy = g[:, 0], g[:, 1]
        for _ in range(config.iterations):
            # v: pointwise soft threshold of the data term (Zach et al., eq. 15, written as one clamp)
            residual = torch.addcmul(constant, gx, u[:, 0]).addcmul_(gy, u[:, 1])
            residual.mul_(minus_inverse).clamp_(-step, step)
            u = torch.addcmul(u, g, residual[:, None])
            u = dual.update(u, config.tightness)
        if config.median:
            u = _median3(u)
    return u


class _Dual:
    """The dual variable of the total variation and its projected gradient step (Chambolle, 2004).

    ``px`` and ``py`` carry one leading zero column (row), which makes the divergence a plain difference;
    their last column (row) stays zero because the forward difference of ``u`` is zero there (Neumann).
    """

    def __init__(self, n: int, h: int, w: int, device: torch.device) -> None:
        self.px, self.py = torch.zeros(n, 2, h, w + 1, device=device), torch.zeros(n, 2, h + 1, w, device=device)
        self.ux, self.uy = torch.zeros(n, 2, h, w, device=device), torch.zeros(n, 2, h, w, device=device)
        self.norm = torch.empty(n, 2, h, w, device=device)

    def update(self, v: torch.Tensor, theta: float, tau: float = 0.25) -> torch.Tensor:
        """One primal and one dual step; returns the regularised flow."""
        px, py, ux, uy = self.px[..., 1:], self.py[..., 1:, :], self.ux, self.uy
        divergence = (px - self.px[..., :-1]).add_(py).sub_(self.py[..., :-1, :])
        u = v.add_(divergence, alpha=theta)
        torch.sub(u[..., 1:], u[..., :-1], out=ux[..., :-1])
        torch.sub(u[..., 1:, :], u[..., :-1, :], out=uy[..., :-1, :])
        torch.mul(ux, ux, out=self.norm)
        self.norm.addcmul_(uy, uy).sqrt_().mul_(tau / theta).add_(1)
        px.add_(ux, alpha=tau / theta).div_(self.norm)
        py.add_(uy, alpha=tau / theta).div_(self.norm)
        return u

    def compiled(
        self, warped: torch.Tensor, grad: torch.Tensor, a: torch.Tensor, u: torch.Tensor, step: float,
        config: TVL1Config, tau: float = 0.25,
    ) -> None:  # fmt: skip
        """What :func:`_level` does with ``warped`` in torch, in ``u``."""
        from mesynth.preprocess.tvl1_compiled import iterate

        first, second, third, flow, px, py = (x.contiguous().numpy() for x in (warped, grad, a, u, self.px, self.py))
        theta, rate = np.float32(config.tightness), np.float32(tau / config.tightness)
        iterate(
            first, second, third, flow, px, py, np.float32(step), theta, rate, config.iterations, config.median
        )  # fmt: skip


# ---------------------------------------------------------------- pieces


def _identity_grid(h: int, w: int, device: torch.device) -> torch.Tensor:
    """[1,2,H,W]: grid_sample's coordinates of the pixel centres (align_corners=True)."""
    x, y = torch.linspace(-1, 1, w, device=device), torch.linspace(-1, 1, h, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]


def _gradient(image: torch.Tensor) -> torch.Tensor:
    """[B,H,W] -> [B,2,H,W]: five-point derivative (1, -8, 0, 8, -1) / 12."""
    p = F.pad(image[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    x, y = p[:, 2:-2], p[:, :, 2:-2]
    gx = (8 * (x[..., 3:-1] - x[..., 1:-3]) - (x[..., 4:] - x[..., :-4])) / 12
    gy = (8 * (y[:, 3:-1] - y[:, 1:-3]) - (y[:, 4:] - y[:, :-4])) / 12
    return torch.stack([gx, gy], 1)


def _gaussian(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """[N,B,H,W] blurred. Shifted sums, not a convolution: bitwise the same in any batch."""
    radius = max(1, math.ceil(2.5 * sigma))
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    weights = [value / sum(weights) for value in weights]
    for axis in (-1, -2):
        pad = (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius)
        padded = F.pad(image, pad, mode="replicate")
        size = image.shape[axis]
        image = padded.narrow(axis, 0, size) * weights[0]
        for i, weight in enumerate(weights[1:], 1):
            image.add_(padded.narrow(axis, i, size), alpha=weight)
    return image


def _halve(image: torch.Tensor) -> torch.Tensor:
    """Half size, after the blur that keeps it free of aliasing (IPOL 2013, section 3.4)."""
    h, w = image.shape[-2:]
    blurred = _gaussian(image, 0.6 * math.sqrt(3))
    return F.interpolate(blurred, size=((h + 1) // 2, (w + 1) // 2), mode="bilinear", align_corners=False)


def _resize_flow(flow: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Flow on a finer grid, in that grid's pixels."""
    h, w = flow.shape[-2:]
    if (h, w) == tuple(size):
        return flow
    factor = torch.tensor([size[1] / w, size[0] / h], device=flow.device).view(1, 2, 1, 1)
    return F.interpolate(flow, size=tuple(size), mode="bilinear", align_corners=False) * factor


# Exchanges that leave the median of nine at index 4 (Paeth, Graphics Gems, 1990).
_MEDIAN9 = (
    (1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3),
    (5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2),
)  # fmt: skip


def _median3(u: torch.Tensor) -> torch.Tensor:
    """3x3 median of each channel of [B,C,H,W], borders replicated."""
    h, w = u.shape[-2:]
    padded = F.pad(u, (1, 1, 1, 1), mode="replicate")
    v = [padded[..., i : i + h, j : j + w] for i in range(3) for j in range(3)]
    for i, j in _MEDIAN9:
        v[i], v[j] = torch.minimum(v[i], v[j]), torch.maximum(v[i], v[j])
    return v[4]
