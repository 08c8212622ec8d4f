"""Losses of motion generators: small, without state, one number a pair ([B]) unless said otherwise.

Losses, measures and pictures of the GANs that paint pictures or flow images. Every loss is one number a row, [B].

Means are taken within a row first and over rows last, those over some of the rows by :func:`chosen`: a batch cut into
parts, or spread over processes, has the same loss as the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.types import N_AUS
from mesynth.preprocess.warping import backward_of, bilinear
from mesynth.training.data.batches import Batch


def mean_of(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of [B,...] over everything but the batch, weighted by a mask of the same or a broadcast shape -> [B]."""
    if weight is None:
        return x.flatten(1).mean(1)
    weight = weight.to(x.dtype).expand_as(x)
    return (x * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)


def chosen(loss: torch.Tensor, batch: Batch, name: str) -> torch.Tensor:
    """Mean of [B] over the rows ``batch.choices()[name]``, as a scalar; 0 when there are none.

    Divided by :meth:`~mesynth.training.data.batches.Batch.count`: the mean over the parts of a batch is that of the
    whole, also where one part has more of these rows than another.
    """
    return (loss * batch.choices()[name]).sum() / batch.count(name)


def multiscale_l1(made: torch.Tensor, real: torch.Tensor, scales: int = 3) -> torch.Tensor:
    """Mean over ``scales`` halvings of the mean absolute difference: [B,C,H,W] twice -> [B]."""
    total = mean_of((made - real).abs())
    for _ in range(scales - 1):
        made, real = F.avg_pool2d(made, 2), F.avg_pool2d(real, 2)
        total = total + mean_of((made - real).abs())
    return total / scales


def charbonnier_epe(flow: torch.Tensor, exact: torch.Tensor, valid: torch.Tensor, eps: float = 0.05) -> torch.Tensor:
    """Charbonnier end-point error sqrt(|F - F*|^2 + eps^2) - eps in pixels over ``valid`` [B,H,W]: -> [B]."""
    return mean_of(((flow - exact).square().sum(1) + eps**2).sqrt() - eps, valid)


