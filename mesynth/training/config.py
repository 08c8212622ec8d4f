"""A training recipe: the task's own sections, its data, and how the run goes. One YAML file and ``key=value``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from mesynth.config import (
    FORMER_KEYS,
    by_former_names,
    check_adam,
    check_at_least_one,
    check_keys,
    fill,
    find_recipe,
    read_given,
    renamed,
    valid_keys,
)
from mesynth.core.errors import ConfigError
from mesynth.store.generator_folder import SHIPPED, Family, shipped_models, trained_family
from mesynth.store.run_folder import config_hash

PRECISIONS = ("fp32", "bf16", "fp16")
DECAYS = ("constant", "linear", "cosine")
# How a run is carried out, not what it computes: a run may resume with other values of these.
_EXECUTION = ("accumulate", "compile", "checkpoint_images", "checkpoint_minutes", "keep", "patience", "prefetch")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long and how to train. The clock counts images: one image is one pair of frames."""

    images: int = 1_000_000
    """Pairs to train on, rounded up to whole batches."""
    batch: int = 32
    """Pairs of one update over all processes."""
    accumulate: int = 1
    """Parts that each process cuts its share of a batch into: less memory, the same update."""
    precision: str = "fp32"
    """fp32, bf16 or fp16 (the last on CUDA only)."""
    compile: bool = False
    """Compile the networks with torch.compile."""
    clip: float = 0.0
    """Largest gradient norm of an optimiser; 0: no limit."""
    warmup: int = 0
    """Images over which learning rates rise linearly."""
    decay: str = "constant"
    """How learning rates fall from the warm-up to the end: constant, linear or cosine (both to 0)."""
    half_life: int = 10_000
    """Half-life of the averaged weights in images; 0: the weights themselves."""
    half_life_ramp: float = 0.05
    """The half-life is at most this share of the images so far, so that the start is forgotten; 0: no ramp."""
    log_images: int = 1_000
    """Images between two lines of training losses."""
    validate_images: int = 50_000
    """Images between two validations (each with a sample sheet); the last image is always one."""
    validation: int = 64
    """Fixed pairs of every validation."""
    sheet: int = 8
    """Of them, pairs shown on the sample sheet; 0: no sheet."""
    checkpoint_images: int = 50_000
    """Images between two checkpoints; 0: by time alone."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints; 0: by images alone."""
    keep: int = 2
    """Newest checkpoints kept."""
    patience: int = 3
    """Validations in a row with a known failure that end the run; 0: failures are reported only."""
    prefetch: int = 2
    """Batches prepared ahead, each in a thread of its own (at most one a core); 0: none."""
    seed: int = 0
    start: Path | None = None
    """Initial weights: a saved generator (a folder, or the name of one that ships), or the folder of a finished run."""

    def __post_init__(self) -> None:
        least = ("images", "batch", "accumulate", "log_images", "validate_images", "validation", "keep")
        check_at_least_one("run", self, *least)
        names = ("clip", "warmup", "half_life", "half_life_ramp", "sheet", "checkpoint_images")
        for name in (*names, "checkpoint_minutes", "patience", "prefetch", "seed"):
            value = getattr(self, name)
            if value < 0 or not math.isfinite(value):
                raise ConfigError(f"run.{name}={value} must not be negative")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"run.precision={self.precision} is unknown; choose {', '.join(PRECISIONS)}")
        if self.decay not in DECAYS:
            raise ConfigError(f"run.decay={self.decay} is unknown; choose {', '.join(DECAYS)}")
        if self.warmup > self.images:
            raise ConfigError(f"run.warmup={self.warmup} is longer than the run; at most run.images={self.images}")
        if not self.checkpoint_images and not self.checkpoint_minutes:
            raise ConfigError("run.checkpoint_images=0 and run.checkpoint_minutes=0: set one, or a kill loses the run")

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return -(-self.images // self.batch)

    @property
    def scheduled(self) -> bool:
        """Whether the loop changes learning rates (else they are the task's own)."""
        return bool(self.warmup) or self.decay != "constant"

    def rate(self, images: int) -> float:
        """Share of its learning rate that an optimiser has after ``images`` pairs."""
        if images < self.warmup:
            return (images + self.batch) / (self.warmup + self.batch)
        done = min((images - self.warmup) / max(self.steps * self.batch - self.warmup, 1), 1.0)
        return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[self.decay]

    def idle(self) -> dict[str, str]:
        """Keys without effect, and why."""
        idle = {}
        if self.half_life == 0:
            idle["half_life_ramp"] = "run.half_life=0 averages nothing"
        if self.start is None:
            idle["start"] = "it names no generator"
        return idle


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """The section ``optim`` of families with a generator and judges of it: Adam at two rates."""

    lr: float = 1e-4
    """Of the generator."""
    lr_critic: float = 1e-4
    """Of what judges it."""
    beta1: float = 0.5
    beta2: float = 0.999

    def __post_init__(self) -> None:
        check_adam(self)


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """The section ``optim`` of families with one network: AdamW."""

    lr: float = 1e-3
    """Learning rate."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        check_adam(self, most=100)


_LATER: dict[str, dict[str, object]] = {
    "data": {
        "yaw": 0.0, "rigs": 0.0, "expressive": 0.0, "landmark_noise": 0.0,
        "glasses": 0.0, "brow_hair": 0.0, "focal": 0.0,
    },
    "data.camera": {"grey": 0.0},
    "model": {"face": False, "layered": False, "spread": 1.0},
    "loss": {"squared": 1.0, "picture": 0.0, "st_lpips": 0.0},
    "sampling": {"spread": 1.0},
}  # fmt: skip
"""Keys that recipes did not have at first, by section, as they were then: runs of before keep their hash."""


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe. ``config`` is the task's, ``data`` the pairs'."""

    task: str
    config: Any
    data: Any
    run: RunConfig

    def plain(self) -> dict[str, Any]:
        """Every key that has an effect, in the recipe's own layout: as YAML it loads again."""
        made = _by_section(self.config, self.data, self.run)
        plain = {"task": self.task, **asdict(self.config), "data": asdict(self.data), "run": asdict(self.run)}
        for key in _idle(made):
            _drop(plain, key.split("."))
        return plain

    def identity(self, start: str = "") -> dict[str, Any]:
        """What the result depends on: no paths (hashes stand for them), nothing of how it is carried out.

        ``start`` is the hash of the weights in ``run.start``; the data's own hash is noted in the run's record.
        """
        plain = self.plain()
        for key in _EXECUTION:
            plain["run"].pop(key, None)
        for section, defaults in _LATER.items():
            inner: dict[str, Any] = plain
            for part in section.split("."):
                inner = inner.get(part) or {}
            for key, value in defaults.items():
                if inner.get(key) == value:
                    inner.pop(key)
        plain = by_former_names(_without_paths(plain), _former(self.task))
        if (teacher := plain.get("distil", {}).get("teacher")) in shipped_models():
            # Recipes named its folder before they could name the model: runs of before keep their hash.
            plain["distil"]["teacher"] = f"mesynth/generators/data/{teacher}"
        return plain | ({"start": start} if start else {})

    def hash(self, start: str = "") -> str:
        """sha256 of :meth:`identity`."""
        return config_hash(self.identity(start))

    def yaml(self) -> str:
        """:meth:`plain` as YAML."""
        return str(yaml.safe_dump(_yaml_values(self.plain()), sort_keys=False))


def load_recipe(file: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Defaults, then a recipe (a file or a name, see :func:`mesynth.config.find_recipe`), then ``key=value`` overrides.

    A configuration class may define ``idle() -> {key: why}``: naming such a key in a recipe is refused.

    Raises:
        ConfigError: an unknown task or key (with the nearest valid ones), a value of the wrong type or out of
            range, a key without effect.
    """
    given = read_given(file, overrides)
    name = given.values.get("task")
    if not isinstance(name, str):
        raise ConfigError(f"{file} names no task; its first line is for example 'task: motion_gan'")
    family = trained_family(name)
    given = renamed(given, _former(name), quiet=SHIPPED in find_recipe(file).resolve().parents)
    kinds = _sections(family)
    valid = {"task", *kinds, *(f"{section}.{key}" for section, kind in kinds.items() for key in valid_keys(kind))}
    check_keys(given, valid)
    made = {section: fill(kind, given.values.get(section) or {}, section) for section, kind in kinds.items()}
    try:
        config = family.config_class(**{f.name: made[f.name] for f in fields(family.config_class)})
    except TypeError as error:
        raise ConfigError(f"{file}: {error}") from None
    for idle, why in _idle(_by_section(config, made["data"], made["run"])).items():
        for key in given.keys:
            if key == idle or key.startswith(idle + "."):
                raise ConfigError(f"{key} has no effect: {why}")
    return Recipe(name, config, made["data"], made["run"])


def _former(task: str) -> dict[str, str]:
    return {**FORMER_KEYS[""], **FORMER_KEYS.get(task, {})}


def _sections(family: Family) -> dict[str, type[Any]]:
    hints = get_type_hints(family.config_class)
    own = {f.name: hints[f.name] for f in fields(family.config_class)}
    return {**own, "data": family.source.config, "run": RunConfig}


def _by_section(config: Any, data: Any, run: Any) -> dict[str, Any]:
    return {"": config, **{f.name: getattr(config, f.name) for f in fields(config)}, "data": data, "run": run}


def _idle(made: Mapping[str, Any]) -> dict[str, str]:
    """Full keys without effect, and why, as the configurations themselves say."""
    return {
        f"{section}.{key}" if section else key: why
        for section, value in made.items()
        if hasattr(value, "idle")
        for key, why in value.idle().items()
    }


def _drop(plain: dict[str, Any], path: Sequence[str]) -> None:
    *sections, last = path
    for section in sections:
        plain = plain.get(section, {})
    plain.pop(last, None)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if not _is_path(item)}
    return value


def _is_path(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_path, value))
    return isinstance(value, Path)


def _yaml_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _yaml_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_yaml_values(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
