"""The one table of generator families: what a name in a recipe or in a saved folder stands for.

A family is one :class:`Family` record. Its parts are ``"module:attribute"`` texts, imported when they are asked for, so
that the table can be read without torch; in Python the objects themselves do as well. Packages add families by an
entry point of the group ``mesynth.generators`` that names such a record, or by
:func:`mesynth.generators.register_family`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mesynth.core.errors import ConfigError
from mesynth.core.registry import Registry

UNTRAINED = ("motion-prior", "landmark-mean")
"""Generators that learned from nobody and have no folder (:mod:`mesynth.motion.prior`); their frames are warped."""


@dataclass(frozen=True)
class Source:
    """Where training data come from."""

    config: type[Any]
    """Frozen dataclass, the section ``data`` of a recipe; it has ``size``, the side of the pictures in pixels."""
    open: Callable[..., Any]
    """``open(config, *, exclude_subjects, cache, seed, workers, progress)`` -> (training pairs, validation pairs)."""
    subjects: Callable[[Any], tuple[str, ...]]
    """``database/subject`` of everyone that training on a configuration may show."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What mesynth has to know of a generator family.

    >>> FAMILIES["motion_gan"].frames, FAMILIES["flow_gan"].frames
    (True, False)
    """

    pipeline: str | Callable[[Path, Any], Any]
    """``load(folder, facts) -> Generator`` of a saved folder whose files were checked."""
    task: str | Callable[[Any, int], Any] = ""
    """``(configuration, size in pixels) ->`` :class:`mesynth.training.task.Task`; empty: it cannot be trained here."""
    config: str | type[Any] = ""
    """Frozen dataclass; each of its fields is a section of a recipe (model, loss, optim)."""
    data: str | Source = "mesynth.training.data.pairs:SOURCE"
    """What it learns from."""
    frames: bool = True
    """Whether it makes clips of a face; else flow images alone, by ``flows(seeds=, aus=, size=)``."""
    paints_frames: bool = False
    """Whether its network runs for every frame; else frames are made by warping."""
    diffusion: bool = False
    """Whether motion is drawn by a diffusion sampler."""
    mean_network: str | type[Any] = ""
    """Class of its network ``generator``, where that gives the same picture for the same request, so that an
    ``image_diffusion`` may draw around it (docs/decisions/015)."""

    def load(self, folder: Path, facts: Any) -> Any:
        """The generator in ``folder``; ``facts``: its :class:`~mesynth.store.generator_folder.GeneratorFacts`."""
        return _resolved(self.pipeline)(folder, facts)

    def build_task(self, config: Any, size: int) -> Any:
        """The task of a configuration, for pictures of ``size`` pixels."""
        return _resolved(self.task)(config, size)

    @property
    def config_class(self) -> type[Any]:
        """See :attr:`config`."""
        found: type[Any] = _resolved(self.config)
        return found

    @property
    def source(self) -> Source:
        """See :attr:`data`."""
        found: Source = _resolved(self.data)
        return found

    @property
    def mean_network_class(self) -> type[Any]:
        """See :attr:`mean_network`."""
        found: type[Any] = _resolved(self.mean_network)
        return found


def _resolved(part: Any) -> Any:
    if not isinstance(part, str):
        return part
    module, _, attribute = part.partition(":")
    return getattr(import_module(module), attribute)


def _shipped(name: str, pipeline: str, task: str, **properties: Any) -> Family:
    room = f"mesynth.generators.{name}"
    mean = properties.pop("mean_network", "")
    return Family(
        pipeline=f"{room}.network:{pipeline}",
        task=f"{room}.task:{task}",
        config=f"{room}.config:Config",
        mean_network=mean and f"{room}.network:{mean}",
        **properties,
    )


FAMILIES: Registry[Family] = Registry(
    "generator family",
    "mesynth.generators",
    {
        "motion_gan": _shipped("motion_gan", "load", "MotionGANTask", mean_network="MotionGenerator"),
        "au_icgan": _shipped("au_icgan", "load", "AUICGANTask", paints_frames=True, mean_network="AUICGenerator"),
        "ice_gan": _shipped("ice_gan", "load", "ICEGANTask", paints_frames=True),
        "flow_gan": _shipped("flow_gan", "load", "FlowGANTask", frames=False),
        "motion_diffusion": _shipped("motion_diffusion", "load", "MotionDiffusionTask", diffusion=True),
        "image_diffusion": _shipped("image_diffusion", "load", "ImageDiffusionTask"),
        "flow_volume": _shipped(
            "flow_volume", "load", "FlowVolumeTask", diffusion=True, data="mesynth.training.data.sequences:SOURCE"
        ),
    },
)


def trained_family(name: str) -> Family:
    """The family that a recipe's ``task`` names.

    Raises:
        ConfigError: there is none of that name, or it cannot be trained by mesynth.
    """
    family = FAMILIES[name]
    if not family.task or not family.config:
        raise ConfigError(f"generator family '{name}' cannot be trained by mesynth; choose another task")
    return family


def has_property(name: str, prop: str) -> bool:
    """Whether ``name`` is a family with a property: ``frames``, ``paints_frames`` or ``diffusion``."""
    return name in FAMILIES and bool(getattr(FAMILIES[name], prop))


def makes_frames(name: str) -> bool:
    """Whether generators called ``name`` make clips of a face: all but some families (UNTRAINED are none)."""
    return name not in FAMILIES or FAMILIES[name].frames
