"""Videos as tensors, warps and the algebra of flow, batched in torch.

Every flow lives on the onset's grid, in pixels, x right and y down: the surface seen at onset pixel x is at
x + F(x) in the frame, so onset(x) = frame(x + F(x)). A picture is warped backwards: out(y) = picture(y + b(y)).
Generators predict and report the forward flow F; its inverse b is what warps.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from mesynth.core.errors import MesynthError


def to_video(frames: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """[T,H,W,3] uint8 RGB -> [T,3,H,W] float32 in [0,1] on ``device``. Raises MesynthError on another kind of array."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise MesynthError(f"frames are {frames.dtype} {frames.shape}; expected uint8 RGB of shape [T,H,W,3]")
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float().div_(255)


def to_frames(video: torch.Tensor) -> np.ndarray:
    """[T,3,H,W] float in [0,1] (values outside are clipped) -> [T,H,W,3] uint8 RGB, rounded."""
    pictures = video.detach().clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pictures.cpu().numpy())


def require_video(video: torch.Tensor, name: str = "video") -> None:
    """Raise MesynthError unless ``video`` is float [B,T,C,H,W] (a batch of clips of one length)."""
    if video.ndim != 5 or not video.is_floating_point():
        raise MesynthError(f"{name} is {video.dtype} {tuple(video.shape)}; expected float of shape [B,T,C,H,W]")


# ---------------------------------------------------------------- flow


