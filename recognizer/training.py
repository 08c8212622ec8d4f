"""Stacked folds: the parameters of many small networks side by side, trained in the same steps.

A member is one (fold, seed, arm, ratio). Each has its own weights, labels, batches and augmentation,
all pure functions of (seed, fold, step); nothing passes between members, so a stack gives what its
members give one by one, up to the order of float32 sums. The trainer gets labels only where a member
may learn: picking anything on a held-out subject is impossible here.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.func import functional_call, vmap

from mesynth.errors import ConfigError
from mesynth.seeds import derived, stream
from recognizer.augment import gather_moved, swap_sides
from recognizer.models import capsule_graph, region_attention, ststnet
from recognizer.models.common import FlowNetwork

BUILDERS: dict[str, ModuleType] = {
    "capsule_graph": capsule_graph,
    "region_attention": region_attention,
    "ststnet": ststnet,
}
Tensors = dict[str, torch.Tensor]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The budget is fixed: no step is chosen by looking at results."""

    steps: int = 300
    """Optimizer steps on the fold's clips."""
    batch: int = 32
    lr: float = 3e-3
    """Peak learning rate of AdamW; it falls to 0 along a cosine."""
    weight_decay: float = 0.05
    flip: bool = True
    """Mirror half of the clips (u changes sign, AU sides swap)."""
    shift: int = 1
    """Largest shift along x and y, pixels of the flow image."""
    balance: bool = True
    """Draw all classes equally often."""
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
    x: np.ndarray
    """[N,3,S,S] float32"""
    au: np.ndarray
    """[N,K*2] int8, -1 unknown"""
    labels: np.ndarray
    """[M,N] int64; -1 wherever the member may not learn."""
    affine: np.ndarray
    """[M,2,3] a and b: added clips enter as a*x + b."""
    added: np.ndarray
    """[N] bool"""
    scale: np.ndarray
    """[M,3] rms of each channel over the member's clips."""
    names: Sequence[str]
    seeds: Sequence[int]
    stages: Sequence[Stage]


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


_seeding = threading.Lock()  # initial weights come from torch's one global generator


def fresh(task: Task, member: int) -> FlowNetwork:
    """The untrained network of one member: a function of (seed, fold)."""
    with _seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived(task.seeds[member], f"init/{task.names[member]}"))
        return build(task.network, task.config, task.n_classes, task.x.shape[-1])


def build(network: str, config: Any, n_classes: int, size: int) -> FlowNetwork:
    """A network by name; see :mod:`recognizer.models`."""
    made = BUILDERS[network].build(config, n_classes, size)
    assert isinstance(made, FlowNetwork)
    return made


def train(task: Task, config: TrainConfig, progress: Progress | None = None) -> Tensors:
    """Train all members; return their parameters and ``scale`` stacked along dimension 0 ([M,...]).

    Stacks run side by side, one thread each and as many as torch would use: the operations are too small
    to share out, and threads that wait for each other inside them lose all on a busy machine.
    ``progress(done, total)`` counts member-steps.
    """
    members, workers = len(task.names), max(torch.get_num_threads(), 1)
    size = min(config.stack or type(fresh(task, 0)).stack, math.ceil(members / workers))
    chunks = [range(i, min(i + size, members)) for i in range(0, members, size)]
    total = members * sum(stage.steps for stage in task.stages)
    done, stop = [0] * len(chunks), threading.Event()

    def work(c: int) -> Tensors:
        def report(steps: int) -> None:
            done[c] = steps * len(chunks[c])
            if stop.is_set():
                raise CancelledError

        return _train_chunk(task, chunks[c], config, report)

    # torch's thread count belongs to the calling thread; the initializer leaves the caller's as it is.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = parts = [pool.submit(work, c) for c in range(len(chunks))]
        try:
            while pending:
                finished, rest = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                pending = list(rest)
                for future in finished:
                    future.result()
                if progress:
                    progress(sum(done), total)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results = [part.result() for part in parts]
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


