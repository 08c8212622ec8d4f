"""What the trainer is told: clips, members, stages; and every batch of a member as a pure function of its name.

It gets labels only where a member may learn: picking anything on a held-out subject is impossible here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mesynth.core.errors import ConfigError
from mesynth.core.seeds import stream
from recognizer.losses import LossConfig
from recognizer.models.common import Shape

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant", "exponential")
DEVICES = ("cpu", "cuda", "auto")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The budget is fixed: no step is chosen by looking at results."""

    steps: int = 300
    """Optimizer steps on the fold's clips."""
    batch: int = 32
    lr: float = 3e-3
    """Peak learning rate."""
    weight_decay: float = 0.05
    optimizer: str = "adamw"
    """adamw, adam, or sgd with momentum .9."""
    schedule: str = "cosine"
    """cosine: down to 0. constant. exponential: down to a hundredth."""
    loss: LossConfig = field(default_factory=LossConfig)
    flip: bool = True
    """Mirror half of the clips (u changes sign, AU sides swap)."""
    shift: int = 1
    """Largest shift along x and y, pixels of the flow image; frames move along."""
    balance: bool = True
    """Draw all classes equally often."""
    start: str = ""
    """Folder of a trained recognizer to begin with. Every subject it saw must be outside every fold's test."""
    teacher: str = ""
    """Folder of a trained recognizer whose probabilities train.loss.distil follows; the same rule."""
    device: str = "cpu"
    """cpu, cuda, or auto (cuda where there is one). Figures of the two differ in the order of float32 sums."""
    stack: int = 0
    """Members trained at once; 1 trains one after the other, 0 leaves it to the network (what
    tests/bench/bench_folds.py found to be faster). The result does not depend on it."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("stack", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"train.{name}={getattr(self, name)} must be at least {least}")
        if not self.lr > 0 or self.weight_decay < 0 or self.shift < 0:
            raise ConfigError(
                f"train.lr={self.lr:g} must be positive; weight_decay={self.weight_decay:g} and shift={self.shift} >= 0"
            )
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"train.{name}='{getattr(self, name)}' is unknown; choose from {', '.join(known)}")
        if bool(self.teacher) != (self.loss.distil > 0):
            raise ConfigError("train.teacher and train.loss.distil go together: set both or neither")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training: what each member draws from ([M,N] weights), for how long, how fast."""

    name: str
    weights: np.ndarray
    steps: int
    lr_factor: float = 1.0
    pull: float = 0.0
    """Strength of the pull towards the weights this stage began with (decoupled, like weight decay)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """All the trainer is told: N clips, M members."""

    network: str
    config: Any
    """The network's own config dataclass."""
    n_classes: int
    shape: Shape
    inputs: Mapping[str, np.ndarray]
    """Views by name, [N,...]; ``flow`` [N,3,S,S] float32 among them, frames uint8."""
    au: np.ndarray
    """[N,K*2] int8, -1 unknown"""
    labels: np.ndarray
    """[M,N] int64; -1 wherever the member may not learn."""
    affine: np.ndarray
    """[M,2,3] a and b: the flow of added clips enters as a*x + b."""
    added: np.ndarray
    """[N] bool"""
    scale: np.ndarray
    """[M,3] rms of each channel of the flow over the member's clips."""
    names: Sequence[str]
    seeds: Sequence[int]
    stages: Sequence[Stage]
    start: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Parameters to begin with instead of fresh ones, without the members' dimension."""
    teacher: np.ndarray | None = None
    """[N,C] float32 probabilities for distillation."""


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Every step of one stage for one member: positions and augmentation, each [steps, batch]."""

    index: np.ndarray
    flip: np.ndarray
    dy: np.ndarray
    dx: np.ndarray


def draw_batches(
    weights: np.ndarray, labels: np.ndarray, steps: int, *, name: str, seed: int, config: TrainConfig
) -> Batches:
    """Draw with replacement in proportion to ``weights`` [N] (per class, if balanced): a function of (seed, name)."""
    rng = stream(seed, f"batches/{name}")
    index = np.flatnonzero(weights > 0)
    p = weights[index].astype(np.float64)
    assert len(index), f"member {name} has nothing to learn from"
    assert (labels[index] >= 0).all()
    if config.balance:
        mass = np.bincount(labels[index], weights=p)
        p = p / mass[labels[index]]
    edges = np.cumsum(p / p.sum())
    shape = (steps, config.batch)
    drawn = np.minimum(np.searchsorted(edges, rng.random(shape), side="right"), len(index) - 1)
    flips = rng.random(shape) < 0.5
    moves = rng.integers(-config.shift, config.shift + 1, (2, *shape))
    return Batches(index=index[drawn], flip=flips & config.flip, dy=moves[0], dx=moves[1])
