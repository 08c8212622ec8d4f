"""The contract between the loop and what is trained: a task owns networks and losses, the loop owns everything else.

Beside it one update: a task's losses to gradients to optimiser steps, over parts of a batch and over processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.seeds import derived
from mesynth.store.generator_folder import GeneratorFacts
from mesynth.training.data.batches import Batch
from mesynth.training.processes import Processes


class Updater(Protocol):
    """What a task may do to its networks during a step; given by the loop."""

    def update(self, name: str, loss: torch.Tensor) -> None:
        """Back-propagate ``loss`` and step the optimiser ``name`` (scaled, accumulated and clipped as configured).

        Every parameter of another optimiser keeps its gradient untouched: detach, or freeze, what is not meant.
        """
        ...


class Problem(RuntimeError):
    """Training went wrong in a known way (saturated mask, output independent of the AUs, collapse, NaN)."""


class Task(ABC):
    """One generator family being trained. Built from its configuration; holds no data and no counters."""

    name: ClassVar[str]

    networks: dict[str, nn.Module]
    """Trained networks by name. The loop moves them, wraps them for several processes, saves them; a task reaches
    them through this mapping at every step, because the loop replaces entries by their wrapped form."""
    frozen: dict[str, nn.Module]
    """Fixed networks (judges, feature extractors); moved, never saved."""
    averaged: tuple[str, ...]
    """Names of networks whose exponential moving average is kept, validated and saved as the generator."""

    @abstractmethod
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by name, over :attr:`networks`' parameters. Called once, before networks are wrapped."""

    @abstractmethod
    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        """One training step on ``batch`` after ``images`` pairs; returns detached scalars to log.

        All randomness comes from ``batch.randn`` / ``batch.rand`` (or from ``images``), never from global state.
        """

    @abstractmethod
    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        """Measures of the averaged networks on one batch of validation pairs, each [B] (the loop averages them)."""

    @abstractmethod
    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        """A picture [H,W,3] uint8 for people: what the generator does to these pairs."""

    def begun_by(self, family: str) -> Mapping[str, nn.Module]:
        """Networks that a saved generator of ``family`` may begin (``run.start``), by their names in its folder.

        By default those that are averaged, begun by the task's own family. None: the family does not fit.
        """
        return {name: self.networks[name] for name in self.averaged} if family == self.name else {}

    def teachers(self) -> Mapping[str, GeneratorFacts]:
        """Saved generators that the task learns from beside its data, by the recipe's key: whom they saw, it has."""
        return {}

    def check_data(self, data: Any) -> None:  # noqa: B027 - most tasks learn from whatever there is
        """Accept the recipe's section ``data``. Raises ConfigError for what the task cannot learn from; by default all
        is well."""

    def prepared(
        self, pairs: Any, cache: Path, progress: Callable[[int, int], None] | None = None, workers: int = 1
    ) -> Any:
        """``pairs`` (to learn from, or to validate on) with what the task wants beside them, kept in ``cache``.

        By default nothing. ``workers``: processes that make it, 0 for one per core. Of several processes that train the
        first makes it, the others find it.
        """
        return pairs

    def check_faces(self, *, alone: bool) -> None:
        """Accept faces without clips (``data.faces``) as part of a batch; ``alone``: nothing else is in it.

        A face alone has ``Batch.paired`` False: its frame is its onset, it has neither flow nor known AUs.

        Raises:
            ConfigError: the task, as it is configured, learns nothing from them. The default.
        """
        raise ConfigError(f"{self.name} learns nothing from faces without clips; leave data.faces out")

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        """What is wrong with the run, in one sentence, or "" (see :class:`Problem`). Called after validation."""
        return ""

    @abstractmethod
    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: GeneratorFacts) -> None:
        """Write a folder with safetensors, configuration and card, as mesynth.generators.base.save_trained does.

        Raises:
            Problem: what was learned is not worth saving.
        """

    def parameters(self) -> dict[str, int]:
        """Parameters by network."""
        return {name: sum(p.numel() for p in net.parameters()) for name, net in self.networks.items()}


# ------------------------------------------------------------------- updater


class _Cut(BaseException):
    """The rest of a task's step belongs to a later pass."""


