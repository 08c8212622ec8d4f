"""What a training step sees: pairs of frames of one clip with the motion between them and the action units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from mesynth.seeds import stream


@dataclass(frozen=True, eq=False)
class Batch:
    """B pairs (onset, any later frame of the same clip), all on one device.

    A pair carries a seed of its own, from which every random number that a loss draws for it comes: the same pair
    gets the same noise in any batch, on any process, after any resumption.
    """

    onset: torch.Tensor
    """[B,3,S,S] float32 in [0,1]"""
    frame: torch.Tensor
    """[B,3,S,S] float32 in [0,1]"""
    flow: torch.Tensor
    """[B,2,S,S] float32 pixels, onset -> frame on the onset's grid; 0 where ``has_flow`` is False"""
    valid: torch.Tensor
    """[B,S,S] bool: the flow is known and the onset's pixel is seen in the frame"""
    has_flow: torch.Tensor
    """[B] bool"""
    aus: torch.Tensor
    """[B,K,2] float32 in [0,1]: intensities shown in ``frame``; 0 where unknown"""
    known: torch.Tensor
    """[B,K,2] bool"""
    label: torch.Tensor
    """[B] int64 class of the composite (classes.CLASSES_3), -1 where there is none"""
    seeds: np.ndarray
    """[B] int64, one a pair"""

    def __len__(self) -> int:
        return len(self.onset)

    @property
    def paired(self) -> torch.Tensor:
        """[B] bool: flow or AUs of the frame are known. The others are faces alone, whatever their frame shows."""
        return self.has_flow | self.known.flatten(1).any(1)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self) if f.name != "seeds"}
        return replace(self, **moved)

    def asked(self, alone: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """AUs [B,K,2] to generate with and which of them are known [B,K,2] bool.

        A face alone (``alone`` [B] bool; None: what is not :attr:`paired`) is asked for two AUs that its seed draws,
        on both sides at .1 to .6; all of its AUs are known.
        """
        units = self.aus.shape[1]
        lots = self.rand("drawn-aus", units)
        chosen = lots >= lots.topk(2, dim=1).values[:, -1:]
        strength = 0.1 + 0.5 * self.rand("drawn-strength", units)
        drawn = (chosen * strength)[:, :, None].expand_as(self.aus)
        alone = (~self.paired if alone is None else alone).view(-1, 1, 1)
        return torch.where(alone, drawn, self.aus), self.known | alone

    def rows(self, which: np.ndarray) -> Batch:
        """The pairs at these places [n] int64, in this order."""
        at = torch.from_numpy(which).to(self.onset.device)
        moved = {f.name: getattr(self, f.name)[at] for f in fields(self) if f.name != "seeds"}
        return replace(self, **moved, seeds=self.seeds[which])

    @staticmethod
    def joined(parts: Sequence[Batch]) -> Batch:
        """All pairs of some batches of one picture size as one."""
        names = [f.name for f in fields(Batch) if f.name != "seeds"]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return Batch(**tensors, seeds=np.concatenate([part.seeds for part in parts]))

    def randn(self, purpose: str, *shape: int) -> torch.Tensor:
        """[B,*shape] float32 standard normal numbers that depend on each pair's seed and ``purpose`` alone."""
        rows = [stream(int(seed), purpose).standard_normal(shape, np.float32) for seed in self.seeds]
        return torch.from_numpy(np.stack(rows)).to(self.onset.device)

    def rand(self, purpose: str, *shape: int) -> torch.Tensor:
        """[B,*shape] float32 uniform in [0,1), as :meth:`randn`."""
        rows = [stream(int(seed), purpose).random(shape, np.float32) for seed in self.seeds]
        return torch.from_numpy(np.stack(rows)).to(self.onset.device)
