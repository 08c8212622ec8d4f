"""Optical flow of a pair of frames by any of the methods the field uses, RAFT included, and its picture.

RAFT optical flow (Teed and Deng, ECCV 2020) by torchvision, with weights that are already on this machine.

Nothing is downloaded. torchvision's weights were trained on FlyingChairs, FlyingThings3D, Sintel, KITTI and HD1K:
whole scenes that move by many pixels, not faces that move by one.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from mesynth.core.errors import MesynthError, WeightsUnavailable, first_line
from mesynth.core.types import Flow
from mesynth.store.assets import Need, hub_folder

if TYPE_CHECKING:
    import torch


VARIABLE = "MESYNTH_RAFT"
"""Environment variable that names a weights file of raft_large or raft_small."""
FILES = ("raft_large_C_T_SKHT_V2-ff5fadd5.pth", "raft_small_C_T_V2-01064c6d.pth")
"""Looked for in torch.hub's checkpoint folder, in this order."""
_URL = "https://download.pytorch.org/models/"
_STRIDE, _SMALLEST = 8, 128  # sides RAFT takes: multiples of 8, 128 at least (its correlation pyramid)
_FIRST = "feature_encoder.convnormrelu.0."
_CHANNELS = {64: "raft_large", 32: "raft_small"}  # of the first convolution


def raft_file() -> Path:
    """The weights file to use: the one ``$MESYNTH_RAFT`` names, else torch.hub's copy.

    Raises:
        WeightsUnavailable: there is none; the message says which file to put where.
    """
    given = os.environ.get(VARIABLE)
    if given:
        file = Path(given).expanduser()
        if not file.is_file():
            raise WeightsUnavailable(f"RAFT weights: {VARIABLE}={given} is no file; check the path")
        return file
    for name in FILES:
        if (hub_folder() / name).is_file():
            return hub_folder() / name
    raise WeightsUnavailable(
        f"RAFT weights are not on this machine; put {FILES[0]} (from {_URL}{FILES[0]}) into {hub_folder()}, "
        f"name a file in {VARIABLE}, or use method tvl1"
    )


def need() -> Need:
    """The row of ``mesynth doctor``."""
    try:
        raft_file()
        present = True
    except WeightsUnavailable:
        present = False
    return Need(
        name="RAFT (optical flow)",
        purpose="optical flow by --method raft",
        present=present,
        where=f"${VARIABLE}, or {hub_folder() / FILES[0]}",
        remedy=f"put {FILES[0]} there (from {_URL}{FILES[0]})",
        instead="TV-L1, the default",
    )


def raft(a_rgb: np.ndarray, b_rgb: np.ndarray, device: str = "cpu", batch: int = 8) -> np.ndarray:
    """Flow of each pair: two [B,H,W,3] uint8 RGB -> [B,2,H,W] float32 pixels, on ``device``.

    Pictures are padded by their border to sides RAFT takes. At most ``batch`` pairs are in memory at once.

    Raises:
        WeightsUnavailable: no weights, or the file does not hold RAFT's.
    """
    import torch

    file = raft_file()
    model = _model(str(file), file.stat().st_mtime_ns, str(torch.device(device)))
    height, width = a_rgb.shape[1:3]
    out = np.empty((len(a_rgb), 2, height, width), np.float32)
    with torch.inference_mode():
        for start in range(0, len(a_rgb), batch):
            part = slice(start, start + batch)
            first, second = (_prepared(x[part], device) for x in (a_rgb, b_rgb))
            top, left = (first.shape[2] - height) // 2, (first.shape[3] - width) // 2
            flow = model(first, second)[-1][..., top : top + height, left : left + width]
            out[part] = flow.float().cpu().numpy()
    return out


