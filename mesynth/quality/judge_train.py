"""Train the AU judge: ``python -m mesynth.quality.judge_train configs/quality/judge.yaml --out DIR [key=value ...]``.

Renders people, fits a ridge regression, lets a small network learn the rest, calibrates the slope on people
it did not learn from, and writes ``judge.safetensors`` and ``judge.md`` with figures on people never used.
The same command resumes: rendered people stay in ``DIR/pairs``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from mesynth.errors import ConfigError, MesynthError
from mesynth.facs import AU_CODES
from mesynth.preprocess.align import IOD_SHARE
from mesynth.quality.control import agreement
from mesynth.quality.judge import (
    AUJudge,
    JudgeFigures,
    JudgeMeta,
    JudgeNet,
    judge_tensors,
    mirrored,
    raw_intensity,
)
from mesynth.quality.judge_data import SPLITS, PairConfig, Pairs, load_pairs
from mesynth.recipe import load_recipe
from mesynth.weights import tensors_sha256

LOWEST_SLOPE = 0.5
"""An AU whose slope is below this is not stretched to 1: it would only amplify noise."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Everything the judge depends on."""

    pairs: PairConfig = field(default_factory=PairConfig)
    luma: bool = False
    """Look at the luma difference too. Off: a little worse on renders, free of their shading."""
    width: int = 16
    epochs: int = 30
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-2
    ridge: float = 30.0
    noise: float = 0.03
    """Standard deviation of noise added to the input, pixels."""
    style: float = 1.0
    """Individual differences put on the training flows: 1 = smooth shifts of sd .05 IOD and turns of sd 8
    degrees. Without them the judge knows one head's exact fields and misreads everybody else's."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.epochs, self.batch) < 1:
            raise ConfigError("width, epochs and batch must be at least 1")
        if min(self.lr, self.ridge) <= 0 or min(self.weight_decay, self.noise, self.style) < 0:
            raise ConfigError("lr and ridge must be positive, weight_decay, noise and style not negative")


def ridge_weights(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """[N,D], [N,O] -> [O,D] minimising |y - x W^T|^2 + strength |W|^2, without intercept."""
    x = x.astype(np.float64)
    return np.asarray(np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y).T, np.float32)


def styled(seen: torch.Tensor, strength: float, draw: torch.Generator) -> torch.Tensor:
    """``seen`` [N,C,G,G] as other people's muscles would have moved: each sample read at smoothly shifted places
    and its (u, v) smoothly turned. Where nothing moves, nothing moves afterwards."""
    if strength == 0:
        return seen
    n, _, height, width = seen.shape
    coarse = torch.randn((n, 3, 5, 5), generator=draw)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    # The crop is 1 / IOD_SHARE inter-ocular distances wide and 2 units in grid_sample's coordinates.
    shift = smooth[:, :2] * (0.05 * strength * 2 * IOD_SHARE)
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    read = F.grid_sample(seen, grid + shift.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)
    turn = smooth[:, 2] * float(np.radians(8) * strength)
    cos, sin = turn.cos(), turn.sin()
    u, v = read[:, 0], read[:, 1]
    return torch.cat([torch.stack([cos * u - sin * v, sin * u + cos * v], 1), read[:, 2:]], 1)


def fit(pairs: Pairs, config: JudgeConfig, progress: bool = True) -> JudgeNet:
    """Ridge solution first, then network and linear path together on mirrored, styled, noised pairs."""
    from tqdm import tqdm

    torch.manual_seed(config.seed)
    channels = 3 if config.luma else 2
    net = JudgeNet(channels, config.width)
    seen, aus = pairs.seen[:, :channels], pairs.aus
    draw = torch.Generator().manual_seed(config.seed)
    other = styled(torch.from_numpy(np.ascontiguousarray(seen)), config.style, draw).numpy()
    both = np.concatenate([seen, mirrored(other)]).reshape(2 * len(seen), -1)
    targets = np.concatenate([aus, aus[..., ::-1]]).reshape(2 * len(aus), -1)
    net.linear.weight.data = torch.from_numpy(ridge_weights(both, targets, config.ridge))
    torch.nn.init.zeros_(net.head.weight)  # training starts at the ridge solution
    x, y = torch.from_numpy(np.ascontiguousarray(seen)), torch.from_numpy(aus)
    steps = max(len(x) // config.batch, 1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=config.epochs * steps, pct_start=0.1
    )
    for _ in tqdm(range(config.epochs), "train", disable=not progress):
        order = torch.randperm(len(x), generator=draw)
        for i in range(steps):
            index = order[i * config.batch : (i + 1) * config.batch]
            a, b = x[index], y[index]
            if torch.rand((), generator=draw) < 0.5:
                a, b = a.flip(-1), b.flip(-1)
                a[:, 0] *= -1
            a = styled(a, config.style, draw)
            a = a + config.noise * torch.randn(a.shape, generator=draw)
            loss = F.mse_loss(net(a), b)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def calibrate(net: JudgeNet, pairs: Pairs) -> np.ndarray:
    """Factor per AU [K] that makes the slope of judged on true intensity 1 on these people."""
    judged = raw_intensity(net, pairs.seen)
    true = pairs.aus - pairs.aus.mean((0, 2), keepdims=True)
    slope = (true * judged).sum((0, 2)) / np.maximum((true**2).sum((0, 2)), 1e-9)
    return np.where(slope >= LOWEST_SLOPE, 1 / np.maximum(slope, LOWEST_SLOPE), 1.0).astype(np.float32)


def figures(judge_read: np.ndarray, true: np.ndarray) -> dict[int, JudgeFigures]:
    """Per AU, over both sides, of judged and true [N,K,2]."""
    out = {}
    for k, code in enumerate(AU_CODES):
        a = agreement(true[:, k].ravel(), judge_read[:, k].ravel())
        if a.icc is None or a.pearson is None or a.slope is None:
            raise ConfigError(f"AU {code} is shown in {a.n_present} test pairs only; raise pairs.test or pairs.pairs")
        out[code] = JudgeFigures(mae=a.mae, icc=a.icc, pearson=a.pearson, slope=a.slope)
    return out


def head_sha256() -> str:
    """sha256 of the head's AU displacements, rounded to half precision."""
    from mesynth.head import HeadModel

    return hashlib.sha256(HeadModel.load().au_basis.astype(np.float16).tobytes()).hexdigest()


