"""A task and pairs so small that the loop itself is what is tested: the mean flow of a pair follows from its AUs.

``python -m tests.training.toy ARGUMENTS`` is ``mesynth train ARGUMENTS`` with the toy in the registry; run it by
torchrun, kill it, start it again. ``TOY_DIE_AT=N`` ends its last process by SIGKILL in the middle of the update after
N images;
``TOY_TELL_THREADS=1`` prints the native threads that are left when Python begins to end.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from mesynth.core.errors import ConfigError
from mesynth.core.facs import AU_CODES
from mesynth.core.process import launched
from mesynth.core.seeds import stream
from mesynth.store.generator_folder import FAMILIES, Family, GeneratorFacts, Source
from mesynth.training.data.batches import Batch
from mesynth.training.task import Task, Updater

K = len(AU_CODES)
SUBJECTS = tuple(f"{database}/{i:02d}" for database in ("left", "right") for i in range(5))


@dataclass(frozen=True, kw_only=True)
class Model:
    width: int = 16
    dropout: float = 0.0
    """Draws from torch's global stream, as a network's layers may."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    noise: float = 0.1
    poison_at: int = -1
    """Images after which the loss is NaN; -1: never."""
    complain: str = ""
    """What every check says."""

    def idle(self) -> dict[str, str]:
        return {"complain": "loss.poison_at ends the run before"} if self.poison_at >= 0 else {}


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-2
    critic_lr: float = 1e-2

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"optim.lr={self.lr:g} must be positive")


@dataclass(frozen=True, kw_only=True)
class Config:
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)


class ToyTask(Task):
    """A generator of two numbers from AUs and a critic that learns the generator's error, updated in turn."""

    name: ClassVar[str] = "toy"

    def __init__(self, config: Config, size: int) -> None:
        self._config = config
        width = config.model.width
        body = nn.Sequential(nn.Linear(2 * K, width), nn.Tanh(), nn.Dropout(config.model.dropout), nn.Linear(width, 2))
        self.networks = {"body": body, "critic": nn.Linear(2, 1)}
        self.frozen: dict[str, nn.Module] = {"fixed": nn.Linear(2, 2)}
        self.averaged = ("body",)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        optim = self._config.optim
        return {
            "critic": torch.optim.SGD(self.networks["critic"].parameters(), lr=optim.critic_lr, momentum=0.9),
            "body": torch.optim.AdamW(self.networks["body"].parameters(), lr=optim.lr, betas=(0.5, 0.99)),
        }

    def step(self, batch: Batch, images: int, updater: Updater) -> dict[str, torch.Tensor]:
        config = self._config
        die_at = os.environ.get("TOY_DIE_AT")
        made = self.networks["body"](batch.aus.flatten(1) + config.loss.noise * batch.randn("noise", 2 * K))
        target = batch.flow.mean((2, 3))
        error = ((made - target) ** 2).mean(1, keepdim=True)
        critic_loss = ((self.networks["critic"](made.detach()) - error.detach()) ** 2).mean()
        updater.update("critic", critic_loss)
        if die_at is not None and images >= int(die_at) and launched()[0] == launched()[1] - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = error.mean() + 0.01 * self.networks["critic"](made).mean()
        if config.loss.poison_at >= 0 and images >= config.loss.poison_at:
            loss = loss * float("nan")
        updater.update("body", loss)
        return {"critic": critic_loss.detach(), "body": loss.detach()}

    def validate(self, averaged: Mapping[str, nn.Module], batch: Batch) -> dict[str, torch.Tensor]:
        error = (averaged["body"](batch.aus.flatten(1)) - batch.flow.mean((2, 3))).norm(dim=1)
        return {"error": error, "unknown": torch.full_like(error, torch.nan).where(error < 0, torch.nan)}

    def sheet(self, averaged: Mapping[str, nn.Module], batch: Batch) -> np.ndarray:
        picture = (batch.onset.permute(0, 2, 3, 1) * 255).byte().numpy()
        return np.concatenate(list(picture), 1)

    def check(self, logged: Mapping[str, float], measured: Mapping[str, float]) -> str:
        assert "body" in logged
        assert "error" in measured
        return self._config.loss.complain

    def save(self, averaged: Mapping[str, nn.Module], folder: Path, facts: GeneratorFacts) -> None:
        folder.mkdir(parents=True)
        save_file(averaged["body"].state_dict(), folder / "body.safetensors")
        (folder / "mesynth.json").write_text(json.dumps(asdict(facts)))