def warp(picture: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """``out(y) = picture(y + b(y))``: [N,C,H,W] and [N,2,H,W] pixels -> [N,C,H,W], mirrored beyond the border.

    Keys' bicubic (a = -1/2), exact at whole pixels. ``grid_sample`` has a = -3/4, which is not exact on ramps and
    would bias sub-pixel motion.
    """
    n, channels, height, width = picture.shape
    flat = picture.reshape(n, channels, -1)
    x, y = (base + backward[:, i] for i, base in enumerate(_pixels(height, width, backward)))
    ix, iy = x.floor(), y.floor()
    weights_x, weights_y = _keys(x - ix), _keys(y - iy)
    columns = [_mirror(ix.long() + i - 1, width) for i in range(4)]
    out = torch.zeros_like(picture)
    for j in range(4):
        row = _mirror(iy.long() + j - 1, height) * width
        line = torch.zeros_like(picture)
        for i in range(4):
            index = (row + columns[i]).view(n, 1, -1).expand(-1, channels, -1)
            line += weights_x[i][:, None] * flat.gather(2, index).view_as(picture)
        out += weights_y[j][:, None] * line
    return out


def invert(forward: torch.Tensor, iterations: int = 24) -> torch.Tensor:
    """Backward field b of a forward flow, ``b(y) = -F(y + b(y))``: [N,2,H,W] pixels -> [N,2,H,W].

    Damped fixed point with step 1/2: it converges where the eigenvalues of F's Jacobian lie between -1 (a fold)
    and 3, which the undamped iteration (below 1 in norm) does not. Beyond the border the flow is continued.
    """
    sample = partial(bilinear, forward)
    backward = -forward
    for _ in range(iterations):
        backward = 0.5 * (backward - sample(backward))
    return backward


def bilinear(field: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """``field(x + shift(x))``, [N,2,H,W] pixels both, continued beyond the border."""
    height, width = field.shape[-2:]
    x, y = (base + shift[:, i] for i, base in enumerate(_pixels(height, width, field)))
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
    return torch.nn.functional.grid_sample(field, grid, padding_mode="border", align_corners=True)


def jacobian(flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Trace and determinant of the Jacobian of [N,2,H,W], each [N,H,W]: central differences, pixels per pixel."""
    (uy, ux), (vy, vx) = (torch.gradient(flow[:, i], dim=(1, 2)) for i in range(2))
    return ux + vy, ux * vy - uy * vx


def fold_limit(flow: torch.Tensor, floor: float) -> torch.Tensor:
    """Largest factor m at which ``x + m F(x)`` keeps its area above ``floor`` everywhere: [N,2,H,W] -> [N].

    The area is the Jacobian determinant 1 + m tr + m^2 det, a parabola in m for each pixel; at 0 or below, the
    picture folds: two places of the onset would be seen at one pixel. Infinite where no factor folds.
    """
    trace, det = (part.double() for part in jacobian(flow))
    room = 1 - floor
    root = (trace.square() - 4 * det * room).clamp(min=0).sqrt()
    # First positive root, in the form that neither cancels nor divides by a vanishing det.
    crosses = (trace.square() >= 4 * det * room) & (-trace + root > 0)
    first = torch.where(crosses, 2 * room / (-trace + root).clamp(min=1e-30), torch.inf)
    return first.flatten(1).amin(1).to(flow.dtype)


def _pixels(height: int, width: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    return columns.view(1, 1, -1), rows.view(1, -1, 1)


def _keys(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights of the neighbours -1, 0, 1, 2 at fraction ``t`` (Keys, 1981, a = -1/2)."""
    first = ((-0.5 * t + 1.0) * t - 0.5) * t
    second = (1.5 * t - 2.5) * t * t + 1.0
    third = ((-1.5 * t + 2.0) * t + 0.5) * t
    return first, second, third, 1.0 - first - second - third


def _mirror(index: torch.Tensor, size: int) -> torch.Tensor:
    """Index into 0..size-1, mirrored at the border pixels' centres; clamped beyond one mirror image."""
    return (size - 1 - (size - 1 - index.abs()).abs()).clamp(0, size - 1)


# ---------------------------------------------------------------- flow


__all__ = ["backward_of", "bilinear", "from_means", "invert", "resize_flow", "soft_limit", "strain", "warp"]


def backward_of(forward: torch.Tensor, iterations: int = 10) -> torch.Tensor:
    """Backward field of a forward flow, [B,2,H,W] pixels, with gradients to the flow.

    The fixed point is found without gradients and then stepped once with them: the Jacobian-free gradient of an
    implicit layer (Fung et al., "JFB", AAAI 2022), exact to first order in the flow's Jacobian.
    """
    with torch.no_grad():
        start = invert(forward.detach(), iterations)
    return -bilinear(forward, start)


def resize_flow(flow: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[B,2,h,w] pixels -> [B,2,H,W] in the pixels of the new size; bilinear, pixel centres half a pixel inside."""
    height, width = flow.shape[-2:]
    scale = torch.tensor([size[1] / width, size[0] / height], device=flow.device, dtype=flow.dtype)
    return F.interpolate(flow, size, mode="bilinear", align_corners=False) * scale.view(1, 2, 1, 1)


def from_means(field: torch.Tensor) -> torch.Tensor:
    """Means over the cells of a grid [B,C,h,w] -> values at their centres: m - (the second differences of m) / 24.

    Reading means as if they were values flattens what varies over a few cells, by 5 % at six cells to a wave; this is
    exact for parabolas (the reconstruction of finite-volume schemes; Shu, "Essentially non-oscillatory and weighted
    essentially non-oscillatory schemes", 1998, eq. 2.10 ff.).
    """
    wide = F.pad(field, (1, 1, 1, 1), mode="replicate")
    around = wide[..., 2:, 1:-1] + wide[..., :-2, 1:-1] + wide[..., 1:-1, 2:] + wide[..., 1:-1, :-2]
    return field - (around - 4 * field) / 24


def soft_limit(flow: torch.Tensor, limit: float) -> torch.Tensor:
    """[...,2,H,W] with lengths below ``limit``: r / (1 + (r / limit)^4)^(1/4), within 1.6 % of r up to half of it."""
    fourth = (flow.square().sum(-3, keepdim=True) / limit**2).square()
    return flow * (1 + fourth).pow(-0.25)


def strain(flow: torch.Tensor) -> torch.Tensor:
    """Optical strain magnitude [B,2,H,W] -> [B,1,H,W], per pixel; as :func:`mesynth.core.types.optical_strain`.

    The square root starts 1e-6 above 0, where it has no gradient.
    """
    (uy, ux), (vy, vx) = (torch.gradient(flow[:, i], dim=(1, 2)) for i in range(2))
    return (ux.square() + vy.square() + 0.5 * (uy + vx).square() + 1e-12).sqrt()[:, None]
