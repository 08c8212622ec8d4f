"""Train the learned magnifier: ``python -m mesynth.preprocess.magnify.learned_train RECIPE --out DIR [key=value ...]``.

The recipe that ships is configs/preprocess/magnifier.yaml. Writes ``magnifier.safetensors`` and ``magnifier.md`` with
figures on people and photographs never learned from. The same command resumes from the last checkpoint and gives the
same weights as an undisturbed run; Ctrl-C stops after a checkpoint.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from mesynth import seeds
from mesynth.errors import ConfigError, MesynthError, RunFolderError
from mesynth.preprocess.magnify.learned import (
    LearnedMagnifier,
    MagnifierMeta,
    MagnifierNet,
    net_tensors,
)
from mesynth.preprocess.magnify.learned_data import (
    TRAIN_PHOTOGRAPHS,
    TripleConfig,
    draw_triples,
    face_pictures,
    photographs,
)
from mesynth.recipe import load_recipe
from mesynth.stopping import stop_requested
from mesynth.weights import tensors_sha256

CHECKPOINT_SECONDS = 60.0
_LEAST_CHANGE = 0.01  # of the range [0, 1]: below it, noise decides
_STATE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class MagnifierConfig:
    """Everything the magnifier depends on."""

    triples: TripleConfig = field(default_factory=TripleConfig)
    width: int = 24
    """Channels at half resolution."""
    blocks: int = 3
    """Residual blocks of the decoder."""
    steps: int = 7000
    batch: int = 8
    lr: float = 2e-3
    """Peak learning rate: linear warm-up over 2 % of the steps, then half a cosine to 0."""
    gradient: float = 0.5
    """Weight of the L1 error of spatial differences beside that of colours: edges must arrive, not blur."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.steps, self.batch) < 1:
            raise ConfigError("width, blocks, steps and batch must be at least 1")
        if not self.lr > 0 or not self.gradient >= 0:
            raise ConfigError(f"lr={self.lr:g} must be positive and gradient={self.gradient:g} not negative")


