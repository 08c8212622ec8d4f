"""Flow conventions of the generators: forward flow is what is predicted and reported, its inverse is what warps.

Flow lives on the onset's grid in pixels, x right and y down: the surface seen at onset pixel x is at x + F(x) in the
frame. A frame is made backwards, I_t(y) = I_0(y + b(y)) with b(y) = -F(y + b(y)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mesynth.preprocess.magnify.warping import bilinear, invert, warp

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
    """Optical strain magnitude [B,2,H,W] -> [B,1,H,W], per pixel; as :func:`mesynth.types.optical_strain`.

    The square root starts 1e-6 above 0, where it has no gradient.
    """
    (uy, ux), (vy, vx) = (torch.gradient(flow[:, i], dim=(1, 2)) for i in range(2))
    return (ux.square() + vy.square() + 0.5 * (uy + vx).square() + 1e-12).sqrt()[:, None]
