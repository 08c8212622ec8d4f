"""Losses of motion generators: small, without state, one number a pair ([B]) unless said otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mesynth.generators.warping import backward_of, bilinear


def mean_of(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of [B,...] over everything but the batch, weighted by a mask of the same or a broadcast shape -> [B]."""
    if weight is None:
        return x.flatten(1).mean(1)
    weight = weight.to(x.dtype).expand_as(x)
    return (x * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)


def chosen(loss: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Mean of [B] over the pairs in ``which`` [B] bool, as a scalar; 0 when there are none."""
    weight = which.to(loss.dtype)
    return (loss * weight).sum() / weight.sum().clamp(min=1)


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


def hinge_discriminator(real: torch.Tensor, fake: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Hinge loss of a discriminator's scores [B,...] (Lim and Ye, 2017) -> scalar.

    Only pairs in ``which`` [B] bool have a real motion that counts; every made one does.
    """
    return chosen(mean_of(F.relu(1 - real)), which) + F.relu(1 + fake).mean()


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
    from mesynth.errors import WeightsUnavailable
    from mesynth.weights import hub_folder

    file = hub_folder() / "alexnet-owt-7be5be79.pth"
    if not file.is_file():
        raise WeightsUnavailable(f"loss.perceptual needs {file}; put it there or set loss.perceptual=0")
    import lpips

    state = torch.load(file, map_location="cpu", weights_only=True)
    net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    net.net.load_state_dict({k: state["features." + k.partition(".")[2]] for k in net.net.state_dict()})
    frozen: torch.nn.Module = net.eval().requires_grad_(False)
    return frozen
