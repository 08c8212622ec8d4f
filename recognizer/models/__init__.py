"""The models by name: what ships, and what others register. A model's code is imported when it is asked for.

``MODELS`` holds what ships as modules with ``build(config, n_classes, shape)`` (of ``CLOSED`` with ``fit``), and
what others add as a :class:`Model`, or as anything that can be one: a network or an estimator, its class, or a function
that makes it. :func:`make` turns all of these into something that can be trained.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from mesynth.core.errors import ConfigError
from mesynth.core.registry import Registry
from recognizer.data import FlowTransform

if TYPE_CHECKING:
    from recognizer.models.common import FlowNetwork, Shape

LDA, SVM = "lda", "svm"
HANDCRAFTED: tuple[str, ...] = ("lbp_top", "bi_woof", "mdmo", "hoof")
"""Published features before a linear machine; all of them in recognizer.models.handcrafted."""
TGSR = "tgsr"
FEATURES: tuple[str, ...] = (*HANDCRAFTED, TGSR)
"""Models that are linear in a hand-crafted feature."""
CLOSED: tuple[str, ...] = (LDA, SVM, *FEATURES)
"""Of those that ship: not trained in steps. ``lda`` and ``svm`` see the flow image alone."""
_OURS = ("capsule_graph", "region_attention")
PUBLISHED = (
    "ststnet", "offapex", "dssn", "capsulenet", "ice_discriminator", "au_gacn", "mer_gcn", "graph_tcn", "elrcn",
    "micro_attention", "microexpstcnn", "fusenet", "atnet", "htnet",
    "dual_inception", "rcn", "featref", "bdcnn", "nmer", "kfc", "mtmnet", "mimanet", "aman", "tscnn", "geme",
    "lr_gacnn",
    "learnet", "affectivenet", "sma_stn", "dstan", "fcnn3d", "setfnet", "mersiam", "lgccon", "graph_au", "mer_augcn",
    "saat", "dikd", "cbamnet", "originet", "shallow_cnn",
)  # fmt: skip
"""Networks under published names. A further one is a module of its name here (``build`` and the class of its settings),
its name in this table, and a recipe."""


INPUTS: dict[str, FlowTransform] = {
    LDA: FlowTransform(power=0.5, pool=14, symmetric=True), SVM: FlowTransform(power=0.7, pool=7, symmetric=True),
    "capsule_graph": FlowTransform(power=0.7, pool=14),
}  # fmt: skip
"""What models do to flow images first where ``data.power``, ``data.pool`` and ``data.symmetric`` are null, as chosen on
real flow images (docs/decisions/018, 019); the others take them as they are."""
RECIPE_KEYS = frozenset((
    "model", "models", "modes", "task", "aus", "seeds", "data", "protocol", "mix", "train", "per_source", "ratios",
    "counts", "controls", "transfer", "train_subjects", "resamples",
))  # fmt: skip
"""What else stands at the top of a recipe, where a model's name stands for its section."""
SEEDING = threading.RLock()
"""Held while weights are drawn: they come from torch's one global generator."""


@dataclass(frozen=True)
class Model:
    """A model that others bring.

    Args:
        factory: makes an untrained model: a ``torch.nn.Module`` from flow [B,3,S,S] (u, v, strain, each divided by its
            rms over the training clips) to logits [B,C]; a :class:`recognizer.models.common.FlowNetwork`, which also
            gets frames; or a scikit-learn classifier, which gets the flow as [N,3*S*S]. A class or function is called
            with those of ``n_classes``, ``size``, ``shape`` and ``config`` that it names as parameters. An instance is
            copied, and what it has learned is forgotten.
        config: its section of a configuration, a frozen dataclass whose fields all have defaults; None: no settings.

    >>> from sklearn.linear_model import LogisticRegression
    >>> Model(LogisticRegression).config is None
    True
    """

    factory: Any
    config: type[Any] | None = None

    def __post_init__(self) -> None:
        if self.config is not None and not is_dataclass(self.config):
            raise ConfigError(f"config={self.config!r} is no dataclass; decorate it with @dataclass(frozen=True)")


