"""What a run stands on: checkpoints, averages of networks, and initial weights from a saved generator.

A checkpoint is a folder ``checkpoints/000012000`` named after the clock: tensors as safetensors, numbers as JSON,
complete or not there at all. It is written beside its place and renamed, its ``SHA256SUMS`` lists every file, and the
newest ones are kept, so a kill at any moment, a full disk or a damaged file costs at most the images since the one
before. Nothing is pickled. It holds all there is to know about a run between two updates, exponential moving averages
of its networks (with a half-life in images) included.

Initial weights: which ones, whom they have seen, and whether they fit.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from mesynth.core.errors import ConfigError, LeakError, MesynthError, RunFolderError, first_line
from mesynth.store import digests
from mesynth.store.generator_folder import INDEX, WEIGHTS, GeneratorFacts, read_facts, saved_folder, shipped_models
from mesynth.training.config import Recipe
from mesynth.training.record import GENERATOR, RECIPE
from mesynth.training.task import StepUpdater, Task

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
        reason = first_line(error)
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


# ---------------------------------------------------------------- initial weights


_NOT_ARCHITECTURE = ("size", "steps", "solver", "guidance")
"""Configuration that may differ: a network without a layer of a fixed size can go on with larger pictures, and how one
samples is no part of it."""


def refuse_leak(what: str, facts: GeneratorFacts, subjects: Collection[str]) -> None:
    """Raises LeakError if a generator that a run learns from, ``what``, has learned from one of ``subjects``."""
    leaked = sorted(set(subjects) & set(facts.subjects_seen))
    if leaked:
        raise LeakError(
            f"{what} has learned from {leaked[0]}, who must not be seen; "
            f"begin with a generator that never saw them, or without {what.partition('=')[0]}"
        )


@dataclass(frozen=True)
class InitialWeights:
    """A checked saved generator to begin with."""

    name: str
    """As the recipe names it."""
    folder: Path
    facts: GeneratorFacts

    @property
    def sha256(self) -> str:
        """Of its weights; where the folder lies does not matter."""
        return self.facts.weights_sha256

    def refuse_leak(self, subjects: Collection[str]) -> None:
        """Raises LeakError if the generator learned from one of ``subjects``."""
        refuse_leak(f"run.start={self.name}", self.facts, subjects)

    def load_into(self, task: Task) -> None:
        """Put the saved weights into the networks of ``task`` that they may begin; all must be there and fit.

        Raises:
            ConfigError: another family, or another architecture (the first difference is named).
        """
        begun = task.begun_by(self.facts.name)
        if not begun:
            raise ConfigError(
                f"run.start={self.name} holds weights of {self.facts.name}; this recipe trains {task.name}"
            )
        for name in begun:
            if name not in self.facts.networks:
                raise ConfigError(
                    f"run.start={self.name} holds no network '{name}' (only {', '.join(self.facts.networks)}); "
                    "choose another generator"
                )
        for name in self.facts.networks:
            if name not in begun:
                continue
            saved = load_file(self.folder / name / WEIGHTS)
            configured = json.loads((self.folder / name / "config.json").read_text())
            difference = _difference(begun[name], configured, saved)
            if difference:
                raise ConfigError(
                    f"run.start={self.name} has another architecture: {name}: {difference}; "
                    "give the recipe the model section it was trained with"
                )
            begun[name].load_state_dict(saved)


def open_initial(recipe: Recipe) -> InitialWeights | None:
    """The generator that ``run.start`` names, every file of it checked; None where it names none.

    Raises:
        ConfigError: nothing there, or a run that has not finished.
        PipelineError: a damaged or foreign folder, or one that does not say whom it learned from.
    """
    given = recipe.run.start
    if given is None:
        return None
    folder = saved_folder(given)
    if not folder.is_dir():
        known = ", ".join(shipped_models())
        raise ConfigError(
            f"run.start={given} is no folder; give a saved generator, the folder of a finished run, or one that ships "
            f"({known})"
        )
    if not (folder / INDEX).is_file() and (folder / RECIPE).is_file():
        folder = folder / GENERATOR
        if not folder.is_dir():
            raise ConfigError(f"run.start={given} is a run that has not finished; train it to its end first")
    facts = read_facts(folder)
    if not facts.subjects_seen:
        raise ConfigError(f"run.start={given} does not say whom it learned from (subjects_seen is empty); retrain it")
    return InitialWeights(str(given), folder, facts)


def _difference(network: nn.Module, configured: Mapping[str, Any], saved: Mapping[str, torch.Tensor]) -> str:
    """The first difference between a network and what was saved, or ""."""
    own = dict(getattr(network, "config", {}))
    for key in sorted(own.keys() & configured.keys()):
        if key.startswith("_") or key in _NOT_ARCHITECTURE:
            continue
        # As JSON has it: a tuple was saved as a list.
        here, there = (json.dumps(value, default=str) for value in (own[key], configured[key]))
        if here != there:
            return f"{key} is {here} here and {there} there"
    state = network.state_dict()
    for key in (*state, *(key for key in saved if key not in state)):
        if key not in saved or key not in state:
            return f"{key} is missing {'there' if key in state else 'here'}"
        if state[key].shape != saved[key].shape:
            return f"{key} is {list(state[key].shape)} here and {list(saved[key].shape)} there"
    return ""