def _train_chunk(task: Task, chunk: range, config: TrainConfig, report: Callable[[int], None]) -> Tensors:
    networks = [fresh(task, m) for m in chunk]
    model = networks[0]
    names = [name for name, _ in model.named_parameters()]
    every = [dict(network.named_parameters()) for network in networks]
    stacked = {n: torch.stack([p[n].detach() for p in every]).requires_grad_() for n in names}
    scale = torch.from_numpy(task.scale[chunk.start : chunk.stop]).float()
    loss = _loss_of(model, single=len(chunk) == 1)
    done = 0
    for stage in task.stages:
        done = _run_stage(task, stage, chunk, config, stacked, scale, loss, done, report)
    return {n: p.detach() for n, p in stacked.items()} | {"scale": scale}


LossOf = Callable[[Tensors, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _loss_of(model: FlowNetwork, *, single: bool) -> LossOf:
    """(parameters [M,...], scale [M,3], x [M,B,...], y, au) -> losses [M]."""

    def one(parameters: Tensors, scale: torch.Tensor, *batch: torch.Tensor) -> torch.Tensor:
        x, y, au = batch
        outputs = functional_call(model, parameters | {"scale": scale}, (x,))
        return model.loss(outputs, y, au)

    if single:  # the plain path: what stacking is measured against
        return lambda p, s, x, y, au: one({k: v[0] for k, v in p.items()}, s[0], x[0], y[0], au[0])[None]
    return vmap(one)


def _run_stage(
    task: Task,
    stage: Stage,
    chunk: range,
    config: TrainConfig,
    stacked: Tensors,
    scale: torch.Tensor,
    loss: LossOf,
    done: int,
    report: Callable[[int], None],
) -> int:
    if stage.steps == 0:
        return done
    plans = [
        draw_batches(
            stage.weights[m], task.labels[m], stage.steps,
            name=f"{task.names[m]}/{stage.name}", seed=task.seeds[m], config=config,
        )
        for m in chunk
    ]  # fmt: skip
    index, flip, dy, dx = (
        torch.from_numpy(np.stack([getattr(plan, key) for plan in plans], 1)) for key in ("index", "flip", "dy", "dx")
    )  # [steps, M, batch]
    y = torch.from_numpy(task.labels[chunk.start : chunk.stop])
    x, au, added = torch.from_numpy(task.x), torch.from_numpy(task.au).long(), torch.from_numpy(task.added)
    affine = torch.from_numpy(task.affine[chunk.start : chunk.stop]).float()[..., None, None]  # [M,2,3,1,1]
    a, b = affine[:, None, 0], affine[:, None, 1]
    mapped, mirrored = bool(task.added.any()), torch.tensor([-1.0, 1.0, 1.0])
    rows = torch.arange(len(chunk))[:, None]
    start = {n: p.detach().clone() for n, p in stacked.items()} if stage.pull else {}
    lr = config.lr * stage.lr_factor
    optimizer = torch.optim.AdamW(list(stacked.values()), lr=lr, weight_decay=config.weight_decay, fused=True)
    for step in range(stage.steps):
        rate = lr * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        i = index[step]
        images = gather_moved(x, i, flip[step], dy[step], dx[step])
        if mapped:
            from_added = added[i]
            # The offset belongs to the clip before it was mirrored, so that of u changes sign with it.
            sign = torch.where(flip[step][..., None], mirrored, 1.0)[..., None, None]
            images = torch.where(from_added[..., None, None, None], a * images + b * sign, images)
        optimizer.zero_grad(set_to_none=True)
        loss(stacked, scale, images, y[rows, i], swap_sides(au[i], flip[step])).sum().backward()
        optimizer.step()
        if stage.pull:
            with torch.no_grad():
                for n, p in stacked.items():
                    p.lerp_(start[n], min(rate * stage.pull, 1.0))
        report(done + step + 1)
    return done + stage.steps


@torch.no_grad()
def scores(model: FlowNetwork, tensors: Tensors, member: int, x: np.ndarray) -> np.ndarray:
    """Class probabilities [N,C] float64 of one member's network for clips x [N,3,S,S]."""
    parameters = {name: value[member] for name, value in tensors.items()}
    out = functional_call(model, parameters, (torch.from_numpy(x),))
    return np.asarray((out.scores.double() * model.probability_gain).softmax(-1).numpy())