class Training:
    """Network, optimizer and step; a step depends on (config, step) and the state before it alone."""

    def __init__(self, config: MagnifierConfig, pictures: torch.Tensor, faces: int) -> None:
        """pictures [P,3,S,S] float in [0,1], on the device to train on; the first ``faces`` show people."""
        self.config, self.step, self.loss = config, 0, math.nan
        self._pictures, self._faces = pictures, faces
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derived(config.seed, "magnifier-init"))
            self.net = MagnifierNet(config.width, config.blocks)
        self.net.to(pictures.device).train()
        self._optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, weight_decay=1e-4)

    def advance(self) -> None:
        """One step."""
        config = self.config
        rng = seeds.stream(config.seed, "magnifier-triples", self.step)
        face = rng.random(config.batch) < config.triples.faces
        index = np.where(
            face,
            rng.integers(0, self._faces, config.batch),
            rng.integers(self._faces, len(self._pictures), config.batch),
        )
        batch = draw_triples(self._pictures, index, rng, config.triples)
        error = self.net(batch.onset, batch.frame, batch.factor) - batch.truth
        # Relative to what magnification changes: faint motion counts as much as large motion does.
        asked = (batch.truth - batch.frame).abs().mean((1, 2, 3)) + _LEAST_CHANGE
        size = error.abs().mean((1, 2, 3)) + config.gradient * _edges(error)
        loss = (size / asked).mean()
        for group in self._optimizer.param_groups:
            group["lr"] = config.lr * schedule(self.step / config.steps)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self._optimizer.step()
        self.loss = float(loss.detach()) if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * float(loss.detach())
        self.step += 1

    def save(self, path: Path) -> None:
        """Write the whole state; appears under its name only when complete."""
        from safetensors.torch import save

        from mesynth.run_folder import write_bytes

        tensors = {f"net.{name}": value for name, value in net_tensors(self.net).items()}
        for i, moments in self._optimizer.state_dict()["state"].items():
            for name in ("exp_avg", "exp_avg_sq"):
                tensors[f"{name}.{i}"] = moments[name].to("cpu").contiguous()
        write_bytes(path, save(tensors, {"step": str(self.step), "loss": repr(self.loss)}))

    def restore(self, path: Path) -> None:
        """Go on from a saved state. Raises RunFolderError when the file is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt", device=str(self._pictures.device)) as handle:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
                record = handle.metadata()
            self.net.load_state_dict({n[4:]: value for n, value in tensors.items() if n.startswith("net.")})
            state = self._optimizer.state_dict()
            step = int(record["step"])
            state["state"] = {
                i: {"step": torch.tensor(float(step)), **{n: tensors[f"{n}.{i}"] for n in ("exp_avg", "exp_avg_sq")}}
                for i in range(len(list(self.net.parameters())))
            }
            self._optimizer.load_state_dict(state)
            self.step, self.loss = step, float(record["loss"])
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise RunFolderError(f"{path} is no checkpoint of this run ({reason}); remove it to start anew") from None


def _edges(error: torch.Tensor) -> torch.Tensor:
    """[N,C,H,W] -> [N]: mean size of the spatial differences."""
    return error.diff(dim=-1).abs().mean((1, 2, 3)) + error.diff(dim=-2).abs().mean((1, 2, 3))


def schedule(progress: float) -> float:
    """Share of the peak learning rate at ``progress`` in 0..1."""
    if progress < 0.02:
        return (progress + 1e-4) / (0.02 + 1e-4)
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


def fit(training: Training, state: Path, progress: bool = True) -> MagnifierNet:
    """Train to the last step, with a checkpoint a minute. Raises Interrupted after one when asked to stop."""
    from tqdm import tqdm

    from mesynth.stage import Interrupted

    config = training.config
    if state.is_file():
        training.restore(state)
    saved = time.monotonic()
    with (
        stop_requested() as asked,
        tqdm(total=config.steps, initial=training.step, desc="train", disable=not progress) as bar,
    ):
        while training.step < config.steps:
            training.advance()
            bar.update()
            if training.step % 50 == 0:
                bar.set_postfix(loss=f"{training.loss:.4f}")
            if asked.is_set() or time.monotonic() - saved > CHECKPOINT_SECONDS:
                training.save(state)
                saved = time.monotonic()
            if asked.is_set():
                raise Interrupted(f"stopped at step {training.step} of {config.steps}; the same command goes on")
    training.save(state)
    return training.net.eval().requires_grad_(False)


def train(config: MagnifierConfig, out: Path, device: str = "cpu", progress: bool = True) -> LearnedMagnifier:
    """Make a magnifier and write ``magnifier.safetensors`` and ``magnifier.md`` into ``out``.

    Raises:
        RunFolderError: ``out`` holds another run or a damaged checkpoint.
        Interrupted: stopped by Ctrl-C; the same call goes on.
    """
    from mesynth.preprocess.magnify.learned_card import held_out_figures, magnifier_card
    from mesynth.run_folder import claim_folder, write_text

    claim_folder(out, asdict(config))
    triples = config.triples
    faces = face_pictures(triples.seen(), triples.looks, triples.size)
    pictures = np.concatenate([faces, photographs(TRAIN_PHOTOGRAPHS, triples.size)])
    batch = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float().div_(255).contiguous()
    net = fit(Training(config, batch, len(faces)), out / _STATE, progress).to("cpu")
    meta = MagnifierMeta(
        width=config.width,
        blocks=config.blocks,
        max_factor=triples.max_factor,
        max_motion=triples.max_magnified,
        people_seen=(*triples.seen(), *triples.unseen()),
        figures={},
        config=OmegaConf.to_yaml(OmegaConf.structured(config)),
        weights_sha256=tensors_sha256(net_tensors(net)),
    )
    meta.figures.update(held_out_figures(LearnedMagnifier(net, meta), triples))
    made = LearnedMagnifier(net, meta)
    made.save(out / "magnifier.safetensors")
    write_text(out / "magnifier.md", magnifier_card(made, config))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m mesynth.preprocess.magnify.learned_train",
        description=__doc__,
        epilog="example: python -m mesynth.preprocess.magnify.learned_train configs/preprocess/magnifier.yaml "
        "--out runs/magnifier",
    )
    parser.add_argument("config", help="recipe, for example configs/preprocess/magnifier.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value, for example steps=200")
    parser.add_argument("--out", required=True, type=Path, help="folder of this run")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"device {options.device} is not here (no CUDA); use --device cpu")
        made = train(load_recipe(MagnifierConfig, options.config, options.overrides)[0], options.out, options.device)
    except MesynthError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out / 'magnifier.safetensors'}; weights {made.meta.weights_sha256[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
