"""Training of ``flow_volume``: it begins as the 2D network, learns what lies beside the profile, stops and resumes."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesynth.core import facs
from mesynth.core.errors import ConfigError
from mesynth.core.profiles import Profile
from mesynth.generators.base import load_pipeline
from mesynth.generators.flow_volume.config import Config, LossConfig, ModelConfig, OptimConfig
from mesynth.generators.flow_volume.task import FlowVolumeTask
from mesynth.generators.motion_diffusion.network import MotionDiffuser
from mesynth.motion.key_times import RISING
from mesynth.store.generator_folder import read_facts, save_pipeline
from mesynth.store.stage import Interrupted
from mesynth.training import checkpoint
from mesynth.training.checkpoint import InitialWeights
from mesynth.training.config import load_recipe
from mesynth.training.data.sequences import SequenceBatch, SequenceConfig, SequenceSet, open_pairs
from mesynth.training.forecast import forecast
from mesynth.training.train import Machine, train
from tests.generators.gan_facts import facts as plain_facts
from tests.training.gan_checks import Losses, facts, measured
from tests.training.rendered import PlainUpdater, person_face, rendered_batch

SIZE = 32
SMALL = ModelConfig(widths=(8, 16), dim=16, mean_width=8, steps=4)
FACTS = replace(facts("flow_volume", SIZE), subjects_seen=("rendered/x",), figures={"epe": 0.1})
RECIPES = Path(__file__).parents[2] / "configs" / "diffusion"


def task_of(
    model: ModelConfig = SMALL, loss: LossConfig = LossConfig(mean=1.0), optim: OptimConfig = OptimConfig(lr=2e-3),
    size: int = SIZE,
) -> FlowVolumeTask:  # fmt: skip
    torch.manual_seed(0)
    return FlowVolumeTask(Config(model=model, loss=loss, optim=optim), size)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceSet, SequenceSet]:
    config = SequenceConfig(size=SIZE, identities=4, per_identity=8, validation_identities=1)
    return open_pairs(config, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def batch(clips: tuple[SequenceSet, SequenceSet]) -> SequenceBatch:
    return clips[0].batch(np.arange(6))


def again(batch: SequenceBatch) -> Iterable[SequenceBatch]:
    """The same clips with other seeds: other noise."""
    for i in itertools.count():
        yield replace(batch, seeds=batch.seeds + 7919 * i)


def fit(task: FlowVolumeTask, batches: Iterable[SequenceBatch], steps: int) -> None:
    """A bare loop with learning rates that fall linearly to 0."""
    updater = PlainUpdater(task.optimisers())
    groups = [g for o in updater.optimisers.values() for g in o.param_groups]
    rates = [g["lr"] for g in groups]
    for step, batch in zip(range(steps), batches, strict=False):
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps)
        task.step(batch, 0, updater)
    task.networks["generator"].eval()


def denoising(task: FlowVolumeTask, batch: SequenceBatch) -> float:
    with torch.no_grad():
        return float(np.mean([float(task.terms(b)["denoising"]) for b in itertools.islice(again(batch), 8)]))


@pytest.fixture(scope="module")
def trained(clips: tuple[SequenceSet, SequenceSet]) -> FlowVolumeTask:
    """A short training on a few rendered people."""
    task = task_of(loss=LossConfig(), optim=OptimConfig(lr=1e-2, flat=1.0))
    fit(task, (clips[0].batch(np.arange(6 * step, 6 * step + 6)) for step in itertools.count()), 24)
    return task


def moved(task: FlowVolumeTask, batch: SequenceBatch) -> set[str]:
    """Parts of the network that one step changes."""
    network = task.networks["generator"]
    torch.nn.init.normal_(network.base.unet.conv_out.weight, std=0.1)  # type: ignore[union-attr,arg-type]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    updater = PlainUpdater(task.optimisers())
    for b in itertools.islice(again(batch), 2):  # what stands behind a zero layer moves from the second step on
        task.step(b, 0, updater)
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    return {".".join(name.split(".")[: 2 if name.startswith("base") else 1]) for name in changed}


def test_each_rate_reaches_its_own_part(batch: SequenceBatch) -> None:
    added, flat = {"down", "middle", "up", "apex_in", "when"}, {"base.unet", "base.tokens"}
    assert moved(task_of(loss=LossConfig()), batch) == added | flat
    assert moved(task_of(loss=LossConfig(), optim=OptimConfig(flat=0)), batch) == added
    assert moved(task_of(), batch) == added | flat | {"base.regression"}


def test_a_short_training_learns(trained: FlowVolumeTask, clips: tuple[SequenceSet, SequenceSet]) -> None:
    """About a person who validates; what is expected stays as it is, so that the losses compare."""
    held = next(iter(clips[1].validation(8)))
    assert denoising(trained, held) < 0.9 * denoising(task_of(), held)


@pytest.mark.slow
def test_clips_are_learned_by_heart(tmp_path: Path) -> None:
    """Of the two whose AUs keep least to the profile, what is drawn comes nearer than the profile's expectation."""
    config = SequenceConfig(size=16, identities=4, per_identity=4, validation_identities=1)
    whole = open_pairs(config, cache=tmp_path)[0].batch(np.arange(12))
    model = ModelConfig(widths=(16, 16), dim=16, mean_width=8, steps=4)
    task = task_of(model, LossConfig(), OptimConfig(lr=5e-3, flat=1.0), size=16)
    few = whole.rows(task.validate(task.networks, whole)["epe_exact_apex"].topk(2).indices.numpy())
    before = denoising(task, few)
    fit(task, again(few), 120)
    assert denoising(task, few) < 0.65 * before
    found = measured(task, few)
    assert found["epe"] < found["epe_profile"]


