"""Networks of perceptual distances, to measure by and to learn from: the shift-tolerant AlexNet of ST-LPIPS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import WeightsUnavailable
from mesynth.store import assets


class BlurPool(nn.Module):
    """Stride-2 binomial low-pass on reflection-padded maps (Zhang, *Making CNNs shift-invariant again*, 2019)."""

    filt: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N,C,H,W] -> about half the size."""
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class STAlexTrunk(nn.Module):
    """The AlexNet trunk of ST-LPIPS (Ghildyal and Liu, ECCV 2022): five ReLU stages of [0,1] RGB input.

    Written anew from the shapes of the weight file; agrees with the published network on random input.
    """

    SLICES = ("slice1", "slice2", "slice3", "slice4", "slice5")
    CHANNELS = (64, 192, 384, 256, 256)

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.register_buffer("shift", state["scaling_layer.shift"].clone())
        self.register_buffer("scale", state["scaling_layer.scale"].clone())
        self.slice1 = _named({"0": nn.Conv2d(3, 64, 11, 1, 2), "1": BlurPool(64), "2": nn.ReLU()})
        self.slice2 = _named(
            {"3": nn.MaxPool2d(3, 1), "4": BlurPool(64), "5": nn.Conv2d(64, 192, 5, 1, 2), "6": nn.ReLU()}
        )
        self.slice3 = _named(
            {"7": nn.MaxPool2d(3, 1), "8": BlurPool(192), "9": nn.Conv2d(192, 384, 3, 1, 1), "10": nn.ReLU()}
        )
        self.slice4 = _named({"11": nn.Conv2d(384, 256, 3, 1, 1), "12": nn.ReLU()})
        self.slice5 = _named({"13": nn.Conv2d(256, 256, 3, 1, 1), "14": nn.ReLU()})
        own = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
        self.load_state_dict(own | {"shift": self.shift, "scale": self.scale})
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[N,3,H,W] in [0,1] -> five feature maps."""
        x = (2 * x - 1 - self.shift) / self.scale
        out = []
        for name in self.SLICES:
            x = getattr(self, name)(x)
            out.append(x)
        return out


def _named(layers: dict[str, nn.Module]) -> nn.Sequential:
    """A Sequential whose children carry the weight file's numbers."""
    out = nn.Sequential()
    for name, layer in layers.items():
        out.add_module(name, layer)
    return out


def stalex_state() -> dict[str, torch.Tensor]:
    """The weight file of stlpips-pytorch. Raises WeightsUnavailable."""
    file = assets.require(assets.SHIFT_TOLERANT)
    try:
        state: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsUnavailable(f"shift-tolerant AlexNet: {file} cannot be read ({error}); reinstall it") from None
    return state


def stlpips_weights(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of the five stages, [1,C,1,1] each, from :func:`stalex_state`."""
    return [state[f"lin{i}.model.1.weight"] for i in range(len(STAlexTrunk.SLICES))]


def stlpips_between(
    a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Distances [N] of two results of :class:`STAlexTrunk` (Zhang et al., CVPR 2018, eq. 1)."""
    total = torch.zeros(len(a[0]), device=a[0].device)
    for x, y, w in zip(a, b, weights, strict=True):
        difference = (F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)) ** 2
        total = total + F.conv2d(difference, w).mean((1, 2, 3))
    return total


class STLPIPSLoss(nn.Module):
    """ST-LPIPS of pictures at their own size, with gradients to the first; frozen.

    Raises:
        WeightsUnavailable: the package that ships the weight file is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        state = stalex_state()
        self.trunk = STAlexTrunk(state)
        for i, weight in enumerate(stlpips_weights(state)):
            self.register_buffer(f"weight{i}", weight.clone())

    def forward(self, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """[N,3,H,W] in [0,1] twice -> [N]."""
        weights = [getattr(self, f"weight{i}") for i in range(len(STAlexTrunk.SLICES))]
        with torch.no_grad():
            seen = self.trunk(real)
        return stlpips_between(self.trunk(made), seen, weights)
