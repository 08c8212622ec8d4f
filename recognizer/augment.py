"""Flips and shifts of a whole stack of batches at once, from numbers drawn outside."""

from __future__ import annotations

import torch

from mesynth.types import N_AUS


def gather_moved(
    x: torch.Tensor,
    index: torch.Tensor,
    flip: torch.Tensor,
    dy: torch.Tensor,
    dx: torch.Tensor,
    *,
    signed: bool,
) -> torch.Tensor:
    """Clips ``index`` [...] of x [N,C,S,S], shifted by (dy, dx) [...] pixels, then mirrored where ``flip``.

    -> [...,C,S,S]. Edges repeat; if ``signed``, the first channel is u, which changes its sign in a mirror. One gather
    for both moves: this runs for every step of every member and would otherwise take as long as the network.
    """
    size = x.shape[-1]
    grid = torch.arange(size, device=x.device)
    rows = (grid - dy[..., None]).clamp(0, size - 1)
    columns = (grid - dx[..., None]).clamp(0, size - 1)
    columns = torch.where(flip[..., None], columns.flip(-1), columns)
    pixels = (rows[..., :, None] * size + columns[..., None, :]).flatten(-2)
    clips = x.flatten(-2)[index]
    moved = clips.gather(-1, pixels[..., None, :].expand(clips.shape))
    if not signed:
        return moved.reshape(*clips.shape[:-1], size, size)
    sign = torch.ones(*index.shape, x.shape[1], device=x.device)
    sign[..., 0] = torch.where(flip, -1.0, 1.0)
    return (moved * sign[..., None]).reshape(*clips.shape[:-1], size, size)


def swap_sides(au: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """AUs [...,K*2] with left and right swapped where ``flip`` [...]."""
    swapped = au.reshape(*au.shape[:-1], N_AUS, 2).flip(-1).flatten(-2)
    return torch.where(flip[..., None], swapped, au)
