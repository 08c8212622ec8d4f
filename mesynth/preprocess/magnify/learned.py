"""A small learned magnifier in the manner of Oh et al., "Learning-based video motion magnification", ECCV 2018.

An encoder splits a frame into texture V and shape M at half resolution; a manipulator adds the magnified difference
of shape, M' = M_b + h((m - 1) g(M_b - M_a)); a decoder makes a picture of (V_b, M'). Two choices differ from the
paper. g and h have no biases, so no difference stays no difference; and the decoder's answer is used as a change,
out = b + D(V_b, M') - D(V_b, M_b), so that its own errors cancel: a frame equal to the onset, and any frame at
factor 1, come back exactly, for any weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.preprocess.magnify.classical import require_clip, require_factor
from mesynth.store.weights import read_network

WEIGHTS = Path(__file__).parent / "data" / "magnifier.safetensors"
_RETRAIN = "python -m mesynth.preprocess.magnify.learned_train configs/preprocess/magnifier.yaml --out DIR"
_CHUNK = 32  # frames that are computed together


class _Residual(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.second(F.relu(self.first(x)))
        return out


class MagnifierNet(nn.Module):
    """Onset and frame [N,3,H,W] (even sides) and factors [N] -> the frame with its motion magnified [N,3,H,W]."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        w = width
        self.width, self.blocks = width, blocks
        self.encode = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, w, 3, padding=1), nn.ReLU(), _Residual(w, True), nn.ReLU()
        )
        self.texture = nn.Conv2d(w, w, 3, padding=1)
        self.shape = nn.Conv2d(w, w, 3, padding=1)
        self.g = nn.Sequential(nn.Conv2d(w, w, 3, padding=1, bias=False), nn.ReLU())
        self.h = nn.Sequential(nn.Conv2d(w, w, 3, padding=1, bias=False), _Residual(w, False))
        self.decode = nn.Sequential(
            nn.Conv2d(2 * w, w, 3, padding=1), nn.ReLU(), *(_Residual(w, True) for _ in range(blocks)),
            nn.ReLU(), nn.Conv2d(w, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, onset: torch.Tensor, frame: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """See the class. Colours in [0, 1]; the result is not clipped."""
        shape_a = self.shape(self.encode(2 * onset - 1))
        features = self.encode(2 * frame - 1)
        texture, shape_b = self.texture(features), self.shape(features)
        moved = shape_b + self.h((factor.view(-1, 1, 1, 1) - 1) * self.g(shape_b - shape_a))
        change: torch.Tensor = self._picture(texture, moved) - self._picture(texture, shape_b)
        return frame + change

    def _picture(self, texture: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decode(torch.cat([texture, shape], 1))
        return out


@dataclass(frozen=True, kw_only=True)
class MagnifierMeta:
    """What travels with the weights."""

    width: int
    blocks: int
    max_factor: float
    """Largest factor seen in training."""
    max_motion: float
    """Largest magnified displacement seen in training, pixels."""
    people_seen: tuple[int, ...]
    """Head seeds whose pictures were trained on or measured."""
    figures: dict[str, float]
    """Held-out figures, see the card."""
    config: str
    """The resolved training configuration, YAML."""
    weights_sha256: str


class LearnedMagnifier:
    """The trained magnifier; ``meta`` holds its limits and held-out figures."""

    def __init__(self, net: MagnifierNet, meta: MagnifierMeta) -> None:
        self._net, self.meta = net.eval().requires_grad_(False), meta

    @staticmethod
    def load(file: Path | str | None = None) -> LearnedMagnifier:
        """The packaged magnifier, or one trained by ``mesynth.preprocess.magnify.learned_train``.

        Raises:
            WeightsUnavailable: the file is missing or is no magnifier.
        """
        return read_network(
            Path(WEIGHTS if file is None else file), "magnifier", "learned magnifier", _RETRAIN, LearnedMagnifier._of
        )

    @staticmethod
    def _of(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> LearnedMagnifier:
        meta = MagnifierMeta(people_seen=tuple(record.pop("people_seen")), **record)
        net = MagnifierNet(meta.width, meta.blocks)
        net.load_state_dict({name: value.float() for name, value in tensors.items()})
        return LearnedMagnifier(net, meta)

    def save(self, path: Path) -> None:
        """Write weights and metadata as safetensors; the file appears under its name only when complete."""
        from safetensors.torch import save

        from mesynth.store.run_folder import write_bytes

        write_bytes(path, save(net_tensors(self._net), {"magnifier": json.dumps(asdict(self.meta))}))

    @torch.inference_mode()
    def magnify(self, video: torch.Tensor, factor: float) -> torch.Tensor:
        """Motion since the onset, magnified: float [B,T,C,H,W] in [0,1] -> the same shape, clipped to [0,1].

        The onset, frames equal to it and factor 1 come back unchanged. The device follows the input. Each clip is
        computed by itself, so that its result does not depend on the batch.

        Raises:
            MesynthError: an unfit clip, or a factor outside 1..the largest one trained on.
        """
        require_clip(video)
        value = require_factor(factor)
        if value > self.meta.max_factor:
            raise ConfigError(f"factor {value:g} exceeds {self.meta.max_factor:g}, the most this magnifier has learned")
        if value == 1:
            return video.clone()
        net = self._net.to(video.device)
        out = video.clone()
        for clip, result in zip(video, out, strict=True):
            for start in range(1, len(clip), _CHUNK):
                frames = clip[start : start + _CHUNK]
                result[start : start + _CHUNK] = _apply(net, clip[:1], frames, value)
        return out


def _apply(net: MagnifierNet, onset: torch.Tensor, frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Onset [1,C,H,W], frames [N,C,H,W] -> [N,C,H,W] in [0,1]."""
    channels, height, width = frames.shape[1:]
    # Mirrored to even sides; at the borders convolutions see zeros, as in training.
    sides = (0, width % 2, 0, height % 2)
    pair = [F.pad(x.float().expand(-1, 3, -1, -1), sides, mode="reflect") for x in (onset, frames)]
    factors = torch.full((len(frames),), factor, device=frames.device)
    made = net(pair[0].expand_as(pair[1]), pair[1], factors)[..., :height, :width].clamp(0, 1)
    still = (frames == onset).flatten(1).all(1).view(-1, 1, 1, 1)
    made = made.mean(1, keepdim=True) if channels == 1 else made
    return torch.where(still, frames, made.to(frames.dtype))


def net_tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """Everything that is learned, by name, contiguous on the CPU."""
    return {name: value.detach().to("cpu").contiguous() for name, value in net.state_dict().items()}
