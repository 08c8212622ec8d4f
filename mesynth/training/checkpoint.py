"""Checkpoints: tensors as safetensors, numbers as JSON, complete or not there at all.

A checkpoint is a folder ``checkpoints/000012000`` named after the clock. It is written beside its place and renamed,
its ``SHA256SUMS`` lists every file, and the newest ones are kept, so a kill at any moment, a full disk
or a damaged file costs at most the images since the one before. Nothing is pickled.

All there is to know about a run between two updates, as a checkpoint holds it.

Exponential moving averages of networks, with a half-life in images."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from mesynth.core.errors import MesynthError, RunFolderError
from mesynth.store import digests
from mesynth.training.task import StepUpdater

STATE = "state.json"
_WRITING = ".writing-"
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: groups of named tensors (a file each) and plain values."""

    tensors: dict[str, Tensors]
    state: dict[str, Any]


def name_of(images: int) -> str:
    """Folder name of the checkpoint at ``images``."""
    return f"{images:012d}"


def write(root: Path, images: int, saved: Saved, keep: int) -> Path:
    """Write ``root/<images>`` and remove all but the ``keep`` newest.

    Raises:
        MesynthError: the disk is full or not writable; what was there before is untouched.
    """
    final, temporary = root / name_of(images), root / f"{_WRITING}{name_of(images)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_unfinished(root)
        temporary.mkdir()
        sha256 = {}
        for name, tensors in saved.tensors.items():
            data = save({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()})
            sha256[f"{name}.safetensors"] = hashlib.sha256(data).hexdigest()
            _write_file(temporary / f"{name}.safetensors", data)
        state = {"state": saved.state, "images": images, "sha256": sha256, digests.KEY: digests.LIST}
        _write_file(temporary / STATE, json.dumps(state, indent=1).encode())
        digests.seal(temporary)
        if final.exists():  # damaged, or this run would have begun there
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync_folder(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MesynthError(
                f"the disk of {root} is full; earlier checkpoints are intact: make room and run the same command again"
            ) from None
        raise MesynthError(f"{root} cannot be written ({error.strerror}); earlier checkpoints are intact") from None
    for old in folders(root)[keep:]:
        shutil.rmtree(old)
    return final


def folders(root: Path) -> list[Path]:
    """Checkpoints under their final names, newest first."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if p.is_dir() and p.name.isdigit()), reverse=True)


def remove_unfinished(root: Path) -> None:
    """Remove what a kill left half-written."""
    for left in root.glob(f"{_WRITING}*"):
        shutil.rmtree(left)


def newest(root: Path, warn: Callable[[str], None]) -> tuple[int, Saved] | None:
    """The newest complete checkpoint and its clock; None if there is none. Damaged ones are passed over with a line.

    Raises:
        RunFolderError: there are checkpoints and none is readable.
    """
    found = folders(root)
    for folder in found:
        try:
            return read(folder)
        except RunFolderError as error:
            warn(f"{error}; going back to the one before")
    if found:
        raise RunFolderError(f"no checkpoint in {root} is readable; remove the folder to start the run anew")
    return None


def read(folder: Path) -> tuple[int, Saved]:
    """One checkpoint. Raises RunFolderError when it is damaged."""
    try:
        record = json.loads((folder / STATE).read_text())
        tensors = {}
        for name, digest in record["sha256"].items():
            if name != Path(name).name or not name.endswith(".safetensors"):
                raise ValueError(f"{name!r} is no file of a checkpoint")
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name} has changed")
            tensors[Path(name).stem] = load_file(folder / name)
        if not isinstance(record["state"], dict):
            raise TypeError("its state is no mapping")
        digests.check(folder, [STATE], promised=record.get(digests.KEY) == digests.LIST)
        return int(record["images"]), Saved(tensors, record["state"])
    except digests.DigestError:
        raise
    except (OSError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError,
            SafetensorError) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunFolderError(f"checkpoint {folder} is damaged ({reason})") from None


def optimiser_parts(optimiser: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """An optimiser's state as tensors ``<parameter>/<name>`` and JSON values."""
    state = optimiser.state_dict()
    tensors: Tensors = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                values.setdefault(str(index), {})[name] = value
    groups = [{key: _plain(value) for key, value in group.items()} for group in state["param_groups"]]
    return tensors, {"values": values, "groups": groups}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], plain: Any) -> None:
    """Put back what :func:`optimiser_parts` took."""
    own = optimiser.state_dict()["param_groups"]
    groups = [
        {key: _like(value, group.get(key)) for key, value in kept.items()}
        for kept, group in zip(plain["groups"], own, strict=True)
    ]
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in plain["values"].items()}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _like(value: Any, own: Any) -> Any:
    if isinstance(own, torch.Tensor):
        return torch.tensor(value, dtype=own.dtype, device=own.device)
    return tuple(value) if isinstance(own, tuple) else value


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------- state


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


