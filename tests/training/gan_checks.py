"""What the tests of the picture GANs' tasks share: training on one batch or a few people, parts, facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from mesynth.core import facs, seeds
from mesynth.store.generator_folder import GeneratorFacts
from mesynth.training.data.batches import Batch
from mesynth.training.task import Task
from tests.training.rendered import PlainUpdater, take

CODES = (4, 12)
"""AUs of the short trainings: one of the brows, one of the mouth."""


def labelled(batch: Batch) -> Batch:
    """Class positive where AU 12 is the stronger, negative elsewhere."""
    by_code = [batch.aus[:, facs.AU_INDEX[code]].amax(1) for code in CODES]
    return replace(batch, label=(by_code[1] >= by_code[0]).long())


def rows(batch: Batch, which: slice) -> Batch:
    """A part of a batch."""
    return batch.rows(np.arange(len(batch))[which])


def fit(task: Task, columns: dict[str, np.ndarray], steps: int, batch: int) -> list[dict[str, torch.Tensor]]:
    """Short training on random rows; the log of every step."""
    rng, updater, log = seeds.stream(0, "fit"), PlainUpdater(task.optimisers()), []
    for i in range(steps):
        chosen = rng.integers(0, len(columns["aus"]), batch)
        log.append(task.step(labelled(take(columns, chosen)), i * batch, updater))
    for network in task.networks.values():
        network.eval()
    return log


def level(log: list[dict[str, torch.Tensor]], name: str) -> float:
    """Where a loss has come to: its mean over the last ten steps."""
    return float(torch.stack([step[name] for step in log[-10:]]).mean())


def repeat(task: Task, batch: Batch, steps: int) -> list[dict[str, torch.Tensor]]:
    """The same batch again and again."""
    updater = PlainUpdater(task.optimisers())
    return [task.step(batch, i * len(batch), updater) for i in range(steps)]


def measured(task: Task, batch: Batch) -> dict[str, float]:
    """Means of a validation, as the loop takes them (NaN left out)."""
    with torch.no_grad():
        values = task.validate({name: task.networks[name].eval() for name in task.averaged}, batch)
    for name, value in values.items():
        assert value.shape == (len(batch),), name
    return {name: float(value.nanmean()) for name, value in values.items()}


def by_intensity(
    task: Task, batch: Batch, draw: Callable[[torch.Tensor], torch.Tensor], code: int, half: slice
) -> list[float]:
    """Mean of ``draw(aus)`` [B,S,S] over the rows ``half`` of the picture, for an AU at rest, at .1, .2 up to 1."""
    out = []
    for intensity in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0):
        aus = torch.zeros_like(batch.aus)
        aus[:, facs.AU_INDEX[code]] = intensity
        with torch.no_grad():
            out.append(float(draw(aus)[:, half].mean()))
    return out


class Losses:
    """An updater that notes the losses and changes nothing."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def update(self, name: str, loss: torch.Tensor) -> None:
        """See mesynth.training.task.Updater."""
        self.seen[name] = float(loss.detach())


def losses(task: Task, batch: Batch) -> dict[str, float]:
    """Of one step without an update; networks in evaluation mode, so that spectral norm stands still."""
    for network in task.networks.values():
        network.eval()
    updater = Losses()
    task.step(batch, 0, updater)
    return updater.seen


def facts(name: str, size: int = 32) -> GeneratorFacts:
    """Of a run on two people."""
    return GeneratorFacts(
        name=name, size=size, subjects_seen=("rendered/a", "rendered/b"), licences=("CC0-1.0",),
        data_hash="d", config_hash="c", images=12, seed=3, code_version="0", figures={"error": 0.5},
    )  # fmt: skip
