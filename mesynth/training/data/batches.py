"""What a training step sees: pairs of frames of one clip with the motion between them and the action units.

Which pairs an update sees: draw numbers counted over the whole run, dealt to processes and parts by stride."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, Self

import numpy as np
import torch

from mesynth.core.errors import ConfigError
from mesynth.core.seeds import stream


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
    landmarks: torch.Tensor
    """[B,68,2] float32 pixels of the onset, as a detector finds them; NaN where they are not known"""
    label: torch.Tensor
    """[B] int64 class of the composite (classes.CLASSES_3), -1 where there is none"""
    seeds: np.ndarray
    """[B] int64, one a pair"""
    formed: torch.Tensor | None = field(default=None, kw_only=True)
    """[B,3,S,S] float32 in [0,1]: the frame in layers that a generator forms of the onset, where the task asked for it
    (:meth:`mesynth.training.task.Task.prepared`)"""
    share: torch.Tensor | None = field(default=None, kw_only=True)
    """[B,1,S,S] float32 in [0,1], beside ``formed``: what may be painted, 0 where the face stands still"""

    def __len__(self) -> int:
        return len(self.onset)

    @property
    def paired(self) -> torch.Tensor:
        """[B] bool: flow or AUs of the frame are known. The others are faces alone, whatever their frame shows."""
        return self.has_flow | self.known.flatten(1).any(1)

    def choices(self) -> dict[str, torch.Tensor]:
        """Rows that a loss may be a mean over, by name: [B] bool each."""
        return {"paired": self.paired, "flow": self.has_flow, "no flow": ~self.has_flow}

    def count(self, name: str) -> torch.Tensor:
        """Rows of a choice that a mean is divided by, a scalar, at least 1 of the whole batch.

        Of a part of a batch, or of the share of one process, this is not its own number but the mean over all parts:
        the mean of the parts' losses and gradients is then that of the whole batch, however unevenly the rows fall.
        """
        counts: Mapping[str, torch.Tensor] = vars(self).get("_counts", {})
        return counts[name] if name in counts else self.choices()[name].sum().clamp(min=1)

    def counted(self, counts: Mapping[str, torch.Tensor]) -> Self:
        """The same rows, of a batch of which a part holds so many rows of each choice on average."""
        out = replace(self)
        object.__setattr__(out, "_counts", counts)  # no field: rows of a batch that is taken apart are counted anew
        return out

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        moved: dict[str, Any] = {n: t.to(device, non_blocking=True) for n, t in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Those that are there, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}

    def targets(self, alone: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
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
        return replace(self, **{n: t[at] for n, t in self._tensors().items()}, seeds=self.seeds[which])

    @staticmethod
    def joined(parts: Sequence[Batch]) -> Batch:
        """All pairs of some batches of one picture size as one."""
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0]._tensors()}
        return Batch(**tensors, seeds=np.concatenate([part.seeds for part in parts]))

    def randn(self, purpose: str, *shape: int) -> torch.Tensor:
        """[B,*shape] float32 standard normal numbers that depend on each pair's seed and ``purpose`` alone."""
        rows = [stream(int(seed), purpose).standard_normal(shape, np.float32) for seed in self.seeds]
        return torch.from_numpy(np.stack(rows)).to(self.onset.device)

    def rand(self, purpose: str, *shape: int) -> torch.Tensor:
        """[B,*shape] float32 uniform in [0,1), as :meth:`randn`."""
        rows = [stream(int(seed), purpose).random(shape, np.float32) for seed in self.seeds]
        return torch.from_numpy(np.stack(rows)).to(self.onset.device)


# ------------------------------------------------------------------- sampler


class PairSet(Protocol):
    """Pairs to learn from. A draw number alone decides clip, frame, augmentation and the pair's seed."""

    subjects_seen: tuple[str, ...]
    """``database/subject`` of everyone whose frames or labels are in it."""
    data_hash: str
    licences: tuple[str, ...]
    size: int
    """Width and height of the pictures in pixels."""

    def __len__(self) -> int: ...

    def batch(self, draws: np.ndarray) -> Batch:
        """The pairs of these draw numbers ([B] int64), on the CPU. Called from other threads, several at once."""
        ...

    def validation(self, n: int) -> Iterable[Batch]:
        """``n`` fixed pairs in batches."""
        ...


def check_split(batch: int, processes: int, accumulate: int) -> None:
    """Raises ConfigError unless every process and part gets equally many pairs of a batch."""
    if batch % (processes * accumulate):
        raise ConfigError(
            f"run.batch={batch} does not split into {processes} processes x run.accumulate={accumulate}; "
            f"choose a multiple of {processes * accumulate}"
        )


def shares(images: int, batch: int, rank: int, processes: int, accumulate: int) -> list[np.ndarray]:
    """Draw numbers of this process's parts of the batch that begins after ``images`` pairs.

    >>> [part.tolist() for part in shares(8, 8, 1, 2, 2)]
    [[9, 13], [11, 15]]
    """
    own = np.arange(images, images + batch, dtype=np.int64)[rank::processes]
    return [own[part::accumulate] for part in range(accumulate)]


def batches(
    pairs: PairSet, start: int, end: int, batch: int, *, rank: int, processes: int, accumulate: int, prefetch: int
) -> Generator[list[tuple[int, Batch]], None, None]:
    """For every update from clock ``start`` to ``end``: its parts, each with its first draw number.

    ``prefetch`` updates are prepared ahead, each in a thread of its own; what comes out does not depend on it.
    """

    def make(images: int) -> list[tuple[int, Batch]]:
        parts = shares(images, batch, rank, processes, accumulate)
        return [(int(part[0]), pairs.batch(part)) for part in parts]

    clocks = iter(range(start, end, batch))
    if not prefetch:
        yield from map(make, clocks)
        return
    pool = ThreadPoolExecutor(min(prefetch, os.cpu_count() or 1), "pairs")
    try:
        waiting: deque[Future[list[tuple[int, Batch]]]] = deque()
        for images in clocks:
            waiting.append(pool.submit(make, images))
            if len(waiting) > prefetch:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