def capture(clock: Clock, losses: list[Sums], networks: Networks, averaged: Networks, updater: StepUpdater) -> Saved:
    """The state to save; ``losses`` are the sums of every process."""
    tensors = {"networks": _states(networks), "averaged": _states(averaged)}
    optimisers: dict[str, Any] = {}
    tensors["optimisers"] = {}
    for name, optimiser in updater.optimisers.items():
        parts, optimisers[name] = optimiser_parts(optimiser)
        tensors["optimisers"] |= {f"{name}:{key}": value for key, value in parts.items()}
    scaler = None if updater.scaler is None else updater.scaler.state_dict()
    plain = clock.__dict__ | {"losses": losses}
    return Saved(tensors, {"clock": plain, "optimisers": optimisers, "scaler": scaler})


def restore(
    saved: Saved, networks: Networks, averaged: Networks, updater: StepUpdater, *, rank: int, processes: int
) -> Clock:
    """Put a saved state back; returns the clock of this process."""
    _restore(networks, saved.tensors["networks"])
    _restore(averaged, saved.tensors["averaged"])
    for name, optimiser in updater.optimisers.items():
        own = _under(name, saved.tensors["optimisers"])
        restore_optimiser(optimiser, own, saved.state["optimisers"][name])
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


def _states(networks: Networks) -> Tensors:
    return {f"{name}:{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


def _restore(networks: Networks, tensors: Tensors) -> None:
    for name, network in networks.items():
        network.load_state_dict(_under(name, tensors))


def _under(name: str, tensors: Tensors) -> Tensors:
    return {key.removeprefix(f"{name}:"): value for key, value in tensors.items() if key.startswith(f"{name}:")}


# ------------------------------------------------------------------- averaging


def keep_share(images: int, batch: int, half_life: float, ramp: float) -> float:
    """Share of the old average that an update by ``batch`` pairs keeps when the clock reads ``images`` after it.

    ``0.5 ** (batch / h)`` with h = min(half_life, ramp * images); so the average does not depend on the batch size,
    and the start of a run is forgotten (Karras et al. 2020, "Training Generative Adversarial Networks with Limited
    Data", whose ramp-up this is). ``half_life=0`` keeps nothing.

    >>> keep_share(1000, 10, 10, 0), keep_share(1000, 10, 0, 0)
    (0.5, 0.0)
    """
    half = min(half_life, ramp * images) if ramp else half_life
    return 0.5 ** (batch / half) if half > 0 else 0.0


class Averages:
    """Averaged copies of some networks: float parameters are averaged, buffers and counters copied."""

    def __init__(self, networks: Mapping[str, nn.Module], names: Sequence[str], half_life: float, ramp: float) -> None:
        """Copies the networks as they are, so it comes before anything is compiled."""
        self.networks: dict[str, nn.Module] = {
            name: copy.deepcopy(networks[name]).eval().requires_grad_(False) for name in names
        }
        self._half_life, self._ramp = half_life, ramp

    @torch.no_grad()
    def update(self, networks: Mapping[str, nn.Module], images: int, batch: int) -> None:
        """Move towards ``networks`` after an update by ``batch`` pairs; the clock reads ``images`` now."""
        keep = keep_share(images, batch, self._half_life, self._ramp)
        for name, average in self.networks.items():
            current = networks[name]
            torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - keep)
            for old, new in zip(average.buffers(), current.buffers(), strict=True):
                old.copy_(new)
