"""Sample sheets: pictures for people, one row a pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mesynth.preprocess.flow import flow_picture

GAP = 2
"""White pixels between pictures."""


def pictures(batch: torch.Tensor) -> list[np.ndarray]:
    """[B,3,H,W] or [B,1,H,W] in [0,1] -> B pictures [H,W,3] uint8."""
    values = batch.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().expand(-1, 3, -1, -1)
    return list(values.permute(0, 2, 3, 1).numpy())


def flows(batch: torch.Tensor, share: float = 0.03) -> list[np.ndarray]:
    """[B,2,H,W] pixels -> B pictures; full colour at ``share`` of the width, so that sizes and runs compare."""
    return [flow_picture(uv, share * batch.shape[-1]) for uv in batch.detach().float().cpu().numpy()]


def changes(after: torch.Tensor, before: torch.Tensor, gain: float = 4.0) -> list[np.ndarray]:
    """The difference of [B,3,H,W] pictures times ``gain`` about mid-grey -> B pictures."""
    return pictures(0.5 + gain * (after - before))


def sheet(columns: Sequence[Sequence[np.ndarray]], scale: int = 1) -> np.ndarray:
    """Columns of equally many pictures [H,W,3] uint8 -> one picture [*,*,3] uint8, one row a pair, enlarged."""
    rows = [
        _joined([np.repeat(np.repeat(p, scale, 0), scale, 1) for p in row], 1) for row in zip(*columns, strict=True)
    ]
    return _joined(rows, 0)


def _joined(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    gap_shape = list(parts[0].shape)
    gap_shape[axis] = GAP
    gap = np.full(gap_shape, 255, np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis)