# ---------------------------------------------------------------- pairs


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    size: int = 4
    pairs: int = 1000
    folder: Path = Path("anywhere")
    """Has no influence, as the place of data has none."""
    salt: str = "toy"
    """Other pairs in the same place."""


class ToyPairs:
    """A draw decides the AUs; the flow is a fixed linear function of them."""

    def __init__(self, config: PairConfig, subjects: tuple[str, ...], seed: int) -> None:
        self.config, self.subjects_seen, self.size, self._seed = config, subjects, config.size, seed
        self.data_hash = f"{config.salt}-{config.pairs}-{len(subjects)}"
        self.licences: tuple[str, ...] = ("none",)
        self._weights = stream(0, "toy-weights").standard_normal((2 * K, 2)).astype(np.float32) / 4

    def __len__(self) -> int:
        return self.config.pairs

    def batch(self, draws: np.ndarray) -> Batch:
        n, size = len(draws), self.size
        rngs = [stream(self._seed, self.config.salt, int(draw)) for draw in draws]
        aus = np.stack([rng.random((K, 2), np.float32) for rng in rngs])
        mean = aus.reshape(n, -1) @ self._weights
        onset = torch.from_numpy(np.stack([rng.random((3, size, size), np.float32) for rng in rngs]))
        return Batch(
            onset=onset,
            frame=onset.clone(),
            flow=torch.from_numpy(mean)[:, :, None, None].expand(n, 2, size, size).contiguous(),
            valid=torch.ones(n, size, size, dtype=torch.bool),
            has_flow=torch.ones(n, dtype=torch.bool),
            aus=torch.from_numpy(aus),
            known=torch.ones(n, K, 2, dtype=torch.bool),
            landmarks=torch.full((n, 68, 2), torch.nan),
            label=torch.zeros(n, dtype=torch.int64),
            seeds=np.array([rng.integers(2**62) for rng in rngs], np.int64),
        )

    def validation(self, n: int) -> Iterable[Batch]:
        for start in range(0, n, 8):
            yield self.batch(np.arange(10**9 + start, 10**9 + min(start + 8, n)))


def list_subjects(config: PairConfig) -> tuple[str, ...]:
    return SUBJECTS


def open_pairs(
    config: PairConfig,
    *,
    exclude_subjects: Iterable[str] = (),
    cache: Path,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[str], Any] | None = None,
) -> tuple[ToyPairs, ToyPairs]:
    left = tuple(s for s in SUBJECTS if s not in set(exclude_subjects))
    return ToyPairs(config, left[1:], seed), ToyPairs(config, left[:1], seed)


# ---------------------------------------------------------------- the command


SOURCE = Source(PairConfig, open_pairs, list_subjects)


def _no_pipeline(folder: Path, facts: GeneratorFacts) -> Any:
    raise AssertionError("a saved toy is read by its tests alone")


TOY = Family(
    pipeline=_no_pipeline, task="tests.training.toy:ToyTask", config=Config, data="tests.training.toy:SOURCE"
)  # fmt: skip


def recipe_text(**run: object) -> str:
    """A recipe of a short run."""
    values = {"images": 640, "batch": 16, "log_images": 64, "validate_images": 320, "validation": 16, "sheet": 3}
    values |= {"checkpoint_images": 160, "checkpoint_minutes": 0, "half_life": 100} | run
    return "task: toy\nrun:\n" + "".join(f"  {key}: {value}\n" for key, value in values.items())


def _tell_threads() -> None:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    # a file of its own: lines of two processes meet in one pipe, and can be cut anywhere
    (Path(os.environ["TOY_TELL_THREADS"]) / str(os.getpid())).write_text("\n".join(sorted(names)))


if __name__ == "__main__":
    if os.environ.get("TOY_TELL_THREADS"):
        atexit.register(_tell_threads)  # registered first: called last

    from mesynth.cli.generators import train
    from mesynth.commandline import MistakeGroup

    FAMILIES.register("toy", TOY)
    torch.set_num_threads(1)
    group = MistakeGroup("toy", commands={"train": train})
    group(["train", *sys.argv[1:]])
