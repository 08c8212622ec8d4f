"""All there is to know about a run between two updates, as a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from mesynth.training import checkpoint
from mesynth.training.updater import StepUpdater

Networks = Mapping[str, torch.nn.Module]
Sums = dict[str, tuple[float, int]]


@dataclass
class Clock:
    """Where a run stands, as plain values."""

    images: int = 0
    seconds: float = 0.0
    """Spent training, over all resumptions."""
    problems: int = 0
    """Validations in a row with a known failure."""
    problem: str = ""
    """What the last of them said."""
    losses: Sums = field(default_factory=dict)
    """Sum and count of each value since the last line of metrics, of this process."""
    logged: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)


def capture(
    clock: Clock, losses: list[Sums], networks: Networks, averaged: Networks, updater: StepUpdater
) -> checkpoint.Saved:
    """The state to save; ``losses`` are the sums of every process."""
    tensors = {"networks": _states(networks), "averaged": _states(averaged)}
    optimisers: dict[str, Any] = {}
    tensors["optimisers"] = {}
    for name, optimiser in updater.optimisers.items():
        parts, optimisers[name] = checkpoint.optimiser_parts(optimiser)
        tensors["optimisers"] |= {f"{name}:{key}": value for key, value in parts.items()}
    scaler = None if updater.scaler is None else updater.scaler.state_dict()
    plain = clock.__dict__ | {"losses": losses}
    return checkpoint.Saved(tensors, {"clock": plain, "optimisers": optimisers, "scaler": scaler})


def restore(
    saved: checkpoint.Saved, networks: Networks, averaged: Networks, updater: StepUpdater, *, rank: int, processes: int
) -> Clock:
    """Put a saved state back; returns the clock of this process."""
    _restore(networks, saved.tensors["networks"])
    _restore(averaged, saved.tensors["averaged"])
    for name, optimiser in updater.optimisers.items():
        own = _under(name, saved.tensors["optimisers"])
        checkpoint.restore_optimiser(optimiser, own, saved.state["optimisers"][name])
    if updater.scaler is not None:
        updater.scaler.load_state_dict(saved.state["scaler"])
    plain = dict(saved.state["clock"])
    return Clock(**plain | {"losses": _own(plain["losses"], rank, processes)})


def _own(by_rank: list[dict[str, list[Any]]], rank: int, processes: int) -> Sums:
    """This process's sums; when the number of processes has changed, the first takes all."""
    if len(by_rank) == processes:
        mine = [by_rank[rank]]
    else:
        mine = by_rank if rank == 0 else []
    out: Sums = {}
    for sums in mine:
        for name, (total, count) in sums.items():
            before = out.get(name, (0.0, 0))
            out[name] = (before[0] + total, before[1] + count)
    return out


def _states(networks: Networks) -> checkpoint.Tensors:
    return {f"{name}:{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


def _restore(networks: Networks, tensors: checkpoint.Tensors) -> None:
    for name, network in networks.items():
        network.load_state_dict(_under(name, tensors))


def _under(name: str, tensors: checkpoint.Tensors) -> checkpoint.Tensors:
    return {key.removeprefix(f"{name}:"): value for key, value in tensors.items() if key.startswith(f"{name}:")}
