"""What optical flow is made of: its magnitude, direction and gradients, and the head's share of it.

Torch throughout, on the device of the input, [...,2,H,W] pixels, x right and y down.
"""

from __future__ import annotations

from typing import Literal

import torch

from mesynth.core.errors import MesynthError

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
        residual = (target - torch.einsum("pcn,bn->bpc", design, beta)).norm(dim=2)
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