def test_validation_is_what_it_says(trained: FlowVolumeTask, batch: SequenceBatch) -> None:
    found = measured(trained, batch)
    length = batch.flows.norm(dim=2)
    want = ((length * batch.seen).flatten(1).sum(1) / batch.seen.flatten(1).sum(1)).mean()
    assert found["epe_zero"] == pytest.approx(float(want), rel=1e-4)
    assert found["epe_exact_apex"] < 0.6 * found["epe_zero"]
    assert found["au_effect"] > 0.05
    assert found["diversity"] > 0
    still = measured(trained, replace(batch, aus=0 * batch.aus))
    assert still["epe"] == pytest.approx(still["epe_zero"], rel=1e-5)


def test_pairs_teach_the_apex_alone() -> None:
    pairs, task = rendered_batch([1], 3, SIZE), task_of()
    clips = SequenceBatch.of_pairs(pairs)
    junk = clips.flows + 5.0
    junk[:, RISING - 1] = clips.flow
    with torch.no_grad():
        one, other = (task.terms(c) for c in (clips, replace(clips, flows=junk)))
    assert float(one["denoising"]) > 0
    # Unknown times are noise with no weight: they do not count, and an untrained mixer does not carry them.
    assert float(one["denoising"]) == pytest.approx(float(other["denoising"]), rel=1e-4)
    updater = Losses()
    task.step(pairs, 0, updater)
    assert np.isfinite(updater.seen["generator"])
    blank = replace(pairs, has_flow=torch.zeros(3, dtype=torch.bool))
    assert float(task.terms(SequenceBatch.of_pairs(blank))["denoising"].detach()) == 0
    assert bool(task.validate(task.networks, blank)["epe"].isnan().all())