def _prepared(rgb: np.ndarray, device: str) -> torch.Tensor:
    """[B,H,W,3] uint8 -> [B,3,H',W'] float32 in [-1,1] (torchvision's preset), padded evenly."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(np.ascontiguousarray(rgb)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    extra = [max(_SMALLEST, -(-side // _STRIDE) * _STRIDE) - side for side in x.shape[2:]]
    top, left = extra[0] // 2, extra[1] // 2
    return F.pad(x, (left, extra[1] - left, top, extra[0] - top), mode="replicate")


@functools.lru_cache(maxsize=2)
def _model(file: str, changed: int, device: str) -> Any:
    """The network of one version (``changed``) of a file; raft_large or raft_small by the shape of its weights."""
    import torch
    from torchvision.models import optical_flow

    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        first = next(v for k, v in state.items() if k.startswith(_FIRST) and v.ndim == 4)
        model = getattr(optical_flow, _CHANNELS[first.shape[0]])(weights=None, progress=False)
        model.load_state_dict(state)
    except (RuntimeError, KeyError, StopIteration, AttributeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = first_line(error)
        raise WeightsUnavailable(
            f"{file} holds no weights of torchvision's RAFT ({reason}); get {_URL}{FILES[0]}"
        ) from None
    return model.eval().to(device)


# ---------------------------------------------------------------- flow


# ITU-R BT.601 luma, the weights of cv2.COLOR_RGB2GRAY and of the published flow pipelines.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def grayscale(rgb: np.ndarray) -> np.ndarray:
    """[...,3] uint8 RGB -> [...] float32 in [0,1]: BT.601 luma, never rounded to 8 bits (sub-pixel motion)."""
    # In memory order: of a broadcast picture (one onset beside many frames) BLAS adds in another order.
    return np.asarray(rgb.astype(np.float32, order="C") @ _LUMA / np.float32(255))


def estimate_flow(a_rgb: np.ndarray, b_rgb: np.ndarray, method: str = "tvl1", device: str = "cpu") -> Flow:
    """Flow from ``a_rgb`` to ``b_rgb`` ([H,W,3] uint8), see :func:`estimate_flows`."""
    return estimate_flows(a_rgb[None], b_rgb[None], method, device)[0]


def estimate_flows(a_rgb: np.ndarray, b_rgb: np.ndarray, method: str = "tvl1", device: str = "cpu") -> list[Flow]:
    """Flow of each pair: two [B,H,W,3] uint8 RGB -> B flows in pixels on the grid of ``a``.

    ``method`` is a name of :data:`METHODS`; ``device`` matters to tvl1 and raft alone.

    Raises:
        MesynthError: unknown method, a method this OpenCV lacks, or unfit shapes.
        WeightsUnavailable: method raft without weights on this machine.
    """
    _check_method(method)
    for name, rgb in (("a_rgb", a_rgb), ("b_rgb", b_rgb)):
        if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
            raise MesynthError(f"{name} is {rgb.dtype} {rgb.shape}; flow needs uint8 RGB frames of shape [B,H,W,3]")
    if a_rgb.shape != b_rgb.shape:
        raise MesynthError(f"flow needs frames of one size, got {a_rgb.shape[1:3]} and {b_rgb.shape[1:3]}")
    uv = METHODS[method](a_rgb, b_rgb, device)
    return [Flow(np.ascontiguousarray(field, np.float32)) for field in uv]


def sequence_flows(
    frames: np.ndarray,
    method: str = "tvl1",
    device: str = "cpu",
    batch: int = 16,
    reference: Literal["onset", "previous"] = "onset",
) -> np.ndarray:
    """Flow of a whole clip: [T,H,W,3] uint8 RGB -> [T-1,2,H,W] float32 pixels, entry t ends in frame t + 1.

    ``reference``: every flow starts in the onset (frame 0), on its grid, or in the frame before. At most ``batch``
    pairs are worked on at once, so memory beside the result does not grow with T.

    Raises:
        MesynthError: fewer than 2 frames, an unknown reference, batch below 1, or as estimate_flows.
    """
    _check_method(method)
    if frames.ndim != 4 or len(frames) < 2:
        raise MesynthError(f"frames have shape {frames.shape}; flow of a clip needs [T,H,W,3] with T >= 2")
    if reference not in ("onset", "previous"):
        raise MesynthError(f"flow reference '{reference}' is unknown; choose from onset, previous")
    if batch < 1:
        raise MesynthError(f"batch={batch} must be at least 1 pair")
    out = np.empty((len(frames) - 1, 2, *frames.shape[1:3]), np.float32)
    for start in range(0, len(out), batch):
        end = min(start + batch, len(out))
        first = (
            frames[start:end]
            if reference == "previous"
            else np.broadcast_to(frames[0], (end - start, *frames[0].shape))
        )
        for i, flow in enumerate(estimate_flows(first, frames[start + 1 : end + 1], method, device), start):
            out[i] = flow.uv
    return out


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise MesynthError(f"flow method '{method}' is unknown; choose from {', '.join(METHODS)}")


def _tvl1(a: np.ndarray, b: np.ndarray, device: str) -> np.ndarray:
    """See :mod:`mesynth.preprocess.tvl1`; imported here, because generating needs this module and no torch."""
    import torch

    from mesynth.preprocess.tvl1 import tvl1

    first, second = (torch.from_numpy(grayscale(x)).to(device) for x in (a, b))
    return np.asarray(tvl1(first, second).cpu().numpy())


def _dis(a: np.ndarray, b: np.ndarray, device: str) -> np.ndarray:
    """Dense inverse search (Kroeger et al., ECCV 2016), preset medium, refined down to single pixels.

    The preset stops at half resolution, which costs a third of the accuracy on faces that move by 0.3 to 4 px.
    """
    if not hasattr(cv2, "DISOpticalFlow_create"):
        raise MesynthError(f"this OpenCV ({cv2.__version__}) has no DIS flow; use method tvl1 or farneback")
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    search.setVariationalRefinementIterations(10)
    return _pairwise(search.calc, a, b)


def _raft(a: np.ndarray, b: np.ndarray, device: str) -> np.ndarray:
    """See :mod:`mesynth.preprocess.flow`."""

    return raft(a, b, device)


def _farneback(a: np.ndarray, b: np.ndarray, device: str) -> np.ndarray:
    """Polynomial expansion (Farneback, SCIA 2003), window 15 px, 4 levels."""
    farneback = getattr(cv2, "calcOpticalFlowFarneback", None)  # builds differ, and so do their stubs
    if farneback is None:
        raise MesynthError(f"this OpenCV ({cv2.__version__}) has no Farneback flow; use method tvl1 or dis")

    def calc(x: np.ndarray, y: np.ndarray, init: None) -> np.ndarray:
        return np.asarray(farneback(x, y, init, 0.5, 4, 15, 5, 5, 1.1, 0))

    return _pairwise(calc, a, b)


def _pairwise(calc: Callable[..., np.ndarray], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """OpenCV's methods take one 8-bit grey pair at a time."""
    grey = [[cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY) for x in frames] for frames in (a, b)]
    return np.stack([calc(x, y, None).transpose(2, 0, 1) for x, y in zip(*grey, strict=True)])


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, str], np.ndarray]] = {
    "tvl1": _tvl1,
    "dis": _dis,
    "farneback": _farneback,
    "raft": _raft,
}


def flow_picture(uv: np.ndarray, scale: float = 4.0) -> np.ndarray:
    """[2,H,W] pixels -> [H,W,3] uint8 RGB: hue is the direction, saturation the magnitude over ``scale`` pixels.

    The scale is fixed, so that pictures of different clips compare; motion above it saturates. White is rest.
    """
    if not scale > 0:
        raise MesynthError(f"flow picture scale={scale:g} must be a positive number of pixels")
    magnitude = np.clip(np.hypot(uv[0], uv[1]) / scale, 0, 1)
    hue = np.degrees(np.arctan2(uv[1], uv[0])) % 360
    hsv = np.stack([hue, magnitude, np.ones_like(hue)], -1).astype(np.float32)
    return np.asarray(np.round(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8))
