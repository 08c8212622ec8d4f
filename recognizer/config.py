"""Configuration: frozen dataclasses beside their owners, put together, checked, and saved as used.

A key nobody reads is an error, whether it is misspelt or belongs to a model that is not trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mesynth.config import load_recipe
from mesynth.core.errors import ConfigError
from recognizer.data import DataConfig
from recognizer.fitting import needs_of
from recognizer.models import CLOSED, LDA, MODELS, NETWORKS
from recognizer.models.sections import ModelSections
from recognizer.modes import FUSE, MODES, POOL, PRETRAIN, PRIOR, SYNTHETIC_ONLY, MixConfig
from recognizer.protocol import ARMS, ProtocolConfig
from recognizer.tasks import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig(ModelSections):
    """One model under one protocol (`recognizer loso`, `recognizer train`)."""

    model: str = LDA
    seeds: tuple[int, ...] = (0,)
    """Each seed draws its own synthetic clips, initial weights and batches."""
    data: DataConfig = field(default_factory=DataConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        _require_models([self.model], "model")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds={list(self.seeds)} must be different numbers >= 0, at least one")

    @property
    def used_models(self) -> tuple[str, ...]:
        """The models this configuration trains."""
        return (self.model,)

    @property
    def used_modes(self) -> tuple[str, ...]:
        """The mixing modes it trains them in."""
        return (self.mix.mode,)


@dataclass(frozen=True, kw_only=True)
class AblationConfig(RunConfig):
    """Models x mixing modes x sources x real subjects x arms x ratios x seeds (`recognizer ablate`)."""

    models: tuple[str, ...] = (LDA, "capsule_graph")
    modes: tuple[str, ...] = (PRIOR,)
    """Mixing modes, see mix.mode. A model takes part in those it can (pretrain is for networks)."""
    per_source: bool = False
    """Each synthetic corpus by itself, too, beside all of them pooled: which generator helps?"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seed draws its own synthetic clips, initial weights, batches, and real subjects where they are few."""
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0)
    """Added clips per real training clip. 0 is always run: all else is compared with it."""
    controls: tuple[str, ...] = ()
    """shuffled, synthetic-only, duplicates, mirror, magnified, augmented: run at every ratio above 0."""
    train_subjects: tuple[int, ...] = (0,)
    """Real subjects a fold may learn from, each its own curve; 0 = all of them."""
    resamples: int = 2000
    """Bootstrap and permutation draws; comparisons get more where there are many of them to correct for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("models", "modes", "controls", "train_subjects"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        object.__setattr__(self, "ratios", tuple(sorted({0.0, *map(float, self.ratios)})))
        _require_models(self.models, "models")
        for key, known in (("controls", ARMS[1:]), ("modes", MODES)):
            for value in getattr(self, key):
                if value not in known:
                    raise ConfigError(f"{key}: '{value}' is unknown; choose from {', '.join(known)}")
        if not self.modes:
            raise ConfigError(f"modes is empty; choose from {', '.join(MODES)}")
        if self.ratios[0] < 0:
            raise ConfigError(f"ratios={list(self.ratios)} must not be negative")
        if not self.train_subjects or min(self.train_subjects) < 0:
            raise ConfigError(f"train_subjects={list(self.train_subjects)} must be 0 (all) or positive numbers")
        if self.resamples < 100:
            raise ConfigError(f"resamples={self.resamples} is too few for an interval; 2000 is usual")
        if "magnified" in self.controls and self.data.normalise == "robust":
            raise ConfigError(
                "controls: data.normalise=robust divides the size of the motion out, so magnified copies are "
                "duplicates; leave magnified out, or choose data.normalise=none"
            )

    @property
    def used_models(self) -> tuple[str, ...]:
        return self.models

    @property
    def used_modes(self) -> tuple[str, ...]:
        return self.modes

    def for_model(self, model: str, mode: str | None = None) -> RunConfig:
        """The configuration of one of the models, in one of the modes."""
        values = {f.name: getattr(self, f.name) for f in fields(RunConfig)}
        return RunConfig(**(values | {"model": model, "mix": replace(self.mix, mode=mode or self.modes[0])}))


def _require_models(names: Sequence[str], key: str) -> None:
    for name in names:
        if name not in MODELS:
            raise ConfigError(f"{key}: '{name}' is unknown; choose from {', '.join(MODELS)}")
    if not names:
        raise ConfigError(f"{key} is empty; choose from {', '.join(MODELS)}")


Config = TypeVar("Config", bound=RunConfig)


# ---------------------------------------------------------------- what has an effect


def idle_keys(config: RunConfig, *, synthetic: bool) -> dict[str, str]:
    """Key prefixes without effect in this configuration, and why."""
    used = config.used_models
    networks = any(model in NETWORKS for model in used)
    idle = {model: f"model {', '.join(used)} does not read it" for model in MODELS if model not in used}
    seen = needs_of(config)
    if "frames" not in seen:
        idle["data.frames"] = f"model {', '.join(used)} does not see whole clips"
        if "apex" not in seen:
            idle["data.frame_size"] = f"model {', '.join(used)} sees flow alone"
    loss = config.train.loss
    if loss.kind != "focal":
        idle["train.loss.gamma"] = f"train.loss.kind={loss.kind} has no gamma"
    if loss.kind in ("native", "margin"):
        idle["train.loss.class_weights"] = f"train.loss.kind={loss.kind} weighs no classes"
    if not synthetic or POOL not in config.used_modes:
        idle["train.loss.domain"] = "real and synthetic clips share no batch; it takes --synthetic and mix.mode=pool"
    if not networks:
        idle["train"] = f"model {', '.join(used)} is not trained in steps"
    if config.protocol.kind != "kfold":
        idle["protocol.groups"] = idle["protocol.seed"] = f"protocol.kind={config.protocol.kind} has no groups"
    if isinstance(config, AblationConfig):
        idle["model"] = "an ablation reads 'models'"
        idle["mix.ratio"] = "an ablation reads 'ratios'"
        idle["train.start"] = idle["train.teacher"] = "the cells of an ablation begin with nothing learned before"
        idle["mix.mode"] = "an ablation reads 'modes'"
    if not synthetic:
        idle["mix"] = "there are no synthetic clips; pass --synthetic"
        return idle
    modes, closed = set(config.used_modes), set(CLOSED) & set(used)
    chosen = f"mix.mode={', '.join(config.used_modes)} with model {', '.join(used)}"
    if PRIOR not in modes or not closed:
        idle["mix.prior_weight"] = f"{chosen} has no prior weight"
    if not modes & {PRIOR, PRETRAIN} or not networks:
        idle["mix.pretrain_steps"] = idle["mix.finetune_lr"] = f"{chosen} does not pretrain"
    if PRIOR not in modes or not networks:
        idle["mix.pull"] = f"{chosen} has no pull"
    if FUSE not in modes:
        idle["mix.fuse_weight"] = f"{chosen} fuses nothing"
    if modes == {SYNTHETIC_ONLY} and not isinstance(config, AblationConfig):
        idle["mix.align"] = f"{chosen} has no real clips to align to"
    return idle


def effective(config: RunConfig, *, synthetic: bool) -> dict[str, Any]:
    """The configuration as a plain dict, without the keys that have no effect: this is saved and hashed."""
    plain = json.loads(json.dumps(asdict(config)))
    for key in idle_keys(config, synthetic=synthetic):
        *path, last = key.split(".")
        node = plain
        for part in path:
            node = node.get(part, {})
        node.pop(last, None)
    # How many members are trained at once, and where, does not change the result.
    plain.get("train", {}).pop("stack", None)
    plain.get("train", {}).pop("device", None)
    return {key: value for key, value in plain.items() if value != {}}


def config_yaml(config: RunConfig, *, synthetic: bool) -> str:
    """The effective configuration as YAML; loading it gives the same run."""
    return str(yaml.safe_dump(effective(config, synthetic=synthetic), sort_keys=False))


def config_hash(config: RunConfig, *, synthetic: bool) -> str:
    """sha256 of :func:`effective`."""
    return hashlib.sha256(json.dumps(effective(config, synthetic=synthetic), sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- loading


def load_config(
    kind: type[Config], file: Path | str | None = None, overrides: Sequence[str] = (), *, synthetic: bool = True
) -> Config:
    """Defaults, then a YAML file, then ``key=value`` overrides.

    Raises:
        ConfigError: an unknown key (with the nearest valid ones), a value of the wrong type or out of
            range, or a key without effect in this run.
    """
    config, keys = load_recipe(kind, file, overrides)
    for prefix, why in idle_keys(config, synthetic=synthetic).items():
        for key in keys:
            if key == prefix or key.startswith(prefix + "."):
                raise ConfigError(f"{key} has no effect: {why}")
    closed = sorted(set(CLOSED) & set(config.used_models))
    alone = set(config.used_modes) == {PRETRAIN}
    if alone and closed and synthetic:
        raise ConfigError(f"mix.mode=pretrain is for networks; choose mix.mode=prior or pool with model {closed[0]}")
    return config