def train(config: JudgeConfig, out: Path, progress: bool = True) -> AUJudge:
    """Make a judge and write ``judge.safetensors`` and ``judge.md`` into ``out``.

    Raises:
        RunFolderError: ``out`` holds another run.
    """
    from tqdm import tqdm

    from mesynth.quality.judge_card import judge_card
    from mesynth.run_folder import claim_folder, write_text

    claim_folder(out, asdict(config))
    data = {}
    for split in SPLITS:
        people = len(config.pairs.people(split))
        with tqdm(total=people, desc=f"render {split}", disable=not progress) as bar:
            data[split] = load_pairs(out / "pairs", split, config.pairs, lambda n, _, b=bar: b.update(n - b.n))  # type: ignore[misc]
    net = fit(data["train"], config, progress)
    scale = calibrate(net, data["validation"])
    test = data["test"]
    found = figures(np.clip(raw_intensity(net, test.seen) * scale[:, None], 0, 1), test.aus)
    meta = JudgeMeta(
        width=config.width,
        channels=net.channels,
        subjects_seen=tuple(p for split in SPLITS for p in config.pairs.people(split)),
        figures=found,
        config=OmegaConf.to_yaml(OmegaConf.structured(config)),
        head_sha256=head_sha256(),
        weights_sha256=tensors_sha256(judge_tensors(net, scale)),
    )
    judge = AUJudge(net, scale, meta)
    judge.save(out / "judge.safetensors")
    neutral = test.aus.reshape(len(test.aus), -1).max(1) == 0
    write_text(out / "judge.md", judge_card(judge, config, judge.read(test.seen[neutral])))
    return judge


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m mesynth.quality.judge_train", description=__doc__)
    parser.add_argument("config", help="recipe, for example configs/quality/judge.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value, for example epochs=2")
    parser.add_argument("--out", required=True, type=Path, help="folder of this run")
    options = parser.parse_intermixed_args(arguments)
    try:
        judge = train(load_recipe(JudgeConfig, options.config, options.overrides)[0], options.out)
    except MesynthError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out / 'judge.safetensors'}; trusted AUs: {', '.join(map(str, judge.trusted))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
