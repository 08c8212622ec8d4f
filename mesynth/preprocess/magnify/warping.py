"""Warp pictures by a field and invert fields, batched in torch.

Every flow lives on the onset's grid, in pixels, x right and y down: the surface seen at onset pixel x is at
x + F(x) in the frame, so onset(x) = frame(x + F(x)). A picture is warped backwards: out(y) = picture(y + b(y)).
"""

from __future__ import annotations

from functools import partial

import torch


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
