"""Videos as tensors, warps and the algebra of flow, batched in torch.

Every flow lives on the onset's grid, in pixels, x right and y down: the surface seen at onset pixel x is at
x + F(x) in the frame, so onset(x) = frame(x + F(x)). A picture is warped backwards: out(y) = picture(y + b(y)).
Generators predict and report the forward flow F; its inverse b is what warps. What flow is made of (its magnitude,
direction and gradients, and the head's share of it) follows, for flow of any leading shape, [...,2,H,W].
"""

from __future__ import annotations

from functools import partial
from typing import Literal

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


# ---------------------------------------------------------------- warps


def warp(picture: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """``out(y) = picture(y + b(y))``: [N,C,H,W] and [N,2,H,W] pixels -> [N,C,H,W], mirrored beyond the border.

    Keys' bicubic (a = -1/2), exact at whole pixels. ``grid_sample`` has a = -3/4, which is not exact on ramps and
    would bias sub-pixel motion.
    """
    height, width = picture.shape[-2:]
    x, y = (base + backward[:, i] for i, base in enumerate(_pixels(height, width, backward)))
    return cubic(picture, x, y)


def cubic(picture: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``picture`` [N,C,H,W] at places x and y [N,h,w] in pixels -> [N,C,h,w], as :func:`warp` reads."""
    n, channels, height, width = picture.shape
    flat = picture.reshape(n, channels, -1)
    ix, iy = x.floor(), y.floor()
    weights_x, weights_y = _keys(x - ix), _keys(y - iy)
    columns = [_mirror(ix.long() + i - 1, width) for i in range(4)]
    out = torch.zeros(n, channels, *x.shape[1:], device=picture.device, dtype=picture.dtype)
    for j in range(4):
        row = _mirror(iy.long() + j - 1, height) * width
        line = torch.zeros_like(out)
        for i in range(4):
            index = (row + columns[i]).view(n, 1, -1).expand(-1, channels, -1)
            line += weights_x[i][:, None] * flat.gather(2, index).view_as(out)
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


def _trace_and_determinant(flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Trace and determinant of the Jacobian of [N,2,H,W], each [N,H,W]: central differences, pixels per pixel."""
    (uy, ux), (vy, vx) = (torch.gradient(flow[:, i], dim=(1, 2)) for i in range(2))
    return ux + vy, ux * vy - uy * vx


def fold_limit(flow: torch.Tensor, floor: float) -> torch.Tensor:
    """Largest factor m at which ``x + m F(x)`` keeps its area above ``floor`` everywhere: [N,2,H,W] -> [N].

    The area is the Jacobian determinant 1 + m tr + m^2 det, a parabola in m for each pixel; at 0 or below, the
    picture folds: two places of the onset would be seen at one pixel. Infinite where no factor folds.
    """
    trace, det = (part.double() for part in _trace_and_determinant(flow))
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


def differentiable_strain(flow: torch.Tensor) -> torch.Tensor:
    """Optical strain magnitude [B,2,H,W] -> [B,1,H,W], per pixel; as :func:`mesynth.core.types.optical_strain`.

    The square root starts 1e-6 above 0, where it has no gradient.
    """
    (uy, ux), (vy, vx) = (torch.gradient(flow[:, i], dim=(1, 2)) for i in range(2))
    return (ux.square() + vy.square() + 0.5 * (uy + vx).square() + 1e-12).sqrt()[:, None]


# ---------------------------------------------------------------- what flow is made of


Model = Literal["translation", "similarity", "affine"]
_PARAMETERS: dict[str, int] = {"translation": 2, "similarity": 4, "affine": 6}
# Tukey's constant: 95 % efficiency on normal residuals (Huber, Robust Statistics, 1981).
_TUKEY = 4.685
_MAD_TO_SD = 1.4826
# Residuals below this are equal for any purpose (pixels); keeps an exact fit from dividing by nothing.
_FLOOR = 1e-3


def magnitude(uv: torch.Tensor) -> torch.Tensor:
    """[...,2,H,W] -> [...,H,W], pixels."""
    _check(uv)
    return torch.hypot(uv[..., 0, :, :], uv[..., 1, :, :])


def orientation(uv: torch.Tensor) -> torch.Tensor:
    """[...,2,H,W] -> [...,H,W] radians in [-pi, pi]: atan2(v, u), 0 to image right, pi/2 down."""
    _check(uv)
    return torch.atan2(uv[..., 1, :, :], uv[..., 0, :, :])


def jacobian(uv: torch.Tensor) -> torch.Tensor:
    """[...,2,H,W] -> [...,2,2,H,W]: d(u, v) / d(x, y), central differences as numpy.gradient takes them."""
    _check(uv)
    if min(uv.shape[-2:]) < 2:
        raise MesynthError(f"flow of {uv.shape[-1]}x{uv.shape[-2]} pixels has no gradient; each side must be >= 2")
    dy, dx = torch.gradient(uv, dim=(-2, -1))
    return torch.stack([dx, dy], -3)


def divergence(uv: torch.Tensor) -> torch.Tensor:
    """[...,2,H,W] -> [...,H,W] per pixel: ux + vy, positive where the skin spreads."""
    j = jacobian(uv)
    return j[..., 0, 0, :, :] + j[..., 1, 1, :, :]


def curl(uv: torch.Tensor) -> torch.Tensor:
    """[...,2,H,W] -> [...,H,W] per pixel: vx - uy, positive where the skin turns clockwise as seen."""
    j = jacobian(uv)
    return j[..., 1, 0, :, :] - j[..., 0, 1, :, :]


def strain(uv: torch.Tensor) -> torch.Tensor:
    """Optical strain magnitude [...,2,H,W] -> [...,H,W] (Shreve et al., 2011), as mesynth.core.types.optical_strain."""
    j = jacobian(uv)
    ux, uy, vx, vy = (j[..., i, k, :, :] for i in (0, 1) for k in (0, 1))
    return (ux.square() + vy.square() + 0.5 * (uy + vx).square()).sqrt()


def parts(uv: torch.Tensor) -> torch.Tensor:
    """(u, v, strain): [...,2,H,W] -> [...,3,H,W], the usual input of flow-based recognizers."""
    return torch.cat([uv, strain(uv)[..., None, :, :]], -3)


def global_motion(parameters: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The flow of an affine motion: [...,2,3] -> [...,2,height,width], ``uv = M (x, y, 1)``, pixels.

    (x, y) counts from the centre of the grid. In this form every model of :func:`remove_global_motion` is returned.
    """
    if parameters.shape[-2:] != (2, 3):
        raise MesynthError(f"global motion has shape {tuple(parameters.shape)}; expected [...,2,3]")
    x, y = _centred(height, width, parameters)
    m = parameters[..., None, None]
    return m[..., 0, :, :] * x + m[..., 1, :, :] * y + m[..., 2, :, :]


def remove_global_motion(
    uv: torch.Tensor, weights: torch.Tensor, model: Model = "similarity", iterations: int = 15
) -> tuple[torch.Tensor, torch.Tensor]:
    """Subtract the head's motion: fit it on the rigid region, remove it everywhere.

    ``uv`` [B,2,H,W] pixels, ``weights`` [B,H,W] or [H,W], not negative, 0 outside the rigid region (see
    regions.rigid_mask) -> (uv [B,2,H,W], parameters [B,2,3] as in :func:`global_motion`). Iteratively re-weighted
    least squares: least absolute deviations first, for a start that outliers do not pull, then Tukey's biweight with
    the scale from the median absolute deviation. A pair's result does not depend on its batch.

    Raises:
        MesynthError: unknown model, unfit shapes, negative or too few positive weights.
    """
    n = _PARAMETERS.get(model)
    if n is None:
        raise MesynthError(f"global motion model '{model}' is unknown; choose from {', '.join(_PARAMETERS)}")
    if uv.ndim != 4 or uv.shape[1] != 2:
        raise MesynthError(f"flow has shape {tuple(uv.shape)}; expected [B,2,H,W]")
    if iterations < 2:
        raise MesynthError(f"iterations={iterations} leaves no robust step; give at least 2")
    batch, _, height, width = uv.shape
    if weights.shape not in (uv.shape[-2:], (batch, height, width)):
        raise MesynthError(f"weights of shape {tuple(weights.shape)} do not fit flow {tuple(uv.shape)}")
    given = weights.to(uv.device, torch.float64).expand(batch, height, width).flatten(1)
    if not bool((given >= 0).all()) or not bool(((given > 0).sum(1) >= 3 * n).all()):
        raise MesynthError(f"weights must be >= 0 and positive on at least {3 * n} pixels of each flow")
    design = _design(height, width, model, uv)  # [P,2,n]
    target = uv.double().flatten(2).transpose(1, 2)  # [B,P,2]
    robust = given
    for step in range(iterations):
        beta = _solve(design, target, robust)
        # Column by column: a product of matrices may round by the batch's size.
        head = sum(design[..., k] * beta[:, k, None, None] for k in range(n))
        residual = (target - head).norm(dim=2)
        if step < iterations // 2:
            robust = given / residual.clamp(min=_FLOOR)
        else:
            scale = (_MAD_TO_SD * _weighted_median(residual, given)).clamp(min=_FLOOR)
            robust = given * (1 - (residual / (_TUKEY * scale[:, None])).square()).clamp(min=0).square()
    matrix = _matrix(beta, model, (height - 1 + width - 1) / 4)
    head = global_motion(matrix, height, width)
    return (uv.double() - head).to(uv.dtype), matrix.to(uv.dtype)


def _solve(design: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted normal equations, one item at a time: a batched product could round by the batch's size."""
    out = []
    rows = design.flatten(0, 1)  # [P*2,n]
    for t, w in zip(target, weight, strict=True):
        weighted = rows * w.repeat_interleave(2)[:, None]
        normal = weighted.T @ rows
        # A tiny ridge: a region on a straight line leaves no direction without an answer.
        ridge = 1e-9 * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
        out.append(torch.linalg.solve(normal + ridge, weighted.T @ t.flatten()))
    return torch.stack(out)


def _weighted_median(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[B,P] -> [B]: the smallest value at which half of the weight is reached."""
    order = values.argsort(1)
    reached = weights.gather(1, order).cumsum(1)
    first = (reached >= 0.5 * reached[:, -1:]).to(torch.int64).argmax(1, keepdim=True)
    return values.gather(1, order).gather(1, first)[:, 0]


def _centred(height: int, width: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[1,W] and [H,1]: pixel coordinates from the grid's centre."""
    x = torch.arange(width, dtype=like.dtype, device=like.device) - (width - 1) / 2
    y = torch.arange(height, dtype=like.dtype, device=like.device) - (height - 1) / 2
    return x[None], y[:, None]


def _design(height: int, width: int, model: str, uv: torch.Tensor) -> torch.Tensor:
    """[P,2,n]: rows of the linear model; coordinates in half sides, so that its columns have like sizes."""
    x, y = _centred(height, width, uv.double())
    unit = (height - 1 + width - 1) / 4
    x, y = (x / unit).expand(height, width).flatten(), (y / unit).expand(height, width).flatten()
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    columns = [(one, zero), (zero, one)]
    if model == "similarity":  # u = tx + a x - b y, v = ty + b x + a y
        columns += [(x, y), (-y, x)]
    elif model == "affine":
        columns += [(x, zero), (y, zero), (zero, x), (zero, y)]
    return torch.stack([torch.stack(c, -1) for c in columns], -1)


def _matrix(beta: torch.Tensor, model: str, unit: float) -> torch.Tensor:
    """[B,n] -> [B,2,3] in pixels."""
    tx, ty, zero = beta[:, 0], beta[:, 1], torch.zeros_like(beta[:, 0])
    a, b, c, d = zero, zero, zero, zero
    if model == "similarity":
        a, b, c, d = beta[:, 2], -beta[:, 3], beta[:, 3], beta[:, 2]
    elif model == "affine":
        a, b, c, d = beta[:, 2:].unbind(1)
    return torch.stack([torch.stack([a / unit, b / unit, tx], 1), torch.stack([c / unit, d / unit, ty], 1)], 1)


def _check(uv: torch.Tensor) -> None:
    if uv.ndim < 3 or uv.shape[-3] != 2 or not uv.is_floating_point():
        raise MesynthError(f"flow is {uv.dtype} {tuple(uv.shape)}; expected float [...,2,H,W]")
