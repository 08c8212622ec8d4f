"""Picture features for distribution distances, and perceptual distances: one resize, and honest names.

A distance is named after its extractor: ``FID`` and ``KID`` belong to the 2015 Inception; anything else
carries a suffix (``KID-STAlexNet``), because the numbers do not compare. The perceptual distance of two pictures is
LPIPS where its trunk can be had, ST-LPIPS under its own name elsewhere.

For a micro-expression the perceptual distance onset-apex is a check of size: it should be small and of the same order
as in real clips. The distance between apexes of different clips measures diversity.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mesynth.core.errors import WeightsUnavailable, first_line
from mesynth.metrics.networks import (
    ALEXNET,
    ALEXNET_URL,
    BATCH,
    INCEPTION,
    INCEPTION_FILE,
    INCEPTION_URL,
    Preferred,
)
from mesynth.training.perceptual import STAlexTrunk, stalex_state, stlpips_between, stlpips_weights

RESIZE = "antialiased bicubic, float32, not rounded to 8 bits"
PUBLISHED_RESIZE = "bilinear without antialiasing, as pytorch-fid"


class FeatureExtractor(Protocol):
    """uint8 pictures in, features out."""

    name: str
    """Short name of the network."""
    suffix: str
    """Appended to a distance's name: empty for the Inception of the published FID, else ``-NAME``."""
    dim: int
    side: int
    """Pictures are resized to this many pixels."""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """[N,H,W,3] uint8 RGB -> [N,dim] float32."""
        ...


def resize(frames: torch.Tensor, side: int) -> torch.Tensor:
    """[N,3,H,W] float32 -> [N,3,side,side]: the one resize of this package (RESIZE); no clipping or rounding."""
    if frames.shape[-2:] == (side, side):
        return frames
    return F.interpolate(frames, (side, side), mode="bicubic", antialias=True, align_corners=False)


def resize_as_published(frames: torch.Tensor, side: int) -> torch.Tensor:
    """[N,3,H,W] float32 -> [N,3,side,side] as pytorch-fid does it (PUBLISHED_RESIZE)."""
    return F.interpolate(frames, (side, side), mode="bilinear", align_corners=False)


def to_unit(frames: np.ndarray) -> torch.Tensor:
    """[N,H,W,3] uint8 RGB -> [N,3,H,W] float32 in [0,1]. Raises ValueError on any other input."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; extractors take uint8 RGB [N,H,W,3]")
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


class _Placed:
    """A network of pictures that runs where :meth:`to` says; pictures come from the CPU, and what is said goes back."""

    device: str = "cpu"

    def to(self, device: str) -> Self:
        """Run there (a name of :func:`mesynth.core.devices.find_device`); features agree within 1e-3 of their size."""
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                value.to(device)
        self.device = device
        return self


@torch.inference_mode()
def _batched(
    network: Callable[[torch.Tensor], torch.Tensor],
    frames: np.ndarray,
    side: int,
    resized: Callable[[torch.Tensor, int], torch.Tensor] = resize,
    device: str = "cpu",
) -> np.ndarray:
    parts = [network(resized(to_unit(frames[i : i + BATCH]).to(device), side)) for i in range(0, len(frames), BATCH)]
    return np.concatenate([p.float().cpu().numpy() for p in parts])


# ---------------------------------------------------------------- Inception


class Inception(_Placed):
    """pool3 of the Inception v3 of Heusel et al. (NeurIPS 2017), network from pytorch-fid: 2048 features.

    Raises:
        WeightsUnavailable: pytorch-fid or the weight file is missing (and ``allow_download`` is False).
    """

    name, suffix, dim, side = "Inception-2015", "", 2048, 299

    def __init__(
        self, file: Path | str | None = None, *, allow_download: bool = False, published_resize: bool = False
    ) -> None:
        """``published_resize``: pytorch-fid's own resize (bilinear, aliased), to compare with statistics it cached."""
        missing = "the package pytorch-fid is not installed; pip install pytorch-fid"
        found, inception, state = INCEPTION.open(file, allow_download, "pytorch_fid.inception", missing)
        try:
            self._net = _inception_from(inception, state)
        except (RuntimeError, AttributeError, TypeError) as error:
            reason = first_line(error)
            raise WeightsUnavailable(
                f"Inception weights: {found or INCEPTION_URL} is not {INCEPTION_FILE} ({reason})"
            ) from None
        self._resize = resize_as_published if published_resize else resize
        self.resize_name = PUBLISHED_RESIZE if published_resize else RESIZE

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """[N,H,W,3] uint8 RGB -> [N,2048] float32."""
        return _batched(self._features, frames, self.side, self._resize, self.device)

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._net((2 * x - 1).contiguous(memory_format=torch.channels_last))[0]
        return out.flatten(1)


def _inception_from(module: object, state: dict[str, torch.Tensor]) -> nn.Module:
    """pytorch-fid's InceptionV3 with ``state``: its constructor can only download, so the loader is replaced.

    Each batch norm is folded into its convolution and maps lie channels last: the same features to 1e-6, at twice the
    speed on a CPU.
    """
    from unittest import mock

    with mock.patch.object(module, "load_state_dict_from_url", return_value=state):
        net: nn.Module = module.InceptionV3([3], resize_input=False, normalize_input=False)  # type: ignore[attr-defined]
    net.eval().requires_grad_(False)
    for block in net.modules():
        if isinstance(getattr(block, "bn", None), nn.BatchNorm2d):
            block.conv = fuse_conv_bn_eval(block.conv, block.bn)  # type: ignore[arg-type, type-var]
            block.bn = nn.Identity()
    return net.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------- shift-tolerant AlexNet