def end_point_error(flow: torch.Tensor, exact: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean |F - F*| in pixels over ``valid``: [B,2,H,W] twice, [B,H,W] bool -> [B]. A measure, not a loss."""
    return mean_of((flow - exact).square().sum(1).sqrt(), valid)


def edge_aware_tv(flow: torch.Tensor, picture: torch.Tensor, sharpness: float = 10.0) -> torch.Tensor:
    """First differences of the flow, let off where the picture has edges (weight exp(-sharpness |dI|)): -> [B]."""
    grey = picture.mean(1, keepdim=True)
    x = _dx(flow).abs() * torch.exp(-sharpness * _dx(grey).abs())
    y = _dy(flow).abs() * torch.exp(-sharpness * _dy(grey).abs())
    return mean_of(x) + mean_of(y)


def second_order(flow: torch.Tensor) -> torch.Tensor:
    """Mean absolute second difference along rows and columns: 0 for any affine flow -> [B]."""
    return mean_of(_dx(_dx(flow)).abs()) + mean_of(_dy(_dy(flow)).abs())


def folds(flow: torch.Tensor, least: float = 0.1) -> torch.Tensor:
    """How far the determinant of x + F(x) lies below ``least``, pixels where it does not counting 0: -> [B]."""
    right, down = flow[..., :-1, 1:] - flow[..., :-1, :-1], flow[..., 1:, :-1] - flow[..., :-1, :-1]
    determinant = (1 + right[:, 0]) * (1 + down[:, 1]) - down[:, 0] * right[:, 1]
    return mean_of(F.relu(least - determinant))


def inverse_consistency(flow: torch.Tensor) -> torch.Tensor:
    """How far a pixel is from where it started after going there and back: |F(x) + b(x + F(x))|, pixels -> [B].

    ``b`` is the field the frame is made with. It is 0 up to the fixed point's accuracy for a flow that does not
    fold, and grows where it does: a penalty on folds.
    """
    return mean_of((flow + bilinear(backward_of(flow), flow)).square().sum(1).add(1e-6).sqrt())


def hinge_discriminator(real: torch.Tensor, fake: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Hinge loss of a discriminator's scores [B,...] (Lim and Ye, 2017) -> scalar.

    Only pairs have a real motion that counts; every made one does.
    """
    return chosen(mean_of(F.relu(1 - real)), batch, "paired") + F.relu(1 + fake).mean()


def hinge_generator(fake: torch.Tensor) -> torch.Tensor:
    """What the generator wants of the discriminator's scores -> scalar."""
    return -fake.mean()


def r1(scores: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Squared gradient of the real scores by the real input (Mescheder et al., 2018) -> scalar.

    ``inputs`` must require gradients and ``scores`` must come from it.
    """
    (grad,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    return grad.square().flatten(1).sum(1).mean()


def au_mse(read: torch.Tensor, asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Squared error of read AU intensities over the known ones: [B,K,2] each -> [B]."""
    return mean_of((read - asked).square(), known)


def leakage(read: torch.Tensor, asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean |intensity| read for AUs that are known not to have been asked for -> [B]."""
    return mean_of(read.abs(), known & (asked == 0))


def rank(low: torch.Tensor, high: torch.Tensor, asked_low: torch.Tensor, asked_high: torch.Tensor) -> torch.Tensor:
    """More intensity, more AU read: relu(half of the asked step - the step read) over AUs asked for more -> [B]."""
    step = asked_high - asked_low
    return mean_of(F.relu(0.5 * step - (high - low)), step > 0)


def diversity(one: torch.Tensor, other: torch.Tensor, z_one: torch.Tensor, z_other: torch.Tensor) -> torch.Tensor:
    """Minus flow change (pixels) over noise change, at most 1: mode seeking (Mao et al., CVPR 2019) -> [B]."""
    changed = mean_of((one - other).abs())
    return -(changed / mean_of((z_one - z_other).abs()).clamp(min=1e-3)).clamp(max=1)


def _dx(x: torch.Tensor) -> torch.Tensor:
    return x[..., :, 1:] - x[..., :, :-1]


def _dy(x: torch.Tensor) -> torch.Tensor:
    return x[..., 1:, :] - x[..., :-1, :]


def lpips_network() -> torch.nn.Module:
    """LPIPS 0.1 on AlexNet (Zhang et al., 2018) with gradients to its inputs ([B,3,H,W] in [-1,1]), frozen.

    Raises:
        WeightsUnavailable: the trunk's file is not on this machine.
    """
    from mesynth.core.errors import WeightsUnavailable
    from mesynth.store.assets import hub_folder

    file = hub_folder() / "alexnet-owt-7be5be79.pth"
    if not file.is_file():
        raise WeightsUnavailable(f"loss.perceptual needs {file}; put it there or set loss.perceptual=0")
    import lpips

    state = torch.load(file, map_location="cpu", weights_only=True)
    net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    net.net.load_state_dict({k: state["features." + k.partition(".")[2]] for k in net.net.state_dict()})
    frozen: torch.nn.Module = net.eval().requires_grad_(False)
    return frozen


# ------------------------------------------------------------------- image losses


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


def motion_failure(measured: Mapping[str, float], size: int, *, still: str, deaf: str) -> str:
    """The failures any AU-controlled generator of motion can have, or ""; ``still`` and ``deaf``: what helps."""
    if measured.get("motion", 1.0) < 1e-4 * size:
        return f"the output is the input: motion is {measured['motion']:.2g} px; {still}"
    if measured.get("au_effect", 1.0) < 0.05:
        return f"the output does not depend on the AUs (effect {measured['au_effect']:.2g} of the motion); {deaf}"
    return ""


def flow_measures(
    flow: torch.Tensor, exact: torch.Tensor, valid: torch.Tensor, has_flow: torch.Tensor, **others: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Drawn against exact flow, [B,2,S,S] pixels over ``valid`` [B,S,S]; measures [B], NaN without ``has_flow`` [B].

    ``epe`` and what it is to be held against: ``epe_zero`` of no motion, ``epe_mean_flow`` of the batch's mean, and
    the end-point errors of ``others`` by name. ``gain``: the share of the exact motion that the flow shows.
    """
    counted = has_flow.view(-1, 1, 1, 1).to(exact.dtype)
    mean = (exact * counted).sum(0, keepdim=True) / counted.sum().clamp(min=1)
    flows = {"epe": flow, "epe_zero": torch.zeros_like(exact), "epe_mean_flow": mean.expand_as(exact), **others}
    out = {name: torch.where(has_flow, end_point_error(f, exact, valid), torch.nan) for name, f in flows.items()}
    inside = valid[:, None].to(exact.dtype)
    power = (exact.square() * inside).flatten(1).sum(1)
    gain = (flow * exact * inside).flatten(1).sum(1) / power.clamp(min=1e-6)
    return out | {"gain": torch.where(has_flow & (power > 1), gain, torch.nan)}


def frame_measures(
    made: torch.Tensor, onset: torch.Tensor, frame: torch.Tensor, paired: torch.Tensor
) -> dict[str, torch.Tensor]:
    """``psnr`` of made frames and ``psnr_onset`` of the onsets, dB against real ones: [B], NaN without ``paired``."""
    out = {}
    for name, shown in (("psnr", made), ("psnr_onset", onset)):
        error = mean_of((shown - frame).square()).clamp(min=1e-10)
        out[name] = torch.where(paired, -10 * error.log10(), torch.nan)
    return out


def au_reach(draw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], size: int, device: torch.device) -> float:
    """Largest grey-level difference at any pixel between the pictures of two AUs at full intensity.

    ``draw(pictures [K,3,S,S], AUs [K,K,2])`` -> pictures; the onset is :func:`probe_picture`.
    """
    one = torch.eye(N_AUS, device=device)[:, :, None].expand(-1, -1, 2).contiguous()
    with torch.no_grad():
        drawn = draw(probe_picture(size).to(device).expand(N_AUS, -1, -1, -1), one)
    return float(GREY_LEVELS * (drawn.amax(0) - drawn.amin(0)).max())


def probe_picture(size: int) -> torch.Tensor:
    """[1,3,size,size] in [0,1]: smooth structure that any network reacts to, the same every time."""
    at = torch.arange(size) / size
    waves = [torch.sin(2 * math.pi * (f * at[None, :] + g * at[:, None])) for f, g in ((1, 2), (3, 1), (2, 5))]
    return (0.5 + 0.3 * torch.stack(waves))[None]
