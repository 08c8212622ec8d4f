"""Copies of a fold's own clips, to be mixed in where synthetic clips would be: what copies gain is no new information.

A copy carries its source clip's subject, and that it saw that subject, so the rule that keeps synthetic clips out of a
fold keeps copies out too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mesynth.core.errors import ConfigError
from mesynth.core.seeds import stream
from mesynth.core.types import optical_strain
from recognizer.data import FlowSet, mirror

COPIES = ("mirror", "magnified", "augmented")
FLOW_ONLY = ("magnified", "augmented")
"""Copies that exist for flow alone: frames cannot be made to show them."""
MAKER = "control/"
"""What a copy's ``generators`` begins with."""
_ROUNDS = {"mirror": 1, "magnified": 8, "augmented": 8}
"""Different copies of one clip at most; they are counted again where more are asked for."""
MAGNIFICATION = (1.5, 3.0)
ROTATION_DEGREES, SCALE, SHIFT, NOISE = 10.0, (0.9, 1.1), 0.05, (0.05, 0.15)
"""Of augmented copies: largest angle, range of scales, largest shift (share of the side), and the range of the noise's
standard deviation (share of the clip's rms of u and v)."""


def rounds_for(kind: str, wanted: int) -> int:
    """How many different copies of each clip are made where ``wanted`` would be counted."""
    return max(min(wanted, _ROUNDS[kind]), 1)


def copies(real: FlowSet, kind: str, *, rounds: int = 1, seed: int = 0) -> FlowSet:
    """``rounds`` copies of every clip: clip i's copy in round r is clip ``r * len(real) + i``.

    mirror: left and right swapped, frames too. magnified: u, v and strain times 1.5 to 3. augmented: the image rotated,
    scaled and shifted a little, its vectors with it, noise added, and strain computed anew. A round is a function of
    (seed, round) alone.

    Raises:
        ConfigError: magnified or augmented copies of clips that have frames.
    """
    if kind not in COPIES:
        raise ConfigError(f"copies '{kind}' are unknown; choose from {', '.join(COPIES)}")
    if kind in FLOW_ONLY and real.views:
        raise ConfigError(
            f"{kind} copies exist for flow alone, and {', '.join(sorted(real.views))} of the clips are in use too; "
            f"leave the control {kind} out, or choose models that see flow alone"
        )
    made = [_round(real, kind, r, seed) for r in range(rounds)]
    x, au = (np.concatenate([part[i] for part in made]) for i in range(2))
    index = np.tile(np.arange(len(real)), rounds)
    names = [f"{clip}#{kind}{r}" for r in range(rounds) for clip in real.clip_ids]
    seen = [tuple(sorted({str(s), *more})) for s, more in zip(real.subjects, real.subjects_seen, strict=True)]
    taken = real.take(index)
    return replace(
        taken, x=x, au=au, clip_ids=np.array(names), kinds=np.full(len(index), "synthetic"),
        generators=np.full(len(index), MAKER + kind), subjects_seen=tuple(seen * rounds),
        views={name: np.ascontiguousarray(view[..., ::-1]) for name, view in taken.views.items()},
    )  # fmt: skip


def _round(real: FlowSet, kind: str, r: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x [N,3,S,S] and au [N,K*2] of one round."""
    if kind == "mirror":
        return mirror(real.x, real.au)
    rng = stream(seed, f"control/{kind}", r)
    if kind == "magnified":
        factor = rng.uniform(*MAGNIFICATION, len(real))
        return real.x * factor.astype(np.float32)[:, None, None, None], real.au
    return _augmented(real.x, rng), real.au


def _augmented(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n, size = len(x), x.shape[-1]
    degrees = rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, n)
    scale = rng.uniform(*SCALE, n)
    shift = rng.uniform(-SHIFT, SHIFT, (n, 2)) * size
    flow = similarity(x[:, :2].astype(np.float64), degrees, scale, shift)
    rms = np.sqrt((flow**2).mean((1, 2, 3), keepdims=True))
    level = rng.uniform(*NOISE, (n, 1, 1, 1))
    # A function of the round alone, whatever the clip: sizes of all draws are fixed by the real set.
    flow = flow + level * rms * rng.standard_normal(flow.shape)
    image = np.concatenate([flow, optical_strain(flow)[:, None]], 1)
    return image.astype(np.float32)


def similarity(flow: np.ndarray, degrees: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Flow [N,2,S,S] of faces that are rotated (positive: x towards y), scaled about the centre, then shifted.

    ``degrees`` and ``scale`` [N], ``shift`` [N,2] in pixels (x, y). A vector turns and grows with the face it moves.
    Edges repeat.
    """
    size = flow.shape[-1]
    angle = np.deg2rad(degrees)
    turn = scale[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)], 1
    )  # [N,2,2]
    # grid_sample asks where each target pixel comes from, in units in which the image spans [-1, 1].
    back = np.linalg.inv(turn)
    offset = -np.einsum("nij,nj->ni", back, shift * (2 / size))
    theta = torch.from_numpy(np.concatenate([back, offset[..., None]], 2))
    field = torch.from_numpy(np.ascontiguousarray(flow, dtype=np.float64))
    grid = torch.nn.functional.affine_grid(theta, list(field.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(field, grid, padding_mode="border", align_corners=False)
    return np.asarray(np.einsum("nij,njhw->nihw", turn, moved.numpy()))