class STAlexNet(_Placed):
    """Means over the picture of the five stages of :class:`STAlexTrunk` (:func:`pooled`): 1152 features at 128 px.

    Raises:
        WeightsUnavailable: the package that ships the weight file is not installed.
    """

    name, suffix, dim, side = "STAlexNet", "-STAlexNet", sum(STAlexTrunk.CHANNELS), 128

    def __init__(self) -> None:
        self._net = STAlexTrunk(stalex_state())

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """[N,H,W,3] uint8 RGB -> [N,1152] float32."""
        return _batched(lambda x: pooled(self._net(x)), frames, self.side, device=self.device)


STAGE_RMS = (0.18, 0.15, 0.052, 0.014, 0.0037)
"""Root mean square of each stage's means on rendered faces (scikit-image's astronaut: .18 .23 .050 .016 .0038)."""


def pooled(maps: list[torch.Tensor]) -> torch.Tensor:
    """Five maps of :class:`STAlexTrunk` -> [N,1152]: their means over the picture, each stage at unit RMS.

    Unscaled, the first stage's edges would decide alone, and features this small would leave KID's cubic
    kernel in its linear part, where it compares means only.
    """
    return torch.cat([m.mean((2, 3)) / rms for m, rms in zip(maps, STAGE_RMS, strict=True)], 1)


best_extractor: Preferred[FeatureExtractor] = Preferred(
    Inception,
    STAlexNet,
    note="Inception of the published FID",
    replaced="STAlexNet was used instead of the Inception",
)


# ---------------------------------------------------------------- perceptual distance


SIDE = 128


class PerceptualDistance(Protocol):
    """A named distance of pictures, in two steps, so that a picture compared twice is prepared once."""

    name: str

    def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
        """[N,H,W,3] uint8 RGB -> what :meth:`between` compares; every tensor has N rows."""
        ...

    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> np.ndarray:
        """Distances [N] float32 of two results of :meth:`maps`."""
        ...


class STLPIPS(_Placed):
    """Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022), AlexNet, read from the file in stlpips-pytorch.

    Raises:
        WeightsUnavailable: the package that ships the weight file is not installed.
    """

    name = "ST-LPIPS"

    def __init__(self) -> None:
        state = stalex_state()
        self._trunk = STAlexTrunk(state)
        self._weights = stlpips_weights(state)

    @torch.inference_mode()
    def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
        """[N,H,W,3] uint8 RGB -> the trunk's five maps; their means are the STAlexNet features."""
        return [m.cpu() for m in self._trunk(resize(to_unit(frames).to(self.device), SIDE))]

    @torch.inference_mode()
    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> np.ndarray:
        """Distances [N] float32 (Zhang et al., CVPR 2018, eq. 1)."""
        there = ([m.to(self.device) for m in maps] for maps in (a, b, self._weights))
        return np.asarray(stlpips_between(*there).cpu().numpy())


class LPIPS(_Placed):
    """LPIPS 0.1, AlexNet, of the package lpips; the trunk's weights come from a file.

    Raises:
        WeightsUnavailable: the package or the trunk's file is missing or unreadable.
    """

    name = "LPIPS"

    def __init__(self, file: Path | str | None = None, *, allow_download: bool = False) -> None:
        missing = "LPIPS: the package lpips is not installed; pip install lpips"
        found, lpips, state = ALEXNET.open(file, allow_download, "lpips", missing)
        try:
            # pnet_rand: the package's own constructor would fetch the trunk; it is filled in here instead.
            net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
            trunk = {k: state["features." + k.partition(".")[2]] for k in net.net.state_dict()}
            net.net.load_state_dict(trunk)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:  # another model's file
            raise WeightsUnavailable(f"LPIPS trunk: {found or ALEXNET_URL} cannot be used ({error})") from None
        self._net = net.eval().requires_grad_(False)

    def maps(self, frames: np.ndarray) -> list[torch.Tensor]:
        """[N,H,W,3] uint8 RGB -> one tensor [N,3,128,128] in [-1,1], the range lpips expects."""
        return [2 * resize(to_unit(frames), SIDE) - 1]

    @torch.inference_mode()
    def between(self, a: list[torch.Tensor], b: list[torch.Tensor]) -> np.ndarray:
        """Distances [N] float32."""
        return np.asarray(self._net(a[0].to(self.device), b[0].to(self.device)).flatten().cpu().numpy())


def distance(measure: PerceptualDistance, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances [N] float32 of paired pictures, two [N,H,W,3] uint8 RGB. Raises ValueError on unfit shapes."""
    if a.shape != b.shape:
        raise ValueError(f"pictures have shapes {a.shape} and {b.shape}; a distance needs pairs of one size")
    steps = range(0, len(a), BATCH)
    return np.concatenate(
        [measure.between(measure.maps(a[i : i + BATCH]), measure.maps(b[i : i + BATCH])) for i in steps]
    )


best_distance: Preferred[PerceptualDistance] = Preferred(
    LPIPS, STLPIPS, note="LPIPS 0.1, AlexNet", replaced="ST-LPIPS was used instead of LPIPS"
)
