"""The AU judge: reads AU intensities off the motion between two frames of an aligned face.

It was trained on rendered heads only (``data/judge.md``): it knows this project's idea of what an AU looks like, and no
human FACS coder has checked it. It shares the head's meshes with the motion prior, so it is independent of a
generator's network but not of the head's geometry.

It is trained to name, and control is measured against, what of an AU vector can be seen at all (:func:`visible_aus`):
the vocabulary minus the pairs no picture can tell apart, so that a generator is not charged with a difference (blink
against eyes closed) that exists in the vocabulary only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from mesynth.core.facs import AU_CODES, AU_INDEX, MIDLINE
from mesynth.store.weights import read_network

JAW_DROP_SHARE = 0.45
"""AU 26 at 1 opens the jaw this share of AU 27 at 1 (mesynth.head.model.AU_UNITS)."""
_VISIBLE_MIDLINE = [i for i, code in enumerate(AU_CODES) if code in MIDLINE]


def visible_aus(intensity: np.ndarray) -> np.ndarray:
    """[...,K,2] intensities in [0,1] -> the same shape, float32, with one value for one appearance.

    A midline AU has the mean of its sides on both; AU 43 and AU 45 are one lid closure (the larger); AU 26
    and AU 27 open one jaw, each row in its own unit; a closed lid leaves nothing of AU 5 and AU 7 to see. Of an AU that
    is lowered nothing is seen: the judge names what there is more of.
    """
    out = np.maximum(np.array(intensity, np.float32), 0)
    out[..., _VISIBLE_MIDLINE, :] = out[..., _VISIBLE_MIDLINE, :].mean(-1, keepdims=True)
    closure = np.maximum(out[..., AU_INDEX[43], :], out[..., AU_INDEX[45], :])
    out[..., AU_INDEX[43], :] = out[..., AU_INDEX[45], :] = closure
    for code in (5, 7):
        out[..., AU_INDEX[code], :] *= 1 - closure
    jaw = np.maximum(JAW_DROP_SHARE * out[..., AU_INDEX[26], :], out[..., AU_INDEX[27], :])
    out[..., AU_INDEX[27], :] = jaw
    out[..., AU_INDEX[26], :] = np.minimum(jaw / JAW_DROP_SHARE, 1)
    return out


# ------------------------------------------------------------------- judge


GRID = 32
"""Side of the picture the judge reads, pixels."""
TRUSTED_ICC = 0.6
"""An AU takes part in headline figures when its ICC(3,1) on held-out people reaches this."""
LUMA_SCALE = 10.0
"""Luma difference times this: about the numeric range of the flow in pixels."""
WEIGHTS = Path(__file__).parent / "data" / "judge.safetensors"
_RETRAIN = "python -m mesynth.metrics.judge_train configs/quality/judge.yaml --out DIR"
_MIDLINE_ROWS = [AU_INDEX[code] for code in sorted(MIDLINE)]


def observe(frames: np.ndarray, device: str = "cpu") -> np.ndarray:
    """What the judge sees of an aligned clip: [T,128,128,3] uint8 RGB -> [T-1,3,GRID,GRID] float32.

    Channels: TV-L1 flow onset -> frame (x right, y down, pixels of the 128-pixel crop, mean over each cell)
    and LUMA_SCALE times the luma difference. Equal frames give zero up to the flow's rounding (about 1e-4 px).
    """
    from mesynth.preprocess.flow import estimate_flows

    onset = np.repeat(frames[:1], len(frames) - 1, axis=0)
    flow = np.stack([f.uv for f in estimate_flows(onset, frames[1:], "tvl1", device)])
    return cells(np.concatenate([flow, luma_change(frames)[:, None]], 1))


def luma_change(frames: np.ndarray) -> np.ndarray:
    """[T,H,W,3] uint8 RGB -> [T-1,H,W] float32: LUMA_SCALE times the luma difference to the first frame."""
    from mesynth.preprocess.flow import grayscale

    luma = grayscale(frames)
    return np.asarray(LUMA_SCALE * (luma[1:] - luma[:1]), np.float32)


def cells(x: np.ndarray) -> np.ndarray:
    """[N,C,H,W] -> [N,C,GRID,GRID] float32: mean over equal cells."""
    n, c, h, w = x.shape
    assert (h % GRID, w % GRID) == (0, 0), "an aligned crop's side is a multiple of the grid"
    return np.asarray(x.reshape(n, c, GRID, h // GRID, GRID, w // GRID).mean((3, 5), dtype=np.float32))


def mirrored(observed: np.ndarray) -> np.ndarray:
    """What the judge would see of the mirrored face: [N,C,GRID,GRID] flipped, with the sign of x turned."""
    out = observed[..., ::-1].copy()
    out[:, 0] *= -1
    return out


class JudgeNet(nn.Module):
    """[N,C,GRID,GRID] -> [N,K,2]. No biases: no motion gives 0, and k times the motion gives k times the AUs.

    That homogeneity (ReLU layers without bias are positively homogeneous of degree 1) is the physics of
    small motion, and it keeps the slope of measured on true intensity from sagging away from the data.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        w, k = width, 2 * len(AU_CODES)

        def block(a: int, b: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.ReLU()]

        self.channels, self.width = channels, width
        self.body = nn.Sequential(
            *block(channels, w, 1), *block(w, w, 2), *block(w, 2 * w, 1), *block(2 * w, 2 * w, 2),
            *block(2 * w, 2 * w, 1), nn.Flatten(),
            nn.Linear(2 * w * (GRID // 4) ** 2, 4 * w, bias=False), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(4 * w, k, bias=False)
        # The straight path: small motions superpose, so most of the answer is linear in the flow.
        self.linear = nn.Linear(channels * GRID**2, k, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N,C,GRID,GRID] -> [N,K,2] intensities, unbounded."""
        out: torch.Tensor = self.head(self.body(x)) + self.linear(x.flatten(1))
        return out.view(len(x), len(AU_CODES), 2)


@dataclass(frozen=True, kw_only=True)
class JudgeFigures:
    """Held-out figures of one AU: MAE on the 0-5 scale, ICC(3,1), Pearson, slope of measured on true."""

    mae: float
    icc: float
    pearson: float
    slope: float


@dataclass(frozen=True, kw_only=True)
class JudgeMeta:
    """What travels with the weights: people seen, figures on people never seen, and how it was made."""

    width: int
    channels: int
    subjects_seen: tuple[int, ...]
    """Head seeds rendered for training, calibration and test."""
    figures: dict[int, JudgeFigures]
    config: str
    """The resolved training configuration, YAML."""
    head_sha256: str
    """sha256 of the head's AU basis at training time: another head, another judge."""
    weights_sha256: str


class AUJudge:
    """The trained judge. ``meta`` holds its figures; ``trusted`` the AU codes fit for headline figures."""

    device: str = "cpu"

    def __init__(self, net: JudgeNet, scale: np.ndarray, meta: JudgeMeta) -> None:
        self._net, self._scale, self.meta = net.eval().requires_grad_(False), scale.astype(np.float32), meta

    def to(self, device: str) -> Self:
        """Run its network, and the TV-L1 flow that it sees, there. Returns the judge itself."""
        self._net.to(device)
        self.device = device
        return self

    @property
    def trusted(self) -> tuple[int, ...]:
        """AU codes whose held-out ICC reaches TRUSTED_ICC."""
        return tuple(code for code in AU_CODES if self.meta.figures[code].icc >= TRUSTED_ICC)

    @staticmethod
    def load(file: Path | str | None = None) -> AUJudge:
        """The packaged judge, or one trained by ``mesynth.metrics.judge_train``.

        Raises:
            WeightsUnavailable: the file is missing or is no judge.
        """
        return read_network(Path(WEIGHTS if file is None else file), "judge", "AU judge", _RETRAIN, AUJudge._of)

    @staticmethod
    def _of(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> AUJudge:
        figures = {int(code): JudgeFigures(**values) for code, values in record.pop("figures").items()}
        subjects = tuple(record.pop("subjects_seen"))
        meta = JudgeMeta(figures=figures, subjects_seen=subjects, **record)
        scale = tensors.pop("scale").numpy()
        net = JudgeNet(meta.channels, meta.width)
        net.load_state_dict(tensors)
        return AUJudge(net, scale, meta)

    def save(self, path: Path) -> None:
        """Write weights and metadata as safetensors."""
        from safetensors.torch import save_file

        save_file(judge_tensors(self._net, self._scale), path, {"judge": json.dumps(asdict(self.meta))})

    @torch.inference_mode()
    def read(self, observed: np.ndarray) -> np.ndarray:
        """[N,3,GRID,GRID] of :func:`observe` -> visible AU intensities [N,K,2] float32 in [0,1].

        Mean of the face and its mirror image with the sides exchanged: a face has no preferred side.
        """
        return np.clip(raw_intensity(self._net, observed) * self._scale[:, None], 0, 1)

    def intensity(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Frames [T,H,W,3] uint8 RGB and the onset's landmarks [68,2] -> AUs of frames 1..T-1, [T-1,K,2] in [0,1]."""
        from mesynth.preprocess.align import SimilarityCrop

        return self.read(observe(SimilarityCrop.from_landmarks(landmarks).frames(frames), self.device))


@torch.inference_mode()
def raw_intensity(net: JudgeNet, observed: np.ndarray) -> np.ndarray:
    """Uncalibrated, unbounded intensities [N,K,2] of [N,3,GRID,GRID]: mean over both mirror images."""
    x = np.ascontiguousarray(observed[:, : net.channels], np.float32)
    parts = [np.zeros((0, len(AU_CODES), 2), np.float32)]
    for i in range(0, len(x), 256):
        block = x[i : i + 256]
        where = next(net.parameters()).device
        both = net(torch.from_numpy(np.concatenate([block, mirrored(block)])).to(where)).cpu().numpy()
        parts.append(0.5 * (both[: len(block)] + both[len(block) :, :, ::-1]))
    out = np.concatenate(parts)
    out[:, _MIDLINE_ROWS] = out[:, _MIDLINE_ROWS].mean(-1, keepdims=True)
    return np.asarray(out, np.float32)


def judge_tensors(net: JudgeNet, scale: np.ndarray) -> dict[str, torch.Tensor]:
    """Everything that is learned, by name."""
    tensors = {name: value.cpu().contiguous() for name, value in net.state_dict().items()}
    return tensors | {"scale": torch.from_numpy(np.ascontiguousarray(scale, np.float32))}
