"""Global Lagrangian magnification: a measured flow is scaled and the picture warped by it.

Liu et al., "Motion magnification", SIGGRAPH 2005; Le Ngo et al., "Micro-expression motion magnification: global
Lagrangian vs. local Eulerian approaches", FG 2018, who scale the flow of the whole face.

Conventions: the flow F [2,H,W] lives on the onset's grid, onset(x) = frame(x + F(x)). The magnified frame M shows at
x + m F(x) what the frame shows at x + F(x). With the backward field b of m F, b(y) = -m F(y + b(y)), that is
M(y) = frame(y + (1 - 1/m) b(y)): at m = 1 nothing is read from elsewhere, and M's flow since the onset is exactly m F.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mesynth.core.errors import ConfigError, MesynthError
from mesynth.preprocess.magnify.common import MAX_FACTOR, luma, require_clip, require_factor
from mesynth.preprocess.tvl1 import tvl1
from mesynth.preprocess.warping import fold_limit, invert, warp

FlowMethod = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Grey onsets and frames, two [N,H,W] in [0,1] -> flow on the onset's grid [N,2,H,W], pixels."""


class FoldError(MesynthError):
    """A factor would fold the picture: two places of the onset would be seen at one pixel."""


@dataclass(frozen=True, kw_only=True)
class LagrangianConfig:
    """Parameters of Lagrangian magnification."""

    smooth: float = 2.0
    """Standard deviation of the Gaussian that smooths the flow before it is scaled, pixels; 0 takes it as it is.
    TV-L1's steps and noise are magnified with the motion."""
    fold: str = "clip"
    """Where the factor would fold the picture: ``clip`` lowers the factor of that clip, for all of its frames, to the
    largest that does not; ``refuse`` raises FoldError."""
    floor: float = 0.1
    """Smallest Jacobian determinant of x + m F(x) that is no fold: the share of its area a pixel must keep."""
    source: str = "frame"
    """What is warped: each ``frame`` (its light and wrinkles are kept) or the ``onset`` (its noise is)."""

    def __post_init__(self) -> None:
        if not 0 <= self.smooth <= 32:
            raise ConfigError(f"smooth={self.smooth:g} is outside 0..32 pixels")
        if self.fold not in ("clip", "refuse"):
            raise ConfigError(f"fold='{self.fold}' is unknown; choose clip or refuse")
        if not 0 < self.floor < 1:
            raise ConfigError(f"floor={self.floor:g} is outside (0, 1)")
        if self.source not in ("frame", "onset"):
            raise ConfigError(f"source='{self.source}' is unknown; choose frame or onset")


def lagrangian(
    video: torch.Tensor,
    factor: float,
    config: LagrangianConfig = LagrangianConfig(),
    flow: torch.Tensor | FlowMethod | None = None,
) -> torch.Tensor:
    """Magnify the motion of float [B,T,C,H,W] in [0,1] by ``factor``; same shape, clipped to [0,1].

    flow: [B,T-1,2,H,W] pixels, onset -> frames 1..T-1, on the onset's grid; or what measures it; None is TV-L1.
    The onset comes back unchanged; so does everything at factor 1.

    Raises:
        MesynthError: an unfit clip, factor or flow.
        FoldError: the factor would fold the picture and config.fold is "refuse".
    """
    require_clip(video)
    value = require_factor(factor)
    if value == 1:
        return video.clone()
    flows = smoothed_flow(_measured(video, flow), config.smooth)
    used = _factors(flows, value, config)
    return _magnified(video, flows, used, config.source)