class _Models(Registry[Any]):
    """Besides names that stay, objects that one call lends."""

    @contextmanager
    def lent(self, models: Mapping[str, Any] | Sequence[Any]) -> Iterator[dict[str, str]]:
        """Names of ``models`` (names, or objects, which have one inside the ``with`` alone), and what each object is:
        text for a run's identity, empty for what was named. A mapping chooses the objects' names."""
        given = models.items() if isinstance(models, Mapping) else [(_title(m), m) for m in models]
        names: dict[str, str] = {}
        own = []
        try:
            for title, model in given:
                name = model if isinstance(model, str) else title
                if not isinstance(model, str):
                    name, n = title, 1
                    while name in self or name in RECIPE_KEYS:
                        n += 1
                        name = f"{title}_{n}"
                    self.register(name, model if isinstance(model, Model) else Model(model))
                    own.append(name)
                names[name] = "" if isinstance(model, str) else _described(model)
            yield names
        finally:
            for name in own:
                del self._added[name]
                self._loaded.pop(name, None)


MODELS = _Models(
    "model",
    "recognizer.models",
    {name: f"recognizer.models.{name}" for name in (LDA, SVM)}
    | dict.fromkeys(HANDCRAFTED, "recognizer.models.handcrafted")
    | {name: f"recognizer.models.{name}" for name in (TGSR, *_OURS, *PUBLISHED)},
)
"""All models by name; others declare theirs by an entry point of the group ``recognizer.models``."""
NETWORKS: tuple[str, ...] = (*_OURS, *PUBLISHED)
"""Of those that ship: a module each, of that name, trained in steps."""


def register_model(name: str, model: Any = None, *, config: type[Any] | None = None) -> Any:
    """Name a model for recipes, ``recognizer loso``, ablations and saved folders; without ``model``, a decorator.

    Args:
        name: letters, digits and ``_``; also the name of its section in a configuration.
        model: see :class:`Model`, which it may also be.
        config: see :class:`Model`.

    Returns:
        What was registered, unchanged.

    Raises:
        ConfigError: the name ships, or is none that a section of a recipe can have.

    >>> from torch import nn
    >>> @register_model("linear_example")
    ... def linear(n_classes, size):
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, n_classes))
    >>> "linear_example" in MODELS
    True
    """
    if not name.isidentifier() or name in RECIPE_KEYS:
        raise ConfigError(
            f"model name '{name}' cannot name a section of recipes: it must be letters, digits and _, and none of "
            f"{', '.join(sorted(RECIPE_KEYS))}"
        )

    def add(given: Any) -> Any:
        MODELS.register(name, given if isinstance(given, Model) else Model(given, config))
        return given

    return add if model is None else add(model)


def ships(name: str) -> bool:
    """Whether the model is one of this package."""
    return name in CLOSED or name in NETWORKS


def section_class(name: str) -> type[Any] | None:
    """The class of a model's section; None where others bring one without settings.

    A module of this package says it by its name: ``AuGacnConfig`` for ``au_gacn``.
    """
    found = MODELS[name]
    if ships(name):
        kind: type[Any] = getattr(found, "".join(part.capitalize() for part in name.split("_")) + "Config")
        return kind
    return found.config if isinstance(found, Model) else None


def make(name: str, config: Any, n_classes: int, shape: Shape) -> Any:
    """A model that has learned nothing: a :class:`~recognizer.models.common.FlowNetwork`, or a scikit-learn classifier.

    ``config`` is its section. Weights come from torch's current seed. Not for those in ``CLOSED``.

    Raises:
        ConfigError: no such model, or what its factory makes is none.
    """
    assert name not in CLOSED, name
    found = MODELS[name]
    if ships(name):
        return found.build(config, n_classes, shape)
    from recognizer.models.common import untrained

    factory = found.factory if isinstance(found, Model) else found
    return untrained(name, factory, config, n_classes, shape)


def build(name: str, config: Any, n_classes: int, shape: Shape) -> FlowNetwork:
    """:func:`make` where it is known to be a network."""
    made = make(name, config, n_classes, shape)
    from recognizer.models.common import FlowNetwork

    assert isinstance(made, FlowNetwork)
    return made


def _title(model: Any) -> str:
    """A name for an object: its class's or function's."""
    if isinstance(model, Model):
        return _title(model.factory)
    kind: Callable[..., Any] | type = model if hasattr(model, "__name__") else type(model)
    name = getattr(kind, "__name__", "model")
    return name if name.isidentifier() else "model"


def _described(model: Any) -> str:
    """What tells an object from another one of its name: settings, layers, or where its code stands."""
    if isinstance(model, Model):
        return f"{_described(model.factory)} {model.config}"
    if hasattr(model, "__qualname__"):
        return f"{model.__module__}.{model.__qualname__}"
    return repr(model)