def test_occluded_pixels_weigh_less(batch: SequenceBatch) -> None:
    hidden = torch.zeros_like(batch.seen)
    hidden[..., : SIZE // 2] = True
    wrong = batch.flows.clone()
    wrong[..., SIZE // 2 :] += 3
    for weight in (0.0, 0.5):
        task = task_of(loss=LossConfig(occluded=weight))
        with torch.no_grad():
            right, off = (
                float(task.terms(replace(batch, seen=hidden, flows=f))["denoising"]) for f in (batch.flows, wrong)
            )
        assert (off == pytest.approx(right, rel=1e-3)) == (weight == 0)


def test_known_failures_are_named() -> None:
    task = task_of()
    assert "the output is the input" in task.check({}, {"motion": 1e-4})
    assert "does not depend on the AUs (effect 0.01" in task.check({}, {"motion": 1.0, "au_effect": 0.01})
    assert task.check({}, {"motion": 1.0, "au_effect": 0.5}) == ""


def test_saved_and_loaded(trained: FlowVolumeTask, tmp_path: Path) -> None:
    trained.save(trained.networks, tmp_path / "g", FACTS)
    assert read_facts(tmp_path / "g").subjects_seen == ("rendered/x",)
    assert "# Flow volume" in (tmp_path / "g" / "README.md").read_text()
    loaded: Any = load_pipeline(tmp_path / "g")
    for name, value in trained.networks["generator"].state_dict().items():
        assert torch.equal(value, loaded.network.state_dict()[name]), name
    face = person_face(3, 64)
    sample, _ = loaded.generate(face, facs.parse_request("12=0.5"), Profile(), n_frames=9, fps=100)
    assert np.array_equal(sample.clip.frames[0], face.image)
    assert np.array_equal(sample.clip.frames[-1], face.image)
    assert np.abs(sample.flow.uv).max() > 0.5


def test_sheet(trained: FlowVolumeTask, batch: SequenceBatch) -> None:
    page = trained.sheet(trained.networks, batch.rows(np.arange(2)))
    assert page.dtype == np.uint8
    assert page.shape == (4 * 4 * SIZE + 3 * 2, 9 * 4 * SIZE + 8 * 2, 3)


# ---------------------------------------------------------------- runs


def flat_start(folder: Path, width: int = 8) -> InitialWeights:
    torch.manual_seed(1)
    network = MotionDiffuser(size=SIZE, widths=(width, 16), dim=16, expect=8)
    save_pipeline(folder, {"generator": network}, plain_facts("motion_diffusion"), "", size=SIZE)
    return InitialWeights(str(folder), folder, read_facts(folder))


def test_it_begins_with_the_weights_of_a_2d_network(tmp_path: Path) -> None:
    start, task = flat_start(tmp_path / "flat"), task_of()
    start.load_into(task)
    torch.manual_seed(1)
    want = MotionDiffuser(size=SIZE, widths=(8, 16), dim=16, expect=8).state_dict()
    base: Any = task.networks["generator"].base
    assert all(torch.equal(base.state_dict()[key], value) for key, value in want.items())
    with pytest.raises(ConfigError, match=r"widths is \[8, 16\] here and \[16, 16\] there"):
        flat_start(tmp_path / "wide", width=16).load_into(task)
    save_pipeline(tmp_path / "gan", {"generator": base.regression}, plain_facts("motion_gan"), "", size=SIZE)
    with pytest.raises(ConfigError, match="holds weights of motion_gan; this recipe trains flow_volume"):
        InitialWeights("gan", tmp_path / "gan", read_facts(tmp_path / "gan")).load_into(task)


def stop_at(images: int) -> Callable[[str], Callable[[int, int], None]]:
    def bar(name: str) -> Callable[[int, int], None]:
        return lambda done, total: os.kill(os.getpid(), signal.SIGTERM) if (name, done) == ("train", images) else None

    return bar


def test_a_stopped_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    small = ["run.images=32", "run.batch=4", "run.checkpoint_images=16", "run.validate_images=32", "run.validation=2",
             "run.sheet=1", "data.identities=2", "data.per_identity=4", "data.validation_identities=1", "model.steps=2",
             "run.log_images=8", "run.patience=0", "model.widths=[8,8]"]  # fmt: skip
    recipe, on = load_recipe(RECIPES / "volume_tiny.yaml", small), Machine(device="cpu", cache=tmp_path / "cache")
    train(recipe, tmp_path / "whole", machine=on)
    with pytest.raises(Interrupted, match="stopped after 24 of 32 images"):
        train(recipe, tmp_path / "cut", machine=on, progress=stop_at(20))
    train(recipe, tmp_path / "cut", machine=on)
    for name in ("networks", "averaged", "optimisers"):
        files = [
            tmp_path / r / "checkpoints" / checkpoint.name_of(32) / f"{name}.safetensors" for r in ("whole", "cut")
        ]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    made = read_facts(tmp_path / "cut" / "generator")
    assert len(made.subjects_seen) == 2
    assert made.size == SIZE


@pytest.mark.parametrize("name", ["volume_tiny", "volume_64"])
def test_recipes_are_valid_and_small(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml", [])
    assert 4 * FlowVolumeTask(recipe.config, recipe.data.size).parameters()["generator"] < 30e6


def test_a_dry_run_knows_what_it_needs() -> None:
    seen = forecast(load_recipe(RECIPES / "volume_tiny.yaml", []))
    assert seen.activations > 0
    assert list(seen.parameters) == ["generator"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(lag_std=0.5), "model.lag_std=0.5 is outside"),
        (lambda: ModelConfig(widths=(16,)), "model.widths has 1 levels"),
        (lambda: LossConfig(occluded=2), "loss.occluded=2 is outside"),
        (lambda: LossConfig(mean=-1), "loss.mean=-1 is no weight"),
        (lambda: OptimConfig(lr=0), "optim.lr=0 is outside"),
        (lambda: OptimConfig(flat=-1), "optim.flat=-1 is outside"),
        (lambda: OptimConfig(beta2=1), "optim.beta2=1 is outside"),
        (lambda: FlowVolumeTask(Config(), 36), "data.size=36 must be a multiple of 8"),
    ],
)
def test_bad_configurations(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        make()  # type: ignore[operator]
