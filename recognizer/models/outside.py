"""Models that others bring, made fit for the trainer: any ``torch.nn.Module``, any scikit-learn classifier."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import nn

from mesynth.core.errors import ConfigError
from recognizer.models.common import FlowNetwork, Outputs, Shape


class Outside(FlowNetwork):
    """Any module from flow [B,3,S,S], each channel with unit rms, to logits [B,C].

    It may keep running statistics and draw from torch's generator, so members train one after the other.
    """

    alone = True
    stack = 1

    def __init__(self, name: str, module: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.name, self.n_classes, self.module = name, n_classes, module

    def forward(self, *views: torch.Tensor) -> Outputs:
        """[B,3,S,S] -> logits [B,C]. Raises ConfigError where the module gives something else."""
        logits = self.module(self.scaled(views[0]))
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if shape != (len(views[0]), self.n_classes):
            raise ConfigError(
                f"model {self.name} gives {shape} for {len(views[0])} clips; expected logits "
                f"[{len(views[0])}, {self.n_classes}], one for each class"
            )
        return Outputs(logits, None)


def is_estimator(made: Any) -> bool:
    """Whether this is a scikit-learn classifier (by its methods, as scikit-learn itself does)."""
    return hasattr(made, "get_params") and hasattr(made, "fit") and not isinstance(made, type)


def untrained(name: str, factory: Any, config: Any, n_classes: int, shape: Shape) -> Any:
    """A :class:`~recognizer.models.common.FlowNetwork` or a scikit-learn classifier that has learned nothing.

    Raises:
        ConfigError: the factory makes neither, asks for parameters unknown here, or is a network that cannot be reset.
    """
    if isinstance(factory, nn.Module):
        made: Any = _forgotten(name, factory)
    elif is_estimator(factory):
        made = factory
    elif callable(factory):
        made = factory(**_arguments(name, factory, config, n_classes, shape))
    else:
        made = factory
    if is_estimator(made):
        from sklearn.base import clone

        return clone(made)
    if isinstance(made, FlowNetwork):
        return made
    if isinstance(made, nn.Module):
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in made.parameters()):
            with torch.no_grad():
                made(torch.zeros(2, 3, shape.size, shape.size))  # lazy layers learn their sizes, nothing else
            made = _forgotten(name, made)
        if next(made.parameters(), None) is None:
            raise ConfigError(f"model {name} has no parameters, so there is nothing to train")
        return Outside(name, made, n_classes)
    what = type(made).__name__
    raise ConfigError(f"model {name} is a {what}; expected a torch.nn.Module or a scikit-learn classifier")


def _arguments(name: str, factory: Any, config: Any, n_classes: int, shape: Shape) -> dict[str, Any]:
    """Those of what is on offer that the factory names."""
    offered = {"n_classes": n_classes, "size": shape.size, "shape": shape} | (
        {} if config is None else {"config": config}
    )
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return {}
    asked = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in asked if p.default is p.empty and p.name not in offered]
    if missing:
        raise ConfigError(
            f"model {name} asks for {', '.join(missing)}; on offer are {', '.join(offered)}: give the others defaults, "
            "or pass a function that makes it"
        )
    return {p.name: offered[p.name] for p in asked if p.name in offered}


def _forgotten(name: str, module: nn.Module) -> nn.Module:
    """A copy with fresh weights: whom the module was trained on, nobody here can know."""
    fresh = copy.deepcopy(module)
    for layer in fresh.modules():
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise ConfigError(
                f"model {name}: its layer {type(layer).__name__} has parameters and no reset_parameters(), so it "
                "cannot begin anew in each fold; pass a function that makes the network instead"
            )
    return fresh
