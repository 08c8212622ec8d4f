"""A diffusion run that is stopped and started again ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mesynth.store.generator_folder import read_facts
from mesynth.store.stage import Interrupted
from mesynth.training import checkpoint
from mesynth.training.config import Recipe, load_recipe
from mesynth.training.record import read_metrics
from mesynth.training.train import Machine, train
from tests.training import small_manifest

RECIPE = """
task: motion_diffusion
model: {widths: [8, 16], dim: 16, expect: 8, steps: 2, kind: %s}
optim: {lr: 1.0e-3}
data: {source: manifest, size: 32, frames: 4, manifests: [%s]}
run:
  images: 32
  batch: 4
  warmup: 8
  decay: cosine
  clip: 1.0
  half_life: 8
  log_images: 8
  validate_images: 16
  validation: 4
  sheet: 0
  checkpoint_images: 16
  checkpoint_minutes: 0
  patience: 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of three people."""
    out = tmp_path_factory.mktemp("resume")
    small_manifest.write(out / "clips", small_manifest.jobs("a/1", "a/2", "a/3"))
    return out


def recipe(place: Path, kind: str, *settings: str) -> Recipe:
    file = place / f"{kind}.yaml"
    file.write_text(RECIPE % (kind, place / "clips"))
    return load_recipe(file, settings)


def stop_at(images: int) -> Callable[[str], Callable[[int, int], None]]:
    """A progress bar that asks to stop, as Ctrl-C does."""

    def bar(name: str) -> Callable[[int, int], None]:
        return lambda done, total: os.kill(os.getpid(), signal.SIGTERM) if (name, done) == ("train", images) else None

    return bar


def lines(run: Path) -> list[dict[str, object]]:
    """Of metrics.jsonl, but for the clock on the wall."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in read_metrics(run)]


@pytest.mark.parametrize("kind", ["edm", "v"])
def test_stopped_between_two_checkpoints_it_ends_with_the_same_bytes(place: Path, tmp_path: Path, kind: str) -> None:
    on = Machine(device="cpu", cache=place / "cache")
    train(recipe(place, kind), tmp_path / "whole", machine=on)
    with pytest.raises(Interrupted, match="stopped after 24 of 32 images"):
        train(recipe(place, kind), tmp_path / "cut", machine=on, progress=stop_at(20))
    # How it is carried out may change: parts of a batch are another order of sums, waiting batches are not.
    train(recipe(place, kind, "run.prefetch=0"), tmp_path / "cut", machine=on)
    for name in ("networks", "averaged", "optimisers"):
        files = [
            tmp_path / run / "checkpoints" / checkpoint.name_of(32) / f"{name}.safetensors" for run in ("whole", "cut")
        ]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    facts = [read_facts(tmp_path / run / "generator") for run in ("whole", "cut")]
    assert facts[0].weights_sha256 == facts[1].weights_sha256
    assert facts[0].figures == pytest.approx(facts[1].figures, nan_ok=True, abs=0)
    assert str(lines(tmp_path / "whole")) == str(lines(tmp_path / "cut"))


def test_other_noise_ends_with_other_bytes(place: Path, tmp_path: Path) -> None:
    """What the comparison of bytes is worth."""
    on = Machine(device="cpu", cache=place / "cache")
    for seed in (0, 1):
        train(
            recipe(place, "edm", f"run.seed={seed}", "run.images=8", "run.warmup=0"), tmp_path / str(seed), machine=on
        )
    made = [read_facts(tmp_path / str(seed) / "generator").weights_sha256 for seed in (0, 1)]
    assert made[0] != made[1]