class StepUpdater:
    """The :class:`~mesynth.training.task.Updater` of the loop.

    A batch may be cut into parts. So that the update is that of the whole batch even when a step updates several
    optimisers in turn (a discriminator, then a generator against the new discriminator), the parts go through once
    for every ``update`` of the step: the first pass sums the gradients of the first loss and steps; the second starts
    again from the old weights, takes the new ones where the first loss is, and goes on to the second; and so on. All
    random numbers follow from the pairs, so passes agree.
    """

    def __init__(
        self,
        optimisers: Mapping[str, torch.optim.Optimizer],
        processes: Processes,
        *,
        clip: float,
        seed: int,
        fp16: bool,
    ) -> None:
        self.optimisers = dict(optimisers)
        self._parameters = {
            name: [p for group in optimiser.param_groups for p in group["params"]]
            for name, optimiser in self.optimisers.items()
        }
        self._processes, self._clip, self._seed = processes, clip, seed
        self.scaler = torch.amp.GradScaler(processes.device.type) if fp16 else None
        self.norms: dict[str, torch.Tensor] = {}
        """Gradient norm of each optimiser before clipping, where there is clipping."""
        self._parts, self._part, self._pass, self._calls = 1, 0, 0, 0
        self._before: list[tuple[str, list[torch.Tensor]]] = []
        self._after: list[list[torch.Tensor]] = []
        """Weights of the optimiser of each pass before and after its step, only for a batch in parts."""

    def run(self, task: Task, parts: Sequence[tuple[int, Batch]], images: int) -> dict[str, torch.Tensor]:
        """One update on ``parts`` (each with its first draw number); returns the logged losses' means."""
        self._parts, self._pass, self._before, self._after = len(parts), 0, [], []
        parts = self._counted(parts)
        while True:
            logs: list[dict[str, torch.Tensor]] = []
            cut = 0
            for self._part, (draw, batch) in enumerate(parts):
                self._calls = 0
                for name, weights in reversed(self._before[: self._pass]):
                    self._put(name, weights)
                # Dropout and the like draw from the global stream: tie it to the pairs, not to the process' past.
                self._seed_torch(derived(self._seed, "torch", draw))
                try:
                    with self._processes.autocast():
                        logs.append(task.step(batch, images, self))
                except _Cut:
                    cut += 1
            if cut == 0:
                return {name: torch.stack([log[name].detach().float() for log in logs]).mean() for name in logs[0]}
            if cut < len(parts):
                raise RuntimeError(f"task {task.name}: the number of updates of a step depends on the batch's content")
            name = self._before[-1][0]
            self._after.append([p.detach().clone() for p in self._parameters[name]])
            self._pass += 1

    def _counted(self, parts: Sequence[tuple[int, Batch]]) -> Sequence[tuple[int, Batch]]:
        """Parts that know how many rows of each choice the whole batch has, for losses that are means over them."""
        split = len(parts) * self._processes.count
        if split == 1:
            return parts
        by_part = [batch.choices() for _, batch in parts]
        means = torch.stack([
            torch.stack([choices[name].sum() for choices in by_part]).float().mean() for name in by_part[0]
        ])  # fmt: skip
        self._processes.average([means])
        counts = dict(zip(by_part[0], means.clamp(min=1 / split), strict=True))
        return [(draw, batch.counted(counts)) for draw, batch in parts]

    def _seed_torch(self, seed: int) -> None:
        # Not torch.manual_seed: where CUDA is not in use it formats a stack trace every time.
        torch.default_generator.manual_seed(seed)
        if self._processes.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def update(self, name: str, loss: torch.Tensor) -> None:
        """Back-propagate ``loss`` into the parameters of optimiser ``name`` alone; step with the last part."""
        call, self._calls = self._calls, self._calls + 1
        if self._parts > 1 and call != self._pass:
            if call > self._pass:
                raise _Cut
            self._put(self._before[call][0], self._after[call])
            return
        optimiser, parameters = self.optimisers[name], self._parameters[name]
        if self._part == 0:
            optimiser.zero_grad(set_to_none=True)
        with torch.autocast(loss.device.type, enabled=False):
            scaled = loss.float() / self._parts if self._parts > 1 else loss.float()
            if self.scaler is not None:
                scaled = self.scaler.scale(scaled)
            # Other networks on the way (a discriminator inside the generator's loss) keep their gradients.
            scaled.backward(inputs=[p for p in parameters if p.requires_grad])
            if self._part == self._parts - 1:
                self._step(name, optimiser, parameters)

    def _step(self, name: str, optimiser: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
        self._processes.average_gradients(parameters)
        if self.scaler is not None:
            self.scaler.unscale_(optimiser)
        if self._parts > 1:
            self._before.append((name, [p.detach().clone() for p in parameters]))
        if self._clip:
            self.norms[name] = torch.nn.utils.clip_grad_norm_(parameters, self._clip)
        if self.scaler is None:
            optimiser.step()
        else:
            self.scaler.step(optimiser)
            self.scaler.update()

    @torch.no_grad()
    def _put(self, name: str, weights: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters[name], weights, strict=True):
            parameter.copy_(value)
