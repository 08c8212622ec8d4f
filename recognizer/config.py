"""Configuration: frozen dataclasses beside their owners, put together, checked, and saved as used.

A key nobody reads is an error, whether it is misspelt or belongs to a model that is not trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mesynth.errors import ConfigError
from mesynth.recipe import load_recipe
from recognizer.data import DataConfig
from recognizer.fitting import MixConfig
from recognizer.models import LDA, MODELS, NETWORKS
from recognizer.models.capsule_graph import CapsuleGraphConfig
from recognizer.models.lda import LdaConfig
from recognizer.models.region_attention import RegionAttentionConfig
from recognizer.models.ststnet import StstnetConfig
from recognizer.protocol import ARMS, ProtocolConfig
from recognizer.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One model under one protocol (`recognizer loso`, `recognizer train`)."""

    model: str = LDA
    seeds: tuple[int, ...] = (0,)
    """Each seed draws its own synthetic clips, initial weights and batches."""
    data: DataConfig = field(default_factory=DataConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    lda: LdaConfig = field(default_factory=LdaConfig)
    capsule_graph: CapsuleGraphConfig = field(default_factory=CapsuleGraphConfig)
    region_attention: RegionAttentionConfig = field(default_factory=RegionAttentionConfig)
    ststnet: StstnetConfig = field(default_factory=StstnetConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        _require_models([self.model], "model")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"seeds={list(self.seeds)} must be different numbers >= 0, at least one")

    @property
    def used_models(self) -> tuple[str, ...]:
        """The models this configuration trains."""
        return (self.model,)


@dataclass(frozen=True, kw_only=True)
class AblationConfig(RunConfig):
    """Models x ratios x seeds, with controls (`recognizer ablate`)."""

    models: tuple[str, ...] = (LDA, "capsule_graph")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0)
    """Synthetic clips per real training clip. 0 is always run: all else is compared with it."""
    controls: tuple[str, ...] = ()
    """shuffled, duplicates, synthetic-only: run at every ratio above 0."""
    train_subjects: tuple[int, ...] = (0,)
    """Real subjects a fold may learn from, each its own curve; 0 = all of them."""
    resamples: int = 2000
    """Bootstrap and permutation draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("models", "controls", "train_subjects"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "ratios", tuple(sorted({0.0, *map(float, self.ratios)})))
        _require_models(self.models, "models")
        for control in self.controls:
            if control not in ARMS[1:]:
                raise ConfigError(f"controls: '{control}' is unknown; choose from {', '.join(ARMS[1:])}")
        if self.ratios[0] < 0:
            raise ConfigError(f"ratios={list(self.ratios)} must not be negative")
        if not self.train_subjects or min(self.train_subjects) < 0:
            raise ConfigError(f"train_subjects={list(self.train_subjects)} must be 0 (all) or positive numbers")
        if self.resamples < 100:
            raise ConfigError(f"resamples={self.resamples} is too few for an interval; 2000 is usual")

    @property
    def used_models(self) -> tuple[str, ...]:
        return self.models

    def for_model(self, model: str) -> RunConfig:
        """The configuration of one of the models."""
        values = {f.name: getattr(self, f.name) for f in fields(RunConfig)}
        return RunConfig(**(values | {"model": model}))


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
    if not networks:
        idle["train"] = f"model {', '.join(used)} is not trained in steps"
    if config.protocol.kind != "kfold":
        idle["protocol.groups"] = idle["protocol.seed"] = f"protocol.kind={config.protocol.kind} has no groups"
    if isinstance(config, AblationConfig):
        idle["model"] = "an ablation reads 'models'"
        idle["mix.ratio"] = "an ablation reads 'ratios'"
    if not synthetic:
        idle["mix"] = "there are no synthetic clips; pass --synthetic"
        return idle
    mode = config.mix.mode
    if mode != "prior" or LDA not in used:
        idle["mix.prior_weight"] = f"mix.mode={mode} with model {', '.join(used)} has no prior weight"
    if mode == "pool" or not networks:
        why = f"mix.mode={mode} with model {', '.join(used)} does not pretrain"
        idle["mix.pretrain_steps"] = idle["mix.finetune_lr"] = why
    if mode != "prior" or not networks:
        idle["mix.pull"] = f"mix.mode={mode} with model {', '.join(used)} has no pull"
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
    # How many members are trained at once does not change the result.
    plain.get("train", {}).pop("stack", None)
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
    if config.mix.mode == "pretrain" and LDA in config.used_models and synthetic:
        raise ConfigError("mix.mode=pretrain is for networks; choose mix.mode=prior or pool with model lda")
    return config
