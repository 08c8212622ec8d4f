"""Which generator families can be trained: a fixed table, so that a recipe names a task and never a module."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mesynth.core.errors import ConfigError
from mesynth.training.task import Task

TASKS: dict[str, str] = {
    "motion_gan": "mesynth.generators.motion_gan.task",
    "au_icgan": "mesynth.generators.au_icgan.task",
    "ice_gan": "mesynth.generators.ice_gan.task",
    "flow_gan": "mesynth.generators.flow_gan.task",
    "motion_diffusion": "mesynth.generators.motion_diffusion.task",
    "image_diffusion": "mesynth.generators.image_diffusion.task",
    "flow_volume": "mesynth.generators.flow_volume.task",
}
PAIRS = "mesynth.training.data.pairs"
DATA: dict[str, str] = {"flow_volume": "mesynth.training.data.sequences"}
"""Tasks that learn from something else than pairs, and the module it comes from."""


@dataclass(frozen=True)
class Entry:
    """What a task module defines."""

    name: str
    config: type[Any]
    """Frozen dataclass; each of its fields is a section of the recipe (model, loss, optim)."""
    build: Callable[[Any, int], Task]
    """(configuration, picture size in pixels) -> the task."""


@dataclass(frozen=True)
class Data:
    """Where pairs come from."""

    config: type[Any]
    open: Callable[..., Any]
    """``open(config, *, exclude_subjects, cache, seed, workers, progress)`` -> (training pairs, validation pairs)."""
    subjects: Callable[[Any], tuple[str, ...]]
    """``database/subject`` of everyone that training on a configuration may show."""


def find_task(name: str) -> Entry:
    """The task called ``name``, imported now.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"task '{name}' is unknown; {hint}there are: {', '.join(sorted(TASKS))}")
    module = importlib.import_module(TASKS[name])
    return Entry(name, module.Config, module.TASK)


def find_data(task: str = "") -> Data:
    """Where the data of a task come from, imported now: pairs, unless the task has a source of its own."""
    module = importlib.import_module(DATA.get(task, PAIRS))
    return Data(module.PairConfig, module.open_pairs, module.list_subjects)