def multi_ratio(
    frames: torch.Tensor, flows: torch.Tensor, ratios: Sequence[float], config: LagrangianConfig | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One clip at several motion sizes, as augmentation: what is shown and its flow stay exact to each other.

    frames float [B,T,C,H,W] in [0,1]; flows [B,T-1,2,H,W] pixels, onset -> frames 1..T-1; ratios R numbers in
    (0, 100], below 1 for fainter. Returns frames [R,B,T,C,H,W] and flows [R,B,T-1,2,H,W]; ``flows[r]`` is
    ``ratios[r]`` times what was given, after config.smooth. The default does not smooth, and refuses to fold:
    with ``fold="clip"`` the flow that comes back is scaled by the factor that was used.

    Raises:
        MesynthError: unfit frames, flows or ratios.
        FoldError: a ratio would fold the picture and config.fold is "refuse".
    """
    chosen = config or LagrangianConfig(smooth=0.0, fold="refuse")
    require_clip(frames, "frames")
    if not len(ratios):
        raise MesynthError("ratios is empty; give at least one number, for example (1, 2, 4)")
    for ratio in ratios:
        if not (math.isfinite(ratio) and 0 < ratio <= MAX_FACTOR):
            raise MesynthError(f"ratio {ratio:g} is outside (0, {MAX_FACTOR:g}]")
    smooth = smoothed_flow(_measured(frames, flows), chosen.smooth)
    shown, moved = [], []
    for ratio in ratios:
        used = _factors(smooth, float(ratio), chosen)
        shown.append(frames.clone() if ratio == 1 else _magnified(frames, smooth, used, chosen.source))
        moved.append(smooth * used.view(-1, 1, 1, 1, 1))
    return torch.stack(shown), torch.stack(moved)


def smoothed_flow(flows: torch.Tensor, sigma: float) -> torch.Tensor:
    """[...,H,W] blurred by a Gaussian of ``sigma`` pixels, continued beyond the border."""
    if sigma == 0:
        return flows
    radius = max(1, math.ceil(2.5 * sigma))
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    flat = flows.flatten(0, -3)
    for axis in (-1, -2):
        padded = F.pad(flat, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="replicate")
        total = torch.zeros_like(flat)
        for i, tap in enumerate(taps):
            total.add_(padded.narrow(axis, i, flat.shape[axis]), alpha=tap / sum(taps))
        flat = total
    return flat.view_as(flows)


def _measured(video: torch.Tensor, flow: torch.Tensor | FlowMethod | None) -> torch.Tensor:
    """[B,T-1,2,H,W] as given or as measured."""
    batch, frames, _, height, width = video.shape
    want = (batch, frames - 1, 2, height, width)
    if isinstance(flow, torch.Tensor):
        flows = flow
    else:
        grey = luma(video)[:, :, 0]
        onset = grey[:, :1].expand_as(grey[:, 1:])
        found = (flow or tvl1)(onset.flatten(0, 1), grey[:, 1:].flatten(0, 1))
        if tuple(found.shape) != (batch * (frames - 1), *want[2:]):
            raise MesynthError(f"the flow method gave {tuple(found.shape)}; expected {(want[0] * want[1], *want[2:])}")
        still = (video[:, 1:] == video[:, :1]).flatten(2).all(2).view(batch, frames - 1, 1, 1, 1)
        flows = found.view(want).masked_fill(still, 0)  # methods find a few thousandths of a pixel in equal pictures
    if tuple(flows.shape) != want or not flows.is_floating_point():
        raise MesynthError(f"flow is {flows.dtype} {tuple(flows.shape)}; expected float {want}, onset to each frame")
    if not bool(torch.isfinite(flows).all()):
        raise MesynthError("flow holds NaN or infinity; give pixels")
    return flows.to(video)


def _factors(flows: torch.Tensor, factor: float, config: LagrangianConfig) -> torch.Tensor:
    """The factor of each clip [B], under the fold rule of the configuration."""
    limit = fold_limit(flows.flatten(0, 1), config.floor).view(flows.shape[:2]).amin(1)
    asked = torch.full_like(limit, factor)
    if config.fold == "clip":
        # Never below 1: the frame as it was recorded is no magnification at all.
        return torch.minimum(asked, limit.clamp(min=min(1.0, factor)))
    if bool((limit < factor).any()):
        clip = int(limit.argmin())
        raise FoldError(
            f"factor {factor:g} folds the picture of clip {clip}; up to {float(limit[clip]):.2f} it does not: "
            "lower the factor, smooth the flow, or use fold='clip'"
        )
    return asked


def _magnified(video: torch.Tensor, flows: torch.Tensor, factors: torch.Tensor, source: str) -> torch.Tensor:
    """Warp every frame but the onset; one clip at a time, so that memory stays flat."""
    out = video.clone()
    for clip, flow, factor, result in zip(video, flows, factors, out, strict=True):
        if source == "frame" and bool(factor == 1):
            continue
        backward = invert(factor * flow)
        shift = backward if source == "onset" else backward * (1 - 1 / factor)
        picture = clip[:1].expand_as(clip[1:]) if source == "onset" else clip[1:]
        moved = (shift != 0).any(1, keepdim=True)
        result[1:] = torch.where(moved, warp(picture, shift).clamp(0, 1), picture)
    return out
