"""RAFT optical flow (Teed and Deng, ECCV 2020) by torchvision, with weights that are already on this machine.

Nothing is downloaded. torchvision's weights were trained on FlyingChairs, FlyingThings3D, Sintel, KITTI and HD1K:
whole scenes that move by many pixels, not faces that move by one.
"""

from __future__ import annotations

import functools
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mesynth.errors import WeightsUnavailable
from mesynth.weights import Need, hub_folder

if TYPE_CHECKING:
    import torch

VARIABLE = "MESYNTH_RAFT"
"""Environment variable that names a weights file of raft_large or raft_small."""
FILES = ("raft_large_C_T_SKHT_V2-ff5fadd5.pth", "raft_small_C_T_V2-01064c6d.pth")
"""Looked for in torch.hub's checkpoint folder, in this order."""
URL = "https://download.pytorch.org/models/"
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
        f"RAFT weights are not on this machine; put {FILES[0]} (from {URL}{FILES[0]}) into {hub_folder()}, "
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
        remedy=f"put {FILES[0]} there (from {URL}{FILES[0]})",
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsUnavailable(
            f"{file} holds no weights of torchvision's RAFT ({reason}); get {URL}{FILES[0]}"
        ) from None
    return model.eval().to(device)
