"""Configuration: frozen dataclasses beside their owners, put together, checked, and saved as used.

A key nobody reads is an error, whether it is misspelt or belongs to a model that is not trained. The section of a model
that others bring (:mod:`recognizer.models`) is one more field of the configurations that name it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import yaml

from mesynth.config import load_recipe
from mesynth.core.errors import ConfigError
from recognizer.aus import AUS, BOTH, EMOTION, INNER, TASKS, AusConfig
from recognizer.data import BYTES, FLOW, MATCH, DataConfig, FlowTransform
from recognizer.mixing import FUSE, MODES, POOL, PRETRAIN, PRIOR, SYNTHETIC_ONLY, MixConfig
from recognizer.models import (
    CLOSED,
    FEATURES,
    INPUTS,
    LDA,
    MODELS,
    NETWORKS,
    RECIPE_KEYS,
    SEEDING,
    TGSR,
    handcrafted,
    make,
    section_class,
    ships,
    tgsr,
)
from recognizer.models.common import is_estimator
from recognizer.protocol import ARMS, COPIES, ProtocolConfig
from recognizer.results import Labels
from recognizer.training import SIDES, TAUGHT, UNLABELLED, TrainConfig
from recognizer.transfer import TransferConfig
from recognizer.views import Shape, require_known, uses

if TYPE_CHECKING:

    @dataclass(frozen=True, kw_only=True)
    class ModelSections:
        """A section a model that ships, of its name; read one with :func:`section`."""

else:  # the registry says which models there are, and their modules what their settings are
    ModelSections = make_dataclass(
        "ModelSections",
        [(name, section_class(name), field(default_factory=section_class(name))) for name in MODELS.shipped()],
        namespace={"__module__": __name__, "__doc__": "A section a model that ships, of its name."},
        frozen=True,
        kw_only=True,
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig(ModelSections):
    """One model under one protocol (`recognizer loso`, `recognizer train`)."""

    model: str = LDA
    task: str = EMOTION
    """emotion: one of data.classes. aus: each AU of aus.codes by itself, present or absent, where it is known.
    emotion+aus: networks learn both with one head; the figures are those of the emotions."""
    aus: AusConfig = field(default_factory=AusConfig)
    seeds: tuple[int, ...] = (0,)
    """Each seed draws its own synthetic clips, initial weights and batches."""
    data: DataConfig = field(default_factory=DataConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        _require_models([self.model], "model")
        if self.task not in TASKS:
            raise ConfigError(f"task='{self.task}' is unknown; choose from {', '.join(TASKS)}")
        if self.task == AUS and self.train.loss.of_classes:
            raise ConfigError(
                f"train.loss.{self.train.loss.of_classes[0]} compares clips of a class, and task=aus has no classes; "
                "set it to 0"
            )
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

    @property
    def labels(self) -> Labels:
        """What is told apart, and tested."""
        return Labels(self.aus.names, multi=True) if self.task == AUS else Labels(self.data.classes)

    @property
    def n_outputs(self) -> int:
        """Scores that a model gives: classes, AUs, or classes and then AUs."""
        more = len(self.aus.codes) if self.task == BOTH else 0
        return len(self.labels.names) + more


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
    counts: tuple[int, ...] = ()
    """Instead of ratios: added clips of each class."""
    controls: tuple[str, ...] = ()
    """shuffled, synthetic-only, duplicates, mirror, magnified, augmented: run at every amount above 0."""
    train_subjects: tuple[int, ...] = (0,)
    """Real subjects a fold may learn from, each its own curve; 0 = all of them."""
    resamples: int = 2000
    """Bootstrap and permutation draws; comparisons get more where there are many of them to correct for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("models", "modes", "controls", "train_subjects"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        object.__setattr__(self, "ratios", tuple(sorted({0.0, *map(float, self.ratios)})))
        object.__setattr__(self, "counts", tuple(sorted(set(self.counts))))
        _require_models(self.models, "models")
        for key, known in (("controls", ARMS[1:]), ("modes", MODES)):
            for value in getattr(self, key):
                if value not in known:
                    raise ConfigError(f"{key}: '{value}' is unknown; choose from {', '.join(known)}")
        if not self.modes:
            raise ConfigError(f"modes is empty; choose from {', '.join(MODES)}")
        if self.ratios[0] < 0:
            raise ConfigError(f"ratios={list(self.ratios)} must not be negative")
        if self.counts and self.counts[0] < 1:
            raise ConfigError(f"counts={list(self.counts)} must be positive; none added is always run")
        if not self.train_subjects or min(self.train_subjects) < 0:
            raise ConfigError(f"train_subjects={list(self.train_subjects)} must be 0 (all) or positive numbers")
        if self.resamples < 100:
            raise ConfigError(f"resamples={self.resamples} is too few for an interval; 2000 is usual")
        if "magnified" in self.controls and self.data.normalise == "robust":
            raise ConfigError(
                "controls: data.normalise=robust divides the size of the motion out, so magnified copies are "
                "duplicates; leave magnified out, or choose data.normalise=none"
            )
        moved = [name for name in self.controls if name in COPIES]
        if moved and self.data.input == BYTES:
            raise ConfigError(
                f"controls: {', '.join(moved)} copies move flow, and data.input=bytes reads pictures of it; leave them "
                "out, or choose data.input=flow"
            )

    @property
    def amounts(self) -> list[dict[str, Any]]:
        """How many clips are added, as fields of a :class:`recognizer.results.Condition`, in ascending order."""
        return [{"count": n} for n in self.counts] or [{"ratio": r} for r in self.ratios if r]

    @property
    def used_models(self) -> tuple[str, ...]:
        return self.models

    @property
    def used_modes(self) -> tuple[str, ...]:
        return self.modes

    def for_model(self, model: str, mode: str | None = None) -> RunConfig:
        """The configuration of one of the models, in one of the modes."""
        own = {f.name for f in fields(self)} - {f.name for f in fields(AblationConfig)}
        kind = _with_sections(RunConfig, sorted(own))
        values = {f.name: getattr(self, f.name) for f in fields(kind)}
        return kind(**(values | {"model": model, "mix": replace(self.mix, mode=mode or self.modes[0])}))


def _require_models(names: Sequence[str], key: str) -> None:
    for name in names:
        if name == "shipped":
            raise ConfigError(f"{key}: 'shipped' is a trained recognizer; `recognizer loso --model shipped` tests it")
        if name not in MODELS:
            raise ConfigError(f"{key}: '{name}' is unknown; choose from {', '.join(MODELS)}")
    if not names:
        raise ConfigError(f"{key} is empty; choose from {', '.join(MODELS)}")


Config = TypeVar("Config", bound=RunConfig)


# ---------------------------------------------------------------- the models of a configuration


def _with_sections(kind: type[Config], names: Sequence[str]) -> type[Config]:
    """``kind`` with a field more for each of these models, of others' making, that has settings."""
    sections = [(name, found) for name in names if (found := section_class(name)) is not None]
    for name, _ in sections:
        if name in RECIPE_KEYS:
            raise ConfigError(f"model '{name}' has the name of another key of recipes; register it under another name")
    return cast(type[Config], _extended(cast(Any, kind), tuple(sections))) if sections else kind


@lru_cache(maxsize=64)
def _extended(kind: Any, sections: tuple[tuple[str, type[Any]], ...]) -> type[Any]:
    more = [(name, found, field(default_factory=found)) for name, found in sections]
    return make_dataclass(kind.__name__, more, bases=(kind,), frozen=True, kw_only=True)


def section(config: RunConfig, model: str) -> Any:
    """A model's own section; its defaults where a model of others' making has none here, None if it knows none."""
    if ships(model):
        return getattr(config, model)
    kind = section_class(model)
    if kind is None:
        return None
    found = getattr(config, model, None)
    return found if isinstance(found, kind) else kind()


def feature_of(config: RunConfig, model: str) -> handcrafted.Config:
    """The section of the hand-crafted feature that a model is linear in."""
    own = section(config, model)
    found: handcrafted.Config = section(config, own.feature) if model == TGSR else own
    return found


def skeleton(config: RunConfig, model: str | None = None) -> Any:
    """A run's network, or scikit-learn classifier, that has learned nothing; not for models in closed form."""
    name = model or config.model
    with SEEDING, torch.random.fork_rng(devices=[]):
        made = make(name, section(config, name), config.n_outputs, shape_of(config, name))
    return made if is_estimator(made) else made.eval()


def is_closed(config: RunConfig, model: str) -> bool:
    """Whether a model is fitted at once, without steps."""
    return model in CLOSED or (not ships(model) and is_estimator(skeleton(config, model)))


def transform_of(config: RunConfig, model: str | None = None) -> FlowTransform:
    """What a model does to flow images first: data.power, data.pool, data.symmetric, or its own where those are null.

    Raises:
        ConfigError: half a face for a network or a hand-crafted feature, or bytes for the latter.
    """
    name = model or config.model
    if config.data.symmetric and (name in FEATURES or not is_closed(config, name)):
        what = "feature" if name in FEATURES else "network"
        raise ConfigError(
            f"data.symmetric=true leaves one side of the face, and {what} {name} reads both; leave it out: each model "
            "then reads what is its own"
        )
    if name in FEATURES and config.data.input == BYTES:
        raise ConfigError(
            f"model {name} reads directions of motion, which data.input=bytes has stretched away; leave it out"
        )
    return _inputs_of(config, name)


def _inputs_of(config: RunConfig, model: str) -> FlowTransform:
    own, data = INPUTS.get(model, FlowTransform()), config.data
    pool = own.pool if data.size % max(own.pool, 1) == 0 else 0
    return FlowTransform(
        power=own.power if data.power is None else data.power,
        pool=pool if data.pool is None else data.pool,
        symmetric=own.symmetric if data.symmetric is None else data.symmetric,
    )


def shape_of(config: RunConfig, model: str | None = None) -> Shape:
    """The sizes a run's network is built for."""
    return config.data.shape(_inputs_of(config, model or config.model).pool)


def needs_of(config: RunConfig) -> tuple[str, ...]:
    """The views (:mod:`recognizer.views`) that a run's models see, the flow always among them.

    Raises:
        ConfigError: a model asks for a view that there is not, or for more of it than there is.
    """
    needed = {FLOW}
    for model in config.used_models:
        if not ships(model):
            own = tuple(getattr(skeleton(config, model), "needs", ()))
        elif model in FEATURES:
            own = handcrafted.needs(feature_of(config, model))
            handcrafted.check(feature_of(config, model), shape_of(config, model))
        elif model not in CLOSED:
            with torch.device("meta"):  # nothing is allocated to be asked what it sees
                own = tuple(skeleton(config, model).needs)
        else:
            continue
        require_known(own, model)
        needed |= set(own)
    return tuple(sorted(needed))


def needs_meta_of(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """By model, what it is told of clips beside the class (:data:`recognizer.data.META`); models that are told nothing
    are left out."""
    told: dict[str, tuple[str, ...]] = {}
    for model in config.used_models:
        if not is_closed(config, model):
            with torch.device("meta"):
                told[model] = tuple(getattr(skeleton(config, model), "needs_meta", ()))
    return {model: names for model, names in told.items() if names}


# ---------------------------------------------------------------- what has an effect


def idle_keys(config: RunConfig, *, synthetic: bool) -> dict[str, str]:
    """Key prefixes without effect in this configuration, and why."""
    used = config.used_models
    synthetic = synthetic or config.transfer.macro
    closed = {model for model in used if is_closed(config, model)}
    networks = len(closed) < len(used)
    outside = {f.name for f in fields(config)} - {f.name for f in fields(AblationConfig)}
    sections = (*CLOSED, *NETWORKS, *sorted(outside))
    idle = {model: f"model {', '.join(used)} does not read it" for model in sections if model not in used}
    if TGSR in used:
        idle.pop(section(config, TGSR).feature, None)
    idle |= _idle_of_transfer(config, synthetic=synthetic, networks=networks)
    idle |= _idle_of_task(config)
    views = needs_of(config)
    for key, what in (
        ("frames", "does not see whole clips"), ("frame_size", "sees no pictures"),
        ("key_frames", "does not see the flow of whole clips"),
    ):  # fmt: skip
        if not uses(views, key):
            idle[f"data.{key}"] = f"model {', '.join(used)} {what}"
    if not any("gender" in names for names in needs_meta_of(config).values()):
        idle["train.genders"] = f"model {', '.join(used)} does not learn genders"
    loss = config.train.loss
    if not loss.arcface and not loss.cosface:
        idle["train.loss.angular_scale"] = "train.loss.arcface and train.loss.cosface are 0"
    if loss.kind != "focal":
        idle["train.loss.gamma"] = f"train.loss.kind={loss.kind} has no gamma"
    if loss.kind in ("native", "margin"):
        idle["train.loss.class_weights"] = f"train.loss.kind={loss.kind} weighs no classes"
    if not networks:
        idle["train"] = f"model {', '.join(used)} is not trained in steps"
    if config.protocol.kind != "kfold":
        idle["protocol.groups"] = idle["protocol.seed"] = f"protocol.kind={config.protocol.kind} has no groups"
    if isinstance(config, AblationConfig):
        idle["model"] = "an ablation reads 'models'"
        idle["mix.ratio"] = idle["mix.count"] = "an ablation reads 'ratios' or 'counts'"
        if config.counts:
            idle["ratios"] = "'counts' says how many are added"
        idle["train.start"] = idle["train.teacher"] = "the cells of an ablation begin with nothing learned before"
        idle["mix.mode"] = "an ablation reads 'modes'"
    if not synthetic:
        why = "there are no synthetic clips; pass --synthetic"
        if config.transfer.unlabelled and not isinstance(config, AblationConfig):  # whose leaks mix.leak is about, too
            return idle | {f"mix.{f.name}": why for f in fields(config.mix) if f.name != "leak"}
        idle["mix"] = why
        return idle
    modes = set(config.used_modes)
    chosen = f"mix.mode={', '.join(config.used_modes)} with model {', '.join(used)}"
    if config.counts if isinstance(config, AblationConfig) else config.mix.ratio is None:
        idle["mix.balance"] = "as many clips of every class are added, unless a ratio says how many"
    if PRIOR not in modes or not closed:
        idle["mix.prior_weight"] = f"{chosen} has no prior weight"
    if not modes & {PRIOR, PRETRAIN} or not networks:
        idle["mix.pretrain_steps"] = idle["mix.finetune_lr"] = f"{chosen} does not pretrain"
    if PRIOR not in modes or not networks:
        idle["mix.pull"] = f"{chosen} has no pull"
    if FUSE not in modes:
        idle["mix.fuse_weight"] = f"{chosen} fuses nothing"
    if set(used) <= set(FEATURES):
        idle["mix.align"] = f"model {', '.join(used)} has no channels of flow to align"
    if modes == {SYNTHETIC_ONLY} and not isinstance(config, AblationConfig):
        idle["mix.align"] = f"{chosen} has no real clips to align to"
    return idle


def _idle_of_transfer(config: RunConfig, *, synthetic: bool, networks: bool) -> dict[str, str]:
    """Of :func:`idle_keys`, those about learning from elsewhere."""
    transfer, loss, idle = config.transfer, config.train.loss, {}
    ablation = isinstance(config, AblationConfig)
    if ablation:
        idle["transfer"] = "an ablation compares synthetic clips alone; `recognizer loso` learns from elsewhere"
    free = transfer.target and not ablation
    if not free and (not synthetic or POOL not in config.used_modes):
        why = "real and synthetic clips share no batch; it takes --synthetic and mix.mode=pool"
        idle |= {f"train.loss.{name}": f"{why}, or transfer.unlabelled or transductive" for name in SIDES}
    if not synthetic or not {PRIOR, PRETRAIN} & set(config.used_modes):
        why = "no network is pretrained; it takes --synthetic (or transfer.macro) and mix.mode=pretrain or prior"
        idle |= {f"train.loss.{name}": why for name in TAUGHT}
    if not free:
        why = "there are no clips without labels; it takes transfer.unlabelled or transfer.transductive"
        idle |= {f"train.loss.{name}": why for name in UNLABELLED}
    if not loss.pseudo:
        idle["train.loss.threshold"] = "train.loss.pseudo is 0"
    if not networks:
        idle["transfer.pretext"] = f"model {', '.join(config.used_models)} is not trained in steps"
    if transfer.pretext == "none" or not networks:
        idle["transfer.pretext_steps"] = "transfer.pretext=none"
    learns = TGSR in config.used_models or loss.uses((*SIDES, *UNLABELLED)) or transfer.pretext != "none"
    if transfer.target and not (learns and (networks or TGSR in config.used_models)):
        what = f"model {', '.join(config.used_models)} learns nothing from clips without labels"
        way = "set train.loss.domain, coral, mmd, pseudo or consistency, or transfer.pretext, of a network"
        idle["transfer.unlabelled"] = idle["transfer.transductive"] = f"{what}; {way}"
    return idle


def _idle_of_task(config: RunConfig) -> dict[str, str]:
    """Of :func:`idle_keys`, those that the task leaves without effect."""
    task, what = config.task, f"task={config.task}"
    if task == EMOTION:
        return {"aus": f"{what} has no AUs; choose task=aus or task=emotion+aus"}
    if task == BOTH:
        return {f"aus.{key}": f"{what} is scored by its classes" for key in ("threshold", "groups")}
    idle = {"aus.weight": f"{what} has no other loss to weigh it against"}
    if config.aus.threshold != INNER:
        idle["aus.groups"] = f"aus.threshold={config.aus.threshold} trains no inner models"
    for key in ("data.label", "data.classes"):
        idle[key] = f"{what} reads the AUs of clips, whatever their class"
    idle["train.loss.class_weights"] = f"{what} has no classes; train.balance makes present and absent count alike"
    idle["mix.balance"] = f"{what} has no classes"
    return idle


def effective(config: RunConfig, *, synthetic: bool) -> dict[str, Any]:
    """The configuration as a plain dict, without the keys that have no effect: this is saved and hashed."""
    plain = json.loads(json.dumps(asdict(config)))
    for model in config.used_models:  # also where the configuration was made without its section
        if not ships(model) and section_class(model) is not None:
            plain[model] = json.loads(json.dumps(asdict(section(config, model))))
    for key in idle_keys(config, synthetic=synthetic):
        *path, last = key.split(".")
        node = plain
        for part in path:
            node = node.get(part, {})
        node.pop(last, None)
    # What a model does first is its own where the settings leave it open: a run is known by what it was.
    inputs = {transform_of(config, model) for model in config.used_models}
    if len(inputs) == 1:
        plain["data"] |= asdict(inputs.pop())
    if plain["task"] == EMOTION:
        del plain["task"]  # as before there was another, so that runs of then go on
    if plain["data"]["frame"] == MATCH:  # what it comes to is part of a run's identity (recognizer.sources)
        del plain["data"]["frame"]
    if plain["data"]["input"] == FLOW:
        del plain["data"]["input"]  # likewise
    if config.transfer == TransferConfig():  # likewise
        plain.pop("transfer", None)
    for name in ("coral", "mmd", *TAUGHT, *UNLABELLED):  # likewise
        if not getattr(config.train.loss, name):
            plain.get("train", {}).get("loss", {}).pop(name, None)
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

    >>> load_config(RunConfig, None, ["model=svm", "svm.c=2"]).svm.c
    2.0
    >>> load_config(RunConfig, None, ["model=svm", "lda.shrinkage=0.1"])
    Traceback (most recent call last):
    mesynth.core.errors.ConfigError: lda.shrinkage has no effect: model svm does not read it
    """
    config, keys = load_recipe(_with_sections(kind, _mentioned(file, overrides)), file, overrides)
    for prefix, why in idle_keys(config, synthetic=synthetic).items():
        for key in keys:
            if key == prefix or key.startswith(prefix + "."):
                raise ConfigError(f"{key} has no effect: {why}")
    names = {f.name for f in fields(kind)}
    closed = sorted(model for model in config.used_models if is_closed(config, model))
    alone = set(config.used_modes) == {PRETRAIN}
    if TGSR in config.used_models and (not config.transfer.target or isinstance(config, AblationConfig)):
        raise ConfigError(tgsr.NEEDS)
    if config.task == BOTH and closed:
        raise ConfigError(only_networks_learn_both(closed[0]))
    if alone and closed and synthetic:
        raise ConfigError(only_networks_pretrain(closed[0], "modes=[prior]" if "modes" in names else "mix.mode=prior"))
    return config


def only_networks_pretrain(model: str, way: str = "mix.mode=prior") -> str:
    """What is said to whoever would pretrain a model that is fitted at once; ``way`` works also without real clips."""
    return f"mix.mode=pretrain is for networks, and {model} is fitted at once; choose {way}"


def only_networks_learn_both(model: str) -> str:
    """What is said to whoever would have a model that is fitted at once learn emotions and AUs together."""
    return (
        f"task={BOTH} is for networks, which learn both with one head, and {model} is fitted at once; choose task=aus"
    )


def _mentioned(file: Path | str | None, overrides: Sequence[str]) -> list[str]:
    """Models of others' making whose names occur in these settings: only their code is imported."""
    text = " ".join(overrides)
    if file is not None:
        with suppress(OSError, UnicodeDecodeError):  # whoever reads it as a recipe says so
            text += Path(file).read_text()
    return [name for name in MODELS if not ships(name) and name in text]
