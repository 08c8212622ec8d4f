"""Losses, measures and pictures of the GANs that paint pictures or flow images. Every loss is one number a row, [B].

Means are taken within a row first and over rows last: a batch cut into parts, or spread over processes, has the
same loss as the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from mesynth.errors import ConfigError
from mesynth.training.losses import au_mse, mean_of

GREY_LEVELS = 255.0
INDEPENDENT = 0.05
"""A generator whose output changes by less than this share of its effect when other AUs are asked for ignores them."""
UNCHANGED = 0.02
"""A generator that changes the input by less than this share of what happens in the data returns its input."""


def au_error(predicted: torch.Tensor, aus: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Squared error over known AU cells, summed over cells as if all were known: three [B,K,2] -> [B].

    A sum, not a mean: most AUs are at rest in any face, and a mean over 50 cells would drown the few that move.
    """
    return au_mse(predicted, aus, known) * aus[0].numel()


def gradient_penalty(scores: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """``(|d score / d picture| - 1)^2`` (Gulrajani et al., WGAN-GP, 2017): scores [B,...] of pictures ``at`` -> [B]."""
    (slope,) = torch.autograd.grad(scores.flatten(1).mean(1).sum(), at, create_graph=True)
    return (slope.flatten(1).square().sum(1) + 1e-12).sqrt().sub(1).square()


def total_variation(x: torch.Tensor) -> torch.Tensor:
    """Sum of squared differences of neighbours, [B,C,H,W] -> [B] (the smoothness of GANimation's mask)."""
    dy, dx = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
    return dy.square().flatten(1).sum(1) + dx.square().flatten(1).sum(1)


def class_error(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, 0 where the label is -1: [B,C] and [B] -> [B]."""
    return nn.functional.cross_entropy(logits, label, ignore_index=-1, reduction="none")


def one_hot(label: torch.Tensor, classes: int) -> torch.Tensor:
    """[B] -> [B,classes] float32; all 0 where the label is -1."""
    return nn.functional.one_hot(label.clamp(min=0), classes).float() * (label >= 0)[:, None]


def weighted(weights: Any, terms: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """``sum_i weights.i * mean(terms[i])`` over the terms [B] whose weight is not 0, and the means for the log."""
    means = {name: value.mean() for name, value in terms.items() if getattr(weights, name)}
    total = sum((getattr(weights, name) * value for name, value in means.items()), torch.zeros(()))
    assert isinstance(total, torch.Tensor)
    return total, {name: value.detach() for name, value in means.items()}


def check_weights(section: str, config: Any) -> None:
    """Every number of a frozen dataclass is finite and not negative.

    Raises:
        ConfigError: one is.
    """
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{section}.{item.name}={value} must be a finite number, 0 or more")


def check_optim(config: Any) -> None:
    """Learning rates and betas of an ``optim`` section. Raises ConfigError."""
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name.startswith("lr") and not 0 < value <= 1:
            raise ConfigError(f"optim.{item.name}={value} is outside (0, 1]; 1e-4 is usual")
        if item.name.startswith("beta") and not 0 <= value < 1:
            raise ConfigError(f"optim.{item.name}={value} is outside [0, 1)")


def adam(networks: Mapping[str, nn.Module], optim: Any) -> dict[str, torch.optim.Optimizer]:
    """One Adam a network: ``optim.lr`` for the generator, ``optim.lr_critic`` for the others."""
    return {
        name: torch.optim.Adam(
            network.parameters(),
            lr=optim.lr if name == "generator" else optim.lr_critic,
            betas=(optim.beta1, optim.beta2),
        )
        for name, network in networks.items()
    }


def other_aus(aus: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two requests of equal strength for different AUs: [B,K,2] -> two [B,K,2].

    The row's own AUs (AU rows 0 at .5 where it has none), and the same intensities seven AUs further down the list.
    """
    rest = aus.flatten(1).amax(1) == 0
    own = aus.clone()
    own[rest, 0] = 0.5
    return own, own.roll(7, 1)


def of_pairs(measures: Mapping[str, torch.Tensor], paired: torch.Tensor) -> dict[str, torch.Tensor]:
    """Measures [B] against real frames: NaN where there is only a face (``paired`` [B] bool False)."""
    return {name: torch.where(paired, value, torch.nan) for name, value in measures.items()}


def response(
    paint: Callable[[torch.Tensor], torch.Tensor], onset: torch.Tensor, frame: torch.Tensor, aus: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Does a picture depend on the AUs asked for? ``paint(aus)`` -> pictures [B,3,S,S]; measures [B].

    ``change`` and ``real_change``: grey levels between onset and output, and onset and frame; ``au_dependence``: mean
    difference between the pictures of two requests, over the mean change that they make.
    """
    own, other = other_aus(aus)
    first, second = paint(own), paint(other)
    change = GREY_LEVELS * mean_of((first - onset).abs())
    both = 0.5 * (change + GREY_LEVELS * mean_of((second - onset).abs()))
    apart = GREY_LEVELS * mean_of((first - second).abs())
    return {
        "change": change,
        "real_change": GREY_LEVELS * mean_of((frame - onset).abs()),
        "au_dependence": apart / both.clamp(min=1e-6),
    }


def known_failure(logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
    """The failures any AU-controlled picture generator can have, in one sentence, or ""."""
    for name, value in {**logged, **measured}.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    dependence = measured.get("au_dependence", 1.0)
    if dependence < INDEPENDENT:
        return f"the output does not depend on the AUs (au_dependence {dependence:.3g}, below {INDEPENDENT:g})"
    change, real = measured.get("change", 1.0), measured.get("real_change", 0.0)
    if change < UNCHANGED * real:
        return f"the output equals the input (change {change:.3g} grey levels, {real:.3g} in the data)"
    return ""


def probe_picture(size: int) -> torch.Tensor:
    """[1,3,size,size] in [0,1]: smooth structure that any network reacts to, the same every time."""
    at = torch.arange(size) / size
    waves = [torch.sin(2 * math.pi * (f * at[None, :] + g * at[:, None])) for f, g in ((1, 2), (3, 1), (2, 5))]
    return (0.5 + 0.3 * torch.stack(waves))[None]
